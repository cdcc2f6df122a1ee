//! Setting the modification time of a file that was written and not published yet: one update for both.
//!
//! A program that unpacks an archive writes a file and then sets its time. Holds: durable and visible on return, as each alone.

use crate::types::{Attr, Timestamp};

use super::super::ClientError;
use super::File;

impl File {
    /// Flushes with `mtime` as the modification time; answers the attributes. None: there was nothing to publish, and nothing was
    /// done. For a superuser: nobody is asked whose file it is.
    ///
    /// # Errors
    /// As [`File::flush`]; the bytes are kept, and the time with them until more is written.
    pub async fn flush_stamped(&self, mtime: Timestamp) -> Result<Option<Attr>, ClientError> {
        let mut state = self.0.state.lock().await;
        if state.dirty.len() == 0 && state.pending.is_empty() {
            return Ok(None);
        }
        // Given up at an await, it is what the caller wanted of the bytes that are here.
        state.mtime = Some(mtime);
        self.flush_locked(&mut state).await?;
        state.mtime = None;
        drop(state);
        self.attr().await.map(Some)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::super::super::testing::Fake;
    use super::super::OpenOptions;
    use super::*;

    #[tokio::test]
    async fn what_was_written_is_published_with_the_time_that_was_set() {
        let fake = Fake::start(1, 0).await;
        let client = fake.client().await;
        let file = client.open("/a", OpenOptions::writing()).await.unwrap();
        let time = Timestamp::from_parts(12, 34);
        assert_eq!(file.flush_stamped(time).await.unwrap(), None, "nothing was written");
        let updates = || fake.world.update_count.load(Ordering::Relaxed);
        let before = updates();
        file.write_at(0, "text".into()).await.unwrap();
        let attr = file.flush_stamped(time).await.unwrap().unwrap();
        assert_eq!((attr.size, attr.mtime, updates() - before), (4, time, 1));
        file.write_at(4, "more".into()).await.unwrap();
        file.flush().await.unwrap();
        let attr = file.attr().await.unwrap();
        assert_eq!(attr.size, 8);
        assert_ne!(attr.mtime, time, "written since");
        file.close().await.unwrap();
        client.close().await;
    }
}
