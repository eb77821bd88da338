//! Creating and starting containers.

use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, info, warn};

use super::background::{FILES, file_subject};
use super::clean_up::remove_container;
use super::error::{StepError, node_failure, timed_out};
use super::sandbox::{has_started, host_resolver, user_namespace};
use super::{Context, PodTask};
use crate::cri::{Error, v1};
use crate::host::blocking::{blocking, pooled};
use crate::image::{self, Before};
use crate::manifest::{PodKey, StaticPod, Uid};
use crate::pod::events::EventKind;
use crate::pod::identity::check_id;
use crate::pod::limiter::{CallKind, Class, Order, Permit};
use crate::pod::plan::{Outcome, Step};
use crate::pod::state::observed::{Container, ContainerId, SandboxId, State};
use crate::pod::state::{Image, Subject};
use crate::pod::{folder, observe};
use crate::translate::{
    Addresses, ContainerInstance, ResolvConf, SubPath, container_config, sub_paths,
};

use crate::volume;
use k8s_openapi::api::core::v1::Container as ContainerSpec;

/// Reason of a container whose files or configuration cannot be had.
const CONFIG_ERROR: &str = "CreateContainerConfigError";

/// A container that is about to be created.
struct NewContainer<'a> {
    /// The step that creates it.
    step: &'a Step,
    version: &'a Arc<StaticPod>,
    spec: &'a ContainerSpec,
    /// The sandbox it goes into.
    sandbox: &'a SandboxId,
    /// True if its image was pulled for it.
    pulled: bool,
    /// Subject of its failures.
    subject: Subject,
}

impl PodTask {
    pub(super) async fn run_container(
        &mut self,
        step: &Step,
        uid: &Uid,
        sandbox: &SandboxId,
        container: &str,
        attempt: u32,
        backoff: Option<Duration>,
    ) -> Result<(), StepError> {
        let version = self.known_version(uid)?;
        let image = self.state.image(uid, container).cloned();
        self.outcome(step, Outcome::Begun);
        let spec = version.container(container);
        let (
            Some(Image::Ready {
                reference,
                user,
                pulled,
            }),
            Some(spec),
        ) = (image, spec)
        else {
            return Ok(());
        };
        self.record_present_images(&version, spec, pulled);
        let new = NewContainer {
            step,
            version: &version,
            spec,
            sandbox,
            pulled,
            subject: Subject::Container(uid.clone(), container.to_owned()),
        };
        let instance = ContainerInstance {
            attempt,
            backoff,
            image: reference,
            user,
            ..ContainerInstance::default()
        };
        let (instance, request) = self.prepare_creation(&new, instance).await?;
        if attempt == u32::MAX {
            self.free_last_container(uid, container).await?;
        }
        let class = self.container_class(&version, container);
        let mut permit = self.acquire_permit(&new.subject, class).await?;
        let id = self.create_container(&new, request, &mut permit).await?;
        self.record_created(&new, id.clone(), instance);
        self.start_created(step, &version, spec, &id, &mut permit)
            .await
    }

    /// Makes what an instance needs on the node. Returns the instance in full, and the request that creates it.
    async fn prepare_creation(
        &mut self,
        new: &NewContainer<'_>,
        instance: ContainerInstance,
    ) -> Result<(ContainerInstance, v1::CreateContainerRequest), StepError> {
        let (version, spec, sandbox) = (new.version, new.spec, new.sandbox);
        let context = Arc::clone(&self.context);
        let user_namespace = user_namespace(&context, version);
        let user_namespace = self.part(&new.subject, user_namespace).await??;
        // Its variables have the addresses that the node has now.
        context.facts.identity.ips.refresh();
        let ips = self.observed.sandbox(sandbox).map(|s| s.ips.clone());
        let instance = ContainerInstance {
            addresses: Addresses {
                pod: ips.unwrap_or_default(),
                seen: self.record(version).seen,
            },
            volume_images: self.volume_images(version),
            user_namespace,
            ..instance
        };
        let shown = self.under_way(&version.uid, Some(&spec.name), "PrepareContainer");
        let prepared = prepare_container(&context, version, spec, instance);
        let (instance, host) = self.part(&new.subject, prepared).await??;
        drop(shown);
        let config = container_config(&context.facts, version, spec, &instance)?;
        let sandbox_config = self.sandbox_config(version, sandbox, &host, instance.user_namespace);
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: sandbox.to_string(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        };
        Ok((instance, request))
    }

