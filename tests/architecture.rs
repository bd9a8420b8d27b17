//! The rules of the house that no compiler checks: who imports whom, how long a file may get, which names are banned, and
//! that the documents and the code tell the same. Reads the sources; needs nothing else.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panic")]

use containerd_driver::actors::supervision::tree::CHILDREN;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Lines of a file without its tests.
const LENGTH_MAX: usize = 500;

/// Row may use column; every room may use itself. The entry is a prefix of what follows `crate::`.
const MATRIX: &[(&str, &[&str])] = &[
    ("spec", &[]),
    ("telemetry", &[]),
    ("messages", &["spec", "telemetry"]),
    ("host", &["spec", "telemetry"]),
    // The kinds of fault are part of the vocabulary: a gateway that had its own would need a translator for each.
    ("containerd", &["spec", "telemetry", "messages::runtime"]),
    ("actors", &["spec", "telemetry", "messages", "host", "containerd"]),
    ("plugin", &["spec", "telemetry", "messages"]),
    ("cli", &["spec", "telemetry", "messages"]),
    (
        "app",
        &[
            "spec",
            "telemetry",
            "messages",
            "host",
            "containerd",
            "actors",
            "plugin",
            "cli",
        ],
    ),
];

/// Name, the files that may say it (prefixes below `src/`), why.
const BANNED: &[(&str, &[&str], &str)] = &[
    (
        "catch_unwind",
        &["actors/supervision/"],
        "a panic is contained in one place",
    ),
    (
        ".do_send(",
        &["actors/supervision/book.rs"],
        "it defeats the bound of a mailbox; the book counts places first",
    ),
    (".notify(", &[], "it defeats the bound of a mailbox"),
    ("unbounded", &[], "every queue has a bound"),
    ("System::current", &[], "handles come in through constructors"),
    (
        "span.enter()",
        &[],
        "it stays entered across an await; use instrument, or entered() in a function that is not async",
    ),
    (
        "println!",
        &["cli/", "app/", "plugin/build.rs"],
        "it panics on a closed pipe; standard output is the handshake's",
    ),
    ("print!", &["cli/", "app/", "plugin/build.rs"], "as println!"),
    ("dbg!", &[], "left over"),
    ("todo!", &[], "unfinished"),
    ("unimplemented!", &[], "unfinished"),
    (
        "env::var",
        &["main.rs", "app/", "plugin/build.rs"],
        "the environment is read in one place",
    ),
    (
        "env::args",
        &["main.rs", "app/"],
        "the command line is read in one place",
    ),
    ("process::exit", &[], "the process ends by returning from main"),
    ("anyhow", &["cli/", "main.rs"], "errors are typed"),
    ("Box<dyn Error", &["plugin/build.rs"], "errors are typed"),
    (
        "Endpoint::",
        &["containerd/channel.rs"],
        "one place makes a channel: namespace, deadline and trace context cannot be forgotten",
    ),
    (
        "std::fs::",
        &[
            "host/",
            "plugin/socket.rs",
            "plugin/build.rs",
            "actors/supervision/chaos.rs",
        ],
        "only host/ opens a path; the plugin has its own socket",
    ),
    (
        "use tonic",
        &["plugin/", "containerd/"],
        "gRPC ends at the two gateways",
    ),
    ("use actix", &["actors/", "messages/", "app/"], "actors are in actors/"),
    ("use rustix", &["host/"], "syscalls are in host/"),
];

/// Rooms and files that compute and do nothing else.
const PURE: &[&str] = &["spec/", "/state.rs", "/policy.rs", "/plan.rs", "/verdict.rs"];
const NOT_PURE: &[&str] = &[
    "tokio::",
    "actix",
    "tonic",
    "std::fs",
    "Instant::now",
    "SystemTime::now",
    "std::thread",
    "Stream::connect",
    "UdpSocket",
];

struct Source {
    /// Below `src/`, with forward slashes.
    path: String,
    text: String,
}

impl Source {
    fn is_test(&self) -> bool {
        self.path.ends_with("_test.rs")
            || self.path.ends_with("_tests.rs")
            || self.path == "plugin/fake.rs"
            || self.path == "plugin/served.rs"
    }

