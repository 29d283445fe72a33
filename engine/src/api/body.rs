//! Reads bodies within limits of size, time and total memory.
//!
//! A body reserves memory as it arrives, not as it is announced: a caller that announces a large body and sends little of it
//! holds little memory. The first bytes of every body have a separate budget, so that a few large bodies that never end do not
//! block small ones.

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
use serde::{
    Deserialize as _, Deserializer,
    de::{DeserializeOwned, Error as _},
};
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use super::{
    Api,
    error::Problem,
    heavy::{self, Heavy},
};

/// Number of bytes that count as the first part of a body.
const FIRST_BYTES: usize = 64 << 10;
/// Maximum memory for the first parts of all bodies that are being read.
const FIRST_ROOM: usize = 64 << 20;
/// Maximum memory for the later parts of all bodies that are being read.
const REST_ROOM: usize = 192 << 20;
/// Size of the pieces in which memory is reserved, in bytes.
const PIECE: usize = 4 << 10;

/// Maximum size of the body of a management request (everything but events and settings of plugins). An endpoint with all of its
/// headers and a client certificate needs half of this size. Once parsed, such a body may take 150 times its size in memory.
pub const MANAGEMENT_BYTES_MAX: usize = 256 << 10;

/// After a piece of this many bytes, the thread serves its other connections before it reads the next piece. The runtime itself forces
/// such a switch only after 128 pieces, which may be 8 MiB.
const YIELD_AFTER: usize = 8 << 10;

/// Factor by which the buffer of a body grows, up to its announced length. The unwritten part of the buffer takes only address
/// space.
const GROWTH: usize = 8;

/// If a body is too large, at most this many bytes of it are read and discarded.
const SWALLOW_MAX: usize = 64 << 20;

/// The share of one source: a quarter of the budget for first parts, and half of the budget for the rest. A caller that knows the
/// address of one source can fill that source's share with slow bodies, but other sources still have memory.
const SOURCE_FIRST_ROOM: usize = FIRST_ROOM / 4;
const SOURCE_REST_ROOM: usize = REST_ROOM / 2;
/// The share of all sources together: three quarters of each budget. The last quarter is for callers with a key.
const INBOUND_FIRST_ROOM: usize = FIRST_ROOM / 4 * 3;
const INBOUND_REST_ROOM: usize = REST_ROOM / 4 * 3;

/// Maximum size of a body to a source, even if the limit of the source is higher. A larger body could never reserve its memory.
pub const SOURCE_BODY_BYTES_MAX: usize = SOURCE_REST_ROOM;

/// A memory budget for bodies in flight.
pub struct Room {
    first: Arc<Semaphore>,
    rest: Arc<Semaphore>,
}

impl Room {
    fn new(first: usize, rest: usize) -> Self {
        let of = |bytes: usize| Arc::new(Semaphore::new(bytes / PIECE));
        Self { first: of(first), rest: of(rest) }
    }

    /// Creates the share of one source.
    pub fn of_source() -> Self {
        Self::new(SOURCE_FIRST_ROOM, SOURCE_REST_ROOM)
    }
}

/// The budgets that all requests share.
pub struct BodyRoom {
    all: Room,
    /// The part that bodies to sources may hold.
    inbound: Room,
}

impl Default for BodyRoom {
    fn default() -> Self {
        Self { all: Room::new(FIRST_ROOM, REST_ROOM), inbound: Room::new(INBOUND_FIRST_ROOM, INBOUND_REST_ROOM) }
    }
}

impl BodyRoom {
    /// Returns the budgets that a body to a source with this share counts against.
    pub fn for_source<'r>(&'r self, share: &'r Room) -> [&'r Room; 3] {
        [share, &self.inbound, &self.all]
    }
}

/// The memory that one body holds, in each of its budgets.
#[derive(Default)]
pub struct Held(Vec<HeldIn>);

/// The memory that one body holds in one budget.
#[derive(Default)]
struct HeldIn {
    first: Option<OwnedSemaphorePermit>,
    rest: Option<OwnedSemaphorePermit>,
}

