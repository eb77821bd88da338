//! Manifests that mean harm: each is refused with a clear word, in bounded memory, and no field of one
//! that is accepted leads out of the agent's own folders.

#[path = "support/program.rs"]
mod program;

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use podkeeper::manifest::{SourceKind, parse_all, parse_file};
use podkeeper::server::{NodeStatus, fetch_status};
use podkeeper::translate::{ContainerInstance, NodeFacts, container_config, sub_paths};
use rustix::fs::{CWD, FileType, mknodat};
use serde_json::{Value, json};
use tempfile::TempDir;

const NODE: &str = "my-node1";
/// The programs under test are built for debugging, on machines that do other things as well.
const PATIENCE: Duration = Duration::from_secs(300);
/// As much memory as the agent may ever have had.
const MEMORY_KIB: u64 = 100 << 10;
/// As long as what is told of one manifest may be, in bytes.
const MAX_REFUSAL: usize = 64 << 10;
/// The size of the largest manifest that is read, and a little less.
const LARGE: usize = (10 << 20) - 1024;

const HEAD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers:\n";
const CONTAINER: &str = "  - {name: web, image: web}\n";

/// A manifest in parts that are written one after the other: what the test holds of it is little.
struct Hostile {
    name: &'static str,
    head: String,
    /// Written again and again, each time with the number put in for `#`.
    unit: String,
    times: usize,
    tail: String,
    /// What the refusal says.
    says: &'static str,
}

impl Hostile {
    fn new(name: &'static str, unit: &str, times: usize, says: &'static str) -> Self {
        let (head, unit, tail) = (String::new(), unit.to_owned(), String::new());
        Self {
            name,
            head,
            unit,
            times,
            tail,
            says,
        }
    }

    /// As much of it as is read at all.
    fn large(name: &'static str, unit: &str, says: &'static str) -> Self {
        Self::new(name, unit, LARGE / unit.len(), says)
    }

    fn between(self, head: &str, tail: &str) -> Self {
        let (head, tail) = (head.to_owned(), tail.to_owned());
        Self { head, tail, ..self }
    }

    fn write(&self, path: &Path) {
        let mut file = BufWriter::new(File::create(path).unwrap());
        file.write_all(self.head.as_bytes()).unwrap();
        for number in 0..self.times {
            match self.unit.split_once('#') {
                Some((before, after)) => write!(file, "{before}{number}{after}").unwrap(),
                None => file.write_all(self.unit.as_bytes()).unwrap(),
            }
        }
        file.write_all(self.tail.as_bytes()).unwrap();
        file.flush().unwrap();
    }
}

