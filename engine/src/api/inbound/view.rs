//! What is shown of the request that an event came in.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::request::Request;

/// What came around an event's data.
#[derive(Serialize, ToSchema)]
#[schema(as = Request)]
pub struct RequestView {
    pub method: String,
    pub query: String,
    /// Name and value of each; credentials are not kept.
    pub headers: Vec<(String, String)>,
    /// The body as it came, where it is text and the data is something else.
    pub body: Option<String>,
    /// The same where it is no text, in base64.
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
