//! A containerd of which containers, tasks and events are a play: tens of thousands of tasks, of which the kernel knows
//! nothing. The rest (images, content, leases, what it can do) is a real one, behind [`crate::fault_proxy`].
//!
//! | of a task | is |
//! |---|---|
//! | container record, snapshot, state, exit, events | played, as containerd answers |
//! | first process | one `sleep` for all; no cgroup bears a container's name, so the driver neither watches it nor counts what it uses |
//! | log | nobody opens it: give `/dev/null` |
//!
//! The plugin has to be told a runtime other than runc's (`containerd_runtime = "runsc"`), of which it does not expect that
//! its containers can be looked at through their first process.

mod containers;
mod tasks;

use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use anyhow::{Context, Result};
use containerd_client::services::v1::{Container, PublishRequest};
use containerd_client::types::Envelope;
use prost::Message;
use prost::bytes::Bytes;
use tokio::sync::mpsc;
use tonic::Code;

use crate::fault_proxy::{FaultProxy, Reply, Understudy};
use crate::rig::Backend;
use tasks::Task;

/// The runtime to tell the plugin.
pub const RUNTIME: &str = "runsc";

/// The play; see the module.
pub struct FakeContainerd {
    stage: Arc<Stage>,
    proxy: FaultProxy,
    sleeper: Child,
}

impl FakeContainerd {
    /// Takes the place of a back end's containerd, before the plugin is launched.
    pub fn before(backend: &Backend, namespace: &str) -> Result<FakeContainerd> {
        let upstream = backend.containerd.step_aside()?;
        FakeContainerd::start(&backend.containerd.socket(), &upstream, namespace)
    }

    fn start(socket: &Path, upstream: &Path, namespace: &str) -> Result<FakeContainerd> {
        let sleeper = Command::new("sleep").arg("36000").spawn().context("sleep")?;
        let stage = Arc::new(Stage {
            namespace: namespace.to_owned(),
            pid: sleeper.id(),
            cast: Mutex::default(),
        });
        let proxy = FaultProxy::with_understudy(socket, upstream, stage.clone())?;
        Ok(FakeContainerd { stage, proxy, sleeper })
    }

    /// How often the plugin has called what.
    pub fn calls(&self) -> crate::fault_proxy::Calls {
        self.proxy.calls()
    }

    /// Containers there are.
    pub fn containers(&self) -> usize {
        self.stage.cast().containers.len()
    }

    /// Ends so many of the tasks that run, with this exit code.
    pub fn end(&self, count: usize, code: u32) {
        let running: Vec<String> = {
            let cast = self.stage.cast();
            let running = cast.tasks.iter().filter(|(_, task)| task.is_running());
            running.map(|(id, _)| id.clone()).take(count).collect()
        };
        running.iter().for_each(|id| self.stage.exit(id, code));
    }
}

impl Drop for FakeContainerd {
    fn drop(&mut self) {
        self.sleeper.kill().ok();
        self.sleeper.wait().ok();
    }
}

/// What is played.
#[derive(Default)]
struct Cast {
    containers: BTreeMap<String, Container>,
    tasks: BTreeMap<String, Task>,
    listeners: Vec<mpsc::UnboundedSender<Vec<u8>>>,
}

struct Stage {
    namespace: String,
    pid: u32,
    cast: Mutex<Cast>,
}

impl Stage {
    fn cast(&self) -> MutexGuard<'_, Cast> {
        self.cast.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells whoever has subscribed.
    fn publish(&self, topic: &str, event: prost_types::Any) {
        let envelope = Envelope {
            timestamp: Some(SystemTime::now().into()),
            namespace: self.namespace.clone(),
            topic: topic.to_owned(),
            event: Some(event),
        };
        let message = envelope.encode_to_vec();
        let mut cast = self.cast();
        cast.listeners.retain(|listener| listener.send(message.clone()).is_ok());
    }

    fn subscribe(&self) -> Reply {
        let (tx, rx) = mpsc::unbounded_channel();
        self.cast().listeners.push(tx);
        Reply::Stream(rx)
    }
}

/// The containerd API says of each what it is called.
fn any(name: &str, message: &impl Message) -> prost_types::Any {
    prost_types::Any {
        type_url: format!("containerd.events.{name}"),
        value: message.encode_to_vec(),
    }
}

/// One message as the answer.
fn one(message: &impl Message) -> Reply {
    Reply::Messages(vec![message.encode_to_vec()])
}

fn missing(what: &str, id: &str) -> Reply {
    Reply::Refused(Code::NotFound, format!("{what} {id}: not found"))
}

/// The request, or the refusal of one that cannot be read.
fn read<T: Message + Default>(request: &Bytes) -> Result<T, Reply> {
    T::decode(request.as_ref()).map_err(|error| Reply::Refused(Code::InvalidArgument, error.to_string()))
}

impl Understudy for Stage {
    fn plays(&self, path: &str) -> bool {
        ["Containers/", "Tasks/", "Events/", "Snapshots/"]
            .iter()
            .any(|service| path.contains(service))
    }

    fn answer<'a>(&'a self, path: &'a str, request: Bytes) -> Pin<Box<dyn Future<Output = Reply> + Send + 'a>> {
        Box::pin(async move {
            let method = path.rsplit_once('.').map_or(path, |(_, method)| method);
            let reply = match method.split_once('/') {
                Some(("Containers", method)) => self.containers(method, &request),
                Some(("Snapshots", method)) => self.snapshots(method, &request),
                Some(("Tasks", "Wait")) => self.wait(&request).await,
                Some(("Tasks", method)) => self.tasks(method, &request),
                Some(("Events", "Subscribe")) => Ok(self.subscribe()),
                Some(("Events", "Publish")) => read::<PublishRequest>(&request).map(|request| {
                    self.publish(&request.topic, request.event.unwrap_or_default());
                    one(&())
                }),
                _ => Ok(Reply::PassOn),
            };
            reply.unwrap_or_else(|refusal| refusal)
        })
    }
}
