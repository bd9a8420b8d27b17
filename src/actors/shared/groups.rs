//! Which container shares a shim with which: the book of shim groups.
//!
//! A shim ends when it is told to after its last container was deleted, whether or not another one is just being made in it
//! (from containerd 2.0 on it does not know of that yet). So the book keeps who is coming and who is going. A shim whose last
//! container goes takes no others any more, and a deletion that may be the last waits for those who come, and for all
//! other deletions. New containers go where there is room, the fullest first, so that shims end at all.
//!
//! What earlier processes have made is read once from the run directories, without containerd: an exit has to be asked
//! for at the shim while containerd is away.

use crate::host::leftovers;
use crate::spec::shim_group::ShimGroup;
use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock, watch};
use tokio::time::{Instant, timeout_at};

/// How long a container waits for the first one of its shim, and a deletion for containers that are just being made. Beyond
/// that something hangs, which is not to keep others from their work.
const WITHIN: Duration = Duration::from_secs(10);

/// How long a deletion waits for others in the same shim. Many at once take their time.
const TURN_WITHIN: Duration = Duration::from_secs(30);

/// Where a container stands with its shim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It has its place, and the shim may not know it yet.
    Coming,
    /// The shim has it.
    There,
    /// It is being removed.
    Going,
}

/// What is known of the sandbox record of a kin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Record {
    /// Nothing, or what was known holds no more.
    #[default]
    Unknown,
    /// It is there.
    There,
    /// It was removed, since nobody needs it.
    Gone,
    /// This containerd has no use for it. There may be one all the same, of an earlier one.
    Useless,
}

/// One shared shim.
#[derive(Debug, Default)]
struct Shim {
    kin: String,
    /// Its first container is not there yet, and nobody else is to start it.
    forming: bool,
    /// It takes no more.
    closed: bool,
    members: BTreeMap<String, Stage>,
    /// Read by those that leave somebody behind, written by one that may be the last.
    deletions: Arc<RwLock<()>>,
}

impl Shim {
    fn has(&self, stage: Stage) -> bool {
        self.members.values().any(|at| *at == stage)
    }
}

/// What the book says to one who looks for a place.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// It had its place already.
    Had(ShimGroup),
    /// It starts a shim.
    Leads(ShimGroup),
    /// It joins one.
    Joins(ShimGroup),
    /// Its place is in a shim that is just being started.
    Waits,
}

#[derive(Debug, Default)]
struct Book {
    /// By the name of the group.
    shims: BTreeMap<String, Shim>,
    /// Container to the name of its group.
    of: HashMap<String, String>,
    /// By kin; none is [`Record::Unknown`].
    records: HashMap<String, Record>,
}

impl Book {
    fn put(&mut self, container: &str, group: &ShimGroup, stage: Stage) -> &mut Shim {
        self.take_out(container);
        self.of.insert(container.to_owned(), group.leader.clone());
        let shim = self.shims.entry(group.leader.clone()).or_default();
        shim.kin.clone_from(&group.kin);
        shim.members.insert(container.to_owned(), stage);
        shim
    }

    fn take_out(&mut self, container: &str) {
        let Some(leader) = self.of.remove(container) else {
            return;
        };
        if let Some(shim) = self.shims.get_mut(&leader) {
            shim.members.remove(container);
            // Who has waited for its first one looks for another.
            shim.closed |= shim.forming && leader == container;
            shim.forming &= leader != container;
            if shim.members.is_empty()
                && let Some(shim) = self.shims.remove(&leader)
                && self.shims.values().all(|other| other.kin != shim.kin)
            {
                self.records.remove(&shim.kin);
            }
        }
    }

    fn shim_of(&mut self, container: &str) -> Option<&mut Shim> {
        self.shims.get_mut(self.of.get(container)?)
    }

    fn group(&self, container: &str) -> Option<ShimGroup> {
        let leader = self.of.get(container)?;
        Some(ShimGroup {
            kin: self.shims.get(leader)?.kin.clone(),
            leader: leader.clone(),
        })
    }

