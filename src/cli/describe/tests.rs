use super::*;
use crate::pod::events::EventKind;
use crate::pod::report::{ContainerReport, PodReport};
use crate::pod::state::progress::StepReport;
use serde_json::json;

/// 2026-01-01T00:00:00Z.
const THEN: i64 = 1_767_225_600;

fn crashing() -> PodDetail {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web-n1", "labels": {"app": "web", "tier": "front"}},
        "spec": {
            "restartPolicy": "Always", "terminationGracePeriodSeconds": 30,
            "dnsPolicy": "ClusterFirst", "hostNetwork": true,
            "volumes": [
                {"name": "data", "hostPath": {"path": "/srv/data", "type": "Directory"}},
                {"name": "tmp", "emptyDir": {}},
            ],
            "initContainers": [{"name": "setup", "image": "setup:1"}],
            "containers": [{
                "name": "web", "image": "web:1", "imagePullPolicy": "IfNotPresent",
                "command": ["sh", "-c", "serve --port 80"],
                "ports": [{"name": "http", "containerPort": 80, "hostPort": 8080}],
                "resources": {"requests": {"cpu": "100m", "memory": "16Mi"},
                              "limits": {"memory": "32Mi"}},
                "env": [{"name": "MODE", "value": "fast"},
                        {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
                        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
                "volumeMounts": [
                    {"name": "data", "mountPath": "/data", "readOnly": true, "subPath": "in"},
                    {"name": "tmp", "mountPath": "/tmp"}],
                "readinessProbe": {"httpGet": {"path": "/ok", "port": "http", "scheme": "HTTP"},
                                   "periodSeconds": 5, "timeoutSeconds": 2},
                "livenessProbe": {"exec": {"command": ["test", "-e", "/run/ok"]}},
                "lifecycle": {"preStop": {"sleep": {"seconds": 3}}},
            }],
        },
        "status": {
            "qosClass": "Burstable", "hostIPs": [{"ip": "10.0.0.7"}],
            "conditions": [
                {"type": "Initialized", "status": "True", "lastTransitionTime": "2026-01-01T00:00:01Z"},
                {"type": "Ready", "status": "False", "lastTransitionTime": "2026-01-01T00:01:00Z",
                 "reason": "ContainersNotReady", "message": "containers with unready status: [web]"}],
            "initContainerStatuses": [{
                "name": "setup", "ready": true, "restartCount": 0, "image": "setup:1",
                "imageID": "sha256:12", "containerID": "containerd://ab",
                "state": {"terminated": {"exitCode": 0, "reason": "Completed",
                    "startedAt": "2026-01-01T00:00:00Z", "finishedAt": "2026-01-01T00:00:01Z"}},
                "lastState": {}}],
            "containerStatuses": [{
                "name": "web", "ready": false, "restartCount": 2, "image": "web:1",
                "imageID": "sha256:34", "containerID": "containerd://cd",
                "state": {"waiting": {"reason": "CrashLoopBackOff",
                    "message": "back-off 20s restarting failed container=web"}},
                "lastState": {"terminated": {"exitCode": 3, "reason": "Error",
                    "startedAt": "2026-01-01T00:00:58Z", "finishedAt": "2026-01-01T00:01:00Z",
                    "message": "no such\u{1b} port\r\nbye\n"}}}],
        },
    });
    PodDetail {
        report: PodReport {
            namespace: "default".into(),
            name: "web-n1".into(),
            uid: "0123".into(),
            phase: "Running".into(),
            reason: "CrashLoopBackOff".into(),
            message: "back-off 20s restarting failed container=web".into(),
            seen: "2026-01-01T00:00:00.123456789Z".into(),
            path: "/m/web.yaml".into(),
            ips: vec!["10.88.0.2".into()],
            update: Some(crate::pod::report::UpdateReport {
                uid: "4567".into(),
                reason: "ErrImagePull".into(),
                message: "no such image".into(),
                ..Default::default()
            }),
            ..PodReport::default()
        },
        pod: serde_json::from_value(pod).unwrap(),
        until: [("web".to_owned(), (THEN + 80) * 1_000_000_000)].into(),
        logs: "/var/log/pods/default_web-n1_0123".into(),
        ..PodDetail::default()
    }
}

