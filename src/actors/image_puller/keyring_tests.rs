//! Whose credentials go to whom, and what is told where they cannot be had.

use super::*;
use crate::messages::image::{CredentialScope, PullPolicy};
use crate::spec::secret::Secret;

fn login(username: &str) -> Credentials {
    Credentials {
        username: username.to_owned(),
        password: Secret::new("hunter2"),
        identity_token: None,
    }
}

fn request(image: &str, credentials: Option<Credentials>, scope: CredentialScope) -> EnsureImage {
    EnsureImage {
        image: image.to_owned(),
        credentials,
        scope,
        policy: PullPolicy::default(),
        timeout: Duration::from_secs(9),
        job: String::new(),
        load: None,
        snapshotter: "overlayfs".to_owned(),
        observer: None,
    }
}

fn keyring(plugin: PluginAuth, request: &EnsureImage) -> Keyring {
    let settings = Settings {
        auth: Some(plugin),
        ..Settings::default()
    };
    let keys = Keys::default().with(&settings);
    keys.keyring(request, &Reference::parse(&request.image).unwrap())
}

/// The plugin's own password, for these hosts.
fn plugin(hosts: &[&str]) -> PluginAuth {
    PluginAuth {
        username: "node".to_owned(),
        password: Secret::new("hunter2"),
        hosts: Some(hosts.iter().map(|h| (*h).to_owned()).collect()),
        ..PluginAuth::default()
    }
}

async fn user(keyring: &Keyring, host: &str) -> Option<String> {
    keyring.of(host).await.unwrap().map(|found| found.username)
}

#[tokio::test]
async fn credentials_are_shown_only_to_their_host() {
    let hub = Keyring::single("docker.io", Some(login("u")));
    assert_eq!(hub.of("registry-1.docker.io").await, Ok(Some(login("u"))));
    assert_eq!(hub.of("mirror.example").await, Ok(None));
    let other = Keyring::single("r.x:5000", Some(login("u")));
    assert_eq!(other.of("r.x").await, Ok(None));
    assert_eq!(Keyring::single("r.x", None).of("r.x").await, Ok(None));
}

#[tokio::test]
async fn a_tasks_credentials_are_for_its_images_registry_or_for_the_one_it_names() {
    let own = request("r:5000/a", Some(login("task")), CredentialScope::default());
    let ring = keyring(plugin(&["r:5000", "mirror:5000"]), &own);
    assert_eq!(user(&ring, "r:5000").await.as_deref(), Some("task"));
    assert_eq!(user(&ring, "mirror:5000").await.as_deref(), Some("node"));
    assert_eq!(user(&ring, "evil.example").await, None);
    let scope = CredentialScope {
        server_address: Some("https://mirror:5000/v2/".to_owned()),
        ..CredentialScope::default()
    };
    let elsewhere = request("r:5000/a", Some(login("task")), scope);
    let ring = keyring(plugin(&["r:5000", "mirror:5000"]), &elsewhere);
    assert_eq!(user(&ring, "r:5000").await.as_deref(), Some("node"));
    assert_eq!(user(&ring, "mirror:5000").await.as_deref(), Some("task"));
}

#[tokio::test]
async fn the_plugins_file_comes_before_its_password() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.json");
    std::fs::write(
        &file,
        r#"{"auths": {"https://r:5000/v2/": {"auth": "ZmlsZTpodW50ZXIy"}}}"#,
    )
    .unwrap();
    let auth = PluginAuth {
        config: Some(file.display().to_string()),
        ..plugin(&["*"])
    };
    let none = request("r:5000/a", None, CredentialScope::default());
    let ring = keyring(auth.clone(), &none);
    assert_eq!(user(&ring, "r:5000").await.as_deref(), Some("file"));
    assert_eq!(user(&ring, "other").await.as_deref(), Some("node"));
    // The file is read anew: its owner need not restart anything.
    std::fs::write(&file, "{}").unwrap();
    assert_eq!(user(&ring, "r:5000").await.as_deref(), Some("node"));
    let own = request("r:5000/a", Some(login("task")), CredentialScope::default());
    assert_eq!(user(&keyring(auth, &own), "r:5000").await.as_deref(), Some("task"));
}

