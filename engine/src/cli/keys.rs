//! `innesco keys`: manages keys of the API.

use anyhow::bail;
use serde::de::IgnoredAny;
use serde_json::json;

use super::{
    answer::Answer,
    client::Client,
    output::{Column, Printer, confirm},
};
use crate::{domain::key::Role, wire::KeyView};

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
    Rekey {
        /// Do not ask for confirmation
        #[arg(long)]
        yes: bool,
    },
}

pub fn run(command: &KeysCommand, client: &Client, out: &Printer) -> anyhow::Result<()> {
    match command {
        KeysCommand::Create { name, role, expires } => {
            let mut input = json!({ "name": name, "role": role });
            if let Some(expires) = expires {
                input["expires"] = json!(expires);
            }
            let answer = client.post(&["v1", "keys"], Some(&input))?;
            out.answer(&answer, |key: &KeyView| {
                let until = key.expires_at.as_ref().map(|at| format!("  until {}", out.time(at))).unwrap_or_default();
                format!(
                    "created {}  {}  {}{until}\n\n  {}\n  copy it now: it is not shown again",
                    key.id,
                    key.name,
                    key.role,
                    key.key.as_deref().unwrap_or("-")
                )
            })?;
        }
        KeysCommand::List => {
            let columns: [Column<KeyView>; 7] = [
                Column::text("key", |item| item.id.clone()),
                Column::text("name", |item| item.name.clone()),
                Column::text("role", |item| item.role.to_string()),
                Column::text("ends in", |item| item.ending.clone().unwrap_or_default()),
                Column::time("created", |item| item.created_at.clone()),
                Column::time("expires", |item| item.expires_at.clone().unwrap_or_default()),
                Column::time("last used", |item| item.last_used_at.clone().unwrap_or_default()),
            ];
            out.list(&client.list(&["v1", "keys"], &[], usize::MAX)?, &columns, "No key.")?;
        }
        KeysCommand::Revoke { key, yes } => {
            let keys = client.list(&["v1", "keys"], &[], usize::MAX)?;
            let found = meant(&keys, key)?;
            let KeyView { id, name, role, .. } = &**found;
            confirm(&format!("this revokes key {id} ({name}, {role}); programs that use it get 401"), *yes)?;
            client.delete::<IgnoredAny>(&["v1", "keys", id])?;
            out.thing(&json!({ "revoked": id }), |_| format!("revoked {id}  {name}"))?;
        }
        KeysCommand::Rekey { yes } => {
            confirm(
                "this replaces the master key; backups made before it open only with the old key, which stays beside the new one",
                *yes,
            )?;
            client.post::<IgnoredAny>(&["v1", "keys", "rekey"], None)?;
            out.thing(&json!({ "rekeyed": true }), |_| {
                "every secret is encrypted under a new master key. Store a copy of its file apart from the backups. The old key \
                 stays beside it, with a number in its name: keep that file as long as you have backups made before now"
                    .to_owned()
            })?;
        }
    }
    Ok(())
}

/// Finds the key by id or name.
fn meant<'a>(keys: &'a [Answer<KeyView>], typed: &str) -> anyhow::Result<&'a Answer<KeyView>> {
    if let Some(key) = keys.iter().find(|key| key.id == typed) {
        return Ok(key);
    }
    let named: Vec<&Answer<KeyView>> = keys.iter().filter(|key| key.name == typed).collect();
    match named.as_slice() {
        [key] => Ok(key),
        [] => bail!("no key {typed:?}; list all keys with: innesco keys list"),
        more => {
            let ids: Vec<&str> = more.iter().map(|found| found.id.as_str()).collect();
            bail!("{} keys have the name {typed:?}; give the id of one: {}", more.len(), ids.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::examples::{self, with},
        *,
    };

    #[test]
    fn finds_keys_by_id_and_by_unique_name() {
        let key = |id: &str, name: &str| Answer::read(with(examples::key(), json!({ "id": id, "name": name }))).unwrap();
        let keys = [key("key_1", "shop"), key("key_2", "shop"), key("key_3", "crm")];
        let meant = |typed: &str| meant(&keys, typed).map(|key| key.id.clone()).map_err(|error| error.to_string());
        assert_eq!(meant("key_2").unwrap(), "key_2");
        assert_eq!(meant("crm").unwrap(), "key_3");
        assert_eq!(meant("shop").unwrap_err(), "2 keys have the name \"shop\"; give the id of one: key_1, key_2");
        assert_eq!(meant("x").unwrap_err(), "no key \"x\"; list all keys with: innesco keys list");
    }
}
