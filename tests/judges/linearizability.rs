//! Decides whether a history can be explained: by one order of its calls, in which each takes effect between its
//! invocation and its return and answers what the model answers.
//!
//! Wing & Gong's search with Lowe's memory of what has failed (Lowe, "Testing for linearizability", 2017). Calls are placed in the
//! order of their returns. Others that are under way, or were never answered, come before the one that must be next only
//! if they meet it (`footprint`): any order can be brought into this form, because calls that do not meet may change
//! places. What is learnt from a failure is whom it depended on, so that nothing else is tried again for it.
//!
//! ```text
//!  placed ......|  next: the call that returned first     pending: |-- invoked before next returned
//!               |  first alone, then after one pending call that meets it, then after two, ...
//! ```
//!
//! Holds: `NotLinearizable` is final, and so is `Linearizable`; neither depends on luck. `GaveUp` says nothing about the history.
//! Not here: what the model answers, how it looks (`explanation`).

use std::collections::{HashMap, HashSet, VecDeque};

use super::explanation::Explanation;
use super::footprint::{Footprint, Reason};
use super::history::{Call, History};
use super::model::Model;

/// Calls of the model after which a search gives up, unless it is told otherwise: some ten seconds in an optimised build, a
/// hundred times of what 2,000 calls of 8 clients take. What it remembers of failures stays below half a GB.
pub const WORK_MAX: u64 = 2_000_000;

/// What a search has found.
#[derive(Debug)]
pub enum Verdict {
    /// There is an order. `work`: how often the model was asked.
    Linearizable { work: u64 },
    /// There is none.
    NotLinearizable(Box<Explanation>),
    /// Nobody knows: a caller must take it for an error of the test. How far it came.
    GaveUp(Box<Explanation>),
}

impl Verdict {
    /// Panics with the explanation unless there is an order.
    pub fn expect_linearizable(&self) {
        match self {
            Self::Linearizable { .. } => {}
            Self::NotLinearizable(why) => panic!("the history is not linearizable\n{why}"),
            Self::GaveUp(why) => panic!("undecided after {} calls of the model\n{why}", why.work),
        }
    }
}

/// Searches for an order, from the state `start` on.
pub fn check(history: &History, start: &Model) -> Verdict {
    check_within(history, start, WORK_MAX)
}

/// The same with a bound on the calls of the model.
pub fn check_within(history: &History, start: &Model, work_max: u64) -> Verdict {
    Search::new(history.calls()).run(start, work_max)
}

/// The searches that are made one after the other: how many calls may be placed before the one that must be next, whether the
/// newest of them are tried first, and until which share of the work.
///
/// Where many calls about few names were never answered, hundreds of rows of them could come before each call. An order that
/// needs only short ones is found first; and a search that has taken a bad turn early is better begun anew in another way. That
/// there is no order is known only when all rows were tried.
const PASSES: [(usize, bool, u64); 6] =
    [(1, false, 64), (1, true, 32), (2, false, 16), (2, true, 8), (4, false, 4), (usize::MAX, false, 1)];

/// An empty root, prepared for the paths of this history.
pub fn empty_root(history: &History, mode: u32) -> Model {
    let by_identity = history.calls().iter().any(|call| {
        let (first, second) = call.op.paths();
        first.start.is_some() || second.is_some_and(|path| path.start.is_some())
    });
    Model::new(mode, by_identity)
}

struct Search<'a> {
    calls: &'a [Call],
    /// The calls that returned, by their return.
    order: Vec<usize>,
    /// For each of them, which may come before it though they return later or never; those that were answered first.
    pending: Vec<Vec<usize>>,
    /// A random number for each call: their sum stands for a set.
    marks: Vec<u64>,
    placed: Vec<bool>,
    path: Vec<usize>,
    /// Sets and states from which there is no way on, and why.
    failed: HashMap<(u64, u64), Reason>,
    work: u64,
    work_max: u64,
    /// So many calls may come before a next one.
    early_max: usize,
    newest_first: bool,
    /// More were left out.
    cut: bool,
    best: Option<Explanation>,
}

/// Everything before `position` is placed; the call there is next.
struct Frame {
    position: usize,
    state: Model,
    set: u64,
    reason: Reason,
    /// What has touched what on the way from the frame below.
    touched: Footprint,
    placed_before: usize,
    options: VecDeque<Step>,
    /// Calls that were placed tentatively before the next one, of one length.
    tried: Option<Vec<Step>>,
    seen: HashSet<(u64, u64)>,
}

