//! A runtime that is starting, and one that is replaced: what it can do is asked until it has answered,
//! and again after each connection.

use std::sync::Arc;

use podkeeper::cri::Client;
use podkeeper::cri::{Reported, RuntimeFeatures};
use podkeeper::host::cgroup::CgroupDriver;
use podkeeper::node::runtime::{keep_features, wait_for_runtime};
use podkeeper::translate::Identity;
use podkeeper::translate::NodeFacts;
use tokio::time::Instant;
use tonic::Status;

use crate::agent::{Agent, SECOND, single};
use crate::runtime::{Fate, Rule, Runtime, Settings};

const STRICT: &str = "securityContext: {supplementalGroupsPolicy: Strict}";

fn client(runtime: &Runtime) -> Client {
    Client::new(runtime.endpoint().parse().unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_is_not_up_yet_is_waited_for_whatever_it_says() {
    let words = "server is not initialized yet";
    for error in [
        Status::unknown(words),
        Status::unavailable(words),
        Status::internal(words),
        Status::deadline_exceeded(words),
        Status::failed_precondition(words),
        Status::not_found(words),
    ] {
        for method in ["Version", "RuntimeConfig", "Status"] {
            let folder = tempfile::tempdir().unwrap();
            let settings = Settings::containerd_2_1();
            let runtime = Runtime::start(&folder.path().join("cri.sock"), settings);
            let fails = Fate::Fails(error.clone());
            runtime.rule(Rule::of(method, fails).nth(1, 4));
            let info = wait_for_runtime(&client(&runtime), CgroupDriver::Systemd).await;
            let info = info.unwrap_or_else(|e| panic!("{method} {error:?}: {e}"));
            assert_eq!(info.version, "2.1.9");
            assert_eq!(
                info.cgroup_driver,
                CgroupDriver::Cgroupfs,
                "{method} {error:?}"
            );
            assert!(
                info.reported.features.supplemental_groups_policy,
                "{method} {error:?}"
            );
            assert!(!info.reported.is_incomplete);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_does_not_speak_cri_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = Runtime::start(&folder.path().join("cri.sock"), Settings::containerd_2_1());
    let unknown = Status::unimplemented("unknown service runtime.v1.RuntimeService");
    runtime.rule(Rule::of("Version", Fate::Fails(unknown)));
    let info = wait_for_runtime(&client(&runtime), CgroupDriver::Cgroupfs).await;
    assert!(info.is_err());
}

#[tokio::test(start_paused = true)]
async fn features_that_are_never_reported_do_not_keep_the_agent_from_its_pods() {
    for method in ["Status", "RuntimeConfig"] {
        let folder = tempfile::tempdir().unwrap();
        let runtime = Runtime::start(&folder.path().join("cri.sock"), Settings::containerd_2_1());
        runtime.rule(Rule::of(method, Fate::Hangs));
        let before = Instant::now();
        let info = wait_for_runtime(&client(&runtime), CgroupDriver::Cgroupfs)
            .await
            .unwrap();
        assert!(before.elapsed() <= 80 * SECOND, "{method}");
        assert_eq!(info.reported.is_incomplete, method == "Status");
    }
}

/// An agent on a node of which this was reported, which keeps asking.
fn start(settings: Settings, reported: Reported) -> Agent {
    let facts = NodeFacts {
        runtime: reported.into(),
        identity: Identity {
            ips: vec!["192.0.2.2".to_owned()].into(),
            ..Identity::default()
        },
        ..NodeFacts::default()
    };
    let agent = Agent::start_on(settings, facts);
    let context = Arc::clone(&agent.context);
    let (client, facts) = (context.client.clone(), context.facts.clone());
    tokio::spawn(async move {
        let on_change = || context.allocations.node_changed();
        keep_features(client, facts, 0, on_change).await;
    });
    agent
}

#[tokio::test(start_paused = true)]
async fn a_pod_waits_for_features_that_the_runtime_has_not_reported_yet() {
    let unknown = Reported {
        is_incomplete: true,
        ..Reported::default()
    };
    let agent = start(Settings::containerd_2_1(), unknown);
    let fails = Fate::Fails(Status::unknown("not now"));
    agent.runtime.rule(Rule::of("Status", fails));
    agent.want(&[&single("", STRICT)]);
    let waits = |agent: &Agent| agent.report("p").reason == "RuntimeFeaturesNotReported";
    agent.until_told("it waits for the runtime", waits).await;
    tokio::time::sleep(60 * SECOND).await;
    assert!(waits(&agent));
    agent.runtime.clear_rules();
    agent.until_ready("p").await;
}

#[tokio::test(start_paused = true)]
async fn an_upgrade_of_the_runtime_is_noticed() {
    let old = Reported {
        features: RuntimeFeatures::default(),
        ..Reported::default()
    };
    let agent = start(Settings::containerd_1_6(), old);
    agent.want(&[&single("", STRICT)]);
    let refused =
        |agent: &Agent| agent.report("p").reason == "SupplementalGroupsPolicyNotSupported";
    agent.until_told("it is refused", refused).await;
    tokio::time::sleep(60 * SECOND).await;
    assert!(refused(&agent));
    let new = Settings {
        events: false,
        ..Settings::containerd_2_1()
    };
    agent.runtime.change(|state| state.settings = new);
    agent.runtime.disconnect();
    agent.until_ready("p").await;
    let handlers = agent.context.facts.runtime.handlers();
    assert!(handlers.contains_key("runc"), "{handlers:?}");
    let asked = |method| {
        let calls = agent.runtime.calls();
        calls.iter().filter(|c| c.method == method).count()
    };
    assert!(asked("Version") > 0);
    // Once for each connection, not all the time.
    let before = asked("Status");
    tokio::time::sleep(600 * SECOND).await;
    assert_eq!(asked("Status"), before);
}

/// Pods that wait to start: for an image, and for the runtime.
#[tokio::test(start_paused = true)]
async fn while_a_pod_waits_to_start_nothing_is_told_anew() {
    for method in ["PullImage", "RunPodSandbox"] {
        let agent = Agent::start(Settings::containerd_2_1());
        agent.runtime.rule(Rule::of(method, Fate::Hangs));
        let pull = "imagePullPolicy: Always";
        agent.want(&[&single(pull, "")]);
        let waits = |agent: &Agent| agent.runtime.calls().iter().any(|c| c.method == method);
        agent.until_told("it waits", waits).await;
        tokio::time::sleep(2 * SECOND).await;
        let before = agent.status("p");
        let changes = agent.context.reports.changes();
        let count = *changes.borrow();
        // A call of the runtime has a limit of minutes.
        tokio::time::sleep(50 * SECOND).await;
        assert_eq!(agent.status("p"), before, "{method}");
        assert_eq!(*changes.borrow(), count, "{method}");
    }
}
