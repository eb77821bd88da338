//! The rules of the Kubernetes API for Pods that can bite a static Pod, each with its field's path
//! (API reference; the words for names are those of Kubernetes, Object Names and IDs).

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, LifecycleHandler, Pod, PodDNSConfig, PodSpec, Toleration, Volume,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::document::Places;
use super::{Problem, path};

const PATH_PARENT: &str = "must not contain '..'";

/// Everything that is wrong with a Pod whose types are right and whose defaults are set.
pub(super) fn validate(pod: &Pod, node_name: &str, places: &Places) -> Vec<Problem> {
    let mut validator = Validator {
        places,
        problems: vec![],
    };
    validator.metadata(pod, node_name);
    if let Some(spec) = &pod.spec {
        validator.spec(spec, node_name);
    }
    validator.problems
}

struct Validator<'a> {
    places: &'a Places,
    problems: Vec<Problem>,
}

impl Validator<'_> {
    fn refuse(&mut self, field: impl AsRef<str>, message: impl Into<String>) {
        self.problems.push(self.places.problem(field, message));
    }

    /// One of a few words.
    fn one_of(&mut self, field: &str, found: Option<&str>, expected: &[&str]) {
        let found = found.unwrap_or_default();
        if !expected.contains(&found) {
            let message = format!("found {found:?}, expected one of {}", expected.join(", "));
            self.refuse(field, message);
        }
    }

    fn dns_label(&mut self, field: &str, name: &str) {
        if !is_dns_label(name) {
            let message = format!(
                "found {name:?}, expected at most 63 lower-case letters, digits and '-', with a letter or digit at both ends"
            );
            self.refuse(field, message);
        }
    }

    fn dns_subdomain(&mut self, field: &str, name: &str) {
        if !is_dns_subdomain(name) {
            let message = format!(
                "found {name:?}, expected at most 253 lower-case letters, digits, '-' and '.', with a letter or digit at both ends of each part"
            );
            self.refuse(field, message);
        }
    }

    fn metadata(&mut self, pod: &Pod, node_name: &str) {
        let metadata = &pod.metadata;
        match metadata.name.as_deref().filter(|n| !n.is_empty()) {
            None => self.refuse("metadata.name", "missing, expected the Pod's name"),
            Some(name) => {
                self.dns_subdomain("metadata.name", name);
                let full = name.len() + 1 + node_name.len();
                if is_dns_subdomain(name) && full > 253 {
                    let message = format!(
                        "is {full} characters long with the node's name {node_name:?}, expected at most 253"
                    );
                    self.refuse("metadata.name", message);
                }
            }
        }
        if let Some(namespace) = metadata.namespace.as_deref().filter(|n| !n.is_empty()) {
            self.dns_label("metadata.namespace", namespace);
        }
        if let Some(prefix) = metadata.generate_name.as_deref().filter(|n| !n.is_empty()) {
            self.dns_subdomain("metadata.generateName", prefix.trim_end_matches('-'));
        }
        for (key, value) in metadata.labels.iter().flatten() {
            self.qualified_key("metadata.labels", key);
            if !value.is_empty() && !is_qualified_part(value) {
                let message = format!(
                    "found {value:?}, expected at most 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends"
                );
                self.refuse(path::key("metadata.labels", key), message);
            }
        }
        for key in metadata.annotations.iter().flatten().map(|(key, _)| key) {
            self.qualified_key("metadata.annotations", key);
        }
    }

    fn qualified_key(&mut self, field: &str, key: &str) {
        let good = match key.split_once('/') {
            Some((prefix, name)) => {
                is_dns_subdomain(&prefix.to_lowercase()) && is_qualified_part(name)
            }
            None => is_qualified_part(key),
        };
        if !good {
            let message = format!(
                "found the key {key:?}, expected a name such as app or example.com/app, of at most 63 letters, digits, '-', '_' and '.'"
            );
            self.refuse(path::key(field, key), message);
        }
    }

    fn spec(&mut self, spec: &PodSpec, node_name: &str) {
        let policies = ["Always", "OnFailure", "Never"];
        self.one_of(
            "spec.restartPolicy",
            spec.restart_policy.as_deref(),
            &policies,
        );
        if let Some(grace) = spec.termination_grace_period_seconds.filter(|g| *g < 0) {
            let message = format!("found {grace}, expected 0 seconds or more");
            self.refuse("spec.terminationGracePeriodSeconds", message);
        }
        if let Some(name) = spec
            .node_name
            .as_deref()
            .filter(|n| !n.is_empty() && *n != node_name)
        {
            let message = format!("found {name:?}, expected this node, {node_name:?}, or nothing");
            self.refuse("spec.nodeName", message);
        }
        if let Some(hostname) = spec.hostname.as_deref().filter(|h| !h.is_empty()) {
            self.dns_label("spec.hostname", hostname);
        }
        if let Some(subdomain) = spec.subdomain.as_deref().filter(|s| !s.is_empty()) {
            self.dns_label("spec.subdomain", subdomain);
        }
        if spec.share_process_namespace == Some(true) && spec.host_pid == Some(true) {
            let message = "cannot be true together with hostPID";
            self.refuse("spec.shareProcessNamespace", message);
        }
        self.dns(spec);
        self.host_aliases(spec);
        for (i, toleration) in spec.tolerations.iter().flatten().enumerate() {
            self.toleration(&path::index("spec.tolerations", i), toleration);
        }
        self.volumes(spec);
        self.containers(spec);
    }

    fn dns(&mut self, spec: &PodSpec) {
        let policies = ["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
        self.one_of("spec.dnsPolicy", spec.dns_policy.as_deref(), &policies);
        let none = PodDNSConfig::default();
        let config = spec.dns_config.as_ref().unwrap_or(&none);
        let servers = config.nameservers.as_deref().unwrap_or_default();
        if spec.dns_policy.as_deref() == Some("None") {
            if spec.dns_config.is_none() {
                self.refuse(
                    "spec.dnsConfig",
                    "missing, expected name servers, since dnsPolicy is None",
                );
            } else if servers.is_empty() {
                let message = "missing, expected a name server, since dnsPolicy is None";
                self.refuse("spec.dnsConfig.nameservers", message);
            }
        }
        if servers.len() > 3 {
            let message = format!("found {} name servers, expected at most 3", servers.len());
            self.refuse("spec.dnsConfig.nameservers", message);
        }
        for (i, server) in servers.iter().enumerate() {
            self.ip(&path::index("spec.dnsConfig.nameservers", i), server);
        }
        let searches = config.searches.as_deref().unwrap_or_default();
        if searches.len() > 32 {
            let message = format!("found {} domains, expected at most 32", searches.len());
            self.refuse("spec.dnsConfig.searches", message);
        }
        for (i, domain) in searches.iter().enumerate().filter(|(_, d)| *d != ".") {
            let name = domain.strip_suffix('.').unwrap_or(domain).replace('_', "-");
            self.dns_subdomain(
                &path::index("spec.dnsConfig.searches", i),
                name.trim_matches('-'),
            );
        }
        for (i, option) in config.options.iter().flatten().enumerate() {
            if option.name.as_deref().is_none_or(str::is_empty) {
                let field = path::index("spec.dnsConfig.options", i);
                self.refuse(field, "missing name, expected an option such as ndots");
            }
        }
    }

    fn host_aliases(&mut self, spec: &PodSpec) {
        for (i, alias) in spec.host_aliases.iter().flatten().enumerate() {
            let field = path::index("spec.hostAliases", i);
            self.ip(&path::key(&field, "ip"), &alias.ip);
            for (j, name) in alias.hostnames.iter().flatten().enumerate() {
                self.dns_subdomain(&path::index(&path::key(&field, "hostnames"), j), name);
            }
        }
    }

    fn ip(&mut self, field: &str, text: &str) {
        if text.parse::<IpAddr>().is_err() {
            self.refuse(field, format!("found {text:?}, expected an IP address"));
        }
    }

    fn toleration(&mut self, field: &str, toleration: &Toleration) {
        let operator = toleration.operator.as_deref().unwrap_or_default();
        let key = toleration.key.as_deref().unwrap_or_default();
        let operator_field = path::key(field, "operator");
        self.one_of(&operator_field, Some(operator), &["", "Equal", "Exists"]);
        if key.is_empty() && ["", "Equal"].contains(&operator) {
            let message = format!("found {operator:?}, expected Exists, since there is no key");
            self.refuse(&operator_field, message);
        }
        let effect = toleration.effect.as_deref().unwrap_or_default();
        let effect_field = path::key(field, "effect");
        if toleration.toleration_seconds.is_some() && effect != "NoExecute" {
            let message =
                format!("found {effect:?}, expected NoExecute, since tolerationSeconds is set");
            self.refuse(&effect_field, message);
        }
        let effects = ["", "NoSchedule", "PreferNoSchedule", "NoExecute"];
        self.one_of(&effect_field, Some(effect), &effects);
        if operator == "Exists" && toleration.value.as_deref().is_some_and(|v| !v.is_empty()) {
            self.refuse(
                path::key(field, "value"),
                "must be empty, since the operator is Exists",
            );
        }
    }

    fn volumes(&mut self, spec: &PodSpec) {
        let mut names = BTreeSet::new();
        for (i, volume) in spec.volumes.iter().flatten().enumerate() {
            let field = path::index("spec.volumes", i);
            let name_field = path::key(&field, "name");
            self.dns_label(&name_field, &volume.name);
            if !names.insert(&volume.name) {
                self.refuse(
                    name_field,
                    format!("found {:?} twice, expected each name once", volume.name),
                );
            }
            self.volume_source(&field, volume);
        }
    }

    fn volume_source(&mut self, field: &str, volume: &Volume) {
        let host = volume.host_path.as_ref();
        if host.is_some() && volume.empty_dir.is_some() {
            let message = "found two kinds of volume, expected one";
            self.refuse(path::key(field, "hostPath"), message);
        } else if host.is_none() && volume.empty_dir.is_none() && has_no_source(volume) {
            self.refuse(
                field,
                "found no kind of volume, expected hostPath or emptyDir",
            );
        }
        let Some(host) = host else {
            return;
        };
        let path_field = path::key(&path::key(field, "hostPath"), "path");
        if host.path.is_empty() {
            self.refuse(path_field, "missing, expected a path on the host");
        } else if has_parent(&host.path) {
            self.refuse(path_field, format!("found {:?}, {PATH_PARENT}", host.path));
        } else if !host.path.starts_with('/') {
            self.refuse(
                path_field,
                format!("found {:?}, expected a path from the root, /…", host.path),
            );
        }
        let kinds = [
            "",
            "DirectoryOrCreate",
            "Directory",
            "FileOrCreate",
            "File",
            "Socket",
            "CharDevice",
            "BlockDevice",
        ];
        let type_field = path::key(&path::key(field, "hostPath"), "type");
        self.one_of(&type_field, host.type_.as_deref(), &kinds);
    }

    fn containers(&mut self, spec: &PodSpec) {
        if spec.containers.is_empty() {
            self.refuse(
                "spec.containers",
                "missing, expected at least one container",
            );
        }
        let mut names = BTreeSet::new();
        let mut host_ports = BTreeSet::new();
        let lists = [
            (
                "spec.initContainers",
                spec.init_containers.as_deref().unwrap_or_default(),
            ),
            ("spec.containers", &spec.containers),
        ];
        for (list, containers) in lists {
            for (i, container) in containers.iter().enumerate() {
                let field = path::index(list, i);
                let name_field = path::key(&field, "name");
                self.dns_label(&name_field, &container.name);
                if !names.insert(&container.name) {
                    let message =
                        format!("found {:?} twice, expected each name once", container.name);
                    self.refuse(name_field, message);
                }
                self.container(&field, container, spec);
                self.host_ports(&field, container, &mut host_ports);
            }
        }
    }

    fn container(&mut self, field: &str, container: &Container, spec: &PodSpec) {
        let of = |name: &str| path::key(field, name);
        let image = container.image.as_deref().unwrap_or_default();
        if image.is_empty() {
            self.refuse(of("image"), "missing, expected the image's name");
        } else if image.trim() != image {
            self.refuse(
                of("image"),
                format!("found {image:?}, expected no blanks around the name"),
            );
        }
        let policies = ["Always", "IfNotPresent", "Never"];
        self.one_of(
            &of("imagePullPolicy"),
            container.image_pull_policy.as_deref(),
            &policies,
        );
        let policies = ["File", "FallbackToLogsOnError"];
        let policy = container.termination_message_policy.as_deref();
        self.one_of(&of("terminationMessagePolicy"), policy, &policies);
        for (i, variable) in container.env.iter().flatten().enumerate() {
            let name = &variable.name;
            let good = |c: char| c.is_ascii_graphic() && c != '=' || c == ' ';
            let field = path::key(&path::index(&of("env"), i), "name");
            if name.is_empty() {
                self.refuse(field, "missing, expected the variable's name");
            } else if !name.chars().all(good) {
                self.refuse(
                    field,
                    format!("found {name:?}, expected printable ASCII without '='"),
                );
            }
        }
        self.ports(
            &of("ports"),
            container.ports.as_deref().unwrap_or_default(),
            spec,
        );
        self.mounts(&of("volumeMounts"), container, spec);
        let hook = container
            .lifecycle
            .as_ref()
            .and_then(|l| l.pre_stop.as_ref());
        if let Some(hook) = hook {
            let grace = spec.termination_grace_period_seconds.unwrap_or(30);
            self.hook(&path::key(&of("lifecycle"), "preStop"), hook, grace);
        }
    }

    fn ports(&mut self, list: &str, ports: &[ContainerPort], spec: &PodSpec) {
        let mut names = BTreeSet::new();
        for (i, port) in ports.iter().enumerate() {
            let field = path::index(list, i);
            let of = |name: &str| path::key(&field, name);
            if let Some(name) = port.name.as_deref().filter(|n| !n.is_empty()) {
                if let Err(message) = port_name(name) {
                    self.refuse(of("name"), message);
                } else if !names.insert(name) {
                    self.refuse(
                        of("name"),
                        format!("found {name:?} twice, expected each name once"),
                    );
                }
            }
            match port.container_port {
                0 => self.refuse(of("containerPort"), "missing, expected 1 to 65535"),
                number => self.port_number(&of("containerPort"), number),
            }
            let host_port = port.host_port.unwrap_or(0);
            if host_port != 0 {
                self.port_number(&of("hostPort"), host_port);
                if spec.host_network == Some(true) && host_port != port.container_port {
                    let message = format!(
                        "found {host_port}, expected the containerPort {}, since hostNetwork is true",
                        port.container_port
                    );
                    self.refuse(of("hostPort"), message);
                }
            }
            self.one_of(
                &of("protocol"),
                port.protocol.as_deref(),
                &["TCP", "UDP", "SCTP"],
            );
        }
    }

    fn port_number(&mut self, field: &str, number: i32) {
        if !(1..=65535).contains(&number) {
            self.refuse(field, format!("found {number}, expected 1 to 65535"));
        }
    }

    fn host_ports(
        &mut self,
        field: &str,
        container: &Container,
        taken: &mut BTreeSet<(i32, String, String)>,
    ) {
        for (i, port) in container.ports.iter().flatten().enumerate() {
            let host_port = port.host_port.unwrap_or(0);
            let protocol = port.protocol.clone().unwrap_or_default();
            let address = port.host_ip.clone().unwrap_or_default();
            if host_port != 0 && !taken.insert((host_port, protocol, address)) {
                let field = path::key(&path::index(&path::key(field, "ports"), i), "hostPort");
                self.refuse(
                    field,
                    format!("found {host_port} twice, expected each host port once"),
                );
            }
        }
    }

    fn mounts(&mut self, list: &str, container: &Container, spec: &PodSpec) {
        let volumes: BTreeSet<&String> = spec.volumes.iter().flatten().map(|v| &v.name).collect();
        let mut paths = BTreeSet::new();
        for (i, mount) in container.volume_mounts.iter().flatten().enumerate() {
            let field = path::index(list, i);
            let name_field = path::key(&field, "name");
            if mount.name.is_empty() {
                self.refuse(name_field, "missing, expected the name of a volume");
            } else if !volumes.contains(&mount.name) {
                let message = format!(
                    "found {:?}, expected the name of one of spec.volumes",
                    mount.name
                );
                self.refuse(name_field, message);
            }
            let path_field = path::key(&field, "mountPath");
            if mount.mount_path.is_empty() {
                self.refuse(path_field, "missing, expected a path in the container");
            } else if !paths.insert(&mount.mount_path) {
                let message = format!(
                    "found {:?} twice, expected each path once",
                    mount.mount_path
                );
                self.refuse(path_field, message);
            }
        }
    }

    fn hook(&mut self, field: &str, hook: &LifecycleHandler, grace_period: i64) {
        let given = [
            ("exec", hook.exec.is_some()),
            ("httpGet", hook.http_get.is_some()),
            ("tcpSocket", hook.tcp_socket.is_some()),
            ("sleep", hook.sleep.is_some()),
        ];
        let given: Vec<&str> = given
            .iter()
            .filter(|(_, given)| *given)
            .map(|(name, _)| *name)
            .collect();
        match given.as_slice() {
            [] => self.refuse(field, "found no handler, expected exec, httpGet or sleep"),
            [_] => {}
            [_, second, ..] => {
                self.refuse(
                    path::key(field, second),
                    "found a second handler, expected one",
                );
            }
        }
        if let Some(exec) = &hook.exec
            && exec.command.as_ref().is_none_or(Vec::is_empty)
        {
            let field = path::key(&path::key(field, "exec"), "command");
            self.refuse(field, "missing, expected a command");
        }
        if let Some(sleep) = &hook.sleep
            && !(0..=grace_period).contains(&sleep.seconds)
        {
            let message = format!(
                "found {}, expected 0 to {grace_period} seconds, the Pod's grace period",
                sleep.seconds
            );
            self.refuse(path::key(field, "sleep"), message);
        }
        if let Some(http) = &hook.http_get {
            let of = |name: &str| path::key(&path::key(field, "httpGet"), name);
            match &http.port {
                IntOrString::Int(number) => self.port_number(&of("port"), *number),
                IntOrString::String(name) => {
                    if let Err(message) = port_name(name) {
                        self.refuse(of("port"), message);
                    }
                }
            }
            if http.scheme.as_deref() == Some("HTTPS") {
                self.refuse(
                    of("scheme"),
                    "this version of podkeeper does not support HTTPS here",
                );
            } else {
                self.one_of(&of("scheme"), http.scheme.as_deref(), &["HTTP", "HTTPS"]);
            }
        }
    }
}

