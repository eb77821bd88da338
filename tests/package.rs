//! The Debian package: what `hack/package` puts into it. What a machine does with it is in tests/machine/package.rs.

#[path = "support/program.rs"]
mod program;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use program::PROGRAM;

const CONFIG: &str = include_str!("../hack/debian/config.yaml");
const UNIT: &str = include_str!("../hack/podkeeper.service");

/// Output of a command that has to succeed.
fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// The settings that a configuration file makes, by name. It must not cause a warning.
fn settings(config: &str) -> BTreeMap<String, String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.yaml");
    fs::write(&file, config).unwrap();
    let mut command = Command::new(PROGRAM);
    let output = command.args(["config", "--output=json", "--config"]);
    let output = output.arg(&file).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let settings: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let pairs = settings
        .iter()
        .map(|s| (text(&s["name"]), text(&s["value"])));
    pairs.collect()
}

#[test]
fn each_commented_field_of_the_packages_configuration_is_valid_and_the_default() {
    // Explanations have a space behind the #, fields have not, and what is in a field has two.
    let field = |line: &str| {
        let text = line.strip_prefix('#')?;
        let is_field = text.starts_with(char::is_alphabetic) || text.starts_with("  ");
        is_field.then(|| text.to_owned())
    };
    assert!(CONFIG.lines().filter_map(field).count() > 20);
    let uncommented: Vec<_> = CONFIG
        .lines()
        .map(|line| field(line).unwrap_or(line.to_owned()))
        .collect();
    let (before, after) = (settings(CONFIG), settings(&uncommented.join("\n")));
    assert_eq!(before["pod-manifest-path"], "/etc/podkeeper/manifests");
    let changed: Vec<_> = after
        .iter()
        .filter(|(name, value)| before[*name] != **value)
        .map(|(name, _)| name)
        .collect();
    // The file says of these that they have no default.
    assert_eq!(changed, ["cluster-dns", "cluster-domain", "manifest-url"]);
}

#[test]
#[ignore = "needs lintian: run hack/test"]
fn the_package_has_what_a_debian_machine_needs_and_no_errors_for_lintian() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/hack/package");
    // It fails where lintian finds an error.
    let said = run(script, &["--program", PROGRAM, &at("dist")]);
    let package = said.lines().last().unwrap();
    run("dpkg-deb", &["--raw-extract", package, &at("root")]);
    let root = folder.path().join("root");
    check_control(package, &root);
    check_files(&root);
    check_unit(&fs::read_to_string(root.join("usr/lib/systemd/system/podkeeper.service")).unwrap());
    for script in ["postinst", "prerm", "postrm"] {
        run("sh", &["-n", &at(&format!("root/DEBIAN/{script}"))]);
    }
}

fn check_control(package: &str, root: &Path) {
    let field = |name: &str| {
        run("dpkg-deb", &["--field", package, name])
            .trim()
            .to_owned()
    };
    let version = env!("CARGO_PKG_VERSION").replacen('-', "~", 1) + "-1";
    assert_eq!(field("Version"), version);
    assert_eq!(
        field("Architecture"),
        run("dpkg", &["--print-architecture"]).trim()
    );
    assert_eq!(field("Depends"), "", "it needs no library of the machine");
    let recommends = "containerd | containerd.io, containernetworking-plugins | kubernetes-cni";
    assert_eq!(field("Recommends"), recommends);
    let conffiles = fs::read_to_string(root.join("DEBIAN/conffiles")).unwrap();
    assert_eq!(conffiles, "/etc/podkeeper/config.yaml\n");
}

fn check_files(root: &Path) {
    let documentation = "usr/share/doc/podkeeper";
    for (path, mode) in [
        ("usr/bin/podkeeper", 0o755),
        ("etc/podkeeper/config.yaml", 0o644),
        ("etc/podkeeper/manifests", 0o700),
        ("usr/share/man/man1/podkeeper.1.gz", 0o644),
        ("usr/share/man/man1/podkeeper-run.1.gz", 0o644),
        ("usr/share/bash-completion/completions/podkeeper", 0o644),
        ("usr/share/zsh/vendor-completions/_podkeeper", 0o644),
        ("usr/share/fish/vendor_completions.d/podkeeper.fish", 0o644),
        (&format!("{documentation}/copyright"), 0o644),
        (&format!("{documentation}/NOTICES.gz"), 0o644),
        (&format!("{documentation}/changelog.gz"), 0o644),
        (&format!("{documentation}/changelog.Debian.gz"), 0o644),
    ] {
        let found = fs::metadata(root.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
        assert_eq!(found.permissions().mode() & 0o7777, mode, "{path}");
    }
    let config = fs::read_to_string(root.join("etc/podkeeper/config.yaml")).unwrap();
    assert_eq!(config, CONFIG);
    let manifests = fs::read_dir(root.join("etc/podkeeper/manifests")).unwrap();
    assert_eq!(manifests.count(), 0);
}

/// The unit is the one of an installation by hand, with the program's other place.
fn check_unit(unit: &str) {
    let lines = UNIT.lines().zip(unit.lines());
    let changed: Vec<_> = lines.filter(|(before, after)| before != after).collect();
    let command = "podkeeper run --config=/etc/podkeeper/config.yaml";
    let before = format!("ExecStart=/usr/local/bin/{command}");
    let after = format!("ExecStart=/usr/bin/{command}");
    assert_eq!(changed, [(before.as_str(), after.as_str())]);
    assert_eq!(unit.lines().count(), UNIT.lines().count());
}
