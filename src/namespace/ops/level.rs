//! The format level: raised once every server of the cluster knows it, and never lowered.
//!
//! Its record is laid out by hand and stays so for ever, because a program that knows nothing else of a later state must still find out
//! why it cannot read it:
//!
//! ```text
//! 0  1  version of the record, 1; a later one only appends
//! 1  2  level              (little-endian)
//! 3  8  when it was raised, nanoseconds since 1970
//! ```

use bytes::Bytes;

use super::super::txn::{Step, corrupt};
use super::super::{Txn, View, ViewError, keys};
use crate::types::{FsError, Level, Timestamp, UpdateReply};

const VERSION: u8 = 1;

fn encode(level: Level, at: Timestamp) -> Bytes {
    let mut out = vec![VERSION];
    out.extend_from_slice(&level.0.to_le_bytes());
    out.extend_from_slice(&at.0.to_le_bytes());
    Bytes::from(out)
}

/// The level and when it was raised, in the bytes of its record.
pub(crate) fn decode(record: &[u8]) -> Result<(Level, Timestamp), ViewError> {
    let bad = || corrupt("level record: it is too short".into());
    let level = record.get(1..3).and_then(|b| b.try_into().ok()).map(u16::from_le_bytes).ok_or_else(bad)?;
    let at = record.get(3..11).and_then(|b| b.try_into().ok()).map(i64::from_le_bytes).ok_or_else(bad)?;
    Ok((Level(level), Timestamp(at)))
}

/// The level that the cluster works at, and since when it does, if it was ever raised.
pub(crate) fn level(view: &dyn View) -> Result<(Level, Option<Timestamp>), ViewError> {
    match view.get(keys::LEVEL)? {
        Some(record) => decode(&record).map(|(level, at)| (level, Some(at))),
        None => Ok((Level::FIRST, None)),
    }
}

/// Raises the level. What it is already is no error, so that two leaders in a row may both try.
pub(crate) fn raise(txn: &mut Txn<'_>, at: Timestamp, to: Level) -> Step<UpdateReply> {
    if to <= Level::FIRST {
        return Err(FsError::Invalid.into());
    }
    if level(&txn.records)?.0 < to {
        txn.records.put_bytes(keys::LEVEL, encode(to, at))?;
    }
    Ok(UpdateReply::Done)
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Bench;
    use super::*;
    use crate::golden;
    use crate::namespace::{Op, check};

    #[test]
    fn the_level_goes_up_only() {
        let mut bench = Bench::new();
        assert_eq!(level(&bench.view).unwrap(), (Level(1), None));
        let before = bench.view.clone();
        assert_eq!(bench.command(Op::RaiseLevel(Level(1))), Err(FsError::Invalid));
        assert_eq!(bench.view.records.get(keys::LEVEL), before.records.get(keys::LEVEL));
        assert!(bench.command(Op::RaiseLevel(Level(3))).is_ok());
        let raised = level(&bench.view).unwrap();
        assert_eq!(raised.0, Level(3));
        assert!(raised.1.is_some());
        assert!(bench.command(Op::RaiseLevel(Level(2))).is_ok());
        assert!(bench.command(Op::RaiseLevel(Level(3))).is_ok());
        assert_eq!(level(&bench.view).unwrap(), raised, "neither lowered nor raised again");
        assert_eq!(check(&bench.view).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn golden_level_record_is_read_by_every_program_there_will_be() {
        let at = Timestamp(1_700_000_000_000_000_000);
        golden::check("record_level", vec![("level 2".into(), encode(Level(2), at).to_vec())]);
        let mut later = encode(Level(9), at).to_vec();
        later[0] = 7;
        later.extend_from_slice(b"what a later version appends");
        assert_eq!(decode(&later).unwrap(), (Level(9), at));
        assert!(decode(&later[..10]).is_err());
    }
}
