//! Which layers are fetched and in which order they are unpacked.

use super::*;

fn digest(text: &str) -> String {
    Digest::sha256(text.as_bytes()).as_str().to_owned()
}

fn index(platforms: &[(&str, &str, &str)]) -> Vec<Entry> {
    let entries: Vec<_> = platforms
        .iter()
        .map(|(os, arch, variant)| {
            serde_json::json!({"mediaType": OCI_MANIFEST, "digest": digest(&format!("{os}{arch}{variant}")), "size": 1,
                "platform": {"os": os, "architecture": arch, "variant": variant}})
        })
        .collect();
    let json = serde_json::json!({"schemaVersion": 2, "manifests": entries}).to_string();
    match document(json.as_bytes()) {
        Ok((Document::Index(entries), OCI_INDEX)) => entries,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_manifest_of_this_machine_is_chosen() {
    let entries = index(&[
        ("windows", "amd64", ""),
        ("linux", "amd64", "v3"),
        ("linux", "amd64", ""),
        ("linux", "arm64", "v8"),
    ]);
    assert_eq!(choose(&entries, "amd64"), Ok(&entries[2].target));
    assert_eq!(choose(&entries, "arm64"), Ok(&entries[3].target));
    let error = choose(&entries, "riscv64").unwrap_err();
    assert!(
        error.contains("linux/riscv64") && error.contains("windows/amd64"),
        "{error}"
    );
    let arm = index(&[("linux", "arm", "v6"), ("linux", "arm", "v7"), ("linux", "arm", "v5")]);
    assert_eq!(choose(&arm, "arm"), Ok(&arm[1].target));
}

#[test]
fn an_image_that_asks_for_features_comes_after_one_that_does_not() {
    let of = |name: &str, features: &[&str]| {
        serde_json::json!({"mediaType": OCI_MANIFEST, "digest": digest(name), "size": 1,
            "platform": {"os": "linux", "architecture": "amd64", "os.features": features}})
    };
    let chosen = |entries: Vec<serde_json::Value>| {
        let json = serde_json::json!({"schemaVersion": 2, "manifests": entries}).to_string();
        let Ok((Document::Index(entries), _)) = document(json.as_bytes()) else {
            panic!()
        };
        choose(&entries, "amd64").map(|target| target.digest.clone())
    };
    assert_eq!(
        chosen(vec![of("erofs", &["erofs"]), of("plain", &[])]),
        Ok(digest("plain"))
    );
    assert_eq!(chosen(vec![of("erofs", &["erofs"])]), Ok(digest("erofs")));
    assert!(chosen(Vec::new()).unwrap_err().contains("no image for any machine"));
}

#[test]
fn an_index_holds_all_its_images_by_the_names_that_containerd_gives() {
    let kinds = [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, "", OCI_MANIFEST];
    let entries = kinds
        .iter()
        .enumerate()
        .map(|(i, kind)| serde_json::json!({"mediaType": kind, "digest": digest(&i.to_string()), "size": 1}));
    let json = serde_json::json!({"schemaVersion": 2, "manifests": entries.collect::<Vec<_>>()}).to_string();
    let Ok((Document::Index(entries), _)) = document(json.as_bytes()) else {
        panic!()
    };
    let label = |name: &str, which: &str| (format!("containerd.io/gc.ref.content.{name}"), digest(which));
    let wanted = [("m.0", "0"), ("m.1", "2"), ("m.2", "4"), ("0", "1"), ("1", "3")];
    assert_eq!(
        index_labels(&entries),
        wanted.map(|(name, which)| label(name, which)).into()
    );
}

#[test]
fn an_attestation_is_never_an_image() {
    let json = serde_json::json!({"schemaVersion": 2, "manifests": [{"mediaType": OCI_MANIFEST, "digest": digest("a"), "size": 1,
        "annotations": {"vnd.docker.reference.type": "attestation-manifest"}}]});
    let Ok((Document::Index(entries), _)) = document(json.to_string().as_bytes()) else {
        panic!()
    };
    assert!(choose(&entries, "amd64").is_err());
}

#[test]
fn schema_one_and_ambiguous_documents_are_refused() {
    assert!(
        document(br#"{"schemaVersion":1,"fsLayers":[]}"#)
            .unwrap_err()
            .contains("schema version 1")
    );
    let both = serde_json::json!({"schemaVersion": 2, "manifests": [], "layers": [], "config": {"digest": digest("c"), "size": 1}});
    assert!(document(both.to_string().as_bytes()).is_err());
    assert!(document(b"[]").is_err());
    assert!(document(br#"{"schemaVersion":2,"config":{"digest":"sha256:../..","size":1},"layers":[]}"#).is_err());
}

#[test]
fn a_config_for_another_machine_or_another_manifest_is_refused() {
    let diff = digest("layer");
    let json = serde_json::json!({"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": [diff]},
        "config": {"Env": ["A=1"], "Volumes": {"/b": {}, "/a": {}}, "Cmd": null, "StopSignal": "SIGUSR1"}})
    .to_string();
    let read = config(json.as_bytes(), "amd64", 1).unwrap();
    assert_eq!(read.facts.volumes, ["/a", "/b"]);
    assert_eq!(read.facts.stop_signal.as_deref(), Some("SIGUSR1"));
    assert_eq!(read.facts.chain_id.unwrap().as_str(), diff);
    assert!(config(json.as_bytes(), "arm64", 1).unwrap_err().contains("linux/amd64"));
    assert!(config(json.as_bytes(), "amd64", 2).is_err());
}

#[test]
fn a_blob_remembers_all_its_sources() {
    let first = source_labels("r", "a/b", None);
    assert_eq!(source_labels("r", "a/b", Some(&first)), Labels::new());
    let second = source_labels("r", "c", Some(&first));
    assert!(is_from(&second, "r:5000", "a/b") && is_from(&second, "r", "c"));
    assert!(!is_from(&second, "r", "a") && !is_from(&second, "s", "c") && !is_from(&Labels::new(), "r", ""));
    assert_eq!(second.values().next().map(String::as_str), Some("a/b,c"));
}

#[test]
fn a_source_is_named_by_its_host_as_containerd_does() {
    let of = |registry: &str| {
        source_labels(registry, "a", None)
            .into_keys()
            .next()
            .unwrap_or_default()
    };
    for (registry, host) in [
        ("docker.io", "docker.io"),
        ("127.0.0.1:5000", "127.0.0.1"),
        ("localhost:5000", "localhost"),
        ("[fd00::2]:5000", "fd00::2"),
    ] {
        assert_eq!(of(registry), format!("containerd.io/distribution.source.{host}"));
    }
}
