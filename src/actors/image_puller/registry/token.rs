//! What a registry is shown: user and password, or a token that an authorization server gives for them (Docker's token
//! authentication and its OAuth2 form). It is kept for the session and had anew when the registry does not take it any more.

use super::Common;
use super::challenge::Challenge;
use super::remote::{Remote, body, is_same_place, redirect, sent};
use crate::actors::image_puller::refusal::Failure;
use crate::messages::image::Credentials;
use crate::spec::reference::is_loopback;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{self, HeaderValue};
use reqwest::{Response, Url};
use serde::Deserialize;
use tokio::sync::Mutex;

/// Most bytes of an answer with a token; those with many groups in them have some ten thousand.
const ANSWER_MAX_BYTES: u64 = 1 << 20;
/// Redirects of an authorization server that are followed.
const REDIRECTS_MAX: usize = 3;
/// Who asks for a token, as OAuth2 wants to know.
const CLIENT_ID: &str = "containerd-driver";

/// What is shown to one host, with the number of its making.
#[derive(Debug, Clone, Default)]
pub(super) struct Shown {
    pub(super) header: Option<HeaderValue>,
    made: u64,
    basic: bool,
    with_credentials: bool,
    /// Made by the one who asks, and not by somebody else meanwhile.
    own: bool,
    /// Made of credentials that programs were asked for anew, after others had been refused.
    renewed: bool,
}

/// Keeps what is shown to one host. One asks for a token, the others wait for it.
#[derive(Default)]
pub(super) struct Authorizer(Mutex<Shown>);

#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
}

impl Authorizer {
    pub(super) async fn shown(&self) -> Shown {
        let shown = self.0.lock().await.clone();
        Shown { own: false, ..shown }
    }

    /// What is to be shown in place of `refused`.
    pub(super) async fn renew(
        &self,
        remote: &Remote,
        common: &Common,
        challenge: &Challenge,
        refused: &Shown,
    ) -> Result<Shown, Failure> {
        let mut now = self.0.lock().await;
        if now.made != refused.made {
            return Ok(Shown {
                own: false,
                ..now.clone()
            });
        }
        let host = &remote.address.host;
        let denied = || {
            Failure::Denied(match refused.with_credentials {
                true => format!("{host} does not accept the credentials"),
                false => format!("{host} wants credentials, none were given"),
            })
        };
        // A password that a program has given a while ago may be another one by now.
        if refused.own && (!refused.basic || refused.renewed) {
            return Err(denied());
        }
        let credentials = match refused.basic {
            true => common.keyring.again(host).await,
            false => common.keyring.of(host).await,
        };
        let mut credentials = credentials.map_err(Failure::Other)?;
        let (mut header, basic) = match challenge {
            Challenge::Basic => match credentials.as_ref().filter(|c| has_password(c)) {
                Some(credentials) => (basic(credentials)?, true),
                None => return Err(Failure::Denied(format!("{host} wants credentials, none were given"))),
            },
            Challenge::Bearer { realm, service, scope } => {
                let wanted = Wanted {
                    realm,
                    service: service.as_deref(),
                    scopes: scopes(&common.repository, scope.as_deref()),
                };
                let mut given = token(remote, common, &wanted, credentials.as_ref()).await;
                if matches!(given, Err(Failure::Denied(_))) {
                    // Programs may have others by now.
                    let newer = common.keyring.again(host).await.map_err(Failure::Other)?;
                    if newer != credentials {
                        given = token(remote, common, &wanted, newer.as_ref()).await;
                        credentials = newer;
                    }
                }
                (given?, false)
            }
        };
        if refused.basic && refused.header.as_ref() == Some(&header) {
            // Nothing else is there to be shown: they were good once and are no more.
            return Err(denied());
        }
        header.set_sensitive(true);
        *now = Shown {
            header: Some(header),
            made: refused.made + 1,
            basic,
            with_credentials: credentials.is_some(),
            own: true,
            renewed: refused.basic,
        };
        Ok(now.clone())
    }
}

struct Wanted<'a> {
    realm: &'a str,
    service: Option<&'a str>,
    scopes: Vec<String>,
}

/// What the token is for: this repository, and what else the registry names. A mirror may call the repository otherwise.
fn scopes(repository: &str, named: Option<&str>) -> Vec<String> {
    let own = format!("repository:{repository}:pull");
    let mut scopes = vec![own];
    for scope in named.unwrap_or_default().split_whitespace() {
        if !scopes.iter().any(|known| known == scope) {
            scopes.push(scope.to_owned());
        }
    }
    scopes
}

