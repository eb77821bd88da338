//! What Pods are told of the node, and what they take from it.

use std::cell::RefCell;
use std::net::IpAddr;

use podkeeper::translate::{HostIps, Identity, NodeCapacity, NodeFacts};

use crate::agent::{Agent, HOUR, SECOND, pod, single};
use crate::runtime::Settings;

thread_local! {
    static ADDRESSES: RefCell<Vec<IpAddr>> = const { RefCell::new(vec![]) };
}

/// The machine has these addresses from now on.
fn set_addresses(addresses: &[&str]) {
    ADDRESSES.set(addresses.iter().map(|ip| ip.parse().unwrap()).collect());
}

fn found() -> Vec<IpAddr> {
    ADDRESSES.with_borrow(Clone::clone)
}

/// The value of the variable `A` in the newest container `c`.
fn variable(agent: &Agent) -> String {
    agent.runtime.look(|state| {
        let newest = state.containers.iter().max_by_key(|c| c.attempt());
        let envs = newest.into_iter().flat_map(|c| &c.config.envs);
        let value = envs
            .filter(|e| e.key == "A")
            .map(|e| e.value.clone())
            .next();
        String::from_utf8(value.unwrap_or_default()).unwrap()
    })
}

fn host_ips(agent: &Agent) -> Vec<String> {
    let ips = agent.status("p").host_ips.into_iter().flatten();
    ips.map(|ip| ip.ip).collect()
}

