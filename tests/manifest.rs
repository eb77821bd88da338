//! Manifests are read, defaulted, identified and refused as the reference agent does it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use podkeeper::manifest::{Accepted, PodEntry, Problem, SourceKind, Uid, parse, parse_all};
use proptest::prelude::*;
use serde_json::Value;

const NODE: &str = "my-node1";

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn read(text: &str) -> Result<Accepted, Vec<Problem>> {
    parse(text.as_bytes(), NODE, SourceKind::File)
}

fn good(text: &str) -> Accepted {
    read(text).unwrap_or_else(|problems| panic!("{text}\nwas refused: {problems:#?}"))
}

fn refused(text: &str) -> Vec<String> {
    let problems = read(text).expect_err(text);
    problems.iter().map(ToString::to_string).collect()
}

fn files(folder: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(golden(folder)).unwrap();
    let mut files: Vec<_> = entries.map(|e| e.unwrap().path()).collect();
    files.sort();
    files
}

const MINIMAL: &str = "\
apiVersion: v1
kind: Pod
metadata:
  name: web
spec:
  containers:
  - name: c
    image: busybox:1
";

fn with(line: &str, text: &str) -> String {
    assert!(MINIMAL.contains(line), "{line}");
    MINIMAL.replace(line, text)
}

#[test]
fn pods_are_accepted_defaulted_and_identified_as_by_the_reference_agent() {
    let files = files("manifests");
    assert_eq!(files.len(), 36);
    for file in files {
        let accepted = good(&std::fs::read_to_string(&file).unwrap());
        let pod = accepted.pod;
        let mut reference = json(&golden(&format!(
            "pods/{}_{}.json",
            pod.key.namespace, pod.key.name
        )));
        let uid = &pod.uid;
        let ours = serde_json::to_string(&pod.to_pod())
            .unwrap()
            .replace(uid.as_str(), "$UID");
        let digest = ours.split("@sha256:").nth(1);
        let digest = digest.and_then(|d| d.split('"').next()).map(str::to_owned);
        let ours = digest.map_or(ours.clone(), |digest| ours.replace(&digest, "$ID"));
        let ours: Value = serde_json::from_str(&ours).unwrap();
        // When it was first seen is no matter of the manifest.
        let annotations = reference["metadata"]["annotations"].as_object_mut();
        annotations.unwrap().remove("kubernetes.io/config.seen");
        let file = file.display();
        assert_eq!(ours["metadata"], reference["metadata"], "{file}");
        assert_eq!(ours["spec"], reference["spec"], "{file}");
    }
}

/// Where we name another field than the reference, on purpose.
const OTHER_FIELD: [(&str, &str, &str); 3] = [
    (
        "v067.yaml",
        "spec.volumes[0].downwardAPI.items[0].path",
        "the reference leaves out the list that the field is in",
    ),
    (
        "v096.yaml",
        "spec.shareProcessNamespace",
        "the reference names a place where the field is not",
    ),
    (
        "v155.yaml",
        "spec.containers[0].volumeDevices",
        "the volume cannot be a device, whatever else is mounted",
    ),
];

