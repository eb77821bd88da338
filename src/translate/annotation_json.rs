//! JSON inside annotations. Other readers compare it as text, so the fields stand in the order in
//! which the Kubernetes API declares them, and what could be taken for HTML is escaped, as the kubelet
//! writes them.

use k8s_openapi::api::core::v1::{ContainerPort, HTTPGetAction, LifecycleHandler, TCPSocketAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::Serialize;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(clippy::struct_field_names, reason = "the API's own field names")]
struct Port<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host_port: Option<i32>,
    container_port: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<&'a str>,
    #[serde(rename = "hostIP", skip_serializing_if = "Option::is_none")]
    host_ip: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Handler<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    exec: Option<Exec<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    http_get: Option<HttpGet<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tcp_socket: Option<TcpSocket<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sleep: Option<Sleep>,
}

#[derive(Serialize)]
struct Exec<'a> {
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    command: &'a [String],
}

#[derive(Serialize)]
struct Sleep {
    seconds: i64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct HttpGet<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    port: &'a IntOrString,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scheme: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    http_headers: Vec<Header<'a>>,
}

#[derive(Serialize)]
struct TcpSocket<'a> {
    port: &'a IntOrString,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<&'a str>,
}

#[derive(Serialize)]
struct Header<'a> {
    name: &'a str,
    value: &'a str,
}

fn filled(text: Option<&String>) -> Option<&str> {
    text.map(String::as_str).filter(|t| !t.is_empty())
}

/// The value of the ports annotation.
pub(super) fn ports(ports: &[ContainerPort]) -> String {
    to_json(&ports.iter().map(port).collect::<Vec<_>>())
}

fn port(port: &ContainerPort) -> Port<'_> {
    Port {
        name: filled(port.name.as_ref()),
        host_port: port.host_port.filter(|p| *p != 0),
        container_port: port.container_port,
        protocol: filled(port.protocol.as_ref()),
        host_ip: filled(port.host_ip.as_ref()),
    }
}

/// The value of the preStop annotation.
pub(super) fn handler(handler: &LifecycleHandler) -> String {
    let exec = handler.exec.as_ref().map(|e| Exec {
        command: e.command.as_deref().unwrap_or_default(),
    });
    to_json(&Handler {
        exec,
        http_get: handler.http_get.as_ref().map(http_get),
        tcp_socket: handler.tcp_socket.as_ref().map(tcp_socket),
        sleep: handler.sleep.as_ref().map(|s| Sleep { seconds: s.seconds }),
    })
}

fn http_get(action: &HTTPGetAction) -> HttpGet<'_> {
    let headers = action.http_headers.iter().flatten();
    HttpGet {
        path: filled(action.path.as_ref()),
        port: &action.port,
        host: filled(action.host.as_ref()),
        scheme: filled(action.scheme.as_ref()),
        http_headers: headers
            .map(|h| Header {
                name: &h.name,
                value: &h.value,
            })
            .collect(),
    }
}

fn tcp_socket(action: &TCPSocketAction) -> TcpSocket<'_> {
    TcpSocket {
        port: &action.port,
        host: filled(action.host.as_ref()),
    }
}

fn to_json(value: &impl Serialize) -> String {
    // Structs of strings and numbers always have a JSON form.
    let json = serde_json::to_string(value).unwrap_or_default();
    // These stand nowhere but in strings.
    let mut escaped = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '<' => escaped.push_str("\\u003c"),
            '>' => escaped.push_str("\\u003e"),
            '&' => escaped.push_str("\\u0026"),
            '\u{2028}' => escaped.push_str("\\u2028"),
            '\u{2029}' => escaped.push_str("\\u2029"),
            c => escaped.push(c),
        }
    }
    escaped
}
