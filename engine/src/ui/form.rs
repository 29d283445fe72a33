//! Fields of a submitted form, and the check that the form belongs to this session.

use axum::{
    body::Body,
    extract::{FromRequest, Request},
    http::HeaderMap,
};
use url::form_urlencoded;

use super::{Ui, visit::Visit};
use crate::api::{Api, Problem, body};
use std::sync::Arc;

/// Name of the hidden field that proves that a form came from a page of the same session.
pub const TOKEN_FIELD: &str = "token";
/// Maximum length of a form, in bytes. The longest field is the data of a test event.
const FORM_BYTES_MAX: usize = 1 << 20;

/// The fields of a form, in their order.
#[derive(Default)]
pub struct Fields(Vec<(String, String)>);

impl Fields {
    pub fn parse(text: &[u8]) -> Self {
        Self(form_urlencoded::parse(text).into_owned().collect())
    }

    /// Returns the trimmed text of a field; `None` if it is missing or empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// Returns every text of a field that may occur more than once.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(known, _)| known == name).map(|(_, text)| text.trim()).filter(|text| !text.is_empty())
    }

    /// Returns the fields whose name begins with a prefix: the rest of the name, and the trimmed text. Empty fields are left out.
    pub fn beginning_with(&self, prefix: &str) -> impl Iterator<Item = (&str, &str)> {
        let named = self.0.iter().filter_map(move |(name, text)| Some((name.strip_prefix(prefix)?, text.trim())));
        named.filter(|(_, text)| !text.is_empty())
    }

    /// Returns whether a box is ticked.
    pub fn is_set(&self, name: &str) -> bool {
        self.get(name).is_some()
    }
}

/// A form from a signed-in person. Extracting it checks its token.
pub struct Form {
    pub visit: Visit,
    pub fields: Fields,
}

impl FromRequest<Arc<Ui>> for Form {
    type Rejection = axum::response::Response;

    async fn from_request(request: Request, ui: &Arc<Ui>) -> Result<Self, Self::Rejection> {
        let (mut parts, body) = request.into_parts();
        let visit = <Visit as axum::extract::FromRequestParts<Arc<Ui>>>::from_request_parts(&mut parts, ui).await?;
        let fields = read(&ui.api, &parts.headers, body).await.map_err(axum::response::IntoResponse::into_response)?;
        let given = fields.get(TOKEN_FIELD).unwrap_or_default();
        if !visit.is_token(given) {
            let problem =
                Problem::forbidden("the form is from another session, so nothing was done; open the page again and resubmit it");
            return Err(axum::response::IntoResponse::into_response(problem));
        }
        Ok(Self { visit, fields })
    }
}

/// Reads the fields of a form. The API's limits for request bodies apply: the time limit, and the memory limit for all bodies
/// together.
pub async fn read(api: &Api, headers: &HeaderMap, body: Body) -> Result<Fields, Problem> {
    let (bytes, _held) = body::read_up_to(api, headers, body, FORM_BYTES_MAX).await?;
    Ok(Fields::parse(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_trimmed_and_empty_ones_are_missing() {
        let fields = Fields::parse(b"a=+1+&b=&c=x&c=%C3%A9&d=on");
        assert_eq!((fields.get("a"), fields.get("b"), fields.get("e")), (Some("1"), None, None));
        assert_eq!(fields.all("c").collect::<Vec<_>>(), ["x", "é"]);
        assert!(fields.is_set("d") && !fields.is_set("b"));
    }
}
