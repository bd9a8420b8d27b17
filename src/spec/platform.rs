//! Podman's `os`, `arch` and `variant`: words about which of an image's platforms is meant. Here that is the node's own.

use super::error::SpecError;
use super::options::TaskOptions;

/// This machine's architecture, as images name it (Go's `GOARCH`).
#[must_use]
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

/// What images for all machines of an architecture are called, if they are called anything.
fn variant(architecture: &str) -> &'static str {
    match architecture {
        "amd64" => "v1",
        "arm64" => "v8",
        _ => "",
    }
}

/// Refuses a platform that the node is not of: its programs cannot be run here.
pub(super) fn check(o: &TaskOptions) -> Result<(), SpecError> {
    let own = architecture();
    let asked = [
        ("os", &o.os, ["linux", ""]),
        ("arch", &o.arch, [own, std::env::consts::ARCH]),
        ("variant", &o.variant, [variant(own), ""]),
    ];
    for (option, value, names) in asked {
        let Some(value) = value.as_deref().filter(|value| !value.is_empty()) else {
            continue;
        };
        let is_older = option == "variant" && own == "arm" && ["v5", "v6", "v7"].contains(&value);
        if !names.contains(&value) && !is_older {
            let allowed = match names[0] {
                "" => "this machine has none: leave it out".to_owned(),
                name => format!(
                    "images for this node are taken, and it is {name}: leave it out, or place the job by a constraint"
                ),
            };
            return Err(SpecError::option(option, value, allowed));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nodes_own_platform_is_taken_and_no_other() {
        let told = |os: &str, arch: &str, variant: &str| {
            let some = |text: &str| Some(text.to_owned());
            let options = TaskOptions {
                os: some(os),
                arch: some(arch),
                variant: some(variant),
                ..TaskOptions::default()
            };
            check(&options).map_err(|e| e.to_string())
        };
        assert_eq!(told("", "", ""), Ok(()));
        assert_eq!(told("linux", architecture(), ""), Ok(()));
        assert_eq!(told("linux", std::env::consts::ARCH, variant(architecture())), Ok(()));
        let refused = told("windows", "", "").unwrap_err();
        assert!(refused.starts_with("option os: \"windows\""), "{refused}");
        let refused = told("linux", "s390", "").unwrap_err();
        assert!(
            refused.starts_with("option arch: \"s390\"") && refused.contains(architecture()),
            "{refused}"
        );
        assert!(told("", "", "v99").unwrap_err().starts_with("option variant: \"v99\""));
    }
}
