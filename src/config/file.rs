//! `KubeletConfiguration` files: a main one, and drop-ins that win over it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::kubelet;
use super::setting::Definition;
use super::table::SETTINGS;
use super::value_type::ValueType;
use crate::manifest::document::{self, Document};
use crate::manifest::{Problem, path};

const API_VERSION: &str = "kubelet.config.k8s.io/v1beta1";
const KIND: &str = "KubeletConfiguration";

/// The fields of the settings, with the types of their values.
pub(super) fn fields() -> impl Iterator<Item = (&'static str, ValueType)> {
    let field = |known: &'static Definition| Some((known.field?, known.value_type));
    SETTINGS.iter().filter_map(field)
}

/// One field that a file sets.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Given {
    pub(super) value: Value,
    /// The file.
    pub(super) file: PathBuf,
    /// `file:line:column: field`.
    pub(super) place: String,
}

/// All fields that the files set.
#[derive(Debug, Clone, Default)]
pub(super) struct ConfigFields {
    /// The fields of settings.
    given: BTreeMap<&'static str, Given>,
    /// All other fields, with the one that was probably meant.
    pub(super) ignored: Vec<String>,
}

impl ConfigFields {
    /// Reads the main file and the drop-ins.
    ///
    /// # Errors
    /// A file cannot be read, or a field is invalid: every problem with its place.
    pub(super) fn read(main: Option<&Path>, folder: Option<&Path>) -> anyhow::Result<Self> {
        let mut files = Self::default();
        for file in main
            .map(Path::to_owned)
            .into_iter()
            .chain(drop_ins(folder)?)
        {
            files.add(&file)?;
        }
        files.ignored.sort();
        files.ignored.dedup();
        Ok(files)
    }

    pub(super) fn get(&self, field: &str) -> Option<&Given> {
        self.given.get(field)
    }

    /// Reads one file, which wins over those before it.
    fn add(&mut self, file: &Path) -> anyhow::Result<()> {
        let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        let document = document::read_one(&bytes, KIND);
        let problems = document.and_then(|document| {
            let problems = self.take(file, &document);
            if problems.is_empty() {
                Ok(())
            } else {
                Err(problems)
            }
        });
        if let Err(problems) = problems {
            let lines = problems.iter().map(|problem| place(file, problem));
            bail!("{}", lines.collect::<Vec<_>>().join("\n"));
        }
        Ok(())
    }

    fn take(&mut self, file: &Path, document: &Document) -> Vec<Problem> {
        let mut problems = check_object_kind(document);
        if !problems.is_empty() {
            return problems;
        }
        for (field, value) in leaves(&document.value) {
            let Some((known, value_type)) = fields().find(|(known, _)| *known == field) else {
                let option = kubelet::of_field(&field);
                let reason = option.map(|o| o.reason(&kubelet::value_of_field(value)));
                match reason {
                    Some(Err(refused)) => problems.push(document.spans.problem(&field, refused)),
                    Some(Ok(_)) => self.ignored.push(field),
                    None => self.ignored.push(ignored(&field)),
                }
                continue;
            };
            if value.is_null() {
                continue;
            }
            match value_type.check(value) {
                Err(message) => problems.push(document.spans.problem(&field, message)),
                Ok(false) => {}
                Ok(true) => self.set(known, value, file, document),
            }
        }
        problems
    }

    fn set(&mut self, field: &'static str, value: &Value, file: &Path, document: &Document) {
        let place = place(file, &document.spans.problem(field, ""));
        let mut given = Given {
            value: value.clone(),
            file: file.to_owned(),
            place: place.trim_end_matches([':', ' ']).to_owned(),
        };
        // Of an object, each key wins for itself.
        if let (Some(before), Value::Object(new)) = (self.given.remove(field), &mut given.value)
            && let Value::Object(mut all) = before.value
        {
            all.append(new);
            *new = all;
        }
        self.given.insert(field, given);
    }
}

