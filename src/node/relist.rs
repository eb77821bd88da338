//! Relist: the sandboxes and containers that carry our owner label, sorted by the Pods that own them.
//!
//! An owner never changes, so what a Pod's task has observed is known by its ID, and only its state is read from the
//! list. Labels and annotations, which are most of a list, are decoded of what is new.

use std::collections::BTreeMap;

use crate::cri::{Client, Error, ListEntry, Listable, v1};
use crate::manifest::PodKey;
use crate::pod::identity::{is_valid_container, is_valid_sandbox};
use crate::pod::observe::{Listed, StateDigest, digest_of, list_requests, owner};
use crate::pod::reports::PodsById;

/// Sandboxes and containers, of one Pod or of all, as a list has them.
#[derive(Debug, Default)]
pub(super) struct RuntimeList {
    sandboxes: Vec<ListEntry<v1::PodSandbox>>,
    containers: Vec<ListEntry<v1::Container>>,
}

impl RuntimeList {
    /// Lists everything that carries this owner label.
    ///
    /// # Errors
    /// Any failure of the two calls.
    pub(super) async fn fetch(client: &Client, owner_label: &str) -> Result<Self, Error> {
        let (sandboxes, containers) = list_requests(owner_label, None);
        Ok(Self {
            sandboxes: client.entries(sandboxes).await?,
            containers: client.entries(containers).await?,
        })
    }

    /// Sorts it by owners: the known ones, and for what is new those of its labels. What is new and has another owner
    /// label or an invalid identity is left out.
    ///
    /// # Errors
    /// Something new cannot be decoded.
    pub(super) fn by_owner(
        self,
        owner_label: &str,
        known: &PodsById,
    ) -> Result<BTreeMap<PodKey, Self>, Error> {
        let mut owners: BTreeMap<PodKey, Self> = BTreeMap::new();
        let sandbox = |new: v1::PodSandbox| owner_of_sandbox(owner_label, &new);
        for entry in self.sandboxes {
            if let Some(key) = find_owner(&entry, known, sandbox)? {
                push_compact(&mut owners.entry(key).or_default().sandboxes, entry);
            }
        }
        let container = |new: v1::Container| owner_of_container(owner_label, &new);
        for entry in self.containers {
            if let Some(key) = find_owner(&entry, known, container)? {
                push_compact(&mut owners.entry(key).or_default().containers, entry);
            }
        }
        Ok(owners)
    }

    /// The listed states by ID, in no particular order.
    pub(super) fn states(&self) -> impl Iterator<Item = (&str, i32)> {
        let sandboxes = self.sandboxes.iter().map(|s| (s.id.as_str(), s.state));
        let containers = self.containers.iter().map(|c| (c.id.as_str(), c.state));
        sandboxes.chain(containers)
    }

    /// Returns the digest of the listed state.
    pub(super) fn digest(&self) -> StateDigest {
        digest_of(self.states().map(|(id, state)| (id.into(), state)))
    }

    /// Decodes everything.
    ///
    /// # Errors
    /// Something cannot be decoded.
    pub(super) fn decode(&self) -> Result<Listed, Error> {
        let sandboxes = self.sandboxes.iter().map(ListEntry::decode);
        let containers = self.containers.iter().map(ListEntry::decode);
        Ok(Listed::valid(
            sandboxes.collect::<Result<_, _>>()?,
            containers.collect::<Result<_, _>>()?,
        ))
    }
}

/// Sorts sandboxes and containers by the Pods that own them.
pub(super) fn by_owner(owner_label: &str, listed: Listed) -> BTreeMap<PodKey, Listed> {
    let mut owners: BTreeMap<PodKey, Listed> = BTreeMap::new();
    for sandbox in listed.sandboxes {
        if let Some(key) = owner(owner_label, &sandbox.labels) {
            push_compact(&mut owners.entry(key).or_default().sandboxes, sandbox);
        }
    }
    for container in listed.containers {
        if let Some(key) = owner(owner_label, &container.labels) {
            push_compact(&mut owners.entry(key).or_default().containers, container);
        }
    }
    owners
}

/// Adds to a list that mostly stays at one item, and has room for no more then.
fn push_compact<T>(list: &mut Vec<T>, item: T) {
    if list.is_empty() {
        list.reserve_exact(1);
    }
    list.push(item);
}

fn find_owner<T: Listable>(
    entry: &ListEntry<T>,
    known: &PodsById,
    owner_of: impl Fn(T) -> Option<PodKey>,
) -> Result<Option<PodKey>, Error> {
    match known.get(entry.id.as_str()) {
        Some(key) => Ok(Some(PodKey::clone(key))),
        None => Ok(owner_of(entry.decode()?)),
    }
}