    fn room(&self) -> &str {
        self.path.split(['/', '.']).next().unwrap_or_default()
    }

    /// Number and text of each line that is code and not of a test module.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines: Vec<&str> = self.text.lines().collect();
        let is_module = |n: usize| {
            lines
                .iter()
                .skip(n + 1)
                .find(|l| !l.trim_start().starts_with("#["))
                .is_some_and(|l| l.starts_with("mod tests"))
        };
        let end = (0..lines.len())
            .find(|&n| lines[n] == "#[cfg(test)]" && is_module(n))
            .unwrap_or(lines.len());
        let code: Vec<_> = lines.into_iter().take(end).enumerate().collect();
        code.into_iter()
            .map(|(n, line)| (n + 1, line.split("//").next().unwrap_or_default()))
            .filter(|(_, line)| !line.trim().is_empty())
    }
}

fn sources() -> Vec<Source> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).expect("directory").flatten() {
            let path = entry.path();
            match path.is_dir() {
                true => walk(&path, found),
                false => found.extend(path.extension().is_some_and(|e| e == "rs").then_some(path)),
            }
        }
    }
    let src = Path::new(ROOT).join("src");
    let mut files = Vec::new();
    walk(&src, &mut files);
    files.sort();
    assert!(files.len() > 100, "the sources were not found: {files:?}");
    let name = |path: &Path| path.strip_prefix(&src).expect("below src").display().to_string();
    files
        .iter()
        .map(|path| Source {
            path: name(path),
            text: fs::read_to_string(path).expect("readable"),
        })
        .collect()
}

#[track_caller]
fn none(violations: &[String]) {
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
}

/// The paths below `text`, which follows `crate::`: `{a::{b, c}, d}` is `a::b`, `a::c`, `d`.
fn paths(text: &str, prefix: &str, found: &mut Vec<String>) -> usize {
    let word = text
        .find(|c: char| !(c.is_alphanumeric() || c == '_'))
        .unwrap_or(text.len());
    let path = match (prefix.is_empty(), word) {
        (_, 0) => prefix.to_owned(),
        (true, _) => text[..word].to_owned(),
        (false, _) => format!("{prefix}::{}", &text[..word]),
    };
    let rest = &text[word..];
    if let Some(next) = rest
        .strip_prefix("::")
        .filter(|next| next.starts_with(|c: char| c.is_alphanumeric() || c == '_' || c == '{'))
    {
        return word + 2 + paths(next, &path, found);
    }
    if word > 0 || !rest.starts_with('{') {
        found.push(path);
        return word;
    }
    let mut at = 1;
    while at < rest.len() && !rest[at..].starts_with('}') {
        if let Some(renamed) = rest[at..].strip_prefix(" as ") {
            at += " as ".len()
                + renamed
                    .find(|c: char| !(c.is_alphanumeric() || c == '_'))
                    .unwrap_or(renamed.len());
            continue;
        }
        match rest[at..].starts_with(|c: char| c.is_alphanumeric() || c == '_' || c == '{') {
            true => at += paths(&rest[at..], &path, found),
            false => at += rest[at..].chars().next().map_or(1, char::len_utf8),
        }
    }
    at + 1
}

fn imports(source: &Source) -> Vec<String> {
    let code = source.code().map(|(_, line)| line).collect::<Vec<_>>().join("\n");
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        paths(&code[at + "crate::".len()..], "", &mut found);
    }
    found
}

#[test]
fn nested_imports_are_seen_whole() {
    let source = |text: &str| Source {
        path: "x.rs".into(),
        text: text.into(),
    };
    let text = "use crate::a::{self, b::{c, d as e},\n  f::*};\nuse crate::{g, h::i};\nfn x() -> crate::j::K { crate::l::m() }";
    assert_eq!(
        imports(&source(text)),
        ["a::self", "a::b::c", "a::b::d", "a::f", "g", "h::i", "j::K", "l::m"]
    );
}

