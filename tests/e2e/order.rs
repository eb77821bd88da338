//! Which container comes when, which runs again, and what is over: init containers, sidecars, restart
//! policies and rules, and what containers leave to say.

use podkeeper::cri::v1;
use podkeeper::pod::report::PodReport;

use super::node::{BUSYBOX, FOREVER, Node, pod, pod_with};
use super::ports::free;

super::on_each_containerd!(
    sidecars_start_before_and_stop_after_the_rest_and_nothing_done_is_done_again,
    a_failed_init_container_is_tried_again_if_the_policy_says_so,
    what_is_finished_stays_so_whatever_is_removed_of_it,
    restart_rules_go_before_the_policy,
    what_containers_leave_to_say_is_shown,
    the_longest_wait_between_restarts_is_a_setting,
    a_host_port_passes_on_when_its_old_owner_has_ended,
);

async fn sidecars_start_before_and_stop_after_the_rest_and_nothing_done_is_done_again(
    mut node: Node,
) {
    node.make_out();
    let long = |name: &str| {
        format!(
            "image: $BUSYBOX\n    $MOUNT\n    command: [sh, -c, \"trap 'sleep 0.2; echo stop {name} >> /out/log; exit 0' \
             TERM; echo start {name} >> /out/log; while :; do sleep 0.05; done\"]"
        )
    };
    let spec = format!(
        "
  terminationGracePeriodSeconds: 30
  volumes: $OUT
  initContainers:
  - name: first
    {}
    restartPolicy: Always
    startupProbe: {{exec: {{command: [sh, -c, 'echo >> /out/rounds; cat /out/go']}}, periodSeconds: 1, failureThreshold: 100}}
  - name: init
    image: $BUSYBOX
    command: [sh, -c, 'echo start init >> /out/log']
    $MOUNT
  - name: second
    {}
    restartPolicy: Always
  containers:
  - name: c
    {}
",
        long("first"),
        long("second"),
        long("main")
    );
    node.put_with_out("web", &spec);
    node.start_agent();
    node.wait_until("the first one was probed", async || {
        node.lines("rounds").len() > 2
    })
    .await;
    assert_eq!(node.lines("log"), ["start first"], "the others wait for it");
    assert_eq!(node.report("web").await.unwrap().reason, "Init:0/3");
    std::fs::write(node.path("out/go"), "").unwrap();
    wait_ready(&node, "web", 3).await;
    let started = ["start first", "start init", "start second", "start main"];
    node.wait_until("all have begun, in order", async || {
        node.lines("log") == started
    })
    .await;

    // A dead instance of a sidecar and an init container that is done, removed by somebody.
    let second = node.wait_container("web", "second").await;
    node.kill_container(&second.id).await;
    node.wait_until("the sidecar runs again", async || {
        let again = node.running_one("web", "second").await;
        again.is_some_and(|c| c.id != second.id)
    })
    .await;
    node.remove_container(&second.id).await;
    node.remove_container(&node.newest("web", "init").await.unwrap().id)
        .await;
    node.kill_agent();
    node.start_agent();
    wait_ready(&node, "web", 3).await;
    let again = [started.as_slice(), &["start second"]].concat();
    node.wait_until(
        "the sidecar has begun again, and nothing else",
        async || node.lines("log") == again,
    )
    .await;

    node.remove("web.yaml");
    node.wait_gone().await;
    let stopped = ["stop main", "stop second", "stop first"];
    assert_eq!(node.lines("log"), [again.as_slice(), &stopped].concat());
}

async fn wait_ready(node: &Node, pod: &str, count: usize) {
    node.wait_until(&format!("{pod} is ready"), async || {
        node.report(pod).await.is_some_and(|r| r.ready == count)
    })
    .await;
}

