//! Who of the metadata servers is what, as an operator with a good memory would know it, and what he asked for.
//!
//! The faults ask here before they take a disk or a member away. Holds: whatever came of the orders whose outcome is not known, the disks
//! that are lost at a time are fewer than half of the voters', there are three voters at least, and one of those that made the cluster
//! stays, whom the others and all clients know. So nothing is asked of raft that it cannot give, and all orders can be carried out in
//! the end.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use pohmelfs::cli::{Failure, Operator, Outcome};
use pohmelfs::net::simulated::HostId;
use pohmelfs::types::{NodeAddress, NodeId};
use pohmelfs::wire::members::Refusal;

use super::cluster::{Look, META, address_of};
use super::host::Program;

/// Between two tries of an operator.
const TRY_AGAIN: Duration = Duration::from_millis(500);
/// How long he lets a command wait for a server to catch up.
const CATCH_UP: Duration = Duration::from_secs(20);
/// Voters that there are at least.
const VOTERS_MIN: usize = META;

/// What a metadata server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Nobody has asked for it to be a member.
    New,
    /// It may be none, a learner or a voter: an order says so, and nothing is known of its outcome.
    Coming,
    Learner,
    Voter,
    /// It may be one still, or be removed.
    Going,
    Removed,
}

/// A disk that went with all that was on it, and what stands for it has not caught up yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    /// It comes back under its id with an empty disk.
    Wiped,
    /// It is gone for good; this one takes its place.
    ForGood { by: NodeId },
}

#[derive(Debug)]
struct Server {
    host: HostId,
    standing: Standing,
    loss: Option<Loss>,
}

/// What is asked of the operator: the words of `pohmelfs cluster`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Add {
        node: NodeId,
        promote: bool,
    },
    Promote {
        node: NodeId,
    },
    Remove {
        node: NodeId,
    },
    Replace {
        old: NodeId,
        new: NodeId,
    },
    /// A mistake: this one was removed, and comes back with an empty disk.
    AddAgain {
        node: NodeId,
    },
    TransferLeader {
        to: Option<NodeId>,
    },
}

impl Order {
    async fn give(self, operator: &mut Operator) -> Result<Outcome, Failure> {
        match self {
            Self::Add { node, promote } => {
                operator.add(node, address_of(node), promote.then_some(CATCH_UP)).await
            }
            Self::AddAgain { node } => operator.add(node, address_of(node), Some(CATCH_UP)).await,
            Self::Promote { node } => operator.promote(node, Some(CATCH_UP)).await,
            Self::Remove { node } => operator.remove(node).await,
            Self::Replace { old, new } => operator.replace(old, new, address_of(new), CATCH_UP).await,
            Self::TransferLeader { to } => operator.transfer_leader(to).await.map(|(_, outcome)| outcome),
        }
    }
}

/// One order, and what came of it.
struct Given {
    order: Order,
    operator: Option<HostId>,
    tries: u32,
    /// Newest answer.
    answer: String,
    is_over: bool,
}

impl fmt::Display for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: after {} tries: {}", self.order, self.tries, self.answer)
    }
}

/// Clones are the same roll.
#[derive(Clone)]
pub struct Roll(Arc<Mutex<Book>>);

struct Book {
    servers: BTreeMap<NodeId, Server>,
    /// Voters that there are at least, whatever came of the orders that are not over.
    voters_min: usize,
    orders: Vec<Given>,
    broken: Vec<String>,
    /// A leader was seen: from then on those that make the cluster need not all be there.
    is_founded: bool,
}

impl Roll {
    /// Of a cluster that these make.
    pub fn new(founders: impl Iterator<Item = (NodeId, HostId)>) -> Self {
        let server = |host| Server { host, standing: Standing::Voter, loss: None };
        let servers: BTreeMap<_, _> = founders.map(|(node, host)| (node, server(host))).collect();
        let voters_min = servers.len();
        let (orders, broken) = (Vec::new(), Vec::new());
        Self(Arc::new(Mutex::new(Book { servers, voters_min, orders, broken, is_founded: false })))
    }

    /// A server that may join.
    pub fn newcomer(&self, node: NodeId, host: HostId) {
        self.0.lock().servers.insert(node, Server { host, standing: Standing::New, loss: None });
    }

