//! `ConfigMap`s and `Secret`s that stand in manifests: what is read, what Pods make of it, and how changes
//! are followed.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use podkeeper::manifest::objects::{ObjectSet, Objects, PullSecret, attach, start_errors};
use podkeeper::manifest::{Problem, SourceKind, StaticPod, parse_all, parse_file};
use podkeeper::source::Desired;
use podkeeper::source::directory::DirectorySource;
use podkeeper::translate::{ContainerInstance, NodeFacts, container_config};
use tokio::sync::watch;

const NODE: &str = "node1";

const POD: &str = "apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  containers:
  - name: c
    image: i
    envFrom:
    - {prefix: S_, configMapRef: {name: settings}}
    env:
    - {name: PASSWORD, valueFrom: {secretKeyRef: {name: login, key: password}}}
    - {name: MAYBE, valueFrom: {secretKeyRef: {name: none, key: x, optional: true}}}
";
const SETTINGS: &str = "apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {a: '1', b: 'two'}
";
const LOGIN: &str = "apiVersion: v1
kind: Secret
metadata: {name: login}
stringData: {password: tell-nobody}
";

fn stream(documents: &[&str]) -> String {
    documents.join("---\n")
}

fn objects(text: &str) -> ObjectSet {
    let manifest = parse_file(text.as_bytes(), NODE).unwrap();
    let objects = manifest.objects.into_iter();
    objects.map(|o| (o.key, o.content)).collect()
}

fn refused(text: &str) -> Vec<Problem> {
    parse_file(text.as_bytes(), NODE).unwrap_err()
}

fn pod(text: &str) -> Arc<StaticPod> {
    let manifest = parse_file(text.as_bytes(), NODE).unwrap();
    attach(&manifest.pod.unwrap().pod, &objects(text))
}

fn env(pod: &StaticPod) -> Result<Vec<(String, String)>, String> {
    let spec = &pod.spec.containers[0];
    let (facts, instance) = (NodeFacts::default(), ContainerInstance::default());
    let config = container_config(&facts, pod, spec, &instance).map_err(|e| e.to_string())?;
    let pairs = config.envs.into_iter();
    let mut pairs: Vec<_> = pairs
        .map(|e| (e.key, String::from_utf8(e.value).unwrap()))
        .collect();
    pairs.sort();
    Ok(pairs)
}

#[test]
fn a_pod_gets_its_variables_from_the_objects_beside_it() {
    let pod = pod(&stream(&[SETTINGS, POD, LOGIN]));
    assert!(start_errors(&pod).is_empty());
    let expected = [("PASSWORD", "tell-nobody"), ("S_a", "1"), ("S_b", "two")];
    let expected = expected.map(|(k, v)| (k.to_owned(), v.to_owned()));
    assert_eq!(env(&pod), Ok(expected.to_vec()));
}

#[test]
fn what_is_missing_is_named() {
    let alone = pod(&stream(&[
        POD,
        "apiVersion: v1\nkind: Secret\nmetadata: {name: login}\n",
    ]));
    assert_eq!(
        start_errors(&alone),
        [
            "spec.containers[0].envFrom[0].configMapRef: no manifest has the ConfigMap \"settings\"",
            "spec.containers[0].env[0].valueFrom.secretKeyRef: the Secret \"login\" has no key \"password\"",
        ]
    );
    assert!(env(&alone).unwrap_err().contains("settings"));
}

#[test]
fn texts_that_objects_make_too_large_are_named() {
    let settings = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: settings}}\ndata: {{a: {}}}\n",
        "x".repeat(200_000)
    );
    let with = |env: &str, args: &str| {
        let manifest = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: web}}\nspec:\n  containers:\n  \
             - {{name: c, image: i, envFrom: [{{prefix: S_, configMapRef: {{name: settings}}}}], \
             env: [{env}], args: [{args}]}}\n"
        );
        start_errors(&pod(&stream(&[&settings, &manifest])))
    };
    let key = "{name: K, valueFrom: {configMapKeyRef: {name: settings, key: a}}}";
    assert_eq!(with(key, "$(S_a)$(K)"), [""; 0]);
    for (env, args, field, variable) in [
        ("", "$(S_a)$(S_a)$(S_a)$(S_a)$(S_a)", "args[0]", "S_a"),
        (key, "x, $(K)$(K)$(K)$(K)", "args[1]", "K"),
        (
            &format!("{key}, {{name: V, value: $(K)$(K)$(K)$(K)}}"),
            "",
            "env[1].value",
            "V",
        ),
    ] {
        let start_errors = with(env, args);
        let begin = format!("spec.containers[0].{field}: found 1");
        let variable = format!("variable \"{variable}\"");
        assert_eq!(start_errors.len(), 1, "{start_errors:?}");
        assert!(
            start_errors[0].starts_with(&begin) && start_errors[0].contains(&variable),
            "{start_errors:?}"
        );
    }
}

