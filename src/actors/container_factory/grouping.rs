//! Which shim a container gets, if it shares one: decided before its record is made, which says so, and no part of its plan.

use crate::actors::shared::Shared;
use crate::actors::shared::groups::Record;
use crate::containerd::{ContainerRecord, Gateway};
use crate::messages::container::ContainerError;
use crate::messages::runtime::{ContainerdFault, FaultKind};
use crate::spec::identity::ContainerId;
use crate::spec::oci::ContainerPlan;
use crate::spec::owner::Owner;
use crate::spec::settings::Settings;
use crate::spec::shim_group::{self, KEY_SHIM_GROUP, ShimGroup};
use std::time::Duration;
use tokio::task::block_in_place;
use tokio::time::timeout;

/// How long a shim may take to say whether it has a container. One of containerd 1.6 says nothing while it makes another.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// The namespace of Kubernetes: its part of containerd reads the sandbox records there when it starts, and removes what is no pod's.
const KUBERNETES: &str = "k8s.io";

/// What containerd says where it cannot hand a container to a shim (`ShimManager.Start`, from 1.7 to 2.4).
const REFUSALS: [&str; 5] = [
    "can't find shim for sandbox",
    "can't find sandbox",
    "failed to get bootstrap params of sandbox",
    "failed to load sandbox task",
    "the scheme of sandbox address",
];

/// The group of a container: the one that it was made with, or a place in one. `None` for a shim of its own.
pub(super) async fn join(
    shared: &Shared,
    gateway: &Gateway,
    settings: &Settings,
    owner: &Owner,
    alloc_id: &str,
    plan: &ContainerPlan,
) -> Option<ShimGroup> {
    let id = plan.container.as_str();
    let Some(kin) = shim_group::kin(settings, owner, alloc_id, &plan.runtime) else {
        return block_in_place(|| shared.groups.group(id));
    };
    block_in_place(|| shared.groups.read());
    let listens = |shim: String| async move { gateway.shim_listens(&shim).await };
    let group = shared.groups.join(id, &kin, shim_group::most(settings), listens).await;
    Some(group)
}

/// The sandbox record that a container of this group is to name, so that containerd hands it to its shim: otherwise it runs
/// the shim's program for each container, which finds the shim that is there. Empty where the container leads its group, and
/// where containerd has no use for it.
pub(super) async fn sandbox(
    shared: &Shared,
    gateway: &Gateway,
    owner: &Owner,
    plan: &ContainerPlan,
    group: Option<&ShimGroup>,
) -> String {
    let Some(group) = group.filter(|group| group.is_joined_by(plan.container.as_str())) else {
        return String::new();
    };
    match shared.groups.record(&group.kin) {
        Record::There => return group.sandbox(),
        Record::Useless => return String::new(),
        Record::Unknown | Record::Gone => {}
    }
    let made = async {
        let version = gateway.version().await?;
        if !shim_group::hands_over(&version.version) || gateway.namespace() == KUBERNETES {
            return Ok(Record::Useless);
        }
        let labels = owner.labels().into_iter().collect();
        gateway
            .create_sandbox(&group.sandbox(), &plan.runtime.kind, &labels)
            .await?;
        Ok::<_, ContainerdFault>(Record::There)
    };
    let record = made.await.unwrap_or_else(|fault| match fault.kind {
        FaultKind::Unreachable | FaultKind::Deadline | FaultKind::Exhausted => Record::Unknown,
        FaultKind::NotFound | FaultKind::AlreadyExists | FaultKind::FailedPrecondition | FaultKind::Failed => {
            tracing::info!(error = %fault, "containers are put into their shims by its program");
            Record::Useless
        }
    });
    shared.groups.note_record(&group.kin, record);
    if record == Record::There {
        group.sandbox()
    } else {
        String::new()
    }
}

/// Whether containerd could not hand the container to its shim, though that is there: the record of one that was tried names a
/// sandbox. The next attempt goes the other way.
pub(super) fn is_refused(shared: &Shared, group: Option<&ShimGroup>, sandbox: &str, fault: &ContainerdFault) -> bool {
    let Some(group) = group.filter(|_| !sandbox.is_empty()) else {
        return false;
    };
    let refused = REFUSALS.iter().any(|words| fault.text.contains(words));
    if refused {
        tracing::info!(error = %fault, "containers are put into their shims by its program");
        shared.groups.note_record(&group.kin, Record::Useless);
    }
    refused
}

/// Removes the sandbox record of a container's kin with the last container that leaves. A start that comes meanwhile is none the
/// worse: where the record is missing, containerd goes the other way.
pub(super) async fn forget_sandbox(
    shared: &Shared,
    gateway: &Gateway,
    id: &ContainerId,
) -> Result<(), ContainerdFault> {
    let Some(group) = block_in_place(|| shared.groups.last_of_kin(id.as_str())) else {
        return Ok(());
    };
    let gone = gateway.delete_sandbox(&group.sandbox()).await;
    // One that came meanwhile may have found what is removed now: the next one makes it again.
    if gone.is_err() || shared.groups.record(&group.kin) == Record::There {
        shared.groups.note_record(&group.kin, Record::Unknown);
    }
    gone.map(drop)
}

/// The container whose shim takes this one.
pub(super) fn host_shim(group: Option<&ShimGroup>, id: &ContainerId) -> Option<String> {
    group
        .filter(|group| group.is_joined_by(id.as_str()))
        .map(|group| group.leader.clone())
}

/// The specification of a container of this group.
pub(super) fn annotated(spec_json: Vec<u8>, group: Option<&ShimGroup>) -> Result<Vec<u8>, ContainerError> {
    match group {
        Some(group) => Ok(group.annotate(&spec_json)?),
        None => Ok(spec_json),
    }
}

/// A container of an earlier start has the group that its record names.
pub(super) fn settle(shared: &Shared, record: &ContainerRecord) -> Option<ShimGroup> {
    let label = record.labels.get(KEY_SHIM_GROUP);
    let group = label.and_then(|text| ShimGroup::parse(text));
    block_in_place(|| shared.groups.settle(&record.id, group.as_ref()));
    group
}

/// A container that is to be removed, and whose run directory has not told its group.
pub(super) fn settle_if_unknown(shared: &Shared, record: &ContainerRecord) {
    if record.labels.contains_key(KEY_SHIM_GROUP) {
        settle(shared, record);
    }
}

/// Whether a shim that others have too has made something of a container that containerd does not know.
pub(super) async fn is_forgotten_in(gateway: &Gateway, group: Option<&ShimGroup>, id: &ContainerId) -> bool {
    let Some(group) = group.filter(|group| group.is_joined_by(id.as_str())) else {
        return false;
    };
    let look = gateway.is_at_shim(&group.leader, id.as_str());
    matches!(timeout(ANSWER_WITHIN, look).await, Ok(Ok(true)))
}

/// What a failure to make a task tells of a shim that others have too. True if it is worth another try in another shim: this
/// one has died. One that does not answer is not used again.
pub(super) async fn has_died(
    shared: &Shared,
    gateway: &Gateway,
    group: Option<&ShimGroup>,
    id: &ContainerId,
    fault: &ContainerdFault,
) -> bool {
    let Some(group) = group else { return false };
    let died = group.is_joined_by(id.as_str()) && !gateway.shim_listens(&group.leader).await;
    if died || fault.kind == FaultKind::Deadline {
        shared.groups.close(&group.leader);
    }
    died
}
