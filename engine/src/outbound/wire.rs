//! Observes one connection below the HTTP library: whether anything of a request was sent, and which status was received.
//!
//! The library discards both when an exchange fails. A receiver may answer (with `413` or `401`, for example) and close the
//! connection before it has read the request. Then writing fails first, although the answer can still be read. So a failed write
//! is not reported while reading may still give the answer. The status line is parsed here, so that a status counts even if the
//! data after it is faulty.

use std::{
    io,
    mem::MaybeUninit,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU16, Ordering},
    },
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// Observations of the current exchange of a connection.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Whether the connection has served an earlier exchange.
    kept: AtomicBool,
    sent: AtomicBool,
    /// 0 means none.
    status: AtomicU16,
    line: Mutex<StatusLine>,
}

impl Seen {
    /// Starts the next exchange. Call it only while the connection is idle.
    pub(super) fn begin(&self, kept: bool) {
        self.kept.store(kept, Ordering::Relaxed);
        self.sent.store(false, Ordering::Relaxed);
        self.status.store(0, Ordering::Relaxed);
        *self.line() = StatusLine::default();
    }

    /// Returns whether the system accepted a byte of the request for sending.
    pub(super) fn sent(&self) -> bool {
        self.sent.load(Ordering::Relaxed)
    }

    /// Returns the status of the answer. The answer may be incomplete.
    pub(super) fn status(&self) -> Option<u16> {
        Some(self.status.load(Ordering::Relaxed)).filter(|status| *status != 0)
    }

    fn line(&self) -> MutexGuard<'_, StatusLine> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, bytes: &[u8]) {
        if let Some(status) = self.line().read(bytes) {
            self.status.store(status, Ordering::Relaxed);
        }
    }
}

/// Finds the status of the final answer in HTTP/1. Skips interim answers (`100`, `103`). The bytes may be divided into reads at
/// any place.
#[derive(Debug)]
enum StatusLine {
    /// The first bytes of an answer: `HTTP/1.1 200` and the byte after it.
    Begun { bytes: [u8; StatusLine::BYTES], length: usize },
    /// In the head of an interim answer. `line_is_empty` tells whether the current line is empty so far.
    Interim { line_is_empty: bool },
    /// The status is known, or this is not HTTP.
    Done,
}

impl Default for StatusLine {
    fn default() -> Self {
        Self::Begun { bytes: [0; Self::BYTES], length: 0 }
    }
}

impl StatusLine {
    const BYTES: usize = "HTTP/1.1 200 ".len();

    fn read(&mut self, bytes: &[u8]) -> Option<u16> {
        for byte in bytes {
            match self {
                // Empty lines before an answer are left over from an earlier answer.
                Self::Begun { length: 0, .. } if matches!(byte, b'\r' | b'\n') => {}
                Self::Begun { bytes, length } => {
                    bytes[*length] = *byte;
                    *length += 1;
                    if *length == Self::BYTES {
                        let status = status(bytes);
                        // 101 is final: the other side changes the protocol.
                        let interim = status.is_some_and(|status| status < 200 && status != 101);
                        if !interim {
                            *self = Self::Done;
                            return status;
                        }
                        *self = Self::Interim { line_is_empty: *byte == b'\n' };
                    }
                }
                Self::Interim { line_is_empty: true } if *byte == b'\n' => *self = Self::default(),
                Self::Interim { line_is_empty } => *line_is_empty = *byte == b'\n' || *line_is_empty && *byte == b'\r',
                Self::Done => return None,
            }
        }
        None
    }
}

/// Parses the status in `HTTP/1.1 200` before a blank or the end of the line.
fn status(line: &[u8; StatusLine::BYTES]) -> Option<u16> {
    let [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'0'..=b'9', b' ', digits @ .., b' ' | b'\r' | b'\n'] = line else {
        return None;
    };
    let number =
        digits.iter().try_fold(0, |number, digit| digit.is_ascii_digit().then(|| number * 10 + u16::from(digit - b'0')))?;
    (100..1000).contains(&number).then_some(number)
}

/// A TCP connection whose other side may stop reading before it answers.
pub(super) struct Socket {
    stream: TcpStream,
    seen: Arc<Seen>,
    /// Whether it carries TLS, whose peer may send data before any request.
    encrypted: bool,
    /// The other side has stopped reading. Data that it sent earlier can still be read.
    deaf: bool,
}

