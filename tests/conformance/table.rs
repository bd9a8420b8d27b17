//! `docs/conformance.md`: the items, what shows each, and where it was seen.

use crate::checklist::{COUNT, ITEMS, PARTS};
use crate::elsewhere::{ELSEWHERE, NOT_BUILT, NOTES, PARTS_ONLY, Test};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use testhost::ledger::{self, Combination, Outcome};

/// Every group of this suite.
const GROUPS: &[&[&str]] = &[
    crate::proc::PROC,
    crate::cfg::CFG,
    crate::life::LIFE,
    crate::stop::STOP,
    crate::rec::REC,
    crate::log::LOG,
    crate::exec::EXEC,
    crate::stat::STAT,
    crate::calls::CALLS,
    crate::res::RES,
    crate::sec::SEC,
    crate::sec::SEC_CAREFUL,
    crate::mnt::MNT,
    crate::mnt::MNT_STRICT,
    crate::net::NET,
    crate::img::IMG,
    crate::img::IMG_AUTH,
    crate::evt::EVT,
];

/// Columns: containerd, cgroup version, runtime.
const COLUMNS: [(&str, &str, &str); 8] = [
    ("1.6", "v1", "runc"),
    ("1.6", "v1", "crun"),
    ("1.6", "v2", "runc"),
    ("1.6", "v2", "crun"),
    ("2.4", "v1", "runc"),
    ("2.4", "v1", "crun"),
    ("2.4", "v2", "runc"),
    ("2.4", "v2", "crun"),
];

/// Heading of the reasons, the last part of the document.
const NOT_HERE: &str = "\n## Not here\n\n";

/// Cells of a row before those of the combinations: item, promise, tests.
const HEAD: usize = 3;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The item of a case: `life_01_…` shows LIFE-01.
fn item_of(case: &str) -> String {
    let mut words = case.split('_');
    let (part, number) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    format!("{}-{number}", part.to_uppercase())
}

/// What shows each item.
fn tests() -> BTreeMap<String, Vec<Test>> {
    let mut found: BTreeMap<String, Vec<Test>> = BTreeMap::new();
    for case in GROUPS.iter().copied().flatten() {
        found.entry(item_of(case)).or_default().push(("conformance", case));
    }
    for (item, tests) in ELSEWHERE {
        found.entry((*item).to_owned()).or_default().extend(tests.iter());
    }
    found
}

fn lookup<'a>(list: &[(&str, &'a str)], item: &str) -> Option<&'a str> {
    list.iter().find(|(id, _)| *id == item).map(|(_, text)| *text)
}

/// Faults of the lists themselves.
fn faults() -> Vec<String> {
    let mut faults = Vec::new();
    let ids: BTreeSet<&str> = ITEMS.iter().map(|(id, _)| *id).collect();
    if ITEMS.len() != COUNT || ids.len() != COUNT {
        faults.push(format!(
            "{} items, {} different ones, {COUNT} are expected",
            ITEMS.len(),
            ids.len()
        ));
    }
    let tests = tests();
    for (item, _) in ITEMS {
        match (tests.get(*item), lookup(NOT_BUILT, item)) {
            (None, None) => faults.push(format!("{item}: no test, and not in NOT_BUILT")),
            (Some(_), Some(_)) => faults.push(format!("{item}: has a test and is in NOT_BUILT")),
            (Some(_), None) | (None, Some(_)) => {}
        }
        if !PARTS
            .iter()
            .any(|(part, _)| item.rsplit_once('-').is_some_and(|(name, _)| name == *part))
        {
            faults.push(format!("{item}: no heading"));
        }
    }
    for (item, shown) in &tests {
        if !ids.contains(item.as_str()) {
            faults.push(format!("{item}: {shown:?} shows an item that is not in the checklist"));
        }
    }
    let named = ELSEWHERE.iter().map(|(item, _)| item);
    let texts = [NOT_BUILT, PARTS_ONLY, NOTES]
        .into_iter()
        .flatten()
        .map(|(item, _)| item);
    for item in named.chain(texts).filter(|item| !ids.contains(*item)) {
        faults.push(format!("{item}: not in the checklist"));
    }
    faults.extend(ELSEWHERE.iter().flat_map(|(item, tests)| {
        tests
            .iter()
            .filter(|test| !exists(test))
            .map(move |(suite, test)| format!("{item}: there is no test {test} in tests/{suite}"))
    }));
    faults
}

