//! The client: one HTTP/2 connection to the runtime's Unix socket, shared by all callers.
//!
//! Every call has a deadline that fits its kind. The client connects on first use, and again after the connection
//! broke. It never retries a call: that is for callers to decide.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint as TransportEndpoint, Uri};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use super::calls::Calls;
use super::containerd_events::events_client::EventsClient;
use super::containerd_events::{Envelope, SubscribeRequest};
use super::endpoint::Endpoint;
use super::entry::{EncodedList, ListEntry, Listable};
use super::error::Error;
use super::v1::image_service_client::ImageServiceClient;
use super::v1::runtime_service_client::RuntimeServiceClient;
#[allow(
    clippy::wildcard_imports,
    reason = "the contract's messages, by their own names"
)]
use super::v1::*;
use crate::units::time::{bounded, seconds, whole_seconds};

/// Deadline of calls that only read the runtime's memory.
pub(super) const QUERY: Duration = Duration::from_secs(30);
/// Deadline of calls that start or end processes, mounts and networks.
pub(super) const CHANGE: Duration = Duration::from_secs(120);
/// Deadline of creating a sandbox, which may wait for the node's network.
const SANDBOX: Duration = Duration::from_secs(240);
/// Largest answer in bytes, as the kubelet has it.
const MAX_MESSAGE: usize = 16 * 1024 * 1024;

/// Topic of containerd's events about processes that ended.
const TASK_EXIT: &str = "/tasks/exit";
/// containerd's namespace of the objects of its CRI plugin.
pub(super) const CRI_NAMESPACE: &str = "k8s.io";

/// Client of one runtime. Clones share the connection.
#[derive(Debug, Clone)]
pub struct Client {
    pub(super) channel: Channel,
    endpoint: Arc<Endpoint>,
    calls: Calls,
    /// Number of connections so far.
    connections: watch::Sender<u64>,
}

impl Client {
    /// Creates a client of the runtime behind `endpoint`. Does not connect yet, but must be called on the tokio
    /// runtime that will.
    #[must_use]
    pub fn new(endpoint: Endpoint) -> Self {
        Self::measured(endpoint, Calls::default())
    }

    /// Creates a client whose calls are recorded in `calls`.
    #[must_use]
    pub fn measured(endpoint: Endpoint, calls: Calls) -> Self {
        let endpoint = Arc::new(endpoint);
        let socket: Arc<Path> = Arc::from(endpoint.socket());
        let connections = watch::Sender::new(0_u64);
        let counted = connections.clone();
        let connector = tower::service_fn(move |_: Uri| {
            let (socket, counted) = (Arc::clone(&socket), counted.clone());
            async move {
                let stream = UnixStream::connect(socket).await?;
                counted.send_modify(|count| *count = count.wrapping_add(1));
                Ok::<_, std::io::Error>(TokioIo::new(stream))
            }
        });
        // The name only fills the `:authority` header; the connector decides where to connect.
        let channel = TransportEndpoint::from_static("http://localhost")
            .connect_with_connector_lazy(connector);
        Self {
            channel,
            endpoint,
            calls,
            connections,
        }
    }

    /// Returns the number of connections so far: after each the runtime may be another one.
    #[must_use]
    pub fn connections(&self) -> watch::Receiver<u64> {
        self.connections.subscribe()
    }

    /// Returns the runtime's endpoint.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    fn runtime(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    fn images(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    /// Follows events of containers and sandboxes from now on. There is no deadline: containerd answers with the
    /// first event, however long that takes to come. A runtime without events says so at once.
    ///
    /// # Errors
    /// [`Error::Unimplemented`] where the runtime has no events (containerd 1.6).
    pub async fn container_events(&self) -> Result<Streaming<ContainerEventResponse>, Error> {
        let mut client = self.runtime();
        let call = Box::pin(client.get_container_events(GetEventsRequest {}));
        opened("GetContainerEvents", call.await)
    }

    /// Follows the ends of processes in the containers of containerd's CRI plugin from now on, by containerd's own
    /// event service. There is no deadline: it answers with the first event.
    ///
    /// # Errors
    /// [`Error::Unimplemented`] where the runtime is not containerd.
    pub async fn task_exits(&self) -> Result<Streaming<Envelope>, Error> {
        let mut client = EventsClient::new(self.channel.clone());
        let request = SubscribeRequest {
            filters: vec![format!(
                "topic==\"{TASK_EXIT}\",namespace==\"{CRI_NAMESPACE}\""
            )],
        };
        let call = Box::pin(client.subscribe(request));
        opened("Subscribe", call.await)
    }

