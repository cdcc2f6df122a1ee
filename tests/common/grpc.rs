//! As much of gRPC over HTTP/2 as a load for etcd needs: its messages are a few bytes each, put together by hand.
//!
//! Used by `benches/etcd.rs` and `tests/pauses`. Not here: what is measured.
#![allow(dead_code, reason = "each user takes its part")]

use bytes::{BufMut, Bytes, BytesMut};
use http::Request;
use tokio::net::TcpStream;

pub use h2::client::SendRequest;

pub const PUT: &str = "/etcdserverpb.KV/Put";
pub const RANGE: &str = "/etcdserverpb.KV/Range";

/// A connection to a server.
pub async fn connect(address: &str) -> Result<SendRequest<Bytes>, String> {
    let socket = TcpStream::connect(address).await.map_err(|e| format!("{address}: {e}"))?;
    socket.set_nodelay(true).map_err(|e| format!("{address}: {e}"))?;
    let (send, connection) = h2::client::handshake(socket).await.map_err(|e| format!("{address}: {e}"))?;
    // Its end is told to whoever calls over it.
    tokio::spawn(async move { drop(connection.await) });
    Ok(send)
}

fn varint(out: &mut BytesMut, mut number: u64) {
    while number >= 0x80 {
        out.put_u8(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.put_u8(number.to_le_bytes()[0]);
}

/// Field `number` with these bytes (protobuf wire type 2).
pub fn field(out: &mut BytesMut, number: u8, bytes: &[u8]) {
    out.put_u8(number << 3 | 2);
    varint(out, bytes.len() as u64);
    out.put_slice(bytes);
}

/// One call: the bytes of its answer, if its status is 0.
pub async fn call(send: &SendRequest<Bytes>, path: &str, message: &[u8]) -> Result<Bytes, String> {
    let mut body = BytesMut::with_capacity(message.len() + 5);
    body.put_u8(0);
    body.put_u32(u32::try_from(message.len()).map_err(|e| e.to_string())?);
    body.put_slice(message);
    let request = Request::post(format!("http://etcd{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .map_err(|e| e.to_string())?;
    let mut send = send.clone().ready().await.map_err(|e| e.to_string())?;
    let (response, mut stream) = send.send_request(request, false).map_err(|e| e.to_string())?;
    stream.send_data(body.freeze(), true).map_err(|e| e.to_string())?;
    let mut response = response.await.map_err(|e| e.to_string())?;
    let mut answer = BytesMut::new();
    while let Some(data) = response.body_mut().data().await {
        let data = data.map_err(|e| e.to_string())?;
        answer.extend_from_slice(&data);
        response.body_mut().flow_control().release_capacity(data.len()).map_err(|e| e.to_string())?;
    }
    let trailers = response.body_mut().trailers().await.map_err(|e| e.to_string())?;
    let trailers = trailers.unwrap_or_else(|| response.headers().clone());
    match trailers.get("grpc-status").map(|status| status.as_bytes()) {
        // In front: one byte, and the length.
        Some(b"0") if answer.len() >= 5 => Ok(answer.freeze().split_off(5)),
        _ => Err(format!("{path}: {trailers:?}")),
    }
}

/// The number in field `wanted` of a message (wire type 0).
pub fn number(message: &[u8], wanted: u8) -> Option<u64> {
    find(message, wanted).and_then(|found| found.ok())
}

/// The message in field `wanted` of a message (wire type 2).
pub fn inner(message: &[u8], wanted: u8) -> Option<&[u8]> {
    find(message, wanted).and_then(|found| found.err())
}

/// A message with one number, in field `field`.
pub fn with_number(field: u8, number: u64) -> BytesMut {
    let mut out = BytesMut::new();
    out.put_u8(field << 3);
    varint(&mut out, number);
    out
}

fn find(mut rest: &[u8], wanted: u8) -> Option<Result<u64, &[u8]>> {
    while !rest.is_empty() {
        let key = read_varint(&mut rest)?;
        let found = match key & 7 {
            0 => Ok(read_varint(&mut rest)?),
            2 => {
                let len = usize::try_from(read_varint(&mut rest)?).ok()?;
                let bytes = rest.get(..len)?;
                rest = &rest[len..];
                Err(bytes)
            }
            _ => return None,
        };
        if key >> 3 == u64::from(wanted) {
            return Some(found);
        }
    }
    None
}

fn read_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, behind) = rest.split_first()?;
        *rest = behind;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}
