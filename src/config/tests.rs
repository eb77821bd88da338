//! Loading of whole configurations, from flags and files.

mod numbers;

use std::path::Path;
use std::time::Duration;

use anyhow::anyhow;
use clap::Parser;

use super::*;
use crate::source::directory::DirectorySource;
use crate::source::url::UrlSource;

/// A command line that has the flags of `run`.
#[derive(Parser)]
pub(super) struct FlagsLine {
    #[command(flatten)]
    pub(super) flags: Flags,
}

pub(super) fn config(line: &str) -> anyhow::Result<Config> {
    let words = std::iter::once("podkeeper").chain(line.split_whitespace());
    Config::load(&FlagsLine::try_parse_from(words)?.flags)
}

/// The configuration of flags, and of fields of a file.
pub(super) fn with_fields(flags: &str, fields: &str) -> anyhow::Result<Config> {
    let head = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";
    let file = format!("{head}{fields}\n");
    let line = format!("--pod-manifest-path=/m --config=@/c {flags}");
    with_files(&[("c", &file)], &line)
}

/// The configuration of files by their names, and the flags `line`, in which `@` is their folder.
pub(super) fn with_files(files: &[(&str, &str)], line: &str) -> anyhow::Result<Config> {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let at = folder.path().display().to_string();
    let config = config(&line.replace('@', &at))
        .map_err(|error| anyhow!("{}", format!("{error:#}").replace(&at, "@")));
    config.map(|mut config| {
        for setting in &mut config.settings {
            setting.from = setting.from.replace(&at, "@");
            setting.value = setting.value.replace(&at, "@");
        }
        config
    })
}

pub(super) fn kubelet(fields: &str) -> String {
    format!("apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n{fields}")
}

/// A setting as `value from`.
pub(super) fn setting(config: &Config, name: &str) -> String {
    let found = config.settings.iter().find(|setting| setting.name == name);
    let found = found.unwrap_or_else(|| panic!("no setting {name}"));
    format!("{} {}", found.value, found.from)
}

fn directory(config: &Config) -> &DirectorySource {
    config.sources.directory.as_ref().unwrap()
}

pub(super) fn url(config: &Config) -> &UrlSource {
    config.sources.url.as_ref().unwrap()
}

#[test]
fn flags_are_accepted_in_both_forms_as_the_kubelet_spells_them() {
    for line in [
        "--pod-manifest-path=/m/ --file-check-frequency=1m30s --cluster-dns=10.254.0.10 \
             --cluster-domain=kube.local --hostname-override=My-Node1 --root-dir=/r \
             --container-runtime-endpoint=unix:///c.sock --manifest-url=http://h/p --v=4 \
             --http-check-frequency=5s --manifest-url-header=a:1,b:2 --manifest-url-header=a:3",
        "--pod-manifest-path /m/ --file-check-frequency 1m30s --cluster-dns 10.254.0.10 \
             --cluster-domain kube.local --hostname-override My-Node1 --root-dir /r \
             --container-runtime-endpoint unix:///c.sock --manifest-url http://h/p -v 4 \
             --http-check-frequency 5s --manifest-url-header a:1,b:2 --manifest-url-header a:3",
    ] {
        let config = config(line).unwrap();
        assert_eq!(directory(&config).path, PathBuf::from("/m"));
        assert_eq!(directory(&config).rescan, Duration::from_secs(90));
        assert_eq!(
            config.cluster_dns,
            ["10.254.0.10".parse::<IpAddr>().unwrap()]
        );
        assert_eq!(config.cluster_domain, "kube.local");
        assert_eq!(config.node_name, "my-node1");
        assert_eq!(config.paths.root, PathBuf::from("/r"));
        assert_eq!(config.endpoint.to_string(), "unix:///c.sock");
        assert_eq!(config.log_level, tracing::Level::DEBUG);
        let url = url(&config);
        assert_eq!(url.url.as_str(), "http://h/p");
        assert_eq!(url.period, Duration::from_secs(5));
        let headers = url.request.headers.iter();
        let headers = headers.map(|(name, value)| format!("{name}={}", value.to_str().unwrap()));
        assert_eq!(headers.collect::<Vec<_>>(), ["a=1", "b=2", "a=3"]);
        assert_eq!(config.warnings, [""; 0]);
    }
}

