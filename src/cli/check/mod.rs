//! `podkeeper check`: problems of manifests, for people and for the tools of a CI.

mod report;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;

use self::report::{CheckEntry, CheckFinding, CheckFormat, CheckReport, CheckRule, CheckedFile};
use super::{complain, print, printable};
use crate::config::node_name;
use crate::manifest::objects::{Object, ObjectKey};
use crate::manifest::{self, Accepted, Problem, SourceKind};
use crate::source::directory::{duplicate_objects, manifests_in, read_given};
use crate::source::{circular_pods, duplicate_pods, url};

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// Manifests, directories of them, or - for standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,

    /// The files are documents for --manifest-url: any number of Pods, also in lists
    #[arg(long)]
    web: bool,

    /// Treat warnings as errors
    #[arg(long)]
    strict: bool,

    /// Warn about what a kubelet would do differently
    #[arg(long)]
    kubernetes: bool,

    /// Output format
    #[arg(long, short, value_name = "FORMAT", default_value = "text")]
    output: CheckFormat,

    /// Name of the node that the manifests are for [default: the machine's host name]
    #[arg(long, value_name = "NAME")]
    hostname_override: Option<String>,
}

/// Result of one file.
struct Checked<'a> {
    path: PathBuf,
    findings: Vec<CheckResult>,
    /// The valid Pods.
    pods: Vec<Accepted>,
    /// The valid `ConfigMap`s and `Secret`s.
    objects: Vec<ObjectKey>,
    arguments: &'a CheckArgs,
}

/// Result of a part of a file.
#[derive(Debug, PartialEq)]
enum CheckResult {
    Problem(Problem),
    /// A kubelet would do something else.
    Difference(Problem),
    /// This is valid, if the file as a whole is not refused.
    Valid(String),
}

pub(super) fn check(arguments: &CheckArgs) -> anyhow::Result<ExitCode> {
    let node = node_name(arguments.hostname_override.clone())?;
    let mut empty = vec![];
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
            empty.push(path.clone());
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
    if arguments.web {
        // Each is all that a node has.
        for document in 0..files.len() {
            find_circles(&mut files, &[document]);
        }
    } else {
        for files in &mut folders {
            files.extend(&single);
        }
        folders.push(single);
        for together in folders {
            find_duplicates(&mut files, &together);
            find_circles(&mut files, &together);
        }
    }
    let report = CheckReport {
        empty,
        files: files.into_iter().map(Checked::finish).collect(),
    };
    let text = report.text(arguments.output)?;
    print(&match arguments.output {
        CheckFormat::Text | CheckFormat::Github => printable(&text),
        CheckFormat::Json | CheckFormat::Sarif => text,
    })?;
    if arguments.output == CheckFormat::Text {
        complain(&report.summary());
    }
    Ok(if report.errors() == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

impl<'a> Checked<'a> {
    fn read(path: PathBuf, node: &str, arguments: &'a CheckArgs) -> Self {
        let bytes = read_given(&path);
        let mut checked = Self {
            path,
            findings: vec![],
            pods: vec![],
            objects: vec![],
            arguments,
        };
        let bytes = bytes.map_err(|message| vec![Problem::of_file(message)]);
        let read = bytes.and_then(|bytes| {
            if arguments.web {
                checked.document(&bytes, node)?;
            } else {
                checked.manifest(&bytes, node)?;
            }
            if arguments.kubernetes {
                let differences = manifest::kubelet_differences(&bytes).into_iter();
                let findings = differences.map(CheckResult::Difference);
                checked.findings.splice(..0, findings);
            }
            Ok(())
        });
        if let Err(problems) = read {
            checked.wrong(problems);
        }
        checked
    }

    /// Reads a manifest of a directory.
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

    /// Reads a document for `--manifest-url`.
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

    /// Records the warnings of a valid Pod or object.
    fn found(&mut self, warnings: Vec<Problem>, what: String) {
        let good = warnings.is_empty() || !self.arguments.strict;
        self.wrong(warnings);
        self.findings
            .extend(good.then_some(CheckResult::Valid(what)));
    }

    fn wrong(&mut self, findings: impl IntoIterator<Item = Problem>) {
        self.findings
            .extend(findings.into_iter().map(CheckResult::Problem));
    }

    /// Gives each finding its severity, and leaves out what is not valid after all.
    fn finish(self) -> CheckedFile {
        let is_error = |problem: &Problem| self.arguments.strict || !problem.is_warning();
        let is_valid = |finding: &CheckResult| match finding {
            CheckResult::Problem(problem) | CheckResult::Difference(problem) => !is_error(problem),
            CheckResult::Valid(_) => true,
        };
        // A manifest is refused as a whole; of a document, each Pod is by itself.
        let are_valid = self.arguments.web || self.findings.iter().all(is_valid);
        let entry = |finding| match finding {
            CheckResult::Valid(what) => are_valid.then_some(CheckEntry::Valid(what)),
            CheckResult::Problem(problem) => {
                let is_error = is_error(&problem);
                Some(CheckEntry::CheckFinding(CheckFinding::new(
                    problem,
                    is_error,
                    CheckRule::Manifest,
                )))
            }
            CheckResult::Difference(problem) => {
                let is_error = is_error(&problem);
                Some(CheckEntry::CheckFinding(CheckFinding::new(
                    problem,
                    is_error,
                    CheckRule::Kubelet,
                )))
            }
        };
        CheckedFile {
            path: self.path.display().to_string(),
            entries: self.findings.into_iter().filter_map(entry).collect(),
        }
    }
}

/// Returns the identity of a path, which two links to one file do not share: they are two manifests.
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

/// Adds a problem to each file among these whose Pod or object another one has already.
fn find_duplicates(files: &mut [Checked<'_>], together: &[usize]) {
    let these = || together.iter().map(|index| &files[*index]);
    let pods = these().flat_map(|f| f.pods.iter().map(|pod| (f.path.as_path(), pod)));
    let mut found = duplicate_pods(pods);
    let objects = these().flat_map(|f| f.objects.iter().map(|key| (f.path.as_path(), key)));
    found.extend(duplicate_objects(objects));
    add_problems(files, found);
}

/// Adds a problem to each file among these whose Pod would wait for itself in the end.
fn find_circles(files: &mut [Checked<'_>], together: &[usize]) {
    let these = || together.iter().map(|index| &files[*index]);
    let pods = || these().flat_map(|f| f.pods.iter().map(|pod| (f.path.as_path(), pod)));
    // Of files that name one Pod, the agent takes one.
    let duplicates = duplicate_pods(pods());
    let is_taken = |path: &Path| duplicates.iter().all(|(duplicate, _)| duplicate != path);
    let found = circular_pods(pods().filter(|(path, _)| is_taken(path)));
    add_problems(files, found);
}

fn add_problems(files: &mut [Checked<'_>], found: Vec<(PathBuf, Problem)>) {
    for (path, problem) in found {
        let mut files = files.iter_mut();
        let finding = CheckResult::Problem(problem);
        let file = files.find(|file| file.path == path);
        if let Some(file) = file.filter(|file| !file.findings.contains(&finding)) {
            file.findings.push(finding);
        }
    }
}
