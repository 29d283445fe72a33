//! `innesco keys`: who may speak to the API.

use serde_json::json;

use super::{
    client::Client,
    output::{self, Printer, confirm, text},
};

#[derive(clap::Subcommand)]
pub enum KeysCommand {
    /// Make a key; it is shown once
    Create {
        name: String,
        /// read, publish or admin
        #[arg(long, default_value = "publish")]
        role: String,
    },
    /// All keys
    List,
    /// Take a key back
    Revoke {
        /// Its id, key_…
        key: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

pub fn run(command: &KeysCommand, client: &Client, out: &Printer) -> anyhow::Result<()> {
    match command {
        KeysCommand::Create { name, role } => {
            let answer = client.post("/v1/keys", Some(&json!({ "name": name, "role": role })))?;
            out.thing(&answer, |key| {
                format!("{}  {}  may {}\n{}\ncopy it now: it is not shown again", text(&key["id"]), name, role, text(&key["key"]))
            })?;
        }
        KeysCommand::List => {
            let items = client.get("/v1/keys")?["items"].as_array().cloned().unwrap_or_default();
            let columns: [output::Column; 4] = [
                ("key", |item| text(&item["id"])),
                ("name", |item| text(&item["name"])),
                ("role", |item| text(&item["role"])),
                ("created", |item| text(&item["created_at"])),
            ];
            out.list(&items, &columns, "No key.")?;
        }
        KeysCommand::Revoke { key, yes } => {
            confirm(&format!("whoever uses {key} is refused from now on"), *yes)?;
            client.delete(&format!("/v1/keys/{key}"))?;
            out.thing(&json!({ "revoked": key }), |_| format!("revoked {key}"))?;
        }
    }
    Ok(())
}
