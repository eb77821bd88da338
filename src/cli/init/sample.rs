//! The sample manifest: a web server on a free port, of an image that the node has or can pull.

use super::NodePaths;
use super::look::Look;

/// Image where the runtime has none.
const DEFAULT_IMAGE: &str = "docker.io/library/busybox:1.37";
/// Port of the web server on the network of the Pod.
const PORT: u16 = 8080;

/// Returns the sample, of this image if one is given.
pub(super) fn manifest(image: Option<&str>, paths: &NodePaths, look: &Look) -> String {
    let image = image.or_else(|| busybox(look)).unwrap_or(DEFAULT_IMAGE);
    let host_port = look.sample_port;
    // Without a plugin that maps ports, only the host's own network is reached from the host by a known port.
    let (network, port, of_host) = if look.maps_ports {
        ("", PORT, format!("      hostPort: {host_port}\n"))
    } else {
        ("  hostNetwork: true\n", host_port, String::new())
    };
    let known = origin(image, look);
    let manifests = &paths.manifests;
    format!(
        "\
# A sample Pod: a web server that answers at http://127.0.0.1:{host_port}/.
#
# Copied into {manifests} it runs; changed there it is replaced, and removed from there it is gone.
# {known}
apiVersion: v1
kind: Pod
metadata:
  name: hello
  labels:
    app: hello
spec:
{network}  terminationGracePeriodSeconds: 5
  containers:
  - name: web
    image: {image:?}
    imagePullPolicy: IfNotPresent
    command:
    - sh
    - -c
    - |
      trap 'exit 0' TERM
      mkdir -p /tmp/www
      echo \"Hello from podkeeper.\" >/tmp/www/index.html
      echo \"Listening on port {port}\"
      httpd -f -p {port} -h /tmp/www &
      wait
    ports:
    - containerPort: {port}
{of_host}    readinessProbe:
      httpGet:
        port: {port}
      initialDelaySeconds: 1
      periodSeconds: 2
    resources:
      limits:
        memory: 64Mi
"
    )
}

/// Returns the first image that is called busybox, if the runtime has one.
fn busybox(look: &Look) -> Option<&str> {
    let mut images = look.images.iter().flatten();
    let is_busybox = |image: &&String| {
        let name = image.rsplit('/').next().unwrap_or_default();
        name.split(':').next() == Some("busybox")
    };
    images.find(is_busybox).map(String::as_str)
}

/// Says where an image comes from.
fn origin(image: &str, look: &Look) -> String {
    let Some(images) = &look.images else {
        return "The container runtime did not say whether it has the image; it is pulled where it has not.".to_owned();
    };
    let full = |name: &str| match name.split_once('/') {
        Some((registry, _)) if registry.contains(['.', ':']) || registry == "localhost" => {
            name.to_owned()
        }
        Some(_) => format!("docker.io/{name}"),
        None => format!("docker.io/library/{name}"),
    };
    let name = full(image);
    if images.contains(&name) {
        return "The container runtime has the image.".to_owned();
    }
    let registry = name.split('/').next().unwrap_or_default();
    format!("The container runtime does not have the image, and pulls it from {registry}.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{SourceKind, parse};

    fn sample(image: Option<&str>, look: &Look) -> String {
        let paths = NodePaths {
            config: "/c/config.yaml".to_owned(),
            manifests: "/c/manifests".to_owned(),
            sample: "/c/sample.yaml".to_owned(),
            unit: None,
            program: "/p".to_owned(),
        };
        let text = manifest(image, &paths, look);
        let accepted = parse(text.as_bytes(), "n", SourceKind::File).expect("a valid manifest");
        assert_eq!(accepted.warnings, []);
        text
    }

    #[test]
    fn the_sample_is_valid_and_says_where_its_image_comes_from() {
        let has = |images: &[&str]| Look {
            images: Some(images.iter().map(ToString::to_string).collect()),
            maps_ports: true,
            sample_port: 8081,
            ..Look::default()
        };
        let unknown = Look {
            images: None,
            ..has(&[])
        };
        let own = has(&["docker.io/library/nginx:1", "localhost/x/busybox:1"]);
        for (image, look, expected, origin) in [
            (
                None,
                &own,
                "localhost/x/busybox:1",
                "runtime has the image.",
            ),
            (
                None,
                &has(&[]),
                DEFAULT_IMAGE,
                "and pulls it from docker.io.",
            ),
            (Some("nginx:1"), &own, "nginx:1", "runtime has the image."),
            (Some("r:5000/i"), &own, "r:5000/i", "pulls it from r:5000."),
            (None, &unknown, DEFAULT_IMAGE, "did not say whether it has"),
        ] {
            let text = sample(image, look);
            assert!(text.contains(&format!("image: \"{expected}\"")), "{text}");
            assert!(text.contains(origin), "{text}");
        }
    }

    #[test]
    fn the_host_reaches_the_sample_with_and_without_a_plugin_that_maps_ports() {
        let mut look = Look {
            maps_ports: true,
            sample_port: 8081,
            ..Look::default()
        };
        let text = sample(None, &look);
        assert!(
            text.contains("hostPort: 8081") && text.contains("httpd -f -p 8080 "),
            "{text}"
        );
        look.maps_ports = false;
        let text = sample(None, &look);
        assert!(
            text.contains("hostNetwork: true") && text.contains("httpd -f -p 8081 "),
            "{text}"
        );
        assert!(!text.contains("hostPort"), "{text}");
    }
}
