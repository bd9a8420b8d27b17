//! Decoding of a task's configuration, in every form that a host may send it.

use crate::bench::{Bench, patience};
use crate::field::{consent, group, operated};
use crate::look::pairs;
use serde_json::json;
use testhost::cty::{Dialect, Value};
use testhost::image::ImageConfig;
use testhost::rig::RunningTask;
use testhost::schema;
use testhost::task::TaskSpec;
use testhost::within::within;
use tonic::Status;

group!(cfg, CFG, operated(consent()),
    together {
        cfg_02_only_the_image_has_the_defaults,
        cfg_03_a_map_in_every_form,
        cfg_04_numbers_in_every_form,
        cfg_05_the_harnesss_form_is_accepted,
        cfg_06_garbage_is_an_error_of_decoding,
        cfg_07_an_empty_entrypoint_counts_as_not_given,
    }
    alone {}
);

/// Starts a task with these very bytes as its configuration.
async fn start_bytes(b: &Bench, spec: &TaskSpec, bytes: Vec<u8>) -> Result<RunningTask, Status> {
    let alloc = b.rig.alloc();
    alloc.add_task(&spec.name).expect("task directory");
    let mut task = spec.compose(&alloc, b.rig.schema()).expect("a configuration");
    task.msgpack_driver_config = bytes;
    let logs = alloc.collect_logs(&spec.name).expect("log collectors");
    within(patience(), "StartTask", b.rig.start_raw(task, alloc, Some(logs))).await
}

async fn printed(task: RunningTask) -> String {
    assert_eq!(task.exit(patience()).await.exit_code, 0, "{:?}", task.stderr_lines());
    task.logs_end(patience()).await;
    let text = task.logs().stdout.text();
    task.destroy(false).await.expect("DestroyTask");
    text
}

/// All keys of the schema, with this one replaced.
fn with_value(b: &Bench, spec: &TaskSpec, key: &str, value: Value) -> Vec<u8> {
    match schema::evaluate(b.rig.schema(), &spec.config).expect("the schema accepts it") {
        Value::Map(mut map) => {
            map.insert(key.to_owned(), value);
            Value::Map(map).encode()
        }
        other => panic!("a configuration that is no map: {other:?}"),
    }
}

async fn cfg_02_only_the_image_has_the_defaults(b: &Bench) {
    let script = "echo id=$(id -u); echo pwd=$(pwd); echo links=$(ls /sys/class/net | tr '\\n' ' ')
        echo shm=$(df -k /dev/shm | tail -n 1 | tr -s ' ' | cut -d ' ' -f 2); echo tty=$(tty)
        echo eff=$(sed -n 's/^CapEff:.//p' /proc/self/status); echo nnp=$(sed -n 's/^NoNewPrivs:.//p' /proc/self/status)
        touch /writable && echo root=rw; echo one=$$; echo stdin=$(cat | wc -c)";
    let image = b
        .rig
        .image("cfg/defaults", &ImageConfig::default().cmd(["sh", "-c", script]))
        .await
        .expect("image");
    let spec = TaskSpec::new(&image);
    let nils = schema::names(b.rig.schema());
    let nils = Value::map(nils.iter().map(|name| {
        let value = if name == "image" {
            Value::str(&image)
        } else {
            Value::Nil
        };
        (name.as_str(), value)
    }));
    let alone = Value::map([("image", Value::str(&image))]);
    for (form, value) in [("the others nil", nils), ("the others missing", alone)] {
        let task = start_bytes(b, &spec, value.encode())
            .await
            .unwrap_or_else(|e| panic!("{form}: {e:?}"));
        pairs(&printed(task).await).are([
            ("id", "0"),
            ("pwd", "/"),
            ("links", "lo"),
            ("shm", "65536"),
            ("tty", "not a tty"),
            ("eff", "00000000a80425fb"),
            ("nnp", "1"),
            ("root", "rw"),
            ("one", "1"),
            ("stdin", "0"),
        ]);
    }
}

/// One block and several blocks of a job file, which is also how JSON has them: see the notes of the table for a bare object.
async fn cfg_03_a_map_in_every_form(b: &Bench) {
    let script =
        "echo nofile=$(ulimit -Hn); echo nproc=$(sed -n 's/^Max processes *//p' /proc/self/limits | cut -d ' ' -f 1)";
    for form in [
        json!([{ "nofile": "2048:2048", "nproc": "4242" }]),
        json!([{ "nofile": "1000:1000" }, { "nofile": "2048:2048", "nproc": "4242" }]),
        json!([{ "nproc": "4242" }, { "nofile": "2048:2048" }]),
    ] {
        let task = b.start(b.sh(script).option("ulimit", form.clone())).await;
        let seen = pairs(&printed(task).await);
        assert_eq!((seen.get("nofile"), seen.get("nproc")), ("2048", "4242"), "{form}");
    }
}