#[test]
fn the_command_line_of_the_promise_is_accepted_as_written() {
    let config = config(
        "--cluster-dns=10.254.0.10 --cluster-domain=kube.local \
             --pod-manifest-path=/etc/kubelet.d/ --manifest-url=http://h/pods.yaml",
    );
    let config = config.unwrap();
    assert_eq!(directory(&config).path, PathBuf::from("/etc/kubelet.d"));
    assert_eq!(url(&config).url.as_str(), "http://h/pods.yaml");
    assert_eq!(setting(&config, "http-check-frequency"), "20s default");
}

// Long since it lists its cases.
#[test]
fn an_invalid_flag_is_refused_with_its_name() {
    for (line, expected) in [
        (
            "",
            "there are no manifests to run: give --pod-manifest-path=DIRECTORY",
        ),
        (
            "--pod-manifest-path=/m --file-check-frequency=0s",
            "--file-check-frequency: found 0s",
        ),
        (
            "--pod-manifest-path=/m --file-check-frequency=fast",
            "--file-check-frequency",
        ),
        ("--pod-manifest-path=/m --cluster-dns=here", "--cluster-dns"),
        (
            "--pod-manifest-path=/m --hostname-override=a_b",
            "--hostname-override",
        ),
        (
            "--pod-manifest-path=/m --container-runtime-endpoint=x",
            "--container-runtime-endpoint",
        ),
        (
            "--pod-manifest-path=/m --runtime-concurrency=0",
            "--runtime-concurrency",
        ),
        (
            "--manifest-url=ftp://user:secret@h/x",
            "--manifest-url: found a URL that begins with \"ftp\"",
        ),
        ("--manifest-url=/pods.yaml", "--manifest-url: found a URL"),
        (
            "--manifest-url=http://h --manifest-url-header=secret",
            "expected NAME:VALUE",
        ),
        (
            "--manifest-url=http://h --manifest-url-header=a b:1",
            "--manifest-url-header",
        ),
        (
            "--pod-manifest-path=/m --manifest-url-ca-file=/c",
            "--manifest-url-ca-file: expected --manifest-url",
        ),
        (
            "--manifest-url=http://h --manifest-url-client-key-file=/k",
            "--manifest-url-client-cert-file",
        ),
        (
            "--pod-manifest-path=/m --container-log-max-size=big",
            "--container-log-max-size: found \"big\", expected a size such as 10Mi",
        ),
        (
            "--pod-manifest-path=/m --container-log-max-size=0",
            "--container-log-max-size: found \"0\", expected a size such as 10Mi",
        ),
        (
            "--pod-manifest-path=/m --container-log-max-files=1",
            "--container-log-max-files",
        ),
        (
            "--pod-manifest-path=/m --container-log-monitor-interval=0s",
            "--container-log-monitor-interval: found 0s",
        ),
        (
            "--pod-manifest-path=/m --image-gc-high-threshold=101",
            "--image-gc-high-threshold",
        ),
        (
            "--pod-manifest-path=/m --image-gc-high-threshold=80",
            "--image-gc-low-threshold: found 80, expected less than the high threshold, 80",
        ),
        (
            "--pod-manifest-path=/m --image-maximum-gc-age=2m",
            "--image-maximum-gc-age: found 120s, expected more than the minimum age, 120s",
        ),
        (
            "--pod-manifest-path=/m --bootstrap-kubeconfig=/b",
            "--bootstrap-kubeconfig: expected --kubeconfig",
        ),
        (
            "--pod-manifest-path=/m --kubeconfig=/k --register-with-taints=a=b:Sometimes",
            "--register-with-taints: found \"a=b:Sometimes\", expected KEY=VALUE:EFFECT",
        ),
        ("--config=/nowhere/c.yaml", "cannot read /nowhere/c.yaml"),
        (
            "--pod-manifest-path=/m --config-dir=/nowhere",
            "--config-dir: cannot read /nowhere",
        ),
    ] {
        let error = format!("{:#}", config(line).unwrap_err());
        assert!(error.contains(expected), "{line}: {error}");
        assert!(!error.contains("user:secret"), "{error}");
    }
}

