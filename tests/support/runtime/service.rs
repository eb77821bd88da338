//! The contract's two services. Every call is recorded, then meets its fate, then changes the state.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, Stream};
use podkeeper::cri::v1;
use podkeeper::cri::v1::image_service_server::ImageService;
use podkeeper::cri::v1::runtime_service_server::RuntimeService;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tonic::{Request, Response, Status};

use super::Shared;
use super::script::Fate;
use super::settings::{status, version};
use super::state::{State, subject_of_container};

type Answer<T> = Result<T, Status>;
type Streamed<T> = Pin<Box<dyn Stream<Item = Answer<T>> + Send>>;

/// Both services, on one state.
#[derive(Clone)]
pub(super) struct Service(pub(super) Arc<Shared>);

impl Service {
    /// Records a call and lets it meet its fate; then it is carried out.
    async fn serve<Q: Send + Sync + 'static, A: Default>(
        &self,
        method: &'static str,
        request: Request<Q>,
        carry_out: impl FnOnce(&mut State, &Q) -> Answer<A>,
    ) -> Answer<Response<A>> {
        let request = Arc::new(request.into_inner());
        let Some(error) = self.meet_fate(method, &request).await? else {
            return Ok(Response::new(A::default()));
        };
        let answer = self.0.change(|state| carry_out(state, &request));
        match error {
            Some(error) => Err(error),
            None => answer.map(Response::new),
        }
    }

    /// The error that the call is to end with, though it is carried out; nothing where it is not.
    async fn meet_fate<Q: Send + Sync + 'static>(
        &self,
        method: &'static str,
        request: &Arc<Q>,
    ) -> Answer<Option<Option<Status>>> {
        let mut error = None;
        for fate in self.0.record(method, Arc::<Q>::clone(request)) {
            match fate {
                Fate::Fails(status) => return Err(status),
                Fate::DoneButFails(status) => error = Some(status),
                Fate::Late(delay) => tokio::time::sleep(delay).await,
                Fate::Hangs => std::future::pending().await,
                Fate::Nothing => return Ok(None),
                Fate::LeavesName => {
                    self.0.change(|state| state.reserve(&**request));
                    return Err(Status::deadline_exceeded("context deadline exceeded"));
                }
            }
        }
        Ok(Some(error))
    }

    /// A started container that ends by itself does so later.
    fn let_live(&self, id: &str) {
        let life = self.0.look(|state| state.container(id).map(|c| c.life));
        let Some((after, code)) = life.and_then(|life| life.end) else {
            return;
        };
        if after.is_zero() {
            return self.0.change(|state| state.exit(id, code));
        }
        let (shared, id) = (Arc::clone(&self.0), id.to_owned());
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            shared.change(|state| state.exit(&id, code));
        });
    }

    /// A command in a container, counted among those that run until its call has ended.
    async fn execute_counted(&self, request: &v1::ExecSyncRequest) -> Answer<v1::ExecSyncResponse> {
        struct Counted<'a>(&'a Service);
        impl Drop for Counted<'_> {
            fn drop(&mut self) {
                self.0.0.change(|state| state.executing -= 1);
            }
        }
        self.0.change(|state| {
            state.executing += 1;
            state.most_executing = state.most_executing.max(state.executing);
        });
        let _counted = Counted(self);
        self.execute(request).await
    }

    /// A command in a container; one that takes longer than it may ends with an error.
    async fn execute(&self, request: &v1::ExecSyncRequest) -> Answer<v1::ExecSyncResponse> {
        let executed = self.0.look(|state| {
            let known = state.container(&request.container_id);
            let known = known.filter(|c| c.is_running());
            let subject = subject_of_container(known?);
            Some(state.script.executed(&subject, &request.cmd))
        });
        let executed = executed.ok_or_else(|| {
            Status::unknown(format!(
                "the container {} does not run",
                request.container_id
            ))
        })?;
        let limit = Duration::from_secs(request.timeout.try_into().unwrap_or(0));
        if !limit.is_zero() && executed.takes > limit {
            tokio::time::sleep(limit + executed.held).await;
            let text = format!("the command took longer than {} s", limit.as_secs());
            return Err(Status::deadline_exceeded(text));
        }
        tokio::time::sleep(executed.takes + executed.held).await;
        Ok(v1::ExecSyncResponse {
            stdout: executed.stdout.into_bytes(),
            stderr: executed.stderr.into_bytes(),
            exit_code: executed.code,
        })
    }

    /// A container that is told to stop does so in its own time, or is killed once that is over.
    async fn let_stop(&self, request: &v1::StopContainerRequest) {
        let id = &request.container_id;
        let running = |state: &State| {
            let known = state.container(id).filter(|c| c.is_running());
            known.map(|c| c.life)
        };
        let timeout = Duration::from_secs(request.timeout.try_into().unwrap_or(0));
        if let Some(life) = self.0.look(running) {
            let (after, code) = life.stopped(timeout);
            // It may end by itself before.
            let mut changes = self.0.changes.subscribe();
            let ended = async {
                while self.0.look(running).is_some() {
                    changes.changed().await.unwrap();
                }
            };
            if tokio::time::timeout(after, ended).await.is_err() {
                self.0.change(|state| state.exit(id, code));
            }
        }
    }
}

