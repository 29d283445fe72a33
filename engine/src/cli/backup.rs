//! `innesco backup`: copies the store, also while the engine runs.

use std::path::PathBuf;

use anyhow::Context as _;
use serde_json::json;

use super::{measure, output::Printer, serve::Folder};
use crate::store::Sqlite;

#[derive(clap::Args)]
pub struct BackupArgs {
    /// File to write; an existing file is not overwritten
    file: PathBuf,
    #[command(flatten)]
    folder: Folder,
}

pub fn run(args: &BackupArgs, out: &Printer) -> anyhow::Result<()> {
    let config = args.folder.config()?;
    let copy = Sqlite::backup(&config.data.join("innesco.db"), &args.file)
        .with_context(|| format!("the store in {} was not copied", config.data.display()))?;
    let (file, key) = (args.file.display().to_string(), config.master_key_file.display().to_string());
    let answer = json!({ "file": file, "bytes": copy.bytes, "events": copy.events, "master_key_file": key });
    Ok(out.thing(&answer, |_| {
        format!(
            "copied  {file}  {}, {}\n\nThe master key is not in the backup. Without it the secrets cannot be decrypted: {key}\nKeep a copy of that file \
             in another place. How to restore both: docs/operations.md",
            measure::size(copy.bytes),
            measure::count(copy.events, "event"),
        )
    })?)
}