    /// Stops a container: its stop signal, then, `grace_seconds` later, a kill.
    ///
    /// # Errors
    /// Any [`Error`]; the deadline lies two minutes after the grace period's end.
    pub async fn stop_container(
        &self,
        container_id: &str,
        grace_seconds: i64,
    ) -> Result<(), Error> {
        let deadline = seconds(grace_seconds).saturating_add(CHANGE);
        let message = StopContainerRequest {
            container_id: container_id.to_owned(),
            timeout: whole_seconds(seconds(grace_seconds)),
        };
        let mut client = self.runtime();
        let call = Box::pin(client.stop_container(request(message, deadline)));
        let stopped = self.finish("StopContainer", deadline, call).await;
        stopped.map(drop)
    }

    /// Pulls an image, within a time that depends on the image and its registry.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn pull_image(
        &self,
        message: PullImageRequest,
        deadline: Duration,
    ) -> Result<PullImageResponse, Error> {
        let mut client = self.images();
        let call = Box::pin(client.pull_image(request(message, deadline)));
        self.finish("PullImage", deadline, call).await
    }

    /// Runs a command in a container and waits for its end, at most `timeout`, which the runtime takes up to
    /// the next whole second.
    ///
    /// # Errors
    /// Any [`Error`]; a command that fails is not an error but an exit code in the answer.
    pub async fn exec_sync(
        &self,
        container_id: &str,
        command: &[String],
        timeout: Duration,
    ) -> Result<ExecSyncResponse, Error> {
        let deadline = bounded(timeout).saturating_add(QUERY);
        self.exec_sync_within(container_id, command, timeout, deadline)
            .await
    }

    /// Runs a command in a container, and waits for the runtime's answer for at most `deadline`: it comes only once everything that
    /// holds the command's output has ended.
    ///
    /// # Errors
    /// Any [`Error`]; a command that fails is not an error but an exit code in the answer.
    pub async fn exec_sync_within(
        &self,
        container_id: &str,
        command: &[String],
        timeout: Duration,
        deadline: Duration,
    ) -> Result<ExecSyncResponse, Error> {
        let message = ExecSyncRequest {
            container_id: container_id.to_owned(),
            cmd: command.to_vec(),
            timeout: whole_seconds(timeout),
        };
        let mut client = self.runtime();
        let call = Box::pin(client.exec_sync(request(message, deadline)));
        self.finish("ExecSync", deadline, call).await
    }

    /// Lists the sandboxes or containers that pass the filter, with no more of each decoded than its ID and state.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn entries<T: Listable>(
        &self,
        message: T::Request,
    ) -> Result<Vec<ListEntry<T>>, Error> {
        let grpc = Grpc::new(self.channel.clone());
        let mut grpc = grpc.max_decoding_message_size(MAX_MESSAGE);
        // What a generated stub does, with another message for the answer.
        let call = Box::pin(async move {
            let ready = grpc.ready().await;
            ready.map_err(|e| Status::unknown(format!("Service was not ready: {e}")))?;
            let (path, codec) = (PathAndQuery::from_static(T::PATH), ProstCodec::default());
            let list: Response<EncodedList> =
                grpc.unary(request(message, QUERY), path, codec).await?;
            Ok(Response::new(list.into_inner().into_entries()?))
        });
        self.finish(T::METHOD, QUERY, call).await
    }

    /// Waits for a call's answer, and records it.
    pub(super) async fn finish<T>(
        &self,
        method: &'static str,
        deadline: Duration,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Error> {
        let began = Instant::now();
        let result = with_deadline(method, deadline, call).await;
        let error = result.as_ref().err();
        self.calls.observe(method, began.elapsed(), error);
        result
    }
}

/// Defines one method of [`Client`] for one unary call of the contract.
/// Returns the stream of a call without a deadline.
fn opened<T>(method: &'static str, answer: Result<Response<T>, Status>) -> Result<T, Error> {
    let broke = |status| Error::from_status(method, Duration::ZERO, &status);
    answer.map(Response::into_inner).map_err(broke)
}

