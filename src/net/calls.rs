//! The calls in flight on one connection: a slot each, answered by the link, awaited by the caller.
//!
//! Holds: a slot has one caller, and is free again when that caller took its answer or went away; a late reply
//! finds another generation in the slot and is dropped; after [`Calls::close`] nobody waits.
//! Not here: time. Whoever sweeps passes the moment.

use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use crate::runtime::Instant;
use crate::wire::RpcError;

use super::Reply;

/// Answer to a call.
pub(super) type Answer = Result<Reply, RpcError>;

/// The slots. Request ids are `generation << 32 | index`.
#[derive(Debug, Default)]
pub(super) struct Calls {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    slots: Vec<Slot>,
    free: Vec<u32>,
    closed: bool,
    /// When the sweeper will look; None while it sleeps until told.
    armed: Option<Instant>,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    state: State,
    started: Instant,
    deadline: Instant,
    waker: Option<Waker>,
}

#[derive(Debug)]
enum State {
    Free,
    Waiting,
    Answered(Answer),
}

/// A call that was begun.
pub(super) struct Begun {
    /// Its request id.
    pub(super) id: u64,
    /// Its deadline is before the moment the sweeper is armed for: wake it.
    pub(super) arm: bool,
}

/// A call whose deadline has passed.
pub(super) struct Expired {
    /// Its request id.
    pub(super) id: u64,
    /// When it began.
    pub(super) started: Instant,
}

fn place(id: u64) -> u32 {
    (id & 0xffff_ffff) as u32
}

fn index(id: u64) -> usize {
    place(id) as usize
}

impl Table {
    /// The slot of a call that still waits.
    fn waiting(&mut self, id: u64) -> Option<&mut Slot> {
        let slot = self.slots.get_mut(index(id))?;
        let is_it = u64::from(slot.generation) == id >> 32 && matches!(slot.state, State::Waiting);
        is_it.then_some(slot)
    }
}

impl Calls {
    /// Takes a slot; None when closed.
    pub(super) fn begin(&self, started: Instant, deadline: Instant) -> Option<Begun> {
        let mut table = self.table.lock();
        if table.closed {
            return None;
        }
        let index = match table.free.pop() {
            Some(index) => index,
            None => {
                let index = u32::try_from(table.slots.len()).ok()?;
                table.slots.push(Slot { generation: 0, state: State::Free, started, deadline, waker: None });
                index
            }
        };
        let slot = &mut table.slots[index as usize];
        // Generation 0 is never used, so that no id is 0.
        slot.generation = slot.generation.wrapping_add(1).max(1);
        slot.state = State::Waiting;
        slot.started = started;
        slot.deadline = deadline;
        let id = u64::from(slot.generation) << 32 | u64::from(index);
        let arm = table.armed.is_none_or(|armed| deadline < armed);
        if arm {
            table.armed = Some(deadline);
        }
        Some(Begun { id, arm })
    }

    /// Answers many calls under one lock, then wakes their callers. Gives when the latest of them began. Answers
    /// to calls that nobody awaits any more are dropped.
    pub(super) fn answer(
        &self,
        answers: &mut Vec<(u64, Answer)>,
        wakers: &mut Vec<Waker>,
    ) -> Option<Instant> {
        let mut latest = None;
        {
            let mut table = self.table.lock();
            for (id, answer) in answers.drain(..) {
                if let Some(slot) = table.waiting(id) {
                    slot.state = State::Answered(answer);
                    latest = Some(slot.started);
                    wakers.extend(slot.waker.take());
                }
            }
        }
        wakers.drain(..).for_each(Waker::wake);
        latest
    }

    /// The answer to call `id`, once it is there.
    pub(super) fn poll(&self, id: u64, cx: &mut Context<'_>) -> Poll<Answer> {
        let mut table = self.table.lock();
        let slot = &mut table.slots[index(id)];
        match std::mem::replace(&mut slot.state, State::Waiting) {
            State::Answered(answer) => {
                slot.state = State::Free;
                table.free.push(place(id));
                Poll::Ready(answer)
            }
            State::Waiting => {
                if !slot.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                    slot.waker = Some(cx.waker().clone());
                }
                Poll::Pending
            }
            State::Free => unreachable!("call {id:#x} is polled after its end"),
        }
    }

    /// The caller of `id` went away before its answer was taken. True if the peer is still at it.
    pub(super) fn forget(&self, id: u64) -> bool {
        let mut table = self.table.lock();
        let slot = &mut table.slots[index(id)];
        let was_waiting = matches!(slot.state, State::Waiting);
        slot.state = State::Free;
        slot.waker = None;
        table.free.push(place(id));
        was_waiting
    }

    /// The calls whose deadline has passed, and when to look again (None: when a call begins).
    pub(super) fn sweep(&self, now: Instant) -> (Vec<Expired>, Option<Instant>) {
        let mut table = self.table.lock();
        let mut expired = Vec::new();
        let mut next: Option<Instant> = None;
        for (index, slot) in table.slots.iter().enumerate() {
            if !matches!(slot.state, State::Waiting) {
                continue;
            }
            if slot.deadline <= now {
                let id = u64::from(slot.generation) << 32 | index as u64;
                expired.push(Expired { id, started: slot.started });
            } else if next.is_none_or(|next| slot.deadline < next) {
                next = Some(slot.deadline);
            }
        }
        table.armed = next;
        (expired, next)
    }

    /// When the sweeper is to look next.
    pub(super) fn armed(&self) -> Option<Instant> {
        self.table.lock().armed
    }

    /// Calls without an answer yet, or with one not taken yet.
    pub(super) fn count(&self) -> usize {
        let table = self.table.lock();
        table.slots.len() - table.free.len()
    }

    /// Fails all that wait, and all that would begin.
    pub(super) fn close(&self, error: &RpcError) {
        let mut wakers = Vec::new();
        {
            let mut table = self.table.lock();
            table.closed = true;
            for slot in &mut table.slots {
                if matches!(slot.state, State::Waiting) {
                    slot.state = State::Answered(Err(error.clone()));
                    wakers.extend(slot.waker.take());
                }
            }
        }
        wakers.into_iter().for_each(Waker::wake);
    }
}
