//! The runtime of the tests does what it is told to: otherwise the tests that use it would show
//! nothing.

#[path = "support/runtime/mod.rs"]
mod runtime;

use std::time::Duration;

use podkeeper::cri::{Client, Error, v1};
use runtime::{Executed, Fate, KILLED, Life, Rule, Runtime, Settings, TERMINATED};
use tempfile::TempDir;
use tonic::Status;
use v1::ContainerState::{ContainerCreated, ContainerExited, ContainerRunning};

const SECOND: Duration = Duration::from_secs(1);

struct Node {
    runtime: Runtime,
    client: Client,
    _folder: TempDir,
}

fn start(settings: Settings) -> Node {
    let folder = tempfile::tempdir().unwrap();
    let runtime = Runtime::start(&folder.path().join("cri.sock"), settings);
    let client = Client::new(runtime.endpoint().parse().unwrap());
    Node {
        runtime,
        client,
        _folder: folder,
    }
}

impl Node {
    async fn sandbox(&self, pod: &str) -> Result<String, Error> {
        let request = v1::RunPodSandboxRequest {
            config: Some(v1::PodSandboxConfig {
                metadata: Some(v1::PodSandboxMetadata {
                    name: pod.into(),
                    ..v1::PodSandboxMetadata::default()
                }),
                ..v1::PodSandboxConfig::default()
            }),
            ..v1::RunPodSandboxRequest::default()
        };
        let answer = self.client.run_pod_sandbox(request).await;
        answer.map(|answer| answer.pod_sandbox_id)
    }

