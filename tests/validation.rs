//! The rules of the Kubernetes API for Pods: what is refused and at which field, what is taken, and
//! what is taken with a warning. Each row is a change to a good Pod: `C` is its container, `I` its init
//! container, `S` its sidecar.

use podkeeper::manifest::{Accepted, Problem, SourceKind, parse};
use podkeeper::translate::{QosClass, qos_class};
use serde_json::{Value, json};

fn base() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "web"},
        "spec": {
            "terminationGracePeriodSeconds": 5,
            "volumes": [{"name": "data", "emptyDir": {}}, {"name": "etc", "hostPath": {"path": "/etc"}}],
            "initContainers": [
                {"name": "setup", "image": "busybox:1"},
                {"name": "side", "image": "busybox:1", "restartPolicy": "Always"},
            ],
            "containers": [{
                "name": "web",
                "image": "busybox:1",
                "ports": [{"name": "http", "containerPort": 80}],
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            }],
        },
    })
}

/// The good Pod with changes, written as a mapping of places to values; `null` takes a field away.
fn changed(changes: &str) -> String {
    let changes: Value = serde_yaml::from_str(changes).unwrap();
    let mut pod = base();
    for (place, value) in changes.as_object().unwrap() {
        let place = match place.split_once('.') {
            Some(("C", rest)) => format!("spec.containers.0.{rest}"),
            Some(("I", rest)) => format!("spec.initContainers.0.{rest}"),
            Some(("S", rest)) => format!("spec.initContainers.1.{rest}"),
            _ => place.clone(),
        };
        let mut at = &mut pod;
        for step in place.split('.') {
            at = match step.parse::<usize>() {
                Ok(index) => &mut at[index],
                Err(_) => &mut at[step],
            };
        }
        *at = value.clone();
    }
    serde_json::to_string_pretty(&pod).unwrap()
}

fn read(changes: &str) -> Result<Accepted, Vec<Problem>> {
    parse(changed(changes).as_bytes(), "my-node1", SourceKind::File)
}

fn fields(problems: &[Problem]) -> String {
    let fields: Vec<_> = problems.iter().map(|p| p.field.as_str()).collect();
    fields.join(" ")
}

/// Each row: a change, and the fields that are refused for it.
fn assert_refused(rows: &[(&str, &str)]) {
    for (change, expected) in rows {
        let Err(problems) = read(change) else {
            panic!("{change}: was accepted, expected a problem with {expected}");
        };
        assert_eq!(fields(&problems), *expected, "{change}: {problems:#?}");
    }
}

fn assert_accepted(changes: &[&str]) {
    for change in changes {
        match read(change) {
            Ok(accepted) => assert_eq!(accepted.warnings, [], "{change}"),
            Err(problems) => panic!("{change}: {problems:#?}"),
        }
    }
}

fn assert_warned(rows: &[(&str, &str)]) {
    for (change, expected) in rows {
        match read(change) {
            Ok(accepted) => assert_eq!(fields(&accepted.warnings), *expected, "{change}"),
            Err(problems) => panic!("{change}: {problems:#?}"),
        }
    }
}

#[test]
fn metadata() {
    assert_accepted(&[
        "{metadata.generateName: web-}",
        // The full name, with the node's behind it, is a good one.
        "{metadata.name: web--}",
        "{metadata.name: web.a-}",
        // The folder of its logs, NAMESPACE_NAME-NODE_UID, is as long as the name of a file may be.
        &format!("{{metadata.name: {}}}", "a".repeat(205)),
        &format!(
            "{{metadata.namespace: a, metadata.name: {}}}",
            "a".repeat(211)
        ),
        "{metadata.annotations: {Example.com/A: x}, metadata.labels: {example.com/a: '', b: x_y}}",
        "{metadata.labels: {a: null}}",
        "{metadata.annotations: {container.apparmor.security.beta.kubernetes.io/web: unconfined}}",
        "{metadata.annotations: {podkeeper.io/rollback-after: 1m30s}}",
    ]);
    assert_refused(&[
        ("{metadata.name: a..b}", "metadata.name"),
        ("{metadata.name: -a}", "metadata.name"),
        ("{metadata.name: web.}", "metadata.name"),
        ("{metadata.name: web_}", "metadata.name"),
        (
            &format!("{{metadata.name: {}}}", "a".repeat(206)),
            "metadata.name",
        ),
        (
            &format!(
                "{{metadata.namespace: a, metadata.name: {}}}",
                "a".repeat(212)
            ),
            "metadata.name",
        ),
        (
            &format!(
                "{{metadata.namespace: {}, metadata.name: {}}}",
                "a".repeat(63),
                "a".repeat(150)
            ),
            "metadata.name",
        ),
        (
            "{metadata.annotations: {podkeeper.io/rollback-after: soon}}",
            "metadata.annotations[podkeeper.io/rollback-after]",
        ),
        ("{metadata.namespace: a.b}", "metadata.namespace"),
        (
            "{metadata.labels: {Example.com/a: x}}",
            "metadata.labels[Example.com/a]",
        ),
        ("{metadata.labels: {a: -x}}", "metadata.labels.a"),
        ("{metadata.generation: -1}", "metadata.generation"),
        (
            "{metadata.ownerReferences: [{apiVersion: v1, kind: Node, name: n}]}",
            "metadata.ownerReferences[0].uid",
        ),
        (
            "{metadata.ownerReferences: [{apiVersion: a/b/c, kind: Node, name: n, uid: u}]}",
            "metadata.ownerReferences[0].apiVersion",
        ),
        (
            "{metadata.ownerReferences: [{apiVersion: v1, kind: Event, name: n, uid: u}]}",
            "metadata.ownerReferences[0]",
        ),
        (
            "{metadata.ownerReferences: [{apiVersion: v1, kind: Node, name: n, uid: u, controller: true}, {apiVersion: v1, kind: Node, name: m, uid: v, controller: true}]}",
            "metadata.ownerReferences[1]",
        ),
        ("{metadata.finalizers: [a]}", "metadata.finalizers[0]"),
        (
            "{metadata.finalizers: [orphan, foregroundDeletion]}",
            "metadata.finalizers",
        ),
    ]);
    let much = "x".repeat(257 << 10);
    assert_refused(&[(
        &format!("{{metadata.annotations: {{a: {much}}}}}"),
        "metadata.annotations",
    )]);
    assert_warned(&[
        (
            "{metadata.annotations: {seccomp.security.alpha.kubernetes.io/pod: unconfined}}",
            "metadata.annotations[seccomp.security.alpha.kubernetes.io/pod]",
        ),
        (
            "{metadata.finalizers: [a/b, orphan]}",
            "metadata.finalizers",
        ),
    ]);
}

#[test]
fn the_order_of_first_starts() {
    assert_accepted(&[
        "{metadata.annotations: {podkeeper.io/start-after: 'db, kube-system/etcd'}}",
        "{metadata.annotations: {podkeeper.io/start-after: db, podkeeper.io/start-after-timeout: 5m}}",
    ]);
    assert_refused(&[
        (
            "{metadata.annotations: {podkeeper.io/start-after: Db}}",
            "metadata.annotations[podkeeper.io/start-after]",
        ),
        (
            "{metadata.annotations: {podkeeper.io/start-after: web}}",
            "metadata.annotations[podkeeper.io/start-after]",
        ),
        (
            "{metadata.annotations: {podkeeper.io/start-after: db, podkeeper.io/start-after-timeout: 5}}",
            "metadata.annotations[podkeeper.io/start-after-timeout]",
        ),
    ]);
    assert_warned(&[
        (
            "{metadata.annotations: {podkeeper.io/start-after-timeout: 5m}}",
            "metadata.annotations[podkeeper.io/start-after-timeout]",
        ),
        (
            "{metadata.annotations: {podkeeper.io/start-afer: db}}",
            "metadata.annotations[podkeeper.io/start-afer]",
        ),
    ]);
}

