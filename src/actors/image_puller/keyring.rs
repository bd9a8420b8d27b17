//! The credentials of one pull, by host: what is for one is never shown to another.
//!
//! Looked for in this order, until some are found: the task's `auth`; the plugin's `auth.config`, then `auth.helper`, then
//! its user name and password. "None there" goes on to the next; what fails is an error of the pull, unless the task says
//! `auth_soft_fail`.
//!
//! Credentials for the registry itself, the task's and the plugin's, are also for the host that `hosts.toml` names as its
//! `server`, after those for that host by its own name: the operator has said who the registry is. They are for none of its
//! mirrors.

use super::admission::Admitted;
use super::programs::{Asking, Programs};
use crate::host::credentials as kept;
use crate::messages::image::{Credentials, EnsureImage, ImageError};
use crate::spec::auth::{self, PluginAuth};
use crate::spec::gates::Profile;
use crate::spec::reference::Reference;
use crate::spec::registry_auth::{DockerConfig, Source, host_of};
use crate::spec::settings::Settings;
use crate::spec::words::Secrets;
use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What all pulls have in common: the plugin's credentials, and what was learned about them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Keys {
    plugin: Arc<Option<PluginAuth>>,
    profile: Profile,
    pub(super) programs: Programs,
    /// Who may use which private image; `None`: whoever wants to.
    pub(super) admitted: Option<Admitted>,
    pub(super) admitted_for: Duration,
}

impl Default for Keys {
    fn default() -> Self {
        let settings = Settings::default();
        Self {
            plugin: Arc::new(None),
            profile: Profile::Strict,
            programs: Programs::default(),
            admitted: Some(Admitted::default()),
            admitted_for: settings.image_auth_ttl,
        }
    }
}

impl Keys {
    /// The same with the plugin's settings in force.
    #[must_use]
    pub fn with(&self, settings: &Settings) -> Self {
        Self {
            plugin: Arc::new(settings.auth.clone()),
            profile: auth::profile(settings),
            programs: self.programs.clone(),
            admitted: self.admitted.clone().filter(|_| settings.image_auth_check),
            admitted_for: settings.image_auth_ttl,
        }
    }

    /// The credentials for one request.
    pub(super) fn keyring(&self, request: &EnsureImage, reference: &Reference) -> Keyring {
        let scope = &request.scope;
        let server = scope.server_address.as_deref().unwrap_or(reference.registry());
        let mut secrets = Secrets::default();
        if let Some(own) = &request.credentials {
            learn(&mut secrets, own);
        }
        if let Some(plugin) = self.plugin.as_ref() {
            secrets.add_login(&plugin.username, plugin.password.reveal());
        }
        let own = match (&request.credentials, &scope.helper) {
            (Some(credentials), _) => Own::Credentials(credentials.clone()),
            (None, Some(helper)) => Own::Helper(helper.clone()),
            (None, None) => Own::Nothing,
        };
        Keyring {
            inner: Arc::new(Inner {
                image: reference.name(),
                server: host_of(server),
                own,
                soft_fail: scope.soft_fail,
                keys: self.clone(),
                used: AtomicU8::new(0),
                secrets: Mutex::new(secrets),
                asking: Asking::default(),
            }),
            served: None,
        }
    }
}

fn learn(secrets: &mut Secrets, credentials: &Credentials) {
    secrets.add_login(&credentials.username, credentials.password.reveal());
    if let Some(token) = &credentials.identity_token {
        secrets.add(token.reveal());
    }
}

/// What the task gives.
#[derive(Debug)]
enum Own {
    Nothing,
    Credentials(Credentials),
    Helper(String),
}

struct Inner {
    /// Normalised name, for errors.
    image: String,
    /// The host that the task's own credentials are for.
    server: String,
    own: Own,
    soft_fail: bool,
    keys: Keys,
    /// Whose credentials were given out: [`NODE`] and [`TASK`].
    used: AtomicU8,
    /// What must not come back in other people's words.
    secrets: Mutex<Secrets>,
    asking: Asking,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring")
            .field("image", &self.image)
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

const NODE: u8 = 1;
const TASK: u8 = 2;

/// Whose credentials an image was pulled with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    /// Those of the plugin's configuration, which all tasks of the node have.
    Node,
    /// A task's own.
    Task,
}

/// Credentials for the hosts that a pull may ask. Clones are of the same pull.
#[derive(Debug, Clone)]
pub(super) struct Keyring {
    inner: Arc<Inner>,
    served: Option<Arc<Served>>,
}

/// The place of a registry, as the operator's files say.
#[derive(Debug)]
struct Served {
    registry: String,
    host: String,
}

/// What was given out, by host.
pub(super) type Given = Mutex<HashMap<String, Credentials>>;

