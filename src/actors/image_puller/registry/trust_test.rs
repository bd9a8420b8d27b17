//! The certificates are of `openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj /CN=own
//! -addext subjectAltName=…` and, of version 1, of `openssl x509 -req` without a file of extensions.

use super::*;
use crate::spec::hosts::Host;
use crate::spec::secret::Secret;
use std::time::Duration;

/// For `IP:127.0.0.1,DNS:localhost`, valid from 30 November 2026 for ten years.
const OWN: &str = "\
-----BEGIN CERTIFICATE-----\n\
MIIBjDCCATOgAwIBAgIUD3wmsF+reZMCaD1PUb1p8PvqCtswCgYIKoZIzj0EAwIw\n\
DjEMMAoGA1UEAwwDb3duMB4XDTI2MTEzMDEzMzgxMFoXDTM2MTEyNzEzMzgxMFow\n\
DjEMMAoGA1UEAwwDb3duMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEXp23ygV5\n\
tMDZ+MA9/5rFf7w7V1hCKSWwGGcvo1DVf8u7D/JhJCK4Ty7C67Vxsg5cno/q89jl\n\
UIhx4btPtz6zH6NvMG0wHQYDVR0OBBYEFLeBTApCexSyl9BJiYcnNueGJypCMB8G\n\
A1UdIwQYMBaAFLeBTApCexSyl9BJiYcnNueGJypCMA8GA1UdEwEB/wQFMAMBAf8w\n\
GgYDVR0RBBMwEYcEfwAAAYIJbG9jYWxob3N0MAoGCCqGSM49BAMCA0cAMEQCICMe\n\
6u3yCtpnQ7+uCR2LOqZmxEL42ZASUcIJTQJuJuB7AiATyFcIhZFr1B8urP2AOi1Y\n\
5KgUFgWpKsowpt+qQloeGw==\n\
-----END CERTIFICATE-----\n\
";
/// Of another key, for `DNS:localhost`.
const OTHER: &str = "\
-----BEGIN CERTIFICATE-----\n\
MIIBhjCCAS2gAwIBAgIUFc27JvRMRq5FeLIoxlfIjd42jgowCgYIKoZIzj0EAwIw\n\
DjEMMAoGA1UEAwwDb3duMB4XDTI2MTEzMDEzMzgxMFoXDTM2MTEyNzEzMzgxMFow\n\
DjEMMAoGA1UEAwwDb3duMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEcPL4vXU9\n\
S5cdFjiTXHVm+aYTePPAEm/lSlwHqFTfq6hHRBHNRK0SZCQL0P98uVkFWGnK9iPt\n\
wxC30pXD5O5h1aNpMGcwHQYDVR0OBBYEFBFXiS+G4doju8/H0esXlbMQmoGsMB8G\n\
A1UdIwQYMBaAFBFXiS+G4doju8/H0esXlbMQmoGsMA8GA1UdEwEB/wQFMAMBAf8w\n\
FAYDVR0RBA0wC4IJbG9jYWxob3N0MAoGCCqGSM49BAMCA0cAMEQCIEMxttezUVVM\n\
4jWmzAl1fZC9GDvp3gZzMUWC4CpLJLG7AiBZD/3VYR5UdyTPrFoZ4L/fUlhZaN2m\n\
+hG88CwOl1rrqQ==\n\
-----END CERTIFICATE-----\n\
";
/// Of version 1, and its key.
const VERSION_1: &str = "\
-----BEGIN CERTIFICATE-----\n\
MIIBGjCBwAIUVhgahzZTOJGABdF6fKF/NMV6UMcwCgYIKoZIzj0EAwIwDjEMMAoG\n\
A1UEAwwDb3duMB4XDTI2MTEzMDEzMzgxMFoXDTM2MTEyNzEzMzgxMFowETEPMA0G\n\
A1UEAwwGY2xpZW50MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEs1liRKryPI3B\n\
SFcH8Pw31p6Etylggk1jCAfurPG/GUZOm4ZBrmYj0xZvUl2pxbxBk36gGlKbdQH3\n\
XqfpnMiGxTAKBggqhkjOPQQDAgNJADBGAiEAvjcSYwtG5+kQyLGR33mJdiws0StI\n\
XrnCnYVVrze0EKsCIQDl8I8DJg/I3tqCWq2GefJTH95IX9W4c1mNQHFJlbCdHw==\n\
-----END CERTIFICATE-----\n\
";
const VERSION_1_KEY: &str = "\
-----BEGIN PRIVATE KEY-----\n\
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgIG1NTkWHtw55imNU\n\
2WozP19xOGW/OOqGEmZoxl9DtuChRANCAASzWWJEqvI8jcFIVwfw/DfWnoS3KWCC\n\
TWMIB+6s8b8ZRk6bhkGuZiPTFm9SXanFvEGTfqAaUpt1Afdep+mcyIbF\n\
-----END PRIVATE KEY-----\n\
";

