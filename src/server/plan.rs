//! What manifests would change if they took the place of those in force. Nothing is touched.

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
use crate::manifest::{Problem, PullPolicy, StaticPod};
use crate::pod::admission::Allocations;
use crate::pod::pause::PAUSED;
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
    pub change: PlannedChange,
    /// The fields that differ from those in force.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<PlannedField>,
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

/// Kind of a change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PlannedChange {
    /// It would be started.
    #[default]
    New,
    /// Another version would take its place.
    Replaced,
    /// It would run on.
    Unchanged,
    /// It would run on, since its manifest would be refused.
    Kept,
    /// It would be stopped.
    Gone,
}

/// A field that differs. A value that is not there is `None`, and so are both of what is not shown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedField {
    /// Its path as Kubernetes writes it.
    pub field: String,
    /// The value in force, as JSON.
    pub old: Option<String>,
    /// The value that would take its place, as JSON.
    pub new: Option<String>,
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
    let mut pods: Vec<PodPlan> = preview.pods.iter().map(pod_plan).collect();
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

fn pod_plan(planned: &PlannedPod) -> PodPlan {
    let (change, fields) = match &planned.change {
        PodChange::New => (PlannedChange::New, &[][..]),
        PodChange::Replaced(fields) => (PlannedChange::Replaced, fields.as_slice()),
        PodChange::Unchanged => (PlannedChange::Unchanged, &[][..]),
        PodChange::Kept => (PlannedChange::Kept, &[][..]),
        PodChange::Gone => (PlannedChange::Gone, &[][..]),
    };
    PodPlan {
        pod: planned.pod.key.to_string(),
        file: planned.file.clone(),
        change,
        fields: fields.iter().map(planned_field).collect(),
        ..PodPlan::default()
    }
}

fn planned_field(change: &FieldChange) -> PlannedField {
    let FieldChange { field, old, new } = change.clone();
    PlannedField { field, old, new }
}

/// Has the node admit all Pods that there would be, those that run already first.
fn reject(context: &Context, preview: &Preview, desired: &Desired, plans: &mut [PodPlan]) {
    let allocations = Allocations::default();
    let of_directory: BTreeSet<_> = preview
        .pods
        .iter()
        .map(|planned| &planned.pod.key)
        .collect();
    let reports = context.reports.all().into_iter();
    let hold_nothing: BTreeSet<String> = reports
        .filter(|report| {
            let is_over = matches!(report.phase.as_str(), "Succeeded" | "Failed");
            is_over || report.paused && report.reason == PAUSED
        })
        .map(|report| format!("{}/{}", report.namespace, report.name))
        .collect();
    for (key, other) in desired.pods.iter() {
        if !of_directory.contains(key) && !hold_nothing.contains(&key.to_string()) {
            allocations.reserve(&other.pod);
        }
    }
    let runs_on =
        |change: PlannedChange| matches!(change, PlannedChange::Unchanged | PlannedChange::Kept);
    for (planned, plan) in preview.pods.iter().zip(plans.iter()) {
        if runs_on(plan.change) && !hold_nothing.contains(&plan.pod) {
            allocations.reserve(&planned.pod);
        }
    }
    for first in [PlannedChange::Replaced, PlannedChange::New] {
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
        if !matches!(plan.change, PlannedChange::New | PlannedChange::Replaced) {
            continue;
        }
        for (image, policy) in images(&planned.pod) {
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

/// Returns the images of a Pod's containers, each once.
fn images(pod: &StaticPod) -> Vec<(&str, PullPolicy)> {
    let mut images: Vec<(&str, PullPolicy)> = vec![];
    for container in pod.all_containers() {
        let image = container.image.as_deref().unwrap_or_default();
        if !images.iter().any(|(known, _)| *known == image) {
            let policy = PullPolicy::of(container.image_pull_policy.as_deref());
            images.push((image, policy));
        }
    }
    images
}
