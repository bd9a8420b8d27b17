//! Hosts as they are written, Docker's file, and answers of programs.

use super::*;
use proptest::prelude::*;

fn login(username: &str, password: &str) -> Credentials {
    Credentials {
        username: username.to_owned(),
        password: Secret::new(password),
        identity_token: None,
    }
}

fn sources(json: &str, host: &str) -> Result<Vec<Source>, String> {
    DockerConfig::parse(json.as_bytes()).unwrap().sources(host)
}

#[test]
fn a_host_is_known_by_all_that_means_it() {
    for (address, host) in [
        ("https://index.docker.io/v1/", "docker.io"),
        ("index.docker.io", "docker.io"),
        ("https://registry-1.docker.io/v2/", "docker.io"),
        ("docker.io", "docker.io"),
        ("ghcr.io", "ghcr.io"),
        ("GHCR.io", "ghcr.io"),
        ("https://ghcr.io", "ghcr.io"),
        ("http://r.example:5000/v2/", "r.example:5000"),
        ("r.example:5000/team/app", "r.example:5000"),
        ("[::1]:5000", "[::1]:5000"),
        (" ghcr.io\n", "ghcr.io"),
    ] {
        assert_eq!(host_of(address), host, "{address:?}");
    }
    // Another port is another registry, and so is what only ends or begins like one.
    for (one, other) in [
        ("r.example", "r.example:5000"),
        ("r.example", "evil-r.example"),
        ("docker.io", "docker.io.example"),
        ("https://docker.io@evil.example/", "docker.io"),
    ] {
        assert_ne!(host_of(one), host_of(other));
    }
}

