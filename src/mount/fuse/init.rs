//! INIT: the first request, in which kernel and mount agree on version, capabilities and limits.
//!
//! A pure step from what the kernel offers and the mount wants to the answer. Called by `session` before anything
//! else is read.

use zerocopy::FromBytes;

use super::abi::{self, cap};
use super::options::{Negotiated, Options, Transport};

/// Memory pages as the protocol counts them.
const PAGE: u32 = 4096;

/// What is asked for whenever the kernel has it:
/// - reads, lookups and direct I/O of one file at the same time;
/// - locks of both families come here, O_TRUNC comes with the open, the umask with each create (default ACLs decide
///   about it), and the group of the parent directory where the caller has it;
/// - setuid and setgid are cleared here: the kernel says when, instead of asking for an attribute before each write;
/// - cached pages go when size or mtime changed; a page of a directory brings attributes where they were used;
/// - shared mappings also of files opened around the cache;
/// - a name that the kernel keeps can be made to be asked for again, and nothing below it is taken apart;
/// - `.` and `..` can be looked up (NFS export).
const WANTED: u64 = cap::ASYNC_READ
    | cap::POSIX_LOCKS
    | cap::ATOMIC_O_TRUNC
    | cap::EXPORT_SUPPORT
    | cap::BIG_WRITES
    | cap::DONT_MASK
    | cap::FLOCK_LOCKS
    | cap::AUTO_INVAL_DATA
    | cap::DO_READDIRPLUS
    | cap::READDIRPLUS_AUTO
    | cap::ASYNC_DIO
    | cap::PARALLEL_DIROPS
    | cap::ABORT_ERROR
    | cap::MAX_PAGES
    | cap::HANDLE_KILLPRIV_V2
    | cap::SETXATTR_EXT
    | cap::INIT_EXT
    | cap::CREATE_SUPP_GROUP
    | cap::HAS_EXPIRE_ONLY
    | cap::DIRECT_IO_ALLOW_MMAP;

/// What follows from a request to INIT.
#[derive(Debug, PartialEq, Eq)]
pub enum Init {
    /// Agreed.
    Agreed(abi::InitOut, Negotiated),
    /// The kernel speaks a newer protocol: answer with ours, and it asks again.
    Again(abi::InitOut),
    /// It is too old, or sent nonsense.
    Refused(String),
}

/// Decides. `rings` are ready: io_uring may be taken.
pub fn negotiate(body: &[u8], options: &Options, rings: bool) -> Init {
    let Ok((asked, more)) = abi::InitIn::read_from_prefix(body) else {
        return Init::Refused("the kernel's first request is too short".to_owned());
    };
    let ours = abi::InitOut { major: abi::MAJOR, minor: abi::MINOR, ..Default::default() };
    if asked.major > abi::MAJOR {
        return Init::Again(ours);
    }
    if asked.major < abi::MAJOR || asked.minor < abi::MINOR_MIN {
        return Init::Refused(format!(
            "the kernel speaks FUSE {}.{}, at least {}.{} (Linux 5.4) is needed",
            asked.major,
            asked.minor,
            abi::MAJOR,
            abi::MINOR_MIN
        ));
    }
    let mut offered = u64::from(asked.flags);
    if offered & cap::INIT_EXT != 0
        && let Ok((more, _)) = abi::InitMoreIn::read_from_prefix(more)
    {
        offered |= u64::from(more.flags2) << 32;
    }
    let mut wanted = WANTED;
    if options.writeback_cache {
        wanted |= cap::WRITEBACK_CACHE;
    }
    if rings {
        wanted |= cap::OVER_IO_URING;
    }
    let capabilities = offered & wanted;
    let has = |bit: u64| capabilities & bit != 0;
    // Without the extension the kernel's old limit holds: 32 pages.
    let pages_max = if has(cap::MAX_PAGES) { u32::from(u16::MAX) } else { 32 };
    let pages = (options.io_len_max / PAGE).clamp(1, pages_max);
    let io_len_max = pages * PAGE;
    let background = options.background_max.max(1);
    let answer = abi::InitOut {
        readahead: asked.readahead,
        // Both halves fit: they are halves.
        flags: u32::try_from(capabilities & 0xffff_ffff).unwrap_or(0),
        flags2: u32::try_from(capabilities >> 32).unwrap_or(0),
        background,
        // The kernel's own rule for when to hold writers back.
        congestion: (background - background / 4).max(1),
        write: io_len_max,
        time_gran: 1,
        pages: u16::try_from(pages).unwrap_or(u16::MAX),
        ..ours
    };
    let negotiated = Negotiated {
        transport: if has(cap::OVER_IO_URING) { Transport::Uring } else { Transport::Dev },
        minor: asked.minor.min(abi::MINOR),
        io_len_max,
        background_max: background,
        capabilities,
    };
    Init::Agreed(answer, negotiated)
}

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes;

    use super::*;

    fn asked(major: u32, minor: u32, flags: u64) -> Vec<u8> {
        let low = u32::try_from(flags & 0xffff_ffff).unwrap();
        let head = abi::InitIn { major, minor, readahead: 1 << 17, flags: low };
        let more = abi::InitMoreIn { flags2: u32::try_from(flags >> 32).unwrap(), ..Default::default() };
        [head.as_bytes(), more.as_bytes()].concat()
    }

    #[test]
    fn only_what_both_have_is_agreed() {
        let options = Options::default();
        let Init::Agreed(answer, negotiated) = negotiate(&asked(7, 45, u64::MAX), &options, true) else {
            panic!("a new kernel is refused")
        };
        assert_eq!(negotiated.transport, Transport::Uring);
        assert_eq!(negotiated.io_len_max, 1 << 20);
        assert_eq!((answer.write, answer.pages, answer.time_gran), (1 << 20, 256, 1));
        assert_eq!(negotiated.capabilities & cap::WRITEBACK_CACHE, 0);
        assert_ne!(negotiated.capabilities & cap::DIRECT_IO_ALLOW_MMAP, 0);

        let Init::Agreed(answer, negotiated) = negotiate(&asked(7, 45, u64::MAX), &options, false) else {
            panic!("a new kernel is refused")
        };
        assert_eq!((negotiated.transport, answer.flags2 & 1 << 9), (Transport::Dev, 0));

        let old = asked(7, 31, u64::from(u32::MAX) & !(cap::INIT_EXT | cap::MAX_PAGES));
        let Init::Agreed(answer, negotiated) = negotiate(&old, &options, true) else {
            panic!("Linux 5.4 is refused")
        };
        assert_eq!((negotiated.transport, answer.flags2), (Transport::Dev, 0));
        assert_eq!(negotiated.io_len_max, 128 << 10);
    }

    #[test]
    fn other_versions_are_asked_again_or_refused() {
        let options = Options::default();
        let Init::Again(answer) = negotiate(&asked(8, 0, 0), &options, true) else { panic!("8 is not ours") };
        assert_eq!((answer.major, answer.minor), (7, 45));
        assert!(matches!(negotiate(&asked(7, 30, 0), &options, true), Init::Refused(_)));
        assert!(matches!(negotiate(&asked(6, 99, 0), &options, true), Init::Refused(_)));
        assert!(matches!(negotiate(b"short", &options, true), Init::Refused(_)));
    }
}
