//! Tests of reading archives of images.

use super::*;
use std::io::Write as _;
use std::os::unix::fs::symlink;

/// One entry as archives have it.
fn entry(name: &str, kind: u8, link: &str, body: &[u8]) -> Vec<u8> {
    let mut block = [0_u8; BLOCK];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[124..136].copy_from_slice(format!("{:011o}\0", body.len()).as_bytes());
    block[148..156].copy_from_slice(b"        ");
    block[156] = kind;
    block[157..157 + link.len()].copy_from_slice(link.as_bytes());
    let sum: u64 = block.iter().map(|b| u64::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut bytes = block.to_vec();
    bytes.extend_from_slice(body);
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

fn file(name: &str, body: &[u8]) -> Vec<u8> {
    entry(name, b'0', "", body)
}

fn archive(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = entries.concat();
    bytes.resize(bytes.len() + 2 * BLOCK, 0);
    bytes
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

/// A task directory with an archive in its `local` directory.
fn with(bytes: &[u8]) -> (tempfile::TempDir, Archive) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("local")).unwrap();
    std::fs::write(dir.path().join("local/x.tar"), bytes).unwrap();
    let archive = Archive::open(dir.path(), "x.tar").unwrap();
    (dir, archive)
}

fn reason(bytes: &[u8]) -> String {
    with(bytes).1.survey().unwrap_err().reason
}

fn bodies(archive: &Archive, names: &[&str]) -> Vec<(String, Vec<u8>)> {
    let mut found: Vec<(String, Vec<u8>)> = Vec::new();
    archive
        .read(names.iter().map(|n| (*n).to_owned()).collect(), |piece| {
            match piece {
                Piece::Begin(name, _) => found.push((name, Vec::new())),
                Piece::Bytes(bytes) => found.last_mut().unwrap().1.extend(bytes),
                Piece::End => {}
            }
            true
        })
        .unwrap();
    found
}

#[test]
fn plain_gzip_and_zstd_archives_are_read_alike() {
    let layer: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let plain = archive(&[
        file("./index.json", b" {\"a\": 1}"),
        file("blobs/sha256/aa", &layer),
        entry("l/layer.tar", b'2', "../k/layer.tar", b""),
        file("k/layer.tar", b"tar"),
    ]);
    // Members and frames one after the other, as parallel compressors write them.
    let (a, b) = plain.split_at(1_000_001);
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"xyz"].concat();
    let packed = [
        plain.clone(),
        gzip(&plain),
        [gzip(a), gzip(b)].concat(),
        zstd(&plain),
        [zstd(a), skippable, zstd(b)].concat(),
    ];
    for bytes in packed {
        let (_dir, archive) = with(&bytes);
        let entries = archive.survey().unwrap();
        let Entry::File(index) = &entries["index.json"] else {
            panic!("{entries:?}")
        };
        assert_eq!(index.document.as_deref(), Some(&b" {\"a\": 1}"[..]));
        let Entry::File(blob) = &entries["blobs/sha256/aa"] else {
            panic!("{entries:?}")
        };
        assert_eq!(
            (blob.size, blob.sha256.as_str(), &blob.document),
            (3_000_000, "", &None)
        );
        assert_eq!(entries["l/layer.tar"], Entry::Link("k/layer.tar".to_owned()));
        let Entry::File(old) = &entries["k/layer.tar"] else {
            panic!("{entries:?}")
        };
        assert_eq!(
            (old.sha256.as_str(), old.head.as_slice()),
            (hex(&Sha256::digest(b"tar")).as_str(), &b"tar"[..])
        );
        let found = bodies(&archive, &["blobs/sha256/aa", "k/layer.tar"]);
        assert_eq!(found[0], ("blobs/sha256/aa".to_owned(), layer.clone()));
        assert_eq!(found[1].1, b"tar");
    }
}

