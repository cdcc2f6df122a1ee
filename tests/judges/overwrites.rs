//! Whether reads of a file show what its writers wrote: records at places of their own choice, over each other.
//!
//! Uses the `FileLog` of `contents`. From each read follows which write came after which: what is seen was written after all that is
//! known to be there and is not seen. If a write must come before itself, no order of the writes gives what was read.
//! Holds: a line of a verdict is a broken promise, whatever the order of concurrent calls. A write is one publish: all of it is there
//! from one moment on.
//! Not here: that an order exists if nothing is found: between reads that overlap each other some slack is left.

use std::collections::{BTreeMap, BTreeSet};

use super::contents::{FileLog, Got, Put};
use super::records::record;

/// Shorter stretches may look alike by chance.
const TELLING_LEN: usize = 8;

/// More lines say nothing new.
const LINES_MAX: usize = 20;

/// A write must come before another one, which that read shows there; or none: for it was acknowledged before the other began.
type Befores = BTreeMap<(usize, usize), Option<(usize, u64, u64)>>;

/// What the reads show that no order of the writes gives, a line each. Zeros are right where nothing was acknowledged yet.
pub fn check_overwrites(log: &FileLog) -> Vec<String> {
    let mut lines = log.check_sizes();
    let puts = log.puts();
    let records: Vec<Vec<u8>> = puts.iter().map(|put| record(put.id, put.len)).collect();
    let mut befores = Befores::new();
    for (a, first) in puts.iter().enumerate() {
        for (b, second) in puts.iter().enumerate() {
            if first.returned.is_some_and(|returned| returned < second.invoked) {
                befores.insert((a, b), None);
            }
        }
    }
    // What each read showed, for those that begin after it.
    let mut shown: Vec<BTreeSet<usize>> = Vec::new();
    for (at, got) in log.gots().iter().enumerate() {
        let mut there: BTreeSet<usize> =
            (0..puts.len()).filter(|p| puts[*p].returned.is_some_and(|r| r < got.invoked)).collect();
        for (earlier, shown) in log.gots()[..at].iter().zip(&shown) {
            if earlier.returned < got.invoked {
                there.extend(shown);
            }
        }
        check_end(got, puts, &there, &mut lines);
        let seen = seen(got, puts, &records, &mut lines);
        there.extend(seen.iter().filter_map(|stretch| stretch.put));
        for Stretch { start, end, put } in &seen {
            for other in there.iter().filter(|p| Some(**p) != *put && covers(&puts[**p], *start, *end)) {
                match put {
                    Some(put) => {
                        befores.entry((*other, *put)).or_insert(Some((at, *start, *end)));
                    }
                    None => {
                        lines.push(format!("{got} shows a hole in {start}..{end}, where {} is", puts[*other]))
                    }
                }
            }
        }
        shown.push(seen.into_iter().filter_map(|stretch| stretch.put).collect());
    }
    if let Some(ring) = ring(puts.len(), &befores) {
        let step = |pair: &[usize]| {
            let why = match befores[&(pair[0], pair[1])] {
                None => "it was acknowledged before the other began".into(),
                Some((at, start, end)) => format!("{} shows the other in {start}..{end}", log.gots()[at]),
            };
            format!("\n  {} before {}: {why}", puts[pair[0]], puts[pair[1]])
        };
        let steps: String = ring.windows(2).map(step).collect();
        lines.push(format!("no order of the writes gives what was read:{steps}"));
    }
    lines.truncate(LINES_MAX);
    lines
}

/// A part of a read that one write has written; none: nobody has.
struct Stretch {
    start: u64,
    end: u64,
    put: Option<usize>,
}

fn place(put: &Put) -> (u64, u64) {
    let Some(start) = put.offset else { panic!("{} is appended: that is another check", put) };
    (start, start + put.len as u64)
}

fn covers(put: &Put, start: u64, end: u64) -> bool {
    let (from, to) = place(put);
    from <= start && end <= to
}

