//! What nobody should send, or configure: each is refused with a clear word, and harms nobody else.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use bytes::Bytes;
use pohmelfs::client::Client;
use pohmelfs::types::{
    ClusterId, Cred, FileKind, MakeNode, Name, NameError, OpenSession, ROOT_INODE, SessionId, Update, codec,
};
use pohmelfs::wire::frame::{Flags, HEADER_LEN, Header, KIND_HELLO, META_LEN_MAX, PAYLOAD_LEN_MAX};
use pohmelfs::wire::message::{MetaRequest, kind};
use pohmelfs::wire::{Class, Greeting, Hello, PROTOCOL_VERSION, Role, RpcError, VersionRange};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::common::node::Node;
use crate::common::raw::{Raw, frame, hello, request};
use crate::common::{Cluster, Load, http, rounds, seed, until};

/// Every server is the same process as before and answers.
async fn unharmed(cluster: &mut Cluster) {
    for node in &mut cluster.nodes {
        assert!(node.ended().is_none(), "{} has ended", node.name);
        assert!(node.status().await.unwrap().ready, "{} is not ready", node.name);
    }
}

/// Changes a header and puts its checksum right again, so that only the change itself is wrong.
fn header(change: impl FnOnce(&mut Header)) -> Vec<u8> {
    let mut header = Header::over(PROTOCOL_VERSION, kind::META, Flags::REQUEST, 7, b"meta", b"").unwrap();
    change(&mut header);
    header.encode().to_vec()
}

fn greeting(change: impl FnOnce(&mut Hello)) -> Vec<u8> {
    let mut hello = Hello::new(Role::Client, "proof");
    change(&mut hello);
    frame(KIND_HELLO, 0, &Greeting { hello, class: Class::Metadata, credits: 8 }.encode(), &[])
}

/// Bytes to say instead of a hello.
fn instead_of_hello(random: &mut StdRng) -> Vec<(&'static str, Vec<u8>)> {
    let mut noise = vec![0; random.random_range(HEADER_LEN..8_192)];
    random.fill_bytes(&mut noise);
    let mut magic_noise = noise.clone();
    magic_noise[..4].copy_from_slice(b"PHMF");
    let mut flipped = hello(None, Class::Metadata);
    let bit = random.random_range(0..flipped.len() * 8);
    flipped[bit / 8] ^= 1 << (bit % 8);
    vec![
        ("noise", noise),
        ("noise with the right magic", magic_noise),
        ("another protocol", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(3)),
        ("a hello with a flipped bit", flipped),
        ("a request before the hello", frame(kind::META, 1, &[0; 16], &[])),
        ("a hello of 3 GiB", header(|h| (h.kind, h.meta_len) = (KIND_HELLO, 3 << 30))),
        ("a hello with an empty greeting", frame(KIND_HELLO, 0, &[], &[])),
        ("a hello with a noisy greeting", frame(KIND_HELLO, 0, &[0xff; 200], &[])),
        ("a hello of another cluster", hello(Some(ClusterId(0xbad)), Class::Metadata)),
        ("a hello of the year 2100", greeting(|h| h.versions = VersionRange { first: 900, last: 999 })),
    ]
}

