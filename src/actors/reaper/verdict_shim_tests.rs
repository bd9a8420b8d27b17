//! Shims that several containers share, needed by whom and told of whom; bundles, and when they are nobody's.

use super::tests::{held, old, scene};
use super::*;

#[test]
fn a_shared_shim_is_needed_as_long_as_anybody_needs_it_and_tells_by_whom() {
    let shared = |containers: Vec<ContainerFacts>, members: &[&str]| {
        let scene = Scene {
            containers,
            shims: vec![ShimFacts {
                container: "gone".to_owned(),
                members: members.iter().map(|id| (*id).to_owned()).collect(),
                name: "4711".to_owned(),
                ours: true,
                started_at: 0,
            }],
            ..scene()
        };
        let things = judge(&scene);
        let shim = things.into_iter().find(|thing| thing.kind == ThingKind::Shim).unwrap();
        (shim.standing, shim.owner, shim.why)
    };
    let other = ContainerFacts {
        id: "other".to_owned(),
        ..old(AllocSight::There)
    };
    let (standing, owner, why) = shared(vec![old(AllocSight::Gone), other], &["web", "other"]);
    assert_eq!(standing, Standing::Waiting);
    assert!(
        !owner.is_empty() && why == "shared by 2 containers: web, other",
        "{owner} {why}"
    );
    let (standing, _, why) = shared(vec![old(AllocSight::Gone)], &["web"]);
    assert_eq!(standing, Standing::Orphan);
    assert_eq!(why, "shared, now by container web alone");
}

#[test]
fn a_sandbox_record_is_needed_by_its_group_and_by_a_process_that_lives() {
    let judged = |facts: SandboxFacts| {
        let scene = Scene {
            sandboxes: vec![facts],
            ..scene()
        };
        let things = judge(&scene);
        (things[0].kind, things[0].standing)
    };
    let is = |standing| (ThingKind::Sandbox, standing);
    let of = |members, held: Option<Held>| SandboxFacts {
        id: "containerd-driver-k".to_owned(),
        held,
        created_at: 0,
        members,
    };
    let dead = || held(AllocSight::Gone);
    let lives = Held { lives: true, ..dead() };
    let mut mine = dead();
    mine.owner.plugin = Some(scene().me);
    assert_eq!(judged(of(0, None)), is(Standing::Foreign));
    assert_eq!(judged(of(0, Some(dead()))), is(Standing::Orphan));
    assert_eq!(judged(of(2, Some(dead()))), is(Standing::InUse));
    assert_eq!(judged(of(0, Some(lives))), is(Standing::InUse));
    assert_eq!(judged(of(0, Some(mine))), is(Standing::InUse));
    let mut nobodys = dead();
    nobodys.owner.plugin = None;
    assert_eq!(judged(of(0, Some(nobodys))), is(Standing::Leftover));
    let young = SandboxFacts {
        created_at: scene().now,
        ..of(0, Some(dead()))
    };
    assert_eq!(judged(young), is(Standing::InUse));
}

const NAME: &str = "web-0123abcd-0123-4567-89ab-0123456789ab-01234567";

fn judged(change: impl FnOnce(&mut Scene, &mut BundleFacts)) -> Standing {
    let mut facts = BundleFacts {
        container: NAME.to_owned(),
        path: format!("/run/b/n/{NAME}"),
        changed_at: 0,
    };
    let mut scene = scene();
    change(&mut scene, &mut facts);
    scene.bundles = vec![facts];
    let things = judge(&scene);
    let bundle = things.iter().find(|thing| thing.kind == ThingKind::Bundle);
    bundle.unwrap().standing
}

#[test]
fn a_bundle_is_an_orphan_only_if_nobody_has_it() {
    assert_eq!(judged(|_, _| {}), Standing::Orphan);
    assert_eq!(
        judged(|scene, bundle| bundle.changed_at = scene.now),
        Standing::InUse,
        "it is young"
    );
    assert_eq!(
        judged(|_, bundle| bundle.container = "k8s".to_owned()),
        Standing::Foreign
    );
    assert_eq!(
        judged(|scene, bundle| scene.tasks = vec![bundle.container.clone()]),
        Standing::Leftover
    );
    let shim = |container: &str| ShimFacts {
        container: container.to_owned(),
        members: Vec::new(),
        name: "4711".to_owned(),
        ours: true,
        started_at: 0,
    };
    assert_eq!(
        judged(|scene, bundle| scene.shims = vec![shim(&bundle.container)]),
        Standing::InUse
    );
    assert_eq!(judged(|scene, _| scene.shims = vec![shim("another")]), Standing::Orphan);
    let of_container = |sight| {
        judged(move |scene, bundle| {
            scene.containers = vec![ContainerFacts {
                id: bundle.container.clone(),
                ..old(sight)
            }];
        })
    };
    assert_eq!(of_container(AllocSight::There), Standing::Waiting);
    assert_eq!(of_container(AllocSight::Gone), Standing::Orphan);
}
