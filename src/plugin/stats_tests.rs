//! The stream over scripted doors, and the shape of what it sends.

use super::*;
use crate::messages::AskError;
use crate::messages::task::{Inspect, TaskError, Wait};
use crate::plugin::fake::{FakeStats, FakeTasks};
use crate::spec::identity::ContainerId;
use crate::spec::record::ExitRecord;
use futures_util::FutureExt as _;

const ID: &str = "11111111-2222-3333-4444-555555555555/web/0a1b2c3d";

fn inspection(pid: Option<u32>, exit: Option<ExitRecord>) -> Inspection {
    Inspection {
        container: ContainerId::reported("c"),
        name: "web".into(),
        pid,
        started_at: 1,
        exit,
    }
}

fn exited() -> ExitRecord {
    ExitRecord {
        code: 0,
        oom: false,
        at: 1,
        lost: String::new(),
    }
}

fn sources() -> (Source, Arc<FakeTasks>, Arc<FakeStats>) {
    let (tasks, stats) = (Arc::new(FakeTasks::default()), Arc::new(FakeStats::default()));
    let source = Source {
        tasks: Tasks::new(tasks.clone()),
        door: stats.clone(),
        compute: NodeCompute::default(),
    };
    (source, tasks, stats)
}

async fn open(source: Source, found: Inspection) -> Answers<pb::TaskStatsResponse> {
    stream(source, TaskId::new(ID), Duration::from_secs(3), found).await
}

fn usage(at: i64) -> Box<Usage> {
    Box::new(Usage { at, ..Usage::default() })
}

async fn stamp(stream: &mut Answers<pb::TaskStatsResponse>) -> Option<i32> {
    let message = stream.next().await?.unwrap();
    Some(message.stats.unwrap().timestamp.unwrap().nanos)
}

#[tokio::test(start_paused = true)]
async fn samples_come_and_the_end_of_the_reader_ends_the_watch() {
    let (source, _, stats) = sources();
    let mut stream = open(source, inspection(Some(7), None)).await;
    let (watched, tx) = stats.last();
    assert_eq!((watched.pid, watched.interval), (7, Duration::from_secs(3)));
    assert!(stream.next().now_or_never().is_none());
    for at in [1, 2] {
        tx.send(usage(at)).await.unwrap();
        assert_eq!(stamp(&mut stream).await, Some(at as i32));
    }
    assert_eq!(stats.unwatched(), []);
    drop(stream);
    assert_eq!(stats.unwatched(), [WatchId(1)]);
    assert!(tx.is_closed());
}

#[tokio::test(start_paused = true)]
async fn the_stream_ends_in_order_with_the_task() {
    let (source, tasks, stats) = sources();
    tasks.then::<Wait>(Ok(Ok(exited())));
    let mut stream = open(source, inspection(Some(7), None)).await;
    let (_, tx) = stats.last();
    tx.send(usage(1)).await.unwrap();
    assert!(stream.next().await.is_none());
    let (source, _, stats) = sources();
    let mut stream = open(source, inspection(None, Some(exited()))).await;
    assert!(stream.next().await.is_none());
    assert_eq!(stats.open(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_sampler_that_restarts_is_asked_again() {
    let (source, tasks, stats) = sources();
    let mut stream = open(source, inspection(Some(7), None)).await;
    assert!(stream.next().now_or_never().is_none());
    stats.restart();
    tasks.then::<Inspect>(Err(AskError::Late {
        actor: "task",
        message: "Inspect",
        after: Duration::from_secs(1),
    }));
    tasks.then::<Inspect>(Ok(Ok(inspection(Some(7), None))));
    let feed = async {
        while stats.open() == 0 {
            sleep(Duration::from_millis(10)).await;
        }
        stats.last().1.send(usage(5)).await.unwrap();
    };
    assert_eq!(tokio::join!(stamp(&mut stream), feed).0, Some(5));
    // Destroyed meanwhile: ended, and no error.
    stats.restart();
    tasks.then::<Inspect>(Ok(Err(TaskError::NotFound)));
    assert!(stream.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_process_that_is_not_known_yet_is_waited_for() {
    let (source, tasks, stats) = sources();
    let mut stream = open(source, inspection(None, None)).await;
    // The first poll asks for the exit, for which there is no answer; what follows is in the order of asking.
    assert!(stream.next().now_or_never().is_none());
    tasks.then::<Inspect>(Ok(Ok(inspection(None, None))));
    tasks.then::<Inspect>(Ok(Ok(inspection(Some(9), None))));
    let feed = async {
        while stats.open() == 0 {
            sleep(Duration::from_millis(10)).await;
        }
        stats.last().1.send(usage(6)).await.unwrap();
    };
    assert_eq!(tokio::join!(stamp(&mut stream), feed).0, Some(6));
    assert_eq!(stats.last().0.pid, 9);
}

#[test]
fn no_part_is_null_and_only_what_was_measured_is_listed() {
    let full = Usage {
        at: 1_500_000_000_000_000_007,
        cpu: CpuUsage {
            percent: Some(150.0),
            user: Some(100.0),
            system: Some(50.0),
            throttled_periods: Some(3),
            throttled_time: Some(4),
        },
        memory: MemoryUsage {
            rss: Some(1),
            cache: Some(2),
            swap: Some(3),
            usage: Some(4),
            max_usage: Some(5),
            kernel: Some(6),
            kernel_max: Some(7),
        },
    };
    let compute = Compute {
        total_mhz: 8000,
        cores: 4,
    };
    let stats = response(&TaskId::new(ID), &full, Some(&compute)).stats.unwrap();
    assert_eq!(stats.id, ID);
    assert_eq!(stats.timestamp.map(|t| (t.seconds, t.nanos)), Some((1_500_000_000, 7)));
    let all = stats.agg_resource_usage.unwrap();
    let (cpu, memory) = (all.cpu.unwrap(), all.memory.unwrap());
    assert_eq!(
        (cpu.percent, cpu.user_mode, cpu.system_mode, cpu.total_ticks),
        (150.0, 100.0, 50.0, 3000.0)
    );
    assert_eq!((cpu.throttled_periods, cpu.throttled_time), (3, 4));
    // All but TOTAL_TICKS.
    assert_eq!(cpu.measured_fields, [0, 1, 3, 4, 5]);
    let m = &memory;
    assert_eq!(
        [
            m.rss,
            m.cache,
            m.swap,
            m.usage,
            m.max_usage,
            m.kernel_usage,
            m.kernel_max_usage
        ],
        [1, 2, 3, 4, 5, 6, 7]
    );
    assert_eq!(memory.measured_fields, [0, 1, 2, 3, 4, 5, 6]);
    let empty = response(&TaskId::new(ID), &Usage::default(), None).stats.unwrap();
    let all = empty.agg_resource_usage.unwrap();
    assert!(empty.timestamp.is_some());
    assert_eq!((all.cpu.unwrap(), all.memory.unwrap()), Default::default());
}
