//! Content of a Pod's `/etc/resolv.conf`, by its DNS policy (Kubernetes, DNS for Services and Pods).

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{PodDNSConfig, PodSpec};

use super::NodeFacts;
use crate::cri::v1::DnsConfig;
use crate::manifest::StaticPod;

/// The resolver takes no more name servers than this.
const MAX_SERVERS: usize = 3;
/// The resolver takes no more search domains than this, none longer than this, and no longer a line.
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH: usize = 253;
const MAX_SEARCH_LINE: usize = 2048;

/// The host's resolver configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResolvConf {
    /// `nameserver` lines.
    pub servers: Vec<String>,
    /// The last `search` line.
    pub searches: Vec<String>,
    /// Options of all `options` lines together.
    pub options: Vec<String>,
    /// True if Pods get no configuration of the node: an empty `--resolv-conf`.
    is_none: bool,
}

impl ResolvConf {
    /// The configuration of a node that is to have none.
    #[must_use]
    pub fn none() -> Self {
        Self {
            is_none: true,
            ..Self::default()
        }
    }

    /// Reads the text of a resolv.conf(5); lines that are not understood are skipped, as the resolver
    /// does.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut conf = Self::default();
        for line in text.lines().filter(|l| !l.starts_with(['#', ';'])) {
            let mut words = line.split_whitespace().map(str::to_owned);
            match words.next().as_deref() {
                Some("nameserver") => conf.servers.extend(words.next()),
                // The root as a search domain means nothing to a runtime, and every other one is taken
                // from the root anyway.
                Some("search") => {
                    let named = words.filter(|w| w != ".");
                    let bare = |w: String| w.strip_suffix('.').map(str::to_owned).unwrap_or(w);
                    conf.searches = named.map(bare).collect();
                }
                Some("options") => words.for_each(|option| set_option(&mut conf.options, option)),
                _ => {}
            }
        }
        conf
    }
}

/// The DNS configuration that a Pod asks for, however much that is.
fn full_config(facts: &NodeFacts, host: &ResolvConf, namespace: &str, spec: &PodSpec) -> DnsConfig {
    let host_network = spec.host_network == Some(true);
    let mut config = match spec.dns_policy.as_deref() {
        Some("None") => DnsConfig::default(),
        Some("ClusterFirstWithHostNet") if !facts.cluster_dns.is_empty() => {
            cluster_first(facts, host, namespace)
        }
        Some("ClusterFirst") | None if !host_network && !facts.cluster_dns.is_empty() => {
            cluster_first(facts, host, namespace)
        }
        // Without a cluster's name server, ClusterFirst is the host's configuration.
        _ if host.is_none => without_resolver(facts),
        _ => DnsConfig {
            servers: host.servers.clone(),
            searches: host.searches.clone(),
            options: host.options.clone(),
        },
    };
    if let Some(own) = &spec.dns_config {
        merge(&mut config, own);
    }
    config
}

/// The DNS configuration of a Pod's sandbox, as far as the resolver takes it.
pub(super) fn dns_config(
    facts: &NodeFacts,
    host: &ResolvConf,
    namespace: &str,
    spec: &PodSpec,
) -> DnsConfig {
    let mut config = full_config(facts, host, namespace, spec);
    config.servers.truncate(MAX_SERVERS);
    fit_searches(&mut config.searches);
    config
}

