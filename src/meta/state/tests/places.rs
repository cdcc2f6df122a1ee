//! Where a test has its states: in a directory of the system, or on a disk in memory that has no threads.

use super::*;
use crate::runtime::disk::{Disk, MemoryDisk, RealDisk};

/// A directory for one state.
pub(super) struct Place {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) dir: PathBuf,
    _temporary: Option<TempDir>,
}

impl Place {
    fn on_the_system() -> Self {
        let temporary = TempDir::new().unwrap();
        Self { disk: Arc::new(RealDisk), dir: temporary.path().to_owned(), _temporary: Some(temporary) }
    }

    pub(super) fn on(disk: Arc<MemoryDisk>) -> Self {
        disk.set_threads(false);
        Self { disk, dir: "/state".into(), _temporary: None }
    }

    pub(super) fn config(&self) -> StateConfig {
        // The disk in memory knows its boots itself.
        let boot_id = self.disk.is_the_systems().then(|| "boot-1".into());
        StateConfig { disk: self.disk.clone(), boot_id, ..config(&self.dir) }
    }

    pub(super) fn open(&self) -> State {
        State::open(self.config()).unwrap()
    }

    pub(super) fn copy(&self, from: &Path, other: &Self, to: &Path) {
        let file = other.disk.create(to).unwrap();
        file.write_at(&self.disk.read(from).unwrap(), 0).unwrap();
    }

    pub(super) fn names(&self, below: &str) -> Vec<String> {
        let entries = self.disk.list(&self.dir.join(below)).unwrap().into_iter();
        entries.map(|entry| entry.name.into_string().unwrap()).collect()
    }
}

/// Where there are no threads a state has a task, which needs a runtime to be spawned in. It never comes to run there: what
/// must be done then is done by those who would wait for it.
pub(super) fn without_threads(test: impl FnOnce()) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let _inside = runtime.enter();
    test();
}

/// Runs `test`, given what makes places, over sled and over the journal.
pub(super) fn on_both(test: impl Fn(&dyn Fn() -> Place)) {
    test(&Place::on_the_system);
    without_threads(|| test(&|| Place::on(Arc::new(MemoryDisk::new()))));
}
