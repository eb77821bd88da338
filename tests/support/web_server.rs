//! A web server that answers as it is told, with every fault that a real one has only on bad days.

#![allow(dead_code, reason = "no test program uses all of it")]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

/// How the server answers a request.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// These bytes, and the end of the connection.
    Bytes(Vec<u8>),
    /// The first bytes, then the second one by one, a tenth of a second apart.
    Trickle(Vec<u8>, Vec<u8>),
    /// The first bytes, then the second over and over.
    Flood(Vec<u8>, Vec<u8>),
    /// A redirect to a place that nobody was sent to before.
    Onwards,
    /// Nothing at all, on an open connection.
    Silence,
}

impl Reply {
    /// An answer with this status line, these headers (each with its line end) and a body.
    pub(crate) fn new(status: &str, headers: &str, body: impl AsRef<[u8]>) -> Self {
        let length = body.as_ref().len();
        // Each connection serves one request, and says so: whoever uses it again just before its end is
        // seen fails, which is another fault than the one to be shown.
        let head = format!(
            "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n"
        );
        Self::Bytes([head.as_bytes(), body.as_ref()].concat())
    }

    pub(crate) fn ok(body: impl AsRef<[u8]>) -> Self {
        Self::new("200 OK", "", body)
    }

    /// Exactly these bytes.
    pub(crate) fn raw(text: impl AsRef<[u8]>) -> Self {
        Self::Bytes(text.as_ref().to_vec())
    }
}

type Script = dyn Fn(&str) -> Reply + Send;

/// The server. It ends when it is dropped.
pub(crate) struct Web {
    address: SocketAddr,
    script: Arc<Mutex<Box<Script>>>,
    requests: Arc<Mutex<Vec<String>>>,
    /// It hangs up on everybody, as one that is down.
    down: Arc<AtomicBool>,
}

impl Web {
    pub(crate) fn start(reply: Reply) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let script: Box<Script> = Box::new(move |_| reply.clone());
        let web = Self {
            address: listener.local_addr().unwrap(),
            script: Arc::new(Mutex::new(script)),
            requests: Arc::default(),
            down: Arc::default(),
        };
        let (script, requests) = (Arc::downgrade(&web.script), Arc::clone(&web.requests));
        let down = Arc::clone(&web.down);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Some(script) = script.upgrade() else {
                    return;
                };
                let requests = Arc::clone(&requests);
                if let (Ok(stream), false) = (stream, down.load(Ordering::Relaxed)) {
                    // A caller that hangs up in the middle is part of the game.
                    thread::spawn(move || serve(stream, &script, &requests).unwrap_or_default());
                }
            }
        });
        web
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Answers every request so from now on.
    pub(crate) fn say(&self, reply: Reply) {
        self.script(move |_| reply.clone());
    }

    /// Answers each request as the script says; it is given the request's head.
    pub(crate) fn script(&self, script: impl Fn(&str) -> Reply + Send + 'static) {
        *lock(&self.script) = Box::new(script);
    }

    pub(crate) fn hang_up(&self, down: bool) {
        self.down.store(down, Ordering::Relaxed);
    }

    /// The heads of all requests so far, in lower case.
    pub(crate) fn requests(&self) -> Vec<String> {
        lock(&self.requests).clone()
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.script(|_| Reply::Silence);
        // One more caller, so that the listener sees that it is over.
        self.script = Arc::new(Mutex::new(Box::new(|_| Reply::Silence)));
        drop(TcpStream::connect(self.address));
    }
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

fn serve(
    mut stream: TcpStream,
    script: &Mutex<Box<Script>>,
    requests: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut head = vec![];
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte)? == 0 {
            return Ok(());
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    lock(requests).push(head.clone());
    let reply = lock(script)(&head);
    match reply {
        Reply::Bytes(bytes) => stream.write_all(&bytes)?,
        Reply::Trickle(first, bytes) => {
            stream.write_all(&first)?;
            for byte in bytes {
                stream.write_all(&[byte])?;
                thread::sleep(Duration::from_millis(100));
            }
        }
        Reply::Flood(first, more) => {
            stream.write_all(&first)?;
            loop {
                stream.write_all(&more)?;
            }
        }
        Reply::Onwards => {
            let place = lock(requests).len();
            let head = format!(
                "HTTP/1.1 302 Found\r\nConnection: close\r\nContent-Length: 0\r\nLocation: /{place}\r\n\r\n"
            );
            stream.write_all(head.as_bytes())?;
        }
        Reply::Silence => {
            // Until the caller gives up.
            stream.read_to_end(&mut vec![])?;
        }
    }
    stream.shutdown(Shutdown::Write)?;
    // What is still on its way would otherwise reset the connection and take the answer with it.
    stream.read_to_end(&mut vec![])?;
    Ok(())
}

/// Bytes of a document that is nested ever deeper.
const DEEP: usize = 1 << 20;

/// A list of lists of lists, each nine times the one before.
fn billion_laughs() -> String {
    let first = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    (1..20).fold(first, |text, i| {
        let aliases = vec![format!("*a{}", i - 1); 9].join(", ");
        text + &format!("a{i}: &a{i} [{aliases}]\n")
    })
}