/// Returns the files `*.conf`, by name.
fn drop_ins(folder: Option<&Path>) -> anyhow::Result<Vec<PathBuf>> {
    let Some(folder) = folder else {
        return Ok(vec![]);
    };
    let wrong = || format!("--config-dir: cannot read {}", folder.display());
    let mut files = vec![];
    for entry in fs::read_dir(folder).with_context(wrong)? {
        let path = entry.with_context(wrong)?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "conf")
        {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Formats a problem as a compiler does.
pub(super) fn place(file: &Path, problem: &Problem) -> String {
    let gap = if problem.line == 0 { ": " } else { ":" };
    format!("{}{gap}{problem}", file.display())
}

fn check_object_kind(document: &Document) -> Vec<Problem> {
    if !document.value.is_object() {
        let message = format!("expected a {KIND} (an object with apiVersion and kind)");
        return vec![document.spans.problem("", message)];
    }
    let mut problems = vec![];
    for (field, expected) in [("apiVersion", API_VERSION), ("kind", KIND)] {
        let message = match &document.value[field] {
            Value::String(found) if found == expected => continue,
            Value::Null => format!("missing, expected {expected:?}"),
            found => format!("found {found}, expected {expected:?}"),
        };
        problems.push(document.spans.problem(field, message));
    }
    problems
}

/// Returns the fields with their paths: an object of which only some fields are settings is split into its
/// fields, others are whole.
fn leaves(value: &Value) -> Vec<(String, &Value)> {
    let fields = value.as_object().into_iter().flatten();
    let fields = fields.filter(|(name, _)| !["kind", "apiVersion"].contains(&name.as_str()));
    let mut leaves = vec![];
    for (name, value) in fields {
        add_leaves(path::key("", name), value, &mut leaves);
    }
    leaves
}

fn add_leaves<'a>(path: String, value: &'a Value, leaves: &mut Vec<(String, &'a Value)>) {
    let within = |known: &str| {
        known
            .strip_prefix(&path)
            .is_some_and(|k| k.starts_with('.'))
    };
    match value {
        Value::Object(inner) if fields().any(|(known, _)| within(known)) => {
            for (name, value) in inner {
                add_leaves(path::key(&path, name), value, leaves);
            }
        }
        _ => leaves.push((path, value)),
    }
}

fn ignored(field: &str) -> String {
    let likeness = |known: &&str| strsim::damerau_levenshtein(known, field);
    let known = fields().map(|(known, _)| known);
    match known.min_by_key(likeness) {
        Some(known) if likeness(&known) <= 2 => format!("{field} (did you mean {known}?)"),
        _ => field.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use crate::config::tests::{kubelet, setting, url, with_files};

    #[test]
    fn flags_win_over_drop_ins_and_they_over_the_file() {
        let config = with_files(
            &[
                (
                    "config.yaml",
                    &kubelet(
                        "staticPodPath: pods\nclusterDomain: a\nhttpCheckFrequency: 1s\nstaticPodURLHeader: {a: ['1'], b: ['1']}\n",
                    ),
                ),
                (
                    "conf.d/20-b.conf",
                    "{\"apiVersion\": \"kubelet.config.k8s.io/v1beta1\", \"kind\": \"KubeletConfiguration\", \"clusterDomain\": \"c\", \"staticPodURLHeader\": {\"b\": [\"2\"]}}",
                ),
                (
                    "conf.d/10-a.conf",
                    &kubelet("clusterDomain: b\nhttpCheckFrequency: 2s\n"),
                ),
                ("conf.d/30-c.yaml", "not looked at"),
            ],
            "--config=@/config.yaml --config-dir=@/conf.d --manifest-url=http://h/ --http-check-frequency=3s",
        );
        let config = config.unwrap();
        assert_eq!(
            setting(&config, "pod-manifest-path"),
            "@/pods @/config.yaml"
        );
        assert_eq!(setting(&config, "cluster-domain"), "c @/conf.d/20-b.conf");
        assert_eq!(setting(&config, "http-check-frequency"), "3s flag");
        let headers = url(&config).request.headers.iter();
        let headers = headers.map(|(name, value)| format!("{name}={}", value.to_str().unwrap()));
        assert_eq!(headers.collect::<Vec<_>>(), ["a=1", "b=2"]);
    }

    // Long since it lists its cases.
    #[test]
    fn an_invalid_field_of_a_file_is_reported_with_its_place() {
        for (text, expected) in [
            (
                kubelet("staticPodPath: 7\n"),
                "@/c:3:16: staticPodPath: found 7, expected a string",
            ),
            (
                kubelet("clusterDNS: 10.0.0.1\n"),
                "@/c:3:13: clusterDNS: found \"10.0.0.1\", expected a list of strings",
            ),
            (
                kubelet("clusterDNS: [here]\n"),
                "@/c:3:13: clusterDNS: found \"here\", expected an IP address",
            ),
            (
                kubelet("httpCheckFrequency: 20\n"),
                "@/c:3:21: httpCheckFrequency: found 20, expected a duration",
            ),
            (
                kubelet("httpCheckFrequency: fast\n"),
                "@/c:3:21: httpCheckFrequency: found \"fast\", expected a duration",
            ),
            (
                kubelet("cgroupDriver: none\n"),
                "@/c:3:15: cgroupDriver: found \"none\", expected one of cgroupfs, systemd",
            ),
            (
                kubelet("logging: {format: xml}\n"),
                "@/c:3:19: logging.format: found \"xml\", expected one of text, json",
            ),
            (
                kubelet("staticPodURL: ftp://h/\n"),
                "@/c:3:15: staticPodURL: found a URL that begins with \"ftp\"",
            ),
            (
                kubelet("staticPodURLHeader: {a: secret}\n"),
                "@/c:3:21: staticPodURLHeader: expected a list of strings for each header",
            ),
            (
                kubelet("containerRuntimeEndpoint: tcp://h\n"),
                "@/c:3:27: containerRuntimeEndpoint: found \"tcp://h\", expected the runtime's Unix socket",
            ),
            (
                kubelet("containerLogMaxSize: lots\n"),
                "@/c:3:22: containerLogMaxSize: found \"lots\", expected a size such as 10Mi",
            ),
            (
                kubelet("containerLogMaxFiles: 1\n"),
                "@/c:3:23: containerLogMaxFiles: found 1, expected a number, 2 or more",
            ),
            (
                kubelet("imageGCLowThresholdPercent: 120\n"),
                "@/c:3:29: imageGCLowThresholdPercent: found 120, expected a number from 0 to 100",
            ),
            (
                kubelet("imageGCHighThresholdPercent: 50\nimageGCLowThresholdPercent: 60\n"),
                "@/c:4:29: imageGCLowThresholdPercent: found 60, expected less than the high threshold, 50",
            ),
            (
                kubelet("clusterDomain: a\nclusterDomain: b\n"),
                "@/c:4:1: clusterDomain: the field is given twice",
            ),
            (
                "kind: KubeletConfiguration\n".to_owned(),
                "@/c:1:1: apiVersion: missing, expected \"kubelet.config.k8s.io/v1beta1\"",
            ),
            (
                kubelet("").replace("v1beta1", "v1"),
                "@/c:1:13: apiVersion: found \"kubelet.config.k8s.io/v1\", expected",
            ),
            ("[]".to_owned(), "@/c:1:1: expected a KubeletConfiguration"),
            (
                String::new(),
                "@/c: found nothing in the file, expected a KubeletConfiguration",
            ),
            ("a: [".to_owned(), "@/c:"),
        ] {
            let error = with_files(&[("c", &text)], "--config=@/c --pod-manifest-path=/m");
            let error = error
                .err()
                .unwrap_or_else(|| panic!("{text} was accepted"))
                .to_string();
            assert!(error.starts_with(expected), "{text}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
        let config = with_files(
            &[("c", &kubelet("staticPodPaht: /m\npodsPerCore: 3\n"))],
            "--config=@/c --pod-manifest-path=/m",
        );
        let limited = with_files(
            &[("c", &kubelet("maxPods: 3\n"))],
            "--config=@/c --pod-manifest-path=/m",
        );
        assert_eq!(limited.unwrap().node.max_pods, 3);
        let warning = "fields of the KubeletConfiguration without effect here: podsPerCore, \
                       staticPodPaht (did you mean staticPodPath?)";
        assert_eq!(config.unwrap().warnings, [warning]);
    }
}