#[tokio::test(start_paused = true)]
async fn the_nodes_addresses_are_those_that_it_has_now() {
    for settings in [Settings::containerd_1_6(), Settings::containerd_2_1()] {
        // The machine starts without a network.
        set_addresses(&[]);
        let facts = NodeFacts {
            identity: Identity {
                ips: HostIps::found_by(found),
                ..Identity::default()
            },
            ..NodeFacts::default()
        };
        let agent = Agent::start_on(settings, facts);
        let env = "env: [{name: A, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}]";
        agent.want(&[&single(env, "hostNetwork: true")]);
        agent.until_ready("p").await;
        assert_eq!(host_ips(&agent), [""; 0]);

        for ips in [&["192.0.2.7"][..], &["192.0.2.8", "2001:db8::8"]] {
            set_addresses(ips);
            agent
                .until_told("its status has them", |agent| host_ips(agent) == ips)
                .await;
            let status = agent.status("p");
            assert_eq!(status.host_ip.as_deref(), Some(ips[0]));
            let own: Vec<String> = status.pod_ips.into_iter().flatten().map(|p| p.ip).collect();
            assert_eq!(own, ips, "on the host's network they are the Pod's too");
        }
        // One that is lost for a moment is not forgotten.
        set_addresses(&[]);
        let starts = agent.starts("p", "c").len();
        let id = agent.runtime.look(|state| state.containers[0].id.clone());
        agent.runtime.change(|state| state.exit(&id, 137));
        agent
            .until_told("it runs again", |agent| {
                agent.starts("p", "c").len() > starts && variable(agent) == "192.0.2.8"
            })
            .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_variable_has_the_address_of_the_moment_when_its_container_starts() {
    set_addresses(&["192.0.2.7"]);
    let facts = NodeFacts {
        identity: Identity {
            ips: HostIps::found_by(found),
            ..Identity::default()
        },
        ..NodeFacts::default()
    };
    let agent = Agent::start_on(Settings::containerd_2_1(), facts);
    let env = "env: [{name: A, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}]";
    set_addresses(&["192.0.2.9"]);
    // Addresses count for a second.
    tokio::time::sleep(SECOND).await;
    agent.want(&[&single(env, "")]);
    agent.until_ready("p").await;
    assert_eq!(variable(&agent), "192.0.2.9");
}

#[tokio::test(start_paused = true)]
async fn a_resolver_configuration_that_cannot_be_read_keeps_the_sandbox_from_being_made() {
    let agent = Agent::start(Settings::containerd_2_1());
    let file = agent.folder.path().join("resolv.conf");
    std::fs::remove_file(&file).unwrap();
    agent.want(&[&single("", "")]);
    let tells = |agent: &Agent| {
        let events = agent.events("p").into_iter();
        let mut failed = events.filter(|e| e.reason == "FailedCreatePodSandBox");
        failed.any(|e| e.message.contains(&file.display().to_string()))
    };
    agent.until_told("its event says why", tells).await;
    assert_eq!(agent.runtime.look(|state| state.sandboxes.len()), 0);
    std::fs::write(&file, "nameserver 10.0.0.53\n").unwrap();
    agent.until_ready("p").await;
    let servers = agent.runtime.look(|state| {
        let config = &state.sandboxes[0].config;
        config.dns_config.clone().unwrap().servers
    });
    assert_eq!(servers, ["10.0.0.53"]);
}

#[tokio::test(start_paused = true)]
async fn files_have_the_nodes_amounts_and_when_the_pod_was_first_seen() {
    let facts = NodeFacts {
        capacity: NodeCapacity {
            cpus: 4,
            ..NodeCapacity::default()
        },
        ..NodeFacts::default()
    };
    let mut agent = Agent::start_on(Settings::containerd_2_1(), facts);
    let manifest = pod(
        "resources: {limits: {cpu: 500m}, requests: {cpu: 100m}},
         initContainers: [{name: first, image: 'busybox:1.36', restartPolicy: Always}],
         containers: [{name: c, image: 'busybox:1.36', volumeMounts: [{name: info, mountPath: /info}]}],
         volumes: [{name: info, downwardAPI: {items: [
           {path: annotations, fieldRef: {fieldPath: metadata.annotations}},
           {path: first, resourceFieldRef: {containerName: first, resource: limits.cpu}},
           {path: c, resourceFieldRef: {containerName: c, resource: limits.cpu}}]}}]",
    );
    agent.want(&[&manifest]);
    agent.until_ready("p").await;
    let uid = agent.report("p").uid;
    let folder = agent.folder.path().join("root/pods").join(uid);
    let folder = folder.join("volumes/kubernetes.io~downward-api/info");
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    // The Pod's own limit is not asked after here.
    assert_eq!(read("first"), "4");
    assert_eq!(read("c"), "4");
    let annotations = read("annotations");
    let seen = format!("kubernetes.io/config.seen=\"{}\"", agent.report("p").seen);
    assert!(
        annotations.lines().any(|line| line == seen),
        "{annotations}"
    );
    assert!(
        annotations.contains("kubernetes.io/config.source=\"file\""),
        "{annotations}"
    );
    agent.die_and_start().await;
    agent.until_ready("p").await;
    assert_eq!(read("annotations"), annotations);
    // Its volumes are mounted.
    agent.want(&[]);
    agent.until_gone().await;
}

#[tokio::test(start_paused = true)]
async fn burstable_pods_have_the_shares_that_they_ask_for_together() {
    let mut agent = Agent::start(Settings::containerd_2_1());
    let class = agent.folder.path().join("cgroups/cpu/kubepods/burstable");
    std::fs::create_dir_all(&class).unwrap();
    // The root of the hierarchy has the file too.
    std::fs::write(agent.folder.path().join("cgroups/cpu/cpu.shares"), "1024").unwrap();
    let file = class.join("cpu.shares");
    std::fs::write(&file, "1024").unwrap();
    let shares = || std::fs::read_to_string(&file).unwrap();
    let small = single("resources: {requests: {cpu: 250m}}", "");
    let large = small.replace("name: p}", "name: q}").replace("250m", "1");
    agent.want(&[&small, &large]);
    agent.until_ready("p").await;
    agent.until_ready("q").await;
    assert_eq!(shares(), "1280");
    // An agent that starts looks after what another one left.
    std::fs::write(&file, "1024").unwrap();
    agent.die_and_start().await;
    let come_to = async |expected: &str| {
        let waiting = async {
            while shares() != expected {
                tokio::time::sleep(SECOND).await;
            }
        };
        tokio::time::timeout(HOUR, waiting).await.is_ok()
    };
    assert!(come_to("1280").await, "{}", shares());
    agent.want(&[&small]);
    assert!(come_to("256").await, "{}", shares());
    agent.want(&[]);
    agent.until_gone().await;
    assert_eq!(shares(), "2");
}
