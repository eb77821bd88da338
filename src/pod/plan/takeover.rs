//! Versions that take over from others: the one that runs on meanwhile, the preparation of the new one,
//! and those that leave.

use std::sync::Arc;
use std::time::Duration;

use super::images::{is_image_ready, wanted_images};
use super::waiting::cleanup_failure;
use super::{Planner, Step};
use crate::manifest::objects::start_errors;
use crate::manifest::{StaticPod, Uid};
use crate::pod::state::View;

/// Time that a version waits for objects to come after it, where it can start without some of them.
pub(super) const OBJECTS_COME: Duration = Duration::from_secs(2);

/// The version that runs on while the wanted one cannot take over yet.
#[must_use]
pub fn kept_version(view: View<'_>) -> Option<&Arc<StaticPod>> {
    let wanted = view.wanted?;
    let finished = view.state.finished(&wanted.uid).is_some();
    let started = finished || !view.observed.has_none_of(&wanted.uid);
    if started || view.state.is_terminating(&wanted.uid) || takeover_ready(view, wanted) {
        return None;
    }
    let versions = view.state.pods();
    versions
        .filter(|v| v.uid != wanted.uid && !view.state.is_terminating(&v.uid))
        .filter(|v| !view.state.is_being_cleaned_up(&v.uid))
        .filter(|v| view.state.is_on_disk(&v.uid) || !view.observed.has_none_of(&v.uid))
        .max_by_key(|v| {
            let newest = view.observed.sandboxes_of(&v.uid).map(|s| s.created).max();
            (newest, &v.uid)
        })
}

/// Returns true if a version can start as soon as the old one has ended: every image is ready, every host path
/// in order, and it is its turn among the node's updates.
fn takeover_ready(view: View<'_>, version: &StaticPod) -> bool {
    view.state.takeover(&version.uid).has_turn && is_prepared(view, version)
}

/// Returns true if all is there that a version needs.
fn is_prepared(view: View<'_>, version: &StaticPod) -> bool {
    let state = view.state;
    let checked = state.takeover(&version.uid).volumes_checked && state.is_admitted(&version.uid);
    checked
        && start_errors(version).is_empty()
        && wanted_images(version).all(|image| is_image_ready(view.state, version, &image.holder))
}

impl<'a> Planner<'a> {
    /// A version that is wanted again after its end starts without waiting for a clean-up that fails.
    pub(super) fn start_again(&self) -> Option<Step> {
        let (state, uid) = (self.view.state, &self.view.wanted?.uid);
        let ended = state.is_terminating(uid)
            && !self.holds_processes(uid)
            && !state.is_being_cleaned_up(uid);
        let fails = ended && cleanup_failure(self.view, uid).is_some();
        fails.then(|| Step::StartAgain { uid: uid.clone() })
    }

    /// Versions that are to go: all but the wanted and the kept one, and those on their way out.
    pub(super) fn leaving(&self, kept: Option<&Arc<StaticPod>>) -> Vec<&'a Uid> {
        let view = self.view;
        let stays = |uid: &Uid| {
            let named = [view.wanted, kept].into_iter().flatten();
            named.into_iter().any(|v| v.uid == *uid) && !view.state.is_terminating(uid)
        };
        let on_disk = view.state.uids_on_disk();
        let mut uids: Vec<&Uid> = view.observed.uids().chain(on_disk).collect();
        uids.sort_unstable();
        uids.dedup();
        uids.retain(|uid| !stays(uid));
        uids
    }

    /// Makes ready for a version to take over, while the old one runs.
    pub(super) fn prepare(&mut self, version: &StaticPod) -> Option<Step> {
        let uid = &version.uid;
        if !self.view.state.is_admitted(uid) {
            return self.admit(uid);
        }
        let image =
            wanted_images(version).find_map(|image| self.ensure_image(version, &image.holder));
        if image.is_some() {
            return image;
        }
        // Another version comes once a manifest has what is missing.
        if !start_errors(version).is_empty() {
            return self.report_missing(version);
        }
        if !self.view.state.takeover(uid).volumes_checked {
            return self.check_volumes(uid);
        }
        if !is_prepared(self.view, version) || self.view.state.takeover(uid).has_turn {
            return None;
        }
        let step = Step::TakeTurn { uid: uid.clone() };
        self.unless_failing(step)
    }

    /// Has the check of the volumes fail for objects that no manifest has, so that events report them. Those
    /// that came with the Pod are given the time to be read.
    pub(super) fn report_missing(&mut self, version: &StaticPod) -> Option<Step> {
        if start_errors(version).is_empty() {
            return None;
        }
        let seen = self.view.state.first_seen(&version.uid);
        let come = seen.map(|seen| seen.monotonic.after(OBJECTS_COME));
        if come.is_some_and(|come| self.must_wait_until(come)) {
            return None;
        }
        self.check_volumes(&version.uid)
    }

    fn check_volumes(&mut self, uid: &Uid) -> Option<Step> {
        let uid = uid.clone();
        self.unless_failing(Step::CheckVolumes { uid })
    }
}