#[test]
fn a_name_that_is_too_long_is_refused_with_the_length_that_fits() {
    let name = "a".repeat(240);
    let problems = read(&format!("{{metadata.name: {name}}}")).unwrap_err();
    let message = &problems[0].message;
    assert!(
        message.contains("is 249 characters long with the node's name \"my-node1\", expected at most 214, so at most 205 without it"),
        "{message}"
    );
}

/// A field that is refused, missing or misplaced is told once.
#[test]
fn one_cause_is_one_finding() {
    let token =
        "{spec.volumes.1: {name: v, projected: {sources: [{serviceAccountToken: {path: t}}]}}}";
    let source = "{C.env: [{name: A, valueFrom: {fieldref: {fieldPath: metadata.name}}}]}";
    assert_refused(&[
        (
            token,
            "spec.volumes[1].projected.sources[0].serviceAccountToken",
        ),
        // What is missing is there under another name, or at another place.
        (
            "{C.image: null, C.imag: busybox}",
            "spec.containers[0].imag",
        ),
        ("{C.image: null, spec.image: busybox}", "spec.image"),
        ("{metadata: null, metdata: {name: web}}", "metdata"),
        (source, "spec.containers[0].env[0].valueFrom.fieldref"),
        (
            "{C.lifecycle: {preStop: {excec: {command: [a]}}}}",
            "spec.containers[0].lifecycle.preStop.excec",
        ),
        // Each of two is told.
        (
            "{C.image: null, I.imag: busybox}",
            "spec.containers[0].image spec.initContainers[0].imag",
        ),
    ]);
    for (change, field) in [
        ("{C.image: null, C.imag: busybox}", "imag"),
        (source, "fieldref"),
    ] {
        let problems = read(change).unwrap_err();
        let slip = problems.iter().find(|p| p.field.ends_with(field)).unwrap();
        assert!(!slip.is_warning(), "{change}: {slip:?}");
    }
}

#[test]
fn a_field_at_the_wrong_place_is_told_where_it_belongs() {
    for (change, there) in [
        (
            "{C.terminationGracePeriodSeconds: 5}",
            "it belongs below spec. It has no effect",
        ),
        (
            "{metadata.terminationGracePeriodSeconds: 5}",
            "it belongs below spec. It has no effect",
        ),
        ("{C.hostNetwork: true}", "it belongs below spec."),
        ("{spec.labels: {a: b}}", "it belongs below metadata."),
        (
            "{metadata.kind: Pod}",
            "it belongs at the top of the document.",
        ),
    ] {
        let accepted = read(change).unwrap();
        let message = &accepted.warnings[0].message;
        assert!(message.contains(there), "{change}: {message}");
    }
}

/// Kubernetes, Well-Known Labels, Annotations and Taints.
#[test]
fn annotations_that_kubernetes_knows() {
    let armor = "container.apparmor.security.beta.kubernetes.io";
    let seccomp = "container.seccomp.security.alpha.kubernetes.io";
    let of_pod = "seccomp.security.alpha.kubernetes.io/pod";
    let (cost, tolerations) = (
        "controller.kubernetes.io/pod-deletion-cost",
        "scheduler.alpha.kubernetes.io/tolerations",
    );
    let with = |key: &str, value: &str| format!("{{metadata.annotations: {{{key}: {value}}}}}");
    let and = |key: &str, value: &str, more: &str| {
        format!("{{metadata.annotations: {{{key}: {value}}}, {more}}}")
    };
    let unconfined = "C.securityContext: {appArmorProfile: {type: Unconfined}}";
    let local = "C.securityContext: {appArmorProfile: {type: Localhost, localhostProfile: a}}";
    let web = format!("{armor}/web");
    assert_accepted(&[
        &with(&web, "''"),
        &with(&web, "runtime/default"),
        &with(&format!("{armor}/setup"), "localhost/a"),
        &and(&web, "unconfined", unconfined),
        &and(&web, "localhost/a", local),
        &with(cost, "'-10'"),
        &with(tolerations, "'[{\"operator\": \"Exists\"}]'"),
        &with(tolerations, "''"),
    ]);
    let at = |key: &str| format!("metadata.annotations[{key}]");
    for (change, field) in [
        (
            with(&format!("{armor}/wbe"), "localhost/a"),
            at(&format!("{armor}/wbe")),
        ),
        (with(&web, "localhots/a"), at(&web)),
        (
            and(&web, "runtime/default", unconfined),
            "spec.containers[0].securityContext.appArmorProfile.type".to_owned(),
        ),
        (
            and(&web, "localhost/b", local),
            "spec.containers[0].securityContext.appArmorProfile.localhostProfile".to_owned(),
        ),
        (
            and(
                &format!("{armor}/setup"),
                "unconfined",
                "spec.securityContext: {appArmorProfile: {type: RuntimeDefault}}",
            ),
            "spec.initContainers[0].securityContext.appArmorProfile.type".to_owned(),
        ),
        (with(cost, "'+10'"), at(cost)),
        (with(cost, "'010'"), at(cost)),
        (with(cost, "'2147483648'"), at(cost)),
        (with(tolerations, "'{}'"), at(tolerations)),
        (
            with(tolerations, "'[{\"key\": \"a\", \"operator\": \"Is\"}]'"),
            format!("{}[0].operator", at(tolerations)),
        ),
        (with(of_pod, "confined"), at(of_pod)),
        (with(of_pod, "localhost/../a"), at(of_pod)),
        (
            with(&format!("{seccomp}/web"), "none"),
            at(&format!("{seccomp}/web")),
        ),
        (
            and(
                of_pod,
                "unconfined",
                "spec.securityContext: {seccompProfile: {type: RuntimeDefault}}",
            ),
            "spec.securityContext.seccompProfile.type".to_owned(),
        ),
    ] {
        let problems = read(&change).expect_err(&change);
        let problems: Vec<_> = problems
            .into_iter()
            .filter(|p| !p.message.contains("no effect"))
            .collect();
        assert_eq!(fields(&problems), field, "{change}: {problems:#?}");
    }
}

#[test]
fn the_pod_as_a_whole() {
    assert_accepted(&[
        "{spec.activeDeadlineSeconds: 1}",
        "{spec.activeDeadlineSeconds: 5.0}",
        "{spec.hostname: a, spec.subdomain: b, spec.setHostnameAsFQDN: true}",
        "{spec.hostnameOverride: a.b}",
        "{spec.priorityClassName: ''}",
        "{spec.dnsConfig: {searches: [., _tcp.a.], options: [{name: ndots, value: '2'}]}}",
        "{spec.hostAliases: [{ip: '::1', hostnames: [a.b]}]}",
        "{spec.nodeName: my-node1}",
        "{spec.os: {name: linux}}",
        "{spec.readinessGates: [{conditionType: example.com/ready}]}",
        "{spec.hostUsers: false}",
        "{spec.priority: 7, spec.priorityClassName: a, spec.schedulerName: x, spec.enableServiceLinks: false}",
    ]);
    let long = "a".repeat(65);
    let domains = format!("[{}]", vec!["a.b"; 33].join(", "));
    let much = format!(
        "[{}]",
        vec!["a".repeat(200).replace("aaaaaaaaa", "aaaaaaaa."); 11].join(", ")
    );
    assert_refused(&[
        ("{spec.containers: []}", "spec.containers"),
        (
            "{spec.activeDeadlineSeconds: 0}",
            "spec.activeDeadlineSeconds",
        ),
        (
            "{spec.activeDeadlineSeconds: 2147483648}",
            "spec.activeDeadlineSeconds",
        ),
        (
            &format!("{{spec.hostnameOverride: {long}}}"),
            "spec.hostnameOverride",
        ),
        ("{spec.hostnameOverride: ''}", "spec.hostnameOverride"),
        ("{spec.runtimeClassName: ''}", "spec.runtimeClassName"),
        (
            "{spec.hostnameOverride: a, spec.hostNetwork: true}",
            "spec.hostnameOverride",
        ),
        (
            "{spec.hostnameOverride: a, spec.setHostnameAsFQDN: true}",
            "spec.hostnameOverride",
        ),
        (
            "{spec.dnsPolicy: None, spec.dnsConfig: {searches: [a]}}",
            "spec.dnsConfig.nameservers",
        ),
        ("{spec.dnsPolicy: none}", "spec.dnsPolicy"),
        (
            "{spec.dnsConfig: {nameservers: [dns.example.com]}}",
            "spec.dnsConfig.nameservers[0]",
        ),
        (
            &format!("{{spec.dnsConfig: {{searches: {domains}}}}}"),
            "spec.dnsConfig.searches",
        ),
        (
            &format!("{{spec.dnsConfig: {{searches: {much}}}}}"),
            "spec.dnsConfig.searches",
        ),
        (
            "{spec.dnsConfig: {searches: [a b]}}",
            "spec.dnsConfig.searches[0]",
        ),
        (
            "{spec.hostAliases: [{ip: a, hostnames: [b]}]}",
            "spec.hostAliases[0].ip",
        ),
        ("{spec.os: {name: plan9}}", "spec.os.name"),
        (
            "{spec.hostUsers: false, spec.hostPID: true}",
            "spec.hostPID",
        ),
        (
            "{spec.hostUsers: false, spec.hostIPC: true}",
            "spec.hostIPC",
        ),
        ("{spec.priorityClassName: A}", "spec.priorityClassName"),
        ("{spec.preemptionPolicy: Always}", "spec.preemptionPolicy"),
    ]);
    assert_warned(&[
        ("{spec.nodeName: other}", "spec.nodeName"),
        (
            "{spec.terminationGracePeriodSeconds: -1}",
            "spec.terminationGracePeriodSeconds",
        ),
        (
            "{spec.schedulingGroup: {podGroupName: a}}",
            "spec.schedulingGroup",
        ),
    ]);
}

