//! Secrets at rest, encrypted with XChaCha20-Poly1305 under a master key in a separate file.
//!
//! Without that file, a copy of the store reveals no secret. Each sealed value is bound to its owner's name, so an attacker
//! cannot move it to another row. Nonces are random; with 192 bits they do not repeat. One sealed value per endpoint holds all
//! its secrets: signing secrets, headers, the key of a client certificate.
//!
//! The master key can be changed while the engine runs ([`KeyFile`]). The engine writes the next key beside the old one, seals
//! all values again in one transaction, then renames the file. After an interruption, the mark in the store shows which of the
//! two keys the values are sealed with.
//!
//! A sealed value is not bound to a version. An attacker who can write to the store can put back an older row together with its
//! version. Only a counter outside the store could reveal that.

use std::{
    fmt, fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use chacha20poly1305::{
    KeyInit as _, XChaCha20Poly1305, XNonce,
    aead::{Aead as _, Payload},
};
use zeroize::Zeroizing;

use crate::{
    domain::given,
    files,
    random::{self, NoRandomness},
};

const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 24;
/// Prefix of the line in a key file.
const PREFIX: &str = "innesco-master-key-1:";
/// Plain text of the mark. The store holds the sealed mark, so that the key can be checked whenever the store is opened.
const MARK: &[u8] = b"innesco";
const MARK_CONTEXT: &str = "store";

/// A master key, ready to seal and to open.
pub struct Seal(XChaCha20Poly1305);

/// A value cannot be sealed or opened, or the key file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    #[error("the master key in {} does not open this store: it was sealed with another one. Restore the right file", .0.display())]
    WrongKey(PathBuf),
    #[error("the store's secrets are sealed, and their master key {} is missing. Put the file back; without it the secrets are lost", .0.display())]
    Missing(PathBuf),
    #[error("{} is not a master key: it must be one line, {PREFIX} and 44 characters of base64", .0.display())]
    NotAKey(PathBuf),
    #[error("the master key file {} cannot be used: {cause}", path.display())]
    File { path: PathBuf, cause: io::Error },
}

impl Seal {
    fn new(key: &[u8; KEY_BYTES]) -> Self {
        Self(XChaCha20Poly1305::new(key.into()))
    }

    /// Encrypts `plain`, bound to `context`.
    pub fn seal(&self, context: &str, plain: &[u8]) -> Result<Vec<u8>, SealError> {
        let nonce: [u8; NONCE_BYTES] = random::bytes()?;
        let payload = Payload { msg: plain, aad: context.as_bytes() };
        let sealed =
            self.0.encrypt(&XNonce::from(nonce), payload).expect("sealed values are far smaller than the cipher's limit");
        Ok([nonce.as_slice(), &sealed].concat())
    }

    /// Decrypts a value that was sealed for `context` under this key. Returns `None` for any other value, and for a value that was
    /// changed.
    pub fn open(&self, context: &str, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_BYTES>()?;
        let payload = Payload { msg: sealed, aad: context.as_bytes() };
        self.0.decrypt(&XNonce::from(*nonce), payload).ok().map(Zeroizing::new)
    }

    /// Returns the mark that the store keeps to recognise its key.
    pub fn mark(&self) -> Result<Vec<u8>, SealError> {
        self.seal(MARK_CONTEXT, MARK)
    }

    /// Returns whether `mark` was sealed with this key.
    pub fn made(&self, mark: &[u8]) -> bool {
        self.open(MARK_CONTEXT, mark).is_some()
    }
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seal(not shown)")
    }
}

/// The file of the master key. A key change writes the next key beside the current one, reseals the store, then replaces the
/// file. It keeps the old key under another name, because older backups open only with that key. The next opening finishes or
/// undoes an interrupted change, depending on the key that the store's mark was sealed with.
#[derive(Clone, Debug)]
pub struct KeyFile(PathBuf);

