//! A term has at most one leader (election safety, Ongaro's thesis, 3.4).

use std::collections::BTreeMap;

use pohmelfs::wire::status::MetaStatus;

/// Who was seen to lead in each term.
#[derive(Default)]
pub struct Leaders(BTreeMap<u64, String>);

impl Leaders {
    pub fn look(&mut self, server: &str, status: &MetaStatus) -> Option<String> {
        if status.raft_state != "leader" {
            return None;
        }
        let known = self.0.entry(status.term).or_insert_with(|| server.to_owned());
        (known != server).then(|| format!("term {} has two leaders: {known} and {server}", status.term))
    }
}
