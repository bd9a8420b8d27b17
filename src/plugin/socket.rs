//! The unix socket of the plugin: its name, its end, and connections that can be cut.

use super::handshake::Launch;
use futures_util::Stream;
use futures_util::stream;
use std::future::Future;
use std::hash::{BuildHasher as _, Hasher as _};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tonic::transport::server::Connected;

/// `sun_path` holds 108 bytes with the final zero (unix(7)).
const PATH_MAX: usize = 107;
const PREFIX: &str = "containerd-driver-";
const SUFFIX: &str = ".sock";

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The host's directory has too long a name.
    #[error("PLUGIN_UNIX_SOCKET_DIR: {0:?}: a socket path may have {PATH_MAX} bytes")]
    TooLong(PathBuf),
    /// It cannot be bound.
    #[error("binding {path:?}: {source}")]
    Bind {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It cannot be given to the group.
    #[error("PLUGIN_UNIX_SOCKET_GROUP: {group:?}: {source}")]
    Group {
        /// Which group.
        group: String,
        /// Why.
        source: io::Error,
    },
}

/// The bound socket. Dropping it removes the file.
pub(super) struct Socket {
    listener: UnixListener,
    path: SocketFile,
}

/// Removes the file when dropped.
pub(super) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Already gone is as good: the host may have removed its directory.
        std::fs::remove_file(&self.0).ok();
    }
}

impl SocketFile {
    pub(super) fn text(&self) -> String {
        self.0.to_string_lossy().into_owned()
    }
}

impl Socket {
    /// Binds a socket with a name of its own and removes those of dead processes.
    pub(super) async fn bind(launch: &Launch) -> Result<Self, SocketError> {
        let name = format!("{PREFIX}{}-{:08x}{SUFFIX}", std::process::id(), random());
        let mut path = launch.socket_dir.join(&name);
        if path.as_os_str().as_bytes().len() > PATH_MAX {
            if launch.socket_dir_is_given {
                return Err(SocketError::TooLong(path));
            }
            path = Path::new("/tmp").join(&name);
        }
        if let Some(dir) = path.parent() {
            remove_stale(dir).await;
        }
        let listener = UnixListener::bind(&path).map_err(|source| SocketError::Bind {
            path: path.clone(),
            source,
        })?;
        let socket = Self {
            listener,
            path: SocketFile(path),
        };
        if let Some(group) = &launch.socket_group {
            give_to(group, &socket.path.0).map_err(|source| SocketError::Group {
                group: group.clone(),
                source,
            })?;
        }
        Ok(socket)
    }

    /// The connections, and the file that goes when the caller drops it. All connections break when `cut` turns true.
    pub(super) fn into_parts(
        self,
        cut: watch::Receiver<bool>,
    ) -> (impl Stream<Item = io::Result<Connection>>, SocketFile) {
        let connections = stream::unfold((self.listener, cut), |(listener, cut)| async move {
            loop {
                match listener.accept().await {
                    Ok((io, _)) => return Some((Ok(Connection::new(io, cut.clone())), (listener, cut))),
                    Err(e) => {
                        // Out of descriptors, or a peer that is gone already: never the end of the server.
                        tracing::warn!(error = %e, "accepting a connection");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                }
            }
        });
        (connections, self.path)
    }
}

fn random() -> u32 {
    let hash = std::hash::RandomState::new().build_hasher().finish();
    u32::try_from(hash >> 32).unwrap_or_default()
}

/// Chgrp and mode 0660, as go-plugin does. Names are looked up in `/etc/group`.
fn give_to(group: &str, path: &Path) -> io::Result<()> {
    let gid = match group.parse::<u32>() {
        Ok(gid) => gid,
        Err(_) => gid_of(group, &std::fs::read_to_string("/etc/group")?)
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no such group in /etc/group"))?,
    };
    chown(path, None, Some(gid))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))
}

fn gid_of(name: &str, file: &str) -> Option<u32> {
    file.lines()
        .map(|l| l.split(':').collect::<Vec<_>>())
        .find_map(|fields| match fields.as_slice() {
            [n, _, gid, ..] if *n == name => gid.parse().ok(),
            _ => None,
        })
}

/// Removes sockets of our naming whose process is dead and on which nobody listens. Both are asked: a process in
/// another pid namespace looks dead, and one that has bound but does not listen yet refuses.
async fn remove_stale(dir: &Path) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(pid_of) else {
            continue;
        };
        if Path::new("/proc").join(pid.to_string()).exists() {
            continue;
        }
        let connect = tokio::time::timeout(Duration::from_millis(200), UnixStream::connect(entry.path()));
        if matches!(connect.await, Ok(Err(e)) if e.kind() == io::ErrorKind::ConnectionRefused) {
            std::fs::remove_file(entry.path()).ok();
        }
    }
}

fn pid_of(name: &str) -> Option<u32> {
    let (pid, random) = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.split_once('-')?;
    (random.len() == 8).then(|| pid.parse().ok()).flatten()
}

/// A connection that breaks on command. Broken transport is what ends calls in flight: hyper drops their handlers,
/// as Go plugins drop theirs when they stop.
pub(super) struct Connection {
    io: UnixStream,
    cut: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Connection {
    fn new(io: UnixStream, mut cut: watch::Receiver<bool>) -> Self {
        let cut = Box::pin(async move {
            // A sender that is gone has nothing to command any more: the server has ended.
            cut.wait_for(|cut| *cut).await.ok();
        });
        Self { io, cut }
    }

    fn broken(&mut self, cx: &mut Context<'_>) -> bool {
        self.cut.as_mut().poll(cx).is_ready()
    }
}

impl Connected for Connection {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // hyper always reads, so this poll is also what wakes the connection for the cut.
        if self.broken(cx) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_names_have_a_pid() {
        assert_eq!(pid_of("containerd-driver-123-00ff00ff.sock"), Some(123));
        for name in [
            "containerd-driver-123-.sock",
            "containerd-driver-x-00ff00ff.sock",
            "plugin123",
            "containerd-driver-1.sock",
        ] {
            assert_eq!(pid_of(name), None, "{name}");
        }
    }

    #[test]
    fn group_names_come_from_the_group_file() {
        let file = "root:x:0:\n#c\nnomad:x:998:a,b\n";
        assert_eq!((gid_of("nomad", file), gid_of("nobody", file)), (Some(998), None));
    }
}
