//! Images out of an archive that came with a task, in place of a registry: read twice, once for what is in it and once for
//! the blobs that the content store lacks. No copy is made, and no more than a few pieces of it are in memory.
//!
//! What an archive calls its images is the word of one job. So a name that already stands for another image is left alone
//! (the image is then recorded by its digest), and a name that was loaded counts only for tasks that load: the label
//! `loaded` tells, and [`super::facts::here`] heeds it.

mod plan;
mod store;

use super::ensure::PullConfig;
use super::facts::{self, Known};
use super::fetch::Tally;
use super::lease::Lease;
use super::plan as oci;
use super::pull::{chain_up_to, whole};
use super::unpack::{UnpackError, Unpacker};
use super::watch::Watch;
use crate::containerd::{Descriptor, Gateway, ImageRecord, Labels};
use crate::host::HostError;
use crate::host::archive::Archive;
use crate::messages::image::{ImageError, ImageReady, LoadFrom};
use crate::messages::runtime::ContainerdFault;
use crate::spec::image_gc::Origin;
use crate::spec::reference::Reference;
use crate::telemetry::names;
use crate::telemetry::steps::step;
use plan::{Found, Parts};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use store::{Store, StoreError};
use tracing::Instrument as _;

/// Carries it out. What is in the store when it ends early is kept for the next try.
pub(super) async fn load(
    gateway: &Gateway,
    config: &PullConfig,
    reference: &Reference,
    from: &LoadFrom,
    watch: &Watch,
) -> Result<ImageReady, ImageError> {
    let loading = Loading {
        gateway,
        config,
        reference,
        from,
        tally: watch.tally(),
    };
    loading.run(watch).await
}

struct Loading<'a> {
    gateway: &'a Gateway,
    config: &'a PullConfig,
    reference: &'a Reference,
    from: &'a LoadFrom,
    tally: &'a Tally,
}

