//! Files and folders that only their owner can access: the store, keys, compiled code, backups and the files of `innesco dev`.
//!
//! Every file with payloads or secrets is created here, with a mode that does not depend on the umask. If other users may open an
//! existing file or folder, their access is removed ([`own_folder`], [`close_to_others`]). A secret that other users may have
//! read, and compiled code that they may have changed, is refused ([`read_secret`], [`read_own`], [`require_own`]), because
//! removing their access would be too late.

use std::{
    fmt,
    fs::{self, File, Metadata, Permissions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

/// The owner may read and write.
const FILE_MODE: u32 = 0o600;
/// The owner may list, change and enter the folder. A folder can be entered only with the bit `x`.
const FOLDER_MODE: u32 = 0o700;
/// The bits with which the group and all other users may read, write or execute.
const OTHERS: u32 = 0o077;
/// The sticky bit: set on a folder such as /tmp, which every user may write to.
const STICKY: u32 = 0o1000;

/// A file that cannot be trusted because other users may read or write it. The text has the command that repairs it.
#[derive(Debug, thiserror::Error)]
#[error("{reason}. Run: {command}")]
struct Exposed {
    reason: String,
    command: String,
}

/// Which files a reader trusts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trust {
    /// A secret that a person or a tool provides: no other user may read it. A mounted secret may belong to root and be readable
    /// by the group.
    Secret,
    /// A file or folder that this program created: it belongs to the current user, and no other user may read or write it.
    Own,
}

/// Returns what is wrong with a file of this mode and owner, for a process of user `me`.
fn complaint(trust: Trust, mode: u32, owner: u32, me: u32) -> Option<Complaint> {
    if trust == Trust::Own && owner != me {
        return Some(Complaint::Owner);
    }
    // A file of another user may be shared with this process through the file's group, such as a file of root that is mounted for
    // a group. A file of this user with the same mode would be exposed to the group.
    let closed = if owner == me { OTHERS } else { 0o027 };
    (mode & closed != 0).then_some(Complaint::Mode)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Complaint {
    Owner,
    Mode,
}

fn me() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn require(trust: Trust, path: &Path, metadata: &Metadata) -> io::Result<()> {
    let (mode, owner, me) = (metadata.mode() & 0o7777, metadata.uid(), me());
    let Some(complaint) = complaint(trust, mode, owner, me) else { return Ok(()) };
    let word = Word(path);
    let exposed = match complaint {
        Complaint::Owner => Exposed {
            reason: format!("it belongs to user {owner}, and this program runs as user {me}"),
            command: format!("chown -R {me} {word}"),
        },
        Complaint::Mode => Exposed {
            reason: format!("other users may open it (mode {mode:04o})"),
            command: format!("chmod {} {word}", if metadata.is_dir() { "700" } else { "600" }),
        },
    };
    Err(io::Error::new(io::ErrorKind::PermissionDenied, exposed))
}

/// A path as one word of a shell.
struct Word<'a>(&'a Path);

impl fmt::Display for Word<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.display().to_string();
        let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@".contains(c);
        if text.chars().all(plain) { f.write_str(&text) } else { write!(f, "'{}'", text.replace('\'', r"'\''")) }
    }
}

/// Creates a folder that only its owner can enter, and its missing parents. If the folder exists, removes the access of other
/// users to it.
///
/// `made_here` returns whether this program creates a file of that name. A folder with other files, or a folder such as /tmp that
/// every user may write to, is left unchanged with a warning, because it may serve another purpose.
pub fn own_folder(path: &Path, made_here: impl Fn(&str) -> bool) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(path)?;
    let metadata = fs::metadata(path)?;
    if metadata.mode() & OTHERS == 0 {
        return Ok(());
    }
    let foreign = fs::read_dir(path)?
        .filter_map(Result::ok)
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .find(|name| !made_here(name) && name != "lost+found");
    match foreign {
        None if metadata.mode() & STICKY == 0 => close(path, &metadata),
        foreign => tracing::warn!(
            folder = %path.display(),
            mode = format_args!("{:04o}", metadata.mode() & 0o7777),
            also_holds = foreign.as_deref(),
            "folder can be entered by other users; give the engine a separate folder of mode 700"
        ),
    }
    Ok(())
}