/// Whether the volume is of no kind at all. One of a kind that is not carried out is refused as such.
fn has_no_source(volume: &Volume) -> bool {
    let bare = Volume {
        name: volume.name.clone(),
        ..Volume::default()
    };
    *volume == bare
}

fn has_parent(path: &str) -> bool {
    path.split('/').any(|part| part == "..")
}

fn port_name(name: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let good = name.len() <= 15
        && name.chars().all(plain)
        && name.chars().any(|c| c.is_ascii_lowercase())
        && !name.contains("--")
        && !name.starts_with('-')
        && !name.ends_with('-');
    if good {
        return Ok(());
    }
    Err(format!(
        "found {name:?}, expected at most 15 lower-case letters, digits and single '-', with at least one letter"
    ))
}

fn is_dns_label(name: &str) -> bool {
    name.len() <= 63 && is_dns_part(name)
}

/// Whether this is an RFC 1123 subdomain in lower case, as Pods and nodes are named.
pub(crate) fn is_dns_subdomain(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(is_dns_part)
}

fn is_dns_part(part: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !part.is_empty() && part.chars().all(plain) && !part.starts_with('-') && !part.ends_with('-')
}

fn is_qualified_part(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let end = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    (1..=63).contains(&name.len())
        && name.chars().all(plain)
        && end(name.chars().next())
        && end(name.chars().last())
}
