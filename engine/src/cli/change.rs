//! Changes of endpoints and sources: a command sends only the members that were given on the command line, so all others stay as
//! they are.

use serde_json::{Map, Value};

use super::wrong;
use crate::domain::name::nearest;

/// Adds `null` for each name of `--unset`, which restores the default of that member. `NAME.KEY` removes one entry of a member with
/// entries, such as `headers.x-shop`.
///
/// # Errors
/// If a member cannot be unset, if it is also set, or if the change is empty.
pub fn with_unset(mut change: Map<String, Value>, unset: &[String], members: &[&str]) -> anyhow::Result<Map<String, Value>> {
    for typed in unset {
        let (member, entry) = match typed.split_once('.') {
            // The names of headers ignore case, but paths into the data do not.
            Some(("headers", entry)) => ("headers", Some(entry.to_ascii_lowercase())),
            Some((member, entry)) => (member, Some(entry.to_owned())),
            None => (typed.as_str(), None),
        };
        let member = member.replace('-', "_");
        if !members.contains(&member.as_str()) {
            let near =
                nearest(&member, members.iter().copied()).map(|near| format!("; the nearest is {near}")).unwrap_or_default();
            return Err(wrong(format!(
                "--unset {typed}: no member {member:?} has a default{near}. Write one of {}",
                members.join(", ")
            )));
        }
        let taken = || wrong(format!("--unset {typed}: the same command also sets it; leave one out"));
        match (entry, change.get_mut(&member)) {
            (None, None) => drop(change.insert(member, Value::Null)),
            (Some(entry), None) => drop(change.insert(member, Map::from_iter([(entry, Value::Null)]).into())),
            (Some(entry), Some(Value::Object(entries))) if !entries.contains_key(&entry) => {
                drop(entries.insert(entry, Value::Null))
            }
            (_, Some(_)) => return Err(taken()),
        }
    }
    if change.is_empty() {
        return Err(wrong("nothing to change: name at least one member, such as --title \"The CRM\", or --unset rate"));
    }
    Ok(change)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const MEMBERS: [&str; 3] = ["title", "client_certificate", "headers"];

    fn change(set: Value, unset: &[&str]) -> Result<Value, String> {
        let Value::Object(set) = set else { panic!("a change is an object") };
        let unset: Vec<String> = unset.iter().map(|name| (*name).to_owned()).collect();
        with_unset(set, &unset, &MEMBERS).map(Value::Object).map_err(|error| error.to_string())
    }

    #[test]
    fn unset_members_become_null() {
        for (set, unset, expected) in [
            (json!({ "title": "a" }), vec![], json!({ "title": "a" })),
            (json!({}), vec!["title", "client-certificate"], json!({ "title": null, "client_certificate": null })),
            (json!({}), vec!["headers.X-Shop", "headers.x-env"], json!({ "headers": { "x-shop": null, "x-env": null } })),
            (json!({ "headers": { "x-a": "1" } }), vec!["headers.x-b"], json!({ "headers": { "x-a": "1", "x-b": null } })),
        ] {
            assert_eq!(change(set, &unset), Ok(expected), "{unset:?}");
        }
    }

    #[test]
    fn errors_about_invalid_changes_show_valid_ones() {
        for (set, unset, expected) in [
            (json!({}), vec![], "nothing to change"),
            (
                json!({}),
                vec!["titel"],
                "no member \"titel\" has a default; the nearest is title. Write one of title, client_certificate",
            ),
            (json!({}), vec!["name"], "no member \"name\" has a default"),
            (json!({ "title": "a" }), vec!["title"], "--unset title: the same command also sets it"),
            (json!({ "headers": { "x-a": "1" } }), vec!["headers.x-a"], "--unset headers.x-a: the same command also sets it"),
            (json!({}), vec!["headers", "headers.x-a"], "--unset headers.x-a: the same command also sets it"),
        ] {
            let refused = change(set, &unset).expect_err("it is refused");
            assert!(refused.contains(expected), "{unset:?}: {refused}");
        }
    }
}
