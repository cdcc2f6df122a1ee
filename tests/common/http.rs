//! As much of HTTP/1.1 as a test needs: one GET on one connection.

use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long a server may take to answer a GET before the probe counts as failed (the caller probes again).
const ANSWER: Duration = Duration::from_secs(5);

/// Status code and body of `GET path` at `address`.
pub async fn get(address: &str, path: &str) -> Result<(u16, String), String> {
    let ask = async {
        let mut socket = TcpStream::connect(address).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = match tokio::time::timeout(ANSWER, ask).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(e)) => return Err(format!("GET {address}{path}: {e}")),
        Err(_) => return Err(format!("GET {address}{path}: no answer within {ANSWER:?}")),
    };
    let text = String::from_utf8_lossy(&answer);
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| format!("no HTTP: {text}"))?;
    let code =
        head.split(' ').nth(1).and_then(|c| c.parse().ok()).ok_or_else(|| format!("no HTTP: {head}"))?;
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    Ok((code, if chunked { unchunk(body) } else { body.to_owned() }))
}

/// The body of `GET path` as JSON; an answer that is not 200 is an error.
pub async fn get_json<T: DeserializeOwned>(address: &str, path: &str) -> Result<T, String> {
    let (code, body) = get(address, path).await?;
    if code != 200 {
        return Err(format!("GET {address}{path}: {code} {body}"));
    }
    serde_json::from_str(&body).map_err(|e| format!("GET {address}{path}: {e} in {body}"))
}

fn unchunk(mut body: &str) -> String {
    let mut out = String::new();
    while let Some((len, rest)) = body.split_once("\r\n") {
        let Ok(len @ 1..) = usize::from_str_radix(len.trim(), 16) else { break };
        let Some(chunk) = rest.get(..len) else { break };
        out.push_str(chunk);
        body = rest.get(len + 2..).unwrap_or_default();
    }
    out
}
