//! Files that network plugins keep on the node from a sandbox's start to its end: their results, in files that are named
//! `NETWORK-SANDBOX-INTERFACE` (libcni, `CNIConfig.cacheAdd`), and the addresses that the plugin `host-local` has
//! assigned, in a folder for each network with a file for each address.

use std::fs::{self, File};
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::de::IgnoredAny;

use super::machine;

/// The folder of the results, which no runtime configures.
pub(crate) const RESULTS: &str = "/var/lib/cni/results";
/// The folder of the addresses, unless a network has another `dataDir`.
pub(crate) const ADDRESSES: &str = "/var/lib/cni/networks";
/// Longest result that is read, in bytes.
const LONGEST: u64 = 1024 * 1024;

/// Removes the results of a sandbox that are not whole: they are written without a sync, and a power cut may leave
/// empty ones, with which the library does not give the sandbox's network back. Returns the number of those removed.
///
/// # Errors
/// Any I/O error.
pub(crate) fn remove_torn_results(folder: &Path, sandbox: &str) -> io::Result<usize> {
    let of_sandbox = format!("-{sandbox}-");
    let mut removed = 0_usize;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().contains(&of_sandbox) {
            continue;
        }
        let mut content = vec![];
        File::open(entry.path())?
            .take(LONGEST)
            .read_to_end(&mut content)?;
        if serde_json::from_slice::<IgnoredAny>(&content).is_err() {
            fs::remove_file(entry.path())?;
            removed = removed.saturating_add(1);
        }
    }
    Ok(removed)
}

/// Removes the files of assigned addresses that are empty and older than this boot, as a power cut leaves those that were
/// not on disk yet: they do not say whose the address is, and nobody would ever give it back. Returns the number of
/// those removed; a folder that is not there has none.
///
/// # Errors
/// Any other I/O error.
pub(crate) fn remove_empty_addresses(folder: &Path) -> io::Result<usize> {
    let networks = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        networks => networks?,
    };
    let mut removed = 0_usize;
    for network in networks {
        let network = network?;
        if !network.file_type()?.is_dir() {
            continue;
        }
        // Nothing of one network keeps another's from being given back.
        for entry in fs::read_dir(network.path()).into_iter().flatten() {
            let entry = entry?;
            let is_address = entry.file_name().to_str().is_some_and(is_address);
            // A plugin may give it back meanwhile.
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            let is_empty = metadata.is_file() && metadata.len() == 0;
            if is_address && is_empty && machine::is_of_earlier_boot(metadata.mtime()) {
                fs::remove_file(entry.path())?;
                removed = removed.saturating_add(1);
            }
        }
    }
    Ok(removed)
}

/// Returns true if a file is named as an address is: there are others, for locks and for the last address assigned.
fn is_address(name: &str) -> bool {
    name.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn empty_files_of_addresses_from_before_the_boot_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("net")).unwrap();
        fs::write(path("stray"), "").unwrap();
        let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
        for (name, content, is_old) in [
            ("10.0.0.2", "", true),
            ("fd00::2", "", true),
            ("10.0.0.3", "sandbox\r\neth0", true),
            ("10.0.0.4", "", false),
            ("last_reserved_ip.0", "", true),
            ("lock", "", true),
        ] {
            let file = path("net").join(name);
            fs::write(&file, content).unwrap();
            if is_old {
                let file = File::options().write(true).open(file).unwrap();
                file.set_modified(old).unwrap();
            }
        }
        assert_eq!(remove_empty_addresses(folder.path()).unwrap(), 2);
        let left = fs::read_dir(path("net")).unwrap();
        let mut left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["10.0.0.3", "10.0.0.4", "last_reserved_ip.0", "lock"]);
        assert_eq!(remove_empty_addresses(&path("none")).unwrap(), 0);
        remove_empty_addresses(&path("stray")).unwrap_err();
    }

    #[test]
    fn results_of_a_sandbox_that_are_not_whole_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let write =
            |name: &str, content: &str| fs::write(folder.path().join(name), content).unwrap();
        write("net-a1-eth0", "");
        write("net-a1-eth1", r#"{"kind": "cniCacheV1", "#);
        write("net-a1-lo", r#"{"kind": "cniCacheV1"}"#);
        write("net-a12-eth0", "");
        write("net-b-eth0", "");
        assert_eq!(remove_torn_results(folder.path(), "a1").unwrap(), 2);
        let left = fs::read_dir(folder.path()).unwrap();
        let mut left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["net-a1-lo", "net-a12-eth0", "net-b-eth0"]);
        assert_eq!(remove_torn_results(folder.path(), "a1").unwrap(), 0);
        remove_torn_results(&folder.path().join("none"), "a1").unwrap_err();
    }
}
