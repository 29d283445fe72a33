//! `innesco migrate`: moves the store of one engine into a Postgres database.

use std::{
    io::{self, IsTerminal as _},
    path::PathBuf,
    time::Duration,
};

use anyhow::Context as _;
use serde_json::{Value, json};

use super::{
    measure::{count, took},
    output::{self, Printer},
    serve::{self, ServeArgs},
    wrong,
};
use crate::{
    clock,
    config::{Config, StoreAt},
    domain::time::Timestamp,
    serve::lock_folder,
    store::{self, KeyFile, Migration, Moved},
};

/// Time between two progress lines when standard error is not a terminal.
const REPORT_EVERY: Duration = Duration::from_secs(5);

#[derive(clap::Args)]
pub struct MigrateArgs {
    /// Data folder of the stopped engine; sqlite:DIR works too [default: the setting `data`]
    #[arg(long, value_name = "DIR")]
    from: Option<String>,
    /// Empty database: postgres://user:password@host/database [default: the setting `store`, such as INNESCO_STORE]
    #[arg(long, value_name = "DATABASE")]
    to: Option<String>,
    /// Settings file [default: innesco.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub fn run(args: &MigrateArgs, out: &Printer) -> anyhow::Result<()> {
    let data = args.from.as_deref().map(folder).transpose()?;
    let settings = ServeArgs { data, store: args.to.clone(), config: args.config.clone(), ..ServeArgs::default() };
    let config = Config::check(&settings.raw()?)?;
    let StoreAt::Postgres(url) = &config.store else {
        return Err(wrong("the target is missing: give an empty database with --to postgres://user:password@host/database"));
    };
    let (from, shown) = (config.data.display().to_string(), config.store.to_string());
    let file = config.data.join("innesco.db");
    anyhow::ensure!(file.exists(), "no store in {from}; give the data folder with --from");
    // A change during the copy would be missing in the database.
    let _lock = lock_folder(&config.data).context("stop the engine before you move its store")?;
    let began = clock::steady();
    let mut progress = Progress::new();
    let key_file = KeyFile::at(config.master_key_file.clone());
    let mut report = |moved| progress.report(moved);
    let moved = serve::runtime()?.block_on(store::migrate(&file, &key_file, url, &shown, &mut report));
    progress.end();
    let moved = moved.map_err(|error| match error.passes() {
        true => anyhow::Error::new(error)
            .context(format!("{from} is not completely moved to {shown}; run the same command again to continue")),
        false => anyhow::Error::new(error).context(format!("{from} was not moved to {shown}")),
    })?;
    let key = config.master_key_file.display().to_string();
    let ended = clock::steady().since(began);
    Ok(out.thing(&view(&moved, &from, &shown, &key, ended), |_| page(&moved, &from, &shown, &key, ended))?)
}

/// Returns the folder of `sqlite:DIR`, `sqlite:DIR/innesco.db` or `DIR`.
fn folder(from: &str) -> anyhow::Result<String> {
    if from.starts_with("postgres:") || from.starts_with("postgresql:") {
        return Err(wrong("--from must be the data folder of an engine with SQLite; move a Postgres database with pg_dump"));
    }
    let path = from.strip_prefix("sqlite://").or_else(|| from.strip_prefix("sqlite:")).unwrap_or(from);
    let folder = path.strip_suffix("innesco.db").unwrap_or(path);
    Ok(if folder.is_empty() { ".".to_owned() } else { folder.to_owned() })
}

fn view(moved: &Migration, from: &str, to: &str, key: &str, took: Duration) -> Value {
    let tables: serde_json::Map<String, Value> =
        moved.tables.iter().map(|(name, sum)| ((*name).to_owned(), json!({ "rows": sum.rows, "bytes": sum.bytes }))).collect();
    json!({
        "from": from, "to": to, "tables": tables, "rows_before": moved.rows_before, "was_done": moved.was_done,
        "took_ms": took.as_millis() as u64, "master_key_file": key,
    })
}

fn page(moved: &Migration, from: &str, to: &str, key: &str, ended: Duration) -> String {
    let mut lines: Vec<String> =
        moved.tables.iter().filter(|(_, sum)| sum.rows > 0).map(|(name, sum)| format!("{:>12}  {name}", sum.rows)).collect();
    let rows = count(moved.tables.iter().map(|(_, sum)| sum.rows).sum(), "row");
    lines.push(String::new());
    lines.push(match (moved.was_done, moved.rows_before) {
        (true, _) => format!("{from} was already moved to {to} by an earlier command"),
        (false, 0) => format!("moved {rows} to {to} in {}; every table was verified on both sides", took(ended)),
        (false, before) => format!(
            "moved {rows} to {to}, {before} of them by earlier commands, the rest in {}; every table was verified on both sides",
            took(ended)
        ),
    });
    lines.push(format!(
        "\nThe master key is unchanged: give every node this file as master_key_file: {key}\n\
         No engine starts from {from} any more; its file is otherwise unchanged. Start the first node:\n\n  \
         innesco serve --data {from} --store postgres://…"
    ));
    lines.join("\n")
}

/// Shows the progress: on a terminal as a bar, otherwise with a line for each finished table and one every few seconds.
struct Progress {
    bar: Option<indicatif::ProgressBar>,
    reported: Timestamp,
    reported_rows: u64,
}

impl Progress {
    fn new() -> Self {
        let style = indicatif::ProgressStyle::with_template("{wide_bar} {pos} of {len} rows  {msg}  {elapsed}, {eta} to go");
        let style = style.expect("the template is valid");
        let bar = io::stderr().is_terminal().then(|| indicatif::ProgressBar::new(0).with_style(style));
        Self { bar, reported: clock::steady(), reported_rows: 0 }
    }

    fn report(&mut self, moved: Moved) {
        match &self.bar {
            Some(bar) => {
                bar.set_length(moved.rows_in_all);
                bar.set_position(moved.rows);
                bar.set_message(moved.table);
            }
            None if (moved.table_done && moved.rows > self.reported_rows)
                || clock::steady().since(self.reported) >= REPORT_EVERY =>
            {
                (self.reported, self.reported_rows) = (clock::steady(), moved.rows);
                output::tell!("{} of {}  {}", moved.rows, count(moved.rows_in_all, "row"), moved.table);
            }
            None => {}
        }
    }

    fn end(&self) {
        self.bar.iter().for_each(indicatif::ProgressBar::finish_and_clear);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_the_folder_as_an_address() {
        for (from, expected) in [
            ("innesco-data", "innesco-data"),
            ("sqlite:/var/lib/innesco", "/var/lib/innesco"),
            ("sqlite:///var/lib/innesco", "/var/lib/innesco"),
            ("sqlite:/var/lib/innesco/innesco.db", "/var/lib/innesco/"),
            ("innesco.db", "."),
        ] {
            assert_eq!(folder(from).unwrap(), expected);
        }
        assert!(folder("postgres://db/events").unwrap_err().to_string().contains("pg_dump"));
    }
}
