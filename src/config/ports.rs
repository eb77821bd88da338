//! Where the agent can be asked over HTTP, besides its own socket.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::{Flags, From, Given, Resolver, text};

/// The kubelet's.
const HEALTHZ: u16 = 10248;
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// The ports that are open; nothing where there is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ports {
    /// For Pods, metrics and the configuration: `readOnlyPort`.
    pub read_only: Option<SocketAddr>,
    /// For whether the agent works: `healthzPort`.
    pub healthz: Option<SocketAddr>,
}

impl Ports {
    pub(super) fn load(from: &mut Resolver, flags: &Flags) -> anyhow::Result<Self> {
        let read_only = Named {
            port: ("read-only-port", flags.read_only_port, "readOnlyPort", 0),
            address: ("address", flags.address, "address"),
        };
        let healthz = Named {
            port: ("healthz-port", flags.healthz_port, "healthzPort", HEALTHZ),
            address: (
                "healthz-bind-address",
                flags.healthz_bind_address,
                "healthzBindAddress",
            ),
        };
        Ok(Self {
            read_only: read_only.load(from)?,
            healthz: healthz.load(from)?,
        })
    }

    /// What there is to say about a port that shows others what is nobody's business.
    pub(super) fn warning(&self) -> Option<String> {
        let open = self.read_only.filter(|at| !at.ip().is_loopback())?;
        Some(format!(
            "--read-only-port shows whoever reaches {open} the Pods with their environment, and asks \
             nobody who he is; leave --address out to keep it on this machine"
        ))
    }
}

/// A port and its address: flag, what was given, field, and the default.
struct Named {
    port: (&'static str, Option<u16>, &'static str, u16),
    address: (&'static str, Option<IpAddr>, &'static str),
}

impl Named {
    fn load(self, from: &mut Resolver) -> anyhow::Result<Option<SocketAddr>> {
        let (flag, given, field, default) = self.port;
        let (port, at) = from.pick(flag, given, Some(field), port)?;
        let port = port.unwrap_or(default);
        from.note(flag, port, &at);
        let (flag, given, field) = self.address;
        let (address, at) = from.pick(flag, given, Some(field), ip)?;
        let address = address.unwrap_or(LOOPBACK);
        from.note(flag, address, &at);
        Ok((port != 0).then_some(SocketAddr::new(address, port)))
    }
}

/// What `--address` says, for all ports that have no address of their own.
pub(super) fn address(
    from: &mut Resolver,
    flags: &Flags,
) -> anyhow::Result<(Option<IpAddr>, From)> {
    from.pick("address", flags.address, Some("address"), ip)
}

/// A port in a file.
pub(super) fn port(given: &Given) -> Result<u16, String> {
    let number = given.value.as_u64().and_then(|n| n.try_into().ok());
    number.ok_or_else(|| format!("found {}, expected a port, 0 to 65535", given.value))
}

fn ip(given: &Given) -> Result<IpAddr, String> {
    let wrong = |_| format!("found {}, expected an IP address", given.value);
    text(given).parse().map_err(wrong)
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
    fn only_the_port_for_health_is_open_unless_told_and_both_are_on_this_machine() {
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
    fn who_shows_pods_to_the_network_is_warned_and_what_is_no_port_is_refused() {
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
