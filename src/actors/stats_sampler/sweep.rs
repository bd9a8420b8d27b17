//! One look at the cgroups of all containers that are due. Runs on the blocking pool: the kernel may have to add up the
//! counters of many cgroups and cores first.

use super::rates::Reading;
use crate::actors::shared::unix_nanos;
use crate::host::node::CgroupVersion;
use crate::host::usage::Place;
use crate::spec::identity::{ContainerId, TaskId};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// One container to look at.
pub(super) struct Look {
    pub(super) task: TaskId,
    pub(super) pid: u32,
    /// Where it is; found by the first look.
    pub(super) place: Option<Arc<Place>>,
}

/// What was found.
pub(super) struct Found {
    pub(super) place: Option<Arc<Place>>,
    /// `None`: the process or its cgroup is gone.
    pub(super) reading: Option<Reading>,
}

/// Looks at all of them. Times are counted from `epoch`.
pub(super) fn sweep(
    looks: BTreeMap<ContainerId, Look>,
    version: CgroupVersion,
    epoch: Instant,
) -> BTreeMap<ContainerId, Found> {
    let mut buffer = Vec::new();
    let look = |(container, look): (ContainerId, Look)| {
        let place = look.place.or_else(|| {
            let marks = container.cgroup_names(&look.task);
            Place::of(look.pid, version, &marks).map(Arc::new)
        });
        let reading = place.as_ref().and_then(|place| {
            let on = epoch.elapsed();
            let counters = place.read(&mut buffer)?;
            Some(Reading {
                on,
                at: unix_nanos(),
                counters,
            })
        });
        (container, Found { place, reading })
    };
    looks.into_iter().map(look).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_live_process_is_read_and_a_dead_one_is_not() {
        let look = |pid| Look {
            task: TaskId::new("a/b/c"),
            pid,
            place: None,
        };
        let looks = BTreeMap::from([(ContainerId::reported("dead"), look(u32::MAX))]);
        let version = crate::host::node::cgroup_version(std::path::Path::new(crate::host::node::CGROUP_ROOT));
        let found = sweep(looks, version, Instant::now());
        assert!(found.values().all(|f| f.reading.is_none() && f.place.is_none()));
    }
}
