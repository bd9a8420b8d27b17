//! Pulls carried out by containerd itself (its transfer service, which reads `hosts.toml` from 2.0 on).
//!
//! Progress and credentials travel in streams beside the call: a stream is opened under an id of our making, containerd
//! confirms it, and the call names the id. Credentials are asked for over such a stream,
//! host by host. A registry on the loopback address needs nothing special: containerd tries TLS, then HTTP.

use super::channel::MESSAGE_MAX_BYTES;
use super::error::{ended, fault, late, remote};
use super::{Gateway, Labels};
use crate::messages::runtime::ContainerdFault;
use crate::spec::secret::Secret;
use containerd_client::services::v1::streaming_client::StreamingClient;
use containerd_client::services::v1::transfer_client::TransferClient;
use containerd_client::services::v1::{StreamInit, TransferOptions, TransferRequest};
use containerd_client::types::Platform;
use containerd_client::types::transfer as proto;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use prost::{Message, Name};
use prost_types::Any;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming};

/// Opening a stream is a matter of a message to and fro.
const OPEN: Duration = Duration::from_secs(10);

/// A pull for containerd to carry out.
#[derive(Debug, Clone)]
pub struct RemotePull {
    /// Normalised name: where from, and the name of the record.
    pub image: String,
    /// Where it is unpacked; `None` to fetch it only.
    pub snapshotter: Option<String>,
    /// Architecture as images name it.
    pub architecture: String,
    /// Directory with a `hosts.toml` for this registry, in containerd's layout; without one it is asked directly.
    pub host_dir: Option<String>,
    /// Labels of the record, in place of those that it has; a blank one is none.
    pub labels: Labels,
    /// An id that no other pull has.
    pub id: String,
}

/// What one host is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RemoteLogin {
    /// User name and password.
    Password(String, Secret),
    /// A refresh token for OAuth2.
    IdentityToken(Secret),
}

/// Tells what a host is shown, `None` for nothing; a host is named with its port.
pub type Logins<'a> = dyn Fn(String) -> BoxFuture<'a, Option<RemoteLogin>> + Send + Sync + 'a;

/// How far one blob is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobProgress {
    /// Its digest.
    pub digest: String,
    /// Whether it is a layer.
    pub layer: bool,
    /// Bytes that are here.
    pub fetched_bytes: u64,
    /// Its size.
    pub total_bytes: u64,
    /// What becomes of it now.
    pub stage: BlobStage,
}

/// See [`BlobProgress`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlobStage {
    /// It is looked for, or comes.
    Coming,
    /// All of it has come.
    Come,
    /// All of it was here before.
    WasHere,
    /// It becomes a snapshot.
    Unpacking,
    /// It has become one.
    Unpacked,
}

/// Why containerd did not pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RemotePullFault {
    /// The registry has no such image.
    NotFound(String),
    /// The registry refuses.
    Denied(String),
    /// The image is of no use here.
    Unusable(String),
    /// Other bytes came than the digest says. containerd keeps them under the name of their write.
    Damaged {
        /// That name.
        ingest: String,
        /// containerd's words.
        text: String,
    },
    /// This containerd's transfer service does not unpack into this snapshotter.
    CannotUnpack,
    /// The registry cannot be reached or is in trouble.
    Registry(String),
    /// containerd itself.
    Containerd(ContainerdFault),
}

impl Gateway {
    /// Lets containerd pull; `logins` is asked by each host that wants credentials, `progress` is told about each blob. Without a deadline: dropping the future ends it.
    ///
    /// # Errors
    /// See [`RemotePullFault`].
    pub async fn pull_image(
        &self,
        pull: &RemotePull,
        logins: &Logins<'_>,
        mut progress: impl FnMut(BlobProgress),
    ) -> Result<(), RemotePullFault> {
        const OPERATION: &str = "transfer image";
        let progress_id = format!("progress-{}", pull.id);
        let mut news = self
            .open_stream(&progress_id)
            .await
            .map_err(RemotePullFault::Containerd)?;
        let auth_id = format!("auth-{}", pull.id);
        let mut questions = self.open_stream(&auth_id).await.map_err(RemotePullFault::Containerd)?;
        let request = TransferRequest {
            source: Some(any(&source(pull, auth_id))),
            destination: Some(any(&destination(pull))),
            options: Some(TransferOptions {
                progress_stream: progress_id,
            }),
        };
        let mut client = TransferClient::new(self.line()).max_decoding_message_size(MESSAGE_MAX_BYTES);
        let mut call = std::pin::pin!(client.transfer(Request::new(request)));
        loop {
            tokio::select! {
                answer = &mut call => {
                    // What has come with the answer was said before it.
                    while let Some(Some(event)) = news.next().now_or_never() {
                        told(&event, &mut progress);
                    }
                    return answer.map(drop).map_err(|status| remote(OPERATION, &status));
                }
                Some(event) = news.next() => told(&event, &mut progress),
                Some(question) = questions.next() => {
                    let login = match proto::AuthRequest::decode(question.value.as_slice()) {
                        Ok(question) => logins(question.host).await,
                        Err(_) => None,
                    };
                    // A stream that has ended means that the call is about to end and say why.
                    questions.send(any(&reply(login))).await;
                }
            }
        }
    }

