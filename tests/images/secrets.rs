//! Passwords and tokens are nowhere but in the requests that need them.

use crate::bench::{Bench, group, kind, secs};
use crate::scene::{auth, front, front_with_login, has_transfer, is_by_ourselves, login, proxy, pushed, refused};
use crate::store::leases_as_text;
use base64::Engine as _;
use serde_json::{Value as Json, json};
use std::path::Path;
use testhost::front::Manner;
use testhost::layers::{Layer, Plan};
use testhost::otlp::{self, Collector};
use testhost::registry::LOGIN;
use testhost::registry_proxy::{Fate, RegistryProxy, Rule};
use testhost::rig::RigOpts;
use testhost::task::TaskSpec;
use testhost::tokens::TokenServer;

macro_rules! cases {
    ($(#[$attribute:meta])* $name:ident, $config:expr, $(if $wanted:expr,)?) => {
        group!($(#[$attribute])* $name, talkative($config), $(if $wanted,)? {
            a_password_is_in_no_log_span_label_event_error_or_file,
            what_a_registry_says_of_what_it_was_shown_is_not_repeated,
        });
    };
}

cases!(secrets, json!({}),);
cases!(
    secrets_by_ourselves,
    json!({ "image_pull_method": "client" }),
    if has_transfer(),
);
cases!(
    secrets_by_transfer,
    json!({ "image_pull_method": "transfer" }),
    if has_transfer(),
);

/// A password that no registry takes.
const WRONG: &str = "wrong-secret-of-test";

/// A bench that writes down all it can.
async fn talkative(config: Json) -> Bench {
    let mut opts = RigOpts::new(kind()).expect("CD_DRIVER_BIN");
    opts.launch = opts
        .launch
        .env("CONTAINERD_DRIVER_LOG", "trace")
        .env("OTEL_BSP_SCHEDULE_DELAY", "100");
    opts.config = config;
    Bench::bare(opts).await
}

/// All files below `dir` whose bytes have one of the needles in them.
fn found_in_files(dir: &Path, needles: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    let Ok(entries) = std::fs::read_dir(dir) else {
        return found;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(found_in_files(&path, needles)),
            Ok(kind) if kind.is_file() => {
                let bytes = std::fs::read(&path).unwrap_or_default();
                let text = String::from_utf8_lossy(&bytes);
                let hits = needles.iter().filter(|needle| text.contains(needle.as_str()));
                found.extend(hits.map(|needle| format!("{needle} in {}", path.display())));
            }
            Ok(_) | Err(_) => {}
        }
    }
    found
}

fn pair(password: &str) -> String {
    base64::engine::general_purpose::STANDARD.encode(format!("{}:{password}", LOGIN.0))
}

/// Registry and authorization server write into their errors what they were shown.
async fn what_a_registry_says_of_what_it_was_shown_is_not_repeated(b: &mut Bench) {
    let front = front_with_login(b, "echo").await;
    let token = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ0ZXN0In0.c2lnbmF0dXJlLW9mLXRlc3Q";
    let words = format!(
        "you sent Authorization: Basic {}, which is {}:{}, or Bearer {token}; see https://help.test/x?sig=signature-of-test",
        pair(LOGIN.1),
        LOGIN.0,
        LOGIN.1
    );
    let said = |status| Fate::Answer {
        status,
        headers: vec![("Content-Type".to_owned(), "application/json".to_owned())],
        body: json!({ "errors": [{ "code": "X", "message": words }], "details": words }).to_string(),
    };
    let mut told = Vec::new();
    let places = [
        ("/blobs/", 418),
        ("/blobs/", 403),
        ("/blobs/", 500),
        ("/manifests/", 403),
    ];
    for (n, (place, status)) in places.into_iter().enumerate() {
        // Each with an image of its own: what is here is not asked for.
        let name = format!("echo/image-{n}");
        pushed(
            b,
            &name,
            &Plan::new(&name).layer(Layer::of(100_000, format!("echo-{n}"))),
        )
        .await;
        let proxy = RegistryProxy::before(front.addr()).await.expect("a proxy");
        // A question that has no body in its answer.
        proxy.arm(Rule::always("/manifests/", Fate::Slow { per_second: u64::MAX }).method("HEAD"));
        proxy.arm(Rule::always(place, said(status)));
        let spec = || {
            TaskSpec::new(proxy.reference(&name, "1"))
                .sh("true")
                .option("auth", login())
        };
        told.push(format!("{:?}", refused(b, spec()).await));
        // What has come is kept for another try.
        proxy.disarm();
        assert_eq!(b.run(spec()).await.0, 0);
    }
    for status in [400, 403, 500] {
        let proxy = proxy(b).await;
        let realm = format!("Bearer realm=\"http://{}/token\",service=\"test\"", proxy.addr());
        let refusal = Fate::Answer {
            status: 401,
            headers: vec![("WWW-Authenticate".to_owned(), realm)],
            body: String::new(),
        };
        proxy.arm(Rule::always("/v2/", refusal));
        proxy.arm(Rule::always("/token", said(status)));
        let spec = TaskSpec::new(proxy.reference("echo/image-0", "1")).sh("true");
        told.push(format!("{:?}", refused(b, spec.option("auth", login())).await));
        assert!(
            proxy.seen().iter().any(|seen| seen.path.contains("/token")),
            "{:?}",
            proxy.seen()
        );
    }
    let text = format!("{}\n{}", told.join("\n"), b.rig.plugin().stderr_lines().join("\n"));
    if is_by_ourselves(b) {
        // What it says besides is repeated, so there was something to hide.
        assert!(told.iter().all(|error| error.contains("[secret]")), "{told:#?}");
    }
    let secrets = [LOGIN.1, &pair(LOGIN.1), token, "signature-of-test"];
    let hits: Vec<_> = secrets.iter().filter(|secret| text.contains(**secret)).collect();
    assert!(hits.is_empty(), "{hits:?}\n{text}");
}

