//! The label of the cluster: what people call it.

use super::super::apply::Caller;
use super::super::records::{Label, Record};
use super::super::txn::{Step, read};
use super::super::{Txn, View, ViewError, keys};
use super::level;
use crate::types::{FsError, SetLabel, Update, UpdateReply};

/// The label; empty: none.
pub(crate) fn label(view: &dyn View) -> Result<String, ViewError> {
    Ok(read::<Label>(view, keys::LABEL)?.map(|record| record.label).unwrap_or_default())
}

/// Root may set it; an empty one takes it away.
pub(crate) fn set(txn: &mut Txn<'_>, caller: &Caller<'_>, set: &SetLabel) -> Step<UpdateReply> {
    // No leader proposes it before: a program that does not know the command would stop.
    if level::level(&txn.records)?.0 < Update::SetLabel(set.clone()).level() {
        return Err(FsError::Unsupported.into());
    }
    if !caller.cred.is_root() {
        return Err(FsError::NotOwner.into());
    }
    let SetLabel { label } = set;
    if label.len() > SetLabel::LEN_MAX || label.chars().any(char::is_control) {
        return Err(FsError::Invalid.into());
    }
    if label.is_empty() {
        txn.records.delete(keys::LABEL)?;
    } else {
        txn.records.put_bytes(keys::LABEL, Label { label: label.clone() }.encode())?;
    }
    Ok(UpdateReply::Done)
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Bench;
    use super::*;
    use crate::namespace::{Op, check};
    use crate::types::{Cred, Level, RequestId};

    fn to(label: &str) -> Update {
        Update::SetLabel(SetLabel { label: label.into() })
    }

    #[test]
    fn a_cluster_is_called_by_what_root_says() {
        let mut bench = Bench::new();
        assert_eq!(bench.update(to("lab")), Err(FsError::Unsupported), "at level 1");
        assert!(bench.command(Op::RaiseLevel(Level(2))).is_ok());
        assert!(bench.update(to("lab")).is_ok());
        assert_eq!(label(&bench.view).unwrap(), "lab");
        assert_eq!(bench.update(to("two\nlines")), Err(FsError::Invalid));
        assert_eq!(bench.update(to(&"x".repeat(SetLabel::LEN_MAX + 1))), Err(FsError::Invalid));
        let somebody = Op::Client {
            session: bench.session,
            request: RequestId(99),
            lowest_unanswered: RequestId(0),
            cred: Cred { uid: 7, ..Cred::root() },
            update: to("mine"),
        };
        assert_eq!(bench.command(somebody), Err(FsError::NotOwner));
        assert_eq!(label(&bench.view).unwrap(), "lab");
        bench.request = RequestId(100);
        assert!(bench.update(to("")).is_ok());
        assert_eq!(label(&bench.view).unwrap(), "");
        assert_eq!(check(&bench.view).unwrap(), Vec::<String>::new());
    }
}
