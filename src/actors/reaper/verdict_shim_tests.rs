//! Shims that several containers share: needed by whom, and told of whom.

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
