//! What a siege came to, for people and for `scripts/results`: lines that begin with `SIEGE`, their fields between bars.

use super::run::{Plan, Verdict};

/// A run that is shorter says nothing about memory: its processes still fill what they work with.
const MEMORY_SECS_MIN: u64 = 20 * 60;
/// Events that led to what was broken.
const EVENTS_SHOWN: usize = 60;

fn mib(bytes: u64) -> u64 {
    bytes >> 20
}

/// Prints it.
pub fn print(plan: &Plan, verdict: &Verdict) {
    let broken = broken(verdict);
    if !broken.is_empty() {
        println!("the last of what happened, with seconds since the begin:");
        for (at, what) in verdict.events.iter().rev().take(EVENTS_SHOWN).rev() {
            println!("{at:>9.3} s  {what}");
        }
        broken.iter().for_each(|line| println!("BROKEN {line}"));
    }
    for (kind, whom, count) in &verdict.faults {
        println!("SIEGE-FAULT|{kind}|{whom}|{count}");
    }
    for memory in &verdict.memory {
        let shown = |bytes: Option<u64>| bytes.map_or("-".into(), |bytes| mib(bytes).to_string());
        println!(
            "SIEGE-MEMORY|{}|{}|{}|{}|{}|{}",
            memory.role,
            shown(memory.second),
            shown(memory.last),
            shown(memory.allowed()),
            mib(memory.most),
            memory.samples
        );
    }
    let faults: u64 = verdict.faults.iter().map(|(_, _, count)| count).sum();
    let pairs: [(&str, String); 17] = [
        ("seed", plan.seed.to_string()),
        ("seconds", verdict.took.as_secs().to_string()),
        ("windows", verdict.windows.to_string()),
        ("faults", faults.to_string()),
        ("servers that gave up and were started again", verdict.gave_up.to_string()),
        ("clients killed", verdict.killed_clients.to_string()),
        ("calls in histories", verdict.calls.to_string()),
        ("of which nobody knows the outcome", verdict.unknown.to_string()),
        ("records put into files", verdict.records.to_string()),
        ("reads of them", verdict.reads.to_string()),
        ("calls of the load beside, acknowledged", verdict.acked.to_string()),
        ("of which failed", verdict.failed.to_string()),
        ("files compared", verdict.compared.to_string()),
        ("kept files read at the end", verdict.kept.to_string()),
        ("blocks and good replicas at the end", format!("{} and {}", verdict.blocks, verdict.replicas)),
        ("looks at metadata servers", verdict.looks.to_string()),
        ("promises broken", broken.len().to_string()),
    ];
    for (what, value) in pairs {
        println!("SIEGE|{what}|{value}");
    }
}

/// Everything that is not as promised, memory too.
pub fn broken(verdict: &Verdict) -> Vec<String> {
    let mut lines = verdict.broken.clone();
    if verdict.took.as_secs() >= MEMORY_SECS_MIN {
        for memory in verdict.memory.iter().filter(|memory| memory.is_flat() != Some(true)) {
            lines.push(format!("memory of the {} servers is not flat: {memory:?}", memory.role));
        }
    }
    if verdict.calls == 0 || verdict.acked == 0 {
        lines.push("nothing was done, so nothing was proved".into());
    }
    lines
}
