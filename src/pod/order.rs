//! The holds of Pods' first starts on disk, one small file for each Pod that is started after others: so that the Pod is
//! held once after a boot of the machine, whenever the agent dies.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::state::order::Hold;
use crate::host::atomic_file::{self, Durability};
use crate::host::machine;
use crate::json;
use crate::manifest::PodKey;
use crate::translate::Paths;

/// The hold of a Pod in one boot of the machine.
#[derive(Debug, Serialize, Deserialize)]
struct StoredHold {
    pod: PodKey,
    boot: String,
    hold: Hold,
}

/// Reads the hold of this Pod in this boot, if there is a readable one.
#[must_use]
pub fn read(paths: &Paths, key: &PodKey) -> Option<Hold> {
    let text = fs::read(file(paths, key)).ok()?;
    let stored: StoredHold = json::from_slice(&text).ok()?;
    (stored.pod == *key && stored.boot == machine::boot_id()).then_some(stored.hold)
}

/// Keeps the hold of this Pod, or that there is none.
///
/// # Errors
/// Any I/O error.
pub fn write(paths: &Paths, key: &PodKey, hold: Option<Hold>) -> io::Result<()> {
    let file = file(paths, key);
    let Some(hold) = hold else {
        return match fs::remove_file(file) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        };
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(paths.holds())?;
    let stored = StoredHold {
        pod: key.clone(),
        boot: machine::boot_id(),
        hold,
    };
    let content = serde_json::to_vec(&stored)?;
    atomic_file::write_with(&file, &content, Durability::UntilReboot)
}

/// Removes what is kept of all Pods but these.
///
/// # Errors
/// The folder cannot be read; that it is not there is no error.
pub fn retain(paths: &Paths, is_known: impl Fn(&PodKey) -> bool) -> io::Result<()> {
    let entries = match fs::read_dir(paths.holds()) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    for entry in entries {
        let path = entry?.path();
        let stored = fs::read(&path).ok();
        let stored = stored.and_then(|text| json::from_slice::<StoredHold>(&text).ok());
        if !stored.is_some_and(|stored| is_known(&stored.pod)) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

fn file(paths: &Paths, key: &PodKey) -> PathBuf {
    // Neither names nor namespaces have a '_'.
    let name = format!("{}_{}.json", key.namespace, key.name);
    paths.holds().join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_is_kept_for_a_boot_of_the_machine() {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths {
            root: folder.path().join("root"),
            ..Paths::default()
        };
        let key = |name: &str| PodKey {
            namespace: "default".into(),
            name: name.into(),
        };
        let (web, db) = (key("web-n1"), key("db-n1"));
        let hold = Hold {
            since: Some(1_767_225_600_000_000_000.into()),
            is_over: false,
            ended: None,
        };
        assert_eq!(read(&paths, &web), None);
        for key in [&web, &db] {
            write(&paths, key, Some(hold)).unwrap();
            assert_eq!(read(&paths, key), Some(hold));
        }
        let text = fs::read_to_string(file(&paths, &web)).unwrap();
        let other = text.replace(&machine::boot_id(), "another");
        let other = other.replace(machine::boot_id().trim(), "another");
        fs::write(file(&paths, &web), other).unwrap();
        assert_eq!(read(&paths, &web), None, "of another boot");
        fs::write(paths.holds().join("stray"), "").unwrap();
        retain(&paths, |key| *key == web).unwrap();
        let left = fs::read_dir(paths.holds()).unwrap().count();
        assert_eq!((left, read(&paths, &db)), (1, None));
        for _ in 0..2 {
            write(&paths, &web, None).unwrap();
        }
        assert_eq!(fs::read_dir(paths.holds()).unwrap().count(), 0);
    }
}
