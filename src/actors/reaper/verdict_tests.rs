//! What is thought of what was seen: each rule by itself, and the promises over all of them.

use super::*;
use proptest::prelude::*;

const SECOND: i64 = 1_000_000_000;
pub(super) const NOW: i64 = 1_000_000 * SECOND;
const GRACE: Duration = Duration::from_secs(300);
const AGENT: &str = "/var/nomad/alloc";

fn process(pid: u32) -> ProcessId {
    ProcessId {
        boot: "b".to_owned(),
        pid,
        start: 1,
    }
}

pub(super) fn scene() -> Scene {
    Scene {
        now: NOW,
        grace: GRACE,
        me: process(1),
        launcher: None,
        parent: None,
        running: GRACE,
        agents: BTreeMap::new(),
        claimed: BTreeSet::new(),
        containers: Vec::new(),
        tasks: Vec::new(),
        snapshots: Vec::new(),
        leases: Vec::new(),
        run_dirs: Vec::new(),
        shims: Vec::new(),
        on_host: Vec::new(),
        cgroups: Vec::new(),
        images: Vec::new(),
        sandboxes: Vec::new(),
        bundles: Vec::new(),
        elsewhere: BTreeSet::new(),
    }
}

/// Made by a process that has ended, for an allocation of [`AGENT`].
pub(super) fn held(alloc: AllocSight) -> Held {
    Held {
        owner: Owner {
            plugin: Some(process(2)),
            alloc_dir: (alloc != AllocSight::None).then(|| format!("{AGENT}/a").into()),
            agent_inode: Some(7),
            launcher: None,
            seen_from: None,
        },
        lives: false,
        launcher_lives: false,
        alloc,
    }
}

pub(super) fn old(alloc: AllocSight) -> ContainerFacts {
    ContainerFacts {
        id: "web".to_owned(),
        ours: true,
        held: held(alloc),
        created_at: NOW - 301 * SECOND,
        adopted: false,
        canary: false,
    }
}

fn served(for_seconds: u64) -> Scene {
    Scene {
        agents: BTreeMap::from([(AGENT.into(), Duration::from_secs(for_seconds))]),
        ..scene()
    }
}

fn standing(scene: &Scene, c: ContainerFacts) -> Standing {
    let scene = Scene {
        containers: vec![c],
        ..scene.clone()
    };
    let things = judge(&scene);
    assert_eq!(things.len(), 1);
    assert!(!things[0].why.is_empty());
    things[0].standing
}

#[test]
fn a_container_of_a_dead_allocation_is_an_orphan_whoever_had_it() {
    assert_eq!(standing(&scene(), old(AllocSight::Gone)), Standing::Orphan);
    assert_eq!(standing(&served(1), old(AllocSight::Gone)), Standing::Orphan);
}

#[test]
fn a_container_that_its_agent_does_not_ask_for_is_an_orphan_after_the_grace_and_not_before() {
    assert_eq!(standing(&served(300), old(AllocSight::There)), Standing::Orphan);
    assert_eq!(standing(&served(299), old(AllocSight::There)), Standing::Waiting);
}

#[test]
fn what_an_earlier_plugin_of_the_same_agent_made_is_not_waited_for_longer_than_that() {
    let launched = |by: Option<u32>, start: u64| {
        let mut c = old(AllocSight::There);
        c.held.owner.launcher = by.map(process);
        c.held.owner.plugin = Some(ProcessId { start, ..process(2) });
        c
    };
    let heir = Scene {
        me: ProcessId { start: 5, ..process(1) },
        launcher: Some(process(9)),
        ..scene()
    };
    assert_eq!(standing(&heir, launched(Some(9), 4)), Standing::Orphan);
    // Another agent's, unknown, of a process that began after this one, or before the grace has passed.
    for c in [launched(Some(8), 4), launched(None, 4), launched(Some(9), 5)] {
        assert_eq!(standing(&heir, c), Standing::Waiting);
    }
    let early = Scene {
        running: GRACE - Duration::from_nanos(1),
        ..heir.clone()
    };
    assert_eq!(standing(&early, launched(Some(9), 4)), Standing::Waiting);
    // Whoever launches several may do it for several agents: then a task of one tells.
    let unsure = Scene {
        launcher: None,
        ..heir.clone()
    };
    assert_eq!(standing(&unsure, launched(None, 4)), Standing::Waiting);
    let of_another = Scene {
        agents: BTreeMap::from([("/srv/alloc".into(), GRACE)]),
        ..heir
    };
    assert_eq!(standing(&of_another, launched(Some(9), 4)), Standing::Waiting);
}