impl Loading<'_> {
    async fn run(&self, watch: &Watch) -> Result<ImageReady, ImageError> {
        let from = self.from.clone();
        let survey = tokio::task::spawn_blocking(move || {
            let archive = Archive::open(&from.task_dir, &from.path)?;
            let entries = archive.survey()?;
            Ok::<_, HostError>((archive, plan::images(&entries, oci::architecture())))
        });
        let survey = async {
            match survey.await {
                Ok(Ok(seen)) => Ok(seen),
                Ok(Err(error)) => Err(self.wrong(error.reason)),
                Err(panic) => Err(self.interrupted(panic.to_string())),
            }
        };
        let (archive, found) = watch.over(&self.reference.name(), survey).await?;
        let found = found.map_err(|e| self.wrong(e))?;
        let (meant, others) = plan::choose(found, self.reference).map_err(|e| self.wrong(e))?;
        let parts = meant.parts.as_ref().map_err(|reason| self.wrong(reason.clone()))?;
        let name = self.name_for(&meant.target).await?;
        if let Some(record) = self.at(self.gateway.image(&name).await)?
            && record.target.digest == meant.target.digest
            && let Some(known) = facts::of_target(self.gateway, self.config, &name, &record.target, None).await?
        {
            return Ok(ready(name, known, false));
        }
        let image = self.reference.name();
        let lease = Lease::open(self.gateway, &self.config.living, &image, watch.lease()).await;
        let lease = self.at(lease)?;
        step!(PullLeased);
        let leased = self.gateway.with_lease(&lease.id);
        let archive = Arc::new(archive);
        let fill = self.fill(&leased, &lease.id, &archive, parts, &others);
        let filled = watch.over(&self.reference.name(), fill).await;
        let stored = self.tally.fetched_bytes.load(Ordering::Relaxed);
        if let Err(e) = filled {
            let answer = Err(e);
            lease.end(self.gateway, &answer, stored).await;
            return answer;
        }
        step!(PullFilled);
        let records = self.records(&name, &meant, &others).await;
        let (gateway, config, target) = (self.gateway.clone(), self.config.clone(), meant.target.clone());
        // In one go: once the image is there, nobody loads it again and ends the lease.
        let known: Option<Known> = whole(&name.clone(), {
            let name = name.clone();
            async move {
                let answer = async {
                    for record in records.map_err(at(&name))? {
                        leased.put_image(&record).await.map_err(at(&name))?;
                    }
                    step!(PullRecorded);
                    facts::of_target(&leased, &config, &name, &target, Some(&lease.id)).await
                }
                .await;
                lease.end(&gateway, &answer, stored).await;
                answer
            }
        })
        .await?;
        let known = known.ok_or_else(|| self.interrupted("it was removed while it was loaded".to_owned()))?;
        Ok(ready(name, known, true))
    }

    /// Stores the blobs of all images, and unpacks the one that is meant.
    async fn fill(
        &self,
        leased: &Gateway,
        lease: &str,
        archive: &Arc<Archive>,
        meant: &Parts,
        others: &[Found],
    ) -> Result<(), ImageError> {
        let store = Store {
            gateway: leased,
            lease,
            stored: &self.tally.fetched_bytes,
        };
        let all = others.iter().filter_map(|image| image.parts.as_ref().ok());
        let all: Vec<&Parts> = std::iter::once(meant).chain(all).collect();
        let layers = all
            .iter()
            .flat_map(|parts| parts.manifest.layers.iter().zip(&parts.layers));
        let layers: HashMap<&str, (&Descriptor, &String)> = layers
            .map(|(layer, entry)| (layer.digest.as_str(), (layer, entry)))
            .collect();
        let total = layers
            .values()
            .map(|(layer, _)| layer.size)
            .fold(0, u64::saturating_add);
        self.tally.total_bytes.store(total, Ordering::Relaxed);
        self.tally.layers.store(meant.layers.len(), Ordering::Relaxed);
        let mut again = true;
        loop {
            let mut wanted = HashMap::new();
            let mut here = 0;
            for (layer, entry) in layers.values() {
                match self.at(store.has(layer, &Labels::new()).await)? {
                    true => here += layer.size,
                    false => drop(wanted.insert((*entry).clone(), (*layer).clone())),
                }
            }
            self.tally.fetched_bytes.store(here, Ordering::Relaxed);
            match store.fill(archive, &wanted).await {
                // What an earlier load had left was damaged, or the archive is: once more from the start.
                Err(StoreError::Damaged(_)) if again => again = false,
                answer => {
                    answer.map_err(|e| self.store_error(e))?;
                    break;
                }
            }
        }
        let snapshotter = &self.config.snapshotter;
        for (n, parts) in all.iter().enumerate() {
            // Only what is unpacked holds on to a snapshot, and it does from the first moment on.
            let labels = match n {
                0 => oci::config_labels(snapshotter, parts.image.facts.chain_id.as_ref()),
                _ => Labels::new(),
            };
            let (config, json) = &parts.config;
            let stored = store.put("config", config, json, &labels).await;
            stored.map_err(|e| self.store_error(e))?;
            for (kind, target, json, labels) in &parts.documents {
                let stored = store.put(kind, target, json, labels).await;
                stored.map_err(|e| self.store_error(e))?;
            }
        }
        self.unpack(leased, lease, meant).await
    }

    async fn unpack(&self, leased: &Gateway, lease: &str, parts: &Parts) -> Result<(), ImageError> {
        let unpacker = Unpacker {
            gateway: leased,
            lease,
            snapshotter: &self.config.snapshotter,
            turns: &self.config.unpacks,
        };
        let mut parent = None;
        let diff_ids = &parts.image.diff_ids;
        for (i, (layer, diff_id)) in parts.manifest.layers.iter().zip(diff_ids).enumerate() {
            let chain = chain_up_to(diff_ids, i);
            let span = tracing::info_span!(names::IMAGE_UNPACK, { names::BLOB_DIGEST } = %layer.digest, { names::BYTES } = layer.size);
            let unpacked = unpacker.layer(layer, diff_id, parent.as_ref(), &chain).instrument(span);
            unpacked.await.map_err(|e| match e {
                UnpackError::Containerd(source) => at(&self.reference.name())(source),
                UnpackError::Damaged(reason) => self.wrong(reason),
            })?;
            self.tally.layers_done.fetch_add(1, Ordering::Relaxed);
            parent = Some(chain);
        }
        Ok(())
    }

    /// The name to record the image by: the task's, unless it stands for another image that was not loaded.
    async fn name_for(&self, target: &Descriptor) -> Result<String, ImageError> {
        let name = self.reference.name();
        let taken = self.at(self.gateway.image(&name).await)?.is_some_and(|record| {
            record.target.digest != target.digest && Origin::of(&name, &record.labels) != Some(Origin::Loaded)
        });
        Ok(match taken {
            true => format!(
                "{}/{}@{}",
                self.reference.registry(),
                self.reference.repository(),
                target.digest
            ),
            false => name,
        })
    }

    /// The records to make: that of the image that is meant, and the other names in the archive as far as they are free.
    async fn records(&self, name: &str, meant: &Found, others: &[Found]) -> Result<Vec<ImageRecord>, ContainerdFault> {
        let record = |name: &str, target: &Descriptor| ImageRecord {
            name: name.to_owned(),
            target: target.clone(),
            labels: Labels::from(Origin::Loaded.labels(name)),
        };
        let mut records = Vec::new();
        // One that is there with this target is somebody's, whose label it keeps.
        let here = self.gateway.image(name).await?;
        if here.is_none_or(|here| here.target.digest != meant.target.digest) {
            records.push(record(name, &meant.target));
        }
        let usable = others.iter().filter(|image| image.parts.is_ok());
        for image in std::iter::once(meant).chain(usable) {
            for other in image.names.iter().filter(|other| *other != name) {
                if self.gateway.image(other).await?.is_none() {
                    records.push(record(other, &image.target));
                }
            }
        }
        Ok(records)
    }

    fn at<T>(&self, answer: Result<T, ContainerdFault>) -> Result<T, ImageError> {
        answer.map_err(at(&self.reference.name()))
    }

    fn store_error(&self, error: StoreError) -> ImageError {
        match error {
            StoreError::Containerd(source) => at(&self.reference.name())(source),
            StoreError::Archive(reason) | StoreError::Damaged(reason) => self.wrong(reason),
        }
    }

    fn wrong(&self, reason: String) -> ImageError {
        ImageError::Archive {
            image: self.reference.name(),
            path: self.from.path.clone(),
            reason,
        }
    }

    fn interrupted(&self, reason: String) -> ImageError {
        ImageError::Interrupted {
            image: self.reference.name(),
            reason,
        }
    }
}

fn at(image: &str) -> impl Fn(ContainerdFault) -> ImageError {
    move |source| ImageError::Containerd {
        image: image.to_owned(),
        source,
    }
}

fn ready(name: String, (manifest, facts): Known, pulled: bool) -> ImageReady {
    ImageReady {
        name,
        manifest,
        facts,
        pulled,
    }
}
