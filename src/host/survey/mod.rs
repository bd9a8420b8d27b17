//! What the doctor is told of this machine, and what the fingerprint says of runtimes. Reads; changes nothing and judges
//! nothing. Blocking, except where it is said.

mod machine;
mod programs;

pub use machine::{Machine, machine, space};
pub use programs::{SearchPath, look_up, version_of};

use crate::spec::doctor::SocketState;
use rustix::fs::{FileType, stat};
use rustix::io::Errno;
use std::path::Path;

/// What is at the path of a socket. A link is followed, as by `connect`.
#[must_use]
pub fn socket_state(path: &Path) -> SocketState {
    match stat(path) {
        Ok(found) => match FileType::from_raw_mode(found.st_mode) {
            FileType::Socket => SocketState::Socket,
            FileType::Directory => SocketState::Other("directory"),
            FileType::RegularFile => SocketState::Other("file"),
            FileType::Fifo => SocketState::Other("pipe"),
            FileType::CharacterDevice | FileType::BlockDevice => SocketState::Other("device"),
            FileType::Symlink | FileType::Unknown => SocketState::Other("thing of unknown kind"),
        },
        Err(Errno::NOENT | Errno::NOTDIR) => SocketState::Absent,
        Err(errno) => SocketState::Unknown(std::io::Error::from(errno).to_string()),
    }
}

/// The process that listens at a unix socket, as the kernel tells whoever connects; also of one that hangs. `None` if
/// nobody listens. Not blocking.
pub async fn listener(path: &Path) -> Option<u32> {
    let stream = tokio::net::UnixStream::connect(path).await.ok()?;
    let pid = stream.peer_cred().ok()?.pid()?;
    u32::try_from(pid).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_at_a_path_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("file"), "").unwrap();
        let listening = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        assert_eq!(socket_state(&at("socket")), SocketState::Socket);
        assert_eq!(socket_state(&at("none")), SocketState::Absent);
        assert_eq!(socket_state(&at("file/below")), SocketState::Absent);
        assert_eq!(socket_state(&at("file")), SocketState::Other("file"));
        assert_eq!(socket_state(dir.path()), SocketState::Other("directory"));
        drop(listening);
    }

    #[tokio::test]
    async fn who_listens_is_told_and_that_nobody_does() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listening = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert_eq!(listener(&path).await, Some(std::process::id()));
        drop(listening);
        assert_eq!(listener(&path).await, None);
    }
}
