//! How a blob is fetched: over one connection, or as parts, several of which come side by side.
//!
//! Parts that have come before their turn are in memory, and lost when the puller dies. Both are bounded: the parts of a blob
//! by its size, and how many come side by side over all pulls.

use std::ops::Range;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What is left of a blob from which on parts are worth their requests.
const LARGE_BYTES: u64 = 32 << 20;
/// Shortest and longest part. Each costs a round trip, two where the registry sends its clients elsewhere.
const PART_BYTES: (u64, u64) = (512 << 10, 2 << 20);
/// The share of a part, so that what is lost with a puller is little beside what is left.
const PARTS: u64 = 128;
/// Requests for parts of one blob at once.
pub(super) const WIDEST: usize = 4;
/// Requests beside the first of each blob, over all pulls.
const BESIDE: u32 = 6;

/// Requests that may be made beside those that there are anyway. Cheap to clone; clones share them.
#[derive(Debug, Clone)]
pub(super) struct Lanes(Arc<Semaphore>);

/// How a blob is split. Dropping it gives back what it has of the lanes.
#[derive(Debug)]
pub(super) struct Split {
    /// Requests at once.
    pub(super) wide: usize,
    /// Length of a part.
    pub(super) part: u64,
    _beside: OwnedSemaphorePermit,
}

impl Default for Lanes {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(BESIDE as usize)))
    }
}

impl Lanes {
    /// How to split the bytes from `from` on of a blob of `size`, for at most `widest` requests at once. `None`: not at all, also
    /// where others have all lanes.
    pub(super) fn split(&self, from: u64, size: u64, widest: usize) -> Option<Split> {
        let left = size.saturating_sub(from);
        if left < LARGE_BYTES {
            return None;
        }
        let most = u32::try_from(widest.min(WIDEST)).unwrap_or(0);
        let beside = (1..most)
            .rev()
            .find_map(|n| Arc::clone(&self.0).try_acquire_many_owned(n).ok())?;
        Some(Split {
            wide: beside.num_permits() + 1,
            part: part_bytes(from, left),
            _beside: beside,
        })
    }
}

/// What broke off once may do so again: then parts are short.
fn part_bytes(from: u64, left: u64) -> u64 {
    let (shortest, longest) = PART_BYTES;
    match from {
        0 => (left / PARTS).clamp(shortest, longest),
        _ => shortest,
    }
}

/// The parts of what is left of a blob, in order.
pub(super) fn parts(from: u64, size: u64, part: u64) -> impl Iterator<Item = Range<u64>> {
    let next = move |last: &Range<u64>| (last.end < size).then(|| last.end..size.min(last.end + part.max(1)));
    std::iter::successors(next(&(from..from)), next)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn what_is_small_or_nearly_here_comes_over_one_connection() {
        let lanes = Lanes::default();
        assert!(lanes.split(0, LARGE_BYTES - 1, WIDEST).is_none());
        assert!(lanes.split(MIB, LARGE_BYTES, WIDEST).is_none());
        assert!(lanes.split(2, 1, WIDEST).is_none());
        assert_eq!(lanes.split(0, LARGE_BYTES, WIDEST).map(|c| c.wide), Some(4));
    }

    #[test]
    fn all_blobs_share_the_lanes_and_who_finds_none_does_without() {
        let lanes = Lanes::default();
        let split = || lanes.clone().split(0, 1 << 30, WIDEST);
        let (first, second) = (split(), split());
        assert_eq!([&first, &second].map(|c| c.as_ref().map(|c| c.wide)), [Some(4); 2]);
        assert!(split().is_none());
        let narrow = lanes.split(0, 1 << 30, 2);
        assert!(narrow.is_none());
        drop(first);
        let narrow = lanes.split(0, 1 << 30, 2);
        assert_eq!(narrow.map(|c| c.wide), Some(2));
        assert!(lanes.split(0, 1 << 30, 1).is_none());
        drop(second);
    }

    #[test]
    fn parts_are_small_beside_the_blob_and_after_a_break() {
        assert_eq!(part_bytes(0, 1 << 30), 2 * MIB);
        assert_eq!(part_bytes(0, 128 * MIB), MIB);
        assert_eq!(part_bytes(0, LARGE_BYTES), MIB / 2);
        assert_eq!(part_bytes(1, 1 << 30), MIB / 2);
    }

    #[test]
    fn parts_are_all_of_what_is_left() {
        let of = |from, size, part| parts(from, size, part).collect::<Vec<_>>();
        assert_eq!(of(0, 10, 4), [0..4, 4..8, 8..10]);
        assert_eq!(of(2, 10, 4), [2..6, 6..10]);
        assert!(of(10, 10, 4).is_empty() && of(11, 10, 4).is_empty());
    }
}
