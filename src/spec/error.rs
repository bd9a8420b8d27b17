//! The one way in which `spec/` refuses: the option, the value, and what is allowed.

use std::collections::BTreeMap;

/// A configuration that cannot be carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// The configuration cannot be decoded at all.
    #[error("failed to decode driver config: {0}")]
    Decode(String),
    /// One option has a value that is not allowed.
    #[error("option {option}: {value}: {allowed}")]
    Option {
        /// Option name as the user writes it.
        option: String,
        /// The value, quoted.
        value: String,
        /// What is allowed.
        allowed: String,
    },
    /// A gate in the plugin configuration is closed.
    #[error("{text}")]
    Refused {
        /// Option name.
        option: String,
        /// The sentence shown, naming option, value and the setting that would allow it.
        text: String,
    },
}

impl SpecError {
    /// With the name under which the job has given the option, in place of the option's own; what is inside of it is named
    /// likewise.
    pub(super) fn named(self, own: &str, given: &str) -> Self {
        self.renamed(own, given, &['.'])
    }

    /// `inside`: what comes after the option's own name where the error is about something in it.
    fn renamed(self, own: &str, given: &str, inside: &[char]) -> Self {
        if given.is_empty() {
            return self;
        }
        let rest = |option: &str| match option.strip_prefix(own) {
            Some(rest) if rest.is_empty() || rest.starts_with(inside) => Some(format!("{given}{rest}")),
            _ => None,
        };
        match self {
            Self::Option { option, value, allowed } => Self::Option {
                option: rest(&option).unwrap_or(option),
                value,
                allowed,
            },
            Self::Refused { option, text } => match rest(&option) {
                Some(name) => Self::Refused {
                    text: text.replacen(&format!("option {option}: "), &format!("option {name}: "), 1),
                    option: name,
                },
                None => Self::Refused { option, text },
            },
            decode @ Self::Decode(_) => decode,
        }
    }

    /// Shorthand for [`SpecError::Option`].
    pub fn option(option: impl Into<String>, value: impl std::fmt::Debug, allowed: impl Into<String>) -> Self {
        Self::Option {
            option: option.into(),
            value: format!("{value:?}"),
            allowed: allowed.into(),
        }
    }

    /// The same with the option called as the job wrote it. `names` is what [`super::options::written`] tells.
    #[must_use]
    pub fn as_written(self, names: &BTreeMap<&'static str, &'static str>) -> Self {
        names
            .iter()
            .fold(self, |error, (own, given)| error.renamed(own, given, &['.', '[']))
    }
}

/// Adds to a text the causes that it does not name yet: "error sending request" alone explains nothing.
#[must_use]
pub fn with_causes(mut text: String, mut cause: Option<&(dyn std::error::Error + 'static)>) -> String {
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_is_named_as_the_job_wrote_it() {
        let name = |option: &str| {
            SpecError::option(option, "v", "x")
                .named("mounts", "mount[1]")
                .to_string()
        };
        assert_eq!(name("mounts"), "option mount[1]: \"v\": x");
        assert_eq!(name("mounts.target"), "option mount[1].target: \"v\": x");
        assert_eq!(name("mountsx"), "option mountsx: \"v\": x");
        assert_eq!(
            SpecError::option("mounts", "v", "x").named("mounts", "").to_string(),
            "option mounts: \"v\": x"
        );
        let refused = SpecError::Refused {
            option: "mounts".to_owned(),
            text: "option mounts: \"option mounts: \": no".to_owned(),
        };
        assert_eq!(
            refused.named("mounts", "mount[0]"),
            SpecError::Refused {
                option: "mount[0]".to_owned(),
                text: "option mount[0]: \"option mounts: \": no".to_owned(),
            }
        );
    }

    #[test]
    fn an_option_is_called_as_the_job_wrote_it() {
        let names = BTreeMap::from([("cwd", "work_dir"), ("mounts", "mount")]);
        let text = |error: SpecError| error.as_written(&names).to_string();
        assert_eq!(text(SpecError::option("cwd", "x", "no")), "option work_dir: \"x\": no");
        assert_eq!(
            text(SpecError::option("mounts.bind_options.propagation", "x", "no")),
            "option mount.bind_options.propagation: \"x\": no"
        );
        assert_eq!(text(SpecError::option("mounts[0]", 1, "no")), "option mount[0]: 1: no");
        assert_eq!(text(SpecError::option("cwds", 1, "no")), "option cwds: 1: no");
        let refused = SpecError::Refused {
            option: "mounts".to_owned(),
            text: "option mounts: \"/etc\": not allowed; mounts".to_owned(),
        };
        assert_eq!(text(refused), "option mount: \"/etc\": not allowed; mounts");
    }
}
