//! The part of HTTP/1.1 that the load generator and the sink need: messages with a `content-length`, one after another on a
//! keep-alive connection.
//!
//! Written by hand because it shares the processors with the measured program: every microsecond spent here slows that program down.

use std::io;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// A keep-alive connection.
pub struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// Length of the last message that was read. Its bytes are dropped when the next message is read.
    taken: usize,
}

impl Wire {
    pub fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(8 << 10), taken: 0 })
    }

    pub async fn write(&mut self, message: &[u8]) -> io::Result<()> {
        self.stream.write_all(message).await
    }

    /// Reads the next message: its head and its body. Returns `None` when the other side closed between two messages.
    pub async fn read(&mut self) -> io::Result<Option<(&[u8], &[u8])>> {
        self.buffer.drain(..self.taken);
        self.taken = 0;
        let head = loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                break at + 4;
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        };
        let whole = head + content_length(&self.buffer[..head]);
        while self.buffer.len() < whole {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        self.taken = whole;
        Ok(Some((&self.buffer[..head], &self.buffer[head..whole])))
    }
}

/// Returns the length of the body. Every measured server sends it, in a header with a lower-case name like
/// current HTTP libraries.
fn content_length(head: &[u8]) -> usize {
    find(head, b"content-length: ").map_or(0, |at| number(&head[at + 16..]))
}

/// Returns the number at the start of a text.
pub fn number(text: &[u8]) -> usize {
    text.iter().take_while(|byte| byte.is_ascii_digit()).fold(0, |value, byte| value * 10 + usize::from(byte - b'0'))
}

pub fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}