#[test]
fn rooms_import_only_what_the_matrix_allows() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|s| !["main", "lib"].contains(&s.room())) {
        let room = source.room();
        let Some((_, allowed)) = MATRIX.iter().find(|(name, _)| *name == room) else {
            wrong.push(format!("{}: room {room} is not in the matrix", source.path));
            continue;
        };
        for path in imports(source) {
            let own = path == room || path.starts_with(&format!("{room}::"));
            if !own
                && !allowed
                    .iter()
                    .any(|a| path == *a || path.starts_with(&format!("{a}::")))
            {
                wrong.push(format!("{}: {room} may not use {path}", source.path));
            }
        }
    }
    none(&wrong);
}

#[test]
fn actors_know_their_siblings_only_by_message() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|s| s.room() == "actors") {
        let Some((own, _)) = source.path.trim_start_matches("actors/").split_once('/') else {
            continue;
        };
        // The tree is the one that makes them.
        if own == "supervision" {
            continue;
        }
        for path in imports(source) {
            let sibling = path
                .strip_prefix("actors::")
                .and_then(|p| p.split("::").next())
                .unwrap_or(own);
            if ![own, "supervision", "shared"].contains(&sibling) {
                wrong.push(format!("{}: {own} may not use {path}", source.path));
            }
        }
    }
    none(&wrong);
}

#[test]
fn no_file_is_longer_than_a_reader_can_hold() {
    let long = |s: &Source| s.text.lines().take(s.code().last().map_or(0, |(n, _)| n)).count();
    none(
        &sources()
            .iter()
            .filter(|s| long(s) > LENGTH_MAX)
            .map(|s| format!("{}: {} lines without tests, {LENGTH_MAX} are allowed", s.path, long(s)))
            .collect::<Vec<_>>(),
    );
}

#[test]
fn every_module_says_what_it_is_for() {
    none(
        &sources()
            .iter()
            .filter(|s| !s.text.starts_with("//! "))
            .map(|s| format!("{}: the first line is no //! header", s.path))
            .collect::<Vec<_>>(),
    );
}

#[test]
fn banned_names_are_used_only_where_there_is_a_reason() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|s| !s.is_test()) {
        for (line, text) in source.code() {
            for (name, places, why) in BANNED {
                // `eprintln!` is judged as `println!`, `sprint!(` would not be.
                if text.contains(name) && !places.iter().any(|place| source.path.starts_with(place)) {
                    wrong.push(format!("{}:{line}: {name}: {why}", source.path));
                }
            }
        }
    }
    none(&wrong);
}

/// `entered()` is right in a function and wrong where an await may follow: the blocks around it are looked at.
#[test]
fn no_span_is_entered_in_async_code() {
    let mut wrong = Vec::new();
    for source in sources() {
        let lines: Vec<(usize, &str)> = source.code().collect();
        for (at, (number, text)) in lines
            .iter()
            .enumerate()
            .filter(|(_, (_, text))| text.contains(".entered()"))
        {
            let depth = |text: &str| text.len() - text.trim_start().len();
            let mut inner = depth(text);
            for (_, outer) in lines[..at].iter().rev() {
                if depth(outer) < inner {
                    inner = depth(outer);
                    if outer.contains("async ") {
                        wrong.push(format!("{}:{number}: a span is entered in async code", source.path));
                    }
                }
            }
        }
    }
    none(&wrong);
}

#[test]
fn what_computes_does_nothing_else() {
    let mut wrong = Vec::new();
    for source in sources()
        .iter()
        .filter(|s| !s.is_test() && PURE.iter().any(|p| s.path.contains(p)))
    {
        for (line, text) in source.code() {
            wrong.extend(
                NOT_PURE
                    .iter()
                    .filter(|name| text.contains(**name))
                    .map(|name| format!("{}:{line}: {name} in a pure file", source.path)),
            );
        }
    }
    none(&wrong);
}