#[test]
fn what_is_not_carried_out_is_refused_by_name() {
    for (change, field) in [
        ("{spec.serviceAccount: sa}", "spec.serviceAccount"),
        ("{spec.resourceClaims: [{name: a}]}", "spec.resourceClaims"),
        (
            "{spec.schedulingGates: [{name: a}]}",
            "spec.schedulingGates",
        ),
        (
            "{spec.ephemeralContainers: [{name: a}]}",
            "spec.ephemeralContainers",
        ),
        (
            "{spec.volumes.1: {name: a, persistentVolumeClaim: {claimName: c}}}",
            "spec.volumes[1].persistentVolumeClaim",
        ),
        (
            "{spec.volumes.1: {name: a, nfs: {server: s, path: /}}}",
            "spec.volumes[1].nfs",
        ),
        (
            "{spec.volumes.1: {name: a, csi: {driver: d}}}",
            "spec.volumes[1].csi",
        ),
        (
            "{spec.volumes.1: {name: a, gitRepo: {}}}",
            "spec.volumes[1].gitRepo",
        ),
        (
            "{spec.volumes.1: {name: a, projected: {sources: [{serviceAccountToken: {path: t}}]}}}",
            "spec.volumes[1].projected.sources[0].serviceAccountToken",
        ),
        (
            "{C.volumeDevices: [{name: data, devicePath: /dev/x}]}",
            "spec.containers[0].volumeDevices",
        ),
        (
            "{C.resources: {claims: [{name: a}]}}",
            "spec.containers[0].resources.claims",
        ),
        (
            "{spec.securityContext: {windowsOptions: {hostProcess: true}}}",
            "spec.securityContext.windowsOptions.hostProcess",
        ),
    ] {
        let problems = read(change).expect_err(change);
        assert!(
            problems.iter().any(|p| p.field == field),
            "{change}: {problems:#?}"
        );
    }
    assert_warned(&[
        ("{spec.affinity: {podAffinity: {}}}", ""),
        (
            "{spec.affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: a}]}}}",
            "spec.affinity.podAntiAffinity",
        ),
        (
            "{C.securityContext: {windowsOptions: {runAsUserName: a}}}",
            "spec.containers[0].securityContext.windowsOptions",
        ),
        (
            "{C.lifecycle: {preStop: {tcpSocket: {port: 80}}}}",
            "spec.containers[0].lifecycle.preStop.tcpSocket",
        ),
    ]);
}

/// What the API takes and we refuse, each with the reason: what it says cannot be carried out, or hardly
/// be meant.
#[test]
fn what_is_refused_on_purpose_although_the_api_takes_it() {
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: web}, spec: {containers: [{name: c, image: i}]}}";
    let twice = pod.replace("name: web", "name: web, name: web");
    let more = format!("{pod}\n---\n{pod}\n");
    let tagged = pod.replace("name: web", "name: !web web");
    let volume = |volume: &str| changed(&format!("{{spec.volumes.1: {{name: v, {volume}}}}}"));
    let of_pod = |context: &str| changed(&format!("{{spec.securityContext: {{{context}}}}}"));
    for (manifest, field, reason) in [
        (
            volume("hostPath: {path: relative}"),
            "spec.volumes[1].hostPath.path",
            "it would be looked for wherever the agent works",
        ),
        (
            volume("image: {}"),
            "spec.volumes[1].image.reference",
            "there is nothing to pull",
        ),
        (
            volume("nfs: {server: s, path: /a}"),
            "spec.volumes[1].nfs",
            "it needs a driver that is not here",
        ),
        (
            volume("gitRepo: {repository: a}"),
            "spec.volumes[1].gitRepo",
            "Kubernetes makes no such volumes any more",
        ),
        (
            of_pod("seccompProfile: {type: Localhost, localhostProfile: ''}"),
            "spec.securityContext.seccompProfile.localhostProfile",
            "no file has this name, and no container would start",
        ),
        (
            of_pod("sysctls: [{name: a.b, value: '1'}, {name: a/b, value: '2'}]"),
            "spec.securityContext.sysctls[1].name",
            "both are the same sysctl, and one of them would count",
        ),
        (
            changed("{C.terminationMessagePath: /a/../b}"),
            "spec.containers[0].terminationMessagePath",
            "it would lead out of where it is mounted",
        ),
        (
            changed(
                "{C.env: [{name: A, valueFrom: {fileKeyRef: {volumeName: data, path: /a, key: C}}}]}",
            ),
            "spec.containers[0].env[0].valueFrom.fileKeyRef.path",
            "a path of the container or the host is meant, and the file is looked for in the volume",
        ),
        (
            changed("{spec.imagePullSecrets: [{}]}"),
            "spec.imagePullSecrets[0].name",
            "an entry that names nothing has no effect, and somebody meant a Secret",
        ),
        (
            changed("{metadata.annotations: {podkeeper.io/rollback-after: soon}}"),
            "metadata.annotations[podkeeper.io/rollback-after]",
            "the annotation is ours",
        ),
        (
            twice,
            "metadata.name",
            "of two fields of one name, one would be dropped in silence",
        ),
        (
            more,
            "",
            "all documents but the first would be dropped in silence",
        ),
        (tagged, "", "what a tag means would be dropped in silence"),
    ] {
        let problems = parse(manifest.as_bytes(), "my-node1", SourceKind::File);
        let problems = problems.expect_err(reason);
        assert!(
            problems.iter().any(|p| p.field == field),
            "{reason}: {problems:#?}"
        );
    }
}

