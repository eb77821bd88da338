//! `podkeeper check`: what is wrong with manifests, as a compiler would say it.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;

use super::{print, printable};
use crate::config::node_name;
use crate::manifest::objects::{Object, ObjectKey};
use crate::manifest::{self, Accepted, Problem, SourceKind};
use crate::source::directory::{
    duplicate_objects, manifests_in, read_manifest, read_standard_input,
};
use crate::source::{duplicate_pods, url};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Manifests, folders of them, or - for standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,

    /// The files are documents for --manifest-url: any number of Pods, also in lists
    #[arg(long)]
    web: bool,

    /// Take warnings for errors
    #[arg(long)]
    strict: bool,

    /// Name of the node that the manifests are for [default: the machine's host name]
    #[arg(long, value_name = "NAME")]
    hostname_override: Option<String>,
}

/// What was found in one file.
struct Checked<'a> {
    path: PathBuf,
    said: Vec<Said>,
    /// The Pods that are good.
    pods: Vec<Accepted>,
    /// The `ConfigMap`s and `Secret`s that are good.
    objects: Vec<ObjectKey>,
    arguments: &'a Arguments,
}

/// What is said of a part of a file.
#[derive(Debug, PartialEq)]
enum Said {
    Finding(Problem),
    /// This is good, where the file as a whole is not refused.
    Good(String),
}

