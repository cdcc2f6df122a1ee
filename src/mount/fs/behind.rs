//! What runs without being asked: written bytes are sent when they are old, or when there are too many.

use std::time::Duration;

use futures::StreamExt;
use futures::stream;

use super::MountFs;
use crate::runtime::{self, StopSignal};

/// Between two looks.
const LOOK_PERIOD: Duration = Duration::from_secs(1);
/// Files flushed at a time.
const AT_A_TIME: usize = 16;

impl MountFs {
    /// Flushes what is old until the stop signal; then everything.
    pub async fn flush_behind(self, stop: StopSignal) {
        loop {
            tokio::select! {
                () = stop.stopped() => break,
                // Nothing is lost: the next look sees the same files.
                () = runtime::sleep(LOOK_PERIOD) => {}
            }
            let full = self.shared.client.is_dirty_full();
            let due = |file: &crate::client::File| {
                full || file.overlay().is_older_than(self.shared.options.flush_age)
            };
            let files: Vec<_> = self.shared.inodes.unpublished().into_iter().filter(due).collect();
            stream::iter(files).for_each_concurrent(AT_A_TIME, async |file| file.flush_behind().await).await;
        }
        let files = self.shared.inodes.unpublished();
        stream::iter(files).for_each_concurrent(AT_A_TIME, async |file| file.flush_behind().await).await;
    }
}
