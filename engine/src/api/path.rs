//! Path parameters.

use axum::{
    extract::{FromRequestParts, Path as AxumPath},
    http::request::Parts,
};
use serde::de::DeserializeOwned;

use super::error::Problem;

/// A path parameter. A parameter that is not text is refused with a problem.
pub struct Path<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = AxumPath::<T>::from_request_parts(parts, state).await;
        path.map(|AxumPath(path)| Self(path)).map_err(|rejection| {
            let text = rejection.body_text();
            Problem::bad_request(format!("the path cannot be read: {}", text.strip_prefix("Invalid URL: ").unwrap_or(&text)))
        })
    }
}
