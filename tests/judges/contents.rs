//! Whether reads of a file show what its writers wrote: files of which each byte was written once, by appending.
//!
//! Clients of a simulation note in a `FileLog` the records (`records`) they put into one file and the bytes they got out of it.
//! `check_appends` is for files that are only appended to; for writes to places see `overwrites`, which uses the same log.
//! Holds: a line of a verdict is a broken promise, whatever the order of concurrent calls. What was never answered may be there or not.
//! Not here: truncates, removals and names: see `linearizability`.
//!
//! The last read must be from the beginning to the end, after all appends: a record that nobody reads is not looked for.

use std::collections::BTreeMap;
use std::fmt;

use super::history::Moment;
use super::records::{RecordId, next_magic, recognise};

/// A record that was put into the file.
#[derive(Clone, Debug)]
pub struct Put {
    pub id: RecordId,
    pub len: usize,
    /// None: behind the last byte.
    pub offset: Option<u64>,
    pub invoked: Moment,
    /// None: nobody knows whether it was done.
    pub returned: Option<Moment>,
}

/// Bytes that were got out of the file, as they were at one moment: one question for extents, not several.
#[derive(Clone, Debug)]
pub struct Got {
    pub reader: u32,
    pub offset: u64,
    /// How many bytes it wanted; fewer means that the file ended there.
    pub asked: usize,
    pub bytes: Vec<u8>,
    pub invoked: Moment,
    pub returned: Moment,
}

impl Got {
    /// Behind the last byte it has shown.
    pub fn end(&self) -> u64 {
        if self.bytes.is_empty() { 0 } else { self.offset + self.bytes.len() as u64 }
    }

    /// It saw the end of the file.
    pub fn saw_end(&self) -> bool {
        self.bytes.len() < self.asked
    }

    /// The file was no longer than this.
    pub fn size_max(&self) -> u64 {
        if self.saw_end() { self.offset + self.bytes.len() as u64 } else { u64::MAX }
    }
}

/// Names a put of one log.
#[derive(Clone, Copy, Debug)]
pub struct PutId(usize);

/// A read that has begun.
#[derive(Debug)]
pub struct Reading {
    reader: u32,
    offset: u64,
    asked: usize,
    invoked: Moment,
}

/// All that was put into one file and got out of it.
#[derive(Clone, Debug, Default)]
pub struct FileLog {
    puts: Vec<Put>,
    gots: Vec<Got>,
    order: u64,
}

impl FileLog {
    /// A file that is empty.
    pub fn new() -> Self {
        Self::default()
    }

    /// A writer begins to put a record there. Until it is `put_done` nobody knows whether it was.
    pub fn put(&mut self, id: RecordId, len: usize, offset: Option<u64>, ns: u64) -> PutId {
        let invoked = self.moment(ns);
        self.puts.push(Put { id, len, offset, invoked, returned: None });
        PutId(self.puts.len() - 1)
    }

    /// The record was acknowledged.
    pub fn put_done(&mut self, put: PutId, ns: u64) {
        let at = self.moment(ns);
        self.puts[put.0].returned = Some(at);
    }

    /// A reader begins to read.
    pub fn get(&mut self, reader: u32, offset: u64, asked: usize, ns: u64) -> Reading {
        let invoked = self.moment(ns);
        Reading { reader, offset, asked, invoked }
    }

    /// It has got these bytes. A read that failed need not be told.
    pub fn get_done(&mut self, reading: Reading, ns: u64, bytes: Vec<u8>) {
        let returned = self.moment(ns);
        let Reading { reader, offset, asked, invoked } = reading;
        self.gots.push(Got { reader, offset, asked, bytes, invoked, returned });
    }

    /// All records, in the order in which their puts began.
    pub fn puts(&self) -> &[Put] {
        &self.puts
    }

    /// All reads, in the order in which they returned.
    pub fn gots(&self) -> &[Got] {
        &self.gots
    }

    fn moment(&mut self, ns: u64) -> Moment {
        self.order += 1;
        Moment { ns, order: self.order }
    }

