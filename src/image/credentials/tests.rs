//! Tests of the credentials for registries.

use super::*;
use crate::manifest::docker_config::Layout;
use serde_json::json;
use std::path::PathBuf;

#[test]
fn an_entry_covers_the_images_below_it() {
    for (entry, image, covered) in [
        ("reg.example", "reg.example/a", true),
        ("reg.example", "reg.example/a/b:1", true),
        ("reg.example", "reg.example/a@sha256:00", true),
        ("reg.example", "reg.example:5000/a", false),
        ("reg.example:5000", "reg.example:5000/a:1", true),
        ("reg.example:5000", "reg.example/a:5000", false),
        ("https://reg.example", "reg.example/a", true),
        ("http://reg.example/v2/", "reg.example/a", true),
        ("https://reg.example/v1/", "reg.example/a", true),
        ("https://reg.example/v2", "reg.example/a", true),
        ("reg.example/v2x", "reg.example/a", false),
        ("reg.example/team", "reg.example/team/a", true),
        ("reg.example/team", "reg.example/other/a", false),
        ("reg.example/team/", "reg.example/team/a", true),
        ("*.example", "reg.example/a", true),
        ("*.example", "a.reg.example/a", false),
        ("*.example", "example/a", false),
        ("*.*.example", "a.reg.example/a", true),
        ("reg.*", "reg.example/a", true),
        ("reg-*.example:80", "reg-7.example:80/a", true),
        ("reg-*.example", "reg.example/a", false),
        ("reg-?.example", "reg-7.example/a", true),
        ("reg-[1-3].example", "reg-2.example/a", true),
        ("reg-[1-3].example", "reg-4.example/a", false),
        ("reg-[^1-3].example", "reg-4.example/a", true),
        ("127.0.0.1:5000", "127.0.0.1:5000/a", true),
        ("localhost", "localhost/a", true),
        ("https://index.docker.io/v1/", "busybox", true),
        ("https://index.docker.io/v1/", "team/app:1", true),
        (
            "https://index.docker.io/v1/",
            "docker.io/library/busybox",
            true,
        ),
        ("[fd00::1]:5000", "[fd00::1]:5000/a:1", true),
        ("[fd00::1]", "[fd00::1]/a", true),
        ("[fd00::1]", "[fd00::1]:5000/a", false),
        ("MYREG", "MYREG/team/app:1", true),
        ("https://index.docker.io/v1/", "MYREG/team/app:1", false),
        ("docker.io", "busybox:1", true),
        ("docker.io/team", "team/app", true),
        ("docker.io/team", "busybox", false),
        ("docker.io/library", "docker.io/busybox", true),
        ("https://index.docker.io/v1/", "reg.example/busybox", false),
        ("", "busybox", false),
        ("[", "busybox", false),
        ("r*g*e*.example", "registry-one.example/a", true),
        ("*[a-c]*?.example", "xbyz.example/a", true),
        ("*[a-c]?.example", "xbyz.example/a", false),
        ("***.example", "reg.example/a", true),
        ("*a*b.example", "aabab.example/a", true),
        ("*a*b.example", "aabac.example/a", false),
    ] {
        let covers = Repository::of_entry(entry).covers(&Repository::of_image(image));
        assert_eq!(covers, covered, "{entry} {image}");
    }
}

#[test]
fn a_pattern_of_many_stars_takes_no_longer_than_another() {
    let stars = "a*".repeat(100);
    for (name, covered) in [("a".repeat(240), false), ("a".repeat(239) + "b", true)] {
        let pattern = Repository::of_entry(&format!("{stars}b"));
        let image = Repository::of_image(&format!("{name}:80/a"));
        let image = Repository {
            port: String::new(),
            ..image
        };
        assert_eq!(pattern.covers(&image), covered);
    }
    let long = Repository::of_entry(&"*".repeat(2000));
    assert!(!long.covers(&Repository::of_image("busybox")));
}

/// The credentials that entries have for an image, the most specific ones first.
fn for_image(place: &str, entries: &Map<String, Value>, image: &str) -> Vec<Credential> {
    let mut candidates = Candidates::default();
    assert_eq!(candidates.add(place, entries, image), [""; 0]);
    candidates.sorted()
}

fn auths(file: &str) -> Map<String, Value> {
    let value: Value = serde_json::from_str(file).unwrap();
    value.as_object().unwrap().clone()
}

#[test]
fn the_most_specific_entry_comes_first_and_all_are_given() {
    let entries = auths(
        r#"{
                "*.example": {"username": "any", "password": "p"},
                "reg.example": {"username": "host", "password": "p"},
                "reg.example/a/b": {"username": "deep", "password": "p"},
                "reg.example/a": {"username": "path", "password": "p"},
                "other.example": {"username": "other", "password": "p"},
                "reg.example/a/c": {}
            }"#,
    );
    let found = for_image("f", &entries, "reg.example/a/b/c:1");
    let users: Vec<_> = found.iter().map(|c| c.auth.username.as_str()).collect();
    assert_eq!(users, ["deep", "path", "host", "any"]);
}

