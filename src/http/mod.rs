//! Status over HTTP: health, readiness, status of server and cluster, lookup, metrics, two pages.
//!
//! `cli` starts one [`HttpServer`] beside each role. Everything is read-only and sees the role through
//! [`StatusSource`] alone. Holds: bounded connections, requests at once, lengths and times; whatever a stranger sends here
//! leaves the role's own service alone. Not here: what the numbers mean (`wire::status`).

mod answer;
mod api;
mod docs;
mod get;
mod listener;
mod metrics;
mod page;

pub use api::openapi;
pub use get::{GetError, get};
pub use metrics::install as install_metrics;
pub use metrics_exporter_prometheus::PrometheusHandle;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::runtime::Tasks;
use crate::wire::status::StatusSource;

/// The HTTP server of one role.
#[derive(Debug)]
pub struct HttpServer {
    address: SocketAddr,
    tasks: Tasks,
}

impl HttpServer {
    /// Listens on `listen` (IP:PORT; port 0: any free one) and answers from `source`. Without `metrics`, `/metrics` has
    /// only what the status tells.
    ///
    /// # Errors
    /// When it cannot listen there.
    pub async fn start(
        listen: &str,
        source: Arc<dyn StatusSource>,
        metrics: Option<PrometheusHandle>,
    ) -> io::Result<Self> {
        let listener = listener::Bounded::bind(listen).await?;
        let address = listener.address();
        let router = api::router(source, metrics);
        let tasks = Tasks::new();
        let stopping = tasks.stopping();
        tasks.spawn("http", async move {
            let served = axum::serve(listener, router)
                .with_graceful_shutdown(async move { stopping.stopped().await })
                .await;
            if let Err(error) = served {
                tracing::error!(%error, "http server ended");
            }
        });
        tracing::info!(address = %address, "http listens");
        Ok(Self { address, tasks })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets requests in flight end, for a bounded time, and closes.
    pub async fn stop(&self) {
        self.tasks.stop().await;
    }
}

#[cfg(test)]
mod tests;
