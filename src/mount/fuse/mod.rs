//! The kernel's FUSE protocol, over `/dev/fuse` and over io_uring.
//!
//! A mount starts one of these with a [`Filesystem`]; what the kernel asks for arrives there as [`Request`]s, and its
//! [`Answer`]s go back. It knows the kernel's protocol and nothing of what is behind the filesystem.
//!
//! ```text
//! kernel ── /dev/fuse or rings ── parse ──> Filesystem::call ──> encode ── the same way back
//!                                  forget, interrupt              Notifier: drop what you cached
//! ```

mod abi;
mod answer;
mod device;
mod dir_page;
mod encode;
mod filesystem;
mod init;
mod interrupt;
mod mountpoint;
mod notify;
mod op;
mod options;
mod parse;
mod ring;
mod ring_memory;
mod serve;
mod session;
mod stats;
mod sys;
mod uring;

pub use answer::{Answer, Attr, DirPage, Entry, OpenFlags, Opened, Statfs};
pub use filesystem::{Errno, Filesystem};
pub use interrupt::Interrupt;
pub use mountpoint::{FS_TYPE, MountError};
pub use notify::{Notification, Notifier, QUEUE_MAX};
pub use op::{Caller, Lock, LockCall, LockKind, Op, Request, Seek, SetAttr, XattrMode};
pub use options::{Negotiated, Options, Transport};
pub use session::Mount;
pub use stats::{OpSnapshot, Stats, StatsSnapshot};