/// Some calls in a row and where they lead.
#[derive(Clone)]
struct Step {
    calls: Vec<usize>,
    state: Model,
    touched: Footprint,
}

impl<'a> Search<'a> {
    fn new(calls: &'a [Call]) -> Self {
        let mut order: Vec<usize> = (0..calls.len()).filter(|i| calls[*i].returned().is_some()).collect();
        order.sort_by_key(|i| calls[*i].returned());
        // A read that nobody heard the answer of may as well not have been asked.
        let unknown: Vec<usize> =
            (0..calls.len()).filter(|i| calls[*i].returned().is_none() && !calls[*i].op.is_read()).collect();
        let pending = |at: usize| {
            let next = calls[order[at]].returned();
            let before = move |i: &usize| Some(calls[*i].invoked) < next;
            // A client has one call under way: after as many as there are clients nothing can overlap, but nobody promised.
            let answered = order[at + 1..].iter().copied().filter(before);
            answered.chain(unknown.iter().copied().filter(before)).collect()
        };
        let pending = (0..order.len()).map(pending).collect();
        let mut seed = 0;
        let marks = calls.iter().map(|_| splitmix64(&mut seed)).collect();
        Self {
            calls,
            order,
            pending,
            marks,
            placed: vec![false; calls.len()],
            path: Vec::new(),
            failed: HashMap::new(),
            work: 0,
            work_max: 0,
            early_max: 0,
            newest_first: false,
            cut: false,
            best: None,
        }
    }

    fn run(mut self, start: &Model, work_max: u64) -> Verdict {
        let mut gave_up = false;
        for (early_max, newest_first, share) in PASSES {
            (self.early_max, self.newest_first) = (early_max, newest_first);
            (self.work_max, self.cut) = (work_max / share, false);
            self.failed.clear();
            self.path.clear();
            self.placed.fill(false);
            match self.pass(start) {
                Some(true) => return Verdict::Linearizable { work: self.work },
                Some(false) if !self.cut => {
                    gave_up = false;
                    break;
                }
                Some(false) | None => gave_up = true,
            }
        }
        let Some(mut best) = self.best.take() else { panic!("a search failed and was nowhere") };
        best.work = self.work;
        if gave_up { Verdict::GaveUp(Box::new(best)) } else { Verdict::NotLinearizable(Box::new(best)) }
    }

    /// One search. None: the work was not enough.
    fn pass(&mut self, start: &Model) -> Option<bool> {
        let mut stack = vec![Frame::new(start.clone(), 0, Footprint::default(), 0)];
        while let Some(frame) = stack.last_mut() {
            if frame.position == self.order.len() {
                return Some(true);
            }
            if let Some(step) = frame.options.pop_front() {
                let set = step.calls.iter().fold(frame.set, |set, call| set.wrapping_add(self.marks[*call]));
                if let Some(reason) = self.failed.get(&(set, step.state.hash())) {
                    frame.learn(reason, &step.touched);
                    continue;
                }
                let mut next = Frame::new(step.state, set, step.touched, self.path.len());
                step.calls.iter().for_each(|call| self.placed[*call] = true);
                self.path.extend(step.calls);
                next.position = frame.position;
                while self.order.get(next.position).is_some_and(|call| self.placed[*call]) {
                    next.position += 1;
                }
                stack.push(next);
                continue;
            }
            if self.work > self.work_max {
                self.note(frame);
                return None;
            }
            if self.expand(frame) {
                continue;
            }
            self.note(frame);
            let Some(frame) = stack.pop() else { break };
            self.path.drain(frame.placed_before..).for_each(|call| self.placed[call] = false);
            if let Some(below) = stack.last_mut() {
                below.learn(&frame.reason, &frame.touched);
            }
            self.failed.insert((frame.set, frame.state.hash()), frame.reason);
        }
        Some(false)
    }

