//! The writer of the log: takes all that has gathered, writes it, syncs once, reports.
//!
//! While it syncs the next batch gathers by itself, so it never waits for company: a single caller pays one write and
//! one fsync, and many callers share them. It is a thread where the disk has threads, and files are then unlinked by a thread
//! of their own; else a task, and a batch takes the time that the disk says. Holds: a segment is synced before the next
//! one is begun; a new one stands under its name only with its header and state on the disk; once its task is dropped,
//! nothing is written any more.

use std::io;
use std::path::Path;
use std::sync::{Arc, Weak, mpsc};

use tokio::sync::Notify;

use super::scan::{SUFFIX_NEW, Segment};
use super::{Chunk, Shared, closed};
use crate::runtime;
use crate::runtime::disk::Disk;

/// The thread: runs until the log is closed and all is written.
pub(super) fn run(shared: &Arc<Shared>) {
    let (unlink, unlinked) = mpsc::channel::<Arc<Segment>>();
    let unlinker = std::thread::Builder::new().name("raft-log-unlink".into()).spawn({
        let disk = shared.disk.clone();
        move || unlinked.iter().for_each(|segment| remove_file(&*disk, &segment))
    });
    if let Err(e) = &unlinker {
        tracing::error!(error = %e, "cannot start the thread that unlinks purged raft log files");
    }
    loop {
        {
            let mut state = shared.state.lock();
            while state.queue.is_empty() && !state.closing {
                shared.work.wait(&mut state);
            }
            if state.queue.is_empty() {
                break;
            }
        }
        // Without its thread the files stay until the log is opened again.
        write_gathered(shared, |segment| drop(unlink.send(segment)));
    }
    drop(unlink);
    if let Ok(unlinker) = unlinker
        && unlinker.join().is_err()
    {
        tracing::error!("the thread that unlinks purged raft log files panicked");
    }
}

/// The task: runs until the log is gone. It does not keep the log, and nothing is lost when it is dropped between two
/// batches but what nobody was told of.
pub(super) async fn run_as_task(shared: Weak<Shared>, woken: Arc<Notify>) {
    loop {
        woken.notified().await;
        let Some(latency) = shared.upgrade().map(|shared| shared.disk.latency()) else { return };
        if !latency.is_zero() {
            runtime::sleep(latency).await;
        }
        let Some(shared) = shared.upgrade() else { return };
        step(&shared);
    }
}

/// Writes what has gathered, and removes what is purged by it.
pub(super) fn step(shared: &Shared) {
    write_gathered(shared, |segment| remove_file(&*shared.disk, &segment));
}

fn write_gathered(shared: &Shared, mut unlink: impl FnMut(Arc<Segment>)) {
    // First, so that what was taken first is written first.
    let mut unsynced = shared.writing.lock();
    let chunks = {
        let mut state = shared.state.lock();
        state.queued_len = 0;
        std::mem::take(&mut state.queue)
    };
    shared.room.notify_waiters();
    for chunk in chunks {
        take(shared, chunk, &mut unsynced, &mut unlink);
    }
}

fn take(
    shared: &Shared,
    mut chunk: Chunk,
    unsynced: &mut Option<Arc<Segment>>,
    unlink: &mut impl FnMut(Arc<Segment>),
) {
    let failed = shared.state.lock().failure.clone();
    let result = match failed {
        Some(failure) => Err(io::Error::other(failure)),
        None => write_in_order(shared, &mut chunk, unsynced),
    };
    match result {
        Ok(()) => {
            for done in chunk.done {
                done(Ok(()));
            }
            chunk.unlink.into_iter().for_each(unlink);
        }
        Err(e) => {
            let text = format!(
                "raft log {}: {e}; check the disk and its free space, then start this server again",
                chunk.segment.path.display()
            );
            tracing::error!(segment = %chunk.segment.path.display(), error = %e, "the raft log cannot be written");
            shared.state.lock().failure.get_or_insert_with(|| text.clone());
            shared.room.notify_waiters();
            for done in chunk.done {
                done(Err(io::Error::other(text.clone())));
            }
        }
    }
}

fn write_in_order(shared: &Shared, chunk: &mut Chunk, unsynced: &mut Option<Arc<Segment>>) -> io::Result<()> {
    if let Some(before) = unsynced.take_if(|segment| segment.number != chunk.segment.number) {
        before.file()?.sync()?;
    }
    write(&*shared.disk, &shared.dir, chunk, chunk.sync)?;
    #[cfg(test)]
    if chunk.sync {
        let delay = shared.sync_delay.load(std::sync::atomic::Ordering::Relaxed);
        std::thread::sleep(std::time::Duration::from_millis(delay));
    }
    *unsynced = (!chunk.sync && !chunk.creates).then(|| chunk.segment.clone());
    let at = (chunk.segment.number, chunk.end);
    let mut state = shared.state.lock();
    state.written = at;
    if unsynced.is_none() {
        state.synced = at;
    }
    state.evict(shared.options.cache_len);
    Ok(())
}

/// Writes the bytes of `chunk` to the end of its segment, which is made if it is new.
pub(super) fn write(disk: &dyn Disk, dir: &Path, chunk: &Chunk, sync: bool) -> io::Result<()> {
    let segment = &chunk.segment;
    let len = u32::try_from(chunk.bytes.len()).expect("a chunk is within its segment");
    let offset = u64::from(chunk.end - len);
    if !chunk.creates {
        let file = segment.file()?;
        file.write_at(&chunk.bytes, offset)?;
        return if sync { file.sync() } else { Ok(()) };
    }
    let making = segment.path.with_extension(SUFFIX_NEW);
    let file = disk.create(&making)?;
    file.write_at(&chunk.bytes, 0)?;
    file.sync()?;
    disk.rename(&making, &segment.path)?;
    disk.sync_dir(dir)?;
    segment.file.set(file).map_err(|_| io::Error::other("a segment was made twice"))
}

/// Removes a purged segment.
fn remove_file(disk: &dyn Disk, segment: &Segment) {
    match disk.unlink(&segment.path) {
        Ok(()) => tracing::debug!(segment = %segment.path.display(), "purged raft log file removed"),
        // It holds nothing that is needed; the next opening removes it or reads over it.
        Err(e) => {
            tracing::warn!(segment = %segment.path.display(), error = %e, "cannot remove a purged raft log file");
        }
    }
}

/// What a queue left behind is told.
impl Drop for Shared {
    fn drop(&mut self) {
        for chunk in std::mem::take(&mut self.state.get_mut().queue) {
            for done in chunk.done {
                done(Err(closed()));
            }
        }
    }
}
