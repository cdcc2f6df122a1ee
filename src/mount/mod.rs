//! The mount: POHMELFS as a filesystem of the kernel.
//!
//! `fuse` speaks with the kernel, `fs` answers it with calls of the client library, `service` puts both together; `table` and
//! `status` are for who looks at a mount from outside. Called by the command line.
//! Not here: what a lookup or a write means to the cluster, which is the business of `client`.

pub mod fs;
pub mod fuse;
pub mod service;
pub mod status;
pub mod table;
