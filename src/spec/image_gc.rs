//! Which images go, and why the others stay. Pure: images, their uses, the time and the disk were looked at before.
//!
//! Only images that this driver has brought here are its to remove; a label on the image record says so. A use is a
//! container record of the namespace, whoever made it: containerd keeps these, so a use survives every restart. Since when
//! an image has no use is another label, written when it is first seen so.

use super::gates::fits;
use super::reference::Reference;
use super::settings::{ImageGcSettings, Settings};
use std::collections::BTreeMap;

/// Label on an image record: how this driver brought it here, `pulled` or `loaded`. A record without it is somebody else's.
pub const KEY_IMAGE: &str = "containerd-driver/image";
/// Label on an image record: the name of the record that [`KEY_IMAGE`] was written on. `ctr images tag` copies labels to a record
/// that somebody else makes by it.
pub const KEY_OF: &str = "containerd-driver/image-of";
/// Label on an image record: since when no container uses it, nanoseconds since the Unix epoch.
pub const KEY_IDLE: &str = "containerd-driver/idle-since";

/// How an image came here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// From a registry.
    Pulled,
    /// From an archive that came with a task.
    Loaded,
}

impl Origin {
    /// As the label says it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pulled => "pulled",
            Self::Loaded => "loaded",
        }
    }

    /// The labels of a record with this name, of an image of this origin.
    #[must_use]
    pub fn labels(self, name: &str) -> [(String, String); 2] {
        [
            (KEY_IMAGE.to_owned(), self.name().to_owned()),
            (KEY_OF.to_owned(), name.to_owned()),
        ]
    }

    /// What the labels of a record with this name say; `None` if it is not this driver's. Earlier versions wrote no name.
    #[must_use]
    pub fn of(name: &str, labels: &BTreeMap<String, String>) -> Option<Self> {
        if labels.get(KEY_OF).is_some_and(|of| of != name) {
            return None;
        }
        match labels.get(KEY_IMAGE)?.as_str() {
            "pulled" => Some(Self::Pulled),
            "loaded" => Some(Self::Loaded),
            // Of a later version, which knows what it means.
            _ => None,
        }
    }
}

/// Since when an image is idle, by its labels.
#[must_use]
pub fn idle_since(labels: &BTreeMap<String, String>) -> Option<i64> {
    labels.get(KEY_IDLE)?.parse().ok()
}

/// One image, looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sight {
    /// Name of its record.
    pub name: String,
    /// How it came here; `None` if this driver did not bring it.
    pub origin: Option<Origin>,
    /// By its label.
    pub idle_since: Option<i64>,
    /// A container that was made from it.
    pub user: Option<String>,
    /// A start of this process is about to use it.
    pub held: bool,
    /// When the last start of this process was done with it, nanoseconds since the Unix epoch.
    pub last_used: Option<i64>,
}

impl Sight {
    fn is_used(&self) -> bool {
        self.held || self.user.is_some()
    }

    /// What its label has to say, if that is something else: `Some(None)` for no label.
    #[must_use]
    pub fn relabel(&self, now: i64) -> Option<Option<i64>> {
        self.origin?;
        match (self.is_used(), self.idle_since, self.last_used) {
            (true, None, _) => None,
            (true, Some(_), _) => Some(None),
            // A clock that was set back must not make it young for ever.
            (false, Some(since), _) if since > now => Some(Some(now)),
            // Used by a task that came and went between two looks.
            (false, Some(since), Some(used)) if used > since && used <= now => Some(Some(used)),
            (false, Some(_), _) => None,
            (false, None, _) => Some(Some(now)),
        }
    }
}

/// Why an image stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stay {
    /// This driver did not bring it here.
    Foreign,
    /// A container was made from it.
    Used(String),
    /// A task is about to be started with it.
    Held,
    /// The operator wants it here; the option that says so.
    Pinned(&'static str),
    /// Not idle for long enough: when it will be, nanoseconds since the Unix epoch.
    Young(i64),
    /// There is room on the disk.
    Room,
    /// Images are not removed.
    Off,
}

/// What becomes of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It stays.
    Stays(Stay),
    /// It goes; since when it is idle.
    Goes(i64),
}

/// Judges one image. `is_full`: whether the disk is fuller than `high_watermark`; of no account where that is 0.
#[must_use]
pub fn judge(sight: &Sight, settings: &Settings, now: i64, is_full: bool) -> Fate {
    let gc = settings.image_gc();
    let stays = Fate::Stays;
    if sight.origin.is_none() {
        return stays(Stay::Foreign);
    }
    if let Some(user) = &sight.user {
        return stays(Stay::Used(user.clone()));
    }
    if sight.held {
        return stays(Stay::Held);
    }
    if let Some(option) = pinned(&sight.name, settings) {
        return stays(Stay::Pinned(option));
    }
    if !gc.enabled {
        return stays(Stay::Off);
    }
    let since = match sight.relabel(now) {
        Some(anew) => anew,
        None => sight.idle_since,
    };
    let since = since.unwrap_or(now);
    let delay = i64::try_from(gc.delay.as_nanos()).unwrap_or(i64::MAX);
    let due = since.saturating_add(delay);
    if due > now {
        return stays(Stay::Young(due));
    }
    if gc.high_watermark > 0 && !is_full {
        return stays(Stay::Room);
    }
    Fate::Goes(since)
}

