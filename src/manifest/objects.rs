//! `ConfigMap`s and `Secret`s that stand in manifests themselves.
//!
//! They serve the Pods of their namespace that come from the same source, and never come from an API
//! server. What a Pod refers to is part of the Pod: another content makes another UID, so another Pod.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// What a `ConfigMap` or `Secret` holds: keys and bytes.
pub type Entries = BTreeMap<String, Vec<u8>>;

/// The objects that one Pod refers to, by name: each either there, or missing.
///
/// Never shows a Secret's content in its `Debug` form.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Objects {
    /// `ConfigMap`s; `None` where no manifest has one of this name.
    pub config_maps: BTreeMap<String, Option<Arc<Entries>>>,
    /// `Secret`s; `None` where no manifest has one of this name.
    pub secrets: BTreeMap<String, Option<Arc<Entries>>>,
}

impl Objects {
    /// The content of a `ConfigMap`, if there is one of this name.
    #[must_use]
    pub fn config_map(&self, name: &str) -> Option<&Entries> {
        self.config_maps.get(name)?.as_deref()
    }

    /// The content of a `Secret`, if there is one of this name.
    #[must_use]
    pub fn secret(&self, name: &str) -> Option<&Entries> {
        self.secrets.get(name)?.as_deref()
    }
}

impl fmt::Debug for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Objects")
            .field("config_maps", &self.config_maps.keys())
            .field("secrets", &self.secrets.keys())
            .finish()
    }
}