#[test]
fn what_stands_in_a_volume_that_no_container_mounts_may_be_missing() {
    let volumes = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  volumes:\n  \
                   - {name: v, configMap: {name: settings}}\n  \
                   - {name: w, projected: {sources: [{secret: {name: login}}]}}\n  \
                   containers:\n  - {name: c, image: i, volumeMounts: [MOUNTS]}\n";
    for (mounts, expected) in [
        ("", vec![]),
        (
            "{name: v, mountPath: /v}",
            vec!["spec.volumes[0].configMap"],
        ),
        (
            "{name: w, mountPath: /w}",
            vec!["spec.volumes[1].projected.sources[0].secret"],
        ),
    ] {
        let start_errors = start_errors(&pod(&volumes.replace("MOUNTS", mounts)));
        let fields = start_errors
            .iter()
            .map(|reason| reason.split(':').next().unwrap());
        assert_eq!(fields.collect::<Vec<_>>(), expected, "{mounts}");
    }
}

#[test]
fn the_uid_depends_on_what_the_pod_refers_to_and_on_nothing_else() {
    let first = pod(&stream(&[POD, SETTINGS, LOGIN]));
    let same = pod(&stream(&[
        LOGIN,
        SETTINGS,
        POD,
        &LOGIN.replace("login", "other"),
    ]));
    assert_eq!(first.uid, same.uid);
    let metadata = &first.metadata;
    let hash = &metadata.annotations.as_ref().unwrap()["kubernetes.io/config.hash"];
    assert_eq!(
        (metadata.uid.as_deref(), hash.as_str()),
        (Some(first.uid.as_str()), first.uid.as_str())
    );
    for other in [
        stream(&[POD, &SETTINGS.replace("two", "three"), LOGIN]),
        stream(&[POD, SETTINGS]),
        stream(&[POD, SETTINGS, &LOGIN.replace("password: ", "password: x")]),
    ] {
        assert_ne!(first.uid, pod(&other).uid);
    }
    let plain = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c, image: i}]}\n";
    let alone = podkeeper::manifest::parse(plain.as_bytes(), NODE, SourceKind::File);
    let beside = pod(&stream(&[plain, SETTINGS]));
    assert_eq!(alone.unwrap().pod.uid, beside.uid, "it refers to none");
}

#[test]
fn objects_of_another_namespace_do_not_count() {
    let elsewhere = SETTINGS.replace("name: settings", "name: settings, namespace: other");
    let pod = pod(&stream(&[POD, LOGIN, &elsewhere]));
    assert_eq!(start_errors(&pod).len(), 1);
}

#[test]
fn data_is_read_as_the_api_has_it() {
    let set = objects(&stream(&[
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\ndata: {t: text}\nbinaryData: {b: /wA=}\nimmutable: true\n",
        "apiVersion: v1\nkind: Secret\ntype: Opaque\nmetadata: {name: s}\ndata: {a: b2xk, c: Yw==, n: null}\nstringData: {a: new}\n",
    ]));
    let found: Vec<_> = set
        .values()
        .flat_map(|content| content.entries.iter())
        .map(|(k, v)| (k.as_str(), v.as_slice()))
        .collect();
    let expected = [
        ("b", b"\xff\0".as_slice()),
        ("t", b"text"),
        ("a", b"new"),
        ("c", b"c"),
        ("n", b""),
    ];
    assert_eq!(found, expected);
}

