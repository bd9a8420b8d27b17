//! The `auth` blocks of a task and of the plugin's configuration: what is in them, and for which registries it counts.
//!
//! The Go driver sent the one password of the plugin's configuration to every registry that a job named, and so to whoever
//! ran it. Here credentials are for a host: a task's for the registry of its image, or for its `server_address`; the
//! plugin's for its `server_address` and for what the operator lists.

use super::error::SpecError;
use super::gates::{Gates, Profile, fits};
use super::reference::check_registry;
use super::registry_auth::{check_helper, host_of};
use super::schema::Schema;
use super::secret::Secret;
use super::settings::Settings;
use super::table::{self, Declared, OptionValue, Options, options};
use super::task::TaskSpec;
use super::value::{Fields, each, kind};
use rmpv::Value;

options! {
    /// Credentials at a registry, as a task gives them.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Auth {
        /// User name. Either of this and `password` alone is refused.
        username: String = String::new();
        /// Password or token.
        password: Secret = Secret::default();
        /// Registry that the credentials are for, as a host with its port or a URL of it. Without it that of `image`.
        server_address: Option<String> = None;
        /// Instead of user name and password: the program `docker-credential-NAME` of the node is asked for them. Needs the
        /// plugin setting `auth { allow_helpers }`.
        helper: Option<String> = None;
        /// Taken and not used, as in Docker's driver.
        email: Option<String> = None;
    }
}

options! {
    /// Credentials at registries, as the operator gives them.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct PluginAuth {
        /// User name. Either of this and `password` alone is refused.
        username: String = String::new();
        /// Password or token.
        password: Secret = Secret::default();
        /// Registry that user name and password are for, as a host with its port or a URL of it.
        server_address: Option<String> = None;
        /// More registries that they are for, each a host with its port; `*` stands for any text. Without it none; with
        /// `go-driver`, where there is no `server_address` either, all: then whoever can name an image can have them.
        hosts: Option<Vec<String>> = None;
        /// Absolute path of a `config.json` as `docker login` writes it: its `credHelpers` count first, then its `auths`, then
        /// its `credsStore`. It is read anew for each pull. It comes before `helper`, and that before user name and password.
        config: Option<String> = None;
        /// Name of a program `docker-credential-NAME` in the `PATH` of the Nomad agent, which is asked for each registry.
        helper: Option<String> = None;
        /// Programs that a task can name as its `helper`; `*` stands for any text.
        allow_helpers: Vec<String> = Vec::new();
    }
}

impl PluginAuth {
    /// Whether there are user name and password.
    #[must_use]
    pub fn has_password(&self) -> bool {
        !self.username.is_empty()
    }

    /// Whether user name and password are for this host, which is as [`host_of`] has it.
    #[must_use]
    pub fn is_for(&self, host: &str, profile: Profile) -> bool {
        let named = self.server_address.as_deref().map(host_of);
        let listed = match &self.hosts {
            Some(hosts) => hosts.iter().any(|pattern| fits(&host_of(pattern), host)),
            None => profile == Profile::GoDriver && named.is_none(),
        };
        self.has_password() && (listed || named.as_deref() == Some(host))
    }
}

/// The refusal of something that may hold a secret.
fn hidden(option: String, allowed: &str) -> SpecError {
    SpecError::Option {
        option,
        value: "[secret]".to_owned(),
        allowed: allowed.to_owned(),
    }
}

/// The block, which may come as a list of one. Nothing of a value of another shape is shown: it may hold the password.
fn block<T: Options>(at: &str, value: &Value) -> Result<Option<T>, SpecError> {
    let Some(block) = each(value).iter().find(|b| !b.is_nil()) else {
        return Ok(None);
    };
    let fields = Fields::of(at, block).ok_or_else(|| {
        let allowed = format!("a block with username and password is expected, not {}", kind(block));
        hidden(at.to_owned(), &allowed)
    })?;
    T::read(&fields).map(Some)
}

/// Refuses half of the credentials, by the name of the other half.
fn whole(at: &str, username: &str, password: &Secret) -> Result<(), SpecError> {
    let blank = match (username.is_empty(), password.is_empty()) {
        (true, true) | (false, false) => return Ok(()),
        (true, false) => "username",
        (false, true) => "password",
    };
    let allowed = "username and password are both expected; without credentials leave the whole block out";
    Err(SpecError::option(format!("{at}.{blank}"), "", allowed))
}

/// Refuses an address that names no registry.
fn address(option: String, address: &str) -> Result<(), SpecError> {
    check_registry(&host_of(address)).map_err(|_| {
        // A URL may have a password in it.
        let shown = address.rsplit('@').next().unwrap_or_default();
        SpecError::option(
            option,
            shown,
            "a registry is expected: a host and its port, or a URL such as https://registry.example:5000, without a user",
        )
    })
}

