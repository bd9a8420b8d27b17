//! Options of Nomad's Docker and Podman drivers for what a job has from Nomad here. Without them in the schema the agent would refuse
//! the job by itself, with no word about what to use instead.

use super::error::SpecError;
use super::schema::{AttrType, Schema};
use super::table::OptionValue;
use super::value::{concrete, is_nothing};
use rmpv::Value;

/// An option that is refused, but for words that say what is so anyway. Its type in the schema is `any`: whatever a job
/// writes there reaches the refusal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Elsewhere;

/// What to use in place of an option.
fn instead(option: &str) -> &'static str {
    match option {
        "healthchecks" => {
            "the HEALTHCHECK of an image is never run; a check block in the job's service block asks the task, and disable = true alone is taken"
        }
        "logging" => {
            "output goes to Nomad, as nomad alloc logs shows it; a logs block in the task says how much of it is kept, or that none is"
        }
        "storage_opt" => {
            "the size of a root file system is the snapshotter's affair; ephemeral_disk in the group bounds what the task keeps, and tmpfs gives it a file system with a size"
        }
        "volume_driver" => {
            "volumes and mounts take paths; a volume block in the group and a volume_mount block in the task give it a host volume or one of a CSI plugin"
        }
        "port_map" => "a port block in the group's network block maps a port with its to",
        "network_aliases" => {
            "no network here gives names to tasks; a service block gives the task one in Nomad or Consul"
        }
        "ipv4_address" | "ipv6_address" | "mac_address" | "static_ips" | "static_mac" => {
            "the network is the group's, and its addresses are those that the CNI plugin gives: one of the operator's by network { mode = \"cni/NAME\" }"
        }
        "advertise_ipv6_address" => "address_mode or address in a service block says which address is advertised",
        "cpuset_cpus" => "cores in the resources block gives the task cores of its own",
        "isolation" => "that is for Windows; runtime names another runtime, if the operator has one",
        "selinux_opts" => "security_opt takes the same with label= before it, such as label=type:container_t",
        "socket" => "all tasks are containers of the containerd that the plugin setting containerd_address names",
        "gc" => {
            "image_gc { enabled, delay } is what image and image_delay are elsewhere; a container is always removed with its task, and reaper { enabled, period, grace, dry_run } removes what is left over"
        }
        "disable_log_collection" => {
            "log_collection = \"driver\" has the driver write the logs in place of Nomad's collectors, and \"none\" nobody"
        }
        "oom_score_adj" => {
            "oom_score_adj in the config block of a task sets the task's; below 0 it needs allow_caps with SYS_RESOURCE in it"
        }
        "allowed_modes.userns" => {
            "userns = \"private\" is for tasks that want less, and userns_ids alone says whether they can have it"
        }
        _ => "leave it out",
    }
}

/// True for a `logging` block that names Nomad's collector, as Podman's driver has it, and nothing else.
fn is_nomads(pairs: &[(Value, Value)]) -> bool {
    let is_named = |(key, value): &(Value, Value)| {
        matches!(key.as_str(), Some("driver" | "type")) && concrete(value).as_str() == Some("nomad")
    };
    // Nomad's collector has no options, whatever a job writes beside its name.
    let is_option = |(key, _): &(Value, Value)| key.as_str() == Some("options");
    let harmless = |pair: &(Value, Value)| is_named(pair) || is_option(pair) || is_nothing(concrete(&pair.1));
    pairs.iter().any(is_named) && pairs.iter().all(harmless)
}

/// True for what changes nothing: `healthchecks { disable = true }` and nothing else in it, and the names of defaults.
fn is_so_anyway(option: &str, value: &Value) -> bool {
    match (option, value) {
        ("advertise_ipv6_address" | "disable_log_collection", Value::Boolean(on)) => return !on,
        ("logging", Value::Map(pairs)) => return is_nomads(pairs),
        ("isolation" | "socket", Value::String(name)) => return name.as_str() == Some("default"),
        // Tasks share the host's where they ask for nothing else.
        ("allowed_modes.userns", Value::String(mode)) => return matches!(mode.as_str(), Some("host" | "*")),
        ("allowed_modes.userns", Value::Array(modes)) => {
            return modes.iter().all(|mode| is_so_anyway(option, concrete(mode)));
        }
        _ => {}
    }
    match value {
        Value::Array(blocks) => matches!(blocks.as_slice(), [block] if is_so_anyway(option, concrete(block))),
        Value::Map(pairs) => matches!(
            pairs.as_slice(),
            [(key, Value::Boolean(true))] if option == "healthchecks" && key.as_str() == Some("disable")
        ),
        _ => false,
    }
}

