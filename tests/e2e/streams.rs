//! Commands in containers and containers' own streams, as whoever sits at the node uses them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use super::chaos::{Own, containerd};
use super::cli::{ask, output, text};
use super::node::{FOREVER, Node, manifest, pod};
use super::port_forwards::forward;
use super::terminal::Terminal;

super::on_each_containerd!(
    a_commands_streams_and_exit_code_are_passed_on,
    a_terminal_is_the_commands_and_restored_after_it,
    a_runtime_killed_meanwhile_is_reported
);

mod on_one {
    super::super::on_containerd!("2.1": a_container_is_attached_to);
}

mod on_latest {
    super::super::on_containerd!(
        "2.4": a_commands_streams_and_exit_code_are_passed_on,
        a_terminal_is_the_commands_and_restored_after_it
    );
}

/// Time within which a process has to end.
const LIMIT: Duration = Duration::from_secs(180);

/// Output of a command that is given this input.
fn fed(mut command: Command, input: Vec<u8>) -> Output {
    command.stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = command.spawn().unwrap();
    let mut stdin = process.stdin.take().unwrap();
    let writer = std::thread::spawn(move || {
        // It may end before it has read everything.
        let _ = stdin.write_all(&input);
    });
    let output = finished(process);
    writer.join().unwrap();
    output
}

/// Output of a process, which is killed if it does not end.
fn finished(process: Child) -> Output {
    let id = process.id().to_string();
    let (ended, waits) = mpsc::channel::<()>();
    let guard = std::thread::spawn(move || {
        if waits.recv_timeout(LIMIT) == Err(mpsc::RecvTimeoutError::Timeout) {
            let _ = Command::new("kill").args(["-s", "KILL", &id]).status();
        }
    });
    let output = process.wait_with_output().unwrap();
    drop(ended);
    guard.join().unwrap();
    assert_ne!(output.status.signal(), Some(9), "it did not end");
    output
}

/// Reads as many bytes as a process has to write, which is killed if it does not.
fn first(process: &mut Child, length: usize) -> Vec<u8> {
    let mut stdout = process.stdout.take().unwrap();
    let (read, bytes) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = vec![0; length];
        let whole = stdout.read_exact(&mut bytes);
        let _ = read.send((whole.map(|()| bytes), stdout));
    });
    let Ok((bytes, stdout)) = bytes.recv_timeout(LIMIT) else {
        process.kill().unwrap();
        panic!("it does not write");
    };
    process.stdout = Some(stdout);
    bytes.unwrap()
}

/// Output of a command whose streams a shell redirects.
fn redirected(command: &Command, how: &str) -> Output {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("exec \"$@\" {how}"), "sh"]);
    shell.arg(command.get_program()).args(command.get_args());
    shell.stdin(Stdio::null());
    shell.stdout(Stdio::piped()).stderr(Stdio::piped());
    finished(shell.spawn().unwrap())
}

/// Bytes that are nowhere alike.
pub(super) fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(length).collect()
}

/// Waits for the end of a command; returns its exit code.
pub(super) async fn ended(node: &Node, process: &mut Child) -> Option<i32> {
    let wait = async || process.try_wait().unwrap();
    let status = node.wait("the command ends", wait).await;
    status.code()
}