fn not_implemented<Q, A>(_: &mut State, _: &Q) -> Answer<A> {
    Err(Status::unimplemented(
        "the runtime does not have this method",
    ))
}

/// One service: each method with what carries it out, the streams that it does not have, and the
/// methods that are written out.
macro_rules! service {
    (
        $service:ident;
        $($method:ident: $name:ident($request:ident) -> $answer:ident = $carry_out:expr;)*
        { $($stream:ident: $stream_name:ident($stream_request:ident) -> $item:ident;)* }
        { $($rest:tt)* }
    ) => {
        #[tonic::async_trait]
        impl $service for Service {
            $(
                async fn $name(
                    &self,
                    request: Request<v1::$request>,
                ) -> Answer<Response<v1::$answer>> {
                    self.serve(stringify!($method), request, $carry_out).await
                }
            )*
            $(
                type $stream = Streamed<v1::$item>;
                async fn $stream_name(
                    &self,
                    request: Request<v1::$stream_request>,
                ) -> Answer<Response<Self::$stream>> {
                    let request = Arc::new(request.into_inner());
                    self.meet_fate(stringify!($stream), &request).await?;
                    self.0.change(|state| not_implemented(state, &()))
                }
            )*
            $($rest)*
        }
    };
}

service! {
    RuntimeService;
    Version: version(VersionRequest) -> VersionResponse = |s, _| Ok(version(&s.settings));
    Status: status(StatusRequest) -> StatusResponse = |s, q| Ok(status(&s.settings, q.verbose));
    RuntimeConfig: runtime_config(RuntimeConfigRequest) -> RuntimeConfigResponse = |s, _| runtime_config(s);
    RunPodSandbox: run_pod_sandbox(RunPodSandboxRequest) -> RunPodSandboxResponse = State::run_sandbox;
    StopPodSandbox: stop_pod_sandbox(StopPodSandboxRequest) -> StopPodSandboxResponse = |s, q| {
        s.end_sandbox(&q.pod_sandbox_id);
        Ok(v1::StopPodSandboxResponse {})
    };
    RemovePodSandbox: remove_pod_sandbox(RemovePodSandboxRequest) -> RemovePodSandboxResponse = |s, q| {
        s.remove_sandbox(&q.pod_sandbox_id);
        Ok(v1::RemovePodSandboxResponse {})
    };
    PodSandboxStatus: pod_sandbox_status(PodSandboxStatusRequest) -> PodSandboxStatusResponse = sandbox_status;
    ListPodSandbox: list_pod_sandbox(ListPodSandboxRequest) -> ListPodSandboxResponse = |s, q| {
        Ok(v1::ListPodSandboxResponse { items: s.list_sandboxes(q.filter.as_ref()) })
    };
    CreateContainer: create_container(CreateContainerRequest) -> CreateContainerResponse = State::create_container;
    RemoveContainer: remove_container(RemoveContainerRequest) -> RemoveContainerResponse = |s, q| {
        s.remove_container(&q.container_id);
        Ok(v1::RemoveContainerResponse {})
    };
    ListContainers: list_containers(ListContainersRequest) -> ListContainersResponse = |s, q| {
        Ok(v1::ListContainersResponse { containers: s.list_containers(q.filter.as_ref()) })
    };
    ContainerStatus: container_status(ContainerStatusRequest) -> ContainerStatusResponse = |s, q| {
        let status = Some(s.container_status(&q.container_id)?);
        Ok(v1::ContainerStatusResponse { status, ..v1::ContainerStatusResponse::default() })
    };
    ReopenContainerLog: reopen_container_log(ReopenContainerLogRequest) -> ReopenContainerLogResponse = |s, q| {
        s.container_status(&q.container_id)?;
        Ok(v1::ReopenContainerLogResponse {})
    };
    UpdateContainerResources: update_container_resources(UpdateContainerResourcesRequest) -> UpdateContainerResourcesResponse = not_implemented;
    Exec: exec(ExecRequest) -> ExecResponse = not_implemented;
    Attach: attach(AttachRequest) -> AttachResponse = not_implemented;
    PortForward: port_forward(PortForwardRequest) -> PortForwardResponse = not_implemented;
    ContainerStats: container_stats(ContainerStatsRequest) -> ContainerStatsResponse = not_implemented;
    ListContainerStats: list_container_stats(ListContainerStatsRequest) -> ListContainerStatsResponse = not_implemented;
    PodSandboxStats: pod_sandbox_stats(PodSandboxStatsRequest) -> PodSandboxStatsResponse = not_implemented;
    ListPodSandboxStats: list_pod_sandbox_stats(ListPodSandboxStatsRequest) -> ListPodSandboxStatsResponse = not_implemented;
    UpdateRuntimeConfig: update_runtime_config(UpdateRuntimeConfigRequest) -> UpdateRuntimeConfigResponse = not_implemented;
    CheckpointContainer: checkpoint_container(CheckpointContainerRequest) -> CheckpointContainerResponse = not_implemented;
    ListMetricDescriptors: list_metric_descriptors(ListMetricDescriptorsRequest) -> ListMetricDescriptorsResponse = not_implemented;
    ListPodSandboxMetrics: list_pod_sandbox_metrics(ListPodSandboxMetricsRequest) -> ListPodSandboxMetricsResponse = not_implemented;
    UpdatePodSandboxResources: update_pod_sandbox_resources(UpdatePodSandboxResourcesRequest) -> UpdatePodSandboxResourcesResponse = not_implemented;
    {
        StreamPodSandboxesStream: stream_pod_sandboxes(StreamPodSandboxesRequest) -> StreamPodSandboxesResponse;
        StreamContainersStream: stream_containers(StreamContainersRequest) -> StreamContainersResponse;
        StreamContainerStatsStream: stream_container_stats(StreamContainerStatsRequest) -> StreamContainerStatsResponse;
        StreamPodSandboxStatsStream: stream_pod_sandbox_stats(StreamPodSandboxStatsRequest) -> StreamPodSandboxStatsResponse;
        StreamPodSandboxMetricsStream: stream_pod_sandbox_metrics(StreamPodSandboxMetricsRequest) -> StreamPodSandboxMetricsResponse;
    }
    {
        async fn start_container(
            &self,
            request: Request<v1::StartContainerRequest>,
        ) -> Answer<Response<v1::StartContainerResponse>> {
            let id = request.get_ref().container_id.clone();
            let answer = self.serve("StartContainer", request, State::start_container).await;
            if self.0.look(|state| state.container(&id).is_some_and(super::state::Container::is_running)) {
                self.let_live(&id);
            }
            answer
        }

        async fn stop_container(
            &self,
            request: Request<v1::StopContainerRequest>,
        ) -> Answer<Response<v1::StopContainerResponse>> {
            let request = Arc::new(request.into_inner());
            let Some(error) = self.meet_fate("StopContainer", &request).await? else {
                return Ok(Response::new(v1::StopContainerResponse {}));
            };
            self.let_stop(&request).await;
            error.map_or(Ok(Response::new(v1::StopContainerResponse {})), Err)
        }

        async fn exec_sync(
            &self,
            request: Request<v1::ExecSyncRequest>,
        ) -> Answer<Response<v1::ExecSyncResponse>> {
            let request = Arc::new(request.into_inner());
            let error = self.meet_fate("ExecSync", &request).await?.flatten();
            let answer = self.execute_counted(&request).await?;
            error.map_or(Ok(Response::new(answer)), Err)
        }

        type GetContainerEventsStream = Streamed<v1::ContainerEventResponse>;
        async fn get_container_events(
            &self,
            request: Request<v1::GetEventsRequest>,
        ) -> Answer<Response<Self::GetContainerEventsStream>> {
            let open = |state: &mut State, (): &()| {
                if state.settings.events {
                    Ok(state.events.subscribe())
                } else {
                    not_implemented(state, &())
                }
            };
            let request = Arc::new(request.into_inner());
            let error = self.meet_fate("GetContainerEvents", &request).await?.flatten();
            let events = error.map_or_else(|| self.0.change(|state| open(state, &())), Err)?;
            let next = |mut events: Receiver<v1::ContainerEventResponse>| async {
                match events.recv().await {
                    Ok(event) => Some((Ok(event), events)),
                    Err(RecvError::Lagged(_)) => Some((Err(Status::data_loss("too slow")), events)),
                    Err(RecvError::Closed) => None,
                }
            };
            Ok(Response::new(Box::pin(stream::unfold(events, next))))
        }
    }
}

