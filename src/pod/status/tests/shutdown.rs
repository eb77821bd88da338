//! A Pod's status while the machine shuts down.

use super::{FAILED, NOW, Scene, compare, single};
use crate::pod::state::ShutdownStop;

impl Scene {
    /// The machine shuts down, and it is the Pod's turn.
    fn shut_down(mut self) -> Self {
        self.state.shutdown = Some(ShutdownStop {
            until: NOW,
            finished_before: [].into(),
        });
        self
    }

    /// It was over before.
    fn over_before(mut self) -> Self {
        let stop = self.state.shutdown.as_mut().unwrap();
        stop.finished_before.insert("u".into());
        self
    }
}

#[test]
fn a_pod_is_failed_once_it_has_stopped_for_the_shutdown_and_not_before() {
    let message = "Pod was terminated in response to imminent node shutdown.";
    let terminated = format!("Failed Terminated: {message}");
    let disrupted = format!("DisruptionTarget: True TerminationByKubelet: {message}");
    compare(vec![
        (
            "it still runs",
            single("Always").runs("a").shut_down(),
            vec!["Running", "a: running, started, ready"],
        ),
        (
            "it has stopped",
            single("Always").ended("a", 0).shut_down(),
            vec![&terminated, FAILED, &disrupted, "a: exit 0 Completed"],
        ),
        (
            "it was not started",
            single("Always").without_sandbox().shut_down(),
            vec!["Failed NodeShutdown: Pod was rejected as the node is shutting down."],
        ),
        (
            "it had ended before",
            single("Never").ended("a", 3).shut_down().over_before(),
            vec!["Failed", FAILED, "a: exit 3 Error"],
        ),
    ]);
}
