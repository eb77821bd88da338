//! What a Pod's `/etc/resolv.conf` says, by its DNS policy (Kubernetes, DNS for Services and Pods).

use k8s_openapi::api::core::v1::{PodDNSConfig, PodSpec};

use super::NodeFacts;
use crate::cri::v1::DnsConfig;

/// The resolver takes no more name servers than this.
const MAX_SERVERS: usize = 3;
/// The resolver takes no more search domains than this.
const MAX_SEARCHES: usize = 32;

/// The host's resolver configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResolvConf {
    /// `nameserver` lines.
    pub servers: Vec<String>,
    /// The last `search` line.
    pub searches: Vec<String>,
    /// The last `options` line.
    pub options: Vec<String>,
}

impl ResolvConf {
    /// Reads the text of a resolv.conf(5); lines that are not understood are skipped, as the resolver
    /// does.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut conf = Self::default();
        for line in text.lines().filter(|l| !l.starts_with(['#', ';'])) {
            let mut words = line.split_whitespace().map(str::to_owned);
            match words.next().as_deref() {
                Some("nameserver") => conf.servers.extend(words.next()),
                // The root as a search domain means nothing to a runtime.
                Some("search") => conf.searches = words.filter(|w| w != ".").collect(),
                Some("options") => conf.options = words.collect(),
                _ => {}
            }
        }
        conf
    }
}

/// The DNS configuration of a Pod's sandbox.
pub(super) fn dns_config(
    facts: &NodeFacts,
    host: &ResolvConf,
    namespace: &str,
    spec: &PodSpec,
) -> DnsConfig {
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
        _ => DnsConfig {
            servers: host.servers.clone(),
            searches: host.searches.clone(),
            options: host.options.clone(),
        },
    };
    if let Some(own) = &spec.dns_config {
        merge(&mut config, own);
    }
    config.servers.truncate(MAX_SERVERS);
    config.searches.truncate(MAX_SEARCHES);
    config
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
        let same = |o: &String| o.split(':').next() == Some(name);
        let text = match &option.value {
            Some(value) => format!("{name}:{value}"),
            None => name.to_owned(),
        };
        match config.options.iter_mut().find(|o| same(o)) {
            Some(known) => *known = text,
            None => config.options.push(text),
        }
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
                    value: None,
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
