//! Client of the running agent, and selection of the Pod and container of a command.

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;
use k8s_openapi::api::core::v1::{Container, ContainerStatus, PodSpec};

use crate::config::DEFAULT_RUN_DIR;
use crate::pod::events::Event;
use crate::server::{
    LabelSelector, Lines, PodDetail, PodDetails, PodFilter, PodName, fetch, follow,
};

/// Annotation with the default container of a Pod.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";
/// Parameters of a path that is followed.
pub(super) const FOLLOW: &[(&str, &str)] = &[("follow", "true")];
/// Maximum number of names in a message.
const MAX_NAMES: usize = 20;

/// The running agent.
#[derive(Debug, Args)]
pub(super) struct Agent {
    /// Directory of the agent's socket
    #[arg(long, value_name = "DIR", default_value = DEFAULT_RUN_DIR)]
    pub(super) run_dir: PathBuf,
}

/// The Pods that a command is about.
#[derive(Debug, Default, Args)]
pub(super) struct Selection {
    /// Only Pods of this namespace [default: of all]
    #[arg(long, short, value_name = "NAME")]
    namespace: Option<String>,

    /// Only Pods with matching labels: KEY=VALUE, KEY!=VALUE, KEY, !KEY, 'KEY in (A,B)', 'KEY notin (A,B)'
    #[arg(long, short = 'l', value_name = "SELECTOR")]
    selector: Option<LabelSelector>,
}

impl Selection {
    /// Returns the filter for these Pods, of this name if one is given.
    pub(super) fn filter(&self, name: Option<&PodName>) -> PodFilter {
        PodFilter {
            name: name.cloned(),
            namespace: self.namespace.clone(),
            selector: self.selector.clone(),
        }
    }
}

impl Agent {
    /// Returns the one Pod of this name, and the whole response.
    pub(super) async fn pod(&self, name: &PodName) -> anyhow::Result<(PodDetail, PodDetails)> {
        let details = self.pods(&PodFilter::of(name)).await?;
        let pod = the_one(name, &details)?.clone();
        Ok((pod, details))
    }

    /// Returns the matching Pods.
    pub(super) async fn pods(&self, filter: &PodFilter) -> anyhow::Result<PodDetails> {
        let path = filter.path("/v1/pods", &[]);
        let mut responses: Vec<PodDetails> = fetch(&self.run_dir, &path).await?;
        Ok(responses.pop().unwrap_or_default())
    }

    /// Returns the Pods of this name, now and after each change.
    pub(super) async fn follow_pod(&self, name: &PodName) -> anyhow::Result<Lines<PodDetails>> {
        let path = PodFilter::of(name).path("/v1/pods", FOLLOW);
        follow(&self.run_dir, &path).await
    }

    /// Returns the agent's recent events of the matching Pods.
    pub(super) async fn events(&self, filter: &PodFilter) -> anyhow::Result<Vec<Event>> {
        fetch(&self.run_dir, &filter.path("/v1/events", &[])).await
    }

    /// Returns the recent events, and further ones as they come.
    pub(super) async fn follow_events(&self, filter: &PodFilter) -> anyhow::Result<Lines<Event>> {
        follow(&self.run_dir, &filter.path("/v1/events", FOLLOW)).await
    }
}

/// Returns the one Pod of this name.
///
/// # Errors
/// There is none, or there are several; the message lists the Pods that exist.
pub(super) fn the_one<'a>(
    name: &PodName,
    details: &'a PodDetails,
) -> anyhow::Result<&'a PodDetail> {
    match details.pods.as_slice() {
        [pod] => Ok(pod),
        [] => bail!("{}", none(name, details)),
        several => {
            let names: Vec<String> = several.iter().map(full_name).collect();
            bail!(
                "several Pods are called {name}: {}; name one of them in full",
                listed(&names)
            )
        }
    }
}

/// Message for a name without a Pod.
pub(super) fn none(name: &PodName, details: &PodDetails) -> String {
    if let Some(waiting_for) = &details.waiting_for {
        return format!("there is no Pod {name} yet: {waiting_for}");
    }
    match details.names.as_slice() {
        [] => {
            format!("there is no Pod {name}, and no other; `podkeeper ps` shows what was refused")
        }
        names => format!("there is no Pod {name}; there are {}", listed(names)),
    }
}

fn listed(names: &[String]) -> String {
    let more = names.len().saturating_sub(MAX_NAMES);
    let names = names[..names.len().min(MAX_NAMES)].join(", ");
    match more {
        0 => names,
        more => format!("{names} and {more} more"),
    }
}

/// Returns the Pod's name as `namespace/name`.
pub(super) fn full_name(pod: &PodDetail) -> String {
    format!("{}/{}", pod.report.namespace, pod.report.name)
}

/// Returns the Pod's spec, if its manifest is known.
pub(super) fn spec(pod: &PodDetail) -> Option<&PodSpec> {
    pod.pod.as_ref()?.spec.as_ref()
}

