//! Reads archives of images that came with a task: what is in one, and then the bodies of chosen entries.
//!
//! The file is the task's, and so is all that it says. It is opened without following a link, read in pieces, and never
//! written anywhere by its own names. What it unpacks to is bounded: a few bytes can be a compressed ocean.

use super::error::HostError;
use super::paths::open_beneath;
use super::unpacked::{Source, cut_off};
use crate::spec::tar::{self, BLOCK, Kind};
use rustix::fs::{self, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::fs::File;
use std::path::{Path, PathBuf};

const WHAT: &str = "image archive";

/// Most entries: an image has at most 127 layers, and old archives three entries for each.
const ENTRIES_MAX: usize = 100_000;
/// Largest document that is kept: containerd's own limit for a manifest is 8 MB.
const DOCUMENT_MAX_BYTES: u64 = 8 << 20;
/// All documents together.
const DOCUMENTS_MAX_BYTES: usize = 32 << 20;
/// The names of all entries together.
const NAMES_MAX_BYTES: usize = 16 << 20;
/// One read, and one piece of a body.
const PIECE_BYTES: usize = 1 << 20;

/// An entry of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A file.
    File(FileEntry),
    /// Another name of that entry.
    Link(String),
}

/// A file in an archive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileEntry {
    /// Bytes.
    pub size: u64,
    /// SHA-256 in hexadecimal digits; of the blobs of an OCI layout, which are named by it, empty.
    pub sha256: String,
    /// Its first bytes.
    pub head: Vec<u8>,
    /// The whole of it, if it looks like JSON and is not large.
    pub document: Option<Vec<u8>>,
}

/// An opened archive.
#[derive(Debug)]
pub struct Archive {
    file: File,
    path: PathBuf,
}

impl Archive {
    /// Opens `path` beneath the task directory: below `local` as Nomad's Docker driver does, or else as it is.
    ///
    /// # Errors
    /// Says what is in the way.
    pub fn open(task_dir: &Path, path: &str) -> Result<Self, HostError> {
        // As the task sees it: `/local/x.tar` is in its directory here.
        let path = Path::new(path.trim_start_matches('/'));
        let at = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root =
            fs::openat(CWD, task_dir, at, Mode::empty()).map_err(|e| HostError::from_errno(WHAT, task_dir, e))?;
        // A pipe would be waited for.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let mut found = Err(Errno::NOENT);
        let mut whole = PathBuf::new();
        for rest in [Path::new("local").join(path), path.to_owned()] {
            whole = task_dir.join(&rest);
            found = open_beneath(&root, &rest, flags);
            if !matches!(found, Err(Errno::NOENT | Errno::NOTDIR)) {
                break;
            }
        }
        let fd = found.map_err(|errno| match errno {
            Errno::NOENT | Errno::NOTDIR => HostError::new(
                WHAT,
                &whole,
                "there is nothing at this path, nor below the local directory of the task; Nomad unpacks an archive unless its \
                 artifact block has options { archive = false }",
            ),
            other => HostError::from_errno(WHAT, &whole, other),
        })?;
        let kind = fs::fstat(&fd)
            .map_err(|e| HostError::from_errno(WHAT, &whole, e))?
            .st_mode;
        if FileType::from_raw_mode(kind) != FileType::RegularFile {
            let text =
                "it is not a file; Nomad unpacks an archive unless its artifact block has options { archive = false }";
            return Err(HostError::new(WHAT, &whole, text));
        }
        Ok(Self {
            file: File::from(fd),
            path: whole,
        })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is in it, by name.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn survey(&self) -> Result<BTreeMap<String, Entry>, HostError> {
        self.look().map_err(|reason| HostError::new(WHAT, &self.path, reason))
    }

    /// Reads the bodies of these entries, in the order of the archive, until `take` says no.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn read(&self, mut wanted: HashSet<String>, mut take: impl FnMut(Piece) -> bool) -> Result<(), HostError> {
        let mut read = || -> Result<(), String> {
            let mut walk = Walk::begin(&self.file)?;
            while !wanted.is_empty()
                && let Some(found) = walk.next()?
            {
                if found.kind != Kind::File || !wanted.remove(&found.name) {
                    continue;
                }
                if !take(Piece::Begin(found.name, found.size)) {
                    return Ok(());
                }
                while let Some(bytes) = walk.body(PIECE_BYTES)? {
                    if !take(Piece::Bytes(bytes)) {
                        return Ok(());
                    }
                }
                if !take(Piece::End) {
                    return Ok(());
                }
            }
            Ok(())
        };
        read().map_err(|reason| HostError::new(WHAT, &self.path, reason))
    }

    fn look(&self) -> Result<BTreeMap<String, Entry>, String> {
        let mut walk = Walk::begin(&self.file)?;
        let mut entries = BTreeMap::new();
        let (mut kept, mut named) = (0, 0_usize);
        while let Some(found) = walk.next()? {
            named = named.saturating_add(found.name.len()).saturating_add(found.link.len());
            if named > NAMES_MAX_BYTES {
                return Err(format!(
                    "the names of its entries have more than {NAMES_MAX_BYTES} bytes"
                ));
            }
            let entry = match found.kind {
                Kind::File => Entry::File(walk.file(&found, &mut kept)?),
                Kind::HardLink => Entry::Link(tar::clean(&found.link)?),
                Kind::SymLink => match tar::pointed_to(&found.name, &found.link) {
                    Some(to) => Entry::Link(to),
                    None => {
                        return Err(format!(
                            "its entry {:?} is a link that leads out of it",
                            tar::shown(&found.name)
                        ));
                    }
                },
                _ => continue,
            };
            if entries.len() >= ENTRIES_MAX {
                return Err(format!("it has more than {ENTRIES_MAX} entries"));
            }
            entries.insert(found.name, entry);
        }
        Ok(entries)
    }
}

