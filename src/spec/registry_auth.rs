//! Credentials at registries as Docker keeps them: which host an entry is for, `config.json`, and what a credential program
//! answers.
//!
//! Sources: Docker's `cli/config/configfile` and `registry.ResolveAuthConfig` for the file, `docker-credential-helpers` for
//! the programs. No text that is made here has anything of a secret in it, and so no text of the JSON reader either, which
//! quotes what it did not expect.

use super::secret::Secret;
use base64::Engine as _;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;
use std::collections::BTreeMap;

/// Docker Hub as containerd names it.
const HUB: &str = "docker.io";
/// Docker Hub as Docker keeps its credentials.
const HUB_ENTRY: &str = "https://index.docker.io/v1/";
/// The user name by which a program says that its secret is an identity token.
const TOKEN_USER: &str = "<token>";
/// What a program says that has no credentials (`credentials.errCredentialsNotFoundMessage`).
const NOT_FOUND: &str = "credentials not found";

/// Credentials for one registry; neither of the secrets ever shows in a log, span, label or error.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Credentials {
    /// User name at the registry; empty where there is only an identity token.
    pub username: String,
    /// Password or token.
    pub password: Secret,
    /// OAuth2 refresh token, with which tokens are asked for in place of the password.
    pub identity_token: Option<Secret>,
}

/// The host, with its port if one is written, that an address is about, as containerd names it: without scheme and path, and
/// `docker.io` for all names of Docker Hub's registry.
#[must_use]
pub fn host_of(address: &str) -> String {
    let text = address.trim().to_ascii_lowercase();
    let rest = text.split_once("://").map_or(text.as_str(), |(_, rest)| rest);
    match rest.split('/').next().unwrap_or_default() {
        "index.docker.io" | "registry-1.docker.io" => HUB.to_owned(),
        host => host.to_owned(),
    }
}

/// How a program may have been told of this host, the likeliest first: as `docker login` does, and as a URL, which is what
/// Nomad's Docker driver asks for.
#[must_use]
pub fn helper_questions(host: &str) -> [String; 2] {
    match host {
        HUB => [HUB_ENTRY.to_owned(), format!("https://{HUB}")],
        host => [host.to_owned(), format!("https://{host}")],
    }
}

/// Checks the name of a credential program, which is put behind `docker-credential-`.
///
/// # Errors
/// What is allowed.
pub fn check_helper(name: &str) -> Result<(), &'static str> {
    let word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if !name.is_empty() && name.bytes().all(word) {
        Ok(())
    } else {
        Err("the NAME of a program docker-credential-NAME is expected: letters, digits, '-', '_' and '.'")
    }
}

/// What a source says of one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// These.
    Credentials(Credentials),
    /// Ask the program `docker-credential-` with this name.
    Helper(String),
}

/// A `config.json`.
#[derive(Deserialize, Default)]
pub struct DockerConfig {
    #[serde(default)]
    auths: Option<BTreeMap<String, Option<Entry>>>,
    #[serde(default, rename = "credHelpers")]
    helpers: Option<BTreeMap<String, String>>,
    #[serde(default, rename = "credsStore")]
    store: Option<String>,
}

/// An entry of `auths`. Without `Debug`.
#[derive(Deserialize, Default)]
struct Entry {
    #[serde(default)]
    auth: Option<String>,
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    password: Option<String>,
    #[serde(default, rename = "identitytoken")]
    identity_token: Option<String>,
    #[serde(default, rename = "registrytoken")]
    registry_token: Option<String>,
}

impl DockerConfig {
    /// Reads the file. An empty one has nothing in it.
    ///
    /// # Errors
    /// Says where it is wrong, and nothing of what stands there.
    pub fn parse(json: &[u8]) -> Result<Self, String> {
        if json.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self::default());
        }
        serde_json::from_slice(json).map_err(|e| {
            format!(
                "line {}, column {}: a config.json as docker login writes it is expected, with auths, credHelpers, credsStore",
                e.line(),
                e.column()
            )
        })
    }

    /// Where credentials for this host may be, in the order in which they count: the host's own program, its entry, and the
    /// program for all. The host is as [`host_of`] has it.
    ///
    /// # Errors
    /// Names the entry that cannot be read, or the program that cannot be one.
    pub fn sources(&self, host: &str) -> Result<Vec<Source>, String> {
        let mut found = Vec::new();
        if let Some((key, name)) = entry(self.helpers.as_ref(), host)
            && !name.is_empty()
        {
            check_helper(name).map_err(|allowed| format!("credHelpers of {key}: {name:?}: {allowed}"))?;
            found.push(Source::Helper(name.clone()));
        }
        if let Some((key, Some(auth))) = entry(self.auths.as_ref(), host) {
            let read = auth.read().map_err(|reason| format!("auths of {key}: {reason}"))?;
            found.extend(read.map(Source::Credentials));
        }
        if let Some(name) = self.store.as_deref().filter(|name| !name.is_empty()) {
            check_helper(name).map_err(|allowed| format!("credsStore: {name:?}: {allowed}"))?;
            found.push(Source::Helper(name.to_owned()));
        }
        Ok(found)
    }
}

