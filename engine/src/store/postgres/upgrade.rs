//! Brings a database to this engine's layout: creates the tables, or upgrades an older layout step by step. One node at a time
//! does so, under a lock that all nodes know. The others wait, and then find the database upgraded.
//!
//! During an upgrade of the nodes, old and new engines run side by side, and old ones may be restarted. So a new layout only adds
//! parts that older engines can do without. If no engine uses a part any more, only a later layout removes it. Beside its layout,
//! the database stores the oldest layout whose engines can work with it ([`OLDEST`]).

use deadpool_postgres::Transaction;

use super::{
    db::{execute, get, meta, the_row},
    import,
    settle::lock_key,
};
use crate::{
    domain::id::Tag,
    random,
    store::{Error, KeyFile, Seal},
};

/// The layout that this engine reads and writes.
pub const LAYOUT: u8 = 5;
/// The oldest layout whose engines can work with this layout.
const OLDEST: u8 = 1;
/// The mark by which a database shows its layout.
pub const MARK: [u8; 2] = [LAYOUT, OLDEST];

/// Waits for the lock on the layout and the master key, and holds it until the end of the transaction.
pub async fn alone(tx: &Transaction<'_>) -> Result<(), Error> {
    execute(tx, "SELECT pg_advisory_xact_lock($1)", &[&lock_key("layout", &[])]).await?;
    Ok(())
}

/// Creates the tables of this layout in an empty database.
pub async fn make_tables(tx: &Transaction<'_>) -> Result<(), Error> {
    Ok(tx.batch_execute(include_str!("schema.sql")).await?)
}

/// Upgrades the store. Returns its tag and the key under which its secrets are sealed.
pub async fn upgrade(tx: &Transaction<'_>, key_file: &KeyFile) -> Result<(Tag, Seal), Error> {
    alone(tx).await?;
    let made: bool = get(&the_row(tx, "SELECT to_regclass('meta') IS NOT NULL", &[]).await?, 0)?;
    if !made {
        make_tables(tx).await?;
        let tag = Tag::from_random(random::bytes()?);
        let sql = "INSERT INTO meta (key, value) VALUES ('layout', $1), ('tag', $2)";
        execute(tx, sql, &[&MARK.as_slice(), &tag.as_str().as_bytes()]).await?;
    }
    import::refuse_unfinished(tx).await?;
    let layout = meta(tx, "layout").await?;
    match layout.as_deref() {
        Some([LAYOUT, ..]) => {}
        Some([older @ 1..LAYOUT, _]) => {
            // Counting the stored state may take long.
            tx.batch_execute("SET LOCAL statement_timeout = 0; SET LOCAL enable_seqscan = on").await?;
            if *older == 1 {
                tx.batch_execute(include_str!("upgrade_2.sql")).await?;
            }
            if *older <= 2 {
                tx.batch_execute(include_str!("upgrade_3.sql")).await?;
            }
            if *older <= 3 {
                tx.batch_execute(include_str!("upgrade_4.sql")).await?;
            }
            tx.batch_execute(include_str!("upgrade_5.sql")).await?;
            execute(tx, "UPDATE meta SET value = $1 WHERE key = 'layout'", &[&MARK.as_slice()]).await?;
            tx.batch_execute("RESET statement_timeout; RESET enable_seqscan").await?;
            tracing::info!(
                layout = LAYOUT,
                "database upgraded to a newer layout; engines of the older layout still work with it"
            );
        }
        Some([newer, oldest]) if *newer > LAYOUT && *oldest <= LAYOUT => {
            tracing::info!(
                layout = newer,
                known = LAYOUT,
                "database extended by a newer engine; this engine uses the parts that it knows"
            );
        }
        Some([newer, oldest]) if *newer > LAYOUT => {
            let text = format!(
                "its layout is version {newer}, which needs an engine that knows version {oldest} or later, but this engine knows version {LAYOUT}; upgrade the engine"
            );
            return Err(Error::Unavailable(text));
        }
        _ => return Err(corrupt()),
    }
    let mark = meta(tx, "seal").await?;
    let seal = key_file.open(mark.as_deref())?;
    if mark.is_none() {
        execute(tx, "INSERT INTO meta (key, value) VALUES ('seal', $1)", &[&seal.mark()?]).await?;
    }
    let tag = meta(tx, "tag").await?.and_then(|tag| Tag::parse(std::str::from_utf8(&tag).ok()?));
    Ok((tag.ok_or_else(corrupt)?, seal))
}

fn corrupt() -> Error {
    Error::Corrupt { table: "meta", column: "value", id: 0 }
}
