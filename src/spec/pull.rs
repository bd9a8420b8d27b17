//! When a registry is asked for an image, who pulls it, and how many pulls there are at once: what options and settings
//! say about it.

use super::error::SpecError;
use super::options::TaskOptions;
use super::reference::Reference;
use super::settings::Settings;
use std::time::Duration;

/// When the registry is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum PullPolicy {
    /// Only if the image is not here.
    #[default]
    IfNotPresent,
    /// At every start, but an image that is here is taken while the registry is down: for the tag `latest` where nobody
    /// says anything, which users expect to be the newest, and to start all the same.
    Newest,
    /// At every start.
    Always,
    /// Never: the image has to be here.
    Never,
}

impl PullPolicy {
    /// Whether the registry is asked about a tag although the image is here.
    #[must_use]
    pub fn asks(self) -> bool {
        match self {
            Self::Newest | Self::Always => true,
            Self::IfNotPresent | Self::Never => false,
        }
    }
}

/// Who fetches and unpacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullMethod {
    /// containerd where it has the transfer service, else this driver.
    Auto,
    /// containerd's transfer service.
    Transfer,
    /// This driver.
    Client,
}

/// How much is done at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budgets {
    /// Images being pulled.
    pub pulls: usize,
    /// Layers being unpacked.
    pub unpacks: usize,
}

/// Pulls and unpacks at once per core, and their bounds, where the operator says nothing. A pull waits for the network as
/// often as for a core; an unpack keeps a core of containerd busy (measured: decompression).
const PULLS_PER_CORE: usize = 4;
const PULLS: (usize, usize) = (4, 16);
const UNPACKS: (usize, usize) = (2, 8);

/// Most that can be set: beyond it a number is a mistake.
const BUDGET_MAX: i64 = 1024;

/// Shortest `image_pull_activity_timeout`. A registry that waits for its own storage is silent for seconds.
const ACTIVITY_LEAST: Duration = Duration::from_secs(1);

/// What options call it.
const ALLOWED: &str = "\"if-not-present\", \"always\" or \"never\" is expected";

fn policy_of(text: &str) -> Result<PullPolicy, SpecError> {
    match text {
        "if-not-present" => Ok(PullPolicy::IfNotPresent),
        "always" => Ok(PullPolicy::Always),
        "never" => Ok(PullPolicy::Never),
        _ => Err(SpecError::option("image_pull_policy", text, ALLOWED)),
    }
}

/// The policy for a task: what it says itself, else what the operator says, else that of its tag.
///
/// # Errors
/// For an unknown word, and for `force_pull = true` with another policy than `always`.
pub fn policy(options: &TaskOptions, settings: &Settings) -> Result<PullPolicy, SpecError> {
    let own = options.image_pull_policy.as_deref();
    let said = own.map(policy_of).transpose()?;
    match (said, options.force_pull) {
        (Some(PullPolicy::Always), _) | (None, true) => Ok(PullPolicy::Always),
        (Some(_), true) => Err(SpecError::option(
            "image_pull_policy",
            own.unwrap_or_default(),
            "force_pull = true is \"always\" and contradicts it: one of the two is to be left out",
        )),
        (Some(policy), false) => Ok(policy),
        (None, false) => match settings.image_pull_policy.as_deref() {
            Some(text) => policy_of(text),
            // One that cannot be read is refused by whoever pulls it.
            None => Ok(match Reference::parse(&options.image) {
                Ok(reference) if reference.tag() == Some("latest") => PullPolicy::Newest,
                Ok(_) | Err(_) => PullPolicy::IfNotPresent,
            }),
        },
    }
}

/// Who pulls.
///
/// # Errors
/// For an unknown word.
pub fn method(settings: &Settings) -> Result<PullMethod, SpecError> {
    match settings.image_pull_method.as_str() {
        "auto" => Ok(PullMethod::Auto),
        "transfer" => Ok(PullMethod::Transfer),
        "client" => Ok(PullMethod::Client),
        text => Err(SpecError::option(
            "image_pull_method",
            text,
            "\"auto\", \"transfer\" or \"client\" is expected",
        )),
    }
}

/// Whether containerd's transfers of this version can be told where `hosts.toml` is. Introspection does not say so, and
/// containerd 1.7 passes over what it does not know: it would ask each registry directly.
#[must_use]
pub fn transfers_read_hosts(version: &str) -> bool {
    let digits = version.trim_start_matches('v').split(|c: char| !c.is_ascii_digit());
    let major = digits.map(str::parse::<u32>).next();
    matches!(major, Some(Ok(2..)))
}

/// How much is done at once on a machine with so many cores.
#[must_use]
pub fn budgets(settings: &Settings, cores: usize) -> Budgets {
    let said = |given: Option<i64>| given.and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
    Budgets {
        pulls: said(settings.image_max_pulls)
            .unwrap_or_else(|| cores.saturating_mul(PULLS_PER_CORE).clamp(PULLS.0, PULLS.1)),
        unpacks: said(settings.image_max_unpacks).unwrap_or_else(|| cores.clamp(UNPACKS.0, UNPACKS.1)),
    }
}