/// Whether a suite has a test of that name, by its sources.
fn exists((suite, test): &Test) -> bool {
    let entries = std::fs::read_dir(root().join("tests").join(suite)).expect("the suite's folder");
    entries.flatten().any(|entry| {
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        text.contains(&format!("fn {test}("))
    })
}

/// Outcomes by suite, test and combination.
type Seen = BTreeMap<(String, String, Combination), Outcome>;

/// Everything in the ledger's directory: its lines, and the output of test binaries that have no bench, as
/// `SUITE-CONTAINERD-CGROUP-RUNTIME.log`.
fn seen(dir: &Path) -> Seen {
    let lines = ledger::read(dir).expect("the ledger");
    let mut seen: Seen = lines
        .into_iter()
        .map(|(suite, case, on, outcome)| ((suite, case, on), outcome))
        .collect();
    for entry in std::fs::read_dir(dir).expect("the directory").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(parts) = name
            .strip_suffix(".log")
            .map(|stem| stem.split('-').collect::<Vec<_>>())
        else {
            continue;
        };
        let [suite, containerd, cgroup, runtime] = parts[..] else {
            panic!("{name}: the name of a log is SUITE-CONTAINERD-CGROUP-RUNTIME.log");
        };
        let on = Combination {
            containerd: containerd.to_owned(),
            cgroup: cgroup.to_owned(),
            runtime: runtime.to_owned(),
        };
        let text = std::fs::read_to_string(entry.path()).expect("a log");
        for (test, outcome) in text.lines().filter_map(libtest) {
            seen.insert((suite.to_owned(), test, on.clone()), outcome);
        }
    }
    seen
}

/// A line of a test binary, as in `test module::name ... ok`.
fn libtest(line: &str) -> Option<(String, Outcome)> {
    let (path, verdict) = line.strip_prefix("test ")?.split_once(" ... ")?;
    let name = path.rsplit("::").next().unwrap_or(path).to_owned();
    match verdict.trim() {
        "ok" => Some((name, Outcome::Shown)),
        "FAILED" => Some((name, Outcome::Failed("see its log".to_owned()))),
        _ => None,
    }
}

/// One cell: the least of what its tests say. `why` collects reasons.
fn cell(item: &str, tests: &[Test], on: &Combination, seen: &Seen, why: &mut BTreeSet<String>) -> &'static str {
    let outcomes: Vec<Option<&Outcome>> = tests
        .iter()
        .map(|(suite, test)| seen.get(&((*suite).to_owned(), (*test).to_owned(), on.clone())))
        .collect();
    if outcomes
        .iter()
        .any(|outcome| matches!(outcome, Some(Outcome::Failed(_))))
    {
        return "FAILED";
    }
    if tests.is_empty() || outcomes.iter().any(Option::is_none) {
        return "";
    }
    for outcome in outcomes.into_iter().flatten() {
        if let Outcome::NotHere(text) = outcome {
            why.insert(format!(
                "{item} with containerd {}, cgroup {}, {}: {text}",
                on.containerd, on.cgroup, on.runtime
            ));
            return "not here";
        }
    }
    if lookup(PARTS_ONLY, item).is_some() {
        "part"
    } else {
        "yes"
    }
}

/// Cells of the combinations by item, as a document has them.
fn cells_of(document: &str) -> BTreeMap<String, Vec<String>> {
    let rows = document
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    rows.filter_map(|row| {
        let cells: Vec<String> = row.split(" | ").map(|cell| cell.trim().to_owned()).collect();
        (cells.len() == HEAD + COLUMNS.len()).then(|| (cells[0].clone(), cells[HEAD..].to_vec()))
    })
    .collect()
}

