//! Who collects what a task writes: what options and settings say about it, and when a log file is full.

use super::error::SpecError;
use super::go;
use super::settings::Settings;
use super::task::TaskSpec;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Nomad's collector: a process per task, and the job's `logs` block.
const NOMAD: &str = "nomad";
/// This driver.
const DRIVER: &str = "driver";
/// Nobody.
const NONE: &str = "none";

/// Least and most bytes of a file, and most files. A block of the disk is taken in any case; a directory that readers list
/// several times a second stays small.
const BYTES: (u64, u64) = (4096, 1 << 40);
const FILES_MAX: i64 = 1000;

/// What Nomad names where a job wants no logs.
const NOWHERE: &str = "/dev/null";

/// Where the output of a task goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum LogWay {
    /// Into the pipes that Nomad names.
    #[default]
    Paths,
    /// Into files that this driver writes.
    Files(LogFiles),
    /// Nowhere. Nomad's collector may have been started all the same, and is told that nothing comes.
    Nowhere,
}

/// The files of a task as `nomad alloc logs` finds them: `alloc/logs/TASK.stdout.N` and `.stderr.N` in the allocation's
/// directory (Nomad's `client/fs_endpoint.go`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogFiles {
    /// Allocation directory. Not kept in a handle: Nomad tells it again.
    #[serde(skip)]
    pub alloc_dir: PathBuf,
    /// Task name.
    pub task: String,
    /// Most files of a stream; at least 1.
    pub max_files: u32,
    /// Most bytes of a file.
    pub max_bytes: u64,
    /// Whether each line is written as a JSON record with stream and time.
    #[serde(default)]
    pub json: bool,
    /// Most bytes a second of a stream; the rest is dropped.
    #[serde(default)]
    pub rate: Option<u64>,
}

impl LogFiles {
    /// Where the files lie.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        self.alloc_dir.join(Self::beneath())
    }

    /// The same beneath the allocation's directory.
    #[must_use]
    pub fn beneath() -> &'static Path {
        Path::new("alloc/logs")
    }
}

/// Whether Nomad is to start no collector of its own (its capability `DisableLogCollection`).
#[must_use]
pub fn without_nomad(settings: &Settings) -> bool {
    settings.log_collection != NOMAD
}

/// Where the output of this task goes.
///
/// # Errors
/// The option, its value and what is allowed.
pub(super) fn of(settings: &Settings, task: &TaskSpec) -> Result<LogWay, SpecError> {
    let o = &task.options;
    let given = o.log_collection.as_deref().filter(|way| !way.is_empty());
    let by_plugin = settings.log_collection.as_str();
    // Downwards only: a collector that Nomad has not started cannot be had, and for one that it has started the driver
    // need not write as well.
    let allowed: &[&str] = match by_plugin {
        DRIVER => &[DRIVER, NONE],
        NONE => &[NONE],
        _ => &[NOMAD, NONE],
    };
    let way = given.unwrap_or(by_plugin);
    if !allowed.contains(&way) {
        return Err(SpecError::option(
            "log_collection",
            way,
            format!(
                "{} is expected, since the plugin is configured with log_collection = {by_plugin:?}",
                allowed
                    .iter()
                    .map(|way| format!("{way:?}"))
                    .collect::<Vec<_>>()
                    .join(" or ")
            ),
        ));
    }
    let max_files = o.log_max_files.filter(|n| *n != 0);
    let max_files = max_files.map(|n| files("log_max_files", n)).transpose()?;
    let max_bytes = said(&o.log_max_file_size)
        .as_deref()
        .map(|t| bytes("log_max_file_size", t))
        .transpose()?;
    let format = said(&o.log_format)
        .as_deref()
        .map(|text| is_json("log_format", text))
        .transpose()?;
    let limit = said(&o.log_rate_limit)
        .as_deref()
        .map(|text| rate("log_rate_limit", text))
        .transpose()?;
    let given = [
        (
            "log_max_files",
            o.log_max_files.filter(|n| *n != 0).map(|n| n.to_string()),
        ),
        ("log_max_file_size", said(&o.log_max_file_size)),
        ("log_format", said(&o.log_format)),
        ("log_rate_limit", said(&o.log_rate_limit)),
    ];
    if let Some((option, Some(value))) = given
        .into_iter()
        .find(|(_, value)| value.is_some() && by_plugin == NOMAD)
    {
        return Err(SpecError::option(
            option,
            value,
            "nothing is expected where Nomad collects the logs (plugin setting log_collection = \"nomad\"): how much is \
             kept says the logs block of the task",
        ));
    }
    if way == NONE || wants_none(task) {
        return Ok(LogWay::Nowhere);
    }
    if way == NOMAD {
        return Ok(LogWay::Paths);
    }
    // Its directory has the name too: one that cannot be a file's is refused there.
    if task.dir()?.is_none() {
        return Err(SpecError::option(
            "log_collection",
            way,
            "a task with an allocation directory is expected, in which the files are",
        ));
    }
    Ok(LogWay::Files(LogFiles {
        alloc_dir: task.alloc_dir.clone(),
        task: task.name.clone(),
        max_files: max_files.map_or_else(|| files("log_max_files", settings.log_max_files), Ok)?,
        max_bytes: max_bytes.map_or_else(|| bytes("log_max_file_size", &settings.log_max_file_size), Ok)?,
        json: format.map_or_else(|| is_json("log_format", &settings.log_format), Ok)?,
        rate: limit.map_or_else(|| rate("log_rate_limit", &settings.log_rate_limit), Ok)?,
    }))
}