    /// Finds more ways on, with one more call before the next one than at the last time. False: there are none.
    fn expand(&mut self, frame: &mut Frame) -> bool {
        let next = self.order[frame.position];
        let Some(tried) = frame.tried.take() else {
            let alone = Step { calls: Vec::new(), state: frame.state.clone(), touched: Footprint::default() };
            self.close(frame, &alone, next);
            frame.seen.insert((0, frame.state.hash()));
            frame.tried = Some(vec![alone]);
            return true;
        };
        let mut longer = Vec::new();
        for step in &tried {
            let relatives = self.relatives(frame, step, next);
            if step.calls.len() == self.early_max {
                self.cut |= !relatives.is_empty();
                continue;
            }
            for call in relatives {
                if let Some(step) = self.extend(step, call)
                    && frame.seen.insert((self.set(&step.calls), step.state.hash()))
                {
                    self.close(frame, &step, next);
                    longer.push(step);
                }
            }
            if self.work > self.work_max {
                break;
            }
        }
        let more = !longer.is_empty();
        frame.tried = Some(longer);
        more
    }

    /// The calls under way that meet the next one, or one that meets it.
    fn relatives(&self, frame: &mut Frame, step: &Step, next: usize) -> Vec<usize> {
        let print = |call: &Call| step.state.footprint(&call.op, call.outcome());
        let mut family = print(&self.calls[next]);
        let free = |call: &usize| !self.placed[*call] && !step.calls.contains(call);
        let mut rest: Vec<(usize, Footprint)> = self.pending[frame.position]
            .iter()
            .copied()
            .filter(free)
            .map(|call| (call, print(&self.calls[call])))
            .collect();
        let mut relatives = Vec::new();
        loop {
            let (near, far): (Vec<_>, Vec<_>) = rest.into_iter().partition(|(_, p)| p.meets(&family));
            if near.is_empty() {
                break;
            }
            for (call, print) in near {
                family.extend(&print);
                relatives.push(call);
            }
            rest = far;
        }
        frame.reason.add(&family);
        if self.newest_first {
            relatives.sort_by_key(|call| std::cmp::Reverse(self.calls[*call].invoked));
        }
        relatives.sort_by_key(|call| self.calls[*call].returned().is_none());
        relatives
    }

    /// One call more before the next one; nothing if it cannot be there or makes no difference.
    fn extend(&mut self, step: &Step, call: usize) -> Option<Step> {
        let Call { op, .. } = &self.calls[call];
        let outcome = self.calls[call].outcome();
        self.work += 1;
        if outcome.is_some_and(|told| step.state.refuses(op, told)) {
            return None;
        }
        let mut longer = step.clone();
        match outcome {
            Some(outcome) => longer.state.accept(op, outcome).ok()?,
            None => {
                // It may have failed as well: then it changed nothing and need not be placed.
                longer.state.apply(op).ok()?;
                if longer.state.hash() == step.state.hash() {
                    return None;
                }
            }
        }
        longer.touched.extend(&step.state.footprint(op, outcome));
        longer.calls.push(call);
        Some(longer)
    }

    /// If the next call can follow here, that is a way on.
    fn close(&mut self, frame: &mut Frame, step: &Step, next: usize) {
        let call = &self.calls[next];
        let print = step.state.footprint(&call.op, call.outcome());
        frame.reason.add(&print);
        self.work += 1;
        if call.outcome().is_some_and(|told| step.state.refuses(&call.op, told)) {
            return;
        }
        let mut way = step.clone();
        if call.outcome().is_some_and(|told| way.state.accept(&call.op, told).is_ok()) {
            way.touched.extend(&print);
            way.calls.push(next);
            frame.options.push_back(way);
        }
    }

    fn set(&self, calls: &[usize]) -> u64 {
        calls.iter().fold(0, |set, call| set.wrapping_add(self.marks[*call]))
    }

    /// Remembers the frame that came furthest.
    fn note(&mut self, frame: &Frame) {
        if self.best.as_ref().is_none_or(|best| best.position < frame.position) {
            let next = self.order[frame.position];
            let pending = self.pending[frame.position].iter().copied().filter(|call| !self.placed[*call]);
            self.best = Some(Explanation::new(
                self.calls,
                frame.position,
                &self.path,
                next,
                pending.collect(),
                &frame.state,
            ));
        }
    }
}

impl Frame {
    fn new(state: Model, set: u64, touched: Footprint, placed_before: usize) -> Self {
        Self {
            position: 0,
            state,
            set,
            reason: Reason::default(),
            touched,
            placed_before,
            options: VecDeque::new(),
            tried: None,
            seen: HashSet::new(),
        }
    }

