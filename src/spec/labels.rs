//! Labels on a container: what a new plugin process, the reaper and a person with `ctr` learn about it from containerd.
//!
//! containerd refuses a label whose key and value together exceed 4096 bytes (`pkg/labels`: `maxSize`), and with it the
//! whole container. So a text that is only shown is cut; one that is compared is left out, since a part of it would be
//! another thing's name.

use super::error::SpecError;
use super::gates::fits;
use super::identity::{Digest, TaskId};
use super::oci::ContainerPlan;
use super::record::ExitRecord;
use super::settings::Settings;
use super::task::TaskSpec;
use std::collections::{BTreeMap, HashMap};

/// Version of the labels that this build writes.
pub const SCHEMA: &str = "1";

/// Version of the labels. A container with another one is not ours to judge.
pub const KEY_SCHEMA: &str = "containerd-driver/schema";
/// Nomad's task id.
pub const KEY_TASK_ID: &str = "containerd-driver/task-id";
/// Allocation id.
pub const KEY_ALLOC_ID: &str = "containerd-driver/alloc-id";
/// Task name in the job.
pub const KEY_TASK_NAME: &str = "containerd-driver/task-name";
/// [`ContainerPlan::hash`]. Taken away before a removal kills.
pub const KEY_SPEC_HASH: &str = "containerd-driver/spec-hash";
/// Digest of the image's manifest.
pub const KEY_IMAGE_DIGEST: &str = "containerd-driver/image-digest";
/// Number of the signal that stops it by default.
pub const KEY_STOP_SIGNAL: &str = "containerd-driver/stop-signal";
/// When the process was started, nanoseconds since the Unix epoch. Written after the start.
pub const KEY_STARTED: &str = "containerd-driver/started";
/// How it ended, JSON. Written after the exit.
pub const KEY_EXIT: &str = "containerd-driver/exit";
/// How many processes of the task the kernel had killed for want of memory while the task lived on.
pub const KEY_OOM_KILLS: &str = "containerd-driver/oom-kills";

/// Directory of the output pipes of a container that the Go driver made: its task tells too, but may be gone before.
pub const KEY_PIPES: &str = "containerd-driver/pipes";

/// The allocation id as Nomad's Docker driver writes it.
const ALLOC_ID: &str = "com.hashicorp.nomad.alloc_id";

/// containerd's limit for key and value together.
const LIMIT: usize = 4096;

/// Beginnings of keys that a task cannot set: they tell this driver, containerd or its CRI plugin what is theirs.
const RESERVED: [&str; 5] = [
    "containerd-driver/",
    "containerd.io/",
    "nomad/",
    "io.containerd",
    "io.cri-containerd",
];

/// Checks the `labels` option.
pub(super) fn check(labels: &BTreeMap<String, String>) -> Result<(), SpecError> {
    const OPTION: &str = "labels";
    for (key, value) in labels {
        if key.is_empty() || key.contains('\0') || value.contains('\0') {
            let text = "a key that is not empty and a value, both without NUL, are expected";
            return Err(SpecError::option(OPTION, key, text));
        }
        if RESERVED.iter().any(|own| key.starts_with(own)) {
            let text = format!("names beginning with one of these are taken: {}", RESERVED.join(", "));
            return Err(SpecError::option(OPTION, key, text));
        }
        if key.len() + value.len() > LIMIT {
            let text = format!("key and value of at most {LIMIT} bytes together are expected");
            return Err(SpecError::option(OPTION, cut(key, 64), text));
        }
    }
    Ok(())
}

/// The names that `extra_labels` has for facts of the job.
pub(super) const FACTS: [&str; 8] = [
    "job_name",
    "job_id",
    "parent_job_id",
    "task_group_name",
    "task_name",
    "namespace",
    "node_name",
    "node_id",
];

/// Facts of the job, in the order of [`FACTS`].
fn facts(task: &TaskSpec) -> [&str; 8] {
    let job = &task.job;
    [
        &job.job_name,
        &job.job_id,
        &job.parent_job_id,
        &job.task_group,
        &task.name,
        &job.namespace,
        &job.node_name,
        &job.node_id,
    ]
}

