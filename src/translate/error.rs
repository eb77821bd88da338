//! The reasons for which a Pod cannot be translated to requests of the runtime.

/// Error of a translation, with the Kubernetes' reason that statuses and events show.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TranslateError {
    /// The error of one field.
    #[error("{field}: {error}")]
    Field {
        /// Path of the field, or `env "NAME"`.
        field: String,
        /// The error.
        error: Box<TranslateError>,
    },
    /// A `ConfigMap` or `Secret` does not exist.
    #[error("there is no {kind} {name:?}")]
    MissingObject {
        /// `ConfigMap` or `Secret`.
        kind: &'static str,
        /// Name of the object.
        name: String,
    },
    /// A `ConfigMap` or `Secret` does not have a key.
    #[error("the {kind} {name:?} has no key {key:?}")]
    MissingKey {
        /// `ConfigMap` or `Secret`.
        kind: &'static str,
        /// Name of the object.
        name: String,
        /// The key.
        key: String,
    },
    /// A file of variables does not have a key.
    #[error("the file {path:?} of volume {volume:?} has no key {key:?}")]
    MissingFileKey {
        /// Name of the volume.
        volume: String,
        /// Path of the file in the volume.
        path: String,
        /// The key.
        key: String,
    },
    /// The downward API does not have a field.
    #[error("the downward API has no field {0:?}")]
    UnknownField(String),
    /// The downward API does not have a resource.
    #[error("there is no resource {0:?}")]
    UnknownResource(String),
    /// The Pod does not have a container.
    #[error("there is no container {0:?}")]
    UnknownContainer(String),
    /// The divisor of a resource is negative.
    #[error("the divisor is negative")]
    NegativeDivisor,
    /// The texts of a container have too many bytes.
    #[error(
        "with it more than {0} bytes are found in all values, the command and the arguments of the container once \
         $(VAR) is expanded"
    )]
    TextTooLarge(usize),
    /// A path has too many bytes.
    #[error("found more than {0} bytes once $(VAR) is expanded, which no path has")]
    PathTooLong(usize),
    /// A path refers to variables that do not exist or are empty.
    #[error("missing value for {}", .0.join(", "))]
    MissingVariables(Vec<String>),
    /// A sub path leads out of its volume.
    #[error("the sub path {path:?} of volume {volume:?} leads out of it")]
    SubPathOutside {
        /// Name of the volume.
        volume: String,
        /// The path.
        path: String,
    },
    /// The Pod does not have a volume.
    #[error("there is no volume {0:?}")]
    UnknownVolume(String),
    /// A volume has no type that is known.
    #[error("volume {0:?} is of no known kind")]
    UnknownVolumeType(String),
    /// The runtime does not mount images.
    #[error(
        "volume {0:?} is an image, and this container runtime does not mount images: containerd does from 2.1 on"
    )]
    ImageVolumesUnsupported(String),
    /// The image of a volume was not pulled.
    #[error("the image of volume {0:?} is not there")]
    MissingVolumeImage(String),
    /// The runtime has not reported yet if it supports recursive read-only mounts.
    #[error(
        "volume {0:?} has recursiveReadOnly, and the container runtime has not reported yet whether it supports that"
    )]
    RecursiveReadOnlyUnknown(String),
    /// The runtime does not support recursive read-only mounts.
    #[error(
        "volume {0:?} is to be mounted with recursiveReadOnly: Enabled, which the container runtime does not support \
         here"
    )]
    RecursiveReadOnlyUnsupported(String),
    /// A container with `runAsNonRoot` would run as root, or may.
    #[error("{problem} (pod: \"{name}_{namespace}({uid})\", container: {container})")]
    NonRoot {
        /// The kubelet's words for it.
        problem: String,
        /// Name of the Pod.
        name: String,
        /// Namespace of the Pod.
        namespace: String,
        /// UID of the Pod.
        uid: String,
        /// Name of the container.
        container: String,
    },
    /// The runtime class is not configured.
    #[error("spec.runtimeClassName: there is no runtime class {0:?}")]
    UnknownRuntimeClass(String),
}

impl TranslateError {
    /// Returns Kubernetes' reason for statuses and events.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::UnknownRuntimeClass(_) => "FailedCreatePodSandBox",
            _ => "CreateContainerConfigError",
        }
    }

    /// Returns the error as that of a field.
    pub(super) fn of_field(self, field: impl Into<String>) -> Self {
        Self::Field {
            field: field.into(),
            error: Box::new(self),
        }
    }
}
