//! A copy of the store, whether an engine runs on it or not: one moment of it, in one file, or no file at all.
//!
//! A store that is restored from the copy must never issue an id that the original issued after the copy was taken: a receiver
//! would drop the second webhook under it as a repeat of the first. So the copy's ids go on far above. What waits in it keeps its
//! ids: what the original has sent meanwhile is sent again under the same name, and dropped where it came twice.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rusqlite::{Connection, OpenFlags};

use super::{Sqlite, connect, last_event};
use crate::{files, store::Error};

/// How far above the original's the ids of a copy begin: more events than are accepted before a restore, and so few that a store
/// can be restored thousands of times before its 41 bits are used up.
const IDS_APART: i64 = 1_000_000_000;

/// What was copied.
#[derive(Clone, Copy, Debug)]
pub struct Backup {
    pub bytes: u64,
    pub events: u64,
}

impl Sqlite {
    /// Copies the store in `file` to `copy`, which must not be there yet. Blocks; does not block an engine.
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
        // Gone under this name already, if all went well.
        drop(draft);
        copied
    }
}

/// The copy under its temporary name. What is left of it goes when this does.
struct Draft(PathBuf);

impl Drop for Draft {
    fn drop(&mut self) {
        for ending in ["", "-journal"] {
            let mut name = self.0.clone().into_os_string();
            name.push(ending);
            // Most often there is nothing left to remove.
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

/// Its owner's alone, as the store is.
fn draft_of(copy: &Path) -> Result<Draft, Error> {
    let mut name = copy.as_os_str().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    let draft = Draft(name.into());
    match files::create(&draft.0) {
        Ok(_) => Ok(draft),
        Err(error) => {
            let refusal = unwritable(copy, &error);
            // It is not ours to remove.
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

/// Gives the draft its name, unless another file has it by now.
fn publish(draft: &Path, copy: &Path) -> Result<(), Error> {
    use rustix::{
        fs::{CWD, RenameFlags, renameat_with},
        io::Errno,
    };
    match renameat_with(CWD, draft, CWD, copy, RenameFlags::NOREPLACE) {
        Ok(()) => {}
        Err(Errno::EXIST) => return refuse_to_overwrite(copy),
        // Some file systems cannot do both in one: NFS, for one.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
            refuse_to_overwrite(copy)?;
            fs::rename(draft, copy).map_err(|error| unwritable(copy, &error))?;
        }
        Err(error) => return Err(unwritable(copy, &error.into())),
    }
    fs::File::open(files::folder_of(copy)).and_then(|folder| folder.sync_all()).map_err(|error| unwritable(copy, &error))
}
