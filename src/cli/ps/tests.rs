use super::*;
use crate::pod::state::progress::StepReport;
use crate::server::RefusedReport;

fn now() -> Timestamp {
    "2026-01-01T00:02:05Z".parse().unwrap()
}

fn running(name: &str) -> PodReport {
    PodReport {
        namespace: "default".into(),
        name: name.into(),
        phase: "Running".into(),
        ready: 1,
        total: 1,
        seen: "2026-01-01T00:00:00Z".into(),
        path: "/m/web.yaml".into(),
        ..PodReport::default()
    }
}

#[test]
fn a_stream_has_a_line_for_each_changed_pod() {
    let mut rows = ChangedRows::new(false);
    let status = |pods| NodeStatus {
        pods,
        ..NodeStatus::default()
    };
    let (a, b) = (running("a-n1"), running("b-n1"));
    let first = rows.lines(&status(vec![a.clone(), b.clone()]), now());
    let expected = "\
NAMESPACE   POD    READY   STATUS    RESTARTS   AGE    SOURCE
default     a-n1   1/1     Running   0          2m5s   /m/web.yaml
default     b-n1   1/1     Running   0          2m5s   /m/web.yaml
";
    assert_eq!(first, expected);
    let unready = PodReport {
        ready: 0,
        ..a.clone()
    };
    let second = rows.lines(&status(vec![unready, b.clone()]), now());
    let expected = "default     a-n1   0/1     Running   0          2m5s   /m/web.yaml\n";
    assert_eq!(second, expected);
    let third = rows.lines(&status(vec![a.clone()]), now());
    let expected = "\
default     a-n1   1/1     Running   0          2m5s   /m/web.yaml
default     b-n1   0/0     Gone      0          2m5s   /m/web.yaml
";
    assert_eq!(third, expected);
    assert_eq!(rows.lines(&status(vec![a]), now()), "");
}

#[test]
fn a_pod_that_was_terminating_is_gone_in_the_end() {
    let mut rows = ChangedRows::new(false);
    let ending = PodReport {
        phase: "Terminating".into(),
        ..running("a-n1")
    };
    let status = NodeStatus {
        pods: vec![ending],
        ..NodeStatus::default()
    };
    rows.lines(&status, now());
    let last = rows.lines(&NodeStatus::default(), now());
    let expected = "default     a-n1   0/0     Gone          0          2m5s   /m/web.yaml\n";
    assert_eq!(last, expected);
}

#[test]
fn states_have_their_colours() {
    let failing = PodReport {
        reason: "CrashLoopBackOff".into(),
        ..running("a-n1")
    };
    let unready = PodReport {
        ready: 0,
        ..running("a-n1")
    };
    for (pod, expected) in [(running("a-n1"), GOOD), (unready, UNDERWAY), (failing, BAD)] {
        assert_eq!(style(&pod), expected);
    }
}

#[test]
fn a_page_is_cut_to_the_terminal_and_colours_take_no_room() {
    let page = "\u{1b}[32mlong\u{1b}[0m line\nshort\nthird\n";
    assert_eq!(cut(page, (6, 3)), "\u{1b}[32mlong\u{1b}[0m l\nshort\n");
    assert_eq!(cut(page, (2, 9)), "\u{1b}[32mlo\u{1b}[0m\nsh\nth\n");
}

