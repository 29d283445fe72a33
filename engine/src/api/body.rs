//! Reading bodies: bounded in size, in time, and in how much all of them together may hold in memory.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures_core::Stream as _;

use axum::{
    body::{Body, HttpBody as _},
    http::HeaderMap,
};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;

use super::{Api, error::Problem};

/// For the whole body to arrive.
const TIME_MAX: Duration = Duration::from_secs(30);
/// What all bodies that are being read may hold together, in KiB.
const ALL_KIB_MAX: usize = 256 << 10;

/// Bytes of a body too large that are read and thrown away.
const SWALLOW_MAX: usize = 64 << 20;

/// How much the bodies in flight may hold together.
pub struct BodyRoom(Arc<Semaphore>);

impl Default for BodyRoom {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(ALL_KIB_MAX)))
    }
}

/// Reads a body whole, or says why not.
pub async fn read(api: &Api, headers: &HeaderMap, body: Body) -> Result<Bytes, Problem> {
    let limit = api.body_bytes_max;
    let too_large =
        || Problem::body_too_large(format!("the body is larger than {} MiB, which is the limit (body_bytes_max)", limit >> 20));
    // What it says it has, or else what it may have.
    let announced = headers.get(http::header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|bytes| bytes > limit) {
        swallow(body).await;
        return Err(too_large());
    }
    let kib = u32::try_from(announced.unwrap_or(limit).div_ceil(1024).max(1)).unwrap_or(u32::MAX);
    let _room = Arc::clone(&api.body_room.0).try_acquire_many_owned(kib).map_err(|_| {
        Problem::come_back(format!(
            "more than {} MiB are being received at this moment; try again in a second",
            ALL_KIB_MAX >> 10
        ))
    })?;
    let collected = tokio::time::timeout(TIME_MAX, axum::body::to_bytes(body, limit)).await;
    match collected {
        Err(_) => Err(Problem::request_timeout(format!("the body did not arrive within {} s", TIME_MAX.as_secs()))),
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) => {
            let over = std::error::Error::source(&error).is_some_and(|cause| cause.to_string().contains("length limit"));
            if over { Err(too_large()) } else { Err(Problem::bad_request("the body could not be read to its end")) }
        }
    }
}

/// Lets a caller finish sending what is refused, so that it reads the answer instead of finding its connection broken: up to a
/// point.
async fn swallow(body: Body) {
    let swallowing = async {
        let mut frames = body.into_data_stream();
        let mut bytes = 0;
        while let Some(Ok(frame)) = std::future::poll_fn(|context| Pin::new(&mut frames).poll_next(context)).await {
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