    /// Sizes that go back, and bytes beyond what was asked for.
    pub fn check_sizes(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (at, got) in self.gots.iter().enumerate() {
            if got.bytes.len() > got.asked {
                lines.push(format!("{got} has got {} bytes", got.bytes.len()));
            }
            let earlier = self.gots[..at].iter().filter(|earlier| earlier.returned < got.invoked);
            if let Some(longest) = earlier.max_by_key(|earlier| earlier.end())
                && longest.end() > got.size_max()
            {
                let (was, is) = (longest.end(), got.size_max());
                lines.push(format!(
                    "{got} goes back: the file ends at {is}, and had {was} bytes for {longest}"
                ));
            }
        }
        lines
    }
}

impl fmt::Display for Put {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "record {} of {} bytes", self.id, self.len)?;
        if let Some(offset) = self.offset {
            write!(f, " at {offset}")?;
        }
        match self.returned {
            Some(returned) => write!(f, " ({}..{returned})", self.invoked),
            None => write!(f, " ({}.., unknown)", self.invoked),
        }
    }
}

impl fmt::Display for Got {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, to) = (self.offset, self.offset + self.asked as u64);
        write!(f, "the read of {from}..{to} by {} ({}..{})", self.reader, self.invoked, self.returned)
    }
}

/// Where a record is in the file.
struct Place<'a> {
    put: &'a Put,
    start: u64,
    end: u64,
}

/// What the reads show that no order of the appends gives, a line each.
pub fn check_appends(log: &FileLog) -> Vec<String> {
    let mut lines = log.check_sizes();
    let content = match joined(&log.gots) {
        Ok(content) => content,
        Err(line) => {
            lines.push(line);
            return lines;
        }
    };
    let places = places(log, &content, &mut lines);
    check_order(&places, &mut lines);
    let by_id: BTreeMap<RecordId, &Place<'_>> = places.iter().map(|place| (place.put.id, place)).collect();
    for put in log.puts.iter().filter(|put| put.returned.is_some()) {
        let place = by_id.get(&put.id);
        // The first read that should have shown it and did not tells most.
        let misses = |got: &&Got| {
            put.returned < Some(got.invoked) && got.size_max() < place.map_or(u64::MAX, |place| place.end)
        };
        match (log.gots.iter().find(misses), place) {
            (Some(got), _) => lines.push(format!("{put} was acknowledged, and {got} does not show it")),
            (None, None) => {
                lines.push(format!("{put} was acknowledged, and nobody read to the end after that"))
            }
            (None, Some(_)) => {}
        }
    }
    for got in &log.gots {
        let inside = |place: &&Place<'_>| place.start < got.size_max() && got.size_max() < place.end;
        if got.saw_end()
            && !got.bytes.is_empty()
            && let Some(torn) = places.iter().find(inside)
        {
            lines.push(format!("{got} ends at {}, in the middle of {}", got.size_max(), torn.put));
        }
        let early = |place: &&Place<'_>| {
            place.start < got.end() && place.end > got.offset && got.returned < place.put.invoked
        };
        if let Some(early) = places.iter().find(early) {
            lines.push(format!("{got} shows {} before it was written", early.put));
        }
    }
    lines
}

/// All bytes that were ever seen; an error if two reads differ, for bytes of such a file never change.
fn joined(gots: &[Got]) -> Result<Vec<u8>, String> {
    let mut content: Vec<u8> = Vec::new();
    let mut sorted: Vec<&Got> = gots.iter().filter(|got| !got.bytes.is_empty()).collect();
    sorted.sort_by_key(|got| got.offset);
    for got in sorted {
        let start = usize::try_from(got.offset).unwrap_or(usize::MAX);
        if start > content.len() {
            return Err(format!("nobody has read the bytes {}..{start}", content.len()));
        }
        let known = content.len().min(start + got.bytes.len());
        if let Some(at) = (start..known).find(|at| content[*at] != got.bytes[at - start]) {
            let other = gots.iter().find(|g| {
                let inside = usize::try_from(g.offset).is_ok_and(|o| o <= at && at < o + g.bytes.len());
                inside && !std::ptr::eq(*g, got)
            });
            let other = other.map(Got::to_string).unwrap_or_default();
            return Err(format!("byte {at} is not the same in {got} and in {other}"));
        }
        content.extend(&got.bytes[known - start..]);
    }
    Ok(content)
}

