//! The last reports to an API server before the agent ends, since the machine shuts down.

use std::time::Duration;

use tokio::sync::watch;

use super::Numbers;
use crate::pod::reports::Reports;

/// Time limit for the last reports.
pub const REPORT_LIMIT: Duration = Duration::from_secs(2);

/// Waits until the mirror Pods show what is reported of the Pods now, while the API server is reachable; at most
/// [`REPORT_LIMIT`].
pub async fn wait_until_reported(mut numbers: watch::Receiver<Numbers>, reports: &Reports) {
    let newest = *reports.changes().borrow();
    let is_reported = |numbers: &Numbers| !numbers.connected || numbers.reported >= newest;
    // That the time is over is no error, and nothing is left to report without a mirror.
    let _ = tokio::time::timeout(REPORT_LIMIT, numbers.wait_for(is_reported)).await;
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::manifest::PodKey;

    const SOON: Duration = Duration::from_millis(200);

    #[tokio::test(start_paused = true)]
    async fn the_last_reports_are_waited_for_while_the_api_server_is_there_and_not_for_long() {
        let numbers = |connected, reported| Numbers {
            connected,
            reported,
            ..Numbers::default()
        };
        let reports = Reports::default();
        // One change.
        reports.remove(&PodKey::default());
        for (first, then, expected) in [
            (numbers(true, 1), None, Duration::ZERO),
            (numbers(false, 0), None, Duration::ZERO),
            (numbers(true, 0), Some(numbers(true, 1)), SOON),
            (numbers(true, 0), Some(numbers(false, 0)), SOON),
            (numbers(true, 0), None, REPORT_LIMIT),
        ] {
            let (sender, receiver) = watch::channel(first);
            let began = Instant::now();
            let later = async {
                tokio::time::sleep(SOON).await;
                if let Some(then) = then {
                    sender.send_replace(then);
                }
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = wait_until_reported(receiver, &reports) => {}
                () = later => {}
            }
            let took = began.elapsed();
            assert!(took >= expected && took < expected + SOON / 2, "{took:?}");
        }
    }
}
