//! Probes and hooks: what is done at all, and how often (Kubernetes, Configure Liveness, Readiness and
//! Startup Probes, and Container Lifecycle Hooks).

use k8s_openapi::api::core::v1::{
    Container, ExecAction, HTTPGetAction, Lifecycle, LifecycleHandler, PodSpec, Probe,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{FieldPath, Validator, names, unexpected};

/// The names of signals; real-time signals are numbered from both ends.
const SIGNALS: [&str; 36] = [
    "SIGABRT",
    "SIGALRM",
    "SIGBUS",
    "SIGCHLD",
    "SIGCLD",
    "SIGCONT",
    "SIGFPE",
    "SIGHUP",
    "SIGILL",
    "SIGINT",
    "SIGIO",
    "SIGIOT",
    "SIGKILL",
    "SIGPIPE",
    "SIGPOLL",
    "SIGPROF",
    "SIGPWR",
    "SIGQUIT",
    "SIGSEGV",
    "SIGSTKFLT",
    "SIGSTOP",
    "SIGSYS",
    "SIGTERM",
    "SIGTRAP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGUSR1",
    "SIGUSR2",
    "SIGVTALRM",
    "SIGWINCH",
    "SIGXCPU",
    "SIGXFSZ",
    "SIGRTMIN",
    "SIGRTMAX",
];
const REAL_TIME: [(&str, std::ops::RangeInclusive<u8>); 2] =
    [("SIGRTMIN+", 1..=15), ("SIGRTMAX-", 1..=14)];

impl Validator<'_> {
    pub(super) fn lifecycle(
        &mut self,
        field: &FieldPath,
        lifecycle: &Lifecycle,
        container: &Container,
        spec: &PodSpec,
    ) {
        for (name, hook) in [
            ("postStart", &lifecycle.post_start),
            ("preStop", &lifecycle.pre_stop),
        ] {
            if let Some(hook) = hook {
                self.hook(&field.key(name), hook, container, spec);
            }
        }
        let Some(signal) = lifecycle.stop_signal.as_deref() else {
            return;
        };
        let field = field.key("stopSignal");
        let os = spec.os.as_ref().map_or("", |os| os.name.as_str());
        match os {
            "" => self.refuse(
                &field,
                "can only be set where spec.os.name is: write spec.os.name: linux",
            ),
            "windows" => self.one_of(&field, Some(signal), &["SIGTERM", "SIGKILL"]),
            _ => {
                let expected = "the name of a signal such as SIGTERM or SIGRTMIN+3";
                self.expect(is_signal(signal), &field, signal, expected);
            }
        }
    }

    fn hook(
        &mut self,
        field: &FieldPath,
        hook: &LifecycleHandler,
        container: &Container,
        spec: &PodSpec,
    ) {
        self.one_handler(
            field,
            &[
                ("exec", hook.exec.is_some()),
                ("httpGet", hook.http_get.is_some()),
                ("tcpSocket", hook.tcp_socket.is_some()),
                ("sleep", hook.sleep.is_some()),
            ],
        );
        if let Some(exec) = &hook.exec {
            self.exec(field, exec);
        }
        if let Some(http) = &hook.http_get {
            self.http(field, http, container);
        }
        if let Some(tcp) = &hook.tcp_socket {
            self.port(&field.key("tcpSocket").key("port"), &tcp.port, container);
        }
        let grace = spec.termination_grace_period_seconds.unwrap_or_default();
        if let Some(sleep) = hook
            .sleep
            .as_ref()
            .filter(|s| !(0..=grace).contains(&s.seconds))
        {
            let message = format!(
                "found {}, expected 0 to {grace} seconds, the Pod's grace period",
                sleep.seconds
            );
            self.refuse(&field.key("sleep"), message);
        }
    }

    pub(super) fn probes(&mut self, field: &FieldPath, container: &Container) {
        let probes = [
            ("livenessProbe", &container.liveness_probe),
            ("readinessProbe", &container.readiness_probe),
            ("startupProbe", &container.startup_probe),
        ];
        for (name, probe) in probes {
            let Some(probe) = probe else {
                continue;
            };
            let field = field.key(name);
            self.probe(&field, probe, container);
            let readiness = name == "readinessProbe";
            let successes = probe.success_threshold.unwrap_or(1);
            if !readiness && successes != 1 {
                let message = format!("found {successes}, expected 1 for this kind of probe");
                self.refuse(&field.key("successThreshold"), message);
            }
            if readiness && probe.termination_grace_period_seconds.is_some() {
                let message = "cannot be set for a readiness probe, which stops no container";
                self.refuse(&field.key("terminationGracePeriodSeconds"), message);
            }
        }
    }

    fn probe(&mut self, field: &FieldPath, probe: &Probe, container: &Container) {
        self.one_handler(
            field,
            &[
                ("exec", probe.exec.is_some()),
                ("httpGet", probe.http_get.is_some()),
                ("tcpSocket", probe.tcp_socket.is_some()),
                ("grpc", probe.grpc.is_some()),
            ],
        );
        if let Some(exec) = &probe.exec {
            self.exec(field, exec);
        }
        if let Some(http) = &probe.http_get {
            self.http(field, http, container);
        }
        if let Some(tcp) = &probe.tcp_socket {
            self.port(&field.key("tcpSocket").key("port"), &tcp.port, container);
        }
        if let Some(grpc) = &probe.grpc {
            self.port_number(&field.key("grpc").key("port"), grpc.port);
        }
        for (name, value) in [
            ("initialDelaySeconds", probe.initial_delay_seconds),
            ("timeoutSeconds", probe.timeout_seconds),
            ("periodSeconds", probe.period_seconds),
            ("successThreshold", probe.success_threshold),
            ("failureThreshold", probe.failure_threshold),
        ] {
            if let Some(value) = value.filter(|v| *v < 0) {
                self.refuse(
                    &field.key(name),
                    format!("found {value}, expected 0 or more"),
                );
            }
        }
        if let Some(grace) = probe.termination_grace_period_seconds.filter(|g| *g <= 0) {
            let field = field.key("terminationGracePeriodSeconds");
            self.refuse(&field, format!("found {grace}, expected 1 or more"));
        }
    }

    /// Exactly one of the ways to do it is given.
    fn one_handler(&mut self, field: &FieldPath, kinds: &[(&str, bool)]) {
        let given: Vec<_> = kinds.iter().filter(|(_, given)| *given).collect();
        let names: Vec<_> = kinds.iter().map(|(name, _)| *name).collect();
        let names = names.join(", ");
        let Some((_, more)) = given.split_first() else {
            self.refuse(field, format!("does nothing, expected one of {names}"));
            return;
        };
        for (second, _) in more {
            let message = format!("found more than one of {names}, expected one");
            self.refuse(&field.key(second), message);
        }
    }

    fn exec(&mut self, field: &FieldPath, exec: &ExecAction) {
        if exec.command.as_ref().is_none_or(Vec::is_empty) {
            let field = field.key("exec").key("command");
            self.refuse(&field, "missing, expected a command");
        }
    }

    fn http(&mut self, field: &FieldPath, http: &HTTPGetAction, container: &Container) {
        let field = field.key("httpGet");
        self.port(&field.key("port"), &http.port, container);
        self.one_of(
            &field.key("scheme"),
            http.scheme.as_deref(),
            &["HTTP", "HTTPS"],
        );
        for (field, header) in field.items("httpHeaders", &http.http_headers) {
            let name = &header.name;
            self.expect(
                names::is_header(name),
                &field.key("name"),
                name,
                names::HEADER,
            );
        }
    }

    fn port(&mut self, field: &FieldPath, port: &IntOrString, container: &Container) {
        let name = match port {
            IntOrString::Int(number) => return self.port_number(field, *number),
            IntOrString::String(name) => name,
        };
        let mut ports = container.ports.iter().flatten();
        if !names::is_port_name(name) {
            let expected = format!("a number, or a name of {}", names::PORT_NAME);
            self.refuse(field, unexpected(name, &expected));
        } else if !ports.any(|p| p.name.as_deref() == Some(name)) {
            let message = unexpected(name, "the name of one of the container's ports");
            self.warn(field, message);
        }
    }
}

fn is_signal(name: &str) -> bool {
    let numbered = |(start, numbers): &(&str, std::ops::RangeInclusive<u8>)| {
        let number = name
            .strip_prefix(start)
            .filter(|n| !n.starts_with(['0', '+']));
        let number = number.and_then(|n| n.parse().ok());
        number.is_some_and(|n| numbers.contains(&n))
    };
    SIGNALS.contains(&name) || REAL_TIME.iter().any(numbered)
}