/// Refuses a folder of this program that other users may enter or may have created.
pub fn require_own(path: &Path) -> io::Result<()> {
    require(Trust::Own, path, &fs::metadata(path)?)
}

/// Removes other users' access to a file, if it exists. Opens no handle, because closing a handle would end this process's locks
/// on the file.
pub fn close_to_others(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.mode() & OTHERS != 0 => {
            close(path, &metadata);
            Ok(())
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn close(path: &Path, metadata: &Metadata) {
    let mode = metadata.mode() & 0o7777;
    match fs::set_permissions(path, Permissions::from_mode(mode & !OTHERS)) {
        Ok(()) => tracing::warn!(
            path = %path.display(),
            mode = format_args!("{mode:04o}"),
            "path was open to other users of this machine; it is now closed to them"
        ),
        // The parent folder may still exclude other users, as in a container.
        Err(error) => tracing::warn!(
            path = %path.display(),
            mode = format_args!("{mode:04o}"),
            %error,
            "path is open to other users of this machine, and this user may not change that; its owner should"
        ),
    }
}

/// Creates a file that must not exist yet.
pub fn create(path: &Path) -> io::Result<File> {
    File::options().write(true).create_new(true).mode(FILE_MODE).open(path)
}

/// Opens a file for writing, creating it if it is missing.
pub fn open_or_create(path: &Path) -> io::Result<File> {
    let file = File::options().write(true).create(true).truncate(false).mode(FILE_MODE).open(path)?;
    close_to_others(path)?;
    Ok(file)
}

/// Replaces a file atomically.
pub fn replace(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    let draft = path.with_extension("draft");
    // Removes an old draft or link, so that nothing is written to the draft of an interrupted write, or through a link.
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = create(&draft)?;
    parts.iter().try_for_each(|part| file.write_all(part))?;
    file.sync_all()?;
    fs::rename(draft, path)
}

/// Reads a secret that a person or a tool provides. Returns `None` if the file does not exist.
///
/// # Errors
/// Other users may read or write the file. The error has the command that removes their access.
pub fn read_secret(path: &Path) -> io::Result<Option<Zeroizing<String>>> {
    read(Trust::Secret, path)?.map(text).transpose()
}

/// Reads a file that this program wrote. Returns `None` if the file does not exist.
///
/// # Errors
/// The file belongs to another user, or others may read or write it.
pub fn read_own(path: &Path) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    read(Trust::Own, path)
}

/// Like [`read_own`], for text.
pub fn read_own_text(path: &Path) -> io::Result<Option<Zeroizing<String>>> {
    read_own(path)?.map(text).transpose()
}

fn text(mut bytes: Zeroizing<Vec<u8>>) -> io::Result<Zeroizing<String>> {
    let text = String::from_utf8(std::mem::take(&mut *bytes));
    text.map(Zeroizing::new).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not text in UTF-8"))
}

fn read(trust: Trust, path: &Path) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    // Checks the handle, because the path may lead elsewhere a moment later. The mode of a pipe means nothing.
    let metadata = file.metadata()?;
    if metadata.is_file() || trust == Trust::Own {
        require(trust, path, &metadata)?;
    }
    let mut bytes = Zeroizing::new(Vec::new());
    file.read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

/// Returns whether other users may read this file, which may contain a password.
pub fn others_may_read(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.mode() & 0o004 != 0)
}

