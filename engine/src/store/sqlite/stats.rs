//! Counts over time.

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::Sqlite;
use crate::{
    domain::{
        stats::{About, Cell, Counts},
        time::Timestamp,
    },
    store::{
        Error, Stats,
        stats::{FORGOTTEN_MAX, additions, more, read},
    },
};

#[async_trait]
impl Stats for Sqlite {
    async fn add_counts(&self, counts: Vec<(About, Counts)>, at: Timestamp) -> Result<(), Error> {
        self.write(move |db, _| add(db, counts, at)).await
    }

    async fn counts(&self, about: Vec<About>, cell: Cell, since: Timestamp) -> Result<Vec<(About, Timestamp, Counts)>, Error> {
        self.read_for_people(move |db| {
            let mut select = db.prepare_cached(
                "SELECT about, sheet, cells FROM stats WHERE about = ?1 AND cell = ?2 AND sheet >= ?3 ORDER BY sheet",
            )?;
            let mut found = Vec::new();
            for about in about {
                let mut rows = select.query(params![about.key(), cell.millis(), cell.place(since).0.millis()])?;
                while let Some(row) = rows.next()? {
                    let (about, cells): (String, String) = (row.get(0)?, row.get(2)?);
                    found.extend(read(&about, cell, row.get(1)?, &cells)?);
                }
            }
            Ok(found)
        })
        .await
    }
}

fn add(db: &Connection, counts: Vec<(About, Counts)>, at: Timestamp) -> Result<(), Error> {
    let mut select = db.prepare_cached("SELECT cells FROM stats WHERE about = ?1 AND cell = ?2 AND sheet = ?3")?;
    let mut write = db.prepare_cached("INSERT OR REPLACE INTO stats (about, cell, sheet, cells) VALUES (?1, ?2, ?3, ?4)")?;
    for ((about, cell, sheet), number, counts) in additions(counts, at) {
        let stored: Option<String> = select.query_row(params![about, cell, sheet], |row| row.get(0)).optional()?;
        write.execute(params![about, cell, sheet, more(stored.as_deref(), number, &counts)?])?;
    }
    let mut forget = db.prepare_cached(
        "DELETE FROM stats WHERE (about, cell, sheet) IN
             (SELECT about, cell, sheet FROM stats WHERE cell = ?1 AND sheet < ?2 ORDER BY cell, sheet LIMIT ?3)",
    )?;
    for cell in Cell::ALL {
        forget.execute(params![cell.millis(), cell.kept_since(at).millis(), FORGOTTEN_MAX])?;
    }
    Ok(())
}
