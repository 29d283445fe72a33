//! Refusals of the API: RFC 9457 problems with a stable `code` and a sentence that says what to do. Only this file chooses status
//! codes.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::{
    ToSchema,
    openapi::{RefOr, Schema},
};

use crate::{
    metrics::meters,
    random::NoRandomness,
    store,
    wire::values::{schema, words},
};

/// A refusal.
#[derive(Clone, Debug)]
pub struct Problem {
    status: StatusCode,
    code: &'static str,
    title: &'static str,
    detail: String,
    /// JSON pointer (RFC 6901) to the wrong member.
    pointer: Option<String>,
    /// Seconds after which the same request may succeed.
    retry_after: Option<u16>,
}

/// A kind of problem, for the OpenAPI document.
pub struct Kind {
    pub code: &'static str,
    pub status: StatusCode,
    pub title: &'static str,
}

macro_rules! problems {
    ($($(#[$doc:meta])* $name:ident = $status:ident $code:literal $title:literal;)*) => {
        impl Problem {
            /// All kinds.
            pub const KINDS: &[Kind] = &[$(Kind { code: $code, status: StatusCode::$status, title: $title }),*];

            $($(#[$doc])* pub fn $name(detail: impl Into<String>) -> Self {
                Self {
                    status: StatusCode::$status,
                    code: $code,
                    title: $title,
                    detail: detail.into(),
                    pointer: None,
                    retry_after: None,
                }
            })*
        }
    };
}

problems! {
    bad_json = BAD_REQUEST "bad_json" "The body is not JSON";
    bad_event = BAD_REQUEST "bad_event" "The event is not valid";
    bad_request = BAD_REQUEST "bad_request" "The request is not valid";
    unauthorized = UNAUTHORIZED "unauthorized" "A valid key is required";
    key_expired = UNAUTHORIZED "key_expired" "The key has expired";
    not_verified = UNAUTHORIZED "not_verified" "The request is not verified";
    address_not_allowed = FORBIDDEN "address_not_allowed" "The source refuses requests from this address";
    forbidden = FORBIDDEN "forbidden" "The role of the key does not allow this";
    not_found = NOT_FOUND "not_found" "Not found";
    method_not_allowed = METHOD_NOT_ALLOWED "method_not_allowed" "Method not allowed";
    request_timeout = REQUEST_TIMEOUT "request_timeout" "The body did not arrive in time";
    name_taken = CONFLICT "name_taken" "The name is taken";
    id_taken = CONFLICT "id_taken" "The id belongs to another event";
    conflict = CONFLICT "conflict" "Not possible in the current state";
    body_too_large = PAYLOAD_TOO_LARGE "body_too_large" "The body is too large";
    batch_too_large = PAYLOAD_TOO_LARGE "batch_too_large" "The batch is too large";
    unsupported_media_type = UNSUPPORTED_MEDIA_TYPE "unsupported_media_type" "The content type is not supported";
    bad_endpoint = UNPROCESSABLE_ENTITY "bad_endpoint" "The endpoint is not valid";
    bad_source = UNPROCESSABLE_ENTITY "bad_source" "The source is not valid";
    bad_plugin = UNPROCESSABLE_ENTITY "bad_plugin" "The plugin is not valid";
    rate_limited = TOO_MANY_REQUESTS "rate_limited" "Too many requests";
    blocked_address = UNPROCESSABLE_ENTITY "blocked_address" "The address is not allowed";
    bad_value = UNPROCESSABLE_ENTITY "bad_value" "A value is not valid";
    loop_detected = LOOP_DETECTED "loop_detected" "The event is part of a loop";
    internal = INTERNAL_SERVER_ERROR "internal" "Internal error";
    store_full = SERVICE_UNAVAILABLE "store_full" "The disk is full";
    store_unavailable = SERVICE_UNAVAILABLE "store_unavailable" "The store is unavailable";
    query_too_slow = SERVICE_UNAVAILABLE "query_too_slow" "The query takes too long";
    overloaded = SERVICE_UNAVAILABLE "overloaded" "The engine is overloaded";
}

impl Problem {
    /// Names the wrong member of the request's body, in the text and as a pointer.
    #[must_use]
    pub fn in_member(self, member: &str) -> Self {
        Self { detail: format!("{member}: {}", self.detail), ..self }.at(format!("/{member}"))
    }

    #[must_use]
    pub fn at(self, pointer: impl Into<String>) -> Self {
        Self { pointer: Some(pointer.into()), ..self }
    }

    /// Sets the seconds after which the same request may succeed.
    #[must_use]
    pub fn after(self, seconds: u16) -> Self {
        Self { retry_after: Some(seconds), ..self }
    }

    /// Returns whether the engine, not the caller, is the cause.
    pub fn is_ours(&self) -> bool {
        self.status.is_server_error() && self.status != StatusCode::LOOP_DETECTED
    }

    /// Returns what is wrong.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    pub const fn status(&self) -> StatusCode {
        self.status
    }

    /// Returns the kind, for programs.
    pub const fn code(&self) -> &'static str {
        self.code
    }

    /// Returns the JSON pointer to the wrong member.
    pub fn pointer(&self) -> Option<&str> {
        self.pointer.as_deref()
    }

    /// Returns the seconds after which the same request may succeed.
    pub const fn retry_after(&self) -> Option<u16> {
        self.retry_after
    }

    /// Creates a refusal because of overload: a named limit is reached, and the caller should retry.
    pub fn come_back(detail: impl Into<String>) -> Self {
        Self::overloaded(detail).after(1)
    }
}