#[test]
fn what_is_for_schedulers() {
    assert_accepted(&[
        "{spec.nodeSelector: {example.com/disk: ssd}}",
        "{spec.tolerations: [{operator: Exists}, {key: a, value: b, effect: NoExecute, tolerationSeconds: 5}]}",
        "{spec.affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: In, values: [b]}, {key: c, operator: Gt, values: ['1']}]}, {matchFields: [{key: metadata.name, operator: In, values: [n]}]}]}}}}",
        "{spec.affinity: {nodeAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 1, preference: {matchExpressions: [{key: a, operator: In, values: [b c]}]}}]}}}",
        "{spec.topologySpreadConstraints: [{maxSkew: 1, topologyKey: a b, whenUnsatisfiable: ScheduleAnyway}]}",
        "{spec.topologySpreadConstraints: [{maxSkew: 1, topologyKey: a, whenUnsatisfiable: DoNotSchedule, minDomains: 2, labelSelector: {matchLabels: {a: b}}, matchLabelKeys: [c], nodeTaintsPolicy: Honor}]}",
    ]);
    let node = "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms";
    let terms = |terms: &str| {
        format!(
            "{{spec.affinity: {{nodeAffinity: {{requiredDuringSchedulingIgnoredDuringExecution: {{nodeSelectorTerms: {terms}}}}}}}}}"
        )
    };
    for (change, at) in [
        ("[]", ""),
        (
            "[{matchExpressions: [{key: a, operator: In}]}]",
            "[0].matchExpressions[0].values",
        ),
        (
            "[{matchExpressions: [{key: a, operator: Exists, values: [b]}]}]",
            "[0].matchExpressions[0].values",
        ),
        (
            "[{matchExpressions: [{key: a, operator: Is, values: [b]}]}]",
            "[0].matchExpressions[0].operator",
        ),
        (
            "[{matchExpressions: [{key: a b, operator: Exists}]}]",
            "[0].matchExpressions[0].key",
        ),
        (
            "[{matchExpressions: [{key: a, operator: In, values: [b c]}]}]",
            "[0].matchExpressions[0].values[0]",
        ),
        (
            "[{matchFields: [{key: metadata.uid, operator: In, values: [b]}]}]",
            "[0].matchFields[0].key",
        ),
        (
            "[{matchFields: [{key: metadata.name, operator: In, values: [b, c]}]}]",
            "[0].matchFields[0].values",
        ),
        (
            "[{matchFields: [{key: metadata.name, operator: In, values: [A B]}]}]",
            "[0].matchFields[0].values[0]",
        ),
        (
            "[{matchExpressions: [{key: a, operator: Gt, values: ['-1']}]}]",
            "[0].matchExpressions[0].values[0]",
        ),
    ] {
        assert_refused(&[(&terms(change), &format!("{node}{at}"))]);
    }
    let preferred =
        "spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight";
    let spread = |change: &str| {
        let text = "maxSkew: 1, topologyKey: a, whenUnsatisfiable: ScheduleAnyway";
        format!("{{spec.topologySpreadConstraints: [{{{text}, {change}}}]}}")
    };
    assert_refused(&[
        (
            &spread("labelSelector: {matchExpressions: [{key: a, operator: In, values: [b c]}]}"),
            "spec.topologySpreadConstraints[0].labelSelector.matchExpressions[0].values[0]",
        ),
        ("{spec.nodeSelector: {a b: c}}", "spec.nodeSelector[a b]"),
        (
            "{spec.tolerations: [{key: a b, operator: Exists}]}",
            "spec.tolerations[0].key",
        ),
        (
            "{spec.tolerations: [{key: a, operator: Exists, value: b}]}",
            "spec.tolerations[0].operator",
        ),
        (
            "{spec.tolerations: [{key: a, effect: Never}]}",
            "spec.tolerations[0].effect",
        ),
        (
            "{spec.affinity: {nodeAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 0, preference: {}}]}}}",
            preferred,
        ),
        (
            &spread("minDomains: 1"),
            "spec.topologySpreadConstraints[0].minDomains",
        ),
        (
            &spread("nodeAffinityPolicy: Maybe"),
            "spec.topologySpreadConstraints[0].nodeAffinityPolicy",
        ),
        (
            &spread("matchLabelKeys: [a]"),
            "spec.topologySpreadConstraints[0].matchLabelKeys",
        ),
        (
            &spread("labelSelector: {matchExpressions: [{key: a, operator: In}]}"),
            "spec.topologySpreadConstraints[0].labelSelector.matchExpressions[0].values",
        ),
    ]);
}

#[test]
fn what_is_said_of_where_other_pods_are() {
    let near = |term: &str| {
        format!(
            "{{spec.affinity: {{podAffinity: {{requiredDuringSchedulingIgnoredDuringExecution: [{{{term}}}]}}}}}}"
        )
    };
    for (term, at) in [
        ("topologyKey: a b", "topologyKey"),
        (
            "topologyKey: a, labelSelector: {matchExpressions: [{key: a, operator: In, values: [b c]}]}",
            "labelSelector.matchExpressions[0].values[0]",
        ),
        (
            "topologyKey: a, labelSelector: {}, matchLabelKeys: [x, y], mismatchLabelKeys: [y]",
            "matchLabelKeys[1]",
        ),
    ] {
        let problems = read(&near(term)).expect_err(term);
        // That it has no effect here is a warning.
        let problems: Vec<_> = problems
            .into_iter()
            .filter(|p| p.field != "spec.affinity.podAffinity")
            .collect();
        let around = "spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0]";
        assert_eq!(fields(&problems), format!("{around}.{at}"), "{term}");
    }
}

#[test]
fn containers_and_ports() {
    assert_accepted(&[
        "{C.ports: [{containerPort: 80, hostPort: 80}, {containerPort: 80, hostPort: 80, protocol: UDP}]}",
        "{C.ports: [{containerPort: 80, hostPort: 80, hostIP: 127.0.0.1}, {containerPort: 81, hostPort: 80, hostIP: 127.0.0.2}]}",
        // An init container has ended when another one takes the port.
        "{C.ports: [{containerPort: 80, hostPort: 80}], I.ports: [{containerPort: 80, hostPort: 80}]}",
        // The API looks at each init container alone; that the port is taken shows at the start.
        "{C.ports: [{containerPort: 80, hostPort: 80}], S.ports: [{containerPort: 80, hostPort: 80}]}",
        "{I.restartPolicy: OnFailure, C.restartPolicy: Never}",
        "{C.restartPolicy: Never, C.restartPolicyRules: [{action: Restart, exitCodes: {operator: In, values: []}}]}",
        "{C.restartPolicy: Never, C.restartPolicyRules: [{action: Restart, exitCodes: {operator: In, values: [1, 1]}}]}",
        "{I.resizePolicy: [{resourceName: cpu, restartPolicy: NotRequired}]}",
        "{S.resizePolicy: [{resourceName: cpu, restartPolicy: RestartContainer}]}",
        "{C.restartPolicy: Never, C.restartPolicyRules: [{action: Restart, exitCodes: {operator: In, values: [42]}}]}",
        "{C.resizePolicy: [{resourceName: cpu, restartPolicy: NotRequired}]}",
    ]);
    let many = format!(
        "[{}]",
        vec!["{action: Restart, exitCodes: {operator: In, values: [1]}}"; 21].join(", ")
    );
    let many = format!("{{C.restartPolicy: Never, C.restartPolicyRules: {many}}}");
    let rule = |rule: &str| format!("{{C.restartPolicy: Never, C.restartPolicyRules: [{rule}]}}");
    assert_refused(&[
        ("{C.name: ''}", "spec.containers[0].name"),
        ("{C.name: side}", "spec.initContainers[1].name"),
        ("{C.image: ' a'}", "spec.containers[0].image"),
        (
            "{C.imagePullPolicy: Sometimes}",
            "spec.containers[0].imagePullPolicy",
        ),
        (
            "{C.terminationMessagePath: /a/../b}",
            "spec.containers[0].terminationMessagePath",
        ),
        (
            "{C.ports: [{containerPort: 65536}]}",
            "spec.containers[0].ports[0].containerPort",
        ),
        (
            "{C.ports: [{containerPort: 80, protocol: ICMP}]}",
            "spec.containers[0].ports[0].protocol",
        ),
        (
            "{C.ports: [{containerPort: 80, hostPort: 80}, {containerPort: 81, hostPort: 80}]}",
            "spec.containers[0].ports[1].hostPort",
        ),
        (
            "{S.ports: [{containerPort: 80, hostPort: 80}, {containerPort: 81, hostPort: 80}]}",
            "spec.initContainers[1].ports[1].hostPort",
        ),
        (
            "{spec.hostNetwork: true, C.ports: [{containerPort: 80, hostPort: 81}]}",
            "spec.containers[0].ports[0].hostPort",
        ),
        (
            "{I.readinessProbe: {tcpSocket: {port: 1}}}",
            "spec.initContainers[0].readinessProbe",
        ),
        (
            "{I.lifecycle: {preStop: {exec: {command: [a]}}}}",
            "spec.initContainers[0].lifecycle",
        ),
        (
            "{C.restartPolicyRules: [{action: Restart, exitCodes: {operator: In, values: [1]}}]}",
            "spec.containers[0].restartPolicy",
        ),
        (&many, "spec.containers[0].restartPolicyRules"),
        (
            &rule("{action: Stop, exitCodes: {operator: In, values: [1]}}"),
            "spec.containers[0].restartPolicyRules[0].action",
        ),
        (
            &rule("{action: Restart}"),
            "spec.containers[0].restartPolicyRules[0].exitCodes",
        ),
        (
            &rule("{action: Restart, exitCodes: {operator: Is, values: [1]}}"),
            "spec.containers[0].restartPolicyRules[0].exitCodes.operator",
        ),
        (
            &rule(&format!(
                "{{action: Restart, exitCodes: {{operator: In, values: [{}]}}}}",
                vec!["1"; 256].join(", ")
            )),
            "spec.containers[0].restartPolicyRules[0].exitCodes.values",
        ),
        (
            "{C.resizePolicy: [{resourceName: gpu, restartPolicy: NotRequired}]}",
            "spec.containers[0].resizePolicy[0].resourceName",
        ),
        (
            "{spec.restartPolicy: Never, C.resizePolicy: [{resourceName: cpu, restartPolicy: RestartContainer}]}",
            "spec.containers[0].resizePolicy[0].restartPolicy",
        ),
        (
            "{I.resizePolicy: [{resourceName: cpu, restartPolicy: RestartContainer}]}",
            "spec.initContainers[0].resizePolicy[0].restartPolicy",
        ),
    ]);
    assert_warned(&[(
        "{C.ports: [{containerPort: 80, hostIP: localhost}]}",
        "spec.containers[0].ports[0].hostIP",
    )]);
}

