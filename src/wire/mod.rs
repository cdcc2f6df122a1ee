//! What crosses a socket: frames, the hello, messages, and the errors of an exchange.
//!
//! Holds: input is untrusted; every length is bounded before it is allocated. Not here: sockets (`net`), and what a
//! request leads to (`meta`, `data`).

pub mod dump;
mod error;
pub mod frame;
mod hello;
pub mod members;
pub mod message;
pub mod metric;
mod program;
pub mod status;

#[cfg(test)]
pub(crate) use error::tests::one_of_each as error_samples;
pub use error::{Applied, RpcError};
pub use hello::{
    Class, Greeting, HELLO_NAME_LEN_MAX, Hello, PROTOCOL_VERSION, PROTOCOL_VERSION_FIRST, Role, VersionRange,
};
pub use program::{PROGRAM_VERSION_LEN_MAX, Program};