/// What [`Archive::read`] hands on.
#[derive(Debug)]
pub enum Piece {
    /// An entry begins: its name and size.
    Begin(String, u64),
    /// Some of it.
    Bytes(Vec<u8>),
    /// It has ended.
    End,
}

struct Found {
    name: String,
    size: u64,
    kind: Kind,
    link: String,
}

/// Walks through an archive, entry by entry.
struct Walk {
    source: Source,
    /// Bytes of the present body that were not read, and of the padding behind it.
    body: u64,
    padding: u64,
}

impl Walk {
    fn begin(file: &File) -> Result<Self, String> {
        Ok(Self {
            source: Source::begin(file)?,
            body: 0,
            padding: 0,
        })
    }

    fn next(&mut self) -> Result<Option<Found>, String> {
        let (mut name, mut link) = (None, None);
        let mut records = tar::Records::default();
        loop {
            self.source.skip(self.body)?;
            self.source.skip(self.padding)?;
            (self.body, self.padding) = (0, 0);
            let mut block = [0; BLOCK];
            if !self.source.fill(&mut block)? {
                return Ok(None);
            }
            let Some(header) = tar::header(&block)? else {
                return Ok(None);
            };
            self.expect(header.size);
            match header.kind {
                Kind::LongName => name = Some(self.long_text()?),
                Kind::LongLink => link = Some(self.long_text()?),
                Kind::Pax => records = tar::records(&self.small_body()?)?,
                Kind::PaxGlobal => {}
                kind => {
                    let size = match (kind, records.size) {
                        // Links and directories have no body, whatever they say.
                        (Kind::HardLink | Kind::SymLink | Kind::Directory, _) => 0,
                        (_, Some(size)) => size,
                        (_, None) => header.size,
                    };
                    self.expect(size);
                    let name = records.path.or(name).unwrap_or(header.name);
                    return Ok(Some(Found {
                        name: tar::clean(&name)?,
                        size,
                        kind,
                        link: records.link.or(link).unwrap_or(header.link),
                    }));
                }
            }
        }
    }

    fn expect(&mut self, size: u64) {
        let block = BLOCK as u64;
        (self.body, self.padding) = (size, (block - size % block) % block);
    }

    fn small_body(&mut self) -> Result<Vec<u8>, String> {
        if self.body > tar::NAME_MAX_BYTES {
            return Err(format!("the name of an entry has {} bytes", self.body));
        }
        Ok(self.body(tar::NAME_MAX_BYTES as usize)?.unwrap_or_default())
    }

    fn long_text(&mut self) -> Result<String, String> {
        let bytes = self.small_body()?;
        let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
        let text = std::str::from_utf8(bytes.get(..end).unwrap_or_default());
        text.map(str::to_owned)
            .map_err(|_| "the name of an entry is not UTF-8".to_owned())
    }

    /// The next at most `limit` bytes of the body; `None` at its end.
    fn body(&mut self, limit: usize) -> Result<Option<Vec<u8>>, String> {
        let size = usize::try_from(self.body).unwrap_or(usize::MAX).min(limit);
        if size == 0 {
            return Ok(None);
        }
        let mut bytes = vec![0; size];
        if !self.source.fill(&mut bytes)? {
            return Err(cut_off());
        }
        self.body -= size as u64;
        Ok(Some(bytes))
    }

    /// What is to be known of a file.
    fn file(&mut self, found: &Found, kept: &mut usize) -> Result<FileEntry, String> {
        let mut entry = FileEntry {
            size: found.size,
            ..FileEntry::default()
        };
        let is_blob = found.name.starts_with("blobs/");
        let mut sum = (!is_blob).then(Sha256::new);
        // A document is read whole; of a blob otherwise only the beginning.
        let mut document = Vec::new();
        while let Some(bytes) = self.body(PIECE_BYTES)? {
            if entry.head.is_empty() {
                entry.head = bytes.iter().take(8).copied().collect();
                let first = bytes.iter().find(|b| !b.is_ascii_whitespace());
                let is_json = matches!(first, Some(b'{' | b'['));
                if !is_json || found.size > DOCUMENT_MAX_BYTES {
                    let Some(sum) = &mut sum else { return Ok(entry) };
                    sum.update(&bytes);
                    while let Some(bytes) = self.body(PIECE_BYTES)? {
                        sum.update(&bytes);
                    }
                    break;
                }
            }
            if let Some(sum) = &mut sum {
                sum.update(&bytes);
            }
            document.extend_from_slice(&bytes);
        }
        if !document.is_empty() {
            *kept += document.len();
            if *kept > DOCUMENTS_MAX_BYTES {
                return Err(format!("its documents have more than {DOCUMENTS_MAX_BYTES} bytes"));
            }
            entry.document = Some(document);
        }
        if let Some(sum) = sum {
            entry.sha256 = hex(&sum.finalize());
        }
        Ok(entry)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // A string takes everything.
        write!(text, "{byte:02x}").ok();
        text
    })
}

#[cfg(test)]
#[path = "archive_tests.rs"]
mod tests;