/// Returns the folder that contains `path`.
pub fn folder_of(path: &Path) -> PathBuf {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    fn set(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_file_is_trusted_by_its_mode_and_owner() {
        use Complaint::{Mode, Owner};
        use Trust::{Own, Secret};
        const ME: u32 = 1000;
        for (trust, mode, owner, expected) in [
            (Secret, 0o600, ME, None),
            (Secret, 0o400, ME, None),
            (Secret, 0o640, ME, Some(Mode)),
            (Secret, 0o660, ME, Some(Mode)),
            (Secret, 0o604, ME, Some(Mode)),
            (Secret, 0o602, ME, Some(Mode)),
            (Secret, 0o644, ME, Some(Mode)),
            // Mounted for the group of the process.
            (Secret, 0o440, 0, None),
            (Secret, 0o640, 0, None),
            (Secret, 0o660, 0, Some(Mode)),
            (Secret, 0o444, 0, Some(Mode)),
            // Read by root.
            (Secret, 0o600, 65532, None),
            (Own, 0o700, ME, None),
            (Own, 0o600, ME, None),
            (Own, 0o750, ME, Some(Mode)),
            (Own, 0o711, ME, Some(Mode)),
            (Own, 0o644, ME, Some(Mode)),
            (Own, 0o600, 0, Some(Owner)),
            (Own, 0o700, 1001, Some(Owner)),
        ] {
            assert_eq!(complaint(trust, mode, owner, ME), expected, "{trust:?} {mode:o} of {owner}");
        }
    }

    #[test]
    fn created_files_and_folders_are_closed_to_others() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("a/b");
        own_folder(&folder, |_| true).unwrap();
        assert_eq!((mode(&folder), mode(folder.parent().unwrap())), (0o700, 0o700));
        let file = folder.join("new");
        create(&file).unwrap();
        open_or_create(&folder.join("lock")).unwrap();
        replace(&folder.join("whole"), &[b"one", b"two"]).unwrap();
        for name in ["new", "lock", "whole"] {
            assert_eq!(mode(&folder.join(name)), 0o600, "{name}");
        }
        assert_eq!(fs::read(folder.join("whole")).unwrap(), b"onetwo");
        assert_eq!(create(&file).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn existing_files_and_folders_are_closed_to_others() {
        let home = tempfile::tempdir().unwrap();
        let (folder, file) = (home.path().join("data"), home.path().join("data/store"));
        fs::create_dir(&folder).unwrap();
        for wide in [0o644, 0o666, 0o640, 0o600] {
            fs::write(&file, "x").unwrap();
            set(&file, wide);
            close_to_others(&file).unwrap();
            assert_eq!(mode(&file), 0o600, "{wide:o}");
        }
        close_to_others(&folder.join("missing")).unwrap();
        for (wide, expected) in [(0o755, 0o700), (0o2775, 0o2700), (0o700, 0o700), (0o1777, 0o1777)] {
            set(&folder, wide);
            own_folder(&folder, |name| name == "store").unwrap();
            assert_eq!(mode(&folder), expected, "{wide:o}");
        }
        fs::write(folder.join("report.pdf"), "x").unwrap();
        set(&folder, 0o755);
        own_folder(&folder, |name| name == "store").unwrap();
        assert_eq!(mode(&folder), 0o755, "a folder with another purpose is unchanged");
    }

    #[test]
    fn a_draft_is_never_written_through_a_link() {
        let home = tempfile::tempdir().unwrap();
        let (victim, target) = (home.path().join("victim"), home.path().join("local.toml"));
        fs::write(&victim, "kept").unwrap();
        std::os::unix::fs::symlink(&victim, home.path().join("local.draft")).unwrap();
        replace(&target, &[b"new"]).unwrap();
        assert_eq!((fs::read(&victim).unwrap(), fs::read(&target).unwrap()), (b"kept".to_vec(), b"new".to_vec()));
    }

    #[test]
    fn an_exposed_file_is_refused_with_the_command_that_closes_it() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("the key");
        assert!(read_secret(&file).unwrap().is_none());
        fs::write(&file, "secret").unwrap();
        set(&file, 0o640);
        let error = read_secret(&file).unwrap_err().to_string();
        let shown = file.display();
        assert_eq!(error, format!("other users may open it (mode 0640). Run: chmod 600 '{shown}'"));
        assert!(read_own(&file).is_err());
        set(&file, 0o600);
        assert_eq!(read_secret(&file).unwrap().unwrap().as_str(), "secret");
        assert_eq!(read_own_text(&file).unwrap().unwrap().as_str(), "secret");
        let folder = home.path().join("cache");
        own_folder(&folder, |_| true).unwrap();
        require_own(&folder).unwrap();
        set(&folder, 0o770);
        let error = require_own(&folder).unwrap_err().to_string();
        assert_eq!(error, format!("other users may open it (mode 0770). Run: chmod 700 {}", folder.display()));
    }
}