macro_rules! calls {
    ($($(#[$doc:meta])* $service:ident.$name:ident($message:ty) -> $answer:ty, $method:literal, $deadline:expr;)*) => {
        impl Client {
            $(
                $(#[$doc])*
                ///
                /// # Errors
                /// Any [`Error`].
                pub async fn $name(&self, message: $message) -> Result<$answer, Error> {
                    let mut client = self.$service();
                    // Boxed because a call's own state is large, and every Pod's task would reserve memory
                    // for the largest.
                    let call = Box::pin(client.$name(request(message, $deadline)));
                    self.finish($method, $deadline, call).await
                }
            )*
        }
    };
}

calls! {
    /// Returns the runtime's name and version, and the API version that it speaks.
    runtime.version(VersionRequest) -> VersionResponse, "Version", QUERY;
    /// Returns the conditions of the runtime and its network.
    runtime.status(StatusRequest) -> StatusResponse, "Status", QUERY;
    /// Returns the runtime's own settings, the cgroup driver among them.
    runtime.runtime_config(RuntimeConfigRequest) -> RuntimeConfigResponse, "RuntimeConfig", QUERY;
    /// Creates and starts a sandbox.
    runtime.run_pod_sandbox(RunPodSandboxRequest) -> RunPodSandboxResponse, "RunPodSandbox", SANDBOX;
    /// Stops a sandbox and releases its network.
    runtime.stop_pod_sandbox(StopPodSandboxRequest) -> StopPodSandboxResponse, "StopPodSandbox", CHANGE;
    /// Removes a sandbox and all in it.
    runtime.remove_pod_sandbox(RemovePodSandboxRequest) -> RemovePodSandboxResponse, "RemovePodSandbox", CHANGE;
    /// Returns one sandbox's state and addresses.
    runtime.pod_sandbox_status(PodSandboxStatusRequest) -> PodSandboxStatusResponse, "PodSandboxStatus", QUERY;
    /// Lists the sandboxes that pass the filter.
    runtime.list_pod_sandbox(ListPodSandboxRequest) -> ListPodSandboxResponse, "ListPodSandbox", QUERY;
    /// Creates a container.
    runtime.create_container(CreateContainerRequest) -> CreateContainerResponse, "CreateContainer", CHANGE;
    /// Starts a created container.
    runtime.start_container(StartContainerRequest) -> StartContainerResponse, "StartContainer", CHANGE;
    /// Removes a container.
    runtime.remove_container(RemoveContainerRequest) -> RemoveContainerResponse, "RemoveContainer", CHANGE;
    /// Lists the containers that pass the filter.
    runtime.list_containers(ListContainersRequest) -> ListContainersResponse, "ListContainers", QUERY;
    /// Returns one container's state.
    runtime.container_status(ContainerStatusRequest) -> ContainerStatusResponse, "ContainerStatus", QUERY;
    /// Has the runtime open a container's log at its path again, after the file there was renamed.
    runtime.reopen_container_log(ReopenContainerLogRequest) -> ReopenContainerLogResponse, "ReopenContainerLog", CHANGE;
    /// Returns the URL at which a command in a container is served.
    runtime.exec(ExecRequest) -> ExecResponse, "Exec", QUERY;
    /// Returns the URL at which a container's own streams are served.
    runtime.attach(AttachRequest) -> AttachResponse, "Attach", QUERY;
    /// Returns the URL at which connections to a Pod's ports are served.
    runtime.port_forward(PortForwardRequest) -> PortForwardResponse, "PortForward", QUERY;
    /// Lists the resource usage of the containers that pass the filter.
    runtime.list_container_stats(ListContainerStatsRequest) -> ListContainerStatsResponse, "ListContainerStats", QUERY;
    /// Lists the resource usage of the sandboxes that pass the filter, with all in them.
    runtime.list_pod_sandbox_stats(ListPodSandboxStatsRequest) -> ListPodSandboxStatsResponse, "ListPodSandboxStats", QUERY;
    /// Lists the images that pass the filter.
    images.list_images(ListImagesRequest) -> ListImagesResponse, "ListImages", QUERY;
    /// Returns one image, or an answer without one.
    images.image_status(ImageStatusRequest) -> ImageStatusResponse, "ImageStatus", QUERY;
    /// Removes an image.
    images.remove_image(RemoveImageRequest) -> RemoveImageResponse, "RemoveImage", CHANGE;
    /// Returns the usage of the file systems of images.
    images.image_fs_info(ImageFsInfoRequest) -> ImageFsInfoResponse, "ImageFsInfo", QUERY;
}

/// Builds a request with our deadline, so that the runtime does not work on after it.
pub(super) fn request<T>(message: T, deadline: Duration) -> Request<T> {
    let mut request = Request::new(message);
    // A header of eight digits: what is longer panics.
    #[allow(clippy::disallowed_methods, reason = "bounded here")]
    request.set_timeout(bounded(deadline));
    request
}

async fn with_deadline<T>(
    method: &'static str,
    deadline: Duration,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Error> {
    match tokio::time::timeout(deadline, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(Error::from_status(method, deadline, &status)),
        Err(_) => Err(Error::Deadline {
            method,
            after: deadline,
            message: String::new(),
        }),
    }
}