    /// Calls `CreateContainer`. Returns the container's ID.
    async fn create_container(
        &mut self,
        new: &NewContainer<'_>,
        request: v1::CreateContainerRequest,
        permit: &mut Permit,
    ) -> Result<ContainerId, StepError> {
        let context = Arc::clone(&self.context);
        let shown = self.under_way(&new.version.uid, Some(&new.spec.name), "CreateContainer");
        let create = context.client.create_container(request);
        let create = permit.run(CallKind::CreateContainer, create);
        let created = self.part(&new.subject, create).await?;
        drop(shown);
        let id = match created {
            Ok(answer) => ContainerId::from(answer.container_id),
            Err(error) => {
                self.outcome(new.step, Outcome::NotCreated);
                self.pass_reserved_name(new.step, &new.subject, &error)
                    .await;
                if image::is_damaged(&error) {
                    let before = Before::Damaged { pulled: new.pulled };
                    let hint = self.repair_image(&new.version.uid, &new.spec.name, before);
                    let reason = "CreateContainerError";
                    return Err(StepError::Call {
                        reason,
                        error,
                        hint,
                    });
                }
                return Err(create_failure(new.version, new.spec, error));
            }
        };
        check_id(&id).map_err(|e| StepError::Node {
            reason: "CreateContainerError",
            message: format!("CreateContainer: {e}"),
        })?;
        Ok(id)
    }

    /// Takes over a container that the runtime has created.
    fn record_created(
        &mut self,
        new: &NewContainer<'_>,
        id: ContainerId,
        instance: ContainerInstance,
    ) {
        let (uid, name) = (&new.version.uid, &new.spec.name);
        let normal = EventKind::Normal;
        self.event(uid, Some(name), normal, "Created", "Container created");
        // A list that grows by itself has room for four.
        self.observed.containers.reserve_exact(1);
        self.observed.containers.push(Container {
            id,
            sandbox: new.sandbox.clone(),
            uid: uid.clone(),
            name: name.clone(),
            attempt: instance.attempt,
            state: State::Created,
            image: instance.image.clone(),
            image_ref: instance.image,
            user: None,
            backoff: instance.backoff,
            grace_period: new.version.spec.termination_grace_period_seconds,
            gone: false,
        });
    }

    /// Attempts end at [`u32::MAX`]: the last container of a name gives way to the next of that number.
    async fn free_last_container(&mut self, uid: &Uid, name: &str) -> Result<(), StepError> {
        let is_last = |c: &&Container| c.name == name && c.attempt == u32::MAX && !c.is_live();
        let last = self.observed.containers_of(uid).find(is_last);
        match last.map(|c| c.id.clone()) {
            Some(id) => {
                let (context, key) = (Arc::clone(&self.context), self.key.clone());
                let known = self.observed.container(&id);
                let remove = remove_container(context, key, id.clone(), known.cloned());
                let subject = Subject::Container(uid.clone(), name.to_owned());
                let removed = self.part(&subject, remove).await?;
                self.apply(&Step::RemoveContainer { id }, &removed);
                removed
            }
            None => Ok(()),
        }
    }

    /// Waits for a permit for expensive calls.
    pub(super) async fn acquire_permit(
        &mut self,
        subject: &Subject,
        class: Class,
    ) -> Result<Permit, StepError> {
        let uid = subject.uid().cloned().unwrap_or_default();
        let (container, order) = match subject {
            Subject::Container(_, name) => (Some(name.as_str()), Order::Begun),
            _ => (None, Order::New),
        };
        let _step = self.under_way(&uid, container, "WaitForTurn");
        let limiter = self.context.limiter.clone();
        self.part(subject, limiter.acquire(class, order)).await
    }

