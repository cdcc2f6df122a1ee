//! The kinds of faults, whom they hit, and what a machine must be able to do for them.
//!
//! `nemesis` draws from this list. Not here: how a fault is made and mended.

use super::hosts::Abilities;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// kill -9, and started again after a while.
    Kill,
    /// kill -9, and started again before anybody noticed.
    Bounce,
    /// SIGSTOP, then SIGCONT.
    Pause,
    /// SIGTERM, and started again.
    Stop,
    /// Leadership moves on request.
    Transfer,
    /// Another machine takes the place of a metadata server, dead or alive.
    Replace,
    /// The disk is replaced by an empty one.
    Wipe,
    /// Bits flip in blocks at rest.
    BitRot,
    /// The power fails: what was not synced is gone, or torn.
    PowerCut,
    /// Syncs are acknowledged and not done, then the power fails.
    ForgottenSyncs,
    /// No room for one more byte.
    DiskFull,
    /// Reads, writes, syncs fail with EIO.
    ReadErrors,
    WriteErrors,
    SyncErrors,
    /// Each write and sync takes long.
    SlowDisk,
    /// No packets between it and the other servers.
    Isolated,
    /// It hears nobody, but is heard.
    Deaf,
    /// It hears the other servers, but they do not hear it.
    Mute,
    /// Some of the packets to it are lost.
    Lossy,
    /// What it sends is slow.
    SlowLink,
    /// Its wall clock jumps by minutes.
    ClockJump,
    /// All servers at once.
    AllKilled,
    AllPowerCut,
    /// No two metadata servers hear each other.
    AllApart,
}

/// Whom it hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victims {
    /// One metadata server.
    Meta,
    /// One data server.
    Data,
    /// Everything.
    All,
}

impl Kind {
    pub const EVERY: [Self; 24] = [
        Self::Kill,
        Self::Bounce,
        Self::Pause,
        Self::Stop,
        Self::Transfer,
        Self::Replace,
        Self::Wipe,
        Self::BitRot,
        Self::PowerCut,
        Self::ForgottenSyncs,
        Self::DiskFull,
        Self::ReadErrors,
        Self::WriteErrors,
        Self::SyncErrors,
        Self::SlowDisk,
        Self::Isolated,
        Self::Deaf,
        Self::Mute,
        Self::Lossy,
        Self::SlowLink,
        Self::ClockJump,
        Self::AllKilled,
        Self::AllPowerCut,
        Self::AllApart,
    ];

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "killed (kill -9)",
            Self::Bounce => "killed and back at once",
            Self::Pause => "silent (SIGSTOP)",
            Self::Stop => "planned stop (SIGTERM)",
            Self::Transfer => "leadership transferred",
            Self::Replace => "member replaced",
            Self::Wipe => "disk lost",
            Self::BitRot => "bits flipped in blocks",
            Self::PowerCut => "power cut, writes torn",
            Self::ForgottenSyncs => "fsync ignored, then power cut",
            Self::DiskFull => "disk full",
            Self::ReadErrors => "EIO on reads",
            Self::WriteErrors => "EIO on writes",
            Self::SyncErrors => "EIO on fsync",
            Self::SlowDisk => "slow disk",
            Self::Isolated => "cut off from the servers",
            Self::Deaf => "cut off one way: hears nobody",
            Self::Mute => "cut off one way: not heard",
            Self::Lossy => "packets lost",
            Self::SlowLink => "slow link",
            Self::ClockJump => "clock jump",
            Self::AllKilled => "all servers killed at once",
            Self::AllPowerCut => "power cut of all servers at once",
            Self::AllApart => "no two metadata servers connected",
        }
    }

    /// It can be made here.
    pub fn is_possible(self, abilities: Abilities) -> bool {
        match self {
            Self::PowerCut
            | Self::ForgottenSyncs
            | Self::DiskFull
            | Self::ReadErrors
            | Self::WriteErrors
            | Self::SyncErrors
            | Self::SlowDisk
            | Self::AllPowerCut => abilities.disks,
            Self::Isolated | Self::Deaf | Self::Mute | Self::Lossy | Self::SlowLink | Self::AllApart => {
                abilities.network
            }
            Self::ClockJump => abilities.clocks,
            _ => true,
        }
    }

    /// It may hit these.
    ///
    /// A metadata server whose disk loses what it has synced cannot know that it forgot a promise, so nothing can be promised of a
    /// cluster that loses another one before it has caught up: not among the faults here.
    pub fn may_hit(self, victims: Victims) -> bool {
        match self {
            Self::Transfer | Self::Replace => victims == Victims::Meta,
            Self::BitRot | Self::ForgottenSyncs => victims == Victims::Data,
            Self::AllKilled | Self::AllPowerCut | Self::AllApart => victims == Victims::All,
            _ => victims != Victims::All,
        }
    }

    /// Something acknowledged is gone from one disk: all others must have it before, and the victim again before the next.
    pub fn loses_something(self) -> bool {
        matches!(self, Self::Wipe | Self::BitRot | Self::ForgottenSyncs | Self::Replace)
    }
}
