//! Reads single files of an unpacked image, without mounting it where the layers are plain directories.
//!
//! The content is whatever an image author wrote, so nothing is followed by the kernel: each path component is opened
//! by itself with `O_NOFOLLOW`, symlinks are resolved here and cannot leave the image, and only regular files of a
//! bounded size are read. Whiteouts and opaque directories are overlayfs's (kernel `Documentation/filesystems/overlayfs.rst`).

use crate::spec::image::Directory;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Component, Path, PathBuf};

/// Symlinks that are followed on the way to one file.
const LINKS_MAX: usize = 8;

/// The directories that a mount shows on top of each other, topmost first; `None` if it is not made of directories.
#[must_use]
pub fn directories(kind: &str, source: &str, options: &[String]) -> Option<Vec<PathBuf>> {
    match kind {
        "bind" => Some(vec![source.into()]),
        "overlay" => {
            let mut lower = Vec::new();
            let mut upper = None;
            for option in options {
                if let Some(list) = option.strip_prefix("lowerdir=") {
                    lower.extend(list.split(':').map(PathBuf::from));
                } else if let Some(one) = option.strip_prefix("lowerdir+=") {
                    lower.push(one.into());
                } else if let Some(one) = option.strip_prefix("upperdir=") {
                    upper = Some(PathBuf::from(one));
                }
            }
            // A backslash escapes a colon or a comma: such paths are left to a real mount.
            let plain = lower
                .iter()
                .all(|p| p.is_absolute() && !p.as_os_str().as_encoded_bytes().contains(&b'\\'));
            (plain && !lower.is_empty()).then(|| upper.into_iter().chain(lower).collect())
        }
        _ => None,
    }
}

/// Content of the file at `path` (beneath the root of the image), `None` if there is none.
///
/// # Errors
/// If a layer cannot be read, the file is larger than `limit_bytes`, or it is a pipe, a socket or a device, in which whoever
/// opens it may wait for ever.
pub fn read(layers: &[PathBuf], path: &str, limit_bytes: u64) -> io::Result<Option<Vec<u8>>> {
    let mut path = PathBuf::from(path);
    for _ in 0..=LINKS_MAX {
        match find(layers, &path)? {
            Found::File(file) => return bounded(file, limit_bytes).map(Some),
            Found::Link(target) => path = target,
            Found::Directory(_) | Found::Nothing => return Ok(None),
        }
    }
    Ok(None)
}

/// Owner and mode of the directory at `path` (beneath the root of the image), `None` if there is none.
///
/// # Errors
/// As [`read`].
pub fn directory(layers: &[PathBuf], path: &str) -> io::Result<Option<Directory>> {
    let mut path = PathBuf::from(path);
    for _ in 0..=LINKS_MAX {
        match find(layers, &path)? {
            Found::Directory(directory) => return Ok(Some(directory)),
            Found::Link(target) => path = target,
            Found::File(_) | Found::Nothing => return Ok(None),
        }
    }
    Ok(None)
}

/// Mounts what `directories` cannot take apart, reads with `read`, and unmounts.
///
/// # Errors
/// If it cannot be mounted; what `read` returns.
pub fn with_mounted<T>(
    kind: &str,
    source: &str,
    options: &[String],
    read: impl FnOnce(&Path) -> io::Result<T>,
) -> io::Result<T> {
    let mut flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let mut data = Vec::new();
    for option in options {
        match option.as_str() {
            "ro" | "rw" | "nosuid" | "nodev" | "noexec" => {}
            "noatime" => flags |= MountFlags::NOATIME,
            "loop" => return Err(io::Error::other("mounts through a loop device are not supported")),
            other => data.push(other),
        }
    }
    let data = std::ffi::CString::new(data.join(","))?;
    let at = TempMountpoint::new()?;
    rustix::mount::mount(source, &at.0, kind, flags, Some(data.as_c_str()))?;
    let answer = read(&at.0);
    rustix::mount::unmount(&at.0, UnmountFlags::DETACH)?;
    answer
}

struct TempMountpoint(PathBuf);

