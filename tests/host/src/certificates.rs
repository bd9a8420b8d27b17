//! A certificate authority of the test's own, made with the `openssl` program.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::daemon::which;

/// What `openssl req` and `x509` need to know; nothing of the machine's own configuration is used.
const CONFIG: &str = "[req]
distinguished_name = name
prompt = no
[name]
CN = placeholder
[authority]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign,cRLSign,digitalSignature
subjectKeyIdentifier = hash
";

/// Signs certificates. Its files lie in a directory that the caller owns.
pub struct Authority {
    dir: PathBuf,
}

/// A certificate and its key, as PEM files.
#[derive(Clone, Debug)]
pub struct Identity {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    pub fn new(dir: &Path) -> Result<Authority> {
        std::fs::create_dir_all(dir)?;
        let authority = Authority { dir: dir.to_owned() };
        std::fs::write(authority.file("req.cnf"), CONFIG)?;
        let (key, certificate) = (authority.file("ca.key"), authority.file("ca.pem"));
        openssl(&[
            "req".as_ref(),
            "-x509".as_ref(),
            "-newkey".as_ref(),
            "ec".as_ref(),
            "-pkeyopt".as_ref(),
            "ec_paramgen_curve:P-256".as_ref(),
            "-nodes".as_ref(),
            "-days".as_ref(),
            "2".as_ref(),
            "-subj".as_ref(),
            "/CN=authority of a test".as_ref(),
            "-config".as_ref(),
            authority.file("req.cnf").as_os_str(),
            "-extensions".as_ref(),
            "authority".as_ref(),
            "-keyout".as_ref(),
            key.as_os_str(),
            "-out".as_ref(),
            certificate.as_os_str(),
        ])?;
        Ok(authority)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Who trusts this file trusts all that was issued.
    pub fn certificate(&self) -> PathBuf {
        self.file("ca.pem")
    }

    /// A certificate for servers and clients; `names` as in `IP:127.0.0.1,DNS:localhost`.
    pub fn issue(&self, file: &str, names: &str) -> Result<Identity> {
        let identity = Identity {
            certificate: self.file(&format!("{file}.pem")),
            key: self.file(&format!("{file}.key")),
        };
        let request = self.file(&format!("{file}.csr"));
        let extensions = self.file(&format!("{file}.ext"));
        let text = format!(
            "basicConstraints = critical,CA:FALSE\nextendedKeyUsage = serverAuth,clientAuth\nsubjectAltName = {names}\n"
        );
        std::fs::write(&extensions, text)?;
        openssl(&[
            "req".as_ref(),
            "-new".as_ref(),
            "-newkey".as_ref(),
            "ec".as_ref(),
            "-pkeyopt".as_ref(),
            "ec_paramgen_curve:P-256".as_ref(),
            "-nodes".as_ref(),
            "-subj".as_ref(),
            format!("/CN={file}").as_ref(),
            "-config".as_ref(),
            self.file("req.cnf").as_os_str(),
            "-keyout".as_ref(),
            identity.key.as_os_str(),
            "-out".as_ref(),
            request.as_os_str(),
        ])?;
        self.sign(&request, &identity, &["-extfile".as_ref(), extensions.as_os_str()])?;
        Ok(identity)
    }

    /// Makes the certificate that a request is for, with these arguments besides.
    fn sign(&self, request: &Path, identity: &Identity, more: &[&OsStr]) -> Result<()> {
        let (certificate, key) = (self.certificate(), self.file("ca.key"));
        let arguments: [&OsStr; 13] = [
            "x509".as_ref(),
            "-req".as_ref(),
            "-in".as_ref(),
            request.as_os_str(),
            "-CA".as_ref(),
            certificate.as_os_str(),
            "-CAkey".as_ref(),
            key.as_os_str(),
            "-CAcreateserial".as_ref(),
            "-days".as_ref(),
            "2".as_ref(),
            "-out".as_ref(),
            identity.certificate.as_os_str(),
        ];
        openssl(&[&arguments, more].concat())
    }

    /// A client's certificate as `openssl x509 -req` makes it when nobody says more: of X.509 version 1.
    pub fn issue_version_1(&self, file: &str) -> Result<Identity> {
        let identity = self.issue(file, &format!("DNS:{file}"))?;
        self.sign(&self.file(&format!("{file}.csr")), &identity, &[])?;
        Ok(identity)
    }
}

/// A certificate that nobody else has signed, and that says of itself that it is an authority's, as the one command does that
/// most instructions have: `openssl req -x509 -newkey rsa:2048 -nodes -addext subjectAltName=…`.
pub fn self_signed(dir: &Path, file: &str, names: &str) -> Result<Identity> {
    made(dir, file, &[&format!("subjectAltName={names}")])
}

/// A key that signs, and its self-signed certificate.
pub fn signer(dir: &Path, file: &str) -> Result<Identity> {
    made(dir, file, &[])
}

fn made(dir: &Path, file: &str, extensions: &[&str]) -> Result<Identity> {
    std::fs::create_dir_all(dir)?;
    let config = dir.join(format!("{file}.cnf"));
    std::fs::write(&config, CONFIG)?;
    let identity = Identity {
        certificate: dir.join(format!("{file}.pem")),
        key: dir.join(format!("{file}.key")),
    };
    let subject = format!("/CN={file}");
    let mut args: Vec<&OsStr> = vec![
        "req".as_ref(),
        "-x509".as_ref(),
        "-newkey".as_ref(),
        "rsa:2048".as_ref(),
        "-nodes".as_ref(),
        "-days".as_ref(),
        "2".as_ref(),
        "-subj".as_ref(),
        subject.as_ref(),
        "-config".as_ref(),
        config.as_os_str(),
        "-extensions".as_ref(),
        "authority".as_ref(),
        "-keyout".as_ref(),
        identity.key.as_os_str(),
        "-out".as_ref(),
        identity.certificate.as_os_str(),
    ];
    for extension in extensions {
        args.extend([OsStr::new("-addext"), extension.as_ref()]);
    }
    openssl(&args)?;
    Ok(identity)
}

fn openssl(args: &[&OsStr]) -> Result<()> {
    let program = which("openssl").context("no openssl")?;
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .context("run openssl")?;
    ensure!(
        output.status.success(),
        "openssl {args:?}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