/// As kubeadm 1.34 writes it, with a URL.
const KUBEADM: &str = "\
authentication:
  anonymous:
    enabled: false
authorization:
  mode: Webhook
cgroupDriver: systemd
clusterDNS:
- 10.96.0.10
clusterDomain: cluster.local
containerRuntimeEndpoint: \"\"
cpuManagerReconcilePeriod: 0s
fileCheckFrequency: 0s
httpCheckFrequency: 0s
imageMaximumGCAge: 0s
imageMinimumGCAge: 0s
logging:
  flushFrequency: 0
  verbosity: 0
resolvConf: /run/systemd/resolve/resolv.conf
rotateCertificates: true
staticPodPath: /etc/kubernetes/manifests
staticPodURL: https://h/pods.yaml
staticPodURLHeader:
  X-Node: [one, two]
";

#[test]
fn an_empty_resolver_configuration_is_none() {
    let default = with_fields("", "").unwrap();
    let default = default.resolv_conf.unwrap();
    assert_eq!(default, Path::new("/etc/resolv.conf"));
    let of_file = with_fields("", "resolvConf: \"\"").unwrap();
    assert_eq!(of_file.resolv_conf, None);
    assert_eq!(setting(&of_file, "resolv-conf"), " @/c");
    let of_flag = with_fields("--resolv-conf=", "resolvConf: /r").unwrap();
    assert_eq!(of_flag.resolv_conf, None);
}

// Long since it lists its cases.
#[test]
fn a_kubeadm_node_starts_as_it_is() {
    let config = with_files(
        &[("config.yaml", &kubelet(KUBEADM))],
        "--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf \
             --kubeconfig=/etc/kubernetes/kubelet.conf --config=@/config.yaml \
             --container-runtime-endpoint=unix:///run/containerd/containerd.sock --node-ip=10.0.0.7 \
             --pod-infra-container-image=registry.k8s.io/pause:3.10 --register-node=false \
             --hostname-override=node1",
    );
    let config = config.unwrap();
    for (name, expected) in [
        (
            "pod-manifest-path",
            "/etc/kubernetes/manifests @/config.yaml",
        ),
        ("manifest-url", "https://h/pods.yaml @/config.yaml"),
        (
            "manifest-url-header",
            "x-node: <hidden>, x-node: <hidden> @/config.yaml",
        ),
        ("file-check-frequency", "20s default"),
        ("http-check-frequency", "20s default"),
        ("cluster-dns", "10.96.0.10 @/config.yaml"),
        ("cluster-domain", "cluster.local @/config.yaml"),
        (
            "resolv-conf",
            "/run/systemd/resolve/resolv.conf @/config.yaml",
        ),
        ("cgroup-driver", "systemd @/config.yaml"),
        (
            "container-runtime-endpoint",
            "unix:///run/containerd/containerd.sock flag",
        ),
        ("log-level", "info default"),
        ("minimum-image-ttl-duration", "120s default"),
        ("image-maximum-gc-age", "0s default"),
    ] {
        assert_eq!(setting(&config, name), expected, "{name}");
    }
    assert_eq!(setting(&config, "node-ip"), "10.0.0.7 flag");
    assert_eq!(config.cgroup_driver, CgroupDriver::Systemd);
    assert_eq!(config.warnings.len(), 2, "{:#?}", config.warnings);
    assert_eq!(
        config.warnings[0],
        "flags of the kubelet without effect here: --pod-infra-container-image (the sandbox's image \
             is a setting of the runtime)"
    );
    assert_eq!(
        config.warnings[1],
        "fields of the KubeletConfiguration without effect here: cpuManagerReconcilePeriod, \
             logging.flushFrequency"
    );
    for (name, expected) in [
        ("kubeconfig", "/etc/kubernetes/kubelet.conf flag"),
        (
            "bootstrap-kubeconfig",
            "/etc/kubernetes/bootstrap-kubelet.conf flag",
        ),
        ("rotate-certificates", "true @/config.yaml"),
        ("register-node", "false flag"),
    ] {
        assert_eq!(setting(&config, name), expected, "{name}");
    }
}