impl Held {
    /// Extends the reservation to `bytes`. Returns `None` if one of the budgets is exhausted.
    fn grow(&mut self, rooms: &[&Room], bytes: usize) -> Option<()> {
        let first = bytes.min(FIRST_BYTES);
        self.0.resize_with(rooms.len(), HeldIn::default);
        self.0.iter_mut().zip(rooms).try_for_each(|(held, room)| {
            take(&mut held.first, &room.first, first)?;
            take(&mut held.rest, &room.rest, bytes - first)
        })
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

/// Reads a body completely, or returns why not. The memory stays reserved until the second value is dropped, so drop that value
/// only together with the body.
pub async fn read(api: &Api, headers: &HeaderMap, body: Body) -> Result<(Bytes, Held), Problem> {
    read_within(api, headers, body, api.body_bytes_max, &[&api.body_room.all]).await
}

/// Like [`read`], but with another limit.
pub async fn read_up_to(api: &Api, headers: &HeaderMap, body: Body, limit: usize) -> Result<(Bytes, Held), Problem> {
    read_within(api, headers, body, limit, &[&api.body_room.all]).await
}

/// Like [`read`], but with another limit. The memory counts against `rooms`.
pub async fn read_within(
    api: &Api,
    headers: &HeaderMap,
    body: Body,
    limit: usize,
    rooms: &[&Room],
) -> Result<(Bytes, Held), Problem> {
    let name = if limit == api.body_bytes_max { " (limits.body_bytes_max)" } else { "" };
    let too_large = || Problem::body_too_large(format!("the body is larger than the limit of {}{name}", size(limit)));
    let announced = headers.get(http::header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|bytes| bytes > limit) {
        let mut frames = pin!(body.into_data_stream());
        swallow(&mut Pieces::new(frames.as_mut(), &api.heavy)).await;
        return Err(too_large());
    }
    let reading = async {
        let mut held = Held::default();
        let mut frames = pin!(body.into_data_stream());
        let mut pieces = Pieces::new(frames.as_mut(), &api.heavy);
        let Some(first) = pieces.next().await? else { return Ok((Bytes::new(), held)) };
        let mut whole = Whole::First(first);
        loop {
            let length = whole.as_slice().len();
            if length > limit {
                drop(whole);
                swallow(&mut pieces).await;
                return Err(too_large());
            }
            held.grow(rooms, length).ok_or_else(no_room)?;
            match pieces.next().await? {
                Some(piece) => whole.push(&piece, announced.unwrap_or(limit)),
                None => return Ok((whole.into_bytes(), held)),
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
    Problem::come_back("too many bytes are being received at the moment, by this source or by the engine; try again in a second")
}

/// The pieces in which a body arrives.
struct Pieces<'a> {
    frames: Pin<&'a mut BodyDataStream>,
    heavy: &'a Heavy,
    /// Bytes of all pieces so far.
    read: usize,
    /// Bytes of the last piece.
    last: usize,
    /// Held until the caller asks for the next piece, so that the permit covers the caller's work on the current one.
    permit: Option<SemaphorePermit<'a>>,
}

impl<'a> Pieces<'a> {
    fn new(frames: Pin<&'a mut BodyDataStream>, heavy: &'a Heavy) -> Self {
        Self { frames, heavy, read: 0, last: 0, permit: None }
    }

    /// Reads the next piece.
    ///
    /// A body that has already arrived would otherwise be read to its end without a break, which takes milliseconds. So the
    /// thread serves its other connections after each large piece. A large body also needs a permit ([`Heavy::permit`]) before it
    /// continues, and it holds none while it waits for its sender.
    ///
    /// The caller must have dropped the previous piece, so that its memory can be used again.
    async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        self.permit = None;
        if self.last >= YIELD_AFTER {
            tokio::task::yield_now().await;
            if self.read > heavy::INLINE_BYTES_MAX {
                self.permit = Some(self.heavy.permit().await);
            }
        }
        let frame = std::future::poll_fn(|context| {
            let polled = self.frames.as_mut().poll_next(context);
            if polled.is_pending() {
                self.permit = None;
            }
            polled
        });
        let piece =
            frame.await.transpose().map_err(|_| Problem::bad_request("the connection ended before the body was complete"))?;
        self.last = piece.as_ref().map_or(0, Bytes::len);
        self.read += self.last;
        Ok(piece)
    }
}

/// The bytes received so far. Most bodies are one piece, which is not copied.
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

    /// `expected` is the length that the caller announced, or the limit if the caller announced none.
    fn push(&mut self, more: &[u8], expected: usize) {
        let bytes = match self {
            Self::Many(bytes) => bytes,
            Self::First(first) => {
                *self = Self::Many(first.to_vec());
                return self.push(more, expected);
            }
        };
        let length = bytes.len() + more.len();
        if length > bytes.capacity() {
            // Grows in fewer and larger steps than `Vec` does, because each step copies the bytes so far and leaves a hole in
            // memory. The new size depends on the bytes that have arrived, not only on the announced length.
            let capacity = length.max(expected.min(bytes.len() * GROWTH));
            bytes.reserve_exact(capacity - bytes.len());
        }
        bytes.extend_from_slice(more);
    }

    fn into_bytes(self) -> Bytes {
        match self {
            Self::First(bytes) => bytes,
            Self::Many(bytes) => bytes.into(),
        }
    }
}

/// Reads the rest of a refused body, up to a limit. Otherwise the caller would see a broken connection instead of the answer.
async fn swallow(pieces: &mut Pieces<'_>) {
    let most = pieces.read + SWALLOW_MAX;
    let swallowing = async { while pieces.read <= most && matches!(pieces.next().await, Ok(Some(_))) {} };
    // The answer follows in either case.
    let _ = tokio::time::timeout(Duration::from_secs(5), swallowing).await;
}

/// Returns the compression named in `content-encoding`. Some senders write other values there, such as `identity`, an empty
/// value, a charset, or a transfer encoding of mail. Their bodies are not compressed.
pub fn coding(headers: &HeaderMap) -> Option<String> {
    let named = headers.get_all(http::header::CONTENT_ENCODING).iter();
    let named = named.flat_map(|value| value.as_bytes().split(|c| *c == b',')).map(<[u8]>::trim_ascii);
    let is_none = |name: &[u8]| {
        let name = name.to_ascii_lowercase();
        matches!(&*name, b"" | b"identity" | b"none" | b"null" | b"binary" | b"7bit" | b"8bit" | b"amz-1.0")
            || encoding_rs::Encoding::for_label(&name).is_some()
    };
    named.filter(|name| !is_none(name)).map(|name| String::from_utf8_lossy(name).into_owned()).next()
}

/// Parses a JSON body. `wrong` creates the problem for a value of the wrong shape.
pub async fn json<T: DeserializeOwned>(
    api: &Api,
    headers: &HeaderMap,
    body: Body,
    wrong: fn(String) -> Problem,
) -> Result<T, Problem> {
    json_within(api, headers, body, MANAGEMENT_BYTES_MAX, wrong).await
}

/// Like [`json`], but with another limit.
pub async fn json_within<T: DeserializeOwned>(
    api: &Api,
    headers: &HeaderMap,
    body: Body,
    limit: usize,
    wrong: fn(String) -> Problem,
) -> Result<T, Problem> {
    if body.is_end_stream() {
        return Err(Problem::bad_json("the body is empty; send a JSON object"));
    }
    let (bytes, _held) = read_within(api, headers, body, limit.min(api.body_bytes_max), &[&api.body_room.all]).await?;
    api.heavy.run(bytes.len(), || parse(&bytes, wrong)).await?
}

/// Like [`json`], but for an optional body.
pub async fn optional_json<T: DeserializeOwned>(
    api: &Api,
    headers: &HeaderMap,
    body: Body,
    wrong: fn(String) -> Problem,
) -> Result<Option<T>, Problem> {
    let limit = MANAGEMENT_BYTES_MAX.min(api.body_bytes_max);
    let (bytes, _held) = read_within(api, headers, body, limit, &[&api.body_room.all]).await?;
    if bytes.is_empty() { Ok(None) } else { api.heavy.run(bytes.len(), || parse(&bytes, wrong)).await? }
}

fn parse<T: DeserializeOwned>(bytes: &[u8], wrong: fn(String) -> Problem) -> Result<T, Problem> {
    // Serde would read an array as the members' values in order.
    if bytes.trim_ascii_start().starts_with(b"[") {
        return Err(wrong("the body is an array; send a JSON object".to_owned()));
    }
    serde_json::from_slice(bytes).or_else(|error| {
        if !error.is_data() {
            return Err(Problem::bad_json(error.to_string()));
        }
        let mut value: Value = serde_json::from_slice(bytes).map_err(|error| Problem::bad_json(error.to_string()))?;
        let rewritten = if whole_numbers(&mut value) { serde_json::from_value(value).ok() } else { None };
        rewritten.ok_or_else(|| wrong(plain(&error)))
    })
}

/// Rewrites `5.0` as `5`: equal in JSON, but not for serde. Returns whether it changed anything.
pub fn whole_numbers(value: &mut Value) -> bool {
    match value {
        Value::Number(number) if number.is_f64() => {
            let whole = whole(number.as_f64().unwrap_or(f64::NAN));
            if let Some(whole) = whole {
                *value = whole.into();
            }
            whole.is_some()
        }
        Value::Array(items) => items.iter_mut().fold(false, |any, item| any | whole_numbers(item)),
        Value::Object(members) => members.values_mut().fold(false, |any, member| any | whole_numbers(member)),
        _ => false,
    }
}

/// Returns the whole number that a floating-point number equals.
pub fn whole(number: f64) -> Option<i64> {
    /// Up to this number, a floating-point number represents every whole number exactly.
    const EXACT_MAX: f64 = 9_007_199_254_740_991.0;
    (number.fract() == 0.0 && number.abs() <= EXACT_MAX).then_some(number as i64)
}

/// Reads a member that is an object or `null`. Refuses an array of the object's values.
pub fn object<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<Option<T>, D::Error> {
    let members = Option::<serde_json::Map<String, Value>>::deserialize(deserializer)?;
    members.map(|members| serde_json::from_value(members.into()).map_err(D::Error::custom)).transpose()
}

/// Returns serde's message without its position, which is useless for one object.
fn plain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use serde_json::json;

    use super::*;

    #[test]
    fn large_bodies_leave_room_for_small_ones() {
        let room = BodyRoom::default().all;
        let mut large = Vec::new();
        loop {
            let mut held = Held::default();
            if held.grow(&[&room], 8 << 20).is_none() {
                break;
            }
            large.push(held);
        }
        assert_eq!(large.len(), 24, "bodies of 8 MiB");
        let mut small = Held::default();
        small.grow(&[&room], FIRST_BYTES).expect("a small body");
        assert!(small.grow(&[&room], 4 << 20).is_none(), "no room for more of it");
        large.pop();
        small.grow(&[&room], 4 << 20).expect("room is free again");
        drop((large, small));
        assert_eq!(room.first.available_permits() * PIECE, FIRST_ROOM);
        assert_eq!(room.rest.available_permits() * PIECE, REST_ROOM);
    }

    #[tokio::test]
    async fn other_connections_have_their_turn_while_a_large_body_is_read() {
        use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
        const PIECES: usize = 100;
        let turns_while = |piece: usize| async move {
            // The body never waits for its sender.
            let pieces = (0..PIECES).map(move |_| Ok::<_, std::io::Error>(Bytes::from(vec![0; piece])));
            let heavy = Heavy::default();
            let mut frames = pin!(Body::from_stream(ready(pieces, Poll::Ready(()))).into_data_stream());
            let mut pieces = Pieces::new(frames.as_mut(), &heavy);
            let (read, turns) = (AtomicBool::new(false), AtomicUsize::new(0));
            let reading = async {
                while pieces.next().await.expect("it arrives").is_some() {}
                read.store(true, Ordering::Relaxed);
            };
            let others = async {
                while !read.load(Ordering::Relaxed) {
                    turns.fetch_add(1, Ordering::Relaxed);
                    tokio::task::yield_now().await;
                }
            };
            tokio::join!(reading, others);
            turns.into_inner()
        };
        let turns = turns_while(YIELD_AFTER).await;
        assert!(turns >= PIECES, "{turns} turns beside {PIECES} large pieces");
        let turns = turns_while(YIELD_AFTER - 1).await;
        assert!(turns < PIECES / 2, "{turns} turns: small pieces cost no switch");
    }

    #[tokio::test]
    async fn a_large_body_waits_for_a_permit_and_holds_none_while_its_sender_pauses() {
        let heavy = Heavy::default();
        let all = heavy.free_permits();
        let mut taken = Vec::new();
        for _ in 0..all {
            taken.push(heavy.permit().await);
        }
        let arrives =
            [heavy::INLINE_BYTES_MAX + 1, YIELD_AFTER].map(|piece| Ok::<_, std::io::Error>(Bytes::from(vec![0; piece])));
        let mut frames = pin!(Body::from_stream(ready(arrives.into_iter(), Poll::Pending)).into_data_stream());
        let mut pieces = Pieces::new(frames.as_mut(), &heavy);
        // Returns whether the next piece arrives before the runtime has had a few turns.
        async fn arrives_now(pieces: &mut Pieces<'_>) -> bool {
            tokio::select! {
                biased;
                piece = pieces.next() => piece.unwrap().is_some(),
                () = async { for _ in 0..10 { tokio::task::yield_now().await } } => false,
            }
        }
        assert!(arrives_now(&mut pieces).await, "the first piece needs no permit");
        assert!(!arrives_now(&mut pieces).await, "every permit is taken");
        drop(taken);
        assert!(arrives_now(&mut pieces).await);
        assert_eq!(heavy.free_permits(), all - 1, "the second piece has a permit");
        assert!(!arrives_now(&mut pieces).await, "the sender pauses");
        assert_eq!(heavy.free_permits(), all, "a body that waits for its sender holds no permit");
    }

    /// Returns a stream of pieces that are ready, followed by `after`.
    fn ready<I: Iterator<Item: Send> + Send + Unpin + 'static>(
        mut items: I,
        after: Poll<()>,
    ) -> impl futures_core::Stream<Item = I::Item> + Send + 'static {
        struct Ready<F>(F, Poll<()>);
        impl<T, F: FnMut() -> Option<T> + Unpin> futures_core::Stream for Ready<F> {
            type Item = T;