    pub(super) async fn start_container(
        &mut self,
        step: &Step,
        uid: &Uid,
        container: &str,
        id: &ContainerId,
    ) -> Result<(), StepError> {
        let version = self.known_version(uid)?;
        let Some(spec) = version.container(container) else {
            return Ok(());
        };
        let subject = Subject::Container(uid.clone(), container.to_owned());
        let class = self.container_class(&version, container);
        let mut permit = self.acquire_permit(&subject, class).await?;
        self.start_created(step, &version, spec, id, &mut permit)
            .await
    }

    /// Starts a container that is created, and what goes with it: the link to its log, its probes and its
    /// postStart hook.
    async fn start_created(
        &mut self,
        step: &Step,
        version: &StaticPod,
        spec: &ContainerSpec,
        id: &ContainerId,
        permit: &mut Permit,
    ) -> Result<(), StepError> {
        self.expect_post_start(step, spec, id).await;
        let now = self.call_start(step, version, spec, id, permit).await?;
        let (name, normal) = (Some(spec.name.as_str()), EventKind::Normal);
        self.event(&version.uid, name, normal, "Started", "Container started");
        if let Some(known) = self.observed.container_mut(id) {
            known.state = State::Running {
                started_at: self.context.clock.wall_now(),
            };
            info!(pod = %self.key, container = spec.name, attempt = known.attempt, "Started container");
            let before = self.observed.clone();
            self.started(id, now).await;
            self.complete_observed(&before).await;
            self.log_ends(&before);
        }
        let metrics = &self.context.metrics;
        metrics.container_started(self.view(), version, id);
        self.check_stop_signal(version, spec, id).await;
        self.begin_post_start(version, spec, id);
        Ok(())
    }

    /// Calls `StartContainer`. Returns the container's status after that, if it can be had.
    async fn call_start(
        &mut self,
        step: &Step,
        version: &StaticPod,
        spec: &ContainerSpec,
        id: &ContainerId,
        permit: &mut Permit,
    ) -> Result<Option<Container>, StepError> {
        let context = Arc::clone(&self.context);
        let subject = Subject::Container(version.uid.clone(), spec.name.clone());
        let request = v1::StartContainerRequest {
            container_id: id.to_string(),
        };
        let shown = self.under_way(&version.uid, Some(&spec.name), "StartContainer");
        let start = context.client.start_container(request);
        let start = permit.run(CallKind::StartContainer, start);
        let started = self.part(&subject, start).await?;
        drop(shown);
        started.map_err(|error| StepError::Call {
            reason: "RunContainerError",
            error,
            hint: None,
        })?;
        self.outcome(step, Outcome::Started(context.clock.now()));
        // The runtime reports its name of the image only now.
        let now = observe::inspect_container(&context.client, &context.clock, id);
        let now = self.part(&subject, now).await.unwrap_or(Ok(None));
        let now = now.ok().flatten();
        if now.as_ref().is_some_and(|now| now.state == State::Created) {
            return Err(StepError::Node {
                reason: "RunContainerError",
                message: "the container is not started after StartContainer succeeded".to_owned(),
            });
        }
        Ok(now)
    }

    /// Takes over the status of a container that was started just now; it may be over already.
    pub(super) async fn started(&mut self, id: &ContainerId, now: Option<Container>) {
        let Some(known) = self.observed.container_mut(id) else {
            return;
        };
        if let Some(now) = now {
            known.state = now.state;
            known.image = now.image;
            known.image_ref = now.image_ref;
            known.user = now.user;
        }
        let (context, key, known) = (Arc::clone(&self.context), self.key.clone(), known.clone());
        self.own_files(link_log(&context, &key, &known)).await;
    }

    /// Logs a stop signal that the runtime does not know, and records its event: the runtime sends another one.
    async fn check_stop_signal(
        &mut self,
        version: &StaticPod,
        spec: &ContainerSpec,
        id: &ContainerId,
    ) {
        let lifecycle = spec.lifecycle.as_ref();
        let Some(signal) = lifecycle.and_then(|l| l.stop_signal.as_deref()) else {
            return;
        };
        let context = Arc::clone(&self.context);
        let subject = Subject::Container(version.uid.clone(), spec.name.clone());
        let has = observe::stop_signal(&context.client, id);
        if !matches!(self.part(&subject, has).await, Ok(Ok(None))) {
            return;
        }
        let message = format!(
            "lifecycle.stopSignal is {signal}, which this container runtime does not know of: it sends \
             the image's stop signal, or SIGTERM; containerd 2.4 knows of it"
        );
        warn!(pod = %self.key, container = spec.name, "{message}");
        let (name, warning) = (Some(spec.name.as_str()), EventKind::Warning);
        self.event(
            &version.uid,
            name,
            warning,
            "StopSignalNotSupported",
            &message,
        );
    }

