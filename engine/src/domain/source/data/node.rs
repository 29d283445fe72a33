//! The tree into which a form or an XML document is parsed, before it is written as JSON.

use indexmap::{IndexMap, map::Entry};

/// A parsed value, before it is written as JSON.
#[derive(Debug)]
pub enum Node {
    Text(String),
    /// Checked JSON, written unchanged.
    Json(String),
    List(Vec<Node>),
    Members(IndexMap<String, Node>),
}

impl Node {
    fn write(&self, to: &mut String) {
        match self {
            Self::Text(text) => to.push_str(&quoted(text)),
            Self::Json(json) => to.push_str(json),
            Self::List(items) => {
                to.push('[');
                for (place, item) in items.iter().enumerate() {
                    if place > 0 {
                        to.push(',');
                    }
                    item.write(to);
                }
                to.push(']');
            }
            Self::Members(members) => {
                to.push('{');
                for (place, (name, member)) in members.iter().enumerate() {
                    if place > 0 {
                        to.push(',');
                    }
                    to.push_str(&quoted(name));
                    to.push(':');
                    member.write(to);
                }
                to.push('}');
            }
        }
    }

    pub fn to_json(&self) -> String {
        let mut text = String::new();
        self.write(&mut text);
        text
    }
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("text is always JSON")
}

/// Adds a member. If the name is repeated, its values become a list.
pub fn add(members: &mut IndexMap<String, Node>, name: &str, node: Node) {
    match members.entry(name.to_owned()) {
        Entry::Vacant(place) => {
            place.insert(node);
        }
        Entry::Occupied(mut place) => match place.get_mut() {
            Node::List(items) => items.push(node),
            other => {
                let first = std::mem::replace(other, Node::List(Vec::new()));
                *other = Node::List(vec![first, node]);
            }
        },
    }
}

/// Turns an object into a list if the names of its members are the numbers from 0 on, such as `a[0]` and `a[1]`.
pub fn numbered(node: &mut Node) {
    match node {
        Node::Text(_) | Node::Json(_) => {}
        Node::List(items) => items.iter_mut().for_each(numbered),
        Node::Members(members) => {
            members.values_mut().for_each(numbered);
            let counts = members.keys().enumerate().all(|(place, name)| *name == place.to_string());
            if counts && !members.is_empty() {
                *node = Node::List(std::mem::take(members).into_values().collect());
            }
        }
    }
}