#[test]
fn verdicts_are_those_of_the_reference_agent_and_name_the_same_field() {
    let verdicts = json(&golden("refused/verdicts.json"));
    let verdicts: BTreeMap<String, Value> = serde_json::from_value(verdicts).unwrap();
    assert!(verdicts.len() >= 99);
    let mut wrong = vec![];
    for (name, verdict) in &verdicts {
        let text = std::fs::read_to_string(golden("refused/manifests").join(name)).unwrap();
        let change = text.lines().next().unwrap_or_default().to_owned();
        let result = read(&text);
        if verdict["verdict"] == "accepted" {
            if let Err(problems) = result {
                wrong.push(format!("{name} {change}: accepted: {problems:?}"));
            }
            continue;
        }
        let other = OTHER_FIELD.iter().find(|(n, ..)| n == name);
        let field = other
            .map(|(_, field, _)| *field)
            .or(verdict["fields"][0].as_str());
        let problems = result.err().unwrap_or_default();
        let same = |p: &Problem| field.is_none_or(|f| same_field(&p.field, f));
        if !problems.iter().any(same) {
            wrong.push(format!("{name} {change}: {field:?}: {problems:?}"));
        }
        if let Some(silent) = problems.iter().find(|p| p.line == 0) {
            wrong.push(format!("{name} {change}: no place: {silent:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Whether our path names what the reference's does: that field, one inside it, or the one right around
/// it. The reference's paths sometimes lack an index.
fn same_field(ours: &str, reference: &str) -> bool {
    let plain = |path: &str| {
        let mut depth = 0;
        let keep = |c: &char| {
            depth += i32::from(*c == '[');
            let keep = depth == 0;
            depth -= i32::from(*c == ']');
            keep
        };
        path.chars().filter(keep).collect::<String>()
    };
    let (ours, reference) = (plain(ours), plain(reference));
    let (ours, reference): (Vec<_>, Vec<_>) =
        (ours.split('.').collect(), reference.split('.').collect());
    let around = ours.iter().zip(&reference).all(|(a, b)| a == b);
    around && ours != [""] && ours.len() + 1 >= reference.len()
}

#[test]
fn a_path_names_the_same_field_only_near_to_it() {
    for (ours, reference, same) in [
        ("spec.containers[0].image", "spec.containers[0].image", true),
        ("spec.containers[0].image", "spec.containers", true),
        ("spec.a.limits.cpu", "spec.a.limits[cpu]", true),
        ("spec.a[0]", "spec.a.b", true),
        ("spec", "spec.a.b", false),
        ("spec.a", "spec.a.b.c", false),
        ("", "spec", false),
        ("", "", false),
        ("spec.ab", "spec.a", false),
        ("spec.hostPID", "spec.hostIPC", false),
    ] {
        assert_eq!(same_field(ours, reference), same, "{ours} {reference}");
    }
}

#[test]
fn a_problem_points_at_its_line_and_column() {
    for (text, expected) in [
        (
            with("image: busybox:1", "image: 1"),
            "8:12: spec.containers[0].image: found the number 1, expected a string: put it in quotes, \"1\"",
        ),
        (
            with("  name: web", "  name: Web"),
            "4:9: metadata.name: found \"Web\", expected",
        ),
        (
            with("kind: Pod", "kind: Job"),
            "2:7: kind: found \"Job\", expected \"Pod\"",
        ),
        (
            with("kind: Pod\n", ""),
            "1:1: kind: missing, expected \"Pod\"",
        ),
        (
            MINIMAL.to_owned() + "    env: []\n    args: x\n",
            "10:11: spec.containers[0].args: found the string \"x\", expected a list",
        ),
        (MINIMAL.to_owned() + "   bad", "not YAML: "),
        (
            MINIMAL.to_owned() + "    image: b\n",
            "9:5: spec.containers[0].image: the field is given twice",
        ),
        (
            MINIMAL.to_owned() + "    volumeDevices: [{name: d}]\n",
            "9:5: spec.containers[0].volumeDevices: only volumes of claims and drivers can be devices",
        ),
        (
            MINIMAL.to_owned() + "  serviceAccountName: x\n",
            "9:3: spec.serviceAccountName: a static Pod cannot use objects of an API server",
        ),
        (
            format!("{MINIMAL}---\n{MINIMAL}"),
            "found more than one document, expected one Pod in a file",
        ),
        (
            "# nothing\n".to_owned(),
            "found nothing in the file, expected a Pod",
        ),
        ("- a\n".to_owned(), "found a list, expected a Pod"),
        (String::new(), "found nothing in the file, expected a Pod"),
        (
            "{\"kind\": \"Pod\",\n \"apiVersion\" 1}".to_owned(),
            "2:15: not JSON: expected `:`",
        ),
    ] {
        let problems = refused(&text);
        assert!(
            problems.iter().any(|p| p.contains(expected)),
            "{text}\n{expected}\n{problems:#?}"
        );
    }
}

#[test]
fn all_problems_are_told_at_once() {
    let text = with("  name: web", "  name: Web").replace("name: c", "name: C_")
        + "    env: [{name: A, value: 98765432109876543210987}]\n  restartPolicy: always\n";
    assert_eq!(refused(&text).len(), 4);
}

#[test]
fn what_is_no_text_is_refused_with_its_place() {
    let problems = parse(b"kind: Pod\nx: \xff\xfe", NODE, SourceKind::File).unwrap_err();
    assert_eq!((problems[0].line, problems[0].column), (2, 4));
    let problems = parse(b"\0\x01\x02ELF", NODE, SourceKind::File).unwrap_err();
    assert!(problems[0].message.contains("no text"), "{problems:?}");
}

#[test]
fn bombs_are_refused_without_being_carried_out() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for i in 1..20 {
        let refs = vec![format!("*a{}", i - 1); 9].join(", ");
        writeln!(bomb, "a{i}: &a{i} [{refs}]").unwrap();
    }
    assert!(refused(&bomb)[0].contains("values"), "a billion laughs");
    for (kind, deep) in [
        ("YAML", "[".repeat(100_000)),
        ("YAML with dashes", "- ".repeat(100_000)),
        ("YAML that is too deep only for a Pod", "[".repeat(400)),
        ("JSON", "{\"a\":".repeat(100_000)),
    ] {
        let problems = refused(&deep);
        assert!(problems[0].contains("100 deep"), "{kind}: {problems:?}");
    }
}

#[test]
fn plain_scalars_are_read_as_the_kubelet_reads_them() {
    let env = |value: &str| format!("{MINIMAL}    env:\n    - name: A\n      value: {value}\n");
    assert!(refused(&env("yes"))[0].contains("put it in quotes, \"yes\""));
    assert!(refused(&env("0644"))[0].contains("put it in quotes, \"0644\""));
    assert!(refused(&env("off"))[0].contains("put it in quotes, \"off\""));
    // The rules of go-yaml, with which the kubelet reads manifests.
    for number in [
        "08", "-010", "1_000", "1_0", "+1", "0x1f", "0o17", "0b11", "1e3", "0_8", "1_0.5", "1_",
        "0x_1f", "0b1_1", "0o1_7", "0X1f", "0O17", ".5", "5.", "-1_0", "09.5", "1_e3",
    ] {
        let problems = refused(&env(number));
        assert!(problems[0].contains("found the number"), "{problems:?}");
    }
    for value in [
        "\"yes\"",
        "'0644'",
        "!!str yes",
        "yes please",
        "1_a",
        "_1",
        "1:30",
        "2001-01-01",
        "1.2.3",
        "0x",
        "1e",
        "'08'",
    ] {
        good(&env(value));
    }
    for (written, seconds) in [("08", 8), ("1_0", 10), ("0_10", 8)] {
        let pod = good(&format!(
            "{MINIMAL}  terminationGracePeriodSeconds: {written}\n"
        ));
        let spec = &pod.pod.spec;
        assert_eq!(
            spec.termination_grace_period_seconds,
            Some(seconds),
            "{written}"
        );
    }
    let octal = good(&(MINIMAL.to_owned() + "  terminationGracePeriodSeconds: 010\n"));
    let grace = octal.pod.spec.termination_grace_period_seconds;
    assert_eq!(grace, Some(8));
}

#[test]
fn an_unknown_field_is_a_warning_with_the_name_that_was_meant() {
    let accepted = good(&(MINIMAL.to_owned() + "    imagePullPolcy: Never\n"));
    let warning = accepted.warnings[0].to_string();
    assert_eq!(
        warning,
        "9:5: spec.containers[0].imagePullPolcy: unknown field, did you mean imagePullPolicy? It has no effect"
    );
}

#[test]
fn tabs_and_templates_are_named_with_their_place() {
    for (text, expected) in [
        (
            MINIMAL.replace("    image", "\timage"),
            "8:1: not YAML: found a tab",
        ),
        (
            MINIMAL.replace("  - name", "  -\tname"),
            "7:4: not YAML: found a tab",
        ),
        (
            format!("{{{{- if .Values.web }}}}\n{MINIMAL}{{{{- end }}}}\n"),
            "1:1: not YAML: found a template, \"{{- if .Values.web }}\"",
        ),
        (
            MINIMAL.replace("busybox:1", "{{ .Values.image }}"),
            "8:12: not YAML: found a template",
        ),
        (
            MINIMAL.replace("  containers:", "  ${OPTIONS}\n  containers:"),
            "6:3: not YAML: found a template",
        ),
        (
            MINIMAL.replace("name: web", "name: ${NAME}"),
            "metadata.name: found \"${NAME}\", expected",
        ),
        (
            MINIMAL.replace(
                "spec:\n",
                "spec:\n  restartPolicy: '{{ .Values.policy }}'\n",
            ),
            "it looks like a template that was not filled in",
        ),
    ] {
        let problems = refused(&text);
        assert!(problems[0].contains(expected), "{text}: {problems:#?}");
        assert_eq!(problems.len(), 1, "{text}: {problems:#?}");
    }
    // A command may have both.
    let script =
        "    command:\n    - sh\n    - -c\n    - |\n      echo {{ x }} ${HOME}\n      \tdone\n";
    assert_eq!(good(&(MINIMAL.to_owned() + script)).warnings, []);
    // What is wrong elsewhere is not theirs.
    let problems = refused(&(MINIMAL.to_owned() + script + "  dnsPolicy: [\n"));
    assert!(!problems[0].contains("template"), "{problems:#?}");
}

#[test]
fn what_an_api_server_added_has_no_effect() {
    let text = with(
        "  name: web",
        "  name: web\n  uid: abc\n  creationTimestamp: null\n  resourceVersion: \"7\"",
    ) + "status: {phase: Running}\n";
    let accepted = good(&text);
    let warned: Vec<_> = accepted.warnings.iter().map(|w| w.field.as_str()).collect();
    assert_eq!(
        warned,
        ["metadata.uid", "metadata.resourceVersion", "status"]
    );
    assert_ne!(accepted.pod.metadata.uid.as_deref(), Some("abc"));
}

#[test]
fn empty_values_of_fields_that_are_refused_say_nothing() {
    let empty = "    volumeDevices: []\n    securityContext:\n  ephemeralContainers: []\n  serviceAccountName: ''\n  imagePullSecrets:\n";
    let accepted = good(&(MINIMAL.to_owned() + empty));
    assert_eq!(accepted.warnings, []);
}

#[test]
fn the_pod_has_the_name_namespace_and_uid_of_a_static_pod() {
    let accepted = good(MINIMAL);
    let pod = &accepted.pod;
    assert_eq!(pod.key.to_string(), "default/web-my-node1");
    assert_eq!(pod.uid.len(), 32);
    assert!(
        pod.uid
            .chars()
            .all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c))
    );
    let other_node = parse(MINIMAL.as_bytes(), "n2", SourceKind::File)
        .unwrap()
        .pod;
    assert_ne!(other_node.uid, pod.uid);
    assert_ne!(good(&with("busybox:1", "busybox:2")).pod.uid, pod.uid);
    let named = good(&with(
        "  name: web",
        "  name: web\n  namespace: kube-system",
    ));
    assert_eq!(named.pod.key.to_string(), "kube-system/web-my-node1");
}

#[test]
fn a_static_pod_has_its_toleration_once() {
    let own = serde_json::json!({"operator": "Exists", "effect": "NoExecute"});
    let other = serde_json::json!({"key": "a", "operator": "Exists", "effect": "NoExecute"});
    for (written, expected) in [
        ("[]", vec![&own]),
        ("[{operator: Exists, effect: NoExecute}]", vec![&own]),
        (
            "[{operator: Exists, effect: NoExecute, tolerationSeconds: 5}, {key: a, operator: Exists, effect: NoExecute}]",
            vec![&own, &other],
        ),
        (
            "[{key: a, operator: Exists, effect: NoExecute}]",
            vec![&other, &own],
        ),
    ] {
        let accepted = good(&format!("{MINIMAL}  tolerations: {written}\n"));
        let spec = serde_json::to_value(&accepted.pod.spec).unwrap();
        assert_eq!(
            spec["tolerations"],
            serde_json::json!(expected),
            "{written}"
        );
    }
}

/// The UID of a Pod must never change, not even with the agent's version: this one was worked out by
/// hand, as the first 16 bytes of SHA-256 over the compact JSON with sorted keys, a zero byte, and the
/// node's name.
#[test]
fn the_uid_is_the_documented_hash() {
    assert_eq!(good(MINIMAL).pod.uid, UID_BY_HAND);
}

const UID_BY_HAND: &str = "bca3c50edff810078723fee2662a9fd1";

#[test]
fn layout_comments_key_order_and_json_make_no_other_pod() {
    let shuffled = "\
# a comment
kind: Pod
spec: {containers: [{image: 'busybox:1', name: \"c\"}]}
metadata:
      name: web   # another
apiVersion: v1
";
    let json = r#"{"spec": {"containers": [{"name": "c", "image": "busybox:1"}]}, "kind": "Pod",
        "metadata": {"name": "web"}, "apiVersion": "v1"}"#;
    let anchored = "\
apiVersion: v1
kind: Pod
metadata: {name: &n web}
spec: {containers: [{name: c, image: 'busybox:1'}]}
";
    for text in [shuffled, json, anchored] {
        assert_eq!(good(text).pod.uid, good(MINIMAL).pod.uid, "{text}");
    }
}

fn shuffle(value: &Value, seed: u64) -> String {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            let by = usize::try_from(seed).unwrap_or(0) % entries.len().max(1);
            entries.rotate_left(by);
            let entries = entries
                .iter()
                .map(|(k, v)| format!("{k:?}: {}", shuffle(v, seed / 3)));
            format!("{{{}}}", entries.collect::<Vec<_>>().join(",\n  "))
        }
        Value::Array(list) => {
            let items = list.iter().map(|v| shuffle(v, seed / 5));
            format!("[ {} ]", items.collect::<Vec<_>>().join(" , "))
        }
        scalar => scalar.to_string(),
    }
}

proptest! {
    #[test]
    fn the_order_of_fields_makes_no_other_pod(seed: u32, index in 0usize..30) {
        let files = files("manifests");
        let file = &files[index % files.len()];
        if let Ok(accepted) = parse(&std::fs::read(file).unwrap(), NODE, SourceKind::File) {
            let text = shuffle(&accepted.pod.document.to_value(), seed.into());
            prop_assert_eq!(&good(&text).pod.uid, &accepted.pod.uid);
            let yaml = serde_yaml::to_string(&accepted.pod.document.to_value()).unwrap();
            prop_assert_eq!(&good(&yaml).pod.uid, &accepted.pod.uid);
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&bytes, NODE, SourceKind::File);
    }

    #[test]
    fn no_damage_to_a_manifest_makes_it_panic(
        index in 0usize..36, at: prop::sample::Index, cut in 0usize..40, insert in "[\\[\\]{}&*!|>:,\"' \\n\\ta-z0-9-]{0,6}",
    ) {
        let files = files("manifests");
        let text = std::fs::read_to_string(&files[index % files.len()]).unwrap();
        let at = at.index(text.len());
        let end = (at + cut).min(text.len());
        if text.is_char_boundary(at) && text.is_char_boundary(end) {
            let damaged = format!("{}{insert}{}", &text[..at], &text[end..]);
            let _ = parse(damaged.as_bytes(), NODE, SourceKind::File);
        }
    }
}

/// The paths to every value of a document, outermost first.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, inner) in map {
                let at = format!("{at}/{}", key.replace('~', "~0").replace('/', "~1"));
                found.push(at.clone());
                places(inner, &at, found);
            }
        }
        Value::Array(list) => {
            for (i, inner) in list.iter().enumerate() {
                let at = format!("{at}/{i}");
                found.push(at.clone());
                places(inner, &at, found);
            }
        }
        _ => {}
    }
}

