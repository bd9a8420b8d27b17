//! Spans of the layers that containerd pulls, made of what it tells of them.
//!
//! That is three times a second, and of a layer that takes less time only how it ended. What is told of a layer closes the
//! span before: it is being unpacked, or waits for that, from its last byte on.

use crate::containerd::{BlobProgress, BlobStage};
use crate::telemetry::names;
use std::collections::HashMap;
use tracing::Span;

/// The spans of a pull that are open. Dropping it closes them.
pub(super) struct LayerSpans {
    layers: HashMap<String, Layer>,
    /// Whether containerd unpacks, too.
    unpacks: bool,
}

struct Layer {
    bytes: u64,
    stage: Stage,
    /// Closes with the stage.
    _span: Span,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Fetching,
    Unpacking,
    Done,
}

impl LayerSpans {
    pub(super) fn new(unpacks: bool) -> Self {
        Self {
            layers: HashMap::new(),
            unpacks,
        }
    }

    /// What containerd tells of a blob, in the span of the pull.
    pub(super) fn see(&mut self, blob: &BlobProgress) {
        if !blob.layer {
            return;
        }
        let reached = match blob.stage {
            BlobStage::Coming => Stage::Fetching,
            BlobStage::Come | BlobStage::WasHere | BlobStage::Unpacking => Stage::Unpacking,
            BlobStage::Unpacked => Stage::Done,
        };
        self.reaches(&blob.digest, blob.total_bytes, reached);
    }

    /// The pull has succeeded, and its last words may be lost.
    pub(super) fn succeed(mut self) {
        let all: Vec<_> = self
            .layers
            .iter()
            .map(|(digest, layer)| (digest.clone(), layer.bytes))
            .collect();
        for (digest, bytes) in all {
            self.reaches(&digest, bytes, Stage::Done);
        }
    }

    /// Every stage on the way has its span, however short.
    fn reaches(&mut self, digest: &str, bytes: u64, reached: Stage) {
        for stage in [Stage::Fetching, Stage::Unpacking, Stage::Done] {
            // What is told of a layer's bytes and of its unpacking is not in one line.
            let is_new = self.layers.get(digest).is_none_or(|layer| layer.stage < stage);
            if is_new && stage <= reached {
                let _span = self.span(digest, bytes, stage);
                self.layers.insert(digest.to_owned(), Layer { bytes, stage, _span });
            }
        }
    }

    fn span(&self, digest: &str, bytes: u64, stage: Stage) -> Span {
        match stage {
            Stage::Fetching => {
                tracing::info_span!(names::IMAGE_FETCH, { names::BLOB_DIGEST } = %digest, { names::BYTES } = bytes)
            }
            Stage::Unpacking if self.unpacks => {
                tracing::info_span!(names::IMAGE_UNPACK, { names::BLOB_DIGEST } = %digest, { names::BYTES } = bytes)
            }
            Stage::Unpacking | Stage::Done => Span::none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};
    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Metadata, Subscriber};

    /// Takes down the names of the spans that are opened.
    #[derive(Clone, Default)]
    struct Opened(Arc<Mutex<Vec<&'static str>>>);

    impl Subscriber for Opened {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }
        fn new_span(&self, span: &Attributes<'_>) -> Id {
            let mut opened = self.0.lock().unwrap();
            opened.push(span.metadata().name());
            Id::from_u64(opened.len() as u64)
        }
        fn record(&self, _: &Id, _: &Record<'_>) {}
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn event(&self, _: &Event<'_>) {}
        fn enter(&self, _: &Id) {}
        fn exit(&self, _: &Id) {}
    }

    fn opened(unpacks: bool, told: &[BlobStage]) -> Vec<&'static str> {
        let opened = Opened::default();
        tracing::subscriber::with_default(opened.clone(), || {
            let mut spans = LayerSpans::new(unpacks);
            for stage in told {
                spans.see(&BlobProgress {
                    digest: "sha256:a".to_owned(),
                    layer: true,
                    fetched_bytes: 1,
                    total_bytes: 1,
                    stage: *stage,
                });
            }
            spans.succeed();
        });
        let opened = opened.0.lock().unwrap();
        opened.clone()
    }

    #[test]
    fn each_layer_has_a_span_of_each_stage_whatever_is_told_of_it() {
        use BlobStage::{Come, Coming, Unpacked, Unpacking, WasHere};
        let both = [names::IMAGE_FETCH, names::IMAGE_UNPACK];
        for told in [
            &[Coming, Coming, Come, Unpacking, Unpacking, Unpacked][..],
            &[Coming, Unpacked],
            &[Coming],
            &[Coming, WasHere],
            &[Coming, Unpacking, Come],
        ] {
            assert_eq!(opened(true, told), both, "{told:?}");
            assert_eq!(opened(false, told), [names::IMAGE_FETCH], "{told:?}");
        }
        assert_eq!(opened(true, &[]), [""; 0]);
    }
}