/// Which records the file is made of, from the front to the back.
fn places<'a>(log: &'a FileLog, content: &[u8], lines: &mut Vec<String>) -> Vec<Place<'a>> {
    let puts: BTreeMap<RecordId, &Put> = log.puts.iter().map(|put| (put.id, put)).collect();
    let mut places: Vec<Place<'_>> = Vec::new();
    let mut seen: BTreeMap<RecordId, usize> = BTreeMap::new();
    let mut at = 0;
    while at < content.len() {
        match recognise(&content[at..]) {
            Ok((id, len)) => {
                match (puts.get(&id), seen.insert(id, at)) {
                    (_, Some(first)) => {
                        lines.push(format!("record {id} is there twice, at {first} and at {at}"))
                    }
                    (Some(put), None) if put.len == len => {
                        places.push(Place { put, start: at as u64, end: (at + len) as u64 });
                    }
                    _ => lines.push(format!("nobody wrote record {id} of {len} bytes, which is at {at}")),
                }
                at += len;
            }
            Err(why) => {
                let end = next_magic(content, at + 1);
                lines.push(format!("the bytes {at}..{end} are no whole record: {why}"));
                at = end;
            }
        }
    }
    places
}

/// A record that was acknowledged before another was begun is in front of it: those of one writer, and of different ones.
fn check_order(places: &[Place<'_>], lines: &mut Vec<String>) {
    let mut latest: Option<&Put> = None;
    for Place { put, .. } in places {
        if let Some(latest) = latest
            && put.returned.is_some_and(|returned| returned < latest.invoked)
        {
            lines.push(format!("{put} is behind {latest}, which was begun after it was acknowledged"));
        }
        if latest.is_none_or(|latest| latest.invoked < put.invoked) {
            latest = Some(put);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::records::record;
    use super::*;

    const LEN: usize = 100;

    fn id(writer: u32, sequence: u32) -> RecordId {
        RecordId { writer, sequence }
    }

    fn bytes(ids: &[(u32, u32)]) -> Vec<u8> {
        ids.iter().flat_map(|(writer, sequence)| record(id(*writer, *sequence), LEN)).collect()
    }

    /// Writer 1 appends two records, then writer 2 two, of which the last one is never answered.
    fn written() -> FileLog {
        let mut log = FileLog::new();
        for (ns, (writer, sequence)) in [(1, 1), (1, 2), (2, 1), (2, 2)].into_iter().enumerate() {
            let put = log.put(id(writer, sequence), LEN, None, ns as u64);
            if (writer, sequence) != (2, 2) {
                log.put_done(put, ns as u64);
            }
        }
        log
    }

    fn read(log: &mut FileLog, bytes: Vec<u8>) {
        let reading = log.get(9, 0, 1 << 20, 50);
        log.get_done(reading, 60, bytes);
    }

    fn verdict(bytes: Vec<u8>) -> Vec<String> {
        let mut log = written();
        read(&mut log, bytes);
        check_appends(&log)
    }

    #[track_caller]
    fn says(lines: &[String], what: &str) {
        assert!(lines.iter().any(|line| line.contains(what)), "{what}: {lines:#?}");
    }

    #[test]
    fn what_is_right_is_accepted() {
        assert_eq!(verdict(bytes(&[(1, 1), (1, 2), (2, 1)])), Vec::<String>::new());
        assert_eq!(verdict(bytes(&[(1, 1), (1, 2), (2, 1), (2, 2)])), Vec::<String>::new());
        // What was never answered may have been done before others.
        let mut log = FileLog::new();
        log.put(id(1, 1), LEN, None, 0);
        let put = log.put(id(2, 1), LEN, None, 1);
        log.put_done(put, 2);
        for order in [&[(1, 1), (2, 1)], &[(2, 1), (1, 1)]] {
            let mut log = log.clone();
            read(&mut log, bytes(order));
            assert_eq!(check_appends(&log), Vec::<String>::new());
        }
    }

    #[test]
    fn what_is_wrong_is_found() {
        says(
            &verdict(bytes(&[(1, 1), (1, 2), (1, 2), (2, 1)])),
            "record 1:2 is there twice, at 100 and at 200",
        );
        says(
            &verdict(bytes(&[(1, 1), (2, 1)])),
            "record 1:2 of 100 bytes (0.000001ms/3..0.000001ms/4) was acknowledged",
        );
        says(&verdict(vec![]), "does not show it");
        says(&verdict(bytes(&[(1, 2), (1, 1), (2, 1)])), "record 1:1");
        says(&verdict(bytes(&[(2, 1), (1, 1), (1, 2)])), "is behind record 2:1");
        says(&verdict(bytes(&[(1, 1), (1, 2), (2, 1), (7, 1)])), "nobody wrote record 7:1");
        let whole = bytes(&[(1, 1), (1, 2), (2, 1)]);
        says(&verdict(whole[..250].to_vec()), "ends at its byte 50");
        says(&verdict([whole.clone(), vec![0; 40]].concat()), "bytes 300..340 are no whole record");
        let mut damaged = whole.clone();
        damaged[130] ^= 1;
        says(&verdict(damaged), "bytes 100..200 are no whole record: record 1:2 of 100 bytes differs");
        // A part is overwritten by another append at the same offset.
        let torn = [&whole[..150], &whole[200..]].concat();
        says(&verdict(torn), "no whole record");
    }

    #[test]
    fn a_read_that_misses_what_was_acknowledged_or_goes_back() {
        let mut log = written();
        read(&mut log, bytes(&[(1, 1), (1, 2), (2, 1)]));
        read(&mut log, bytes(&[(1, 1), (1, 2)]));
        says(&check_appends(&log), "goes back: the file ends at 200, and had 300 bytes");
        says(&check_appends(&log), "record 2:1 of 100 bytes");
        let mut log = written();
        read(&mut log, bytes(&[(1, 1), (1, 2), (2, 1), (2, 2)]));
        read(&mut log, bytes(&[(1, 1), (1, 2), (2, 1)]));
        let lines = check_appends(&log);
        assert_eq!(lines.len(), 1, "{lines:?}");
        says(&lines, "goes back");
    }

    #[test]
    fn reads_of_parts_count_too() {
        let whole = bytes(&[(1, 1), (1, 2), (2, 1)]);
        let mut log = written();
        for (offset, asked) in [(0, 150), (120, 100), (200, 1000), (500, 10)] {
            let reading = log.get(9, offset as u64, asked, 50);
            log.get_done(reading, 51, whole.iter().skip(offset).take(asked).copied().collect());
        }
        assert_eq!(check_appends(&log), Vec::<String>::new());
        let reading = log.get(9, 120, 130, 52);
        log.get_done(reading, 53, whole[120..180].to_vec());
        says(&check_appends(&log), "ends at 180, in the middle of record 1:2");
        let reading = log.get(9, 0, 10, 54);
        log.get_done(reading, 55, vec![0; 10]);
        says(&check_appends(&log), "byte 0 is not the same");
        let mut log = written();
        let reading = log.get(9, 200, 1000, 50);
        log.get_done(reading, 51, whole[200..].to_vec());
        says(&check_appends(&log), "nobody has read the bytes 0..200");
    }

    #[test]
    fn nothing_is_seen_before_it_is_written() {
        let mut log = FileLog::new();
        read(&mut log, bytes(&[(1, 1)]));
        let put = log.put(id(1, 1), LEN, None, 70);
        says(&check_appends(&log), "before it was written");
        log.put_done(put, 80);
        says(&check_appends(&log), "before it was written");
    }

    #[test]
    fn an_append_that_nobody_could_see_is_said() {
        says(&check_appends(&written()), "nobody read to the end after that");
    }
}
