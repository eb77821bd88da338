//! Reloading of the configuration on `SIGHUP`: what can change without a restart of the agent changes.

use std::time::Duration;

use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{error, info, warn};

use super::logging::LogLevel;
use super::systemd::Systemd;
use crate::config::{Config, Flags, Setting, kubelet_configuration};
use crate::host::blocking::limited;
use crate::source::Sources;

/// Time in which the files of the configuration have to be read.
const CONFIG_LIMIT: Duration = Duration::from_secs(30);

/// Settings that change while the agent runs, for those who use them.
pub(super) struct LiveSettings {
    /// Sources of manifests.
    pub(super) sources: watch::Receiver<Sources>,
    /// The `KubeletConfiguration` in force.
    pub(super) configz: watch::Receiver<Value>,
}

/// Task that reads the configuration again.
pub(super) struct Reloader {
    flags: Flags,
    /// The settings in force.
    settings: Vec<Setting>,
    configz: watch::Sender<Value>,
    sources: watch::Sender<Sources>,
    log_level: LogLevel,
    systemd: Systemd,
}

impl Reloader {
    /// Starts from the configuration in force, which the flags gave.
    pub(super) fn new(
        flags: &Flags,
        config: &Config,
        log_level: LogLevel,
        systemd: Systemd,
    ) -> (Self, LiveSettings) {
        let (sources, follow_sources) = watch::channel(config.sources.clone());
        let (configz, follow_configz) = watch::channel(kubelet_configuration(&config.settings));
        let reloader = Self {
            flags: flags.clone(),
            settings: config.settings.clone(),
            configz,
            sources,
            log_level,
            systemd,
        };
        let live = LiveSettings {
            sources: follow_sources,
            configz: follow_configz,
        };
        (reloader, live)
    }

    /// Receives signals from now on; the future never ends.
    ///
    /// # Errors
    /// Signals cannot be received.
    pub(super) fn run(mut self) -> anyhow::Result<impl Future<Output = ()>> {
        let mut hangups = signal(SignalKind::hangup())?;
        Ok(async move {
            while hangups.recv().await.is_some() {
                self.systemd.notify_reloading();
                let flags = self.flags.clone();
                let load = move || Config::load(&flags);
                let loaded = limited("the configuration", CONFIG_LIMIT, load).await;
                match loaded.map_err(Into::into).flatten() {
                    Ok(config) => self.apply(config),
                    Err(error) => {
                        let error = format!("{error:#}");
                        error!(
                            error,
                            "Failed to reload the configuration, the previous one stays in force"
                        );
                    }
                }
                self.systemd.notify_reloaded();
            }
        })
    }

    fn apply(&mut self, config: Config) {
        for warning in &config.warnings {
            warn!("{warning}");
        }
        let changed = exchange(&mut self.settings, config.settings);
        self.configz
            .send_replace(kubelet_configuration(&self.settings));
        self.log_level.set(config.log_level);
        let sources = config.sources;
        let exchanged = self.sources.send_if_modified(|current| {
            let differs = *current != sources;
            *current = sources;
            differs
        });
        let changed = changed.join(", ");
        info!(changed, exchanged, "Reloaded the configuration");
    }
}

/// Takes over the new settings that can change; returns the names of those that do.
fn exchange(settings: &mut [Setting], new: Vec<Setting>) -> Vec<&'static str> {
    let mut changed = vec![];
    for new in new {
        let Some(old) = settings.iter_mut().find(|old| old.name == new.name) else {
            continue;
        };
        if new.reloadable {
            if new.value != old.value {
                changed.push(new.name);
            }
            *old = new;
        } else if new.value != old.value {
            let (setting, value, given) = (new.name, &old.value, &new.value);
            warn!(
                setting,
                value, given, "Setting takes effect only when the agent is restarted"
            );
        }
    }
    changed
}
