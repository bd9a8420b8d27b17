//! Leases of pulls and of looks into images.

use super::tests::{NOW, scene};
use super::*;

#[test]
fn leases_of_pulls_go_when_they_have_expired_or_nobody_goes_on_with_them_and_others_never() {
    let lease = |id: &str, expires_at| LeaseFacts {
        id: id.to_owned(),
        expires_at,
        created_at: if id.ends_with("++") { 0 } else { NOW },
        owner: String::new(),
        abandoned: id.ends_with('+'),
    };
    let scene = Scene {
        leases: vec![
            lease("containerd-driver-pull-1", Some(NOW)),
            lease("containerd-driver-pull-2", Some(NOW + 1)),
            lease("containerd-driver-pull-3", None),
            lease("containerd-driver-pull-4+", Some(NOW + 1)),
            lease("containerd-driver-facts-5", Some(NOW + 1)),
            lease("containerd-driver-facts-6+", Some(NOW + 1)),
            lease("ctr-7+", Some(0)),
            lease("containerd-driver-pull-8++", Some(NOW + 1)),
            lease("ctr-9++", Some(0)),
        ],
        ..scene()
    };
    let found = judge(&scene).into_iter().map(|t| {
        (
            t.name.chars().filter(char::is_ascii_digit).collect::<String>(),
            t.standing,
        )
    });
    let wanted = [
        ("1", Standing::Orphan),
        ("2", Standing::InUse),
        ("3", Standing::Leftover),
        ("4", Standing::InUse),
        ("5", Standing::InUse),
        ("6", Standing::Orphan),
        ("7", Standing::Foreign),
        ("8", Standing::Orphan),
        ("9", Standing::Foreign),
    ];
    let wanted: BTreeMap<String, Standing> = wanted.map(|(n, s)| (n.to_owned(), s)).into();
    assert_eq!(found.collect::<BTreeMap<_, _>>(), wanted);
}