#[test]
fn what_is_wrong_with_an_object_is_told_without_showing_what_it_holds() {
    for (document, field, words) in [
        (
            "kind: Secret\nmetadata: {name: s}\ndata: {a: 'hunter 2!'}",
            "data.a",
            "base64",
        ),
        (
            "kind: Secret\nmetadata: {name: s}\nstringData: {a: 31337}",
            "stringData.a",
            "quotes",
        ),
        (
            "kind: ConfigMap\nmetadata: {name: s}\ndata: {'a/b': x}",
            "data[a/b]",
            "key",
        ),
        (
            "kind: ConfigMap\nmetadata: {name: s}\ndata: {'..': x}",
            "data",
            "key",
        ),
        (
            "kind: ConfigMap\nmetadata: {name: Big}\n",
            "metadata.name",
            "lower-case",
        ),
        (
            "kind: ConfigMap\nmetadata: {}\n",
            "metadata.name",
            "missing",
        ),
        (
            "kind: ConfigMap\nmetadata: {name: s, namespace: a.b}\n",
            "metadata.namespace",
            "namespace",
        ),
        (
            "kind: ConfigMap\nmetadata: {name: s}\ndata: [x]\n",
            "data",
            "a list",
        ),
        (
            "kind: Secret\nmetadata: {name: s}\nstringData:\n  a: !hunter2",
            "",
            "a tag",
        ),
        (
            "kind: Secret\nmetadata: {name: s}\nstringData:\n  a: !!int hunter, expected 2 at line 3",
            "",
            "an integer",
        ),
        (
            "kind: Secret\nmetadata: {name: s}\nstringData: {a: 31337432109876543210987}",
            "stringData.a",
            "quotes",
        ),
        (
            "kind: Secret\nmetadata: {name: s}\nstringData: {a: -31337432109876543210987}",
            "stringData.a",
            "quotes",
        ),
    ] {
        let problems = refused(&format!("apiVersion: v1\n{document}\n"));
        let [problem] = problems.as_slice() else {
            panic!("{document}: {problems:#?}");
        };
        assert!(problem.field.starts_with(field), "{document}: {problem}");
        assert!(problem.message.contains(words), "{document}: {problem}");
        let text = problem.to_string();
        assert!(
            !text.contains("hunter") && !text.contains("3.1337") && !text.contains("31337"),
            "{text}"
        );
    }
    let large = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: s}}\ndata: {{a: {}}}\n",
        "x".repeat(1 << 20)
    );
    assert!(refused(&large)[0].message.contains("at most"));
    let shown = format!(
        "{:?} {:?}",
        pod(&stream(&[POD, LOGIN])),
        objects(LOGIN).keys()
    );
    assert!(!shown.contains("tell-nobody"), "{shown}");
}

#[test]
fn what_an_object_cannot_have_is_told_once() {
    for (document, expected) in [
        (
            "kind: ConfigMap\nmetadata: {name: s}\ndata: {a: x}\nbinaryData: {a: eA==}",
            "binaryData.a",
        ),
        (
            "kind: ConfigMap\nmetadata: {name: s}\nimmutable: maybe",
            "immutable",
        ),
        ("kind: Secret\nmetadata: {name: s}\ntype: 5", "type"),
        ("kind: Secret\nmetadata: {name: 5}", "metadata.name"),
        (
            "kind: Secret\nmetadata: {name: s, namespace: 5}",
            "metadata.namespace",
        ),
        (
            "kind: Secret\nmetadata: {name: s, labels: [a]}",
            "metadata.labels",
        ),
        ("kind: Secret\nmetadata: s", "metadata"),
    ] {
        let problems = refused(&format!("apiVersion: v1\n{document}\n"));
        let fields: Vec<_> = problems.iter().map(|p| p.field.as_str()).collect();
        assert!(fields.contains(&expected), "{document}: {problems:#?}");
        assert!(fields.len() == 1 || expected == "metadata", "{problems:#?}");
    }
}

#[test]
fn what_is_unknown_of_an_object_is_a_warning() {
    let text = "apiVersion: v1
kind: ConfigMap
metadata: {name: s, namespce: a, labels: {a: b}, uid: x}
dat: {}
";
    let manifest = parse_file(text.as_bytes(), NODE).unwrap();
    let warnings = manifest.objects.iter().flat_map(|o| &o.warnings);
    let mut fields: Vec<_> = warnings.map(|w| w.field.as_str()).collect();
    fields.sort_unstable();
    assert_eq!(fields, ["dat", "metadata.namespce", "metadata.uid"]);
}

