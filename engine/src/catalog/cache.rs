//! The cache for loading plugin files. It holds the code of compiled files, so that a start need not compile them again, and the
//! tables of lines for their backtraces. It also holds digests of files that were too complex, so that a start does not try them
//! again. The cache is in the data folder, never in the plugin folder.
//!
//! Compiled code runs unchecked, so every cache file carries a MAC under a key that only this folder has. If a cache file does
//! not verify, it is removed and the plugin is compiled again. A cache file is written completely under another name and then
//! renamed. It is never changed afterwards.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::{
    domain::plugin::Digest,
    files, random,
    sandbox::{CodeCache, ReadLines},
};

/// Limits for stored compiled versions. There is room for more plugins than an engine usually has: if some did not fit, each start
/// would compile all of them, because every plugin would take the place of one that is loaded after it.
const CODE_ROOM: Room = Room { files: 4096, bytes: 2 << 30 };
/// Limits for stored digests of files that are too complex. A file whose digest was removed is tried once more.
const TOO_COMPLEX_ROOM: Room = Room { files: 4096, bytes: u64::MAX };
const CODE: &str = "code";
const LINES: &str = "lines";
const TOO_COMPLEX: &str = "too-complex";
const MAC_LEN: usize = 32;

/// The compile cache of one data folder.
#[derive(Clone)]
pub struct FileCache {
    folder: PathBuf,
    key: [u8; 32],
}

impl FileCache {
    /// Opens the cache in `folder`. Creates the folder and its key if they do not exist.
    ///
    /// # Errors
    /// If the folder or the key is open to other users, or belongs to another user. Such a user may have changed the compiled
    /// code or read the key.
    pub fn open(folder: PathBuf) -> io::Result<Self> {
        let of = |path: &Path, error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        if !folder.exists() {
            files::own_folder(&folder, |_| false).map_err(|error| of(&folder, error))?;
        }
        files::require_own(&folder).map_err(|error| of(&folder, error))?;
        let path = folder.join("key");
        let known = files::read_own(&path).map_err(|error| of(&path, error))?;
        let key = match known.and_then(|bytes| <[u8; 32]>::try_from(bytes.as_slice()).ok()) {
            Some(key) => key,
            None => {
                let key = random::bytes().map_err(io::Error::other)?;
                files::replace(&path, &[&key]).map_err(|error| of(&path, error))?;
                key
            }
        };
        Ok(Self { folder, key })
    }

    /// Removes the record that a file was too complex, so that the file is tried again.
    pub fn forgive(&self, digest: &Digest) {
        // Most files have no record.
        let _ = fs::remove_file(self.path(&too_complex_key(digest), TOO_COMPLEX));
    }

    fn path(&self, key: &str, kind: &str) -> PathBuf {
        self.folder.join(format!("{}.{kind}", Digest::of(key.as_bytes())))
    }

    fn read(&self, key: &str, kind: &str) -> Option<Vec<u8>> {
        let path = self.path(key, kind);
        let mut bytes = fs::read(&path).ok()?;
        let verified =
            bytes.split_at_checked(MAC_LEN).is_some_and(|(mac, content)| self.mac(key, content).verify_slice(mac).is_ok());
        if !verified {
            tracing::warn!(file = %path.display(), "cache file does not verify; it is removed and written again");
            // If the removal fails, the cache file is refused again next time.
            let _ = fs::remove_file(&path);
            return None;
        }
        // Moves the content instead of copying it: new memory costs more than the move.
        bytes.drain(..MAC_LEN);
        Some(bytes)
    }

    fn write(&self, key: &str, kind: &str, content: &[u8]) -> io::Result<()> {
        let mac = self.mac(key, content).finalize().into_bytes();
        files::replace(&self.path(key, kind), &[&mac, content])?;
        self.prune(kind, if kind == TOO_COMPLEX { TOO_COMPLEX_ROOM } else { CODE_ROOM })
    }

    fn mac(&self, key: &str, code: &[u8]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).expect("HMAC takes keys of any length");
        mac.update(&(key.len() as u64).to_le_bytes());
        mac.update(key.as_bytes());
        mac.update(code);
        mac
    }

    /// Removes the oldest files of a kind until the others fit.
    fn prune(&self, kind: &str, room: Room) -> io::Result<()> {
        let mut files: Vec<_> = fs::read_dir(&self.folder)?
            .filter_map(Result::ok)
            .filter(|entry| entry.path().extension().is_some_and(|extension| extension == kind))
            .filter_map(|entry| Some((entry.metadata().ok()?, entry.path())))
            .filter_map(|(metadata, path)| Some((metadata.modified().ok()?, metadata.len(), path)))
            .collect();
        files.sort_by(|one, other| other.cmp(one));
        let mut bytes = 0;
        let surplus = files.iter().enumerate().filter(|(nth, (_, len, _))| {
            bytes += len;
            *nth >= room.files || bytes > room.bytes
        });
        surplus.map(|(_, (_, _, path))| path).try_for_each(fs::remove_file)
    }
}

/// How many files of a kind the folder holds, and how many bytes they have together.
#[derive(Clone, Copy)]
struct Room {
    files: usize,
    bytes: u64,
}

impl CodeCache for FileCache {
    fn get(&self, key: &str) -> Option<Vec<u8>> {
        self.read(key, CODE)
    }

    fn put(&self, key: &str, code: &[u8]) {
        if let Err(error) = self.write(key, CODE, code) {
            tracing::warn!(%error, "compiled code could not be stored; the next start compiles it again");
        }
    }