    /// A step led to a failure. If it touched nothing that the failure depended on, no other step from here can do better.
    fn learn(&mut self, reason: &Reason, touched: &Footprint) {
        if reason.meets(touched) {
            self.reason.extend(reason);
        } else {
            self.reason = reason.clone();
            self.options.clear();
            self.tried = Some(Vec::new());
        }
    }
}

/// Random enough, and the same everywhere (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014).
pub fn splitmix64(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::super::history::{Attr, Errno, Identity, Kind, Outcome, Path, Value};
    use super::super::stories::*;
    use super::*;

    fn judge(lines: Vec<Line>) -> Verdict {
        let history = story(lines);
        check(&history, &empty_root(&history, 0o755))
    }

    #[track_caller]
    fn good(lines: Vec<Line>) {
        judge(lines).expect_linearizable();
    }

    #[track_caller]
    fn bad(lines: Vec<Line>) -> Box<Explanation> {
        match judge(lines) {
            Verdict::NotLinearizable(why) => why,
            other => panic!("{other:?}"),
        }
    }

    fn file(size: u64) -> Outcome {
        Ok(Value::Attr(Attr { kind: Kind::File, nlink: 1, mode: 0o644, size, identity: None }))
    }

    fn was_there() -> Outcome {
        Ok(Value::Found { kind: Kind::File, identity: None })
    }

    #[test]
    fn calls_one_after_the_other() {
        good(vec![
            call(1, 0, 1, create("/a"), made()),
            call(1, 2, 3, append("/a", "x"), ok()),
            call(2, 4, 5, read("/a"), bytes("x")),
            call(2, 6, 7, stat("/a"), file(1)),
        ]);
    }

    #[test]
    fn calls_at_the_same_time_take_either_order() {
        for seen in ["xy", "yx"] {
            good(vec![
                call(1, 0, 1, create("/a"), made()),
                call(1, 2, 9, append("/a", "x"), ok()),
                call(2, 3, 8, append("/a", "y"), ok()),
                call(3, 10, 11, read("/a"), bytes(seen)),
            ]);
        }
    }

    #[test]
    fn a_stale_read_after_an_acknowledged_write() {
        let lines = |read_from| {
            vec![
                call(1, 0, 1, create("/a"), made()),
                call(1, 2, 3, write("/a", "old"), ok()),
                call(1, 4, 6, write("/a", "new"), ok()),
                call(2, read_from, 9, read("/a"), bytes("old")),
            ]
        };
        good(lines(5));
        let why = bad(lines(7));
        let text = why.to_string();
        assert_eq!((why.next, why.says.as_str()), (3, "\"new\""));
        assert!(text.contains("read /a => \"old\"") && text.contains("write /a = \"new\" => ok"), "{text}");
        assert!(text.contains("/a  File 0644 nlink 1 \"new\""), "{text}");
    }

    #[test]
    fn an_acknowledged_create_that_is_lost() {
        bad(vec![call(1, 0, 1, create("/a"), made()), call(2, 2, 3, stat("/a"), no(Errno::NotFound))]);
        bad(vec![call(1, 0, 1, create("/a"), made()), call(2, 2, 3, readdir("/"), names(&[]))]);
        bad(vec![call(1, 0, 1, create("/a"), made()), call(2, 2, 3, stat("/a"), no(Errno::Other(5)))]);
        bad(vec![call(1, 0, 1, create("/a"), made()), call(2, 2, 3, create("/a"), made())]);
    }

    #[test]
    fn a_create_that_took_effect_twice() {
        // The first one, sent again after another client has removed the file.
        bad(vec![
            call(1, 0, 9, create("/a"), made()),
            call(2, 1, 2, unlink("/a"), ok()),
            call(2, 3, 4, stat("/a"), no(Errno::NotFound)),
            call(2, 5, 6, stat("/a"), file(0)),
        ]);
        // Told of its own copy.
        bad(vec![call(1, 0, 1, create("/a"), no(Errno::Exists)), call(1, 2, 3, stat("/a"), file(0))]);
    }

    #[test]
    fn two_exclusive_creators_of_whom_both_win() {
        let both = |second| vec![call(1, 0, 5, create("/a"), made()), call(2, 1, 4, create("/a"), second)];
        good(both(no(Errno::Exists)));
        bad(both(made()));
    }

    #[test]
    fn a_rename_that_is_seen_half() {
        let during = |a: Outcome, b: Outcome| {
            vec![
                call(1, 0, 1, create("/a"), made()),
                call(1, 2, 9, rename("/a", "/b"), ok()),
                call(2, 3, 4, lookup("/a"), a),
                call(2, 5, 6, lookup("/b"), b),
            ]
        };
        good(during(was_there(), was_there()));
        good(during(was_there(), no(Errno::NotFound)));
        good(during(no(Errno::NotFound), was_there()));
        // In none of the two places.
        bad(during(no(Errno::NotFound), no(Errno::NotFound)));
        // In both.
        let listed = |seen: &[&str]| {
            vec![
                call(1, 0, 1, create("/a"), made()),
                call(1, 2, 9, rename("/a", "/b"), ok()),
                call(2, 3, 4, readdir("/"), names(seen)),
            ]
        };
        good(listed(&["b"]));
        bad(listed(&["a", "b"]));
        bad(listed(&[]));
    }

    #[test]
    fn an_append_doubled_lost_torn_or_reordered() {
        let seen = |seen| {
            vec![
                call(1, 0, 1, create("/a"), made()),
                call(1, 2, 3, append("/a", "one"), ok()),
                call(1, 4, 5, append("/a", "two"), ok()),
                call(2, 6, 7, read("/a"), bytes(seen)),
            ]
        };
        good(seen("onetwo"));
        for wrong in ["oneonetwo", "one", "two", "onetw", "twoone", ""] {
            bad(seen(wrong));
        }
    }

    #[test]
    fn reads_that_go_back_in_time() {
        let reads = |second| {
            vec![
                call(1, 0, 1, create("/a"), made()),
                call(1, 2, 9, write("/a", "new"), ok()),
                call(2, 3, 4, read("/a"), bytes("new")),
                call(3, 5, 6, read("/a"), bytes(second)),
            ]
        };
        good(reads("new"));
        bad(reads(""));
    }

    #[test]
    fn a_call_nobody_heard_of_may_have_been() {
        let after = |seen: &[&str]| vec![lost(1, 0, create("/a")), call(2, 5, 6, readdir("/"), names(seen))];
        good(after(&[]));
        good(after(&["a"]));
        bad(after(&["a", "b"]));
        // Late, but then for good.
        let twice = |first: &[&str], second: &[&str]| {
            vec![
                lost(1, 0, create("/a")),
                call(2, 5, 6, readdir("/"), names(first)),
                call(2, 7, 8, readdir("/"), names(second)),
            ]
        };
        good(twice(&[], &["a"]));
        bad(twice(&["a"], &[]));
    }

    #[test]
    fn two_lost_calls_of_which_one_needs_the_other() {
        let lines = |with_mkdir: bool| {
            let mut lines = vec![lost(2, 1, create("/d/f")), call(3, 5, 6, lookup("/d/f"), was_there())];
            if with_mkdir {
                lines.push(lost(1, 0, mkdir("/d")));
            }
            lines
        };
        good(lines(true));
        bad(lines(false));
    }

    #[test]
    fn an_identity_stays_with_its_node() {
        let found = |number| Ok(Value::Found { kind: Kind::File, identity: Some(Identity(number)) });
        let lines = |second| {
            vec![
                call(1, 0, 1, create("/a"), made()),
                call(1, 2, 3, lookup("/a"), found(7)),
                call(1, 4, 5, rename("/a", "/b"), ok()),
                call(1, 6, 7, chmod(Path::of(Identity(7)), 0o644), ok()),
                call(2, 8, 9, lookup("/b"), second),
            ]
        };
        good(lines(found(7)));
        bad(lines(found(8)));
    }

    #[test]
    fn a_search_gives_up_when_told_so() {
        let lines = vec![call(1, 0, 1, create("/a"), made()), call(1, 2, 3, stat("/a"), no(Errno::NotFound))];
        let history = story(lines);
        let verdict = check_within(&history, &empty_root(&history, 0o755), 1);
        let Verdict::GaveUp(why) = verdict else { panic!("{verdict:?}") };
        assert_eq!((why.placed, why.calls), (1, 2));
    }
}
