//! The bytes of one blob on their way from a registry into the content store, in order, over one connection or several.

use super::fetch::Fetcher;
use super::lanes::{self, Split};
use super::registry::Blob;
use crate::containerd::{ContentWriter, Descriptor};
use crate::messages::image::ImageError;
use futures_util::future::{join, try_join};
use futures_util::stream::{FuturesOrdered, StreamExt as _};
use std::ops::Range;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// One write to the content store. Larger is not faster, and there are several copies of each on its way there.
const CHUNK_BYTES: usize = 256 << 10;
/// Longest time that bytes wait for more to be written with them: what is not written goes with the plugin.
const CHUNK_WITHIN: Duration = Duration::from_millis(300);
/// What is said of a blob that ends before its end.
const EARLY: &str = "the connection ended early";

/// Why there is no more of a blob, or of a part.
enum End {
    /// It is all here.
    Whole,
    /// There is more of it than there should be.
    TooLong,
    /// The connection broke, or there was none.
    Broken(ImageError),
}

/// What has come of a part.
struct Part {
    chunks: Vec<Vec<u8>>,
    end: End,
}

impl Part {
    fn broken(error: ImageError) -> Self {
        Self {
            chunks: Vec::new(),
            end: End::Broken(error),
        }
    }
}

impl Fetcher<'_> {
    /// Copies what is not here yet, by at most so many requests at once. `host` is told from whom it comes.
    pub(super) async fn copy(
        &self,
        writer: &mut ContentWriter,
        target: &Descriptor,
        widest: usize,
        counted: &mut u64,
        host: &mut Option<usize>,
    ) -> Result<(), ImageError> {
        let from = writer.offset();
        if from >= target.size {
            return Ok(());
        }
        let split = self.lanes.split(from, target.size, widest);
        let blob = match &split {
            Some(split) => self.session.part(target, from, Some(from + split.part), None).await?,
            None => self.session.blob(target, from).await?,
        };
        *host = Some(blob.host());
        match split.filter(|_| blob.is_part()) {
            Some(split) => self.copy_parts(writer, target, &split, blob, counted).await,
            None => self.copy_rest(writer, target, blob, counted).await,
        }
    }

    /// Copies over the one connection.
    async fn copy_rest(
        &self,
        writer: &mut ContentWriter,
        target: &Descriptor,
        mut blob: Blob,
        counted: &mut u64,
    ) -> Result<(), ImageError> {
        let mut left = target.size.saturating_sub(writer.offset());
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        let mut end = self.fill(&mut blob, &mut chunk, &mut left, CHUNK_WITHIN).await;
        // What has come is kept, also before a broken connection is reported.
        while !chunk.is_empty() {
            let full = std::mem::replace(&mut chunk, Vec::with_capacity(CHUNK_BYTES));
            let write = self.write(writer, full, counted);
            match &end {
                // While containerd writes one, the next comes.
                None => {
                    let (written, next) = join(write, self.fill(&mut blob, &mut chunk, &mut left, CHUNK_WITHIN)).await;
                    written?;
                    end = next;
                }
                Some(_) => write.await?,
            }
        }
        let early = || End::Broken(self.session.unavailable(EARLY.to_owned()));
        self.ended(end.unwrap_or_else(early), target, blob.host())
    }

    /// Copies by several requests at once, all to the host that has given the first part: a blob is not to be a mixture.
    async fn copy_parts(
        &self,
        writer: &mut ContentWriter,
        target: &Descriptor,
        split: &Split,
        first: Blob,
        counted: &mut u64,
    ) -> Result<(), ImageError> {
        let (host, mut first) = (first.host(), Some(first));
        let mut ranges = lanes::parts(writer.offset(), target.size, split.part);
        let mut coming = FuturesOrdered::new();
        let mut come: Option<Part> = None;
        loop {
            while coming.len() < split.wide
                && let Some(range) = ranges.next()
            {
                coming.push_back(self.part(target, range, host, first.take()));
            }
            // While containerd writes one, the next come.
            let write = async {
                let Some(part) = come.take() else { return Ok(()) };
                for chunk in part.chunks {
                    self.write(writer, chunk, counted).await?;
                }
                self.ended(part.end, target, host)
            };
            let ((), next) = try_join(write, async { Ok(coming.next().await) }).await?;
            if next.is_none() {
                return Ok(());
            }
            come = next;
        }
    }

    /// Fetches a part, as far as it comes.
    async fn part(&self, target: &Descriptor, range: Range<u64>, host: usize, opened: Option<Blob>) -> Part {
        // One byte more than there should be is asked for, to hear of it if there is more.
        let to = if range.end < target.size {
            range.end
        } else {
            target.size + 1
        };
        let blob = match opened {
            Some(blob) => Ok(blob),
            None => self.session.part(target, range.start, Some(to), Some(host)).await,
        };
        let mut chunks = Vec::new();
        let mut blob = match blob {
            Ok(blob) if blob.is_part() => blob,
            Ok(_) => {
                let all = self
                    .session
                    .unavailable("all came where a part was asked for".to_owned());
                return Part::broken(all);
            }
            Err(error @ ImageError::Registry { .. }) => return Part::broken(error),
            // A host that has given the first part and refuses another: whether all others do, the next attempt finds out.
            Err(error) => return Part::broken(self.session.unavailable(error.to_string())),
        };
        let mut left = range.end - range.start;
        loop {
            let capacity = usize::try_from(left).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
            let mut chunk = Vec::with_capacity(capacity);
            // Written when all of the part is here.
            let end = self.fill(&mut blob, &mut chunk, &mut left, Duration::MAX).await;
            if !chunk.is_empty() {
                chunks.push(chunk);
            }
            if let Some(end) = end {
                return Part { chunks, end };
            }
        }
    }

    async fn write(&self, writer: &mut ContentWriter, chunk: Vec<u8>, counted: &mut u64) -> Result<(), ImageError> {
        self.containerd(writer.write(chunk).await)?;
        self.tally.correct(*counted, writer.offset());
        *counted = writer.offset();
        Ok(())
    }

    /// What it means that no more comes.
    fn ended(&self, end: End, target: &Descriptor, host: usize) -> Result<(), ImageError> {
        match end {
            // Whether it is the right one, the commit finds out.
            End::Whole => Ok(()),
            End::TooLong => {
                self.session.distrust(host);
                Err(self.unusable(format!("{} is larger than its manifest says", target.digest)))
            }
            End::Broken(error) => Err(error),
        }
    }

    /// Fills a chunk, for so long after its first byte; `None` if there is more to come.
    async fn fill(&self, blob: &mut Blob, chunk: &mut Vec<u8>, left: &mut u64, within: Duration) -> Option<End> {
        let came = |bytes| self.tally.came(bytes);
        let mut until = None;
        while chunk.len() < CHUNK_BYTES {
            let room = CHUNK_BYTES - chunk.len();
            let next = match until {
                // The first is waited for as long as the host is: nothing is kept back meanwhile.
                None => blob.next(room, &came).await,
                Some(until) => match timeout_at(until, blob.next(room, &came)).await {
                    Ok(next) => next,
                    Err(_elapsed) => return None,
                },
            };
            match next {
                Ok(Some(bytes)) if bytes.len() as u64 > *left => return Some(End::TooLong),
                Ok(Some(bytes)) => {
                    *left -= bytes.len() as u64;
                    chunk.extend_from_slice(&bytes);
                    until = until.or_else(|| Instant::now().checked_add(within));
                }
                // What is told of a connection after its last byte does not matter.
                _ if *left == 0 => return Some(End::Whole),
                Ok(None) => return Some(End::Broken(self.session.unavailable(EARLY.to_owned()))),
                Err(reason) => return Some(End::Broken(self.session.unavailable(reason))),
            }
        }
        None
    }
}