    /// The class of the calls that make and start a container of a version.
    fn container_class(&self, version: &StaticPod, name: &str) -> Class {
        let instances = self.observed.history_of(&version.uid, name);
        if instances.into_iter().any(has_started) {
            Class::Running
        } else {
            self.sandbox_class(version)
        }
    }
}

/// Returns the failure to make a container. A call without an answer has no cause of its own: what the
/// runtime does first with the container is resolve its mounts.
fn create_failure(version: &StaticPod, spec: &ContainerSpec, error: Error) -> StepError {
    if !matches!(error, Error::Deadline { .. }) {
        return error.into();
    }
    let mounts = spec.volume_mounts.iter().flatten();
    let mounted: Vec<&str> = mounts.map(|m| m.name.as_str()).collect();
    let volumes = version.volumes().iter();
    let volumes = volumes.filter(|v| mounted.contains(&v.name.as_str()));
    let paths = volumes.filter_map(|v| Some(v.host_path.as_ref()?.path.as_str()));
    let paths: Vec<&str> = paths.collect();
    if paths.is_empty() {
        return error.into();
    }
    let paths = paths.join(", ");
    StepError::Call {
        reason: "CreateContainerError",
        error,
        hint: Some(format!(
            "one of its hostPath volumes may not answer: {paths}"
        )),
    }
}

/// Makes what one instance of a container needs on the node; gives the host's resolver configuration too.
async fn prepare_container(
    context: &Arc<Context>,
    version: &Arc<StaticPod>,
    spec: &ContainerSpec,
    instance: ContainerInstance,
) -> Result<(ContainerInstance, ResolvConf), StepError> {
    let (context, version, spec) = (Arc::clone(context), Arc::clone(version), spec.clone());
    let subject = file_subject("container set-up", &version);
    let prepare = move || {
        let facts = &context.facts;
        let mut instance = instance;
        folder::prepare_container(&facts.paths, &version, &spec, instance.attempt)
            .map_err(node_failure(CONFIG_ERROR))?;
        let message_file =
            folder::create_termination_log(&facts.paths, &version, &spec, instance.attempt);
        if let Err(error) = message_file {
            instance.without_termination_log = true;
            warn!(pod = %version.key, container = spec.name, %error, "Container starts without a file for its termination message");
        }
        folder::write_hosts_file(facts, &version, &instance.addresses.pod)
            .map_err(node_failure(CONFIG_ERROR))?;
        volume::refresh(facts, &version, &instance.addresses)?;
        instance.env_files = volume::env_files(&facts.paths, &version, &spec)?;
        for part in sub_paths(facts, &version, &spec, &instance)? {
            let SubPath {
                index,
                volume,
                root,
                path,
            } = part;
            let target = facts
                .paths
                .sub_path(&version.uid, &volume, &spec.name, index);
            volume::prepare_sub_path(&volume, &root, &path, &target)?;
        }
        // That it cannot be read any more is no reason to keep a container from starting again.
        let host = host_resolver(&context).unwrap_or_default();
        Ok((instance, host))
    };
    let prepared = pooled(subject, FILES, prepare).await;
    prepared.map_err(timed_out(CONFIG_ERROR))?
}

/// Links to a container's log from the folder that log shippers read.
async fn link_log(context: &Context, key: &PodKey, container: &Container) {
    let (paths, key, container) = (context.facts.paths.clone(), key.clone(), container.clone());
    let link = move || {
        let log = paths.container_log(&key, &container.uid, &container.name, container.attempt);
        let links = paths.log_links();
        links.create(
            &key.namespace,
            &key.name,
            &container.name,
            &container.id,
            &log,
        )
    };
    if let Err(error) = blocking(link).await {
        // The container log manager creates it later, and logs it if that fails too.
        debug!(%error, "Failed to link the container's log");
    }
}