fn helper(option: String, name: &str) -> Result<(), SpecError> {
    check_helper(name).map_err(|allowed| SpecError::option(option, name, allowed))
}

impl Auth {
    fn check(&self, at: &str) -> Result<(), SpecError> {
        whole(at, &self.username, &self.password)?;
        if let Some(server) = &self.server_address {
            address(format!("{at}.server_address"), server)?;
        }
        match &self.helper {
            Some(name) if !self.username.is_empty() => Err(SpecError::option(
                format!("{at}.helper"),
                name,
                "either username and password or helper are expected, not both",
            )),
            Some(name) => helper(format!("{at}.helper"), name),
            None if self.username.is_empty() => {
                let server = self.server_address.as_deref().unwrap_or_default();
                let allowed = "username and password, or helper, are expected with it";
                Err(SpecError::option(format!("{at}.server_address"), server, allowed))
            }
            None => Ok(()),
        }
    }

    fn is_blank(&self) -> bool {
        self.username.is_empty() && self.password.is_empty() && self.server_address.is_none() && self.helper.is_none()
    }
}

impl PluginAuth {
    fn check(&self, at: &str) -> Result<(), SpecError> {
        whole(at, &self.username, &self.password)?;
        for (i, pattern) in self.hosts.iter().flatten().enumerate() {
            let option = || format!("{at}.hosts[{i}]");
            if pattern.trim().is_empty() || pattern.contains(|c: char| c.is_whitespace() || c == '@') {
                let allowed = "a host and its port are expected; * stands for any text";
                return Err(SpecError::option(option(), pattern, allowed));
            }
            if !pattern.contains('*') {
                address(option(), pattern)?;
            }
        }
        if let Some(server) = &self.server_address {
            address(format!("{at}.server_address"), server)?;
        }
        let for_nothing = match (&self.server_address, &self.hosts) {
            _ if self.has_password() => None,
            (Some(server), _) => Some(("server_address", server.clone())),
            (None, Some(hosts)) if !hosts.is_empty() => Some(("hosts", hosts.join(", "))),
            (None, _) => None,
        };
        if let Some((name, value)) = for_nothing {
            let allowed = "username and password are expected with it";
            return Err(SpecError::option(format!("{at}.{name}"), value, allowed));
        }
        if let Some(path) = &self.config
            && (!path.starts_with('/') || path.contains('\0'))
        {
            let allowed = "an absolute path on the node is expected";
            return Err(SpecError::option(format!("{at}.config"), path, allowed));
        }
        match &self.helper {
            Some(name) => helper(format!("{at}.helper"), name),
            None => Ok(()),
        }
    }

    fn is_blank(&self) -> bool {
        self.password.is_empty()
            && *self
                == Self {
                    password: self.password.clone(),
                    ..Self::default()
                }
    }
}

macro_rules! secret_block {
    ($($inner:ty),*) => { $(
        impl OptionValue for Option<$inner> {
            const TYPE: &'static str = "block";
            fn schema(_required: bool, _default: Option<String>) -> Schema {
                Schema::Block(table::schema_of::<$inner>())
            }
            fn literal(&self) -> Option<String> {
                None
            }
            fn inner() -> Vec<Declared> {
                <$inner>::declared()
            }
            fn read(at: &str, value: &Value) -> Result<Option<Self>, SpecError> {
                // All blank is how the test harness encodes an absent block.
                let Some(given) = block::<$inner>(at, value)?.filter(|auth| !auth.is_blank()) else {
                    return Ok(None);
                };
                given.check(at)?;
                Ok(Some(Some(given)))
            }
        }
    )* };
}
secret_block!(Auth, PluginAuth);

/// Whether the operator lets the task have the helper program that it names.
///
/// # Errors
/// The option, its value and the setting that would allow it.
pub(super) fn consent(task: &TaskSpec, settings: &Settings) -> Result<(), SpecError> {
    let Some(name) = task.options.auth.as_ref().and_then(|auth| auth.helper.as_deref()) else {
        return Ok(());
    };
    let allowed = settings.auth.iter().flat_map(|auth| &auth.allow_helpers);
    if allowed.into_iter().any(|pattern| fits(pattern, name)) {
        return Ok(());
    }
    Err(SpecError::Refused {
        option: "auth.helper".to_owned(),
        text: format!(
            "option auth.helper: {name:?}: not allowed on this node; the plugin setting auth.allow_helpers with {name:?} in it \
             would allow it"
        ),
    })
}

/// The security profile that decides for which hosts the plugin's credentials are.
#[must_use]
pub fn profile(settings: &Settings) -> Profile {
    // An unknown one was refused when the settings were read.
    Gates::of(settings).map_or(Profile::Strict, |gates| gates.profile)
}

#[cfg(test)]
#[path = "auth_test.rs"]
mod tests;