const VALID: u64 = 1_800_000_000;

fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

fn believing(certificates: Vec<CertificateDer<'static>>) -> Verifier {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let belief = Belief::in_those(certificates, Arc::clone(&provider)).unwrap();
    Verifier::new(belief, &provider)
}

fn shown(pem: &str, name: &str, at: u64) -> Result<(), String> {
    let trusted = believing(vec![der(OWN)]);
    let (name, now) = (
        name.to_owned().try_into().unwrap(),
        UnixTime::since_unix_epoch(Duration::from_secs(at)),
    );
    let answer = trusted.verify_server_cert(&der(pem), &[], &name, &[], now);
    answer.map(drop).map_err(|e| e.to_string())
}

#[test]
fn a_trusted_certificate_is_good_for_its_own_server_also_as_an_authoritys() {
    assert_eq!(shown(OWN, "localhost", VALID), Ok(()));
    assert_eq!(shown(OWN, "127.0.0.1", VALID), Ok(()));
}

#[test]
fn a_trusted_certificate_is_for_its_names_and_its_time() {
    let error = shown(OWN, "elsewhere.test", VALID).unwrap_err();
    assert!(error.contains("not valid for name"), "{error}");
    let error = shown(OWN, "localhost", 2_200_000_000).unwrap_err();
    assert!(error.contains("expired"), "{error}");
    let error = shown(OWN, "localhost", 1_700_000_000).unwrap_err();
    assert!(error.contains("not valid yet"), "{error}");
}

#[test]
fn with_nobody_to_trust_nobody_is_believed() {
    let nobody = believing(Vec::new());
    assert!(matches!(nobody.belief, Belief::Nobody));
    let name = "localhost".to_owned().try_into().unwrap();
    let now = UnixTime::since_unix_epoch(Duration::from_secs(VALID));
    let error = nobody.verify_server_cert(&der(OWN), &[], &name, &[], now).unwrap_err();
    assert!(error.to_string().contains("ca-certificates"), "{error}");
}

#[test]
fn an_authoritys_certificate_that_is_not_trusted_is_good_for_nobody() {
    let error = shown(OTHER, "localhost", VALID).unwrap_err();
    assert!(error.contains("CaUsedAsEndEntity"), "{error}");
}

fn with_identity(pem: &str) -> Configured {
    Configured {
        host: Host {
            client: vec![("c.pem".to_owned(), None)],
            ..Host::default()
        },
        authorities: Vec::new(),
        identity: Some(Secret::new(pem)),
    }
}

#[test]
fn a_client_shows_a_certificate_of_version_1_as_it_is() {
    let (provider, host) = (
        aws_lc_rs::default_provider(),
        with_identity(&format!("{VERSION_1}{VERSION_1_KEY}")),
    );
    let shown = identity(&host, &provider).unwrap().unwrap();
    assert_eq!(shown.cert, [der(VERSION_1)]);
}

#[test]
fn a_client_certificate_of_no_use_is_named() {
    let provider = aws_lc_rs::default_provider();
    let refused = |pem: &str| identity(&with_identity(pem), &provider).unwrap_err();
    for pem in [VERSION_1, VERSION_1_KEY, "no certificate"] {
        let error = refused(pem);
        assert_eq!(
            error,
            "client: \"c.pem\": a certificate and its key in PEM form are expected"
        );
    }
    let error = refused(&format!("{OWN}{VERSION_1_KEY}"));
    assert_eq!(error, "client: \"c.pem\": the key beside it is of another certificate");
}

#[test]
fn an_authority_of_no_use_is_named_and_one_beside_others_is_passed_over() {
    let host = |pem: &str| Configured {
        host: Host {
            ca: vec!["ca.pem".to_owned()],
            ..Host::default()
        },
        authorities: vec![pem.as_bytes().to_vec()],
        identity: None,
    };
    let garbage = "-----BEGIN CERTIFICATE-----\nbm9uZQ==\n-----END CERTIFICATE-----\n";
    for pem in ["no certificate", garbage] {
        let error = authorities(&host(pem)).unwrap_err();
        assert_eq!(error, "ca: \"ca.pem\": certificates in PEM form are expected");
    }
    assert_eq!(authorities(&host(&format!("{garbage}{OWN}"))), Ok(vec![der(OWN)]));
}