#[test]
fn every_way_to_write_credentials_is_read() {
    let user = |username: &str, password: &str| Login {
        username: username.to_owned(),
        password: password.to_owned(),
        ..Login::default()
    };
    let identity = Login {
        identity_token: "t".to_owned(),
        ..Login::default()
    };
    let registry = Login {
        registry_token: "t".to_owned(),
        ..Login::default()
    };
    for (entry, expected) in [
        (json!({"username": "u", "password": "p"}), user("u", "p")),
        (json!({"auth": "dTpw", "email": "x"}), user("u", "p")),
        (json!({"auth": "dTpwOnA="}), user("u", "p:p")),
        (json!({"auth": "dTpw\nOnA=\r\n"}), user("u", "p:p")),
        (json!({"Username": "u", "Password": "p"}), user("u", "p")),
        (
            json!({"auth": "dTpw", "registrytoken": "t"}),
            Login {
                registry_token: "t".to_owned(),
                ..user("u", "p")
            },
        ),
        (json!({"auth": "dTpwOnA"}), user("u", "p:p")),
        (
            json!({"auth": "dTpw", "username": "x", "password": "y"}),
            user("u", "p"),
        ),
        (
            json!({"auth": "PHRva2VuPjo=", "identitytoken": "t"}),
            identity,
        ),
        (json!({"registrytoken": "t"}), registry),
        (json!({}), Login::default()),
        (json!({"auth": null}), Login::default()),
    ] {
        assert_eq!(read_login(&entry), Ok(expected.clone()), "{entry}");
        let auth = auth_of(expected.clone());
        let found = (
            auth.username,
            auth.password,
            auth.identity_token,
            auth.registry_token,
        );
        let Login {
            username,
            password,
            identity_token,
            registry_token,
        } = expected;
        assert_eq!(found, (username, password, identity_token, registry_token));
    }
}

#[test]
fn what_is_wrong_is_told_without_what_is_secret() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    for (text, expected) in [
        (
            "{\"auths\": {\"r\": {\"auth\": \"c2VjcmV0\"}}}",
            "auth: expected USER:PASSWORD",
        ),
        (
            "{\"auths\": {\"r\": {\"auth\": \"c2VjcmV0!\"}}}",
            "auth: expected USER:PASSWORD",
        ),
        (
            "{\"auths\": {\"r\": {\"password\": [\"secret\"]}}}",
            "password: expected a text",
        ),
        (
            "{\"auths\": {\"r\": \"secret\"}}",
            "the entry \"r\": expected an object",
        ),
        ("{\"auths\": \"secret\"}", "auths: expected an object"),
        ("[\"secret\"]", "is no JSON object"),
        (
            "{\"auths\": {\"r\": {\"password\": \"secret\"",
            "is not JSON: EOF while parsing",
        ),
        (
            "{\"auths\": {\"r\": {\"password\": secret}}}",
            "is not JSON: expected value at line 1",
        ),
        (
            "{\"credsStore\": [\"secret\"]}",
            "credsStore: expected the name of a credential helper",
        ),
        (
            "{\"credsStore\": \"../secret\"}",
            "credsStore: expected the name of a credential helper",
        ),
        (
            "{\"credHelpers\": {\"r\": \"/secret\"}}",
            "credHelpers[\"r\"]: expected the name of a credential helper",
        ),
        (
            "{\"credHelpers\": \"secret\"}",
            "credHelpers: expected an object",
        ),
    ] {
        std::fs::write(&path, text).unwrap();
        let file = CredentialFiles {
            files: vec![(path.clone(), Layout::Config)],
        };
        let found = file.for_image("r/a");
        assert_eq!((found.candidates.sorted(), found.helper), (vec![], None));
        let told = found.problems;
        let told = told.join("\n");
        assert!(told.contains(expected), "{text}: {told}");
        assert!(
            !told.contains("secret") && !told.contains("c2VjcmV0"),
            "{told}"
        );
    }
}

