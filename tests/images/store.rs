//! What a namespace of containerd holds of images.

use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::images_client::ImagesClient;
use containerd_client::services::v1::leases_client::LeasesClient;
use containerd_client::services::v1::snapshots::ListSnapshotsRequest;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::services::v1::{
    ListContentRequest, ListImagesRequest, ListRequest, ListResourcesRequest, ListStatusesRequest,
};
use std::collections::BTreeMap;
use testhost::containerd::Containerd;

pub type Labels = BTreeMap<String, String>;

/// A listing, by names that are the same in every namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Store {
    /// Labels of blobs, by digest.
    pub blobs: BTreeMap<String, Labels>,
    /// Parent and labels of overlayfs' snapshots, by chain id.
    pub snapshots: BTreeMap<String, (String, Labels)>,
    /// Media type, digest and size of what images stand for, by name.
    pub images: BTreeMap<String, (String, String, i64)>,
    /// Unfinished writes.
    pub ingests: Vec<String>,
    /// Labels of image records, by name.
    pub image_labels: BTreeMap<String, Labels>,
}

impl Store {
    pub async fn of(containerd: &Containerd, namespace: &str) -> Store {
        let channel = containerd.in_namespace(namespace).expect("a channel");
        let mut store = Store::default();
        let mut content = ContentClient::new(channel.clone());
        let mut listing = content
            .list(ListContentRequest::default())
            .await
            .expect("list content")
            .into_inner();
        while let Some(page) = listing.message().await.expect("list content") {
            let blobs = page
                .info
                .into_iter()
                .map(|info| (info.digest, info.labels.into_iter().collect()));
            store.blobs.extend(blobs);
        }
        let writes = content
            .list_statuses(ListStatusesRequest::default())
            .await
            .expect("list ingests");
        store.ingests = writes.into_inner().statuses.into_iter().map(|s| s.r#ref).collect();
        let request = ListSnapshotsRequest {
            snapshotter: "overlayfs".to_owned(),
            filters: Vec::new(),
        };
        let mut listing = SnapshotsClient::new(channel.clone())
            .list(request)
            .await
            .expect("list snapshots")
            .into_inner();
        while let Some(page) = listing.message().await.expect("list snapshots") {
            let committed = page.info.into_iter().filter(|info| info.name.starts_with("sha256:"));
            let snapshots = committed.map(|info| (info.name, (info.parent, info.labels.into_iter().collect())));
            store.snapshots.extend(snapshots);
        }
        let images = ImagesClient::new(channel)
            .list(ListImagesRequest::default())
            .await
            .expect("list images");
        for image in images.into_inner().images {
            let target = image.target.unwrap_or_default();
            store
                .image_labels
                .insert(image.name.clone(), image.labels.into_iter().collect());
            store
                .images
                .insert(image.name, (target.media_type, target.digest, target.size));
        }
        store
    }

    /// What is here and was not there before.
    pub fn since(&self, before: &Store) -> Store {
        fn new<V: Clone>(now: &BTreeMap<String, V>, then: &BTreeMap<String, V>) -> BTreeMap<String, V> {
            let fresh = now.iter().filter(|(key, _)| !then.contains_key(*key));
            fresh.map(|(key, value)| (key.clone(), value.clone())).collect()
        }
        let mut ingests = self.ingests.clone();
        ingests.retain(|name| !before.ingests.contains(name));
        Store {
            blobs: new(&self.blobs, &before.blobs),
            snapshots: new(&self.snapshots, &before.snapshots),
            images: new(&self.images, &before.images),
            ingests,
            image_labels: new(&self.image_labels, &before.image_labels),
        }
    }
}

/// Makes containerd collect garbage in this namespace and waits for the end of that.
pub async fn collect_garbage(containerd: &Containerd, namespace: &str) {
    let id = containerd
        .ctr(namespace, &["leases", "create"])
        .await
        .expect("ctr leases create");
    containerd
        .ctr(namespace, &["leases", "delete", "--sync", id.trim()])
        .await
        .expect("ctr leases delete");
}

/// Everything that the leases of a namespace say of themselves, as text.
pub async fn leases_as_text(containerd: &Containerd, namespace: &str) -> String {
    let channel = containerd.in_namespace(namespace).expect("a channel");
    let mut client = LeasesClient::new(channel);
    let listed = client.list(ListRequest::default()).await.expect("list leases");
    let mut text = String::new();
    for lease in listed.into_inner().leases {
        let resources = client
            .list_resources(ListResourcesRequest { id: lease.id.clone() })
            .await
            .map(|answer| answer.into_inner().resources);
        text.push_str(&format!("{lease:?} {resources:?}\n"));
    }
    text
}
