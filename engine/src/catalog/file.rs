//! One file of the plugin folder. Its name is not trusted.
//!
//! A user who can write to the folder can put a link, a named pipe or a device there, even between two checks. So nothing is
//! checked by name: the file is opened once, without waiting and without leaving the folder, and all checks use the open file.
//! Links that stay in the folder are followed, because Kubernetes mounts each file of a ConfigMap or Secret as such a link.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::Path,
    time::{Duration, UNIX_EPOCH},
};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};

use crate::{clock, domain::plugin::Digest};

/// If a file is read less than this long after a change, another change may leave the same stamp. Some file systems store times
/// only in steps of one or two seconds (FAT: two).
const SETTLED: Duration = Duration::from_secs(3);

/// An open plugin file.
#[derive(Debug)]
pub struct PluginFile {
    file: File,
    pub stamp: Stamp,
}

/// Metadata of a file. A different stamp shows cheaply that the file may have changed. Only the content proves a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    pub bytes: u64,
    /// Time of the last change of the content, in seconds and nanoseconds. Users can set it.
    modified: (i64, i64),
    /// Time of the last change of content or metadata. Users cannot set it.
    changed: (i64, i64),
}

/// Why a file of the folder was not opened.
#[derive(Debug)]
pub enum Unopened {
    /// It vanished after the listing.
    Gone,
    /// It cannot be a plugin. The text is the reason.
    Refused(&'static str),
    /// The system did not open it. A later try may succeed.
    Unreadable(io::Error),
}

/// The content of a file.
#[derive(Debug)]
pub struct Content {
    pub bytes: Vec<u8>,
    pub digest: Digest,
    pub stamp: Stamp,
    /// Whether an equal stamp means equal content from now on.
    pub settled: bool,
}

impl PluginFile {
    /// Opens a file of the folder. Never waits, regardless of its type.
    pub fn open(folder: &Path, name: &str) -> Result<Self, Unopened> {
        let file = open_inside(folder, name).map_err(|errno| match errno {
            Errno::NOENT if folder.join(name).symlink_metadata().is_ok() => {
                Unopened::Refused("it is a link to a file that does not exist")
            }
            Errno::NOENT => Unopened::Gone,
            Errno::XDEV => Unopened::Refused("it is a link that leaves the plugin folder; copy the file into the folder instead"),
            Errno::LOOP => {
                Unopened::Refused("it is a link that cannot be followed safely; copy the file into the folder instead")
            }
            // Opening a socket fails with this error.
            Errno::NXIO => Unopened::Refused("it is a socket, not a file"),
            errno => Unopened::Unreadable(errno.into()),
        })?;
        let metadata = file.metadata().map_err(Unopened::Unreadable)?;
        let kind = metadata.file_type();
        if kind.is_file() {
            return Ok(Self { file, stamp: Stamp::of(&metadata) });
        }
        Err(Unopened::Refused(if kind.is_dir() {
            "it is a folder, not a file"
        } else if kind.is_fifo() {
            "it is a named pipe, not a file"
        } else {
            "it is a device, not a file"
        }))
    }

    /// Reads the file, at most one byte more than `bytes_max`. Returns `None` while another process writes to it.
    pub fn read(mut self, bytes_max: u64) -> io::Result<Option<Content>> {
        let now = clock::system().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut bytes = Vec::with_capacity(usize::try_from(self.stamp.bytes.min(bytes_max)).unwrap_or(0));
        (&mut self.file).take(bytes_max.saturating_add(1)).read_to_end(&mut bytes)?;
        if Stamp::of(&self.file.metadata()?) != self.stamp {
            return Ok(None);
        }
        let age = i64::try_from(now).unwrap_or(i64::MAX).saturating_sub(self.stamp.changed.0);
        let settled = age >= SETTLED.as_secs().cast_signed();
        Ok(Some(Content { digest: Digest::of(&bytes), bytes, stamp: self.stamp, settled }))
    }
}

impl Stamp {
    fn of(metadata: &fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

const FLAGS: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK).union(OFlags::NOCTTY);

/// Opens a file. Follows links as long as they stay in the folder.
fn open_inside(folder: &Path, name: &str) -> Result<File, Errno> {
    let folder = rustix::fs::open(folder, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::DIRECTORY, Mode::empty())?;
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{ResolveFlags, openat2};
        match openat2(&folder, name, FLAGS, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS) {
            // The kernel is older than 5.6, or a filter of system calls forbids this call.
            Err(Errno::NOSYS | Errno::PERM) => {}
            opened => return opened.map(File::from),
        }
    }
    // Without the kernel's help, a link can change between the check and the opening, so no link is followed.
    rustix::fs::openat(&folder, name, FLAGS | OFlags::NOFOLLOW, Mode::empty()).map(File::from)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn refusal(folder: &Path, name: &str) -> &'static str {
        match PluginFile::open(folder, name) {
            Err(Unopened::Refused(reason)) => reason,
            other => panic!("{name}: {other:?}"),
        }
    }