// Long since it lists its cases.
#[test]
fn a_waiting_pod_is_shown_with_its_reason_time_and_steps() {
    let step = |name: &str, container: &str| StepReport {
        name: name.into(),
        container: container.into(),
        since: "2026-01-01T00:00:30Z".into(),
        ..StepReport::default()
    };
    let waiting = |name: &str, reason: &str, message: &str| ContainerReport {
        name: name.into(),
        state: "waiting".into(),
        reason: reason.into(),
        message: message.into(),
        since: "2026-01-01T00:00:05Z".into(),
        ..ContainerReport::default()
    };
    let creating = PodReport {
        phase: "Pending".into(),
        reason: "ContainerCreating".into(),
        since: "2026-01-01T00:00:05Z".into(),
        containers: vec![
            waiting("a", "ContainerCreating", ""),
            waiting("b", "Pulling", "the image \"b:1\" is being pulled"),
        ],
        steps: vec![step("RunPodSandbox", ""), step("PullImage", "b")],
        warnings: vec!["10:5: spec.containers[0].comand: unknown field".into()],
        ..running("web-n1")
    };
    let init = PodReport {
        phase: "Pending".into(),
        reason: "Init:0/1".into(),
        since: "2026-01-01T00:00:00Z".into(),
        update: Some(crate::pod::report::UpdateReport {
            reason: "Terminating".into(),
            since: "2026-01-01T00:02:00Z".into(),
            ..Default::default()
        }),
        ..running("init-n1")
    };
    let unready = PodReport {
        ready: 0,
        waits_for: vec!["container c: the readiness probe does not succeed".into()],
        ..running("unready-n1")
    };
    let status = NodeStatus {
        pods: vec![creating, init, unready],
        ..NodeStatus::default()
    };
    let page = page(&status, now(), false, false).unwrap();
    let notes = page.split_once("\n\n").unwrap().1;
    let expected = "\
default/web-n1: container a: ContainerCreating for 2m
default/web-n1: container b: Pulling for 2m: the image \"b:1\" is being pulled
default/web-n1: under way: RunPodSandbox for 95s
default/web-n1: container b: under way: PullImage for 95s
default/web-n1: warning: /m/web.yaml:10:5: spec.containers[0].comand: unknown field
default/init-n1: Init:0/1 for 2m5s
default/init-n1: its update waits for 5s: Terminating
default/unready-n1: not Ready: container c: the readiness probe does not succeed
";
    assert_eq!(notes, expected);
    assert!(page.lines().all(|line| line == line.trim_end()), "{page}");
}

#[test]
fn the_table_shows_pods_then_what_they_wait_for_then_what_was_refused() {
    let rejected = PodReport {
        namespace: "default".into(),
        name: "big-n1".into(),
        phase: "Failed".into(),
        reason: "OutOfcpu".into(),
        message: "it asks\nfor \u{1b}[31mtoo much".into(),
        total: 1,
        path: "/m/big.yaml".into(),
        ..PodReport::default()
    };
    let updating = PodReport {
        update: Some(crate::pod::report::UpdateReport {
            uid: "u".into(),
            reason: "ErrImagePull".into(),
            message: "no such image".into(),
            ..Default::default()
        }),
        ..running("web-n1")
    };
    let status = NodeStatus {
        pods: vec![updating, rejected],
        refused: vec![RefusedReport {
            path: "/m/web.bak".into(),
            problems: vec!["3:5: spec: \u{9b}wrong".into()],
            keeps: Some("default/x-n1".into()),
        }],
        ..NodeStatus::default()
    };
    let expected = "\
NAMESPACE   POD      READY   STATUS     RESTARTS   AGE    SOURCE
default     web-n1   1/1     Running    0          2m5s   /m/web.yaml
default     big-n1   0/1     OutOfcpu   0          -      /m/big.yaml

default/web-n1: its update waits: ErrImagePull: no such image
default/big-n1: OutOfcpu: it asks
for ^[[31mtoo much

Refused:
/m/web.bak:3:5: spec: \\u{9b}wrong
  default/x-n1 keeps running as last accepted from there
";
    assert_eq!(page(&status, now(), false, false).unwrap(), expected);
}

#[test]
fn a_container_that_was_killed_for_memory_says_so() {
    let waits = |reason: &str| {
        let container = ContainerReport {
            name: "c".into(),
            state: "waiting".into(),
            reason: "CrashLoopBackOff".into(),
            last_exit_code: Some(137),
            last_exit_reason: reason.into(),
            ..ContainerReport::default()
        };
        let pod = PodReport {
            containers: vec![container],
            ..running("web-n1")
        };
        let mut text = String::new();
        note(&mut text, &pod, now()).unwrap();
        text
    };
    assert!(waits("OOMKilled").ends_with("; last exit code 137, OOMKilled\n"));
    assert!(waits("Error").ends_with("; last exit code 137\n"));
}
