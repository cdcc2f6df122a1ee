//! The writer of the log: takes all that has gathered, writes it, syncs once, reports.
//!
//! While it syncs the next batch gathers by itself, so it never waits for company: a single caller pays one write and
//! one fsync, and many callers share them. It is a thread where the disk has threads, and files are then unlinked by a thread
//! of their own; else a task, and a batch takes the time that the disk says. Holds: a segment is synced before the next
//! one is begun; a new one stands under its name only with its header and state on the disk; once its task is dropped,
//! nothing is written any more. A file gets longer by [`PAD_LEN`] at a time, zeros that later batches are written over: to sync
//! bytes that have their place costs the disk one write, to sync a longer file costs the filesystem's journal another two.

use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak, mpsc};

use tokio::sync::Notify;

use super::record::Behind;
use super::scan::{SUFFIX_NEW, Segment};
use super::{Chunk, Shared, closed};
use crate::runtime;
use crate::runtime::disk::{Disk, DiskFile};

/// Bytes by which a segment file grows: of the order of a thousand entries of a single caller.
const PAD_LEN: u32 = 256 << 10;
/// Bytes that a disk takes at a time, on every machine there is.
const BLOCK_LEN: u32 = 4096;

/// Where segments are written, and how long they get.
pub(super) struct Place<'a> {
    pub(super) disk: &'a dyn Disk,
    pub(super) dir: &'a Path,
    pub(super) segment_len: u32,
}

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
    let before = if unsynced.is_none() { Before::Synced } else { Before::Unknown };
    write(&shared.place(), chunk, before)?;
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

/// What is known of the bytes of a segment before those that are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Before {
    /// All are on the disk.
    Synced,
    Unknown,
}

/// Writes the bytes of `chunk` to the end of its segment, which is made if it is new. If the chunk is to be synced, so is what
/// stands before it.
pub(super) fn write(to: &Place<'_>, chunk: &Chunk, before: Before) -> io::Result<()> {
    let segment = &chunk.segment;
    let len = u32::try_from(chunk.bytes.len()).expect("a chunk is within its segment");
    let offset = u64::from(chunk.end - len);
    if !chunk.creates {
        let file = segment.file()?;
        return write_behind(to, file, chunk, offset, before).inspect_err(|_| blank(file, chunk, offset));
    }
    let making = segment.path.with_extension(SUFFIX_NEW);
    let file = to.disk.create(&making)?;
    file.write_at(&chunk.bytes, 0)?;
    make_room(to, &*file, chunk);
    file.sync()?;
    to.disk.rename(&making, &segment.path)?;
    to.disk.sync_dir(to.dir)?;
    segment.file.set(file).map_err(|_| io::Error::other("a segment was made twice"))
}

fn write_behind(
    to: &Place<'_>,
    file: &dyn DiskFile,
    chunk: &Chunk,
    offset: u64,
    before: Before,
) -> io::Result<()> {
    if chunk.sync && before == Before::Synced && chunk.end <= chunk.segment.room.load(Ordering::Relaxed) {
        return file.write_through(&chunk.bytes, offset);
    }
    file.write_at(&chunk.bytes, offset)?;
    make_room(to, file, chunk);
    if chunk.sync { file.sync() } else { Ok(()) }
}

/// Takes back what a failed write may have left: nobody was told of it, and the next start would take parts of it for damage, or
/// whole records that are not on the disk for records that are.
fn blank(file: &dyn DiskFile, chunk: &Chunk, offset: u64) {
    let blanked = file.write_at(&vec![0; chunk.bytes.len()], offset).and_then(|()| file.sync());
    if let Err(e) = blanked {
        tracing::warn!(
            segment = %chunk.segment.path.display(), offset, error = %e,
            "what a failed write left in the raft log could not be taken back; the next start may call it damage"
        );
    }
}

/// Puts zeros behind a chunk that the file got longer by, if they may stand there.
fn make_room(to: &Place<'_>, file: &dyn DiskFile, chunk: &Chunk) {
    let room = &chunk.segment.room;
    if chunk.segment.behind == Behind::End || chunk.end <= room.load(Ordering::Relaxed) {
        return;
    }
    // Whole blocks of the disk, so that what is written past the page cache makes it no longer.
    let until = chunk.end.saturating_add(PAD_LEN).min(to.segment_len.max(chunk.end));
    let until = until.checked_next_multiple_of(BLOCK_LEN).unwrap_or(until);
    let zeros = vec![0; (until - chunk.end) as usize];
    // A disk without room for zeros may have some for entries; what is wrong with it is reported when it takes none of those.
    let until = match file.write_at(&zeros, u64::from(chunk.end)) {
        Ok(()) => until,
        Err(e) => {
            tracing::debug!(segment = %chunk.segment.path.display(), error = %e, "no room ahead in the raft log");
            chunk.end
        }
    };
    room.store(until, Ordering::Relaxed);
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
