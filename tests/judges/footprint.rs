//! What a call touches, so that a search need not try both orders of two calls that do not meet.
//!
//! `model` says what a call touches in a state; `linearizability` asks which calls meet.
//! Holds: two calls whose footprints in a state do not meet give the same answers and the same state in either order.
//! Footprints may be too large; that costs time. They must never be too small; that would refuse good histories.

/// How a key is touched. Calls that add to the same thing do not mind each other; whoever reads it minds both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touch {
    Read,
    Add,
    Write,
}

impl Touch {
    fn meets(self, other: Self) -> bool {
        !matches!((self, other), (Self::Read, Self::Read) | (Self::Add, Self::Add))
    }
}

/// The keys that one call touches in one state.
#[derive(Clone, Debug, Default)]
pub struct Footprint {
    keys: Vec<(u64, Touch)>,
    everything: bool,
}

impl Footprint {
    /// The call touches this key.
    pub fn add(&mut self, key: u64, touch: Touch) {
        self.keys.push((key, touch));
    }

    /// Nobody can say what the call touches.
    pub fn add_everything(&mut self) {
        self.everything = true;
    }

    /// All that both touch.
    pub fn extend(&mut self, other: &Self) {
        self.keys.extend_from_slice(&other.keys);
        self.everything |= other.everything;
    }

    /// The order of the two may matter.
    pub fn meets(&self, other: &Self) -> bool {
        let pair = |(a, x): &(u64, Touch)| other.keys.iter().any(|(b, y)| a == b && x.meets(*y));
        self.everything || other.everything || self.keys.iter().any(pair)
    }
}

/// What a failure depended on: a great many footprints in little memory. It may take a key for one it has seen, never overlook one.
#[derive(Clone, Debug, Default)]
pub struct Reason {
    /// One bit for each key, by the hash, for those read, added to and written.
    bits: [[u64; WORDS]; 3],
    everything: bool,
}

/// 256 bits: a failure depends on some ten keys, often less.
const WORDS: usize = 4;

impl Reason {
    /// It depended on these keys too.
    pub fn add(&mut self, footprint: &Footprint) {
        for (key, touch) in &footprint.keys {
            let (word, bit) = place(*key);
            self.bits[*touch as usize][word] |= bit;
        }
        self.everything |= footprint.everything;
    }

    /// It depended on whatever the other one depended on.
    pub fn extend(&mut self, other: &Self) {
        for (mine, theirs) in self.bits.iter_mut().flatten().zip(other.bits.iter().flatten()) {
            *mine |= theirs;
        }
        self.everything |= other.everything;
    }

    /// Something that touched this may have caused the failure.
    pub fn meets(&self, footprint: &Footprint) -> bool {
        let hit = |(key, touch): &(u64, Touch)| {
            let (word, bit) = place(*key);
            [Touch::Read, Touch::Add, Touch::Write]
                .into_iter()
                .any(|other| touch.meets(other) && self.bits[other as usize][word] & bit != 0)
        };
        self.everything || footprint.everything || footprint.keys.iter().any(hit)
    }
}

fn place(key: u64) -> (usize, u64) {
    let word = (key >> 6) & (WORDS as u64 - 1);
    (usize::try_from(word).unwrap_or_default(), 1 << (key & 63))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(keys: &[(u64, Touch)]) -> Footprint {
        Footprint { keys: keys.to_vec(), everything: false }
    }

    #[test]
    fn who_meets_whom() {
        let (read, add, write) = (of(&[(1, Touch::Read)]), of(&[(1, Touch::Add)]), of(&[(1, Touch::Write)]));
        let mut everything = Footprint::default();
        everything.add_everything();
        for (a, b, meet) in [
            (&read, &read, false),
            (&add, &add, false),
            (&read, &add, true),
            (&write, &write, true),
            (&write, &add, true),
            (&write, &of(&[(2, Touch::Write)]), false),
            (&everything, &Footprint::default(), true),
        ] {
            let mut reason = Reason::default();
            reason.add(a);
            assert_eq!((a.meets(b), b.meets(a), reason.meets(b)), (meet, meet, meet), "{a:?} {b:?}");
        }
    }
}