async fn a_commands_streams_and_exit_code_are_passed_on(mut node: Node) {
    node.put("web.yaml", &pod("web", FOREVER));
    node.start_agent();
    node.wait_running("web").await;
    node.wait_known(1).await;
    let sh = |script: &str| output(&node, &["exec", "web", "--", "sh", "-c", script]);
    let done = sh("echo out; echo err >&2; exit 42");
    assert_eq!(text(&done.stdout), "out\n");
    let said = text(&done.stderr);
    assert_eq!(said, "err\ncommand terminated with exit code 42\n");
    assert_eq!(done.status.code(), Some(42));
    assert_eq!(sh("true").status.code(), Some(0));
    // Words go on as they are, with and without the dashes.
    for words in [
        &["exec", "web", "-c", "c", "--", "echo", "-n", "a b", ""][..],
        &["exec", "web", "echo", "-n", "a b", ""],
    ] {
        assert_eq!(text(&output(&node, words).stdout), "a b ");
    }
    let unknown = output(&node, &["exec", "web", "--", "no-such-command"]);
    assert_eq!(unknown.status.code(), Some(1));
    let said = text(&unknown.stderr);
    assert!(said.contains("executable file not found"), "{said}");
    assert!(
        !said.contains("http") && !said.contains("127.0.0.1"),
        "{said}"
    );

    let bytes = noise(5_000_000);
    let cat = ask(&node, &["exec", "-i", "web", "--", "cat"]);
    let done = fed(cat, bytes.clone());
    assert!(done.status.success() && done.stdout == bytes);
    // Without -i nothing of it is read.
    let cat = ask(&node, &["exec", "web", "--", "cat"]);
    assert!(fed(cat, b"text".to_vec()).stdout.is_empty());
    let cat = ask(&node, &["exec", "-it", "web", "--", "cat"]);
    let done = fed(cat, b"text\n".to_vec());
    assert_eq!(text(&done.stdout), "text\n");
    let warning = "Unable to use a TTY - input is not a terminal or the right kind of file\n";
    assert_eq!(text(&done.stderr), warning);
    // containerd waits for input that the command does not take.
    let head = ask(&node, &["exec", "-i", "web", "--", "head", "-c", "1"]);
    let done = fed(head, bytes);
    assert_eq!(done.stdout.len(), 1);
    assert!(done.status.success() || text(&done.stderr).contains("no longer reads its input"));

    // Output that cannot be written is a failure, also where that cannot be said.
    let script = "echo out; echo err >&2; exit 7";
    let both = ask(&node, &["exec", "web", "--", "sh", "-c", script]);
    for to in [">/dev/full", ">/dev/full 2>/dev/full", "2>/dev/full"] {
        let full = redirected(&both, to);
        assert_eq!(full.status.code(), Some(1), "{to}");
        if to == ">/dev/full" {
            let said = text(&full.stderr);
            assert!(
                said.contains("podkeeper: failed to write the output: No space left"),
                "{said}"
            );
        }
    }

    let sleep = ask(
        &node,
        &["exec", "web", "--", "sh", "-c", "echo up; sleep 1000"],
    );
    // Where the tests run in the background of a script, interrupts are ignored.
    let mut heeding = Command::new("env");
    heeding.args(["--default-signal=INT", "--"]);
    heeding.arg(sleep.get_program()).args(sleep.get_args());
    let mut sleep = heeding.stdout(Stdio::piped()).spawn().unwrap();
    assert_eq!(first(&mut sleep, 3), b"up\n");
    let id = sleep.id().to_string();
    let sent = Command::new("kill").args(["-s", "INT", &id]).status();
    assert!(sent.unwrap().success());
    assert_eq!(finished(sleep).status.signal(), Some(2));

    node.remove("web.yaml");
    node.wait_gone().await;
    node.wait_until("the agent does not know it any more", async || {
        let gone = output(&node, &["exec", "web", "--", "true"]);
        let said = text(&gone.stderr);
        gone.status.code() == Some(1) && said.starts_with("podkeeper: there is no Pod web")
    })
    .await;
}

async fn wait_said(node: &Node, terminal: &Terminal, words: &str) {
    node.wait_until(&format!("{words:?} is on the terminal"), async || {
        terminal.said().contains(words)
    })
    .await;
}

async fn a_terminal_is_the_commands_and_restored_after_it(mut node: Node) {
    node.put("web.yaml", &pod("web", FOREVER));
    node.start_agent();
    node.wait_running("web").await;
    node.wait_known(1).await;
    let shell = ask(&node, &["exec", "-it", "web", "--", "sh"]);
    let mut terminal = Terminal::start(&shell, 33, 101);
    wait_said(&node, &terminal, "# ").await;
    assert!(!terminal.is_restored(), "it is raw");
    let stty = "/bin/busybox stty size; echo en''d\n";
    terminal.write(stty);
    wait_said(&node, &terminal, "33 101\r\nend").await;
    terminal.resize(50, 120);
    node.wait_until("the command has the new size", async || {
        terminal.write(stty);
        tokio::time::sleep(Duration::from_millis(100)).await;
        terminal.said().contains("50 120\r\nend")
    })
    .await;
    // Keys go to the command, this one too.
    terminal.write("echo sle''eps; sleep 1000\n");
    wait_said(&node, &terminal, "sleeps").await;
    terminal.write("\x03");
    terminal.write("echo go''es on\n");
    wait_said(&node, &terminal, "goes on").await;
    terminal.write("exit 7\n");
    assert_eq!(ended(&node, &mut terminal.process).await, Some(7));
    wait_said(&node, &terminal, "command terminated with exit code 7\r\n").await;
    assert!(terminal.is_restored());
    // In the background it neither needs the terminal nor is stopped.
    let quiet = ask(&node, &["exec", "web", "--", "true"]);
    let script = "set -m; \"$@\" & wait $!; echo \"it ended: $?\"";
    let mut job = Command::new("sh");
    job.args(["-c", script, "sh"]);
    job.arg(quiet.get_program()).args(quiet.get_args());
    let mut terminal = Terminal::start(&job, 24, 80);
    wait_said(&node, &terminal, "it ended: 0").await;
    assert_eq!(ended(&node, &mut terminal.process).await, Some(0));
    // From outside it is ended by signals, and leaves the terminal as it was.
    for (signal, code) in [("TERM", 143), ("HUP", 129)] {
        let mut terminal = Terminal::start(&shell, 24, 80);
        wait_said(&node, &terminal, "# ").await;
        assert!(!terminal.is_restored());
        let id = terminal.process.id().to_string();
        let sent = Command::new("kill").args(["-s", signal, &id]).status();
        assert!(sent.unwrap().success());
        assert_eq!(ended(&node, &mut terminal.process).await, Some(code));
        assert!(terminal.is_restored(), "{signal}");
    }
    node.remove("web.yaml");
    node.wait_gone().await;
}

