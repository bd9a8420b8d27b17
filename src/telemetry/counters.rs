//! The closed set of process-wide counters: what would otherwise be silent.
//!
//! A relaxed atomic each; no label, so that nothing grows with tasks. Exported by [`super::meters`], and read by
//! tests through [`snapshot`].

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($id:ident $name:literal : $doc:literal;)*) => {
        /// A counter.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(usize)]
        pub enum Counter { $(#[doc = $doc] $id),* }

        impl Counter {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$id),*];

            /// Its name as a metric: `containerd_driver_<noun>_<unit>_total`.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$id => $name),* }
            }

            /// What it counts, one sentence.
            #[must_use]
            pub fn doc(self) -> &'static str {
                match self { $(Self::$id => $doc),* }
            }

            fn cell(self) -> &'static AtomicU64 {
                match self { $(Self::$id => { static CELL: AtomicU64 = AtomicU64::new(0); &CELL }),* }
            }
        }
    };
}

counters! {
    MessagesRefused "containerd_driver_mailbox_refusals_total": "Messages that found a mailbox full.";
    MessagesLate "containerd_driver_ask_timeouts_total": "Requests that were not answered within their deadline.";
    MessagesAskedAgain "containerd_driver_ask_retries_total": "Requests asked again because the actor died with them.";
    MessagesUndelivered "containerd_driver_fact_losses_total": "Facts whose receiver had ended.";
    ActorRestarts "containerd_driver_actor_restarts_total": "Restarts of an actor after a panic.";
    ActorEscalations "containerd_driver_actor_escalations_total": "Actors that panicked too often and were given up.";
    ActorReplacements "containerd_driver_actor_replacements_total": "Actors that ended and were replaced by a fresh one.";
    EventsIgnored "containerd_driver_event_ignores_total": "containerd events that were not about us or not understood.";
    EventsDropped "containerd_driver_taskevent_drops_total": "Task events that a slow reader missed.";
    EventGaps "containerd_driver_event_gaps_total": "Breaks of the event stream, each followed by a listing.";
    ContainerdFaults "containerd_driver_containerd_faults_total": "Calls to containerd that failed or got no answer.";
    ImagePulls "containerd_driver_image_pulls_total": "Images fetched from a registry.";
    ImagePullsShared "containerd_driver_image_joins_total": "Requests that joined a pull under way.";
    ImagePullFaults "containerd_driver_image_faults_total": "Pulls that failed.";
    ImagePullsCancelled "containerd_driver_image_cancels_total": "Pulls that were ended since nobody waited for them any more.";
    ImagePullMillis "containerd_driver_image_pull_milliseconds_total": "Time from the turn of a pull to its end, of those that succeeded or failed.";
    ImageQueueMillis "containerd_driver_image_queue_milliseconds_total": "Time that pulls waited for their turn.";
    ImageBytes "containerd_driver_image_fetched_bytes_total": "Bytes of layers that came from registries.";
    ImagesUnasked "containerd_driver_image_unasked_starts_total": "Images on disk that were taken since their registry could not be asked.";
    ImageLoads "containerd_driver_image_loads_total": "Images loaded from the archive of a task.";
    ImagesRemoved "containerd_driver_image_removals_total": "Images removed because nobody needed them.";
    ImageBytesRemoved "containerd_driver_image_removal_bytes_total": "Bytes of the blobs of removed images, compressed; those that other images share are counted too.";
    ImageRemovalFaults "containerd_driver_image_removal_faults_total": "Images that nobody needed and that could not be removed.";
    TasksStarted "containerd_driver_task_starts_total": "Tasks whose process was started.";
    TasksExited "containerd_driver_task_exits_total": "Exits told to Nomad.";
    ExecsStarted "containerd_driver_exec_starts_total": "Commands started in running tasks.";
    LogStalls "containerd_driver_log_stalls_total": "Times a log stream had to wait for its sink.";
    LogBytes "containerd_driver_log_bytes_total": "Log bytes moved by the driver.";
    LogFaults "containerd_driver_log_faults_total": "Log streams that ended with a fault.";
    LogFilesDropped "containerd_driver_log_file_drops_total": "Log files removed before their time because the disk was full.";
    LogBytesDropped "containerd_driver_log_drop_bytes_total": "Log bytes that could not be written and were thrown away.";
    StatsDropped "containerd_driver_stats_drops_total": "Samples of a task's usage that a slow reader missed.";
    OrphansRemoved "containerd_driver_orphan_removals_total": "Things of dead tasks that the reaper removed.";
    OrphanFaults "containerd_driver_orphan_faults_total": "Things of dead tasks that the reaper could not remove.";
    SpanExportFaults "containerd_driver_export_faults_total": "Batches of spans that the collector did not take.";
    SpansDropped "containerd_driver_span_drops_total": "Spans that were in a batch the collector did not take.";
    MetricExportFaults "containerd_driver_metric_faults_total": "Times that the collector did not take the counters and gauges.";
}

impl Counter {
    /// Its unit in the code of UCUM, as its name has it; empty for what is just counted.
    #[must_use]
    pub fn unit(self) -> &'static str {
        if self.name().ends_with("_bytes_total") {
            "By"
        } else if self.name().ends_with("_milliseconds_total") {
            "ms"
        } else {
            ""
        }
    }

    /// Adds `n`.
    pub fn add(self, n: u64) {
        self.cell().fetch_add(n, Ordering::Relaxed);
    }

    /// Adds one.
    pub fn bump(self) {
        self.add(1);
    }

    /// The value now.
    #[must_use]
    pub fn get(self) -> u64 {
        self.cell().load(Ordering::Relaxed)
    }
}

/// Every counter with its value now.
#[must_use]
pub fn snapshot() -> Vec<(&'static str, u64)> {
    Counter::ALL.iter().map(|c| (c.name(), c.get())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_named_by_the_rule_and_kept_apart() {
        for (i, c) in Counter::ALL.iter().enumerate() {
            assert!(
                c.name().starts_with("containerd_driver_") && c.name().ends_with("_total"),
                "{}",
                c.name()
            );
            assert!(Counter::ALL.iter().skip(i + 1).all(|d| d.name() != c.name()));
        }
        assert_eq!(Counter::ImageBytes.unit(), "By");
        assert_eq!(Counter::ImagePullMillis.unit(), "ms");
        assert_eq!(Counter::TasksStarted.unit(), "");
        let before = Counter::EventGaps.get();
        Counter::EventGaps.bump();
        assert_eq!(Counter::EventGaps.get(), before + 1);
        assert_eq!(snapshot().len(), Counter::ALL.len());
    }
}
