//! What is thought of the things that containers of a shim group have in common: their shim, and the sandbox record by which
//! containerd puts them into it.

use super::verdict::{ContainerFacts, Held, Opinion, Scene, bare, is_young, of_another, opinion, owner_text, young};
use crate::messages::audit::Standing;
use std::collections::BTreeSet;

/// A sandbox record.
#[derive(Debug, Clone)]
pub(super) struct SandboxFacts {
    pub(super) id: String,
    /// Whose it is; `None` if it is not named as ours are.
    pub(super) held: Option<Held>,
    pub(super) created_at: i64,
    /// Containers of its kin.
    pub(super) members: usize,
}

/// One that several containers share is as much needed as the one that is needed most.
pub(super) fn shared_shim(of: &[&(&ContainerFacts, Opinion)]) -> (String, Opinion) {
    let owners: BTreeSet<String> = of.iter().map(|(c, _)| owner_text(&c.held.owner)).collect();
    let owners: Vec<String> = owners.into_iter().filter(|owner| !owner.is_empty()).collect();
    let rank = |standing: Standing| match standing {
        Standing::InUse => 0,
        Standing::Foreign => 1,
        Standing::Waiting => 2,
        Standing::Leftover => 3,
        Standing::Orphan => 4,
    };
    let standing = of.iter().map(|(_, (standing, _))| *standing).min_by_key(|s| rank(*s));
    let names: Vec<&str> = of.iter().map(|(c, _)| c.id.as_str()).collect();
    let why = match names.as_slice() {
        [one] => format!("shared, now by container {one} alone"),
        all => format!("shared by {} containers: {}", all.len(), all.join(", ")),
    };
    (owners.join(", "), opinion(standing.unwrap_or(Standing::InUse), why))
}

/// The last container that leaves takes the record along, so one that nobody is of has lost its process first.
pub(super) fn sandbox(scene: &Scene, facts: &SandboxFacts) -> (String, Opinion) {
    let Some(held) = &facts.held else {
        return bare(opinion(Standing::Foreign, "it was not made by this driver"));
    };
    (owner_text(&held.owner), ours(scene, facts, held))
}

fn ours(scene: &Scene, facts: &SandboxFacts, held: &Held) -> Opinion {
    let by = held.owner.plugin.as_ref();
    match facts.members {
        0 if is_young(scene, facts.created_at) => young(scene),
        0 if by == Some(&scene.me) => opinion(Standing::InUse, "for the next container that comes to a shared shim"),
        0 if by.is_some_and(|process| process.is_out_of_sight(&scene.me)) => opinion(
            Standing::Waiting,
            "the process that made it is in another process namespace",
        ),
        0 if by.is_none() => opinion(Standing::Leftover, "it does not say which process made it"),
        0 => of_another(scene, held).unwrap_or_else(|| {
            opinion(
                Standing::Orphan,
                "no container is of its group, and the process that made it has ended",
            )
        }),
        1 => opinion(Standing::InUse, "1 container is of its group"),
        n => opinion(Standing::InUse, format!("{n} containers are of its group")),
    }
}
