//! Shims that several containers share: needed by whom, and told of whom.

use super::tests::{old, scene};
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
