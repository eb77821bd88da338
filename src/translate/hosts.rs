//! The `/etc/hosts` of a Pod's containers, in the kubelet's form.

use std::fmt::Write;

use k8s_openapi::api::core::v1::HostAlias;

use super::NodeFacts;
use super::sandbox::{pod_domain, pod_hostname};
use crate::manifest::StaticPod;

/// Names that every machine has for itself.
const LOCAL: &str = "127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
fe00::0\tip6-mcastprefix
fe00::1\tip6-allnodes
fe00::2\tip6-allrouters
";

/// The file's text. `host` is the host's own file, which a Pod on the host's network sees; the Pod's
/// addresses stand in it under its host name.
#[must_use]
pub fn hosts_file(facts: &NodeFacts, pod: &StaticPod, ips: &[String], host: &str) -> String {
    let spec = &pod.spec;
    let mut text = String::new();
    if spec.host_network == Some(true) {
        text.push_str("# Kubernetes-managed hosts file (host network).\n");
        text.push_str(host);
    } else {
        text.push_str("# Kubernetes-managed hosts file.\n");
        text.push_str(LOCAL);
        let hostname = pod_hostname(pod);
        for ip in ips {
            // Writing to a String cannot fail.
            let _ = match pod_domain(facts, pod) {
                Some(domain) => writeln!(text, "{ip}\t{hostname}.{domain}\t{hostname}"),
                None => writeln!(text, "{ip}\t{hostname}"),
            };
        }
    }
    let aliases = spec.host_aliases.as_deref().unwrap_or_default();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
        for HostAlias { ip, hostnames } in aliases {
            let names = hostnames.as_deref().unwrap_or_default().join("\t");
            let _ = writeln!(text, "{ip}\t{names}");
        }
    }
    text
}
