//! `podkeeper init`: a configuration, a systemd unit and a sample manifest for this node.
//!
//! The configuration and the unit are those that the package has, with what was found here. Nothing that exists is
//! overwritten unless that is asked for, and nothing is started.

mod files;
mod look;
mod sample;

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Args;

use self::files::NodeFile;
use self::look::Look;
use super::{doctor, print, printable};
use crate::agent::preflight::{CheckState, preflight};
use crate::config::Flags;
use crate::cri::Endpoint;

/// The configuration of the package.
const CONFIG: &str = include_str!("../../../hack/debian/config.yaml");
/// The unit of the package.
const UNIT: &str = include_str!("../../../hack/podkeeper.service");
/// Folder of the package, which both name.
const PACKAGE_DIR: &str = "/etc/podkeeper";
/// Program that the unit starts.
const PROGRAM: &str = "/usr/local/bin/podkeeper";
/// Folder of units that people write.
const UNIT_DIR: &str = "/etc/systemd/system";
/// Folder that is there where systemd is the init (`sd_booted(3)`).
const SYSTEMD: &str = "/run/systemd/system";
/// Unit of the package, which one in [`UNIT_DIR`] would hide.
const PACKAGE_UNIT: &str = "/usr/lib/systemd/system/podkeeper.service";

#[derive(Debug, Args)]
pub(super) struct InitArgs {
    /// Directory of the configuration, the sample and the manifests
    #[arg(long, value_name = "DIR", default_value = PACKAGE_DIR)]
    dir: PathBuf,

    /// Directory of the systemd unit [default: /etc/systemd/system, where systemd runs and the package has no unit]
    #[arg(long, value_name = "DIR")]
    unit_dir: Option<PathBuf>,

    /// Unix socket of the container runtime [default: the first well-known socket that exists]
    #[arg(long, value_name = "ENDPOINT")]
    container_runtime_endpoint: Option<Endpoint>,

    /// Image of the sample, with busybox's sh and httpd [default: a busybox that the runtime has, or that of Docker Hub]
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,

    /// Port of the sample on this node [default: the first free one from 8080 on]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,

    /// Overwrite files that exist
    #[arg(long, short)]
    force: bool,

    /// Print the files and write nothing
    #[arg(long)]
    dry_run: bool,
}

/// Paths that are written, as they stand in the files.
#[derive(Debug)]
struct NodePaths {
    config: String,
    manifests: String,
    sample: String,
    unit: Option<String>,
    program: String,
}

pub(super) fn init(arguments: &InitArgs) -> anyhow::Result<ExitCode> {
    let paths = NodePaths::new(arguments)?;
    let endpoint = arguments.container_runtime_endpoint.clone();
    let mut look = Look::new(endpoint.unwrap_or_else(Endpoint::find))?;
    look.sample_port = arguments.port.unwrap_or(look.sample_port);
    let mut flags = Flags::default();
    for (flag, _, value) in settings(arguments, &look) {
        flags.set(flag, &value);
    }
    let checks: Vec<_> = preflight(&flags)?
        .into_iter()
        .filter(|check| check.state != CheckState::Ok)
        .collect();
    if !checks.is_empty() {
        print(&doctor::text(&checks)?)?;
        print("\n")?;
    }
    let files = node_files(arguments, &paths, &look);
    if arguments.dry_run {
        let shown = files.iter().map(NodeFile::shown);
        print(&printable(&shown.collect::<Vec<_>>().join("\n")))?;
        return Ok(ExitCode::SUCCESS);
    }
    files::make_folders(&paths)?;
    for file in &files {
        let done = file.write(arguments.force)?;
        print(&printable(&format!("{done} {}\n", file.path)))?;
    }
    print(&printable(&next(&paths, &look)?))?;
    Ok(ExitCode::SUCCESS)
}

impl NodePaths {
    fn new(arguments: &InitArgs) -> anyhow::Result<Self> {
        let at = |name: &str| path_text(&arguments.dir.join(name));
        let config = at("config.yaml")?;
        let is_packaged =
            Path::new(PACKAGE_UNIT).exists() && arguments.dir == Path::new(PACKAGE_DIR);
        let is_wanted = Path::new(SYSTEMD).is_dir() && !is_packaged;
        let default = is_wanted.then(|| UNIT_DIR.into());
        let unit_dir = arguments.unit_dir.clone().or(default);
        let unit = unit_dir.map(|dir: PathBuf| path_text(&dir.join("podkeeper.service")));
        let program = std::env::current_exe().context("cannot find this program")?;
        Ok(Self {
            manifests: at("manifests")?,
            sample: at("sample.yaml")?,
            unit: unit.transpose()?,
            program: path_text(&program)?,
            config,
        })
    }
}

/// Returns an absolute path that can stand in all of the files as it is.
fn path_text(path: &Path) -> anyhow::Result<String> {
    let path = std::path::absolute(path)?;
    let good = |c: char| c.is_ascii_alphanumeric() || "/._-+@".contains(c);
    match path.to_str() {
        Some(text) if text.chars().all(good) => Ok(text.to_owned()),
        _ => bail!(
            "found the path {}, expected one of letters, digits and ._-+@ alone",
            path.display()
        ),
    }
}