impl OptionValue for Elsewhere {
    const TYPE: &'static str = "none";
    fn schema(_required: bool, _default: Option<String>) -> Schema {
        Schema::Attr {
            ty: AttrType::Any,
            required: false,
            default: None,
        }
    }
    fn literal(&self) -> Option<String> {
        None
    }
    /// The value is not shown: that of `logging` may hold a token.
    fn read(at: &str, value: &Value) -> Result<Option<Self>, SpecError> {
        let value = concrete(value);
        if is_nothing(value) || is_so_anyway(at, value) {
            return Ok(None);
        }
        Err(SpecError::Refused {
            option: at.to_owned(),
            text: format!("option {at}: this driver has no such option; {}", instead(at)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{options, settings};

    /// The options that are refused, by the table.
    fn refused() -> Vec<String> {
        let all = options::table().into_iter().chain(settings::table());
        all.filter(|o| o.ty == Elsewhere::TYPE).map(|o| o.name).collect()
    }

    #[test]
    fn each_says_what_to_use_instead_and_shows_no_value() {
        assert!(refused().len() >= 16);
        for name in refused() {
            assert_ne!(instead(&name), "leave it out", "{name}");
            for value in [
                Value::from("hunter2"),
                Value::from(true),
                Value::Array(vec![Value::Map(vec![(Value::from("token"), Value::from("hunter2"))])]),
            ] {
                let error = Elsewhere::read(&name, &value).unwrap_err().to_string();
                assert!(error.starts_with(&format!("option {name}: ")), "{error}");
                assert!(error.contains(instead(&name)) && !error.contains("hunter2"), "{error}");
            }
        }
    }

    #[test]
    fn health_checks_can_be_said_to_be_none() {
        let block =
            |pairs: &[(&str, Value)]| Value::Map(pairs.iter().map(|(k, v)| (Value::from(*k), v.clone())).collect());
        let none = block(&[("disable", true.into())]);
        let listed = Value::Array(vec![none.clone()]);
        for value in [&none, &listed] {
            assert_eq!(Elsewhere::read("healthchecks", value), Ok(None), "{value}");
            assert!(Elsewhere::read("logging", value).is_err());
        }
        for other in [
            block(&[("disable", false.into())]),
            block(&[("disable", "true".into())]),
            block(&[("disable", true.into()), ("more", true.into())]),
            block(&[("enable", true.into())]),
            Value::Array(vec![none.clone(), none]),
            Value::from(true),
        ] {
            assert!(Elsewhere::read("healthchecks", &other).is_err(), "{other}");
        }
    }

    #[test]
    fn what_is_so_without_a_word_is_taken() {
        let logging = |pairs: &[(&str, &str)]| {
            let pairs = pairs
                .iter()
                .map(|(key, value)| (Value::from(*key), Value::from(*value)));
            Value::Map(pairs.collect())
        };
        let list = |modes: &[&str]| Value::Array(modes.iter().map(|m| Value::from(*m)).collect());
        for (option, value, taken) in [
            ("advertise_ipv6_address", Value::from(false), true),
            ("advertise_ipv6_address", Value::from(true), false),
            ("isolation", Value::from("default"), true),
            ("isolation", Value::from("hyperv"), false),
            ("socket", Value::from("default"), true),
            ("socket", Value::from("app1"), false),
            ("allowed_modes.userns", list(&["host"]), true),
            ("allowed_modes.userns", list(&["*"]), true),
            ("allowed_modes.userns", list(&["host", "private"]), false),
            ("disable_log_collection", Value::from(false), true),
            ("disable_log_collection", Value::from(true), false),
            ("logging", logging(&[("driver", "nomad")]), true),
            (
                "logging",
                Value::Array(vec![logging(&[("driver", "nomad"), ("type", "")])]),
                true,
            ),
            ("logging", logging(&[("driver", "journald")]), false),
            ("logging", logging(&[("driver", "nomad"), ("options", "x")]), true),
            ("logging", logging(&[("driver", "nomad"), ("config", "x")]), false),
            (
                "gc",
                Value::Map(vec![(Value::from("container"), Value::from(true))]),
                false,
            ),
        ] {
            assert_eq!(Elsewhere::read(option, &value).is_ok(), taken, "{option} {value}");
        }
    }

    #[test]
    fn what_nobody_wrote_is_no_option() {
        for value in [
            Value::Nil,
            Value::from(""),
            Value::Array(vec![]),
            Value::Array(vec![Value::Nil]),
            Value::Map(vec![]),
        ] {
            assert_eq!(Elsewhere::read("logging", &value), Ok(None), "{value}");
        }
    }
}