pub(super) fn check(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let node = node_name(arguments.hostname_override.clone())?;
    let mut text = String::new();
    let mut files = vec![];
    let mut seen = BTreeSet::new();
    // The files that one agent would read together: those of a folder, with those given by themselves.
    let (mut single, mut folders) = (vec![], vec![]);
    for path in &arguments.files {
        let in_folder = path.is_dir();
        let paths = if in_folder {
            let files = manifests_in(path);
            files.with_context(|| format!("cannot read {}", path.display()))?
        } else {
            vec![path.clone()]
        };
        if paths.is_empty() {
            writeln!(text, "{}: good: no manifests", path.display())?;
        }
        let first = files.len();
        for path in paths {
            if seen.insert(identity(&path)) {
                files.push(Checked::read(path, &node, arguments));
            }
        }
        let these = first..files.len();
        if in_folder {
            folders.push(these.collect::<Vec<_>>());
        } else {
            single.extend(these);
        }
    }
    if !arguments.web {
        for files in &mut folders {
            files.extend(&single);
        }
        folders.push(single);
        for together in folders {
            find_duplicates(&mut files, &together);
        }
    }
    let mut all_good = true;
    for file in &files {
        all_good &= file.verdict(&mut text)?;
    }
    print(&printable(&text))?;
    Ok(if all_good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

impl<'a> Checked<'a> {
    fn read(path: PathBuf, node: &str, arguments: &'a Arguments) -> Self {
        let bytes = match path.to_str() {
            Some("-") => read_standard_input(),
            _ => read_manifest(&path),
        };
        let mut checked = Self {
            path,
            said: vec![],
            pods: vec![],
            objects: vec![],
            arguments,
        };
        let bytes = bytes.map_err(|message| vec![Problem::of_file(message)]);
        let read = bytes.and_then(|bytes| {
            if arguments.web {
                checked.document(&bytes, node)
            } else {
                checked.manifest(&bytes, node)
            }
        });
        if let Err(problems) = read {
            checked.wrong(problems);
        }
        checked
    }

    /// Reads a manifest of the directory.
    fn manifest(&mut self, bytes: &[u8], node: &str) -> Result<(), Vec<Problem>> {
        let manifest = manifest::parse_file(bytes, node)?;
        for object in manifest.objects {
            self.object(object);
        }
        if let Some(accepted) = manifest.pod {
            self.pod(accepted);
        }
        Ok(())
    }

    /// Reads a document for the web.
    fn document(&mut self, bytes: &[u8], node: &str) -> Result<(), Vec<Problem>> {
        let parsed = manifest::parse_all(bytes, node, SourceKind::Http)?;
        for entry in parsed.objects {
            match entry.result {
                Ok(object) => self.object(object),
                Err(problems) => self.wrong(problems),
            }
        }
        for entry in parsed.pods {
            match entry.result {
                Ok(accepted) => self.pod(accepted),
                Err(problems) => self.wrong(problems),
            }
        }
        Ok(())
    }

    fn object(&mut self, object: Object) {
        self.found(object.warnings, object.key.to_string());
        self.objects.push(object.key);
    }

    fn pod(&mut self, mut accepted: Accepted) {
        let warnings = std::mem::take(&mut accepted.warnings);
        let mut known = self.pods.iter();
        match known.find(|known| known.pod.key == accepted.pod.key) {
            Some(known) if known.pod.uid == accepted.pod.uid => {}
            Some(_) => self.wrong([url::repeated(&accepted.pod.key)]),
            None => {
                self.found(warnings, format!("Pod {}", accepted.pod.key));
                self.pods.push(accepted);
            }
        }
    }

    /// Notes what was found of something that is good but for warnings.
    fn found(&mut self, warnings: Vec<Problem>, what: String) {
        let good = warnings.is_empty() || !self.arguments.strict;
        self.wrong(warnings);
        self.said.extend(good.then_some(Said::Good(what)));
    }

    fn wrong(&mut self, findings: impl IntoIterator<Item = Problem>) {
        self.said.extend(findings.into_iter().map(Said::Finding));
    }

    /// Says what is thought of the file, and tells whether it is good.
    fn verdict(&self, text: &mut String) -> anyhow::Result<bool> {
        let path = self.path.display();
        let is_error = |finding: &Problem| self.arguments.strict || !finding.is_warning();
        let bad = |said: &Said| matches!(said, Said::Finding(finding) if is_error(finding));
        let all_good = !self.said.iter().any(bad);
        for said in &self.said {
            let finding = match said {
                Said::Finding(finding) => finding,
                // A manifest is refused as a whole; of a document, each Pod is by itself.
                Said::Good(what) if all_good || self.arguments.web => {
                    writeln!(text, "{path}: good: {what}")?;
                    continue;
                }
                Said::Good(_) => continue,
            };
            let word = if is_error(finding) {
                "error"
            } else {
                "warning"
            };
            match finding.line {
                0 => write!(text, "{path}: {word}: ")?,
                line => write!(text, "{path}:{line}:{}: {word}: ", finding.column)?,
            }
            match finding.field.as_str() {
                "" => writeln!(text, "{}", finding.message)?,
                field => writeln!(text, "{field}: {}", finding.message)?,
            }
        }
        if self.said.is_empty() {
            writeln!(text, "{path}: good: no Pods")?;
        }
        Ok(all_good)
    }
}

/// Tells a name that is given twice from another name: two links to one file are two manifests.
fn identity(path: &Path) -> PathBuf {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    match (folder.canonicalize(), path.file_name()) {
        (Ok(folder), Some(name)) => folder.join(name),
        _ => path.to_owned(),
    }
}

/// Finds the files among these whose Pod or object another one of them has already.
fn find_duplicates(files: &mut [Checked<'_>], together: &[usize]) {
    let these = || together.iter().map(|index| &files[*index]);
    let pods = these().flat_map(|f| f.pods.iter().map(|pod| (f.path.as_path(), pod)));
    let mut found = duplicate_pods(pods);
    let objects = these().flat_map(|f| f.objects.iter().map(|key| (f.path.as_path(), key)));
    found.extend(duplicate_objects(objects));
    for (path, problem) in found {
        let mut files = files.iter_mut();
        let said = Said::Finding(problem);
        let file = files.find(|file| file.path == path);
        if let Some(file) = file.filter(|file| !file.said.contains(&said)) {
            file.said.push(said);
        }
    }
}