/// A manifest of the reference's, and one of its places.
fn manifest_and_place(index: usize, place: prop::sample::Index) -> (Value, String) {
    let files = files("manifests");
    let text = std::fs::read_to_string(&files[index % files.len()]).unwrap();
    let value: Value = serde_yaml::from_str(&text).unwrap();
    let mut found = vec![];
    places(&value, "", &mut found);
    let place = place.get(&found).clone();
    (value, place)
}

proptest! {
    #[test]
    fn no_other_value_at_any_place_makes_it_panic(
        index in 0usize..36, place: prop::sample::Index, other in 0usize..16,
    ) {
        let (mut manifest, place) = manifest_and_place(index, place);
        let others = serde_json::json!([
            null, true, 0, -1, 1.5, 1e300, 99_999_999_999_u64, "", "a", "../../x", "/", "$(A)", "\u{1f600}",
            [], {}, [null, {"a": [{}]}],
        ]);
        *manifest.pointer_mut(&place).unwrap() = others[other].clone();
        let result = parse(manifest.to_string().as_bytes(), NODE, SourceKind::File);
        for problem in result.err().unwrap_or_default() {
            prop_assert!(problem.line > 0, "no place: {}", problem);
        }
    }

    #[test]
    fn no_unknown_field_is_taken_in_silence(index in 0usize..36, place: prop::sample::Index) {
        let (mut manifest, place) = manifest_and_place(index, place);
        let free = ["/labels", "/annotations", "/requests", "/limits"];
        let object = manifest.pointer_mut(&place).and_then(Value::as_object_mut);
        if let Some(object) = object.filter(|_| !free.iter().any(|f| place.ends_with(f))) {
            object.insert("noSuchField".to_owned(), 1.into());
            let accepted = good(&manifest.to_string());
            let named = |w: &Problem| w.field.ends_with(".noSuchField");
            prop_assert!(accepted.warnings.iter().any(named), "{}: {:?}", place, accepted.warnings);
        }
    }
}

