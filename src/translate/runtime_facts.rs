//! Features of the container runtime, which may change while the agent runs: it may be upgraded.

use std::collections::BTreeMap;

use tokio::sync::watch;

/// Features of a runtime, whatever the handler.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RuntimeFeatures {
    /// Leave out the groups that the image has a user in.
    pub supplemental_groups_policy: bool,
    /// Mount images as volumes.
    pub image_volumes: bool,
}

/// Features of a runtime handler.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HandlerFeatures {
    /// Mounts that are read-only with all that is mounted below.
    pub recursive_read_only_mounts: bool,
    /// User namespaces.
    pub user_namespaces: bool,
}

/// Features that a runtime reports.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reported {
    /// Features of the runtime, whatever the handler.
    pub features: RuntimeFeatures,
    /// Features of its handlers, by name; the empty name is the default one.
    pub handlers: BTreeMap<String, HandlerFeatures>,
    /// The runtime has not answered yet: what is missing here it may have.
    pub is_incomplete: bool,
}

/// The features last reported by the runtime. All who hold a copy see the same.
#[derive(Debug, Clone, Default)]
pub struct RuntimeFacts(watch::Sender<Reported>);

impl RuntimeFacts {
    /// Features of the runtime as a whole.
    #[must_use]
    pub fn features(&self) -> RuntimeFeatures {
        self.0.borrow().features
    }

    /// Features of each handler.
    #[must_use]
    pub fn handlers(&self) -> BTreeMap<String, HandlerFeatures> {
        self.0.borrow().handlers.clone()
    }

    /// Features of one handler; none for one that is not known.
    #[must_use]
    pub fn handler(&self, name: &str) -> HandlerFeatures {
        let reported = self.0.borrow();
        reported.handlers.get(name).copied().unwrap_or_default()
    }

    /// True if the runtime has not reported its features yet.
    #[must_use]
    pub fn is_incomplete(&self) -> bool {
        self.0.borrow().is_incomplete
    }

    /// Takes over what the runtime reports; `true` if that changes anything.
    #[allow(clippy::must_use_candidate, reason = "it is called for its effect")]
    pub fn replace(&self, reported: Reported) -> bool {
        self.0.send_if_modified(|known| {
            let changed = *known != reported;
            *known = reported;
            changed
        })
    }
}

impl From<Reported> for RuntimeFacts {
    fn from(reported: Reported) -> Self {
        Self(watch::Sender::new(reported))
    }
}

impl From<RuntimeFeatures> for RuntimeFacts {
    /// A runtime with these features and no handlers.
    fn from(features: RuntimeFeatures) -> Self {
        Reported {
            features,
            ..Reported::default()
        }
        .into()
    }
}

impl<const N: usize> From<[(String, HandlerFeatures); N]> for RuntimeFacts {
    /// A runtime with these handlers and no features of its own.
    fn from(handlers: [(String, HandlerFeatures); N]) -> Self {
        Reported {
            handlers: handlers.into(),
            ..Reported::default()
        }
        .into()
    }
}
