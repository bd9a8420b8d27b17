//! What a registry wants to be shown: `WWW-Authenticate` (RFC 9110, 11.6.1), of which registries use Bearer and Basic.

/// How a registry wants to be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// User name and password in each request.
    Basic,
    /// A token of an authorization server.
    Bearer {
        /// Where it is had.
        realm: String,
        /// For whom, as the authorization server names it.
        service: Option<String>,
        /// What the registry thinks it is for, several separated by spaces.
        scope: Option<String>,
    },
}

/// The challenge to answer among these headers: of several that for a token, as with Docker and containerd. `None`: nothing
/// that is known.
pub(super) fn challenge<'a>(headers: impl IntoIterator<Item = &'a str>) -> Option<Challenge> {
    let mut found = None;
    for header in headers {
        for (scheme, parameters) in schemes(header) {
            let of = |name: &str| {
                let mut all = parameters.iter();
                all.find(|(key, _)| key.eq_ignore_ascii_case(name))
                    .map(|(_, value)| value.clone())
            };
            if scheme.eq_ignore_ascii_case("bearer") {
                if let Some(realm) = of("realm") {
                    return Some(Challenge::Bearer {
                        realm,
                        service: of("service"),
                        scope: of("scope"),
                    });
                }
            } else if scheme.eq_ignore_ascii_case("basic") {
                found = Some(Challenge::Basic);
            }
        }
    }
    found
}

type Parameters = Vec<(String, String)>;

/// Splits `scheme key=value, key="value", scheme …`. What does not fit is passed over.
fn schemes(header: &str) -> Vec<(String, Parameters)> {
    let mut found: Vec<(String, Parameters)> = Vec::new();
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let (word, after) = rest.split_at(rest.find(|c: char| !is_token(c)).unwrap_or(rest.len()));
        if word.is_empty() {
            // Neither a word nor a separator: whatever it is, it is no part of a challenge that is known.
            let mut skipped = rest.chars();
            if skipped.next().is_none() {
                return found;
            }
            rest = skipped.as_str();
            continue;
        }
        let Some(value) = after.trim_start().strip_prefix('=') else {
            found.push((word.to_owned(), Vec::new()));
            rest = after;
            continue;
        };
        let (value, after) = value_of(value.trim_start());
        if let Some((_, parameters)) = found.last_mut() {
            parameters.push((word.to_owned(), value));
        }
        rest = after;
    }
}

/// A word, or a quoted text with `\` before what counts as it is.
fn value_of(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let (word, rest) = text.split_at(text.find([',', ' ', '\t']).unwrap_or(text.len()));
        return (word.to_owned(), rest);
    };
    let mut value = String::new();
    let mut chars = quoted.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => break,
            '\\' => value.extend(chars.next()),
            c => value.push(c),
        }
    }
    (value, chars.as_str())
}

fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Option<Challenge> {
        Some(Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
            scope: scope.map(str::to_owned),
        })
    }

    #[test]
    fn registries_challenges_are_read() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#;
        let want = bearer(
            "https://auth.docker.io/token",
            Some("registry.docker.io"),
            Some("repository:a/b:pull,push"),
        );
        assert_eq!(challenge([hub]), want);
        assert_eq!(challenge([r#"Basic realm="Registry Realm""#]), Some(Challenge::Basic));
        assert_eq!(challenge(["basic"]), Some(Challenge::Basic));
        assert_eq!(
            challenge([r#"BEARER Realm = "https://a" , x=y"#]),
            bearer("https://a", None, None)
        );
        assert_eq!(
            challenge([r#"Bearer realm="a\"b",error="invalid_token""#]),
            bearer("a\"b", None, None)
        );
        assert_eq!(challenge([r#"Negotiate abc==, Digest realm="x""#]), None);
        assert_eq!(challenge(["Bearer service=x"]), None);
        assert_eq!(challenge([]), None);
    }

    #[test]
    fn of_several_the_token_is_taken() {
        let want = bearer("https://t", Some("s"), None);
        assert_eq!(
            challenge([r#"Basic realm="x", Bearer realm="https://t", service="s""#]),
            want
        );
        assert_eq!(
            challenge([r#"Bearer realm="https://t", service="s", Basic realm="x""#]),
            want
        );
        assert_eq!(
            challenge(["Basic realm=x", r#"Bearer realm="https://t",service=s"#]),
            want
        );
    }

    proptest! {
        #[test]
        fn any_header_is_read_or_passed_over(header in "\\PC{0,60}", tail in "[a-zB=\", \\\\]{0,40}") {
            challenge([header.as_str(), tail.as_str()]);
        }

        #[test]
        fn what_was_quoted_is_read_back(realm in "[ -~]{1,40}") {
            let quoted = realm.replace('\\', "\\\\").replace('"', "\\\"");
            prop_assert_eq!(challenge([format!("Bearer realm=\"{quoted}\"").as_str()]), bearer(&realm, None, None));
        }
    }
}