#[test]
fn a_container_of_an_agent_that_is_not_here_waits_for_it() {
    assert_eq!(standing(&scene(), old(AllocSight::There)), Standing::Waiting);
    let mut other = served(9999);
    other.agents = BTreeMap::from([("/var/other/alloc".into(), Duration::from_secs(9999))]);
    assert_eq!(standing(&other, old(AllocSight::There)), Standing::Waiting);
    // A directory that cannot be seen, or another one under its path, tells nothing about what was in it.
    assert_eq!(standing(&served(9999), old(AllocSight::Unseen)), Standing::Waiting);
}

#[test]
fn what_is_claimed_young_or_of_a_process_that_runs_is_in_use() {
    for sight in [
        AllocSight::None,
        AllocSight::There,
        AllocSight::Gone,
        AllocSight::Unseen,
    ] {
        let mut claimed = served(9999);
        claimed.claimed.insert("web".to_owned());
        assert_eq!(standing(&claimed, old(sight)), Standing::InUse, "{sight:?}");
        let young = ContainerFacts {
            created_at: NOW - 299 * SECOND,
            ..old(sight)
        };
        assert_eq!(standing(&served(9999), young), Standing::InUse, "{sight:?}");
        let mut elsewhere = old(sight);
        elsewhere.held.lives = true;
        assert_eq!(standing(&served(9999), elsewhere), Standing::InUse, "{sight:?}");
    }
}

#[test]
fn a_container_of_this_very_process_that_it_has_forgotten_is_an_orphan() {
    for sight in [AllocSight::None, AllocSight::There] {
        let mut mine = old(sight);
        mine.held.owner.plugin = Some(process(1));
        mine.held.lives = true;
        assert_eq!(standing(&served(300), mine), Standing::Orphan, "{sight:?}");
    }
}

#[test]
fn a_container_without_an_allocation_ends_with_the_process_that_made_it() {
    assert_eq!(standing(&scene(), old(AllocSight::None)), Standing::Orphan);
    // Of the first versions of this driver, and adopted ones whose mounts tell nothing: nobody knows.
    for adopted in [false, true] {
        let nobodys = ContainerFacts {
            held: Held {
                owner: Owner::default(),
                lives: false,
                launcher_lives: false,
                alloc: AllocSight::None,
            },
            adopted,
            ..old(AllocSight::None)
        };
        assert_eq!(standing(&served(9999), nobodys), Standing::Waiting);
    }
}

#[test]
fn what_a_living_agent_started_by_another_plugin_is_not_for_this_one_to_judge() {
    let mut c = old(AllocSight::There);
    c.held.owner.launcher = Some(process(9));
    assert_eq!(standing(&served(9999), c.clone()), Standing::Orphan);
    c.held.launcher_lives = true;
    assert_eq!(standing(&served(9999), c.clone()), Standing::Waiting);
    let ours = Scene {
        parent: Some(process(9)),
        ..served(9999)
    };
    assert_eq!(standing(&ours, c), Standing::Orphan);
}

#[test]
fn a_canary_is_its_living_process_s_and_a_process_out_of_sight_may_live() {
    let mut canary = old(AllocSight::None);
    canary.canary = true;
    assert_eq!(standing(&scene(), canary.clone()), Standing::Orphan);
    canary.held.lives = true;
    canary.held.owner.plugin = Some(process(1));
    assert_eq!(standing(&scene(), canary), Standing::InUse);
    let seen_from = |boot: &str| {
        let mut c = old(AllocSight::None);
        c.held.owner.plugin = Some(ProcessId {
            boot: boot.to_owned(),
            ..process(2)
        });
        standing(
            &Scene {
                me: ProcessId {
                    boot: "b/1".to_owned(),
                    ..process(1)
                },
                ..scene()
            },
            c,
        )
    };
    assert_eq!(seen_from("b/1"), Standing::Orphan);
    assert_eq!(seen_from("b/2"), Standing::Waiting);
    assert_eq!(seen_from("c/2"), Standing::Orphan);
}

