//! The rules of the house that no compiler checks: who imports whom, how long a file may get, which names are banned, and
//! that the documents and the code tell the same. Reads the sources; needs nothing else.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panic")]

mod documents;
mod names;
mod rooms;

use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

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
