//! Hundreds of changes leave nothing behind: not in the runtime, on disk, or in what is reported.

use std::fs;
use std::path::Path;

use crate::agent::{Agent, SECOND, full, single};
use crate::runtime::{Settings, State};

/// Counts of all that there is of the Pod: sandboxes, containers, files of the agent, places taken and reports.
fn left(agent: &Agent) -> [usize; 5] {
    let [sandboxes, containers] = agent
        .runtime
        .look(|state| [state.sandboxes.len(), state.containers.len()]);
    let folders = ["root", "logs", "container-logs"];
    let files = folders.map(|name| files(&agent.folder.path().join(name)));
    let reports = agent.context.reports.keys().len();
    let taken = agent.context.allocations.versions();
    [sandboxes, containers, files.iter().sum(), taken, reports]
}

fn files(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let below = entries.map(|entry| 1 + files(&entry.path()));
    below.sum()
}

#[tokio::test(start_paused = true)]
async fn hundreds_of_edits_and_restarts_leave_nothing_behind() {
    let agent = Agent::start(Settings::containerd_2_1());
    let mut after_first = None;
    for round in 0..200 {
        let args = [round.to_string()];
        agent.want(&[&single(&format!("args: ['{round}']"), "")]);
        let runs = |attempt: u32| {
            let args = &args;
            move |state: &State| {
                let newest = state.newest(&full("p"), "c");
                newest.is_some_and(|c| {
                    c.config.args == *args && c.attempt() == attempt && c.is_running()
                })
            }
        };
        agent.runtime.until("the new version runs", runs(0)).await;
        agent.runtime.exit(&full("p"), "c", 1);
        agent.runtime.until("it runs again", runs(1)).await;
        // What the version before left is cleaned up beside.
        for _ in 0..100 {
            if after_first.is_none_or(|before| before == left(&agent)) {
                break;
            }
            tokio::time::sleep(SECOND / 10).await;
        }
        tokio::time::sleep(SECOND).await;
        let now = left(&agent);
        assert_eq!(*after_first.get_or_insert(now), now, "round {round}");
    }
    assert!(agent.events("p").len() <= 60);
    agent.want(&[]);
    agent.until_gone().await;
    assert_eq!(agent.context.allocations.versions(), 0);
}
