//! What probes cost the agent: CPU and memory of many that all have a period of one second.
//!
//! Arguments: `tcp` or `http`, how many containers with one such probe, and for how many seconds. Build it
//! with `--release`. The server that they probe is a process of its own, so that it is not counted.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Probe, TCPSocketAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use podkeeper::cri::Client;
use podkeeper::manifest::PodKey;
use podkeeper::probe::{ProbeMetrics, ProbedContainer, Probes, Which};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

mod process;

/// As many containers as a Pod has here.
const CONTAINERS: usize = 3;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [serve] if serve == "serve" => serve_until_told().await,
        [kind, count, seconds] => measure(kind, count.parse()?, seconds.parse()?).await,
        _ => bail!("expected KIND COUNT SECONDS, for example: tcp 300 30"),
    }
}

async fn measure(kind: &str, count: usize, seconds: u64) -> anyhow::Result<()> {
    let (mut server, port) = start_server()?;
    let spec = container(kind, port)?;
    let client = Client::new("unix:///nowhere.sock".parse().map_err(anyhow::Error::msg)?);
    let before = memory()?;
    let mut pods = JoinSet::new();
    for pod in 0..count.div_ceil(CONTAINERS) {
        let first = pod * CONTAINERS;
        let containers = first..count.min(first + CONTAINERS);
        pods.spawn(keep(client.clone(), spec.clone(), containers.collect()));
    }
    // The first rounds, in which everything is new.
    sleep(Duration::from_secs(3)).await;
    let began = cpu()?;
    sleep(Duration::from_secs(seconds)).await;
    let used = cpu()? - began;
    let after = memory()?;
    ensure!(pods.try_join_next().is_none(), "a Pod is not ready");
    drop(pods);

    let rounds = stop_server(&mut server)?;
    println!("{count} {kind} probes, one round a second each, for {seconds} s");
    println!("rounds that the server saw, those before included   {rounds:>8}");
    let share = 100.0 * used / Duration::from_secs(seconds).as_secs_f64();
    println!("CPU                                                 {share:>8.2} % of a core");
    for (name, before) in &before {
        let grown = after.get(name).unwrap_or(&0).saturating_sub(*before);
        println!("{name:<10} before, and what the probes add       {before:>8} {grown:>8} kB");
    }
    Ok(())
}

/// One Pod's probes, until one of them is not as it should be.
async fn keep(client: Client, spec: Container, containers: Vec<usize>) {
    let mut probes = Probes::new(client, PodKey::default(), ProbeMetrics::default());
    let ids: Vec<String> = containers.iter().map(ToString::to_string).collect();
    let wanted = ids
        .iter()
        .zip(&containers)
        .map(|(id, number)| ProbedContainer {
            uid: "u",
            container_id: id,
            spec: &spec,
            ip: "127.0.0.1",
            // As if they had been started one after the other.
            age: Duration::from_secs(10)
                + Duration::from_millis(37) * u32::try_from(*number).unwrap_or(0),
            which: Which::All,
            known: None,
        });
    probes.sync(&wanted.collect::<Vec<_>>());
    while probes.results().any(|(_, health)| !health.ready) {
        if timeout(Duration::from_secs(2), probes.next())
            .await
            .is_err()
        {
            return;
        }
    }
    let unexpected = probes.next().await;
    eprintln!("{unexpected:?}");
}

fn container(kind: &str, port: u16) -> anyhow::Result<Container> {
    let port = IntOrString::Int(port.into());
    let mut probe = Probe {
        period_seconds: Some(1),
        ..Probe::default()
    };
    match kind {
        "tcp" => probe.tcp_socket = Some(TCPSocketAction { port, host: None }),
        "http" => {
            probe.http_get = Some(HTTPGetAction {
                port,
                ..HTTPGetAction::default()
            });
        }
        _ => bail!("found the kind {kind:?}, expected tcp or http"),
    }
    Ok(Container {
        readiness_probe: Some(probe),
        ..Container::default()
    })
}

/// The server, which answers until its standard input ends, and its port.
fn start_server() -> anyhow::Result<(Child, u16)> {
    let mut command = Command::new(std::env::current_exe()?);
    let command = command.arg("serve").stdin(Stdio::piped());
    let mut server = command.stdout(Stdio::piped()).spawn()?;
    let output = server.stdout.as_mut().context("the server has no output")?;
    let mut line = String::new();
    // What comes later is not read ahead: the server says nothing before it is told to end.
    BufReader::new(output).read_line(&mut line)?;
    Ok((server, line.trim().parse()?))
}

/// Ends the server, and gives how many connections it saw.
fn stop_server(server: &mut Child) -> anyhow::Result<u64> {
    drop(server.stdin.take());
    let output = server.stdout.as_mut().context("the server has no output")?;
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line)?;
    server.wait()?;
    Ok(line.trim().parse()?)
}

async fn serve_until_told() -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?.port());
    std::io::stdout().flush()?;
    let mut connections = 0;
    let told = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()));
    let serve = async {
        while let Ok((mut stream, _)) = listener.accept().await {
            connections += 1;
            tokio::spawn(async move {
                if stream.read(&mut [0; 1024]).await.is_ok_and(|n| n > 0) {
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                    let _ = stream.write_all(answer).await;
                }
            });
        }
    };
    tokio::select! {
        _ = told => {}
        () = serve => {}
    }
    println!("{connections}");
    Ok(())
}

/// CPU time of this process, in seconds.
fn cpu() -> anyhow::Result<f64> {
    Ok(process::cpu(std::process::id())?.as_secs_f64())
}

/// Resident memory of this process, in kB: all, and its own.
fn memory() -> anyhow::Result<BTreeMap<&'static str, u64>> {
    let value = |name| Ok((name, process::status(std::process::id(), name)?));
    ["VmRSS", "RssAnon"].into_iter().map(value).collect()
}
