//! The machine's clock is set, by a day at a time: it moves what is shown, and nothing that is done.

use std::time::Duration;

use tonic::Status;

use crate::agent::{Agent, DAY, HOUR, SECOND, pod, single};
use crate::runtime::{Fate, Life, Rule, Settings};

const JUMPS: [i64; 2] = [DAY, -DAY];

#[tokio::test(start_paused = true)]
async fn what_runs_runs_on() {
    for jump in JUMPS {
        let mut agent = Agent::start(Settings::containerd_2_1());
        agent.want(&[&single("", "")]);
        agent.until_ready("p").await;
        agent.set_clock(jump);
        tokio::time::sleep(HOUR).await;
        agent.die_and_start().await;
        agent.until_ready("p").await;
        tokio::time::sleep(HOUR).await;
        assert_eq!(agent.starts("p", "c").len(), 1, "{jump}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_crash_loop_goes_on_without_a_storm_and_without_a_pause() {
    for jump in JUMPS {
        let mut agent = Agent::start(Settings::containerd_2_1());
        agent.runtime.lives(|_, _, _| Life::ends_after(SECOND, 1));
        agent.want(&[&single("", "")]);
        tokio::time::sleep(HOUR).await;
        let before = agent.starts("p", "c").len();
        agent.set_clock(jump);
        tokio::time::sleep(HOUR).await;
        let after = agent.starts("p", "c").len() - before;
        assert!(
            (11..=13).contains(&after),
            "{jump}: {after} starts in an hour"
        );
        // A new agent knows only the machine's time: it may come too early once, or wait once more.
        agent.set_clock(jump);
        agent.die_and_start().await;
        tokio::time::sleep(HOUR).await;
        let more = agent.starts("p", "c").len() - before - after;
        assert!(
            (10..=14).contains(&more),
            "{jump}: {more} starts in an hour"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_container_that_ends_just_when_the_clock_is_set_is_started_again() {
    for jump in JUMPS {
        let agent = Agent::start(Settings::containerd_1_6());
        agent.want(&[&single("", "")]);
        agent.until_ready("p").await;
        for restarts in 1..4 {
            agent.runtime.exit(&crate::agent::full("p"), "c", 1);
            agent.set_clock(jump);
            let again = |agent: &Agent| {
                let report = agent.report("p");
                report.restarts == restarts && report.ready == 1
            };
            agent.until_told("it runs again", again).await;
        }
        let starts = agent.starts("p", "c");
        assert!(starts[3] < 40.0, "{jump}: {starts:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_deadline_comes_when_it_would_have_come() {
    for jump in JUMPS {
        let agent = Agent::start(Settings::containerd_2_1());
        let manifest = single("", "activeDeadlineSeconds: 600");
        let before = tokio::time::Instant::now();
        agent.want(&[&manifest]);
        agent.until_ready("p").await;
        tokio::time::sleep(100 * SECOND).await;
        agent.set_clock(jump);
        let failed = |agent: &Agent| agent.report("p").phase == "Failed";
        agent.until_told("it has failed", failed).await;
        assert_eq!(before.elapsed().as_secs(), 600, "{jump}");
        assert_eq!(agent.report("p").reason, "DeadlineExceeded");
    }
}

#[tokio::test(start_paused = true)]
async fn a_deadline_comes_when_it_would_have_come_although_the_agent_was_restarted_too() {
    for jump in [DAY, -DAY, 56 * 365 * DAY] {
        let mut agent = Agent::start(Settings::containerd_2_1());
        let manifest = single("", "activeDeadlineSeconds: 600");
        let before = tokio::time::Instant::now();
        agent.want(&[&manifest]);
        agent.until_ready("p").await;
        tokio::time::sleep(100 * SECOND).await;
        agent.set_clock(jump);
        // Nothing happens to the Pod until then, and its age is shown as it is.
        tokio::time::sleep(60 * SECOND).await;
        let seen: jiff::Timestamp = agent.report("p").seen.parse().unwrap();
        let seen = i64::try_from(seen.as_nanosecond()).unwrap();
        let age = (agent.context.clock.wall_now() - seen) / 1_000_000_000;
        assert!((155..165).contains(&age), "{jump}: {age}");
        agent.die_and_start().await;
        let failed = |agent: &Agent| agent.report("p").phase == "Failed";
        agent.until_told("it has failed", failed).await;
        let took = before.elapsed().as_secs();
        assert!((595..=605).contains(&took), "{jump}: {took}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_time_from_before_a_start_with_a_clock_that_stood_counts_once_the_clock_is_right() {
    let mut agent = Agent::start(Settings::containerd_2_1());
    agent.want(&[&single("", "activeDeadlineSeconds: 600")]);
    agent.until_ready("p").await;
    let seen = agent.report("p").seen;
    tokio::time::sleep(100 * SECOND).await;
    agent.set_clock(-DAY);
    agent.die_and_start().await;
    agent.until_ready("p").await;
    agent.set_clock(DAY);
    tokio::time::sleep(60 * SECOND).await;
    assert_eq!(agent.report("p").seen, seen);
}

#[tokio::test(start_paused = true)]
async fn a_grace_period_is_as_long_as_it_is() {
    for jump in JUMPS {
        let agent = Agent::start(Settings::containerd_2_1());
        agent.runtime.lives(|_, _, _| Life::DEAF);
        agent.want(&[&single("", "terminationGracePeriodSeconds: 60")]);
        agent.until_ready("p").await;
        // The first try is lost, so that the time that is left is worked out anew.
        let lost = Fate::Fails(Status::unknown("not now"));
        agent
            .runtime
            .rule(Rule::of("StopContainer", lost).nth(1, 4));
        let before = tokio::time::Instant::now();
        agent.want(&[]);
        tokio::time::sleep(5 * SECOND).await;
        agent.set_clock(jump);
        agent.until_gone().await;
        let took = before.elapsed().as_secs_f64();
        assert!((60.0..60.5).contains(&took), "{jump}: {took}");
    }
}

#[tokio::test(start_paused = true)]
async fn pulls_go_on_in_their_rhythm() {
    for jump in JUMPS {
        let agent = Agent::start(Settings {
            every_image: false,
            ..Settings::containerd_2_1()
        });
        let failure = Fate::Fails(Status::unknown("no such host"));
        agent.runtime.rule(Rule::of("PullImage", failure));
        agent.want(&[&single("", "")]);
        tokio::time::sleep(20 * SECOND).await;
        agent.set_clock(jump);
        tokio::time::sleep(100 * SECOND).await;
        let calls = agent.runtime.calls();
        let pulls = calls.iter().filter(|c| c.method == "PullImage");
        let pulls: Vec<_> = pulls.map(|c| c.at).collect();
        let waits = pulls.windows(2).map(|p| p[1] - p[0]);
        let waits: Vec<u64> = waits.map(|w: Duration| w.as_secs()).collect();
        assert_eq!(waits, [10, 20, 40], "{jump}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_update_has_the_time_it_was_given() {
    let version = |container: &str| {
        let manifest = pod(&format!(
            "containers: [{{name: {container}, image: 'busybox:1.36'}}]"
        ));
        let annotated = "{name: p, annotations: {podkeeper.io/rollback-after: 60s}}";
        manifest.replace("{name: p}", annotated)
    };
    for jump in JUMPS {
        let agent = Agent::start(Settings::containerd_2_1());
        agent.runtime.lives(|_, name, _| match name {
            "bad" => Life::ends(1),
            _ => Life::LONG,
        });
        agent.want(&[&version("good")]);
        agent.until_ready("p").await;
        agent.want(&[&version("bad")]);
        let tried = |agent: &Agent| agent.container("p", "bad").is_some();
        agent.until_told("the update is tried", tried).await;
        let before = tokio::time::Instant::now();
        tokio::time::sleep(10 * SECOND).await;
        agent.set_clock(jump);
        let taken_back = |agent: &Agent| {
            let update = agent.report("p").update;
            update.is_some_and(|update| update.reason == "RolledBack")
        };
        agent.until_told("it is taken back", taken_back).await;
        let took = before.elapsed().as_secs_f64();
        assert!((59.0..61.0).contains(&took), "{jump}: {took}");
        agent.until_ready("p").await;
    }
}

#[tokio::test(start_paused = true)]
async fn no_time_that_is_shown_stays_a_year_ahead() {
    const YEAR: i64 = 365 * DAY;
    let agent = Agent::start(Settings::containerd_2_1());
    agent.set_clock(YEAR);
    agent.runtime.lives(|_, _, _| Life::ends(1));
    agent.want(&[&single("", "")]);
    let waits = |agent: &Agent| agent.waits_for("p", "c").as_deref() == Some("CrashLoopBackOff");
    agent.until_told("it waits", waits).await;
    agent.set_clock(-YEAR);
    let now = || agent.context.clock.wall_now();
    let left = |nanos: i64| (nanos - now()) / 1_000_000_000;
    let due = agent.told("p").unwrap().until["c"];
    assert!((0..=300).contains(&left(agent.context.clock.wall_of(due))));
    let restarts = agent.report("p").restarts;
    let again = |agent: &Agent| agent.report("p").restarts > restarts && waits(agent);
    agent.until_told("it waits again", again).await;
    let state = agent.container("p", "c").and_then(|c| c.state);
    let message = state.and_then(|s| s.waiting?.message).unwrap();
    let next = message.rsplit(' ').next().unwrap();
    let next: jiff::Timestamp = next.parse().unwrap();
    let next = i64::try_from(next.as_nanosecond()).unwrap();
    assert!((0..=300).contains(&left(next)), "{message}");
}