/// Returns the settings that differ from the defaults: the flag, the field of the file, and the value of each.
fn settings(arguments: &InitArgs, look: &Look) -> Vec<(&'static str, &'static str, String)> {
    let endpoint = arguments.container_runtime_endpoint.as_ref();
    let endpoint = endpoint.map(ToString::to_string);
    let port = look.healthz_port.map(|port| port.to_string());
    let resolv_conf = look.resolv_conf.map(str::to_owned);
    [
        (
            "container-runtime-endpoint",
            "containerRuntimeEndpoint",
            endpoint,
        ),
        ("healthz-port", "healthzPort", port),
        ("resolv-conf", "resolvConf", resolv_conf),
    ]
    .into_iter()
    .filter_map(|(flag, field, value)| Some((flag, field, value?)))
    .collect()
}

fn node_files(arguments: &InitArgs, paths: &NodePaths, look: &Look) -> Vec<NodeFile> {
    let mut config = CONFIG.replace(&format!("{PACKAGE_DIR}/manifests"), &paths.manifests);
    config = config.replace(&format!("{PACKAGE_DIR}/config.yaml"), &paths.config);
    for (_, field, value) in settings(arguments, look) {
        config = with_field(&config, field, &value);
    }
    let image = arguments.image.as_deref();
    let mut files = vec![
        NodeFile::new(&paths.config, config),
        NodeFile::new(&paths.sample, sample::manifest(image, paths, look)),
    ];
    if let Some(unit) = &paths.unit {
        let text = UNIT.replace(PROGRAM, &paths.program);
        let text = text.replace(&format!("{PACKAGE_DIR}/config.yaml"), &paths.config);
        files.push(NodeFile::new(unit, text));
    }
    files
}

/// Sets a field of the configuration in the place where it stands as a comment.
fn with_field(config: &str, field: &str, value: &str) -> String {
    let comment = format!("#{field}: ");
    let line = |line: &str| {
        if line.starts_with(&comment) {
            format!("{field}: {value}\n")
        } else {
            format!("{line}\n")
        }
    };
    config.lines().map(line).collect()
}

/// Returns the commands to go on with.
fn next(paths: &NodePaths, look: &Look) -> Result<String, std::fmt::Error> {
    let NodePaths {
        config,
        manifests,
        sample,
        ..
    } = paths;
    let mut text = "\nNext:\n".to_owned();
    writeln!(text, "  podkeeper doctor --config={config}")?;
    if paths.unit.is_some() {
        writeln!(text, "  systemctl daemon-reload")?;
        writeln!(text, "  systemctl enable --now podkeeper")?;
    } else if Path::new(SYSTEMD).is_dir() {
        writeln!(text, "  systemctl restart podkeeper")?;
    } else {
        writeln!(text, "  podkeeper run --config={config}")?;
    }
    writeln!(text, "  podkeeper check {sample}")?;
    writeln!(text, "  cp {sample} {manifests}/")?;
    writeln!(text, "  podkeeper ps")?;
    writeln!(text, "  curl http://127.0.0.1:{}/", look.sample_port)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(dir: &Path) -> InitArgs {
        InitArgs {
            dir: dir.to_owned(),
            unit_dir: Some(dir.join("units")),
            container_runtime_endpoint: Some("/run/x.sock".parse().unwrap()),
            image: None,
            port: None,
            force: false,
            dry_run: false,
        }
    }

    #[test]
    fn the_packages_files_have_what_was_found_and_are_valid() {
        let folder = tempfile::tempdir().unwrap();
        let arguments = arguments(folder.path());
        let paths = NodePaths::new(&arguments).unwrap();
        let look = Look {
            healthz_port: Some(10300),
            resolv_conf: Some("/run/systemd/resolve/resolv.conf"),
            ..Look::default()
        };
        let files = node_files(&arguments, &paths, &look);
        let dir = folder.path().display();
        let [config, _, unit] = files.as_slice() else {
            panic!("{files:?}");
        };
        for line in [
            format!("staticPodPath: {dir}/manifests"),
            "containerRuntimeEndpoint: unix:///run/x.sock".to_owned(),
            "healthzPort: 10300".to_owned(),
            "resolvConf: /run/systemd/resolve/resolv.conf".to_owned(),
        ] {
            assert!(config.text.lines().any(|l| l == line), "{line}");
        }
        assert_eq!(config.text.lines().count(), CONFIG.lines().count());
        let start = format!("ExecStart={} run --config={dir}/config.yaml", paths.program);
        assert!(unit.text.lines().any(|l| l == start), "{}", unit.text);
        files::make_folders(&paths).unwrap();
        for file in &files {
            assert_eq!(file.write(false).unwrap(), "created");
        }
        let mut flags = Flags::default();
        flags.config = Some(paths.config.clone().into());
        let config = crate::config::Config::load(&flags).unwrap();
        assert_eq!(config.warnings, [""; 0]);
        assert_eq!(config.endpoint.to_string(), "unix:///run/x.sock");
    }

    #[test]
    fn a_path_that_would_need_quotes_is_refused() {
        for path in ["/a b", "/a'", "/a\n", "/a%"] {
            assert!(path_text(Path::new(path)).is_err(), "{path:?}");
        }
        assert_eq!(path_text(Path::new("/a/b-c.d")).unwrap(), "/a/b-c.d");
    }
}
