//! The book of shim groups: places, waits and ends.

use super::*;
use crate::spec::owner::{Owner, RunOwner};
use tokio::time::timeout;

async fn lives(_: String) -> bool {
    true
}

async fn join(groups: &Groups, container: &str) -> String {
    groups.join(container, "kin", 3, lives).await.leader
}

async fn enter(groups: &Groups, container: &str) -> String {
    let leader = join(groups, container).await;
    groups.entered(container);
    leader
}

fn fresh() -> Groups {
    Groups::new(Path::new("/nonexistent"))
}

#[tokio::test]
async fn a_shim_takes_no_more_than_its_most_and_the_fullest_is_filled_first() {
    let groups = fresh();
    for (container, leader) in [("a", "a"), ("b", "a"), ("c", "a"), ("d", "d"), ("e", "d")] {
        assert_eq!(enter(&groups, container).await, leader, "{container}");
    }
    assert_eq!(groups.join("x", "others", 3, lives).await.leader, "x");
    groups.leaves("b");
    assert_eq!(enter(&groups, "f").await, "d", "one that goes still has its place");
    groups.left("b");
    assert_eq!(enter(&groups, "g").await, "a");
    assert_eq!(groups.shim_of("g"), "a");
    assert_eq!(enter(&groups, "g").await, "a", "it has its place already");
    assert_eq!(groups.shim_of("stranger"), "stranger");
}

#[tokio::test]
async fn the_first_container_gone_its_name_stays_the_shims() {
    let groups = fresh();
    enter(&groups, "a").await;
    enter(&groups, "b").await;
    groups.leaves("a");
    groups.others_are_there("a").await;
    groups.left("a");
    assert_eq!(enter(&groups, "c").await, "a");
    assert!(!groups.is_alone("b"));
    groups.leaves("c");
    assert!(groups.is_alone("b"));
    groups.leaves("b");
    groups.left("b");
    groups.left("c");
    assert_eq!(enter(&groups, "d").await, "d", "a shim that ends takes nobody");
}

#[tokio::test(start_paused = true)]
async fn whoever_comes_waits_for_the_first_and_looks_elsewhere_if_that_fails() {
    let groups = Arc::new(fresh());
    assert_eq!(join(&groups, "a").await, "a");
    let waits = |container: &'static str| {
        let groups = Arc::clone(&groups);
        tokio::spawn(async move { join(&groups, container).await })
    };
    let (b, c, d) = (waits("b"), waits("c"), waits("d"));
    tokio::task::yield_now().await;
    assert_eq!(d.await.unwrap(), "d", "there is no place for it");
    assert!(!b.is_finished());
    groups.left("a");
    let mut leaders = vec![b.await.unwrap(), c.await.unwrap()];
    leaders.sort();
    // They wait for the one that was begun meanwhile, and not for ever.
    assert!(leaders.iter().all(|leader| leader != "a"), "{leaders:?}");
}

#[tokio::test(start_paused = true)]
async fn a_deletion_waits_for_those_who_come_and_not_for_ever() {
    let groups = fresh();
    enter(&groups, "a").await;
    assert_eq!(join(&groups, "b").await, "a");
    groups.leaves("a");
    let brief = Duration::from_secs(1);
    assert!(timeout(brief, groups.others_are_there("a")).await.is_err());
    assert_eq!(join(&groups, "c").await, "c", "it is closed by now");
    groups.entered("b");
    assert!(timeout(brief, groups.others_are_there("a")).await.is_ok());
    groups.left("a");
    assert_eq!(groups.shim_of("b"), "a");
    // One that hangs.
    groups.entered("c");
    assert_eq!(join(&groups, "d").await, "c");
    groups.leaves("c");
    let begin = Instant::now();
    groups.others_are_there("c").await;
    assert_eq!(begin.elapsed(), WITHIN);
}

#[tokio::test(start_paused = true)]
async fn the_last_containers_of_one_shim_are_deleted_one_after_the_other() {
    let groups = fresh();
    enter(&groups, "a").await;
    enter(&groups, "b").await;
    assert_eq!(groups.join("x", "others", 3, lives).await.leader, "x");
    groups.entered("x");
    for container in ["a", "b", "x"] {
        groups.leaves(container);
    }
    let first = groups.turn_to_delete("a").await;
    let brief = Duration::from_secs(1);
    assert!(first.is_some() && timeout(brief, groups.turn_to_delete("b")).await.is_err());
    assert!(groups.turn_to_delete("x").await.is_some(), "it is in another shim");
    assert!(groups.turn_to_delete("stranger").await.is_none());
    assert!(
        groups.turn_to_delete("b").await.is_none(),
        "whoever hangs is not waited for"
    );
    drop(first);
    assert!(groups.turn_to_delete("b").await.is_some());
}