#[test]
fn long_names_of_both_kinds_are_read() {
    let name = format!("{}/layer.tar", "a".repeat(150));
    let record = format!("path={name}\n");
    let length = record.len() + 4;
    let pax = format!("{length} {record}");
    for before in [
        entry("././@LongLink", b'L', "", format!("{name}\0").as_bytes()),
        entry("pax", b'x', "", pax.as_bytes()),
    ] {
        let (_dir, archive) = with(&archive(&[before, file("short", b"x")]));
        assert!(archive.survey().unwrap().contains_key(&name));
    }
    let endless = entry("././@LongLink", b'L', "", &vec![b'a'; 20_000]);
    assert!(reason(&archive(&[endless])).contains("the name of an entry has 20000 bytes"));
}

#[test]
fn names_and_links_that_lead_out_are_refused() {
    assert!(reason(&archive(&[file("../../etc/passwd", b"x")])).contains("leads out"));
    assert!(reason(&archive(&[file("/etc/passwd", b"x")])).contains("leads out"));
    assert!(reason(&archive(&[entry("a/l", b'2', "/etc/passwd", b"")])).contains("leads out"));
    assert!(reason(&archive(&[entry("a/l", b'1', "../x", b"")])).contains("leads out"));
}

#[test]
fn what_is_damaged_or_no_archive_is_told() {
    let whole = archive(&[file("a", &[7; 2000])]);
    assert!(reason(&whole[..1500]).contains("ends in the middle"));
    assert!(reason(&gzip(&whole)[..40]).contains("cannot be read") || reason(&gzip(&whole)[..40]).contains("middle"));
    assert!(reason(b"#!/bin/sh\necho this is no archive, but it has a few lines\n").contains("middle"));
    assert!(reason(&[b'x'; 600]).contains("not a tar archive"));
    assert!(reason(b"").contains("it is empty"));
    assert!(reason(b"BZh91AY&SY").contains("compressed with bzip2; plain"));
    assert!(reason(b"\xfd7zXZ\0\0").contains("compressed with xz"));
    // A body that is said to be larger than the file.
    let mut lie = file("a", b"x");
    lie[124..136].copy_from_slice(b"77777777777\0");
    lie[148..156].copy_from_slice(b"        ");
    let sum: u64 = lie[..BLOCK].iter().map(|b| u64::from(*b)).sum();
    lie[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    assert!(reason(&archive(&[lie])).contains("ends in the middle"));
}

#[test]
fn a_bomb_is_not_unpacked_to_its_end() {
    let mut source = Source::Packed {
        unpacked: Box::new(std::io::repeat(0)),
        left: 10_000_000,
        limit: 10_000_000,
    };
    source.skip(9_000_000).unwrap();
    assert!(source.skip(2_000_000).unwrap_err().contains("more than 10000000 bytes"));
}

#[test]
fn too_many_documents_are_not_kept() {
    let mut large = vec![b' '; 7 << 20];
    large[0] = b'{';
    let many: Vec<_> = (0..5).map(|n| file(&format!("{n}.json"), &large)).collect();
    assert!(reason(&archive(&many)).contains("its documents have more than"));
}

#[test]
fn an_archive_is_a_file_in_the_task_directory_and_no_link_leads_there() {
    let dir = tempfile::tempdir().unwrap();
    let (root, local) = (dir.path(), dir.path().join("local"));
    std::fs::create_dir(&local).unwrap();
    std::fs::write(root.join("top.tar"), "").unwrap();
    std::fs::write(local.join("x.tar"), "").unwrap();
    symlink("/etc/passwd", local.join("out.tar")).unwrap();
    symlink("/etc", local.join("dir")).unwrap();
    let open = |path: &str| Archive::open(root, path).map(|a| a.path().to_owned());
    assert_eq!(open("x.tar").unwrap(), local.join("x.tar"));
    for path in ["local/x.tar", "/local/x.tar"] {
        assert_eq!(open(path).unwrap(), local.join("x.tar"));
    }
    assert_eq!(open("top.tar").unwrap(), root.join("top.tar"));
    for (path, want) in [
        ("none.tar", "there is nothing at this path"),
        ("out.tar", "symbolic link"),
        ("dir/passwd", "symbolic link"),
        ("../../x", "leads out"),
        ("/etc/passwd", "there is nothing at this path"),
        (".", "it is not a file"),
    ] {
        let text = open(path).unwrap_err().to_string();
        assert!(text.contains(want), "{path}: {text}");
    }
}