#[test]
fn a_file_has_one_pod_at_most_and_a_web_document_any_number() {
    let other = POD.replace("name: web", "name: web2");
    let problems = refused(&stream(&[POD, SETTINGS, &other]));
    assert!(problems[0].message.contains("second Pod"), "{problems:#?}");
    let list = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: ConfigMap, metadata: {name: a}}\n- {apiVersion: v1, kind: Secret, metadata: {name: b}}\n";
    let text = stream(&[POD, list, &other]);
    let parsed = parse_all(text.as_bytes(), NODE, SourceKind::Http).unwrap();
    assert_eq!((parsed.pods.len(), parsed.objects.len()), (2, 2));
}

#[test]
fn objects_come_back_from_disk_as_they_were() {
    let pod = pod(&stream(&[POD, LOGIN]));
    let text = serde_json::to_string(&*pod.objects).unwrap();
    assert!(!text.contains("tell-nobody"), "not in plain text");
    let back: Objects = serde_json::from_str(&text).unwrap();
    assert_eq!(back, *pod.objects);
}

const PULLS: &str = "apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  containers: [{name: c, image: reg.example/a}]
  imagePullSecrets: [{name: login}, {name: old}]
";

/// A Secret with a login for a registry, as text.
fn pull_secret(name: &str, kind: &str, key: &str, text: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\ntype: {kind}\nstringData:\n  {key}: '{text}'\n"
    )
}