/// Returns the parts of a Pod's DNS configuration that are left out or have no effect; the first two in the
/// kubelet's words, for events with its reason `DNSConfigForming`.
#[must_use]
pub fn dns_problems(facts: &NodeFacts, host: &ResolvConf, pod: &StaticPod) -> Vec<String> {
    let spec = &pod.spec;
    let namespace = &pod.key.namespace;
    let full = full_config(facts, host, namespace, spec);
    let fits = dns_config(facts, host, namespace, spec);
    let mut problems = vec![];
    if fits.servers != full.servers {
        problems.push(format!(
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver \
             line is: {}",
            fits.servers.join(" ")
        ));
    }
    if fits.searches != full.searches {
        problems.push(format!(
            "Search Line limits were exceeded, some search paths have been omitted, the applied search line \
             is: {}",
            fits.searches.join(" ")
        ));
    }
    // With an empty --resolv-conf names are not to be looked up.
    let resolves = spec.host_network != Some(true) && !host.is_none;
    let is_loopback = |server: &&String| {
        let address = server.split('%').next().unwrap_or_default();
        address
            .parse::<IpAddr>()
            .is_ok_and(|ip| ip.to_canonical().is_loopback())
    };
    if let Some(server) = fits.servers.iter().find(is_loopback).filter(|_| resolves) {
        problems.push(format!(
            "Nameserver {server} is a loopback address, where nothing of the node answers in a Pod with its \
             own network: name another resolver configuration by --resolv-conf (with systemd-resolved, \
             /run/systemd/resolve/resolv.conf)"
        ));
    }
    problems
}

/// Returns a configuration that keeps the runtime from using the host's: this machine's own name server, by
/// the family of the node's addresses, and no search domain (the kubelet's `GetPodDNS`).
fn without_resolver(facts: &NodeFacts) -> DnsConfig {
    let given = facts.identity.ips.given();
    let own = |ip: &String| if ip.contains(':') { "::1" } else { "127.0.0.1" };
    let mut servers: Vec<String> = given.iter().map(|ip| own(ip).to_owned()).collect();
    if servers.is_empty() {
        servers.push("127.0.0.1".to_owned());
    }
    DnsConfig {
        servers,
        searches: vec![".".to_owned()],
        options: vec![],
    }
}

/// Leaves out what the resolver does not take, from the end.
fn fit_searches(searches: &mut Vec<String>) {
    searches.truncate(MAX_SEARCHES);
    searches.retain(|search| search.len() <= MAX_SEARCH);
    while searches.join(" ").len() > MAX_SEARCH_LINE {
        searches.pop();
    }
}

fn cluster_first(facts: &NodeFacts, host: &ResolvConf, namespace: &str) -> DnsConfig {
    let mut searches = vec![];
    if !facts.cluster_domain.is_empty() {
        let domain = &facts.cluster_domain;
        searches = vec![
            format!("{namespace}.svc.{domain}"),
            format!("svc.{domain}"),
            domain.clone(),
        ];
    }
    add_new(&mut searches, &host.searches);
    DnsConfig {
        servers: facts.cluster_dns.clone(),
        searches,
        options: vec!["ndots:5".to_owned()],
    }
}

fn merge(config: &mut DnsConfig, own: &PodDNSConfig) {
    add_new(
        &mut config.servers,
        own.nameservers.as_deref().unwrap_or_default(),
    );
    add_new(
        &mut config.searches,
        own.searches.as_deref().unwrap_or_default(),
    );
    for option in own.options.iter().flatten() {
        let name = option.name.as_deref().unwrap_or_default();
        let value = option.value.as_deref().filter(|value| !value.is_empty());
        let text = match value {
            Some(value) => format!("{name}:{value}"),
            None => name.to_owned(),
        };
        set_option(&mut config.options, text);
    }
}

/// Of two options of one name the later counts.
fn set_option(options: &mut Vec<String>, option: String) {
    let name = |option: &str| option.split(':').next().map(str::to_owned);
    match options.iter_mut().find(|o| name(o) == name(&option)) {
        Some(known) => *known = option,
        None => options.push(option),
    }
}

