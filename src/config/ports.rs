//! Where the agent can be asked over HTTP, besides its own socket.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::{Flags, Given, Resolver, text};

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
        let read = |given: &Given| {
            let number = given.value.as_u64().and_then(|n| n.try_into().ok());
            number.ok_or_else(|| format!("found {}, expected a port, 0 to 65535", given.value))
        };
        let (port, at) = from.pick(flag, given, Some(field), read)?;
        let port = port.unwrap_or(default);
        from.note(flag, port, &at);
        let (flag, given, field) = self.address;
        let read = |given: &Given| {
            let wrong = |_| format!("found {}, expected an IP address", given.value);
            text(given).parse().map_err(wrong)
        };
        let (address, at) = from.pick(flag, given, Some(field), read)?;
        let address = address.unwrap_or(LOOPBACK);
        from.note(flag, address, &at);
        Ok((port != 0).then_some(SocketAddr::new(address, port)))
    }
}
