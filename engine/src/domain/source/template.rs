//! The signed text: a template with places for the body, the signed time and parts of the request, such as
//! `v0:{timestamp}:{body}`.

use std::{borrow::Cow, fmt};

use super::{pick::Path, verify::Incoming};

/// A parsed template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Body,
    Timestamp,
    Method,
    Url,
    Query,
    Header(String),
    /// The text at a place in the body.
    InBody(Path),
}

impl Template {
    /// Maximum length of a template, in bytes.
    pub const LEN_MAX: usize = 256;

    /// Parses a template, or explains what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > Self::LEN_MAX {
            return Err(format!("is longer than {} bytes", Self::LEN_MAX));
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            let (name, after) = after.split_once('}').ok_or("has a { without a }")?;
            parts.push(match name {
                "body" => Part::Body,
                "timestamp" => Part::Timestamp,
                "method" => Part::Method,
                "url" => Part::Url,
                "query" => Part::Query,
                name => match (name.strip_prefix("header:"), name.strip_prefix("body:").and_then(Path::parse)) {
                    (Some(header), _) if !header.is_empty() => Part::Header(header.to_ascii_lowercase()),
                    (_, Some(path)) => Part::InBody(path),
                    _ => {
                        return Err(format!(
                            "contains {{{name}}}, which is unknown; write {{body}}, {{timestamp}}, {{method}}, {{url}}, {{query}}, \
                             {{header:NAME}} or {{body:/POINTER}}"
                        ));
                    }
                },
            });
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        match parts.iter().filter(|part| **part == Part::Body).count() {
            1 => Ok(Self(parts)),
            0 if parts.iter().any(|part| matches!(part, Part::InBody(_))) => Ok(Self(parts)),
            _ => Err("must contain {body} once: an unsigned body could be changed in transit".to_owned()),
        }
    }

    /// Returns whether the time is signed.
    pub fn has_timestamp(&self) -> bool {
        self.0.contains(&Part::Timestamp)
    }

    /// Returns whether the whole body is signed.
    pub fn has_body(&self) -> bool {
        self.0.contains(&Part::Body)
    }

    /// Returns whether the query is signed.
    pub fn has_query(&self) -> bool {
        self.0.iter().any(|part| matches!(part, Part::Url | Part::Query))
    }

    /// Returns whether this header is signed.
    pub fn has_header(&self, name: &str) -> bool {
        self.0.iter().any(|part| matches!(part, Part::Header(known) if known == name))
    }

    /// Returns the signed text of the request, in parts.
    ///
    /// # Errors
    /// Names the part that the request does not have.
    pub fn fill<'a>(&'a self, request: &Incoming<'a>, body: &'a [u8], timestamp: &'a str) -> Result<Vec<Cow<'a, [u8]>>, String> {
        let part = |part: &'a Part| {
            let bytes = match part {
                Part::Text(text) => text.as_bytes(),
                Part::Body => body,
                Part::Timestamp => timestamp.as_bytes(),
                Part::Method => request.method.as_bytes(),
                Part::Url => request.url.as_bytes(),
                Part::Query => request.query.as_bytes(),
                Part::Header(name) => request.header(name).ok_or_else(|| format!("the header {name}"))?.as_bytes(),
                Part::InBody(path) => {
                    let text = request.in_body(path).ok_or_else(|| format!("the member {path} of the body"))?;
                    return Ok(Cow::Owned(text.into_owned().into_bytes()));
                }
            };
            Ok(Cow::Borrowed(bytes))
        };
        self.0.iter().map(part).collect()
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|part| match part {
            Part::Text(text) => f.write_str(text),
            Part::Body => f.write_str("{body}"),
            Part::Timestamp => f.write_str("{timestamp}"),
            Part::Method => f.write_str("{method}"),
            Part::Url => f.write_str("{url}"),
            Part::Query => f.write_str("{query}"),
            Part::Header(name) => write!(f, "{{header:{name}}}"),
            Part::InBody(path) => write!(f, "{{body:{path}}}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_parsed_and_filled() {
        let headers = [("x-id".to_owned(), "7".to_owned())];
        let body = br#"{"a":{"b":7}}"#;
        let request = Incoming { method: "POST", url: "https://a/in?b", query: "b", headers: &headers, body };
        for (text, filled) in [
            ("{body}", r#"{"a":{"b":7}}"#),
            ("v0:{timestamp}:{body}", r#"v0:12:{"a":{"b":7}}"#),
            ("{timestamp}{body}", r#"12{"a":{"b":7}}"#),
            ("{method} {url}\n{header:x-id}.{body}!", "POST https://a/in?b\n7.{\"a\":{\"b\":7}}!"),
            ("{query}{timestamp}{body:/a/b}", "b127"),
        ] {
            let template = Template::parse(text).unwrap();
            assert_eq!(template.to_string(), text);
            assert_eq!(template.fill(&request, body, "12").unwrap().concat(), filled.as_bytes(), "{text}");
        }
        for (text, missing) in [("{header:x-none}{body}", "the header x-none"), ("{body:/a/c}", "the member /a/c of the body")] {
            assert_eq!(Template::parse(text).unwrap().fill(&request, body, ""), Err(missing.to_owned()));
        }
    }

    #[test]
    fn refuses_invalid_templates() {
        for (bad, said) in [
            ("", "{body} once"),
            ("{timestamp}", "{body} once"),
            ("{body}{body}", "{body} once"),
            ("{body", "{ without a }"),
            ("{secret}{body}", "{secret}"),
            ("{header:}{body}", "{header:}"),
        ] {
            assert!(Template::parse(bad).unwrap_err().contains(said), "{bad}");
        }
        assert!(Template::parse(&"x".repeat(300)).is_err());
    }
}
