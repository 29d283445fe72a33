//! The steady clock across restarts. The store keeps the clock's last reading and the machine's uptime, beside the due times that
//! refer to this clock.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _};

use crate::{
    clock::{self, Boot, Kept},
    domain::time::Timestamp,
    store::Error,
};

pub const KEY: &str = "steady";

/// Stores the current reading. Called at start and regularly afterwards, because the machine may restart at any time.
pub fn keep(db: &Connection) -> Result<(), Error> {
    db.prepare_cached("INSERT OR REPLACE INTO meta (key, value) VALUES (?1, ?2)")?.execute([KEY, &write(&clock::keep())])?;
    Ok(())
}

/// Continues the clock from the reading that an earlier process stored.
pub fn resume(db: &Connection) -> Result<(), Error> {
    let noted: Option<String> = db.query_row("SELECT value FROM meta WHERE key = ?1", [KEY], |row| row.get(0)).optional()?;
    let kept = noted.map(|text| read(&text).ok_or(Error::Corrupt { table: "meta", column: "value", id: 0 })).transpose()?;
    clock::continue_from(kept.as_ref());
    Ok(())
}

/// Formats `reading uptime boot-id`, with times in milliseconds. The uptime and the boot id are missing if the system does not
/// report them.
fn write(kept: &Kept) -> String {
    let reading = kept.reading.millis();
    match &kept.boot {
        Some(Boot { id, up }) => format!("{reading} {} {id}", up.as_millis()),
        None => reading.to_string(),
    }
}

fn read(text: &str) -> Option<Kept> {
    let mut parts = text.split(' ');
    let reading = Timestamp::from_millis(parts.next()?.parse().ok()?);
    let boot = match (parts.next(), parts.next()) {
        (Some(up), Some(id)) => Some(Boot { id: id.to_owned(), up: Duration::from_millis(up.parse().ok()?) }),
        _ => None,
    };
    Some(Kept { reading, boot })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_reading_is_read_unchanged() {
        let reading = Timestamp::from_millis(1_700_000_000_123);
        let boot = Boot { id: "4cf2".into(), up: Duration::from_millis(12_345) };
        for kept in [Kept { reading, boot: Some(boot) }, Kept { reading, boot: None }] {
            assert_eq!(read(&write(&kept)), Some(kept));
        }
        assert_eq!(read("noon"), None);
    }
}
