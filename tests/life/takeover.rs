//! Static Pods that a kubelet left: while one does not stop, ours of its name waits, and nothing else does.

use std::collections::HashMap;
use std::time::Duration;

use podkeeper::cri::v1;
use podkeeper::translate::labels;

use crate::agent::{Agent, SECOND, full};
use crate::runtime::{Fate, Life, Rule, Settings};

/// As long as a stop may take until its deadline, with the wait before the next try.
const DEADLINE: Duration = Duration::from_secs(400);

fn web(version: &str) -> String {
    manifest("web", version)
}

fn manifest(name: &str, version: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{containers: [{{name: c, image: \
         'busybox:1.36', env: [{{name: VERSION, value: '{version}'}}]}}]}}}}"
    )
}

fn texts<const N: usize>(pairs: [(&str, &str); N]) -> HashMap<String, String> {
    pairs.map(|(key, value)| (key.into(), value.into())).into()
}

/// Runs a static Pod as a kubelet does, and starts the agent anew.
async fn agent_after_a_kubelet() -> Agent {
    let mut agent = Agent::start(Settings::containerd_2_1());
    agent.runtime.lives(|_, _, _| Life::LONG);
    agent.runtime.image("busybox:1.36", Some(0), "");
    agent.die().await;
    let name = full("web");
    let pod_labels = texts([
        (labels::POD_NAME, &name),
        (labels::POD_NAMESPACE, "default"),
        (labels::POD_UID, "of-the-kubelet"),
    ]);
    let sandbox_config = v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name,
            uid: "of-the-kubelet".into(),
            namespace: "default".into(),
            attempt: 0,
        }),
        labels: pod_labels.clone(),
        annotations: texts([("kubernetes.io/config.source", "file")]),
        ..v1::PodSandboxConfig::default()
    };
    let client = &agent.context.client;
    let sandbox = client.run_pod_sandbox(v1::RunPodSandboxRequest {
        config: Some(sandbox_config.clone()),
        ..v1::RunPodSandboxRequest::default()
    });
    let pod_sandbox_id = sandbox.await.unwrap().pod_sandbox_id;
    let config = v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata {
            name: "kubelets".into(),
            attempt: 0,
        }),
        image: Some(v1::ImageSpec {
            image: "busybox:1.36".into(),
            ..v1::ImageSpec::default()
        }),
        labels: pod_labels,
        annotations: texts([(labels::TERMINATION_GRACE_PERIOD, "7")]),
        ..v1::ContainerConfig::default()
    };
    let container = client.create_container(v1::CreateContainerRequest {
        pod_sandbox_id,
        config: Some(config),
        sandbox_config: Some(sandbox_config),
    });
    let container_id = container.await.unwrap().container_id;
    let start = v1::StartContainerRequest { container_id };
    client.start_container(start).await.unwrap();
    agent.start_next();
    agent
}

/// Names of the running containers of the Pod, the kubelet's and ours.
fn running(agent: &Agent) -> Vec<String> {
    agent.runtime.look(|state| {
        let all = state.containers.iter();
        let all = all.filter(|c| c.pod == full("web") && c.is_running());
        all.map(|c| c.name().to_owned()).collect()
    })
}

async fn within(limit: Duration, what: &str, agent: &Agent, test: impl Fn(&Agent) -> bool) {
    let waits = async {
        while !test(agent) {
            assert!(running(agent).len() <= 1, "it runs twice");
            tokio::time::sleep(SECOND / 10).await;
        }
    };
    let done = tokio::time::timeout(limit, waits).await;
    assert!(done.is_ok(), "{what}: {:#?}", agent.context.reports.all());
}

#[tokio::test(start_paused = true)]
async fn a_kubelets_pod_that_does_not_stop_blocks_only_ours_of_its_name() {
    let agent = agent_after_a_kubelet().await;
    let hangs = Rule::of("StopContainer", Fate::Hangs).container("kubelets");
    agent.runtime.rule(hangs);
    agent.want(&[&web("1"), &manifest("beside", "1")]);
    agent.until_ready("beside").await;
    tokio::time::sleep(30 * SECOND).await;
    assert_eq!(running(&agent), ["kubelets"]);
    let stops = |agent: &Agent| {
        let calls = agent.runtime.calls_for(&full("web"));
        let stops = calls.iter().filter_map(|call| {
            let request = call.request::<v1::StopContainerRequest>()?;
            Some(request.timeout)
        });
        stops.collect::<Vec<_>>()
    };
    assert_eq!(stops(&agent), [7], "with its own grace period");

    // Ours can be edited and removed meanwhile.
    agent.want(&[&web("2"), &manifest("beside", "1")]);
    tokio::time::sleep(5 * SECOND).await;
    assert_eq!(stops(&agent), [7], "one stop at a time");
    agent.want(&[&manifest("beside", "1")]);
    let gone = |agent: &Agent| agent.told("web").is_none();
    within(10 * SECOND, "ours is gone", &agent, gone).await;
    assert_eq!(running(&agent), ["kubelets"]);

    agent.runtime.clear_rules();
    agent.want(&[&web("2"), &manifest("beside", "1")]);
    let ready = |agent: &Agent| running(agent) == ["c"];
    within(DEADLINE, "ours runs", &agent, ready).await;
    agent.until_ready("web").await;
    let taken_over = agent.events("web").into_iter();
    assert!(
        taken_over
            .map(|event| event.reason)
            .any(|reason| reason == "TakingOver")
    );
}

#[tokio::test(start_paused = true)]
async fn a_failure_to_stop_a_kubelets_pod_is_shown_and_tried_again() {
    let agent = agent_after_a_kubelet().await;
    let status = tonic::Status::internal("no shim");
    let fails = Rule::of("StopContainer", Fate::Fails(status)).container("kubelets");
    agent.runtime.rule(fails);
    agent.want(&[&web("1")]);
    let said = |agent: &Agent| {
        let told = agent.told("web").is_some().then(|| agent.report("web"));
        let containers = told.into_iter().flat_map(|report| report.containers);
        let mut messages = containers.map(|container| container.message);
        messages.any(|message| message.contains("no shim"))
    };
    within(10 * SECOND, "it is said", &agent, said).await;
    assert_eq!(running(&agent), ["kubelets"]);
    agent.runtime.clear_rules();
    agent.until_ready("web").await;
    assert_eq!(running(&agent), ["c"]);
}
