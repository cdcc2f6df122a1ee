//! The roles behind one small trait, so that one loop runs them all.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;

use crate::config::{DataConfig, MetaConfig};
use crate::data::DataServer;
use crate::meta::MetaServer;
use crate::wire::status::StatusSource;

/// A server that runs.
pub(super) trait Role: Send + Sync {
    /// What it tells of itself.
    fn source(&self) -> Arc<dyn StatusSource>;

    /// Returns, with the reason, when it cannot go on.
    fn failed(&self) -> BoxFuture<'_, String>;

    /// Stops gracefully, within a bounded time.
    fn stop(self: Box<Self>) -> BoxFuture<'static, ()>;
}

/// Starts a metadata server; an error says what and what to do.
pub(super) fn start_meta(config: MetaConfig) -> BoxFuture<'static, Result<Box<dyn Role>, String>> {
    async move {
        let server = MetaServer::start(config).await.map_err(|e| e.to_string())?;
        Ok(Box::new(server) as Box<dyn Role>)
    }
    .boxed()
}

impl Role for MetaServer {
    fn source(&self) -> Arc<dyn StatusSource> {
        self.status_source()
    }

    fn failed(&self) -> BoxFuture<'_, String> {
        async move { Self::failed(self).await.to_string() }.boxed()
    }

    fn stop(self: Box<Self>) -> BoxFuture<'static, ()> {
        async move { Self::stop(*self).await }.boxed()
    }
}

/// Starts a data server; an error says what and what to do.
pub(super) fn start_data(config: DataConfig) -> BoxFuture<'static, Result<Box<dyn Role>, String>> {
    async move {
        let server = DataServer::start(config).await.map_err(|e| e.to_string())?;
        Ok(Box::new(server) as Box<dyn Role>)
    }
    .boxed()
}

impl Role for DataServer {
    fn source(&self) -> Arc<dyn StatusSource> {
        self.status_source()
    }

    /// Never: a data server whose directories fail goes on with those that are left, and says so in its status.
    fn failed(&self) -> BoxFuture<'_, String> {
        futures::future::pending().boxed()
    }

    fn stop(self: Box<Self>) -> BoxFuture<'static, ()> {
        async move { Self::stop(*self).await }.boxed()
    }
}
