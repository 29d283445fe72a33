//! Reading bodies: bounded in size, in time, and in how much all of them together may hold in memory.
//!
//! A body takes room as it arrives, not as it is announced: a caller that promises much and sends little holds little. The first
//! bytes of every body have a room of their own, so that a few large bodies that never end keep no small one out.

use std::{
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use axum::{
    body::{Body, BodyDataStream, HttpBody as _},
    http::HeaderMap,
};
use bytes::Bytes;
use futures_core::Stream as _;
use serde::de::DeserializeOwned;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Api, error::Problem};

/// Bytes of a body that count as its first.
const FIRST_BYTES: usize = 64 << 10;
/// What the first bytes of all bodies that are being read may hold together.
const FIRST_ROOM: usize = 64 << 20;
/// What all that follows may hold together.
const REST_ROOM: usize = 192 << 20;
/// Room is taken in pieces of so many bytes.
const PIECE: usize = 4 << 10;

/// Bytes of a body too large that are read and thrown away.
const SWALLOW_MAX: usize = 64 << 20;

/// How much the bodies in flight may hold together.
pub struct BodyRoom {
    first: Arc<Semaphore>,
    rest: Arc<Semaphore>,
}

impl Default for BodyRoom {
    fn default() -> Self {
        let of = |bytes: usize| Arc::new(Semaphore::new(bytes / PIECE));
        Self { first: of(FIRST_ROOM), rest: of(REST_ROOM) }
    }
}

/// The room that one body holds.
#[derive(Default)]
struct Held {
    first: Option<OwnedSemaphorePermit>,
    rest: Option<OwnedSemaphorePermit>,
}

impl Held {
    /// Makes it enough for `bytes`. `None`: there is no more.
    fn grow(&mut self, room: &BodyRoom, bytes: usize) -> Option<()> {
        let first = bytes.min(FIRST_BYTES);
        take(&mut self.first, &room.first, first)?;
        take(&mut self.rest, &room.rest, bytes - first)
    }
}

fn take(held: &mut Option<OwnedSemaphorePermit>, room: &Arc<Semaphore>, bytes: usize) -> Option<()> {
    let has = held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
    let missing = bytes.div_ceil(PIECE).saturating_sub(has);
    if missing > 0 {
        let more = Arc::clone(room).try_acquire_many_owned(u32::try_from(missing).ok()?).ok()?;
        match held {
            Some(held) => held.merge(more),
            None => *held = Some(more),
        }
    }
    Some(())
}

/// Reads a body whole, or says why not.
pub async fn read(api: &Api, headers: &HeaderMap, body: Body) -> Result<Bytes, Problem> {
    let limit = api.body_bytes_max;
    let too_large = || {
        Problem::body_too_large(format!("the body is larger than {}, which is the limit (limits.body_bytes_max)", size(limit)))
    };
    let announced = headers.get(http::header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|bytes| bytes > limit) {
        swallow(&mut pin!(body.into_data_stream())).await;
        return Err(too_large());
    }
    let mut held = Held::default();
    let reading = async {
        let mut frames = pin!(body.into_data_stream());
        let Some(first) = next(&mut frames).await? else { return Ok(Bytes::new()) };
        let mut whole = Whole::First(first);
        loop {
            let length = whole.as_slice().len();
            if length > limit {
                drop(whole);
                swallow(&mut frames).await;
                return Err(too_large());
            }
            held.grow(&api.body_room, length).ok_or_else(no_room)?;
            match next(&mut frames).await? {
                Some(frame) => whole.push(&frame),
                None => return Ok(whole.into_bytes()),
            }
        }
    };
    let time = api.body_time_max;
    tokio::time::timeout(time, reading).await.unwrap_or_else(|_| {
        let seconds = time.as_secs_f32();
        Err(Problem::request_timeout(format!("the body did not arrive within {seconds} s (limits.body_time_max)")))
    })
}

fn size(bytes: usize) -> String {
    let mib = bytes >> 20;
    if mib << 20 == bytes { format!("{mib} MiB") } else { format!("{bytes} bytes") }
}

