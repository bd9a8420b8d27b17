//! The closed set of process-wide gauges: how much of something there is now. As the counters, without a label.

use std::sync::atomic::{AtomicUsize, Ordering};

macro_rules! gauges {
    ($($id:ident $name:literal : $doc:literal;)*) => {
        /// A gauge.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Gauge { $(#[doc = $doc] $id),* }

        impl Gauge {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$id),*];

            /// Its name as a metric: `containerd_driver_<noun>_<what>`.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$id => $name),* }
            }

            /// What it shows, one sentence.
            #[must_use]
            pub fn doc(self) -> &'static str {
                match self { $(Self::$id => $doc),* }
            }

            fn cell(self) -> &'static AtomicUsize {
                match self { $(Self::$id => { static CELL: AtomicUsize = AtomicUsize::new(0); &CELL }),* }
            }
        }
    };
}

gauges! {
    PullsRunning "containerd_driver_image_pulls_running": "Images being pulled, without those that no byte comes for.";
    PullsWaiting "containerd_driver_image_pulls_waiting": "Pulls that wait for their turn.";
    LoadsRunning "containerd_driver_image_loads_running": "Images being loaded from the archives of tasks.";
    LoadsWaiting "containerd_driver_image_loads_waiting": "Loads that wait for their turn.";
    UnpacksRunning "containerd_driver_image_unpacks_running": "Layers being unpacked, except by containerd in a pull of its own.";
    UnpacksWaiting "containerd_driver_image_unpacks_waiting": "Layers that wait for their turn to be unpacked.";
}

impl Gauge {
    /// So many now.
    pub fn set(self, n: usize) {
        self.cell().store(n, Ordering::Relaxed);
    }

    /// The value now.
    #[must_use]
    pub fn get(self) -> usize {
        self.cell().load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gauges_are_named_by_the_rule_and_kept_apart() {
        for (i, gauge) in Gauge::ALL.iter().enumerate() {
            let name = gauge.name();
            assert!(
                name.starts_with("containerd_driver_") && !name.ends_with("_total"),
                "{name}"
            );
            assert!(Gauge::ALL.iter().skip(i + 1).all(|other| other.name() != name));
            assert!(gauge.doc().ends_with('.'), "{name}");
        }
    }
}