    async fn open_stream(&self, id: &str) -> Result<SideStream, ContainerdFault> {
        const OPERATION: &str = "open stream";
        let (requests, queue) = mpsc::channel(1);
        // Before the call: grpc-go sends its headers with the first answer, so the call would wait for ever.
        requests
            .send(any(&StreamInit { id: id.to_owned() }))
            .await
            .map_err(|_| ended(OPERATION))?;
        let mut client = StreamingClient::new(self.line()).max_decoding_message_size(MESSAGE_MAX_BYTES);
        let open = async {
            let mut answers = client
                .stream(Request::new(ReceiverStream::new(queue)))
                .await?
                .into_inner();
            let confirmed = answers.message().await?;
            Ok::<_, Status>((answers, confirmed))
        };
        match tokio::time::timeout(OPEN, open).await {
            Ok(Ok((answers, Some(_)))) => Ok(SideStream { requests, answers }),
            Ok(Ok((_, None))) => Err(ended(OPERATION)),
            Ok(Err(status)) => Err(fault(OPERATION, &status)),
            Err(_) => Err(late(OPERATION, OPEN)),
        }
    }
}

/// A stream of containerd's streaming service.
struct SideStream {
    requests: mpsc::Sender<Any>,
    answers: Streaming<Any>,
}

impl SideStream {
    /// `None` for ever once it has ended, whatever the reason: the call itself says what went wrong.
    async fn next(&mut self) -> Option<Any> {
        self.answers.message().await.ok().flatten()
    }

    async fn send(&self, message: Any) {
        drop(self.requests.send(message).await);
    }
}

fn source(pull: &RemotePull, auth_stream: String) -> proto::OciRegistry {
    let resolver = proto::RegistryResolver {
        auth_stream,
        host_dir: pull.host_dir.clone().unwrap_or_default(),
        ..Default::default()
    };
    proto::OciRegistry {
        reference: pull.image.clone(),
        resolver: Some(resolver),
    }
}

fn destination(pull: &RemotePull) -> proto::ImageStore {
    let platform = Platform {
        os: "linux".to_owned(),
        architecture: pull.architecture.clone(),
        ..Default::default()
    };
    let unpacks = pull.snapshotter.iter().map(|snapshotter| proto::UnpackConfiguration {
        platform: Some(platform.clone()),
        snapshotter: snapshotter.clone(),
    });
    let unpacks = unpacks.collect();
    proto::ImageStore {
        name: pull.image.clone(),
        // A blank label is no label.
        labels: pull.labels.clone().into_iter().filter(|(_, v)| !v.is_empty()).collect(),
        platforms: vec![platform],
        unpacks,
        ..Default::default()
    }
}

fn reply(login: Option<RemoteLogin>) -> proto::AuthResponse {
    let (auth_type, username, secret) = match login {
        Some(RemoteLogin::Password(username, password)) => (proto::AuthType::Credentials, username, password),
        Some(RemoteLogin::IdentityToken(token)) => (proto::AuthType::Refresh, String::new(), token),
        None => (proto::AuthType::None, String::new(), Secret::default()),
    };
    proto::AuthResponse {
        auth_type: auth_type.into(),
        username,
        secret: secret.reveal().to_owned(),
        expire_at: None,
    }
}

fn told(event: &Any, progress: &mut impl FnMut(BlobProgress)) {
    if let Some(event) = proto::Progress::decode(event.value.as_slice())
        .ok()
        .and_then(blob_progress)
    {
        progress(event);
    }
}

fn blob_progress(event: proto::Progress) -> Option<BlobProgress> {
    let target = event.desc?;
    let bytes = |n: i64| u64::try_from(n).unwrap_or(0);
    let total_bytes = bytes(target.size);
    let (stage, fetched_bytes) = match event.event.as_str() {
        "waiting" => (BlobStage::Coming, 0),
        "downloading" => (BlobStage::Coming, bytes(event.progress)),
        "complete" => (BlobStage::Come, total_bytes),
        "already exists" => (BlobStage::WasHere, total_bytes),
        "extracting" => (BlobStage::Unpacking, total_bytes),
        "extracted" => (BlobStage::Unpacked, total_bytes),
        _ => return None,
    };
    // Not by media type: containerd names a blob by what it is to the image.
    let layer = event.name.starts_with("layer-");
    Some(BlobProgress {
        digest: target.digest,
        layer,
        fetched_bytes,
        total_bytes,
        stage,
    })
}

fn any<T: Message + Name>(message: &T) -> Any {
    // containerd wants the bare name, without the host that protobuf puts before it.
    Any {
        type_url: T::full_name(),
        value: message.encode_to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_what_is_known() {
        let password = reply(Some(RemoteLogin::Password("u".into(), Secret::new("p"))));
        assert_eq!(password.auth_type(), proto::AuthType::Credentials);
        assert_eq!((password.username.as_str(), password.secret.as_str()), ("u", "p"));
        let token = reply(Some(RemoteLogin::IdentityToken(Secret::new("t"))));
        assert_eq!(token.auth_type(), proto::AuthType::Refresh);
        assert_eq!((token.username.as_str(), token.secret.as_str()), ("", "t"));
        let nothing = reply(None);
        assert_eq!(
            (nothing.auth_type(), nothing.secret.as_str()),
            (proto::AuthType::None, "")
        );
    }

    #[test]
    fn containerd_is_told_where_the_registry_is_configured() {
        let pull = |host_dir: Option<&str>| RemotePull {
            image: "ghcr.io/a/b:1".into(),
            snapshotter: None,
            architecture: "amd64".into(),
            host_dir: host_dir.map(str::to_owned),
            labels: Labels::new(),
            id: "1".into(),
        };
        let told = |host_dir| {
            source(&pull(host_dir), "auth-1".into())
                .resolver
                .map(|r| (r.auth_stream, r.host_dir))
        };
        assert_eq!(
            told(Some("/etc/certs.d")),
            Some(("auth-1".into(), "/etc/certs.d".into()))
        );
        assert_eq!(told(None), Some(("auth-1".into(), String::new())));
    }
}
