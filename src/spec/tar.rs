//! Headers of tar archives (POSIX ustar and pax, GNU long names), as far as an archive of images needs them. Pure.
//!
//! An archive comes with a job, so nothing in it is believed: sums are checked, numbers are bounded, names that lead out of
//! the archive are refused, and a name longer than any file system takes is not read at all.

/// Bytes of a header, and what bodies are padded to.
pub const BLOCK: usize = 512;

/// Longest name, and longest set of pax records, in bytes (`PATH_MAX` is 4096).
pub const NAME_MAX_BYTES: u64 = 16 << 10;

/// What follows a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A file.
    File,
    /// The content of another entry, by its name in the archive.
    HardLink,
    /// The content of another entry, by a path from here.
    SymLink,
    /// A directory.
    Directory,
    /// The name of the next entry (GNU).
    LongName,
    /// The link of the next entry (GNU).
    LongLink,
    /// Records for the next entry (pax).
    Pax,
    /// Records for all that follow (pax), which archives of images do not need.
    PaxGlobal,
    /// A device, a pipe, a sparse file.
    Other,
}

/// One header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Name as written.
    pub name: String,
    /// Bytes of the body.
    pub size: u64,
    /// What it is.
    pub kind: Kind,
    /// What a link points to.
    pub link: String,
}

/// What pax records say of the next entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Records {
    /// Its name.
    pub path: Option<String>,
    /// What its link points to.
    pub link: Option<String>,
    /// Bytes of its body.
    pub size: Option<u64>,
}

/// Reads a header. `None` for a block of zeros, which ends an archive.
///
/// # Errors
/// Says what is wrong.
pub fn header(block: &[u8; BLOCK]) -> Result<Option<Header>, String> {
    if block.iter().all(|b| *b == 0) {
        return Ok(None);
    }
    let sum: u64 = block
        .iter()
        .enumerate()
        // The sum itself counts as spaces.
        .map(|(i, b)| u64::from(if (148..156).contains(&i) { b' ' } else { *b }))
        .sum();
    if number(field(block, 148, 8)) != Some(sum) {
        return Err("it is not a tar archive, or it is damaged: the sum of a header is wrong".to_owned());
    }
    let size = number(field(block, 124, 12)).ok_or("the size of an entry cannot be read")?;
    let kind = match field(block, 156, 1) {
        [0 | b'0' | b'7'] => Kind::File,
        [b'1'] => Kind::HardLink,
        [b'2'] => Kind::SymLink,
        [b'5'] => Kind::Directory,
        [b'L'] => Kind::LongName,
        [b'K'] => Kind::LongLink,
        [b'x'] => Kind::Pax,
        [b'g'] => Kind::PaxGlobal,
        _ => Kind::Other,
    };
    let (name, prefix) = (text(field(block, 0, 100))?, field(block, 345, 155));
    let is_ustar = field(block, 257, 6) == b"ustar\0";
    let name = match text(prefix)? {
        prefix if is_ustar && !prefix.is_empty() => format!("{prefix}/{name}"),
        _ => name,
    };
    Ok(Some(Header {
        name,
        size,
        kind,
        link: text(field(block, 157, 100))?,
    }))
}

/// Reads pax records, each `LENGTH KEY=VALUE\n`.
///
/// # Errors
/// Says what is wrong.
pub fn records(mut bytes: &[u8]) -> Result<Records, String> {
    let wrong = || "the pax records of an entry cannot be read".to_owned();
    let mut found = Records::default();
    while !bytes.is_empty() {
        let space = bytes.iter().position(|b| *b == b' ').ok_or_else(wrong)?;
        let (digits, _) = bytes.split_at_checked(space).ok_or_else(wrong)?;
        let length: usize = std::str::from_utf8(digits)
            .ok()
            .and_then(|d| d.parse().ok())
            .filter(|l| *l > space + 1)
            .ok_or_else(wrong)?;
        let (record, rest) = bytes.split_at_checked(length).ok_or_else(wrong)?;
        bytes = rest;
        let record = record.get(space + 1..).and_then(|r| r.strip_suffix(b"\n"));
        let record = record.ok_or_else(wrong)?;
        let equals = record.iter().position(|b| *b == b'=').ok_or_else(wrong)?;
        let (key, value) = record.split_at_checked(equals).ok_or_else(wrong)?;
        // Those that are not needed may be anything: attributes of files are bytes.
        let value = || std::str::from_utf8(value.get(1..).unwrap_or_default()).map_err(|_| wrong());
        match key {
            b"path" => found.path = Some(value()?.to_owned()),
            b"linkpath" => found.link = Some(value()?.to_owned()),
            b"size" => found.size = Some(value()?.parse().map_err(|_| wrong())?),
            key if key.starts_with(b"GNU.sparse.") => return Err("sparse files are not read".to_owned()),
            _ => {}
        }
    }
    Ok(found)
}

/// The name of an entry without `.` and doubled slashes, empty for the root of the archive.
///
/// # Errors
/// For a name that leads out of the archive.
pub fn clean(name: &str) -> Result<String, String> {
    inside("", name).ok_or_else(|| format!("its entry {:?} leads out of it", shown(name)))
}

/// The entry that the symbolic link of entry `from` points to; `None` if that is none of the archive.
#[must_use]
pub fn pointed_to(from: &str, link: &str) -> Option<String> {
    let dir = from.rsplit_once('/').map_or("", |(dir, _)| dir);
    inside(dir, link)
}

