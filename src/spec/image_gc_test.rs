//! Tests of the decision which images go.

use super::*;
use crate::spec::settings::CanarySettings;
use std::time::Duration;

const SECOND: i64 = 1_000_000_000;

fn settings(change: impl Fn(&mut ImageGcSettings)) -> Settings {
    let mut gc = ImageGcSettings {
        enabled: true,
        delay: Duration::from_secs(60),
        ..ImageGcSettings::default()
    };
    change(&mut gc);
    Settings {
        image_gc: Some(gc),
        ..Settings::default()
    }
}

fn idle(name: &str, since: i64) -> Sight {
    Sight {
        name: format!("docker.io/library/{name}:latest"),
        origin: Some(Origin::Pulled),
        idle_since: Some(since * SECOND),
        ..Sight::default()
    }
}

#[test]
fn an_image_goes_when_it_was_idle_for_the_delay_and_not_before() {
    let settings = settings(|_| ());
    let image = idle("a", 100);
    assert_eq!(
        judge(&image, &settings, 159 * SECOND, false),
        Fate::Stays(Stay::Young(160 * SECOND))
    );
    assert_eq!(judge(&image, &settings, 160 * SECOND, false), Fate::Goes(100 * SECOND));
    assert_eq!(next_due(&[image], &settings, 120 * SECOND), Some(160 * SECOND));
}

#[test]
fn one_that_has_only_now_become_idle_waits_from_now() {
    let settings = settings(|_| ());
    let fresh = Sight {
        idle_since: None,
        ..idle("a", 0)
    };
    assert_eq!(
        judge(&fresh, &settings, 1000 * SECOND, false),
        Fate::Stays(Stay::Young(1060 * SECOND))
    );
    assert_eq!(fresh.relabel(1000 * SECOND), Some(Some(1000 * SECOND)));
    let between = Sight {
        last_used: Some(990 * SECOND),
        ..idle("a", 100)
    };
    assert_eq!(
        judge(&between, &settings, 1000 * SECOND, false),
        Fate::Stays(Stay::Young(1050 * SECOND))
    );
    assert_eq!(between.relabel(1000 * SECOND), Some(Some(990 * SECOND)));
    assert_eq!(idle("a", 100).relabel(1000 * SECOND), None);
}

#[test]
fn a_clock_that_was_set_back_keeps_nothing_for_ever() {
    let ahead = idle("a", 5000);
    assert_eq!(ahead.relabel(1000 * SECOND), Some(Some(1000 * SECOND)));
    assert_eq!(
        judge(&ahead, &settings(|_| ()), 1000 * SECOND, false),
        Fate::Stays(Stay::Young(1060 * SECOND))
    );
}

#[test]
fn what_is_used_held_foreign_or_pinned_stays_however_full_the_disk() {
    let mut settings = settings(|gc| gc.pinned = vec!["busybox".to_owned(), "ghcr.io/infra/*".to_owned()]);
    settings.image_prefetch = vec!["docker.io/library/redis:7".to_owned()];
    settings.canary = Some(CanarySettings {
        enabled: true,
        image: "alpine".to_owned(),
        ..CanarySettings::default()
    });
    let old = |name: &str| Sight {
        name: name.to_owned(),
        ..idle("", 0)
    };
    let used = Sight {
        user: Some("c1".to_owned()),
        ..old("docker.io/library/a:1")
    };
    let held = Sight {
        held: true,
        ..old("docker.io/library/a:1")
    };
    let foreign = Sight {
        origin: None,
        ..old("docker.io/library/a:1")
    };
    for (sight, stay) in [
        (used.clone(), Stay::Used("c1".to_owned())),
        (held, Stay::Held),
        (foreign.clone(), Stay::Foreign),
        (old("docker.io/library/busybox:latest"), Stay::Pinned("image_gc.pinned")),
        (old("ghcr.io/infra/proxy:1"), Stay::Pinned("image_gc.pinned")),
        (old("docker.io/library/redis:7"), Stay::Pinned("image_prefetch")),
        (old("docker.io/library/alpine:latest"), Stay::Pinned("canary.image")),
    ] {
        assert_eq!(
            judge(&sight, &settings, 9000 * SECOND, true),
            Fate::Stays(stay),
            "{sight:?}"
        );
    }
    assert_eq!(
        judge(&old("docker.io/library/busybox:1"), &settings, 9000 * SECOND, true),
        Fate::Goes(0)
    );
    // A use takes the label away; nothing is ever written on what is somebody else's.
    assert_eq!(used.relabel(SECOND), Some(None));
    assert_eq!(foreign.relabel(SECOND), None);
}