// Long since it lists its cases.
#[test]
fn a_page_tells_everything_about_a_pod() {
    let event = Event {
        number: 7,
        namespace: "default".into(),
        name: "web-n1".into(),
        uid: "0123".into(),
        field: "spec.containers{web}".into(),
        kind: EventKind::Warning,
        reason: "BackOff".into(),
        message: "Back-off restarting failed\r container web".into(),
        count: 2,
        first: (THEN + 30) * 1_000_000_000,
        last: (THEN + 60) * 1_000_000_000,
    };
    let now = Timestamp::from_second(THEN + 65).unwrap();
    let expected = "\
Name:           web-n1
Namespace:      default
UID:            0123
Source:         /m/web.yaml
Seen:           2026-01-01T00:00:00Z (65s ago)
Labels:         app=web
                tier=front
Status:         Running
Reason:         CrashLoopBackOff
Message:        back-off 20s restarting failed container=web
Update:         4567 waits: ErrImagePull: no such image
IPs:            10.88.0.2
Node IPs:       10.0.0.7
QoS class:      Burstable
Logs:           /var/log/pods/default_web-n1_0123
Restart policy: Always
Grace period:   30s
DNS policy:     ClusterFirst
Of the host:    network
Conditions:
  TYPE          STATUS   SINCE   REASON
  Initialized   True     64s
  Ready         False    5s      ContainersNotReady: containers with unready status: [web]
Init containers:
  setup:
    State:          Completed, exit code 0, started 2026-01-01T00:00:00Z (65s ago), ended 2026-01-01T00:00:01Z (64s ago)
    Ready:          yes
    Restarts:       0
    ID:             containerd://ab
    Image ID:       sha256:12
    Image:          setup:1
Containers:
  web:
    State:          waiting: CrashLoopBackOff
                    back-off 20s restarting failed container=web
    Next try:       2026-01-01T00:01:20Z (in 15s)
    Last exit:      Error, exit code 3, started 2026-01-01T00:00:58Z (7s ago), ended 2026-01-01T00:01:00Z (5s ago)
                    no such^[ port
                    bye
    Ready:          no
    Restarts:       2
    ID:             containerd://cd
    Image ID:       sha256:34
    Image:          web:1
    Pull policy:    IfNotPresent
    Command:        sh -c \"serve --port 80\"
    Ports:          80/TCP (http) on the host's :8080
    Requests:       cpu=100m, memory=16Mi
    Limits:         memory=32Mi
    Env:            MODE=fast
                    KEY=<k of Secret s>
                    IP=<status.podIP>
    Mounts:         /data from data/in (ro)
                    /tmp from tmp (rw)
    Liveness:       exec test -e /run/ok after 0s, every 10s for at most 1s, good after 1, bad after 3
    Readiness:      GET http://:http/ok after 0s, every 5s for at most 2s, good after 1, bad after 3
    Pre-stop:       sleep 3s
Volumes:
  data   hostPath   path=/srv/data, type=Directory
  tmp    emptyDir
Events:
  AGE   TYPE      REASON    CONTAINER   MESSAGE
  5s    Warning   BackOff   web         Back-off restarting failed\\r container web (2 times since 2026-01-01T00:00:30Z)
";
    let page = describe_pod(&crashing(), &[event], now);
    assert_eq!(page, expected, "{page}");
}

#[test]
fn the_reason_of_a_waiting_pod_is_described_with_its_time() {
    let step = |name: &str, container: &str| StepReport {
        name: name.into(),
        container: container.into(),
        since: "2026-01-01T00:00:30Z".into(),
        ..StepReport::default()
    };
    let mut pod = crashing();
    pod.report.since = "2026-01-01T00:01:00Z".into();
    pod.report.steps = vec![step("RunPodSandbox", ""), step("PullImage", "web")];
    pod.report.warnings = vec!["10:5: spec.containers[0].comand: unknown field".into()];
    pod.report.containers = vec![ContainerReport {
        name: "web".into(),
        state: "waiting".into(),
        reason: "Pulling".into(),
        message: "the image \"web:1\" is being pulled".into(),
        since: "2026-01-01T00:00:30Z".into(),
        ..ContainerReport::default()
    }];
    if let Some(update) = &mut pod.report.update {
        update.message.clear();
    }
    let spec = pod.pod.as_mut().and_then(|pod| pod.spec.as_mut()).unwrap();
    let probe = spec.containers[0].readiness_probe.as_mut().unwrap();
    probe.http_get.as_mut().unwrap().path = Some("ok".into());
    spec.containers[0].command = Some(vec!["sh".into(), "-c".into(), "a\n\nb ".into()]);
    let page = describe_pod(&pod, &[], Timestamp::from_second(THEN + 65).unwrap());
    for lines in [
        "Reason:         CrashLoopBackOff\n",
        "Waits since:    2026-01-01T00:01:00Z (5s ago)\n\
         Under way:      RunPodSandbox since 2026-01-01T00:00:30Z (35s ago)\n\
         Update:         4567 waits: ErrImagePull\n\
         Warnings:       10:5: spec.containers[0].comand: unknown field\n",
        "    State:          waiting: Pulling\n                    \
         the image \"web:1\" is being pulled\n    \
         Waits since:    2026-01-01T00:00:30Z (35s ago)\n",
        "    Under way:      PullImage since 2026-01-01T00:00:30Z (35s ago)\n",
        "    Readiness:      GET http://:http/ok after 0s",
    ] {
        assert!(page.contains(lines), "no {lines} in\n{page}");
    }
    assert!(page.lines().all(|line| line == line.trim_end()), "{page}");
}

#[test]
fn a_pod_whose_manifest_is_not_known_is_described_as_far_as_it_is() {
    let mut pod = crashing();
    pod.pod = None;
    pod.report.update = None;
    pod.report.phase = "Terminating".into();
    let page = describe_pod(&pod, &[], Timestamp::from_second(THEN).unwrap());
    assert!(page.contains("Status:         Terminating\n"), "{page}");
    assert!(
        page.ends_with("Events:         none since the agent started\n"),
        "{page}"
    );
}

#[test]
fn sources_of_volumes_are_told_with_what_they_hold() {
    let source = json!({"sources": [{"secret": {"name": "s"}}, {"configMap": {"name": "c"}}],
                        "defaultMode": 420});
    assert_eq!(
        described(&source),
        "defaultMode=420, sources=[secret={name=s}, configMap={name=c}]"
    );
}