/// The labels a container is created with: those of the `labels` option, the facts of `extra_labels` under the keys that
/// Nomad's Docker driver gives them, and over both the driver's own.
#[must_use]
pub fn labels(
    task: &TaskSpec,
    settings: &Settings,
    plan: &ContainerPlan,
    image: &Digest,
    stop_signal: i32,
) -> BTreeMap<String, String> {
    let mut out = task.options.labels.clone();
    // Nomad's Docker driver sets it always, and what collects logs and figures of its containers goes by it.
    let always = (ALLOC_ID, task.alloc_id.as_str());
    let all = |(k, v): &(&str, &str)| !v.is_empty() && k.len() + v.len() <= LIMIT;
    out.extend(Some(always).filter(all).map(own));
    for (name, value) in FACTS.into_iter().zip(facts(task)) {
        let wanted = settings.extra_labels.iter().any(|pattern| fits(pattern, name));
        if wanted && !value.is_empty() {
            let key = format!("com.hashicorp.nomad.{name}");
            let value = cut(value, LIMIT - key.len()).to_owned();
            out.insert(key, value);
        }
    }
    let stop_signal = stop_signal.to_string();
    let compared = [
        (KEY_SCHEMA, SCHEMA),
        (KEY_TASK_ID, task.id.as_str()),
        (KEY_ALLOC_ID, &task.alloc_id),
        (KEY_SPEC_HASH, &plan.hash),
        (KEY_IMAGE_DIGEST, image.as_str()),
        (KEY_STOP_SIGNAL, &stop_signal),
    ];
    out.extend(compared.into_iter().filter(all).map(own));
    let job = &task.job;
    let shown = [
        (KEY_TASK_NAME, &task.name),
        ("nomad/task-name", &task.name),
        ("nomad/alloc-id", &task.alloc_id),
        ("nomad/job-id", &job.job_id),
        ("nomad/job-name", &job.job_name),
        ("nomad/task-group", &job.task_group),
        ("nomad/namespace", &job.namespace),
        ("nomad/node-id", &job.node_id),
        ("nomad/node-name", &job.node_name),
    ];
    out.extend(
        shown
            .into_iter()
            .filter(|(_, v)| !v.is_empty())
            .map(|(k, v)| own((k, cut(v, LIMIT - k.len())))),
    );
    out
}

/// The labels that a container of the Go driver is given when it is taken over: from then on it is found and read like
/// one of ours.
#[must_use]
pub fn adoption(
    task: &TaskId,
    alloc_id: &str,
    name: &str,
    started_at: i64,
    stop_signal: i32,
) -> BTreeMap<String, String> {
    let stop_signal = stop_signal.to_string();
    let compared = [
        (KEY_SCHEMA, SCHEMA),
        (KEY_TASK_ID, task.as_str()),
        (KEY_ALLOC_ID, alloc_id),
        (ALLOC_ID, alloc_id),
        (KEY_TASK_NAME, name),
        (KEY_STOP_SIGNAL, &stop_signal),
    ];
    let written = compared
        .into_iter()
        .filter(|(k, v)| !v.is_empty() && k.len() + v.len() <= LIMIT)
        .map(own);
    written.chain([started_label(started_at)]).collect()
}

/// The label that tells when the process was started.
#[must_use]
pub fn started_label(at: i64) -> (String, String) {
    own((KEY_STARTED, &at.to_string()))
}

/// The label that tells how the process ended.
///
/// # Errors
/// If the record cannot be encoded (it always can).
pub fn exit_label(exit: &ExitRecord) -> Result<(String, String), String> {
    // JSON may write one byte as six (`\u0000`): 512 bytes become at most 3072.
    let exit = ExitRecord {
        lost: cut(&exit.lost, 512).to_owned(),
        ..exit.clone()
    };
    serde_json::to_string(&exit)
        .map(|json| own((KEY_EXIT, &json)))
        .map_err(|e| e.to_string())
}

