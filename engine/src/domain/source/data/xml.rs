//! An XML document as JSON. An element is an object with attributes as `@name`, children by name (repeated ones as a list) and
//! text as `#text`. An element with only text becomes that text. Names keep their prefixes. Only the five predefined entities of
//! XML are read, and a document with a document type is refused.

use encoding_rs::Encoding;
use indexmap::IndexMap;
use quick_xml::{
    Reader, XmlVersion,
    errors::Error as XmlError,
    events::{BytesStart, Event as Xml},
};

use super::{
    Unread,
    node::{Node, add},
};
use crate::domain::parts::Parts;

/// Maximum nesting of elements. serde_json reads 128 levels.
pub const DEPTH_MAX: usize = 64;

impl From<XmlError> for Unread {
    fn from(error: XmlError) -> Self {
        Self::NotXml(error.to_string())
    }
}

/// Returns the charset in the declaration of a document.
pub fn declared_charset(body: &[u8]) -> Result<Option<&'static Encoding>, Unread> {
    /// Maximum length of a declaration, in bytes.
    const DECLARATION_MAX: usize = 256;
    let head = &body[..body.len().min(DECLARATION_MAX)];
    let head: String = head.iter().map(|c| char::from(*c)).collect();
    let Some((declaration, _)) = head.strip_prefix("<?xml").and_then(|rest| rest.split_once("?>")) else { return Ok(None) };
    let Some((_, value)) = declaration.split_once("encoding") else { return Ok(None) };
    let value = value.trim_start().trim_start_matches('=').trim_start();
    let label = value.get(1..).and_then(|rest| rest.split(['"', '\'']).next()).unwrap_or_default();
    Encoding::for_label(label.as_bytes()).map(Some).ok_or_else(|| Unread::UnknownCharset(label.to_owned()))
}

/// Reads a document.
pub fn read(text: &str, parts: &mut Parts) -> Result<String, Unread> {
    Ok(Node::Members(document(text, parts)?).to_json())
}

/// An open element.
struct Open {
    name: String,
    members: IndexMap<String, Node>,
    text: String,
}

impl Open {
    fn close(mut self) -> (String, Node) {
        let text = self.text.trim();
        let node = if self.members.is_empty() {
            Node::Text(text.to_owned())
        } else {
            if !text.is_empty() {
                add(&mut self.members, "#text", Node::Text(text.to_owned()));
            }
            Node::Members(self.members)
        };
        (self.name, node)
    }
}

pub(super) fn document(text: &str, parts: &mut Parts) -> Result<IndexMap<String, Node>, Unread> {
    let mut reader = Reader::from_str(text);
    reader.config_mut().expand_empty_elements = true;
    let mut root = IndexMap::new();
    let mut open: Vec<Open> = Vec::new();
    let outside = || Unread::NotXml("there is content outside of its root element".to_owned());
    loop {
        match reader.read_event()? {
            Xml::Start(start) => {
                if open.is_empty() && !root.is_empty() {
                    return Err(outside());
                }
                if open.len() == DEPTH_MAX {
                    return Err(Unread::TooDeep);
                }
                open.push(begin(&start, parts)?);
            }
            Xml::End(_) => {
                let (name, node) = open.pop().map(Open::close).ok_or_else(outside)?;
                add(open.last_mut().map_or(&mut root, |outer| &mut outer.members), &name, node);
            }
            Xml::Text(part) => {
                let part = part.xml10_content();
                match open.last_mut() {
                    Some(element) => element.text.push_str(&part),
                    None if part.trim().is_empty() => {}
                    None => return Err(outside()),
                }
            }
            Xml::CData(part) => open.last_mut().ok_or_else(outside)?.text.push_str(&part.xml10_content()),
            Xml::GeneralRef(reference) => {
                let text = &mut open.last_mut().ok_or_else(outside)?.text;
                match reference.resolve_char_ref()? {
                    Some(c) => text.push(c),
                    None => text.push_str(
                        quick_xml::escape::resolve_predefined_entity(&reference.xml10_content()).ok_or(Unread::DocumentType)?,
                    ),
                }
            }
            Xml::DocType(_) => return Err(Unread::DocumentType),
            Xml::Eof if open.is_empty() && !root.is_empty() => return Ok(root),
            Xml::Eof => return Err(Unread::NotXml("an element has no end".to_owned())),
            // Processing instructions and comments are not data. `Empty` is expanded.
            Xml::Decl(_) | Xml::PI(_) | Xml::Comment(_) | Xml::Empty(_) => {}
        }
    }
}

/// Starts an element with its attributes; its text is added later.
fn begin(start: &BytesStart<'_>, parts: &mut Parts) -> Result<Open, Unread> {
    parts.take(1)?;
    let mut members = IndexMap::new();
    for attribute in start.attributes() {
        parts.take(1)?;
        let attribute = attribute.map_err(XmlError::from)?;
        let value = attribute.normalized_value(XmlVersion::Implicit1_0)?.into_owned();
        add(&mut members, &format!("@{}", attribute.key.0), Node::Text(value));
    }
    Ok(Open { name: start.name().0.to_owned(), members, text: String::new() })
}
