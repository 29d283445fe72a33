//! `innesco keys`: manages keys of the API.

use anyhow::bail;
use serde_json::{Value, json};

use super::{
    client::Client,
    output::{Column, Printer, confirm, text},
};
use crate::domain::key::Role;

#[derive(clap::Subcommand)]
pub enum KeysCommand {
    /// Create a key. It is printed once
    #[command(before_help = "Example:  innesco keys create shop --role publish --expires 90d")]
    Create {
        /// Name: the program or person that uses the key
        name: String,
        /// Role: publish (send events), read (read, without secrets), subscribe (its own subscriptions, for automation tools),
        /// metrics (read /metrics), operate (also retry, replay, and manage endpoints and sources) or admin (everything)
        #[arg(long, default_value = "publish", value_parser = clap::builder::PossibleValuesParser::new(Role::ALL.map(Role::as_str)))]
        role: String,
        /// When the key expires: a duration, such as 90d, or a time: 2027-01-31T09:30:00Z
        #[arg(long, value_name = "WHEN")]
        expires: Option<String>,
    },
    /// List all keys
    #[command(before_help = "Example:  innesco keys list")]
    List,
    /// Revoke a key
    #[command(before_help = "Example:  innesco keys revoke shop")]
    Revoke {
        /// Key id, key_…, or a name that only this key has
        key: String,
        /// Do not ask for confirmation
        #[arg(long)]
        yes: bool,
    },
    /// Encrypt all secrets again with a new master key
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
                "every secret is encrypted under a new master key; the old one no longer decrypts anything. \
                 Copy the new key file to wherever you keep it apart from backups"
                    .to_owned()
            })?;
        }
    }
    Ok(())
}

/// Finds the key by id or name.
fn meant<'a>(keys: &'a [Value], typed: &str) -> anyhow::Result<&'a Value> {
    if let Some(key) = keys.iter().find(|key| key["id"] == typed) {
        return Ok(key);
    }
    let named: Vec<&Value> = keys.iter().filter(|key| key["name"] == typed).collect();
    match named.as_slice() {
        [key] => Ok(key),
        [] => bail!("no key {typed:?}; list all keys with: innesco keys list"),
        more => {
            let ids: Vec<String> = more.iter().map(|key| text(&key["id"])).collect();
            bail!("{} keys have the name {typed:?}; give the id of one: {}", more.len(), ids.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_keys_by_id_and_by_unique_name() {
        let key = |id: &str, name: &str| json!({ "id": id, "name": name });
        let keys = [key("key_1", "shop"), key("key_2", "shop"), key("key_3", "crm")];
        let meant = |typed: &str| meant(&keys, typed).map(|key| text(&key["id"])).map_err(|error| error.to_string());
        assert_eq!(meant("key_2").unwrap(), "key_2");
        assert_eq!(meant("crm").unwrap(), "key_3");
        assert_eq!(meant("shop").unwrap_err(), "2 keys have the name \"shop\"; give the id of one: key_1, key_2");
        assert_eq!(meant("x").unwrap_err(), "no key \"x\"; list all keys with: innesco keys list");
    }
}
