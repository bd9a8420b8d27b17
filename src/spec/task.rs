//! A task as the actors see it: Nomad's `TaskConfig` without protobuf, its driver options decoded.

use super::identity::TaskId;
use super::options::TaskOptions;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// All that is known about a task before it starts.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TaskSpec {
    /// `TaskConfig.id`.
    pub id: TaskId,
    /// Task name in the job.
    pub name: String,
    /// Allocation id; may be empty (test harnesses).
    pub alloc_id: String,
    /// Host path of the allocation directory; empty without Nomad.
    pub alloc_dir: PathBuf,
    /// The complete task environment.
    pub env: BTreeMap<String, String>,
    /// Of the environment, what device plugins have set and no job can.
    pub device_env: BTreeMap<String, String>,
    /// Job `user`, verbatim; empty for the image's.
    pub user: String,
    /// Driver options of the task.
    pub options: TaskOptions,
    /// Options that the job wrote under another name than their first: the first name and the job's, for errors.
    pub written: BTreeMap<&'static str, &'static str>,
    /// Labels of the ports that Nomad has given to the group and the task.
    pub ports: BTreeSet<String>,
    /// Limits.
    pub resources: Resources,
    /// Mounts from host volumes, CSI and device plugins.
    pub mounts: Vec<HostMount>,
    /// Devices from device plugins.
    pub devices: Vec<HostDevice>,
    /// The group's network namespace, if Nomad made one.
    pub network: Option<NetworkNamespace>,
    /// The group's DNS settings, if any.
    pub dns: Option<Dns>,
    /// Where Nomad wants standard output: a FIFO, a file, `/dev/null` or empty.
    pub stdout_path: PathBuf,
    /// Where Nomad wants standard error.
    pub stderr_path: PathBuf,
    /// Names for labels.
    pub job: JobNames,
}

/// Names of the job the task belongs to; empty where an old host sends none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobNames {
    /// Job name.
    pub job_name: String,
    /// Job id.
    pub job_id: String,
    /// Id of the periodic or parameterized job that this one is an instance of.
    pub parent_job_id: String,
    /// Task group.
    pub task_group: String,
    /// Nomad namespace.
    pub namespace: String,
    /// Node name.
    pub node_name: String,
    /// Node id.
    pub node_id: String,
}

impl TaskSpec {
    /// The task's own directory on the host, `None` without an allocation directory.
    ///
    /// # Errors
    /// If the name of the task cannot be a directory.
    pub fn dir(&self) -> Result<Option<PathBuf>, super::SpecError> {
        super::mounts::task_dir(self)
    }

    /// Where the image is loaded from: the task's directory and the path in it; `None` for one out of a registry.
    ///
    /// # Errors
    /// If there is no directory to load from.
    pub fn load(&self) -> Result<Option<(PathBuf, String)>, super::SpecError> {
        let Some(path) = self.options.load.as_ref().filter(|path| !path.is_empty()) else {
            return Ok(None);
        };
        match self.dir()? {
            Some(dir) => Ok(Some((dir, path.clone()))),
            None => Err(super::SpecError::option(
                "load",
                path,
                "a task with an allocation directory is expected, in which the archive is",
            )),
        }
    }
}

/// Limits as Nomad allocated them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Resources {
    /// CPU shares in MHz.
    pub cpu_shares: i64,
    /// Memory in MiB; 0 for unset.
    pub memory_mb: i64,
    /// `memory_max` in MiB; 0 for unset, -1 for no limit.
    pub memory_max_mb: i64,
    /// Reserved cores, e.g. `0,3`; empty without.
    pub cpuset_cpus: String,
    /// The cgroup that Nomad prepared; empty if none.
    pub cpuset_cgroup: String,
    /// Share of the node's usable compute, 0 to 1.
    pub percent_ticks: f64,
}

/// A mount that Nomad asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostMount {
    /// Path in the task.
    pub task_path: String,
    /// Path on the host.
    pub host_path: String,
    /// Read-only.
    pub readonly: bool,
    /// Empty, `private`, `host-to-task` or `bidirectional`.
    pub propagation: String,
    /// Empty, `z` or `Z`: whether the files there are given an SELinux label.
    pub selinux_label: String,
}

/// A device that Nomad asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostDevice {
    /// Path in the task.
    pub task_path: String,
    /// Path on the host.
    pub host_path: String,
    /// Subset of `rwm`; empty for all.
    pub permissions: String,
}

/// The group's network namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkNamespace {
    /// Path of the namespace file.
    pub path: String,
    /// Host name and address for `/etc/hosts`, if the host knows them.
    pub hosts: Option<(String, String)>,
}

/// The group's DNS settings. An empty list means "as on the host".
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dns {
    /// Name servers.
    pub servers: Vec<String>,
    /// Search domains.
    pub searches: Vec<String>,
    /// Resolver options.
    pub options: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_looked_for_in_the_task_directory() {
        let mut task = TaskSpec {
            name: "web".to_owned(),
            alloc_dir: PathBuf::from("/alloc/a"),
            ..TaskSpec::default()
        };
        assert_eq!(task.load(), Ok(None));
        task.options.load = Some(String::new());
        assert_eq!(task.load(), Ok(None));
        task.options.load = Some("x.tar".to_owned());
        let found = (PathBuf::from("/alloc/a/web"), "x.tar".to_owned());
        assert_eq!(task.load(), Ok(Some(found)));
        task.alloc_dir = PathBuf::new();
        let text = task.load().unwrap_err().to_string();
        assert!(
            text.starts_with("option load: \"x.tar\": a task with an allocation directory"),
            "{text}"
        );
    }
}
