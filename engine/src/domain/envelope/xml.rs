//! Encodes a body in XML 1.0: objects become elements, lists become repeated elements, other values become text.
//!
//! The output is always well-formed: a name that is not a plain XML name becomes an attribute, and a character that XML does not
//! allow becomes U+FFFD.

use std::{
    borrow::Cow,
    io::{self, Write},
};

use quick_xml::{
    Writer,
    events::{BytesDecl, BytesEnd, BytesStart, BytesText, Event},
};
use serde_json::value::RawValue;

use super::{BYTES_MAX, Node, Root, Value};

/// The root element.
const ROOT: &str = "webhook";
/// The element for values without a name, or with a name that XML does not allow.
const ITEM: &str = "item";

/// Writes XML. Returns `None` if it exceeds [`BYTES_MAX`].
pub fn write(root: &Root<'_>) -> Option<Vec<u8>> {
    let mut to = Writer::new(Bounded(Vec::new()));
    document(&mut to, root).ok()?;
    Some(to.into_inner().0)
}

/// A buffer with a limit; exceeding it is the only possible error.
struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        if self.0.len() + part.len() > BYTES_MAX {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.0.extend_from_slice(part);
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn document(to: &mut Writer<Bounded>, root: &Root<'_>) -> io::Result<()> {
    to.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
    to.write_event(Event::Start(BytesStart::new(ROOT)))?;
    match root {
        Root::Value(value) => content(to, value, 0)?,
        Root::Members(members) => {
            for (name, node) in members {
                match node {
                    Node::Json(value) => member(to, name, value, 1)?,
                    Node::Text(value) => element(to, name, |to| text(to, value))?,
                }
            }
        }
    }
    to.write_event(Event::End(BytesEnd::new(ROOT)))
}

/// Writes one member of an object: an element, or one element per item of a list.
fn member(to: &mut Writer<Bounded>, name: &str, value: &RawValue, depth: usize) -> io::Result<()> {
    match Value::read(value, depth) {
        Value::List(items) => items.into_iter().try_for_each(|item| element(to, name, |to| content(to, item, depth + 1))),
        value => element(to, name, |to| write_value(to, value, depth)),
    }
}

fn content(to: &mut Writer<Bounded>, value: &RawValue, depth: usize) -> io::Result<()> {
    write_value(to, Value::read(value, depth), depth)
}

fn write_value(to: &mut Writer<Bounded>, value: Value<'_>, depth: usize) -> io::Result<()> {
    match value {
        Value::Members(members) => members.iter().try_for_each(|(name, value)| member(to, name, value, depth + 1)),
        Value::List(items) => items.into_iter().try_for_each(|item| element(to, ITEM, |to| content(to, item, depth + 1))),
        Value::Text(value) => text(to, &value),
    }
}

fn element(to: &mut Writer<Bounded>, name: &str, inside: impl FnOnce(&mut Writer<Bounded>) -> io::Result<()>) -> io::Result<()> {
    let plain = is_plain(name);
    let mut start = BytesStart::new(if plain { name } else { ITEM });
    if !plain {
        start.push_attribute(("name", characters(name)));
    }
    let end = start.to_end().into_owned();
    to.write_event(Event::Start(start))?;
    inside(to)?;
    to.write_event(Event::End(end))
}

fn text(to: &mut Writer<Bounded>, text: &str) -> io::Result<()> {
    to.write_event(Event::Text(BytesText::new(&characters(text))))
}

/// Returns whether a name can be the name of an element: only ASCII, no colon (used by namespaces), and not the reserved prefix
/// of XML.
fn is_plain(name: &str) -> bool {
    let begins = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let continues = name.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-' | b'.'));
    let reserved = name.as_bytes().get(..3).is_some_and(|first| first.eq_ignore_ascii_case(b"xml"));
    begins && continues && !reserved
}

/// Replaces each character that XML 1.0 does not allow (production 2).
fn characters(text: &str) -> Cow<'_, str> {
    let known = |c: char| matches!(c, '\t' | '\n' | '\r' | ' '..='\u{D7FF}' | '\u{E000}'..='\u{FFFD}' | '\u{10000}'..);
    if text.chars().all(known) {
        return text.into();
    }
    text.chars().map(|c| if known(c) { c } else { char::REPLACEMENT_CHARACTER }).collect()
}
