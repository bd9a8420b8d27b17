//! Tests of what archives are taken for.

use super::*;
use serde_json::{Value, json};

const ARCH: &str = "amd64";

fn json_file(value: &Value) -> Entry {
    let bytes = value.to_string().into_bytes();
    Entry::File(FileEntry {
        size: bytes.len() as u64,
        sha256: hex_of(&bytes),
        head: bytes.iter().take(8).copied().collect(),
        document: Some(bytes),
    })
}

fn hex_of(bytes: &[u8]) -> String {
    Digest::sha256(bytes).as_str().trim_start_matches("sha256:").to_owned()
}

fn layer_file(head: &[u8], named_by_digest: bool) -> (Digest, Entry) {
    let sha256 = if named_by_digest { String::new() } else { hex_of(head) };
    let file = FileEntry {
        size: 1000,
        sha256,
        head: head.to_vec(),
        document: None,
    };
    (Digest::sha256(head), Entry::File(file))
}

fn config(layers: &[&Digest], architecture: &str) -> Value {
    let ids: Vec<&str> = layers.iter().map(|d| d.as_str()).collect();
    json!({ "architecture": architecture, "os": "linux", "config": { "Cmd": ["sh"] }, "rootfs": { "type": "layers", "diff_ids": ids } })
}

/// Puts a document under its digest.
fn put(entries: &mut Entries, value: &Value) -> (String, usize) {
    let bytes = value.to_string();
    let digest = Digest::sha256(bytes.as_bytes()).as_str().to_owned();
    entries.insert(blob_name(&digest), json_file(value));
    (digest, bytes.len())
}

/// An OCI layout with one image of one layer; returns the digest of its manifest.
fn layout(entries: &mut Entries, architecture: &str) -> (String, usize) {
    let (layer, file) = layer_file(b"\x1f\x8blayer", true);
    entries.insert(blob_name(layer.as_str()), file);
    let (config, size) = put(entries, &config(&[&layer], architecture));
    put(
        entries,
        &json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": size },
            "layers": [{ "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": layer.as_str(), "size": 1000 }],
        }),
    )
}

fn index(entries: &mut Entries, manifests: Value) {
    let index = json!({ "schemaVersion": 2, "manifests": manifests });
    entries.insert("index.json".to_owned(), json_file(&index));
}

fn meant(entries: &Entries, image: &str) -> Result<Found, String> {
    choose(images(entries, ARCH)?, &Reference::parse(image).unwrap()).map(|(meant, _)| meant)
}

#[test]
fn an_oci_layout_is_read_with_names_of_every_kind() {
    for (annotations, wanted) in [
        (
            json!({ "io.containerd.image.name": "docker.io/library/app:1" }),
            "app:1",
        ),
        (
            json!({ "org.opencontainers.image.ref.name": "ghcr.io/a/b:2" }),
            "ghcr.io/a/b:2",
        ),
        (json!({ "org.opencontainers.image.ref.name": "3" }), "any/name:3"),
        (json!({}), "any/name:4"),
    ] {
        let mut entries = Entries::new();
        let (digest, size) = layout(&mut entries, ARCH);
        index(
            &mut entries,
            json!([{ "digest": digest, "size": size, "annotations": annotations }]),
        );
        let found = meant(&entries, wanted).unwrap();
        assert_eq!(found.target.digest, digest);
        let parts = found.parts.unwrap();
        assert_eq!((parts.layers.len(), parts.documents.len()), (1, 1));
        assert_eq!(parts.image.facts.cmd, ["sh"]);
        // By its digest it is found too, whatever it is called.
        assert!(meant(&entries, &format!("x@{digest}")).is_ok());
    }
}

#[test]
fn an_index_is_followed_to_the_image_for_this_machine() {
    const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    let mut entries = Entries::new();
    let (digest, size) = layout(&mut entries, ARCH);
    let other = Digest::sha256(b"of another machine");
    let list = json!({ "schemaVersion": 2, "manifests": [
        { "mediaType": MANIFEST, "digest": other.as_str(), "size": 3, "platform": { "os": "linux", "architecture": "s390x" } },
        { "mediaType": MANIFEST, "digest": digest, "size": size, "platform": { "os": "linux", "architecture": ARCH } },
    ] });
    let (top, size) = put(&mut entries, &list);
    index(&mut entries, json!([{ "digest": top, "size": size }]));
    let parts = meant(&entries, "app").unwrap().parts.unwrap();
    let kinds: Vec<_> = parts.documents.iter().map(|(kind, ..)| *kind).collect();
    assert_eq!(kinds, ["manifest", "index"]);
    assert_eq!(parts.documents[1].3["containerd.io/gc.ref.content.m.1"], digest);
}

/// As `docker save` wrote it: the second layer is a link to that of another image.
fn save(entries: &mut Entries, tags: &Value) {
    let (plain, file) = layer_file(b"plain", false);
    let (packed, packed_file) = layer_file(b"\x1f\x8bpacked", false);
    entries.insert("a/layer.tar".to_owned(), file);
    entries.insert("b/layer.tar".to_owned(), Entry::Link("c/layer.tar".to_owned()));
    entries.insert("c/layer.tar".to_owned(), packed_file);
    entries.insert("config.json".to_owned(), json_file(&config(&[&plain, &packed], ARCH)));
    let list = json!([{ "Config": "config.json", "RepoTags": tags, "Layers": ["a/layer.tar", "./b/layer.tar"] }]);
    entries.insert("manifest.json".to_owned(), json_file(&list));
}