    fn place(&mut self, container: &str, kin: &str, most: usize) -> Place {
        if let Some(group) = self.group(container) {
            let stage = self.shim_of(container).map(|shim| {
                let at = shim.members.get(container).copied();
                (at == Some(Stage::Coming), shim.forming, shim.closed)
            });
            match stage {
                _ if group.leader == container => return Place::Had(group),
                Some((true, _, true)) => self.take_out(container),
                Some((true, true, false)) => return Place::Waits,
                Some((true, false, false)) => return Place::Joins(group),
                _ => return Place::Had(group),
            }
        }
        let has_room = |shim: &Shim| shim.kin == kin && !shim.closed && shim.members.len() < most;
        // One that is there before one that is still to come.
        let free = self.shims.iter().filter(|(_, shim)| has_room(shim));
        let best = free.max_by_key(|(_, shim)| (!shim.forming, shim.members.len()));
        let (leader, forming) = match best {
            Some((leader, shim)) => (leader.clone(), shim.forming),
            None => (container.to_owned(), true),
        };
        let group = ShimGroup {
            kin: kin.to_owned(),
            leader,
        };
        let leads = group.leader == container;
        let shim = self.put(container, &group, Stage::Coming);
        shim.forming = forming;
        match (leads, forming) {
            (true, _) => Place::Leads(group),
            (false, true) => Place::Waits,
            (false, false) => Place::Joins(group),
        }
    }

    fn record(&self, kin: &str) -> Record {
        self.records.get(kin).copied().unwrap_or_default()
    }

    /// The kin of a container that leaves, if it may have a record, which nobody who stays needs.
    fn kin_without_others(&self, container: &str) -> Option<String> {
        let kin = self.group(container)?.kin;
        let needless = self.record(&kin) != Record::Gone
            && self
                .shims
                .values()
                .filter(|shim| shim.kin == kin)
                .all(|shim| !shim.has(Stage::Coming) && !shim.has(Stage::There));
        needless.then_some(kin)
    }

    fn close(&mut self, leader: &str) {
        if let Some(shim) = self.shims.get_mut(leader) {
            shim.closed = true;
        }
    }

    /// Whether the deletion of this one may end the shim under containers that are just being made in it.
    fn is_last_before_others(&mut self, container: &str) -> bool {
        self.shim_of(container)
            .is_some_and(|shim| !shim.has(Stage::There) && shim.has(Stage::Coming))
    }
}

/// The right to delete a container of a shared shim.
#[derive(Debug)]
pub enum Turn {
    /// Together with others: the shim stays.
    Beside(OwnedRwLockReadGuard<()>),
    /// It may end the shim.
    Alone(OwnedRwLockWriteGuard<()>),
}

/// See the module.
#[derive(Debug)]
pub struct Groups {
    run_dir: PathBuf,
    read: OnceLock<()>,
    book: Mutex<Book>,
    changed: watch::Sender<()>,
}

impl Groups {
    /// The book of the containers with their files in this directory.
    #[must_use]
    pub fn new(run_dir: &Path) -> Self {
        Self {
            run_dir: run_dir.to_owned(),
            read: OnceLock::new(),
            book: Mutex::default(),
            changed: watch::Sender::new(()),
        }
    }

    /// Reads what earlier processes have made, if this one has not. Blocks.
    pub fn read(&self) {
        drop(self.all());
    }

    /// A place in a shim for a container, which keeps the one it has. `answers` says whether the shim of a group is there.
    /// Blocks once per process, to read a directory.
    pub async fn join<F: Future<Output = bool>>(
        &self,
        container: &str,
        kin: &str,
        most: usize,
        answers: impl Fn(String) -> F,
    ) -> ShimGroup {
        let deadline = Instant::now() + WITHIN;
        let mut changes = self.changed.subscribe();
        loop {
            changes.mark_unchanged();
            let place = self.all().place(container, kin, most);
            match place {
                Place::Had(group) | Place::Leads(group) => return group,
                Place::Joins(group) if answers(group.leader.clone()).await => return group,
                // Its shim has died, and whoever was in it is about to learn that.
                Place::Joins(group) => self.close(&group.leader),
                Place::Waits => {
                    // The sender is ours.
                    if timeout_at(deadline, changes.changed()).await.is_err()
                        && let Some(group) = self.group(container)
                    {
                        self.close(&group.leader);
                    }
                }
            }
        }
    }

    /// The group that a container has been made with, as its label says.
    pub fn settle(&self, container: &str, group: Option<&ShimGroup>) {
        let mut book = self.all();
        match group {
            Some(group) if book.group(container).as_ref() == Some(group) => {}
            Some(group) => {
                book.put(container, group, Stage::Coming);
            }
            None => book.take_out(container),
        }
        drop(book);
        self.changed.send_replace(());
    }

    /// The shim has the container.
    pub fn entered(&self, container: &str) {
        if let Some(shim) = self.book().shim_of(container) {
            shim.members.insert(container.to_owned(), Stage::There);
            shim.forming = false;
        }
        self.changed.send_replace(());
    }

