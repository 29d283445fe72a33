//! The request that brought an event, as the API shows it.

use base64::{Engine as _, prelude::BASE64_STANDARD};

use crate::{domain::request::Request, wire::RequestView};

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