impl KeyFile {
    pub fn at(path: PathBuf) -> Self {
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    fn next_path(&self) -> PathBuf {
        self.beside("next")
    }

    /// Returns the path of a file beside the current key.
    fn beside(&self, ending: &str) -> PathBuf {
        let mut name = self.0.clone().into_os_string();
        name.push(".");
        name.push(ending);
        name.into()
    }

    /// Returns the key of a store that carries `mark`. For a store without a mark, returns the key in the file, and creates a key
    /// if the file is missing.
    pub fn open(&self, mark: Option<&[u8]>) -> Result<Seal, SealError> {
        let Some(mark) = mark else {
            return match self.read(&self.0)? {
                Some(seal) => Ok(seal),
                None => self.make(&self.0),
            };
        };
        let current = self.read(&self.0)?;
        let next = self.read(&self.next_path())?;
        let missing = current.is_none();
        if let Some(seal) = current.filter(|seal| seal.made(mark)) {
            if next.is_some() {
                // The change was interrupted before it reached the store.
                let _ = fs::remove_file(self.next_path());
            }
            return Ok(seal);
        }
        if let Some(seal) = next.filter(|seal| seal.made(mark)) {
            self.finish_change()?;
            return Ok(seal);
        }
        Err(if missing { SealError::Missing(self.0.clone()) } else { SealError::WrongKey(self.0.clone()) })
    }

    /// Creates the next key, on disk beside the current one.
    pub fn begin_change(&self) -> Result<Seal, SealError> {
        let next = self.next_path();
        match fs::remove_file(&next) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(SealError::File { path: next, cause: error }),
            _ => self.make(&next),
        }
    }

    /// Replaces the current key file by the next one. The store must already be sealed with the next key. The old key stays as
    /// `NAME.1`, `NAME.2` and so on: the highest number is the latest.
    pub fn finish_change(&self) -> Result<(), SealError> {
        let change = || {
            self.keep_old()?;
            match fs::rename(self.next_path(), &self.0) {
                // Another node that shares the file has finished this change.
                Err(error) if error.kind() == io::ErrorKind::NotFound && self.0.exists() => {}
                renamed => renamed?,
            }
            self.sync_folder()
        };
        change().map_err(|cause| SealError::File { path: self.0.clone(), cause })
    }