/// The Pods of a web document: what each entry is about, and what it gives.
fn entries(text: &str) -> Vec<(String, Result<Uid, Vec<String>>)> {
    let all = parse_all(text.as_bytes(), NODE, SourceKind::Http);
    let all = all.unwrap_or_else(|problems| panic!("{text}\n{problems:#?}"));
    let entry = |entry: PodEntry| {
        let key = entry.key.map_or("?".to_owned(), |key| key.to_string());
        let good = |accepted: Accepted| accepted.pod.uid.clone();
        let bad = |problems: Vec<Problem>| problems.iter().map(ToString::to_string).collect();
        (key, entry.result.map(good).map_err(bad))
    };
    all.pods.into_iter().map(entry).collect()
}

/// The manifest as an item of a list in YAML.
fn item(manifest: &str) -> String {
    let indented: Vec<_> = manifest.lines().map(|l| format!("  {l}\n")).collect();
    format!("-{}", &indented.concat()[1..])
}

#[test]
fn a_web_document_holds_its_pods_in_every_form() {
    let uid = good(MINIMAL).pod.uid.clone();
    let other = with("name: web", "name: two");
    let other_uid = good(&other).pod.uid.clone();
    let untyped = |text: &str| text.replace("apiVersion: v1\nkind: Pod\n", "");
    let list = |kind: &str, items: &[String]| {
        format!("apiVersion: v1\nkind: {kind}\nitems:\n{}", items.concat())
    };
    let pods: Value =
        serde_yaml::from_str(&list("PodList", &[item(MINIMAL), item(&other)])).unwrap();
    for text in [
        list("List", &[item(MINIMAL), item(&other)]),
        list("PodList", &[item(MINIMAL), item(&other)]),
        list(
            "PodList",
            &[item(&untyped(MINIMAL)), item(&untyped(&other))],
        ),
        pods.to_string(),
        format!("{MINIMAL}---\n{other}"),
        format!(
            "---\n# first\n{MINIMAL}---\n# nothing\n---\n{}",
            list("PodList", &[item(&other)])
        ),
    ] {
        let expected = [
            ("default/web-my-node1".to_owned(), Ok(uid.clone())),
            ("default/two-my-node1".to_owned(), Ok(other_uid.clone())),
        ];
        assert_eq!(entries(&text), expected, "{text}");
    }
    assert_eq!(entries(MINIMAL).len(), 1);
    for none in [
        "{apiVersion: v1, kind: PodList, items: []}",
        r#"{"kind":"List","apiVersion":"v1","items":[]}"#,
    ] {
        assert_eq!(entries(none), [], "{none}");
    }
}

