//! Limits the total size of large answers that callers have not read yet, over all connections.
//!
//! An answer with an event's data may be as large as a request body, and a caller may read it as slowly as `connections.rs`
//! allows. So an answer of more than [`SMALL_BYTES_MAX`] reserves memory until the connection has received its last piece. If no
//! memory is left, the caller gets `503 overloaded`. Smaller answers are bounded by the number of connections.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::{
    body::{Body, HttpBody},
    extract::{Request, State},
    http::header::{CONTENT_DISPOSITION, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::Problem;
use crate::domain::content::JSON;

/// Answers up to this many bytes need no reservation. A list of a hundred summaries is smaller.
const SMALL_BYTES_MAX: u64 = 64 << 10;
/// Maximum memory of all larger answers together. There is room for a dozen events with the largest data that the engine accepts by
/// default.
const ROOM_BYTES: usize = 128 << 20;
/// Size of the pieces in which memory is reserved and an answer is passed to its connection, in bytes. A connection takes the
/// next piece once the caller has read most of the previous one.
const PIECE: usize = 64 << 10;

/// Writes an answer as JSON, in a buffer of exactly its size. The buffer stays in memory until the caller has read the answer,
/// and a buffer that grows during writing may end up twice as large as needed.
pub fn json(value: &impl Serialize) -> Response {
    let text = serde_json::to_vec(value).expect("a view is JSON");
    ([(CONTENT_TYPE, JSON)], Bytes::copy_from_slice(&text)).into_response()
}

/// Returns an answer that consists of untrusted bytes. A browser must not render them as a page of the engine.
pub fn bytes(body: Bytes) -> Response {
    let headers = [
        (CONTENT_TYPE, "application/octet-stream"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (CONTENT_DISPOSITION, "attachment; filename=\"body\""),
    ];
    (headers, body).into_response()
}

/// The memory that all large answers share.
#[derive(Clone)]
pub struct AnswerRoom(Arc<Semaphore>);

impl Default for AnswerRoom {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(ROOM_BYTES / PIECE)))
    }
}

impl AnswerRoom {
    /// Reserves memory for an answer, or refuses it.
    fn admit(&self, answer: Response) -> Response {
        // An answer of unknown length is produced piece by piece, so it needs no reservation.
        let bytes = answer.body().size_hint().upper().unwrap_or(0);
        if bytes <= SMALL_BYTES_MAX {
            return answer;
        }
        // An answer larger than the whole budget reserves all of the budget.
        let pieces = usize::try_from(bytes).unwrap_or(usize::MAX).min(ROOM_BYTES).div_ceil(PIECE);
        let pieces = u32::try_from(pieces).expect("all pieces together fit");
        match Arc::clone(&self.0).try_acquire_many_owned(pieces) {
            Ok(room) => answer.map(|body| Body::new(Roomy { body, rest: Bytes::new(), _room: room })),
            Err(_) => Problem::come_back(format!(
                "answers of {} MiB together wait for callers that do not read them; try again in a second",
                ROOM_BYTES >> 20
            ))
            .into_response(),
        }
    }
}

/// Reserves memory for each answer of the routes that this layer wraps.
pub async fn bound(State(room): State<AnswerRoom>, request: Request, next: Next) -> Response {
    room.admit(next.run(request).await)
}

/// The body of a large answer, in pieces. Its memory is free again once the connection has dropped the body.
struct Roomy {
    body: Body,
    /// The rest of the frame that was read last.
    rest: Bytes,
    _room: OwnedSemaphorePermit,
}

impl HttpBody for Roomy {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(context)).map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => self.rest = data,
                Some(Ok(Err(trailers))) => return Poll::Ready(Some(Ok(trailers))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
        let bytes = self.rest.len().min(PIECE);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(bytes)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (behind, rest) = (self.body.size_hint(), self.rest.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(behind.lower() + rest);
        if let Some(upper) = behind.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;

    use super::*;

    fn answer(bytes: usize) -> Response {
        Body::from(vec![b'x'; bytes]).into_response()
    }

    #[tokio::test]
    async fn a_large_answer_holds_room_until_it_is_taken_and_arrives_whole() {
        let room = AnswerRoom::default();
        let all = room.0.available_permits();
        for (bytes, pieces) in [(0, 0), (64 << 10, 0), ((64 << 10) + 1, 2), (8 << 20, 128), (ROOM_BYTES + 1, all)] {
            let answer = room.admit(answer(bytes));
            assert_eq!((answer.status(), all - room.0.available_permits()), (StatusCode::OK, pieces), "{bytes} bytes");
            assert_eq!(answer.body().size_hint().exact(), Some(bytes as u64));
            let taken = axum::body::to_bytes(answer.into_body(), usize::MAX).await.expect("a whole answer");
            assert_eq!((taken.len(), room.0.available_permits()), (bytes, all));
        }
    }

    #[tokio::test]
    async fn a_connection_gets_a_large_answer_in_pieces_and_the_length_that_is_left() {
        let mut body = AnswerRoom::default().admit(answer(3 * PIECE - 1)).into_body();
        for left in [2 * PIECE - 1, PIECE - 1, 0] {
            let frame = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await;
            assert!(frame.expect("a piece").expect("without an error").data_ref().expect("of data").len() <= PIECE);
            assert_eq!((body.size_hint().exact(), body.is_end_stream()), (Some(left as u64), left == 0));
        }
    }

    #[tokio::test]
    async fn a_large_answer_without_room_is_refused_and_a_small_one_is_not() {
        let room = AnswerRoom::default();
        let held: Vec<_> = (0..16).map(|_| room.admit(answer(8 << 20))).collect();
        let refused = room.admit(answer(8 << 20));
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(refused.headers().contains_key("retry-after"));
        assert_eq!(room.admit(answer(64 << 10)).status(), StatusCode::OK);
        drop(held);
        assert_eq!(room.admit(answer(8 << 20)).status(), StatusCode::OK);
    }
}
