//! Image records: a name for a manifest or an index in the content store.

use super::channel::{Call, LIST_MAX_BYTES};
use super::error::{found, hollow};
use super::types::label_mask;
use super::{Descriptor, Gateway, Labels, Line};
use crate::messages::runtime::{ContainerdFault, FaultKind};
use containerd_client::services::v1 as proto;
use proto::images_client::ImagesClient;

/// A named image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRecord {
    /// Normalised name, e.g. `docker.io/library/busybox:latest`.
    pub name: String,
    /// Its index or manifest.
    pub target: Descriptor,
    /// Labels.
    pub labels: Labels,
}

impl ImageRecord {
    fn to_proto(&self) -> proto::Image {
        proto::Image {
            name: self.name.clone(),
            labels: self.labels.clone().into_iter().collect(),
            target: Some(self.target.to_proto()),
            created_at: None,
            updated_at: None,
        }
    }

    fn from_proto(image: proto::Image, operation: &'static str) -> Result<Self, ContainerdFault> {
        let target = image.target.ok_or_else(|| hollow(operation, "image target"))?;
        let labels = image.labels.into_iter().collect();
        Ok(Self {
            name: image.name,
            target: Descriptor::from_proto(target),
            labels,
        })
    }
}

impl Gateway {
    fn images(&self) -> ImagesClient<Line> {
        ImagesClient::new(self.line()).max_decoding_message_size(LIST_MAX_BYTES)
    }

    /// The image of this name, if there is one.
    ///
    /// # Errors
    /// Any fault of the call but `NotFound`.
    pub async fn image(&self, name: &str) -> Result<Option<ImageRecord>, ContainerdFault> {
        const CALL: Call = Call::short("get image");
        let request = CALL.request(proto::GetImageRequest { name: name.to_owned() });
        let Some(answer) = found(CALL.answer(self.images().get(request)).await)? else {
            return Ok(None);
        };
        let image = answer.image.ok_or_else(|| hollow(CALL.operation, "image"))?;
        ImageRecord::from_proto(image, CALL.operation).map(Some)
    }

    /// Creates the record, or points the one of this name at the new target. Labels of an old record that are not
    /// given here stay.
    ///
    /// # Errors
    /// Any fault of the calls.
    pub async fn put_image(&self, image: &ImageRecord) -> Result<(), ContainerdFault> {
        const CREATE: Call = Call::short("create image");
        const UPDATE: Call = Call::short("update image");
        let request = proto::CreateImageRequest {
            image: Some(image.to_proto()),
            source_date_epoch: None,
        };
        match CREATE.answer(self.images().create(CREATE.request(request))).await {
            Ok(_) => return Ok(()),
            Err(fault) if fault.kind == FaultKind::AlreadyExists => {}
            Err(fault) => return Err(fault),
        }
        let mut mask = label_mask(image.labels.keys());
        mask.paths.push("target".to_owned());
        let request = proto::UpdateImageRequest {
            image: Some(image.to_proto()),
            update_mask: Some(mask),
            source_date_epoch: None,
        };
        UPDATE
            .answer(self.images().update(UPDATE.request(request)))
            .await
            .map(drop)
    }

    /// Removes the record; what it held is collected by containerd later. False if there was none.
    ///
    /// # Errors
    /// Any fault of the call but `NotFound`.
    pub async fn delete_image(&self, name: &str) -> Result<bool, ContainerdFault> {
        const CALL: Call = Call::short("delete image");
        let request = proto::DeleteImageRequest {
            name: name.to_owned(),
            sync: false,
            target: None,
        };
        Ok(found(CALL.answer(self.images().delete(CALL.request(request))).await)?.is_some())
    }

    /// Removes the record if it still names this target, and waits until containerd has collected what only it held. False if
    /// there was none. containerd 1.6 does not compare targets.
    ///
    /// # Errors
    /// Any fault of the call but `NotFound`.
    pub async fn delete_image_and_wait(&self, image: &ImageRecord) -> Result<bool, ContainerdFault> {
        // The collection goes through all of containerd, and removes directories.
        const CALL: Call = Call::within("delete image", 120);
        let request = proto::DeleteImageRequest {
            name: image.name.clone(),
            sync: true,
            target: Some(image.target.to_proto()),
        };
        Ok(found(CALL.answer(self.images().delete(CALL.request(request))).await)?.is_some())
    }

    /// Sets these labels and leaves the others, and the target, alone. An empty value removes a label.
    ///
    /// # Errors
    /// Any fault of the call, `NotFound` too.
    pub async fn update_image_labels(&self, image: &ImageRecord, labels: &Labels) -> Result<(), ContainerdFault> {
        const CALL: Call = Call::short("label image");
        // With its target, which the mask leaves alone: containerd 2 dies of a record without one (2.4.2: a nil descriptor is
        // read before the mask is).
        let image = ImageRecord {
            labels: labels.clone(),
            ..image.clone()
        };
        let request = proto::UpdateImageRequest {
            image: Some(image.to_proto()),
            update_mask: Some(label_mask(labels.keys())),
            source_date_epoch: None,
        };
        CALL.answer(self.images().update(CALL.request(request))).await.map(drop)
    }

    /// All images of the namespace.
    ///
    /// # Errors
    /// Any fault of the call.
    pub async fn list_images(&self) -> Result<Vec<ImageRecord>, ContainerdFault> {
        self.images_with(Vec::new()).await
    }

    /// The images of the namespace whose record has this digest.
    ///
    /// # Errors
    /// Any fault of the call.
    pub async fn images_of_digest(&self, digest: &str) -> Result<Vec<ImageRecord>, ContainerdFault> {
        self.images_with(vec![format!("target.digest=={digest}")]).await
    }

    async fn images_with(&self, filters: Vec<String>) -> Result<Vec<ImageRecord>, ContainerdFault> {
        const CALL: Call = Call::within("list images", 30);
        let request = CALL.request(proto::ListImagesRequest { filters });
        let answer = CALL.answer(self.images().list(request)).await?;
        answer
            .images
            .into_iter()
            .map(|image| ImageRecord::from_proto(image, CALL.operation))
            .collect()
    }
}
