//! Which blocks were read whole lately: what is read again is worth a place in the page cache.
//!
//! `read` asks before it reads. Two generations of ids: a block that is asked for moves to the younger one, and when that is full
//! the older one is forgotten. Holds: at most [`BLOCKS_MAX`] ids, some 40 bytes each. Forgetting one costs a read past the cache.

use std::collections::HashSet;

use crate::types::BlockId;

/// Ids that are remembered: those of 256 GiB of the longest blocks, more than the page cache of most machines.
const BLOCKS_MAX: usize = 64 << 10;

/// The memory of what was read.
#[derive(Debug, Default)]
pub(super) struct Lately {
    young: HashSet<BlockId>,
    old: HashSet<BlockId>,
}

impl Lately {
    /// Notes that a block is read; true if it was before.
    pub(super) fn note(&mut self, id: BlockId) -> bool {
        let known = self.young.contains(&id) || self.old.contains(&id);
        if self.young.len() >= BLOCKS_MAX / 2 && !self.young.contains(&id) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(id);
        known
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::SessionId;

    #[test]
    fn what_is_read_again_is_remembered_and_the_number_is_bounded() {
        let id = |index| BlockId { session: SessionId(1), index };
        let mut lately = Lately::default();
        assert!(!lately.note(id(0)));
        for index in 1..=2 * BLOCKS_MAX as u64 {
            assert!(!lately.note(id(index)), "{index}");
            assert!(lately.note(id(0)), "asked for all the time");
            assert!(lately.young.len() + lately.old.len() <= BLOCKS_MAX);
        }
        assert!(!lately.note(id(1)), "forgotten");
    }
}
