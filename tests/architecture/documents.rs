//! Documents, manifest and code tell the same.

use crate::ROOT;
use containerd_driver::actors::supervision::tree::CHILDREN;
use containerd_driver::actors::task_supervisor::table;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

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
    let config = fs::read_to_string(Path::new(ROOT).join(".cargo/config.toml")).expect(".cargo/config.toml");
    assert!(
        !config.to_lowercase().contains("profile"),
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

const STEPS_BEGIN: &str = "<!-- transitions: generated, do not edit by hand -->";
const STEPS_END: &str = "<!-- transitions: end -->";

/// The part of the document between two markers is what the code says.
fn assert_generated(begin: &str, end: &str, table: &str) {
    let path = Path::new(ROOT).join("docs/architecture.md");
    let found = fs::read_to_string(&path).expect("docs/architecture.md");
    let (head, rest) = found.split_once(begin).expect("the marker where the table begins");
    let (_, tail) = rest.split_once(end).expect("the marker where the table ends");
    let wanted = format!("{head}{begin}\n\n{table}\n{end}{tail}");
    if std::env::var_os("UPDATE_ARCHITECTURE").is_some() {
        fs::write(&path, &wanted).expect("written");
        return;
    }
    assert!(
        found == wanted,
        "run UPDATE_ARCHITECTURE=1 cargo test --test architecture; the table should be\n{table}"
    );
}

/// One test for all tables: two that write the file at once would undo each other.
#[test]
fn the_document_lists_the_children_and_the_transitions_that_there_are() {
    assert_generated(BEGIN, END, &children());
    assert_generated(STEPS_BEGIN, STEPS_END, &table::markdown());
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