fn owner_of_sandbox(owner_label: &str, new: &v1::PodSandbox) -> Option<PodKey> {
    is_valid_sandbox(new).then(|| owner(owner_label, &new.labels))?
}

fn owner_of_container(owner_label: &str, new: &v1::Container) -> Option<PodKey> {
    is_valid_container(new).then(|| owner(owner_label, &new.labels))?
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::translate::labels;

    const OURS: &str = "/var/lib/podkeeper";
    const UID: &str = "0123456789abcdef0123456789abcdef";

    fn key(name: &str) -> PodKey {
        PodKey {
            namespace: "default".to_owned(),
            name: name.to_owned(),
        }
    }

    /// A container of this Pod, as the runtime lists it.
    fn container(id: &str, pod: &str, owner_label: &str, state: i32) -> v1::Container {
        let labels = [
            (labels::ROOT_DIR, owner_label),
            (labels::POD_NAMESPACE, "default"),
            (labels::POD_NAME, pod),
            (labels::POD_UID, UID),
        ];
        let labels = labels.map(|(label, value)| (label.to_owned(), value.to_owned()));
        v1::Container {
            id: id.to_owned(),
            pod_sandbox_id: "s".to_owned(),
            metadata: Some(v1::ContainerMetadata {
                name: "c".to_owned(),
                attempt: 0,
            }),
            state,
            labels: labels.into(),
            ..v1::Container::default()
        }
    }

    /// A sandbox of this Pod, as the runtime lists it.
    fn sandbox(id: &str, pod: &str, state: i32) -> v1::PodSandbox {
        v1::PodSandbox {
            id: id.to_owned(),
            metadata: Some(v1::PodSandboxMetadata {
                uid: UID.to_owned(),
                ..v1::PodSandboxMetadata::default()
            }),
            state,
            labels: container(id, pod, OURS, 0).labels,
            ..v1::PodSandbox::default()
        }
    }

    fn relist(sandboxes: &[v1::PodSandbox], containers: &[v1::Container]) -> RuntimeList {
        RuntimeList {
            sandboxes: sandboxes.iter().map(Into::into).collect(),
            containers: containers.iter().map(Into::into).collect(),
        }
    }

    fn digests(listed: RuntimeList, known: &PodsById) -> Vec<(PodKey, StateDigest)> {
        let owners = listed.by_owner(OURS, known).unwrap().into_iter();
        owners.map(|(key, its)| (key, its.digest())).collect()
    }

    fn state(id: &str, state: i32) -> (Arc<str>, i32) {
        (id.into(), state)
    }

    #[test]
    fn what_is_new_belongs_to_the_pod_of_its_labels() {
        let containers = [
            container("c2", "b-n", OURS, 1),
            container("c1", "a-n", OURS, 0),
            container("c3", "a-n", "/elsewhere", 1),
            container("c/4", "a-n", OURS, 1),
            container("c5", "../a", OURS, 1),
        ];
        let sandboxes = [sandbox("s1", "a-n", 0), sandbox("s/2", "a-n", 0)];
        let found = digests(relist(&sandboxes, &containers), &PodsById::new());
        let a = (key("a-n"), vec![state("c1", 0), state("s1", 0)]);
        assert_eq!(found, [a, (key("b-n"), vec![state("c2", 1)])]);
    }

    #[test]
    fn of_what_is_known_only_the_state_is_read() {
        let a = Arc::new(key("a-n"));
        let ids = ["c1", "s1"].map(|id| (Arc::from(id), Arc::clone(&a)));
        // Its labels say something else, and are not looked at.
        let containers = [container("c1", "b-n", "/elsewhere", 2)];
        let sandboxes = [sandbox("s1", "b-n", 1)];
        let found = digests(relist(&sandboxes, &containers), &ids.into());
        assert_eq!(found, [(key("a-n"), vec![state("c1", 2), state("s1", 1)])]);
    }

    #[test]
    fn a_decoded_relist_is_the_list() {
        let containers = [container("c1", "a-n", OURS, 1)];
        let sandboxes = [sandbox("s1", "a-n", 0), sandbox("s/2", "a-n", 0)];
        let decoded = relist(&sandboxes, &containers).decode().unwrap();
        assert_eq!(decoded.containers, containers);
        assert_eq!(decoded.sandboxes, sandboxes[..1]);
    }
}
