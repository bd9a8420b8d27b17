//! What was shown where: a JSON line for each case that ran, by containerd, cgroup version and runtime. `docs/conformance.md`
//! is made of them.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde_json::{Value as Json, json};

use crate::containerd::ContainerdKind;

/// Names the directory of the lines; without it nothing is written.
pub const DIR: &str = "CD_CONFORMANCE_DIR";

/// What a case ran with.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Combination {
    /// `1.6` or `2.4`.
    pub containerd: String,
    /// `v1` or `v2`.
    pub cgroup: String,
    /// `runc` or `crun`.
    pub runtime: String,
}

/// How a case ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// What it promises was seen.
    Shown,
    /// It cannot be on this combination, and why.
    NotHere(String),
    /// What was seen instead.
    Failed(String),
}

impl Outcome {
    fn word(&self) -> &'static str {
        match self {
            Outcome::Shown => "shown",
            Outcome::NotHere(_) => "not here",
            Outcome::Failed(_) => "failed",
        }
    }

    /// The greater, the worse.
    fn rank(&self) -> u8 {
        match self {
            Outcome::Shown => 0,
            Outcome::NotHere(_) => 1,
            Outcome::Failed(_) => 2,
        }
    }

    fn why(&self) -> &str {
        match self {
            Outcome::Shown => "",
            Outcome::NotHere(why) | Outcome::Failed(why) => why,
        }
    }
}

impl Combination {
    /// Of a containerd on this machine; `runtime` as the setting `containerd_runtime` has it.
    pub fn here(kind: &ContainerdKind, runtime: &str) -> Combination {
        let containerd = match kind {
            ContainerdKind::Debian16 => "1.6".to_owned(),
            ContainerdKind::V24 => "2.4".to_owned(),
            ContainerdKind::At(path) => path.display().to_string(),
        };
        let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        Combination {
            containerd,
            cgroup: if unified { "v2" } else { "v1" }.to_owned(),
            runtime: if runtime.contains("crun") { "crun" } else { "runc" }.to_owned(),
        }
    }
}

/// Appends a line to the combination's file. `suite` is the folder of the test, `case` its name.
pub fn note(suite: &str, case: &str, on: &Combination, outcome: &Outcome) -> Result<()> {
    let Some(dir) = std::env::var_os(DIR).filter(|dir| !dir.is_empty()).map(PathBuf::from) else {
        return Ok(());
    };
    append(&dir, run(), suite, case, on, outcome)
}

/// Tells the lines of this process from those of others.
fn run() -> &'static str {
    static RUN: OnceLock<String> = OnceLock::new();
    RUN.get_or_init(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        format!("{}-{}", now.as_millis(), std::process::id())
    })
}

fn append(dir: &Path, run: &str, suite: &str, case: &str, on: &Combination, outcome: &Outcome) -> Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    let line = json!({
        "run": run,
        "suite": suite,
        "case": case,
        "containerd": on.containerd,
        "cgroup": on.cgroup,
        "runtime": on.runtime,
        "outcome": outcome.word(),
        "why": outcome.why(),
    });
    let name = format!("{}-{}-{}.jsonl", on.containerd, on.cgroup, on.runtime).replace('/', "_");
    let path = dir.join(name);
    let file = File::options().create(true).append(true).open(&path);
    // One write, so that lines of suites that run at once do not mix.
    file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()))
        .with_context(|| format!("append to {}", path.display()))
}

/// All lines in a directory, by suite, case and combination. Of several runs the last one counts, and within a run, where a
/// case may belong to several groups, the worst of its outcomes.
pub fn read(dir: &Path) -> Result<Vec<(String, String, Combination, Outcome)>> {
    let mut found = std::collections::BTreeMap::new();
    let entries = std::fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))?;
    let mut files: Vec<PathBuf> = entries
        .collect::<std::io::Result<Vec<_>>>()?
        .iter()
        .map(|e| e.path())
        .collect();
    files.retain(|path| path.extension().is_some_and(|ext| ext == "jsonl"));
    files.sort();
    for path in files {
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        for line in text.lines() {
            let json: Json = serde_json::from_str(line).with_context(|| format!("{}: {line}", path.display()))?;
            let text = |key: &str| json[key].as_str().unwrap_or_default().to_owned();
            let on = Combination {
                containerd: text("containerd"),
                cgroup: text("cgroup"),
                runtime: text("runtime"),
            };
            let outcome = match json["outcome"].as_str() {
                Some("shown") => Outcome::Shown,
                Some("not here") => Outcome::NotHere(text("why")),
                Some("failed") => Outcome::Failed(text("why")),
                other => anyhow::bail!("{}: outcome {other:?}: {line}", path.display()),
            };
            let run = text("run");
            let last: &mut (String, Outcome) = found
                .entry((text("suite"), text("case"), on))
                .or_insert_with(|| (run.clone(), outcome.clone()));
            if last.0 != run || outcome.rank() > last.1.rank() {
                *last = (run, outcome);
            }
        }
    }
    Ok(found
        .into_iter()
        .map(|((suite, case, on), (_, outcome))| (suite, case, on, outcome))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_of_the_last_run_counts() {
        let dir = tempfile::tempdir().expect("a directory");
        let on = Combination::here(&ContainerdKind::V24, "io.containerd.runc.v2");
        assert_eq!((on.containerd.as_str(), on.runtime.as_str()), ("2.4", "runc"));
        for (run, case, outcome) in [
            ("1", "a_case", Outcome::Failed("it \"broke\"\n".into())),
            ("2", "a_case", Outcome::NotHere("no swap".into())),
            ("2", "a_case", Outcome::Shown),
            ("2", "other", Outcome::Shown),
        ] {
            append(dir.path(), run, "lifecycle", case, &on, &outcome).expect("written");
        }
        let expected = vec![
            (
                "lifecycle".to_owned(),
                "a_case".to_owned(),
                on.clone(),
                Outcome::NotHere("no swap".into()),
            ),
            ("lifecycle".to_owned(), "other".to_owned(), on, Outcome::Shown),
        ];
        assert_eq!(read(dir.path()).expect("read"), expected);
        std::fs::write(dir.path().join("x.jsonl"), "{\"outcome\":\"perhaps\"}\n").expect("written");
        assert!(read(dir.path()).is_err(), "an unknown outcome");
    }
}
