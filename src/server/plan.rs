//! The plan of manifests: changes that they would make in the place of those in force. Nothing is touched.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::router::{Body, JSON, only, plain, whole};
use super::state::ServerState;
use crate::host::blocking::blocking;
use crate::image::local;
use crate::json;
use crate::manifest::{PodKey, Problem, PullPolicy, StaticPod};
use crate::pod::admission::Allocations;
use crate::pod::pause::PAUSED;
use crate::pod::plan::{WantedImage, wanted_images};
use crate::pod::task::Context;
use crate::source::{Desired, FieldChange, ManifestFile, PlannedPod, PodChange, Preview, preview};

/// Path of the request.
pub(super) const PATH: &str = "/v1/plan";
/// Largest request in bytes: every directory of manifests that anybody has.
const MAX_REQUEST: usize = 16 * 1024 * 1024;
/// One is worked out at a time, for the memory that it takes.
static ONE: Semaphore = Semaphore::const_new(1);
/// Longest wait for the body of a request, for the one before it, and for the runtime to say which images it has.
const LIMIT: Duration = Duration::from_secs(3);

/// Request for a plan: the manifests that are to take the place of those of the directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanRequest {
    /// The manifests.
    pub files: Vec<PlannedFile>,
}

/// A manifest of a plan.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedFile {
    /// Its path, as it is to be shown.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
}

/// Changes that manifests would make.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestPlan {
    /// The Pods of the directory, by namespace and name.
    pub pods: Vec<PodPlan>,
    /// The manifests that would be refused.
    pub refused: Vec<RefusedPlan>,
    /// The runtime did not say which images it has.
    pub images_unknown: bool,
}

/// Change of a Pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodPlan {
    /// Its name, as `namespace/name`.
    pub pod: String,
    /// Its manifest; none if there would be none.
    pub file: Option<PathBuf>,
    /// Its change.
    pub change: PodChange,
    /// The fields that differ from those in force.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<FieldChange>,
    /// Pods that it would wait for, as `namespace/name`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub starts_after: Vec<String>,
    /// Those of them that there would not be.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing_pods: Vec<String>,
    /// Images that would be pulled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pulls: Vec<String>,
    /// Images that are not there and must not be pulled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing_images: Vec<String>,
    /// Reason for which the node would reject it, with its message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected: Option<(String, String)>,
}

/// A manifest that would be refused.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedPlan {
    /// The file.
    pub path: String,
    /// Its problems, each as `line:column: field: message`.
    pub problems: Vec<String>,
    /// The Pod whose last accepted version would run on, as `namespace/name`.
    pub keeps: Option<String>,
}

/// Responds to a request for a plan.
pub(super) async fn respond(request: Request<Incoming>, state: &ServerState) -> Response<Body> {
    if *request.method() != Method::POST {
        return only("POST");
    }
    let unavailable = |why: &str| plain(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n"));
    let Ok(Ok(permit)) = timeout(LIMIT, ONE.acquire()).await else {
        return unavailable("another plan is being worked out");
    };
    let body = Limited::new(request.into_body(), MAX_REQUEST).collect();
    let body = match timeout(LIMIT, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) => return plain(StatusCode::BAD_REQUEST, format!("{error}\n")),
        Err(_) => return plain(StatusCode::REQUEST_TIMEOUT, "the request did not arrive\n"),
    };
    let context = state.context.borrow().clone();
    let desired = state.desired.borrow().clone();
    let (Some(context), Some(desired)) = (context, desired) else {
        return unavailable(
            "the agent has not read its manifests, or not reached the runtime, yet",
        );
    };
    let node_name = context.node_name.clone();
    // Manifests may be large, and nothing of Pods' waits for them.
    let work = blocking(move || {
        let request: PlanRequest = json::from_slice(&body)?;
        let files: Vec<ManifestFile> = request.files.into_iter().map(manifest_file).collect();
        let preview = preview(&files, &desired, &node_name);
        // Also where nobody waits for it any more.
        drop(permit);
        Ok::<_, serde_json::Error>((preview, desired))
    });
    match work.await {
        Ok((preview, desired)) => {
            let plan = plan(&context, &preview, &desired).await;
            whole(JSON, serde_json::to_vec(&plan).map(Into::into))
        }
        Err(error) => plain(StatusCode::BAD_REQUEST, format!("{error}\n")),
    }
}

fn manifest_file(file: PlannedFile) -> ManifestFile {
    ManifestFile {
        path: file.path,
        content: file.text.into_bytes(),
    }
}