/// Checks the settings of this file.
pub(super) fn check(settings: &Settings) -> Result<(), SpecError> {
    settings.image_pull_policy.as_deref().map(policy_of).transpose()?;
    method(settings)?;
    for (option, given) in [
        ("image_max_pulls", settings.image_max_pulls),
        ("image_max_unpacks", settings.image_max_unpacks),
    ] {
        if let Some(n) = given.filter(|n| !(0..=BUDGET_MAX).contains(n)) {
            let allowed = format!("a number from 1 to {BUDGET_MAX}, or 0 for one by the node's cores, is expected");
            return Err(SpecError::option(option, n, allowed));
        }
    }
    let quiet = settings.image_pull_activity_timeout;
    if quiet < ACTIVITY_LEAST {
        return Err(SpecError::option(
            "image_pull_activity_timeout",
            format!("{quiet:?}"),
            "a duration of at least 1s is expected (slow registries need at least 1m)",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(image: &str, policy: Option<&str>, force_pull: bool) -> TaskOptions {
        TaskOptions {
            image: image.to_owned(),
            image_pull_policy: policy.map(ToOwned::to_owned),
            force_pull,
            ..TaskOptions::default()
        }
    }

    fn operator(policy: Option<&str>) -> Settings {
        Settings {
            image_pull_policy: policy.map(ToOwned::to_owned),
            ..Settings::default()
        }
    }

    #[test]
    fn the_task_says_it_before_the_operator_and_both_before_the_tag() {
        use PullPolicy as P;
        for (image, own, force, default, wanted) in [
            ("a:1", None, false, None, P::IfNotPresent),
            ("a", None, false, None, P::Newest),
            ("a:latest", None, false, None, P::Newest),
            (
                "a:latest",
                Some("if-not-present"),
                false,
                Some("always"),
                P::IfNotPresent,
            ),
            ("a", None, false, Some("if-not-present"), P::IfNotPresent),
            ("a:1", None, false, Some("never"), P::Never),
            ("a:1", None, true, Some("never"), P::Always),
            ("a:1", Some("always"), true, None, P::Always),
            ("a:1", Some("never"), false, Some("always"), P::Never),
            ("NO", None, false, None, P::IfNotPresent),
        ] {
            let found = policy(&task(image, own, force), &operator(default));
            assert_eq!(found, Ok(wanted), "{image} {own:?} {force} {default:?}");
        }
        let digest = format!("a:latest@sha256:{}", "0".repeat(64));
        assert_eq!(
            policy(&task(&digest, None, false), &operator(None)),
            Ok(P::IfNotPresent)
        );
    }

    #[test]
    fn a_contradiction_is_told_by_both_names() {
        for word in ["never", "if-not-present"] {
            let text = policy(&task("a", Some(word), true), &operator(None))
                .unwrap_err()
                .to_string();
            assert!(
                ["image_pull_policy", "force_pull = true", word]
                    .iter()
                    .all(|w| text.contains(w)),
                "{text}"
            );
        }
        let text = policy(&task("a", Some("sometimes"), false), &operator(None))
            .unwrap_err()
            .to_string();
        assert_eq!(text, format!("option image_pull_policy: \"sometimes\": {ALLOWED}"));
    }

    #[test]
    fn settings_that_make_no_sense_are_refused_by_their_names() {
        let wrong = [
            (operator(Some("often")), "image_pull_policy"),
            (
                Settings {
                    image_pull_method: "server".to_owned(),
                    ..Settings::default()
                },
                "image_pull_method",
            ),
            (
                Settings {
                    image_max_pulls: Some(-1),
                    ..Settings::default()
                },
                "image_max_pulls",
            ),
            (
                Settings {
                    image_max_unpacks: Some(2000),
                    ..Settings::default()
                },
                "image_max_unpacks",
            ),
            (
                Settings {
                    image_pull_activity_timeout: Duration::from_millis(10),
                    ..Settings::default()
                },
                "image_pull_activity_timeout",
            ),
        ];
        for (settings, name) in wrong {
            let text = check(&settings).unwrap_err().to_string();
            assert!(text.starts_with(&format!("option {name}: ")), "{text}");
        }
        assert_eq!(check(&Settings::default()), Ok(()));
    }

    #[test]
    fn budgets_are_by_the_cores_unless_they_are_said() {
        let at = |cores| {
            let budgets = budgets(&Settings::default(), cores);
            (budgets.pulls, budgets.unpacks)
        };
        assert_eq!([at(0), at(1), at(4), at(64)], [(4, 2), (4, 2), (16, 4), (16, 8)]);
        let said = Settings {
            image_max_pulls: Some(1),
            image_max_unpacks: Some(0),
            ..Settings::default()
        };
        assert_eq!(budgets(&said, 4), Budgets { pulls: 1, unpacks: 4 });
    }

    #[test]
    fn transfers_read_hosts_from_version_2_on() {
        for (version, expected) in [
            ("v2.0.0", true),
            ("2.4.2~ds1", true),
            ("v10.1.0-rc.1", true),
            ("v1.7.28", false),
            ("1.6.20~ds1", false),
            ("", false),
            ("unknown", false),
        ] {
            assert_eq!(transfers_read_hosts(version), expected, "{version:?}");
        }
    }
}
