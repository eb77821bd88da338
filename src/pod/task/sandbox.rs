//! Running a Pod's sandbox, after its folders, cgroup and volumes are made.

use std::sync::Arc;

use tracing::info;

use super::background::{FILES, file_subject};
use super::clean_up::remove_sandbox;
use super::error::{StepError, node_failure, sandbox_failure, timed_out};
use super::{Context, PodTask};
use crate::cri::{Error, v1};
use crate::host::blocking::{blocking, pooled};
use crate::host::cgroup;
use crate::host::untrusted::read_path;
use crate::manifest::{PackedPod, StaticPod, Uid};
use crate::pod::events::EventKind;
use crate::pod::identity::check_id;
use crate::pod::limiter::{CallKind, Class};
use crate::pod::plan::{Outcome, Step};
use crate::pod::state::Subject;
use crate::pod::state::observed::{Container, Sandbox, SandboxId, State};
use crate::pod::state::record::Record;
use crate::pod::{folder, observe};
use crate::translate::{
    Addresses, ResolvConf, SandboxInstance, UserNamespaceRange, dns_problems, hostname_problem,
    pod_cgroup_limits, pod_cgroup_path, qos_class, qos_cpu_shares, sandbox_config,
};
use crate::volume;

impl PodTask {
    pub(super) async fn run_sandbox(
        &mut self,
        step: &Step,
        uid: &Uid,
        attempt: u32,
    ) -> Result<(), StepError> {
        let version = self.packed_version(uid)?;
        if attempt > 0 {
            let message = "Pod sandbox changed, it will be killed and re-created.";
            self.event(uid, None, EventKind::Normal, "SandboxChanged", message);
        }
        let (host, instance) = self.prepare_sandbox(step, &version, attempt).await?;
        if attempt == u32::MAX {
            self.free_last_sandbox(uid).await?;
        }
        let id = self
            .call_run_sandbox(step, &version, &host, &instance)
            .await?;
        let sandbox = self.inspect_new_sandbox(uid, id, attempt).await?;
        let ip = sandbox.ips.first().cloned().unwrap_or_default();
        let ready = sandbox.ready;
        self.observed.sandboxes.reserve_exact(1);
        self.observed.sandboxes.push(sandbox);
        if !ready {
            let message = "the sandbox is not ready after RunPodSandbox succeeded";
            return Err(sandbox_failure(message.to_owned()));
        }
        info!(pod = %self.key, uid = uid.as_str(), attempt, ip, "Started Pod sandbox");
        Ok(())
    }

    /// Makes what a version needs on the node, and returns what its sandbox is made from. Many Pods may wait here and
    /// for their turn, so that each is packed meanwhile.
    async fn prepare_sandbox(
        &mut self,
        step: &Step,
        version: &PackedPod,
        attempt: u32,
    ) -> Result<(ResolvConf, SandboxInstance), StepError> {
        let uid = &version.uid;
        let record = Arc::new(self.record(&version.unpack()));
        self.outcome(step, Outcome::Begun);
        let (context, subject) = (Arc::clone(&self.context), Subject::Sandbox(uid.clone()));
        let shown = self.under_way(uid, None, "PrepareVolumes");
        let prepared = prepare_node(&context, version.clone(), Arc::clone(&record));
        let host = self.part(&subject, prepared).await??;
        drop(shown);
        let version = version.unpack();
        let user_namespace = user_namespace(&context, &version);
        let instance = SandboxInstance {
            attempt,
            seen: record.seen.clone(),
            user_namespace: self.part(&subject, user_namespace).await??,
        };
        self.outcome(step, Outcome::Recorded(record));
        if let Some(problem) = hostname_problem(&context.facts, &version) {
            return Err(sandbox_failure(problem));
        }
        for problem in dns_problems(&context.facts, &host, &version) {
            let warning = EventKind::Warning;
            self.event(uid, None, warning, "DNSConfigForming", &problem);
        }
        Ok((host, instance))
    }