    /// The container is to be removed. A shim without others takes no more.
    pub fn leaves(&self, container: &str) {
        if let Some(shim) = self.all().shim_of(container) {
            shim.members.insert(container.to_owned(), Stage::Going);
            shim.closed |= !shim.has(Stage::There);
            shim.forming = false;
        }
        self.changed.send_replace(());
    }

    /// The turn to delete a container that leaves, to be kept until that is done; `None` if it shares no shim, or who has the
    /// turn hangs. Its deletion is not to end the shim under others that are just coming, nor under another deletion, which
    /// the shim has carried out before it answers. As long as somebody stays, none of it ends the shim.
    pub async fn turn_to_delete(&self, container: &str) -> Option<Turn> {
        let deletions = self.book().shim_of(container).map(|shim| Arc::clone(&shim.deletions))?;
        let deadline = Instant::now() + TURN_WITHIN;
        let beside = timeout_at(deadline, Arc::clone(&deletions).read_owned()).await.ok();
        // Whoever stays now and goes later waits for this turn to end.
        if let Some(turn) = beside
            && self.somebody_stays(container)
        {
            return Some(Turn::Beside(turn));
        }
        let turn = timeout_at(deadline, deletions.write_owned()).await.ok();
        self.others_are_there(container).await;
        turn.map(Turn::Alone)
    }

    fn somebody_stays(&self, container: &str) -> bool {
        self.book()
            .shim_of(container)
            .is_some_and(|shim| shim.has(Stage::There))
    }

    async fn others_are_there(&self, container: &str) {
        let mut changes = self.changed.subscribe();
        let settled = changes.wait_for(|()| !self.book().is_last_before_others(container));
        if timeout_at(Instant::now() + WITHIN, settled).await.is_err() {
            tracing::warn!(
                container.id = container,
                "a start in the same shim hangs, and is not waited for"
            );
        }
    }

    /// The container is gone.
    pub fn left(&self, container: &str) {
        self.book().take_out(container);
        self.changed.send_replace(());
    }

    /// The shim takes no more containers: it has died, or does not answer.
    pub fn close(&self, leader: &str) {
        self.book().close(leader);
        self.changed.send_replace(());
    }

    /// What is known of the sandbox record of a kin.
    #[must_use]
    pub fn record(&self, kin: &str) -> Record {
        self.book().record(kin)
    }

    /// What has become of it.
    pub fn note_record(&self, kin: &str, record: Record) {
        self.book().records.insert(kin.to_owned(), record);
    }

    /// The group of a container that leaves, if with it goes the last need of the sandbox record of its kin. Told once.
    #[must_use]
    pub fn last_of_kin(&self, container: &str) -> Option<ShimGroup> {
        let mut book = self.all();
        let kin = book.kin_without_others(container)?;
        book.records.insert(kin, Record::Gone);
        book.group(container)
    }

    /// The group of a container, as far as this process or the container's run directory knows. Blocks for a small file.
    #[must_use]
    pub fn group(&self, container: &str) -> Option<ShimGroup> {
        let known = self.book().group(container);
        known.or_else(|| leftovers::owner_of(&self.run_dir.join(container))?.shim)
    }

    /// The container that the shim of this one is named after: itself, if it shares none.
    #[must_use]
    pub fn shim_of(&self, container: &str) -> String {
        self.group(container)
            .map_or_else(|| container.to_owned(), |group| group.leader)
    }

    /// Whether nobody else needs the shim of this container, but for containers that are being removed as well. Blocks once
    /// per process, to read a directory.
    #[must_use]
    pub fn is_alone(&self, container: &str) -> bool {
        let shim = self.shim_of(container);
        let book = self.all();
        book.shims.get(&shim).is_none_or(|shim| {
            let mut others = shim.members.iter().filter(|(id, _)| *id != container);
            others.all(|(_, at)| *at == Stage::Going)
        })
    }

    /// The book with what earlier processes have made.
    fn all(&self) -> MutexGuard<'_, Book> {
        self.read.get_or_init(|| {
            let found = leftovers::run_dirs(&self.run_dir).unwrap_or_else(|error| {
                // Its shims are used no more, and each goes on with those it has.
                tracing::warn!(error = %error, "cannot read which tasks share shims");
                Vec::new()
            });
            let mut book = self.book();
            for dir in found {
                if let (Some(group), None) = (dir.owner.and_then(|owner| owner.shim), book.of.get(&dir.container)) {
                    book.put(&dir.container, &group, Stage::There);
                }
            }
        });
        self.book()
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "groups_test.rs"]
mod tests;