/// Every way in which a server can fail to give a document, with words of what is said about it.
#[expect(clippy::too_many_lines, reason = "a table")]
pub(crate) fn faults() -> Vec<(&'static str, Reply, &'static str)> {
    let whole = "apiVersion: v1\nkind: PodList\nitems: []\n";
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(vec![], flate2::Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let compressed = |body: &[u8]| Reply::new("200 OK", "Content-Encoding: gzip\r\n", body);
    let half = gzip(whole.as_bytes());
    let half = &half[..half.len() / 2];
    let head = |rest: &str| format!("HTTP/1.1 200 OK\r\n{rest}\r\n");
    let elsewhere = |place: &str| Reply::new("302 Found", &format!("Location: {place}\r\n"), "");
    vec![
        (
            "an error",
            Reply::new("500 Internal Server Error", "", whole),
            "answered 500",
        ),
        (
            "no document",
            Reply::new("404 Not Found", "", whole),
            "answered 404",
        ),
        (
            "a login page",
            Reply::new("401 Unauthorized", "", whole),
            "answered 401",
        ),
        (
            "a part",
            Reply::new("206 Partial Content", "", whole),
            "answered 206",
        ),
        (
            "nothing to say",
            Reply::raw("HTTP/1.1 204 No Content\r\n\r\n"),
            "answered 204",
        ),
        ("an empty body", Reply::ok(""), "found an empty document"),
        (
            "blanks",
            Reply::ok("---\n# nothing\n"),
            "found an empty document",
        ),
        (
            "garbage",
            Reply::ok("\u{1f}\u{8b}\0\0"),
            "found bytes that are no text",
        ),
        (
            "a page",
            Reply::ok("<html><body>Bad Gateway</body></html>"),
            "expected a Pod or a list of Pods",
        ),
        (
            "half a document",
            Reply::ok("apiVersion: v1\nkind: PodList\nitems"),
            "refused as a whole",
        ),
        (
            "a list of nothing",
            Reply::ok("{apiVersion: v1, kind: PodList}"),
            "items: found no list",
        ),
        ("deep brackets", Reply::ok("[".repeat(DEEP)), "100 deep"),
        (
            "deep maps in JSON",
            Reply::ok("{\"a\":".repeat(DEEP / 5)),
            "100 deep",
        ),
        ("deep dashes", Reply::ok("- ".repeat(DEEP / 2)), "100 deep"),
        ("a billion laughs", Reply::ok(billion_laughs()), "values"),
        ("a list in itself", Reply::ok("a: &a [*a]\n"), "100 deep"),
        (
            "a deep document in a small gzip",
            compressed(&gzip("[".repeat(DEEP).as_bytes())),
            "100 deep",
        ),
        (
            "redirects to ever other places",
            Reply::Onwards,
            "more than 5 redirects",
        ),
        ("no http", Reply::raw("hello\r\n\r\n"), ""),
        ("an end at once", Reply::raw(""), ""),
        (
            "a cut body",
            Reply::raw(head("Content-Length: 1000\r\n") + whole),
            "the answer broke off",
        ),
        (
            "cut chunks",
            Reply::raw(head("Transfer-Encoding: chunked\r\n") + "29\r\n" + whole),
            "the answer broke off",
        ),
        (
            "a body of no length",
            Reply::raw(head("") + whole),
            "does not tell its length",
        ),
        (
            "wrong chunks",
            Reply::raw(head("Transfer-Encoding: chunked\r\n") + "zz\r\n" + whole),
            "the answer broke off",
        ),
        (
            "two lengths",
            Reply::raw(head("Content-Length: 41\r\nContent-Length: 7\r\n") + whole),
            "",
        ),
        (
            "a slow body",
            Reply::Trickle(head("Content-Length: 42\r\n").into(), whole.into()),
            "no whole answer within",
        ),
        (
            "a slow head",
            Reply::Trickle(vec![], head("Content-Length: 41\r\n").into()),
            "does not answer in time",
        ),
        ("silence", Reply::Silence, "does not answer in time"),
        (
            "a great length",
            Reply::raw(head("Content-Length: 99999999999\r\n") + whole),
            "larger than",
        ),
        (
            "an endless body",
            Reply::Flood(
                head("Transfer-Encoding: chunked\r\n").into(),
                [&b"10000\r\n"[..], &[b' '; 0x10000], b"\r\n"].concat(),
            ),
            "larger than",
        ),
        (
            "endless headers",
            Reply::Flood(
                b"HTTP/1.1 200 OK\r\n".to_vec(),
                b"X-Flood: yes\r\n".to_vec(),
            ),
            "",
        ),
        ("half a gzip", compressed(half), "no whole gzip"),
        (
            "a gzip bomb",
            compressed(&gzip(&vec![b' '; 64 * 1024 * 1024])),
            "larger than",
        ),
        (
            "another encoding",
            Reply::new("200 OK", "Content-Encoding: br\r\n", whole),
            "encoded as \"br\"",
        ),
        (
            "a redirect to itself",
            elsewhere("/pods.yaml"),
            "more than 5 redirects",
        ),
        (
            "a redirect to nowhere",
            Reply::new("301 Moved Permanently", "", ""),
            "a redirect without a place",
        ),
        (
            "a redirect to a file",
            elsewhere("file:///etc/passwd"),
            "a redirect to \"file\"",
        ),
    ]
}
