//! Counts over time.

use std::collections::HashMap;

use async_trait::async_trait;
use deadpool_postgres::Transaction;

use super::{
    Postgres,
    db::{execute, get, rows},
};
use crate::{
    domain::{
        stats::{About, Cell, Counts},
        time::Timestamp,
    },
    store::{
        Error, Stats,
        stats::{FORGOTTEN_MAX, Key, additions, more, read},
    },
};

#[async_trait]
impl Stats for Postgres {
    async fn add_counts(&self, counts: Vec<(About, Counts)>, at: Timestamp) -> Result<(), Error> {
        self.step(move |tx, _| Box::pin(add(tx, counts, at))).await
    }

    async fn counts(&self, about: Vec<About>, cell: Cell, since: Timestamp) -> Result<Vec<(About, Timestamp, Counts)>, Error> {
        let keys: Vec<String> = about.iter().map(About::key).collect();
        let since = cell.place(since).0.millis();
        self.read_for_people(move |tx, _| {
            Box::pin(async move {
                let sql = "SELECT about, sheet, cells FROM stats WHERE about = ANY($1) AND cell = $2 AND sheet >= $3
                           ORDER BY array_position($1, about), sheet";
                let mut found = Vec::new();
                for row in rows(tx, sql, &[&keys, &cell.millis(), &since]).await? {
                    found.extend(read(get(&row, 0)?, cell, get(&row, 1)?, get(&row, 2)?)?);
                }
                Ok(found)
            })
        })
        .await
    }
}

async fn add(tx: &Transaction<'_>, counts: Vec<(About, Counts)>, at: Timestamp) -> Result<(), Error> {
    let additions = additions(counts, at);
    let (mut abouts, mut cells, mut sheets) = (Vec::new(), Vec::new(), Vec::new());
    for ((about, cell, sheet), ..) in &additions {
        abouts.push(about.as_str());
        cells.push(*cell);
        sheets.push(*sheet);
    }
    let new = "INSERT INTO stats (about, cell, sheet, cells)
               SELECT about, cell, sheet, '{}' FROM unnest($1::text[], $2::bigint[], $3::bigint[]) u (about, cell, sheet)
               ON CONFLICT DO NOTHING";
    execute(tx, new, &[&abouts, &cells, &sheets]).await?;
    // All nodes lock the rows in the same order, so that no deadlock occurs.
    let lock = "SELECT s.about, s.cell, s.sheet, s.cells
                FROM stats s JOIN unnest($1::text[], $2::bigint[], $3::bigint[]) u (about, cell, sheet) USING (about, cell, sheet)
                ORDER BY s.about COLLATE \"C\", s.cell, s.sheet FOR NO KEY UPDATE OF s";
    let mut stored: HashMap<Key, String> = HashMap::new();
    for row in rows(tx, lock, &[&abouts, &cells, &sheets]).await? {
        stored.insert((get(&row, 0)?, get(&row, 1)?, get(&row, 2)?), get(&row, 3)?);
    }
    let texts: Vec<String> = additions
        .iter()
        .map(|(key, number, counts)| more(stored.get(key).map(String::as_str), *number, counts))
        .collect::<Result<_, _>>()?;
    let write = "UPDATE stats s SET cells = u.cells
                 FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::text[]) u (about, cell, sheet, cells)
                 WHERE (s.about, s.cell, s.sheet) = (u.about, u.cell, u.sheet)";
    execute(tx, write, &[&abouts, &cells, &sheets, &texts]).await?;
    // This skips rows that another node is deleting at the same time.
    let forget = "DELETE FROM stats WHERE (about, cell, sheet) IN
                      (SELECT about, cell, sheet FROM stats WHERE cell = $1 AND sheet < $2 LIMIT $3 FOR UPDATE SKIP LOCKED)";
    for cell in Cell::ALL {
        execute(tx, forget, &[&cell.millis(), &cell.kept_since(at).millis(), &FORGOTTEN_MAX]).await?;
    }
    Ok(())
}