    /// Calls `RunPodSandbox`. Returns the sandbox's ID.
    async fn call_run_sandbox(
        &mut self,
        step: &Step,
        version: &PackedPod,
        host: &ResolvConf,
        instance: &SandboxInstance,
    ) -> Result<SandboxId, StepError> {
        let uid = &version.uid;
        let (context, subject) = (Arc::clone(&self.context), Subject::Sandbox(uid.clone()));
        let unpacked = version.unpack();
        let class = self.sandbox_class(&unpacked);
        let runtime_handler = runtime_handler(&context, &unpacked)?;
        drop(unpacked);
        let mut permit = self.acquire_permit(&subject, class).await?;
        let version = version.unpack();
        let request = v1::RunPodSandboxRequest {
            config: Some(sandbox_config(&context.facts, host, &version, instance)),
            runtime_handler,
        };
        let shown = self.under_way(uid, None, "RunPodSandbox");
        let call = context.client.run_pod_sandbox(request);
        let call = permit.run(CallKind::RunSandbox, call);
        let answer = self.part(&subject, call).await?;
        drop((permit, shown));
        let id = match answer {
            Ok(answer) => SandboxId::from(answer.pod_sandbox_id),
            Err(error) => {
                self.pass_reserved_name(step, &subject, &error).await;
                return Err(run_sandbox_failure(&version, error));
            }
        };
        self.outcome(step, Outcome::Started(context.clock.now()));
        check_id(&id).map_err(|e| sandbox_failure(format!("RunPodSandbox: {e}")))?;
        Ok(id)
    }

    /// Reads the state of a sandbox that was just run; one that the runtime does not have is not ready.
    async fn inspect_new_sandbox(
        &mut self,
        uid: &Uid,
        id: SandboxId,
        attempt: u32,
    ) -> Result<Sandbox, StepError> {
        let context = Arc::clone(&self.context);
        let subject = Subject::Sandbox(uid.clone());
        let status = observe::inspect_sandbox(&context.client, &context.clock, &id);
        let status = self.part(&subject, status).await??;
        let (ready, created, ips) = match status {
            Some(status) => (status.ready, status.created, status.ips),
            None => (false, context.clock.now(), vec![]),
        };
        Ok(Sandbox {
            id,
            uid: uid.clone(),
            attempt,
            ready,
            created,
            ips,
        })
    }

    /// Attempts end at [`u32::MAX`]: the last sandbox gives way to the next of that number.
    async fn free_last_sandbox(&mut self, uid: &Uid) -> Result<(), StepError> {
        let is_last = |s: &&Sandbox| s.attempt == u32::MAX && !s.ready;
        let last = self.observed.sandboxes_of(uid).find(is_last);
        match last.map(|s| s.id.clone()) {
            Some(id) => {
                let remove = remove_sandbox(Arc::clone(&self.context), id.clone());
                let removed = self.part(&Subject::Sandbox(uid.clone()), remove).await?;
                self.apply(&Step::RemoveSandbox { id }, &removed);
                removed
            }
            None => Ok(()),
        }
    }

    /// The configuration that a sandbox was made with, which the runtime wants to see again.
    pub(super) fn sandbox_config(
        &self,
        version: &StaticPod,
        sandbox: &SandboxId,
        host: &ResolvConf,
        user_namespace: Option<UserNamespaceRange>,
    ) -> v1::PodSandboxConfig {
        let context = &self.context;
        let known = self.observed.sandbox(sandbox);
        let record = self.state.record(&version.uid);
        let instance = SandboxInstance {
            attempt: known.map_or(0, |s| s.attempt),
            seen: record.map(|r| r.seen.clone()).unwrap_or_default(),
            user_namespace,
        };
        sandbox_config(&context.facts, host, version, &instance)
    }

    /// The class of the calls that make a sandbox of a version.
    pub(super) fn sandbox_class(&self, version: &StaticPod) -> Class {
        if version.is_on_host_network() {
            Class::HostNetwork
        } else if self.has_run(&version.uid) {
            Class::Restart
        } else {
            Class::FirstStart
        }
    }

    /// Returns true if a version ran before, or follows one that was stopped for it.
    fn has_run(&self, uid: &Uid) -> bool {
        let mut instances = self.observed.containers_of(uid);
        self.state.takeover(uid).is_successor || instances.any(has_started)
    }

    /// Returns the address of a version's containers.
    pub(super) fn pod_ip(&self, uid: &Uid) -> String {
        let sandbox = self.observed.ready_sandbox(uid);
        let ip = sandbox.and_then(|s| s.ips.first()).cloned();
        let of_host = || self.context.facts.identity.ips.first();
        ip.or_else(of_host)
            .unwrap_or_else(|| "127.0.0.1".to_owned())
    }
}

pub(super) fn has_started(container: &Container) -> bool {
    match &container.state {
        State::Created => false,
        State::Exited(exit) => exit.started_at > 0 || container.gone,
        State::Running { .. } | State::Unknown => true,
    }
}