    pub fn host(&self, node: NodeId) -> HostId {
        self.0.lock().servers[&node].host
    }

    pub fn standing(&self, node: NodeId) -> Standing {
        self.0.lock().servers[&node].standing
    }

    /// All of them, in order of their ids.
    pub fn nodes(&self) -> Vec<NodeId> {
        self.0.lock().servers.keys().copied().collect()
    }

    /// Those of this standing.
    pub fn all(&self, standing: Standing) -> Vec<NodeId> {
        let book = self.0.lock();
        book.servers.iter().filter(|(_, server)| server.standing == standing).map(|(node, _)| *node).collect()
    }

    /// May this disk be lost, with the server coming back under its id?
    pub fn may_wipe(&self, host: HostId) -> bool {
        let book = self.0.lock();
        let of_host = book.servers.iter().find(|(_, server)| server.host == host);
        of_host.is_some_and(|(node, server)| {
            server.standing == Standing::Removed
                || (!matches!(server.loss, Some(Loss::ForGood { .. })) && book.may_lose(*node))
        })
    }

    /// It was.
    pub fn wiped(&self, host: HostId) {
        let mut book = self.0.lock();
        for server in book.servers.values_mut() {
            if server.host == host && server.standing != Standing::Removed {
                server.loss = Some(Loss::Wiped);
            }
        }
    }

    /// Loses one of the voters for good, as drawn, if that may be; `by` is to take its place. Which one.
    pub fn lose(&self, draw: u64, by: NodeId) -> Option<NodeId> {
        let mut book = self.0.lock();
        let may = |node: &NodeId| book.may_go(*node) && book.may_lose(*node);
        let candidates: Vec<NodeId> = book.servers.keys().copied().filter(|node| may(node)).collect();
        let node = drawn(draw, &candidates)?;
        book.servers.get_mut(&node)?.loss = Some(Loss::ForGood { by });
        Some(node)
    }

    /// The voter that was lost for good and whose place `new` is to take.
    pub fn lost_for(&self, new: NodeId) -> Option<NodeId> {
        let book = self.0.lock();
        let lost = |server: &Server| server.loss == Some(Loss::ForGood { by: new });
        book.servers.iter().find(|(_, server)| lost(server)).map(|(node, _)| *node)
    }

    /// A voter whose place may be taken, as drawn.
    pub fn replaceable(&self, draw: u64) -> Option<NodeId> {
        let book = self.0.lock();
        let candidates: Vec<NodeId> =
            book.servers.keys().copied().filter(|node| book.may_go(*node)).collect();
        drawn(draw, &candidates)
    }

    /// A voter, as drawn.
    pub fn voter(&self, draw: u64) -> Option<NodeId> {
        drawn(draw, &self.all(Standing::Voter))
    }

    /// One that was removed, as drawn.
    pub fn removed(&self, draw: u64) -> Option<NodeId> {
        drawn(draw, &self.all(Standing::Removed))
    }

    /// A member that is not needed.
    pub fn superfluous(&self, draw: u64) -> Option<NodeId> {
        let book = self.0.lock();
        let is_learner = |node: &NodeId| book.servers[node].standing == Standing::Learner;
        let may = |node: &NodeId| is_learner(node) || (book.voters_min > VOTERS_MIN && book.may_go(*node));
        let candidates: Vec<NodeId> = book.servers.keys().copied().filter(may).collect();
        drawn(draw, &candidates)
    }

    /// Notes an order; gives its number.
    pub fn order(&self, order: Order) -> usize {
        let mut book = self.0.lock();
        match order {
            Order::Add { node, .. } | Order::Promote { node } => book.set(node, Standing::Coming),
            Order::Remove { node } => {
                let was_voter = book.servers[&node].standing == Standing::Voter;
                book.voters_min -= usize::from(was_voter);
                book.set(node, Standing::Going);
            }
            Order::Replace { old, new } => {
                book.set(old, Standing::Going);
                book.set(new, Standing::Coming);
            }
            Order::AddAgain { .. } | Order::TransferLeader { .. } => {}
        }
        let given = Given { order, operator: None, tries: 0, answer: "none".into(), is_over: false };
        book.orders.push(given);
        book.orders.len() - 1
    }

