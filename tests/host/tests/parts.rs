//! Parts of the host that need neither containerd nor a plugin.

use std::io::Write;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans};
use serde_json::json;
use testhost::alloc::Alloc;
use testhost::census::Holdings;
use testhost::otlp::{self, Collector, Span};
use testhost::plugin::{LaunchOpts, Plugin};
use testhost::task::TaskSpec;
use testhost::wire::hclspec::{Attr, Object, Spec, spec::Block as Kind};

const SOON: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_collector_reads_until_eof_pauses_and_closes() {
    let dir = tempfile::tempdir().expect("tempdir");
    let alloc = Alloc::new(dir.path()).expect("alloc");
    alloc.add_task("web").expect("task");
    let logs = alloc.collect_logs("web").expect("collectors");
    let fifo = alloc.fifo("web", "stdout");
    let mut writer =
        tokio::task::spawn_blocking(move || std::fs::File::options().write(true).open(fifo).expect("open"))
            .await
            .expect("join");
    writeln!(writer, "one").expect("write");
    assert_eq!(logs.stdout.wait_line(SOON, "one").await.as_deref(), Some("one"));
    logs.stdout.pause();
    tokio::time::sleep(Duration::from_millis(50)).await;
    writeln!(writer, "two").expect("write");
    assert_eq!(logs.stdout.wait_line(Duration::from_millis(200), "two").await, None);
    logs.stdout.resume();
    assert!(logs.stdout.wait_line(SOON, "two").await.is_some());
    drop(writer);
    assert!(logs.stdout.wait_eof(SOON).await);
    assert_eq!(logs.stdout.lines(), ["one", "two"]);
    assert_eq!(logs.stdout.line_times().len(), 2);
    assert_eq!(
        std::fs::read_to_string(alloc.logs_dir().join("web.stdout.0")).expect("copy"),
        "one\ntwo\n"
    );
    // Nobody ever opened the other pipe: closing must release its thread.
    assert!(logs.stderr.ended_at().is_none());
    logs.stderr.close();
    assert!(logs.stderr.wait_eof(SOON).await);
}

#[tokio::test]
async fn the_trace_collector_knows_a_tree_from_a_forest() {
    let collector = Collector::start().await.expect("collector");
    let span = |id: u8, parent: u8, name: &str| Span {
        trace_id: vec![7; 16],
        span_id: vec![id; 8],
        parent_span_id: if parent == 0 { Vec::new() } else { vec![parent; 8] },
        name: name.into(),
        ..Span::default()
    };
    let spans = vec![
        span(1, 0, "task.start"),
        span(2, 1, "image.pull"),
        span(3, 1, "task.create"),
    ];
    let scope = ScopeSpans {
        spans: spans.clone(),
        ..ScopeSpans::default()
    };
    let resource = ResourceSpans {
        scope_spans: vec![scope],
        ..ResourceSpans::default()
    };
    let mut client = TraceServiceClient::connect(collector.endpoint())
        .await
        .expect("connect");
    client
        .export(ExportTraceServiceRequest {
            resource_spans: vec![resource],
        })
        .await
        .expect("export");
    assert!(collector.wait_named(SOON, "image.pull").await.is_some());
    let trace = collector.trace(&[7; 16]);
    assert!(otlp::is_connected_tree(&trace), "{}", otlp::render(&trace));
    let mut forest = trace;
    forest.push(span(9, 8, "lost"));
    assert!(!otlp::is_connected_tree(&forest));
    assert!(otlp::render(&forest).starts_with("task.start 0.000 ms\n  image.pull"));
}

#[tokio::test]
async fn a_program_that_is_no_plugin_is_reported_with_its_words() {
    let opts = LaunchOpts::default().arg("-c").arg("echo this is a plugin >&2; exit 1");
    let error = Plugin::launch("/bin/sh".as_ref(), opts).await.err().expect("no plugin");
    assert!(format!("{error:#}").contains("this is a plugin"), "{error:#}");
    let opts = LaunchOpts {
        handshake_timeout: Duration::from_millis(100),
        ..LaunchOpts::default().arg("-c").arg("exec sleep 30")
    };
    let error = Plugin::launch("/bin/sh".as_ref(), opts)
        .await
        .err()
        .expect("no handshake");
    assert!(format!("{error:#}").contains("no handshake"), "{error:#}");
}

#[test]
fn a_task_configuration_has_every_field_of_the_recipe() {
    let dir = tempfile::tempdir().expect("tempdir");
    let alloc = Alloc::new(dir.path()).expect("alloc");
    let attr = |kind: &str| Spec {
        block: Some(Kind::Attr(Attr {
            name: String::new(),
            r#type: kind.into(),
            required: false,
        })),
    };
    let attributes = [
        ("image", attr("string")),
        ("command", attr("string")),
        ("args", attr("list(string)")),
    ];
    let schema = Spec {
        block: Some(Kind::Object(Object {
            attributes: attributes.map(|(k, v)| (k.to_owned(), v)).into(),
        })),
    };
    let spec = TaskSpec::new("busybox")
        .sh("true")
        .memory_max_mb(512)
        .option("args", json!(["-c", "false"]));
    let task = spec.compose(&alloc, &schema).expect("composed");
    let again = spec.compose(&alloc, &schema).expect("composed");
    assert_ne!(task.id, again.id);
    assert!(task.id.starts_with(&format!("{}/web/", alloc.id())));
    assert_eq!(task.env["NOMAD_ALLOC_DIR"], "/alloc");
    assert_eq!(task.env["ODD"], "a b=c\n\"d\" $e");
    let linux = task.resources.expect("resources").linux_resources.expect("linux");
    assert_eq!((linux.memory_limit_bytes, linux.percent_ticks), (512 << 20, 0.0625));
    assert!(task.stdout_path.ends_with("/alloc/logs/.web.stdout.fifo"));
}

#[test]
fn new_descriptors_show_up_in_a_diff() {
    let pid = std::process::id();
    let before = Holdings::of(pid);
    let _file = std::fs::File::open("/etc/passwd").expect("open");
    let more = Holdings::of(pid).diff(&before);
    assert!(more.iter().any(|line| line.contains("/etc/passwd")), "{more:?}");
}