#[test]
fn sources_of_variables() {
    let from = |source: &str| format!("{{C.env: [{{name: A, valueFrom: {source}}}]}}");
    for good in [
        "{fieldRef: {fieldPath: status.podIPs}}",
        "{fieldRef: {fieldPath: spec.host}}",
        "{fieldRef: {fieldPath: \"metadata.annotations['Example.com/A']\"}}",
        "{resourceFieldRef: {resource: limits.memory, divisor: 1Mi}}",
        "{resourceFieldRef: {resource: requests.hugepages-2Mi}}",
        "{resourceFieldRef: {resource: limits.cpu, divisor: 0.001}}",
        "{configMapKeyRef: {name: a, key: b.c}}",
        "{secretKeyRef: {name: a, key: b}}",
        "{fileKeyRef: {volumeName: data, path: a/b, key: C}}",
        "{fileKeyRef: {volumeName: data, path: ..a, key: C}}",
    ] {
        assert_accepted(&[&from(good)]);
    }
    let at = "spec.containers[0].env[0].valueFrom";
    for (source, field) in [
        (
            "{fieldRef: {fieldPath: metadata.name}, secretKeyRef: {name: a, key: b}}",
            "",
        ),
        ("{fieldRef: {}}", ".fieldRef.fieldPath"),
        (
            "{fieldRef: {fieldPath: metadata.labels}}",
            ".fieldRef.fieldPath",
        ),
        (
            "{fieldRef: {fieldPath: \"spec.x['a']\"}}",
            ".fieldRef.fieldPath",
        ),
        (
            "{fieldRef: {fieldPath: \"metadata.labels['A/b']\"}}",
            ".fieldRef.fieldPath",
        ),
        (
            "{fieldRef: {fieldPath: metadata.name, apiVersion: v2}}",
            ".fieldRef",
        ),
        ("{resourceFieldRef: {}}", ".resourceFieldRef.resource"),
        (
            "{resourceFieldRef: {resource: limits.cpu, divisor: 1Mi}}",
            ".resourceFieldRef.divisor",
        ),
        (
            "{resourceFieldRef: {resource: limits.memory, divisor: 2Mi}}",
            ".resourceFieldRef.divisor",
        ),
        ("{configMapKeyRef: {name: a}}", ".configMapKeyRef.key"),
        (
            "{configMapKeyRef: {name: Bad_, key: a}}",
            ".configMapKeyRef.name",
        ),
        ("{secretKeyRef: {name: bad-, key: a}}", ".secretKeyRef.name"),
        (
            "{configMapKeyRef: {name: a, key: b/c}}",
            ".configMapKeyRef.key",
        ),
        ("{secretKeyRef: {key: b}}", ".secretKeyRef.name"),
        (
            "{fileKeyRef: {volumeName: etc, path: a, key: C}}",
            ".fileKeyRef.volumeName",
        ),
        (
            "{fileKeyRef: {volumeName: none, path: a, key: C}}",
            ".fileKeyRef.volumeName",
        ),
        (
            "{fileKeyRef: {volumeName: data, path: a/../b, key: C}}",
            ".fileKeyRef.path",
        ),
        (
            "{fileKeyRef: {volumeName: data, path: a, key: 'C=D'}}",
            ".fileKeyRef.key",
        ),
    ] {
        assert_refused(&[(&from(source), &format!("{at}{field}"))]);
    }
    assert_warned(&[(
        &from("{resourceFieldRef: {containerName: none, resource: limits.cpu}}"),
        "spec.containers[0].env[0].valueFrom.resourceFieldRef.containerName",
    )]);
}

#[test]
fn variables_and_whole_objects() {
    assert_accepted(&[
        "{C.envFrom: [{prefix: P_, configMapRef: {name: a}}, {secretRef: {name: b, optional: true}}]}",
    ]);
    assert_refused(&[
        ("{C.env: [{value: a}]}", "spec.containers[0].env[0].name"),
        (
            "{C.env: [{name: A, value: b, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]}",
            "spec.containers[0].env[0].valueFrom",
        ),
        (
            "{C.envFrom: [{configMapRef: {}}]}",
            "spec.containers[0].envFrom[0].configMapRef.name",
        ),
        (
            "{C.envFrom: [{configMapRef: {name: Bad_}}]}",
            "spec.containers[0].envFrom[0].configMapRef.name",
        ),
        (
            "{C.envFrom: [{secretRef: {name: Bad_}}]}",
            "spec.containers[0].envFrom[0].secretRef.name",
        ),
        (
            "{C.envFrom: [{prefix: 'a=', secretRef: {name: a}}]}",
            "spec.containers[0].envFrom[0].prefix",
        ),
        (
            "{C.envFrom: [{configMapRef: {name: a}, secretRef: {name: a}}]}",
            "spec.containers[0].envFrom[0]",
        ),
    ]);
}