            fn poll_next(mut self: Pin<&mut Self>, _: &mut std::task::Context<'_>) -> Poll<Option<T>> {
                (self.0)().map_or(self.1.map(|()| None), |item| Poll::Ready(Some(item)))
            }
        }
        Ready(move || items.next(), after)
    }

    #[test]
    fn a_body_reserves_memory_as_it_arrives() {
        let room = BodyRoom::default().all;
        let mut held = Held::default();
        for bytes in [1, 100, PIECE, PIECE + 1] {
            held.grow(&[&room], bytes).unwrap();
            assert_eq!(room.first.available_permits(), FIRST_ROOM / PIECE - bytes.div_ceil(PIECE));
        }
    }

    #[test]
    fn bodies_to_one_source_leave_room_for_other_sources_and_publishers() {
        let (room, shares) = (BodyRoom::default(), [(); 5].map(|()| Room::of_source()));
        let fill = |share: &Room, bytes: usize| {
            let one = || {
                let mut held = Held::default();
                held.grow(&room.for_source(share), bytes).map(|()| held)
            };
            std::iter::from_fn(one).collect::<Vec<_>>()
        };
        for (bytes, each, all) in [(FIRST_BYTES, 256, 768), (8 << 20, 12, 18)] {
            let mut held = fill(&shares[0], bytes);
            assert_eq!(held.len(), each, "{bytes} bytes to one source");
            shares[1..].iter().for_each(|share| held.extend(fill(share, bytes)));
            assert_eq!(held.len(), all, "{bytes} bytes to all sources");
            Held::default().grow(&[&room.all], bytes).expect("room for a publisher");
        }
    }

    #[derive(serde::Deserialize, Debug, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Input {
        count: u8,
        #[serde(default, deserialize_with = "object")]
        inner: Option<Box<Input>>,
    }

    fn read(text: &str) -> Result<Input, String> {
        parse(text.as_bytes(), Problem::bad_value).map_err(|problem| format!("{problem:?}"))
    }

    #[test]
    fn reads_objects_and_whole_numbers_strictly() {
        let inner = Some(Box::new(Input { count: 2, inner: None }));
        assert_eq!(read(r#"{"count": 1.0, "inner": {"count": 2}}"#), Ok(Input { count: 1, inner }));
        assert_eq!(read(r#"{"count": 1, "inner": null}"#), Ok(Input { count: 1, inner: None }));
        for bad in ["[1]", " [1, null]", r#"{"count": 1, "inner": [2]}"#, r#"{"count": 1.5}"#, r#"{"count": 256.0}"#, "1", "{"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ignores_content_encodings_without_compression() {
        let none = [
            "",
            "identity",
            "Identity",
            "utf-8",
            "UTF8",
            "iso-8859-1",
            "none",
            "8bit",
            "binary",
            "identity, identity",
            "utf-8,",
            "amz-1.0",
        ];
        for (value, expected) in none.map(|value| (value, None)).into_iter().chain([
            ("gzip", Some("gzip")),
            ("GZIP", Some("GZIP")),
            ("identity, br", Some("br")),
            ("zstd", Some("zstd")),
            ("deflate", Some("deflate")),
            ("aws-chunked", Some("aws-chunked")),
            ("snappy", Some("snappy")),
            ("base64", Some("base64")),
        ]) {
            let mut headers = HeaderMap::new();
            headers.append("content-encoding", value.parse().unwrap());
            assert_eq!(coding(&headers).as_deref(), expected, "{value:?}");
            headers.append("content-encoding", "gzip".parse().unwrap());
            assert!(coding(&headers).is_some(), "{value:?}, then gzip");
        }
        assert_eq!(coding(&HeaderMap::new()), None);
    }

    #[test]
    fn only_whole_numbers_are_rewritten() {
        let mut value = json!({ "a": [1.0, 1.5, -2e3], "b": 1e300, "c": 7 });
        assert!(whole_numbers(&mut value));
        assert_eq!(value, json!({ "a": [1, 1.5, -2000], "b": 1e300, "c": 7 }));
        assert!(!whole_numbers(&mut value));
    }
}
