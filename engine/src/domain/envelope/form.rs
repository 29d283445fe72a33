//! Encodes a body as a web form: pairs of name and value, with nested names such as `a[b][0]`, which PHP, Rails and most query
//! libraries read. `null` becomes an empty value. An empty object or list has no pair, because a form cannot represent it.

use serde_json::value::RawValue;
use url::form_urlencoded::byte_serialize;

use super::{BYTES_MAX, Node, Root, Value};

/// The name of a value that has no name.
const ALONE: &str = "data";

/// Writes a form. Returns `None` if it exceeds [`BYTES_MAX`].
pub fn write(root: &Root<'_>) -> Option<Vec<u8>> {
    let mut form = Form { written: String::new(), name: String::new(), parts: 0 };
    match root {
        Root::Value(value) => form.value(value, 0)?,
        Root::Members(members) => {
            for (name, node) in members {
                form.within(name, |form| match node {
                    Node::Json(value) => form.value(value, 1),
                    Node::Text(value) => form.pair(value),
                })?;
            }
        }
    }
    Some(form.written.into_bytes())
}

struct Form {
    written: String,
    /// Name of the next value.
    name: String,
    /// Number of parts in `name`.
    parts: usize,
}

impl Form {
    fn value(&mut self, value: &RawValue, depth: usize) -> Option<()> {
        match Value::read(value, depth) {
            Value::Members(members) => {
                members.iter().try_for_each(|(name, value)| self.within(name, |form| form.value(value, depth + 1)))
            }
            Value::List(items) => items
                .iter()
                .enumerate()
                .try_for_each(|(place, item)| self.within(&place.to_string(), |form| form.value(item, depth + 1))),
            Value::Text(value) => self.pair(&value),
        }
    }

    /// Runs `inside` one level deeper.
    fn within(&mut self, name: &str, inside: impl FnOnce(&mut Self) -> Option<()>) -> Option<()> {
        let before = self.name.len();
        if self.parts == 0 {
            self.name.push_str(name);
        } else {
            self.name.extend(["[", name, "]"]);
        }
        self.parts += 1;
        inside(self)?;
        self.parts -= 1;
        self.name.truncate(before);
        Some(())
    }

    fn pair(&mut self, value: &str) -> Option<()> {
        if !self.written.is_empty() {
            self.written.push('&');
        }
        let name = if self.parts == 0 { ALONE } else { &self.name };
        self.written.extend(byte_serialize(name.as_bytes()));
        self.written.push('=');
        self.written.extend(byte_serialize(value.as_bytes()));
        (self.written.len() <= BYTES_MAX).then_some(())
    }
}