#[test]
fn texts_of_a_container_do_not_expand_without_end() {
    let levels = |levels: usize| {
        let value = |level: usize| match level {
            0 => "x".to_owned(),
            level => format!("$(V{})", level - 1).repeat(10),
        };
        let env = (0..levels).map(|n| format!("{{name: V{n}, value: {}}}", value(n)));
        format!("[{}]", env.collect::<Vec<_>>().join(", "))
    };
    let all = |env: &str, more: &str| format!("{{C.env: {env}, {more}}}");
    assert_accepted(&[&all(&levels(6), "C.args: [$(V5)$(V5)]")]);
    for (change, field, variable) in [
        (all(&levels(7), ""), "spec.containers[0].env[6].value", "V6"),
        (
            all(&levels(40), ""),
            "spec.containers[0].env[6].value",
            "V6",
        ),
        (
            all(
                &levels(6),
                &format!("C.args: [a, {}]", "$(V0)$(V5)".repeat(10)),
            ),
            "spec.containers[0].args[1]",
            "V5",
        ),
        (
            all(&levels(6), &format!("C.command: [{}]", "$(V5)".repeat(10))),
            "spec.containers[0].command[0]",
            "V5",
        ),
        (
            format!("{{I.env: {}}}", levels(7)),
            "spec.initContainers[0].env[6].value",
            "V6",
        ),
    ] {
        let problems = read(&change).unwrap_err();
        assert_eq!(fields(&problems), field);
        let message = problems[0].to_string();
        assert!(
            message.contains(&format!("variable \"{variable}\"")),
            "{message}"
        );
        assert!(message.contains("at most 1048576"), "{message}");
    }
}

#[test]
fn mounts() {
    let mount = |more: &str| format!("{{C.volumeMounts: [{{name: data, mountPath: /x, {more}}}]}}");
    assert_accepted(&[
        "{C.volumeMounts: [{name: data, mountPath: relative}, {name: data, mountPath: /a}]}",
        &mount("subPath: a/b"),
        &mount("readOnly: true, recursiveReadOnly: Enabled, mountPropagation: None"),
        &mount("recursiveReadOnly: Disabled"),
        "{C.securityContext: {privileged: true}, C.volumeMounts: [{name: data, mountPath: /x, mountPropagation: Bidirectional}]}",
    ]);
    let at = |field: &str| format!("spec.containers[0].volumeMounts[0].{field}");
    for (more, field) in [
        ("subPath: /a", "subPath"),
        ("subPathExpr: $(A)/../b", "subPathExpr"),
        ("mountPropagation: Both", "mountPropagation"),
        ("recursiveReadOnly: Maybe", "recursiveReadOnly"),
        ("recursiveReadOnly: Enabled", "recursiveReadOnly"),
        (
            "readOnly: true, recursiveReadOnly: IfPossible, mountPropagation: HostToContainer",
            "recursiveReadOnly",
        ),
    ] {
        assert_refused(&[(&mount(more), &at(field))]);
    }
    assert_refused(&[
        (
            "{C.volumeMounts: [{name: none, mountPath: /a}]}",
            &at("name"),
        ),
        (
            "{C.volumeMounts: [{name: data, mountPath: /a}, {name: etc, mountPath: /a}]}",
            "spec.containers[0].volumeMounts[1].mountPath",
        ),
    ]);
}

#[test]
fn probes_and_hooks() {
    assert_accepted(&[
        "{C.livenessProbe: {httpGet: {port: http, scheme: HTTPS, httpHeaders: [{name: X-A, value: b}]}, terminationGracePeriodSeconds: 1}}",
        "{C.readinessProbe: {grpc: {port: 80}, successThreshold: 3}, S.startupProbe: {exec: {command: [a]}}}",
        "{C.lifecycle: {postStart: {sleep: {seconds: 5}}, preStop: {httpGet: {port: 443, scheme: HTTPS}}}}",
        "{spec.os: {name: linux}, C.lifecycle: {stopSignal: SIGRTMIN+3}, S.lifecycle: {preStop: {exec: {command: [a]}}}}",
    ]);
    let at = |field: &str| format!("spec.containers[0].{field}");
    for (change, field) in [
        ("{C.livenessProbe: {}}", "livenessProbe"),
        (
            "{C.livenessProbe: {tcpSocket: {port: 0}}}",
            "livenessProbe.tcpSocket.port",
        ),
        (
            "{C.livenessProbe: {grpc: {port: 70000}}}",
            "livenessProbe.grpc.port",
        ),
        (
            "{C.livenessProbe: {grpc: {port: 1}, exec: {command: [a]}}}",
            "livenessProbe.grpc",
        ),
        (
            "{C.livenessProbe: {httpGet: {port: 80, scheme: ftp}}}",
            "livenessProbe.httpGet.scheme",
        ),
        (
            "{C.livenessProbe: {httpGet: {port: 80}, successThreshold: 2}}",
            "livenessProbe.successThreshold",
        ),
        (
            "{C.startupProbe: {httpGet: {port: 80}, successThreshold: 2}}",
            "startupProbe.successThreshold",
        ),
        (
            "{C.startupProbe: {httpGet: {port: 80}, terminationGracePeriodSeconds: 0}}",
            "startupProbe.terminationGracePeriodSeconds",
        ),
        (
            "{C.readinessProbe: {httpGet: {port: 80}, timeoutSeconds: -1}}",
            "readinessProbe.timeoutSeconds",
        ),
        (
            "{C.readinessProbe: {httpGet: {port: 80}, initialDelaySeconds: -1}}",
            "readinessProbe.initialDelaySeconds",
        ),
        ("{C.lifecycle: {postStart: {}}}", "lifecycle.postStart"),
        (
            "{C.lifecycle: {preStop: {exec: {}}}}",
            "lifecycle.preStop.exec.command",
        ),
        (
            "{C.lifecycle: {preStop: {sleep: {seconds: 6}}}}",
            "lifecycle.preStop.sleep",
        ),
        (
            "{C.lifecycle: {preStop: {sleep: {seconds: 1}, httpGet: {port: 80}}}}",
            "lifecycle.preStop.sleep",
        ),
        (
            "{C.lifecycle: {preStop: {httpGet: {port: 80, httpHeaders: [{name: a b}]}}}}",
            "lifecycle.preStop.httpGet.httpHeaders[0].name",
        ),
        (
            "{spec.os: {name: linux}, C.lifecycle: {stopSignal: SIGRTMIN+16}}",
            "lifecycle.stopSignal",
        ),
        (
            "{spec.os: {name: linux}, C.lifecycle: {stopSignal: TERM}}",
            "lifecycle.stopSignal",
        ),
        (
            "{spec.os: {name: windows}, C.lifecycle: {stopSignal: SIGUSR1}}",
            "lifecycle.stopSignal",
        ),
    ] {
        assert_refused(&[(change, &at(field))]);
    }
    assert_warned(&[(
        "{C.livenessProbe: {tcpSocket: {port: other}}}",
        "spec.containers[0].livenessProbe.tcpSocket.port",
    )]);
}

/// A change that makes the second volume this one.
fn volume(volume: &str) -> String {
    format!("{{spec.volumes.1: {{name: v, {volume}}}}}")
}