    /// The host on which an operator carries out an order.
    pub fn carried_out_on(&self, number: usize, operator: HostId) {
        self.0.lock().orders[number].operator = Some(operator);
    }

    /// The program of the operator who carries it out.
    pub fn operator(&self, number: usize, addresses: Vec<NodeAddress>) -> Program {
        let roll = self.clone();
        Box::new(move |_disk| {
            let (roll, addresses) = (roll.clone(), addresses.clone());
            Box::pin(async move {
                let mut operator = Operator::new(&addresses);
                let order = roll.0.lock().orders[number].order;
                while !roll.answered(number, &order.give(&mut operator).await.map_err(|e| e.to_string())) {
                    pohmelfs::runtime::sleep(TRY_AGAIN).await;
                }
            })
        })
    }

    /// Takes an answer in, or why there is none; whether the order is over.
    fn answered(&self, number: usize, answer: &Result<Outcome, String>) -> bool {
        let mut book = self.0.lock();
        let given = &mut book.orders[number];
        given.tries += 1;
        given.answer = match answer {
            Ok(Ok(outcome)) => format!("{outcome:?}"),
            Ok(Err(refusal)) => format!("refused: {refusal}"),
            Err(failure) => format!("unknown: {failure}"),
        };
        let order = given.order;
        let was_done = matches!(answer, Ok(Ok(_)));
        let is_over = was_done
            || matches!(order, Order::TransferLeader { .. })
            || (matches!(order, Order::AddAgain { .. })
                && matches!(answer, Ok(Err(Refusal::Removed { .. }))));
        given.is_over = is_over;
        if was_done {
            book.done(order);
        }
        is_over
    }

    /// What the servers tell: a disk that was lost may be made up for by now.
    pub fn look(&self, looks: &[Look]) {
        let mut book = self.0.lock();
        book.is_founded |= looks.iter().any(|look| look.meta.raft_state == "leader");
        for (node, server) in book.servers.iter_mut().filter(|(_, server)| server.loss.is_some()) {
            let is_removed = looks.iter().any(|look| look.meta.removed.contains(node));
            let own = looks.iter().find(|look| look.host == server.host);
            if is_removed || (server.loss == Some(Loss::Wiped) && own.is_some_and(remembers)) {
                server.loss = None;
            }
        }
    }

    /// Hosts of operators whose orders are not over.
    pub fn operators(&self) -> Vec<HostId> {
        let book = self.0.lock();
        book.orders.iter().filter(|given| !given.is_over).filter_map(|given| given.operator).collect()
    }

    /// Orders that are not over, in words.
    pub fn open(&self) -> Vec<String> {
        let book = self.0.lock();
        book.orders.iter().filter(|given| !given.is_over).map(ToString::to_string).collect()
    }

    /// All orders, in words.
    pub fn orders(&self) -> Vec<String> {
        self.0.lock().orders.iter().map(ToString::to_string).collect()
    }

    /// What should not have been done.
    pub fn broken(&self) -> Vec<String> {
        self.0.lock().broken.clone()
    }
}

/// It remembers all that it ever promised, or has promised nothing.
fn remembers(look: &Look) -> bool {
    matches!(look.meta.raft_state.as_str(), "leader" | "follower" | "candidate" | "learner" | "stranger")
}

fn drawn(draw: u64, candidates: &[NodeId]) -> Option<NodeId> {
    let nth = draw.checked_rem(candidates.len() as u64)?;
    candidates.get(usize::try_from(nth).ok()?).copied()
}

impl Book {
    fn set(&mut self, node: NodeId, standing: Standing) {
        self.servers.get_mut(&node).unwrap().standing = standing;
    }

    /// Whether one disk more may be lost.
    fn may_lose(&self, node: NodeId) -> bool {
        let lost = |(other, server): &(&NodeId, &Server)| {
            **other != node && server.loss.is_some() && server.standing != Standing::Removed
        };
        let lost = self.servers.iter().filter(lost).count() + 1;
        lost <= (self.voters_min - 1) / 2
    }