fn login_of(password: &str) -> String {
    let config =
        format!(r#"{{"auths": {{"reg.example": {{"username": "u", "password": "{password}"}}}}}}"#);
    pull_secret(
        "login",
        "kubernetes.io/dockerconfigjson",
        ".dockerconfigjson",
        &config,
    )
}

fn old_login() -> String {
    let config = r#"{"reg.example": {"auth": "dTpodXNo"}}"#;
    pull_secret("old", "kubernetes.io/dockercfg", ".dockercfg", config)
}

#[test]
fn secrets_for_pulls_are_no_part_of_a_version() {
    let bare = pod(PULLS);
    assert_eq!(
        start_errors(&bare),
        [
            "spec.imagePullSecrets[0]: no manifest has the Secret \"login\"",
            "spec.imagePullSecrets[1]: no manifest has the Secret \"old\"",
        ]
    );
    let one = pod(&stream(&[PULLS, &login_of("hush-1"), &old_login()]));
    let two = pod(&stream(&[PULLS, &login_of("hush-2"), &old_login()]));
    assert_eq!(start_errors(&one), [""; 0]);
    assert_eq!((&bare.uid, &one.uid), (&one.uid, &two.uid));
    assert_ne!(one.objects, two.objects);
    let names = |pod: &StaticPod| format!("{:?}", PullSecret::of_pod(pod, None));
    assert_eq!(names(&one), "[Secret default/login, Secret default/old]");
    assert_eq!(names(&bare), "[]");
    // The newest content counts, also for a version that another one follows.
    assert_eq!(
        PullSecret::of_pod(&one, Some(&two.objects)),
        PullSecret::of_pod(&two, None)
    );
    assert_eq!(PullSecret::of_pod(&one, Some(&bare.objects)), []);
    let text = serde_json::to_string(&*one.objects).unwrap();
    assert!(!text.contains("hush"), "not in plain text");
    assert_eq!(
        serde_json::from_str::<Objects>(&text).unwrap(),
        *one.objects
    );
    assert!(!format!("{one:?}").contains("hush"));
}

#[test]
fn a_secret_of_another_type_is_no_secret_for_pulls() {
    let other = login_of("hush").replace("type: kubernetes.io/dockerconfigjson\n", "");
    let problems = refused(&stream(&[PULLS, &other, &old_login()]));
    let [problem] = problems.as_slice() else {
        panic!("{problems:#?}");
    };
    let expected = "6:22: spec.imagePullSecrets[0]: the Secret \"login\" has the type \"Opaque\", expected \
                    kubernetes.io/dockerconfigjson or kubernetes.io/dockercfg";
    assert_eq!(problem.to_string(), expected);
    // Where it stands in a file of its own, the Pod waits.
    let set = objects(&stream(&[&other, &old_login()]));
    let pod = attach(&pod(PULLS), &set);
    assert!(start_errors(&pod)[0].ends_with("has the type \"Opaque\", expected kubernetes.io/dockerconfigjson or kubernetes.io/dockercfg"));
    let manifest = parse_file(other.as_bytes(), NODE).unwrap();
    let warning = manifest.objects[0].warnings[0].to_string();
    assert_eq!(
        warning,
        "5:22: stringData[.dockerconfigjson]: for imagePullSecrets the Secret needs the type \"kubernetes.io/dockerconfigjson\""
    );
}

#[test]
fn broken_credentials_of_a_secret_are_refused_with_their_place() {
    let json = |text: &str| {
        pull_secret(
            "s",
            "kubernetes.io/dockerconfigjson",
            ".dockerconfigjson",
            text,
        )
    };
    for (text, expected) in [
        (
            json("{\"auths\": hush}"),
            "6:22: stringData[.dockerconfigjson]: is not JSON: expected value at line 1 column 11",
        ),
        (
            json("[\"hush\"]"),
            "6:22: stringData[.dockerconfigjson]: is no JSON object",
        ),
        (
            json("{\"auths\": [\"hush\"]}"),
            "6:22: stringData[.dockerconfigjson]: auths: expected an object",
        ),
        (
            json("{\"auths\": {\"r\": {\"auth\": \"aHVzaA==\"}}}"),
            "6:22: stringData[.dockerconfigjson]: the entry \"r\": auth: expected USER:PASSWORD in base64",
        ),
        (
            pull_secret(
                "s",
                "kubernetes.io/dockercfg",
                ".dockercfg",
                "{\"r\": \"hush\"}",
            ),
            "6:15: stringData[.dockercfg]: the entry \"r\": expected an object",
        ),
        (
            pull_secret("s", "kubernetes.io/dockercfg", ".dockerconfigjson", "{}"),
            "data[.dockercfg]: missing, expected the credentials of a Secret of type kubernetes.io/dockercfg",
        ),
        (
            json("x")
                .replace("stringData", "data")
                .replace("'x'", "aHVzaA=="),
            "6:22: data[.dockerconfigjson]: is not JSON",
        ),
    ] {
        let problems = refused(&text);
        let shown = problems[0].to_string();
        assert!(shown.contains(expected), "{text}: {shown}");
        assert!(
            !shown.contains("hush") && !shown.contains("aHVzaA"),
            "{shown}"
        );
    }
    let helpers = json("{\"credsStore\": \"x\"}");
    let manifest = parse_file(helpers.as_bytes(), NODE).unwrap();
    let warning = manifest.objects[0].warnings[0].to_string();
    assert!(
        warning.contains("credsStore has no effect in a Secret"),
        "{warning}"
    );
}

struct Folder {
    root: tempfile::TempDir,
    desired: watch::Receiver<Option<Desired>>,
    task: tokio::task::JoinHandle<()>,
}

impl Folder {
    fn new(files: &[(&str, &str)]) -> Self {
        let root = tempfile::tempdir().unwrap();
        let manifests = root.path().join("manifests");
        fs::create_dir(&manifests).unwrap();
        for (name, text) in files {
            fs::write(manifests.join(name), text).unwrap();
        }
        let (desired, task) = launch(root.path());
        Self {
            root,
            desired,
            task,
        }
    }

    /// Ends the source, does something, and starts it again.
    async fn restart(self, meanwhile: impl FnOnce(&Self)) -> Self {
        let (_, none) = watch::channel(None);
        let (empty, ended) = (none, tokio::spawn(async {}));
        let mut folder = self;
        drop(std::mem::replace(&mut folder.desired, empty));
        std::mem::replace(&mut folder.task, ended).await.unwrap();
        meanwhile(&folder);
        (folder.desired, folder.task) = launch(folder.root.path());
        folder
    }

    fn write(&self, name: &str, text: &str) {
        let aside = self.root.path().join("aside");
        fs::write(&aside, text).unwrap();
        fs::rename(aside, self.path(name)).unwrap();
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.root.path().join("manifests").join(name)
    }

    /// Waits until the Pod's variables are these; those of a Pod that waits are what it waits for.
    async fn sees(&mut self, what: &str, expected: impl Fn(&Desired, &StaticPod) -> bool) {
        let seen = self.desired.wait_for(|desired| {
            let pod = desired
                .as_ref()
                .and_then(|d| Some((d, d.pods.values().next()?)));
            pod.is_some_and(|(desired, wanted)| expected(desired, &wanted.pod.unpack()))
        });
        let seen = tokio::time::timeout(Duration::from_secs(20), seen).await;
        assert!(seen.is_ok(), "{what}");
    }
}

fn launch(
    root: &std::path::Path,
) -> (
    watch::Receiver<Option<Desired>>,
    tokio::task::JoinHandle<()>,
) {
    let source = DirectorySource {
        path: root.join("manifests"),
        node_name: NODE.into(),
        rescan: Duration::from_secs(3600),
        state: root.join("state"),
    };
    let (sender, desired) = watch::channel(None);
    (desired, tokio::spawn(source.run(sender)))
}

fn has(pod: &StaticPod, value: &str) -> bool {
    env(pod).is_ok_and(|pairs| pairs.iter().any(|(_, v)| v == value))
}

#[tokio::test]
async fn files_of_a_directory_serve_each_others_pods_and_changes_are_followed() {
    let mut folder = Folder::new(&[("pod.yaml", POD), ("login.yaml", LOGIN)]);
    folder
        .sees("waits", |_, pod| start_errors(pod).len() == 1)
        .await;
    folder.write("settings.yaml", SETTINGS);
    folder.sees("complete", |_, pod| has(pod, "two")).await;
    folder.write("settings.yaml", &SETTINGS.replace("two", "three"));
    folder.sees("changed", |_, pod| has(pod, "three")).await;
    folder.write("settings.yaml", "kind: ConfigMap\n");
    let broken =
        |desired: &Desired, pod: &StaticPod| desired.refused.len() == 1 && has(pod, "three");
    folder
        .sees("a broken edit keeps what was there", broken)
        .await;
    fs::remove_file(folder.path("settings.yaml")).unwrap();
    folder
        .sees("missing again", |_, pod| start_errors(pod).len() == 1)
        .await;
}

#[tokio::test]
async fn of_two_objects_of_one_name_the_first_file_counts() {
    let copy = SETTINGS.replace("two", "copy");
    let files = [
        ("pod.yaml", POD),
        ("login.yaml", LOGIN),
        ("settings.yaml", SETTINGS),
        ("settings.yaml.bak", &copy),
    ];
    let mut folder = Folder::new(&files);
    let told = |desired: &Desired, pod: &StaticPod| {
        let [refused] = desired.refused.as_slice() else {
            return false;
        };
        let message = &refused.problems[0].message;
        message.contains("settings.yaml already")
            && message.contains("settings.yaml.bak")
            && has(pod, "two")
    };
    folder.sees("the copy is refused", told).await;
    fs::remove_file(folder.path("settings.yaml")).unwrap();
    let passed =
        |desired: &Desired, pod: &StaticPod| desired.refused.is_empty() && has(pod, "copy");
    folder.sees("the copy counts now", passed).await;
}

#[tokio::test]
async fn a_secret_for_pulls_that_becomes_broken_stays_as_it_was() {
    let (login, old) = (login_of("hush"), old_login());
    let files = [
        ("pod.yaml", PULLS),
        ("login.yaml", &*login),
        ("old.yaml", &*old),
    ];
    let mut folder = Folder::new(&files);
    let complete = |_: &Desired, pod: &StaticPod| start_errors(pod).is_empty();
    folder.sees("complete", complete).await;
    let broken = login.replace("auths", "auths\"");
    let mut folder = folder.restart(|f| f.write("login.yaml", &broken)).await;
    let kept = |desired: &Desired, pod: &StaticPod| {
        let secrets = format!("{:?}", PullSecret::of_pod(pod, None));
        desired.refused.len() == 1 && secrets == "[Secret default/login, Secret default/old]"
    };
    folder
        .sees("the Secrets are kept over a restart", kept)
        .await;
}

/// A file is refused, and both paths stand in the message.
fn refuses(desired: &Desired, loser: &str, winner: &str) -> bool {
    desired.refused.iter().any(|refused| {
        let message = &refused.problems[0].message;
        let by = refused
            .origin
            .file()
            .is_some_and(|path| path.ends_with(loser));
        by && message.contains(&format!("{winner} already")) && message.contains(loser)
    })
}

#[tokio::test]
async fn an_object_in_use_is_never_taken_over_by_a_newcomer() {
    let newcomer = SETTINGS.replace("two", "newcomer");
    let files = [
        ("pod.yaml", POD),
        ("login.yaml", LOGIN),
        ("settings.yaml", SETTINGS),
    ];
    let mut folder = Folder::new(&files);
    folder.sees("complete", |_, pod| has(pod, "two")).await;
    folder.write("a.yaml", &newcomer);
    let stays = |desired: &Desired, pod: &StaticPod| {
        refuses(desired, "a.yaml", "settings.yaml") && has(pod, "two")
    };
    folder.sees("the newcomer is refused", stays).await;
    let mut folder = folder.restart(|_| {}).await;
    folder.sees("so after a start", stays).await;
    // One that came while the agent was away, and what is in use became broken meanwhile.
    let mut folder = folder
        .restart(|folder| {
            folder.write("settings.yaml", "kind: ConfigMap\n");
            folder.write("b.yaml", &newcomer);
        })
        .await;
    let holds = |desired: &Desired, pod: &StaticPod| {
        refuses(desired, "a.yaml", "settings.yaml")
            && refuses(desired, "b.yaml", "settings.yaml")
            && has(pod, "two")
    };
    folder.sees("what was accepted stays in use", holds).await;
    // A file that is renamed takes its objects along.
    folder.write("settings.yaml", SETTINGS);
    folder
        .sees("mended", |desired, _| desired.refused.len() == 2)
        .await;
    fs::rename(folder.path("settings.yaml"), folder.path("z.yaml")).unwrap();
    let renamed = |desired: &Desired, pod: &StaticPod| {
        refuses(desired, "a.yaml", "z.yaml") && has(pod, "two")
    };
    folder.sees("renamed", renamed).await;
    fs::remove_file(folder.path("z.yaml")).unwrap();
    folder
        .sees("the newcomer counts now", |_, pod| has(pod, "newcomer"))
        .await;
}

#[tokio::test]
async fn objects_outlive_a_directory_that_is_away_at_the_start() {
    let files = [
        ("pod.yaml", POD),
        ("login.yaml", LOGIN),
        ("settings.yaml", SETTINGS),
    ];
    let mut folder = Folder::new(&files);
    folder.sees("complete", |_, pod| has(pod, "two")).await;
    let uid = |folder: &Folder| {
        let desired = folder.desired.borrow();
        let mut pods = desired.as_ref().unwrap().pods.values();
        pods.next().unwrap().pod.uid.clone()
    };
    let before = uid(&folder);
    let mut folder = folder
        .restart(|folder| {
            fs::rename(
                folder.root.path().join("manifests"),
                folder.root.path().join("away"),
            )
            .unwrap();
        })
        .await;
    let held =
        |desired: &Desired, pod: &StaticPod| desired.unreadable.len() == 1 && has(pod, "two");
    folder.sees("the Pod has what it had", held).await;
    assert_eq!(uid(&folder), before);
}

#[tokio::test]
async fn a_file_that_loses_its_pod_to_an_object_removes_it() {
    let mut folder = Folder::new(&[("a.yaml", POD), ("b.yaml", &stream(&[SETTINGS, LOGIN]))]);
    folder.sees("there", |_, pod| has(pod, "two")).await;
    folder.write("a.yaml", SETTINGS);
    let gone = folder
        .desired
        .wait_for(|d| d.as_ref().is_some_and(|d| d.pods.is_empty()));
    let gone = tokio::time::timeout(Duration::from_secs(20), gone).await;
    assert!(gone.is_ok());
}
