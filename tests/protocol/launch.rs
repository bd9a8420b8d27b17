//! Cookie, handshake line, socket, the three launches of an agent.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};

use testhost::plugin::{HOST_ENV, LaunchOpts, Plugin, launch_like_agent};
use testhost::wire::base::PluginType;

use crate::bare::ended;
use crate::{SECOND, bin, home, launch, nowhere, opts, sockets};

const COOKIE: &str = HOST_ENV[0].0;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn without_the_right_cookie_it_explains_itself_and_exits_1() {
    for env in [&[][..], &[(COOKIE, "wrong")], &[(COOKIE, "")]] {
        let output = ended(&[], env);
        assert_eq!(output.status.code(), Some(1), "{env:?}");
        assert!(output.stdout.is_empty(), "{env:?}: {}", text(&output.stdout));
        let explained = text(&output.stderr);
        for word in ["Nomad", "plugin", "containerd-driver run", "version"] {
            assert!(explained.contains(word), "{env:?}: no {word:?} in {explained}");
        }
    }
}

#[test]
fn mutual_tls_is_refused_before_the_handshake() {
    let mut env = HOST_ENV.to_vec();
    env.push(("PLUGIN_CLIENT_CERT", "-----BEGIN CERTIFICATE-----"));
    let output = ended(&[], &env);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
    assert!(
        text(&output.stderr).contains("PLUGIN_CLIENT_CERT"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn a_socket_directory_that_cannot_be_used_is_named() {
    let long = format!("/tmp/{}", "x".repeat(120));
    for dir in ["/nonexistent/dir", "relative", "/tmp/a|b", &long] {
        let mut env = HOST_ENV.to_vec();
        env.push(("PLUGIN_UNIX_SOCKET_DIR", dir));
        let output = ended(&[], &env);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{dir}");
        assert!(text(&output.stderr).contains(dir), "{dir}: {}", text(&output.stderr));
    }
}

#[tokio::test]
async fn the_handshake_is_one_line_of_six_fields_within_a_second() {
    let home = home();
    let plugin = launch(&home).await;
    assert_eq!(
        plugin.handshake().line,
        format!("1|2|unix|{}|grpc|", plugin.socket().display())
    );
    assert!(plugin.handshake_after() < SECOND, "{:?}", plugin.handshake_after());
    let socket = plugin.socket().metadata().expect("socket");
    assert!(socket.file_type().is_socket());
    assert!(plugin.socket().starts_with(home.path()));
    plugin.configure(&nowhere(&home)).await.expect("SetConfig");
    plugin.init().await.expect("Init");
    plugin.kill_sequence().await;
    plugin.pipes_eof().await;
    assert!(plugin.stdout_lines().is_empty(), "{:?}", plugin.stdout_lines());
}

#[tokio::test]
async fn the_seventh_field_comes_only_when_asked_for() {
    let home = home();
    for (asked, rest) in [("", &[""][..]), ("true", &["", "false"]), ("1", &["", "false"])] {
        let plugin = Plugin::launch(&bin(), opts(&home).env("PLUGIN_MULTIPLEX_GRPC", asked))
            .await
            .expect("launch");
        assert_eq!(plugin.handshake().rest, rest, "{asked:?}");
        plugin.info().await.expect("PluginInfo");
    }
}

#[tokio::test]
async fn protocol_two_is_answered_whatever_is_offered() {
    let home = home();
    for offered in ["1,2,3", "3", ""] {
        let plugin = Plugin::launch(&bin(), opts(&home).env("PLUGIN_PROTOCOL_VERSIONS", offered))
            .await
            .expect("launch");
        assert_eq!(plugin.handshake().app_version, 2, "{offered:?}");
    }
}

#[tokio::test]
async fn the_hosts_socket_directory_and_group_are_honoured() {
    let (home, given) = (home(), home());
    let opts = opts(&home)
        .env("PLUGIN_UNIX_SOCKET_DIR", given.path())
        .env("PLUGIN_UNIX_SOCKET_GROUP", "12345");
    let plugin = Plugin::launch(&bin(), opts).await.expect("launch");
    assert!(plugin.socket().starts_with(given.path()));
    assert!(sockets(home.path()).is_empty());
    let meta = plugin.socket().metadata().expect("socket");
    assert_eq!((meta.gid(), meta.mode() & 0o777), (12345, 0o660));
}

#[tokio::test]
async fn a_tmpdir_that_is_too_long_gives_way_to_tmp() {
    let home = home();
    let deep = home.path().join("d".repeat(100));
    std::fs::create_dir(&deep).expect("directory");
    let plugin = Plugin::launch(&bin(), LaunchOpts::default().env("TMPDIR", &deep))
        .await
        .expect("launch");
    assert!(plugin.socket().starts_with("/tmp"));
    plugin.info().await.expect("PluginInfo");
}

#[tokio::test]
async fn three_launches_tell_the_same_and_leave_no_socket() {
    let home = home();
    let (first, second) = (launch(&home).await, launch(&home).await);
    let info = first.info().await.expect("PluginInfo");
    assert_eq!(info.r#type(), PluginType::Driver);
    assert_eq!(
        (info.name.as_str(), info.plugin_api_versions.as_slice()),
        ("containerd-driver", &["v0.1.0".to_owned()][..])
    );
    let version = info.plugin_version.strip_prefix('v').expect("a v");
    let numbers: Vec<u32> = version.split('.').map(|n| n.parse().expect("a number")).collect();
    assert!(
        numbers.len() == 3 && numbers > vec![0, 9, 3],
        "Nomad takes the highest version: {version}"
    );
    assert_eq!(info, second.info().await.expect("PluginInfo"));
    for probe in [first, second] {
        let report = probe.kill_sequence().await;
        assert!(
            !report.forced && !report.socket_left && report.status.is_some_and(|s| s.success()),
            "{report:?}"
        );
    }
    let instance = launch_like_agent(&bin(), &nowhere(&home), opts(&home))
        .await
        .expect("three launches");
    assert_eq!(info, instance.info().await.expect("PluginInfo"));
    let report = instance.shutdown().await.expect("Driver.Shutdown");
    assert!(!report.forced && !report.socket_left, "{report:?}");
    assert!(sockets(home.path()).is_empty(), "{:?}", sockets(home.path()));
}