    #[test]
    fn opens_files_and_links_that_stay_in_the_folder() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("plugins");
        fs::create_dir_all(folder.join("..2026_11_28")).unwrap();
        fs::write(folder.join("..2026_11_28/mounted.wasm"), b"mounted").unwrap();
        // Kubernetes mounts a ConfigMap like this.
        symlink("..2026_11_28", folder.join("..data")).unwrap();
        symlink("..data/mounted.wasm", folder.join("mounted.wasm")).unwrap();
        fs::write(folder.join("plain.wasm"), b"plain").unwrap();
        for (name, content) in [("mounted.wasm", &b"mounted"[..]), ("plain.wasm", b"plain")] {
            let read = PluginFile::open(&folder, name).unwrap().read(100).unwrap().unwrap();
            assert_eq!(read.bytes, content);
            assert_eq!(read.digest, Digest::of(content));
            assert!(!read.settled, "it was just written");
        }
        assert_eq!(PluginFile::open(&folder, "plain.wasm").unwrap().read(2).unwrap().unwrap().bytes, b"pla");
    }

    #[test]
    fn refuses_everything_but_files_of_the_folder() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("plugins");
        fs::create_dir_all(folder.join("folder.wasm")).unwrap();
        fs::write(home.path().join("secret"), b"secret").unwrap();
        symlink("../secret", folder.join("up.wasm")).unwrap();
        symlink(home.path().join("secret"), folder.join("absolute.wasm")).unwrap();
        symlink("/proc/self/mem", folder.join("magic.wasm")).unwrap();
        symlink("circle.wasm", folder.join("circle.wasm")).unwrap();
        symlink("nowhere", folder.join("dangling.wasm")).unwrap();
        symlink("/dev/zero", folder.join("device.wasm")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, folder.join("pipe.wasm"), rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(folder.join("socket.wasm")).unwrap();
        let cases = [
            ("up.wasm", "leaves the plugin folder"),
            ("absolute.wasm", "leaves the plugin folder"),
            ("magic.wasm", "leaves the plugin folder"),
            ("device.wasm", "leaves the plugin folder"),
            ("circle.wasm", "cannot be followed safely"),
            ("dangling.wasm", "a file that does not exist"),
            ("folder.wasm", "it is a folder, not a file"),
            ("pipe.wasm", "it is a named pipe, not a file"),
            ("socket.wasm", "it is a socket, not a file"),
        ];
        for (name, expected) in cases {
            let reason = refusal(&folder, name);
            assert!(reason.contains(expected), "{name}: {reason}");
        }
        assert!(matches!(PluginFile::open(&folder, "nothing.wasm"), Err(Unopened::Gone)));
    }

    /// In each case the content changes, but its length and modification time stay the same, as when a copy preserves times. Either
    /// the stamp differs, or the file was written so recently that it is read again.
    #[test]
    fn new_content_of_equal_length_and_time_is_noticed() {
        let write_in_place = |path: &Path, _: &Path| fs::write(path, b"two").unwrap();
        let rename_a_draft = |path: &Path, draft: &Path| {
            fs::write(draft, b"two").unwrap();
            fs::rename(draft, path).unwrap();
        };
        let exchange_a_link = |path: &Path, draft: &Path| {
            let other = draft.with_extension("other");
            fs::write(&other, b"two").unwrap();
            symlink(other.file_name().unwrap(), draft).unwrap();
            fs::rename(draft, path).unwrap();
        };
        let remove_and_write = |path: &Path, _: &Path| {
            fs::remove_file(path).unwrap();
            fs::write(path, b"two").unwrap();
        };
        let truncate_and_append = |path: &Path, _: &Path| {
            use std::io::Write as _;
            File::create(path).unwrap();
            File::options().append(true).open(path).unwrap().write_all(b"two").unwrap();
        };
        let replace_by_a_hard_link = |path: &Path, draft: &Path| {
            fs::write(draft, b"two").unwrap();
            fs::remove_file(path).unwrap();
            fs::hard_link(draft, path).unwrap();
        };
        type Change = fn(&Path, &Path);
        let changes: [(&str, Change); 6] = [
            ("written in place", write_in_place),
            ("a draft that is renamed", rename_a_draft),
            ("a link that is exchanged", exchange_a_link),
            ("removed and written", remove_and_write),
            ("truncated and appended to", truncate_and_append),
            ("replaced by a hard link", replace_by_a_hard_link),
        ];
        for (what, change) in changes {
            let home = tempfile::tempdir().unwrap();
            let path = home.path().join("a.wasm");
            fs::write(&path, b"one").unwrap();
            let opened = PluginFile::open(home.path(), "a.wasm").unwrap();
            let (before, times) = (opened.stamp, fs::metadata(&path).unwrap().modified().unwrap());
            let content = opened.read(100).unwrap().unwrap();
            change(&path, &home.path().join("draft"));
            File::options().write(true).open(&path).unwrap().set_modified(times).unwrap();
            let after = PluginFile::open(home.path(), "a.wasm").unwrap().stamp;
            assert_eq!((before.bytes, before.modified), (after.bytes, after.modified), "{what}: length and time are the same");
            assert!(before != after || !content.settled, "{what}");
            let digest = PluginFile::open(home.path(), "a.wasm").unwrap().read(100).unwrap().unwrap().digest;
            assert_ne!(content.digest, digest, "{what}");
        }
    }

    /// A file that changes while it is read gives no content, so that it is read again.
    #[test]
    fn a_file_that_changes_while_it_is_read_is_read_again() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("a.wasm");
        fs::write(&path, b"one").unwrap();
        let opened = PluginFile::open(home.path(), "a.wasm").unwrap();
        fs::write(&path, b"one and more").unwrap();
        assert!(opened.read(100).unwrap().is_none());
        let opened = PluginFile::open(home.path(), "a.wasm").unwrap();
        fs::remove_file(&path).unwrap();
        assert!(opened.read(100).unwrap().is_none(), "the file's number of links changed");
    }
}