    /// Whether a voter may go for good: nobody has asked for it before, it has its disk, and is not the last of those that everybody knows.
    fn may_go(&self, node: NodeId) -> bool {
        let stays = |node: &NodeId| {
            let server = &self.servers[node];
            server.standing == Standing::Voter && server.loss.is_none()
        };
        let founders = || self.servers.iter().filter(|(_, server)| server.host < META).map(|(node, _)| node);
        self.is_founded && stays(&node) && founders().any(|founder| *founder != node && stays(founder))
    }

    fn done(&mut self, order: Order) {
        match order {
            Order::Add { node, promote: false } => self.set(node, Standing::Learner),
            Order::Add { node, promote: true } | Order::Promote { node } => {
                self.set(node, Standing::Voter);
                self.voters_min += 1;
            }
            Order::Remove { node } => self.set(node, Standing::Removed),
            Order::Replace { old, new } => {
                self.set(old, Standing::Removed);
                self.set(new, Standing::Voter);
            }
            Order::AddAgain { node } => {
                self.broken.push(format!("server {node} was removed, and is a member again under its id"));
            }
            Order::TransferLeader { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pohmelfs::wire::members::MembersOutcome;

    /// Three voters and three that may come, while a leader is there.
    fn roll() -> Roll {
        let roll = Roll::new((1..=3).zip(0..).map(|(node, host)| (NodeId(node), host)));
        for (node, host) in (4..=6).zip(10..) {
            roll.newcomer(NodeId(node), host);
        }
        roll.0.lock().is_founded = true;
        roll
    }

    fn done(roll: &Roll, order: Order) {
        let number = roll.order(order);
        assert!(roll.answered(number, &Ok(Ok(MembersOutcome::Done))));
    }

    #[test]
    fn no_more_disks_are_lost_than_raft_can_do_without() {
        let roll = roll();
        assert_eq!(roll.lose(2, NodeId(4)), Some(NodeId(3)));
        assert_eq!(roll.lose(0, NodeId(5)), None, "two of three");
        assert!(!roll.may_wipe(0));
        let number = roll.order(Order::Replace { old: NodeId(3), new: NodeId(4) });
        assert!(!roll.may_wipe(0), "nobody knows whether it is done");
        assert!(!roll.answered(number, &Err("cut off".into())));
        assert!(!roll.may_wipe(0));
        assert!(roll.answered(number, &Ok(Ok(MembersOutcome::Already))));
        assert!(roll.may_wipe(0));
        roll.wiped(0);
        assert_eq!((roll.may_wipe(1), roll.lose(0, NodeId(5))), (false, None));
        done(&roll, Order::Add { node: NodeId(5), promote: true });
        done(&roll, Order::Add { node: NodeId(6), promote: true });
        assert!(roll.may_wipe(1), "two of five");
    }

    #[test]
    fn three_voters_stay_and_one_that_everybody_knows() {
        let roll = roll();
        assert_eq!(roll.superfluous(0), None);
        let number = roll.order(Order::Add { node: NodeId(4), promote: true });
        assert_eq!(roll.superfluous(0), None, "it may not have come");
        assert!(roll.answered(number, &Ok(Ok(MembersOutcome::Done))));
        let number = roll.order(Order::Remove { node: roll.superfluous(0).unwrap() });
        assert_eq!(roll.superfluous(0), None, "it may be gone");
        assert!(roll.answered(number, &Ok(Ok(MembersOutcome::Done))));
        done(&roll, Order::Replace { old: roll.replaceable(0).unwrap(), new: NodeId(5) });
        assert_eq!(roll.all(Standing::Removed), [1, 2].map(NodeId));
        for draw in 0..3 {
            assert_ne!(roll.replaceable(draw), Some(NodeId(3)));
        }
    }

    #[test]
    fn whoever_was_removed_must_be_refused() {
        let roll = roll();
        done(&roll, Order::Replace { old: NodeId(1), new: NodeId(4) });
        let again = Order::AddAgain { node: NodeId(1) };
        let number = roll.order(again);
        assert!(!roll.answered(number, &Ok(Err(Refusal::TooMany))));
        assert!(roll.answered(number, &Ok(Err(Refusal::Removed { node: NodeId(1) }))));
        assert_eq!(roll.broken(), Vec::<String>::new());
        done(&roll, again);
        assert_eq!(roll.broken().len(), 1);
    }
}
