//! The wire by hand: frames put together here, so that a test can break them, cut the connection, or ask one certain server.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use pohmelfs::types::{
    ClusterId, Cred, Epoch, FileKind, FsResult, InodeId, MakeNode, Name, OpenSession, Query, QueryReply,
    ROOT_INODE, RequestId, SessionId, Update, UpdateReply, UpdateResult, codec,
};
use pohmelfs::wire::frame::{Decoder, Flags, Frame, Header, KIND_HELLO, widest};
use pohmelfs::wire::message::{MetaReply, MetaRequest, Reading, UpdateRequest, kind};
use pohmelfs::wire::{Class, Greeting, Hello, PROTOCOL_VERSION, Role, RpcError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long an answer may take, in milliseconds, as the frame says and as the reader waits.
const DEADLINE_MS: u32 = 20_000;

/// Sends a request to one server after the other, always the same bytes, until one has answered.
pub struct Stubborn {
    addresses: Vec<String>,
    turn: usize,
    link: Option<Raw>,
}

impl Stubborn {
    /// Begins at one of `addresses`.
    pub fn new(addresses: Vec<String>, first: usize) -> Self {
        Self { addresses, turn: first, link: None }
    }

    /// The connection is cut; the next request goes to the next server.
    pub fn cut(&mut self) {
        self.link = None;
    }

    /// The connection of the next request.
    pub async fn link(&mut self) -> Result<&mut Raw, String> {
        if self.link.is_none() {
            self.turn += 1;
            self.link = Some(Raw::connect(&self.addresses[self.turn % self.addresses.len()]).await?);
        }
        Ok(self.link.as_mut().unwrap())
    }

    async fn try_update(&mut self, update: &UpdateRequest) -> Result<UpdateResult, String> {
        self.link().await?.update(update.clone()).await
    }

    /// The answer to `update`, whoever gives it.
    pub async fn update(&mut self, update: &UpdateRequest) -> UpdateResult {
        let began = Instant::now();
        loop {
            match self.try_update(update).await {
                Ok(result) => return result,
                Err(why) => {
                    assert!(began.elapsed() < super::LONG, "no answer to {update:?}: {why}");
                    self.cut();
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
    }

    /// Opens a session.
    pub async fn open_session(&mut self) -> SessionId {
        match self.update(&request(SessionId(0), 0, 0, opening())).await {
            Ok(UpdateReply::Session { session, .. }) => session,
            other => panic!("to the opening of a session: {other:?}"),
        }
    }
}

fn opening() -> Update {
    Update::OpenSession(OpenSession { ttl_ms: 15_000, label: "proof raw".into() })
}

/// A connection that has said hello.
pub struct Raw {
    socket: TcpStream,
    decoder: Decoder,
    buffer: BytesMut,
    next_id: u64,
}

/// The bytes of a frame.
pub fn frame(kind: u16, id: u64, meta: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut header = Header::over(PROTOCOL_VERSION, kind, Flags::REQUEST, id, meta, payload).unwrap();
    header.deadline_ms = DEADLINE_MS;
    let mut out = header.encode().to_vec();
    out.extend_from_slice(meta);
    out.extend_from_slice(payload);
    out
}

/// The bytes of a hello.
pub fn hello(cluster: Option<ClusterId>, class: Class) -> Vec<u8> {
    let hello = Hello { cluster, ..Hello::new(Role::Client, "proof raw") };
    frame(KIND_HELLO, 0, &Greeting { hello, class, credits: 64 }.encode(), &[])
}

impl Raw {
    /// Connects without saying anything.
    pub async fn mute(address: &str) -> Result<Self, String> {
        let socket = TcpStream::connect(address).await.map_err(|e| format!("{address}: {e}"))?;
        Ok(Self { socket, decoder: Decoder::new(widest), buffer: BytesMut::new(), next_id: 1 })
    }

    /// Connects and says hello.
    pub async fn connect(address: &str) -> Result<Self, String> {
        let mut raw = Self::mute(address).await?;
        raw.send(&hello(None, Class::Metadata)).await?;
        let answer = raw.receive().await?;
        if answer.header.kind == KIND_HELLO {
            Ok(raw)
        } else {
            Err(format!("instead of a hello: {answer:?}"))
        }
    }

    /// Sends bytes as they are.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.socket.write_all(bytes).await.map_err(|e| format!("sending: {e}"))
    }

    /// The next frame.
    pub async fn receive(&mut self) -> Result<Frame, String> {
        let limit = Duration::from_millis(DEADLINE_MS.into());
        tokio::time::timeout(limit, async {
            loop {
                if let Some(frame) = self.decoder.next(&mut self.buffer).map_err(|e| e.to_string())? {
                    return Ok(frame);
                }
                if self.socket.read_buf(&mut self.buffer).await.map_err(|e| format!("receiving: {e}"))? == 0 {
                    return Err("the connection was closed".into());
                }
            }
        })
        .await
        .map_err(|_| format!("no frame within {limit:?}"))?
    }

    /// Everything until the other end closes: it must do so in time.
    pub async fn drain(&mut self) -> Result<Vec<Frame>, String> {
        let mut frames = Vec::new();
        loop {
            match self.receive().await {
                Ok(frame) => frames.push(frame),
                Err(e) if e == "the connection was closed" || e.starts_with("receiving") => {
                    return Ok(frames);
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Sends a request and does not wait: the caller may cut the connection next.
    pub async fn post(&mut self, request: &MetaRequest) -> Result<u64, String> {
        let id = self.next_id;
        self.next_id += 1;
        let meta = codec::encode(request).map_err(|e| e.to_string())?;
        self.send(&frame(kind::META, id, &meta, &[])).await?;
        Ok(id)
    }

    /// Sends a request and takes its answer.
    pub async fn ask(&mut self, request: &MetaRequest) -> Result<MetaReply, String> {
        let id = self.post(request).await?;
        let frame = self.receive().await?;
        if frame.header.id != id {
            return Err(format!("an answer to {} instead of {id}", frame.header.id));
        }
        if frame.header.flags.has(Flags::ERROR) {
            let error: RpcError = codec::decode(&frame.meta).map_err(|e| e.to_string())?;
            return Err(error.to_string());
        }
        codec::decode(&frame.meta).map_err(|e| e.to_string())
    }

    /// Asks for a change and takes the remembered answer.
    pub async fn update(&mut self, request: UpdateRequest) -> Result<UpdateResult, String> {
        match self.ask(&MetaRequest::Update(request)).await? {
            MetaReply::Updated { result, .. } => Ok(result),
            other => Err(format!("to an update: {other:?}")),
        }
    }

    /// Asks the namespace, through this server.
    pub async fn query(&mut self, query: Query) -> Result<FsResult<QueryReply>, String> {
        let request =
            MetaRequest::Query { cred: Cred::root(), query, epoch: Epoch(0), reading: Reading::Exact };
        match self.ask(&request).await? {
            MetaReply::Answered { result, .. } => Ok(result),
            other => Err(format!("to a query: {other:?}")),
        }
    }

    /// Looks a name up, through this server.
    pub async fn lookup(&mut self, parent: InodeId, name: &str) -> Result<FsResult<QueryReply>, String> {
        self.query(Query::Lookup { parent, name: Name::new(name).unwrap() }).await
    }

    /// Opens a session.
    pub async fn open_session(&mut self) -> Result<SessionId, String> {
        match self.update(request(SessionId(0), 0, 0, opening())).await? {
            Ok(UpdateReply::Session { session, .. }) => Ok(session),
            other => Err(format!("to the opening of a session: {other:?}")),
        }
    }
}

/// Asks for an empty file of this name in the root; an existing one is an error.
pub fn make(name: &str) -> Update {
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
}

/// An update of root.
pub fn request(session: SessionId, id: u64, lowest_unanswered: u64, update: Update) -> UpdateRequest {
    UpdateRequest {
        session,
        request: RequestId(id),
        lowest_unanswered: RequestId(lowest_unanswered),
        cred: Cred::root(),
        update,
    }
}
