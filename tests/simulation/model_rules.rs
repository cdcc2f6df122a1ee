//! The rules of the model as stories: what each call answers after those before it.
//!
//! The same rules are in `tests/golden`, where the cluster's own namespace answers.

use super::history::{Errno, Identity, Kind, Op, Path, RenameFlag, Shown, Value};
use super::model::Model;
use super::stories::*;

fn empty() -> Model {
    Model::new(0o755, false)
}

fn run(model: &mut Model, script: &[(Op, &str)]) {
    for (op, expected) in script {
        let answer = model.apply(op);
        assert_eq!(Shown(&answer).to_string(), *expected, "{op}\n{model}");
    }
}

#[test]
fn names_are_made_and_removed() {
    run(
        &mut empty(),
        &[
            (create("/a"), "made"),
            (create("/a"), "Exists"),
            (Op::Create { path: "/a".into(), exclusive: false, mode: 0 }, "was there"),
            (mkdir("/d"), "made"),
            (mkdir("/d"), "Exists"),
            (Op::Create { path: "/d".into(), exclusive: false, mode: 0 }, "IsDir"),
            (stat("/"), "Dir 0755 nlink 3 size 2"),
            (create("/d/x"), "made"),
            (create("/a/x"), "NotDir"),
            (create("/none/x"), "NotFound"),
            (unlink("/d"), "IsDir"),
            (rmdir("/d"), "NotEmpty"),
            (rmdir("/a"), "NotDir"),
            (unlink("/d/x"), "ok"),
            (rmdir("/d"), "ok"),
            (readdir("/"), "[a]"),
            (readdir("/a"), "NotDir"),
            (unlink("/a"), "ok"),
            (unlink("/a"), "NotFound"),
            (stat("/"), "Dir 0755 nlink 2 size 0"),
        ],
    );
}

#[test]
fn renames_follow_the_rules() {
    use RenameFlag::{Exchange, NoReplace};
    run(
        &mut empty(),
        &[
            (mkdir("/a"), "made"),
            (mkdir("/a/sub"), "made"),
            (mkdir("/b"), "made"),
            (rename("/a", "/a/sub/x"), "Invalid"),
            (rename("/a", "/a/x"), "Invalid"),
            (rename("/a/sub", "/a"), "NotEmpty"),
            (rename_with("/a", "/a/sub", Exchange), "Invalid"),
            (rename_with("/a/sub", "/a", Exchange), "Invalid"),
            (rename("/b", "/a"), "NotEmpty"),
            (rename("/a/sub", "/b/sub"), "ok"),
            (stat("/a"), "Dir 0755 nlink 2 size 0"),
            (stat("/b"), "Dir 0755 nlink 3 size 1"),
            (rename("/b", "/a"), "ok"),
            (stat("/"), "Dir 0755 nlink 3 size 1"),
            (create("/f"), "made"),
            (rename("/a", "/f"), "NotDir"),
            (rename("/f", "/a"), "IsDir"),
            (rename_with("/f", "/a", NoReplace), "Exists"),
            (rename_with("/f", "/none", Exchange), "NotFound"),
            (rename("/none", "/f"), "NotFound"),
            (rename_with("/f", "/a/sub", Exchange), "ok"),
            (stat("/f"), "Dir 0755 nlink 2 size 0"),
            (stat("/a"), "Dir 0755 nlink 2 size 1"),
            (stat("/"), "Dir 0755 nlink 4 size 2"),
            (rename("/f", "/f"), "ok"),
            (rename_with("/f", "/f", NoReplace), "Exists"),
            (rename_with("/f", "/g", NoReplace), "ok"),
            (readdir("/"), "[a g]"),
        ],
    );
}

#[test]
fn links_are_one_node() {
    run(
        &mut empty(),
        &[
            (create("/a"), "made"),
            (mkdir("/d"), "made"),
            (link("/a", "/d/b"), "ok"),
            (link("/a", "/d/b"), "Exists"),
            (link("/d", "/e"), "NotOwner"),
            (link("/none", "/e"), "NotFound"),
            (append("/a", "one"), "ok"),
            (stat("/d/b"), "File 0644 nlink 2 size 3"),
            (rename("/a", "/d/b"), "ok"),
            (readdir("/"), "[a d]"),
            (unlink("/a"), "ok"),
            (read("/d/b"), "\"one\""),
            (stat("/d/b"), "File 0644 nlink 1 size 3"),
        ],
    );
}

