//! `innesco keys`: who may speak to the API.

use anyhow::bail;
use serde_json::{Value, json};

use super::{
    client::Client,
    output::{Column, Printer, confirm, text},
};
use crate::domain::key::Role;

#[derive(clap::Subcommand)]
pub enum KeysCommand {
    /// Make a key; it is shown once
    #[command(before_help = "Example:  innesco keys create shop --role publish --expires 90d")]
    Create {
        /// Whose it is, or what for
        name: String,
        /// What it may do: publish (send events), read (read, without secrets), subscribe (its own subscriptions, for automation
        /// tools), metrics (read /metrics), operate (also retry, replay, and manage endpoints and sources) or admin (everything)
        #[arg(long, default_value = "publish", value_parser = clap::builder::PossibleValuesParser::new(Role::ALL.map(Role::as_str)))]
        role: String,
        /// After how long it opens nothing any more, such as 90d, or when: 2027-01-31T09:30:00Z
        #[arg(long, value_name = "WHEN")]
        expires: Option<String>,
    },
    /// All keys
    #[command(before_help = "Example:  innesco keys list")]
    List,
    /// Take a key back
    #[command(before_help = "Example:  innesco keys revoke shop")]
    Revoke {
        /// Its id, key_…, or its name if no other has it
        key: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Encrypt the engine's secrets anew, under a fresh master key
    #[command(before_help = "Example:  innesco keys rekey")]
    Rekey,
}

pub fn run(command: &KeysCommand, client: &Client, out: &Printer) -> anyhow::Result<()> {
    match command {
        KeysCommand::Create { name, role, expires } => {
            let mut input = json!({ "name": name, "role": role });
            if let Some(expires) = expires {
                input["expires"] = json!(expires);
            }
            let answer = client.post(&["v1", "keys"], Some(&input))?;
            out.thing(&answer, |key| {
                let until = key["expires_at"].as_str().map(|at| format!("  until {}", out.time(at))).unwrap_or_default();
                format!(
                    "created {}  {}  {}{until}\n\n  {}\n  copy it now: it is not shown again",
                    text(&key["id"]),
                    text(&key["name"]),
                    text(&key["role"]),
                    text(&key["key"])
                )
            })?;
        }
        KeysCommand::List => {
            let columns = [
                Column::text("key", |item| text(&item["id"])),
                Column::text("name", |item| text(&item["name"])),
                Column::text("role", |item| text(&item["role"])),
                Column::time("created", |item| text(&item["created_at"])),
                Column::time("expires", |item| text(&item["expires_at"])),
                Column::time("last used", |item| text(&item["last_used_at"])),
            ];
            out.list(&client.list(&["v1", "keys"], &[], usize::MAX)?, &columns, "No key.")?;
        }
        KeysCommand::Revoke { key, yes } => {
            let keys = client.list(&["v1", "keys"], &[], usize::MAX)?;
            let found = meant(&keys, key)?;
            let (id, name, role) = (text(&found["id"]), text(&found["name"]), text(&found["role"]));
            confirm(&format!("this revokes key {id} ({name}, {role}); programs that use it get 401"), *yes)?;
            client.delete(&["v1", "keys", &id])?;
            out.thing(&json!({ "revoked": id }), |_| format!("revoked {id}  {name}"))?;
        }
        KeysCommand::Rekey => {
            client.post(&["v1", "keys", "rekey"], None)?;
            out.thing(&json!({ "rekeyed": true }), |_| {
                "every secret is encrypted under a new master key; the old one opens nothing any more. \
                 Copy the new key file to wherever you keep it apart from backups"
                    .to_owned()
            })?;
        }
    }
    Ok(())
}

/// The key that an id or a name means.
fn meant<'a>(keys: &'a [Value], typed: &str) -> anyhow::Result<&'a Value> {
    if let Some(key) = keys.iter().find(|key| key["id"] == typed) {
        return Ok(key);
    }
    let named: Vec<&Value> = keys.iter().filter(|key| key["name"] == typed).collect();
    match named.as_slice() {
        [key] => Ok(key),
        [] => bail!("there is no key {typed:?}; all of them: innesco keys list"),
        more => {
            let ids: Vec<String> = more.iter().map(|key| text(&key["id"])).collect();
            bail!("{} keys are called {typed:?}; name one by its id: {}", more.len(), ids.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_by_id_and_by_a_name_that_is_theirs_alone() {
        let key = |id: &str, name: &str| json!({ "id": id, "name": name });
        let keys = [key("key_1", "shop"), key("key_2", "shop"), key("key_3", "crm")];
        let meant = |typed: &str| meant(&keys, typed).map(|key| text(&key["id"])).map_err(|error| error.to_string());
        assert_eq!(meant("key_2").unwrap(), "key_2");
        assert_eq!(meant("crm").unwrap(), "key_3");
        assert_eq!(meant("shop").unwrap_err(), "2 keys are called \"shop\"; name one by its id: key_1, key_2");
        assert_eq!(meant("x").unwrap_err(), "there is no key \"x\"; all of them: innesco keys list");
    }
}
