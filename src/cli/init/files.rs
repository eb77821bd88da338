//! Writing the files.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use anyhow::Context as _;

use super::NodePaths;

/// A file of the node.
#[derive(Debug)]
pub(super) struct NodeFile {
    /// Its path.
    pub(super) path: String,
    /// Its content.
    pub(super) text: String,
}

impl NodeFile {
    pub(super) fn new(path: &str, text: String) -> Self {
        let path = path.to_owned();
        Self { path, text }
    }

    /// Returns the file as it is printed in place of being written.
    pub(super) fn shown(&self) -> String {
        let exists = if Path::new(&self.path).exists() {
            " (exists)"
        } else {
            ""
        };
        format!("# ---- {}{exists}\n{}", self.path, self.text)
    }

    /// Writes the file, over one that exists only if `force`. Returns what was done.
    ///
    /// # Errors
    /// It cannot be written; one that exists is as it was.
    pub(super) fn write(&self, force: bool) -> anyhow::Result<&'static str> {
        let path = Path::new(&self.path);
        let existing = fs::read(path);
        let is_new = existing.is_err();
        match existing {
            Ok(existing) if existing == self.text.as_bytes() => return Ok("unchanged"),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            _ if !force => return Ok("exists, not overwritten without --force:"),
            _ => {}
        }
        let failed = || format!("cannot write {}", self.path);
        let temporary = path.with_extension("podkeeper-new");
        let _ = fs::remove_file(&temporary);
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o644);
        let written = file.open(&temporary).and_then(|mut file| {
            file.write_all(self.text.as_bytes())?;
            file.sync_all()
        });
        let placed = written.and_then(|()| {
            if force {
                fs::rename(&temporary, path)
            } else {
                // It fails where somebody else was faster.
                fs::hard_link(&temporary, path)
            }
        });
        let _ = fs::remove_file(&temporary);
        placed.with_context(failed)?;
        Ok(if is_new { "created" } else { "overwritten" })
    }
}

/// Makes the folders of the files, and that of the manifests, which is root's alone.
pub(super) fn make_folders(paths: &NodePaths) -> anyhow::Result<()> {
    let of_files = [Some(&paths.config), paths.unit.as_ref()];
    let parents = of_files.into_iter().flatten();
    let parents = parents.filter_map(|path| Some((Path::new(path).parent()?, 0o755)));
    let manifests = (Path::new(&paths.manifests), 0o700);
    for (folder, mode) in parents.chain([manifests]) {
        let made = DirBuilder::new().recursive(true).mode(mode).create(folder);
        made.with_context(|| format!("cannot create {}", folder.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn nothing_that_exists_is_overwritten_unless_that_is_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.yaml");
        let file = |text: &str| NodeFile::new(path.to_str().unwrap(), text.to_owned());
        let content = || fs::read_to_string(&path).unwrap();
        assert_eq!(file("one").write(false).unwrap(), "created");
        assert_eq!(file("one").write(true).unwrap(), "unchanged");
        let said = file("two").write(false).unwrap();
        assert_eq!(
            (said, content().as_str()),
            ("exists, not overwritten without --force:", "one")
        );
        assert_eq!(file("two").write(true).unwrap(), "overwritten");
        assert_eq!(content(), "two");
        assert!(file("two").shown().contains("config.yaml (exists)\ntwo"));
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let nowhere = NodeFile::new("/proc/nowhere/x", String::new());
        let error = nowhere.write(false).unwrap_err();
        assert_eq!(error.to_string(), "cannot write /proc/nowhere/x");
    }
}
