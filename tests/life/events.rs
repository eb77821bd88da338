//! What goes wrong is told as events, in Kubernetes' words.

use podkeeper::translate::NodeFacts;
use tonic::Status;

use crate::agent::{Agent, SECOND, full, pod, single};
use crate::runtime::{Executed, Fate, Life, Rule, Settings};

/// A Pod's events as `TYPE REASON FIELD: MESSAGE`.
fn told(agent: &Agent, pod: &str) -> Vec<String> {
    let events = agent.events(pod).into_iter();
    let text = events.map(|e| format!("{:?} {} {}: {}", e.kind, e.reason, e.field, e.message));
    text.collect()
}

/// Waits until each of these was told, by its beginning.
async fn until_told(agent: &Agent, pod: &str, expected: &[String]) {
    for beginning in expected {
        let mut newest = agent.context.events.newest();
        let waiting = async {
            while !told(agent, pod).iter().any(|e| e.starts_with(beginning)) {
                newest.changed().await.unwrap();
            }
        };
        let done = tokio::time::timeout(1000 * SECOND, waiting).await;
        assert!(done.is_ok(), "{beginning} in {:#?}", told(agent, pod));
    }
}

#[tokio::test(start_paused = true)]
async fn calls_and_hooks_that_fail() {
    let agent = Agent::start(Settings::containerd_2_1());
    for (method, error) in [
        ("RunPodSandbox", "no"),
        ("CreateContainer", "no, it is not made"),
        ("StartContainer", "no, it is not started"),
    ] {
        let failure = Fate::Fails(Status::unknown(error));
        agent.runtime.rule(Rule::of(method, failure).nth(1, 1));
    }
    agent.runtime.commands(|_, _| Executed {
        code: 3,
        ..Executed::default()
    });
    let hooks = "postStart: {exec: {command: [x]}}, preStop: {exec: {command: [x]}}";
    agent.want(&[&single(&format!("lifecycle: {{{hooks}}}"), "")]);
    let field = "spec.containers{c}";
    let expected = [
        "Warning FailedCreatePodSandBox : Failed to create pod sandbox: rpc error: code = Unknown desc = no"
            .to_owned(),
        format!("Warning Failed {field}: Error: no, it is not made"),
        format!("Warning Failed {field}: Error: no, it is not started"),
        format!("Warning FailedPostStartHook {field}: PostStartHook failed"),
        format!("Normal Killing {field}: FailedPostStartHook"),
        format!("Warning FailedPreStopHook {field}: PreStopHook failed"),
    ];
    until_told(&agent, "p", &expected).await;
}

#[tokio::test(start_paused = true)]
async fn calls_that_are_not_answered() {
    let agent = Agent::start(Settings::containerd_2_1());
    for method in ["RunPodSandbox", "CreateContainer", "StartContainer"] {
        agent.runtime.rule(Rule::of(method, Fate::Hangs).nth(1, 1));
    }
    let volume = "volumes: [{name: v, hostPath: {path: /}}]";
    agent.want(&[&single("volumeMounts: [{name: v, mountPath: /v}]", volume)]);
    let exceeded = "context deadline exceeded";
    let field = "spec.containers{c}";
    let expected = [
        format!(
            "Warning FailedCreatePodSandBox : Failed to create pod sandbox: rpc error: code = \
             DeadlineExceeded desc = {exceeded}; the network plugin (CNI) may not answer"
        ),
        format!(
            "Warning Failed {field}: Error: {exceeded}; one of its hostPath volumes may not answer: /"
        ),
        format!("Warning Failed {field}: Error: {exceeded}"),
    ];
    until_told(&agent, "p", &expected).await;
    agent.until_ready("p").await;
}

#[tokio::test(start_paused = true)]
async fn stops_that_fail() {
    let agent = Agent::start(Settings::containerd_2_1());
    let image = "image: 'busybox:1.36'";
    let containers = format!("{{name: a, {image}}}, {{name: b, {image}}}");
    agent.want(&[&pod(&format!("containers: [{containers}]"))]);
    agent.until_ready("p").await;
    let uid = agent.report("p").uid;
    let fails = Fate::Fails;
    let stop = fails(Status::internal("no \"stop\""));
    agent
        .runtime
        .rule(Rule::of("StopContainer", stop.clone()).container("a"));
    agent.want(&[]);
    let failed = |kind: &str, target: &str, error: &str| {
        format!("failed to \"Kill{kind}\" for \"{target}\" with Kill{kind}Error: \"{error}\"")
    };
    let killing = "Warning FailedKillPod : error killing pod:";
    let internal = "rpc error: code = Internal desc = no \\\"stop\\\"";
    let of_a = failed("Container", "a", internal);
    until_told(&agent, "p", &[format!("{killing} {of_a}")]).await;

    let agent = Agent::start(Settings::containerd_2_1());
    agent.want(&[&pod(&format!("containers: [{containers}]"))]);
    agent.until_ready("p").await;
    agent
        .runtime
        .rule(Rule::of("StopContainer", stop).nth(1, 2));
    let network = fails(Status::unknown("no network"));
    agent.runtime.rule(Rule::of("StopPodSandbox", network));
    agent.want(&[]);
    until_told(
        &agent,
        "p",
        &[format!("{killing} [failed to \"KillContainer\" for ")],
    )
    .await;
    let all = told(&agent, "p");
    let both = all.iter().find(|e| e.starts_with(killing)).unwrap();
    for name in ["a", "b"] {
        assert!(
            both.contains(&failed("Container", name, internal)),
            "{both}"
        );
    }
    let unknown = "rpc error: code = Unknown desc = no network";
    let of_sandbox = failed("PodSandbox", &uid, unknown);
    until_told(&agent, "p", &[format!("{killing} {of_sandbox}")]).await;
}

