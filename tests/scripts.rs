//! The functions that the scripts in `hack/` share.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// Its first thread ends at once, the other one at the end of the standard input.
const FIRST_THREAD_ENDS: &str = "
import ctypes, sys, threading
threading.Thread(target=sys.stdin.read).start()
print('up', flush=True)
ctypes.CDLL(None).pthread_exit(None)
";

fn is_over(process: &Child) -> bool {
    let lib = concat!(env!("CARGO_MANIFEST_DIR"), "/hack/lib.sh");
    let script = format!("source {lib}; not_running {}", process.id());
    let done = Command::new("bash").args(["-c", &script]).status();
    done.unwrap().success()
}

fn state(process: &Child) -> String {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.id())).unwrap();
    stat.rsplit_once(") ").unwrap().1[..1].to_owned()
}

#[test]
fn a_process_runs_until_its_last_thread_has_ended() {
    let mut process = Command::new("python3")
        .args(["-c", FIRST_THREAD_ENDS])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut output = BufReader::new(process.stdout.take().unwrap());
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "up\n");
    while state(&process) != "Z" {
        std::thread::yield_now();
    }
    assert!(!is_over(&process));

    drop(process.stdin.take());
    while !is_over(&process) {
        std::thread::yield_now();
    }
    assert_eq!(state(&process), "Z");
    process.wait().unwrap();
    assert!(is_over(&process));
}
