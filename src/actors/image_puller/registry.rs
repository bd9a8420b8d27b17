//! Conversation with a registry: one session per pull, and what its failures mean for a user.
//!
//! A client of oci-client keeps the first credentials that it is given for a registry, so a client is never shared
//! between credentials: a session with credentials has its own. Anonymous sessions share one, with its connections and
//! tokens. Registries on the loopback address are taken as Docker takes them: TLS
//! without a known certificate is good enough, and plain HTTP is tried when TLS cannot be spoken.

use super::plan;
use super::refusal::{chain, is_no_tls};
use crate::containerd::Descriptor;
use crate::messages::image::{Credentials, ImageError};
use crate::spec::reference::Reference;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use oci_client::RegistryOperation;
use oci_client::client::{BlobResponse, Client, ClientConfig, ClientProtocol};
use oci_client::errors::OciDistributionError;
use oci_client::manifest::OciDescriptor;
use oci_client::secrets::RegistryAuth;
use std::collections::{HashMap, HashSet};
use std::fmt;
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
#[derive(Clone, Default)]
pub struct Registries {
    /// Loopback registries that speak plain HTTP.
    plain: Arc<Mutex<HashSet<String>>>,
    /// Clients without credentials.
    anonymous: Arc<Mutex<HashMap<Manner, Client>>>,
}

/// How a registry is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Manner {
    /// TLS with a certificate that the system trusts.
    Tls,
    /// TLS with any certificate: on the loopback address only.
    LoopbackTls,
    /// HTTP: on the loopback address only.
    LoopbackPlain,
}

impl fmt::Debug for Registries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registries")
            .field("plain", &self.plain)
            .finish_non_exhaustive()
    }
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
    pub(super) async fn session(
        &self,
        of: &Reference,
        credentials: Option<&Credentials>,
    ) -> Result<Session, ImageError> {
        let registry = of.registry().to_owned();
        let known_plain = self
            .plain
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(&registry);
        if !known_plain {
            let manner = if of.is_loopback() {
                Manner::LoopbackTls
            } else {
                Manner::Tls
            };
            let session = self.open(of, credentials, manner)?;
            match session.greet().await {
                Ok(()) => return Ok(session),
                Err(e) if of.is_loopback() && is_no_tls(&e) => {}
                Err(e) => return Err(session.meaning(e)),
            }
        }
        let session = self.open(of, credentials, Manner::LoopbackPlain)?;
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

    fn open(&self, of: &Reference, credentials: Option<&Credentials>, manner: Manner) -> Result<Session, ImageError> {
        let (registry, repository) = (of.registry().to_owned(), of.repository().to_owned());
        let auth = match credentials {
            Some(c) if !c.username.is_empty() || !c.password.is_empty() => {
                RegistryAuth::Basic(c.username.clone(), c.password.reveal().to_owned())
            }
            _ => RegistryAuth::Anonymous,
        };
        let client = self
            .client(auth == RegistryAuth::Anonymous, manner)
            .map_err(|e| ImageError::Registry {
                image: of.name(),
                registry: registry.clone(),
                reason: chain(&e),
            })?;
        let target = match of.digest() {
            Some(digest) => oci_client::Reference::with_digest(registry.clone(), repository, digest.to_string()),
            None => {
                oci_client::Reference::with_tag(registry.clone(), repository, of.tag().unwrap_or("latest").to_owned())
            }
        };
        Ok(Session {
            client,
            target,
            auth,
            image: of.name(),
            registry,
        })
    }

    fn client(&self, anonymous: bool, manner: Manner) -> Result<Client, OciDistributionError> {
        if !anonymous {
            return client(manner);
        }
        let mut clients = self.anonymous.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&manner) {
            return Ok(client.clone());
        }
        let client = client(manner)?;
        clients.insert(manner, client.clone());
        Ok(client)
    }
}