#[tokio::test(start_paused = true)]
async fn deletions_go_on_together_as_long_as_somebody_stays_and_the_last_waits_for_them() {
    let groups = fresh();
    for container in ["a", "b", "c"] {
        enter(&groups, container).await;
    }
    groups.leaves("a");
    groups.leaves("b");
    let turns = [groups.turn_to_delete("a").await, groups.turn_to_delete("b").await];
    assert!(
        turns.iter().all(|turn| matches!(turn, Some(Turn::Beside(_)))),
        "{turns:?}"
    );
    groups.leaves("c");
    let brief = Duration::from_secs(1);
    assert!(timeout(brief, groups.turn_to_delete("c")).await.is_err());
    let [first, second] = turns;
    drop(first);
    groups.left("a");
    assert!(timeout(brief, groups.turn_to_delete("c")).await.is_err());
    drop(second);
    groups.left("b");
    assert!(matches!(groups.turn_to_delete("c").await, Some(Turn::Alone(_))));
}

#[tokio::test]
async fn a_shim_that_does_not_answer_is_not_joined() {
    let groups = fresh();
    enter(&groups, "a").await;
    let gone = |_| async { false };
    assert_eq!(groups.join("b", "kin", 3, gone).await.leader, "b");
    groups.entered("b");
    assert_eq!(groups.shim_of("a"), "a");
    assert_eq!(enter(&groups, "c").await, "b");
}

#[tokio::test]
async fn what_a_label_says_counts() {
    let groups = fresh();
    enter(&groups, "a").await;
    assert_eq!(join(&groups, "b").await, "a");
    groups.settle("b", ShimGroup::parse("kin/z").as_ref());
    assert_eq!(groups.shim_of("b"), "z");
    groups.settle("b", None);
    assert_eq!(groups.shim_of("b"), "b");
    assert!(groups.is_alone("a"));
}

#[tokio::test]
async fn earlier_processes_containers_are_read_from_their_directories() {
    let run = tempfile::tempdir().unwrap();
    for (container, shim) in [("a", Some("kin/a")), ("b", Some("kin/a")), ("c", None)] {
        let owner = RunOwner {
            address: "/a".to_owned(),
            namespace: "n".to_owned(),
            owner: Owner::default(),
            shim: shim.and_then(ShimGroup::parse),
        };
        leftovers::claim_run_dir(&run.path().join(container), &owner).unwrap();
    }
    let groups = Groups::new(run.path());
    // Of one alone the rest is not read.
    assert_eq!(
        (groups.shim_of("b"), groups.shim_of("c")),
        ("a".to_owned(), "c".to_owned())
    );
    assert!(!groups.is_alone("b") && groups.is_alone("c"));
    assert_eq!(join(&groups, "d").await, "a");
    assert_eq!(join(&groups, "e").await, "e", "that was the third");
}

#[tokio::test]
async fn the_record_of_a_kin_goes_with_the_last_that_leaves_and_is_told_once() {
    let groups = fresh();
    for container in ["a", "b", "c", "d"] {
        enter(&groups, container).await;
    }
    assert_eq!((groups.shim_of("c"), groups.shim_of("d")), ("a".into(), "d".into()));
    assert_eq!(groups.record("kin"), Record::Unknown);
    groups.note_record("kin", Record::There);
    for container in ["a", "b", "c"] {
        groups.leaves(container);
        assert_eq!(groups.last_of_kin(container), None, "the other shim has one that stays");
    }
    groups.left("a");
    assert_eq!(groups.record("kin"), Record::There);
    groups.leaves("d");
    let last = groups.last_of_kin("b").map(|group| group.sandbox());
    assert_eq!(last.as_deref(), Some("containerd-driver-kin"));
    assert_eq!(groups.last_of_kin("d"), None, "it was told before");
    assert_eq!(groups.record("kin"), Record::Gone);
    for container in ["b", "c", "d"] {
        groups.left(container);
    }
    assert_eq!(
        groups.record("kin"),
        Record::Unknown,
        "the book keeps nothing of a kin without members"
    );
}

#[tokio::test]
async fn a_record_is_kept_for_one_that_comes_and_removed_also_where_it_is_of_no_use() {
    let groups = fresh();
    enter(&groups, "a").await;
    join(&groups, "b").await;
    groups.leaves("a");
    assert_eq!(groups.last_of_kin("a"), None, "one is coming");
    groups.note_record("kin", Record::Useless);
    groups.leaves("b");
    assert!(groups.last_of_kin("b").is_some());
    assert_eq!(groups.last_of_kin("stranger"), None);
}