#[tokio::test]
async fn what_cannot_be_had_is_an_error_that_names_it_unless_the_task_bears_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.json");
    std::fs::write(&file, r#"{"auths": {"r.x": {"auth": "hunter2"}}}"#).unwrap();
    let with_file = PluginAuth {
        config: Some(file.display().to_string()),
        ..plugin(&["r.x"])
    };
    let with_program = PluginAuth {
        helper: Some("that-nobody-has".to_owned()),
        ..plugin(&["r.x"])
    };
    for (auth, words) in [
        (
            &with_file,
            ["option auth.config of the plugin", "config.json: auths of r.x: "],
        ),
        (
            &with_program,
            [
                "option auth.helper of the plugin",
                "docker-credential-that-nobody-has: there is no program",
            ],
        ),
    ] {
        let strict = request("r.x/a", None, CredentialScope::default());
        let error = keyring(auth.clone(), &strict).of("r.x").await.unwrap_err();
        let text = error.to_string();
        assert!(
            words.iter().all(|word| text.contains(word)) && !error.is_transient(),
            "{text}"
        );
        assert!(!format!("{text} {error:?}").contains("hunter2"), "{text}");
        let scope = CredentialScope {
            soft_fail: true,
            ..CredentialScope::default()
        };
        let soft = request("r.x/a", None, scope);
        assert_eq!(
            user(&keyring(auth.clone(), &soft), "r.x").await.as_deref(),
            Some("node")
        );
    }
    let scope = CredentialScope {
        helper: Some("that-nobody-has".to_owned()),
        ..CredentialScope::default()
    };
    let error = keyring(plugin(&["r.x"]), &request("r.x/a", None, scope))
        .of("r.x")
        .await
        .unwrap_err();
    assert!(error.to_string().starts_with("option auth.helper: "), "{error}");
}

#[tokio::test]
async fn whose_credentials_were_used_is_known() {
    let none = request("r.x/a", None, CredentialScope::default());
    let own = request("r.x/a", Some(login("task")), CredentialScope::default());
    let ring = keyring(plugin(&["r.x"]), &none);
    assert_eq!(ring.used(), None);
    assert_eq!(user(&ring, "elsewhere").await, None);
    assert_eq!(ring.used(), None, "nobody's were given out");
    assert_eq!(ring.look("r.x").await, Ok(Some(Whose::Node)));
    assert_eq!(ring.used(), None, "a look gives nothing out");
    let clone = ring.clone();
    user(&clone, "r.x").await;
    assert_eq!((ring.used(), ring.is_the_nodes()), (Some(Whose::Node), true));
    let ring = keyring(plugin(&["mirror"]), &own);
    user(&ring, "mirror").await;
    user(&ring, "r.x").await;
    assert_eq!((ring.used(), ring.is_the_nodes()), (Some(Whose::Task), false));
}

#[tokio::test]
async fn a_password_that_is_for_no_host_is_told_of() {
    let denied = || ImageError::Denied {
        image: "r.x/a".to_owned(),
        reason: "no".to_owned(),
    };
    let none = request("r.x/a", None, CredentialScope::default());
    let told = keyring(plugin(&["other"]), &none)
        .explained(denied(), "r.x")
        .to_string();
    assert!(
        told.contains("are not for r.x: auth.server_address") && !told.contains("hunter2"),
        "{told}"
    );
    let used = keyring(plugin(&["r.x"]), &none);
    user(&used, "r.x").await;
    assert_eq!(used.explained(denied(), "r.x"), denied());
    let scope = CredentialScope {
        server_address: Some("mirror.x".to_owned()),
        ..CredentialScope::default()
    };
    let bound = keyring(PluginAuth::default(), &request("r.x/a", Some(login("task")), scope));
    let told = bound.explained(denied(), "r.x").to_string();
    assert!(told.contains("the task's credentials are for mirror.x"), "{told}");
    let without = keyring(PluginAuth::default(), &none);
    assert_eq!(without.explained(denied(), "r.x"), denied());
}

