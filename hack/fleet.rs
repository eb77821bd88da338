//! What a fleet of agents does to the server of its manifests: see `hack/fleet`.
//!
//! Arguments: the URL, the file that the server serves there, the server's access log (one line a
//! request: time in seconds, status, bytes received, bytes sent), pollers, period and measured time in
//! seconds.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, bail, ensure};
use podkeeper::source::Desired;
use podkeeper::source::url::{Request, UrlSource};
use tokio::sync::watch;
use tokio::task::JoinSet;

mod process;

/// How long anything may take before the run is given up.
const PATIENCE: Duration = Duration::from_secs(300);

struct Fleet {
    document: PathBuf,
    log: PathBuf,
    period: Duration,
    pollers: Vec<watch::Receiver<Option<Desired>>>,
}

/// One line of the access log.
struct Line {
    at: f64,
    status: u16,
    received: f64,
    sent: f64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, document, log, pollers, period, seconds] = arguments.as_slice() else {
        bail!("expected URL DOCUMENT ACCESS_LOG POLLERS PERIOD SECONDS: start hack/fleet");
    };
    let (pollers, period, seconds) = (pollers.parse()?, period.parse()?, seconds.parse()?);
    let period = Duration::from_secs(period);
    let state = tempfile::tempdir()?;
    let document = PathBuf::from(document);
    publish(&document, 1)?;
    let began = Instant::now();
    let mut fleet = Fleet {
        document,
        log: log.into(),
        period,
        pollers: start(url, pollers, period, state.path())?,
    };
    fleet.all_have(1).await?;
    println!("{pollers} pollers that start in one moment, one every {period:?}");
    println!(
        "all have their first document after        {:>8.1} s",
        began.elapsed().as_secs_f64()
    );

    // The first period spreads them.
    tokio::time::sleep(period).await;
    let (from, cpu) = (now(), own_cpu()?);
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let until = now();
    fleet.say_how_even(from, until)?;
    let polls = f64::from(pollers) * (until - from) / period.as_secs_f64();
    println!(
        "CPU of one poll, of the fleet's side        {:>8.2} ms",
        (own_cpu()? - cpu) * 1000.0 / polls
    );
    println!(
        "memory of one poller                        {:>8.1} kB",
        resident_kb()? / f64::from(pollers)
    );

    let waits = fleet.spread_change(2).await?;
    println!(
        "a change is with half of them after         {:>8.1} s, with 99 % after {:.1} s, with all after {:.1} s",
        waits[waits.len() / 2],
        waits[waits.len() * 99 / 100],
        waits[waits.len() - 1]
    );
    Ok(())
}

fn start(
    url: &str,
    pollers: u32,
    period: Duration,
    state: &Path,
) -> anyhow::Result<Vec<watch::Receiver<Option<Desired>>>> {
    let one = |number: u32| {
        let source = UrlSource {
            url: url.parse()?,
            request: Request::default(),
            public_keys: vec![],
            period,
            node_name: format!("node{number}"),
            state: state.join(number.to_string()),
        };
        let (sender, receiver) = watch::channel(None);
        tokio::spawn(source.run(sender, false));
        anyhow::Ok(receiver)
    };
    (0..pollers).map(one).collect()
}

/// A document of ten Pods of this version.
fn publish(document: &Path, version: u32) -> anyhow::Result<()> {
    let pod = |number: u32| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web{number}\n  labels:\n    version: v{version}\n\
             spec:\n  containers:\n  - name: web\n    image: registry.example/web:{version}\n    \
             ports:\n    - containerPort: 80\n"
        )
    };
    let pods: Vec<_> = (0..10).map(pod).collect();
    let aside = document.with_extension("new");
    fs::write(&aside, pods.join("---\n"))?;
    fs::rename(aside, document).context("cannot publish the document")
}

fn has(desired: Option<&Desired>, version: u32) -> bool {
    let label = format!("v{version}");
    desired
        .and_then(|desired| desired.pods.values().next())
        .is_some_and(|wanted| {
            let pod = wanted.pod.unpack();
            let labels = pod.metadata.labels.as_ref();
            labels.and_then(|labels| labels.get("version")) == Some(&label)
        })
}