#[test]
fn nothing_secret_is_in_a_debug_form() {
    let entries = auths(r#"{"reg.example": {"username": "u", "password": "hush"}}"#);
    let found = for_image("/f", &entries, "reg.example/a");
    assert_eq!(found[0].auth.password, "hush");
    let shown = format!("{found:?} {:?}", found[0].auth);
    assert!(
        shown.contains("\"reg.example\" in /f") && !shown.contains("hush"),
        "{shown}"
    );
}

/// Files in a folder of the test's own, in this order.
fn files(folder: &Path, files: &[(&str, Layout)]) -> CredentialFiles {
    let place = |(name, layout): &(&str, Layout)| (folder.join(name), *layout);
    CredentialFiles {
        files: files.iter().map(place).collect(),
    }
}

#[test]
fn the_first_file_with_entries_counts_and_changes_are_seen() {
    let folder = tempfile::tempdir().unwrap();
    let all = [
        ("a/config.json", Layout::Config),
        ("b/config.json", Layout::Config),
        (".dockercfg", Layout::Cfg),
    ];
    let all = files(folder.path(), &all);
    let user = || {
        let mut found = all.for_image("reg.example/a").candidates.sorted();
        found.pop().map(|found| found.auth.username)
    };
    let entry = |user: &str| format!(r#""reg.example": {{"username": "{user}", "password": "p"}}"#);
    let put = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    assert_eq!(user(), None);
    put(".dockercfg", format!("{{{}}}", entry("cfg")));
    assert_eq!(user().as_deref(), Some("cfg"));
    put(
        "b/config.json",
        format!("{{\"auths\": {{{}}}}}", entry("b")),
    );
    assert_eq!(user().as_deref(), Some("b"));
    put("a/config.json", "{\"another\": \"program's\"}".to_owned());
    assert_eq!(user().as_deref(), Some("b"));
    put("a/config.json", "half wri".to_owned());
    assert_eq!(user().as_deref(), Some("b"));
    put("a/config.json", "{\"auths\": {}}".to_owned());
    assert_eq!(user(), None);
}

#[test]
fn files_are_looked_for_where_the_kubelet_looks() {
    let paths: Vec<PathBuf> = CredentialFiles::of_node(Path::new("/root-dir"))
        .paths()
        .map(Path::to_owned)
        .collect();
    let working = std::env::current_dir().unwrap();
    let home = std::env::home_dir().unwrap();
    let expected = [
        PathBuf::from("/root-dir/config.json"),
        working.join("config.json"),
        home.join(".docker/config.json"),
        PathBuf::from("/.docker/config.json"),
        PathBuf::from("/root-dir/.dockercfg"),
        working.join(".dockercfg"),
        home.join(".dockercfg"),
        PathBuf::from("/.dockercfg"),
    ];
    assert_eq!(paths, expected);
}

/// A Pod of a manifest, with the objects beside it.
fn pod(manifest: &str) -> Arc<crate::manifest::StaticPod> {
    let parsed = crate::manifest::parse_file(manifest.as_bytes(), "node1").unwrap();
    let objects = parsed.objects.into_iter();
    let objects = objects.map(|object| (object.key, object.content)).collect();
    crate::manifest::objects::attach(&parsed.pod.unwrap().pod, &objects)
}

#[tokio::test]
async fn credentials_of_the_pod_come_before_those_of_the_node() {
    let folder = tempfile::tempdir().unwrap();
    let entry = |user: &str| json!({"reg.example": {"username": user, "password": "hush"}});
    let config = json!({"auths": entry("node")}).to_string();
    std::fs::write(folder.path().join("config.json"), config).unwrap();
    let deep = json!({"reg.example/a": {"username": "deep", "password": "hush"}});
    let secret = |name: &str, kind: &str, key: &str, text: String| {
        json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name},
            "type": kind, "stringData": {key: text},
        })
    };
    let documents = [
        secret(
            "old",
            "kubernetes.io/dockercfg",
            ".dockercfg",
            entry("old").to_string(),
        ),
        secret(
            "new",
            "kubernetes.io/dockerconfigjson",
            ".dockerconfigjson",
            json!({"auths": deep}).to_string(),
        ),
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"},
            "spec": {
                "containers": [{"name": "c", "image": "reg.example/a/b"}],
                "imagePullSecrets": [{"name": "old"}, {"name": "new"}, {"name": "none"}],
            },
        }),
    ];
    let pod = pod(&documents
        .map(|document| document.to_string())
        .join("\n---\n"));
    let secrets = PullSecret::of_pod(&pod, None);
    let provider = CredentialProvider {
        name: "one".to_owned(),
        program: "sh".into(),
        match_images: vec!["*.example".to_owned()],
        api_version: "v".to_owned(),
        args: vec!["-c".to_owned(), "echo '{\"apiVersion\": \"v\", \"kind\": \"CredentialProviderResponse\", \"cacheKeyType\": \"Image\", \"auth\": {\"reg.example\": {\"username\": \"provider\", \"password\": \"hush\"}}}'".to_owned()],
        ..CredentialProvider::default()
    };
    let credentials = Credentials::of_node(folder.path(), vec![provider]);
    let mut found = vec![];
    for source in CredentialSource::ALL {
        let of_source = credentials.find(source, "reg.example/a/b", &secrets).await;
        assert_eq!(of_source.failures, [""; 0]);
        found.extend(of_source.credentials);
    }
    let shown = format!("{found:?}");
    let node = folder.path().join("config.json");
    let expected = format!(
        "[\"reg.example/a\" in Secret default/new, \"reg.example\" in Secret default/old, \
         \"reg.example\" in {}, \"reg.example\" in credential provider one]",
        node.display()
    );
    assert_eq!(shown, expected);
    let users: Vec<_> = found.iter().map(|c| c.auth.username.as_str()).collect();
    assert_eq!(users, ["deep", "old", "node", "provider"]);
    assert!(!format!("{secrets:?} {credentials:?} {pod:?}").contains("hush"));
    let places = credentials.places(&secrets);
    assert_eq!(places[..2], ["Secret default/old", "Secret default/new"]);
}
