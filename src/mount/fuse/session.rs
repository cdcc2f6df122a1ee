//! A mount from `mount(2)` to the end: its threads, its transport, its unmounting.
//!
//! ```text
//! Mount ──> readers: /dev/fuse ──┐                    the last reader ends: the mount is gone
//!       ──> rings, one a processor ──> Server ──> filesystem      └─> rings and notifier are told to end
//!       ──> notifier ──> kernel                                        └─> the last thread ends: `ended`
//! ```
//!
//! Holds: when [`Mount::start`] returns, the mount answers; when it fails, nothing is mounted. After
//! [`Mount::unmount`] no thread of it runs.

use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::sync::watch;
use zerocopy::FromBytes;

use super::abi::{self, opcode};
use super::device::{self, Device};
use super::encode::Encoded;
use super::filesystem::{Errno, Filesystem};
use super::init::{self, Init};
use super::interrupt::Interrupts;
use super::mountpoint::{MountError, Mountpoint, abort};
use super::notify::Notifier;
use super::options::{Negotiated, Options, Transport};
use super::parse::Limits;
use super::serve::{Server, Shared};
use super::stats::Stats;
use super::uring::Rings;
use crate::runtime::{self, Handle};

/// How long a mount that nothing uses may take to be unmounted: the kernel then writes what it has cached. After
/// that it is taken by force.
const UNMOUNT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long threads and handlers may take to end once the mount is gone.
pub(super) const END_TIMEOUT: Duration = Duration::from_secs(8);

/// How long the kernel may take to tell the threads of a mount that it is gone. Longer: somebody has it open.
const GONE_TIMEOUT: Duration = Duration::from_millis(500);

/// Where a mount is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Mounted,
    /// No request comes any more.
    Gone,
    /// No thread runs and no handler either.
    Ended,
}

/// Says that a phase has begun when the last owner drops it.
pub struct Until {
    phase: Phase,
    phases: watch::Sender<Phase>,
    /// What else is to be done then.
    then: Option<Box<dyn FnOnce() + Send + Sync>>,
}

impl Drop for Until {
    fn drop(&mut self) {
        if let Some(then) = self.then.take() {
            then();
        }
        self.phases.send_modify(|phase| *phase = self.phase.max(*phase));
    }
}

/// A mounted filesystem. Dropped without [`Mount::unmount`], it is unmounted all the same, without waiting.
#[derive(Debug)]
pub struct Mount {
    mountpoint: Mountpoint,
    notifier: Notifier,
    stats: Arc<Stats>,
    negotiated: Negotiated,
    phases: watch::Receiver<Phase>,
}

impl Mount {
    /// Mounts `filesystem` on `dir`. To be called within the tokio runtime that its handlers are to run in.
    /// `notifier` is the one that the filesystem uses, new.
    ///
    /// # Errors
    /// [`MountError`] says what is wrong and what to do; nothing is mounted then.
    pub async fn start<F: Filesystem>(
        filesystem: Arc<F>,
        notifier: Notifier,
        dir: &Path,
        options: Options,
    ) -> Result<Self, MountError> {
        let handle = Handle::current();
        let dir = dir.to_owned();
        // Dropped while it waits, the mount comes up and is dropped.
        runtime::blocking("mount", move || {
            let start = |transport| start(&filesystem, &notifier, &dir, &options, transport, &handle);
            match start(options.transport) {
                Err(MountError::Uring(reason)) if options.transport == Transport::Auto => {
                    tracing::info!(reason, "mounting over /dev/fuse: io_uring cannot be used");
                    start(Transport::Dev)
                }
                started => started,
            }
        })
        .await
    }

    /// Where it is mounted, by its full name.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.mountpoint.dir()
    }

    /// The way to tell the kernel what to drop.
    #[must_use]
    pub fn notifier(&self) -> Notifier {
        self.notifier.clone()
    }

    /// Counts and latencies.
    #[must_use]
    pub fn stats(&self) -> Arc<Stats> {
        self.stats.clone()
    }

    /// What the kernel agreed to.
    #[must_use]
    pub fn negotiated(&self) -> Negotiated {
        self.negotiated
    }

    /// Returns when the mount is gone, unmounted by whomever: no request comes any more. Nothing is lost when it is
    /// dropped.
    pub async fn gone(&self) {
        wait(&self.phases, Phase::Gone).await;
    }

    /// Unmounts: at once if nothing uses it, else by force, so that calls on it fail. Returns when all its threads
    /// and handlers have ended, or had their time for it.
    ///
    /// # Errors
    /// The directory is still mounted, for lack of rights for instance.
    pub async fn unmount(self) -> Result<(), MountError> {
        let Self { mut mountpoint, phases, .. } = self;
        let minor = mountpoint.minor();
        let mut unmounting = Box::pin(runtime::blocking("unmount", move || {
            mountpoint.unmount().or_else(|e| {
                tracing::warn!(dir = %mountpoint.dir().display(), error = %e, "in use: unmounted by force");
                mountpoint.unmount_by_force()
            })
        }));
        let unmounted = match runtime::timeout(UNMOUNT_TIMEOUT, &mut unmounting).await {
            Ok(unmounted) => unmounted,
            Err(_) => {
                tracing::warn!("what the kernel has cached is not taken: it is given up");
                abort(minor);
                unmounting.await
            }
        };
        unmounted.map_err(|errno| MountError::System { what: "unmount", errno })?;
        if runtime::timeout(GONE_TIMEOUT, wait(&phases, Phase::Gone)).await.is_err() {
            // Somebody detached it from its directory while files were open.
            abort(minor);
        }
        if runtime::timeout(END_TIMEOUT, wait(&phases, Phase::Ended)).await.is_err() {
            tracing::warn!("requests of the mount do not end: left behind");
        }
        Ok(())
    }
}

