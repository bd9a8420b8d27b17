//! The fuzz targets on stable, bounded: every file of `fuzz/corpus`, then mutations of them from a fixed seed, so that a run
//! is the same each time. `cargo fuzz run TARGET` looks on from the same files.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panic"
)]

mod mutate;

use containerd_driver::spec::fuzzing::{TARGETS, Target};
use mutate::Mutator;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Mutations for a target: fewer where a whole container is described for each, and where YAML is read six times.
fn rounds(name: &str) -> usize {
    match name {
        "sizes" | "mounts" | "devices" | "users" | "spec_build" => 2_500,
        "cdi_files" => 1_000,
        _ => 20_000,
    }
}

/// Of one input. Thousands of times what is usual, so that only a parser that runs away takes so long.
const LONGEST: Duration = Duration::from_secs(5);

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn target(name: &str) -> Target {
    *TARGETS.iter().find(|(n, _)| *n == name).unwrap()
}

/// Says which input it was, if the target panics.
struct Input<'a> {
    target: &'a str,
    data: &'a [u8],
}

impl Drop for Input<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}: this input: \"{}\"", self.target, self.data.escape_ascii());
        }
    }
}

fn one((name, run): Target, data: &[u8]) {
    let input = Input { target: name, data };
    let start = Instant::now();
    run(data);
    let took = start.elapsed();
    assert!(took < LONGEST, "{name}: took {took:?}");
    drop(input);
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let dir = root().join("corpus").join(name);
    let mut files: Vec<PathBuf> = fs::read_dir(&dir)
        .unwrap_or_else(|e| panic!("{}: {e}", dir.display()))
        .map(|f| f.unwrap().path())
        .collect();
    files.sort();
    assert!(files.len() >= 3, "{}: {} files", dir.display(), files.len());
    files.iter().map(|f| fs::read(f).unwrap()).collect()
}

fn survives(name: &str) {
    let target = target(name);
    let corpus = corpus(name);
    one(target, b"");
    for data in &corpus {
        one(target, data);
    }
    let mut mutator = Mutator::new(name);
    for _ in 0..rounds(name) {
        one(target, &mutator.mutant(&corpus));
    }
}

macro_rules! targets {
    ($($name:ident),* $(,)?) => {
        $( #[test] fn $name() { survives(stringify!($name)); } )*

        /// In step with the library and with `fuzz/`.
        #[test]
        fn every_target_is_run_here_and_by_cargo_fuzz() {
            let here = [ $( stringify!($name) ),* ];
            let there: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
            assert_eq!(here.as_slice(), there.as_slice());
            let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
            for name in here {
                let file = format!("fuzz_targets/{name}.rs");
                let text = fs::read_to_string(root().join(&file)).unwrap();
                assert!(text.contains(&format!("fuzzing::{name}(data)")), "{file}");
                assert!(manifest.contains(&file), "fuzz/Cargo.toml has no {file}");
            }
        }
    };
}

targets!(
    config_msgpack,
    plugin_config_msgpack,
    sizes,
    mounts,
    devices,
    users,
    signals,
    references,
    hosts_toml,
    handles,
    seccomp_profiles,
    cdi_files,
    spec_build,
);