/// The value for a host: under its very name, else under one that means it.
fn entry<'a, T>(map: Option<&'a BTreeMap<String, T>>, host: &str) -> Option<(&'a String, &'a T)> {
    let map = map?;
    let exact = if host == HUB { HUB_ENTRY } else { host };
    map.get_key_value(exact)
        .or_else(|| map.iter().find(|(key, _)| host_of(key) == host))
}

impl Entry {
    /// `None` for an entry without anything, as `docker login` leaves it where a program has the credentials.
    fn read(&self) -> Result<Option<Credentials>, String> {
        let given = |text: &Option<String>| text.clone().filter(|t| !t.is_empty());
        let (username, password) = match given(&self.auth) {
            Some(auth) => pair(&auth)?,
            None => (
                given(&self.username).unwrap_or_default(),
                given(&self.password).unwrap_or_default(),
            ),
        };
        let identity_token = given(&self.identity_token).map(Secret::new);
        if password.is_empty() && identity_token.is_none() {
            return match given(&self.registry_token) {
                Some(_) => Err(
                    "a registrytoken alone cannot be used; auth, username and password, or identitytoken are expected"
                        .to_owned(),
                ),
                None if username.is_empty() => Ok(None),
                None => Err("a password or an identitytoken is expected with the user name".to_owned()),
            };
        }
        Ok(Some(Credentials {
            username,
            password: Secret::new(password),
            identity_token,
        }))
    }
}

/// User name and password out of `auth`.
fn pair(auth: &str) -> Result<(String, String), String> {
    const LENIENT: GeneralPurpose = GeneralPurpose::new(
        &alphabet::STANDARD,
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    let wrong = || "auth is expected to be base64 of USER:PASSWORD".to_owned();
    let plain: String = auth.split_ascii_whitespace().collect();
    let bytes = LENIENT.decode(plain).map_err(|_| wrong())?;
    let text = String::from_utf8(bytes).map_err(|_| wrong())?;
    let (username, password) = text.split_once(':').ok_or_else(wrong)?;
    // Docker cuts the NULs off that an old version of its store has left.
    Ok((username.to_owned(), password.trim_matches('\0').to_owned()))
}

/// Whether a program that failed says that it has no credentials for the host.
#[must_use]
pub fn says_not_found(output: &[u8]) -> bool {
    let text = String::from_utf8_lossy(output).to_ascii_lowercase();
    text.contains(NOT_FOUND)
}

/// What a program answered. `None` for an answer without user and secret, which is how some say that there are none.
///
/// # Errors
/// Says what is expected, and nothing of the answer.
pub fn helper_answer(stdout: &[u8]) -> Result<Option<Credentials>, &'static str> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(default, rename = "Username")]
        username: String,
        #[serde(default, rename = "Secret")]
        secret: String,
    }
    let expected = "its answer is no JSON with Username and Secret";
    let answer: Answer = serde_json::from_slice(stdout).map_err(|_| expected)?;
    match (answer.username.as_str(), answer.secret.is_empty()) {
        ("", true) => Ok(None),
        (TOKEN_USER, false) => Ok(Some(Credentials {
            username: String::new(),
            password: Secret::default(),
            identity_token: Some(Secret::new(answer.secret)),
        })),
        (_, true) => Err("its answer has a Username and no Secret"),
        (_, false) => Ok(Some(Credentials {
            username: answer.username,
            password: Secret::new(answer.secret),
            identity_token: None,
        })),
    }
}

#[cfg(test)]
#[path = "registry_auth_test.rs"]
mod tests;
