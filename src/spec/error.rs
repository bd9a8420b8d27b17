//! The one way in which `spec/` refuses: the option, the value, and what is allowed.

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
    /// Shorthand for [`SpecError::Option`].
    pub fn option(option: impl Into<String>, value: impl std::fmt::Debug, allowed: impl Into<String>) -> Self {
        Self::Option {
            option: option.into(),
            value: format!("{value:?}"),
            allowed: allowed.into(),
        }
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
