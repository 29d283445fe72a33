//! What a signature is made of: text with places for the body, the time of signing and parts of the request, such as
//! `v0:{timestamp}:{body}`.

use std::fmt;

use super::verify::Incoming;

/// A template, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Body,
    Timestamp,
    Method,
    Url,
    Header(String),
}

impl Template {
    /// Bytes of a template as it is written.
    pub const LEN_MAX: usize = 256;

    /// Reads one, or says what is wrong with it.
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
            let (name, after) = after.split_once('}').ok_or("has a { without its }")?;
            parts.push(match name {
                "body" => Part::Body,
                "timestamp" => Part::Timestamp,
                "method" => Part::Method,
                "url" => Part::Url,
                name => match name.strip_prefix("header:") {
                    Some(header) if !header.is_empty() => Part::Header(header.to_ascii_lowercase()),
                    _ => {
                        return Err(format!(
                            "names {{{name}}}, which is not known; write {{body}}, {{timestamp}}, {{method}}, {{url}} or {{header:NAME}}"
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
            _ => Err("must name {body} once: what is not signed can be changed on the way".to_owned()),
        }
    }

    /// Whether the time of signing is part of what is signed.
    pub fn has_timestamp(&self) -> bool {
        self.0.contains(&Part::Timestamp)
    }

    /// What was signed if the request is what its sender sent. `None`: it has no such header.
    pub fn fill(&self, request: &Incoming<'_>, timestamp: &str) -> Option<Vec<u8>> {
        let mut content = Vec::with_capacity(request.body.len() + 64);
        for part in &self.0 {
            content.extend_from_slice(match part {
                Part::Text(text) => text.as_bytes(),
                Part::Body => request.body,
                Part::Timestamp => timestamp.as_bytes(),
                Part::Method => request.method.as_bytes(),
                Part::Url => request.url.as_bytes(),
                Part::Header(name) => request.header(name)?.as_bytes(),
            });
        }
        Some(content)
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
            Part::Header(name) => write!(f, "{{header:{name}}}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_read_back_and_are_filled() {
        let headers = [("x-id".to_owned(), "7".to_owned())];
        let request = Incoming { method: "POST", url: "https://a/in?b", query: "b", headers: &headers, body: b"{}" };
        for (text, filled) in [
            ("{body}", "{}"),
            ("v0:{timestamp}:{body}", "v0:12:{}"),
            ("{timestamp}{body}", "12{}"),
            ("{method} {url}\n{header:x-id}.{body}!", "POST https://a/in?b\n7.{}!"),
        ] {
            let template = Template::parse(text).unwrap();
            assert_eq!(template.to_string(), text);
            assert_eq!(template.fill(&request, "12").unwrap(), filled.as_bytes(), "{text}");
        }
        assert_eq!(Template::parse("{header:x-none}{body}").unwrap().fill(&request, ""), None);
    }

    #[test]
    fn what_is_no_template_is_told() {
        for (bad, said) in [
            ("", "{body} once"),
            ("{timestamp}", "{body} once"),
            ("{body}{body}", "{body} once"),
            ("{body", "{ without its }"),
            ("{secret}{body}", "{secret}"),
            ("{header:}{body}", "{header:}"),
        ] {
            assert!(Template::parse(bad).unwrap_err().contains(said), "{bad}");
        }
        assert!(Template::parse(&"x".repeat(300)).is_err());
    }
}