/// What a text says; nothing if it is empty.
fn said(text: &Option<String>) -> Option<String> {
    text.clone().filter(|text| !text.trim().is_empty())
}

/// As Nomad says it of a job with `logs { disabled = true }`.
fn wants_none(task: &TaskSpec) -> bool {
    [&task.stdout_path, &task.stderr_path]
        .into_iter()
        .all(|path| path == Path::new(NOWHERE))
}

/// Checks the settings.
pub(super) fn check(settings: &Settings) -> Result<(), SpecError> {
    let way = settings.log_collection.as_str();
    if ![NOMAD, DRIVER, NONE].contains(&way) {
        return Err(SpecError::option(
            "log_collection",
            way,
            "\"nomad\", \"driver\" or \"none\" is expected",
        ));
    }
    files("log_max_files", settings.log_max_files)?;
    is_json("log_format", &settings.log_format)?;
    rate("log_rate_limit", &settings.log_rate_limit)?;
    bytes("log_max_file_size", &settings.log_max_file_size).map(drop)
}

/// What the settings have where nothing is said: of the files, what Nomad's `logs` block has.
pub(super) const DEFAULT: &str = NOMAD;
pub(super) const DEFAULT_FILES: i64 = 10;
pub(super) const DEFAULT_FILE_SIZE: &str = "10m";
/// Bytes go into the files as they come.
pub(super) const RAW: &str = "raw";

/// Least limit in bytes per second: below, hardly a line passes.
const RATE_LEAST: u64 = 1024;

/// 0 is what nothing said is: hosts send it of a number that is not given.
fn files(option: &'static str, n: i64) -> Result<u32, SpecError> {
    let n = if n == 0 { DEFAULT_FILES } else { n };
    u32::try_from(n)
        .ok()
        .filter(|_| (1..=FILES_MAX).contains(&n))
        .ok_or_else(|| SpecError::option(option, n, format!("a number from 1 to {FILES_MAX} is expected")))
}

/// A number alone is MiB, as in Nomad's `logs` block.
fn bytes(option: &'static str, text: &str) -> Result<u64, SpecError> {
    let number = text.trim().parse::<u64>().ok();
    let size = match number {
        Some(mebibytes) => mebibytes.checked_mul(1 << 20),
        None => go::parse_size(text),
    };
    size.filter(|size| (BYTES.0..=BYTES.1).contains(size)).ok_or_else(|| {
        SpecError::option(
            option,
            text,
            "a number of MiB, as in Nomad's logs block, or a size in binary units such as 512k is expected, from 4k to 1t",
        )
    })
}

fn is_json(option: &'static str, text: &str) -> Result<bool, SpecError> {
    match text {
        RAW => Ok(false),
        "json" => Ok(true),
        other => Err(SpecError::option(option, other, "\"raw\" or \"json\" is expected")),
    }
}

/// `None` for no limit.
fn rate(option: &'static str, text: &str) -> Result<Option<u64>, SpecError> {
    if text.trim().is_empty() || text.trim() == "0" {
        return Ok(None);
    }
    go::parse_size(text)
        .filter(|rate| *rate >= RATE_LEAST)
        .map(Some)
        .ok_or_else(|| {
            SpecError::option(
                option,
                text,
                "bytes per second as a size in binary units such as 512k, at least 1k, or 0 for no limit are expected",
            )
        })
}

/// Near its limit a file ends with a line: within so many bytes, or a quarter of a small file.
const ZONE: u64 = 32 << 10;

/// How many bytes may be written to a file of `size` bytes before anybody has to look at them.
#[must_use]
pub fn unseen(size: u64, max: u64) -> u64 {
    max.saturating_sub(size).saturating_sub(ZONE.min(max / 4))
}

/// How much of `chunk`, which comes next, belongs into a file of `size` bytes; 0 if it belongs into the next file. With
/// `mid_line` the file ends within a line, which stays together as long as it fits: then as much as there is.
#[must_use]
pub fn share(chunk: &[u8], size: u64, max: u64, mid_line: bool) -> usize {
    let room = usize::try_from(max.saturating_sub(size)).unwrap_or(usize::MAX);
    if chunk.len() <= usize::try_from(unseen(size, max)).unwrap_or(usize::MAX) {
        return chunk.len();
    }
    let fits = chunk.get(..room).unwrap_or(chunk);
    match fits.iter().rposition(|byte| *byte == b'\n') {
        Some(newline) => newline + 1,
        None if mid_line || size == 0 => fits.len(),
        None => 0,
    }
}

#[cfg(test)]
#[path = "log_collection_test.rs"]
mod tests;
