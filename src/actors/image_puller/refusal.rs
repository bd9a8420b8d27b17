//! What a registry's failures mean: gone, refused, of no use, or down for now and for how long.

use super::keyring::Keyring;
use crate::messages::image::ImageError;
use reqwest::StatusCode;
use reqwest::header::{self, HeaderMap};
use serde::Deserialize;
use std::time::{Duration, SystemTime};

/// Most bytes that are read of what is said about a failure.
pub(super) const WORDS_MAX_BYTES: u64 = 64 << 10;

/// Why one host did not give what was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// It has none.
    NotFound(String),
    /// It refuses.
    Denied(String),
    /// What it gives is of no use, and will be of none.
    Unusable(String),
    /// It wants to be asked later; it may say when.
    Busy { after: Option<Duration>, reason: String },
    /// It is in trouble, or the connection broke. Another try may help.
    Broken(String),
    /// It cannot be connected to.
    Down(String),
    /// No failure of the host's.
    Other(ImageError),
}

#[derive(Deserialize)]
struct Envelope {
    errors: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// Whether a host is too busy now and says so: 429, or 503 with a time.
fn asks_for_patience(status: StatusCode, headers: &HeaderMap) -> bool {
    match status.as_u16() {
        429 => true,
        503 => headers.contains_key(header::RETRY_AFTER),
        _ => false,
    }
}

impl Failure {
    /// What a registry's answer other than 200 means. The errors it names count for more than the status. Without what
    /// `shown` has.
    pub(super) fn of_registry(
        host: &str,
        status: StatusCode,
        headers: &HeaderMap,
        said: &[u8],
        shown: &Keyring,
    ) -> Self {
        let envelope = serde_json::from_slice::<Envelope>(said)
            .ok()
            .filter(|e| !e.errors.is_empty());
        let words = match &envelope {
            Some(envelope) => envelope.words(shown),
            None => quoted(&String::from_utf8_lossy(said), shown),
        };
        let code = envelope
            .as_ref()
            .and_then(|e| e.errors.first())
            .map(|e| e.code.as_str());
        let busy = || Self::Busy {
            after: retry_after(headers),
            reason: format!("status {}: {words}", status.as_u16()),
        };
        match (status.as_u16(), code) {
            _ if asks_for_patience(status, headers) => busy(),
            (500.., _) | (408, _) => Self::Broken(format!("status {}: {words}", status.as_u16())),
            (_, Some("UNAUTHORIZED" | "DENIED")) => Self::Denied(words),
            (_, Some("MANIFEST_UNKNOWN" | "MANIFEST_BLOB_UNKNOWN" | "BLOB_UNKNOWN" | "NAME_UNKNOWN" | "NOT_FOUND")) => {
                Self::NotFound(words)
            }
            (_, Some("TOOMANYREQUESTS")) => busy(),
            (404, _) => Self::NotFound(format!("status 404: {words}")),
            (401 | 403, _) => Self::Denied(format!("{host} answered {}: {words}", status.as_u16())),
            _ => Self::Unusable(format!("{host} answered {}: {words}", status.as_u16())),
        }
    }

    /// What the answer of a place means that a registry has sent us to. Its words are not repeated: who it is, nobody here
    /// has said, and a storage service tells its own secrets.
    pub(super) fn of_another(host: &str, to: &str, status: StatusCode, headers: &HeaderMap) -> Self {
        let reason = format!("{host} redirects to {to}, which answered {}", status.as_u16());
        match status.as_u16() {
            _ if asks_for_patience(status, headers) => Self::Busy {
                after: retry_after(headers),
                reason,
            },
            500.. | 408 => Self::Broken(reason),
            404 => Self::NotFound(reason),
            401 | 403 => Self::Denied(reason),
            _ => Self::Unusable(reason),
        }
    }

    /// Whether another try may help soon, at the same host.
    pub(super) fn passes(&self) -> bool {
        matches!(self, Self::Busy { .. } | Self::Broken(_))
    }

    /// Whether this is a registry's word that there is nothing to be had there.
    pub(super) fn is_no(&self) -> bool {
        matches!(self, Self::NotFound(_) | Self::Denied(_))
    }

    /// This one's meaning with the words of another.
    pub(super) fn saying_of(self, other: &Self) -> Self {
        self.saying(|_| other.words().to_owned())
    }

