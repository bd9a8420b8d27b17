//! Who may import whom, and which files compute and do nothing else.

use crate::{Source, none, sources};

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

/// Rooms and files that compute and do nothing else.
const PURE: &[&str] = &[
    "spec/",
    "/state.rs",
    "/policy.rs",
    "/plan.rs",
    "/verdict.rs",
    "/turns.rs",
];
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
            if ![own, "supervision", "shared", "absence"].contains(&sibling) {
                wrong.push(format!("{}: {own} may not use {path}", source.path));
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