async fn a_failed_init_container_is_tried_again_if_the_policy_says_so(mut node: Node) {
    node.make_out();
    let spec = |policy: &str| {
        format!(
            "
  restartPolicy: {policy}
  volumes: $OUT
  initContainers:
  - name: init
    image: $BUSYBOX
    command: [sh, -c, '[ -e /out/{policy} ] || {{ touch /out/{policy}; exit 4; }}']
    $MOUNT
  containers:
  - name: c
    image: $BUSYBOX
    command: $FOREVER
"
        )
    };
    for policy in ["Always", "OnFailure", "Never"] {
        node.put_with_out(&policy.to_lowercase(), &spec(policy));
    }
    node.start_agent();
    for again in ["always", "onfailure"] {
        node.wait_running(again).await;
        let init = node.newest(again, "init").await.unwrap();
        assert_eq!(init.metadata.unwrap().attempt, 1, "{again}");
    }
    node.wait_until("the other has failed", async || {
        node.report("never")
            .await
            .is_some_and(|r| r.phase == "Failed")
    })
    .await;
    assert!(node.newest("never", "c").await.is_none());
    assert_eq!(
        node.newest("never", "init")
            .await
            .unwrap()
            .metadata
            .unwrap()
            .attempt,
        0
    );
    for pod in ["always", "onfailure", "never"] {
        node.remove(&format!("{pod}.yaml"));
    }
    node.wait_gone().await;
}

async fn what_is_finished_stays_so_whatever_is_removed_of_it(mut node: Node) {
    let never = "  restartPolicy: Never\n";
    node.put("good.yaml", &pod_with("good", BUSYBOX, "exit 0", never));
    node.put("bad.yaml", &pod_with("bad", BUSYBOX, "exit 5", never));
    node.start_agent();
    let over = async |node: &Node| {
        for (pod, phase, code) in [("good", "Succeeded", 0), ("bad", "Failed", 5)] {
            node.wait_until(&format!("{pod} is over"), async || {
                let report = node.report(pod).await.unwrap_or_default();
                let code = Some(code);
                report.phase == phase && report.containers[0].last_exit_code == code
            })
            .await;
        }
    };
    over(&node).await;
    for container in node.containers().await {
        node.remove_container(&container.id).await;
    }
    node.put("later.yaml", &pod("later", FOREVER));
    node.wait_running("later").await;
    over(&node).await;
    node.kill_agent();
    for sandbox in node.sandboxes().await {
        let name = sandbox.metadata.unwrap().name;
        if name == node.full_name("later") {
            continue;
        }
        let request = v1::RemovePodSandboxRequest {
            pod_sandbox_id: sandbox.id,
        };
        node.client.remove_pod_sandbox(request).await.unwrap();
    }
    node.start_agent();
    over(&node).await;
    node.wait_known(1).await;
    assert_eq!(node.sandboxes().await.len(), 1, "nothing else was made");
    for pod in ["good", "bad", "later"] {
        node.remove(&format!("{pod}.yaml"));
    }
    node.wait_gone().await;
}

async fn restart_rules_go_before_the_policy(mut node: Node) {
    node.make_out();
    // The first container ends when the other has begun, which is told by what that one wrote.
    let spec = |action: &str, name: &str| {
        format!(
            "
  restartPolicy: Never
  volumes: $OUT
  containers:
  - name: c
    image: $BUSYBOX
    command: [sh, -c, '[ -e /out/{name} ] && exit 0; touch /out/{name}; until grep -q {name} /out/others; do sleep 0.1; done; exit 42']
    restartPolicy: Never
    restartPolicyRules: [{{action: {action}, exitCodes: {{operator: In, values: [42]}}}}]
    $MOUNT
  - name: other
    image: $BUSYBOX
    command: [sh, -c, 'echo {name} >> /out/others; trap \"exit 0\" TERM; while [ ! -e /out/end ]; do sleep 0.1; done']
    $MOUNT
"
        )
    };
    node.put_with_out("one", &spec("Restart", "one"));
    node.put_with_out("all", &spec("RestartAllContainers", "all"));
    node.start_agent();
    let restarts =
        |report: &PodReport| -> Vec<u32> { report.containers.iter().map(|c| c.restarts).collect() };
    for (pod, expected) in [("one", [1, 0]), ("all", [1, 1])] {
        node.wait_until(&format!("{pod} follows its rule"), async || {
            let report = node.report(pod).await.unwrap_or_default();
            let done = report.containers.first().and_then(|c| c.last_exit_code) == Some(0);
            done && restarts(&report) == expected && report.ready == 1
        })
        .await;
    }
    std::fs::write(node.path("out/end"), "").unwrap();
    for pod in ["one", "all"] {
        node.wait_until(&format!("{pod} succeeds"), async || {
            node.report(pod)
                .await
                .is_some_and(|r| r.phase == "Succeeded")
        })
        .await;
        node.remove(&format!("{pod}.yaml"));
    }
    node.wait_gone().await;
    let mut others = node.lines("others");
    others.sort();
    assert_eq!(others, ["all", "all", "one"]);
}

