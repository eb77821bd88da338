//! A CRI v1 runtime for tests, on a real Unix socket: it keeps sandboxes, containers and images in
//! memory, records every call in order with its whole request, and does what it is told to: containers
//! that end, vanish or do not hear, commands with results, calls that fail, are late or hang.
//!
//! All its time is tokio's, so that a test may pause it.

#![allow(dead_code, unused_imports, reason = "each test uses a part of it")]

mod script;
mod service;
mod settings;
mod state;

use std::any::Any;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::stream;
use podkeeper::cri::v1;
use podkeeper::cri::v1::image_service_server::ImageServiceServer;
use podkeeper::cri::v1::runtime_service_server::RuntimeServiceServer;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tonic::transport::Server;

pub(crate) use script::{Executed, Fate, Life, Rule};
pub(crate) use settings::{Settings, handler};
pub(crate) use state::{Container, KILLED, Sandbox, State, TERMINATED};

/// Time limit of the test's waits.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whose a call is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Subject {
    /// The Pod's full name.
    pub(crate) pod: Option<String>,
    /// The container's name; of calls about images the image's.
    pub(crate) container: Option<String>,
}

/// One call, as it came in.
#[derive(Clone)]
pub(crate) struct Call {
    /// By the contract's name.
    pub(crate) method: &'static str,
    pub(crate) subject: Subject,
    pub(crate) at: Instant,
    request: Arc<dyn Any + Send + Sync>,
}

impl Call {
    /// The whole request, where it is one of this kind.
    pub(crate) fn request<T: 'static>(&self) -> Option<&T> {
        self.request.downcast_ref()
    }
}

/// What the runtime's services and its owner share.
struct Shared {
    state: Mutex<State>,
    changes: watch::Sender<u64>,
}

impl Shared {
    fn look<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let done = change(&mut state);
        drop(state);
        self.changes.send_modify(|count| *count += 1);
        done
    }

    /// Records a call; gives what becomes of it.
    fn record(&self, method: &'static str, request: Arc<dyn Any + Send + Sync>) -> Vec<Fate> {
        self.change(|state| {
            let call = Call {
                method,
                subject: state.subject(&*request),
                at: Instant::now(),
                request,
            };
            let fates = state.script.fates(&call);
            state.calls.push(call);
            fates
        })
    }
}

/// The runtime. It ends when it is dropped.
pub(crate) struct Runtime {
    shared: Arc<Shared>,
    socket: PathBuf,
    server: JoinHandle<()>,
    /// Every connection that was accepted.
    connections: Arc<Mutex<Vec<std::os::unix::net::UnixStream>>>,
}

impl Runtime {
    /// Serves on this socket, on the caller's tokio runtime.
    pub(crate) fn start(socket: &Path, settings: Settings) -> Self {
        let shared = Arc::new(Shared {
            state: Mutex::new(State::new(settings)),
            changes: watch::channel(0).0,
        });
        let listener = UnixListener::bind(socket).unwrap();
        let connections = Arc::<Mutex<Vec<_>>>::default();
        let accepted = Arc::clone(&connections);
        let incoming = stream::unfold((listener, accepted), |(listener, accepted)| async {
            let stream = listener.accept().await.map(|(stream, _)| stream);
            if let Ok(stream) = &stream {
                let other = stream.as_fd().try_clone_to_owned().unwrap();
                let mut accepted = accepted.lock().unwrap_or_else(PoisonError::into_inner);
                accepted.push(other.into());
            }
            Some((stream, (listener, accepted)))
        });
        let service = service::Service(Arc::clone(&shared));
        let server = Server::builder()
            .add_service(RuntimeServiceServer::new(service.clone()))
            .add_service(ImageServiceServer::new(service));
        let server = tokio::spawn(async move {
            server.serve_with_incoming(incoming).await.unwrap();
        });
        Self {
            shared,
            socket: socket.to_owned(),
            server,
            connections,
        }
    }

    /// Breaks every connection, as a runtime does that is started again.
    pub(crate) fn disconnect(&self) {
        let mut connections = self
            .connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for connection in connections.drain(..) {
            // The other side may have closed it.
            let _ = connection.shutdown(std::net::Shutdown::Both);
        }
    }

    /// Where it is, as the agent is told.
    pub(crate) fn endpoint(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    // --- what it is told to do

    /// Lets calls fail, be late or hang.
    pub(crate) fn rule(&self, rule: Rule) {
        self.change(|state| state.script.rules.push(rule));
    }

    /// Forgets all such rules.
    pub(crate) fn clear_rules(&self) {
        self.change(|state| state.script.rules.clear());
    }

    /// How containers made from now on live: by Pod, name and attempt.
    pub(crate) fn lives(&self, lives: impl Fn(&str, &str, u32) -> Life + Send + 'static) {
        self.change(|state| state.script.lives = Some(Box::new(lives)));
    }

    /// What commands in containers answer from now on.
    pub(crate) fn commands(
        &self,
        commands: impl Fn(&Subject, &[String]) -> Executed + Send + 'static,
    ) {
        self.change(|state| state.script.commands = Some(Box::new(commands)));
    }

    /// The image's user, by number or by name; the image is there from now on.
    pub(crate) fn image(&self, name: &str, uid: Option<i64>, username: &str) {
        self.change(|state| {
            let image = state.add_image(name);
            image.uid = uid.map(|value| v1::Int64Value { value });
            username.clone_into(&mut image.username);
        });
    }

    /// Anything else that is to be otherwise.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        self.shared.change(change)
    }

    /// The newest container of this name of a Pod ends.
    pub(crate) fn exit(&self, pod: &str, container: &str, code: i32) {
        self.change(|state| {
            let id = state.newest(pod, container).map(|c| c.id.clone());
            state.exit(&id.unwrap(), code);
        });
    }

    /// The newest container of this name of a Pod is removed by somebody else.
    pub(crate) fn vanish(&self, pod: &str, container: &str) {
        self.change(|state| {
            let id = state.newest(pod, container).map(|c| c.id.clone());
            state.remove_container(&id.unwrap());
        });
    }

    /// All sandboxes of a Pod die.
    pub(crate) fn end_sandboxes(&self, pod: &str) {
        self.change(|state| {
            let ids = state.sandboxes.iter().filter(|s| s.pod() == pod);
            let ids: Vec<String> = ids.map(|s| s.id.clone()).collect();
            for id in ids {
                state.end_sandbox(&id);
            }
        });
    }

    // --- what came of it

    pub(crate) fn look<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        self.shared.look(look)
    }

    /// Every call so far, in order.
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.look(|state| state.calls.clone())
    }

    /// The calls about a Pod, in order.
    pub(crate) fn calls_for(&self, pod: &str) -> Vec<Call> {
        let mut calls = self.calls();
        calls.retain(|call| call.subject.pod.as_deref() == Some(pod));
        calls
    }

    /// The state of the newest container of this name of a Pod.
    pub(crate) fn state_of(&self, pod: &str, container: &str) -> Option<v1::ContainerState> {
        self.look(|state| state.newest(pod, container).map(|c| c.state))
    }

    /// Waits until what the runtime holds, or was asked, is so.
    pub(crate) async fn until(&self, what: &str, test: impl Fn(&State) -> bool) {
        let mut changes = self.shared.changes.subscribe();
        let waiting = async {
            while !self.look(&test) {
                changes.changed().await.unwrap();
            }
        };
        let done = tokio::time::timeout(PATIENCE, waiting).await;
        assert!(done.is_ok(), "timed out waiting until {what}");
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.server.abort();
    }
}
