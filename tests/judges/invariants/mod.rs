//! What holds of a cluster whatever happens to it, one rule a file.
//!
//! [`Watch`] looks at every metadata server many times a run; the others are asked once everything is mended and quiet.

mod ids_never_used_again;
pub mod map_names_the_voters;
mod one_leader_a_term;
mod one_state_an_index;
pub mod removed_serve_nobody;
pub mod whole_namespace;
pub mod whole_replicas;
pub mod whole_roll;

use pohmelfs::wire::status::MetaStatus;

/// Rules that are looked at all the time, with what they have seen.
#[derive(Default)]
pub struct Watch {
    leaders: one_leader_a_term::Leaders,
    states: one_state_an_index::States,
    removed: ids_never_used_again::Removed,
    /// Looks so far.
    pub looks: u64,
}

impl Watch {
    /// Looks at one server; says which rule is broken and how.
    pub fn look(&mut self, server: &str, status: &MetaStatus) -> Option<String> {
        self.looks += 1;
        let broken = self.leaders.look(server, status).or_else(|| self.states.look(server, status));
        broken.or_else(|| self.removed.look(server, status))
    }
}
