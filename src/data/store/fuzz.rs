//! Files of a data server as a fuzzer writes them. See `crate::fuzz`.

use super::StoredBlock;
use super::format::{Head, block_name, checksums, parse_name, reseal};
use super::identity::{self, Member, Record};
use crate::types::{BlockId, ClusterId, NodeId, SessionId, codec};

/// Bytes as the head of a block, as they are and with their checksum set right; and as the name of its file.
pub(crate) fn block(input: &[u8]) {
    if let Ok(name) = std::str::from_utf8(input)
        && let Some(block) = parse_name(name)
    {
        assert_eq!(block_name(&block), name, "one block has one name");
    }
    let (sealed, claimed) = reseal(input);
    drop(Head::decode(input, &claimed));
    if let Ok(head) = Head::decode(&sealed, &claimed) {
        let again = Head::decode(&head.encode(), &claimed);
        assert_eq!(again.ok(), Some(head), "what was decoded can be encoded");
    }
}

/// Bytes as an identity file, as they are, and as the record in a whole one of either version.
pub(crate) fn identity(input: &[u8]) {
    drop(identity::decode(input));
    for version in 1..=2 {
        let Some(sealed) = identity::seal(version, input) else { return };
        if let Ok(record) = identity::decode(&sealed) {
            let sealed = record.encode().expect("what was decoded can be encoded");
            assert_eq!(identity::decode(&sealed), Ok(record));
        }
    }
}

/// Valid inputs of [`block`].
pub(crate) fn block_seeds() -> Vec<Vec<u8>> {
    let make = |len: u32| {
        let data = vec![7; len as usize];
        let (sectors, checksum) = checksums(&data);
        let block = StoredBlock { id: BlockId { session: SessionId(42), index: 7 }, len, checksum };
        [Head { block, sectors }.encode().to_vec(), block_name(&block).into_bytes()]
    };
    [1, 70_000, 4 << 20].into_iter().flat_map(make).collect()
}

/// Valid inputs of [`identity`].
pub(crate) fn identity_seeds() -> Vec<Vec<u8>> {
    let member = Member { directory: 5, path: "/srv/blocks".into() };
    let record = Record {
        cluster: Some(ClusterId(9)),
        node: NodeId(3),
        directory: 5,
        members: vec![member],
        formerly: Vec::new(),
    };
    let moved = record.moved(ClusterId(10));
    let bodies = [codec::encode(&record), codec::encode(&(&moved, &moved.formerly))];
    let files = [record.encode(), moved.encode()];
    bodies.into_iter().flatten().chain(files.into_iter().flatten()).collect()
}