fn client(manner: Manner) -> Result<Client, OciDistributionError> {
    Client::try_from(ClientConfig {
        protocol: match manner {
            Manner::Tls | Manner::LoopbackTls => ClientProtocol::Https,
            Manner::LoopbackPlain => ClientProtocol::Http,
        },
        accept_invalid_certificates: manner == Manner::LoopbackTls,
        connect_timeout: Some(CONNECT_TIMEOUT),
        read_timeout: Some(READ_TIMEOUT),
        user_agent: concat!("containerd-driver/", env!("CARGO_PKG_VERSION")),
        ..Default::default()
    })
}

impl Session {
    async fn greet(&self) -> Result<(), OciDistributionError> {
        self.client
            .auth(&self.target, &self.auth, RegistryOperation::Pull)
            .await
            .map(drop)
    }

    /// The document that the reference names, verified against its digest, and that digest.
    pub(super) async fn top(&self) -> Result<(Bytes, String), ImageError> {
        let answer = self
            .client
            .pull_manifest_raw(&self.target, &self.auth, &MANIFESTS)
            .await;
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
        // A range from 0 on as well: oci-client hashes what it reads whole, and containerd hashes it anyway.
        match self
            .client
            .pull_blob_stream_partial(&self.target, &layer, offset, None)
            .await
        {
            Ok(BlobResponse::Partial(rest)) => Ok(rest.stream),
            Ok(BlobResponse::Full(whole)) => Ok(skip(whole.stream, offset)),
            // A registry that cannot do ranges at all.
            Err(_) if offset == 0 => {
                let whole = self.client.pull_blob_stream(&self.target, &layer).await;
                whole.map(|sized| sized.stream).map_err(|e| self.meaning(e))
            }
            Err(e) => Err(self.meaning(e)),
        }
    }

    /// A small blob whole. Not verified, as [`Session::blob`]; refused when it is not as long as it should be.
    pub(super) async fn small_blob(&self, blob: &Descriptor) -> Result<Vec<u8>, ImageError> {
        let mut stream = self.blob(blob, 0).await?;
        let mut bytes = Vec::new();
        while let Some(part) = stream.next().await {
            bytes.extend_from_slice(&part.map_err(|e| self.broken(&e))?);
            if bytes.len() as u64 > blob.size {
                break;
            }
        }
        if bytes.len() as u64 == blob.size {
            Ok(bytes)
        } else {
            Err(self.unavailable(format!(
                "{} bytes of {} came for {}",
                bytes.len(),
                blob.size,
                blob.digest
            )))
        }
    }

    /// A connection that broke while a blob was read.
    pub(super) fn broken(&self, error: &std::io::Error) -> ImageError {
        // The outer text has the URL, whose query may be a signature; the causes below do not.
        let inner = error.get_ref().and_then(|e| e.source());
        self.unavailable(inner.map_or_else(|| "the connection broke".to_owned(), chain))
    }

    pub(super) fn unavailable(&self, reason: String) -> ImageError {
        ImageError::Registry {
            image: self.image.clone(),
            registry: self.registry.clone(),
            reason,
        }
    }

    pub(super) fn image(&self) -> &str {
        &self.image
    }

    pub(super) fn registry(&self) -> &str {
        &self.registry
    }

    pub(super) fn is_anonymous(&self) -> bool {
        self.auth == RegistryAuth::Anonymous
    }
}

/// For a registry that does not do ranges: the same blob again, without what is here already.
fn skip(stream: BoxStream<'static, std::io::Result<Bytes>>, offset: u64) -> BoxStream<'static, std::io::Result<Bytes>> {
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
    fn a_password_is_not_in_the_error() {
        let of = Reference::parse("127.0.0.1:1/a").unwrap();
        let credentials = Credentials {
            username: "u".into(),
            password: crate::spec::secret::Secret::new("hunter2"),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let error = runtime
            .block_on(Registries::default().session(&of, Some(&credentials)))
            .err()
            .unwrap();
        assert!(
            matches!(error, ImageError::Registry { .. }) && !format!("{error} {error:?}").contains("hunter2"),
            "{error}"
        );
    }
}