#[tokio::test(start_paused = true)]
async fn containers_that_keep_ending_and_sandboxes_that_die() {
    let agent = Agent::start(Settings::containerd_2_1());
    agent.runtime.lives(|_, _, attempt| match attempt {
        0 | 1 => Life::ends(1),
        _ => Life::LONG,
    });
    agent.want(&[&single("", "")]);
    let name = full("p");
    agent
        .until_told("it is known", |agent| agent.told("p").is_some())
        .await;
    let uid = agent.report("p").uid;
    let back_off = format!("Back-off restarting failed container c in pod {name}_default({uid})");
    let expected = [format!("Warning BackOff spec.containers{{c}}: {back_off}")];
    until_told(&agent, "p", &expected).await;
    agent.until_ready("p").await;
    agent.runtime.end_sandboxes(&name);
    let changed = "Pod sandbox changed, it will be killed and re-created.";
    let expected = [format!("Normal SandboxChanged : {changed}")];
    until_told(&agent, "p", &expected).await;
    agent.until_ready("p").await;
    agent.want(&[]);
    let expected = ["Normal Killing spec.containers{c}: Stopping container c".to_owned()];
    until_told(&agent, "p", &expected).await;
}

#[tokio::test(start_paused = true)]
async fn pods_that_cannot_run_here() {
    let agent = Agent::start(Settings::containerd_2_1());
    let image = "image: 'busybox:1.36'";
    let ports = "ports: [{containerPort: 80, hostPort: 8080}]";
    let first = pod(&format!("containers: [{{name: c, {image}, {ports}}}]"));
    let second = first.replace("name: p}", "name: second}");
    let volume = "volumes: [{name: v, hostPath: {path: /nowhere/at/all, type: Directory}}]";
    let third = single("volumeMounts: [{name: v, mountPath: /v}]", volume)
        .replace("name: p}", "name: third}");
    agent.want(&[&first]);
    agent.until_ready("p").await;
    agent.want(&[&first, &second, &third]);
    until_told(&agent, "second", &["Warning NodePorts : ".to_owned()]).await;
    let status = agent.status("second");
    assert_eq!(status.phase.as_deref(), Some("Failed"));
    assert!(status.message.unwrap().starts_with(
        "Pod was rejected: Predicate NodePorts failed: node(s) didn't have free ports"
    ));
    let mount = "Warning FailedMount : MountVolume.SetUp failed for volume \"v\" : ".to_owned();
    until_told(&agent, "third", &[mount]).await;
}