/// What is too much for a Pod in one way or another.
fn too_much() -> Vec<Hostile> {
    let many = "more than 50000 values";
    let deep = "more than 100 deep";
    let no_pod = "expected a Pod";
    let bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n";
    let bomb = (1..20).fold(bomb.to_owned(), |text, i| {
        let aliases = vec![format!("*a{}", i - 1); 9].join(", ");
        text + &format!("a{i}: &a{i} [{aliases}]\n")
    });
    let chain = (1..5_000).fold("a0: &a0 [x]\n".to_owned(), |text, i| {
        text + &format!("a{i}: &a{i} [*a{}]\n", i - 1)
    });
    let pod = format!("{HEAD}{CONTAINER}");
    let in_container = |field: &str| format!("{HEAD}  - name: web\n    image: web\n    {field}:\n");
    vec![
        Hostile::new("a-billion-laughs", &bomb, 1, "values"),
        Hostile::new("aliases-of-a-long-list", "*a, ", 40_000, "values")
            .between(&format!("a: &a [{}]\nb: [", "x, ".repeat(50_000)), "]\n"),
        Hostile::new("aliases-of-a-long-text", "*a, ", 40_000, "bytes of text")
            .between(&format!("a: &a {}\nb: [", "x".repeat(1_000_000)), "]\n"),
        Hostile::new("aliases-of-aliases", &chain, 1, deep),
        Hostile::new("a-list-in-itself", "a: &a [*a]\n", 1, deep),
        Hostile::new("a-merge-with-itself", "a: &a\n  <<: *a\n", 1, deep),
        Hostile::large("deep-brackets", "[", deep),
        Hostile::large("deep-braces", "{a: ", deep),
        Hostile::large("deep-dashes", "- ", deep),
        Hostile::large("deep-questions", "? ", deep),
        Hostile::large("deep-json", "{\"a\":", deep),
        Hostile::large("many-numbers", "0,", many).between("a: [", "]\n"),
        Hostile::large("many-numbers-on-top", "0,", many).between("[", "]\n"),
        Hostile::large("many-numbers-in-json", "0,", many).between("{\"a\": [", "0]}\n"),
        Hostile::large("many-objects", "{a},", many).between("- [", "]\n"),
        Hostile::large("many-objects-in-json", "{},", many).between("{\"a\": [", "{}]}\n"),
        Hostile::large("many-items", "- a\n", many),
        Hostile::large("many-documents", "---\n", many),
        Hostile::new("many-fields", "a#: b\n", 500_000, many),
        Hostile::large("many-anchors", "&a ", "not YAML"),
        Hostile::large("many-tags", "[!a ", deep),
        Hostile::new(
            "many-containers",
            "  - {name: c#, image: i}\n",
            100_000,
            many,
        )
        .between(HEAD, ""),
        Hostile::new("many-empty-containers", "{},", 40_000, "containers")
            .between(&format!("{}[", HEAD.trim_end()), "]\n"),
        Hostile::new("many-variables", "    - {name: V#}\n", 100_000, many)
            .between(&in_container("env"), ""),
        Hostile::new(
            "many-mounts",
            "    - {name: v, mountPath: /v#}\n",
            100_000,
            many,
        )
        .between(&in_container("volumeMounts"), ""),
        Hostile::new("many-volumes", "  - {name: v#}\n", 20_000, "volumes")
            .between(&format!("{pod}  volumes:\n"), ""),
        Hostile::new(
            "many-mistakes",
            "    - {name: \"\"}\n",
            20_000,
            "there is more",
        )
        .between(&in_container("env"), ""),
        Hostile::new("a-field-twice-and-again", "  x: 1\n", 40_000, "given twice")
            .between(&pod, ""),
        Hostile::new("a-long-name", "x", 1 << 20, "metadata.name").between(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: ",
            &format!("\nspec:\n  containers:\n{CONTAINER}"),
        ),
        Hostile::new("a-long-namespace", "x", 1 << 20, "metadata.namespace").between(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\n  namespace: ",
            &format!("\nspec:\n  containers:\n{CONTAINER}"),
        ),
        Hostile::new("a-long-field", "x", 1 << 20, "field's name").between("? ", "\n: y\n"),
        Hostile::new("a-long-field-in-json", "x", 1 << 20, "field's name").between("{\"", "\": 1}"),
        Hostile::large("one-word", "a", no_pod),
        Hostile::large("one-quoted-word", "a", no_pod).between("\"", "\""),
        Hostile::large("an-open-quote", "a ", "not YAML").between("\"", ""),
        Hostile::large("nothing-but-blanks", " ", "found nothing"),
        Hostile::large("nul-bytes", "\0", "no text"),
        Hostile::large(
            "more-than-is-read",
            "a: b # and so on, for ever",
            "larger than 10 MiB",
        )
        .between(&"#".repeat(2048), ""),
    ]
}

/// An agent with folders of its own and no runtime.
struct Agent {
    process: Child,
    folder: TempDir,
    runtime: tokio::runtime::Runtime,
}

