//! Labels by which this driver knows again what it has brought here. Only what bears one is ever removed.

use super::admission;
use super::keyring::Whose;
use crate::containerd::{Gateway, Labels};
use crate::messages::runtime::ContainerdFault;
use crate::spec::image_gc::Origin;

/// Labels for the record of an image that is being pulled: those it has, and ours unless it is somebody else's. A record that
/// `ctr` has made stays one of `ctr`'s, also when a pull moves it. `whose` credentials it is pulled with says who may use it; a
/// blank label takes an old one away.
pub(super) async fn pulled(gateway: &Gateway, name: &str, whose: Option<Whose>) -> Result<Labels, ContainerdFault> {
    let record = gateway.image(name).await?;
    let mut labels = after_pull(name, record.map(|record| record.labels));
    labels.extend(admission::mark(whose));
    Ok(labels)
}

fn after_pull(name: &str, before: Option<Labels>) -> Labels {
    let is_foreign = before.as_ref().is_some_and(|labels| Origin::of(name, labels).is_none());
    let mut labels = before.unwrap_or_default();
    if !is_foreign {
        labels.extend(Origin::Pulled.labels(name));
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::image_gc::{KEY_IDLE, KEY_IMAGE};

    #[test]
    fn what_is_pulled_is_ours_unless_the_record_was_somebody_elses() {
        let after_pull = |before| after_pull("r/a:1", before);
        let ours = Labels::from(Origin::Pulled.labels("r/a:1"));
        assert_eq!(after_pull(None), ours);
        let copied = Labels::from(Origin::Pulled.labels("r/b:1"));
        assert_eq!(after_pull(Some(copied.clone())), copied);
        let foreign = Labels::from([("io.cri-containerd.image".to_owned(), "managed".to_owned())]);
        assert_eq!(after_pull(Some(foreign.clone())), foreign);
        assert_eq!(after_pull(Some(Labels::new())), Labels::new());
        // What a task had loaded is what the registry says from now on.
        let mut loaded = Labels::from(Origin::Loaded.labels("r/a:1"));
        loaded.insert(KEY_IDLE.to_owned(), "1".to_owned());
        assert_eq!(after_pull(Some(loaded))[KEY_IMAGE], "pulled");
    }
}