#[test]
fn every_span_is_in_the_catalogue() {
    let catalogue = fs::read_to_string(Path::new(ROOT).join("observability/CATALOGUE.md")).expect("catalogue");
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|s| !s.is_test()) {
        let code = source.code().map(|(_, line)| line.trim()).collect::<Vec<_>>().concat();
        for (at, _) in code.match_indices("_span!(\"") {
            let name = code[at + "_span!(\"".len()..].split('"').next().unwrap_or_default();
            if !catalogue.contains(&format!("| `{name}` |")) {
                wrong.push(format!("{}: span {name} is not in src/telemetry/names.rs", source.path));
            }
        }
    }
    none(&wrong);
}

#[test]
fn panics_unwind_in_every_profile() {
    let manifest = fs::read_to_string(Path::new(ROOT).join("Cargo.toml")).expect("Cargo.toml");
    let settings: Vec<&str> = manifest
        .lines()
        .map(|l| l.split('#').next().unwrap_or_default().trim())
        .filter(|l| l.starts_with("panic"))
        .collect();
    assert_eq!(
        settings,
        [r#"panic = "unwind""#],
        "an actor is restarted after a panic only if panics unwind"
    );
    assert!(
        !Path::new(ROOT).join(".cargo/config.toml").exists(),
        "a profile could be changed there unseen"
    );
}

#[test]
fn unsafe_code_is_forbidden_and_main_only_hands_over() {
    for (file, lines) in [("src/lib.rs", usize::MAX), ("src/main.rs", 40)] {
        let text = fs::read_to_string(Path::new(ROOT).join(file)).expect(file);
        assert!(text.contains("#![forbid(unsafe_code)]"), "{file}");
        assert!(text.lines().count() <= lines, "{file} has more than {lines} lines");
    }
}

const BEGIN: &str = "<!-- children: generated, do not edit by hand -->";
const END: &str = "<!-- children: end -->";

fn children() -> String {
    let mut table = String::from("| name | places in the mailbox | rebuilt from |\n|---|---|---|\n");
    for child in &CHILDREN {
        writeln!(
            table,
            "| `{}` | {} | {} |",
            child.name, child.mailbox, child.rebuilt_from
        )
        .expect("a string takes it");
    }
    table
}

#[test]
fn the_document_lists_the_children_that_there_are() {
    let path = Path::new(ROOT).join("docs/architecture.md");
    let found = fs::read_to_string(&path).expect("docs/architecture.md");
    let (head, rest) = found.split_once(BEGIN).expect("the marker where the table begins");
    let (_, tail) = rest.split_once(END).expect("the marker where the table ends");
    let wanted = format!("{head}{BEGIN}\n\n{}\n{END}{tail}", children());
    if std::env::var_os("UPDATE_ARCHITECTURE").is_some() {
        fs::write(&path, &wanted).expect("written");
        return;
    }
    assert!(
        found == wanted,
        "run UPDATE_ARCHITECTURE=1 cargo test --test architecture; the table should be\n{}",
        children()
    );
}

/// The table at the head of each actor's file tells the same number.
#[test]
fn the_head_of_each_actor_tells_its_mailbox() {
    for child in &CHILDREN {
        let file = if child.name == "root" {
            "supervision/root.rs".to_owned()
        } else {
            format!("{}/mod.rs", child.name)
        };
        let text = fs::read_to_string(Path::new(ROOT).join("src/actors").join(&file)).expect("the actor's file");
        let row = text
            .lines()
            .find_map(|line| line.strip_prefix("//! | mailbox | "))
            .unwrap_or_else(|| panic!("{file} has no mailbox row"));
        let number: String = row
            .chars()
            .take_while(|c| c.is_ascii_digit() || *c == ',')
            .filter(char::is_ascii_digit)
            .collect();
        assert_eq!(number, child.mailbox.to_string(), "{file}");
    }
}

#[test]
fn the_map_of_the_actors_names_every_child() {
    let map = fs::read_to_string(Path::new(ROOT).join("src/actors/mod.rs")).expect("map");
    for child in &CHILDREN {
        let camel: String = child.name.split('_').map(|w| w[..1].to_uppercase() + &w[1..]).collect();
        assert!(
            map.contains(&format!("//! | `{camel}`")),
            "src/actors/mod.rs has no row for {camel}"
        );
    }
}