/// The file is at least as long as all that is there, and no longer than all that may be.
fn check_end(got: &Got, puts: &[Put], there: &BTreeSet<usize>, lines: &mut Vec<String>) {
    if let Some(last) = there.iter().map(|p| &puts[*p]).find(|put| place(put).1 > got.size_max()) {
        lines.push(format!("{got} ends at {}, and {last} was there", got.size_max()));
    }
    let begun = puts.iter().filter(|put| put.invoked < got.returned);
    let size_max = begun.map(|put| place(put).1).max().unwrap_or(0);
    if got.end() > size_max {
        lines.push(format!("{got} has bytes up to {}, and nobody wrote behind {size_max}", got.end()));
    }
}

/// Whose bytes a read shows, from border to border of all that was written there.
fn seen(got: &Got, puts: &[Put], records: &[Vec<u8>], lines: &mut Vec<String>) -> Vec<Stretch> {
    let (from, to) = (got.offset, got.end());
    let begun: Vec<usize> = (0..puts.len()).filter(|p| puts[*p].invoked < got.returned).collect();
    let mut borders: BTreeSet<u64> = [from, to].into();
    for put in &begun {
        let (start, end) = place(&puts[*put]);
        borders.extend([start, end].into_iter().filter(|border| from < *border && *border < to));
    }
    let borders: Vec<u64> = borders.into_iter().collect();
    let mut seen = Vec::new();
    for pair in borders.windows(2) {
        let (start, end) = (pair[0], pair[1]);
        let part = |bytes: &[u8], base: u64| -> Vec<u8> {
            let index = |at: u64| usize::try_from(at - base).unwrap_or(usize::MAX);
            bytes[index(start)..index(end)].to_vec()
        };
        let bytes = part(&got.bytes, from);
        let mut from_whom: Vec<Option<usize>> = begun
            .iter()
            .filter(|put| covers(&puts[**put], start, end))
            .filter(|put| part(&records[**put], place(&puts[**put]).0) == bytes)
            .map(|put| Some(*put))
            .collect();
        if bytes.iter().all(|byte| *byte == 0) {
            from_whom.push(None);
        }
        match from_whom.as_slice() {
            [] => lines
                .push(format!("{got} shows bytes in {start}..{end} that nobody wrote there in one piece")),
            [put] if bytes.len() >= TELLING_LEN => seen.push(Stretch { start, end, put: *put }),
            _ => {}
        }
    }
    seen
}

/// Writes each of which must come before the next, and the last one is the first one.
fn ring(count: usize, befores: &Befores) -> Option<Vec<usize>> {
    let mut after: Vec<Vec<usize>> = vec![Vec::new(); count];
    befores.keys().for_each(|(a, b)| after[*a].push(*b));
    // The shortest one is the easiest to read.
    let ring_of = |first: usize| {
        let mut from: BTreeMap<usize, usize> = BTreeMap::new();
        let mut next = std::collections::VecDeque::from([first]);
        while let Some(at) = next.pop_front() {
            for to in &after[at] {
                if *to == first {
                    let mut ring = vec![first, at];
                    while let Some(before) =
                        from.get(&ring[ring.len() - 1]).filter(|_| ring[ring.len() - 1] != first)
                    {
                        ring.push(*before);
                    }
                    ring.reverse();
                    return Some(ring);
                }
                if !from.contains_key(to) {
                    from.insert(*to, at);
                    next.push_back(*to);
                }
            }
        }
        None
    };
    // Whoever comes before nobody is in no ring: most files are done after this.
    let mut waits: Vec<usize> = vec![0; count];
    befores.keys().for_each(|(_, b)| waits[*b] += 1);
    let mut free: Vec<usize> = (0..count).filter(|put| waits[*put] == 0).collect();
    let mut left = count;
    while let Some(put) = free.pop() {
        left -= 1;
        for later in &after[put] {
            waits[*later] -= 1;
            if waits[*later] == 0 {
                free.push(*later);
            }
        }
    }
    if left == 0 {
        return None;
    }
    (0..count).filter(|put| waits[*put] > 0).filter_map(ring_of).min_by_key(Vec::len)
}

#[cfg(test)]
mod tests {
    use super::super::records::RecordId;
    use super::*;

    const LEN: usize = 100;

    /// A write of its own writer: at which offset, from when to when.
    fn put(log: &mut FileLog, writer: u32, offset: u64) -> impl FnOnce(&mut FileLog) + use<> {
        let id = log.put(RecordId { writer, sequence: 1 }, LEN, Some(offset), 0);
        move |log| log.put_done(id, 0)
    }