/// Frames to send behind a good hello. True: the connection must end. A data server leaves the sum of a payload to its store,
/// which refuses the one block; the frames around it are good.
fn behind_a_hello(random: &mut StdRng, data: bool) -> Vec<(&'static str, bool, Vec<u8>)> {
    let mut noise = vec![0; random.random_range(HEADER_LEN..8_192)];
    random.fill_bytes(&mut noise);
    let mut bad_meta = frame(kind::META, 7, b"some meta", b"");
    bad_meta[HEADER_LEN] ^= 1;
    let mut bad_payload = frame(kind::DATA, 7, b"m", b"some payload");
    *bad_payload.last_mut().unwrap() ^= 1;
    let noise_as = |kind: u16| frame(kind, 7, &noise, &[]);
    vec![
        ("noise", true, noise.clone()),
        ("a damaged meta", true, bad_meta),
        ("a damaged payload", !data, bad_payload),
        ("a meta beyond the bound", true, header(|h| h.meta_len = META_LEN_MAX + 1)),
        ("a meta of 4 GiB", true, header(|h| h.meta_len = u32::MAX)),
        (
            "a payload beyond the bound",
            true,
            header(|h| (h.kind, h.payload_len) = (kind::DATA, PAYLOAD_LEN_MAX + 1)),
        ),
        ("flags that do not exist", true, header(|h| h.flags = Flags(0x8000))),
        ("a second hello", true, hello(None, Class::Metadata)),
        ("an unknown kind", false, frame(0x7777, 7, b"what?", b"")),
        ("kind 0", false, frame(0, 7, b"", b"")),
        ("noise as a metadata request", false, noise_as(kind::META)),
        ("noise as a request of a metadata server", false, noise_as(kind::PEER)),
        ("noise as consensus", false, noise_as(kind::RAFT_FIRST)),
        ("noise as the last kind of consensus", false, noise_as(kind::RAFT_LAST)),
        ("noise as a data request", false, noise_as(kind::DATA)),
        ("an empty request", false, frame(kind::META, 7, b"", b"")),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn noise_on_every_port_harms_nobody() {
    let mut random = StdRng::seed_from_u64(seed());
    let mut cluster = Cluster::start(3, 1).await;
    let load = Load::creators(&cluster, "/load", 4).await;
    let ports: Vec<String> = [0, 1, 2, 3].map(|i| cluster.nodes[i].address.clone()).into();
    for _ in 0..rounds(2) {
        for (index, address) in ports.iter().enumerate() {
            for (what, bytes) in instead_of_hello(&mut random) {
                let mut raw = Raw::mute(address).await.unwrap();
                // The other end may close before all is sent.
                let _ = raw.send(&bytes).await;
                let answers = raw.drain().await.unwrap_or_else(|e| panic!("{address} after {what}: {e}"));
                let welcomed =
                    answers.iter().any(|f| !f.header.flags.has(Flags::ERROR) && f.header.kind != KIND_HELLO);
                assert!(!welcomed, "{address} answers {what}: {answers:?}");
            }
            for (what, ends, bytes) in behind_a_hello(&mut random, index == 3) {
                let mut raw = Raw::connect(address).await.unwrap();
                let _ = raw.send(&bytes).await;
                if ends {
                    raw.drain().await.unwrap_or_else(|e| panic!("{address} after {what}: {e}"));
                } else {
                    let answer =
                        raw.receive().await.unwrap_or_else(|e| panic!("{address} after {what}: {e}"));
                    assert!(answer.header.flags.has(Flags::ERROR), "{address} took {what}: {answer:?}");
                    let error: RpcError = codec::decode(&answer.meta).unwrap();
                    assert!(!error.to_string().is_empty());
                }
            }
            // Half of a frame, and gone.
            let mut raw = Raw::connect(address).await.unwrap();
            raw.send(&frame(kind::META, 7, &[1; 100], &[])[..70]).await.unwrap();
        }
        load.progress(5).await;
        unharmed(&mut cluster).await;
    }
    load.finish(&cluster).await.assert_clean("load beside the noise");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_is_told_which_cluster_he_called() {
    let cluster = Cluster::start(1, 0).await;
    let address = &cluster.nodes[0].address;
    // A cluster that was founded this moment takes a moment to tell its listener.
    let error: RpcError = until("an error", async || {
        let mut raw = Raw::mute(address).await?;
        raw.send(&hello(Some(ClusterId(0xbad)), Class::Metadata)).await?;
        let answer = raw.receive().await?;
        if answer.header.flags.has(Flags::ERROR) {
            Ok(codec::decode(&answer.meta).unwrap())
        } else {
            Err("welcome".into())
        }
    })
    .await;
    assert!(matches!(error, RpcError::WrongCluster { caller: ClusterId(0xbad), .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn noise_on_the_http_ports_harms_nobody() {
    let mut random = StdRng::seed_from_u64(seed());
    let mut cluster = Cluster::start(1, 1).await;
    for node in [0, 1] {
        let address = cluster.nodes[node].http.clone();
        let mut noise = vec![0; 4_096];
        random.fill_bytes(&mut noise);
        let long = |n: usize| vec![b'a'; n];
        let sayings: Vec<Vec<u8>> = vec![
            noise,
            b"GET\r\n\r\n".to_vec(),
            b"GET /status HTTP/9.9\r\n\r\n".to_vec(),
            b"BREW /status HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
            [b"GET /", &long(200_000)[..], b" HTTP/1.1\r\n\r\n"].concat(),
            [b"GET / HTTP/1.1\r\n", &long(200_000)[..], b": b\r\n\r\n"].concat(),
            b"POST /status HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n".to_vec(),
            b"GET /status HTTP/1.1\r\nHost: a".to_vec(),
        ];
        for saying in sayings {
            let mut socket = TcpStream::connect(&address).await.unwrap();
            let _ = socket.write_all(&saying).await;
            let _ = socket.shutdown().await;
            let mut answer = Vec::new();
            // Whatever it says or not, it must come to an end once we have ended.
            let read = tokio::time::timeout(crate::common::LONG, socket.read_to_end(&mut answer)).await;
            assert!(read.is_ok(), "{address} leaves a connection open after {} bytes", saying.len());
            let text = String::from_utf8_lossy(&answer);
            assert!(!text.starts_with("HTTP/1.1 5"), "noise is no fault of the server: {text}");
        }
        for path in [
            "/lookup",
            "/lookup?path=",
            "/lookup?path=a/../b",
            "/lookup?path=%00",
            "/lookup?path=%zz",
            "/nothing",
        ] {
            let (code, body) = http::get(&address, path).await.unwrap();
            assert!(code == 200 || (400..500).contains(&code), "{path}: {code} {body}");
        }
    }
    unharmed(&mut cluster).await;
}

/// Names that no client library lets through, put into a request by hand.
#[tokio::test(flavor = "multi_thread")]
async fn bad_names_are_refused_by_the_server_too() {
    let mut cluster = Cluster::start(3, 0).await;
    let mut raw = Raw::connect(&cluster.nodes[1].address).await.unwrap();
    let session = raw.open_session().await.unwrap();
    let bad: [&[u8]; 7] = [b"", b".", b"..", b"a/b", b"/", b"a\0b", &[b'x'; 256]];
    for (i, name) in bad.into_iter().enumerate() {
        let good = vec![b'q'; 77];
        let make = MakeNode {
            parent: ROOT_INODE,
            name: Name::new(&good).unwrap(),
            kind: FileKind::Dir,
            mode: 0o755,
            umask: 0,
            rdev: 0,
            content: Bytes::new(),
            exclusive: true,
        };
        let update = MetaRequest::Update(request(session, i as u64 + 1, 1, Update::Make(make)));
        let bytes = codec::encode(&update).unwrap();
        let at = bytes.windows(good.len()).position(|w| w == good).unwrap();
        let mut patched = bytes[..at - 1].to_vec();
        patched.extend(codec::encode(&Bytes::copy_from_slice(name)).unwrap());
        patched.extend(&bytes[at + good.len()..]);
        raw.send(&frame(kind::META, 1_000 + i as u64, &patched, &[])).await.unwrap();
        let answer = raw.receive().await.unwrap();
        assert!(answer.header.flags.has(Flags::ERROR), "{name:?} was taken: {answer:?}");
        let error: RpcError = codec::decode(&answer.meta).unwrap();
        assert!(matches!(error, RpcError::Refused { .. }), "{name:?}: {error}");
    }
    let client = cluster.client().await;
    assert_eq!(client.readdir("/", false).await.unwrap().all().await.unwrap(), vec![]);
    unharmed(&mut cluster).await;
    assert_eq!(cluster.check().await, Vec::<String>::new());
}

async fn names_of(client: &Client, dir: &str) -> Vec<Vec<u8>> {
    let entries = client.readdir(dir, false).await.unwrap().all().await.unwrap();
    let mut names: Vec<_> = entries.iter().map(|e| e.name.as_bytes().to_vec()).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_takes_every_name_that_posix_has_and_no_other() {
    let cluster = Cluster::start(3, 0).await;
    let client = cluster.client().await;
    let path = |name: &[u8]| Path::new("/").join(std::ffi::OsStr::from_bytes(name));
    const EINVAL: i32 = 22;
    const ENAMETOOLONG: i32 = 36;
    let errno = async |name: &[u8]| client.mkdir(path(name), 0o755).await.unwrap_err().errno();
    assert_eq!(errno(b"a\0b").await, EINVAL);
    assert_eq!(errno(&[b'x'; 256]).await, ENAMETOOLONG);
    assert!(matches!(Name::new("."), Err(NameError::Dots)));
    for dots in ["/.", "/.."] {
        client.mkdir(dots, 0o755).await.unwrap_err();
    }
    let mut good: Vec<Vec<u8>> = vec![
        vec![b'x'; 255],
        b"\xff\xfe\x80".to_vec(),
        b"...".to_vec(),
        b" ".to_vec(),
        b"a\nb".to_vec(),
        b"-rf".to_vec(),
    ];
    for name in &good {
        client.mkdir(path(name), 0o755).await.unwrap();
        client.stat(path(name)).await.unwrap();
    }
    good.sort();
    assert_eq!(names_of(&client, "/").await, good);
}

/// Runs a server that should refuse to run: it must end by itself with an exit code of its own and a message.
async fn refusal(mut node: Node) -> String {
    node.start();
    let name = node.name.clone();
    let status = until(&format!("{name} to refuse"), async || node.ended().ok_or("it runs".into())).await;
    let text = node.log_text();
    let code = status.code().unwrap_or_else(|| panic!("{name} was ended by a signal: {status}\n{text}"));
    assert!(code != 0 && code != 101, "{name} ended with {code} (101 is a panic)\n{text}");
    text
}

/// A node like that of `index`, elsewhere: own configuration, made of that one's by `change`.
fn variant(cluster: &Cluster, index: usize, change: impl FnOnce(String) -> String) -> Node {
    let like = &cluster.nodes[index];
    let text = change(std::fs::read_to_string(&like.config).unwrap());
    let name = format!("variant-of-{}-{}", like.name, rand::random::<u32>());
    let mut node = Node::new(cluster.root(), like.role, like.id, name, (0, 0), like.place.clone());
    node.dir = like.dir.clone();
    std::fs::write(&node.config, text).unwrap();
    node
}

fn contains_all(text: &str, wanted: &[&str]) {
    for word in wanted {
        assert!(text.contains(word), "{word:?} is not in:\n{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_cannot_be_is_refused() {
    let cluster = Cluster::prepare(crate::common::Shape::default()).await;
    for index in [0, 3] {
        let text = refusal(variant(&cluster, index, |c| format!("lisen = \"127.0.0.1:1\"\n{c}"))).await;
        contains_all(&text, &["lisen", "did you mean `listen`"]);
        let text = refusal(variant(&cluster, index, |c| format!("{c}\nthis is no TOML"))).await;
        contains_all(&text, &["variant-of", ".toml"]);
        let text = refusal(variant(&cluster, index, |c| c.replacen("node = ", "node = 0 #", 1))).await;
        contains_all(&text, &["node = 0"]);
        let mut missing = variant(&cluster, index, |c| c);
        missing.config = "/does/not/exist.toml".into();
        contains_all(&refusal(missing).await, &["/does/not/exist.toml"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_cannot_be_used_is_refused() {
    let mut cluster = Cluster::start(1, 1).await;
    let elsewhere = |c: String, key: &str| {
        // Its own addresses, so that the directory is what it fails at.
        let c = c.replacen("listen = ", "listen = \"127.0.0.1:0\" #", 1);
        let c = c.replacen("http_listen = ", "http_listen = \"\" #", 1);
        if key.is_empty() { c } else { c.replacen("director", &format!("director{key} #"), 1) }
    };
    for index in [0, 1] {
        // Used by the process that serves.
        let text = refusal(variant(&cluster, index, |c| elsewhere(c, ""))).await;
        contains_all(&text, &["another process", cluster.nodes[index].dir.to_str().unwrap()]);
        // Not a directory; and where nothing can be made (root may write anywhere else).
        let file = cluster.root().join("a-file");
        std::fs::write(&file, "not a directory").unwrap();
        for place in [file.to_str().unwrap(), "/proc/pohmelfs"] {
            let key = if index == 0 { format!("y = {place:?}") } else { format!("ies = [{place:?}]") };
            let text = refusal(variant(&cluster, index, |c| elsewhere(c, &key))).await;
            contains_all(&text, &[place]);
        }
        // What lies there is somebody else's: it is named and stays alone.
        let letters = cluster.root().join("letters");
        std::fs::create_dir_all(&letters).unwrap();
        std::fs::write(letters.join("letter.txt"), "dear").unwrap();
        let others =
            [(letters.as_path(), "letter.txt"), (cluster.nodes[1 - index].dir.as_path(), "pohmelfs-")];
        for (place, holds) in others {
            let key = if index == 0 { format!("y = {place:?}") } else { format!("ies = [{place:?}]") };
            let text = refusal(variant(&cluster, index, |c| elsewhere(c, &key))).await;
            contains_all(&text, &[place.to_str().unwrap(), holds, "is not empty"]);
        }
        assert_eq!(files_below(&letters), [letters.join("letter.txt").display().to_string()]);
        // The address is taken.
        let free = cluster.root().join("free");
        let key = if index == 0 { format!("y = {free:?}") } else { format!("ies = [{free:?}]") };
        let text = refusal(variant(&cluster, index, |c| {
            let c = c.replacen("http_listen = ", "http_listen = \"\" #", 1);
            c.replacen("director", &format!("director{key} #"), 1)
        }))
        .await;
        contains_all(&text, &[&cluster.nodes[index].address]);
        let _ = std::fs::remove_dir_all(&free);
    }
    unharmed(&mut cluster).await;
}

/// All metadata is lost and a new cluster made: the data servers still hold blocks of the old one and must not join.
#[tokio::test(flavor = "multi_thread")]
async fn a_data_server_of_another_cluster_is_refused_and_keeps_its_blocks() {
    let mut cluster = Cluster::start(1, 1).await;
    let old = cluster.cluster_status().await.unwrap().cluster;
    cluster.stop_all().await;
    let before = files_below(&cluster.nodes[1].dir);
    cluster.nodes[0].wipe();
    cluster.nodes[0].start();
    let new = until("another cluster", async || {
        let now = cluster.cluster_status().await?.cluster;
        if now.len() == 32 && now != old { Ok(now) } else { Err(now) }
    })
    .await;
    cluster.nodes[1].start();
    let node = &mut cluster.nodes[1];
    // It may end, or wait for an operator; either way it says what is wrong and is not taken in.
    until("the refusal", async || {
        let ended = node.ended().is_some();
        let text = node.log_text();
        let said = text.contains(&old) && text.contains(&new);
        if said { Ok(()) } else { Err(format!("ended: {ended}; log: {}", node.tail())) }
    })
    .await;
    let status = cluster.cluster_status().await.unwrap();
    assert!(status.data.is_empty(), "{:?}", status.data);
    assert_eq!(files_below(&cluster.nodes[1].dir), before);
}

/// A metadata server comes back with the disk of another cluster: it is kept out, and the others go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_metadata_server_of_another_cluster_is_kept_out() {
    let mut cluster = Cluster::start(3, 0).await;
    let old = cluster.cluster_status().await.unwrap().cluster;
    cluster.stop_all().await;
    let root = cluster.root().to_owned();
    let aside = |node: usize| root.join(format!("aside-{node}"));
    for (i, node) in cluster.nodes.iter().enumerate() {
        std::fs::rename(&node.dir, aside(i)).unwrap();
    }
    cluster.start_all();
    cluster.ready().await;
    let new = cluster.cluster_status().await.unwrap().cluster;
    assert_ne!(old, new);
    let load = Load::creators(&cluster, "/load", 4).await;
    load.progress(10).await;
    // The leader: for a moment the others pass calls on to whoever answers at its address.
    let leader = cluster.leader().await;
    let stranger = &mut cluster.nodes[leader];
    stranger.kill();
    stranger.wipe();
    std::fs::rename(aside(leader), &stranger.dir).unwrap();
    stranger.start();
    until("the stranger to say what is wrong", async || {
        let ended = stranger.ended().is_some();
        let text = stranger.log_text();
        if text.contains(&old) && text.contains(&new) {
            Ok(())
        } else {
            Err(format!("ended: {ended}; {}", stranger.tail()))
        }
    })
    .await;
    load.progress(20).await;
    let stranger = &mut cluster.nodes[leader];
    if stranger.is_started() {
        stranger.kill();
    }
    stranger.wipe();
    stranger.start();
    cluster.ready().await;
    load.finish(&cluster).await.assert_clean("load beside the stranger");
    cluster.same_state().await;
}

fn files_below(dir: &Path) -> Vec<String> {
    let mut out = Vec::new();
    let mut left = vec![dir.to_owned()];
    while let Some(next) = left.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { left.push(path) } else { out.push(path.display().to_string()) }
        }
    }
    out.sort();
    out
}

/// Requests of a session that never was, and of a cred with too many groups.
#[tokio::test(flavor = "multi_thread")]
async fn requests_that_make_no_sense_are_answered() {
    let mut cluster = Cluster::start(3, 0).await;
    let mut raw = Raw::connect(&cluster.nodes[2].address).await.unwrap();
    let make = |name: &str| {
        Update::Make(MakeNode {
            parent: ROOT_INODE,
            name: Name::new(name).unwrap(),
            kind: FileKind::File,
            mode: 0o644,
            umask: 0,
            rdev: 0,
            content: Bytes::new(),
            exclusive: true,
        })
    };
    let unknown = raw.update(request(SessionId(987_654_321), 1, 1, make("a"))).await;
    assert!(!matches!(unknown, Ok(Ok(_))), "{unknown:?}");
    let session = raw.open_session().await.unwrap();
    let mut crowded = request(session, 1, 1, make("b"));
    crowded.cred = Cred { uid: 1, gid: 1, groups: vec![7; Cred::GROUPS_MAX + 1] };
    let crowded = raw.update(crowded).await;
    assert!(!matches!(crowded, Ok(Ok(_))), "{crowded:?}");
    let long = Update::OpenSession(OpenSession { ttl_ms: u32::MAX, label: "x".repeat(100_000) });
    let long = raw.update(request(SessionId(0), 0, 0, long)).await;
    println!("a session with a label of 100,000 bytes: {:?}", long.map(|l| l.map(drop)));
    unharmed(&mut cluster).await;
    let client = cluster.client().await;
    assert_eq!(names_of(&client, "/").await, Vec::<Vec<u8>>::new());
}
