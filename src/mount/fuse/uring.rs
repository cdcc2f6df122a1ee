//! FUSE over io_uring.

use std::sync::Arc;

use super::device::Device;
use super::filesystem::Filesystem;
use super::options::Options;
use super::serve::Server;
use crate::runtime::Handle;

/// The rings of a mount.
pub struct Rings {}

impl Rings {
    /// Makes them.
    pub fn prepare(_options: &Options) -> Result<Self, String> {
        Err("this build has none".to_owned())
    }

    /// Starts them.
    pub fn start<F: Filesystem>(
        self,
        _device: &Device,
        _server: &Arc<Server<F>>,
        _io_len_max: u32,
        _handle: &Handle,
    ) -> Result<Self, String> {
        Ok(self)
    }

    /// Ends them.
    pub fn stop(&self) {}
}
