//! Variables that stand in files of volumes (`fileKeyRef`): lines `NAME='value'`, as Kubernetes reads
//! them. A value stands in single quotes, may have several lines, and nothing in it is special.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::path::Path;

use k8s_openapi::api::core::v1::{Container, FileKeySelector};
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};
use rustix::io::Errno;

use super::error::{EnvFileError, VolumeError, VolumeFailure};
use crate::host::resolve::{Scope, open_inside};
use crate::manifest::StaticPod;
use crate::translate::{EnvFileKey, Paths, volume_source};

/// A larger file is none of variables.
const MAX_SIZE: u64 = 1 << 20;

/// The variables that a container takes from files, as far as they are there.
///
/// # Errors
/// A file cannot be read, or is not written so.
pub fn env_files(
    paths: &Paths,
    pod: &StaticPod,
    container: &Container,
) -> Result<BTreeMap<EnvFileKey, String>, VolumeError> {
    let mut found = BTreeMap::new();
    for variable in container.env.iter().flatten() {
        let source = variable.value_from.as_ref();
        let Some(selector) = source.and_then(|s| s.file_key_ref.as_ref()) else {
            continue;
        };
        let FileKeySelector {
            volume_name,
            path,
            key,
            ..
        } = selector;
        let wrong = |error: EnvFileError| {
            let failure = VolumeFailure::EnvFile {
                variable: variable.name.clone(),
                path: path.clone(),
                volume: volume_name.clone(),
                error,
            };
            VolumeError::Container(failure.into())
        };
        let Some(text) = read(paths, pod, volume_name, path).map_err(wrong)? else {
            continue;
        };
        // A variable that is empty is as good as none, as in the reference agent.
        let value = lookup(&text, key).map_err(wrong)?;
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            let place = (volume_name.clone(), path.clone(), key.clone());
            found.insert(place, value);
        }
    }
    Ok(found)
}

/// The text of a file of a volume, if it exists. No symlink leads out of the volume, and what
/// containers put there that is no file, such as a device, is not opened.
fn read(
    paths: &Paths,
    pod: &StaticPod,
    volume: &str,
    path: &str,
) -> Result<Option<String>, EnvFileError> {
    let volume = pod.volumes().iter().find(|v| v.name == volume);
    let source = volume.and_then(|v| volume_source(paths, pod, v));
    let source = source.ok_or(EnvFileError::UnknownVolume)?;
    read_inside(source.path(), path)
}

fn read_inside(root: &Path, path: &str) -> Result<Option<String>, EnvFileError> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root = openat(CWD, root, flags, Mode::empty());
    let found = root.and_then(|root| open_inside(root, Path::new(path), flags, Scope::InRoot));
    let found = match found {
        Err(Errno::NOENT) => return Ok(None),
        found => found.map_err(io::Error::from)?,
    };
    let kind = fstat(&found).map_err(io::Error::from)?.st_mode;
    if FileType::from_raw_mode(kind) != FileType::RegularFile {
        return Err(EnvFileError::NotRegular);
    }
    let file = File::open(format!("/proc/self/fd/{}", found.as_raw_fd()));
    let mut text = String::new();
    let size = file.and_then(|file| file.take(MAX_SIZE + 1).read_to_string(&mut text));
    let size = size?;
    if size as u64 > MAX_SIZE {
        return Err(EnvFileError::TooLarge(MAX_SIZE));
    }
    Ok(Some(text))
}

/// The value of a variable, if the text has it.
fn lookup(text: &str, key: &str) -> Result<Option<String>, EnvFileError> {
    let mut lines = text.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        let number = index.saturating_add(1);
        let line = line.trim_start_matches([' ', '\t']);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = line
            .split_once('=')
            .filter(|(name, _)| !name.is_empty() && !name.ends_with([' ', '\t']))
            .ok_or_else(|| syntax(number, "expected NAME='value'"))?;
        if value.starts_with([' ', '\t']) {
            if name == key {
                return Ok(None);
            }
            continue;
        }
        let rest = value
            .strip_prefix('\'')
            .ok_or_else(|| syntax(number, "expected the value in single quotes"))?;
        let value = quoted(rest, number, &mut lines)?;
        if name == key {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

fn syntax(line: usize, problem: &'static str) -> EnvFileError {
    EnvFileError::Syntax { line, problem }
}

/// Returns the text up to the closing quote, which may span several lines.
fn quoted<'a>(
    first: &'a str,
    number: usize,
    lines: &mut impl Iterator<Item = (usize, &'a str)>,
) -> Result<String, EnvFileError> {
    let mut value = String::new();
    let mut rest = first;
    loop {
        if let Some((inside, after)) = rest.split_once('\'') {
            value.push_str(inside);
            let after = after.trim_start_matches([' ', '\t']);
            if after.is_empty() || after.starts_with('#') {
                return Ok(value);
            }
            return Err(syntax(number, "found more behind the closing quote"));
        }
        value.push_str(rest);
        value.push('\n');
        rest = match lines.next() {
            Some((_, line)) => line,
            None => return Err(syntax(number, "the single quote is not closed")),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_they_are_quoted() {
        let text =
            "# made by hand\n\n  A='1'\nB='two\nlines # no comment' # a comment\nC= 'x'\nD=''\n";
        let of = |key| lookup(text, key).unwrap();
        assert_eq!(of("A").as_deref(), Some("1"));
        assert_eq!(of("B").as_deref(), Some("two\nlines # no comment"));
        assert_eq!(of("C"), None);
        assert_eq!(of("D").as_deref(), Some(""));
        assert_eq!(of("E"), None);
    }

    #[test]
    fn only_files_of_the_volume_are_read() {
        let root = tempfile::tempdir().unwrap();
        let (volume, outside) = (root.path().join("v"), root.path().join("outside"));
        std::fs::create_dir(&volume).unwrap();
        std::fs::write(&outside, "A='host'").unwrap();
        std::fs::write(volume.join("file"), "A='1'").unwrap();
        for (link, target) in [("in", "file"), ("out", "../outside"), ("null", "/dev/null")] {
            std::os::unix::fs::symlink(target, volume.join(link)).unwrap();
        }
        let pipe = Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(CWD, volume.join("pipe"), FileType::Fifo, pipe, 0).unwrap();
        for path in ["file", "in"] {
            let found = read_inside(&volume, path).unwrap();
            assert_eq!(found.as_deref(), Some("A='1'"), "{path}");
        }
        for path in ["out", "null", "none"] {
            assert_eq!(read_inside(&volume, path).unwrap(), None, "{path}");
        }
        for path in ["pipe", "."] {
            let error = read_inside(&volume, path).unwrap_err();
            assert_eq!(error.to_string(), "is no regular file", "{path}");
        }
    }

    #[test]
    fn what_is_not_written_so_is_refused_with_its_line() {
        for text in ["A", "=x", "A =x", "A=x", "A=\"x\"", "A='x", "A='x'y"] {
            let error = lookup(&format!("\n{text}\n"), "Z").unwrap_err().to_string();
            assert!(error.starts_with("line 2: "), "{text:?}: {error}");
        }
    }
}