async fn plan(context: &Context, preview: &Preview, desired: &Desired) -> ManifestPlan {
    let pods = preview.pods.iter();
    let mut pods: Vec<PodPlan> = pods.map(|p| pod_plan(p, preview, desired)).collect();
    reject(context, preview, desired, &mut pods);
    let images = timeout(LIMIT, look_for_images(context, preview, &mut pods)).await;
    let refused = preview.refused.iter().map(|refused| RefusedPlan {
        path: refused.origin.to_string(),
        problems: refused.problems.iter().map(Problem::to_string).collect(),
        keeps: refused.keeps.as_ref().map(ToString::to_string),
    });
    ManifestPlan {
        refused: refused.collect(),
        images_unknown: !images.unwrap_or(false),
        pods,
    }
}

fn pod_plan(planned: &PlannedPod, preview: &Preview, desired: &Desired) -> PodPlan {
    // It holds the first start alone.
    let order = planned.pod.start_after.as_ref();
    let order = order.filter(|_| planned.change == PodChange::New);
    let after = order.into_iter().flat_map(|order| &order.pods);
    let is_there = |key: &PodKey| {
        let mut planned = preview.pods.iter().filter(|p| p.pod.key == *key);
        let other = desired.pods.get(key);
        planned.any(|p| p.change != PodChange::Gone)
            || other.is_some_and(|other| other.origin.file().is_none())
    };
    let missing = after.clone().filter(|key| !is_there(key));
    PodPlan {
        starts_after: after.clone().map(ToString::to_string).collect(),
        missing_pods: missing.map(ToString::to_string).collect(),
        pod: planned.pod.key.to_string(),
        file: planned.file.clone(),
        change: planned.change,
        fields: planned.fields.clone(),
        ..PodPlan::default()
    }
}

/// Has the node admit all Pods that there would be, those that run already first.
fn reject(context: &Context, preview: &Preview, desired: &Desired, plans: &mut [PodPlan]) {
    let allocations = Allocations::default();
    let of_directory: BTreeSet<_> = preview
        .pods
        .iter()
        .map(|planned| &planned.pod.key)
        .collect();
    let snapshots = context.reports.snapshots().into_iter();
    let hold_nothing: BTreeSet<PodKey> = snapshots
        .filter(|(_, snapshot)| {
            let report = &snapshot.report;
            let is_over = matches!(report.phase.as_str(), "Succeeded" | "Failed");
            is_over || report.paused && report.reason == PAUSED
        })
        .map(|(key, _)| key)
        .collect();
    for (key, other) in desired.pods.iter() {
        if !of_directory.contains(key) && !hold_nothing.contains(key) {
            allocations.reserve(&other.pod.unpack());
        }
    }
    let runs_on = |change: PodChange| matches!(change, PodChange::Unchanged | PodChange::Kept);
    for (planned, plan) in preview.pods.iter().zip(plans.iter()) {
        if runs_on(plan.change) && !hold_nothing.contains(&planned.pod.key) {
            allocations.reserve(&planned.pod);
        }
    }
    for first in [PodChange::Replaced, PodChange::New] {
        for (planned, plan) in preview.pods.iter().zip(plans.iter_mut()) {
            if plan.change == first
                && let Err(rejection) = allocations.admit(&context.facts, &planned.pod)
            {
                plan.rejected = Some((rejection.reason.into_owned(), rejection.message));
            }
        }
    }
}

/// Finds the images that would be pulled, and those that cannot be. Returns false if the runtime does not say.
async fn look_for_images(context: &Context, preview: &Preview, plans: &mut [PodPlan]) -> bool {
    for (planned, plan) in preview.pods.iter().zip(plans) {
        if !matches!(plan.change, PodChange::New | PodChange::Replaced) {
            continue;
        }
        for WantedImage { image, policy, .. } in images(&planned.pod) {
            let is_there = match local(&context.client, image).await {
                Ok(found) => found.is_some(),
                Err(error) if error.reason == "InvalidImageName" => continue,
                Err(_) => return false,
            };
            match (is_there, policy) {
                (true, PullPolicy::IfNotPresent | PullPolicy::Never) => {}
                (false, PullPolicy::Never) => plan.missing_images.push(image.to_owned()),
                (_, PullPolicy::Always) | (false, PullPolicy::IfNotPresent) => {
                    plan.pulls.push(image.to_owned());
                }
            }
        }
    }
    true
}

/// Returns the images that a Pod needs, each once.
fn images(pod: &StaticPod) -> Vec<WantedImage<'_>> {
    let mut images: Vec<WantedImage<'_>> = vec![];
    for wanted in wanted_images(pod) {
        if !images.iter().any(|known| known.image == wanted.image) {
            images.push(wanted);
        }
    }
    images
}