#[tokio::test]
async fn no_part_of_it_shows_a_secret() {
    let token = Credentials {
        identity_token: Some(Secret::new("hunter3")),
        ..login("u")
    };
    let request = request("r.x/a", Some(token), CredentialScope::default());
    let ring = keyring(plugin(&["r.x"]), &request);
    let found = ring.of("r.x").await.unwrap();
    let shown = format!("{ring:?} {found:?} {request:?} {:?}", Keys::default());
    assert!(!shown.contains("hunter") && shown.contains("[secret]"), "{shown}");
}

#[tokio::test]
async fn a_tasks_credentials_are_for_the_server_of_its_registry_and_for_no_mirror() {
    let own = request("x.test/a", Some(login("task")), CredentialScope::default());
    let ring = keyring(plugin(&[]), &own).served_by("x.test", "127.0.0.1:5000");
    assert_eq!(user(&ring, "127.0.0.1:5000").await.as_deref(), Some("task"));
    assert_eq!(user(&ring, "x.test").await.as_deref(), Some("task"));
    assert_eq!(user(&ring, "mirror.test").await, None);
    let elsewhere = CredentialScope {
        server_address: Some("y.test".to_owned()),
        ..CredentialScope::default()
    };
    let own = request("x.test/a", Some(login("task")), elsewhere);
    let ring = keyring(plugin(&[]), &own).served_by("x.test", "127.0.0.1:5000");
    assert_eq!(user(&ring, "127.0.0.1:5000").await, None);
}

#[tokio::test]
async fn the_plugins_credentials_are_for_the_server_of_its_registry_and_for_no_mirror() {
    let none = request("a/b", None, CredentialScope::default());
    let at = |plugin| keyring(plugin, &none).served_by("docker.io", "127.0.0.1:5000");
    let ring = at(plugin(&["docker.io"]));
    assert_eq!(user(&ring, "127.0.0.1:5000").await.as_deref(), Some("node"));
    assert_eq!(user(&ring, "mirror.test").await, None);
    assert_eq!(user(&at(plugin(&["elsewhere"])), "127.0.0.1:5000").await, None);
    let dir = tempfile::tempdir().unwrap();
    let file = |auths: &str| {
        let path = dir.path().join("config.json");
        std::fs::write(&path, format!(r#"{{"auths":{{{auths}}}}}"#)).unwrap();
        PluginAuth {
            config: Some(path.display().to_string()),
            ..PluginAuth::default()
        }
    };
    let hub = r#""https://index.docker.io/v1/":{"username":"hub","password":"p"}"#;
    assert_eq!(user(&at(file(hub)), "127.0.0.1:5000").await.as_deref(), Some("hub"));
    // Its own comes before.
    let both = format!(r#"{hub},"127.0.0.1:5000":{{"username":"own","password":"p"}}"#);
    assert_eq!(user(&at(file(&both)), "127.0.0.1:5000").await.as_deref(), Some("own"));
}

#[tokio::test]
async fn credentials_that_have_changed_are_others() {
    let none = request("r.x/a", None, CredentialScope::default());
    let ring = keyring(plugin(&["r.x"]), &none);
    let given = |username: &str| Given::new(HashMap::from([("r.x".to_owned(), login(username))]));
    assert_eq!(ring.has_others(&given("node")).await, Ok(false));
    assert_eq!(ring.has_others(&given("before")).await, Ok(true));
    assert_eq!(ring.has_others(&Given::default()).await, Ok(false));
}

#[tokio::test]
async fn the_plugins_password_is_not_told_of_where_the_task_has_its_own() {
    let own = request("r.x/a", Some(login("task")), CredentialScope::default());
    let denied = ImageError::Denied {
        image: "r.x/a".to_owned(),
        reason: "no".to_owned(),
    };
    let told = keyring(plugin(&["other"]), &own).explained(denied.clone(), "r.x");
    assert_eq!(told, denied);
}