const INTRODUCTION: &str = "\
# Conformance

What Nomad expects of a task driver, item by item, what shows it, and where it was seen. The items come from Nomad's driver
harness, the tests of its own drivers, what its agent relies on, and the shell tests of the Go driver for containerd.

Written by a test from the lists in `tests/conformance` and the results that the suites leave in `CD_CONFORMANCE_DIR`; do not
edit by hand: `UPDATE_CONFORMANCE=1 cargo test --test conformance the_table`.

- **yes**: every test of the row passed on this combination. **part**: they passed, and the item asks for more, see below the
  tables. **FAILED**: one failed. **not here**: the combination cannot have it. Empty: not run there.
- A test without a suite is a case of `conformance`. `crun` columns are runs in which all tasks have that runtime.
";

/// The document. With `seen` the cells are those of the ledger, otherwise those of the document before.
fn document(seen: Option<&Seen>, before: &str) -> String {
    let (tests, mut why, before_cells) = (tests(), BTreeSet::new(), cells_of(before));
    let mut out = INTRODUCTION.to_owned();
    let shown = ITEMS.iter().filter(|(item, _)| tests.contains_key(*item)).count();
    let partly = PARTS_ONLY.len();
    writeln!(
        out,
        "\n{COUNT} items: {shown} have tests, {partly} of them show a part, {} are not built.",
        NOT_BUILT.len()
    )
    .expect("a string");
    let columns = COLUMNS.map(|(containerd, cgroup, runtime)| format!("{containerd} {cgroup} {runtime}"));
    for (part, heading) in PARTS {
        writeln!(out, "\n## {part}: {heading}\n").expect("a string");
        writeln!(out, "| item | what | shown by | {} |", columns.join(" | ")).expect("a string");
        writeln!(out, "|{}", "---|".repeat(HEAD + COLUMNS.len())).expect("a string");
        for (item, what) in ITEMS
            .iter()
            .filter(|(item, _)| item.rsplit_once('-').is_some_and(|(name, _)| name == *part))
        {
            let own = tests.get(*item).cloned().unwrap_or_default();
            let cells: Vec<String> = match (seen, before_cells.get(*item)) {
                (Some(seen), _) => COLUMNS
                    .iter()
                    .map(|(containerd, cgroup, runtime)| {
                        let on = Combination {
                            containerd: (*containerd).to_owned(),
                            cgroup: (*cgroup).to_owned(),
                            runtime: (*runtime).to_owned(),
                        };
                        cell(item, &own, &on, seen, &mut why).to_owned()
                    })
                    .collect(),
                (None, Some(cells)) => cells.clone(),
                (None, None) => vec![String::new(); COLUMNS.len()],
            };
            writeln!(
                out,
                "| {item} | {what} | {} | {} |",
                named(item, &own),
                cells.join(" | ")
            )
            .expect("a string");
        }
    }
    for (heading, list) in [
        ("Not built", NOT_BUILT),
        ("Shown in part", PARTS_ONLY),
        ("Notes", NOTES),
    ] {
        writeln!(out, "\n## {heading}\n").expect("a string");
        for (item, text) in list {
            writeln!(out, "- {item}: {text}.").expect("a string");
        }
    }
    match (seen, before.split_once(NOT_HERE)) {
        (None, Some((_, lines))) => write!(out, "{NOT_HERE}{lines}").expect("a string"),
        (Some(_), _) if !why.is_empty() => {
            out += NOT_HERE;
            for line in why {
                writeln!(out, "- {line}.").expect("a string");
            }
        }
        (Some(_), _) | (None, None) => {}
    }
    out
}

/// The cell that names what shows an item.
fn named(item: &str, tests: &[Test]) -> String {
    if lookup(NOT_BUILT, item).is_some() {
        return "not built".to_owned();
    }
    let names = tests.iter().map(|(suite, test)| match *suite {
        "conformance" => format!("`{test}`"),
        suite => format!("{suite}: `{test}`"),
    });
    names.collect::<Vec<_>>().join(", ")
}

