//! Conversation with a registry: one session per pull, and what its failures mean for a user.
//!
//! A client of oci-client keeps the first credentials that it is given for a registry, so a client is never shared
//! between credentials: a session has its own. Registries on the loopback address are taken as Docker takes them: TLS
//! without a known certificate is good enough, and plain HTTP is tried when TLS cannot be spoken.

use super::plan;
use crate::containerd::Descriptor;
use crate::messages::image::{Credentials, ImageError};
use crate::spec::reference::Reference;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use oci_client::RegistryOperation;
use oci_client::client::{BlobResponse, Client, ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::manifest::OciDescriptor;
use oci_client::secrets::RegistryAuth;
use std::collections::HashSet;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A registry that sends nothing for this long has gone away.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// Schema 1 is accepted so that such an image is named as what it is, instead of "not found".
const MANIFESTS: [&str; 5] = [
    plan::OCI_INDEX,
    plan::OCI_MANIFEST,
    plan::DOCKER_LIST,
    plan::DOCKER_MANIFEST,
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
];

/// What was learned about registries. Cheap to clone; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Registries {
    /// Loopback registries that speak plain HTTP.
    plain: Arc<Mutex<HashSet<String>>>,
}

/// One image at its registry.
pub(super) struct Session {
    client: Client,
    target: oci_client::Reference,
    auth: RegistryAuth,
    image: String,
    registry: String,
}

impl Registries {
    /// Reaches the registry and shows it the credentials.
    pub(super) async fn session(&self, of: &Reference, credentials: Option<&Credentials>) -> Result<Session, ImageError> {
        let registry = of.registry().to_owned();
        let known_plain = self.plain.lock().unwrap_or_else(PoisonError::into_inner).contains(&registry);
        if !known_plain {
            let session = Session::new(of, credentials, ClientProtocol::Https)?;
            match session.greet().await {
                Ok(()) => return Ok(session),
                Err(e) if of.is_loopback() && is_no_tls(&e) => {}
                Err(e) => return Err(session.meaning(e)),
            }
        }
        let session = Session::new(of, credentials, ClientProtocol::Http)?;
        let answer = session.greet().await;
        let mut plain = self.plain.lock().unwrap_or_else(PoisonError::into_inner);
        match answer {
            Ok(()) => {
                plain.insert(registry);
                drop(plain);
                Ok(session)
            }
            Err(e) => {
                // Another registry may answer on this port next time.
                plain.remove(&registry);
                drop(plain);
                Err(session.meaning(e))
            }
        }
    }
}

impl Session {
    fn new(of: &Reference, credentials: Option<&Credentials>, protocol: ClientProtocol) -> Result<Self, ImageError> {
        let config = ClientConfig {
            protocol,
            accept_invalid_certificates: of.is_loopback(),
            connect_timeout: Some(CONNECT_TIMEOUT),
            read_timeout: Some(READ_TIMEOUT),
            user_agent: concat!("containerd-driver/", env!("CARGO_PKG_VERSION")),
            ..Default::default()
        };
        let (registry, repository) = (of.registry().to_owned(), of.repository().to_owned());
        let client = Client::try_from(config).map_err(|e| ImageError::Registry {
            image: of.name(),
            registry: registry.clone(),
            reason: chain(&e),
        })?;
        let target = match of.digest() {
            Some(digest) => oci_client::Reference::with_digest(registry.clone(), repository, digest.to_string()),
            None => oci_client::Reference::with_tag(registry.clone(), repository, of.tag().unwrap_or("latest").to_owned()),
        };
        let auth = match credentials {
            Some(c) if !c.username.is_empty() || !c.password.is_empty() => {
                RegistryAuth::Basic(c.username.clone(), c.password.reveal().to_owned())
            }
            _ => RegistryAuth::Anonymous,
        };
        Ok(Self { client, target, auth, image: of.name(), registry })
    }

    async fn greet(&self) -> Result<(), OciDistributionError> {
        self.client.auth(&self.target, &self.auth, RegistryOperation::Pull).await.map(drop)
    }

