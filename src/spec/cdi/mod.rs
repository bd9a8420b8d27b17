//! Devices by CDI names, such as `nvidia.com/gpu=0`: vendors describe in files what a container needs for a device.
//!
//! Source: the Container Device Interface specification, 0.3.0 to 1.1.0 (`SPEC.md` of
//! `cncf-tags/container-device-interface`). `file` reads and checks one file, in JSON or, by `yaml`, in YAML; this file
//! finds a name in all of them; `edits` changes the finished description. The files are the operator's: what they
//! mount or run needs no consent but that for the device's name.
//!
//! Written here and not taken from the `container-device-interface` crate, which reads directories by itself.

mod edits;
mod file;
mod yaml;

use super::device_option::{self, Asked};
use super::error::SpecError;
use super::node::NodeFacts;
use super::task::TaskSpec;
use file::{Device, File};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Most names and faults that an error lists.
const LISTED: usize = 8;

/// The text of one CDI file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecFile {
    /// Where it is.
    pub path: String,
    /// Position of its directory in `cdi_spec_dirs`: the higher wins.
    pub priority: usize,
    /// Its content, or why it cannot be read.
    pub text: Result<String, String>,
}

/// A qualified device name: `vendor/class=device`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    text: String,
    kind: String,
    device: String,
}

impl Name {
    /// Reads a name; `None` for all else, paths among them.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (kind, device) = text.split_once('=')?;
        (file::is_kind(kind) && file::is_device_name(device)).then(|| Self {
            text: text.to_owned(),
            kind: kind.to_owned(),
            device: device.to_owned(),
        })
    }

    /// As the user writes it.
    pub(super) fn as_str(&self) -> &str {
        &self.text
    }
}

/// All files, read.
struct Registry {
    files: Vec<(String, usize, File)>,
    faults: Vec<String>,
}

impl Registry {
    fn read(texts: &[SpecFile]) -> Self {
        let mut registry = Self {
            files: Vec::new(),
            faults: Vec::new(),
        };
        for SpecFile { path, priority, text } in texts {
            match text.clone().and_then(|text| file::parse(path, &text)) {
                Ok(file) => registry.files.push((path.clone(), *priority, file)),
                // A bad file of one vendor must not take away the devices of all: it is told where a name is missing.
                Err(reason) => registry.faults.push(format!("{path}: {reason}")),
            }
        }
        registry
    }

    /// The device and the file it is in (by number). Of several, the one in the latest directory counts.
    fn find(&self, at: &str, name: &Name) -> Result<(usize, &File, &Device), SpecError> {
        let all = self.files.iter().enumerate().filter_map(|(i, (path, priority, file))| {
            let device = file.devices.iter().find(|d| d.name == name.device)?;
            (file.kind == name.kind).then_some((*priority, path, (i, file, device)))
        });
        let all: Vec<_> = all.collect();
        let highest = all.iter().map(|(priority, ..)| *priority).max();
        let mut best = all.into_iter().filter(|(priority, ..)| Some(*priority) == highest);
        match (best.next(), best.next()) {
            (Some((_, _, found)), None) => Ok(found),
            (Some((_, first, _)), Some((_, second, _))) => Err(SpecError::option(
                at,
                name.as_str(),
                format!("one description per directory is expected, and both {first} and {second} have this device"),
            )),
            (None, _) => Err(SpecError::option(at, name.as_str(), self.missing(name))),
        }
    }

    fn missing(&self, name: &Name) -> String {
        let known: BTreeSet<&str> = self
            .files
            .iter()
            .filter(|(_, _, file)| file.kind == name.kind)
            .flat_map(|(_, _, file)| file.devices.iter().map(|d| d.name.as_str()))
            .collect();
        let mut text = if known.is_empty() {
            let kinds: BTreeSet<&str> = self.files.iter().map(|(_, _, file)| file.kind.as_str()).collect();
            format!(
                "no CDI file in cdi_spec_dirs is of kind {}; there is {}",
                name.kind,
                listed(&kinds)
            )
        } else {
            format!("no such CDI device; {} has {}", name.kind, listed(&known))
        };
        for fault in self.faults.iter().take(LISTED) {
            text.push_str(&format!("; not read: {fault}"));
        }
        text
    }
}

fn listed(names: &BTreeSet<&str>) -> String {
    if names.is_empty() {
        return "none".to_owned();
    }
    let shown: Vec<&str> = names.iter().copied().take(LISTED).collect();
    let more = names.len() - shown.len();
    if more == 0 {
        shown.join(", ")
    } else {
        format!("{} and {more} more", shown.join(", "))
    }
}

/// The CDI names of a task, each once, with the entry that has it. What cannot be read is `devices`'s to refuse.
fn names(task: &TaskSpec) -> Vec<(String, Name)> {
    let mut out: Vec<(String, Name)> = Vec::new();
    for (i, option) in task.options.devices.iter().enumerate() {
        let at = format!("devices[{i}]");
        if let Ok(Asked::Cdi(name)) = device_option::parse(&at, option)
            && out.iter().all(|(_, n)| *n != name)
        {
            out.push((at, name));
        }
    }
    out
}

/// True if the task names a CDI device, so that the files must be read.
#[must_use]
pub fn is_asked(task: &TaskSpec) -> bool {
    !names(task).is_empty()
}

/// Paths on the host of the devices that the files describe for this task, to be looked up into
/// [`NodeFacts::devices`].
#[must_use]
pub fn wanted_devices(task: &TaskSpec, files: &[SpecFile]) -> BTreeSet<String> {
    let names = names(task);
    if names.is_empty() {
        return BTreeSet::new();
    }
    let registry = Registry::read(files);
    let found = names.iter().filter_map(|(at, name)| registry.find(at, name).ok());
    found
        .flat_map(|(_, file, device)| file.edits.device_nodes.iter().chain(&device.edits.device_nodes))
        .map(|node| node.on_host().to_owned())
        .collect()
}

/// Makes the edits of the task's CDI devices: those of a file once, then those of each device, in the order asked for.
/// `taken`: the targets of mounts and what asked for them.
///
/// A file that mounts something where the job does is refused: one of the two would be hidden. Its variables count before those
/// of the job, as in the Go implementation: NVIDIA's files set `NVIDIA_VISIBLE_DEVICES=void`, so that no hook gives the
/// devices once more that Nomad's device plugin, or a job made for Docker, names there. What the image and the runtime bring
/// gives way to a file too.
pub(super) fn apply(
    spec: &mut Value,
    task: &TaskSpec,
    node: &NodeFacts,
    taken: &BTreeMap<String, &'static str>,
) -> Result<(), SpecError> {
    let names = names(task);
    if names.is_empty() {
        return Ok(());
    }
    let registry = Registry::read(&node.cdi_files);
    let mut seen = BTreeSet::new();
    for (at, name) in &names {
        let (number, file, device) = registry.find(at, name)?;
        let of_file = seen.insert(number).then_some(&file.edits);
        for edits in of_file.into_iter().chain([&device.edits]) {
            edits::conflict(edits, taken).map_or(Ok(()), |reason| Err(SpecError::option(at, name.as_str(), reason)))?;
            edits::apply(spec, edits, node).map_err(|reason| SpecError::option(at, name.as_str(), reason))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
