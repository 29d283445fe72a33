//! The request from which a source created an event. The parts around the data are stored with the event.

use bytes::Bytes;

/// A request of a third party.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    /// The query of the URL; empty if there was none.
    pub query: String,
    /// Headers without credentials, their names in lower case.
    pub headers: Vec<(String, String)>,
    /// The received body; `None` if the event's data is that body.
    pub body: Option<Bytes>,
}

impl Request {
    /// Returns the parts of the request as attributes for plugins. The names of these attributes have a dot, which the names of
    /// other attributes cannot have.
    pub fn attributes(&self) -> Vec<(String, String)> {
        use base64::{Engine as _, prelude::BASE64_STANDARD};
        let mut all = vec![("http.method".to_owned(), self.method.clone())];
        if !self.query.is_empty() {
            all.push(("http.query".to_owned(), self.query.clone()));
        }
        all.extend(self.headers.iter().map(|(name, value)| (format!("http.header.{name}"), value.clone())));
        if let Some(body) = &self.body {
            all.push(match std::str::from_utf8(body) {
                Ok(text) => ("http.body".to_owned(), text.to_owned()),
                Err(_) => ("http.body-base64".to_owned(), BASE64_STANDARD.encode(body)),
            });
        }
        all
    }

    /// Returns its approximate size in memory and in the store, in bytes.
    pub fn weight(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len() + 16).sum();
        self.query.len() + headers + self.body.as_ref().map_or(0, Bytes::len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plugins_see_the_parts_around_the_data() {
        let request = |body: &'static [u8]| Request {
            method: "POST".to_owned(),
            query: "a=1".to_owned(),
            headers: vec![("x-topic".to_owned(), "order".to_owned())],
            body: Some(Bytes::from_static(body)),
        };
        let pairs = |request: &Request| {
            request.attributes().into_iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>()
        };
        assert_eq!(pairs(&request(b"b=2")), ["http.method=POST", "http.query=a=1", "http.header.x-topic=order", "http.body=b=2"]);
        assert_eq!(pairs(&request(b"\xff"))[3], "http.body-base64=/w==");
    }
}
