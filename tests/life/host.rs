//! What a Pod has of the node: its ports, its host name, its `/etc/hosts`.

use std::fs;

use crate::agent::{Agent, SECOND, full, pod, single};
use crate::runtime::{Life, Settings};

/// A Pod of this name that has port 8080 of the host.
fn on_port(name: &str, spec: &str) -> String {
    let ports = "ports: [{containerPort: 80, hostPort: 8080}]";
    let main = format!("{{name: main, image: 'busybox:1.36', {ports}}}");
    let manifest = pod(&format!("containers: [{main}], {spec}"));
    manifest.replace("{name: p}", &format!("{{name: {name}}}"))
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_over_has_its_ports_until_nothing_of_it_runs() {
    let sidecar = "initContainers: [{name: side, image: 'busybox:1.36', restartPolicy: Always}]";
    // Over by its containers' end, and by its deadline.
    for (spec, life) in [
        (
            format!("restartPolicy: Never, {sidecar}"),
            Life::ends_after(10 * SECOND, 0),
        ),
        ("activeDeadlineSeconds: 10".to_owned(), Life::DEAF),
    ] {
        let agent = Agent::start(Settings::containerd_2_1());
        agent.runtime.lives(move |pod, name, _| match name {
            _ if pod == full("q") => Life::LONG,
            "main" => life,
            _ => Life::DEAF,
        });
        let first = on_port("p", &format!("{spec}, terminationGracePeriodSeconds: 60"));
        let second = on_port("q", "");
        agent.want(&[&first]);
        agent.until_ready("p").await;
        let before = tokio::time::Instant::now();
        agent.want(&[&first, &second]);
        let refused = |agent: &Agent| agent.report("q").reason == "NodePorts";
        agent.until_told("the port is taken", refused).await;
        agent.until_ready("q").await;
        let waited = before.elapsed().as_secs();
        assert!((69..=72).contains(&waited), "{spec}: {waited}");
        assert_eq!(agent.running("p"), [], "{spec}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_name_that_is_too_long_for_the_kernel_is_refused_before_there_is_a_sandbox() {
    let (host, sub) = ("h".repeat(50), "s".repeat(20));
    let long = format!("hostname: {host}, subdomain: {sub}, setHostnameAsFQDN: true");
    let made = |agent: &Agent| {
        let calls = agent.runtime.calls_for(&full("p"));
        calls.iter().filter(|c| c.method == "RunPodSandbox").count()
    };
    let agent = Agent::start(Settings::containerd_2_1());
    agent.want(&[&single("", &long)]);
    let refused = |agent: &Agent| {
        let events = agent.events("p").into_iter();
        let mut refused = events.filter(|e| e.reason == "FailedCreatePodSandBox");
        refused.any(|e| e.message.contains("failed to construct FQDN"))
    };
    agent.until_told("it is refused", refused).await;
    tokio::time::sleep(60 * SECOND).await;
    assert_eq!(made(&agent), 0);

    // There the name is the host's.
    agent.want(&[&single("", &format!("{long}, hostNetwork: true"))]);
    agent.until_ready("p").await;
    assert_eq!(made(&agent), 1);
}

#[tokio::test(start_paused = true)]
async fn the_hosts_file_is_as_it_should_be_at_each_start_of_a_container() {
    let agent = Agent::start(Settings::containerd_2_1());
    agent.want(&[&single("", "")]);
    agent.until_ready("p").await;
    let pods = fs::read_dir(agent.folder.path().join("root/pods")).unwrap();
    let folders: Vec<_> = pods.map(|entry| entry.unwrap().path()).collect();
    let file = folders[0].join("etc-hosts");
    let written = fs::read_to_string(&file).unwrap();
    let ip = agent.report("p").ips[0].clone();
    assert!(
        written.contains(&format!("{ip}\t{}\n", full("p"))),
        "{written}"
    );

    fs::write(&file, "scribble\n").unwrap();
    agent.runtime.exit(&full("p"), "c", 1);
    let again = |agent: &Agent| agent.report("p").restarts == 1;
    agent.until_told("it is started again", again).await;
    assert_eq!(fs::read_to_string(&file).unwrap(), written);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_failed_before_anything_was_made_of_it_stays_failed() {
    let mut agent = Agent::start(Settings::containerd_2_1());
    let waits_for_ever = "envFrom: [{configMapRef: {name: missing}}]";
    agent.want(&[&single(waits_for_ever, "activeDeadlineSeconds: 30")]);
    let failed = |agent: &Agent| agent.report("p").reason == "DeadlineExceeded";
    agent.until_told("its time is over", failed).await;
    let before = tokio::time::Instant::now();
    agent.die_and_start().await;
    agent.until_told("the new agent knows it", failed).await;
    assert!(before.elapsed() < 5 * SECOND, "it is not found out anew");
    assert_eq!(agent.runtime.calls_for(&full("p")).len(), 0);
    agent.want(&[]);
    agent.until_gone().await;
}