    fn put_lines(&self, key: &str, lines: &[u8]) {
        if let Err(error) = self.write(&lines_key(key), LINES, lines) {
            tracing::warn!(%error, "table of lines could not be stored; backtraces of this version have none");
        }
    }

    fn lines(&self, key: &str) -> Option<ReadLines> {
        let (cache, key) = (self.clone(), lines_key(key));
        Some(Box::new(move || cache.read(&key, LINES)))
    }

    fn too_complex(&self, digest: &Digest) -> Option<String> {
        String::from_utf8(self.read(&too_complex_key(digest), TOO_COMPLEX)?).ok()
    }

    fn put_too_complex(&self, digest: &Digest, reason: &str) {
        if let Err(error) = self.write(&too_complex_key(digest), TOO_COMPLEX, reason.as_bytes()) {
            tracing::warn!(%error, "digest of a file that is too complex could not be recorded; the next start tries the file again");
        }
    }
}

/// A table of lines must never be taken for code, so its key differs from that of the code.
fn lines_key(key: &str) -> String {
    format!("{LINES} {key}")
}

/// The key contains the engine's version, because another version may be able to load the file.
fn too_complex_key(digest: &Digest) -> String {
    format!("{TOO_COMPLEX} {} {digest}", env!("CARGO_PKG_VERSION"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn returns_only_stored_files() {
        let folder = tempfile::tempdir().unwrap();
        let cache = FileCache::open(folder.path().join("cache")).unwrap();
        assert_eq!(cache.get("a"), None);
        cache.put("a", b"code of a");
        assert_eq!(cache.get("a").as_deref(), Some(b"code of a".as_slice()));
        let again = FileCache::open(folder.path().join("cache")).unwrap();
        assert_eq!(again.get("a").as_deref(), Some(b"code of a".as_slice()), "the key is the same");

        fs::copy(cache.path("a", CODE), cache.path("b", CODE)).unwrap();
        assert_eq!(cache.get("b"), None, "code of another version is refused");
        let mut bytes = fs::read(cache.path("a", CODE)).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(cache.path("a", CODE), bytes).unwrap();
        assert_eq!(cache.get("a"), None, "changed code is removed");
        assert!(!cache.path("a", CODE).exists());
    }

    #[test]
    fn a_file_that_is_too_complex_is_recorded_until_its_record_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let cache = FileCache::open(folder.path().join("cache")).unwrap();
        let (one, other) = (Digest::of(b"one"), Digest::of(b"other"));
        cache.put_too_complex(&one, "too deep");
        let again = FileCache::open(folder.path().join("cache")).unwrap();
        assert_eq!(again.too_complex(&one).as_deref(), Some("too deep"), "the next start finds the record");
        assert_eq!(again.too_complex(&other), None);
        again.forgive(&other);
        again.forgive(&one);
        assert_eq!(cache.too_complex(&one), None);
    }

    #[test]
    fn records_of_files_that_are_too_complex_evict_no_code() {
        let folder = tempfile::tempdir().unwrap();
        let cache = FileCache::open(folder.path().join("cache")).unwrap();
        cache.put("a", b"code of a");
        for n in 0..5_u8 {
            cache.put_too_complex(&Digest::of(&[n]), "too deep");
        }
        cache.prune(TOO_COMPLEX, Room { files: 0, bytes: 0 }).unwrap();
        assert_eq!(cache.too_complex(&Digest::of(&[4])), None);
        assert!(cache.get("a").is_some());
    }

    #[test]
    fn the_oldest_code_makes_room() {
        let folder = tempfile::tempdir().unwrap();
        let cache = FileCache::open(folder.path().join("cache")).unwrap();
        for (age, key) in [(3, "a"), (2, "b"), (1, "c")] {
            cache.put(key, b"code");
            let written = crate::clock::system() - std::time::Duration::from_secs(age);
            fs::File::options().append(true).open(cache.path(key, CODE)).unwrap().set_modified(written).unwrap();
        }
        let length = fs::metadata(cache.path("a", CODE)).unwrap().len();
        for (room, kept) in [
            (Room { files: 3, bytes: 3 * length }, ["a", "b", "c"].as_slice()),
            (Room { files: 2, bytes: 3 * length }, &["b", "c"]),
            (Room { files: 3, bytes: 2 * length - 1 }, &["c"]),
        ] {
            cache.prune(CODE, room).unwrap();
            let found: Vec<&str> = ["a", "b", "c"].into_iter().filter(|key| cache.get(key).is_some()).collect();
            assert_eq!(found, kept);
        }
    }

    #[test]
    fn refuses_a_cache_or_key_open_to_others_and_names_the_repair() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("cache");
        let open = || FileCache::open(folder.clone()).map(drop).map_err(|error| error.to_string());
        let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        open().unwrap();
        let key = folder.join("key");
        for (path, wide, narrow) in [(&folder, 0o755, 0o700), (&folder, 0o770, 0o700), (&key, 0o644, 0o600), (&key, 0o620, 0o600)]
        {
            set(path, wide);
            let refused = open().unwrap_err();
            assert!(refused.starts_with(&format!("{}: other users may open it", path.display())), "{refused}");
            assert!(refused.ends_with(&format!("chmod {narrow:o} {}", path.display())), "{refused}");
            set(path, narrow);
            open().unwrap();
        }
    }
}
