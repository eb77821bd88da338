//! CPU shares of cgroups that exist already.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::hierarchy::{Controller, known};
use super::{CgroupDriver, cpu_weight, is_unified, set, systemd};

/// Locked during an update: of two callers at once, the one that read its shares last writes last.
static UPDATE: Mutex<()> = Mutex::new(());

/// Updates the CPU shares of those cgroups that exist.
///
/// `shares` gives the path and the shares of each, and is called while no other update runs.
///
/// # Errors
/// Any I/O error, or systemd does not do it.
pub fn update_shares<I: IntoIterator<Item = (String, i64)>>(
    root: &Path,
    driver: CgroupDriver,
    shares: impl FnOnce() -> I,
) -> io::Result<()> {
    let _sole = UPDATE.lock().unwrap_or_else(PoisonError::into_inner);
    let hierarchies = known(root);
    let with_shares = || hierarchies.iter().filter(|h| h.has(Controller::Cpu));
    for (path, shares) in shares() {
        let path = path.trim_start_matches('/');
        let folders = with_shares().map(|h| h.root.join(path));
        let existing: Vec<PathBuf> = folders.filter(|folder| folder.is_dir()).collect();
        let is_current = existing.iter().any(|folder| {
            reads(folder, "cpu.shares", shares) || reads(folder, "cpu.weight", cpu_weight(shares))
        });
        if is_current || existing.is_empty() {
            continue;
        }
        if driver == CgroupDriver::Systemd {
            systemd::set_shares(path, is_unified(root), shares)?;
            continue;
        }
        for folder in existing {
            set(&folder, "cpu.shares", shares)?;
            set(&folder, "cpu.weight", cpu_weight(shares))?;
        }
    }
    Ok(())
}

/// Returns `true` if a setting of a cgroup has this value.
fn reads(folder: &Path, file: &str, value: i64) -> bool {
    let found = fs::read_to_string(folder.join(file));
    found.is_ok_and(|found| found.trim().parse() == Ok(value))
}
