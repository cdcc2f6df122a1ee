//! Copies of the state that are being dumped: made once, read block by block, forgotten when nobody asks any more.
//!
//! `service` calls it for `MetaRequest::Dump`. Holds: a copy is the state at one index, not older than what was acknowledged before it
//! was asked for; at most [`DUMPS_MAX`] are kept, each a file without a name that goes with it or with the process.
//! Not here: the format of a dump's file (`cli/dump`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::service::Service;
use super::state::Frozen;
use crate::namespace;
use crate::runtime::{self, Instant, StopSignal};
use crate::types::{DUMP_BLOCK_LEN_MAX, DumpStamp};
use crate::wire::RpcError;
use crate::wire::dump::{DUMP_IDLE_SECS, DumpReply, DumpRequest};

/// Copies at a time: each takes the disk space of a snapshot.
const DUMPS_MAX: usize = 2;
/// Between two looks for copies that nobody asks for.
const LOOK: Duration = Duration::from_secs(5);

/// The copies of this server.
#[derive(Default)]
pub(super) struct Dumps {
    open: Mutex<BTreeMap<u64, Open>>,
    /// One is made at a time: who comes meanwhile waits.
    making: tokio::sync::Mutex<()>,
}

struct Open {
    frozen: Arc<Frozen>,
    asked: Instant,
}

impl Dumps {
    fn forget_idle(&self, now: Instant) {
        let idle = Duration::from_secs(DUMP_IDLE_SECS);
        self.open.lock().retain(|dump, open| {
            let wanted = now.saturating_duration_since(open.asked) < idle;
            if !wanted {
                tracing::info!(dump, "a dump is not asked for any more: its copy is gone");
            }
            wanted
        });
    }

    fn asked(&self, dump: u64, now: Instant) -> Option<Arc<Frozen>> {
        let mut open = self.open.lock();
        let open = open.get_mut(&dump)?;
        open.asked = now;
        Some(open.frozen.clone())
    }
}

/// The task that forgets.
pub(super) async fn forget_idle(service: Arc<Service>, stop: StopSignal) {
    loop {
        // Nothing is lost: it is looked at again.
        tokio::select! {
            () = stop.stopped() => return,
            () = runtime::sleep(LOOK) => service.dumps.forget_idle(runtime::now()),
        }
    }
}

impl Service {
    pub(super) async fn dump(
        self: &Arc<Self>,
        request: DumpRequest,
        deadline: Instant,
    ) -> Result<DumpReply, RpcError> {
        match request {
            DumpRequest::Begin => {
                let _one = self.dumps.making.lock().await;
                if self.dumps.open.lock().len() >= DUMPS_MAX {
                    return Ok(DumpReply::TooMany);
                }
                let taken = runtime::wall_clock();
                self.linearize(deadline).await?;
                let state = self.state.clone();
                let failed = |e: &dyn std::fmt::Display| RpcError::StoreFailed { reason: e.to_string() };
                let frozen =
                    runtime::blocking("freeze", move || state.freeze()).await.map_err(|e| failed(&e))?;
                let superblock = namespace::superblock(&frozen).map_err(|e| failed(&e))?;
                let superblock = superblock.filter(|s| s.restoring.is_none());
                let Some(superblock) = superblock else {
                    return Err(RpcError::NotReady { reason: "there is no whole state yet to dump".into() });
                };
                let stamp = DumpStamp {
                    cluster: superblock.cluster,
                    index: frozen.index(),
                    taken,
                    tally: frozen.tally(),
                };
                let block_count = u32::try_from(frozen.block_count()).map_err(|e| failed(&e))?;
                // 53 bits: enough that a number of an earlier life of this server is not met again.
                let dump = runtime::random_u64() >> 11;
                let open = Open { frozen: Arc::new(frozen), asked: runtime::now() };
                self.dumps.open.lock().insert(dump, open);
                tracing::info!(dump, index = %stamp.index, records = stamp.tally.records, "a dump begins");
                Ok(DumpReply::Begun { dump, stamp, block_count })
            }
            DumpRequest::Block { dump, number } => {
                let Some(frozen) = self.dumps.asked(dump, runtime::now()) else {
                    return Ok(DumpReply::Unknown);
                };
                let number = usize::try_from(number).unwrap_or(usize::MAX);
                let packed = runtime::blocking("read dump", move || frozen.packed(number)).await?;
                match packed {
                    Some(packed) if packed.len() > DUMP_BLOCK_LEN_MAX => Err(RpcError::Internal {
                        reason: format!("block {number} of a dump has {} bytes", packed.len()),
                    }),
                    Some(packed) => Ok(DumpReply::Block(packed)),
                    None => Ok(DumpReply::Unknown),
                }
            }
            DumpRequest::End { dump } => {
                self.dumps.open.lock().remove(&dump);
                Ok(DumpReply::Ended)
            }
        }
    }
}