async fn token(
    remote: &Remote,
    common: &Common,
    wanted: &Wanted<'_>,
    credentials: Option<&Credentials>,
) -> Result<HeaderValue, Failure> {
    let unusable = || {
        let host = &remote.address.host;
        Failure::Unusable(format!(
            "{host} names {:?} as its authorization server, which is no URL",
            wanted.realm
        ))
    };
    let realm = Url::parse(wanted.realm).map_err(|_| unusable())?;
    let server = realm.host_str().ok_or_else(unusable)?.to_owned();
    match realm.scheme() {
        "https" => {}
        // What goes to this machine itself can be read by nobody on the way.
        "http" if credentials.is_none() || remote.is_plain(common) || is_loopback(&server) => {}
        "http" => {
            return Err(Failure::Denied(format!(
                "{} wants the credentials sent without TLS to {server}",
                remote.address.host
            )));
        }
        _ => return Err(unusable()),
    }
    let identity = credentials.and_then(|c| c.identity_token.as_ref());
    let answer = match identity {
        Some(identity) => {
            let mut pairs = vec![
                ("grant_type", "refresh_token"),
                ("client_id", CLIENT_ID),
                ("refresh_token", identity.reveal()),
            ];
            let scopes = wanted.scopes.join(" ");
            pairs.push(("scope", &scopes));
            pairs.extend(wanted.service.map(|service| ("service", service)));
            let form = form(&realm, &pairs);
            let request = remote
                .client_for(&realm)
                .post(realm.clone())
                .headers(remote.headers_for(&realm))
                .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
            sent(request.body(form), common.idle).await
        }
        None => get(remote, common, realm, wanted, credentials).await,
    };
    let trouble = |reason: &str| format!("no token from the authorization server {server}: {reason}");
    let answer = answer.map_err(|e| match e {
        Failure::Down(reason) | Failure::Broken(reason) => Failure::Broken(trouble(&reason)),
        other => other,
    })?;
    let (status, headers) = (answer.status(), answer.headers().clone());
    let Some(said) = body(answer, ANSWER_MAX_BYTES, common.idle).await? else {
        return Err(Failure::Broken(trouble("its answer is too long")));
    };
    if !status.is_success() {
        return Err(Failure::of_authorization_server(
            &server,
            status,
            &headers,
            &said,
            &common.keyring,
        ));
    }
    let answer: TokenAnswer =
        serde_json::from_slice(&said).map_err(|_| Failure::Broken(trouble("its answer cannot be read")))?;
    let token = match answer.token.is_empty() {
        true => answer.access_token,
        false => answer.token,
    };
    if token.is_empty() {
        return Err(Failure::Broken(trouble("there is none in its answer")));
    }
    common.keyring.knows(&token);
    HeaderValue::try_from(format!("Bearer {token}"))
        .map_err(|_| Failure::Broken(trouble("it is no text that can be sent")))
}

async fn get(
    remote: &Remote,
    common: &Common,
    realm: Url,
    wanted: &Wanted<'_>,
    credentials: Option<&Credentials>,
) -> Result<Response, Failure> {
    let credentials = credentials.filter(|c| has_password(c));
    let mut url = realm;
    {
        let mut query = url.query_pairs_mut();
        if let Some(service) = wanted.service {
            query.append_pair("service", service);
        }
        for scope in &wanted.scopes {
            query.append_pair("scope", scope);
        }
        if let Some(credentials) = credentials.filter(|c| !c.username.is_empty()) {
            query.append_pair("account", &credentials.username);
        }
    }
    let mut at_home = true;
    for _ in 0..=REDIRECTS_MAX {
        let mut request = remote.client_for(&url).get(url.clone());
        if at_home {
            request = request.headers(remote.headers_for(&url));
            if let Some(credentials) = credentials {
                let mut header = basic(credentials)?;
                header.set_sensitive(true);
                request = request.header(header::AUTHORIZATION, header);
            }
        }
        let response = sent(request, common.idle).await?;
        let Some(next) = redirect(&response)? else {
            return Ok(response);
        };
        at_home = at_home && is_same_place(&url, &next);
        url = next;
    }
    Err(Failure::Unusable(format!(
        "the authorization server redirects more than {REDIRECTS_MAX} times"
    )))
}

fn basic(credentials: &Credentials) -> Result<HeaderValue, Failure> {
    let text = format!("{}:{}", credentials.username, credentials.password.reveal());
    HeaderValue::try_from(format!("Basic {}", STANDARD.encode(text)))
        .map_err(|_| Failure::Denied("the credentials are no text that can be sent".to_owned()))
}

/// Whether there is anything to be shown as user and password.
fn has_password(credentials: &Credentials) -> bool {
    !credentials.username.is_empty() || !credentials.password.is_empty()
}

/// Pairs as a form has them. The encoding is that of a query.
fn form(any: &Url, pairs: &[(&str, &str)]) -> String {
    let mut url = any.clone();
    url.set_query(None);
    url.query_pairs_mut().extend_pairs(pairs);
    url.query().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_for_the_repository_and_for_what_the_registry_calls_it() {
        let own = "repository:a/b:pull";
        assert_eq!(scopes("a/b", None), [own]);
        assert_eq!(scopes("a/b", Some(own)), [own]);
        assert_eq!(
            scopes("a/b", Some("repository:proxy/a/b:pull x")),
            [own, "repository:proxy/a/b:pull", "x"]
        );
    }

    #[test]
    fn a_form_is_encoded() {
        assert_eq!(
            form(
                &Url::parse("https://t/?q=1").unwrap(),
                &[("a", "b c&d=e"), ("t", "x+/=")]
            ),
            "a=b+c%26d%3De&t=x%2B%2F%3D"
        );
    }
}