    /// What an authorization server's answer without a token means. Without what `shown` has.
    pub(super) fn of_authorization_server(
        host: &str,
        status: StatusCode,
        headers: &HeaderMap,
        said: &[u8],
        shown: &Keyring,
    ) -> Self {
        let words = token_words(said, shown);
        let reason = format!(
            "no token from the authorization server {host}: status {}: {words}",
            status.as_u16()
        );
        match status.as_u16() {
            _ if asks_for_patience(status, headers) => Self::Busy {
                after: retry_after(headers),
                reason,
            },
            400..=407 | 409..=499 if words.is_empty() => {
                Self::Denied(format!("its authorization server {host} answered {}", status.as_u16()))
            }
            400..=407 | 409..=499 => Self::Denied(words),
            _ => Self::Broken(reason),
        }
    }

    /// Whether the host has failed, and not only said no.
    pub(super) fn is_trouble(&self) -> bool {
        match self {
            Self::NotFound(_) | Self::Denied(_) | Self::Other(_) => false,
            Self::Unusable(_) | Self::Busy { .. } | Self::Broken(_) | Self::Down(_) => true,
        }
    }

    pub(super) fn words(&self) -> String {
        match self {
            Self::NotFound(words)
            | Self::Denied(words)
            | Self::Unusable(words)
            | Self::Busy { reason: words, .. }
            | Self::Broken(words)
            | Self::Down(words) => words.clone(),
            Self::Other(error) => error.to_string(),
        }
    }

    /// The same with more to say.
    pub(super) fn adding(self, more: &str) -> Self {
        self.saying(|words| format!("{words}{more}"))
    }

    /// The same in other words.
    pub(super) fn saying(self, otherwise: impl FnOnce(String) -> String) -> Self {
        match self {
            Self::NotFound(words) => Self::NotFound(otherwise(words)),
            Self::Denied(words) => Self::Denied(otherwise(words)),
            Self::Unusable(words) => Self::Unusable(otherwise(words)),
            Self::Busy { after, reason } => Self::Busy {
                after,
                reason: otherwise(reason),
            },
            Self::Broken(words) => Self::Broken(otherwise(words)),
            Self::Down(words) => Self::Down(otherwise(words)),
            Self::Other(error) => Self::Other(error),
        }
    }

    /// For the user.
    pub(super) fn meaning(self, image: &str, registry: &str) -> ImageError {
        let (image, registry) = (image.to_owned(), registry.to_owned());
        match self {
            Self::NotFound(reason) => ImageError::NotFound {
                image,
                registry,
                reason,
            },
            Self::Denied(reason) => ImageError::Denied { image, reason },
            Self::Unusable(reason) => ImageError::Unusable { image, reason },
            Self::Busy { reason, .. } | Self::Broken(reason) | Self::Down(reason) => ImageError::Registry {
                image,
                registry,
                reason,
            },
            Self::Other(error) => error,
        }
    }
}

impl Envelope {
    fn words(&self, shown: &Keyring) -> String {
        let words = self.errors.iter().map(|e| match e.message.is_empty() {
            true => quoted(&e.code, shown),
            false => quoted(&e.message, shown),
        });
        words.collect::<Vec<_>>().join("; ")
    }
}

/// An authorization server's words: in a registry's form, in OAuth2's, in Docker Hub's, or a plain sentence. A proxy's page is
/// none.
fn token_words(said: &[u8], shown: &Keyring) -> String {
    if let Ok(envelope) = serde_json::from_slice::<Envelope>(said)
        && !envelope.errors.is_empty()
    {
        return envelope.words(shown);
    }
    if let Ok(value) = serde_json::from_slice::<serde_json::Value>(said) {
        let names = ["details", "error_description", "message", "error"];
        let text = names.iter().find_map(|name| value.get(name)?.as_str());
        return text.map(|text| quoted(text, shown)).unwrap_or_default();
    }
    let text = String::from_utf8_lossy(said);
    match text.trim_start().starts_with('<') {
        true => String::new(),
        false => quoted(&text, shown),
    }
}

/// When it wants to be asked again: seconds, or a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    match text.parse::<u64>() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => {
            let at = httpdate::parse_http_date(text).ok()?;
            // A date that has passed: at once.
            Some(at.duration_since(SystemTime::now()).unwrap_or_default())
        }
    }
}