impl Agent {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("manifests")).unwrap();
        let flag = |name: &str, value: &Path| format!("--{name}={}", value.display());
        let process = Command::new(program::PROGRAM)
            .arg("run")
            .arg(flag("root-dir", &at("root")))
            .arg(flag("run-dir", &at("run")))
            .arg(flag("pod-logs-dir", &at("logs")))
            .arg(flag("pod-manifest-path", &at("manifests")))
            .arg(flag("container-runtime-endpoint", &at("no.sock")))
            .args(["--hostname-override", NODE, "--healthz-port=0"])
            .stdin(Stdio::null())
            .stderr(File::create(at("log")).unwrap())
            .spawn()
            .unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().build().unwrap();
        Self {
            process,
            folder,
            runtime,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn manifest(&self, name: &str) -> PathBuf {
        self.path("manifests").join(name)
    }

    /// What it says of a manifest, once it says anything.
    fn refusal(&self, name: &str) -> String {
        let path = self.manifest(name).display().to_string();
        let end = Instant::now() + PATIENCE;
        loop {
            let status = self.runtime.block_on(fetch_status(&self.path("run")));
            let NodeStatus { refused, .. } = status.unwrap_or_default();
            if let Some(found) = refused.into_iter().find(|r| r.path == path) {
                return found.problems.join("\n");
            }
            assert!(
                Instant::now() < end,
                "nothing is said of {name}: {}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Whether it lives, and the most memory that it ever had.
    fn peak_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let mut lines = status.lines();
        let peak = lines.find_map(|line| line.strip_prefix("VmHWM:"));
        let peak = peak.unwrap_or_else(|| panic!("the agent ended: {}", self.log()));
        peak.trim().trim_end_matches(" kB").parse().unwrap()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn the_agent_refuses_what_is_too_much_and_stays_small() {
    let mut wrong = vec![];
    for hostile in too_much() {
        let Hostile { name, says, .. } = hostile;
        let agent = Agent::start();
        hostile.write(&agent.manifest(name));
        let refusal = agent.refusal(name);
        if !refusal.contains(says) {
            wrong.push(format!("{name}: {}", shown(&refusal)));
        }
        let peak = agent.peak_kib();
        if peak > MEMORY_KIB || refusal.len() > MAX_REFUSAL {
            wrong.push(format!(
                "{name} took {peak} KiB, and {} bytes to tell",
                refusal.len()
            ));
        }
        // It is as well as before: one of two that name the same Pod is refused.
        for copy in ["web", "web-copy"] {
            fs::write(agent.manifest(copy), format!("{HEAD}{CONTAINER}")).unwrap();
        }
        assert!(
            agent.refusal("web-copy").contains("web-my-node1"),
            "{}",
            agent.log()
        );
        assert_eq!(
            entries(&agent.path("logs")) + entries(&agent.path("root/pods")),
            0
        );
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn shown(text: &str) -> &str {
    let end = text
        .char_indices()
        .nth(600)
        .map_or(text.len(), |(at, _)| at);
    &text[..end]
}

fn entries(folder: &Path) -> usize {
    fs::read_dir(folder).map_or(0, Iterator::count)
}

#[test]
fn long_texts_are_no_harm() {
    let object = |text: &str| {
        let head = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata:\n  text: ";
        format!("{head}{text}\n")
    };
    let json = r#"{"a": [1, 'b', "[31m"]}, "#.repeat(20_000);
    for text in [
        format!("|\n    {json}"),
        format!(">-\n    {json}"),
        format!("\"{}\"", json.replace('"', "\\\"")),
        format!("'{}'", json.replace('\'', "''")),
    ] {
        let manifest = parse_file(object(&text).as_bytes(), NODE);
        let manifest = manifest.unwrap_or_else(|p| panic!("{}: {p:?}", shown(&text)));
        let found = String::from_utf8(manifest.objects[0].content.entries["text"].clone()).unwrap();
        assert_eq!(found.trim_end(), json.trim_end(), "{}", shown(&text));
    }
}

#[test]
fn the_agent_opens_nothing_but_plain_files() {
    let agent = Agent::start();
    let at = |name: &str| agent.manifest(name);
    mknodat(CWD, at("pipe.yaml"), FileType::Fifo, 0o600.into(), 0).unwrap();
    symlink("/dev/zero", at("zeros.yaml")).unwrap();
    symlink("pipe.yaml", at("to-the-pipe.yaml")).unwrap();
    symlink("loop.yaml", at("loop.yaml")).unwrap();
    symlink("nowhere", at("dangling.yaml")).unwrap();
    fs::create_dir(at("folder.yaml")).unwrap();
    File::create(at("sparse.yaml"))
        .unwrap()
        .set_len(50 << 20)
        .unwrap();
    fs::write(at("latin.yaml"), b"kind: P\xf6d\n").unwrap();
    fs::write(at("binary.yaml"), b"\x7fELF\x02\x01\x01\0\0\0").unwrap();
    for (name, says) in [
        ("pipe.yaml", "a named pipe"),
        ("zeros.yaml", "a device"),
        ("to-the-pipe.yaml", "a named pipe"),
        ("loop.yaml", "cannot be read"),
        ("dangling.yaml", "does not exist"),
        ("sparse.yaml", "larger than 10 MiB"),
        ("latin.yaml", "no text"),
        ("binary.yaml", "no text"),
    ] {
        let refusal = agent.refusal(name);
        assert!(refusal.contains(says), "{name}: {refusal}");
    }
    let peak = agent.peak_kib();
    assert!(peak <= MEMORY_KIB, "{peak} KiB");
}

fn check(arguments: &[&str], file: &Path) -> Output {
    let mut command = Command::new(program::PROGRAM);
    command
        .arg("check")
        .args(arguments)
        .arg(file)
        .output()
        .unwrap()
}

#[test]
fn check_refuses_the_same_in_both_forms() {
    let folder = tempfile::tempdir().unwrap();
    for hostile in too_much() {
        // The same code decides on the large ones.
        if hostile.unit.len() * hostile.times > 2 << 20 {
            continue;
        }
        let file = folder.path().join(hostile.name);
        hostile.write(&file);
        for form in [&[][..], &["--web"]] {
            let output = check(form, &file);
            let said = String::from_utf8(output.stdout).unwrap();
            assert_eq!(
                output.status.code(),
                Some(1),
                "{} {form:?}: {}",
                hostile.name,
                shown(&said)
            );
            let summary = String::from_utf8(output.stderr).unwrap();
            assert!(
                !said.is_empty() && summary.starts_with("Checked 1 file: 0 valid, "),
                "{}: {summary}",
                hostile.name
            );
            assert_eq!(summary.lines().count(), 1, "{}: {summary}", hostile.name);
        }
    }
}

/// A Pod in which every field has a value that becomes a path.
fn pod() -> Value {
    let items = json!([{"key": "key", "path": "item"}]);
    let fields = json!([{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]);
    let profile = json!({"type": "Localhost", "localhostProfile": "profile.json"});
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "web", "namespace": "apps"},
        "spec": {
            "securityContext": {"seccompProfile": profile},
            "initContainers": [{"name": "first", "image": "i"}],
            "containers": [{
                "name": "web",
                "image": "i",
                "env": [
                    {"name": "PART", "value": "part"},
                    {"name": "KEY", "valueFrom": {"fileKeyRef": {"volumeName": "empty", "path": "env", "key": "KEY"}}},
                ],
                "securityContext": {"seccompProfile": profile},
                "volumeMounts": [
                    {"name": "empty", "mountPath": "/a", "subPath": "sub"},
                    {"name": "empty", "mountPath": "/b", "subPathExpr": "$(PART)"},
                ],
            }],
            "volumes": [
                {"name": "empty", "emptyDir": {}},
                {"name": "host", "hostPath": {"path": "/srv"}},
                {"name": "fields", "downwardAPI": {"items": fields}},
                {"name": "settings", "configMap": {"name": "settings", "items": items}},
                {"name": "secret", "secret": {"secretName": "secret", "items": items}},
                {"name": "all", "projected": {"sources": [
                    {"downwardAPI": {"items": fields}},
                    {"configMap": {"name": "settings", "items": items}},
                    {"secret": {"name": "secret", "items": [{"key": "key", "path": "other"}]}},
                ]}},
            ],
        },
    })
}

/// `/spec/volumes/0/name` as `spec.volumes[0].name`.
fn field_path(pointer: &str) -> String {
    let parts = pointer.split('/').skip(1);
    parts.fold(String::new(), |path, part| match part.parse::<usize>() {
        Ok(index) => format!("{path}[{index}]"),
        Err(_) if path.is_empty() => part.to_owned(),
        Err(_) => format!("{path}.{part}"),
    })
}

#[test]
fn no_field_leads_out_of_the_agents_folders() {
    let good = pod();
    let problems = parse_file(good.to_string().as_bytes(), NODE).err();
    assert_eq!(problems, None, "nothing is wrong with it as it stands");
    let out = ["..", "../web", "a/../../b", "/etc/passwd"];
    // A path that stays in its folder has a right to slashes.
    let names = [".", "a/b", "a\\b/", "a\0b", ""];
    for (pointer, is_name) in [
        ("/metadata/name", true),
        ("/metadata/namespace", true),
        ("/spec/initContainers/0/name", true),
        ("/spec/containers/0/name", true),
        ("/spec/volumes/0/name", true),
        ("/spec/containers/0/volumeMounts/0/subPath", false),
        ("/spec/containers/0/volumeMounts/1/subPathExpr", false),
        ("/spec/containers/0/env/1/valueFrom/fileKeyRef/path", false),
        ("/spec/volumes/2/downwardAPI/items/0/path", false),
        ("/spec/volumes/3/configMap/items/0/path", false),
        ("/spec/volumes/4/secret/items/0/path", false),
        (
            "/spec/volumes/5/projected/sources/0/downwardAPI/items/0/path",
            false,
        ),
        (
            "/spec/volumes/5/projected/sources/1/configMap/items/0/path",
            false,
        ),
        (
            "/spec/volumes/5/projected/sources/2/secret/items/0/path",
            false,
        ),
        (
            "/spec/securityContext/seccompProfile/localhostProfile",
            false,
        ),
        (
            "/spec/containers/0/securityContext/seccompProfile/localhostProfile",
            false,
        ),
    ] {
        let names = names
            .iter()
            .filter(|n| is_name && !(n.is_empty() && pointer == "/metadata/namespace"));
        for path in out.iter().chain(names) {
            let mut pod = good.clone();
            *pod.pointer_mut(pointer).unwrap() = json!(path);
            let field = field_path(pointer);
            let Err(problems) = parse_file(pod.to_string().as_bytes(), NODE) else {
                panic!("{field} {path:?} is accepted");
            };
            assert!(
                problems.iter().any(|p| p.field == field),
                "{field} {path:?}: {problems:?}"
            );
        }
    }
    let mut pod = good;
    *pod.pointer_mut("/spec/volumes/1/hostPath/path").unwrap() = json!("/srv/../etc");
    assert!(
        parse_file(pod.to_string().as_bytes(), NODE).is_err(),
        "a host path with .."
    );
}

#[test]
fn no_key_of_an_object_leads_out_of_its_volume() {
    for kind in ["ConfigMap", "Secret"] {
        let object = |name: &str, key: &str| {
            json!({
                "apiVersion": "v1", "kind": kind, "metadata": {"name": name}, "data": {(key): "dGV4dA=="},
            })
        };
        let good = object("name", "..key".trim_start_matches('.'));
        assert!(parse_file(good.to_string().as_bytes(), NODE).is_ok());
        for (name, key) in [
            ("name", ".."),
            ("name", "../key"),
            ("name", "/key"),
            ("name", "a/b"),
            ("name", "..data"),
            ("name", ""),
            ("../name", "key"),
            ("a/b", "key"),
        ] {
            let manifest = object(name, key).to_string();
            assert!(parse_file(manifest.as_bytes(), NODE).is_err(), "{manifest}");
            let parsed = parse_all(manifest.as_bytes(), NODE, SourceKind::Http).unwrap();
            assert!(parsed.objects[0].result.is_err(), "{manifest}");
        }
    }
}

#[test]
fn a_sub_path_that_a_variable_leads_out_of_its_volume_is_refused() {
    for (value, good) in [
        ("part", true),
        ("a/b", true),
        ("..", false),
        ("../../etc", false),
        ("a/../../b", false),
        ("/etc", false),
    ] {
        let mut pod = pod();
        *pod.pointer_mut("/spec/containers/0/env").unwrap() =
            json!([{"name": "PART", "value": value}]);
        let manifest = parse_file(pod.to_string().as_bytes(), NODE).unwrap();
        let pod = manifest.pod.unwrap().pod;
        let container = &pod.spec.containers[0];
        let (facts, instance) = (NodeFacts::default(), ContainerInstance::default());
        let paths = sub_paths(&facts, &pod, container, &instance);
        assert_eq!(paths.is_ok(), good, "{value:?}: {paths:?}");
        let config = container_config(&facts, &pod, container, &instance);
        assert_eq!(config.is_ok(), good, "{value:?}: {config:?}");
    }
}