async fn cfg_04_numbers_in_every_form(b: &Bench) {
    let script = "echo score=$(cat /proc/self/oom_score_adj)";
    for value in [Value::Int(321), Value::Float(321.0), Value::str("321")] {
        let spec = b.sh(script);
        let bytes = with_value(b, &spec, "oom_score_adj", value.clone());
        let task = start_bytes(b, &spec, bytes)
            .await
            .unwrap_or_else(|e| panic!("{value:?}: {e:?}"));
        let seen = pairs(&printed(task).await);
        assert_eq!(seen.get("score"), "321", "{value:?}");
    }
    for value in [
        Value::Int(1001),
        Value::str("1e30"),
        Value::Float(0.5),
        Value::str("many"),
        Value::Int(i64::MIN),
    ] {
        let spec = b.sh("true");
        let bytes = with_value(b, &spec, "oom_score_adj", value.clone());
        let error = start_bytes(b, &spec, bytes)
            .await
            .err()
            .unwrap_or_else(|| panic!("{value:?} was accepted"));
        assert!(error.message().contains("oom_score_adj"), "{value:?}: {error:?}");
    }
}

/// The options of the Go driver, whose structure the harness encodes.
const OF_THE_GO_DRIVER: [&str; 23] = [
    "image",
    "image_pull_timeout",
    "auth",
    "command",
    "args",
    "entrypoint",
    "cwd",
    "hostname",
    "privileged",
    "cap_add",
    "cap_drop",
    "devices",
    "pids_limit",
    "pid_mode",
    "seccomp",
    "seccomp_profile",
    "readonly_rootfs",
    "shm_size",
    "sysctl",
    "host_network",
    "host_dns",
    "extra_hosts",
    "mounts",
];

async fn cfg_05_the_harnesss_form_is_accepted(b: &Bench) {
    let spec = b.sh("echo fine");
    let config = match schema::evaluate_harness(b.rig.schema(), &spec.config).expect("the harness's form") {
        Value::Map(mut map) => {
            map.retain(|key, _| OF_THE_GO_DRIVER.contains(&key.as_str()));
            assert_eq!(map.len(), OF_THE_GO_DRIVER.len(), "{:?}", map.keys());
            Value::Map(map)
        }
        other => panic!("a configuration that is no map: {other:?}"),
    };
    for dialect in [Dialect::Legacy, Dialect::Agent] {
        let task = start_bytes(b, &spec, config.encode_as(dialect))
            .await
            .unwrap_or_else(|e| panic!("{dialect:?}: {e:?}"));
        assert_eq!(printed(task).await, "fine\n");
    }
}

async fn cfg_06_garbage_is_an_error_of_decoding(b: &Bench) {
    let spec = b.sh("true");
    let whole = schema::evaluate(b.rig.schema(), &spec.config)
        .expect("a configuration")
        .encode();
    for bytes in [
        vec![0xc1],
        vec![0xff; 64],
        b"\xde\xff\xff".to_vec(),
        whole[..whole.len() / 2].to_vec(),
        vec![0x91; 100_000],
    ] {
        let head = bytes[..bytes.len().min(4)].to_vec();
        let error = start_bytes(b, &spec, bytes)
            .await
            .err()
            .unwrap_or_else(|| panic!("{head:x?} was accepted"));
        assert!(
            error.message().contains("failed to decode driver config"),
            "{head:x?}: {error:?}"
        );
    }
    // And nobody was harmed.
    assert_eq!(b.run(b.sh("echo fine")).await, (0, "fine\n".to_owned()));
}

async fn cfg_07_an_empty_entrypoint_counts_as_not_given(b: &Bench) {
    let image = b
        .rig
        .image(
            "cfg/entry",
            &ImageConfig::default().entrypoint(["echo", "E"]).cmd(["C"]),
        )
        .await
        .expect("image");
    let spec = TaskSpec::new(&image);
    for (rest, wanted) in [(json!(null), "E C\n"), (json!("x"), "E x\n")] {
        let spec = spec.clone().option("entrypoint", json!([])).option("command", rest);
        assert_eq!(b.run(spec).await, (0, wanted.to_owned()));
    }
}
