//! A stream of statistics outlives the sampler behind it.

use std::time::Duration;

use testhost::task::TaskSpec;
use testhost::within::within;

use crate::control::Fault;
use crate::field::Field;
use crate::lives::PATIENCE;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_statistics_goes_on_over_deaths_of_the_sampler_and_ends_with_the_task() {
    let field = Field::new().await;
    let spec = TaskSpec::new(&field.image).sh("while :; do :; done");
    let task = field.rig.start(spec).await.expect("StartTask");
    let mut stream = task.stats(Duration::from_millis(200)).await.expect("TaskStats");
    for fault in [Fault::Kill, Fault::Abort, Fault::Stall(1000), Fault::Kill, Fault::Kill] {
        // What was on its way before the fault, and what must come after it.
        for _ in 0..3 {
            let sample = within(PATIENCE, "a sample", stream.message()).await.expect("no error");
            let usage = sample
                .and_then(|s| s.stats?.agg_resource_usage)
                .expect("the stream goes on");
            let percent = usage.cpu.expect("cpu").percent;
            // Not the time of its whole life, not a negative one.
            assert!((0.0..250.0).contains(&percent), "{percent} % after {fault}");
        }
        field.chaos.inject("stats_sampler", fault).await.expect("fault");
    }
    let drained = async { while stream.message().await.expect("no error").is_some() {} };
    let (destroyed, ()) = tokio::join!(task.destroy(true), within(PATIENCE, "the end of the stream", drained));
    destroyed.expect("DestroyTask");
    if let Err(e) = field.settled().await {
        panic!("{e:#}\n{}", field.last_words());
    }
}