/// The label that tells how many processes the kernel had killed for want of memory while the task lived on: these are no
/// reason of a later exit.
#[must_use]
pub fn oom_kills_label(kills: u64) -> (String, String) {
    own((KEY_OOM_KILLS, &kills.to_string()))
}

/// What is written before a removal kills: the container fits no plan any more. A process that is killed before it has begun
/// looks like one that has run and ended, and should the plugin die in between, the next start would take it for its own.
#[must_use]
pub fn condemned() -> (String, String) {
    // An empty value removes a label.
    own((KEY_SPEC_HASH, ""))
}

/// What the labels of a container say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marks {
    /// Nomad's task id; `None` if it was too long for a label.
    pub task: Option<TaskId>,
    /// Allocation id, empty if unknown.
    pub alloc_id: String,
    /// Task name, empty if unknown.
    pub task_name: String,
    /// Hash of what the container was made from, empty if unknown.
    pub spec_hash: String,
    /// Default stop signal; `None` if unknown.
    pub stop_signal: Option<i32>,
    /// When it was started, if it was.
    pub started_at: Option<i64>,
    /// How it ended, if that was seen.
    pub exit: Option<ExitRecord>,
    /// How many processes the kernel had killed for want of memory while it lived on.
    pub oom_kills: u64,
}

impl Marks {
    /// Reads labels. `None`: not a container of this driver, or of a version that this one does not know.
    #[must_use]
    pub fn read(labels: &HashMap<String, String>) -> Option<Self> {
        let get = |key: &str| labels.get(key);
        (get(KEY_SCHEMA)? == SCHEMA).then(|| Self {
            task: get(KEY_TASK_ID).map(TaskId::new),
            alloc_id: get(KEY_ALLOC_ID).cloned().unwrap_or_default(),
            task_name: get(KEY_TASK_NAME).cloned().unwrap_or_default(),
            spec_hash: get(KEY_SPEC_HASH).cloned().unwrap_or_default(),
            stop_signal: get(KEY_STOP_SIGNAL).and_then(|s| s.parse().ok()),
            started_at: get(KEY_STARTED).and_then(|s| s.parse().ok()),
            exit: get(KEY_EXIT).and_then(|s| serde_json::from_str(s).ok()),
            oom_kills: get(KEY_OOM_KILLS).and_then(|s| s.parse().ok()).unwrap_or_default(),
        })
    }

    /// True if the container was made from this plan and can be adopted for it.
    #[must_use]
    pub fn fits(&self, plan: &ContainerPlan) -> bool {
        !self.spec_hash.is_empty() && self.spec_hash == plan.hash
    }
}

fn own((key, value): (&str, &str)) -> (String, String) {
    (key.to_owned(), value.to_owned())
}

