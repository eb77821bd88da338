//! Tests of the configuration of credential providers.

use super::*;
use crate::config::Config;
use crate::config::tests::with_files;

const FLAGS: &str = "--image-credential-provider-config=@/c --image-credential-provider-bin-dir=@/bin --pod-manifest-path=/m";

fn config(providers: &str) -> String {
    format!(
        "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n{providers}"
    )
}

fn provider(name: &str) -> String {
    format!(
        "- name: {name}\n  matchImages: ['*.example']\n  defaultCacheDuration: 12h\n  apiVersion: credentialprovider.kubelet.k8s.io/v1\n"
    )
}

fn load_text(text: &str) -> anyhow::Result<Config> {
    with_files(&[("c", text)], FLAGS)
}

#[test]
fn a_file_or_a_directory_of_files_is_read() {
    let text = config(
        &(provider("one")
            + "  args: [get, '-v']\n  env: [{name: A, value: hush}]\n  tokenAttributes: null\n"),
    );
    let config = load_text(&text).unwrap();
    let [one] = config.credential_providers.as_slice() else {
        panic!("{:?}", config.credential_providers);
    };
    assert!(one.program.ends_with("bin/one"), "{one:?}");
    assert_eq!(one.match_images, ["*.example"]);
    assert_eq!(one.default_cache_duration, Duration::from_secs(12 * 3600));
    assert_eq!(one.args, ["get", "-v"]);
    assert_eq!(one.env, [("A".to_owned(), "hush".to_owned())]);
    let missing = config.warnings.concat();
    assert!(missing.contains("bin/one cannot be found"), "{missing}");
    assert!(!format!("{config:?}").contains("hush"));
    let old = text.replace("kubelet.config.k8s.io/v1", "kubelet.config.k8s.io/v1beta1");
    assert!(load_text(&old).is_ok());

    let several = with_files(
        &[
            ("c/b.yaml", &super::tests::config(&provider("two"))),
            ("c/a.json", &super::tests::config(&provider("one"))),
            ("c/c.conf", "not read"),
        ],
        FLAGS,
    );
    let names = several.unwrap().credential_providers;
    let names: Vec<_> = names
        .iter()
        .map(|provider| provider.name.as_str())
        .collect();
    assert_eq!(names, ["one", "two"]);
}

#[test]
fn programs_that_are_there_are_no_warning() {
    let files = [("c", config(&provider("sh")))];
    let files = files.each_ref().map(|(name, text)| (*name, text.as_str()));
    let flags = FLAGS.replace("@/bin", "/bin");
    assert_eq!(with_files(&files, &flags).unwrap().warnings, [""; 0]);
    let flags = FLAGS.replace("@/bin", "/etc");
    let text = config(&provider("passwd"));
    let warnings = with_files(&[("c", &text)], &flags).unwrap().warnings;
    assert!(
        warnings[0].contains("/etc/passwd is not executable"),
        "{warnings:?}"
    );
}

/// Asserts that each of these files is refused with an error that begins so.
fn assert_refused(cases: &[(String, &str)]) {
    for (text, expected) in cases {
        let error = load_text(text)
            .err()
            .unwrap_or_else(|| panic!("{text} was accepted"));
        let error = error.to_string();
        assert!(error.starts_with(expected), "{text}: {error}");
        assert!(!error.contains("hush"), "{error}");
    }
}

#[test]
fn a_document_of_another_kind_is_reported_with_its_place() {
    let good = config(&provider("one"));
    let with = |line: &str| good.clone() + line;
    assert_refused(&[
        (
            good.replace("/v1\nkind", "/v2\nkind"),
            "@/c:1:13: apiVersion: found \"kubelet.config.k8s.io/v2\", expected one of",
        ),
        (
            good.replace("CredentialProviderConfig", "Other"),
            "@/c:2:7: kind: found \"Other\", expected one of",
        ),
        (
            config("  []\n"),
            "@/c:4:3: providers: expected a list of one provider or more",
        ),
        (
            with("other: 1\n"),
            "@/c:8:1: other: unknown field, expected one of providers",
        ),
        (
            with("providers: []\n"),
            "@/c:8:1: providers: the field is given twice",
        ),
        (
            with(&provider("one")),
            "@/c:8:9: providers[1].name: found \"one\" twice",
        ),
        (
            "[]".to_owned(),
            "@/c:1:1: expected a CredentialProviderConfig",
        ),
        (
            String::new(),
            "@/c: found nothing in the file, expected a CredentialProviderConfig",
        ),
    ]);
}

