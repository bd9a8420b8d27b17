//! One request, one tree, through every actor that had a hand in it.

use std::time::Duration;

use testhost::otlp::{Span, attribute, render};
use testhost::wire::driver::StartTaskRequest;
use tonic::Request;

use crate::scene::{By, PATIENCE, Scene, is_under, named};

/// Span, actor and message on the way of a start, each below the first of the pair.
const WAY: [(&str, &str, &str, &str); 5] = [
    ("nomad.StartTask", "task.open", "root", "OpenTask"),
    ("nomad.StartTask", "task.start", "task_supervisor", "Start"),
    ("task.start", "image.ensure", "image_puller", "EnsureImage"),
    ("task.start", "container.create", "container_factory", "CreateContainer"),
    ("container.create", "log.check", "log_pump", "CheckLogPaths"),
];

fn assert_whole(tree: &[Span]) {
    for (above, name, actor, message) in WAY {
        let span = named(tree, name);
        assert!(
            is_under(tree, span, named(tree, above)),
            "{name} is not under {above}:\n{}",
            render(tree)
        );
        assert_eq!(attribute(span, "actor.name").as_deref(), Some(actor), "{name}");
        assert_eq!(attribute(span, "message.name").as_deref(), Some(message), "{name}");
    }
    let create = named(tree, "container.create");
    for operation in ["create container", "prepare snapshot", "create task", "start task"] {
        let of = |s: &Span| s.name == "containerd.call" && attribute(s, "operation").as_deref() == Some(operation);
        assert!(
            tree.iter().any(|s| of(s) && is_under(tree, s, create)),
            "no call {operation} under container.create:\n{}",
            render(tree)
        );
    }
}