#[test]
fn volumes() {
    for good in [
        "hostPath: {path: /a, type: Socket}",
        "emptyDir: {medium: HugePages-2Mi, sizeLimit: 4Mi}",
        "configMap: {name: a, defaultMode: 0, items: [{key: b, path: c/d, mode: 256}]}",
        "secret: {secretName: a, optional: true}",
        "image: {reference: busybox:1}",
        "downwardAPI: {items: [{path: a, fieldRef: {fieldPath: metadata.labels}}, {path: b, resourceFieldRef: {containerName: web, resource: limits.cpu}}]}",
        "projected: {sources: [{configMap: {name: a}}, {secret: {name: b, items: [{key: c, path: d}]}}]}",
    ] {
        assert_accepted(&[&volume(good)]);
    }
    for (bad, field) in [
        ("hostPath: {}", "hostPath.path"),
        ("hostPath: {path: relative}", "hostPath.path"),
        ("hostPath: {path: /a, type: Folder}", "hostPath.type"),
        ("hostPath: {path: /a}, image: {reference: a}", "image"),
        ("emptyDir: {sizeLimit: -1}", "emptyDir.sizeLimit"),
        ("emptyDir: {sizeLimit: 1Zi}", "emptyDir.sizeLimit"),
        ("configMap: {}", "configMap.name"),
        ("configMap: {name: Bad_}", "configMap.name"),
        ("secret: {secretName: Bad_}", "secret.secretName"),
        (
            "configMap: {name: a, items: [{key: b}]}",
            "configMap.items[0].path",
        ),
        (
            "configMap: {name: a, items: [{path: b}]}",
            "configMap.items[0].key",
        ),
        (
            "configMap: {name: a, items: [{key: b, path: ../c}]}",
            "configMap.items[0].path",
        ),
        (
            "configMap: {name: a, items: [{key: b, path: ..c}]}",
            "configMap.items[0].path",
        ),
        (
            "configMap: {name: a, items: [{key: b, path: c, mode: 512}]}",
            "configMap.items[0].mode",
        ),
        ("secret: {}", "secret.secretName"),
        (
            "secret: {secretName: a, defaultMode: -1}",
            "secret.defaultMode",
        ),
        ("image: {}", "image.reference"),
        ("image: {reference: a, pullPolicy: x}", "image.pullPolicy"),
        (
            "downwardAPI: {items: [{path: a, fieldRef: {fieldPath: status.podIP}}]}",
            "downwardAPI.items[0].fieldRef.fieldPath",
        ),
        (
            "downwardAPI: {items: [{path: a, resourceFieldRef: {resource: limits.cpu}}]}",
            "downwardAPI.items[0].resourceFieldRef.containerName",
        ),
        (
            "projected: {sources: [{secret: {name: a}, configMap: {name: b}}]}",
            "projected.sources[0]",
        ),
        (
            "projected: {sources: [{secret: {}}]}",
            "projected.sources[0].secret.name",
        ),
        ("projected: {sources: [{}]}", "projected.sources[0]"),
        (
            "projected: {sources: [{secret: {name: a, items: [{key: b, path: p}]}}, {configMap: {name: a, items: [{key: b, path: p}]}}]}",
            "projected.sources[1].configMap.items[0].path",
        ),
    ] {
        assert_refused(&[(&volume(bad), &format!("spec.volumes[1].{field}"))]);
    }
    assert_refused(&[("{spec.volumes.1.name: data}", "spec.volumes[1].name")]);
    assert_accepted(&["{spec.volumes.1: {name: v}}"]);
    assert_warned(&[
        (
            &volume("emptyDir: {sizeLimit: 1Gi}"),
            "spec.volumes[1].emptyDir.sizeLimit",
        ),
        (
            &volume("emptyDir: {medium: Disk}"),
            "spec.volumes[1].emptyDir.medium",
        ),
    ]);
}

#[test]
fn a_volume_of_no_known_kind_is_an_empty_dir_as_with_the_kubelet() {
    for kind in [
        "empty-dir: {}",
        "hostpath: {path: /etc}",
        "tmpfs: {size: 1Mi}",
    ] {
        let accepted = read(&volume(kind)).unwrap();
        let field = kind.split(':').next().unwrap();
        let field = format!("spec.volumes[1].{field}");
        assert_eq!(fields(&accepted.warnings), field, "{kind}");
        let message = &accepted.warnings[0].message;
        assert!(
            message.ends_with(": the volume is an emptyDir"),
            "{message}"
        );
        let spec = &accepted.pod.spec;
        let volume = &spec.volumes.as_ref().unwrap()[1];
        assert!(
            volume.empty_dir.is_some() && volume.host_path.is_none(),
            "{kind}"
        );
    }
    assert_warned(&[(
        "{spec.volumes.1: {name: v, emptyDir: {}, empty-dir: {}}}",
        "spec.volumes[1].empty-dir",
    )]);
}

#[test]
fn paths_that_the_kernel_does_not_take_are_refused() {
    let long = "a".repeat(256);
    assert_refused(&[
        (
            &format!("{{spec.volumes.1: {{name: v, hostPath: {{path: /a/{long}}}}}}}"),
            "spec.volumes[1].hostPath.path",
        ),
        (
            &format!("{{C.volumeMounts.0.subPath: a/{long}}}"),
            "spec.containers[0].volumeMounts[0].subPath",
        ),
        (
            &format!("{{C.volumeMounts.0.mountPath: /{long}}}"),
            "spec.containers[0].volumeMounts[0].mountPath",
        ),
        (
            &format!("{{C.volumeMounts.0.mountPath: /{}}}", "a/".repeat(2048)),
            "spec.containers[0].volumeMounts[0].mountPath",
        ),
        (
            &format!("{{C.workingDir: /{long}}}"),
            "spec.containers[0].workingDir",
        ),
    ]);
}

#[test]
fn security_contexts() {
    let pod = |context: &str| format!("{{spec.securityContext: {{{context}}}}}");
    for good in [
        "runAsUser: 0, runAsGroup: 2147483647, fsGroup: 1, supplementalGroups: [1, 2]",
        "sysctls: [{name: net/ipv4/tcp_syncookies, value: '1'}]",
        "seccompProfile: {type: Localhost, localhostProfile: a/b.json}",
        "appArmorProfile: {type: Localhost, localhostProfile: a}",
        "fsGroupChangePolicy: Always, seLinuxChangePolicy: Recursive, supplementalGroupsPolicy: Merge",
    ] {
        assert_accepted(&[&pod(good)]);
    }
    for (bad, field) in [
        ("runAsUser: -1", "runAsUser"),
        ("supplementalGroups: [1, -1]", "supplementalGroups[1]"),
        ("sysctls: [{value: '1'}]", "sysctls[0].name"),
        (
            "sysctls: [{name: a.b, value: '1'}, {name: a/b, value: '2'}]",
            "sysctls[1].name",
        ),
        (
            "seccompProfile: {type: Localhost}",
            "seccompProfile.localhostProfile",
        ),
        (
            "seccompProfile: {type: Localhost, localhostProfile: /a}",
            "seccompProfile.localhostProfile",
        ),
        (
            "seccompProfile: {type: Localhost, localhostProfile: ../a}",
            "seccompProfile.localhostProfile",
        ),
        ("seccompProfile: {}", "seccompProfile.type"),
        ("appArmorProfile: {type: Local}", "appArmorProfile.type"),
        (
            "appArmorProfile: {type: Unconfined, localhostProfile: a}",
            "appArmorProfile.localhostProfile",
        ),
        (
            "appArmorProfile: {type: Localhost, localhostProfile: ' a'}",
            "appArmorProfile.localhostProfile",
        ),
        ("fsGroupChangePolicy: Never", "fsGroupChangePolicy"),
        ("seLinuxChangePolicy: MountOption", "seLinuxChangePolicy"),
    ] {
        assert_refused(&[(&pod(bad), &format!("spec.securityContext.{field}"))]);
    }
    let at = |field: &str| format!("spec.containers[0].securityContext{field}");
    assert_accepted(&["{spec.hostUsers: false, C.securityContext: {procMount: Unmasked}}"]);
    assert_refused(&[
        ("{C.securityContext: {procMount: None}}", &at(".procMount")),
        (
            "{C.securityContext: {allowPrivilegeEscalation: false, capabilities: {add: [CAP_SYS_ADMIN]}}}",
            &at(""),
        ),
        (
            "{C.securityContext: {seccompProfile: {type: x}}}",
            &at(".seccompProfile.type"),
        ),
        (
            "{spec.hostNetwork: true, spec.securityContext: {sysctls: [{name: net.ipv4.tcp_syncookies, value: '1'}]}}",
            "spec.securityContext.sysctls[0].name",
        ),
        (
            "{spec.hostIPC: true, spec.securityContext: {sysctls: [{name: kernel.shm_rmid_forced, value: '1'}]}}",
            "spec.securityContext.sysctls[0].name",
        ),
        (
            "{spec.os: {name: windows}, spec.hostPID: true}",
            "spec.hostPID",
        ),
        (
            "{spec.os: {name: windows}, C.securityContext: {privileged: true}}",
            &at(".privileged"),
        ),
    ]);
}

