//! The tables in `docs/configuration.md`, printed from the declarations.

use super::table::OptionDoc;
use super::{options, settings};

/// First line of the generated part of the file.
pub const BEGIN: &str = "<!-- options: generated, do not edit by hand -->";
/// Last line of the generated part of the file.
pub const END: &str = "<!-- options: end -->";

/// The generated part of `docs/configuration.md`, without the markers.
#[must_use]
pub fn markdown() -> String {
    format!(
        "\n## Plugin settings\n\n{}\n## Task options\n\n{}\n",
        table(&settings::table()),
        table(&options::table())
    )
}

fn table(rows: &[OptionDoc]) -> String {
    let mut out = "| Name | Type | Default | What it does |\n|---|---|---|---|\n".to_owned();
    for row in rows {
        let default = match row.default.as_str() {
            "" => String::new(),
            "required" => "required".to_owned(),
            text => format!("`{text}`"),
        };
        let also: String = row.aliases.iter().map(|a| format!(", `{a}`")).collect();
        out.push_str(&format!(
            "| `{}`{also} | {} | {default} | {} |\n",
            row.name,
            row.ty,
            row.doc.replace('|', "\\|")
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_is_what_the_declarations_say() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
        let file = std::fs::read_to_string(path).unwrap();
        let (before, rest) = file.split_once(BEGIN).unwrap();
        let (generated, after) = rest.split_once(END).unwrap();
        if std::env::var_os("UPDATE_OPTIONS").is_some() {
            std::fs::write(path, format!("{before}{BEGIN}\n{}\n{END}{after}", markdown())).unwrap();
            return;
        }
        assert_eq!(
            generated.trim(),
            markdown().trim(),
            "docs/configuration.md is out of date: UPDATE_OPTIONS=1 cargo test --lib the_documentation_is writes it"
        );
    }

    #[test]
    fn every_option_is_described() {
        for row in options::table().iter().chain(&settings::table()) {
            assert!(row.doc.len() > 8 && !row.ty.is_empty(), "{}", row.name);
        }
    }
}