#[test]
fn an_invalid_field_of_a_provider_is_reported_with_its_place() {
    let good = config(&provider("one"));
    let instead = |old: &str, new: &str| good.replace(old, new);
    assert_refused(&[
        (
            instead("name: one", "name: a/b"),
            "@/c:4:9: providers[0].name: expected the name of a program",
        ),
        (
            instead("name: one", "name: .."),
            "@/c:4:9: providers[0].name: expected the name of a program",
        ),
        (
            instead("['*.example']", "[]"),
            "@/c:5:16: providers[0].matchImages: expected one pattern",
        ),
        (
            instead("*.example", "a b"),
            "@/c:5:17: providers[0].matchImages[0]: found \"a b\", expected a host",
        ),
        (
            instead("*.example", "a:x/b"),
            "@/c:5:17: providers[0].matchImages[0]: found \"a:x/b\", expected a host",
        ),
        (
            instead("12h", "soon"),
            "@/c:6:25: providers[0].defaultCacheDuration: found \"soon\"",
        ),
        (
            instead("12h", "-1h"),
            "@/c:6:25: providers[0].defaultCacheDuration: found \"-1h\"",
        ),
        (
            instead("  defaultCacheDuration: 12h\n", ""),
            "@/c:4:3: providers[0].defaultCacheDuration: missing",
        ),
        (
            instead("provider.kubelet.k8s.io/v1", "provider.kubelet.k8s.io/v3"),
            "@/c:7:15: providers[0].apiVersion: found",
        ),
    ]);
    let with = |line: &str| good.clone() + line;
    assert_refused(&[
        (
            with("  arg: [a]\n"),
            "@/c:8:3: providers[0].arg: unknown field, expected one of name,",
        ),
        (
            with("  args: [1]\n"),
            "@/c:8:10: providers[0].args[0]: expected a text",
        ),
        (
            with("  env: [{name: A, value: [hush]}]\n"),
            "@/c:8:9: providers[0].env[0]: expected the texts name and value",
        ),
        (
            with("  env: [{name: A=B, value: hush}]\n"),
            "@/c:8:9: providers[0].env[0]: expected the texts name and value",
        ),
        (
            with("  env: hush\n"),
            "@/c:8:8: providers[0].env: expected a list of variables",
        ),
        (
            with("  tokenAttributes: {requireServiceAccount: false}\n"),
            "@/c:8:20: providers[0].tokenAttributes: static Pods have no service accounts",
        ),
    ]);
}

#[test]
fn both_settings_and_files_that_can_be_read_are_needed() {
    let good = config(&provider("one"));
    for (flags, expected) in [
        (
            FLAGS.replace("bin-dir=@/bin", "bin-dir="),
            "must be given beside it",
        ),
        (
            FLAGS.replace("@/c ", "@/none "),
            "--image-credential-provider-config: cannot read @/none",
        ),
    ] {
        let error = with_files(&[("c", &good)], &flags).err().unwrap();
        assert!(format!("{error:#}").contains(expected), "{error:#}");
    }
    let empty = with_files(&[("c/x.conf", "")], FLAGS).err().unwrap();
    let empty = empty.to_string();
    assert!(
        empty.contains("found no *.json, *.yaml or *.yml in @/c"),
        "{empty}"
    );
    let large = good.clone() + &"# \n".repeat(400_000);
    let large = load_text(&large).err().unwrap();
    assert!(
        format!("{large:#}").contains("is larger than 1048576 bytes"),
        "{large:#}"
    );
    let twice = with_files(&[("c/a.yaml", &good), ("c/b.yaml", &good)], FLAGS);
    let twice = twice.err().unwrap().to_string();
    let expected = "@/c/b.yaml:4:9: providers[0].name: found \"one\" twice";
    assert!(twice.starts_with(expected), "{twice}");
}
