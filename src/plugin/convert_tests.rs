//! Golden bytes and edge cases of the conversion.

use super::*;
use crate::spec::identity::ContainerId;
use prost::Message;

fn hex(m: &impl Message) -> String {
    m.encode_to_vec().iter().map(|b| format!("{b:02x}")).collect()
}

fn exited(code: i32, oom: bool, lost: &str) -> ExitRecord {
    ExitRecord {
        code,
        oom,
        at: 0,
        lost: lost.into(),
    }
}

#[test]
fn exits_have_the_bytes_that_nomad_has() {
    assert_eq!(
        hex(&exit(&exited(137, true, ""))),
        "0a0708890110091801120a4f4f4d204b696c6c6564"
    );
    assert_eq!(hex(&exit(&exited(0, false, ""))), "0a00");
}

#[test]
fn lost_exit_is_never_a_success() {
    let e = exit(&exited(0, false, "the exit was not seen"));
    assert_eq!(e.err, "the exit was not seen");
    assert_eq!(exit(&exited(143, false, "")).result.unwrap().signal, 15);
}

#[test]
fn running_task_has_gos_zero_time_and_no_null_part() {
    let i = Inspection {
        container: ContainerId::reported("c"),
        name: "web".into(),
        pid: Some(7),
        started_at: -1,
        exit: None,
    };
    let r = inspection(&TaskId::new("a/web/1"), &i);
    let task = r.task.unwrap();
    assert_eq!(hex(&task.completed_at.unwrap()), "088092b8c398feffffff01");
    assert_eq!(
        task.started_at.unwrap(),
        prost_types::Timestamp {
            seconds: -1,
            nanos: 999_999_999
        }
    );
    assert_eq!(
        (task.state(), task.result),
        (pb::TaskState::Running, Some(pb::ExitResult::default()))
    );
    assert_eq!(r.driver.unwrap().attributes["pid"], "7");
}

#[test]
fn exited_task_says_how_and_when() {
    let exit = ExitRecord {
        code: 3,
        oom: false,
        at: 2_000_000_001,
        lost: String::new(),
    };
    let i = Inspection {
        container: ContainerId::reported("c"),
        name: "n".into(),
        pid: None,
        started_at: 0,
        exit: Some(exit),
    };
    let task = inspection(&TaskId::new("x"), &i).task.unwrap();
    assert_eq!(
        (task.state(), task.result.unwrap().exit_code),
        (pb::TaskState::Exited, 3)
    );
    assert_eq!(task.completed_at, Some(prost_types::Timestamp { seconds: 2, nanos: 1 }));
}

#[test]
fn fingerprint_has_the_bytes_that_nomad_has() {
    let v = Verdict {
        health: Health::Healthy,
        description: "Healthy".into(),
        attributes: vec![("driver.demo.version".into(), Attribute::Text("1.0".into()))],
    };
    let golden = "0a1c0a136472697665722e64656d6f2e76657273696f6e12051a03312e3010021a074865616c746879";
    assert_eq!(hex(&verdict(&v)), golden);
}

fn isolation(mode: NetworkIsolationMode, path: &str) -> pb::NetworkIsolationSpec {
    pb::NetworkIsolationSpec {
        mode: mode.into(),
        path: path.into(),
        ..Default::default()
    }
}

#[test]
fn namespace_is_joined_unless_the_mode_is_host() {
    use NetworkIsolationMode as Mode;
    assert_eq!(network(None), Ok(None));
    assert_eq!(network(Some(&isolation(Mode::Host, "/var/run/netns/x"))), Ok(None));
    assert_eq!(network(Some(&isolation(Mode::Task, ""))), Ok(None));
    for mode in [Mode::Group, Mode::None, Mode::Task] {
        let joined = network(Some(&isolation(mode, "/n"))).unwrap().unwrap();
        assert_eq!((joined.path.as_str(), joined.hosts), ("/n", None));
    }
    assert!(
        network(Some(&isolation(Mode::Group, "")))
            .unwrap_err()
            .to_string()
            .contains("network")
    );
}

#[test]
fn host_name_needs_both_parts() {
    let mut spec = isolation(NetworkIsolationMode::Group, "/n");
    spec.hosts_config = Some(pb::HostsConfig {
        hostname: "h".into(),
        address: String::new(),
    });
    assert_eq!(network(Some(&spec)).unwrap().unwrap().hosts, None);
    spec.hosts_config = Some(pb::HostsConfig {
        hostname: "h".into(),
        address: "10.0.0.1".into(),
    });
    assert_eq!(
        network(Some(&spec)).unwrap().unwrap().hosts,
        Some(("h".into(), "10.0.0.1".into()))
    );
}