#[test]
fn the_command_lines_of_kind_and_of_people_are_carried_out() {
    // As kind writes it, with kubeadm's before and what people add behind: the last one counts.
    let config = with_files(
        &[(
            "config.yaml",
            &kubelet("cgroupRoot: /other\nproviderID: other\n"),
        )],
        "--config=@/config.yaml --kubeconfig=/k --container-runtime-endpoint=unix:///run/containerd/containerd.sock \
             --node-ip= --node-labels= --pod-infra-container-image=registry.k8s.io/pause:3.10 --fail-swap-on=false \
             --provider-id=kind://docker/c/c-worker --runtime-cgroups=/system.slice/containerd.service \
             --cgroup-root=/kubelet --hostname-override=one --hostname-override=two --seccomp-default=T \
             --node-labels=a=b, --node-labels=c=d --oom-score-adj -999 --pod-manifest-path=/m \
             --feature-gates=A=true,B=false --cloud-provider= --tls-cert-file=",
    );
    let config = config.unwrap();
    assert_eq!(config.node.addresses, [] as [IpAddr; 0]);
    let labels = config.node.labels.iter().map(|(k, v)| format!("{k}={v}"));
    assert_eq!(labels.collect::<Vec<_>>(), ["a=b", "c=d"]);
    assert_eq!(config.node_name, "two");
    assert!(config.node.seccomp_default);
    assert_eq!(config.cgroup_root, CgroupRoot::parse("/kubelet").unwrap());
    let provider = config.api_server.unwrap().provider_id;
    assert_eq!(provider.as_deref(), Some("kind://docker/c/c-worker"));
    let [warning] = &config.warnings[..] else {
        panic!("{:#?}", config.warnings);
    };
    let without = warning.strip_prefix("flags of the kubelet without effect here: ");
    let flags = without.unwrap().split("), ");
    let flags = flags.filter_map(|text| text.split(" (").next());
    let expected = [
        "--cloud-provider",
        "--fail-swap-on",
        "--feature-gates",
        "--oom-score-adj",
        "--pod-infra-container-image",
        "--runtime-cgroups",
    ];
    assert_eq!(flags.collect::<Vec<_>>(), expected);
}

#[test]
fn intervals_of_the_nodes_status_are_the_kubelets() {
    for (flags, fields, expected) in [
        ("", "", [10, 300]),
        ("", "nodeStatusUpdateFrequency: 20s", [20, 20]),
        (
            "--node-status-update-frequency=1m",
            "nodeStatusUpdateFrequency: 20s",
            [60, 60],
        ),
        (
            "",
            "nodeStatusUpdateFrequency: 20s\nnodeStatusReportFrequency: 1m",
            [20, 60],
        ),
    ] {
        let api = with_fields(&format!("--kubeconfig=/k {flags}"), fields);
        let api = api.unwrap().api_server.unwrap();
        let found = [api.measure_interval, api.report_interval];
        assert_eq!(
            found.map(|time| time.as_secs()),
            expected,
            "{flags} {fields}"
        );
    }
}

#[test]
fn a_field_that_would_change_what_runs_is_refused_at_its_place() {
    for (field, expected) in [
        (
            "cgroupsPerQOS: false",
            "@/c:3:16: cgroupsPerQOS: found \"false\", expected \"true\": Pods always",
        ),
        (
            "imageServiceEndpoint: unix:///i",
            "@/c:3:23: imageServiceEndpoint: found \"unix:///i\", expected nothing: images are",
        ),
        (
            "podPidsLimit: some",
            "@/c:3:15: podPidsLimit: found \"some\", expected a number",
        ),
        (
            "cgroupRoot: /../a",
            "@/c:3:13: cgroupRoot: found \"..\" in \"/../a\"",
        ),
    ] {
        let error = with_fields("", field).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
    let most = with_fields("", "podPidsLimit: 100").unwrap().node.max_pids;
    assert_eq!(most, Some(100));
    assert_eq!(
        with_fields("--pod-max-pids=-1", "podPidsLimit: 100")
            .unwrap()
            .node
            .max_pids,
        None
    );
}
