//! An identity never names two nodes: numbers of inodes are not used again, and a node does not change its kind.
//!
//! A check beside `linearizability`, which knows an identity only as long as its node lives.
//! Holds: what it says needs no search; each line names the two calls that contradict each other.
//! Not here: whether a path should have led to that node.

use std::collections::HashMap;

use super::history::{Call, History, Identity, Kind, Op, Value};

/// What contradicts itself, a line each.
pub fn contradictions(history: &History) -> Vec<String> {
    let mut lines = Vec::new();
    let mut makers: HashMap<Identity, &Call> = HashMap::new();
    let mut kinds: HashMap<Identity, (Kind, &Call)> = HashMap::new();
    let told = || {
        history.calls().iter().filter_map(|call| match call.outcome() {
            Some(Ok(value)) => value.identity().map(|identity| (call, value, identity)),
            _ => None,
        })
    };
    let mut say = |what: &str, Identity(number): Identity, a: &Call, b: &Call| {
        lines.push(format!("#{number} {what}:\n  {a}\n  {b}"));
    };
    for (call, value, identity) in told() {
        if matches!(value, Value::Made { created: true, .. })
            && let Some(other) = makers.insert(identity, call)
        {
            say("was made twice", identity, other, call);
        }
        if let Some(kind) = kind(&call.op, value) {
            let (before, other) = *kinds.entry(identity).or_insert((kind, call));
            if before != kind {
                say("is of two kinds", identity, other, call);
            }
        }
    }
    for (call, _, identity) in told() {
        if let Some(maker) = makers.get(&identity)
            && call.returned() < Some(maker.invoked)
        {
            say("was seen before it was made", identity, call, maker);
        }
    }
    lines
}

/// What the node is, as far as this call says.
fn kind(op: &Op, value: &Value) -> Option<Kind> {
    match (op, value) {
        (_, Value::Found { kind, .. }) => Some(*kind),
        (_, Value::Attr(attr)) => Some(attr.kind),
        (Op::Mkdir { .. }, _) => Some(Kind::Dir),
        (Op::Symlink { .. }, _) => Some(Kind::Symlink),
        (Op::Create { .. }, Value::Made { created: true, .. }) => Some(Kind::File),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::history::Outcome;
    use super::super::stories::{call, create, lookup, mkdir, story};
    use super::*;

    fn made(number: u64) -> Outcome {
        Ok(Value::Made { created: true, identity: Some(Identity(number)) })
    }

    fn found(kind: Kind, number: u64) -> Outcome {
        Ok(Value::Found { kind, identity: Some(Identity(number)) })
    }

    #[test]
    fn one_identity_for_each_node_is_right() {
        let history = story(vec![
            call(1, 0, 5, create("/a"), made(1)),
            call(2, 1, 4, lookup("/a"), found(Kind::File, 1)),
            call(2, 6, 7, mkdir("/d"), made(2)),
            call(2, 8, 9, lookup("/d"), found(Kind::Dir, 2)),
        ]);
        assert_eq!(contradictions(&history), Vec::<String>::new());
    }

    #[test]
    fn an_identity_for_two_nodes_is_found() {
        for (second, what) in [
            (call(2, 6, 7, create("/b"), made(1)), "made twice"),
            (call(2, 6, 7, mkdir("/b"), made(1)), "two kinds"),
            (call(2, 6, 7, lookup("/a"), found(Kind::Dir, 1)), "two kinds"),
            (call(2, 0, 1, lookup("/a"), found(Kind::File, 1)), "before it was made"),
        ] {
            let history = story(vec![call(1, 2, 5, create("/a"), made(1)), second]);
            let lines = contradictions(&history);
            assert!(lines.iter().any(|line| line.contains(what)), "{what}: {lines:?}");
        }
    }
}
