//! The failures of Pods' volumes.

use std::io;
use std::path::PathBuf;

use crate::translate::TranslateError;

/// Failure of a Pod's volumes, by what it keeps from being created.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// The Pod's sandbox cannot be created.
    #[error(transparent)]
    Sandbox(Box<VolumeFailure>),
    /// A container cannot be created.
    #[error(transparent)]
    Container(Box<VolumeFailure>),
}

impl VolumeError {
    /// Returns Kubernetes' reason for statuses and events.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Sandbox(_) => "FailedMount",
            Self::Container(_) => "CreateContainerConfigError",
        }
    }
}

/// Failure of one volume.
#[derive(Debug, thiserror::Error)]
pub enum VolumeFailure {
    /// The folder of the Pod's own volumes cannot be made a shared mount.
    #[error("mountPropagation: {}: {error}", folder.display())]
    Propagation {
        /// The folder.
        folder: PathBuf,
        /// The error.
        error: io::Error,
    },
    /// A volume cannot be set up.
    #[error("volume {name:?}: {error} (spec.volumes[{index}], {})", path.display())]
    SetUp {
        /// Name of the volume.
        name: String,
        /// Index in `spec.volumes`.
        index: usize,
        /// Path of the volume on the host.
        path: PathBuf,
        /// The error.
        error: SetUpError,
    },
    /// Variables of a container cannot be read from a file of a volume.
    #[error("env {variable:?}: the file {path:?} of volume {volume:?}: {error}")]
    EnvFile {
        /// Name of the variable.
        variable: String,
        /// Path of the file in the volume.
        path: String,
        /// Name of the volume.
        volume: String,
        /// The error.
        error: EnvFileError,
    },
    /// A path below a volume cannot be mounted.
    #[error("volume {volume:?}: {error}")]
    SubPath {
        /// Name of the volume.
        volume: String,
        /// The error.
        error: io::Error,
    },
}

/// Error of the set-up of one volume.
#[derive(Debug, thiserror::Error)]
pub enum SetUpError {
    /// A file or a mount failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The content refers to something that does not exist.
    #[error(transparent)]
    Content(#[from] TranslateError),
    /// A host path is not of its type.
    #[error(transparent)]
    HostPath(#[from] HostPathError),
    /// The medium of an emptyDir is not known.
    #[error("there is no medium {0:?}, expected Memory or HugePages")]
    UnknownMedium(String),
    /// No container requests huge pages, or none of this size.
    #[error("no container requests huge pages{}", .0.as_deref().map(|size| format!(" of {size}")).unwrap_or_default())]
    NoHugePages(Option<String>),
    /// The size of the huge pages is not determined.
    #[error("containers request pages of several sizes, name one: HugePages-2Mi")]
    SeveralHugePages,
}

/// Error of a host path.
#[derive(Debug, thiserror::Error)]
pub enum HostPathError {
    /// It cannot be created.
    #[error("cannot be made: {0}")]
    Create(io::Error),
    /// It cannot be read.
    #[error("expected type {kind}: {error}")]
    Read {
        /// The expected type.
        kind: String,
        /// The error.
        error: io::Error,
    },
    /// It has another type. The kubelet's words come first (pkg/volume/hostpath).
    #[error(
        "hostPath type check failed: {} is not a {expected}: found {found}, expected type {kind}",
        path.display()
    )]
    WrongType {
        /// The path.
        path: PathBuf,
        /// The expected type in words.
        expected: String,
        /// The type found, in words.
        found: &'static str,
        /// The expected type.
        kind: String,
    },
}

/// Error of a file of variables.
#[derive(Debug, thiserror::Error)]
pub enum EnvFileError {
    /// The Pod does not have the volume.
    #[error("there is no such volume")]
    UnknownVolume,
    /// It cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is a folder, a device or the like.
    #[error("is no regular file")]
    NotRegular,
    /// It has too many bytes.
    #[error("is larger than {0} bytes")]
    TooLarge(u64),
    /// A line is not written as Kubernetes defines it.
    #[error("line {line}: {problem}")]
    Syntax {
        /// Number of the line, from 1.
        line: usize,
        /// The problem.
        problem: &'static str,
    },
}
