//! Logs of containers over HTTPS (the API's `PodLogOptions`).

use std::convert::Infallible;
use std::io::{self, BufWriter, Write};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Bytes, Frame};
use hyper::{Response, StatusCode};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ContainerStatus;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tracing::debug;

use super::query::Query;
use super::refusal::Refusal;
use super::target::ContainerName;
use crate::host::blocking::blocking;
use crate::host::untrusted::Location;
use crate::logs::{self, Cursor, LogOptions, instance};
use crate::pod::report::PodSnapshot;
use crate::pod::task::Context;
use crate::server::router::{Body, Endless};
use crate::units::time::earlier;

/// Interval at which a followed log is checked for more.
const POLL: Duration = Duration::from_millis(100);
/// A caller that reads nothing for this long is disconnected.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum buffer of a caller: so many pieces of so many bytes.
const PIECES: usize = 2;
const PIECE: usize = 64 * 1024;

/// Options of a request for a log.
#[derive(Debug)]
struct Options {
    follow: bool,
    previous: bool,
    tail: Option<usize>,
    wanted: LogOptions,
    limit: Option<u64>,
}

impl Options {
    fn parse(query: &Query, now: Timestamp) -> Result<Self, String> {
        let seconds: Option<u32> = query.read("sinceSeconds", "a number of seconds")?;
        let ago = seconds.map(|s| earlier(now, Duration::from_secs(s.into())));
        let time = query.read("sinceTime", "a time as in RFC 3339")?;
        if ago.is_some() && time.is_some() {
            return Err("sinceSeconds, sinceTime: found both, expected one of them".to_owned());
        }
        let limit = query.read("limitBytes", "a number of bytes, 1 or more")?;
        if limit == Some(0) {
            return Err("limitBytes: found 0, expected a number of bytes, 1 or more".to_owned());
        }
        Ok(Self {
            follow: query.is_on("follow"),
            previous: query.is_on("previous"),
            tail: query.read("tailLines", "a number of lines, 0 or more")?,
            wanted: LogOptions {
                since: ago.or(time),
                timestamps: query.is_on("timestamps"),
                ..LogOptions::default()
            },
            limit,
        })
    }
}

/// Returns the response with a container's log. `permit` is one of the permits of log readers.
pub(super) async fn handle(
    context: &Arc<Context>,
    reported: &PodSnapshot,
    name: ContainerName,
    query: &Query,
    permit: OwnedSemaphorePermit,
) -> Result<Response<Body>, Refusal> {
    let options = match Options::parse(query, Timestamp::now()) {
        Ok(options) => options,
        Err(reason) => return Err(Refusal::new(StatusCode::BAD_REQUEST, reason)),
    };
    let logs = context
        .facts
        .paths
        .log_location(&name.pod, &reported.report.uid);
    let folder = logs.join(&name.container);
    let status = status(reported, &name.container);
    let (previous, at) = (options.previous, folder.clone());
    let found = blocking({
        let status = status.clone();
        move || {
            let attempt = instance(&at, status.as_ref(), previous);
            let checked = attempt.map_or(Ok(()), |attempt| logs::check(&at, attempt));
            checked.map(|()| attempt)
        }
    });
    let attempt = match found.await {
        Ok(Some(attempt)) => attempt,
        Ok(None) => {
            let reason = no_log_reason(&name, status.as_ref(), previous);
            return Err(Refusal::new(StatusCode::BAD_REQUEST, reason));
        }
        Err(error) => {
            let reason = format!("failed to open log file: {error}");
            return Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, reason));
        }
    };
    let (sender, receiver) = mpsc::channel(PIECES);
    let reader = Reader {
        context: Arc::clone(context),
        name,
        attempt,
        folder,
        options,
        sender,
    };
    tokio::spawn(reader.run(permit));
    let pieces = stream::unfold(receiver, |mut receiver| async {
        let piece = receiver.recv().await?;
        Some((Ok::<_, Infallible>(Frame::data(piece)), receiver))
    });
    let mut response = Response::new(StreamBody::new(pieces).boxed_unsync());
    response.extensions_mut().insert(Endless);
    Ok(response)
}

/// Error for a log that does not exist.
fn no_log_reason(name: &ContainerName, status: Option<&ContainerStatus>, previous: bool) -> String {
    let ContainerName { pod, container } = name;
    if previous {
        return format!(
            "previous terminated container {container:?} in pod {:?} not found",
            pod.name
        );
    }
    let state = status.and_then(|s| s.state.as_ref());
    let waiting = state.and_then(|s| s.waiting.as_ref());
    let reason = waiting.and_then(|w| w.reason.as_deref());
    let reason = reason.unwrap_or("it has not said anything yet");
    format!(
        "container {container:?} in pod {:?} is waiting to start: {reason}",
        pod.name
    )
}

/// Returns the status of one of the Pod's containers.
pub(super) fn status(reported: &PodSnapshot, container: &str) -> Option<ContainerStatus> {
    let mut all = reported.status.container_statuses();
    all.find(|status| status.name == container)
}

/// Reads a log for one caller, no faster than it is sent.
struct Reader {
    context: Arc<Context>,
    name: ContainerName,
    attempt: u32,
    folder: Location,
    options: Options,
    sender: mpsc::Sender<Bytes>,
}

impl Reader {
    async fn run(self, _permit: OwnedSemaphorePermit) {
        if let Err(error) = self.read().await
            && error.kind() != io::ErrorKind::BrokenPipe
        {
            debug!(%error, pod = %self.name.pod, "Failed to read a container log");
        }
    }

