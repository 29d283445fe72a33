//! A form as JSON. Its fields are text. `a[b]` becomes a member of an object, `a[]` an item of a list, and a repeated name a
//! list. If a form has only the field `payload`, and the value of that field is JSON, the form becomes that JSON. GitHub sends
//! such forms.

use std::borrow::Cow;

use encoding_rs::Encoding;
use indexmap::{IndexMap, map::Entry};
use percent_encoding::percent_decode;

use super::{
    Unread,
    node::{Node, add, numbered},
    text,
};
use crate::domain::{
    content::Json,
    parts::{Parts, TooManyParts},
};

/// Maximum depth of names: the limit of Rack, for which many forms are written.
pub const DEPTH_MAX: usize = 32;

/// Reads a form. `charset` comes from the content type.
///
/// Without a charset, the fields are UTF-8 (WHATWG URL, "application/x-www-form-urlencoded parsing"). If they are not, a field of
/// the form may name the charset: `_charset_` (HTML), or `charset` (PayPal).
pub fn read(body: &[u8], charset: Option<&'static Encoding>, parts: &mut Parts) -> Result<String, Unread> {
    let charset =
        charset.or_else(|| if fields(body).all(|(name, value)| is_utf8(&name) && is_utf8(&value)) { None } else { named(body) });
    let mut form = Form::default();
    for (name, value) in fields(body) {
        let text = |bytes: &[u8]| text::decode(charset, bytes).ok_or(Unread::NotText);
        form.field(&text(&name)?, Node::Text(text(&value)?), parts)?;
    }
    Ok(form.finish())
}

fn is_utf8(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok()
}

/// Returns the charset that a field of the form names.
fn named(body: &[u8]) -> Option<&'static Encoding> {
    let found =
        |wanted: &[u8]| fields(body).find(|(name, _)| &**name == wanted).and_then(|(_, value)| Encoding::for_label(&value));
    found(b"_charset_").or_else(|| found(b"charset"))
}

/// Returns names and values, unescaped.
fn fields(body: &[u8]) -> impl Iterator<Item = (Cow<'_, [u8]>, Cow<'_, [u8]>)> {
    body.split(|c| *c == b'&').filter(|field| !field.is_empty()).map(|field| {
        let end = field.iter().position(|c| *c == b'=');
        let (name, value) = end.map_or((field, &[][..]), |end| (&field[..end], &field[end + 1..]));
        (unescaped(name), unescaped(value))
    })
}

fn unescaped(bytes: &[u8]) -> Cow<'_, [u8]> {
    if !bytes.iter().any(|c| matches!(c, b'+' | b'%')) {
        return bytes.into();
    }
    let spaced: Vec<u8> = bytes.iter().map(|c| if *c == b'+' { b' ' } else { *c }).collect();
    percent_decode(&spaced).collect::<Vec<u8>>().into()
}

/// The fields collected so far.
#[derive(Default)]
pub struct Form {
    members: IndexMap<String, Node>,
    fields: usize,
}

impl Form {
    /// Adds a field at the place that its name describes.
    pub fn field(&mut self, name: &str, value: Node, parts: &mut Parts) -> Result<(), TooManyParts> {
        parts.take(1)?;
        self.fields += 1;
        if let Some(value) = insert(&mut self.members, &steps(name), value, parts)? {
            // This field contradicts an earlier one, so its name is used literally.
            add(&mut self.members, name, value);
        }
        Ok(())
    }

    pub fn finish(self) -> String {
        if self.fields == 1
            && let Some(Node::Text(payload) | Node::Json(payload)) = self.members.get("payload")
            && Json::check(payload).is_ok()
        {
            return payload.clone();
        }
        let mut root = Node::Members(self.members);
        numbered(&mut root);
        root.to_json()
    }
}

/// Divides `a[b][]` into `a`, `b` and an empty step. A name without such brackets is a single step.
fn steps(name: &str) -> Vec<&str> {
    let Some((first, rest)) = name.split_once('[') else { return vec![name] };
    let Some(rest) = rest.strip_suffix(']') else { return vec![name] };
    let mut steps = vec![first];
    steps.extend(rest.split("][").take(DEPTH_MAX));
    let plain = |step: &&str| !step.contains(['[', ']']);
    // `[]` can only be the last step, because otherwise it would be unclear to which item of the list the next field belongs.
    let only_last = steps[1..].iter().rev().skip(1).all(|step| !step.is_empty());
    let readable = !first.is_empty() && steps.len() <= DEPTH_MAX && only_last && steps.iter().all(plain);
    if readable { steps } else { vec![name] }
}

/// Inserts a value at the steps. Returns the value and changes nothing if the place is taken.
fn insert(
    members: &mut IndexMap<String, Node>,
    steps: &[&str],
    value: Node,
    parts: &mut Parts,
) -> Result<Option<Node>, TooManyParts> {
    let [name, rest @ ..] = steps else { return Ok(Some(value)) };
    if rest.is_empty() {
        add(members, name, value);
        return Ok(None);
    }
    let is_item = rest == [""];
    let place = match members.entry((*name).to_owned()) {
        Entry::Occupied(place) => place.into_mut(),
        Entry::Vacant(place) => {
            parts.take(1)?;
            place.insert(if is_item { Node::List(Vec::new()) } else { Node::Members(IndexMap::new()) })
        }
    };
    match place {
        Node::List(items) if is_item => {
            items.push(value);
            Ok(None)
        }
        Node::Members(inner) if !is_item => insert(inner, rest, value, parts),
        _ => Ok(Some(value)),
    }
}