    /// The document that the reference names, verified against its digest, and that digest.
    pub(super) async fn top(&self) -> Result<(Bytes, String), ImageError> {
        let answer = self.client.pull_manifest_raw(&self.target, &self.auth, &MANIFESTS).await;
        answer.map_err(|e| self.meaning(e))
    }

    /// A document of the same repository by digest.
    pub(super) async fn document(&self, digest: &str) -> Result<Bytes, ImageError> {
        let target = self.target.clone_with_digest(digest.to_owned());
        let answer = self.client.pull_manifest_raw(&target, &self.auth, &MANIFESTS).await;
        answer.map(|(bytes, _)| bytes).map_err(|e| self.meaning(e))
    }

    /// The bytes of a blob from `offset` on. Not verified: the content store does that when it commits.
    pub(super) async fn blob(
        &self,
        blob: &Descriptor,
        offset: u64,
    ) -> Result<BoxStream<'static, std::io::Result<Bytes>>, ImageError> {
        let layer = OciDescriptor {
            media_type: blob.media_type.clone(),
            digest: blob.digest.clone(),
            size: i64::try_from(blob.size).unwrap_or(i64::MAX),
            ..Default::default()
        };
        if offset == 0 {
            let sized = self.client.pull_blob_stream(&self.target, &layer).await.map_err(|e| self.meaning(e))?;
            return Ok(sized.stream);
        }
        match self.client.pull_blob_stream_partial(&self.target, &layer, offset, None).await {
            Ok(BlobResponse::Partial(rest)) => Ok(rest.stream),
            Ok(BlobResponse::Full(whole)) => Ok(skip(whole.stream, offset)),
            Err(e) => Err(self.meaning(e)),
        }
    }

    /// A connection that broke while a blob was read.
    pub(super) fn broken(&self, error: &std::io::Error) -> ImageError {
        // The outer text has the URL, whose query may be a signature; the causes below do not.
        let inner = error.get_ref().and_then(|e| e.source());
        self.unavailable(inner.map_or_else(|| "the connection broke".to_owned(), chain))
    }

    pub(super) fn unavailable(&self, reason: String) -> ImageError {
        ImageError::Registry { image: self.image.clone(), registry: self.registry.clone(), reason }
    }

    pub(super) fn image(&self) -> &str {
        &self.image
    }

    fn meaning(&self, error: OciDistributionError) -> ImageError {
        use OciDistributionError as E;
        let (image, registry) = (self.image.clone(), self.registry.clone());
        let not_found = |reason| ImageError::NotFound { image: image.clone(), registry: registry.clone(), reason };
        let denied = |reason| ImageError::Denied { image: image.clone(), reason };
        let unusable = |reason| ImageError::Unusable { image: image.clone(), reason };
        match error {
            E::UnauthorizedError { .. } if self.auth == RegistryAuth::Anonymous => {
                denied(format!("{registry} wants credentials, none were given"))
            }
            E::UnauthorizedError { .. } => denied(format!("{registry} does not accept the credentials")),
            E::AuthenticationFailure(text) => match token_refusal(&text) {
                Some(reason) => denied(reason),
                None => self.unavailable(format!("no token from the authorization server: {}", short(&text))),
            },
            E::RegistryError { envelope, .. } => {
                let words: Vec<_> = envelope.errors.iter().map(|e| short(&e.message)).collect();
                let words = words.join("; ");
                match envelope.errors.first().map(|e| &e.code) {
                    Some(OciErrorCode::Unauthorized | OciErrorCode::Denied) => denied(words),
                    Some(
                        OciErrorCode::ManifestUnknown
                        | OciErrorCode::ManifestBlobUnknown
                        | OciErrorCode::BlobUnknown
                        | OciErrorCode::NameUnknown
                        | OciErrorCode::NotFound,
                    ) => not_found(words),
                    Some(OciErrorCode::Toomanyrequests | OciErrorCode::Other(_)) | None => self.unavailable(words),
                    Some(_) => unusable(words),
                }
            }
            E::ServerError { code: 404, message, .. } => not_found(short(&message)),
            E::ServerError { code: 401 | 403, message, .. } => denied(short(&message)),
            E::ServerError { code: code @ (400..=407 | 409..=428 | 430..=499), message, .. } => {
                unusable(format!("{registry} answered {code}: {}", short(&message)))
            }
            E::ServerError { code, message, .. } => self.unavailable(format!("status {code}: {}", short(&message))),
            E::ImageManifestNotFoundError(text) => not_found(text),
            E::RequestError(e) => self.unavailable(chain(&e.without_url())),
            E::IoError(e) => self.broken(&e),
            E::RegistryTokenDecodeError(text) => self.unavailable(text),
            other => unusable(other.to_string()),
        }
    }
}

