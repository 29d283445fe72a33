//! The request of an event, in the API's answers.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::request::Request;

/// The parts of a request around an event's data.
#[derive(Serialize, ToSchema)]
#[schema(as = Request)]
pub struct RequestView {
    pub method: String,
    pub query: String,
    /// Name and value of each header; credentials are not stored.
    pub headers: Vec<(String, String)>,
    /// The received body, if it is text and differs from the data.
    pub body: Option<String>,
    /// The received body in base64, if it is not text and differs from the data.
    pub body_base64: Option<String>,
}

impl RequestView {
    pub fn new(request: &Request) -> Self {
        let text = request.body.as_ref().map(|body| std::str::from_utf8(body).map(str::to_owned));
        let bytes = matches!(text, Some(Err(_))).then(|| request.body.as_ref().map(|body| BASE64_STANDARD.encode(body)));
        Self {
            method: request.method.clone(),
            query: request.query.clone(),
            headers: request.headers.clone(),
            body: text.and_then(Result::ok),
            body_base64: bytes.flatten(),
        }
    }
}
