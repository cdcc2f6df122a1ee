//! The format level of the cluster: which levels the members know, when it is raised, and what is not proposed before.
//!
//! `changes` raises it for an operator, and `worker` right after the founding, when there is nothing to go back to; `service` asks before
//! a command goes to the leader, and the leader again. Holds: the level is one that every member said it knows, at a moment when
//! nobody could join; no command of a level above it is proposed.
//! Not here: what a level brings (`types/level`), and the record of it (`namespace`).

use futures::future::join_all;

use super::changes::ANSWER_MAX;
use super::service::Service;
use crate::namespace::{self, Op};
use crate::runtime::Instant;
use crate::types::{Level, LevelRange, MetaNode, NodeAddress, NodeId};
use crate::wire::members::{MembersOutcome, Refusal};
use crate::wire::{Program, RpcError};

/// Servers other than metadata servers whose programs are kept in mind: more than a cluster of this kind has.
const CALLERS_MAX: usize = 4096;

/// What to do for a program that does not know the level of what it finds.
pub(super) fn unknown(level: Level, known: LevelRange) -> String {
    format!(
        "it is of format level {level}, and this program knows level {known}: start the program that ran here before, or a later one; \
         nothing was changed"
    )
}

/// A member and the program it runs, or why it does not say.
struct Told {
    server: MetaNode,
    program: Result<Program, String>,
}

/// The level to work at from now on; none: it stays, and nobody knows a newer one.
fn next(active: Level, members: &[Told]) -> Result<Option<Level>, Refusal> {
    let mut programs = Vec::with_capacity(members.len());
    for Told { server, program } in members {
        match program {
            Ok(program) => programs.push((server, program)),
            Err(reason) => {
                let (node, address) = (server.node, server.address.clone());
                return Err(Refusal::Unreachable { node, address, reason: reason.clone() });
            }
        }
    }
    let last = |(_, program): &(&MetaNode, &Program)| program.levels.last;
    let newest = programs.iter().map(last).max().unwrap_or(active);
    let common = programs.iter().map(last).min().unwrap_or(active);
    if common > active {
        return Ok(Some(common));
    }
    if newest <= active {
        return Ok(None);
    }
    let older = programs.iter().filter(|told| last(told) <= active);
    let older = older.map(|(server, program)| describe(server, program)).collect();
    Err(Refusal::OlderPrograms { active, older })
}

/// A member and its program, for people.
fn describe(server: &MetaNode, program: &Program) -> String {
    format!("metadata server {} (node {}) is {program}", server.name, server.node)
}

impl Service {
    /// The level that the cluster works at, as far as this server has applied.
    pub(super) fn level(&self) -> Result<Level, RpcError> {
        // Also while the state is half of a dump.
        let level = self.state.read(|view| namespace::level(view).map(|(level, _)| level));
        level.map_err(|e| RpcError::StoreFailed { reason: e.to_string() })
    }

    /// On the leader, with the turn to change members: raises the level as far as all members know.
    pub(super) async fn raise_level(&self) -> Result<Result<MembersOutcome, Refusal>, RpcError> {
        let active = self.level()?;
        let to = match next(active, &self.told().await) {
            Ok(Some(to)) => to,
            Ok(None) => return Ok(Ok(MembersOutcome::Already)),
            Err(refusal) => return Ok(Err(refusal)),
        };
        if let Err(refused) = self.proposer.submit(Op::RaiseLevel(to)).await? {
            return Err(RpcError::Internal {
                reason: format!("the namespace does not take level {to}: {refused}"),
            });
        }
        tracing::info!(from = %active, %to, "the format level is raised");
        Ok(Ok(MembersOutcome::Done))
    }

    /// Every member with its program, each asked now.
    async fn told(&self) -> Vec<Told> {
        let members = self.consensus.members();
        let map = self.map().unwrap_or_default();
        let asked = members.addresses.iter().map(|(node, address)| {
            let server = self.known_as(map.meta.get(node), *node, address);
            async move {
                let program = if server.node == self.node {
                    Ok(self.program.clone())
                } else {
                    self.peers.program(server.node, ANSWER_MAX).await.map_err(|e| e.to_string())
                };
                Told { server, program }
            }
        });
        join_all(asked).await
    }

