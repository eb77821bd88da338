//! Tests of the credentials for registries.

use super::*;
use serde_json::json;

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
    let mut nothing = |what: String| panic!("{what}");
    let found = for_image(
        Path::new("f"),
        &entries,
        "reg.example/a/b/c:1",
        &mut nothing,
    );
    let users: Vec<_> = found.iter().map(|c| c.auth.username.as_str()).collect();
    assert_eq!(users, ["deep", "path", "host", "any"]);
}

#[test]
fn every_way_to_write_credentials_is_read() {
    let user = |username: &str, password: &str| AuthConfig {
        username: username.to_owned(),
        password: password.to_owned(),
        ..AuthConfig::default()
    };
    let identity = AuthConfig {
        identity_token: "t".to_owned(),
        ..AuthConfig::default()
    };
    let registry = AuthConfig {
        registry_token: "t".to_owned(),
        ..AuthConfig::default()
    };
    for (entry, expected) in [
        (json!({"username": "u", "password": "p"}), user("u", "p")),
        (json!({"auth": "dTpw", "email": "x"}), user("u", "p")),
        (json!({"auth": "dTpwOnA="}), user("u", "p:p")),
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
        (json!({}), AuthConfig::default()),
        (json!({"auth": null}), AuthConfig::default()),
    ] {
        assert_eq!(auth(&entry), Ok(expected), "{entry}");
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
        ("{\"credsStore\": \"secret\"}", "credsStore: programs"),
    ] {
        std::fs::write(&path, text).unwrap();
        let mut told = vec![];
        match read(&path, Layout::Config, &mut |what| told.push(what)) {
            Ok(Some(entries)) => {
                let found = for_image(&path, &entries, "r/a", &mut |what| told.push(what));
                assert_eq!(found, []);
            }
            Ok(None) => {}
            Err(message) => told.push(message),
        }
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
    let found = for_image(Path::new("/f"), &entries, "reg.example/a", &mut |_| {});
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
        problems: Mutex::default(),
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
        let mut found = all.for_image("reg.example/a");
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