async fn a_container_is_attached_to(mut node: Node) {
    let spec = r#"
  containers:
  - {name: c, image: $BUSYBOX, stdin: true, tty: true, command: [sh, -c, "trap 'exit 0' TERM; while read -r l; do echo got $l; done"]}
  - {name: d, image: $BUSYBOX, command: [sh, -c, "trap 'exit 0' TERM; while :; do echo tick; sleep 0.1; done"]}
"#;
    node.put("web.yaml", &manifest("web", spec));
    node.start_agent();
    node.wait_running("web").await;
    node.wait_known(1).await;
    node.wait_until("all run", async || {
        node.report("web").await.is_some_and(|r| r.ready == 2)
    })
    .await;
    // A container's terminal is one without -t, too.
    for flags in ["-it", "-i"] {
        let attach = ask(&node, &["attach", flags, "web", "-c", "c"]);
        let mut terminal = Terminal::start(&attach, 24, 80);
        wait_said(&node, &terminal, "try pressing enter").await;
        node.wait_until("the container answers", async || {
            terminal.write("keys\r");
            tokio::time::sleep(Duration::from_millis(100)).await;
            terminal.said().contains("got keys")
        })
        .await;
        assert!(!terminal.is_restored(), "it is raw");
    }
    let several = output(&node, &["attach", "web"]);
    assert!(text(&several.stderr).contains("choose one with -c: c, d"));
    let no_input = output(&node, &["attach", "-i", "web", "-c", "d"]);
    assert!(text(&no_input.stderr).contains("container d has no standard input"));
    // Without a terminal, until the container ends.
    let ticks = ask(&node, &["attach", "web", "-c", "d"]);
    let mut ticks = { ticks }.stdout(Stdio::piped()).spawn().unwrap();
    assert_eq!(first(&mut ticks, 5), b"tick\n");
    node.remove("web.yaml");
    node.wait_gone().await;
    let rest = finished(ticks);
    assert!(text(&rest.stdout).lines().all(|line| line == "tick"));
    assert!(rest.status.success());
}

async fn a_runtime_killed_meanwhile_is_reported(mut node: Node) {
    let own = Own::start(&mut node);
    let nc = "while :; do /bin/busybox nc -lp 8080 -e cat; done";
    node.put("web.yaml", &pod("web", nc));
    node.start_agent();
    node.wait_running("web").await;
    node.wait_known(1).await;
    let (forward, port) = forward(&node, "nc", &["web", ":8080"]).await;
    let mut connection = TcpStream::connect(("127.0.0.1", port)).unwrap();
    echoes(&mut connection, b"before");
    let shell = ask(&node, &["exec", "-it", "web", "--", "sh"]);
    let mut terminal = Terminal::start(&shell, 24, 80);
    wait_said(&node, &terminal, "# ").await;
    containerd(&["kill"], &node.runtime_dir);
    assert_eq!(ended(&node, &mut terminal.process).await, Some(1));
    let error = "podkeeper: the connection to the container runtime broke, \
                 the command may still be running\r\n";
    wait_said(&node, &terminal, error).await;
    assert!(terminal.is_restored());
    // Ports need no runtime.
    echoes(&mut connection, b"after");
    drop((connection, forward));
    containerd(&["start"], &node.runtime_dir);
    node.remove("web.yaml");
    node.wait_gone().await;
    node.kill_agent();
    drop(own);
}

fn echoes(connection: &mut TcpStream, bytes: &[u8]) {
    let limit = Some(Duration::from_secs(10));
    connection.set_read_timeout(limit).unwrap();
    connection.write_all(bytes).unwrap();
    let mut echo = vec![0; bytes.len()];
    connection.read_exact(&mut echo).unwrap();
    assert_eq!(echo, bytes);
}
