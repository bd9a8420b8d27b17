//! The bytes of an archive, whether it is compressed or not, one after the other and not more of them than an image has.

use flate2::read::MultiGzDecoder;
use ruzstd::decoding::StreamingDecoder;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read, Seek as _, SeekFrom};

/// What a compressed archive may unpack to: so much in any case, and beyond that so many times its own size. Layers of
/// programs have a ratio of 2 to 5.
const UNPACKED_FREE_BYTES: u64 = 2 << 30;
const UNPACKED_RATIO: u64 = 50;
/// One read.
const PIECE_BYTES: usize = 1 << 20;

pub(super) fn cut_off() -> String {
    "it ends in the middle of an entry: it is damaged, or not yet whole".to_owned()
}

/// The bytes of the tar archive.
pub(super) enum Source {
    Plain {
        file: BufReader<File>,
        left: u64,
    },
    Packed {
        unpacked: Box<dyn Read + Send>,
        /// What it may still unpack to.
        left: u64,
        limit: u64,
    },
}

impl Source {
    pub(super) fn begin(file: &File) -> Result<Self, String> {
        // Its own offset: nobody else reads this description at the same time.
        let mut file = file.try_clone().map_err(|e| e.to_string())?;
        file.seek(SeekFrom::Start(0)).map_err(|e| e.to_string())?;
        let left = file.metadata().map_err(|e| e.to_string())?.len();
        let mut file = BufReader::with_capacity(PIECE_BYTES, file);
        let head: Vec<u8> = file
            .fill_buf()
            .map_err(|e| e.to_string())?
            .iter()
            .take(6)
            .copied()
            .collect();
        let limit = left.saturating_mul(UNPACKED_RATIO).max(UNPACKED_FREE_BYTES);
        let unpacked: Box<dyn Read + Send> = match head.as_slice() {
            [0x1f, 0x8b, ..] => Box::new(MultiGzDecoder::new(file)),
            // A frame, or one to be skipped before it (RFC 8878, 3.1.2), as pzstd writes it.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Box::new(Zstd {
                frame: Frame::Between(file),
            }),
            [0xfd, b'7', b'z', b'X', b'Z', 0] => return Err(other_packing("xz")),
            [b'B', b'Z', b'h', ..] => return Err(other_packing("bzip2")),
            [] => return Err("it is empty".to_owned()),
            _ => return Ok(Self::Plain { file, left }),
        };
        Ok(Self::Packed {
            unpacked,
            left: limit,
            limit,
        })
    }

    /// Fills the buffer; false if there is nothing at all any more.
    pub(super) fn fill(&mut self, buffer: &mut [u8]) -> Result<bool, String> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let read = match self {
                Self::Plain { file, .. } => file.read(rest),
                Self::Packed { unpacked, .. } => unpacked.read(rest),
            };
            match read {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return Err(cut_off()),
                Ok(n) => filled += n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(format!("it cannot be read: {e}")),
            }
        }
        self.count(filled as u64)?;
        Ok(true)
    }

    fn count(&mut self, bytes: u64) -> Result<(), String> {
        match self {
            Self::Plain { left, .. } => *left = left.saturating_sub(bytes),
            Self::Packed { left, limit, .. } => {
                *left = left.checked_sub(bytes).ok_or_else(|| {
                    format!("it unpacks to more than {limit} bytes, which is more than any image would")
                })?;
            }
        }
        Ok(())
    }

    pub(super) fn skip(&mut self, mut bytes: u64) -> Result<(), String> {
        if let Self::Plain { file, left } = self {
            *left = left.checked_sub(bytes).ok_or_else(cut_off)?;
            let offset = i64::try_from(bytes).map_err(|_| cut_off())?;
            return file
                .seek_relative(offset)
                .map_err(|e| format!("it cannot be read: {e}"));
        }
        let mut buffer = vec![0; PIECE_BYTES.min(usize::try_from(bytes).unwrap_or(PIECE_BYTES))];
        while bytes > 0 {
            let size = usize::try_from(bytes).unwrap_or(usize::MAX).min(buffer.len());
            if !self.fill(buffer.get_mut(..size).unwrap_or_default())? {
                return Err(cut_off());
            }
            bytes -= size as u64;
        }
        Ok(())
    }
}

fn other_packing(name: &str) -> String {
    format!("it is compressed with {name}; plain archives and those compressed with gzip or zstd are read")
}

/// The frames of a zstd file, one after the other: parallel compressors write many.
struct Zstd {
    frame: Frame,
}

enum Frame {
    Between(BufReader<File>),
    Within(Box<StreamingDecoder<BufReader<File>, ruzstd::decoding::FrameDecoder>>),
    Ended,
}

impl Read for Zstd {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        loop {
            match std::mem::replace(&mut self.frame, Frame::Ended) {
                Frame::Ended => return Ok(0),
                Frame::Between(mut file) => {
                    if file.fill_buf()?.is_empty() {
                        return Ok(0);
                    }
                    // A skippable frame: its magic number, its length, and what is skipped.
                    if let [0x50..=0x5f, 0x2a, 0x4d, 0x18, a, b, c, d, ..] = *file.buffer() {
                        file.seek_relative(8 + i64::from(u32::from_le_bytes([a, b, c, d])))?;
                        self.frame = Frame::Between(file);
                        continue;
                    }
                    let frame = StreamingDecoder::new(file).map_err(std::io::Error::other)?;
                    self.frame = Frame::Within(Box::new(frame));
                }
                Frame::Within(mut frame) => {
                    let read = frame.read(buffer)?;
                    if read > 0 || buffer.is_empty() {
                        self.frame = Frame::Within(frame);
                        return Ok(read);
                    }
                    self.frame = Frame::Between((*frame).into_inner());
                }
            }
        }
    }
}