#[test]
fn one_bad_pod_of_a_web_document_is_told_with_its_place_and_the_others_stand() {
    let bad = item(&with("image: busybox:1", "image: 1"));
    let bad = bad.replace("name: web", "name: bad");
    let text = format!("apiVersion: v1\nkind: List\nitems:\n{bad}{}", item(MINIMAL));
    let found = entries(&text);
    assert_eq!(found[0].0, "default/bad-my-node1");
    let problem = &found[0].1.as_ref().unwrap_err()[0];
    assert!(
        problem.starts_with("11:14: items[0].spec.containers[0].image: found the number 1"),
        "{problem}"
    );
    assert!(found[1].1.is_ok());

    for (item, key, expected) in [
        (
            "- {apiVersion: v1, kind: Pod, metadata: {name: x, name: x}}",
            "default/x-my-node1",
            "4:51: items[0].metadata.name: the field is given twice",
        ),
        (
            "- {apiVersion: v1, kind: Deployment, metadata: {name: x}}",
            "default/x-my-node1",
            "4:26: items[0].kind: found \"Deployment\", expected \"Pod\"",
        ),
        (
            "- {metadata: {name: x}, spec: {containers: []}}",
            "default/x-my-node1",
            "4:3: items[0].apiVersion: missing",
        ),
        (
            "- web",
            "?",
            "4:3: items[0]: found a string, expected a Pod",
        ),
        (
            "- {apiVersion: v1, kind: Pod, metadata: {name: 7}}",
            "?",
            "4:48: items[0].metadata.name: found the number 7",
        ),
    ] {
        let found = entries(&format!("apiVersion: v1\nkind: List\nitems:\n{item}\n"));
        assert_eq!(found[0].0, key, "{item}");
        let problems = found[0].1.as_ref().unwrap_err();
        assert!(
            problems.iter().any(|p| p.starts_with(expected)),
            "{item}: {problems:#?}"
        );
    }
    let second = format!("{MINIMAL}---\n{}", with("image: busybox:1", "image: 1"));
    let problem = &entries(&second)[1].1.clone().unwrap_err()[0];
    assert!(
        problem.starts_with("17:12: spec.containers[0].image: "),
        "{problem}"
    );
}

