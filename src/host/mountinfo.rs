//! The list of the mounts that the agent sees (`proc_pid_mountinfo`(5)).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// Path of the list.
pub(crate) const MOUNTINFO: &str = "/proc/self/mountinfo";

/// The mount point of a line of `/proc/self/mountinfo` (`proc_pid_mountinfo`(5)).
pub(crate) fn mount_point(line: &[u8]) -> Option<PathBuf> {
    let field = line.split(|b| *b == b' ').nth(4)?;
    Some(OsString::from_vec(unescaped(field)).into())
}

/// With `\040` and the like as what they stand for.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let digits = tail.get(..3).filter(|_| first == b'\\');
        let code = digits.and_then(|d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 8).ok());
        plain.push(code.unwrap_or(first));
        rest = if code.is_some() { &tail[3..] } else { tail };
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_in_mount_points_are_understood() {
        let line = b"36 35 98:0 / /a\\040b\\134c rw - tmpfs tmpfs rw";
        assert_eq!(mount_point(line), Some(PathBuf::from("/a b\\c")));
        assert_eq!(unescaped(b"\\9x"), b"\\9x");
    }
}
