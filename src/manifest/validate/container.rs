//! Containers: their names, images, ports and restarts, and what init containers and sidecars may have.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, ContainerPort, ContainerRestartRule, PodSpec};

use super::super::hints;
use super::super::requests::is_sidecar;
use super::{FieldPath, Validator, names, unexpected};

const MAX_PORT: i64 = 65535;
const MAX_RULES: usize = 20;
const MAX_EXIT_CODES: usize = 255;

/// Protocol, address and number of a port of the host.
type HostPortKey = (String, String, i32);

impl Validator<'_> {
    pub(super) fn containers(&mut self, field: &FieldPath, spec: &PodSpec) {
        if spec.containers.is_empty() {
            let message = "missing, expected at least one container";
            self.refuse(&field.key("containers"), message);
        }
        let mut names = BTreeSet::new();
        let mut host_ports = BTreeSet::new();
        for (field, container) in field.items("containers", [&spec.containers]) {
            self.container_name(&field, &container.name, &mut names);
            self.container(&field, container, spec);
            self.runs_long(&field, container, spec);
            self.host_ports(&field, container, &mut host_ports);
            if spec.host_network == Some(true) {
                self.ports_of_host(&field, container);
            }
        }
        for (field, container) in field.items("initContainers", &spec.init_containers) {
            self.container_name(&field, &container.name, &mut names);
            self.container(&field, container, spec);
            if is_sidecar(container) {
                self.runs_long(&field, container, spec);
            } else {
                self.runs_to_completion(&field, container);
            }
            // The API validates each alone, at sidecars too.
            self.host_ports(&field, container, &mut BTreeSet::new());
        }
    }

    fn container_name<'a>(
        &mut self,
        field: &FieldPath,
        name: &'a String,
        names: &mut BTreeSet<&'a String>,
    ) {
        let field = field.key("name");
        if !self.required(&field, name, "the container's name") {
            return;
        }
        self.dns_label(&field, name);
        if !names.insert(name) {
            self.twice(&field, name, "name");
        }
    }

    fn container(&mut self, field: &FieldPath, container: &Container, spec: &PodSpec) {
        let image = container.image.as_deref().unwrap_or_default();
        let image_field = field.key("image");
        if self.required(&image_field, image, "the image's name") {
            let good = image.trim() == image;
            self.expect(good, &image_field, image, "no blanks around the name");
            if !hints::of_template(image).is_empty() {
                self.warn(&image_field, unexpected(image, "the image's name"));
            }
        }
        let working_dir = container.working_dir.as_deref().unwrap_or_default();
        self.path_fits(&field.key("workingDir"), working_dir);
        let policies = ["Always", "IfNotPresent", "Never"];
        let policy = container.image_pull_policy.as_deref();
        self.one_of(&field.key("imagePullPolicy"), policy, &policies);
        let policies = ["File", "FallbackToLogsOnError"];
        let policy = container.termination_message_policy.as_deref();
        self.one_of(&field.key("terminationMessagePolicy"), policy, &policies);
        let message_path = container.termination_message_path.as_deref();
        self.no_parent(
            &field.key("terminationMessagePath"),
            message_path.unwrap_or_default(),
        );
        self.ports(field, container);
        self.environment(field, container, spec);
        self.mounts(field, container, spec);
        self.restarts(field, container);
        self.resizes(field, container, spec);
        self.container_resources(field, container);
        self.container_security(field, container, spec);
    }

    /// Checks the fields of a container that runs as long as the Pod does.
    fn runs_long(&mut self, field: &FieldPath, container: &Container, spec: &PodSpec) {
        if let Some(lifecycle) = &container.lifecycle {
            self.lifecycle(&field.key("lifecycle"), lifecycle, container, spec);
        }
        self.probes(field, container);
    }

    fn runs_to_completion(&mut self, field: &FieldPath, container: &Container) {
        for (name, given) in [
            ("lifecycle", container.lifecycle.is_some()),
            ("livenessProbe", container.liveness_probe.is_some()),
            ("readinessProbe", container.readiness_probe.is_some()),
            ("startupProbe", container.startup_probe.is_some()),
        ] {
            if given {
                let message = "cannot be set for an init container, except where its restartPolicy is Always (a sidecar)";
                self.refuse(&field.key(name), message);
            }
        }
        for (field, policy) in field.items("resizePolicy", &container.resize_policy) {
            if policy.restart_policy == "RestartContainer" {
                let message = "cannot be RestartContainer for an init container, except where its restartPolicy is Always (a sidecar)";
                self.refuse(&field.key("restartPolicy"), message);
            }
        }
    }

    fn ports(&mut self, field: &FieldPath, container: &Container) {
        let mut names = BTreeSet::new();
        for (field, port) in field.items("ports", &container.ports) {
            if let Some(name) = port.name.as_deref().filter(|n| !n.is_empty()) {
                let field = field.key("name");
                self.expect(names::is_port_name(name), &field, name, names::PORT_NAME);
                if !names.insert(name) {
                    self.twice(&field, name, "name");
                }
            }
            match port.container_port {
                0 => self.refuse(&field.key("containerPort"), "missing, expected 1 to 65535"),
                number => self.port_number(&field.key("containerPort"), number),
            }
            if let Some(number) = port
                .host_port
                .filter(|p| *p != 0 && *p != port.container_port)
            {
                self.port_number(&field.key("hostPort"), number);
            }
            let protocols = ["TCP", "UDP", "SCTP"];
            self.one_of(&field.key("protocol"), port.protocol.as_deref(), &protocols);
            self.host_address(&field.key("hostIP"), port);
        }
    }

    /// The API takes any text here, and the Pod then never starts.
    fn host_address(&mut self, field: &FieldPath, port: &ContainerPort) {
        let address = port.host_ip.as_deref().filter(|ip| !ip.is_empty());
        let wrong = address.filter(|ip| ip.parse::<std::net::IpAddr>().is_err());
        if let Some(address) = wrong {
            self.warn(field, unexpected(address, "an IP address of the node"));
        }
    }

    pub(super) fn port_number(&mut self, field: &FieldPath, number: i32) {
        self.within(field, number.into(), 1, MAX_PORT);
    }

    fn ports_of_host(&mut self, field: &FieldPath, container: &Container) {
        for (field, port) in field.items("ports", &container.ports) {
            let of_host = port.host_port.unwrap_or_default();
            if of_host != port.container_port {
                let message = format!(
                    "found {of_host}, expected the containerPort {}, since hostNetwork is true",
                    port.container_port
                );
                self.refuse(&field.key("hostPort"), message);
            }
        }
    }

    fn host_ports(
        &mut self,
        field: &FieldPath,
        container: &Container,
        taken: &mut BTreeSet<HostPortKey>,
    ) {
        for (field, port) in field.items("ports", &container.ports) {
            let number = port.host_port.unwrap_or_default();
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            let claim = (text(&port.protocol), text(&port.host_ip), number);
            if number != 0 && !taken.insert(claim) {
                self.twice(&field.key("hostPort"), &number.to_string(), "host port");
            }
        }
    }

    fn restarts(&mut self, field: &FieldPath, container: &Container) {
        let policy = container.restart_policy.as_deref();
        let policies = ["Always", "OnFailure", "Never"];
        self.one_of_if_set(&field.key("restartPolicy"), policy, &policies);
        let rules = container
            .restart_policy_rules
            .as_deref()
            .unwrap_or_default();
        if !rules.is_empty() && policy.is_none() {
            let message = "missing, expected a policy for what no rule is about";
            self.refuse(&field.key("restartPolicy"), message);
        }
        let list = field.key("restartPolicyRules");
        if rules.len() > MAX_RULES {
            let found = rules.len();
            self.refuse(
                &list,
                format!("found {found} rules, expected at most {MAX_RULES}"),
            );
        }
        for (i, rule) in rules.iter().enumerate() {
            self.restart_rule(&list.index(i), rule);
        }
    }

    fn resizes(&mut self, field: &FieldPath, container: &Container, spec: &PodSpec) {
        let never = spec.restart_policy.as_deref() == Some("Never");
        let mut names = BTreeSet::new();
        for (field, policy) in field.items("resizePolicy", &container.resize_policy) {
            let name = policy.resource_name.as_str();
            self.one_of(&field.key("resourceName"), Some(name), &["cpu", "memory"]);
            let restart = policy.restart_policy.as_str();
            let policies = ["NotRequired", "RestartContainer"];
            let restart_field = field.key("restartPolicy");
            if never && restart == "RestartContainer" {
                let expected = "NotRequired, since the Pod's restartPolicy is Never";
                self.refuse(&restart_field, unexpected(restart, expected));
            } else {
                self.one_of(&restart_field, Some(restart), &policies);
            }
            if !names.insert(name) {
                self.twice(&field, name, "resource");
            }
        }
    }

    fn restart_rule(&mut self, field: &FieldPath, rule: &ContainerRestartRule) {
        let actions = ["Restart", "RestartAllContainers"];
        self.one_of(&field.key("action"), Some(&rule.action), &actions);
        let field = field.key("exitCodes");
        let Some(codes) = &rule.exit_codes else {
            self.refuse(
                &field,
                "missing, expected the exit codes that the rule is about",
            );
            return;
        };
        self.one_of(
            &field.key("operator"),
            Some(&codes.operator),
            &["In", "NotIn"],
        );
        let values = codes.values.as_deref().unwrap_or_default();
        let field = field.key("values");
        if values.len() > MAX_EXIT_CODES {
            let found = values.len();
            let message = format!("found {found} exit codes, expected at most {MAX_EXIT_CODES}");
            self.refuse(&field, message);
        }
    }
}