/// The longest beginning of a text that has at most `max` bytes.
fn cut(text: &str, max: usize) -> &str {
    let end = (0..=max.min(text.len()))
        .rev()
        .find(|i| text.is_char_boundary(*i))
        .unwrap_or(0);
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::image::ImageFacts;
    use crate::spec::node::NodeFacts;
    use crate::spec::oci;

    fn made(name: &str, id: &str) -> (TaskSpec, ContainerPlan, BTreeMap<String, String>) {
        let mut task = TaskSpec {
            id: TaskId::new(id),
            name: name.to_owned(),
            ..TaskSpec::default()
        };
        task.options.command = Some("x".to_owned());
        task.job.job_name = "api".to_owned();
        let plan = oci::build(
            &task,
            &ImageFacts::default(),
            &NodeFacts::default(),
            &Settings::default(),
        )
        .unwrap();
        let labels = labels(&task, &Settings::default(), &plan, &Digest::sha256(b"i"), 15);
        (task, plan, labels)
    }

    #[test]
    fn what_is_written_is_read_back() {
        let (task, plan, labels) = made("web", "a/web/1");
        let mut stored: HashMap<String, String> = labels.into_iter().collect();
        assert_eq!(stored["nomad/job-name"], "api");
        let exit = ExitRecord {
            code: 137,
            oom: true,
            at: 7,
            lost: "é".repeat(4000),
        };
        stored.extend([started_label(5), exit_label(&exit).unwrap()]);
        let marks = Marks::read(&stored).unwrap();
        assert_eq!(
            (marks.task.clone(), marks.stop_signal, marks.started_at),
            (Some(task.id), Some(15), Some(5))
        );
        assert!(marks.fits(&plan));
        let back = marks.exit.unwrap();
        assert_eq!((back.code, back.oom, back.at, back.lost.len()), (137, true, 7, 512));
    }

    #[test]
    fn no_label_is_longer_than_containerd_takes() {
        let (_, _, mut labels) = made(&"ü".repeat(4000), &"i".repeat(5000));
        let worst = ExitRecord {
            code: 0,
            oom: false,
            at: i64::MIN,
            lost: "\0".repeat(4000),
        };
        labels.extend([exit_label(&worst).unwrap()]);
        assert!(labels.iter().all(|(k, v)| k.len() + v.len() <= LIMIT));
        assert!(!labels.contains_key(KEY_TASK_ID) && labels.contains_key(KEY_TASK_NAME));
    }

    #[test]
    fn foreign_containers_and_other_versions_are_not_ours() {
        assert_eq!(Marks::read(&HashMap::new()), None);
        assert_eq!(
            Marks::read(&HashMap::from([(KEY_SCHEMA.to_owned(), "2".to_owned())])),
            None
        );
    }

    #[test]
    fn labels_of_the_task_and_facts_of_the_job_are_put_on() {
        let (mut task, plan, _) = made("web", "a/web/1");
        task.job.parent_job_id = "periodic".to_owned();
        task.alloc_id = "8e2a".to_owned();
        task.options.labels = BTreeMap::from([
            ("team".to_owned(), "x".to_owned()),
            ("com.hashicorp.nomad.job_name".to_owned(), "forged".to_owned()),
            (ALLOC_ID.to_owned(), "forged".to_owned()),
        ]);
        let with = |patterns: &[&str]| {
            let settings = Settings {
                extra_labels: patterns.iter().map(|p| (*p).to_owned()).collect(),
                ..Settings::default()
            };
            let labels = labels(&task, &settings, &plan, &Digest::sha256(b"i"), 15);
            assert_eq!(
                (labels["team"].as_str(), labels["nomad/job-name"].as_str()),
                ("x", "api")
            );
            assert_eq!(labels[ALLOC_ID], "8e2a");
            labels
                .into_iter()
                .filter(|(k, _)| k != ALLOC_ID)
                .filter_map(|(k, v)| Some(format!("{}={v}", k.strip_prefix("com.hashicorp.nomad.")?)))
                .collect::<Vec<_>>()
        };
        assert_eq!(with(&[]), ["job_name=forged"]);
        assert_eq!(with(&["job*"]), ["job_name=api"]);
        assert_eq!(with(&["*job_id"]), ["job_name=forged", "parent_job_id=periodic"]);
        // What is not known is left out.
        assert_eq!(
            with(&["*"]),
            ["job_name=api", "parent_job_id=periodic", "task_name=web"]
        );
    }

    #[test]
    fn labels_that_are_not_a_tasks_to_give_are_refused() {
        let check = |key: &str, value: &str| super::check(&BTreeMap::from([(key.to_owned(), value.to_owned())]));
        assert!(check("a.b/c", &"v".repeat(4091)).is_ok());
        assert!(
            check("a.b/c", &"v".repeat(4092))
                .unwrap_err()
                .to_string()
                .contains("4096")
        );
        for key in [
            "",
            "a\0",
            KEY_TASK_ID,
            "containerd.io/gc.root",
            "nomad/x",
            "io.containerd.image",
            "io.cri-containerd.kind",
        ] {
            assert!(check(key, "v").unwrap_err().to_string().contains("labels"), "{key:?}");
        }
    }
}