impl TempMountpoint {
    fn new() -> io::Result<Self> {
        use std::hash::{BuildHasher as _, Hasher as _};
        let random = std::hash::RandomState::new().build_hasher().finish();
        let path = std::env::temp_dir().join(format!("containerd-driver-{random:016x}"));
        rustix::fs::mkdir(&path, Mode::RWXU)?;
        Ok(Self(path))
    }
}

impl Drop for TempMountpoint {
    /// `rmdir` and nothing stronger: if the unmount failed, the image below must not be deleted.
    fn drop(&mut self) {
        rustix::fs::rmdir(&self.0).ok();
    }
}

enum Found {
    File(OwnedFd),
    Directory(Directory),
    /// Go on from here, from the topmost layer again.
    Link(PathBuf),
    Nothing,
}

/// What one layer says of a path.
enum Step {
    Is(Found),
    /// It does not say: look below.
    Below,
}

fn find(layers: &[PathBuf], path: &Path) -> io::Result<Found> {
    let Some(names) = names(path) else {
        return Ok(Found::Nothing);
    };
    for layer in layers {
        match look(layer, &names)? {
            Step::Is(found) => return Ok(found),
            Step::Below => {}
        }
    }
    Ok(Found::Nothing)
}

/// The components of a path with `..` taken out by name; the root's parent is the root. `None` for the root itself.
fn names(path: &Path) -> Option<Vec<OsString>> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name.to_owned()),
            Component::ParentDir => {
                names.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    (!names.is_empty()).then_some(names)
}

fn look(layer: &Path, names: &[OsString]) -> io::Result<Step> {
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut at = rustix::fs::openat(CWD, layer, directory, Mode::empty())?;
    // An opaque directory hides everything below it.
    let mut opaque = false;
    for (i, name) in names.iter().enumerate() {
        let stat = match rustix::fs::statat(&at, name.as_os_str(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(rustix::io::Errno::NOENT) if opaque => return Ok(Step::Is(Found::Nothing)),
            Err(rustix::io::Errno::NOENT) => return Ok(Step::Below),
            Err(e) => return Err(e.into()),
        };
        let last = i + 1 == names.len();
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory if !last => {
                at = rustix::fs::openat(&at, name.as_os_str(), directory | OFlags::NOFOLLOW, Mode::empty())?;
                opaque |= is_opaque(&at);
            }
            FileType::RegularFile if last => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                return Ok(Step::Is(Found::File(rustix::fs::openat(
                    &at,
                    name.as_os_str(),
                    flags,
                    Mode::empty(),
                )?)));
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(&at, name.as_os_str(), Vec::new())?.into_bytes();
                return Ok(Step::Is(Found::Link(rebase(names, i, &OsString::from_vec(target)))));
            }
            // A whiteout.
            FileType::CharacterDevice if stat.st_rdev == 0 => return Ok(Step::Is(Found::Nothing)),
            FileType::Fifo | FileType::Socket | FileType::CharacterDevice | FileType::BlockDevice => {
                return Err(io::Error::other(
                    "a regular file is expected, not a pipe, a socket or a device",
                ));
            }
            FileType::Directory => {
                return Ok(Step::Is(Found::Directory(Directory {
                    uid: stat.st_uid,
                    gid: stat.st_gid,
                    mode: stat.st_mode & 0o7777,
                })));
            }
            // A file in place of a directory: there is none.
            _ => return Ok(Step::Is(Found::Nothing)),
        }
    }
    Ok(Step::Is(Found::Nothing))
}

/// The path that component `link` of `names` leads to.
fn rebase(names: &[OsString], link: usize, target: &OsStr) -> PathBuf {
    let (before, after) = names.split_at(link);
    let mut path = PathBuf::from("/");
    path.extend(before);
    // An absolute target replaces what is before it: absolute within the image.
    path.push(target);
    path.extend(after.iter().skip(1));
    path
}

fn is_opaque(directory: &OwnedFd) -> bool {
    // A descriptor opened with O_PATH has no attributes of its own; its name in /proc does.
    let name = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(directory));
    ["trusted.overlay.opaque", "user.overlay.opaque"].iter().any(|key| {
        let mut value = [0_u8; 1];
        rustix::fs::getxattr(&name, *key, &mut value).is_ok_and(|n| n == 1 && value == *b"y")
    })
}

