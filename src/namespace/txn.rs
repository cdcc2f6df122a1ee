//! A run of commands over one view: reads what it wrote, caches what it read, ends as one change set.

use super::{ChangeSet, View};

/// A run of commands over one view: reads what it wrote, caches what it read, ends as one change set.
pub struct Txn<'v> {
    view: &'v dyn View,
}

impl<'v> Txn<'v> {
    /// A run that has changed nothing yet.
    pub fn new(view: &'v dyn View) -> Self {
        Self { view }
    }

    /// All that the run changed; each change carries what the view held.
    pub fn finish(self) -> ChangeSet {
        let _ = self.view;
        ChangeSet::new()
    }
}
