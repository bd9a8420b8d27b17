//! Reads how the registries are configured on this node: `hosts.toml`, or certificates in Docker's layout. What a file
//! says is `spec/hosts`'s.

use super::HostError;
use crate::spec::hosts::{self, Host};
use crate::spec::secret::Secret;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

const FILE: &str = "hosts.toml";
/// Most bytes of one file. A bundle with all authorities of the world has some 200 KiB.
const BYTES: u64 = 1 << 20;
const WHAT: &str = "read the configuration of a registry";

/// A host of a registry with what its files hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Configured {
    /// What the file says.
    pub host: Host,
    /// PEM files with certificates of authorities.
    pub authorities: Vec<Vec<u8>>,
    /// A PEM text with client certificate and key.
    pub identity: Option<Secret>,
}

/// The directory of a registry, and that of `roots` in which it lies; of several the first. `None`: nothing is said of it.
///
/// # Errors
/// A directory that cannot be looked at.
pub fn directory(roots: &str, registry: &str) -> Result<Option<(PathBuf, PathBuf)>, HostError> {
    for root in hosts::roots(roots).map(Path::new) {
        for name in hosts::directories(registry) {
            let dir = root.join(name);
            match dir.metadata() {
                Ok(_) => return Ok(Some((root.to_owned(), dir))),
                Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
                Err(e) => return Err(HostError::from_io(WHAT, &dir, &e)),
            }
        }
    }
    Ok(None)
}

/// The hosts of a registry, as its directory says; without one the registry itself.
///
/// # Errors
/// A file that cannot be read, or that says what cannot be: a mirror that was asked for is not passed over.
pub fn configured(roots: &str, registry: &str) -> Result<Vec<Configured>, HostError> {
    let hosts = match directory(roots, registry)? {
        None => return Ok(vec![filled(Path::new(""), Host::default())?]),
        Some((_, dir)) => (said(&dir)?, dir),
    };
    let (hosts, dir) = hosts;
    hosts.into_iter().map(|host| filled(&dir, host)).collect()
}

fn said(dir: &Path) -> Result<Vec<Host>, HostError> {
    let path = dir.join(FILE);
    let text = match bytes(&path) {
        Ok(bytes) => String::from_utf8(bytes).map_err(|_| HostError::new(WHAT, &path, "it is not UTF-8"))?,
        Err(Unread::Absent) => String::new(),
        Err(Unread::Fault(e)) => return Err(e),
    };
    if !text.is_empty() {
        return hosts::parse(&text).map_err(|reason| HostError::new(WHAT, &path, reason));
    }
    let entries = dir.read_dir().map_err(|e| HostError::from_io(WHAT, dir, &e))?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| HostError::from_io(WHAT, dir, &e))?;
        names.extend(entry.file_name().into_string().ok().filter(|_| entry.path().is_file()));
    }
    Ok(hosts::docker_layout(names))
}

fn filled(dir: &Path, host: Host) -> Result<Configured, HostError> {
    let read = |name: &String| bytes(&dir.join(name)).map_err(|e| e.named(&dir.join(name)));
    let authorities = host.ca.iter().map(read).collect::<Result<_, _>>()?;
    let identity = match host.client.as_slice() {
        [] => None,
        [(certificate, key)] => {
            let mut pem = read(certificate)?;
            if let Some(key) = key {
                pem.push(b'\n');
                pem.extend(read(key)?);
            }
            let pem = String::from_utf8(pem);
            Some(Secret::new(pem.map_err(|_| {
                HostError::new(
                    WHAT,
                    &dir.join(certificate),
                    "certificate and key in PEM form are expected",
                )
            })?))
        }
        several => {
            let reason = format!("client: {} certificates are given, one is expected", several.len());
            return Err(HostError::new(WHAT, dir, reason));
        }
    };
    Ok(Configured {
        host,
        authorities,
        identity,
    })
}

enum Unread {
    Absent,
    Fault(HostError),
}

impl Unread {
    fn named(self, path: &Path) -> HostError {
        match self {
            Self::Absent => HostError::new(WHAT, path, "there is no such file"),
            Self::Fault(e) => e,
        }
    }
}