#[tokio::test(start_paused = true)]
async fn objects_that_no_manifest_has() {
    let agent = Agent::start(Settings::containerd_2_1());
    let volumes =
        "volumes: [{name: v, configMap: {name: nowhere}}, {name: w, secret: {secretName: s}}]";
    let mounts = "volumeMounts: [{name: v, mountPath: /v}, {name: w, mountPath: /w}]";
    let variable = "env: [{name: X, valueFrom: {secretKeyRef: {name: nowhere, key: k}}}]";
    let second = single(variable, "").replace("name: p}", "name: second}");
    agent.want(&[&single(mounts, volumes), &second]);
    let expected = [("v", "configmap \"nowhere\""), ("w", "secret \"s\"")].map(|(volume, object)| {
        format!("Warning FailedMount : MountVolume.SetUp failed for volume \"{volume}\" : {object} not found")
    });
    until_told(&agent, "p", &expected).await;
    let expected = "Warning Failed spec.containers{c}: Error: secret \"nowhere\" not found";
    until_told(&agent, "second", &[expected.to_owned()]).await;
    // They are repeated for as long as that lasts.
    for pod in ["p", "second"] {
        let mut newest = agent.context.events.newest();
        let is_repeated = || agent.events(pod).iter().any(|event| event.count > 2);
        while !is_repeated() {
            newest.changed().await.unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn names_that_cannot_be_looked_up_and_a_host_name_that_is_too_long() {
    let facts = NodeFacts {
        cluster_domain: "cluster.local".into(),
        ..NodeFacts::default()
    };
    let agent = Agent::start_on(Settings::containerd_2_1(), facts);
    // They are added to the host's own.
    let servers = "nameservers: [127.0.0.53, 10.0.0.1, 10.0.0.2]";
    agent.want(&[&single(
        "",
        &format!("dnsPolicy: Default, dnsConfig: {{{servers}}}"),
    )]);
    let expected = [
        "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: \
         10.255.255.53 127.0.0.53 10.0.0.1",
        "Nameserver 127.0.0.53 is a loopback address",
    ]
    .map(|message| format!("Warning DNSConfigForming : {message}"));
    until_told(&agent, "p", &expected).await;
    agent.until_ready("p").await;
    let (host, domain) = ("h".repeat(40), "s".repeat(30));
    let name = format!("hostname: {host}, subdomain: {domain}, setHostnameAsFQDN: true");
    agent.want(&[&single("", &name)]);
    let expected = format!(
        "Warning FailedCreatePodSandBox : Failed to create pod sandbox: failed to construct FQDN from pod \
         hostname and cluster domain, FQDN {host}.{domain}.default.svc.cluster.local is too long (64 \
         characters is the max, 97 characters requested)"
    );
    until_told(&agent, "p", &[expected]).await;
}

#[tokio::test(start_paused = true)]
async fn images_that_are_not_there() {
    let agent = Agent::start(Settings {
        every_image: false,
        ..Settings::containerd_2_1()
    });
    agent.want(&[&single("imagePullPolicy: Never", "")]);
    let field = "spec.containers{c}";
    let expected = [
        format!(
            "Warning ErrImageNeverPull {field}: Container image \"busybox:1.36\" is not present with \
             pull policy of Never"
        ),
        format!("Warning Failed {field}: Error: ErrImageNeverPull"),
    ];
    until_told(&agent, "p", &expected).await;
    let waiting = agent.container("p", "c").unwrap().state.unwrap().waiting;
    let said = "Container image \"busybox:1.36\" is not present with pull policy of Never";
    assert_eq!(waiting.unwrap().message.as_deref(), Some(said));
}

#[tokio::test(start_paused = true)]
async fn images_that_cannot_be_looked_up() {
    let agent = Agent::start(Settings::containerd_2_1());
    let failure = Fate::Fails(Status::internal("no store"));
    agent.runtime.rule(Rule::of("ImageStatus", failure));
    agent.want(&[&single("", "")]);
    let said =
        "Failed to inspect image \"busybox:1.36\": rpc error: code = Internal desc = no store";
    let field = "spec.containers{c}";
    let expected = [
        format!("Warning InspectFailed {field}: {said}"),
        format!("Warning Failed {field}: Error: ImageInspectError"),
    ];
    until_told(&agent, "p", &expected).await;
    let waiting = agent.container("p", "c").unwrap().state.unwrap().waiting;
    assert_eq!(waiting.unwrap().message.as_deref(), Some(said));
}

#[tokio::test(start_paused = true)]
async fn an_image_behind_a_volume_that_cannot_be_pulled() {
    let agent = Agent::start(Settings {
        every_image: false,
        ..Settings::containerd_2_1()
    });
    agent.runtime.image("busybox:1.36", Some(0), "");
    let failure = Fate::Fails(Status::unknown("no such image"));
    agent.runtime.rule(Rule::of("PullImage", failure));
    let image = "image: 'busybox:1.36'";
    let mount = "volumeMounts: [{name: v, mountPath: /v}]";
    let volumes = "volumes: [{name: v, image: {reference: 'data:1'}}]";
    agent.want(&[&pod(&format!(
        "containers: [{{name: c, {image}, {mount}}}, {{name: other, {image}}}], {volumes}"
    ))]);
    let failed = "Failed to pull image \"data:1\": ";
    let expected = [
        "Normal Pulling : Pulling image \"data:1\"".to_owned(),
        format!("Warning Failed : {failed}"),
        "Warning Failed spec.containers{c}: Error: ErrImagePull".to_owned(),
        "Normal BackOff : Back-off pulling image \"data:1\"".to_owned(),
        "Warning Failed spec.containers{c}: Error: ImagePullBackOff".to_owned(),
    ];
    until_told(&agent, "p", &expected).await;
    let of_other = |event: &String| event.starts_with("Warning") && event.contains("{other}");
    assert!(!told(&agent, "p").iter().any(of_other));
    let waits = |agent: &Agent| agent.waits_for("p", "c").as_deref() == Some("ErrImagePull");
    agent.until_told("the container says so", waits).await;
}
