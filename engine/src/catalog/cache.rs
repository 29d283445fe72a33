//! Compiled code on disk, so that a start need not compile again. Lies in the data folder, never in the plugin folder.
//!
//! Compiled code is trusted blindly by whoever runs it, so every file carries a MAC under a key that only this folder has; a file
//! that does not verify is thrown away and compiled again. Files are written whole under another name and renamed, never changed.

use std::{
    fs, io,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::{domain::plugin::Digest, sandbox::CodeCache};

/// Compiled versions that are kept; the oldest go first.
const FILES_MAX: usize = 256;
const MAC_LEN: usize = 32;

/// The compile cache of one data folder.
pub struct FileCache {
    folder: PathBuf,
    key: [u8; 32],
}

impl FileCache {
    /// Opens the cache in `folder`, making the folder and its key if there are none.
    pub fn open(folder: PathBuf) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        let path = folder.join("key");
        let key = match fs::read(&path).map(<[u8; 32]>::try_from) {
            Ok(Ok(key)) => key,
            _ => {
                let mut key = [0; 32];
                getrandom::fill(&mut key).map_err(io::Error::other)?;
                write_whole(&path, &[&key])?;
                key
            }
        };
        Ok(Self { folder, key })
    }

    fn path(&self, key: &str) -> PathBuf {
        self.folder.join(format!("{}.code", Digest::of(key.as_bytes())))
    }

    fn mac(&self, key: &str, code: &[u8]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).expect("HMAC takes keys of any length");
        mac.update(&(key.len() as u64).to_le_bytes());
        mac.update(key.as_bytes());
        mac.update(code);
        mac
    }

    fn prune(&self) -> io::Result<()> {
        let mut files: Vec<_> = fs::read_dir(&self.folder)?
            .filter_map(Result::ok)
            .filter(|entry| entry.path().extension().is_some_and(|extension| extension == "code"))
            .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
            .collect();
        files.sort();
        let surplus = files.len().saturating_sub(FILES_MAX);
        files.iter().take(surplus).try_for_each(|(_, path)| fs::remove_file(path))
    }
}

impl CodeCache for FileCache {
    fn get(&self, key: &str) -> Option<Vec<u8>> {
        let path = self.path(key);
        let mut bytes = fs::read(&path).ok()?;
        let verified = bytes.split_at_checked(MAC_LEN).is_some_and(|(mac, code)| self.mac(key, code).verify_slice(mac).is_ok());
        if !verified {
            tracing::warn!(file = %path.display(), "compiled code does not verify; it is thrown away and compiled again");
            // If it cannot be removed it is refused again next time.
            let _ = fs::remove_file(&path);
            return None;
        }
        Some(bytes.split_off(MAC_LEN))
    }

    fn put(&self, key: &str, code: &[u8]) {
        let mac = self.mac(key, code).finalize().into_bytes();
        if let Err(error) = write_whole(&self.path(key), &[&mac, code]).and_then(|()| self.prune()) {
            tracing::warn!(%error, "compiled code could not be kept; the next start compiles it again");
        }
    }
}

/// Writes a file that only its owner can read, so that it is there whole or not at all.
fn write_whole(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    let draft = path.with_extension("draft");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    parts.iter().try_for_each(|part| file.write_all(part))?;
    file.sync_all()?;
    fs::rename(draft, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_put_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let cache = FileCache::open(folder.path().to_owned()).unwrap();
        assert_eq!(cache.get("a"), None);
        cache.put("a", b"code of a");
        assert_eq!(cache.get("a").as_deref(), Some(b"code of a".as_slice()));
        let again = FileCache::open(folder.path().to_owned()).unwrap();
        assert_eq!(again.get("a").as_deref(), Some(b"code of a".as_slice()), "the key stays");

        fs::copy(cache.path("a"), cache.path("b")).unwrap();
        assert_eq!(cache.get("b"), None, "one version's code is not another's");
        let mut bytes = fs::read(cache.path("a")).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(cache.path("a"), bytes).unwrap();
        assert_eq!(cache.get("a"), None, "changed code is thrown away");
        assert!(!cache.path("a").exists());
    }
}