#[test]
fn what_docker_saved_gets_a_manifest_of_its_layers() {
    let mut entries = Entries::new();
    save(&mut entries, &json!(["app:1", "app:latest"]));
    let found = meant(&entries, "app").unwrap();
    assert_eq!(found.names, ["docker.io/library/app:1", "docker.io/library/app:latest"]);
    let parts = found.parts.unwrap();
    assert_eq!(parts.layers, ["a/layer.tar", "c/layer.tar"]);
    let types: Vec<&str> = parts.manifest.layers.iter().map(|l| l.media_type.as_str()).collect();
    assert_eq!(
        types,
        [DOCKER_LAYER, "application/vnd.docker.image.rootfs.diff.tar.gzip"]
    );
    // It is a manifest that a reader of manifests takes, and always the same.
    let (document, _) = plan::document(&parts.documents[0].2).unwrap();
    assert_eq!(document, Document::Manifest(parts.manifest));
    assert_eq!(meant(&entries, "app:1").unwrap().target, found.target);
}

#[test]
fn an_image_that_is_not_in_the_archive_is_told_with_those_that_are() {
    let mut entries = Entries::new();
    save(&mut entries, &json!(["app:1"]));
    let text = meant(&entries, "app:2").unwrap_err();
    assert_eq!(
        text,
        "it does not have the image docker.io/library/app:2; it has docker.io/library/app:1"
    );
    save(&mut entries, &Value::Null);
    assert!(meant(&entries, "app:2").is_ok(), "its only image, without a name");
    let mut layout_entries = Entries::new();
    let (digest, size) = layout(&mut layout_entries, ARCH);
    index(
        &mut layout_entries,
        json!([{ "digest": digest, "size": size, "annotations": { "org.opencontainers.image.ref.name": "3" } }]),
    );
    let text = meant(&layout_entries, "app:4").unwrap_err();
    assert!(text.contains("it has one without a name, tag 3 (sha256:"), "{text}");
}

#[test]
fn what_is_wrong_with_an_archive_is_told() {
    assert!(
        images(&Entries::new(), ARCH)
            .unwrap_err()
            .contains("neither an index.json")
    );
    let mut empty = Entries::new();
    index(&mut empty, json!([]));
    assert_eq!(images(&empty, ARCH).unwrap_err(), "it has no image");
    let mut entries = Entries::new();
    let (digest, size) = layout(&mut entries, ARCH);
    index(&mut entries, json!([{ "digest": digest, "size": size }]));
    let reason = |entries: &Entries| meant(entries, "app").and_then(|f| f.parts.map(drop)).unwrap_err();
    let layer = entries
        .keys()
        .find(|k| matches!(&entries[*k], Entry::File(f) if f.size == 1000))
        .unwrap()
        .clone();
    let file = entries.remove(&layer).unwrap();
    assert!(reason(&entries).contains("is missing"));
    let Entry::File(mut short) = file else { panic!("a file") };
    short.size = 999;
    entries.insert(layer, Entry::File(short));
    assert!(reason(&entries).contains("has 999 bytes, and its manifest says 1000"));
    entries.insert(blob_name(&digest), json_file(&json!({ "schemaVersion": 2 })));
    assert!(reason(&entries).contains("is damaged"));
    let mut circle = Entries::new();
    circle.insert("index.json".to_owned(), Entry::Link("x".to_owned()));
    circle.insert("x".to_owned(), Entry::Link("index.json".to_owned()));
    assert!(images(&circle, ARCH).unwrap_err().contains("one link after the other"));
}

#[test]
fn an_image_for_another_machine_is_told_only_if_it_is_meant() {
    let mut entries = Entries::new();
    let (other, size) = layout(&mut entries, "s390x");
    let (mine, own_size) = layout(&mut entries, ARCH);
    index(
        &mut entries,
        json!([
            { "digest": other, "size": size, "annotations": { "io.containerd.image.name": "docker.io/library/big:1" } },
            { "digest": mine, "size": own_size, "annotations": { "io.containerd.image.name": "docker.io/library/app:1" } },
        ]),
    );
    assert!(meant(&entries, "app:1").unwrap().parts.is_ok());
    let reason = meant(&entries, "big:1").unwrap().parts.map(drop).unwrap_err();
    assert!(reason.contains("linux/s390x"), "{reason}");
}

#[test]
fn a_large_document_is_not_read_again_and_again() {
    let mut entries = Entries::new();
    let (config, size) = put(
        &mut entries,
        &json!({ "architecture": ARCH, "os": "linux", "author": "a".repeat(7 << 20), "rootfs": { "type": "layers", "diff_ids": [] } }),
    );
    let (digest, size) = put(
        &mut entries,
        &json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": size }, "layers": [],
        }),
    );
    let tops = |n| Value::Array(vec![json!({ "digest": digest, "size": size }); n]);
    index(&mut entries, tops(9));
    assert!(images(&entries, ARCH).is_ok());
    index(&mut entries, tops(10));
    let text = images(&entries, ARCH).err().unwrap();
    assert_eq!(text, "the documents of its images have more than 67108864 bytes");
}