fn bytes(path: &Path) -> Result<Vec<u8>, Unread> {
    let fault = |e: std::io::Error| match e.kind() {
        ErrorKind::NotFound => Unread::Absent,
        _ => Unread::Fault(HostError::from_io(WHAT, path, &e)),
    };
    // A pipe would never end.
    if !path.metadata().map_err(fault)?.is_file() {
        return Err(Unread::Fault(HostError::new(WHAT, path, "a file is expected")));
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(fault)?;
    file.take(BYTES + 1).read_to_end(&mut bytes).map_err(fault)?;
    if bytes.len() as u64 > BYTES {
        let reason = format!("at most {BYTES} bytes are read");
        return Err(Unread::Fault(HostError::new(WHAT, path, reason)));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, text: &str) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn the_first_directory_that_says_something_counts() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let roots = format!("{}:/does/not/exist:{}", one.path().display(), two.path().display());
        let asked = |registry: &str| directory(&roots, registry).unwrap().map(|(_, dir)| dir);
        write(&two.path().join("r:5000/hosts.toml"), "");
        assert_eq!(asked("r:5000"), Some(two.path().join("r:5000")));
        assert_eq!(asked("other"), None);
        write(&two.path().join("r_5000_/hosts.toml"), "");
        assert_eq!(asked("r:5000"), Some(two.path().join("r_5000_")));
        write(&one.path().join("_default/hosts.toml"), "");
        assert_eq!(asked("r:5000"), Some(one.path().join("_default")));
        assert_eq!(directory("", "r:5000"), Ok(None));
    }

    #[test]
    fn files_are_found_beside_hosts_toml() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("r");
        let text = "ca = 'ca.pem'\nclient = [['c.pem', 'k.pem']]\n[host.'http://m']\n";
        write(&dir.join("hosts.toml"), text);
        write(&dir.join("c.pem"), "certificate");
        write(&dir.join("k.pem"), "key");
        let roots = root.path().display().to_string();
        let missing = configured(&roots, "r").unwrap_err().to_string();
        assert!(missing.contains("ca.pem: there is no such file"), "{missing}");
        write(&dir.join("ca.pem"), "authority");
        let hosts = configured(&roots, "r").unwrap();
        let [mirror, server] = hosts.as_slice() else {
            panic!("{hosts:?}")
        };
        assert!(mirror.authorities.is_empty() && mirror.identity.is_none());
        assert_eq!(server.authorities, [b"authority".to_vec()]);
        assert_eq!(server.identity.as_ref().unwrap().reveal(), "certificate\nkey");
    }

    #[test]
    fn certificates_alone_are_dockers_layout() {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("r/ca.crt", "authority"),
            ("r/x.cert", "certificate"),
            ("r/x.key", "key"),
        ] {
            write(&root.path().join(name), text);
        }
        let hosts = configured(&root.path().display().to_string(), "r").unwrap();
        assert_eq!(hosts[0].authorities, [b"authority".to_vec()]);
        assert_eq!(hosts[0].identity.as_ref().unwrap().reveal(), "certificate\nkey");
        assert_eq!(hosts[0].host.address, None);
    }

    #[test]
    fn what_cannot_be_is_told_with_its_file() {
        let root = tempfile::tempdir().unwrap();
        write(&root.path().join("r/hosts.toml"), "capabilities = ['pul']");
        write(&root.path().join("two/a.cert"), "");
        write(&root.path().join("two/b.cert"), "");
        std::fs::create_dir_all(root.path().join("dir/hosts.toml")).unwrap();
        let roots = root.path().display().to_string();
        let error = |registry| configured(&roots, registry).unwrap_err().to_string();
        assert!(
            error("r").contains("r/hosts.toml: capabilities: \"pul\""),
            "{}",
            error("r")
        );
        assert!(error("two").contains("2 certificates"), "{}", error("two"));
        assert!(error("dir").contains("a file is expected"), "{}", error("dir"));
    }
}
