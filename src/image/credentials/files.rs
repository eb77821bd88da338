//! The files that `docker login` writes, in the places of the kubelet (Kubernetes, Images, "Configuring nodes to
//! authenticate to a private registry").
//!
//! Files are read at each pull, so that changes need no restart.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::Candidates;
use super::helper::{HelperCall, HelperNames};
use crate::manifest::docker_config::{Layout, read_object, take_entries};

/// The largest file that is read.
const MAX_BYTES: u64 = 1 << 20;

/// The files in which a node's credentials for registries may stand.
#[derive(Debug)]
pub(super) struct CredentialFiles {
    pub(super) files: Vec<(PathBuf, Layout)>,
}

/// The credentials that files have for an image.
#[derive(Debug, Default)]
pub(super) struct OfFiles {
    pub(super) candidates: Candidates,
    /// The program that keeps credentials of the image's registry.
    pub(super) helper: Option<HelperCall>,
    /// Problems of the files.
    pub(super) problems: Vec<String>,
}

/// Content of one file.
struct FileConfig {
    entries: Map<String, Value>,
    helpers: HelperNames,
}

impl CredentialFiles {
    /// The kubelet's places for them: `config.json` in the root directory, the working directory,
    /// `$HOME/.docker` and `/.docker`, then `.dockercfg` in the same directories or `$HOME` and `/`.
    pub(super) fn of_node(root_dir: &Path) -> Self {
        let own = [Some(root_dir.to_owned()), std::env::current_dir().ok()];
        let home = std::env::home_dir().filter(|home| home.is_absolute());
        let homes = |below: &str| {
            let own = home.iter().map(|home| home.join(below));
            own.chain([Path::new("/").join(below)]).collect::<Vec<_>>()
        };
        let own = || own.iter().flatten().cloned();
        let configs = own().chain(homes(".docker"));
        let configs = configs.map(|folder| (folder.join("config.json"), Layout::Config));
        let cfgs = own().chain(homes(""));
        let cfgs = cfgs.map(|folder| (folder.join(".dockercfg"), Layout::Cfg));
        Self {
            files: configs.chain(cfgs).collect(),
        }
    }

    /// Returns the paths of the files.
    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|(path, _)| path.as_path())
    }

    /// The credentials for an image. As with the kubelet, the first file that has any is the one that counts. Reads
    /// files.
    pub(super) fn for_image(&self, image: &str) -> OfFiles {
        let mut found = OfFiles::default();
        for (path, layout) in &self.files {
            let place = path.display().to_string();
            let mut report = |what: String| found.problems.push(format!("{place}: {what}"));
            match read(path, *layout, &mut report) {
                Ok(Some(config)) => {
                    let problems = found.candidates.add(&place, &config.entries, image);
                    found.helper = config.helpers.for_image(image, path);
                    problems.into_iter().for_each(report);
                    break;
                }
                Ok(None) => {}
                Err(message) => report(message),
            }
        }
        found
    }
}

/// The content of a file; nothing where there is no such file, or it is another program's.
fn read(
    path: &Path,
    layout: Layout,
    report: &mut impl FnMut(String),
) -> Result<Option<FileConfig>, String> {
    let Some(text) = read_text(path).map_err(|e| format!("cannot be read: {e}"))? else {
        return Ok(None);
    };
    let fields = read_object(&text)?;
    let helpers = match layout {
        Layout::Config => HelperNames::read(&fields, report),
        Layout::Cfg => HelperNames::default(),
    };
    let entries = take_entries(fields, layout)?;
    if entries.is_none() && helpers.is_empty() {
        return Ok(None);
    }
    Ok(Some(FileConfig {
        entries: entries.unwrap_or_default(),
        helpers,
    }))
}

/// The text of a file, if there is one.
fn read_text(path: &Path) -> io::Result<Option<String>> {
    let known = match path.metadata() {
        Ok(known) => known,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => return Ok(None),
        Err(e) => return Err(e),
    };
    if !known.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut text = String::new();
    let mut file = File::open(path)?.take(MAX_BYTES + 1);
    file.read_to_string(&mut text)?;
    if text.len() as u64 > MAX_BYTES {
        let message = format!("it is larger than {MAX_BYTES} bytes, the most that is read");
        return Err(io::Error::other(message));
    }
    Ok(Some(text))
}