/// A problem (RFC 9457): what was not done, and what to do.
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct Body<'a> {
    /// Identifies the kind of problem.
    #[schema(format = "uri-reference")]
    r#type: String,
    /// The kind of problem in words.
    title: &'a str,
    /// Status of the answer.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    #[schema(schema_with = codes)]
    code: &'a str,
    /// What is wrong with this request, and what to do.
    detail: &'a str,
    /// JSON pointer (RFC 6901) to the wrong member of the body.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String)]
    pointer: Option<&'a str>,
}

fn codes() -> RefOr<Schema> {
    let codes: Vec<_> = Problem::KINDS.iter().map(|kind| kind.code).collect();
    schema(words("The kind of problem, for programs. Its meaning never changes.", &codes))
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = Body {
            r#type: format!("/problems/{}", self.code.replace('_', "-")),
            title: self.title,
            status: self.status.as_u16(),
            code: self.code,
            detail: &self.detail,
            pointer: self.pointer.as_deref(),
        };
        let mut response = (self.status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        meters().refused(self.code);
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        // The dashboard calls the same handlers, and shows their problems as pages.
        response.extensions_mut().insert(self);
        response
    }
}

impl From<NoRandomness> for Problem {
    fn from(error: NoRandomness) -> Self {
        tracing::error!(%error, "no secret and no id can be created");
        Self::internal("the system provides no random bytes")
    }
}

impl From<store::Error> for Problem {
    fn from(error: store::Error) -> Self {
        use store::Error;
        let text = error.to_string();
        match &error {
            Error::Full => Self::store_full(text).after(5),
            Error::Unavailable(_) | Error::Sealed(_) => {
                match &error {
                    Error::Sealed(_) => tracing::error!(%text, "store refused a request"),
                    // The store has already logged its failure once. This line repeats for each caller.
                    _ => tracing::debug!(%text, "store refused a request"),
                }
                Self::store_unavailable("the store is unavailable and nothing was stored; see the log of the engine").after(5)
            }
            Error::Overloaded(_) => Self::come_back(text),
            Error::TooSlow(_) => Self::query_too_slow(text).after(5),
            Error::NotFound { .. } => Self::not_found(text),
            Error::Taken { .. } => Self::name_taken(text),
            Error::IdTaken(_) => Self::id_taken(text),
            Error::Conflict(_) => Self::conflict(text),
            Error::Corrupt { .. } | Error::Internal(_) => {
                tracing::error!(%text, "request failed");
                Self::internal("the request failed; see the log of the engine")
            }
        }
    }
}