    async fn create(&self, sandbox: &str, name: &str) -> Result<String, Error> {
        let image = v1::ImageSpec {
            image: "busybox".into(),
            ..v1::ImageSpec::default()
        };
        let asked = v1::ImageStatusRequest {
            image: Some(image.clone()),
            verbose: false,
        };
        self.client.image_status(asked).await?;
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: sandbox.into(),
            config: Some(v1::ContainerConfig {
                metadata: Some(v1::ContainerMetadata {
                    name: name.into(),
                    attempt: 0,
                }),
                image: Some(image),
                ..v1::ContainerConfig::default()
            }),
            ..v1::CreateContainerRequest::default()
        };
        let answer = self.client.create_container(request).await;
        answer.map(|answer| answer.container_id)
    }

    async fn run(&self, sandbox: &str, name: &str) -> String {
        let id = self.create(sandbox, name).await.unwrap();
        let request = v1::StartContainerRequest {
            container_id: id.clone(),
        };
        self.client.start_container(request).await.unwrap();
        id
    }

    async fn status(&self, id: &str) -> v1::ContainerStatus {
        let request = v1::ContainerStatusRequest {
            container_id: id.into(),
            verbose: false,
        };
        let answer = self.client.container_status(request).await.unwrap();
        answer.status.unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn containers_live_and_die_as_they_are_told_to() {
    let node = start(Settings::containerd_2_1());
    node.runtime.lives(|_, name, _| match name {
        "short" => Life::ends(3),
        "hour" => Life::ends_after(3600 * SECOND, 0),
        "deaf" => Life::DEAF,
        _ => Life::LONG,
    });
    let sandbox = node.sandbox("p").await.unwrap();
    let made = node.create(&sandbox, "made").await.unwrap();
    assert_eq!(node.status(&made).await.state(), ContainerCreated);

    let short = node.run(&sandbox, "short").await;
    let short = node.status(&short).await;
    assert_eq!((short.state(), short.exit_code), (ContainerExited, 3));

    let hour = node.run(&sandbox, "hour").await;
    assert_eq!(node.status(&hour).await.state(), ContainerRunning);
    let over = |s: &runtime::State| s.newest("p", "hour").unwrap().state == ContainerExited;
    tokio::time::sleep(3601 * SECOND).await;
    node.runtime.until("the hour is over", over).await;
    let hour = node.status(&hour).await;
    let ran = hour.finished_at - hour.started_at;
    assert!((3600..3602).contains(&(ran / 1_000_000_000)), "{ran}");

    for (name, code, took) in [("long", TERMINATED, 0), ("deaf", KILLED, 7)] {
        let id = node.run(&sandbox, name).await;
        let before = tokio::time::Instant::now();
        node.client.stop_container(&id, 7).await.unwrap();
        assert_eq!(before.elapsed().as_secs(), took, "{name}");
        assert_eq!(node.status(&id).await.exit_code, code, "{name}");
    }

    node.run(&sandbox, "killed").await;
    node.runtime.exit("p", "killed", 9);
    let state = node.runtime.state_of("p", "killed");
    assert_eq!(state, Some(ContainerExited));
    node.runtime.vanish("p", "killed");
    assert_eq!(node.runtime.state_of("p", "killed"), None);
    node.run(&sandbox, "last").await;
    node.runtime.end_sandboxes("p");
    let state = node.runtime.state_of("p", "last");
    assert_eq!(state, Some(ContainerExited));
    assert!(node.create(&sandbox, "late").await.is_err());
}

#[tokio::test(start_paused = true)]
async fn calls_meet_the_fate_that_is_theirs_and_are_recorded() {
    let node = start(Settings::containerd_2_1());
    let failure = || Fate::Fails(Status::unknown("no"));
    let rule = Rule::of("CreateContainer", failure());
    node.runtime.rule(rule.pod("a").container("c").nth(2, 1));
    let late = Rule::of("RunPodSandbox", Fate::Late(100 * SECOND));
    node.runtime.rule(late.pod("slow"));
    let lost = Fate::DoneButFails(Status::unavailable("gone"));
    node.runtime
        .rule(Rule::of("RunPodSandbox", lost).pod("lost"));
    node.runtime
        .rule(Rule::of("RunPodSandbox", Fate::Hangs).pod("stuck"));

    let a = node.sandbox("a").await.unwrap();
    let b = node.sandbox("b").await.unwrap();
    assert!(node.create(&a, "c").await.is_ok());
    node.runtime.vanish("a", "c");
    let refused = node.create(&a, "c").await.unwrap_err();
    assert!(refused.to_string().contains("no"), "{refused}");
    assert!(node.create(&a, "c").await.is_ok());
    assert!(node.create(&b, "c").await.is_ok());

    let before = tokio::time::Instant::now();
    node.sandbox("slow").await.unwrap();
    assert_eq!(before.elapsed().as_secs(), 100);
    assert!(node.sandbox("lost").await.is_err());
    assert!(
        node.runtime
            .look(|s| s.sandboxes.iter().any(|s| s.pod() == "lost"))
    );
    let stuck = node.sandbox("stuck").await.unwrap_err();
    assert!(matches!(stuck, Error::Deadline { .. }), "{stuck:?}");

    let calls = node.runtime.calls_for("a");
    let methods: Vec<&str> = calls.iter().map(|c| c.method).collect();
    let create = "CreateContainer";
    assert_eq!(methods, ["RunPodSandbox", create, create, create]);
    let request: &v1::CreateContainerRequest = calls[3].request().unwrap();
    assert_eq!(request.pod_sandbox_id, a);
    node.runtime.clear_rules();
}

#[tokio::test(start_paused = true)]
async fn commands_have_their_results_and_their_time() {
    let node = start(Settings::containerd_2_1());
    node.runtime.commands(|subject, command| Executed {
        code: i32::from(command == ["false"]),
        stdout: format!("in {}", subject.container.as_deref().unwrap()),
        takes: if command == ["slow"] {
            10 * SECOND
        } else {
            Duration::ZERO
        },
        ..Executed::default()
    });
    let sandbox = node.sandbox("p").await.unwrap();
    let id = node.run(&sandbox, "c").await;
    let exec = async |command: &str| {
        let command = [command.to_owned()];
        node.client.exec_sync(&id, &command, 2 * SECOND).await
    };
    assert_eq!(exec("true").await.unwrap().exit_code, 0);
    assert_eq!(exec("true").await.unwrap().stdout, b"in c");
    assert_eq!(exec("false").await.unwrap().exit_code, 1);
    assert!(exec("slow").await.is_err());
    node.runtime.exit("p", "c", 0);
    assert!(exec("true").await.is_err());
}

#[tokio::test(start_paused = true)]
async fn events_tell_of_every_change_and_old_runtimes_have_none() {
    use v1::ContainerEventType::{
        ContainerCreatedEvent, ContainerDeletedEvent, ContainerStartedEvent, ContainerStoppedEvent,
    };
    let before = start(Settings::containerd_1_6());
    let refused = before.client.container_events().await.unwrap_err();
    assert!(
        matches!(refused, Error::Unimplemented { .. }),
        "{refused:?}"
    );

    let node = start(Settings::containerd_1_7());
    let mut events = node.client.container_events().await.unwrap();
    let sandbox = node.sandbox("p").await.unwrap();
    let id = node.run(&sandbox, "c").await;
    node.runtime.change(|s| s.remove_sandbox(&sandbox));
    let mut told = vec![];
    for _ in 0..8 {
        let event = events.message().await.unwrap().unwrap();
        told.push((event.container_id.clone(), event.container_event_type()));
    }
    let expected = [
        (&sandbox, ContainerCreatedEvent),
        (&sandbox, ContainerStartedEvent),
        (&id, ContainerCreatedEvent),
        (&id, ContainerStartedEvent),
        (&id, ContainerStoppedEvent),
        (&sandbox, ContainerStoppedEvent),
        (&id, ContainerDeletedEvent),
        (&sandbox, ContainerDeletedEvent),
    ];
    assert_eq!(told, expected.map(|(id, kind)| (id.clone(), kind)));
}

#[tokio::test]
async fn images_are_there_or_have_to_be_pulled() {
    let every = start(Settings::containerd_2_1());
    let node = start(Settings {
        every_image: false,
        ..Settings::containerd_2_1()
    });
    node.runtime.image("named", None, "www");
    let failure = Fate::Fails(Status::not_found("no such image"));
    let rule = Rule::of("PullImage", failure).container("broken");
    node.runtime.rule(rule.nth(1, 1));
    let image = |name: &str| {
        Some(v1::ImageSpec {
            image: name.into(),
            ..v1::ImageSpec::default()
        })
    };
    let status = async |node: &Node, name: &str| {
        let request = v1::ImageStatusRequest {
            image: image(name),
            verbose: false,
        };
        node.client.image_status(request).await.unwrap().image
    };
    let pull = async |name: &str| {
        let request = v1::PullImageRequest {
            image: image(name),
            ..v1::PullImageRequest::default()
        };
        node.client.pull_image(request, 60 * SECOND).await
    };
    assert!(status(&every, "anything").await.is_some());
    assert_eq!(status(&node, "named").await.unwrap().username, "www");
    assert!(status(&node, "broken").await.is_none());
    assert!(pull("broken").await.is_err());
    assert!(status(&node, "broken").await.is_none());
    let pulled = pull("broken").await.unwrap().image_ref;
    assert_eq!(status(&node, "broken").await.unwrap().id, pulled);
}