#[test]
fn entries_of_every_form_are_read() {
    // base64 of "user:pass:word", with and without padding, with the NULs of an old version.
    let pass = Ok(vec![Source::Credentials(login("user", "pass:word"))]);
    for auth in [
        "dXNlcjpwYXNzOndvcmQ=",
        "dXNlcjpwYXNzOndvcmQ",
        "dXNlcjpwYXNz\\nOndvcmQ=",
        "dXNlcjpwYXNzOndvcmQAAA==",
    ] {
        let json = format!(r#"{{"auths": {{"r.example:5000": {{"auth": "{auth}"}}}}}}"#);
        assert_eq!(sources(&json, "r.example:5000"), pass, "{auth}");
        assert_eq!(sources(&json, "r.example"), Ok(vec![]));
    }
    let plain = r#"{"auths": {"https://r/v2/": {"username": "user", "password": "pass:word", "email": "x"}}, "HttpHeaders": {}}"#;
    assert_eq!(sources(plain, "r"), pass);
    let token = r#"{"auths": {"r": {"auth": "MDAwOg==", "identitytoken": "refresh"}}}"#;
    assert_eq!(
        sources(token, "r"),
        Ok(vec![Source::Credentials(Credentials {
            identity_token: Some(Secret::new("refresh")),
            ..login("000", "")
        })])
    );
    for nothing in [
        "",
        " \n",
        "{}",
        r#"{"auths": null}"#,
        r#"{"auths": {"r": {}}}"#,
        r#"{"auths": {"r": null}}"#,
    ] {
        assert_eq!(sources(nothing, "r"), Ok(vec![]), "{nothing:?}");
    }
}

#[test]
fn the_entry_of_docker_hub_is_under_its_old_address() {
    let json = r#"{"auths": {"docker.io": {"auth": "YTph"}, "https://index.docker.io/v1/": {"auth": "YjpiYg=="}}}"#;
    assert_eq!(
        sources(json, "docker.io"),
        Ok(vec![Source::Credentials(login("b", "bb"))])
    );
    let json = r#"{"auths": {"registry-1.docker.io": {"auth": "YTph"}}}"#;
    assert_eq!(
        sources(json, "docker.io"),
        Ok(vec![Source::Credentials(login("a", "a"))])
    );
}

#[test]
fn the_hosts_own_program_comes_first_and_the_store_last() {
    let json = r#"{"auths": {"r": {"auth": "YTph"}}, "credHelpers": {"https://r": "ecr-login"}, "credsStore": "pass"}"#;
    let own = Source::Helper("ecr-login".to_owned());
    let store = Source::Helper("pass".to_owned());
    assert_eq!(
        sources(json, "r"),
        Ok(vec![own, Source::Credentials(login("a", "a")), store.clone()])
    );
    assert_eq!(sources(json, "q"), Ok(vec![store]));
    let bad = r#"{"credHelpers": {"r": "../evil"}}"#;
    assert!(
        sources(bad, "r")
            .unwrap_err()
            .starts_with("credHelpers of r: \"../evil\": the NAME of a program")
    );
    assert_eq!(sources(bad, "q"), Ok(vec![]));
    assert!(
        sources(r#"{"credsStore": "a b"}"#, "q")
            .unwrap_err()
            .starts_with("credsStore: ")
    );
}

#[test]
fn what_cannot_be_read_is_named_and_not_shown() {
    for broken in [
        r#"{"auths": {"r": {"auth": ["hunter2"]}}}"#,
        r#"{"auths": {"r": "hunter2"}}"#,
        r#"{"auths": "hunter2"}"#,
        r#"{"auths": {"r": {"auth": "hunter2"#,
        r#""hunter2""#,
    ] {
        let text = DockerConfig::parse(broken.as_bytes()).err().unwrap();
        assert!(
            text.starts_with("line 1, column ") && !text.contains("hunter2"),
            "{text}"
        );
    }
    for (entry, want) in [
        (r#"{"auth": "hunter2!"}"#, "auth is expected to be base64"),
        (r#"{"auth": "aHVudGVyMg=="}"#, "auth is expected to be base64"),
        (r#"{"auth": "dXNlcjo="}"#, "a password or an identitytoken"),
        (r#"{"username": "hunter2"}"#, "a password or an identitytoken"),
        (r#"{"registrytoken": "hunter2"}"#, "a registrytoken alone"),
    ] {
        let json = format!(r#"{{"auths": {{"r": {entry}}}}}"#);
        let text = sources(&json, "r").unwrap_err();
        assert!(
            text.starts_with("auths of r: ") && text.contains(want) && !text.contains("hunter2"),
            "{text}"
        );
        assert_eq!(
            sources(&json, "other"),
            Ok(vec![]),
            "an entry of another registry does no harm"
        );
    }
}

#[test]
fn answers_of_programs_are_read() {
    let answer = |text: &str| helper_answer(text.as_bytes());
    assert_eq!(
        answer(r#"{"ServerURL":"https://r","Username":"AWS","Secret":"s"}"#),
        Ok(Some(login("AWS", "s")))
    );
    assert_eq!(
        answer(r#"{"Username":"<token>","Secret":"refresh"}"#),
        Ok(Some(Credentials {
            identity_token: Some(Secret::new("refresh")),
            ..login("", "")
        }))
    );
    assert_eq!(answer(r#"{"ServerURL":"r","Username":"","Secret":""}"#), Ok(None));
    for bad in [
        "",
        "hunter2",
        r#"{"Secret": ["hunter2"]}"#,
        r#"{"Username": "hunter2"}"#,
    ] {
        assert!(!answer(bad).unwrap_err().contains("hunter2"), "{bad}");
    }
    assert!(says_not_found(b"credentials not found in native keychain\n"));
    assert!(!says_not_found(b"no basic auth credentials"));
}

#[test]
fn programs_are_asked_as_docker_and_as_nomad_do() {
    assert_eq!(
        helper_questions("docker.io"),
        ["https://index.docker.io/v1/", "https://docker.io"]
    );
    assert_eq!(helper_questions("r:5000"), ["r:5000", "https://r:5000"]);
    assert!(check_helper("ecr-login").is_ok());
    for bad in ["", "a/b", "../x", "a b", "x;y", "ü"] {
        assert!(check_helper(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn neither_secret_shows_in_debug() {
    let credentials = Credentials {
        identity_token: Some(Secret::new("hunter3")),
        ..login("u", "hunter2")
    };
    let shown = format!("{credentials:?} {:?}", Source::Credentials(credentials.clone()));
    assert!(!shown.contains("hunter") && shown.contains("[secret]"), "{shown}");
}

fn host() -> impl Strategy<Value = String> {
    "[a-z][a-z0-9]{0,8}(\\.[a-z]{2,5}){0,2}(:[1-9][0-9]{0,3})?"
}

proptest! {
    #[test]
    fn an_address_means_its_host_however_it_is_written(
        host in host(),
        scheme in "(https://|http://|HTTPS://)?",
        path in "(/v1/|/v2/|/team/app)?",
    ) {
        prop_assert_eq!(host_of(&format!("{scheme}{host}{path}")), host_of(&host));
        prop_assert_eq!(host_of(&host_of(&host)), host_of(&host));
    }

    #[test]
    fn an_entry_is_for_its_host_and_no_other(one in host(), other in host(), password in "[a-zA-Z0-9]{1,20}") {
        let auth = base64::engine::general_purpose::STANDARD.encode(format!("u:{password}"));
        let json = format!(r#"{{"auths": {{"https://{one}/v2/": {{"auth": "{auth}"}}}}}}"#);
        let found = sources(&json, &host_of(&other)).unwrap();
        prop_assert_eq!(sources(&json, &host_of(&one)).unwrap(), vec![Source::Credentials(login("u", &password))]);
        prop_assert_eq!(found.is_empty(), host_of(&one) != host_of(&other));
    }

    #[test]
    fn any_file_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200), host in host()) {
        if let Ok(config) = DockerConfig::parse(&bytes) {
            config.sources(&host).ok();
        }
        helper_answer(&bytes).ok();
    }

    #[test]
    fn no_refusal_has_the_secret_in_it(auth in "[a-zA-Z0-9+/]{12,40}", place in 0_usize..4) {
        let shapes = [
            format!(r#"{{"auths": {{"r": {{"auth": "{auth}!"}}}}}}"#),
            format!(r#"{{"auths": {{"r": {{"auth": {{"{auth}": 1}}}}}}}}"#),
            format!(r#"{{"auths": {{"r": {{"registrytoken": "{auth}"}}}}}}"#),
            format!(r#"{{"auths": {{"r": {{"password": "{auth}", "username": 3}}}}}}"#),
        ];
        let text = match DockerConfig::parse(shapes[place].as_bytes()) {
            Ok(config) => config.sources("r").unwrap_err(),
            Err(text) => text,
        };
        prop_assert!(!text.contains(&auth), "{}", text);
    }
}