fn add_new(list: &mut Vec<String>, more: &[String]) {
    for item in more {
        if !list.contains(item) {
            list.push(item.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::translate::Identity;
    use k8s_openapi::api::core::v1::PodDNSConfigOption;

    fn facts() -> NodeFacts {
        NodeFacts {
            cluster_dns: vec!["10.0.0.10".into()],
            cluster_domain: "c.local".into(),
            ..NodeFacts::default()
        }
    }

    fn host() -> ResolvConf {
        ResolvConf::parse("# made by hand\nnameserver 1.1.1.1\nsearch . lan\noptions rotate\n")
    }

    fn config(
        facts: &NodeFacts,
        policy: &str,
        host_network: bool,
        own: Option<PodDNSConfig>,
    ) -> DnsConfig {
        let spec = PodSpec {
            dns_policy: Some(policy.into()),
            host_network: Some(host_network),
            dns_config: own,
            ..PodSpec::default()
        };
        dns_config(facts, &host(), "ns", &spec)
    }

    #[test]
    fn cluster_first_asks_the_cluster_and_searches_it_before_the_hosts_domains() {
        let config = config(&facts(), "ClusterFirst", false, None);
        assert_eq!(config.servers, ["10.0.0.10"]);
        assert_eq!(
            config.searches,
            ["ns.svc.c.local", "svc.c.local", "c.local", "lan"]
        );
        assert_eq!(config.options, ["ndots:5"]);
    }

    #[test]
    fn the_hosts_file_is_read_as_the_resolver_reads_it() {
        let text = "search a.org\nsearch b.org. c.org .\noptions ndots:1 rotate\noptions ndots:3\n";
        let conf = ResolvConf::parse(text);
        assert_eq!(conf.searches, ["b.org", "c.org"]);
        assert_eq!(conf.options, ["ndots:3", "rotate"]);
    }

    #[test]
    fn what_the_resolver_does_not_take_is_left_out() {
        let long = |length: usize, n: usize| format!("{n:02}{}", "x".repeat(length - 2));
        let own = |searches: Vec<String>| PodDNSConfig {
            nameservers: Some((1..=4).map(|n| format!("10.0.0.{n}")).collect()),
            searches: Some(searches),
            options: None,
        };
        let many = config(
            &facts(),
            "None",
            false,
            Some(own((0..40).map(|n| long(3, n)).collect())),
        );
        assert_eq!(many.servers.len(), 3);
        assert_eq!(many.searches.len(), 32);
        // Eight of 253 make a line of 2031 characters, nine would make one of 2285.
        let wide = config(
            &facts(),
            "None",
            false,
            Some(own((0..9).map(|n| long(253, n)).collect())),
        );
        assert_eq!(wide.searches.len(), 8);
        let wider = config(
            &facts(),
            "None",
            false,
            Some(own(vec![long(254, 0), long(9, 1)])),
        );
        assert_eq!(wider.searches, [long(9, 1)]);
    }

    /// The kubelet's words: pkg/kubelet/network/dns.
    // Longer than other functions: one table, a row for each configuration.
    #[test]
    fn what_is_left_out_or_answers_nowhere_is_told() {
        let many = PodDNSConfig {
            nameservers: Some((1..=4).map(|n| format!("10.0.0.{n}")).collect()),
            ..PodDNSConfig::default()
        };
        let long = PodDNSConfig {
            nameservers: Some(vec!["10.0.0.1".into()]),
            searches: Some(vec!["a.b".into(), "x".repeat(254)]),
            options: None,
        };
        let local = ResolvConf::parse("nameserver 127.0.0.53\n");
        let local_too = ResolvConf::parse("nameserver 10.0.0.1\nnameserver ::1%lo\n");
        let loopback = |server: &str| format!("Nameserver {server} is a loopback address");
        let cases = [
            (
                "None",
                false,
                Some(many),
                host(),
                "Nameserver limits were exceeded, some nameservers have been omitted, the applied \
                 nameserver line is: 10.0.0.1 10.0.0.2 10.0.0.3"
                    .to_owned(),
            ),
            (
                "None",
                true,
                Some(long),
                host(),
                "Search Line limits were exceeded, some search paths have been omitted, the applied search \
                 line is: a.b"
                    .to_owned(),
            ),
            ("Default", false, None, local.clone(), loopback("127.0.0.53")),
            ("Default", false, None, local_too, loopback("::1%lo")),
            ("Default", false, None, host(), String::new()),
            // The node's own network has the node's own name server.
            ("Default", true, None, local.clone(), String::new()),
            ("ClusterFirst", false, None, local, String::new()),
            ("Default", false, None, ResolvConf::none(), String::new()),
        ];
        for (policy, host_network, dns_config, host, expected) in cases {
            let pod = StaticPod {
                key: crate::manifest::PodKey {
                    namespace: "ns".into(),
                    name: "web".into(),
                },
                spec: Box::new(PodSpec {
                    dns_policy: Some(policy.into()),
                    host_network: Some(host_network),
                    dns_config,
                    ..PodSpec::default()
                }),
                ..StaticPod::default()
            };
            let problems = dns_problems(&facts(), &host, &pod);
            let told = problems.join("\n");
            let is_told = told.starts_with(&expected) && told.is_empty() == expected.is_empty();
            assert!(is_told && problems.len() < 2, "{policy} {host:?}: {told}");
        }
    }

    #[test]
    fn the_hosts_configuration_serves_where_the_cluster_cannot() {
        let no_cluster = NodeFacts::default();
        for config in [
            config(&facts(), "Default", false, None),
            config(&facts(), "ClusterFirst", true, None),
            config(&no_cluster, "ClusterFirst", false, None),
        ] {
            assert_eq!(config.servers, ["1.1.1.1"]);
            assert_eq!(config.searches, ["lan"]);
            assert_eq!(config.options, ["rotate"]);
        }
        let config = config(&facts(), "ClusterFirstWithHostNet", true, None);
        assert_eq!(config.servers, ["10.0.0.10"]);
    }

    #[test]
    fn a_node_without_a_resolver_configuration_looks_names_up_on_itself() {
        let with = |ips: &[&str], policy: &str| {
            let spec = PodSpec {
                dns_policy: Some(policy.into()),
                ..PodSpec::default()
            };
            let ips: Vec<String> = ips.iter().map(ToString::to_string).collect();
            let facts = NodeFacts {
                identity: Identity {
                    ips: ips.into(),
                    ..facts().identity
                },
                ..facts()
            };
            dns_config(&facts, &ResolvConf::none(), "ns", &spec)
        };
        let config = with(&[], "Default");
        assert_eq!(config.servers, ["127.0.0.1"]);
        assert_eq!(config.searches, ["."]);
        let config = with(&["10.0.0.1", "fd00::1"], "Default");
        assert_eq!(config.servers, ["127.0.0.1", "::1"]);
        // Of no matter where the cluster is asked.
        let config = with(&[], "ClusterFirst");
        assert_eq!(config.servers, ["10.0.0.10"]);
        assert_eq!(
            config.searches,
            ["ns.svc.c.local", "svc.c.local", "c.local"]
        );
        assert_eq!(with(&[], "None"), DnsConfig::default());
    }

    #[test]
    fn the_pods_own_configuration_is_added_and_its_options_win() {
        let own = PodDNSConfig {
            nameservers: Some(vec!["10.0.0.10".into(), "8.8.8.8".into()]),
            searches: Some(vec!["x.org".into()]),
            options: Some(vec![
                PodDNSConfigOption {
                    name: Some("ndots".into()),
                    value: Some("2".into()),
                },
                PodDNSConfigOption {
                    name: Some("edns0".into()),
                    value: Some(String::new()),
                },
            ]),
        };
        let none = config(&facts(), "None", false, Some(own.clone()));
        assert_eq!(none.servers, ["10.0.0.10", "8.8.8.8"]);
        assert_eq!(none.searches, ["x.org"]);
        let merged = config(&facts(), "ClusterFirst", false, Some(own));
        assert_eq!(merged.servers, ["10.0.0.10", "8.8.8.8"]);
        assert_eq!(merged.options, ["ndots:2", "edns0"]);
    }
}
