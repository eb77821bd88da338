//! The HTTP ports without authentication, besides the agent's own socket.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::values::Values;

/// The HTTP ports; `None` for one that is not open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ports {
    /// For Pods, metrics and the configuration: `readOnlyPort`.
    pub read_only: Option<SocketAddr>,
    /// For the agent's health check: `healthzPort`.
    pub healthz: Option<SocketAddr>,
}

impl Ports {
    pub(super) fn load(values: &Values) -> anyhow::Result<Self> {
        let address = values.get("address");
        let read_only = if address.is_given() {
            address.address()?
        } else {
            IpAddr::V4(Ipv4Addr::LOCALHOST)
        };
        let healthz = values.get("healthz-bind-address").address()?;
        let open = |flag, address| -> anyhow::Result<Option<SocketAddr>> {
            let port = values.get(flag).number()?;
            Ok((port != 0).then_some(SocketAddr::new(address, port)))
        };
        Ok(Self {
            read_only: open("read-only-port", read_only)?,
            healthz: open("healthz-port", healthz)?,
        })
    }

    /// A warning if the read-only port exposes Pods to other machines.
    pub(super) fn warning(&self) -> Option<String> {
        let open = self.read_only.filter(|at| !at.ip().is_loopback())?;
        Some(format!(
            "--read-only-port shows whoever reaches {open} the Pods with their environment, without \
             authentication; leave --address out to keep it on this machine"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::with_fields;

    /// The ports and warnings of flags, and of fields of a file.
    fn load(flags: &str, fields: &str) -> anyhow::Result<(Ports, Vec<String>)> {
        let config = with_fields(flags, fields)?;
        Ok((config.ports, config.warnings))
    }

    fn ports(read_only: Option<&str>, healthz: Option<&str>) -> Ports {
        let at = |text: &str| text.parse().unwrap();
        Ports {
            read_only: read_only.map(at),
            healthz: healthz.map(at),
        }
    }

    #[test]
    fn only_the_health_port_is_open_by_default_and_both_are_on_loopback() {
        for (flags, fields, expected) in [
            ("", "", ports(None, Some("127.0.0.1:10248"))),
            ("--healthz-port=0", "", ports(None, None)),
            ("", "healthzPort: 0", ports(None, None)),
            (
                "",
                "{readOnlyPort: 10255, healthzPort: 1}",
                ports(Some("127.0.0.1:10255"), Some("127.0.0.1:1")),
            ),
            (
                "--read-only-port=0 --healthz-port=2 --healthz-bind-address=::1",
                "{readOnlyPort: 10255, healthzPort: 1}",
                ports(None, Some("[::1]:2")),
            ),
        ] {
            let fields = fields.trim_matches(['{', '}']).replace(", ", "\n");
            let (found, warnings) = load(flags, &fields).unwrap();
            assert_eq!(found, expected, "{flags} {fields}");
            assert_eq!(warnings, [""; 0], "{flags} {fields}");
        }
    }

    #[test]
    fn an_exposed_read_only_port_is_warned_about_and_an_invalid_port_is_refused() {
        let (found, warnings) = load("--read-only-port=10255", "address: 0.0.0.0").unwrap();
        assert_eq!(found.read_only, Some("0.0.0.0:10255".parse().unwrap()));
        assert!(
            warnings[0].contains("shows whoever reaches 0.0.0.0:10255 the Pods"),
            "{warnings:?}"
        );
        for (fields, expected) in [
            (
                "readOnlyPort: 65536",
                "readOnlyPort: found 65536, expected a port",
            ),
            (
                "healthzPort: x",
                "healthzPort: found \"x\", expected a port",
            ),
            (
                "address: here",
                "address: found \"here\", expected an IP address",
            ),
        ] {
            let error = load("", fields).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