/// Whether the connection failed before any HTTP was spoken: refused, or not TLS.
fn is_no_tls(error: &OciDistributionError) -> bool {
    matches!(error, OciDistributionError::RequestError(e) if e.is_connect())
}

/// Authorization servers tell a refusal from a breakdown by the status, which oci-client does not hand on; but a refusal
/// is a JSON document or a plain sentence, and a breakdown is a proxy's HTML page, nothing, or an error code that says so.
fn token_refusal(text: &str) -> Option<String> {
    let text = text.trim();
    if text.is_empty() || text.starts_with('<') {
        return None;
    }
    if let Ok(envelope) = serde_json::from_str::<oci_client::errors::OciEnvelope>(text) {
        let transient = |e: &oci_client::errors::OciError| {
            let code = &e.code;
            *code == OciErrorCode::Toomanyrequests
                || matches!(code, OciErrorCode::Other(c) if matches!(c.as_str(), "UNAVAILABLE" | "UNKNOWN"))
        };
        return (!envelope.errors.iter().any(transient)).then(|| {
            let words: Vec<_> = envelope.errors.iter().map(|e| short(&e.message)).collect();
            words.join("; ")
        });
    }
    let details = serde_json::from_str::<serde_json::Value>(text).ok();
    let details = details.as_ref().and_then(|v| v.get("details")?.as_str());
    Some(short(details.unwrap_or(text)))
}

/// A registry's words, cut: they end up in task events.
fn short(text: &str) -> String {
    const WORDS_MAX: usize = 300;
    let text = text.trim();
    match text.char_indices().nth(WORDS_MAX) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// An error with its causes: "error sending request" alone explains nothing.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
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

/// For a registry that does not do ranges: the same blob again, without what is here already.
fn skip(stream: BoxStream<'static, std::io::Result<Bytes>>, offset: u64) -> BoxStream<'static, std::io::Result<Bytes>> {
    use futures_util::StreamExt as _;
    let mut left = offset;
    stream
        .map(move |part| {
            part.map(|mut bytes| {
                let cut = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                left -= cut as u64;
                bytes.split_off(cut)
            })
        })
        .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_login_is_told_from_a_broken_authorization_server() {
        assert_eq!(token_refusal(r#"{"details":"incorrect username or password"}"#).as_deref(), Some("incorrect username or password"));
        let denied = r#"{"errors":[{"code":"DENIED","message":"requested access is denied"}]}"#;
        assert_eq!(token_refusal(denied).as_deref(), Some("requested access is denied"));
        assert_eq!(token_refusal(r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}"#), None);
        assert_eq!(token_refusal("<html>502 Bad Gateway</html>"), None);
        assert_eq!(token_refusal(""), None);
    }

    #[test]
    fn a_password_is_not_in_the_error() {
        let of = Reference::parse("127.0.0.1:1/a").unwrap();
        let credentials = Credentials { username: "u".into(), password: crate::spec::secret::Secret::new("hunter2") };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let error = runtime.block_on(Registries::default().session(&of, Some(&credentials))).err().unwrap();
        assert!(matches!(error, ImageError::Registry { .. }) && !format!("{error} {error:?}").contains("hunter2"), "{error}");
    }
}