#[test]
fn memory_is_the_allocated_one() {
    let r = pb::Resources {
        allocated_resources: Some(pb::AllocatedTaskResources {
            cpu: Some(pb::AllocatedCpuResources { cpu_shares: 500 }),
            memory: Some(pb::AllocatedMemoryResources {
                memory_mb: 256,
                memory_max_mb: -1,
            }),
            networks: vec![],
        }),
        linux_resources: Some(pb::LinuxResources {
            memory_limit_bytes: 1,
            percent_ticks: f64::NAN,
            ..Default::default()
        }),
        ports: vec![],
    };
    let got = resources(&r);
    assert_eq!((got.cpu_shares, got.memory_mb, got.memory_max_mb), (500, 256, -1));
    assert!(got.percent_ticks == 0.0);
}

#[test]
fn ports_are_those_of_the_group_and_of_the_tasks_own_networks() {
    let port = |label: &str| pb::NetworkPort {
        label: label.into(),
        value: 1,
    };
    let r = pb::Resources {
        allocated_resources: Some(pb::AllocatedTaskResources {
            networks: vec![pb::NetworkResource {
                reserved_ports: vec![port("ssh")],
                dynamic_ports: vec![port("http")],
                ..Default::default()
            }],
            ..Default::default()
        }),
        ports: vec![pb::PortMapping {
            label: "metrics".into(),
            ..Default::default()
        }],
        ..Default::default()
    };
    assert_eq!(ports(&r).into_iter().collect::<Vec<_>>(), ["http", "metrics", "ssh"]);
}

#[test]
fn grace_is_never_negative() {
    let d = |seconds, nanos| duration(Some(prost_types::Duration { seconds, nanos }));
    assert_eq!(d(5, 500_000_000), Duration::from_millis(5_500));
    assert_eq!((d(-5, 0), duration(None)), (Duration::ZERO, Duration::ZERO));
}

#[test]
fn what_device_plugins_have_set_is_told_from_the_rest() {
    let set = |value: &str| [("NVIDIA_VISIBLE_DEVICES".to_owned(), value.to_owned())].into();
    let config = pb::TaskConfig {
        id: "a/web/1".into(),
        msgpack_driver_config: vec![0x81, 0xa5, b'i', b'm', b'a', b'g', b'e', 0xa1, b'x'],
        env: set("all"),
        device_env: set("GPU-1"),
        ..Default::default()
    };
    let task = task(&config).unwrap();
    assert_eq!((task.env, task.device_env), (set("all"), set("GPU-1")));
}

#[test]
fn task_without_an_id_is_refused() {
    assert_eq!(
        task(&pb::TaskConfig::default()).unwrap_err().code(),
        tonic::Code::InvalidArgument
    );
}

#[test]
fn requests_have_the_bytes_that_nomad_sends() {
    let stop = pb::StopTaskRequest {
        task_id: "id".into(),
        timeout: Some(prost_types::Duration { seconds: 5, nanos: 0 }),
        signal: "SIGTERM".into(),
    };
    assert_eq!(hex(&stop), "0a026964120208051a075349475445524d");
    let recover = pb::RecoverTaskRequest {
        task_id: String::new(),
        handle: Some(pb::TaskHandle {
            version: 1,
            config: Some(pb::TaskConfig {
                id: "id".into(),
                ..Default::default()
            }),
            state: pb::TaskState::Running.into(),
            driver_state: vec![0x80],
        }),
    };
    assert_eq!(hex(&recover), "120d080112040a0269641801220180");
}

#[test]
fn no_grace_of_the_host_overflows_the_clock() {
    let of = |seconds, nanos| duration(Some(prost_types::Duration { seconds, nanos }));
    assert_eq!((duration(None), of(-5, 0)), (Duration::ZERO, Duration::ZERO));
    assert_eq!(of(5, 1), Duration::new(5, 1));
    assert!(
        std::time::Instant::now()
            .checked_add(of(i64::MAX, i32::MAX) * 2)
            .is_some()
    );
}

#[test]
fn the_parent_of_a_job_is_told_by_the_environment_of_its_task() {
    let of = |parent_job_id: &str, env: &[(&str, &str)]| {
        let config = pb::TaskConfig {
            id: "a/web/1".to_owned(),
            parent_job_id: parent_job_id.to_owned(),
            env: env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            ..pb::TaskConfig::default()
        };
        task(&config).unwrap().job.parent_job_id
    };
    assert_eq!(of("", &[("NOMAD_JOB_PARENT_ID", "cron")]), "cron");
    assert_eq!(of("field", &[("NOMAD_JOB_PARENT_ID", "cron")]), "field");
    assert_eq!(of("", &[]), "");
}
