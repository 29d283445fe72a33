//! Query strings and paging. Unknown parameters are refused. A cursor is the last id of the previous page.

use axum::{
    extract::{FromRequestParts, Query as AxumQuery},
    http::request::Parts,
};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::error::Problem;
use crate::{domain::time::Timestamp, store::PageRequest, wire::values::values};

const LIMIT_DEFAULT: usize = 50;
const LIMIT_MAX: usize = 500;

/// A parsed query string. A malformed query string is refused with a problem that names the parameter.
pub struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let query = AxumQuery::<T>::from_request_parts(parts, state).await;
        query.map(|AxumQuery(query)| Self(query)).map_err(|rejection| {
            let text = rejection.body_text();
            let text = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text);
            Problem::bad_request(format!("the query string is not valid: {text}"))
        })
    }
}

/// The OpenAPI schema of the maximum number of items of a page.
pub enum Limit {}

values! {
    Limit, "Limit", json!({ "type": "integer", "minimum": 1, "maximum": LIMIT_MAX, "default": LIMIT_DEFAULT, "description": "Maximum number of items in a page." });
}

/// Selects a page.
pub struct Paging {
    pub request: PageRequest,
}

impl Paging {
    pub fn new(limit: Option<&str>, cursor: Option<&str>, parse: impl Fn(&str) -> Option<i64>) -> Result<Self, Problem> {
        let limit = match limit {
            None => LIMIT_DEFAULT,
            Some(text) => match text.parse() {
                Ok(limit @ 1..=LIMIT_MAX) => limit,
                _ => return Err(Problem::bad_request(format!("limit is {text:?}; write a number from 1 to {LIMIT_MAX}"))),
            },
        };
        let cursor = cursor
            .map(|text| parse(text).ok_or_else(|| Problem::bad_request(format!("cursor is {text:?}; use the `next` of a page"))))
            .transpose()?;
        Ok(Self { request: PageRequest { cursor, limit } })
    }
}

/// Reads a time in a query string.
pub fn instant(name: &str, text: Option<&str>) -> Result<Option<Timestamp>, Problem> {
    text.map(|text| {
        Timestamp::parse_rfc3339(text)
            .ok_or_else(|| Problem::bad_request(format!("{name} is {text:?}; write RFC 3339, such as 2026-01-31T09:30:00Z")))
    })
    .transpose()
}
