//! What crosses a socket: frames, the hello, messages, and the errors of an exchange.
//!
//! Holds: input is untrusted; every length is bounded before it is allocated. Not here: sockets (`net`), and what a
//! request leads to (`meta`, `data`).

pub mod message;
