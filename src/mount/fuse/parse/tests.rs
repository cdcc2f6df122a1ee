//! Tests of the parser: every field where it belongs, and nothing that makes it panic.

use proptest::prelude::*;
use zerocopy::IntoBytes;

use super::*;

const LIMITS: Limits = Limits { io_len_max: 1 << 20, setxattr_ext: true };

fn header(opcode: u32) -> abi::InHeader {
    abi::InHeader { opcode, unique: 42, inode: 7, uid: 1, gid: 2, pid: 3, ..Default::default() }
}

fn parsed(opcode: u32, parts: &[&[u8]]) -> Result<Op, Errno> {
    parse(&header(opcode), parts.concat().into(), LIMITS).map(|(request, _)| request.op)
}

#[test]
fn fields_arrive_where_they_belong() {
    let args = abi::Rename2In { new_parent: 9, flags: 1, padding: 0 };
    assert_eq!(
        parsed(opcode::RENAME2, &[args.as_bytes(), b"old\0new\0"]),
        Ok(Op::Rename {
            name: Bytes::from_static(b"old"),
            new_parent: 9,
            new_name: Bytes::from_static(b"new"),
            flags: 1
        })
    );
    let args = abi::WriteIn { handle: 5, offset: 6, size: 3, write_flags: 5, ..Default::default() };
    let write = Op::Write {
        handle: 5,
        offset: 6,
        data: Bytes::from_static(b"abc"),
        flags: 0,
        from_cache: true,
        kill_suid_sgid: true,
        lock_owner: None,
    };
    assert_eq!(parsed(opcode::WRITE, &[args.as_bytes(), b"abc"]), Ok(write));
    let lock = abi::FileLock { start: 1, end: 2, kind: 1, pid: 8 };
    let args = abi::LockIn { handle: 5, owner: 6, lock, flags: 1, padding: 0 };
    let call = LockCall {
        handle: 5,
        owner: 6,
        flock: true,
        lock: Lock { start: 1, end: 2, kind: LockKind::Exclusive, pid: 8 },
    };
    assert_eq!(parsed(opcode::SETLKW, &[args.as_bytes()]), Ok(Op::SetlkWait(call)));
    let args = abi::SetattrIn {
        valid: set::MTIME | set::ATIME | set::ATIME_NOW | set::SIZE,
        mtime: u64::MAX,
        mtime_nanos: 5,
        size: 10,
        ..Default::default()
    };
    let change = SetAttr {
        size: Some(10),
        atime: Some(SetTime::Now),
        mtime: Some(SetTime::At(Timestamp::from_parts(-1, 5))),
        ..Default::default()
    };
    assert_eq!(parsed(opcode::SETATTR, &[args.as_bytes()]), Ok(Op::Setattr(change)));
}

#[test]
fn the_group_of_a_create_is_read_from_its_extension() {
    let args = abi::MkdirIn { mode: 0o755, umask: 0o22 };
    let group = [16u32, flag::EXTENSION_GROUPS, 1, 77];
    let mut header = header(opcode::MKDIR);
    header.extensions_len = 2;
    let body = [args.as_bytes(), b"d\0", group.as_bytes()].concat();
    let (request, expected) = parse(&header, body.into(), LIMITS).unwrap();
    assert_eq!(request.caller, Caller { uid: 1, gid: 2, pid: 3, groups: vec![77] });
    assert_eq!(expected, Expected::Entry);
}

#[test]
fn what_makes_no_sense_is_refused() {
    assert_eq!(parsed(opcode::LOOKUP, &[b"no end"]), Err(Errno::INVAL));
    assert_eq!(parsed(opcode::LOOKUP, &[b"\0"]), Err(Errno::INVAL));
    assert_eq!(parsed(opcode::LOOKUP, &[b"a/b\0"]), Err(Errno::INVAL));
    assert_eq!(parsed(opcode::LOOKUP, &[&[b'x'; 2000], b"\0"]), Err(Errno::NAMETOOLONG));
    assert_eq!(parsed(opcode::GETATTR, &[b"short"]), Err(Errno::INVAL));
    let long = abi::ReadIn { size: LIMITS.io_len_max + 1, ..Default::default() };
    assert_eq!(parsed(opcode::READ, &[long.as_bytes()]), Err(Errno::INVAL));
    let missing = abi::WriteIn { size: 4, ..Default::default() };
    assert_eq!(parsed(opcode::WRITE, &[missing.as_bytes(), b"abc"]), Err(Errno::INVAL));
    assert_eq!(parsed(opcode::IOCTL, &[]), Err(Errno::NOTTY));
    assert_eq!(parsed(9999, &[]), Err(Errno::NOSYS));
    let mut header = header(opcode::STATFS);
    header.extensions_len = 1;
    assert_eq!(parse(&header, Bytes::new(), LIMITS).map(drop), Err(Errno::INVAL));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(
        opcode in 0u32..60,
        extensions_len in prop_oneof![Just(0u16), any::<u16>()],
        body in prop::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 0..200),
        setxattr_ext: bool,
    ) {
        let mut header = header(opcode);
        header.extensions_len = extensions_len;
        let limits = Limits { setxattr_ext, ..LIMITS };
        if let Ok((request, _)) = parse(&header, body.into(), limits) {
            prop_assert_eq!(request.unique, 42);
        }
    }
}
