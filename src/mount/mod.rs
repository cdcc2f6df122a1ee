//! The mount: POHMELFS as a filesystem of the kernel.
//!
//! `fuse` speaks with the kernel. Called by the command line.
//! Not here: what a lookup or a write means to the cluster, which is the business of `client`.

pub mod fuse;