impl Socket {
    pub(super) fn new(stream: TcpStream, seen: Arc<Seen>, encrypted: bool) -> Self {
        Self { stream, seen, encrypted, deaf: false }
    }

    fn write(
        &mut self,
        length: usize,
        write: impl FnOnce(Pin<&mut TcpStream>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if self.deaf {
            return Poll::Ready(Ok(length));
        }
        let unsent = self.seen.kept.load(Ordering::Relaxed) && !self.seen.sent();
        if unsent && self.was_closed() {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        }
        match ready!(write(Pin::new(&mut self.stream))) {
            Ok(written) => {
                self.seen.sent.store(true, Ordering::Relaxed);
                Poll::Ready(Ok(written))
            }
            Err(error) if !unsent && is_broken(&error) => {
                self.deaf = true;
                Poll::Ready(Ok(length))
            }
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    /// Returns whether the other side has closed a keep-alive connection that is not yet reused. Asks the system, because the
    /// runtime may not have noticed yet.
    fn was_closed(&self) -> bool {
        let mut byte = [MaybeUninit::uninit()];
        match socket2::SockRef::from(&self.stream).peek(&mut byte) {
            Ok(0) => true,
            // Without TLS, no data may arrive before a request. If some has arrived, the connection cannot be used.
            Ok(_) => !self.encrypted,
            Err(error) => !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted),
        }
    }
}

fn is_broken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted)
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.write(bytes.len(), |stream| stream.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length = parts.iter().map(|part| part.len()).sum();
        self.write(length, |stream| stream.poll_write_vectored(context, parts))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.deaf { Poll::Ready(Ok(())) } else { Pin::new(&mut self.stream).poll_shutdown(context) }
    }
}

/// Reads the plain text of a connection that carries HTTP/1, and parses the status lines in it.
///
/// If TLS ends without `close_notify`, that counts as the end of the data. Many servers end this way, and HTTP shows whether an
/// answer is complete.
pub(super) struct Overheard<T> {
    stream: T,
    seen: Arc<Seen>,
}

impl<T> Overheard<T> {
    pub(super) fn new(stream: T, seen: Arc<Seen>) -> Self {
        Self { stream, seen }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Overheard<T> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        match ready!(Pin::new(&mut self.stream).poll_read(context, buffer)) {
            Ok(()) => self.seen.read(&buffer.filled()[before..]),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            Err(error) => return Poll::Ready(Err(error)),
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Overheard<T> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_status_in_pieces_of_any_size() {
        for (answer, status) in [
            ("HTTP/1.1 200 OK\r\n\r\n", Some(200)),
            ("HTTP/1.0 404\r\n", Some(404)),
            ("HTTP/1.1 410\n", Some(410)),
            ("\r\n\r\nHTTP/1.1 204 No Content\r\n", Some(204)),
            ("HTTP/1.1 999 What\r\n", Some(999)),
            ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n", Some(200)),
            ("HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 102 P\n\nHTTP/1.1 500 Oh\r\n", Some(500)),
            ("HTTP/1.1 101 Switching Protocols\r\n\r\n", Some(101)),
            ("HTTP/1.1 103 Early Hints\r\n", None),
            ("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 20", None),
            ("HTTP/1.1 200", None),
            ("HTTP/1.1 2000 OK\r\n", None),
            ("HTTP/1.1 099 OK\r\n", None),
            ("HTTP/1.1  200 OK\r\n", None),
            ("HTTP/2.0 200 OK\r\n", None),
            ("220 mail.example ESMTP ready\r\n", None),
            ("", None),
        ] {
            for size in [1, 2, 3, 7, 1000] {
                let seen = Seen::default();
                answer.as_bytes().chunks(size).for_each(|part| seen.read(part));
                assert_eq!(seen.status(), status, "{answer:?} in parts of {size}");
            }
        }
    }

    #[test]
    fn ignores_data_after_the_status_and_resets_for_the_next_exchange() {
        let seen = Seen::default();
        seen.read(b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 500 Oh\r\n\r\n");
        seen.read(b"HTTP/1.1 500 Oh\r\n\r\n");
        assert_eq!(seen.status(), Some(200));
        seen.begin(true);
        assert_eq!((seen.status(), seen.sent()), (None, false));
        seen.read(b"HTTP/1.1 500 Oh\r\n\r\n");
        assert_eq!(seen.status(), Some(500));
    }
}
