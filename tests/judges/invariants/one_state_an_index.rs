//! Whoever has applied the log up to an index has the same state (state machine safety, Ongaro's thesis, 3.6.3), also after a crash,
//! a snapshot or a new disk.

use std::collections::BTreeMap;

use pohmelfs::wire::status::MetaStatus;

/// The hash that was seen at each index, and where first.
#[derive(Default)]
pub struct States(BTreeMap<u64, (String, String)>);

impl States {
    pub fn look(&mut self, server: &str, status: &MetaStatus) -> Option<String> {
        let seen = (status.state_hash.clone(), server.to_owned());
        let (known, first) = self.0.entry(status.state_hash_at).or_insert(seen);
        (*known != status.state_hash).then(|| {
            format!(
                "index {} has two states: {known} at {first}, {} at {server}",
                status.state_hash_at, status.state_hash
            )
        })
    }
}
