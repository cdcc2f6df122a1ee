//! What holds of a cluster whatever happens to it, one rule a file.
//!
//! [`Watch`] looks at every metadata server many times a run; the `whole_` ones are asked once everything is mended and quiet.

mod one_leader_a_term;
mod one_state_an_index;
pub mod whole_namespace;
pub mod whole_replicas;

use pohmelfs::wire::status::MetaStatus;

/// Rules that are looked at all the time, with what they have seen.
#[derive(Default)]
pub struct Watch {
    leaders: one_leader_a_term::Leaders,
    states: one_state_an_index::States,
    /// Looks so far.
    pub looks: u64,
}

impl Watch {
    /// Looks at one server; says which rule is broken and how.
    pub fn look(&mut self, server: &str, status: &MetaStatus) -> Option<String> {
        self.looks += 1;
        self.leaders.look(server, status).or_else(|| self.states.look(server, status))
    }
}
