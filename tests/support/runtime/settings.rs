//! What the runtime says of itself: as different versions of containerd do.

use podkeeper::cri::v1;

/// What the runtime says of itself.
#[derive(Debug, Clone)]
#[allow(clippy::struct_excessive_bools, reason = "each is said by itself")]
pub(crate) struct Settings {
    pub(crate) name: String,
    pub(crate) version: String,
    /// The answer to `RuntimeConfig`; without one the call is not implemented.
    pub(crate) cgroup_driver: Option<v1::CgroupDriver>,
    /// What its verbose status says of the driver; `None` where it says nothing.
    pub(crate) systemd_in_status: Option<bool>,
    pub(crate) handlers: Vec<v1::RuntimeHandler>,
    pub(crate) features: Option<v1::RuntimeFeatures>,
    /// Whether it has `GetContainerEvents`.
    pub(crate) events: bool,
    /// Whether every image that is asked for is there; otherwise it has to be pulled first.
    pub(crate) every_image: bool,
    pub(crate) network_ready: bool,
    /// What `ImageFsInfo` says.
    pub(crate) image_filesystems: Vec<v1::FilesystemUsage>,
}

impl Settings {
    /// As containerd 1.6: neither events, nor handlers, nor its settings.
    pub(crate) fn containerd_1_6() -> Self {
        Self {
            name: "containerd".to_owned(),
            version: "1.6.36".to_owned(),
            cgroup_driver: None,
            systemd_in_status: Some(false),
            handlers: vec![],
            features: None,
            events: false,
            every_image: true,
            network_ready: true,
            image_filesystems: vec![],
        }
    }

    /// As containerd 1.7: with events.
    pub(crate) fn containerd_1_7() -> Self {
        Self {
            version: "1.7.27".to_owned(),
            events: true,
            ..Self::containerd_1_6()
        }
    }

    /// As containerd 2.1, on a kernel where its handlers can do everything.
    pub(crate) fn containerd_2_1() -> Self {
        Self {
            version: "2.1.9".to_owned(),
            cgroup_driver: Some(v1::CgroupDriver::Cgroupfs),
            handlers: ["", "runc"].map(|name| handler(name, true, true)).into(),
            features: Some(v1::RuntimeFeatures {
                supplemental_groups_policy: true,
                ..v1::RuntimeFeatures::default()
            }),
            ..Self::containerd_1_7()
        }
    }
}

/// A handler, and whether it can mount read-only with all below and make user namespaces.
pub(crate) fn handler(name: &str, read_only: bool, users: bool) -> v1::RuntimeHandler {
    v1::RuntimeHandler {
        name: name.to_owned(),
        features: Some(v1::RuntimeHandlerFeatures {
            recursive_read_only_mounts: read_only,
            user_namespaces: users,
        }),
    }
}

pub(super) fn version(settings: &Settings) -> v1::VersionResponse {
    v1::VersionResponse {
        version: "0.1.0".to_owned(),
        runtime_name: settings.name.clone(),
        runtime_version: settings.version.clone(),
        runtime_api_version: "v1".to_owned(),
    }
}

pub(super) fn status(settings: &Settings, verbose: bool) -> v1::StatusResponse {
    let condition = |kind: &str, status| v1::RuntimeCondition {
        r#type: kind.to_owned(),
        status,
        ..v1::RuntimeCondition::default()
    };
    let conditions = vec![
        condition("RuntimeReady", true),
        condition("NetworkReady", settings.network_ready),
    ];
    let config = settings.systemd_in_status.filter(|_| verbose);
    let config = config.map(|systemd| {
        let options = serde_json::json!({"SystemdCgroup": systemd});
        let runtimes = serde_json::json!({"runc": {"options": options}});
        let containerd = serde_json::json!({"defaultRuntimeName": "runc", "runtimes": runtimes});
        let config = serde_json::json!({"containerd": containerd});
        ("config".to_owned(), config.to_string())
    });
    v1::StatusResponse {
        status: Some(v1::RuntimeStatus { conditions }),
        info: config.into_iter().collect(),
        runtime_handlers: settings.handlers.clone(),
        features: settings.features,
    }
}