/// What the code decides: everything but the cells of the combinations and their reasons.
fn without_cells(document: &str) -> Vec<String> {
    let body = document.split(NOT_HERE).next().unwrap_or_default();
    let row = |line: &str| match line.starts_with("| ") {
        true => line.split(" | ").take(HEAD).collect::<Vec<_>>().join(" | "),
        false => line.to_owned(),
    };
    body.trim_end().lines().map(row).collect()
}

#[test]
fn every_item_has_its_test_or_its_reason() {
    let faults = faults();
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn the_table_is_that_of_the_code() {
    let path = root().join("docs/conformance.md");
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    if std::env::var_os("UPDATE_CONFORMANCE").is_some() {
        let dir = std::env::var_os(ledger::DIR).map(PathBuf::from);
        let seen = dir.map(|dir| seen(&dir));
        std::fs::write(&path, document(seen.as_ref(), &found)).expect("written");
        return;
    }
    let (found, wanted) = (without_cells(&found), without_cells(&document(None, "")));
    let differs = found.iter().zip(&wanted).find(|(found, wanted)| found != wanted);
    assert!(
        found == wanted,
        "run UPDATE_CONFORMANCE=1 cargo test --test conformance the_table; {} lines, {} expected, the first that differs: {differs:?}",
        found.len(),
        wanted.len()
    );
}

#[test]
fn a_cell_says_the_least_of_its_tests() {
    let on = |runtime: &str| Combination {
        containerd: "2.4".to_owned(),
        cgroup: "v1".to_owned(),
        runtime: runtime.to_owned(),
    };
    let key = |test: &str, runtime: &str| ("x".to_owned(), test.to_owned(), on(runtime));
    let seen: Seen = [
        (key("a", "runc"), Outcome::Shown),
        (key("b", "runc"), Outcome::NotHere("no swap".to_owned())),
        (key("c", "runc"), Outcome::Failed("broke".to_owned())),
        (key("a", "crun"), Outcome::Shown),
    ]
    .into();
    let mut why = BTreeSet::new();
    let mut told = |item: &str, tests: &[Test], runtime: &str| cell(item, tests, &on(runtime), &seen, &mut why);
    assert_eq!(told("LIFE-01", &[("x", "a")], "runc"), "yes");
    assert_eq!(told("REC-10", &[("x", "a")], "runc"), "part");
    assert_eq!(told("LIFE-01", &[("x", "a"), ("x", "b")], "runc"), "not here");
    assert_eq!(told("LIFE-01", &[("x", "a"), ("x", "b"), ("x", "c")], "runc"), "FAILED");
    assert_eq!(told("LIFE-01", &[("x", "a"), ("x", "b")], "crun"), "");
    assert_eq!(told("LIFE-01", &[], "runc"), "");
    assert_eq!(
        why.into_iter().collect::<Vec<_>>(),
        ["LIFE-01 with containerd 2.4, cgroup v1, runc: no swap"]
    );
    assert_eq!(
        libtest("test launch::a_name ... ok"),
        Some(("a_name".to_owned(), Outcome::Shown))
    );
    assert_eq!(libtest("test launch::a_name ... ignored"), None);
    assert_eq!(libtest("running 3 tests"), None);
}

#[test]
fn cells_survive_an_update_without_results() {
    let item = ITEMS[0].0.to_owned();
    let cells: Vec<String> = (0..COLUMNS.len())
        .map(|n| if n % 2 == 0 { "yes".to_owned() } else { String::new() })
        .collect();
    let row = format!(
        "| {item} | what | shown by | {} |\n{NOT_HERE}- a reason.\n",
        cells.join(" | ")
    );
    let text = document(None, &row);
    assert!(text.ends_with("\n- a reason.\n"));
    assert_eq!(cells_of(&text).get(&item), Some(&cells));
    assert_eq!(without_cells(&text), without_cells(&document(None, "")));
}
