//! `docs/spec-differences.md` has the table; `UPDATE_GOLDENS=1` writes it.

use crate::differences::DIFFERENCES;
use std::fs;
use std::path::Path;

const FILE: &str = "docs/spec-differences.md";
const BEGIN: &str = "<!-- begin: differences, from tests/golden/differences.rs -->\n";
const END: &str = "<!-- end: differences -->\n";

fn cell(text: &str) -> String {
    match text {
        "" => "nothing".to_owned(),
        "*" => "any".to_owned(),
        text => format!("`{}`", text.replace('|', "\\|")),
    }
}

fn table() -> String {
    let mut out = "| where | in Go | here | why | cases |\n|---|---|---|---|---|\n".to_owned();
    for d in DIFFERENCES {
        let cases = match d.cases {
            ["*"] => "all".to_owned(),
            some => some.iter().map(|c| format!("`{c}`")).collect::<Vec<_>>().join(", "),
        };
        out.push_str(&format!(
            "| {} | {} | {} | {} | {cases} |\n",
            cell(d.path),
            cell(d.theirs),
            cell(d.ours),
            d.why
        ));
    }
    out
}

pub fn check() {
    let path = Path::new(crate::ROOT).join(FILE);
    let text = fs::read_to_string(&path).unwrap();
    let start = text.find(BEGIN).unwrap() + BEGIN.len();
    let end = text.find(END).unwrap();
    let want = format!("{}{}{}", &text[..start], table(), &text[end..]);
    if std::env::var_os("UPDATE_GOLDENS").is_some() {
        fs::write(&path, want).unwrap();
    } else {
        assert!(
            text == want,
            "{FILE} is behind: UPDATE_GOLDENS=1 cargo test --test golden"
        );
    }
}
