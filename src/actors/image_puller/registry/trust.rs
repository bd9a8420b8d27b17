//! Whom a registry's host is believed to be, and who we are to it: the TLS of a client.
//!
//! As Go's clients do, and with them containerd and Docker, in two things that rustls sees otherwise. A certificate that is
//! itself among the trusted ones is good for the server that shows it, also if it says of itself that it is an authority's:
//! so does every one that `openssl req -x509` makes. And a client's own certificate is for the server to judge: those of
//! X.509 version 1, which `openssl x509 -req` makes, are shown as they are.

use crate::host::registries::Configured;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, InconsistentKeys, RootCertStore, SignatureScheme,
};
use sha2::{Digest as _, Sha256};
use std::collections::HashSet;
use std::sync::Arc;

/// TLS with what the system trusts, and what the files of a host say besides. An `insecure` one trusts whoever answers.
pub(super) fn tls(host: Option<&Configured>, insecure: bool) -> Result<ClientConfig, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    // Read also where it is not used: a file that is of no use is an error in any case.
    let authorities = host.map(authorities).transpose()?.unwrap_or_default();
    let belief = if insecure {
        Belief::Anybody
    } else {
        // What of the system's cannot be read is left out.
        let system = rustls_native_certs::load_native_certs().certs;
        Belief::in_those(authorities.into_iter().chain(system).collect(), Arc::clone(&provider))?
    };
    let verifier = Arc::new(Verifier::new(belief, &provider));
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let mut tls = match host.map(|host| identity(host, &provider)).transpose()?.flatten() {
        Some(identity) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity))),
        None => builder.with_no_client_auth(),
    };
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(tls)
}

/// The certificates of a host's `ca` files.
fn authorities(host: &Configured) -> Result<Vec<CertificateDer<'static>>, String> {
    let mut all = Vec::new();
    for (pem, file) in host.authorities.iter().zip(&host.host.ca) {
        let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        let of_use = read.unwrap_or_default().into_iter();
        let of_use: Vec<_> = of_use
            .filter(|one| RootCertStore::empty().add(one.clone()).is_ok())
            .collect();
        if of_use.is_empty() {
            return Err(format!("ca: {file:?}: certificates in PEM form are expected"));
        }
        all.extend(of_use);
    }
    Ok(all)
}

/// What we show to a host that wants to know who we are.
fn identity(host: &Configured, provider: &CryptoProvider) -> Result<Option<CertifiedKey>, String> {
    let Some(pem) = &host.identity else { return Ok(None) };
    let pem = pem.reveal().as_bytes();
    let file = host
        .host
        .client
        .first()
        .map(|(file, _)| file.as_str())
        .unwrap_or_default();
    // The library's words may have a part of the key.
    let expected = || format!("client: {file:?}: a certificate and its key in PEM form are expected");
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let chain = chain.ok().filter(|chain| !chain.is_empty()).ok_or_else(expected)?;
    let key = PrivateKeyDer::from_pem_slice(pem).map_err(|_| expected())?;
    let key = provider.key_provider.load_private_key(key).map_err(|_| expected())?;
    let identity = CertifiedKey::new(chain, key);
    match identity.keys_match() {
        Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            Err(format!("client: {file:?}: the key beside it is of another certificate"))
        }
        // Also where it cannot be told, as of version 1.
        _ => Ok(Some(identity)),
    }
}

/// Who is believed to be the host that he says he is.
#[derive(Debug)]
enum Belief {
    /// As `skip_verify` wants it.
    Anybody,
    /// There is nothing to go by. Registries without TLS are as good as ever.
    Nobody,
    /// Those whose certificate a trusted one vouches for, and those that show a trusted one.
    Known {
        inner: Arc<WebPkiServerVerifier>,
        /// Digests of the trusted certificates.
        trusted: HashSet<[u8; 32]>,
    },
}

impl Belief {
    fn in_those(certificates: Vec<CertificateDer<'static>>, provider: Arc<CryptoProvider>) -> Result<Self, String> {
        let trusted = certificates.iter().map(digest).collect();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates);
        if roots.is_empty() {
            return Ok(Self::Nobody);
        }
        let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
        let inner = inner.map_err(|e| e.to_string())?;
        Ok(Self::Known { inner, trusted })
    }
}

fn digest(certificate: &CertificateDer<'_>) -> [u8; 32] {
    Sha256::digest(certificate).into()
}

/// Whether a certificate was refused for saying that it is an authority's. That is looked at after when it is valid.
fn is_of_an_authority(error: &Error) -> bool {
    // rustls has no name for it, and hands on what its library says.
    let Error::InvalidCertificate(CertificateError::Other(other)) = error else {
        return false;
    };
    matches!(other.0.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
}

/// Why nobody is believed where there is nothing to go by.
const NOBODY: &str =
    "this system has no certificates of authorities (package ca-certificates), and hosts.toml names none (ca)";

#[derive(Debug)]
struct Verifier {
    schemes: Vec<SignatureScheme>,
    belief: Belief,
}

impl Verifier {
    fn new(belief: Belief, provider: &CryptoProvider) -> Self {
        Self {
            schemes: provider.signature_verification_algorithms.supported_schemes(),
            belief,
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let (inner, trusted) = match &self.belief {
            Belief::Anybody => return Ok(ServerCertVerified::assertion()),
            Belief::Nobody => return Err(Error::General(NOBODY.to_owned())),
            Belief::Known { inner, trusted } => (inner, trusted),
        };
        let answer = inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match answer {
            Err(error) if is_of_an_authority(&error) && trusted.contains(&digest(end_entity)) => {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            answer => answer,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match &self.belief {
            Belief::Known { inner, .. } => inner.verify_tls12_signature(message, cert, dss),
            Belief::Anybody | Belief::Nobody => Ok(HandshakeSignatureValid::assertion()),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match &self.belief {
            Belief::Known { inner, .. } => inner.verify_tls13_signature(message, cert, dss),
            Belief::Anybody | Belief::Nobody => Ok(HandshakeSignatureValid::assertion()),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}

#[cfg(test)]
#[path = "trust_test.rs"]
mod tests;