/// A registry's words, without what it was shown, and cut: they end up in task events.
fn quoted(text: &str, shown: &Keyring) -> String {
    // In this order: a half of a secret would not be found.
    short(&shown.hidden(text))
}

fn short(text: &str) -> String {
    const WORDS_MAX: usize = 300;
    let text = text.trim();
    match text.char_indices().nth(WORDS_MAX) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderValue;

    fn nobody() -> Keyring {
        Keyring::single("", None)
    }

    fn registry(status: u16, said: &str) -> Failure {
        Failure::of_registry(
            "r",
            StatusCode::from_u16(status).unwrap(),
            &HeaderMap::new(),
            said.as_bytes(),
            &nobody(),
        )
    }

    fn token(status: u16, said: &str) -> Failure {
        let status = StatusCode::from_u16(status).unwrap();
        Failure::of_authorization_server("t", status, &HeaderMap::new(), said.as_bytes(), &nobody())
    }

    #[test]
    fn what_a_registry_names_counts_for_more_than_its_status() {
        let said = |code: &str| format!(r#"{{"errors":[{{"code":"{code}","message":"words"}}]}}"#);
        assert_eq!(
            registry(404, &said("MANIFEST_UNKNOWN")),
            Failure::NotFound("words".into())
        );
        assert_eq!(registry(400, &said("NAME_UNKNOWN")), Failure::NotFound("words".into()));
        assert_eq!(registry(404, &said("DENIED")), Failure::Denied("words".into()));
        assert_eq!(
            registry(400, &said("UNSUPPORTED")),
            Failure::Unusable("r answered 400: words".into())
        );
        assert_eq!(registry(404, "gone"), Failure::NotFound("status 404: gone".into()));
        assert_eq!(registry(403, ""), Failure::Denied("r answered 403: ".into()));
        assert_eq!(registry(502, "<html>"), Failure::Broken("status 502: <html>".into()));
        // Down is down, whatever a proxy in between writes.
        assert!(matches!(registry(500, &said("UNAUTHORIZED")), Failure::Broken(_)));
        assert!(matches!(
            registry(429, &said("DENIED")),
            Failure::Busy { after: None, .. }
        ));
    }

    #[test]
    fn a_refused_login_is_told_from_a_broken_authorization_server() {
        let details = r#"{"details":"incorrect username or password"}"#;
        assert_eq!(
            token(401, details),
            Failure::Denied("incorrect username or password".into())
        );
        let denied = r#"{"errors":[{"code":"DENIED","message":"requested access is denied"}]}"#;
        assert_eq!(token(403, denied), Failure::Denied("requested access is denied".into()));
        let oauth = r#"{"error":"invalid_grant","error_description":"the token has expired"}"#;
        assert_eq!(token(400, oauth), Failure::Denied("the token has expired".into()));
        assert_eq!(
            token(401, ""),
            Failure::Denied("its authorization server t answered 401".into())
        );
        assert!(matches!(token(502, "<html>502</html>"), Failure::Broken(words) if !words.contains("html")));
        assert!(matches!(token(429, ""), Failure::Busy { .. }));
        assert!(matches!(token(307, ""), Failure::Broken(_)));
    }

    #[test]
    fn a_registry_may_say_when_to_ask_again() {
        let after = |text: &str| {
            let headers = HeaderMap::from_iter([(header::RETRY_AFTER, HeaderValue::from_str(text).unwrap())]);
            retry_after(&headers)
        };
        assert_eq!(after("7"), Some(Duration::from_secs(7)));
        assert_eq!(after("soon"), None);
        assert_eq!(after("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        let later = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(100));
        assert!(after(&later).is_some_and(|d| d > Duration::from_secs(90) && d <= Duration::from_secs(100)));
        assert_eq!(retry_after(&HeaderMap::new()), None);
        let headers = HeaderMap::from_iter([(header::RETRY_AFTER, HeaderValue::from_static("3"))]);
        let unavailable = Failure::of_registry("r", StatusCode::SERVICE_UNAVAILABLE, &headers, b"", &nobody());
        assert!(matches!(unavailable, Failure::Busy { after: Some(d), .. } if d == Duration::from_secs(3)));
    }

    #[test]
    fn words_are_cut() {
        assert_eq!(short(&"ä".repeat(400)).chars().count(), 301);
    }
}
