//! Log messages about the changes of a source.

use std::collections::BTreeSet;

use tokio::sync::watch;
use tracing::{info, warn};

use super::{Desired, DesiredPod, Origin, Refused};
use crate::manifest::{PodKey, Problem};

/// Makes `desired` what is wanted, and logs what that changes.
pub(super) fn publish(sender: &watch::Sender<Option<Desired>>, desired: Desired) {
    sender.send_if_modified(|current| {
        if current.as_ref() == Some(&desired) {
            return false;
        }
        log_changes(&current.take().unwrap_or_default(), &desired);
        *current = Some(desired);
        true
    });
}

/// One line for each thing that is other than it was.
fn log_changes(old: &Desired, new: &Desired) {
    for reason in new
        .unreadable
        .iter()
        .filter(|reason| !old.unreadable.contains(reason))
    {
        warn!("{reason}");
    }
    if new.unreadable.is_empty() && !old.unreadable.is_empty() {
        info!("Manifest source is readable again");
    }
    if old.unlisted == 0 && new.unlisted > 0 {
        let files = new.unlisted;
        warn!(files, "Refused more manifests than are logged one by one");
    }
    for (key, wanted) in new.pods.iter() {
        log_pod(key, old.pods.get(key), wanted);
    }
    for (key, wanted) in old
        .pods
        .iter()
        .filter(|(key, _)| !new.pods.contains_key(*key))
    {
        info!(pod = %key, source = %wanted.origin, "Manifest removed");
    }
    for refused in new
        .refused
        .iter()
        .filter(|refused| !old.refused.contains(refused))
    {
        log_refused(refused);
    }
    let still_refused: BTreeSet<&Origin> = new.refused.iter().map(|r| &r.origin).collect();
    for origin in old.refused.iter().map(|refused| &refused.origin) {
        if still_refused.contains(origin) {
            continue;
        }
        if new.pods.values().any(|wanted| wanted.origin == *origin) {
            info!(source = %origin, "Refused manifest was fixed");
        } else {
            info!(source = %origin, "Refused manifest removed");
        }
    }
}

fn log_pod(key: &PodKey, old: Option<&DesiredPod>, new: &DesiredPod) {
    let (source, uid) = (&new.origin, new.pod.uid.as_str());
    match old {
        None => info!(pod = %key, uid, %source, "Manifest accepted"),
        Some(old) if old.pod.uid != uid => info!(pod = %key, uid, %source, "Manifest changed"),
        Some(old) if old.origin != new.origin => {
            info!(pod = %key, %source, was = %old.origin, "Manifest moved");
        }
        Some(_) => {}
    }
    if old.is_none_or(|old| old.warnings != new.warnings) {
        for Problem {
            line,
            column,
            field,
            message,
            ..
        } in &new.warnings
        {
            warn!(pod = %key, %source, line, column, field, "{message}");
        }
    }
}

pub(super) fn log_refused(refused: &Refused) {
    let source = &refused.origin;
    let keeps = refused.keeps.as_ref().map(ToString::to_string);
    for problem in &refused.problems {
        let Problem {
            line,
            column,
            field,
            message,
            ..
        } = problem;
        let what = if problem.is_warning() {
            "Manifest refused, with a warning"
        } else {
            "Manifest refused"
        };
        warn!(%source, line, column, field, keeps, "{what}: {message}");
    }
}
