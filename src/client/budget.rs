//! Memory for blocks in flight, counted in units of 4 KiB so that the count fits a semaphore.
//!
//! Whoever holds block bytes of an upload or a download holds a permit for them. Holds: no deadlock, because a permit is
//! taken before the first byte of a block and nobody waits for one while holding a block that cannot move on by itself.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::types::BLOCK_LEN_MAX;

const UNIT: usize = 4096;

/// Units of a budget of `bytes`: at least one block, or nothing would ever move.
pub(super) fn units(bytes: usize) -> usize {
    bytes.max(BLOCK_LEN_MAX as usize).div_ceil(UNIT).min(Semaphore::MAX_PERMITS)
}

/// Room for the bytes of a block; given back when dropped. (None only if the budget were closed, which it never is.)
pub(super) type Permit = Option<OwnedSemaphorePermit>;

/// Waits until `len` bytes (at most a block) fit.
pub(super) async fn take(budget: &Arc<Semaphore>, len: usize) -> Permit {
    let units = u32::try_from(len.clamp(1, BLOCK_LEN_MAX as usize).div_ceil(UNIT)).unwrap_or(1);
    budget.clone().acquire_many_owned(units).await.ok()
}

/// Room for `len` bytes (at most a block), if there is any now.
pub(super) fn try_take(budget: &Arc<Semaphore>, len: usize) -> Option<OwnedSemaphorePermit> {
    let units = u32::try_from(len.clamp(1, BLOCK_LEN_MAX as usize).div_ceil(UNIT)).unwrap_or(1);
    budget.clone().try_acquire_many_owned(units).ok()
}