/// What was looked for where, and why it cannot be had.
struct Trouble {
    option: &'static str,
    reason: String,
    transient: bool,
}

impl Keyring {
    /// Credentials for this host, and for no other.
    #[cfg(test)]
    pub(super) fn single(host: &str, credentials: Option<Credentials>) -> Self {
        Self {
            inner: Arc::new(Inner {
                image: String::new(),
                server: host_of(host),
                own: credentials.map_or(Own::Nothing, Own::Credentials),
                soft_fail: false,
                keys: Keys::default(),
                used: AtomicU8::new(0),
                secrets: Mutex::default(),
                asking: Asking::default(),
            }),
            served: None,
        }
    }

    /// The same where the registry is at `host`, as the operator's files say.
    pub(super) fn served_by(&self, registry: &str, host: &str) -> Self {
        let (registry, host) = (host_of(registry), host_of(host));
        Self {
            inner: Arc::clone(&self.inner),
            served: Some(Arc::new(Served { registry, host })),
        }
    }

    /// The registry that a host is, where it has another name.
    fn registry_at(&self, host: &str) -> Option<&str> {
        let served = self.served.as_deref().filter(|served| served.host == host)?;
        Some(served.registry.as_str()).filter(|registry| *registry != host)
    }

    /// Something that a host is shown, besides credentials that were asked for here.
    pub(super) fn knows(&self, secret: &str) {
        self.secrets().add(secret);
    }

    /// Which programs are asked at the moment.
    pub(super) fn asking(&self) -> Asking {
        self.inner.asking.clone()
    }

    /// Other people's words without what they were shown.
    pub(super) fn hidden(&self, words: &str) -> String {
        self.secrets().hidden(words)
    }

    fn secrets(&self) -> MutexGuard<'_, Secrets> {
        self.inner.secrets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Credentials for a host with its port, as containerd names it; `None` for none. Asked again it looks again: credentials
    /// that have expired in the middle of a pull are replaced.
    pub(super) async fn of(&self, host: &str) -> Result<Option<Credentials>, ImageError> {
        let found = self.find(&host_of(host)).await?;
        Ok(found.map(|(credentials, whose)| {
            self.inner.used.fetch_or(whose, Ordering::Relaxed);
            credentials
        }))
    }

    /// The same after those that there were have been refused: programs are asked anew.
    pub(super) async fn again(&self, host: &str) -> Result<Option<Credentials>, ImageError> {
        let asked = host_of(host);
        for asked in [asked.as_str(), &self.inner.server]
            .into_iter()
            .chain(self.registry_at(&asked))
        {
            self.inner.keys.programs.forget(asked);
        }
        self.of(host).await
    }

    /// Whether there are other credentials now than those that were given out, programs being asked anew.
    pub(super) async fn has_others(&self, given: &Given) -> Result<bool, ImageError> {
        let given = given.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut is_other = false;
        for (host, old) in given {
            // All of them: what is remembered of one that has been refused would be shown again.
            is_other |= self.again(&host).await?.is_some_and(|new| new != old);
        }
        Ok(is_other)
    }

    /// Whose credentials there are for a host, without giving them out: that they cannot be had is a failure of the pull
    /// whether the registry turns out to want credentials or not.
    pub(super) async fn look(&self, host: &str) -> Result<Option<Whose>, ImageError> {
        let found = self.find(&host_of(host)).await?;
        Ok(found.and_then(|(_, whose)| whose_of(whose)))
    }

    /// The credentials for a host, and whose they are: [`NODE`] or [`TASK`].
    async fn find(&self, host: &str) -> Result<Option<(Credentials, u8)>, ImageError> {
        let registry = self.registry_at(host);
        let is_own = host == self.inner.server || registry == Some(&self.inner.server);
        if is_own && let Some(own) = self.soft(host, self.own().await)? {
            learn(&mut self.secrets(), &own);
            return Ok(Some((own, TASK)));
        }
        let mut found = self.of_plugin(host).await?;
        if let (None, Some(registry)) = (&found, registry) {
            found = self.of_plugin(registry).await?;
        }
        if let Some(found) = &found {
            learn(&mut self.secrets(), found);
        }
        Ok(found.map(|found| (found, NODE)))
    }

    async fn own(&self) -> Result<Option<Credentials>, Trouble> {
        match &self.inner.own {
            Own::Nothing => Ok(None),
            Own::Credentials(credentials) => Ok(Some(credentials.clone())),
            Own::Helper(helper) => self.program("auth.helper", helper, &self.inner.server).await,
        }
    }

