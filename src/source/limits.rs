//! The kernel's limits behind errors that do not name them: "Too many open files" of inotify is none of
//! files.

use std::fs::File;
use std::io;

use rustix::io::Errno;

/// The limit that an error of inotify comes of, and what to do about it; empty for any other error.
pub(super) fn advice(error: &io::Error) -> String {
    advise(error, File::open("/proc/self/limits").is_ok())
}

/// The same; `descriptors` is whether the process may open more files.
fn advise(error: &io::Error, descriptors: bool) -> String {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::MFILE) if descriptors => sysctl("fs.inotify.max_user_instances"),
        Some(Errno::MFILE) => {
            "the limit is that of the agent's open files: raise LimitNOFILE in its unit".to_owned()
        }
        Some(Errno::NFILE) => sysctl("fs.file-max"),
        Some(Errno::NOSPC) => sysctl("fs.inotify.max_user_watches"),
        _ => String::new(),
    }
}

fn sysctl(name: &str) -> String {
    let path = format!("/proc/sys/{}", name.replace('.', "/"));
    let value = std::fs::read_to_string(path).unwrap_or_default();
    let value = value.trim();
    format!(
        "the limit is {name}, now {value}: raise it with sysctl -w {name}=NUMBER and in /etc/sysctl.d, or \
         end programs that watch many files"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_behind_an_error_is_named() {
        for (errno, descriptors, name) in [
            (Errno::MFILE, true, "fs.inotify.max_user_instances, now "),
            (Errno::MFILE, false, "LimitNOFILE"),
            (Errno::NFILE, true, "fs.file-max, now "),
            (Errno::NOSPC, true, "fs.inotify.max_user_watches, now "),
        ] {
            let said = advise(&errno.into(), descriptors);
            assert!(said.contains(name), "{said}");
        }
        assert_eq!(advise(&Errno::NOENT.into(), true), "");
    }
}