#[test]
fn a_web_document_that_does_not_say_what_is_wanted_is_refused_as_a_whole() {
    for (text, expected) in [
        ("", "found an empty document, expected Pods"),
        ("---\n# nothing\n---\n", "found an empty document"),
        (
            "{apiVersion: v1, kind: PodList}",
            "1:1: items: found no list",
        ),
        (
            "{apiVersion: v1, kind: PodList, items: null}",
            "items: found no list",
        ),
        (
            "{apiVersion: v1, kind: PodList, items: [], items: []}",
            "1:44: items: the field is given twice",
        ),
        (
            "{kind: List, items: []}",
            "apiVersion: missing, expected \"v1\"",
        ),
        (
            "{apiVersion: v2, kind: List, items: []}",
            "1:14: apiVersion: found \"v2\", expected \"v1\"",
        ),
        (
            "{apiVersion: v1, kind: PodList, item: [], items: []}",
            "1:33: item: unknown field",
        ),
        (
            "<html><body>502 Bad Gateway</body></html>",
            "found a string, expected a Pod",
        ),
        ("kind: [", "not YAML"),
    ] {
        let problems = match parse_all(text.as_bytes(), NODE, SourceKind::Http) {
            Err(problems) => problems,
            Ok(entries) => entries.pods.into_iter().next().unwrap().result.unwrap_err(),
        };
        let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
        assert!(
            problems.iter().any(|p| p.contains(expected)),
            "{text}: {problems:#?}"
        );
    }
}