    fn known_as(&self, in_map: Option<&MetaNode>, node: NodeId, address: &NodeAddress) -> MetaNode {
        let introduced = || self.changes.introduced.lock().get(&node).cloned();
        in_map.cloned().or_else(introduced).unwrap_or_else(|| MetaNode {
            node,
            name: address.0.clone(),
            address: address.clone(),
            http: NodeAddress::default(),
        })
    }

    /// Whether commands of level `needed` may be proposed. A server that is behind catches up first.
    pub(super) async fn allow(
        self: &std::sync::Arc<Self>,
        needed: Level,
        deadline: Instant,
    ) -> Result<(), RpcError> {
        if needed > Level::FIRST && needed > self.level()? {
            self.linearize(deadline).await?;
        }
        self.allowed(needed)
    }

    /// The same, as far as this server has applied: exact on the leader.
    pub(super) fn allowed(&self, needed: Level) -> Result<(), RpcError> {
        if needed <= Level::FIRST {
            return Ok(());
        }
        let active = self.level()?;
        if needed <= active {
            Ok(())
        } else {
            Err(RpcError::LevelTooLow { active, needed, reason: self.why(needed) })
        }
    }

    /// Who keeps the level below `needed`, as far as is known without asking.
    fn why(&self, needed: Level) -> String {
        let map = self.map().unwrap_or_default();
        let own = (self.node, Some(self.program.clone()));
        let known = self.peers.programs().into_iter().chain([own]);
        let older: Vec<String> = known
            .filter_map(|(node, program)| Some((map.meta.get(&node)?, program?)))
            .filter(|(_, program)| program.levels.last < needed)
            .map(|(server, program)| describe(server, &program))
            .collect();
        if older.is_empty() {
            return "`pohmelfs cluster upgrade` raises it once every metadata server runs a program that knows it".into();
        }
        format!(
            "{}; install a newer program there, then `pohmelfs cluster upgrade` raises the level",
            older.join("; ")
        )
    }

    /// Keeps in mind which program a data server runs.
    pub(super) fn note_caller(&self, node: NodeId, program: &Program) {
        let mut callers = self.callers.lock();
        if callers.get(&node) != Some(program) && (callers.len() < CALLERS_MAX || callers.contains_key(&node))
        {
            callers.insert(node, program.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(node: u64, last: Option<u16>) -> Told {
        let address = NodeAddress(format!("meta-{node}:1"));
        let server = MetaNode {
            node: NodeId(node),
            name: format!("meta-{node}"),
            address: address.clone(),
            http: address,
        };
        let program = |last| Program {
            version: format!("0.{last}"),
            levels: LevelRange { first: Level(1), last: Level(last) },
        };
        Told { server, program: last.map(program).ok_or_else(|| "it is silent".into()) }
    }

    #[test]
    fn the_level_is_one_that_every_member_knows() {
        let at = |active, members: &[(u64, Option<u16>)]| {
            let members: Vec<Told> = members.iter().map(|(node, last)| told(*node, *last)).collect();
            next(Level(active), &members)
        };
        assert_eq!(at(1, &[(1, Some(2)), (2, Some(2)), (3, Some(2))]), Ok(Some(Level(2))));
        assert_eq!(at(2, &[(1, Some(2)), (2, Some(2)), (3, Some(2))]), Ok(None));
        assert_eq!(
            at(1, &[(1, Some(4)), (2, Some(3)), (3, Some(4))]),
            Ok(Some(Level(3))),
            "as far as all go"
        );
        let Err(refusal) = at(1, &[(1, Some(2)), (2, Some(1)), (3, Some(2))]) else { panic!("2 is older") };
        let said = refusal.to_string();
        assert!(
            said.contains("stays at format level 1") && said.contains("meta-2 (node 2) is program 0.1"),
            "{said}"
        );
        assert!(!said.contains("meta-1") && said.contains("install a newer program"), "{said}");
        let silent = at(1, &[(1, Some(2)), (2, None), (3, Some(2))]);
        assert!(matches!(silent, Err(Refusal::Unreachable { node: NodeId(2), .. })), "it may be older");
    }

    #[test]
    fn an_unknown_level_is_told_with_the_way_out() {
        let said = unknown(Level(3), LevelRange { first: Level(1), last: Level(2) });
        assert!(
            said.contains("level 3") && said.contains("1 to 2") && said.contains("start the program"),
            "{said}"
        );
    }
}