impl Fleet {
    /// Waits until every poller has a version; gives how long each took, in seconds, in order.
    async fn all_have(&mut self, version: u32) -> anyhow::Result<Vec<f64>> {
        let began = Instant::now();
        let mut waiting = JoinSet::new();
        for mut poller in self.pollers.iter().cloned() {
            waiting.spawn(async move {
                let found = poller
                    .wait_for(|desired| has(desired.as_ref(), version))
                    .await;
                found.map(|_| began.elapsed().as_secs_f64())
            });
        }
        let mut waits = vec![];
        while let Some(wait) = tokio::time::timeout(PATIENCE, waiting.join_next()).await? {
            waits.push(wait??);
        }
        waits.sort_by(f64::total_cmp);
        Ok(waits)
    }

    async fn spread_change(&mut self, version: u32) -> anyhow::Result<Vec<f64>> {
        // Its time stamp has seconds, and so has the server's idea of a change.
        tokio::time::sleep(Duration::from_millis(1100)).await;
        publish(&self.document, version)?;
        self.all_have(version).await
    }

    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "counts and seconds of one run"
    )]
    fn say_how_even(&self, from: f64, until: f64) -> anyhow::Result<()> {
        let text = fs::read_to_string(&self.log)?;
        let lines = text
            .lines()
            .map(parse)
            .collect::<anyhow::Result<Vec<_>>>()?;
        let within: Vec<_> = lines
            .iter()
            .filter(|l| (from..until).contains(&l.at))
            .collect();
        let mut seconds = vec![0_u32; (until - from) as usize];
        for line in &within {
            if let Some(count) = seconds.get_mut((line.at - from) as usize) {
                *count += 1;
            }
        }
        let mean = within.len() as f64 / (until - from);
        let variance = seconds
            .iter()
            .map(|count| (f64::from(*count) - mean).powi(2));
        let deviation = (variance.sum::<f64>() / seconds.len() as f64).sqrt();
        let least = seconds.iter().min().copied().unwrap_or_default();
        let most = seconds.iter().max().copied().unwrap_or_default();
        println!(
            "requests a second, over {:.0} periods          {mean:>8.1} mean, {least} least, {most} most, deviation {deviation:.1} (of chance alone: {:.1})",
            (until - from) / self.period.as_secs_f64(),
            mean.sqrt()
        );
        let unchanged: Vec<_> = within.iter().filter(|line| line.status == 304).collect();
        ensure!(unchanged.len() == within.len(), "some answers were not 304");
        let mean = |part: fn(&Line) -> f64| {
            unchanged.iter().map(|l| part(l)).sum::<f64>() / unchanged.len() as f64
        };
        println!(
            "bytes of a poll that finds nothing changed  {:>8.0} up, {:.0} down",
            mean(|l| l.received),
            mean(|l| l.sent)
        );
        let first = lines
            .iter()
            .find(|line| line.status == 200)
            .context("no document was sent")?;
        println!(
            "bytes of a document of ten Pods             {:>8.0} down, compressed",
            first.sent
        );
        Ok(())
    }
}

fn parse(line: &str) -> anyhow::Result<Line> {
    let fields: Vec<&str> = line.split(' ').collect();
    let [at, status, received, sent] = fields.as_slice() else {
        bail!("found {line:?} in the access log");
    };
    Ok(Line {
        at: at.parse()?,
        status: status.parse()?,
        received: received.parse()?,
        sent: sent.parse()?,
    })
}

fn now() -> f64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_secs_f64()
}

/// This process's CPU time, in seconds.
fn own_cpu() -> anyhow::Result<f64> {
    Ok(process::cpu(std::process::id())?.as_secs_f64())
}

fn resident_kb() -> anyhow::Result<f64> {
    let resident = process::status(std::process::id(), "VmRSS")?;
    Ok(u32::try_from(resident)?.into())
}
