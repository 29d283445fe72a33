//! The data folder. One process uses it at a time. The folder also stores the name of the node.

use std::{fs, path::Path};

use anyhow::Context as _;

use crate::{files, random};

/// Returns whether engines create files of this name: the store with its log, keys, compiled code, the lock, the node's name.
fn made_by_engines(name: &str) -> bool {
    name.starts_with("innesco.db") || name.starts_with("master.key") || ["cache", "lock", "node", "node.draft"].contains(&name)
}

/// Creates the data folder if it does not exist, and locks it for this process. Two engines on one folder would send everything twice.
pub fn lock_folder(data: &Path) -> anyhow::Result<fs::File> {
    let shown = data.display();
    files::own_folder(data, made_by_engines)
        .with_context(|| format!("data folder {shown} cannot be created; choose another with --data"))?;
    let file = files::open_or_create(&data.join("lock"))
        .with_context(|| format!("data folder {shown} cannot be written; change its owner, or choose another with --data"))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(|_| {
        anyhow::anyhow!("data folder {shown} is in use by another engine; stop that one, or choose another folder with --data")
    })?;
    Ok(file)
}

/// Returns the name of this node, for a node whose settings contain no name. The name is random, created once, and stays the same
/// across restarts.
pub fn node_name(data: &Path) -> anyhow::Result<String> {
    let file = data.join("node");
    let shown = file.display();
    match fs::read_to_string(&file) {
        Ok(name) if !name.trim().is_empty() => return Ok(name.trim().to_owned()),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("{shown}, the name of this node, cannot be read"));
        }
        _ => {}
    }
    let name = format!("node-{:08x}", u32::from_le_bytes(random::bytes()?));
    files::replace(&file, &[name.as_bytes()]).with_context(|| format!("{shown}, the name of this node, cannot be written"))?;
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_keeps_its_first_name() {
        let folder = tempfile::tempdir().unwrap();
        let name = node_name(folder.path()).unwrap();
        assert!(name.starts_with("node-") && name.len() == 13, "{name}");
        assert_eq!(node_name(folder.path()).unwrap(), name);
    }
}