fn no_room() -> Problem {
    let all = (FIRST_ROOM + REST_ROOM) >> 20;
    Problem::come_back(format!("bodies of {all} MiB together are being received at this moment; try again in a second"))
}

async fn next(frames: &mut Pin<&mut BodyDataStream>) -> Result<Option<Bytes>, Problem> {
    let frame = std::future::poll_fn(|context| frames.as_mut().poll_next(context)).await;
    frame.transpose().map_err(|_| Problem::bad_request("the body could not be read to its end"))
}

/// What has arrived so far. Most bodies are one piece, which is not copied.
enum Whole {
    First(Bytes),
    Many(Vec<u8>),
}

impl Whole {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::First(bytes) => bytes,
            Self::Many(bytes) => bytes,
        }
    }

    fn push(&mut self, more: &[u8]) {
        match self {
            Self::First(first) => *self = Self::Many([&**first, more].concat()),
            Self::Many(bytes) => bytes.extend_from_slice(more),
        }
    }

    fn into_bytes(self) -> Bytes {
        match self {
            Self::First(bytes) => bytes,
            Self::Many(bytes) => bytes.into(),
        }
    }
}

/// Lets a caller finish sending what is refused, so that it reads the answer instead of finding its connection broken: up to a
/// point.
async fn swallow(frames: &mut Pin<&mut BodyDataStream>) {
    let swallowing = async {
        let mut bytes = 0;
        while let Ok(Some(frame)) = next(frames).await {
            bytes += frame.len();
            if bytes > SWALLOW_MAX {
                return;
            }
        }
    };
    // Either way the answer follows.
    let _ = tokio::time::timeout(Duration::from_secs(5), swallowing).await;
}

/// Reads a JSON body into a value; what does not fit is told in words, with `wrong` choosing the problem.
pub async fn json<T: DeserializeOwned>(
    api: &Api,
    headers: &HeaderMap,
    body: Body,
    wrong: fn(String) -> Problem,
) -> Result<T, Problem> {
    if body.is_end_stream() {
        return Err(Problem::bad_json("the body is empty; send a JSON object"));
    }
    let bytes = read(api, headers, body).await?;
    parse(&bytes, wrong)
}

/// As [`json`], of a body that may be missing.
pub async fn optional_json<T: DeserializeOwned>(
    api: &Api,
    headers: &HeaderMap,
    body: Body,
    wrong: fn(String) -> Problem,
) -> Result<Option<T>, Problem> {
    let bytes = read(api, headers, body).await?;
    if bytes.is_empty() { Ok(None) } else { parse(&bytes, wrong) }
}

fn parse<T: DeserializeOwned>(bytes: &[u8], wrong: fn(String) -> Problem) -> Result<T, Problem> {
    serde_json::from_slice(bytes)
        .map_err(|error| if error.is_data() { wrong(plain(&error)) } else { Problem::bad_json(error.to_string()) })
}

/// A serde message without its position, which means nothing to someone who sent one object.
fn plain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_bodies_leave_small_ones_their_room() {
        let room = BodyRoom::default();
        let mut large = Vec::new();
        loop {
            let mut held = Held::default();
            if held.grow(&room, 8 << 20).is_none() {
                break;
            }
            large.push(held);
        }
        assert_eq!(large.len(), 24, "bodies of 8 MiB");
        let mut small = Held::default();
        small.grow(&room, FIRST_BYTES).expect("a small body");
        assert!(small.grow(&room, 4 << 20).is_none(), "there is no room for more of it");
        large.pop();
        small.grow(&room, 4 << 20).expect("now there is");
        drop((large, small));
        assert_eq!(room.first.available_permits() * PIECE, FIRST_ROOM);
        assert_eq!(room.rest.available_permits() * PIECE, REST_ROOM);
    }

    #[test]
    fn a_body_takes_room_as_it_arrives() {
        let room = BodyRoom::default();
        let mut held = Held::default();
        for bytes in [1, 100, PIECE, PIECE + 1] {
            held.grow(&room, bytes).unwrap();
            assert_eq!(room.first.available_permits(), FIRST_ROOM / PIECE - bytes.div_ceil(PIECE));
        }
    }
}