/// Returns the failure to run a sandbox. A call without an answer has no cause of its own: what takes long
/// in it is the network.
fn run_sandbox_failure(version: &StaticPod, error: Error) -> StepError {
    let on_host = version.is_on_host_network();
    match error {
        Error::Deadline { ref message, .. } if message.is_empty() && !on_host => StepError::Call {
            reason: "FailedCreatePodSandBox",
            error,
            hint: Some("the network plugin (CNI) may not answer".to_owned()),
        },
        Error::Failed { ref message, .. } if message.contains(NO_NETWORK) => StepError::Call {
            reason: "FailedCreatePodSandBox",
            error,
            hint: Some(
                "the container runtime has no network configuration (CNI) that it can use: see its conf_dir, \
                 /etc/cni/net.d unless set otherwise"
                    .to_owned(),
            ),
        },
        error => error.into(),
    }
}

/// Part of containerd's message where it has no network configuration (`go-cni`).
const NO_NETWORK: &str = "cni plugin not initialized";

/// The runtime handler that the Pod's runtime class names.
fn runtime_handler(context: &Context, version: &StaticPod) -> Result<String, StepError> {
    Ok(context.facts.runtime_handler(&version.spec)?.to_owned())
}

/// The Pod's own range of ids on the host, where it has a user namespace.
pub(super) async fn user_namespace(
    context: &Arc<Context>,
    version: &StaticPod,
) -> Result<Option<UserNamespaceRange>, StepError> {
    let spec = &version.spec;
    if spec.host_users != Some(false) {
        return Ok(None);
    }
    let supported = context.facts.handler_features(spec).user_namespaces;
    if !supported && context.facts.runtime.is_incomplete() {
        return Err(sandbox_failure(
            "spec.hostUsers is false, and the container runtime has not reported yet whether it supports \
             user namespaces"
                .to_owned(),
        ));
    }
    if !supported {
        return Err(sandbox_failure(
            "spec.hostUsers is false, but the container runtime does not support user namespaces here"
                .to_owned(),
        ));
    }
    let (context, uid) = (Arc::clone(context), version.uid.clone());
    let range = move || folder::user_namespace(&context.facts.paths, &uid);
    let range = blocking(range).await;
    range
        .map(Some)
        .map_err(node_failure("FailedCreatePodSandBox"))
}

/// Makes the Pod's folders and volumes; gives the host's resolver configuration.
async fn prepare_node(
    context: &Arc<Context>,
    version: PackedPod,
    record: Arc<Record>,
) -> Result<ResolvConf, StepError> {
    let context = Arc::clone(context);
    let subject = file_subject("volume set-up", &version.unpack());
    let prepare = move || {
        let version = version.unpack();
        let paths = &context.facts.paths;
        folder::create(paths, &version.key, &version.uid, &record)
            .map_err(node_failure("FailedMount"))?;
        create_cgroup(&context, &version).map_err(node_failure("FailedCreatePodContainer"))?;
        let addresses = Addresses {
            seen: record.seen.clone(),
            ..Addresses::default()
        };
        volume::prepare(&context.facts, &version, &addresses)?;
        host_resolver(&context).map_err(sandbox_failure)
    };
    let prepared = pooled(subject, FILES, prepare).await;
    prepared.map_err(timed_out("FailedMount"))?
}

fn create_cgroup(context: &Context, version: &StaticPod) -> std::io::Result<()> {
    let facts = &context.facts;
    let spec = &version.spec;
    let path = pod_cgroup_path(
        facts.cgroup_driver,
        &facts.cgroup_root,
        qos_class(spec),
        &version.uid,
    );
    let limits = pod_cgroup_limits(facts, spec);
    let (root, driver) = (&facts.paths.cgroups, facts.cgroup_driver);
    cgroup::create(root, driver, &path, &limits)?;
    cgroup::update_shares(root, driver, || {
        qos_cpu_shares(
            driver,
            &facts.cgroup_root,
            context.allocations.burstable_cpu(),
        )
    })
}

/// The most bytes of a resolver configuration that are read.
const MAX_RESOLVER: u64 = 1 << 20;

/// The host's resolver configuration, as it is now.
///
/// # Errors
/// It cannot be read.
pub(super) fn host_resolver(context: &Context) -> Result<ResolvConf, String> {
    let Some(path) = &context.resolv_conf else {
        return Ok(ResolvConf::none());
    };
    let text = read_path(path, MAX_RESOLVER).map_err(|e| format!("--resolv-conf: {e}"))?;
    Ok(ResolvConf::parse(&String::from_utf8_lossy(&text)))
}