async fn what_containers_leave_to_say_is_shown(mut node: Node) {
    let never = "  restartPolicy: Never\n";
    let words = |policy: &str| format!("    terminationMessagePolicy: {policy}\n{never}");
    let path = format!("    terminationMessagePath: /tmp/last\n{never}");
    let log = "echo 'from the log'; exit 6";
    node.put(
        "file.yaml",
        &pod_with(
            "file",
            BUSYBOX,
            "echo said > /dev/termination-log; exit 6",
            never,
        ),
    );
    node.put(
        "path.yaml",
        &pod_with("path", BUSYBOX, "echo elsewhere > /tmp/last", &path),
    );
    node.put(
        "log.yaml",
        &pod_with("log", BUSYBOX, log, &words("FallbackToLogsOnError")),
    );
    node.put("none.yaml", &pod_with("none", BUSYBOX, log, &words("File")));
    let memory = format!("    resources: {{limits: {{memory: 16Mi}}}}\n{never}");
    node.put(
        "oom.yaml",
        &pod_with("oom", BUSYBOX, "tail /dev/zero", &memory),
    );
    node.start_agent();
    for (pod, phase, reason, message) in [
        ("file", "Failed", "Error", "said\n"),
        ("path", "Succeeded", "Completed", "elsewhere\n"),
        ("log", "Failed", "Error", "from the log\n"),
        ("none", "Failed", "Error", ""),
    ] {
        node.wait_until(&format!("{pod} has said {message:?}"), async || {
            let report = node.report(pod).await.unwrap_or_default();
            let said = report
                .containers
                .first()
                .map(|c| (c.reason.as_str(), c.message.as_str()));
            report.phase == phase && said == Some((reason, message))
        })
        .await;
        node.remove(&format!("{pod}.yaml"));
    }
    // The runtime hears of the memory and of the end on two ways, in any order.
    node.wait_until("oom was killed", async || {
        let report = node.report("oom").await.unwrap_or_default();
        let said = report.containers.first();
        report.phase == "Failed"
            && said.is_some_and(|c| {
                c.last_exit_code == Some(137) && ["OOMKilled", "Error"].contains(&&*c.reason)
            })
    })
    .await;
    node.remove("oom.yaml");
    node.wait_gone().await;
}

async fn the_longest_wait_between_restarts_is_a_setting(mut node: Node) {
    node.put("bad.yaml", &pod("bad", "exit 3"));
    node.flag("max-container-restart-period", "1s");
    node.start_agent();
    node.wait_until("it was restarted again and again", async || {
        let report = node.report("bad").await.unwrap_or_default();
        let message = report.message;
        let says = |words: &str| message.contains(words);
        report.restarts >= 4 && says("back-off 1s restarting") && says(", next start at 20")
    })
    .await;
    node.remove("bad.yaml");
    node.wait_gone().await;
}

async fn a_host_port_passes_on_when_its_old_owner_has_ended(mut node: Node) {
    node.make_out();
    let port = free().port();
    let spec = |name: &str, ports: &str| {
        format!(
            "
  terminationGracePeriodSeconds: 30
  volumes: $OUT
  containers:
  - name: c
    image: $BUSYBOX
    command: [sh, -c, \"trap 'sleep 1; echo end {name} >> /out/log; exit 0' TERM; echo start {name} >> /out/log; while :; do sleep 0.05; done\"]
    $MOUNT
    {ports}
"
        )
    };
    let ports = format!("ports: [{{containerPort: 80, hostPort: {port}}}]");
    node.put_with_out("a", &spec("old", &ports));
    node.start_agent();
    wait_ready(&node, "a", 1).await;
    node.put_with_out("b", &spec("b", &ports));
    node.wait_reason("b", "NodePorts").await;
    node.put_with_out("a", &spec("new", ""));
    wait_ready(&node, "b", 1).await;
    wait_ready(&node, "a", 1).await;
    let began = async || ["start b", "start new"].iter().all(|line| has(&node, line));
    node.wait_until("both have begun", began).await;
    let lines = node.lines("log");
    let at = |line: &str| lines.iter().position(|l| l == line);
    assert_eq!(at("start old"), Some(0));
    assert_eq!(at("end old"), Some(1), "{lines:?}");
    node.remove("a.yaml");
    node.remove("b.yaml");
    node.wait_gone().await;
}

fn has(node: &Node, line: &str) -> bool {
    node.lines("log").iter().any(|l| l == line)
}