    async fn read(&self) -> io::Result<()> {
        let pieces = Pieces {
            sender: self.sender.clone(),
            runtime: Handle::current(),
            left: self.options.limit,
        };
        let mut out = BufWriter::with_capacity(PIECE, pieces);
        let (folder, attempt) = (self.folder.clone(), self.attempt);
        let (wanted, tail) = (self.options.wanted, self.options.tail);
        let receiver = self.sender.clone();
        let needed = Box::new(move || !receiver.is_closed());
        let cursor = blocking(move || Cursor::new(folder, attempt, wanted, tail, needed));
        let mut cursor = cursor.await?.of_one_instance();
        if !self.options.follow {
            return blocking(move || {
                cursor.read_all(&mut out)?;
                out.flush()
            })
            .await;
        }
        let mut seen = None;
        loop {
            // Checked before the read, so that nothing written before the end is missed.
            let over = self.is_over(&mut seen);
            let more;
            (cursor, out, more) = blocking(move || {
                let more = cursor.read_on(&mut out)?;
                out.flush()?;
                Ok::<_, io::Error>((cursor, out, more))
            })
            .await?;
            if over && !more {
                return blocking(move || {
                    cursor.flush(&mut out)?;
                    out.flush()
                })
                .await;
            }
            tokio::select! {
                () = tokio::time::sleep(POLL) => {}
                () = self.sender.closed() => return Ok(()),
            }
        }
    }

    /// Returns whether this instance of the container has ended for good. `seen` is what was found last, which counts
    /// for as long as the same is reported.
    fn is_over(&self, seen: &mut Option<(Arc<PodSnapshot>, bool)>) -> bool {
        let Some(reported) = self.context.reports.get(&self.name.pod) else {
            return true;
        };
        if let Some((before, is_over)) = seen
            && Arc::ptr_eq(before, &reported)
        {
            return *is_over;
        }
        let is_over = self.is_over_by(&reported);
        *seen = Some((reported, is_over));
        is_over
    }

    fn is_over_by(&self, reported: &PodSnapshot) -> bool {
        let Some(status) = status(reported, &self.name.container) else {
            return true;
        };
        let newer = u32::try_from(status.restart_count).is_ok_and(|n| n > self.attempt);
        let runs = status.state.as_ref().is_some_and(|s| s.running.is_some());
        let logs = &self.context.facts.paths;
        let folder = logs.log_location(&self.name.pod, &reported.report.uid);
        newer || !runs || folder.join(&self.name.container) != self.folder
    }
}

/// Sends what is written piece by piece; blocks its own thread while the caller does not read.
struct Pieces {
    sender: mpsc::Sender<Bytes>,
    runtime: Handle,
    /// Number of bytes that remain of the limit; `None` for no limit.
    left: Option<u64>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let wanted = match &mut self.left {
            None => bytes,
            Some(0) => return Err(io::ErrorKind::BrokenPipe.into()),
            Some(left) => {
                let wanted = usize::try_from(*left).unwrap_or(usize::MAX);
                let wanted = &bytes[..bytes.len().min(wanted)];
                *left = left.saturating_sub(wanted.len() as u64);
                wanted
            }
        };
        for piece in wanted.chunks(PIECE) {
            let piece = Bytes::copy_from_slice(piece);
            let sent = self
                .runtime
                .block_on(self.sender.send_timeout(piece, READ_TIMEOUT));
            sent.map_err(|_| io::ErrorKind::BrokenPipe)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(query: &str) -> Result<Options, String> {
        let now = "2026-01-01T00:01:00Z".parse().unwrap();
        Options::parse(&Query::parse(query), now)
    }

    #[test]
    fn the_apis_options_are_understood() {
        let all = options("follow=true&previous=true&tailLines=5&timestamps=true&limitBytes=9");
        let all = all.unwrap();
        assert!(all.follow && all.previous && all.wanted.timestamps);
        assert_eq!(
            (all.tail, all.limit, all.wanted.since),
            (Some(5), Some(9), None)
        );
        for query in ["sinceSeconds=60", "sinceTime=2026-01-01T01:00:00%2B01:00"] {
            let since = options(query).unwrap().wanted.since;
            assert_eq!(since, "2026-01-01T00:00:00Z".parse().ok(), "{query}");
        }
        for (query, expected) in [
            ("tailLines=-1", "tailLines: found \"-1\", expected a number"),
            ("limitBytes=0", "limitBytes: found 0, expected"),
            ("sinceTime=now", "sinceTime: found \"now\", expected a time"),
            (
                "sinceTime=2026-01-01T00:00:00Z&sinceSeconds=1",
                "found both",
            ),
        ] {
            let error = options(query).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[tokio::test]
    async fn no_more_is_sent_than_the_limit() {
        let (sender, mut receiver) = mpsc::channel(PIECES);
        let mut pieces = Pieces {
            sender,
            runtime: Handle::current(),
            left: Some(5),
        };
        let writing = blocking(move || {
            let first = pieces.write_all(b"abc");
            (first, pieces.write_all(b"defg"), pieces.write_all(b"h"))
        });
        let reading = async {
            let mut all = vec![];
            while let Some(piece) = receiver.recv().await {
                all.extend(piece);
            }
            all
        };
        let ((first, second, third), all) = tokio::join!(writing, reading);
        assert!(first.is_ok() && second.is_ok() && third.is_err());
        assert_eq!(all, b"abcde");
    }
}