    fn of(writer: u32) -> Vec<u8> {
        record(RecordId { writer, sequence: 1 }, LEN)
    }

    fn read(log: &mut FileLog, bytes: Vec<u8>) {
        let reading = log.get(9, 0, 10_000, 0);
        log.get_done(reading, 0, bytes);
    }

    #[track_caller]
    fn says(log: &FileLog, what: &str) {
        let lines = check_overwrites(log);
        assert!(lines.iter().any(|line| line.contains(what)), "{what}: {lines:#?}");
    }

    #[track_caller]
    fn good(log: &FileLog) {
        assert_eq!(check_overwrites(log), Vec::<String>::new());
    }

    /// Two writes at the same time, over each other: 1 at 0, 2 at 50.
    fn two() -> FileLog {
        let mut log = FileLog::new();
        let one = put(&mut log, 1, 0);
        let two = put(&mut log, 2, 50);
        one(&mut log);
        two(&mut log);
        log
    }

    #[test]
    fn either_order_of_concurrent_writes_is_right() {
        for bytes in [[&of(1)[..50], &of(2)].concat(), [&of(1)[..], &of(2)[50..]].concat()] {
            let mut log = two();
            read(&mut log, bytes.clone());
            read(&mut log, bytes);
            good(&log);
        }
    }

    #[test]
    fn an_order_that_changes_its_mind_is_found() {
        let mut log = two();
        read(&mut log, [&of(1)[..50], &of(2)].concat());
        read(&mut log, [&of(1)[..], &of(2)[50..]].concat());
        says(&log, "no order of the writes gives what was read:\n  record 1:1");
    }

    #[test]
    fn a_stale_read_is_found() {
        let mut log = FileLog::new();
        put(&mut log, 1, 0)(&mut log);
        put(&mut log, 2, 0)(&mut log);
        let mut stale = log.clone();
        read(&mut log, of(2));
        good(&log);
        read(&mut stale, of(1));
        says(&stale, "it was acknowledged before the other began");
        // Nobody has heard of the second: until it was seen it need not be there, and then for ever.
        let mut log = FileLog::new();
        put(&mut log, 1, 0)(&mut log);
        let _unknown = put(&mut log, 2, 0);
        read(&mut log, of(1));
        read(&mut log, of(2));
        good(&log);
        read(&mut log, of(1));
        says(&log, "no order");
    }

    #[test]
    fn a_write_seen_in_part_is_found() {
        // The first half of 2 over 1, without its second half.
        let mut log = FileLog::new();
        put(&mut log, 1, 0)(&mut log);
        put(&mut log, 3, 100)(&mut log);
        let _under_way = put(&mut log, 2, 50);
        let mut whole = log.clone();
        read(&mut whole, [&of(1)[..50], &of(2), &of(3)[50..]].concat());
        good(&whole);
        let mut none = log.clone();
        read(&mut none, [of(1), of(3)].concat());
        good(&none);
        read(&mut log, [&of(1)[..50], &of(2)[..50], &of(3)].concat());
        says(&log, "no order of the writes");
        // Torn somewhere else than at a border.
        let mut torn = whole;
        read(&mut torn, [&of(1)[..50], &of(2)[..30], &of(1)[80..], &of(2)[50..], &of(3)[50..]].concat());
        says(&torn, "shows bytes in 50..100 that nobody wrote there in one piece");
    }

    #[test]
    fn holes_are_zeros_and_only_where_nobody_wrote() {
        let mut log = FileLog::new();
        put(&mut log, 1, 100)(&mut log);
        let mut bad = log.clone();
        read(&mut log, [vec![0; 100], of(1)].concat());
        good(&log);
        read(&mut bad, vec![0; 200]);
        says(&bad, "shows a hole in 100..200");
        let mut bad = log.clone();
        read(&mut bad, [vec![7; 100], of(1)].concat());
        says(&bad, "nobody wrote");
        read(&mut log, vec![0; 100]);
        says(&log, "ends at 100, and record 1:1");
        says(&log, "goes back");
    }

    #[test]
    fn nothing_is_there_before_it_is_written() {
        let mut log = FileLog::new();
        read(&mut log, of(1));
        put(&mut log, 1, 0)(&mut log);
        says(&log, "nobody wrote behind 0");
    }
}
