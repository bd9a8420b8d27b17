//! Other people's words, before they are repeated in an error or a log: without secrets and without the queries of URLs.
//!
//! A registry, its authorization server or a proxy before them may write into an error what they were shown.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// What stands in place of a secret.
const HIDDEN: &str = "[secret]";
/// What follows "Bearer" or "Basic" is a secret from this length on, and a word before.
const SHOWN_MIN: usize = 16;
/// How a JSON web token begins: the base64 of `{"`.
const WEB_TOKEN: &str = "eyJ";

/// Texts that must not be repeated. Without `Debug`.
#[derive(Default)]
pub struct Secrets(Vec<String>);

impl Secrets {
    /// One more, in the forms in which it is sent.
    pub fn add(&mut self, secret: &str) {
        self.put(secret.to_owned());
        self.put(percent(secret));
    }

    /// User name and password, which are sent together.
    pub fn add_login(&mut self, username: &str, password: &str) {
        self.add(password);
        let pair = format!("{username}:{password}");
        if !password.is_empty() {
            for encoded in [
                STANDARD.encode(&pair),
                STANDARD_NO_PAD.encode(&pair),
                URL_SAFE_NO_PAD.encode(&pair),
            ] {
                self.add(&encoded);
            }
        }
    }

    fn put(&mut self, text: String) {
        if !text.is_empty() && !self.0.contains(&text) {
            self.0.push(text);
            // A longer one may have a shorter one in it.
            self.0.sort_by_key(|text| std::cmp::Reverse(text.len()));
        }
    }

    /// The text without what is known to be secret, without what was shown in an `Authorization` header even if it is not
    /// known, and without queries.
    #[must_use]
    pub fn hidden(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.0 {
            if text.contains(secret.as_str()) {
                text = text.replace(secret.as_str(), HIDDEN);
            }
        }
        without_queries(&without_tokens(&text))
    }
}

/// As a query or a form has it.
fn percent(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// Takes the queries out of URLs: they may carry signatures.
#[must_use]
pub fn without_queries(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut query = false;
    for c in text.chars() {
        query = (query || c == '?') && !matches!(c, ' ' | '"');
        if !query {
            out.push(c);
        }
    }
    out
}

/// Hides what looks like a token, or like what is shown with the name of its scheme.
fn without_tokens(text: &str) -> String {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "-._~+/=".contains(c);
    let mut out = String::with_capacity(text.len());
    let (mut rest, mut scheme) = (text, false);
    while !rest.is_empty() {
        let (word, after) = rest.split_at(rest.find(|c| !is_part(c)).unwrap_or(rest.len()));
        let is_secret =
            scheme && word.len() >= SHOWN_MIN || word.starts_with(WEB_TOKEN) && word.matches('.').count() >= 2;
        out.push_str(if is_secret { HIDDEN } else { word });
        let (between, next) = after.split_at(after.find(is_part).unwrap_or(after.len()));
        out.push_str(between);
        scheme = ["bearer", "basic"].iter().any(|name| word.eq_ignore_ascii_case(name));
        rest = next;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn login() -> Secrets {
        let mut secrets = Secrets::default();
        secrets.add_login("u", "hunter 2");
        secrets
    }

    #[test]
    fn a_password_shows_in_none_of_its_forms() {
        let pair = STANDARD.encode("u:hunter 2");
        let said = format!(
            "user u, hunter 2, password=hunter%202 Authorization: Basic {pair} ({})",
            pair.trim_end_matches('=')
        );
        let told = login().hidden(&said);
        assert_eq!(
            told,
            "user u, [secret], password=[secret] Authorization: Basic [secret] ([secret])"
        );
    }

    #[test]
    fn what_was_shown_is_hidden_even_if_it_is_not_known() {
        let none = Secrets::default();
        let token = "eyJhbGciOi.eyJpc3MiOi.c2lnbmF0dXJl";
        assert_eq!(
            none.hidden(&format!("invalid token {token}: expired")),
            "invalid token [secret]: expired"
        );
        assert_eq!(
            none.hidden("got \"bearer 0123456789abcdef0\""),
            "got \"bearer [secret]\""
        );
        for harmless in [
            "Basic authentication",
            "a bearer token",
            "sha256:0123456789abcdef0 of a.b.c/d:1",
        ] {
            assert_eq!(none.hidden(harmless), harmless);
        }
    }

    #[test]
    fn queries_are_cut() {
        let signed = r#"Get "https://s3/x?sig=secret": EOF, and http://a/b?c=d e"#;
        assert_eq!(without_queries(signed), r#"Get "https://s3/x": EOF, and http://a/b e"#);
    }

    proptest! {
        #[test]
        fn no_text_has_the_secret_afterwards(before in "\\PC{0,20}", after in "\\PC{0,20}") {
            let told = login().hidden(&format!("{before}hunter 2{after}"));
            prop_assert!(!told.contains("hunter 2"), "{}", told);
        }
    }
}
