//! A proxy in front of the API server, with every fault that the way to it has on bad days. It counts
//! what is asked.

use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::cluster::Cluster;
use crate::node::Node;

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Pass,
    /// It passes after this time.
    Late(Duration),
    /// This answer, and nothing more.
    Answer(u16),
    /// The connection is cut before there is an answer.
    Cut,
    /// It passes, and the connection is cut before the answer comes.
    CutAfter,
}

/// A request: its method, and its path with what is asked for.
pub(crate) type Asked = (String, String);

type Decide = dyn Fn(&Asked) -> Fate + Send + Sync;
type Body = UnsyncBoxBody<Bytes, hyper::Error>;

struct Shared {
    decide: Mutex<Arc<Decide>>,
    asked: Mutex<Vec<Asked>>,
    behind: String,
    client: Client<HttpConnector, Incoming>,
    /// Raised to cut all connections.
    cuts: watch::Sender<u32>,
}

/// The proxy. It ends when it is dropped.
pub(crate) struct Proxy {
    shared: Arc<Shared>,
    url: String,
    /// kubectl's own proxy, which shows who is asking.
    kubectl: Child,
    _end: tokio::sync::oneshot::Sender<()>,
}

impl Proxy {
    /// A proxy to this API server for the node's agent, which is told to ask through it.
    pub(crate) fn start(cluster: &Cluster, node: &mut Node) -> Self {
        let kubeconfig = cluster.node_kubeconfig(&node.name);
        let (kubectl, behind) = kubectl_proxy(cluster, &kubeconfig);
        let shared = Arc::new(Shared {
            decide: Mutex::new(Arc::new(|_: &Asked| Fate::Pass)),
            asked: Mutex::default(),
            behind,
            client: Client::builder(TokioExecutor::new()).build_http(),
            cuts: watch::channel(0).0,
        });
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (end, ended) = tokio::sync::oneshot::channel();
        let for_thread = Arc::clone(&shared);
        // The test waits for programs, and the proxy must not wait with it.
        thread::spawn(move || {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            let runtime = builder.enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                tokio::select! {
                    () = serve(listener, for_thread) => {}
                    _ = ended => {}
                }
            });
        });
        let path = node.path("proxied.kubeconfig");
        let text = format!(
            "clusters: [{{name: c, cluster: {{server: '{url}'}}}}]\n\
             contexts: [{{name: x, context: {{cluster: c, user: u}}}}]\n\
             users: []\ncurrent-context: x\n"
        );
        std::fs::write(&path, text).unwrap();
        node.flag("kubeconfig", &path.display().to_string());
        Self {
            shared,
            url,
            kubectl,
            _end: end,
        }
    }

    /// From now on this decides over every request.
    pub(crate) fn decide(&self, decide: impl Fn(&Asked) -> Fate + Send + Sync + 'static) {
        *self.shared.decide.lock().unwrap() = Arc::new(decide);
    }

    /// Cuts all connections, watches among them.
    pub(crate) fn cut(&self) {
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// All that was asked since the last call.
    pub(crate) fn take_asked(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.shared.asked.lock().unwrap())
    }

    /// How much was asked since [`Proxy::take_asked`].
    pub(crate) fn count(&self) -> usize {
        self.shared.asked.lock().unwrap().len()
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.kubectl.kill();
        let _ = self.kubectl.wait();
    }
}

/// kubectl's own proxy for the identity of a kubeconfig, and its URL.
fn kubectl_proxy(cluster: &Cluster, kubeconfig: &std::path::Path) -> (Child, String) {
    use std::io::{BufRead, BufReader};
    let mut kubectl = Command::new(cluster.path("kubectl"))
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .args(["proxy", "--port=0"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut lines = BufReader::new(kubectl.stdout.take().unwrap());
    lines.read_line(&mut line).unwrap();
    let address = line.trim().rsplit(' ').next().unwrap();
    (kubectl, format!("http://{address}"))
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let shared = Arc::clone(&shared);
        let mut cuts = shared.cuts.subscribe();
        tokio::spawn(async move {
            let answer = |request| answer(Arc::clone(&shared), request);
            let http = hyper::server::conn::http1::Builder::new();
            let connection = http.serve_connection(TokioIo::new(stream), service_fn(answer));
            tokio::select! {
                // Whoever asked sees how it ended.
                _ = connection => {}
                _ = cuts.changed() => {}
            }
        });
    }
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Body>, String> {
    let target = request.uri().to_string();
    let asked = (request.method().to_string(), target);
    shared.asked.lock().unwrap().push(asked.clone());
    let decide = Arc::clone(&shared.decide.lock().unwrap());
    let fate = decide(&asked);
    match fate {
        Fate::Cut => return Err("cut".to_owned()),
        Fate::Answer(code) => return Ok(refusal(code)),
        Fate::Late(time) => tokio::time::sleep(time).await,
        Fate::Pass | Fate::CutAfter => {}
    }
    let answer = pass(&shared, request, &asked.1).await;
    if fate == Fate::CutAfter {
        return Err("cut".to_owned());
    }
    answer
}

async fn pass(
    shared: &Shared,
    mut request: Request<Incoming>,
    target: &str,
) -> Result<Response<Body>, String> {
    let uri: Uri = format!("{}{target}", shared.behind).parse().unwrap();
    let host = uri.authority().unwrap().to_string();
    request.headers_mut().insert("host", host.parse().unwrap());
    *request.uri_mut() = uri;
    match shared.client.request(request).await {
        // Where the API server is not there, kubectl's proxy says so in plain text, and nobody else does.
        Ok(answer) if is_plain_error(&answer) => Err("cut".to_owned()),
        Ok(answer) => Ok(answer.map(BodyExt::boxed_unsync)),
        Err(error) => Err(error.to_string()),
    }
}

fn is_plain_error(answer: &Response<Incoming>) -> bool {
    let kind = answer.headers().get("content-type");
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    answer.status() == StatusCode::INTERNAL_SERVER_ERROR && kind.starts_with("text/plain")
}

/// What an API server says when it does not want.
fn refusal(code: u16) -> Response<Body> {
    let reason = match code {
        409 => "Conflict",
        429 => "TooManyRequests",
        _ => "InternalError",
    };
    let text = serde_json::json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
        "code": code, "reason": reason, "message": format!("an answer of {code} for a test")});
    let body = Full::new(Bytes::from(text.to_string()));
    let body = body.map_err(|never| match never {}).boxed_unsync();
    let mut answer = Response::new(body);
    *answer.status_mut() = StatusCode::from_u16(code).unwrap();
    answer
}
