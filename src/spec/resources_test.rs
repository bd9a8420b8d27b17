//! What `resources.rs` promises.

use super::*;
use crate::spec::gates::Gates;
use crate::spec::image::ImageFacts;
use crate::spec::node::NodeFacts;
use crate::spec::options::TaskOptions;
use crate::spec::settings::Settings;
use crate::spec::task::{Resources, TaskSpec};
use proptest::prelude::*;

/// A task with 256 MiB of memory on a node with everything.
struct Case {
    task: TaskSpec,
    node: NodeFacts,
    settings: Settings,
}

fn case(options: TaskOptions) -> Case {
    Case {
        task: TaskSpec {
            options,
            resources: Resources {
                memory_mb: 256,
                percent_ticks: 0.25,
                ..Resources::default()
            },
            ..TaskSpec::default()
        },
        node: NodeFacts {
            swap_accounting: true,
            cores: 8,
            hugetlb: true,
            hugepage_sizes: vec![2 << 20, 1 << 30],
            block_weight: true,
            ..NodeFacts::default()
        },
        settings: Settings::default(),
    }
}

impl Case {
    fn look<T>(&self, f: impl Fn(&Inputs<'_>) -> Result<T, SpecError>) -> Result<T, String> {
        f(&Inputs {
            task: &self.task,
            image: &ImageFacts::default(),
            node: &self.node,
            settings: &self.settings,
            gates: &Gates::of(&self.settings).unwrap(),
        })
        .map_err(|e| e.to_string())
    }

    fn built(&self) -> Result<Value, String> {
        self.look(build).map(Value::Object)
    }

    fn refused(&self) -> String {
        self.built().unwrap_err()
    }
}

fn text(t: &str) -> Option<String> {
    Some(t.to_owned())
}

#[test]
fn shares_are_clamped_and_scaled() {
    for (mhz, total, want) in [
        (0, 0, 2),
        (-5, 0, 2),
        (1, 8000, 2),
        (500, 8000, 500),
        (300_000, 0, 262_144),
        (1000, 524_288, 500),
        (524_288, 524_288, 262_144),
    ] {
        assert_eq!(shares(mhz, total), want, "{mhz} of {total}");
    }
}

#[test]
fn quota_is_nomads() {
    let mut c = case(TaskOptions {
        cpu_hard_limit: true,
        ..TaskOptions::default()
    });
    let built = c.built().unwrap();
    assert_eq!(
        (&built["cpu"]["period"], &built["cpu"]["quota"]),
        (&json!(100_000), &json!(200_000))
    );
    c.task.options.cpu_cfs_period = Some(50_000);
    assert_eq!(c.built().unwrap()["cpu"]["quota"], 100_000);
    // Cut before it is multiplied.
    assert_eq!(quota(0.000_019, 100_000, 5000), 5000);
    assert_eq!(quota(1e-9, 1000, 1), QUOTA_MIN);
    for period in [-1, 999, 1_000_001] {
        c.task.options.cpu_cfs_period = Some(period);
        assert!(c.refused().contains("1000 to 1000000"), "{period}");
    }
    c.task.options.cpu_cfs_period = Some(0);
    c.task.resources.percent_ticks = 0.0;
    assert!(c.refused().contains("cpu_hard_limit"));
    c.task.options.cpu_hard_limit = false;
    assert!(c.built().unwrap()["cpu"].get("quota").is_none());
}

#[test]
fn memory_follows_nomads_table() {
    for (mem, max, own, want) in [
        (256, 0, 0, (Some(256 * MIB), None)),
        (256, 512, 0, (Some(512 * MIB), Some(256 * MIB))),
        (256, 0, 512, (Some(512 * MIB), Some(256 * MIB))),
        (256, 600, 512, (Some(600 * MIB), Some(256 * MIB))),
        (256, 300, 512, (Some(512 * MIB), Some(256 * MIB))),
        (256, -1, 0, (None, Some(256 * MIB))),
        (256, -1, 512, (None, Some(256 * MIB))),
        (256, 128, 0, (Some(256 * MIB), Some(256 * MIB))),
        (0, 0, 0, (None, None)),
        (0, -1, 0, (None, None)),
    ] {
        assert_eq!(
            memory_limits(mem, max, own),
            want,
            "memory {mem} memory_max {max} own {own}"
        );
    }
    let hard = |own| {
        case(TaskOptions {
            memory_hard_limit: Some(own),
            ..TaskOptions::default()
        })
        .built()
    };
    assert_eq!(hard(512).unwrap()["memory"]["limit"], 512 * MIB);
    assert!(hard(128).unwrap_err().contains("memory_hard_limit") && hard(-1).is_err());
}

#[test]
fn reservation_is_below_the_hard_limit() {
    let of = |size: &str| {
        case(TaskOptions {
            memory_reservation: text(size),
            ..TaskOptions::default()
        })
        .built()
    };
    assert_eq!(of("64m").unwrap()["memory"]["reservation"], 64 * MIB);
    assert_eq!(of("256m").unwrap()["memory"]["limit"], 256 * MIB);
    assert!(of("257m").unwrap_err().contains("at most the hard limit"));
    assert!(of("much").unwrap_err().contains("binary units"));
    assert!(of("0").unwrap()["memory"].get("reservation").is_none());
}

#[test]
fn swap_is_off_unless_asked_for_and_counted() {
    let mut c = case(TaskOptions::default());
    assert_eq!(c.built().unwrap()["memory"]["swap"], 256 * MIB);
    for (size, want) in [("-1", -1), ("256m", 256 * MIB), ("1g", 1024 * MIB)] {
        c.task.options.memory_swap = text(size);
        assert_eq!(c.built().unwrap()["memory"]["swap"], want);
    }
    c.task.options.memory_swap = text("0");
    assert_eq!(c.built().unwrap()["memory"]["swap"], 256 * MIB);
    c.task.options.memory_swap = text("255m");
    assert!(c.refused().contains("at least the hard limit"));
    c.task.options.memory_swap = text("1g");
    c.task.resources.memory_max_mb = -1;
    assert!(c.refused().contains("a hard limit"));
    c.node.swap_accounting = false;
    assert!(c.refused().contains("does not count swap"));
    c.task.options.memory_swap = text("-1");
    assert!(c.built().unwrap()["memory"].get("swap").is_none());
    c.task.resources.memory_max_mb = 0;
    assert!(c.built().unwrap()["memory"].get("swap").is_none());
    c.node.swap_accounting = true;
    c.task.resources.memory_max_mb = -1;
    assert!(c.built().unwrap()["memory"].get("swap").is_none());
    c.task.options.memory_swap = None;
    assert!(c.built().unwrap()["memory"].get("swap").is_none());
}

#[test]
fn swappiness_is_for_v1() {
    let mut c = case(TaskOptions {
        memory_swappiness: Some(10),
        ..TaskOptions::default()
    });
    assert!(c.refused().contains("cgroup v2"));
    c.node.cgroup = CgroupMode::V1;
    assert_eq!(c.built().unwrap()["memory"]["swappiness"], 10);
    c.task.options.memory_swappiness = Some(101);
    assert!(c.refused().contains("0 to 100"));
}

#[test]
fn the_plugins_process_limit_is_default_and_ceiling() {
    for (most, wanted, want) in [
        (0, None, Ok(None)),
        (0, Some(7), Ok(Some(7))),
        (0, Some(0), Ok(None)),
        (0, Some(-1), Ok(None)),
        (0, Some(-2), Err(())),
        (100, None, Ok(Some(100))),
        (100, Some(100), Ok(Some(100))),
        (100, Some(101), Err(())),
        (100, Some(0), Ok(Some(100))),
        (100, Some(-1), Err(())),
        (-1, Some(7), Ok(Some(7))),
    ] {
        let mut c = case(TaskOptions {
            pids_limit: wanted,
            ..TaskOptions::default()
        });
        c.settings.pids_limit = most;
        assert_eq!(c.look(pids).map_err(|_| ()), want, "{wanted:?} under {most}");
    }
    let mut c = case(TaskOptions {
        pids_limit: Some(-1),
        ..TaskOptions::default()
    });
    c.settings.pids_limit = 100;
    assert_eq!(
        c.refused(),
        "option pids_limit: -1: at most pids_limit = 100 of the plugin configuration is allowed on this node"
    );
}

#[test]
fn huge_pages_are_of_a_size_that_the_node_has() {
    let of = |list: &[(&str, &str)]| {
        let mut c = case(TaskOptions::default());
        c.task.options.hugepage_limits = list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        c
    };
    assert_eq!(
        of(&[("2M", "64M"), ("1GB", "1g")]).built().unwrap()["hugepageLimits"],
        json!([{"pageSize": "2MB", "limit": 64 * MIB}, {"pageSize": "1GB", "limit": 1024 * MIB}])
    );
    assert!(of(&[("4MB", "64M")]).refused().contains("2MB, 1GB"));
    assert!(of(&[("2MB", "some")]).refused().contains("hugepage_limits.2MB"));
    assert!(of(&[("2MB", "64M"), ("2m", "1M")]).refused().contains("another limit"));
    let mut c = of(&[("2MB", "64M")]);
    c.node.hugetlb = false;
    assert!(c.refused().contains("no hugetlb controller"));
    assert_eq!(
        [page_size(64 << 10), page_size(1), page_size(3 << 20)],
        ["64KB", "1B", "3MB"]
    );
}

#[test]
fn weights_and_scores_have_their_bounds() {
    let mut c = case(TaskOptions::default());
    for (weight, ok) in [(9, false), (10, true), (1000, true), (1001, false), (i64::MIN, false)] {
        c.task.options.blkio_weight = Some(weight);
        assert_eq!(c.built().is_ok(), ok, "{weight}");
    }
    c.task.options.blkio_weight = Some(0);
    assert!(c.built().unwrap().get("blockIO").is_none());
    c.task.options.blkio_weight = Some(500);
    assert_eq!(c.built().unwrap()["blockIO"]["weight"], 500);
    c.node.block_weight = false;
    assert!(c.refused().contains("no weights"));

    assert_eq!(c.look(oom_score_adj), Ok(0));
    for (score, ok) in [
        (-1001, false),
        (-1000, false),
        (-1, false),
        (0, true),
        (1000, true),
        (1001, false),
    ] {
        c.task.options.oom_score_adj = Some(score);
        assert_eq!(c.look(oom_score_adj).is_ok(), ok, "{score}");
    }
    c.task.options.oom_score_adj = Some(-1000);
    c.node.capabilities = vec!["CAP_SYS_RESOURCE".to_owned()];
    let refused = c.look(oom_score_adj).unwrap_err().to_string();
    for word in [
        "option oom_score_adj: \"-1000\"",
        "allow_caps with \"CAP_SYS_RESOURCE\" in it",
    ] {
        assert!(refused.contains(word), "{refused}");
    }
    c.task.options.privileged = true;
    assert_eq!(c.look(oom_score_adj), Ok(-1000));
    c.task.options.privileged = false;
    c.settings = Settings::go_driver();
    assert_eq!(c.look(oom_score_adj), Ok(-1000));
    c.node.capabilities.clear();
    assert!(c.look(oom_score_adj).is_err());
}

#[test]
fn nothing_appears_that_nobody_asked_for() {
    let mut c = case(TaskOptions::default());
    c.task.resources.memory_mb = 0;
    let built = c.built().unwrap();
    assert_eq!(built, json!({"cpu": {"shares": 2}}));
}

proptest! {
    #[test]
    fn any_numbers_are_a_limit_or_an_error(
        numbers in proptest::collection::vec(any::<i64>(), 9),
        ticks in any::<f64>(),
        sizes in proptest::collection::vec("[-0-9.kmgtpibKMG ]{0,12}", 4),
        hard in any::<bool>(),
    ) {
        let mut c = case(TaskOptions {
            cpu_hard_limit: hard,
            cpu_cfs_period: Some(numbers[0]),
            memory_hard_limit: Some(numbers[1]),
            memory_swappiness: Some(numbers[2]),
            pids_limit: Some(numbers[3]),
            blkio_weight: Some(numbers[4] % 2000),
            memory_reservation: text(&sizes[0]),
            memory_swap: text(&sizes[1]),
            hugepage_limits: BTreeMap::from([(sizes[2].clone(), sizes[3].clone())]),
            ..TaskOptions::default()
        });
        c.settings.pids_limit = numbers[5];
        c.task.resources = Resources {
            cpu_shares: numbers[6],
            memory_mb: numbers[7],
            memory_max_mb: numbers[8],
            percent_ticks: ticks,
            ..Resources::default()
        };
        prop_assert!(c.built().is_ok_and(|b| b["cpu"]["shares"].is_u64()) || c.built().is_err());
        prop_assert!((SHARES_MIN..=SHARES_MAX).contains(&shares(numbers[6], numbers[0].unsigned_abs())));
        prop_assert!(quota(ticks, 100_000, u32::MAX) >= QUOTA_MIN);
    }
}