#[test]
fn resources() {
    let own = |text: &str| format!("{{C.resources: {{{text}}}}}");
    for good in [
        "limits: {cpu: 1, memory: 64Mi, ephemeral-storage: 1Gi}",
        "requests: {cpu: 0.5}, limits: {cpu: 500m}",
        "limits: {hugepages-2Mi: 4Mi, memory: 8Mi}",
        "limits: {example.com/gpu: 2}",
        "limits: {cpu: ' 1 '}, requests: {cpu: '0.5 '}",
        "requests: {kubernetes.io/x: 500m}",
        "limits: {a.kubernetes.io/x: 2}, requests: {a.kubernetes.io/x: 1}",
    ] {
        assert_accepted(&[&own(good)]);
    }
    for (bad, field) in [
        ("limits: {cpu: lots}", "limits.cpu"),
        ("requests: {cpu: ' 2'}, limits: {cpu: 1}", "requests.cpu"),
        ("limits: {pods: 1}", "limits.pods"),
        ("requests: {example.com/gpu: 1}", "limits[example.com/gpu]"),
        (
            "limits: {Kubernetes.io/gpu: 1}",
            "limits[Kubernetes.io/gpu]",
        ),
        ("limits: {example.com/gpu: 500m}", "limits[example.com/gpu]"),
        (
            "requests: {hugepages-2Mi: 2Mi, cpu: 1}",
            "limits.hugepages-2Mi",
        ),
    ] {
        let fields: Vec<_> = field
            .split(' ')
            .map(|f| format!("spec.containers[0].resources.{f}"))
            .collect();
        assert_refused(&[(&own(bad), &fields.join(" "))]);
    }
    assert_accepted(&[
        "{spec.resources: {requests: {cpu: 1}, limits: {memory: 64Mi}}, C.resources: {limits: {memory: 32Mi}}}",
        "{spec.resources: {limits: {memory: 1Mi}}, I.resources: {limits: {memory: 2Mi}, requests: {memory: 1Mi}}}",
        "{spec.overhead: {cpu: 10m}}",
    ]);
    assert_refused(&[
        ("{spec.overhead: {cpu: -1}}", "spec.overhead.cpu"),
        ("{spec.overhead: {hugepages-2Mi: 2Mi}}", "spec.overhead"),
        (
            "{spec.resources: {limits: {ephemeral-storage: 1Gi}}}",
            "spec.resources.limits.ephemeral-storage",
        ),
        (
            "{spec.resources: {requests: {cpu: 1}}, C.resources: {requests: {cpu: 2}}}",
            "spec.resources.requests.cpu",
        ),
        (
            // A sidecar requests beside the container.
            "{spec.resources: {requests: {cpu: 2}}, C.resources: {requests: {cpu: 1}}, S.resources: {requests: {cpu: 1100m}}}",
            "spec.resources.requests.cpu",
        ),
        (
            "{spec.resources: {limits: {memory: 1Mi}}, C.resources: {limits: {memory: 2Mi}, requests: {memory: 1Mi}}}",
            "spec.containers[0].resources.limits.memory",
        ),
        (
            // The Pod may not take more of them than it is limited to.
            "{spec.resources: {requests: {hugepages-2Mi: 2Mi, cpu: 1}}}",
            "spec.resources.limits.hugepages-2Mi",
        ),
        (
            "{spec.resources: {limits: {hugepages-2Mi: 2Mi, cpu: 1}}, C.resources: {limits: {hugepages-2Mi: 2Mi, cpu: 1}}, S.resources: {limits: {hugepages-2Mi: 2Mi, cpu: 0}}}",
            "spec.resources.requests.hugepages-2Mi",
        ),
    ]);
}

#[test]
fn amounts_are_shown_as_the_api_shows_them() {
    let change = "{C.resources: {limits: {cpu: 0.5, memory: 1024Mi}, requests: {cpu: 1n}}, spec.resources: {limits: {memory: 2000Mi}}}";
    let accepted = read(change).unwrap();
    let spec = serde_json::to_value(&accepted.pod.spec).unwrap();
    assert_eq!(
        spec["containers"][0]["resources"],
        json!({"limits": {"cpu": "500m", "memory": "1Gi"}, "requests": {"cpu": "1m", "memory": "1Gi"}})
    );
    assert_eq!(
        spec["resources"],
        json!({"limits": {"memory": "2000Mi"}, "requests": {"cpu": "1m", "memory": "1Gi"}})
    );
}

/// API reference, `PodSpec`, `resources`; Kubernetes, Assign Pod-level CPU and memory resources.
#[test]
fn what_the_pod_as_a_whole_has_is_filled_in() {
    for (change, expected) in [
        ("{spec.resources: {}}", json!({})),
        (
            "{spec.resources: {}, C.resources: {limits: {hugepages-2Mi: 2Mi, cpu: 1}}}",
            json!({}),
        ),
        (
            "{spec.resources: {requests: {cpu: 1}}, C.resources: {requests: {memory: 8Mi}}}",
            json!({"requests": {"cpu": "1"}}),
        ),
        (
            "{spec.resources: {limits: {cpu: 2}}, C.resources: {requests: {cpu: 1, memory: 8Mi}}}",
            json!({"limits": {"cpu": "2"}, "requests": {"cpu": "1", "memory": "8Mi"}}),
        ),
        (
            "{spec.resources: {limits: {cpu: 2, memory: 1Gi}}, C.resources: {limits: {hugepages-2Mi: 2Mi, cpu: 1}}, S.resources: {limits: {hugepages-2Mi: 4Mi, cpu: 500m}}}",
            json!({
                "limits": {"cpu": "2", "memory": "1Gi", "hugepages-2Mi": "6Mi"},
                "requests": {"cpu": "1500m", "memory": "1Gi", "hugepages-2Mi": "6Mi"},
            }),
        ),
    ] {
        let accepted = read(change).unwrap_or_else(|problems| panic!("{change}: {problems:#?}"));
        let spec = serde_json::to_value(&accepted.pod.spec).unwrap();
        assert_eq!(spec["resources"], expected, "{change}");
    }
}

#[test]
fn the_class_of_service_is_that_of_the_pods_own_resources_where_it_has_some() {
    let same = "{limits: {cpu: 1, memory: 8Mi}}";
    for (change, expected) in [
        ("{}".to_owned(), QosClass::BestEffort),
        (
            "{C.resources: {requests: {cpu: 1}}}".to_owned(),
            QosClass::Burstable,
        ),
        (
            format!("{{C.resources: {same}, I.resources: {same}, S.resources: {same}}}"),
            QosClass::Guaranteed,
        ),
        (format!("{{spec.resources: {same}}}"), QosClass::Guaranteed),
        (
            "{spec.resources: {requests: {cpu: 1}}}".to_owned(),
            QosClass::Burstable,
        ),
        (
            format!("{{spec.resources: {{}}, C.resources: {same}}}"),
            QosClass::BestEffort,
        ),
    ] {
        let accepted = read(&change).unwrap();
        let spec = &accepted.pod.spec;
        assert_eq!(qos_class(spec), expected, "{change}");
    }
}

#[test]
fn everything_wrong_is_told_at_once_whether_a_type_a_field_or_a_rule() {
    let change = "{spec.hostPID: 'yes', C.args: [a, 5], C.imagePulPolicy: Never, spec.serviceAccountName: x, spec.restartPolicy: always, C.workingDir: 7}";
    let mut found: Vec<String> = read(change)
        .unwrap_err()
        .into_iter()
        .map(|p| p.field)
        .collect();
    found.sort();
    assert_eq!(
        found,
        [
            "spec.containers[0].args[1]",
            "spec.containers[0].imagePulPolicy",
            "spec.containers[0].workingDir",
            "spec.hostPID",
            "spec.restartPolicy",
            "spec.serviceAccountName",
        ]
    );
}

#[test]
fn of_a_flood_of_problems_a_hundred_are_told() {
    let flood = format!("{{C.args: [{}]}}", vec!["1"; 10_000].join(", "));
    let problems = read(&flood).unwrap_err();
    assert_eq!(problems.len(), 101);
    assert!(problems.iter().any(|p| p.message.contains("there is more")));
}
