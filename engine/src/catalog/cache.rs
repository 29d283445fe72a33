//! Compiled code on disk, so that a start need not compile again. Lies in the data folder, never in the plugin folder.
//!
//! Compiled code is trusted blindly by whoever runs it, so every file carries a MAC under a key that only this folder has; a file
//! that does not verify is thrown away and compiled again. Files are written whole under another name and renamed, never changed.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::{domain::plugin::Digest, files, sandbox::CodeCache};

/// Compiled versions that are kept; the oldest go first.
const FILES_MAX: usize = 256;
const MAC_LEN: usize = 32;

/// The compile cache of one data folder.
pub struct FileCache {
    folder: PathBuf,
    key: [u8; 32],
}

impl FileCache {
    /// Opens the cache in `folder`, making the folder and its key if they do not exist.
    ///
    /// # Errors
    /// Other users may have changed the compiled code or read the key: the folder or the key is open to them, or belongs to one of them.
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
                let mut key = [0; 32];
                getrandom::fill(&mut key).map_err(io::Error::other)?;
                files::replace(&path, &[&key]).map_err(|error| of(&path, error))?;
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
        if let Err(error) = files::replace(&self.path(key), &[&mac, code]).and_then(|()| self.prune()) {
            tracing::warn!(%error, "compiled code could not be kept; the next start compiles it again");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn only_what_was_put_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let cache = FileCache::open(folder.path().join("cache")).unwrap();
        assert_eq!(cache.get("a"), None);
        cache.put("a", b"code of a");
        assert_eq!(cache.get("a").as_deref(), Some(b"code of a".as_slice()));
        let again = FileCache::open(folder.path().join("cache")).unwrap();
        assert_eq!(again.get("a").as_deref(), Some(b"code of a".as_slice()), "the key stays");

        fs::copy(cache.path("a"), cache.path("b")).unwrap();
        assert_eq!(cache.get("b"), None, "one version's code is not another's");
        let mut bytes = fs::read(cache.path("a")).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(cache.path("a"), bytes).unwrap();
        assert_eq!(cache.get("a"), None, "changed code is thrown away");
        assert!(!cache.path("a").exists());
    }

    #[test]
    fn a_cache_or_key_that_others_may_open_is_refused_with_the_command_that_closes_it() {
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
