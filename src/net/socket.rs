//! TCP: names to addresses, connects, listeners, and the options that every socket of ours has.
//!
//! Holds: a name is resolved at every connect, because a container that comes back may have another address; a
//! peer that falls silent is noticed by the kernel (keepalive for an idle connection, user timeout for one with
//! bytes on their way).

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};

use crate::types::NodeAddress;

use super::stream::{Listener, Stream};

/// Connections that wait to be accepted. All clients of a restarted server come at once.
const BACKLOG: u32 = 1024;

async fn resolve(address: &NodeAddress) -> io::Result<Vec<SocketAddr>> {
    let found: Vec<SocketAddr> = tokio::net::lookup_host(address.0.as_str())
        .await
        .map_err(|e| io::Error::new(e.kind(), format!("cannot resolve {address}: {e}")))?
        .collect();
    if found.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, format!("{address} resolves to no address")));
    }
    Ok(found)
}

/// Connects to the first address of `address` that answers. The caller bounds the time.
pub(super) async fn connect(address: &NodeAddress, silence: Duration) -> io::Result<Stream> {
    #[cfg(feature = "simulation")]
    if let Some(connecting) = super::simulated::connect(address, silence) {
        return connecting.await.map(Stream::Simulated);
    }
    let mut last = None;
    for candidate in resolve(address).await? {
        match TcpStream::connect(candidate).await {
            Ok(stream) => {
                set_options(&stream, silence)?;
                return Ok(Stream::Tcp(stream));
            }
            Err(e) => last = Some(e),
        }
    }
    Err(last.unwrap_or_else(|| io::Error::other("no address to connect to")))
}

/// Sets the options of a connection that came in. `silence` is how long a peer may acknowledge nothing.
pub(super) fn configure(stream: &Stream, silence: Duration) -> io::Result<()> {
    match stream {
        Stream::Tcp(stream) => set_options(stream, silence),
        #[cfg(feature = "simulation")]
        Stream::Simulated(stream) => {
            stream.set_silence(silence);
            Ok(())
        }
    }
}

fn set_options(stream: &TcpStream, silence: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    // The kernel counts keepalive in whole seconds.
    let second = Duration::from_secs(1);
    let idle = silence.max(second);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(idle).with_interval(second).with_retries(3))?;
    socket.set_tcp_user_timeout(Some(silence))
}

/// Listens on the first address of `address` that can be bound.
pub(super) async fn listen(address: &NodeAddress) -> io::Result<Listener> {
    #[cfg(feature = "simulation")]
    if let Some(listening) = super::simulated::listen(address) {
        return listening.map(Listener::Simulated);
    }
    let mut last = None;
    for candidate in resolve(address).await? {
        match bind(candidate) {
            Ok(listener) => return Ok(Listener::Tcp(listener)),
            Err(e) => {
                last =
                    Some(io::Error::new(e.kind(), format!("cannot listen on {address} ({candidate}): {e}")))
            }
        }
    }
    Err(last.unwrap_or_else(|| io::Error::other(format!("{address} has no address to listen on"))))
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket =
        if address.is_ipv4() { tokio::net::TcpSocket::new_v4() } else { tokio::net::TcpSocket::new_v6() }?;
    // A server that restarts takes its port back from connections that still linger.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}
