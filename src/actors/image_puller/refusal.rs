//! What a registry's failures mean for a user: gone, refused, down for now, or of no use.

use super::registry::Session;
use crate::messages::image::ImageError;
use crate::spec::error::with_causes;
use oci_client::errors::{OciDistributionError, OciErrorCode};
use std::error::Error;

impl Session {
    pub(super) fn meaning(&self, error: OciDistributionError) -> ImageError {
        use OciDistributionError as E;
        let (image, registry) = (self.image().to_owned(), self.registry().to_owned());
        let not_found = |reason| ImageError::NotFound {
            image: image.clone(),
            registry: registry.clone(),
            reason,
        };
        let denied = |reason| ImageError::Denied {
            image: image.clone(),
            reason,
        };
        let unusable = |reason| ImageError::Unusable {
            image: image.clone(),
            reason,
        };
        match error {
            E::UnauthorizedError { .. } if self.is_anonymous() => {
                denied(format!("{registry} wants credentials, none were given"))
            }
            E::UnauthorizedError { .. } => denied(format!("{registry} does not accept the credentials")),
            E::AuthenticationFailure(text) => match token_refusal(&text) {
                Some(reason) => denied(reason),
                None => self.unavailable(format!("no token from the authorization server: {}", short(&text))),
            },
            E::RegistryError { envelope, .. } => {
                let words: Vec<_> = envelope.errors.iter().map(|e| short(&e.message)).collect();
                let words = words.join("; ");
                match envelope.errors.first().map(|e| &e.code) {
                    Some(OciErrorCode::Unauthorized | OciErrorCode::Denied) => denied(words),
                    Some(
                        OciErrorCode::ManifestUnknown
                        | OciErrorCode::ManifestBlobUnknown
                        | OciErrorCode::BlobUnknown
                        | OciErrorCode::NameUnknown
                        | OciErrorCode::NotFound,
                    ) => not_found(words),
                    Some(OciErrorCode::Toomanyrequests | OciErrorCode::Other(_)) | None => self.unavailable(words),
                    Some(_) => unusable(words),
                }
            }
            E::ServerError { code: 404, message, .. } => not_found(short(&message)),
            E::ServerError {
                code: 401 | 403,
                message,
                ..
            } => denied(short(&message)),
            E::ServerError {
                code: code @ (400..=407 | 409..=428 | 430..=499),
                message,
                ..
            } => unusable(format!("{registry} answered {code}: {}", short(&message))),
            E::ServerError { code, message, .. } => self.unavailable(format!("status {code}: {}", short(&message))),
            E::ImageManifestNotFoundError(text) => not_found(text),
            E::RequestError(e) => self.unavailable(chain(&e.without_url())),
            E::IoError(e) => self.broken(&e),
            E::RegistryTokenDecodeError(text) => self.unavailable(text),
            other => unusable(other.to_string()),
        }
    }
}

/// Whether the connection failed before any HTTP was spoken: refused, or not TLS.
pub(super) fn is_no_tls(error: &OciDistributionError) -> bool {
    matches!(error, OciDistributionError::RequestError(e) if e.is_connect())
}

/// Authorization servers tell a refusal from a breakdown by the status, which oci-client does not hand on; but a refusal
/// is a JSON document or a plain sentence, and a breakdown is a proxy's HTML page, nothing, or an error code that says so.
fn token_refusal(text: &str) -> Option<String> {
    let text = text.trim();
    if text.is_empty() || text.starts_with('<') {
        return None;
    }
    if let Ok(envelope) = serde_json::from_str::<oci_client::errors::OciEnvelope>(text) {
        let transient = |e: &oci_client::errors::OciError| {
            let code = &e.code;
            *code == OciErrorCode::Toomanyrequests
                || matches!(code, OciErrorCode::Other(c) if matches!(c.as_str(), "UNAVAILABLE" | "UNKNOWN"))
        };
        return (!envelope.errors.iter().any(transient)).then(|| {
            let words: Vec<_> = envelope.errors.iter().map(|e| short(&e.message)).collect();
            words.join("; ")
        });
    }
    let details = serde_json::from_str::<serde_json::Value>(text).ok();
    let details = details.as_ref().and_then(|v| v.get("details")?.as_str());
    Some(short(details.unwrap_or(text)))
}

/// A registry's words, cut: they end up in task events.
fn short(text: &str) -> String {
    const WORDS_MAX: usize = 300;
    let text = text.trim();
    match text.char_indices().nth(WORDS_MAX) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// An error with its causes: "error sending request" alone explains nothing.
pub(super) fn chain(error: &dyn Error) -> String {
    with_causes(error.to_string(), error.source())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_login_is_told_from_a_broken_authorization_server() {
        assert_eq!(
            token_refusal(r#"{"details":"incorrect username or password"}"#).as_deref(),
            Some("incorrect username or password")
        );
        let denied = r#"{"errors":[{"code":"DENIED","message":"requested access is denied"}]}"#;
        assert_eq!(token_refusal(denied).as_deref(), Some("requested access is denied"));
        assert_eq!(
            token_refusal(r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}"#),
            None
        );
        assert_eq!(token_refusal("<html>502 Bad Gateway</html>"), None);
        assert_eq!(token_refusal(""), None);
    }
}