    /// Copies the current key to the first free numbered name.
    fn keep_old(&self) -> io::Result<()> {
        let Some(text) = files::read_secret(&self.0)? else { return Ok(()) };
        for number in 1_u32.. {
            match files::create(&self.beside(&number.to_string())) {
                Ok(mut file) => {
                    file.write_all(text.as_bytes())?;
                    return file.sync_all();
                }
                // A change that was interrupted at this point has already copied the key.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    if files::read_secret(&self.beside(&number.to_string()))?.is_some_and(|kept| kept == text) {
                        return Ok(());
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn read(&self, path: &Path) -> Result<Option<Seal>, SealError> {
        let text = files::read_secret(path).map_err(|cause| SealError::File { path: path.to_owned(), cause })?;
        let Some(text) = text else { return Ok(None) };
        let line = given::key(&text).ok();
        let key = line.and_then(|line| line.strip_prefix(PREFIX)).and_then(|base64| BASE64_STANDARD.decode(base64).ok());
        let key = key.map(Zeroizing::new);
        let key = key.as_deref().and_then(|bytes| bytes.first_chunk::<KEY_BYTES>().filter(|_| bytes.len() == KEY_BYTES));
        key.map(|key| Some(Seal::new(key))).ok_or_else(|| SealError::NotAKey(path.to_owned()))
    }

    /// Creates a key file. The file is on disk before anything is sealed with its key, because a store whose key is lost has lost
    /// its secrets.
    fn make(&self, path: &Path) -> Result<Seal, SealError> {
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        random::fill(&mut *key)?;
        let line = Zeroizing::new(format!("{PREFIX}{}\n", BASE64_STANDARD.encode(*key)));
        let write = || {
            let mut file = files::create(path)?;
            file.write_all(line.as_bytes())?;
            file.sync_all()?;
            self.sync_folder()?;
            // On a file system without modes, the next start would refuse the file. So fail now, before anything is sealed with
            // the key.
            files::read_secret(path).map(drop)
        };
        write().map_err(|cause| SealError::File { path: path.to_owned(), cause })?;
        Ok(Seal::new(&key))
    }

    fn sync_folder(&self) -> io::Result<()> {
        fs::File::open(files::folder_of(&self.0))?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn sealed_values_open_only_with_their_key_and_context() {
        let (ours, other) = (Seal::new(&[1; 32]), Seal::new(&[2; 32]));
        let sealed = ours.seal("endpoint crm", b"whsec_x").unwrap();
        assert_eq!(ours.open("endpoint crm", &sealed).unwrap().as_slice(), b"whsec_x");
        assert_ne!(sealed, ours.seal("endpoint crm", b"whsec_x").unwrap(), "equal texts are sealed differently");
        assert!(other.open("endpoint crm", &sealed).is_none());
        assert!(ours.open("endpoint shop", &sealed).is_none(), "a secret does not open for another row");
        assert!(ours.open("endpoint crm", &sealed[..10]).is_none());
        for place in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[place] ^= 1;
            assert!(ours.open("endpoint crm", &changed).is_none(), "byte {place} was changed");
        }
    }

    #[test]
    fn a_key_file_is_created_once_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = KeyFile::at(folder.path().join("master.key"));
        let mark = file.open(None).unwrap().mark().unwrap();
        assert!(file.open(None).unwrap().made(&mark), "the same key again");
        assert_eq!(fs::metadata(file.path()).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(file.open(Some(&mark)).is_ok());

        fs::rename(file.path(), folder.path().join("away")).unwrap();
        assert!(matches!(file.open(Some(&mark)), Err(SealError::Missing(_))));
        file.open(None).unwrap();
        assert!(matches!(file.open(Some(&mark)), Err(SealError::WrongKey(_))));
        fs::write(file.path(), "hello").unwrap();
        assert!(matches!(file.open(Some(&mark)), Err(SealError::NotAKey(_))));
    }

    #[test]
    fn white_space_around_the_line_of_a_key_file_is_ignored() {
        let folder = tempfile::tempdir().unwrap();
        let file = KeyFile::at(folder.path().join("master.key"));
        let mark = file.open(None).unwrap().mark().unwrap();
        let line = fs::read_to_string(file.path()).unwrap();
        let line = line.trim_end();
        for text in
            [format!("{line}\r\n"), format!("\u{feff}{line}\n"), format!("{line}  "), line.to_owned(), format!("\n\t{line}\n\n")]
        {
            fs::write(file.path(), &text).unwrap();
            assert!(file.open(Some(&mark)).is_ok(), "{text:?}");
        }
        fs::write(file.path(), format!("{line}\n{line}\n")).unwrap();
        assert!(matches!(file.open(Some(&mark)), Err(SealError::NotAKey(_))), "two lines");
    }

    #[test]
    fn a_key_file_that_others_may_open_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = KeyFile::at(folder.path().join("master.key"));
        let mark = file.open(None).unwrap().mark().unwrap();
        for mode in [0o644, 0o640, 0o620, 0o602, 0o666] {
            fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
            let refused = file.open(Some(&mark)).unwrap_err().to_string();
            let path = file.path().display();
            assert!(refused.contains(&format!("master key file {path} cannot be used: other users may open it")), "{refused}");
            assert!(refused.ends_with(&format!("chmod 600 {path}")), "{refused}");
        }
        fs::set_permissions(file.path(), fs::Permissions::from_mode(0o400)).unwrap();
        assert!(file.open(Some(&mark)).is_ok());
    }

    #[test]
    fn an_interrupted_change_is_finished_or_undone() {
        let folder = tempfile::tempdir().unwrap();
        let file = KeyFile::at(folder.path().join("master.key"));
        let old = file.open(None).unwrap();
        let new = file.begin_change().unwrap();
        let (before, after) = (old.mark().unwrap(), new.mark().unwrap());
        // The change is interrupted before the store is resealed.
        assert!(file.open(Some(&before)).unwrap().made(&before));
        assert!(!file.next_path().exists());
        // The change is interrupted after the store is resealed.
        let new = file.begin_change().unwrap();
        let after_again = new.mark().unwrap();
        assert!(file.open(Some(&after)).is_err(), "this key no longer exists");
        assert!(file.open(Some(&after_again)).unwrap().made(&after_again));
        assert!(!file.next_path().exists());
        assert!(file.open(None).unwrap().made(&after_again));
        // Older backups have secrets under the older keys.
        let third = file.begin_change().unwrap().mark().unwrap();
        file.finish_change().unwrap();
        assert!(file.open(Some(&third)).is_ok());
        for (number, mark) in [("1", &before), ("2", &after_again)] {
            let kept = KeyFile::at(file.beside(number));
            assert!(kept.open(Some(mark)).is_ok(), "key {number}");
            assert_eq!(fs::metadata(kept.path()).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }
}