fn bounded(file: OwnedFd, limit_bytes: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    let mut reader = File::from(file).take(limit_bytes + 1);
    reader.read_to_end(&mut content)?;
    if content.len() as u64 > limit_bytes {
        return Err(io::Error::other(format!("the file has more than {limit_bytes} bytes")));
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn layers(n: usize) -> (tempfile::TempDir, Vec<PathBuf>) {
        let root = tempfile::tempdir().unwrap();
        let layers: Vec<_> = (0..n).map(|i| root.path().join(i.to_string())).collect();
        for layer in &layers {
            std::fs::create_dir_all(layer.join("etc")).unwrap();
        }
        (root, layers)
    }

    fn text(layers: &[PathBuf]) -> Option<String> {
        read(layers, "etc/passwd", 64)
            .unwrap()
            .map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn the_topmost_layer_wins() {
        let (_root, layers) = layers(3);
        assert_eq!(text(&layers), None);
        std::fs::write(layers[2].join("etc/passwd"), "low").unwrap();
        assert_eq!(text(&layers).as_deref(), Some("low"));
        std::fs::write(layers[1].join("etc/passwd"), "mid").unwrap();
        assert_eq!(text(&layers).as_deref(), Some("mid"));
    }

    #[test]
    fn a_directory_is_told_with_owner_and_mode() {
        use std::os::unix::fs::PermissionsExt as _;
        let (_root, layers) = layers(2);
        let data = layers[1].join("var/data");
        std::fs::create_dir_all(&data).unwrap();
        std::os::unix::fs::chown(&data, Some(70), Some(71)).ok();
        std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o1750)).unwrap();
        symlink("/var/data", layers[0].join("link")).unwrap();
        for path in ["var/data", "/var/data/", "link", "etc/../var/data"] {
            let found = directory(&layers, path).unwrap().unwrap();
            assert_eq!(found.mode, 0o1750, "{path}");
            assert!(
                !rustix::process::geteuid().is_root() || (found.uid, found.gid) == (70, 71),
                "{found:?}"
            );
        }
        std::fs::write(layers[0].join("etc/passwd"), "").unwrap();
        for path in ["none", "etc/passwd", ""] {
            assert_eq!(directory(&layers, path).unwrap(), None, "{path}");
        }
        assert_eq!(read(&layers, "var/data", 64).unwrap(), None);
    }

    #[test]
    fn a_symlink_stays_in_the_image_and_may_cross_layers() {
        let (_root, layers) = layers(2);
        std::fs::create_dir_all(layers[1].join("usr/etc")).unwrap();
        std::fs::write(layers[1].join("usr/etc/passwd"), "image").unwrap();
        symlink("/usr/etc/passwd", layers[0].join("etc/passwd")).unwrap();
        assert_eq!(text(&layers).as_deref(), Some("image"));
        std::fs::remove_file(layers[0].join("etc/passwd")).unwrap();
        symlink("../../../../usr/etc/passwd", layers[0].join("etc/passwd")).unwrap();
        assert_eq!(text(&layers).as_deref(), Some("image"));
        std::fs::remove_file(layers[0].join("etc/passwd")).unwrap();
        symlink("passwd", layers[0].join("etc/passwd")).unwrap();
        assert_eq!(text(&layers), None);
    }

    #[test]
    fn what_is_not_a_regular_file_of_bounded_size_is_not_read() {
        let (_root, layers) = layers(1);
        rustix::fs::mknodat(CWD, layers[0].join("etc/passwd"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert!(read(&layers, "etc/passwd", 64).is_err());
        std::fs::remove_file(layers[0].join("etc/passwd")).unwrap();
        std::fs::write(layers[0].join("etc/passwd"), [b'x'; 65]).unwrap();
        assert!(read(&layers, "etc/passwd", 64).is_err());
    }

    #[test]
    fn mounts_made_of_directories_are_known() {
        let options = ["index=off".to_owned(), "lowerdir=/a:/b".to_owned()];
        assert_eq!(
            directories("overlay", "overlay", &options),
            Some(vec!["/a".into(), "/b".into()])
        );
        assert_eq!(directories("bind", "/x", &[]), Some(vec!["/x".into()]));
        assert_eq!(directories("erofs", "/x", &[]), None);
    }
}
