//! Spans of the layers that containerd pulls, made of what it tells of them: as exact as its reports, of which there are three a
//! second.

use crate::containerd::{BlobProgress, BlobStage};
use crate::telemetry::names;
use std::collections::HashMap;
use tracing::Span;

/// The spans of a pull that are open. Dropping it closes them.
#[derive(Default)]
pub(super) struct LayerSpans(HashMap<String, Layer>);

struct Layer {
    stage: Stage,
    /// Closes with the stage.
    _span: Span,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Fetching,
    Fetched,
    Unpacking,
    Unpacked,
}

impl LayerSpans {
    /// What containerd tells of a blob, in the span of the pull.
    pub(super) fn see(&mut self, blob: &BlobProgress) {
        if !blob.layer {
            return;
        }
        let stage = match blob.stage {
            BlobStage::Coming => Stage::Fetching,
            BlobStage::Come | BlobStage::WasHere => Stage::Fetched,
            BlobStage::Unpacking => Stage::Unpacking,
            BlobStage::Unpacked => Stage::Unpacked,
        };
        // Its reports of what comes and of what is unpacked are not in one line.
        if self.0.get(&blob.digest).is_some_and(|layer| layer.stage >= stage) {
            return;
        }
        let _span = match stage {
            Stage::Fetching => {
                tracing::info_span!(names::IMAGE_FETCH, { names::BLOB_DIGEST } = %blob.digest, { names::BYTES } = blob.total_bytes)
            }
            Stage::Unpacking => {
                tracing::info_span!(names::IMAGE_UNPACK, { names::BLOB_DIGEST } = %blob.digest, { names::BYTES } = blob.total_bytes)
            }
            Stage::Fetched | Stage::Unpacked => Span::none(),
        };
        self.0.insert(blob.digest.clone(), Layer { stage, _span });
    }
}
