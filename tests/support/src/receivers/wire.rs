//! The part of HTTP/1.1 that a receiver needs. It reads requests whose bodies have a length or come in chunks, and writes answers
//! with a length.

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt};

pub struct WireRequest {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
}

/// Reads the head of one request; later bytes stay in `buffer`. Returns `None` if the other side closed before the end of the head.
pub async fn read_head(stream: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>) -> Option<String> {
    let head_end = loop {
        if let Some(at) = find(buffer, b"\r\n\r\n") {
            break at + 4;
        }
        more(stream, buffer).await?;
    };
    let head = String::from_utf8_lossy(&buffer[..head_end]).into_owned();
    buffer.drain(..head_end);
    Some(head)
}

/// Reads one request; later bytes stay in `buffer`. Returns `None` if the other side closed or did not send HTTP.
pub async fn read_request(stream: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>) -> Option<WireRequest> {
    let head = read_head(stream, buffer).await?;
    let mut lines = head.split("\r\n");
    let mut first = lines.next()?.split(' ');
    let (method, path) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers: Vec<(String, String)> =
        lines.filter_map(|line| line.split_once(':')).map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect();
    let value = |name: &str| headers.iter().find(|(each, _)| each.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str());
    let body = match (value("transfer-encoding"), value("content-length")) {
        (Some(_), _) => chunks(stream, buffer).await?,
        (None, Some(length)) => take(stream, buffer, length.parse().ok()?).await?,
        (None, None) => Vec::new(),
    };
    Some(WireRequest { method, path, headers, body: body.into() })
}

pub fn answer(status: u16, headers: &[(String, String)], body: &[u8]) -> Vec<u8> {
    let mut text = format!("HTTP/1.1 {status} Status\r\n");
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    if status != 204 && status != 304 {
        text += &format!("content-length: {}\r\n", body.len());
    }
    text += "\r\n";
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

async fn chunks(stream: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line_end = loop {
            if let Some(at) = find(buffer, b"\r\n") {
                break at;
            }
            more(stream, buffer).await?;
        };
        let length = usize::from_str_radix(String::from_utf8_lossy(&buffer[..line_end]).trim(), 16).ok()?;
        buffer.drain(..line_end + 2);
        body.extend(take(stream, buffer, length).await?);
        take(stream, buffer, 2).await?;
        if length == 0 {
            return Some(body);
        }
    }
}

async fn take(stream: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>, length: usize) -> Option<Vec<u8>> {
    while buffer.len() < length {
        more(stream, buffer).await?;
    }
    Some(buffer.drain(..length).collect())
}

async fn more(stream: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>) -> Option<()> {
    match stream.read_buf(buffer).await {
        Ok(0) | Err(_) => None,
        Ok(_) => Some(()),
    }
}

fn find(buffer: &[u8], pattern: &[u8]) -> Option<usize> {
    buffer.windows(pattern.len()).position(|window| window == pattern)
}
