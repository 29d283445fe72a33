//! Counts over time. Each node adds its own counts every few seconds.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::{
    Error,
    columns::{Place, json},
};
use crate::domain::{
    stats::{About, Cell, Counts},
    time::Timestamp,
};

/// Stores counts over time.
#[async_trait]
pub trait Stats {
    /// Adds counts to the hour that contains `at` (wall clock). Counts of the engine as a whole are also added to the minute.
    /// Deletes sheets (rows with the counts of a period) that are not needed any more.
    ///
    /// # Errors
    /// If the store cannot be written; then nothing is added.
    async fn add_counts(&self, counts: Vec<(About, Counts)>, at: Timestamp) -> Result<(), Error>;

    /// Returns the counts of each of these subjects, one item for each cell (a minute or an hour), oldest first. Begins with the
    /// sheet that contains `since`. Cells without counts are left out.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if a sheet cannot be read.
    async fn counts(&self, about: Vec<About>, cell: Cell, since: Timestamp) -> Result<Vec<(About, Timestamp, Counts)>, Error>;
}

/// Maximum number of old sheets that one write deletes.
pub(super) const FORGOTTEN_MAX: i64 = 1_000;

/// The key of a row: its subject, the length of its cells in milliseconds, and the start of its sheet in milliseconds.
pub(super) type Key = (String, i64, i64);

/// Returns the additions: the key of the row, the number of the cell and its counts, in the order of the keys.
pub(super) fn additions(counts: Vec<(About, Counts)>, at: Timestamp) -> Vec<(Key, u16, Counts)> {
    let mut all = BTreeMap::new();
    for (about, counts) in counts {
        for cell in Cell::ALL.into_iter().filter(|cell| *cell == Cell::Hour || about == About::Engine) {
            let (sheet, number) = cell.place(at);
            all.insert((about.key(), cell.millis(), sheet.millis()), (number, counts.clone()));
        }
    }
    all.into_iter().map(|(key, (number, counts))| (key, number, counts)).collect()
}

const PLACE: Place = Place { table: "stats", id: 0 };

type Cells = BTreeMap<u16, Counts>;

/// Returns the column `cells` with more counts.
pub(super) fn more(stored: Option<&str>, number: u16, counts: &Counts) -> Result<String, Error> {
    let mut cells: Cells = stored.map_or(Ok(Cells::new()), |text| PLACE.json("cells", text))?;
    cells.entry(number).or_default().add(counts);
    Ok(json(&cells))
}

/// Reads the cells of a row.
pub(super) fn read(about: &str, cell: Cell, sheet: i64, cells: &str) -> Result<Vec<(About, Timestamp, Counts)>, Error> {
    let about = About::from_key(about).ok_or_else(|| PLACE.corrupt("about"))?;
    let cells: Cells = PLACE.json("cells", cells)?;
    let start = |number| cell.start(Timestamp::from_millis(sheet), number);
    Ok(cells.into_iter().map(|(number, counts)| (about.clone(), start(number), counts)).collect())
}