#[test]
fn a_foreign_container_is_foreign_whatever_it_looks_like() {
    let foreign = ContainerFacts {
        ours: false,
        ..old(AllocSight::Gone)
    };
    assert_eq!(standing(&served(9999), foreign), Standing::Foreign);
}

/// One of each kind, all of container `of`.
fn belongings(of: &str, old: i64) -> Scene {
    Scene {
        tasks: vec![of.to_owned()],
        snapshots: vec![SnapshotFacts {
            snapshotter: "overlayfs".to_owned(),
            key: of.to_owned(),
            container: Some(of.to_owned()),
            held: Some(held(AllocSight::Gone)),
            created_at: old,
        }],
        run_dirs: vec![RunDirFacts {
            container: of.to_owned(),
            path: format!("/run/containerd-driver/{of}"),
            held: Some(held(AllocSight::Gone)),
            here: true,
            changed_at: old,
            fifos: vec![format!("/run/containerd-driver/{of}/stdin")],
        }],
        shims: vec![ShimFacts {
            container: of.to_owned(),
            members: Vec::new(),
            name: "4711".to_owned(),
            ours: true,
            started_at: old,
        }],
        on_host: vec![HostFacts {
            kind: ThingKind::Mount,
            container: of.to_owned(),
            name: "/run/c/rootfs".to_owned(),
        }],
        cgroups: vec![CgroupFacts {
            container: of.to_owned(),
            path: format!("/nomad/{of}"),
            changed_at: old,
            processes: 1,
        }],
        ..scene()
    }
}

#[test]
fn what_belongs_to_a_container_has_its_standing_and_goes_with_it() {
    for (sight, want) in [
        (AllocSight::Gone, Standing::Orphan),
        (AllocSight::There, Standing::Waiting),
    ] {
        let scene = Scene {
            containers: vec![old(sight)],
            ..belongings("web", 0)
        };
        let things = judge(&scene);
        assert_eq!(things.len(), 8);
        for thing in &things {
            assert_eq!(thing.standing, want, "{thing:?}");
            let whose = (thing.kind != ThingKind::Container).then(|| "web".to_owned());
            assert_eq!(thing.container, whose);
            assert_eq!(thing.owner, format!("{AGENT}/a"));
        }
    }
}

#[test]
fn what_has_lost_its_container_goes_by_itself_where_that_hurts_nobody() {
    let mut scene = belongings("web", 0);
    scene.snapshots[0].container = None;
    let by_kind = |scene: &Scene| -> BTreeMap<ThingKind, Standing> {
        judge(scene).into_iter().map(|t| (t.kind, t.standing)).collect()
    };
    let found = by_kind(&scene);
    for (kind, want) in [
        (ThingKind::Snapshot, Standing::Orphan),
        (ThingKind::RunDirectory, Standing::Orphan),
        (ThingKind::Fifo, Standing::Orphan),
        // Processes are told and not killed.
        (ThingKind::Cgroup, Standing::Leftover),
        (ThingKind::Task, Standing::Leftover),
        (ThingKind::Shim, Standing::Leftover),
        (ThingKind::Mount, Standing::Leftover),
    ] {
        assert_eq!(found[&kind], want, "{kind:?}");
    }
    // containerd knows the task, and who removes that ends the shim; without it nobody else does.
    scene.tasks.clear();
    assert_eq!(by_kind(&scene)[&ThingKind::Shim], Standing::Orphan);
    scene.shims[0].ours = false;
    assert_eq!(by_kind(&scene)[&ThingKind::Shim], Standing::Leftover);
    (scene.shims[0].ours, scene.shims[0].started_at) = (true, NOW);
    assert_eq!(by_kind(&scene)[&ThingKind::Shim], Standing::InUse);
    scene.cgroups[0].processes = 0;
    assert_eq!(by_kind(&scene)[&ThingKind::Cgroup], Standing::Orphan);
    // Of a start that has only begun.
    for thing in judge(&Scene {
        now: SECOND,
        ..scene.clone()
    }) {
        assert_ne!(thing.standing, Standing::Orphan, "{thing:?}");
    }
    // Of another containerd: a run directory tells, and a cgroup by it.
    scene.run_dirs[0].here = false;
    scene.elsewhere.insert("web".to_owned());
    let found = by_kind(&scene);
    for kind in [ThingKind::RunDirectory, ThingKind::Fifo, ThingKind::Cgroup] {
        assert_eq!(found[&kind], Standing::Foreign, "{kind:?}");
    }
}