async fn a_password_is_in_no_log_span_label_event_error_or_file(b: &mut Bench) {
    let collector = Collector::start().await.expect("a collector");
    let mut whole = b.rig.config().clone();
    whole["otlp_endpoint"] = json!(collector.endpoint());
    b.rig.plugin().configure(&whole).await.expect("SetConfig");
    let events = b.rig.events();
    let tokens = TokenServer::start(&b.rig.dir().join("tokens"))
        .await
        .expect("a token server");
    let by_token = front(b, "token", &Manner::default().tokens(&tokens)).await;
    let by_login = front_with_login(b, "basic").await;
    let mut told = Vec::new();
    let mut kept = Vec::new();
    for (n, front) in [&by_token, &by_login].into_iter().enumerate() {
        let proxy = RegistryProxy::before(front.addr()).await.expect("a proxy");
        let mut large = String::new();
        for which in ["fails", "wrong", "cut"] {
            let plan = Plan::new(format!("secret-{n}-{which}"));
            let plan = plan.layer(Layer::of(3 << 20, format!("secret-{n}-{which}")));
            let image = pushed(b, &format!("secret/{which}-{n}"), &plan).await;
            large.clone_from(&image.layers[1].digest);
        }
        let image = |which: &str| proxy.reference(&format!("secret/{which}-{n}"), "1");
        // Connections that break are what an error tells of with its URL.
        proxy.arm(Rule::once(&large, Fate::Cut { after: 100 }).method("GET"));
        let task = b
            .start(
                TaskSpec::new(image("cut"))
                    .command(["sleep", "3600"])
                    .option("auth", login()),
            )
            .await;
        told.push(format!("{:?} {:?}", task.inspect().await, task.handle));
        kept.push(task);
        let spec = TaskSpec::new(image("wrong")).sh("true").option("auth", auth(WRONG));
        told.push(format!("{:?}", refused(b, spec).await));
        let broken = Fate::Answer {
            status: 418,
            headers: Vec::new(),
            body: "no".to_owned(),
        };
        proxy.arm(Rule::always("/blobs/", broken).method("GET"));
        let spec = TaskSpec::new(image("fails")).sh("true").option("auth", login());
        told.push(format!("{:?}", refused(b, spec).await));
    }
    let span = collector.wait_named(secs(20), "image.pull").await;
    assert!(span.is_some(), "no span of a pull came");
    let (cd, namespace) = (&b.rig.containerd, b.rig.namespace());
    let mut text = told.join("\n");
    let log = b.rig.plugin().stderr_lines().join("\n");
    assert!(
        log.contains("\"@level\":\"debug\"") || log.contains("\"@level\":\"trace\""),
        "the log does not tell all"
    );
    text.push_str(&log);
    let events = format!("{:?}", events.events());
    assert!(events.contains("secret/cut-0"), "no event tells of a pull: {events}");
    text.push_str(&events);
    text.push_str(&otlp::render(&collector.spans()));
    text.push_str(&format!("{:?}", collector.spans()));
    text.push_str(&leases_as_text(cd, namespace).await);
    for list in [
        &["containers", "ls"][..],
        &["images", "ls"],
        &["content", "ls"],
        &["snapshots", "ls"],
        &["leases", "ls"],
    ] {
        text.push_str(&cd.ctr(namespace, list).await.expect("ctr"));
    }
    for task in &kept {
        let (container, pid) = crate::bench::container_of(task).await;
        text.push_str(
            &cd.ctr(namespace, &["containers", "info", &container])
                .await
                .expect("ctr"),
        );
        text.push_str(&std::fs::read_to_string(format!("/proc/{pid}/environ")).unwrap_or_default());
    }
    text.push_str(&testhost::procfs::cmdline(b.rig.plugin().pid()).join(" "));
    let mut needles = vec![LOGIN.1.to_owned(), WRONG.to_owned(), pair(LOGIN.1), pair(WRONG)];
    let issued: Vec<String> = tokens.asked().into_iter().filter_map(|asked| asked.issued).collect();
    assert!(!issued.is_empty(), "the token server gave nothing");
    needles.extend(issued);
    let hits: Vec<_> = needles.iter().filter(|needle| text.contains(needle.as_str())).collect();
    assert!(hits.is_empty(), "{hits:?}\n{text}");
    // containerd's log, its database with labels and specifications, the allocations, and what the plugin wrote.
    for dir in ["cd", "alloc", "tmp"] {
        let found = found_in_files(&b.rig.dir().join(dir), &needles);
        assert!(found.is_empty(), "{found:?}");
    }
    for task in kept {
        task.destroy(true).await.expect("DestroyTask");
    }
}
