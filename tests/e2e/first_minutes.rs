//! The transcript of a newcomer's first minutes is what happens: each line of it is run, on a node of its own.

use std::process::{Command, Stdio};

use super::cli::text;
use super::node::Node;
use super::ports::free;
use super::program::PROGRAM;

super::on_each_containerd!(the_first_minutes_are_as_their_document_shows_them);

const DOCUMENT: &str = include_str!("../../docs/first-minutes.md");
/// Stand-in for some words of a line, or some lines.
const LEFT_OUT: &str = "…";
/// Commands that change nothing: they are repeated until they print what is expected.
const READS: [&str; 9] = [
    "podkeeper ps",
    "podkeeper describe",
    "podkeeper logs",
    "podkeeper top",
    "podkeeper plan",
    "podkeeper doctor",
    "podkeeper check",
    "podkeeper exec",
    "curl",
];
/// The programs of the transcript, with the places of the test's node.
const PROGRAMS: &str = "
podkeeper() {
    local command=$1
    shift
    case $command in
    init) \"$PROGRAM\" init --dir=\"$NODE/etc\" --unit-dir=\"$NODE/units\" \\
        --container-runtime-endpoint=\"$ENDPOINT\" --port=\"$PORT\" \"$@\" ;;
    check | doctor) \"$PROGRAM\" \"$command\" --hostname-override=node1 \"$@\" ;;
    *) \"$PROGRAM\" \"$command\" --run-dir=\"$NODE/run\" \"$@\" ;;
    esac
}
systemctl() { :; }
exec 2>&1
";

/// A command of the transcript, and the lines that it prints.
#[derive(Debug)]
struct Step {
    command: String,
    output: Vec<String>,
}

fn steps() -> Vec<Step> {
    let mut steps: Vec<Step> = vec![];
    let mut is_inside = false;
    for line in DOCUMENT.lines() {
        let shown = line.strip_prefix("    ");
        match (shown.and_then(|line| line.strip_prefix("$ ")), shown) {
            (Some(command), _) => {
                is_inside = true;
                steps.push(Step {
                    command: command.to_owned(),
                    output: vec![],
                });
            }
            (None, Some(line)) if is_inside => {
                steps.last_mut().unwrap().output.push(line.to_owned());
            }
            (None, None) if line.is_empty() && is_inside => {
                steps.last_mut().unwrap().output.push(String::new());
            }
            _ => is_inside = false,
        }
    }
    for step in &mut steps {
        while step.output.last().is_some_and(String::is_empty) {
            step.output.pop();
        }
    }
    steps
}

/// Stand-ins for the words of a line that are others each time: times, addresses, versions, IDs and amounts.
fn words(line: &str) -> String {
    let words = line.split_whitespace().map(|word| {
        let bare = word.trim_matches(|c: char| "(),;:".contains(c));
        let starts = bare.starts_with(|c: char| c.is_ascii_digit());
        let of = |allowed: &str| {
            bare.chars()
                .all(|c| c.is_ascii_digit() || allowed.contains(c))
        };
        if starts && (bare.matches('.').count() > 1 || bare.ends_with('Z')) {
            return "<address or time>";
        }
        if starts && of("hms") && !of("") {
            return "<duration>";
        }
        if starts && of("mMi%") && !of("") || bare.len() > 3 && of("") {
            return "<amount>";
        }
        word
    });
    // An amount such as 1m has the form of a duration.
    let words = words.map(|word| {
        if word == "<duration>" {
            "<amount>"
        } else {
            word
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Returns true if a line is as expected, whatever stands for what is left out.
fn is_line(expected: &str, found: &str) -> bool {
    let (expected, found) = (words(expected), words(found));
    let mut parts = expected.split(LEFT_OUT);
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = found.strip_prefix(first) else {
        return false;
    };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        let last = parts.peek().is_none();
        let at = if last {
            rest.ends_with(part).then_some(rest.len())
        } else {
            rest.find(part)
        };
        let Some(at) = at else {
            return false;
        };
        rest = rest
            .get(at + if last { 0 } else { part.len() }..)
            .unwrap_or_default();
    }
    true
}

fn is_output(expected: &[String], found: &[&str]) -> bool {
    match (expected, found) {
        ([], []) => true,
        ([first, others @ ..], found) if first.trim() == LEFT_OUT => {
            (0..=found.len()).any(|skip| is_output(others, &found[skip..]))
        }
        ([first, others @ ..], [line, rest @ ..]) => {
            is_line(first, line) && is_output(others, rest)
        }
        _ => false,
    }
}

/// Runs a line of the transcript at the places of the node; returns its output with those of the transcript.
fn run(node: &Node, port: u16, line: &str) -> String {
    let (etc, units) = (node.path("etc"), node.path("units"));
    let places = [
        (etc.display().to_string(), "/etc/podkeeper".to_owned()),
        (
            units.display().to_string(),
            "/etc/systemd/system".to_owned(),
        ),
        (
            node.client.endpoint().to_string(),
            "unix:///run/containerd/containerd.sock".to_owned(),
        ),
        (format!("127.0.0.1:{port}"), "127.0.0.1:8080".to_owned()),
    ];
    let here = places.iter().fold(line.to_owned(), |line, (here, there)| {
        line.replace(there, here)
    });
    let output = Command::new("bash")
        .args(["-c", &format!("{PROGRAMS}\n{here}")])
        .env("PROGRAM", PROGRAM)
        .env("NODE", node.path(""))
        .env("ENDPOINT", node.client.endpoint().to_string())
        .env("PORT", port.to_string())
        .env_remove("http_proxy")
        .stdin(Stdio::null())
        .output();
    let said = text(&output.unwrap().stdout);
    places
        .iter()
        .fold(said, |said, (here, there)| said.replace(here, there))
}

async fn the_first_minutes_are_as_their_document_shows_them(mut node: Node) {
    "node1".clone_into(&mut node.name);
    node.without_manifests = true;
    let config = node.path("etc/config.yaml").display().to_string();
    node.flag("config", &config);
    let port = free().port();
    let steps = steps();
    assert!(steps.len() > 25, "{steps:#?}");
    for step in &steps {
        let Step { command, output } = step;
        let mut found = run(&node, port, command);
        if command.starts_with("systemctl enable") {
            node.start_agent();
            // As systemd does.
            node.wait_until("the agent is ready", async || {
                node.log_lines_with("podkeeper is ready") > 0
            })
            .await;
        }
        let is_as_shown = |found: &str| is_output(output, &found.lines().collect::<Vec<_>>());
        let end = std::time::Instant::now() + node.patience;
        let reads = READS.iter().any(|read| command.starts_with(read));
        while reads && !is_as_shown(&found) && std::time::Instant::now() < end {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            found = run(&node, port, command);
        }
        let shown = output.join("\n");
        assert!(
            is_as_shown(&found),
            "$ {command}\n{found}\nexpected:\n{shown}\n{}",
            node.log()
        );
    }
    node.wait_gone().await;
}