fn inside(dir: &str, path: &str) -> Option<String> {
    if path.starts_with('/') || path.contains('\0') {
        return None;
    }
    let mut parts: Vec<&str> = dir.split('/').filter(|p| !p.is_empty()).collect();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// A name for an error: not longer than a line, and it cannot move the cursor.
#[must_use]
pub fn shown(name: &str) -> String {
    const WORDS_MAX: usize = 100;
    let plain = |c: char| if c.is_control() { '?' } else { c };
    name.chars().take(WORDS_MAX).map(plain).collect()
}

fn field(block: &[u8; BLOCK], at: usize, length: usize) -> &[u8] {
    block.get(at..at + length).unwrap_or_default()
}

fn text(field: &[u8]) -> Result<String, String> {
    let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
    let text = std::str::from_utf8(field.get(..end).unwrap_or_default());
    text.map(str::to_owned)
        .map_err(|_| "the name of an entry is not UTF-8".to_owned())
}

/// Octal digits, or a big-endian number after a first byte of 0x80 (GNU, for more than 8 GiB).
fn number(field: &[u8]) -> Option<u64> {
    let (first, rest) = field.split_first()?;
    if *first & 0x80 != 0 {
        // 0xff begins a negative one.
        let (high, low) = rest.split_at_checked(rest.len().checked_sub(8)?)?;
        let small = *first == 0x80 && high.iter().all(|b| *b == 0);
        let number = u64::from_be_bytes(low.try_into().ok()?);
        return (small && number <= i64::MAX.unsigned_abs()).then_some(number);
    }
    let digits = std::str::from_utf8(field).ok()?;
    let digits = digits.trim_matches(|c: char| c == '\0' || c == ' ');
    if digits.is_empty() {
        return Some(0);
    }
    u64::from_str_radix(digits, 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A header as archives have it.
    fn block(name: &str, kind: u8, size: &[u8], link: &str) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[124..124 + size.len()].copy_from_slice(size);
        block[156] = kind;
        block[157..157 + link.len()].copy_from_slice(link.as_bytes());
        block[257..263].copy_from_slice(b"ustar\0");
        summed(block)
    }

    fn summed(mut block: [u8; BLOCK]) -> [u8; BLOCK] {
        block[148..156].copy_from_slice(b"        ");
        let sum: u64 = block.iter().map(|b| u64::from(*b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block
    }

    #[test]
    fn a_header_says_what_follows_it() {
        let mut file = block("b/layer.tar", b'0', b"00000000012\0", "");
        file[345..348].copy_from_slice(b"dir");
        let found = header(&summed(file)).unwrap().unwrap();
        assert_eq!(
            (found.name.as_str(), found.size, found.kind),
            ("dir/b/layer.tar", 10, Kind::File)
        );
        let link = header(&block("l", b'2', b"0", "../x")).unwrap().unwrap();
        assert_eq!((link.kind, link.link.as_str()), (Kind::SymLink, "../x"));
        assert_eq!(header(&[0; BLOCK]), Ok(None));
    }

    #[test]
    fn sizes_beyond_eight_gigabytes_are_read_and_negative_ones_are_not() {
        let mut size = [0; 12];
        (size[0], size[6]) = (0x80, 1);
        let found = header(&block("x", b'0', &size, "")).unwrap().unwrap();
        assert_eq!(found.size, 1 << 40);
        assert!(header(&block("x", b'0', &[0xff; 12], "")).is_err());
        assert!(header(&block("x", b'0', b"9", "")).is_err());
    }

    #[test]
    fn what_is_no_archive_is_told() {
        let mut block = block("x", b'0', b"0", "");
        block[0] = b'y';
        assert!(header(&block).unwrap_err().contains("not a tar archive"));
    }

    #[test]
    fn pax_records_name_the_next_entry() {
        let found = records(b"18 path=a/b/c.tar\n13 size=1000\n24 mtime=1577836800.123\n").unwrap();
        assert_eq!((found.path.as_deref(), found.size), (Some("a/b/c.tar"), Some(1000)));
        let attribute = b"27 SCHILY.xattr.a.b=\x01\xff\0=\n\xfe\n9 path=a\n";
        assert_eq!(records(attribute).unwrap().path.as_deref(), Some("a"));
        assert!(records(b"9 path=\xff\n").is_err());
        for wrong in [
            "path=a\n",
            "99 path=a\n",
            "3 a\n",
            "8 path=a\n",
            "10 size=ab\n",
            "0 a=b\n",
        ] {
            assert!(records(wrong.as_bytes()).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn names_stay_inside_and_links_are_followed_by_their_text() {
        assert_eq!(clean("./a//b/./c/"), Ok("a/b/c".to_owned()));
        assert_eq!(clean("./"), Ok(String::new()));
        for out in ["/etc/passwd", "../a", "a/../../b", "a\0b"] {
            assert!(clean(out).unwrap_err().contains("leads out"), "{out:?}");
        }
        assert_eq!(
            pointed_to("a/layer.tar", "../b/layer.tar").as_deref(),
            Some("b/layer.tar")
        );
        assert_eq!(pointed_to("a/layer.tar", "../../b"), None);
        assert_eq!(pointed_to("a/layer.tar", "/b"), None);
        assert_eq!(shown(&format!("\n{}", "x".repeat(200))).len(), 100);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), BLOCK), name in ".*") {
            let block: [u8; BLOCK] = bytes.clone().try_into().unwrap();
            header(&summed(block)).ok();
            records(&bytes).ok();
            if let Ok(name) = clean(&name) {
                prop_assert!(!name.split('/').any(|p| p == ".."));
            }
        }
    }
}
