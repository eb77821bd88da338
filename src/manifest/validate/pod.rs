//! Fields of a Pod as a whole: its termination, its names, name servers and hosts.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{PodDNSConfig, PodSpec};

use super::{FieldPath, Validator, names, unexpected};

const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
/// All searched domains together, with blanks between them.
const MAX_SEARCH_TEXT: usize = 2048;
/// As long as the kernel takes a host name.
const MAX_HOSTNAME: usize = 64;

impl Validator<'_> {
    pub(super) fn spec(&mut self, spec: &PodSpec, node_name: &str) {
        let field = FieldPath::new("spec");
        let policies = ["Always", "OnFailure", "Never"];
        let policy = spec.restart_policy.as_deref();
        self.one_of(&field.key("restartPolicy"), policy, &policies);
        self.ends(&field, spec);
        self.hostname(&field, spec);
        self.host_namespaces(&field, spec);
        self.dns(&field, spec);
        self.host_aliases(&field, spec);
        self.others(&field, spec, node_name);
        for (field, secret) in field.items("imagePullSecrets", &spec.image_pull_secrets) {
            self.object_name(&field.key("name"), &secret.name);
        }
        self.scheduling(&field, spec);
        self.volumes(&field, spec);
        self.containers(&field, spec);
        self.pod_resources(&field, spec);
        self.pod_security(&field, spec);
    }

    fn ends(&mut self, field: &FieldPath, spec: &PodSpec) {
        if let Some(grace) = spec.termination_grace_period_seconds.filter(|g| *g < 0) {
            let field = field.key("terminationGracePeriodSeconds");
            self.warn(&field, format!("found {grace}, which counts as 0 seconds"));
        }
        if let Some(deadline) = spec.active_deadline_seconds {
            let field = field.key("activeDeadlineSeconds");
            self.within(&field, deadline, 1, i32::MAX.into());
        }
    }

    fn hostname(&mut self, field: &FieldPath, spec: &PodSpec) {
        let given = |text: &Option<String>| text.clone().filter(|t| !t.is_empty());
        if let Some(hostname) = given(&spec.hostname) {
            self.dns_label(&field.key("hostname"), &hostname);
        }
        if let Some(subdomain) = given(&spec.subdomain) {
            self.dns_label(&field.key("subdomain"), &subdomain);
        }
        let Some(name) = &spec.hostname_override else {
            return;
        };
        let field = field.key("hostnameOverride");
        self.dns_subdomain(&field, name);
        if name.len() > MAX_HOSTNAME {
            let expected = format!("at most {MAX_HOSTNAME} characters");
            self.refuse(&field, unexpected(name, &expected));
        }
        if spec.set_hostname_as_fqdn == Some(true) {
            self.refuse(&field, "cannot be set together with setHostnameAsFQDN");
        }
        if spec.host_network == Some(true) {
            self.refuse(&field, "cannot be set together with hostNetwork");
        }
    }

    fn host_namespaces(&mut self, field: &FieldPath, spec: &PodSpec) {
        if spec.share_process_namespace == Some(true) && spec.host_pid == Some(true) {
            let field = field.key("shareProcessNamespace");
            self.refuse(&field, "cannot be true together with hostPID");
        }
        if spec.host_users == Some(false) {
            for (name, of_host) in [
                ("hostNetwork", spec.host_network),
                ("hostPID", spec.host_pid),
                ("hostIPC", spec.host_ipc),
            ] {
                if of_host == Some(true) {
                    let message = "cannot be true where hostUsers is false: a user namespace has no rights over the host's";
                    self.refuse(&field.key(name), message);
                }
            }
        }
    }

    fn dns(&mut self, field: &FieldPath, spec: &PodSpec) {
        let policies = ["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
        self.one_of(
            &field.key("dnsPolicy"),
            spec.dns_policy.as_deref(),
            &policies,
        );
        let field = field.key("dnsConfig");
        let none = PodDNSConfig::default();
        let config = spec.dns_config.as_ref().unwrap_or(&none);
        let servers = config.nameservers.as_deref().unwrap_or_default();
        if spec.dns_policy.as_deref() == Some("None") && servers.is_empty() {
            let message = "missing, expected a name server, since dnsPolicy is None";
            match spec.dns_config {
                None => self.refuse(&field, message),
                Some(_) => self.refuse(&field.key("nameservers"), message),
            }
        }
        if servers.len() > MAX_NAMESERVERS {
            let message = format!(
                "found {} name servers, expected at most {MAX_NAMESERVERS}",
                servers.len()
            );
            self.refuse(&field.key("nameservers"), message);
        }
        for (field, server) in field.items("nameservers", &config.nameservers) {
            self.ip(&field, server);
        }
        self.searches(&field, config);
        for (field, option) in field.items("options", &config.options) {
            if option.name.as_deref().is_none_or(str::is_empty) {
                self.refuse(&field, "missing name, expected an option such as ndots");
            }
        }
    }

    fn searches(&mut self, field: &FieldPath, config: &PodDNSConfig) {
        let searches = config.searches.as_deref().unwrap_or_default();
        let whole = field.key("searches");
        if searches.len() > MAX_SEARCHES {
            let found = searches.len();
            self.refuse(
                &whole,
                format!("found {found} domains, expected at most {MAX_SEARCHES}"),
            );
        }
        let length = searches.join(" ").len();
        if length > MAX_SEARCH_TEXT {
            let message = format!(
                "are {length} characters long together, expected at most {MAX_SEARCH_TEXT}"
            );
            self.refuse(&whole, message);
        }
        for (field, domain) in field.items("searches", &config.searches) {
            self.expect(names::is_search_domain(domain), &field, domain, "a domain");
        }
    }

    fn host_aliases(&mut self, field: &FieldPath, spec: &PodSpec) {
        for (field, alias) in field.items("hostAliases", &spec.host_aliases) {
            self.ip(&field.key("ip"), &alias.ip);
            for (field, name) in field.items("hostnames", &alias.hostnames) {
                self.dns_subdomain(&field, name);
            }
        }
    }

    fn ip(&mut self, field: &FieldPath, text: &str) {
        self.expect(text.parse::<IpAddr>().is_ok(), field, text, "an IP address");
    }

    fn others(&mut self, field: &FieldPath, spec: &PodSpec, node_name: &str) {
        let given = |text: &Option<String>| text.clone().filter(|t| !t.is_empty());
        if let Some(name) = given(&spec.node_name).filter(|name| name != node_name) {
            let message = format!("found {name:?}, but it runs on this node, {node_name:?}");
            self.warn(&field.key("nodeName"), message);
        }
        for (name, value) in [
            ("priorityClassName", given(&spec.priority_class_name)),
            ("runtimeClassName", spec.runtime_class_name.clone()),
        ] {
            if let Some(value) = value {
                self.dns_subdomain(&field.key(name), &value);
            }
        }
        if let Some(os) = &spec.os {
            self.one_of(
                &field.key("os").key("name"),
                Some(&os.name),
                &["linux", "windows"],
            );
        }
        for (field, gate) in field.items("readinessGates", &spec.readiness_gates) {
            self.qualified_name(&field.key("conditionType"), &gate.condition_type);
        }
    }
}