    async fn of_plugin(&self, host: &str) -> Result<Option<Credentials>, ImageError> {
        let Some(plugin) = self.inner.keys.plugin.as_ref() else {
            return Ok(None);
        };
        if let Some(path) = &plugin.config
            && let Some(found) = self.soft(host, self.configured(path, host).await)?
        {
            return Ok(Some(found));
        }
        if let Some(helper) = &plugin.helper
            && let Some(found) = self.soft(host, self.program("auth.helper of the plugin", helper, host).await)?
        {
            return Ok(Some(found));
        }
        Ok(plugin.is_for(host, self.inner.keys.profile).then(|| Credentials {
            username: plugin.username.clone(),
            password: plugin.password.clone(),
            identity_token: None,
        }))
    }

    async fn configured(&self, path: &str, host: &str) -> Result<Option<Credentials>, Trouble> {
        const OPTION: &str = "auth.config of the plugin";
        let trouble = |reason: String| Trouble {
            option: OPTION,
            reason,
            transient: false,
        };
        let file = PathBuf::from(path);
        let read = tokio::task::spawn_blocking(move || kept::read_config(&file)).await;
        let json = read
            .map_err(|e| trouble(e.to_string()))?
            .map_err(|e| trouble(e.to_string()))?;
        let sources = DockerConfig::parse(&json).and_then(|config| config.sources(host));
        for source in sources.map_err(|reason| trouble(format!("{path}: {reason}")))? {
            match source {
                Source::Credentials(credentials) => return Ok(Some(credentials)),
                Source::Helper(helper) => {
                    if let Some(found) = self.program(OPTION, &helper, host).await? {
                        return Ok(Some(found));
                    }
                }
            }
        }
        Ok(None)
    }

    async fn program(&self, option: &'static str, helper: &str, host: &str) -> Result<Option<Credentials>, Trouble> {
        let asked = self.inner.asking.begins(kept::program(helper));
        let answer = self.inner.keys.programs.ask(helper, host).await;
        drop(asked);
        answer.map_err(|(reason, transient)| Trouble {
            option,
            reason: format!("{}: {reason}", kept::program(helper)),
            transient,
        })
    }

    /// What cannot be had is an error, or none are there, as the task wants.
    fn soft(&self, host: &str, found: Result<Option<Credentials>, Trouble>) -> Result<Option<Credentials>, ImageError> {
        let trouble = match found {
            Ok(found) => return Ok(found),
            Err(trouble) => trouble,
        };
        let error = ImageError::Credentials {
            image: self.inner.image.clone(),
            registry: host.to_owned(),
            option: trouble.option,
            reason: trouble.reason,
            transient: trouble.transient,
        };
        if self.inner.soft_fail {
            tracing::warn!(%error, "going on without credentials, since auth_soft_fail is set");
            return Ok(None);
        }
        Err(error)
    }

    /// Whose credentials were given out; `None` for nobody's: then anybody could have made the same pull.
    pub(super) fn used(&self) -> Option<Whose> {
        whose_of(self.inner.used.load(Ordering::Relaxed))
    }

    /// Whether the task gives none of its own.
    pub(super) fn is_the_nodes(&self) -> bool {
        matches!(self.inner.own, Own::Nothing)
    }

    /// What makes the task's own credentials those that they are, for a digest.
    pub(super) fn own_parts(&self) -> [&str; 4] {
        let server = self.inner.server.as_str();
        match &self.inner.own {
            Own::Nothing => ["", "", "", ""],
            Own::Credentials(own) => ["password", server, &own.username, own.password.reveal()],
            Own::Helper(helper) => ["helper", server, helper, ""],
        }
    }

    /// What went wrong, with what can be done about it: credentials that are for another host are easily overlooked.
    pub(super) fn explained(&self, error: ImageError, registry: &str) -> ImageError {
        let (host, inner) = (host_of(registry), &*self.inner);
        let elsewhere = match (&inner.own, inner.keys.plugin.as_ref()) {
            _ if self.used().is_some() => return error,
            (Own::Credentials(_) | Own::Helper(_), _) if inner.server != host => {
                format!(
                    "option auth.server_address: the task's credentials are for {}",
                    inner.server
                )
            }
            // One that the task has, and that nobody wanted to see, is not to be looked for elsewhere.
            (Own::Nothing, Some(plugin)) if plugin.has_password() && !plugin.is_for(&host, inner.keys.profile) => {
                format!(
                    "user name and password of the plugin's auth are not for {host}: auth.server_address and auth.hosts of the \
                 plugin say what they are for"
                )
            }
            _ => return error,
        };
        match error {
            ImageError::Denied { image, reason } => ImageError::Denied {
                image,
                reason: format!("{reason} ({elsewhere})"),
            },
            other => other,
        }
    }
}

fn whose_of(used: u8) -> Option<Whose> {
    match used {
        0 => None,
        NODE => Some(Whose::Node),
        _ => Some(Whose::Task),
    }
}

#[cfg(test)]
#[path = "keyring_tests.rs"]
mod tests;
