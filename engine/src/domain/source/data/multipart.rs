//! Reads `multipart/form-data` (RFC 7578), which is a form with one part per field, as JSON. A file is represented by name, type
//! and size; its bytes stay in the body, which is stored unchanged. Crates for this format, such as multer, read streams, but
//! here the body is already in memory.

use encoding_rs::Encoding;
use memchr::memmem::Finder;
use serde_json::Value;

use super::{Unread, form::Form, node::Node, text};
use crate::domain::{
    content::{Json, is_json},
    parts::Parts,
};

/// Maximum number of headers of one part. Browsers and mail services write two to four.
const HEADERS_MAX: usize = 16;
/// Maximum length of a boundary (RFC 2046, section 5.1.1).
const BOUNDARY_LEN_MAX: usize = 70;

/// Maximum size of a field that names the charsets of the other fields, in bytes.
const CHARSETS_LEN_MAX: usize = 4 << 10;

/// Reads a body whose content type is multipart.
pub fn read(content_type: &str, body: &[u8], parts: &mut Parts) -> Result<String, Unread> {
    let mut split = Split::new(content_type, body)?;
    let mut fields = Vec::new();
    while let Some(part) = split.next()? {
        parts.take(1)?;
        fields.push(part);
    }
    let named = |wanted: &str| fields.iter().find(|part| part.name == wanted).map(|part| part.bytes);
    let all = named("_charset_").and_then(Encoding::for_label);
    // SendGrid's Inbound Parse sends a field that names the charsets of all other fields.
    let each: Option<Value> =
        named("charsets").filter(|json| json.len() <= CHARSETS_LEN_MAX).and_then(|json| serde_json::from_slice(json).ok());
    let mut form = Form::default();
    for part in &fields {
        let declared = each.as_ref().and_then(|each| Encoding::for_label(each.get(&part.name)?.as_str()?.as_bytes()));
        form.field(&part.name, part.node(declared.or(all), parts)?, parts)?;
    }
    Ok(form.finish())
}

/// Returns the first field that has this name and is not a file. Searches only the first `count_max` parts.
pub fn field(content_type: &str, body: &[u8], name: &str, count_max: usize) -> Option<String> {
    let mut split = Split::new(content_type, body).ok()?;
    for _ in 0..count_max {
        let part = split.next().ok()??;
        if part.name == name && part.file.is_none() {
            return text::decode(None, part.bytes);
        }
    }
    None
}

/// A body that is divided into its parts, one after the other.
struct Split<'a> {
    rest: &'a [u8],
    delimiter: Finder<'static>,
}

impl<'a> Split<'a> {
    fn new(content_type: &str, body: &'a [u8]) -> Result<Self, Unread> {
        let bad = |what: &str| Unread::NotMultipart(what.to_owned());
        let boundary = text::parameter(content_type, "boundary").filter(|text| (1..=BOUNDARY_LEN_MAX).contains(&text.len()));
        let boundary = boundary.ok_or_else(|| bad("its content type has no boundary"))?;
        let delimiter = Finder::new(format!("\r\n--{boundary}").as_bytes()).into_owned();
        let rest = after_first(body, &delimiter).ok_or_else(|| bad("its boundary does not occur"))?;
        Ok(Self { rest, delimiter })
    }

    fn next(&mut self) -> Result<Option<Part<'a>>, Unread> {
        if self.rest.starts_with(b"--") {
            return Ok(None);
        }
        let bad = || Unread::NotMultipart("its last boundary is missing".to_owned());
        let part = line_end(self.rest).ok_or_else(bad)?;
        let end = find(part, &self.delimiter).ok_or_else(bad)?;
        self.rest = &part[end + self.delimiter.needle().len()..];
        Part::read(&part[..end]).map(Some)
    }
}

/// Returns the bytes after the first boundary; a preamble may be before it.
fn after_first<'a>(body: &'a [u8], delimiter: &Finder<'_>) -> Option<&'a [u8]> {
    // At the start of the body the boundary has no line end before it.
    let marker = &delimiter.needle()[2..];
    match body.strip_prefix(marker).filter(|rest| ends_a_boundary(rest)) {
        Some(rest) => Some(rest),
        None => find(body, delimiter).map(|at| &body[at + delimiter.needle().len()..]),
    }
}

/// Finds the next boundary. A line that only starts like a boundary is data.
fn find(bytes: &[u8], delimiter: &Finder<'_>) -> Option<usize> {
    delimiter.find_iter(bytes).find(|at| ends_a_boundary(&bytes[at + delimiter.needle().len()..]))
}

fn ends_a_boundary(rest: &[u8]) -> bool {
    rest.starts_with(b"--") || line_end(rest).is_some()
}

/// Returns the bytes after the end of the line. Before the end, only spaces are allowed (RFC 2046, "transport-padding").
fn line_end(bytes: &[u8]) -> Option<&[u8]> {
    let spaces = bytes.iter().take_while(|c| matches!(c, b' ' | b'\t')).count();
    bytes[spaces..].strip_prefix(b"\r\n")
}

/// One field.
struct Part<'a> {
    name: String,
    file: Option<String>,
    content_type: Option<String>,
    bytes: &'a [u8],
}

impl<'a> Part<'a> {
    fn read(part: &'a [u8]) -> Result<Self, Unread> {
        let bad = |what: String| Unread::NotMultipart(what);
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let (len, headers) = match httparse::parse_headers(part, &mut headers) {
            Ok(httparse::Status::Complete(read)) => read,
            Ok(httparse::Status::Partial) => return Err(bad("the headers of a part have no end".to_owned())),
            Err(error) => return Err(bad(format!("the headers of a part cannot be read: {error}"))),
        };
        let header = |wanted: &str| {
            let found = headers.iter().find(|header| header.name.eq_ignore_ascii_case(wanted));
            found.map(|header| String::from_utf8_lossy(header.value).into_owned())
        };
        let disposition = header("content-disposition").unwrap_or_default();
        // Browsers write a quote in a name as `%22` (WHATWG HTML, "multipart/form-data encoding algorithm").
        let named = |wanted: &str| text::parameter(&disposition, wanted).map(|name| name.replace("%22", "\""));
        let name = named("name").ok_or_else(|| bad("a part has no name".to_owned()))?;
        let file = named("filename").or_else(|| named("filename*"));
        Ok(Self { name, file, content_type: header("content-type"), bytes: &part[len..] })
    }

    /// Converts the field to JSON. A file, or a value that is not text, becomes an object with its name, type and size. JSON
    /// stays JSON. Every other value becomes text.
    fn node(&self, charset: Option<&'static Encoding>, parts: &mut Parts) -> Result<Node, Unread> {
        let content_type = self.content_type.as_deref().unwrap_or("text/plain");
        if self.file.is_none() {
            let own = text::charset(content_type).ok().flatten();
            match text::decode(own.or(charset), self.bytes) {
                Some(text) if is_json(content_type) && Json::check(&text).is_ok() => return Ok(Node::Json(text)),
                Some(text) => return Ok(Node::Text(text)),
                None => {}
            }
        }
        parts.take(3)?;
        let file = self.file.as_ref().map(|name| ("filename", Node::Text(name.clone())));
        let about = [("content_type", Node::Text(content_type.to_owned())), ("size", Node::Json(self.bytes.len().to_string()))];
        Ok(Node::Members(file.into_iter().chain(about).map(|(name, node)| (name.to_owned(), node)).collect()))
    }
}