#[test]
fn a_run_directory_of_another_containerd_is_not_of_the_container_of_the_same_name() {
    let mut scene = Scene {
        containers: vec![old(AllocSight::Gone)],
        ..belongings("web", 0)
    };
    scene.run_dirs[0].here = false;
    let dir = judge(&scene).into_iter().find(|t| t.kind == ThingKind::RunDirectory);
    assert_eq!(dir.map(|t| (t.standing, t.container)), Some((Standing::Foreign, None)));
}

fn sights() -> impl Strategy<Value = AllocSight> {
    prop_oneof![
        Just(AllocSight::None),
        Just(AllocSight::There),
        Just(AllocSight::Gone),
        Just(AllocSight::Unseen),
    ]
}

fn facts() -> impl Strategy<Value = ContainerFacts> {
    let parts = (
        sights(),
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        0_i64..1000,
        0_u32..4,
    );
    parts.prop_map(|(sight, ours, adopted, lives, age, pid)| {
        let mut c = old(sight);
        c.ours = ours;
        c.adopted = adopted;
        c.held.lives = lives;
        c.created_at = NOW - age * SECOND;
        c.held.owner.plugin = (pid > 0).then(|| process(pid));
        c
    })
}

proptest! {
    /// The promises, told in another way than the rule: an orphan is ours, old, unclaimed, of no other process that runs,
    /// and there is a reason to think that nobody will ask for it.
    #[test]
    fn no_container_that_somebody_may_need_is_an_orphan(
        c in facts(),
        claimed in any::<bool>(),
        known in proptest::option::of(0_u64..1000),
    ) {
        let mut scene = known.map_or_else(scene, served);
        if claimed {
            scene.claimed.insert(c.id.clone());
        }
        let other = c.held.lives && c.held.owner.plugin.as_ref().is_some_and(|p| *p != scene.me);
        let old = c.created_at <= NOW - 300 * SECOND;
        let reason = match c.held.alloc {
            AllocSight::Gone => true,
            AllocSight::There => known.is_some_and(|s| s >= 300),
            AllocSight::None => c.held.owner.plugin.is_some(),
            AllocSight::Unseen => false,
        };
        let wanted = c.ours && old && !claimed && !other && reason;
        prop_assert_eq!(standing(&scene, c) == Standing::Orphan, wanted);
    }

    /// More time makes no orphan of what is claimed, and takes no orphan back.
    #[test]
    fn an_orphan_stays_one(c in facts(), known in 0_u64..1000, later in 0_u64..100_000) {
        let first = served(known);
        let mut then = served(known + later);
        then.now += i64::try_from(later).unwrap() * SECOND;
        if standing(&first, c.clone()) == Standing::Orphan {
            prop_assert_eq!(standing(&then, c), Standing::Orphan);
        }
    }
}

#[test]
fn an_image_is_listed_with_how_it_came_here_and_why_it_stays() {
    let image = |origin, idle_since, user: Option<&str>| {
        let scene = Scene {
            images: vec![ImageFacts {
                name: "docker.io/library/a:1".to_owned(),
                origin,
                idle_since,
                user: user.map(str::to_owned),
            }],
            ..scene()
        };
        let things = judge(&scene);
        assert_eq!(things.len(), 1);
        let thing = &things[0];
        assert_eq!((thing.kind, thing.outcome.clone()), (ThingKind::Image, Outcome::Kept));
        (thing.standing, thing.owner.clone(), thing.why.clone())
    };
    let ours = Some(Origin::Pulled);
    let (standing, owner, why) = image(ours, None, Some("web"));
    assert_eq!((standing, owner.as_str()), (Standing::InUse, "pulled by this driver"));
    assert!(why.contains("container web"), "{why}");
    let (standing, _, why) = image(ours, Some(NOW - 90 * SECOND), None);
    assert!(standing == Standing::Waiting && why.contains("for 1m30s"), "{why}");
    assert_eq!(image(Some(Origin::Loaded), None, None).1, "loaded by this driver");
    let (standing, owner, _) = image(None, None, None);
    assert_eq!((standing, owner.as_str()), (Standing::Foreign, ""));
    assert!(image(None, None, Some("c")).2.contains("container c"));
}
