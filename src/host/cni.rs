//! Results of network plugins, which their library keeps on the node from a sandbox's start to its end, in files that are
//! named `NETWORK-SANDBOX-INTERFACE` (libcni, `CNIConfig.cacheAdd`).

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use serde::de::IgnoredAny;

/// The folder of the results, which no runtime configures.
pub(crate) const RESULTS: &str = "/var/lib/cni/results";
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

#[cfg(test)]
mod tests {
    use super::*;

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