async fn wait(phases: &watch::Receiver<Phase>, wanted: Phase) {
    // An error: the sender is gone, and it sent the last phase before.
    let _ = phases.clone().wait_for(|phase| *phase >= wanted).await;
}

fn start<F: Filesystem>(
    filesystem: &Arc<F>,
    notifier: &Notifier,
    dir: &Path,
    options: &Options,
    transport: Transport,
    handle: &Handle,
) -> Result<Mount, MountError> {
    // Before the kernel hears of them: once it counts on rings, nothing moves without them.
    let rings = match transport {
        Transport::Dev => None,
        Transport::Uring | Transport::Auto => Some(Rings::prepare(options).map_err(MountError::Uring)?),
    };
    let (mountpoint, device) = Mountpoint::mount(dir, options)?;
    let negotiated = agree(&device, options, rings.is_some())?;
    if rings.is_some() && negotiated.transport != Transport::Uring {
        return Err(MountError::Uring("the kernel does not offer it (Linux 6.14 and newer do)".to_owned()));
    }
    let (phases, watching) = watch::channel(Phase::Mounted);
    let stats = Arc::new(Stats::default());
    let interrupts = Arc::new(Interrupts::default());
    let until_end = Until { phase: Phase::Ended, phases: phases.clone(), then: None };
    let server = Arc::new(Server {
        filesystem: filesystem.clone(),
        shared: Arc::new(Shared { interrupts: interrupts.clone(), stats: stats.clone(), until_end }),
        limits: Limits {
            io_len_max: negotiated.io_len_max,
            setxattr_ext: negotiated.capabilities & abi::cap::SETXATTR_EXT != 0,
        },
        runtime: handle.clone(),
    });
    let rings = rings.map(|rings| rings.start(&device, &server)).transpose();
    let rings = rings.map_err(MountError::Uring)?;
    stats.agreed(negotiated);
    let closing = notifier.clone();
    let when_gone = move || {
        closing.close();
        interrupts.interrupt_all();
        drop(rings);
    };
    let until_gone = Arc::new(Until { phase: Phase::Gone, phases, then: Some(Box::new(when_gone)) });
    // With rings in place little comes through the device.
    let reader_count = if negotiated.transport == Transport::Uring { 1 } else { options.reader_count.max(1) };
    for number in 0..reader_count {
        let device = if number == 0 { device.clone() } else { device.another().unwrap_or(device.clone()) };
        let (server, handle, until_gone) = (server.clone(), handle.clone(), until_gone.clone());
        spawn(format!("fuse-read-{number}"), move || {
            let _until_gone = until_gone;
            let _runtime = handle.enter();
            device::serve_all(&device, &server);
        })?;
    }
    let (notifications, stats_of_notifier, shared) = (notifier.clone(), stats.clone(), server.shared.clone());
    spawn("fuse-notify".to_owned(), move || {
        let _shared = shared;
        while let Some(notification) = notifications.next() {
            stats_of_notifier.notified();
            match device.notify(&notification) {
                // ENOENT: nothing of it was cached.
                Ok(()) | Err(Errno::NOENT | Errno::NOTCONN | Errno::NODEV | Errno::CONNABORTED) => {}
                Err(e) => tracing::debug!(?notification, error = %e, "notification refused"),
            }
        }
    })?;
    mountpoint.set_read_ahead(options.read_ahead_kb);
    Ok(Mount { mountpoint, notifier: notifier.clone(), stats, negotiated, phases: watching })
}

pub(super) fn spawn(name: String, body: impl FnOnce() + Send + 'static) -> Result<(), MountError> {
    let spawned = thread::Builder::new().name(name).spawn(body);
    spawned.map(drop).map_err(|e| MountError::system("start a thread", e))
}

/// The first exchange.
fn agree(device: &Device, options: &Options, rings: bool) -> Result<Negotiated, MountError> {
    let protocol = |what: &str| MountError::Protocol(what.to_owned());
    let mut request = device::buffer(options.io_len_max);
    loop {
        request.clear();
        let read = device.read(&mut request).map_err(|e| MountError::system("read /dev/fuse", e))?;
        read.ok_or_else(|| protocol("it was unmounted while it was being mounted"))?;
        let Ok((header, body)) = abi::InHeader::read_from_prefix(&request) else {
            return Err(protocol("the kernel's first request is too short"));
        };
        if header.opcode != opcode::INIT {
            return Err(protocol("the kernel did not begin with INIT"));
        }
        match init::negotiate(body, options, rings) {
            Init::Agreed(answer, negotiated) => {
                device.answer(header.unique, Ok(Encoded::head(&answer)));
                return Ok(negotiated);
            }
            Init::Again(answer) => device.answer(header.unique, Ok(Encoded::head(&answer))),
            Init::Refused(why) => {
                device.answer(header.unique, Err(Errno::PROTO));
                return Err(MountError::Protocol(why));
            }
        }
    }
}