async fn one_start_is_one_tree(by: By) {
    let scene = Scene::new(by).await;
    let task = scene.rig.start(scene.task("exit 4")).await.expect("StartTask");
    let tree = scene.trace_of("StartTask", task.id()).await;
    println!("{}", render(&tree));
    assert_whole(&tree);
    let pull = named(&tree, "image.pull");
    assert!(is_under(&tree, pull, named(&tree, "image.ensure")));
    // By ourselves or by containerd's transfer service.
    let calls = tree
        .iter()
        .filter(|s| s.name == "containerd.call" && is_under(&tree, s, pull))
        .count();
    assert!(calls > 0, "no call under image.pull:\n{}", render(&tree));
    for name in ["image.fetch", "image.unpack"] {
        let layers: Vec<_> = tree.iter().filter(|s| s.name == name).collect();
        assert!(!layers.is_empty(), "no {name}:\n{}", render(&tree));
        for layer in layers {
            assert!(is_under(&tree, layer, pull), "{name} is elsewhere:\n{}", render(&tree));
            let digest = attribute(layer, "blob.digest").unwrap_or_default();
            assert!(digest.starts_with("sha256:"), "{layer:?}");
        }
    }
    assert_eq!(task.exit(PATIENCE).await.exit_code, 4);
    task.status().await.expect("InspectTask");
    task.destroy(false).await.expect("DestroyTask");
    for (method, span) in [
        ("WaitTask", "task.wait"),
        ("InspectTask", "task.inspect"),
        ("DestroyTask", "task.destroy"),
    ] {
        let tree = scene.trace_of(method, task.id()).await;
        assert!(is_under(
            &tree,
            named(&tree, span),
            named(&tree, &format!("nomad.{method}"))
        ));
    }
    let tree = scene.trace_of("DestroyTask", task.id()).await;
    assert!(is_under(
        &tree,
        named(&tree, "container.remove"),
        named(&tree, "task.destroy")
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_is_one_tree_when_the_environment_names_the_collector() {
    one_start_is_one_tree(By::Environment).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_is_one_tree_when_the_plugin_configuration_names_the_collector() {
    one_start_is_one_tree(By::PluginConfig).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_tasks_at_once_are_two_trees_though_they_share_a_pull() {
    let scene = Scene::new(By::Environment).await;
    let (one, two) = tokio::join!(
        scene.rig.start(scene.task("exit 0").name("one")),
        scene.rig.start(scene.task("exit 0").name("two"))
    );
    let (one, two) = (one.expect("StartTask"), two.expect("StartTask"));
    let mut traces = Vec::new();
    for task in [&one, &two] {
        let tree = scene.trace_of("StartTask", task.id()).await;
        for (above, name, ..) in WAY {
            assert!(
                is_under(&tree, named(&tree, name), named(&tree, above)),
                "{name} is not under {above}:\n{}",
                render(&tree)
            );
        }
        let of_other = |s: &Span| attribute(s, "task.id").is_some_and(|id| id != task.id());
        assert!(
            !tree.iter().any(of_other),
            "spans of the other task:\n{}",
            render(&tree)
        );
        traces.push(named(&tree, "nomad.StartTask").trace_id.clone());
    }
    assert_ne!(traces[0], traces[1]);
    let pulls = scene.collector.named("image.pull");
    assert_eq!(pulls.len(), 1, "one pull for both");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_trace_of_the_host_goes_on_in_the_driver() {
    const TRACE: [u8; 16] = [
        0x0a, 0xf7, 0x65, 0x19, 0x16, 0xcd, 0x43, 0xdd, 0x84, 0x48, 0xeb, 0x21, 0x1c, 0x80, 0x31, 0x9c,
    ];
    const SPAN: [u8; 8] = [0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31];
    let scene = Scene::new(By::Environment).await;
    let alloc = scene.rig.alloc();
    let spec = scene.task("exit 0");
    alloc.add_task(&spec.name).expect("task directory");
    let _logs = alloc.collect_logs(&spec.name).expect("log collectors");
    let config = spec.compose(&alloc, scene.rig.schema()).expect("configuration");
    let mut request = Request::new(StartTaskRequest {
        task: Some(config.clone()),
    });
    let header = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        .parse()
        .expect("header");
    request.metadata_mut().insert("traceparent", header);
    scene.rig.driver().start_task(request).await.expect("StartTask");
    let tree = scene.trace_of("StartTask", &config.id).await;
    let root = named(&tree, "nomad.StartTask");
    assert_eq!(
        (root.trace_id.as_slice(), root.parent_span_id.as_slice()),
        (&TRACE[..], &SPAN[..])
    );
    assert_whole(&tree);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn facts_are_handled_in_spans_too() {
    let scene = Scene::new(By::Environment).await;
    let task = scene
        .rig
        .start(scene.task("sleep 0.5; exit 5"))
        .await
        .expect("StartTask");
    assert_eq!(task.exit(PATIENCE).await.exit_code, 5);
    let told = |spans: &[Span], actor: &str, message: &str| {
        let of = |s: &&Span| {
            s.name == "actor.message"
                && attribute(s, "actor.name").as_deref() == Some(actor)
                && attribute(s, "message.name").as_deref() == Some(message)
        };
        spans.iter().find(of).cloned()
    };
    let exit = scene
        .collector
        .wait_for(PATIENCE, |spans| told(spans, "task_supervisor", "TaskExited"))
        .await
        .expect("span of the exit");
    let teller = scene
        .collector
        .wait_for(Duration::from_secs(5), |spans| {
            told(spans, "event_stream", "TaskExited")
        })
        .await
        .expect("span of the event");
    assert_eq!(exit.parent_span_id, teller.span_id, "the exit hangs under the event");
    assert!(teller.parent_span_id.is_empty(), "nobody asked for the event");
    let progress = scene
        .collector
        .wait_for(PATIENCE, |spans| told(spans, "task_supervisor", "PullProgress"))
        .await
        .expect("span of the progress");
    let tree = scene.trace_of("StartTask", task.id()).await;
    assert!(
        tree.iter().any(|s| s.span_id == progress.span_id),
        "progress belongs to the start:\n{}",
        render(&tree)
    );
    task.destroy(true).await.expect("DestroyTask");
    scene
        .collector
        .wait_for(PATIENCE, |spans| told(spans, "root", "ChildExit"))
        .await
        .expect("span of the supervisor's end");
    scene
        .collector
        .wait_named(PATIENCE, "health.probe")
        .await
        .expect("span of a probe");
    scene
        .collector
        .wait_named(PATIENCE, "events.resync")
        .await
        .expect("span of the listing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recovery_is_one_tree_through_the_event_stream() {
    let mut scene = Scene::new(By::Environment).await;
    let task = scene.rig.start(scene.task("sleep 60")).await.expect("StartTask");
    scene.collector.clear();
    scene.rig.relaunch().await.expect("RecoverTask");
    let of = |spans: &[Span]| spans.iter().find(|s| s.name == "nomad.RecoverTask").cloned();
    let root = scene
        .collector
        .wait_for(PATIENCE, of)
        .await
        .expect("span of the recovery");
    let complete = |spans: &[Span]| {
        let tree: Vec<Span> = spans.iter().filter(|s| s.trace_id == root.trace_id).cloned().collect();
        let names = ["task.open", "task.recover", "events.look_up"];
        names.iter().all(|n| tree.iter().any(|s| s.name == *n)).then_some(tree)
    };
    let tree = scene
        .collector
        .wait_for(PATIENCE, complete)
        .await
        .expect("spans of the recovery");
    assert!(
        is_under(&tree, named(&tree, "events.look_up"), named(&tree, "task.recover")),
        "{}",
        render(&tree)
    );
    // By containerd, as a stop is only where the process cannot be signalled straight.
    task.signal("SIGUSR1").await.expect("SignalTask");
    let tree = scene.trace_of("SignalTask", task.id()).await;
    let kill = tree
        .iter()
        .find(|s| attribute(s, "operation").as_deref() == Some("kill task"))
        .expect("call");
    assert!(is_under(&tree, kill, named(&tree, "task.signal")), "{}", render(&tree));
    task.stop(Duration::from_secs(0), "").await.expect("StopTask");
    let tree = scene.trace_of("StopTask", task.id()).await;
    assert!(
        is_under(&tree, named(&tree, "task.stop"), named(&tree, "nomad.StopTask")),
        "{}",
        render(&tree)
    );
    task.destroy(true).await.expect("DestroyTask");
}
