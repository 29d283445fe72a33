//! Backup: copies the store at one moment into one file, with or without a running engine. A failed copy leaves no file.
//!
//! A store that is restored from the copy must never issue an id that the original issued after the copy was made. A receiver would
//! drop the second webhook with that id as a repeat of the first. So new ids of the copy start far above those of the original.
//! Waiting work keeps its ids: if the original sent a waiting webhook after the copy was made, the restored store's engine sends it
//! again under the same id, and receivers drop the repeat.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rusqlite::{Connection, OpenFlags};

use super::{Sqlite, connect, last_event};
use crate::{files, store::Error};

/// Distance from the original's last id to the first new id of a copy. It is larger than the number of events that the original
/// accepts between the copy and a restore. It is small enough that a store can be restored thousands of times before the 41 bits of
/// event numbers are used up.
const IDS_APART: i64 = 1_000_000_000;

/// Result of a copy.
#[derive(Clone, Copy, Debug)]
pub struct Backup {
    pub bytes: u64,
    pub events: u64,
}

impl Sqlite {
    /// Copies the store in `file` to `copy`, which must not exist. Blocks the caller, but not a running engine.
    pub fn backup(file: &Path, copy: &Path) -> Result<Backup, Error> {
        if !file.exists() {
            return Err(Error::Unavailable(format!("there is no file {}; name its folder with --data", file.display())));
        }
        refuse_to_overwrite(copy)?;
        let draft = draft_of(copy)?;
        let copied = write(file, &draft.0).and_then(|backup| {
            publish(&draft.0, copy)?;
            Ok(backup)
        });
        // After a successful copy, no file has the temporary name any more, so this drop removes nothing.
        drop(draft);
        copied
    }
}

/// The copy under its temporary name. Dropping this removes the file if it still has that name.
struct Draft(PathBuf);

impl Drop for Draft {
    fn drop(&mut self) {
        for ending in ["", "-journal"] {
            let mut name = self.0.clone().into_os_string();
            name.push(ending);
            // The result is ignored, because usually no file with this name is left.
            let _ = fs::remove_file(name);
        }
    }
}

fn refuse_to_overwrite(copy: &Path) -> Result<(), Error> {
    match copy.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(_) => Err(Error::Taken { what: "the file", name: copy.display().to_string() }),
        Err(error) => Err(unwritable(copy, &error)),
    }
}

fn unwritable(copy: &Path, error: &io::Error) -> Error {
    Error::Unavailable(format!("{} cannot be written: {error}", copy.display()))
}

/// Creates the temporary file. Like the store, it can be read only by its owner.
fn draft_of(copy: &Path) -> Result<Draft, Error> {
    let mut name = copy.as_os_str().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    let draft = Draft(name.into());
    match files::create(&draft.0) {
        Ok(_) => Ok(draft),
        Err(error) => {
            let refusal = unwritable(copy, &error);
            // The file belongs to another process: do not remove it.
            std::mem::forget(draft);
            Err(refusal)
        }
    }
}

fn write(file: &Path, draft: &Path) -> Result<Backup, Error> {
    let store = connect(file, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let name = draft.to_str().ok_or_else(|| Error::Unavailable(format!("{} is not a name in UTF-8", draft.display())))?;
    store.execute("VACUUM INTO ?1", [name])?;
    let db = Connection::open_with_flags(draft, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    db.execute_batch("PRAGMA journal_mode = DELETE; PRAGMA synchronous = FULL")?;
    let last = last_event(&db)? + IDS_APART;
    db.execute("INSERT OR REPLACE INTO meta (key, value) VALUES ('last_event', ?1)", [last])?;
    let events: i64 = db.query_row("SELECT count(*) FROM event", [], |row| row.get(0))?;
    db.close().map_err(|(_, error)| Error::from(error))?;
    let bytes = fs::File::open(draft).and_then(|file| {
        file.sync_all()?;
        file.metadata()
    });
    let bytes = bytes.map_err(|error| unwritable(draft, &error))?.len();
    Ok(Backup { bytes, events: events.unsigned_abs() })
}

/// Renames the draft to `copy`. Fails if a file `copy` exists by now.
fn publish(draft: &Path, copy: &Path) -> Result<(), Error> {
    use rustix::{
        fs::{CWD, RenameFlags, renameat_with},
        io::Errno,
    };
    match renameat_with(CWD, draft, CWD, copy, RenameFlags::NOREPLACE) {
        Ok(()) => {}
        Err(Errno::EXIST) => return refuse_to_overwrite(copy),
        // Some file systems, such as NFS, cannot check for the file and rename in one step.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
            refuse_to_overwrite(copy)?;
            fs::rename(draft, copy).map_err(|error| unwritable(copy, &error))?;
        }
        Err(error) => return Err(unwritable(copy, &error.into())),
    }
    fs::File::open(files::folder_of(copy)).and_then(|folder| folder.sync_all()).map_err(|error| unwritable(copy, &error))
}