#[test]
fn patterns_with_a_star_fit_the_whole_name_or_as_docker_shortens_it() {
    let name = "docker.io/library/busybox:1.36";
    for fits in [
        "*",
        "busybox:*",
        "library/busy*",
        "docker.io/*",
        "*:1.36",
        "busybox:1.36",
    ] {
        assert!(pins(fits, name), "{fits}");
    }
    for not in ["busybox", "box:*", "ghcr.io/*", "busybox:1.37"] {
        assert!(!pins(not, name), "{not}");
    }
}

#[test]
fn with_watermarks_images_go_only_from_a_full_disk_and_the_least_recently_used_first() {
    let settings = settings(|gc| gc.high_watermark = 85);
    let images = [idle("new", 300), idle("old", 100), idle("young", 960), idle("mid", 200)];
    assert!(leaving(&images, &settings, 1000 * SECOND, false).is_empty());
    let going: Vec<&str> = leaving(&images, &settings, 1000 * SECOND, true)
        .iter()
        .map(|s| s.name.as_str())
        .collect();
    assert_eq!(
        going,
        ["old", "mid", "new"].map(|n| format!("docker.io/library/{n}:latest"))
    );
    assert_eq!(
        judge(&images[1], &settings, 1000 * SECOND, false),
        Fate::Stays(Stay::Room)
    );
}

#[test]
fn switched_off_nothing_goes() {
    let settings = settings(|gc| gc.enabled = false);
    assert_eq!(judge(&idle("a", 0), &settings, i64::MAX, true), Fate::Stays(Stay::Off));
    assert_eq!(next_due(&[idle("a", 0)], &settings, SECOND), None);
}

#[test]
fn a_disk_is_as_full_as_df_says() {
    assert!(is_fuller(85, 15, 85) && !is_fuller(84, 16, 85));
    assert!(!is_fuller(0, 0, 0) && is_fuller(u64::MAX, 0, 99));
}

#[test]
fn labels_say_how_an_image_came_here() {
    for origin in [Origin::Pulled, Origin::Loaded] {
        let labels = BTreeMap::from(origin.labels("r/a:1"));
        assert_eq!(Origin::of("r/a:1", &labels), Some(origin));
        assert_eq!(Origin::of("r/b:1", &labels), None, "copied with a tag");
    }
    let of = |value: &str| BTreeMap::from([(KEY_IMAGE.to_owned(), value.to_owned())]);
    assert_eq!(
        Origin::of("r/a:1", &of("pulled")),
        Some(Origin::Pulled),
        "of an earlier version"
    );
    assert_eq!(Origin::of("r/a:1", &of("baked")), None);
    assert_eq!(Origin::of("r/a:1", &BTreeMap::new()), None);
    assert_eq!(
        idle_since(&BTreeMap::from([(KEY_IDLE.to_owned(), "17".to_owned())])),
        Some(17)
    );
    assert_eq!(
        idle_since(&BTreeMap::from([(KEY_IDLE.to_owned(), "soon".to_owned())])),
        None
    );
}

#[test]
fn settings_that_cannot_work_are_told_with_value_and_what_is_allowed() {
    let refused = |settings: Settings| check(&settings).map_or_else(|e| e.to_string(), |()| "taken".to_owned());
    assert_eq!(refused(Settings::default()), "taken");
    assert_eq!(
        refused(settings(|gc| (gc.high_watermark, gc.low_watermark) = (85, 80))),
        "taken"
    );
    let prefetch = Settings {
        image_prefetch: vec!["Busybox".to_owned()],
        ..Settings::default()
    };
    for (text, want) in [
        (
            refused(settings(|gc| gc.delay = Duration::ZERO)),
            "option image_gc.delay: \"0ns\": a duration of at least 1s",
        ),
        (
            refused(settings(|gc| gc.high_watermark = 100)),
            "option image_gc.high_watermark: 100: a number of percent from 1 to 99",
        ),
        (
            refused(settings(|gc| gc.low_watermark = 50)),
            "option image_gc.low_watermark: 50: it counts only together with",
        ),
        (
            refused(settings(|gc| (gc.high_watermark, gc.low_watermark) = (80, 85))),
            "option image_gc.low_watermark: 85: a number of percent from 1 to image_gc.high_watermark, 80",
        ),
        (
            refused(settings(|gc| gc.pinned = vec!["Nginx".to_owned()])),
            "option image_gc.pinned: \"Nginx\": an image reference",
        ),
        (
            refused(prefetch),
            "option image_prefetch: \"Busybox\": the name must be in lower case",
        ),
    ] {
        assert!(text.starts_with(want), "{text} should begin with {want}");
    }
}