#[test]
fn contents_attributes_and_targets() {
    let xattr = |path: &str| Op::GetXattr { path: path.into(), name: "user.a".into() };
    let set = |path: &str| Op::SetXattr { path: path.into(), name: "user.a".into(), value: "v".into() };
    run(
        &mut empty(),
        &[
            (create("/f"), "made"),
            (append("/f", "one"), "ok"),
            (append("/f", "two"), "ok"),
            (read("/f"), "\"onetwo\""),
            (Op::Truncate { path: "/f".into(), size: 4 }, "ok"),
            (read("/f"), "\"onet\""),
            (write("/f", "new"), "ok"),
            (read("/f"), "\"new\""),
            (write("/none", "new"), "NotFound"),
            (append("/", "new"), "IsDir"),
            (read("/"), "IsDir"),
            (Op::Symlink { path: "/l".into(), target: "f".into() }, "made"),
            (Op::Readlink { path: "/l".into() }, "-> f"),
            (Op::Readlink { path: "/f".into() }, "Invalid"),
            (append("/l", "x"), "Invalid"),
            (stat("/l"), "Symlink 0777 nlink 1 size 1"),
            (chmod("/f", 0o100_600), "ok"),
            (stat("/f"), "File 0600 nlink 1 size 3"),
            (xattr("/f"), "NoXattr"),
            (set("/f"), "ok"),
            (xattr("/f"), "\"v\""),
            (set("/l"), "NotOwner"),
            (xattr("/l"), "NoXattr"),
        ],
    );
}

#[test]
fn equal_states_have_equal_hashes() {
    let reach = |ops: &[Op]| {
        let mut model = empty();
        ops.iter().for_each(|op| assert!(model.apply(op).is_ok(), "{op}"));
        model.hash()
    };
    let one = reach(&[create("/a"), mkdir("/d"), append("/a", "xy")]);
    assert_eq!(one, reach(&[mkdir("/d"), create("/a"), append("/a", "x"), append("/a", "y")]));
    assert_eq!(one, reach(&[mkdir("/d"), create("/d/x"), unlink("/d/x"), create("/a"), write("/a", "xy")]));
    assert_ne!(one, reach(&[mkdir("/d"), create("/a"), append("/a", "yx")]));
    assert_ne!(one, reach(&[mkdir("/d"), create("/b"), append("/b", "xy")]));
    assert_eq!(empty().hash(), reach(&[mkdir("/d"), rename("/d", "/d"), rmdir("/d")]));
}

#[test]
fn a_node_is_known_by_its_identity_until_it_is_gone() {
    let mut model = Model::new(0o755, true);
    let told = |number| Ok(Value::Made { created: true, identity: Some(Identity(number)) });
    assert_eq!(model.accept(&mkdir("/d"), &told(5)), Ok(()));
    assert_eq!(model.accept(&mkdir("/e"), &made()), Ok(()));
    let found = |number| Ok(Value::Found { kind: Kind::Dir, identity: Some(Identity(number)) });
    assert!(model.clone().accept(&lookup("/d"), &found(6)).is_err());
    assert!(model.clone().accept(&lookup("/e"), &found(5)).is_err());
    assert_eq!(model.accept(&lookup("/e"), &found(6)), Ok(()));
    assert_eq!(model.accept(&rename("/d", "/e/moved"), &ok()), Ok(()));
    let file = Op::Create { path: Path::within(Identity(5), "f"), exclusive: true, mode: 0 };
    assert_eq!(model.accept(&file, &told(7)), Ok(()));
    assert_eq!(model.accept(&readdir("/e/moved"), &names(&["f"])), Ok(()));
    assert_eq!(model.accept(&unlink("/e/moved/f"), &ok()), Ok(()));
    // Whoever holds the file may go on with it; it cannot get a name again.
    assert_eq!(model.accept(&chmod(Path::of(Identity(7)), 0o600), &ok()), Ok(()));
    let link = Op::Link { from: Path::of(Identity(7)), to: "/x".into() };
    assert!(model.clone().accept(&link, &ok()).is_err());
    assert_eq!(model.accept(&link, &no(Errno::NotFound)), Ok(()));
    // Nor one that is taken; which of the two is told depends on whether it is held still (seed 708199805).
    assert!(model.clone().accept(&link, &no(Errno::Exists)).is_err());
    let onto = Op::Link { from: Path::of(Identity(7)), to: "/e".into() };
    assert_eq!(model.accept(&onto, &no(Errno::Exists)), Ok(()));
    assert_eq!(model.accept(&onto, &no(Errno::Stale)), Ok(()));
}
