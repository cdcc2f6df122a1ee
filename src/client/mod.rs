//! The client library, under the command line, the mount and every gateway.
//!
//! ```no_run
//! # async fn example() -> Result<(), pohmelfs::client::ClientError> {
//! use pohmelfs::client::{Client, ClientOptions};
//! use pohmelfs::types::NodeAddress;
//!
//! let servers = ["meta-1:7000", "meta-2:7000", "meta-3:7000"].map(|a| NodeAddress(a.into()));
//! let client = Client::connect(&servers, ClientOptions::default()).await?;
//! client.mkdir_all("/photos/2026", 0o755).await?;
//! let attr = client.put(&b"not a photo"[..], "/photos/2026/one.jpg", Default::default()).await?;
//! assert_eq!(attr.size, 11);
//! client.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! Holds: an update takes effect once, however often it had to be sent; blocks are durable before they are published; every
//! call ends by its deadline; memory for blocks in flight is bounded.
//! Not here: what the namespace permits (`namespace`), what servers do (`meta`, `data`), the kernel (`mount`).
//!
//! Reading order: `options`, `error`; `servers`, `exchange`, `beside`, `session`, `core`, `workers` (requests); `namespace`, `path`, `dir`
//! (names); `budget`, `data_servers`, `upload`, `download`, `extents`, `overlay`, `pending`, `file`, `inode` (open files by inode),
//! `sectors`, `reader`, `stream`, `transfer` (data); `locks`.

mod beside;
mod budget;
mod clone;
mod core;
mod data_servers;
mod dir;
mod dirty;
mod download;
mod error;
mod exchange;
mod extents;
mod file;
mod inode;
mod locks;
mod namespace;
mod options;
mod overlay;
mod path;
mod pending;
mod reader;
mod sectors;
mod servers;
mod session;
mod silence;
mod stream;
mod transfer;
mod upload;
mod workers;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::runtime;
use crate::types::{ClusterMap, Cred, NodeAddress, NodeId, SessionId};
use crate::wire::RpcError;
use crate::wire::message::{DataReply, DataRequest, MetaReply, MetaRequest};

use self::core::Core;
use self::exchange::Patience;
use self::servers::MetaServers;

pub use self::dir::{DirStream, RemovedTree};
pub use self::error::ClientError;
pub use self::extents::{Located, Place, Replica};
pub use self::file::{File, OpenOptions};
pub use self::inode::{Held, Opened, SeekFor};
pub use self::namespace::ExtentPage;
pub use self::options::{ClientOptions, Spread};
pub use self::overlay::Overlay;
pub use self::path::{Resolved, SYMLINKS_MAX, Spot};
pub use self::reader::Reader;
pub use self::stream::{BlockReader, BlockWriter};
pub use self::transfer::PutOptions;

/// How long the workers may take to end at `close`: longer than the closing of the session may.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection to the cluster: a session, the cluster map, and calls. Clones are cheap and share it.
#[derive(Clone)]
pub struct Client {
    core: Arc<Core>,
    cred: Arc<Cred>,
    umask: u32,
    _owner: Arc<Owner>,
}

/// Ends the workers with the last clone.
struct Owner(Arc<Core>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.set_closed();
        self.0.tasks.signal_stop();
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("session", &self.session_id()).field("cred", &self.cred).finish()
    }
}

impl Client {
    /// Connects to any of the metadata servers at `addresses`, opens a session and fetches the cluster map. To be called
    /// inside a runtime.
    ///
    /// # Errors
    /// When none answers before `options.connect_timeout`.
    pub async fn connect(addresses: &[NodeAddress], options: ClientOptions) -> Result<Self, ClientError> {
        if addresses.is_empty() {
            return Err(ClientError::NoServers);
        }
        let (settle, settling) = mpsc::unbounded_channel();
        let cred = Arc::new(options.cred.clone());
        let deadline = runtime::now() + options.connect_timeout;
        let core = Arc::new(Core::new(MetaServers::new(addresses, &options), options, settle));
        core.refresh_map(deadline).await?;
        core.session(deadline).await?;
        workers::start(&core, settling);
        Ok(Self { _owner: Arc::new(Owner(core.clone())), core, cred, umask: 0 })
    }

    /// The same client with other rights.
    #[must_use]
    pub fn with_cred(&self, cred: Cred) -> Self {
        Self { cred: Arc::new(cred), ..self.clone() }
    }

    /// The same client with a umask: what it makes lacks these bits, unless a default access control list says what it gets.
    #[must_use]
    pub fn with_umask(&self, umask: u32) -> Self {
        Self { umask, ..self.clone() }
    }

    /// With whose rights calls are made.
    #[must_use]
    pub fn cred(&self) -> &Cred {
        &self.cred
    }

    /// The session calls are made in now; none while the last one is gone and no call has opened another.
    #[must_use]
    pub fn session_id(&self) -> Option<SessionId> {
        self.core.live_session().map(|s| s.id())
    }

    /// Bytes that files of this client have written and not sent on their way.
    #[must_use]
    pub fn dirty_len(&self) -> usize {
        self.core.dirty_len()
    }

    /// They are more than they may be.
    #[must_use]
    pub fn is_dirty_full(&self) -> bool {
        self.core.is_dirty_full()
    }

    /// Bytes of blocks kept for who reads them again, how often they served a read, and how often not.
    #[must_use]
    pub fn cache_use(&self) -> (u64, u64, u64) {
        self.core.sectors.usage()
    }

    /// The newest cluster map known to this client.
    #[must_use]
    pub fn map(&self) -> Arc<ClusterMap> {
        self.core.map()
    }

    /// The cluster map as it is now.
    ///
    /// # Errors
    /// When no server answers.
    pub async fn refresh_map(&self) -> Result<Arc<ClusterMap>, ClientError> {
        self.core.refresh_map(self.core.deadline()).await
    }

    /// Sends any request that repeats harmlessly to the metadata servers: for tools. `timeout` covers all attempts, and
    /// is the patience with each (a check of the namespace computes for a while).
    ///
    /// # Errors
    /// When no server answers in time.
    pub async fn request(&self, request: &MetaRequest, timeout: Duration) -> Result<MetaReply, ClientError> {
        self.core.request(request, Patience::Whole, runtime::now() + timeout).await
    }

    /// Asks one data server of the map: for tools. `timeout` covers the one attempt there is.
    ///
    /// # Errors
    /// When it is not in the map, refuses, or does not answer in time.
    pub async fn ask_data(
        &self,
        node: NodeId,
        request: &DataRequest,
        timeout: Duration,
    ) -> Result<DataReply, RpcError> {
        let map = self.map();
        let Some(server) = map.data.get(&node) else {
            return Err(RpcError::Refused {
                reason: format!("data server {node} is not in the cluster map"),
            });
        };
        let answer = self.core.data.get(&map, server).call(request, bytes::Bytes::new(), timeout).await?;
        let reply = answer.reply;
        Ok(reply)
    }

    /// Ends the session and all clones. What files had not flushed is lost.
    pub async fn close(self) {
        self.core.set_closed();
        self.core.tasks.stop_within(CLOSE_TIMEOUT).await;
    }
}
