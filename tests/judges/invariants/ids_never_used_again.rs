//! Whoever was removed is never a member again under its id, and everybody who has applied the log that far remembers it.

use std::collections::BTreeMap;

use pohmelfs::types::NodeId;
use pohmelfs::wire::status::MetaStatus;

/// Ids of the removed: the first index as of which each was seen to be one, and where.
#[derive(Default)]
pub struct Removed(BTreeMap<NodeId, (u64, String)>);

impl Removed {
    pub fn look(&mut self, server: &str, status: &MetaStatus) -> Option<String> {
        for node in &status.removed {
            let seen = || (status.applied, server.to_owned());
            let first = self.0.entry(*node).or_insert_with(seen);
            if status.applied < first.0 {
                *first = seen();
            }
        }
        // The members are those of the log, which reaches at least as far as what is applied.
        let again = status.members.iter().find(|member| status.removed.contains(&member.node));
        if let Some(member) = again {
            return Some(format!("{server} has {} as a member, which was removed before", member.node));
        }
        let forgotten = self.0.iter().find(|(node, (at, _))| {
            // What is told of the removed may be newer than the index that is told beside it, never older.
            status.applied > *at && !status.removed.contains(node)
        });
        forgotten.map(|(node, (at, first))| {
            format!(
                "{server} has applied index {} and does not know that {node} was removed, as {first} did at {at}",
                status.applied
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use pohmelfs::wire::status::MemberStatus;

    use super::*;

    fn status(applied: u64, members: &[u64], removed: &[u64]) -> MetaStatus {
        let member = |node: &u64| MemberStatus { node: NodeId(*node), ..MemberStatus::default() };
        MetaStatus {
            applied,
            members: members.iter().map(member).collect(),
            removed: removed.iter().copied().map(NodeId).collect(),
            ..MetaStatus::default()
        }
    }

    #[test]
    fn who_comes_back_or_is_forgotten_is_seen() {
        let mut seen = Removed::default();
        for (server, good) in [
            ("a", status(7, &[1, 2, 3], &[])),
            ("a", status(9, &[1, 2, 4], &[3])),
            ("b", status(8, &[1, 2, 3, 4], &[])),
            ("b", status(8, &[1, 2, 4], &[3])),
            ("c", status(0, &[], &[])),
        ] {
            assert_eq!(seen.look(server, &good), None, "{good:?}");
        }
        assert!(seen.look("b", &status(9, &[1, 2, 4], &[])).unwrap().contains("does not know"));
        assert!(seen.look("a", &status(10, &[1, 2, 3, 4], &[3])).unwrap().contains("removed before"));
    }
}