/// Returns all of the Pod's containers, init containers first.
pub(super) fn containers(pod: &PodDetail) -> impl Iterator<Item = &Container> {
    let spec = spec(pod);
    let inits = spec.and_then(|s| s.init_containers.as_deref());
    let mains = spec.map(|s| s.containers.as_slice());
    let inits = inits.unwrap_or_default().iter();
    inits.chain(mains.unwrap_or_default())
}

/// Returns the status of one of the Pod's containers.
pub(super) fn status<'a>(pod: &'a PodDetail, container: &str) -> Option<&'a ContainerStatus> {
    let status = pod.pod.as_ref()?.status.as_ref()?;
    let inits = status.init_container_statuses.iter().flatten();
    let mut all = inits.chain(status.container_statuses.iter().flatten());
    all.find(|status| status.name == container)
}

/// Returns the container of this name, the Pod's default container, or its only one.
///
/// # Errors
/// There is none of that name, or there are several; the message lists them.
pub(super) fn choose(pod: &PodDetail, given: Option<&str>) -> anyhow::Result<String> {
    let name = full_name(pod);
    let annotations = pod
        .pod
        .as_ref()
        .and_then(|p| p.metadata.annotations.as_ref());
    let default = annotations.and_then(|all| all.get(DEFAULT_CONTAINER));
    let known = |container: &str| containers(pod).any(|c| c.name == container);
    match given {
        Some(given) if known(given) => return Ok(given.to_owned()),
        Some(given) => bail!(
            "Pod {name} has no container {given:?}; it has {}",
            names(pod)
        ),
        None => {}
    }
    if let Some(default) = default.filter(|default| known(default)) {
        return Ok(default.clone());
    }
    match spec(pod).map(|s| s.containers.as_slice()) {
        Some([only]) => Ok(only.name.clone()),
        Some(_) => bail!(
            "Pod {name} has several containers, choose one with -c: {}",
            names(pod)
        ),
        None => bail!("the manifest of Pod {name} is no longer known"),
    }
}

fn names(pod: &PodDetail) -> String {
    let mains = spec(pod).map_or(0, |s| s.containers.len());
    let all: Vec<&Container> = containers(pod).collect();
    let (inits, mains) = all.split_at(all.len().saturating_sub(mains));
    let mains = mains.iter().map(|c| c.name.clone());
    let inits = inits.iter().map(|c| format!("{} (init)", c.name));
    mains.chain(inits).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(annotations: &serde_json::Value, containers: &[&str]) -> PodDetail {
        let named = |name: &&str| json!({"name": name});
        let pod = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "web-n1", "annotations": annotations},
            "spec": {"containers": containers.iter().map(named).collect::<Vec<_>>(),
                     "initContainers": [{"name": "first"}]}});
        let mut detail = PodDetail {
            pod: serde_json::from_value(pod).unwrap(),
            ..PodDetail::default()
        };
        detail.report.namespace = "default".into();
        detail.report.name = "web-n1".into();
        detail
    }

    #[test]
    fn the_container_is_the_one_named_or_meant_or_the_only_one() {
        let one = pod(&json!({}), &["a"]);
        assert_eq!(choose(&one, None).unwrap(), "a");
        assert_eq!(choose(&one, Some("first")).unwrap(), "first");
        let two = pod(&json!({DEFAULT_CONTAINER: "b"}), &["a", "b"]);
        assert_eq!(choose(&two, None).unwrap(), "b");
        assert_eq!(choose(&two, Some("a")).unwrap(), "a");
        for (annotations, given, expected) in [
            (
                json!({DEFAULT_CONTAINER: "gone"}),
                None,
                "Pod default/web-n1 has several containers, choose one with -c: a, b, first (init)",
            ),
            (
                json!({}),
                Some("x"),
                "Pod default/web-n1 has no container \"x\"; it has a, b, first (init)",
            ),
        ] {
            let error = choose(&pod(&annotations, &["a", "b"]), given).unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
    }

    #[test]
    fn a_pod_that_is_not_there_or_not_the_only_one_is_answered_with_what_is_there() {
        let name: PodName = "web".parse().unwrap();
        let said = |details: PodDetails| the_one(&name, &details).unwrap_err().to_string();
        assert_eq!(
            said(PodDetails::default()),
            "there is no Pod web, and no other; `podkeeper ps` shows what was refused"
        );
        assert_eq!(
            said(PodDetails {
                names: vec!["default/a-n1".into(), "default/b-n1".into()],
                ..PodDetails::default()
            }),
            "there is no Pod web; there are default/a-n1, default/b-n1"
        );
        assert_eq!(
            said(PodDetails {
                names: (0..22).map(|n| format!("d/p{n}")).collect(),
                ..PodDetails::default()
            })
            .split("d/p19 ")
            .nth(1),
            Some("and 2 more")
        );
        let two = vec![pod(&json!({}), &["a"]), pod(&json!({}), &["a"])];
        assert_eq!(
            said(PodDetails {
                pods: two,
                ..PodDetails::default()
            }),
            "several Pods are called web: default/web-n1, default/web-n1; name one of them in full"
        );
        assert_eq!(
            said(PodDetails {
                waiting_for: Some("the container runtime is not connected yet".into()),
                ..PodDetails::default()
            }),
            "there is no Pod web yet: the container runtime is not connected yet"
        );
    }
}
