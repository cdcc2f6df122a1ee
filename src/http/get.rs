//! One GET over HTTP/1.1, for the health command and for tests: no keep-alive, no redirect, no TLS, bounded.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::runtime;

/// Longest answer that is read: the metrics of a large server, with room.
const ANSWER_LEN_MAX: u64 = 16 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum GetError {
    /// Nobody answers there.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// Where.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// The connection broke.
    #[error("connection to {address} broke: {source}")]
    Broken {
        /// Where.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// It takes too long.
    #[error("no answer from {address} within {} ms", .after.as_millis())]
    TimedOut {
        /// Where.
        address: String,
        /// How long it waited.
        after: Duration,
    },
    /// What came is no answer of HTTP.
    #[error("{address} does not speak HTTP")]
    NotHttp {
        /// Where.
        address: String,
    },
}

/// Status code and body of `GET target` at `address` (HOST:PORT).
///
/// # Errors
/// [`GetError`]; a status code other than 200 is no error.
pub async fn get(address: &str, target: &str, timeout: Duration) -> Result<(u16, Vec<u8>), GetError> {
    runtime::timeout(timeout, exchange(address, target))
        .await
        .unwrap_or_else(|_| Err(GetError::TimedOut { address: address.to_owned(), after: timeout }))
}

async fn exchange(address: &str, target: &str) -> Result<(u16, Vec<u8>), GetError> {
    let connect = |source| GetError::Connect { address: address.to_owned(), source };
    let broken = |source| GetError::Broken { address: address.to_owned(), source };
    let mut stream = TcpStream::connect(address).await.map_err(connect)?;
    let request = format!("GET {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(broken)?;
    let mut answer = Vec::new();
    stream.take(ANSWER_LEN_MAX).read_to_end(&mut answer).await.map_err(broken)?;
    parse(&answer).ok_or_else(|| GetError::NotHttp { address: address.to_owned() })
}

/// `HTTP/1.1 200 OK`, headers, an empty line, the body up to the end of the connection. Our own servers send a length,
/// never chunks.
fn parse(answer: &[u8]) -> Option<(u16, Vec<u8>)> {
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let code = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    Some((code, answer[end + 4..].to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_parsed_and_nonsense_is_not() {
        assert_eq!(parse(b"HTTP/1.1 503 No\r\nA: b\r\n\r\n{}"), Some((503, b"{}".to_vec())));
        assert_eq!(parse(b"POHM\0\0\0\0"), None);
        assert_eq!(parse(b"HTTP/1.1 abc\r\n\r\n"), None);
        assert_eq!(parse(b""), None);
    }
}