service! {
    ImageService;
    ImageStatus: image_status(ImageStatusRequest) -> ImageStatusResponse = |s, q| {
        let image = s.image_status(q);
        Ok(v1::ImageStatusResponse { image, ..v1::ImageStatusResponse::default() })
    };
    PullImage: pull_image(PullImageRequest) -> PullImageResponse = |s, q| Ok(s.pull_image(q));
    ListImages: list_images(ListImagesRequest) -> ListImagesResponse = |s, q| {
        Ok(v1::ListImagesResponse { images: s.list_images(q.filter.as_ref()) })
    };
    RemoveImage: remove_image(RemoveImageRequest) -> RemoveImageResponse = |s, q| {
        s.remove_image(q);
        Ok(v1::RemoveImageResponse {})
    };
    ImageFsInfo: image_fs_info(ImageFsInfoRequest) -> ImageFsInfoResponse = |s, _| {
        Ok(v1::ImageFsInfoResponse {
            image_filesystems: s.settings.image_filesystems.clone(),
            ..v1::ImageFsInfoResponse::default()
        })
    };
    {
        StreamImagesStream: stream_images(StreamImagesRequest) -> StreamImagesResponse;
    }
    {}
}

fn runtime_config(state: &mut State) -> Answer<v1::RuntimeConfigResponse> {
    let Some(driver) = state.settings.cgroup_driver else {
        return not_implemented(state, &());
    };
    Ok(v1::RuntimeConfigResponse {
        linux: Some(v1::LinuxRuntimeConfiguration {
            cgroup_driver: driver.into(),
        }),
    })
}

fn sandbox_status(
    state: &mut State,
    request: &v1::PodSandboxStatusRequest,
) -> Answer<v1::PodSandboxStatusResponse> {
    Ok(v1::PodSandboxStatusResponse {
        status: Some(state.sandbox_status(&request.pod_sandbox_id)?),
        ..v1::PodSandboxStatusResponse::default()
    })
}
