//! Names that are banned, spans that are known, and the shape of a file.

use crate::{ROOT, Source, none, sources};
use std::fs;
use std::path::Path;

/// Lines of a file without its tests.
const LENGTH_MAX: usize = 500;

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
    (
        "process::exit",
        &["app/mod.rs"],
        "only the composition root ends the process, so that blocking work cannot hold it up",
    ),
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

/// The allocator's first call on a thread takes most of 64 KiB in a debug build, and a stack that overflows ends the plugin.
/// A stack is address space: what is not touched costs nothing.
#[test]
fn no_thread_has_a_stack_of_its_own_size() {
    let mut wrong = Vec::new();
    for source in sources() {
        for (number, text) in source.code() {
            if text.contains("stack_size(") {
                wrong.push(format!(
                    "{}:{number}: the stack of a thread is not as large as usual",
                    source.path
                ));
            }
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
