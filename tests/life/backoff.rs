//! Containers that keep ending and images that cannot be had are tried again ever more rarely.

use std::time::Duration;

use podkeeper::cri::v1;
use podkeeper::manifest::objects::ObjectSet;
use podkeeper::manifest::parse_file;
use tonic::Status;

use crate::agent::{Agent, HOUR, IMAGE_PULL_TIMEOUT, NODE, SECOND, full, single};
use crate::runtime::{Call, Executed, Fate, Life, Rule, Settings};

/// The waits between starts of a container that ends at once, in whole seconds.
fn waits(starts: &[f64]) -> Vec<u64> {
    let pairs = starts.windows(2);
    pairs
        .map(|pair| Duration::try_from_secs_f64((pair[1] - pair[0]).round()).unwrap())
        .map(|wait| wait.as_secs())
        .collect()
}

#[tokio::test(start_paused = true)]
async fn over_hours_the_wait_grows_to_five_minutes_and_ten_minutes_of_running_end_it() {
    let agent = Agent::start(Settings::containerd_2_1());
    // One of them is a good one, for eleven minutes.
    agent.runtime.lives(|_, _, attempt| match attempt {
        10 => Life::ends_after(11 * 60 * SECOND, 1),
        _ => Life::ends(1),
    });
    agent.want(&[&single("", "")]);
    tokio::time::sleep(3 * HOUR).await;
    let found = waits(&agent.starts("p", "c"));
    assert_eq!(found[..10], [0, 10, 20, 40, 80, 160, 300, 300, 300, 300]);
    assert_eq!(found[10..17], [660, 10, 20, 40, 80, 160, 300]);
    let rest = &found[17..];
    assert!(
        rest.len() > 15 && rest.iter().all(|w| *w == 300),
        "{found:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn where_the_runtime_tells_of_no_end_the_wait_counts_from_it_all_the_same() {
    let agent = Agent::start(Settings::containerd_1_6());
    agent.runtime.lives(|_, _, _| Life::ends(1));
    agent.want(&[&single("", "")]);
    tokio::time::sleep(200 * SECOND).await;
    let found = waits(&agent.starts("p", "c"));
    assert!(found[0] <= 1, "seen within a second: {found:?}");
    assert_eq!(found[1..], [10, 20, 40, 80]);
}

#[tokio::test(start_paused = true)]
async fn the_wait_is_shown_with_its_end_and_survives_the_agent() {
    let mut agent = Agent::start(Settings::containerd_2_1());
    agent.runtime.lives(|_, _, _| Life::ends(3));
    agent.want(&[&single("", "")]);
    let waits = |agent: &Agent| {
        let restarts = agent.report("p").restarts;
        agent.waits_for("p", "c").as_deref() == Some("CrashLoopBackOff") && restarts == 4
    };
    agent
        .until_told("it backs off for the fourth time", waits)
        .await;
    let status = agent.container("p", "c").unwrap();
    let message = status.state.unwrap().waiting.unwrap().message.unwrap();
    assert!(message.starts_with("back-off 1m20s restarting failed container=c pod="));
    let ended = status.last_state.unwrap().terminated.unwrap();
    assert_eq!(ended.exit_code, 3);
    let ended = ended.finished_at.unwrap().0;
    let next: jiff::Timestamp = message.rsplit(' ').next().unwrap().parse().unwrap();
    assert_eq!((next - ended).get_seconds(), 80, "{message}");

    tokio::time::sleep(30 * SECOND).await;
    agent.die_and_start().await;
    agent.until_told("the new agent waits too", waits).await;
    let more = |agent: &Agent| agent.report("p").restarts == 5;
    agent.until_told("it is started again", more).await;
    let starts = agent.starts("p", "c");
    let wait = starts[5] - starts[4];
    assert!((79.5..81.0).contains(&wait), "{wait}");
}

/// Starts of a container whose liveness probe fails after 15 s, seven of them, in whole seconds; the agent
/// dies after the start with this number.
async fn starts_after_liveness_failures(dies_after: Option<usize>) -> Vec<u64> {
    let mut agent = Agent::start(Settings::containerd_2_1());
    agent.runtime.commands(|_, _| Executed {
        code: 1,
        ..Executed::default()
    });
    let probe = "livenessProbe: {exec: {command: [fails]}, periodSeconds: 5, failureThreshold: 3}";
    agent.want(&[&single(probe, "terminationGracePeriodSeconds: 1")]);
    for count in 1..8 {
        let enough = |agent: &Agent| agent.starts("p", "c").len() >= count;
        agent.until_told("it is started again", enough).await;
        if dies_after == Some(count) {
            tokio::time::sleep(SECOND).await;
            agent.die_and_start().await;
        }
    }
    let starts = agent.starts("p", "c").into_iter();
    let whole = |at: f64| Duration::try_from_secs_f64(at.round()).unwrap().as_secs();
    starts.map(whole).collect()
}

#[tokio::test(start_paused = true)]
async fn restarts_after_liveness_failures_are_never_later_than_the_kubelets() {
    let kubelet = [0, 15, 30, 45, 80, 135, 230];
    let found = starts_after_liveness_failures(None).await;
    assert_eq!(
        found[..4],
        kubelet[..4],
        "the first ones at once: {found:?}"
    );
    let later = found.iter().zip(kubelet).any(|(at, kubelet)| *at > kubelet);
    assert!(!later, "{found:?}");
    assert!(found[6] - found[5] > 80, "it still backs off: {found:?}");
    for dies_after in [1, 3, 5] {
        let again = starts_after_liveness_failures(Some(dies_after)).await;
        // A new agent has its own rounds.
        let near = again.iter().zip(&found).all(|(a, b)| a.abs_diff(*b) <= 15);
        assert!(
            near,
            "died after start {dies_after}: {again:?}, else {found:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_longest_wait_is_a_setting() {
    let mut agent = Agent::start(Settings::containerd_2_1());
    agent.longest_backoff(15 * SECOND);
    agent.die_and_start().await;
    agent.runtime.lives(|_, _, _| Life::ends(1));
    agent.want(&[&single("", "")]);
    tokio::time::sleep(100 * SECOND).await;
    assert_eq!(waits(&agent.starts("p", "c")), [0, 10, 15, 15, 15, 15, 15]);
}

#[tokio::test(start_paused = true)]
async fn an_image_that_cannot_be_had_is_asked_for_ever_more_rarely_until_it_is_there() {
    let agent = Agent::start(Settings {
        every_image: false,
        ..Settings::containerd_2_1()
    });
    let failure = Fate::Fails(Status::unknown("no such host"));
    agent.runtime.rule(Rule::of("PullImage", failure).nth(1, 9));
    agent.want(&[&single("", "")]);
    let failed = |agent: &Agent| agent.waits_for("p", "c").as_deref() == Some("ErrImagePull");
    agent.until_told("the pull has failed", failed).await;
    let waits_longer =
        |agent: &Agent| agent.waits_for("p", "c").as_deref() == Some("ImagePullBackOff");
    agent.until_told("it has failed again", waits_longer).await;
    let waiting = agent.container("p", "c").unwrap().state.unwrap().waiting;
    let back_off = "Back-off pulling image \"busybox:1.36\": ErrImagePull: no such host";
    assert_eq!(waiting.unwrap().message.as_deref(), Some(back_off));
    agent.until_ready("p").await;
    let calls = agent.runtime.calls();
    let pulls = calls.iter().filter(|c| c.method == "PullImage");
    let pulls: Vec<_> = pulls.map(|c| c.at).collect();
    let waits: Vec<u64> = pulls.windows(2).map(|p| (p[1] - p[0]).as_secs()).collect();
    assert_eq!(waits, [10, 20, 40, 80, 160, 300, 300, 300, 300]);

    let told: Vec<(String, String, u32)> = agent
        .events("p")
        .into_iter()
        .map(|e| (e.reason, e.message, e.count))
        .collect();
    let image = "busybox:1.36";
    for (reason, message, count) in [
        ("Pulling", format!("Pulling image \"{image}\""), 10),
        ("Failed", "Error: ErrImagePull".to_owned(), 9),
        ("BackOff", format!("Back-off pulling image \"{image}\""), 9),
        ("Failed", "Error: ImagePullBackOff".to_owned(), 9),
    ] {
        let event = (reason.to_owned(), message, count);
        assert!(told.contains(&event), "{event:?} in {told:#?}");
    }
    let failed = |(reason, message, _): &&(String, String, u32)| {
        reason == "Failed"
            && message.starts_with(&format!("Failed to pull image \"{image}\": "))
            && message.contains("no such host")
    };
    assert!(told.iter().any(|e| failed(&e)), "{told:#?}");
    let pulled = format!("Successfully pulled image \"{image}\" in ");
    assert!(
        told.iter().any(|(_, m, _)| m.starts_with(&pulled)),
        "{told:#?}"
    );
    assert_eq!(agent.running("p"), [("c".to_owned(), 0)], "{}", full("p"));
}

#[tokio::test(start_paused = true)]
async fn an_image_that_must_not_be_pulled_is_looked_for_again_and_again() {
    let agent = Agent::start(Settings {
        every_image: false,
        ..Settings::containerd_2_1()
    });
    agent.want(&[&single("imagePullPolicy: Never", "")]);
    let never = |agent: &Agent| agent.waits_for("p", "c").as_deref() == Some("ErrImageNeverPull");
    agent.until_told("the image is not there", never).await;
    tokio::time::sleep(HOUR + 100 * SECOND).await;
    assert!(never(&agent));
    let before = tokio::time::Instant::now();
    agent.runtime.image("busybox:1.36", Some(0), "");
    agent.until_ready("p").await;
    assert!(before.elapsed() <= 10 * SECOND, "{:?}", before.elapsed());
    let calls = agent.runtime.calls();
    assert!(calls.iter().all(|call| call.method != "PullImage"));
}

#[tokio::test(start_paused = true)]
async fn a_pull_that_hangs_ends_with_its_timeout_and_is_begun_again() {
    let agent = Agent::start(Settings {
        every_image: false,
        ..Settings::containerd_2_1()
    });
    let hangs = Rule::of("PullImage", Fate::Hangs).nth(1, 1);
    agent.runtime.rule(hangs);
    let began = tokio::time::Instant::now();
    agent.want(&[&single("", "")]);
    let failed = |agent: &Agent| agent.waits_for("p", "c").as_deref() == Some("ErrImagePull");
    agent.until_told("the pull fails", failed).await;
    let took = began.elapsed();
    let expected = IMAGE_PULL_TIMEOUT..IMAGE_PULL_TIMEOUT + 60 * SECOND;
    assert!(expected.contains(&took), "{took:?}");
    let said = "Timed out after 30m0s pulling the image (--image-pull-timeout)";
    let events = agent.events("p");
    assert!(
        events.iter().any(|e| e.message.contains(said)),
        "{events:#?}"
    );
    agent.until_ready("p").await;
}

#[tokio::test(start_paused = true)]
async fn a_pull_that_the_runtime_gave_up_says_why() {
    let agent = Agent::start(Settings {
        every_image: false,
        ..Settings::containerd_2_1()
    });
    let failure = Fate::Fails(Status::cancelled("failed to pull: context canceled"));
    agent.runtime.rule(Rule::of("PullImage", failure));
    agent.want(&[&single("", "")]);
    let said = |agent: &Agent| {
        let message = agent.report("p").message;
        message
            .contains("context canceled: the container runtime gave the pull up, as it does when")
    };
    agent.until_told("it says why", said).await;
}

#[tokio::test(start_paused = true)]
async fn the_error_of_a_pull_is_shown_while_the_next_one_hangs() {
    let agent = Agent::start(Settings {
        every_image: false,
        ..Settings::containerd_2_1()
    });
    agent
        .runtime
        .rule(Rule::of("PullImage", Fate::Hangs).nth(2, 1));
    let failure = Fate::Fails(Status::unknown("no such host"));
    agent.runtime.rule(Rule::of("PullImage", failure).nth(1, 1));
    agent.want(&[&single("", "")]);
    let hangs = |agent: &Agent| {
        let report = agent.report("p");
        let again = "no such host; the image \"busybox:1.36\" is being pulled again since 20";
        report.reason == "ErrImagePull" && report.message.starts_with(again)
    };
    agent.until_told("the next pull hangs", hangs).await;
    tokio::time::sleep(60 * SECOND).await;
    assert!(hangs(&agent), "{:?}", agent.report("p"));
    // An update shows it, too.
    agent.runtime.clear_rules();
    agent.until_ready("p").await;
    agent
        .runtime
        .rule(Rule::of("PullImage", Fate::Hangs).nth(2, 1));
    let failure = Fate::Fails(Status::unknown("no such host"));
    agent.runtime.rule(Rule::of("PullImage", failure).nth(1, 1));
    agent.want(&[&single("", "").replace("1.36", "2")]);
    let hangs = |agent: &Agent| {
        let update = agent.report("p").update.unwrap_or_default();
        let again = "no such host; the image \"busybox:2\" is being pulled again since 20";
        update.reason == "ErrImagePull" && update.message.starts_with(again)
    };
    agent
        .until_told("the pull of the update hangs", hangs)
        .await;
    tokio::time::sleep(60 * SECOND).await;
    assert!(hangs(&agent), "{:?}", agent.report("p"));
}

#[tokio::test(start_paused = true)]
async fn an_edit_and_a_removal_do_not_wait_for_a_pull() {
    let agent = Agent::start(Settings {
        every_image: false,
        ..Settings::containerd_2_1()
    });
    agent.runtime.image("other:1", Some(0), "");
    agent.runtime.rule(Rule::of("PullImage", Fate::Hangs));
    let pulled = async |count: usize| {
        let pulls = || {
            let calls = agent.runtime.calls().into_iter();
            calls.filter(|call| call.method == "PullImage").count()
        };
        while pulls() < count {
            tokio::time::sleep(SECOND / 10).await;
        }
    };
    let began = tokio::time::Instant::now();
    let manifest = single("", "terminationGracePeriodSeconds: 1");
    agent.want(&[&manifest]);
    pulled(1).await;
    agent.want(&[&manifest.replace("busybox:1.36", "other:1")]);
    agent.until_ready("p").await;
    // While the version that runs waits for the image of the next one.
    agent.want(&[&single("tty: true", "terminationGracePeriodSeconds: 1").replace("1.36", "2")]);
    pulled(2).await;
    agent.want(&[]);
    agent.until_gone().await;
    assert!(began.elapsed() < 60 * SECOND, "{:?}", began.elapsed());
}

/// The Secret of the Pod with a login for Docker Hub, by its password.
fn login(password: &str) -> ObjectSet {
    let config =
        format!(r#"{{"auths": {{"docker.io": {{"username": "u", "password": "{password}"}}}}}}"#);
    let secret = format!(
        "{{apiVersion: v1, kind: Secret, metadata: {{name: login}}, type: kubernetes.io/dockerconfigjson, \
         stringData: {{.dockerconfigjson: '{config}'}}}}"
    );
    let manifest = parse_file(secret.as_bytes(), NODE).unwrap();
    let objects = manifest.objects.into_iter();
    objects.map(|object| (object.key, object.content)).collect()
}

#[tokio::test(start_paused = true)]
async fn another_secret_has_a_pull_tried_again_at_once() {
    let agent = Agent::start(Settings {
        every_image: false,
        ..Settings::containerd_2_1()
    });
    let failure = Fate::Fails(Status::unknown("401 Unauthorized"));
    agent.runtime.rule(Rule::of("PullImage", failure).nth(1, 4));
    let late = Rule::of("PullImage", Fate::Late(5 * SECOND));
    agent.runtime.rule(late.nth(3, 1));
    let pulls = || {
        let calls = agent.runtime.calls().into_iter();
        let calls = calls.filter(|call| call.method == "PullImage");
        let pull = |call: Call| {
            let request = call.request::<v1::PullImageRequest>().unwrap();
            (
                request.auth.as_ref().map(|auth| auth.password.clone()),
                call.at,
            )
        };
        calls.map(pull).collect::<Vec<_>>()
    };
    let manifest = single("", "imagePullSecrets: [{name: login}]");
    agent.want_with(&[&manifest], &login("first"));
    let failed = |agent: &Agent| agent.waits_for("p", "c").as_deref() == Some("ErrImagePull");
    agent.until_told("the pull has failed", failed).await;
    agent.want_with(&[&manifest], &login("second"));
    while pulls().len() < 3 {
        tokio::time::sleep(SECOND / 10).await;
    }
    // While the pull with the second is under way.
    agent.want_with(&[&manifest], &login("third"));
    agent.until_ready("p").await;
    let pulls = pulls();
    let passwords: Vec<_> = pulls
        .iter()
        .map(|(password, _)| password.as_deref())
        .collect();
    assert_eq!(
        passwords,
        [Some("first"), None, Some("second"), None, Some("third")]
    );
    let took = pulls[4].1 - pulls[1].1;
    assert!(took < 7 * SECOND, "{took:?}");
}