/// The images that go, least recently used first.
#[must_use]
pub fn leaving<'a>(sights: &'a [Sight], settings: &Settings, now: i64, is_full: bool) -> Vec<&'a Sight> {
    let mut going: Vec<(i64, &Sight)> = sights
        .iter()
        .filter_map(|sight| match judge(sight, settings, now, is_full) {
            Fate::Goes(since) => Some((since, sight)),
            Fate::Stays(_) => None,
        })
        .collect();
    going.sort_by(|a, b| (a.0, &a.1.name).cmp(&(b.0, &b.1.name)));
    going.into_iter().map(|(_, sight)| sight).collect()
}

/// When the next image is due, nanoseconds since the Unix epoch, if nothing else happens before.
#[must_use]
pub fn next_due(sights: &[Sight], settings: &Settings, now: i64) -> Option<i64> {
    let due = |sight: &Sight| match judge(sight, settings, now, true) {
        Fate::Stays(Stay::Young(due)) => Some(due),
        Fate::Stays(_) | Fate::Goes(_) => None,
    };
    sights.iter().filter_map(due).min()
}

/// The option by which the operator wants to keep an image.
fn pinned(name: &str, settings: &Settings) -> Option<&'static str> {
    let is = |written: &String| Reference::parse(written).is_ok_and(|r| r.name() == name);
    if settings.image_gc().pinned.iter().any(|pattern| pins(pattern, name)) {
        return Some("image_gc.pinned");
    }
    if settings.image_prefetch.iter().any(is) {
        return Some("image_prefetch");
    }
    let canary = settings.canary.as_ref().filter(|canary| canary.enabled);
    canary.filter(|canary| is(&canary.image)).map(|_| "canary.image")
}

/// Whether a pattern fits a name: as a reference, or with `*` as the whole name or as Docker shortens it.
fn pins(pattern: &str, name: &str) -> bool {
    if !pattern.contains('*') {
        return Reference::parse(pattern).is_ok_and(|r| r.name() == name);
    }
    let hub = name.strip_prefix("docker.io/");
    let short = hub.map(|rest| rest.strip_prefix("library/").unwrap_or(rest));
    [Some(name), hub, short].into_iter().flatten().any(|n| fits(pattern, n))
}

/// Whether a file system is at least so full, in percent of what is there for files.
#[must_use]
pub fn is_fuller(used: u64, available: u64, percent: i64) -> bool {
    let total = u128::from(used) + u128::from(available);
    let percent = u128::try_from(percent).unwrap_or(0);
    total > 0 && u128::from(used) * 100 >= total * percent
}

/// The `image_gc` block and the prefetch list, checked: option, value, and what is allowed.
pub(super) fn check(settings: &Settings) -> Result<(), super::SpecError> {
    use super::SpecError;
    let ImageGcSettings {
        delay,
        high_watermark: high,
        low_watermark: low,
        pinned,
        ..
    } = settings.image_gc();
    if delay < super::settings::IMAGE_GC_LEAST {
        return Err(SpecError::option(
            "image_gc.delay",
            format!("{delay:?}"),
            "a duration of at least 1s is expected",
        ));
    }
    if !(0..=99).contains(&high) {
        let allowed = "a number of percent from 1 to 99, or 0 for none, is expected";
        return Err(SpecError::option("image_gc.high_watermark", high, allowed));
    }
    if high == 0 && low != 0 {
        let allowed = "it counts only together with image_gc.high_watermark; without that, 0 is expected";
        return Err(SpecError::option("image_gc.low_watermark", low, allowed));
    }
    if high > 0 && !(0..=high).contains(&low) {
        let allowed =
            format!("a number of percent from 1 to image_gc.high_watermark, {high}, or 0 for that, is expected");
        return Err(SpecError::option("image_gc.low_watermark", low, allowed));
    }
    for pattern in &pinned {
        let fine = !pattern.is_empty() && (pattern.contains('*') || Reference::parse(pattern).is_ok());
        if !fine {
            let allowed = "an image reference is expected, or a text with * for any text";
            return Err(SpecError::option("image_gc.pinned", pattern, allowed));
        }
    }
    for image in &settings.image_prefetch {
        if let Err(reason) = Reference::parse(image) {
            // The value comes first in either.
            let reason = reason.strip_prefix(&format!("{image:?}: ")).unwrap_or(&reason);
            return Err(SpecError::option("image_prefetch", image, reason));
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "image_gc_test.rs"]
mod tests;
