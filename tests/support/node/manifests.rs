//! Manifests for a node's agent, and the folder that its Pods share with the test.

use std::fs;
use std::time::SystemTime;

use super::{BUSYBOX, Node};

impl Node {
    /// Renames a manifest into the folder.
    pub(crate) fn put(&self, file: &str, text: &str) {
        let temporary = self.path(&format!("incoming-{file}"));
        fs::write(&temporary, text).unwrap();
        fs::rename(temporary, self.manifest(file)).unwrap();
    }

    pub(crate) fn remove(&self, file: &str) {
        fs::remove_file(self.manifest(file)).unwrap();
    }

    pub(crate) fn full_name(&self, pod: &str) -> String {
        format!("{pod}-{}", self.name)
    }

    // --- a folder that this node shares with containers

    /// Makes the folder that manifests call `$OUT`, mounted on `/out`.
    pub(crate) fn make_out(&self) {
        fs::create_dir(self.path("out")).unwrap();
    }

    /// Empties it, for Pods that start over.
    pub(crate) fn clear_out(&self) {
        fs::remove_dir_all(self.path("out")).unwrap();
        self.make_out();
    }

    /// Puts a manifest of a Pod with this spec, in which the folder is named as [`Node::with_out`] says.
    pub(crate) fn put_with_out(&self, name: &str, spec: &str) {
        let spec = self.with_out(spec);
        self.put(&format!("{name}.yaml"), &manifest(name, &spec));
    }

    /// A text in which `$OUT` is a volume of the shared folder, and `$MOUNT` its mount.
    pub(crate) fn with_out(&self, text: &str) -> String {
        let volume = format!(
            "[{{name: out, hostPath: {{path: {}}}}}]",
            self.path("out").display()
        );
        let text = text.replace("$OUT", &volume);
        text.replace("$MOUNT", "volumeMounts: [{name: out, mountPath: /out}]")
    }

    /// The lines of a file in the shared folder.
    pub(crate) fn lines(&self, file: &str) -> Vec<String> {
        let text = fs::read_to_string(self.path("out").join(file)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Time of the last write of a file in the shared folder, once it is there.
    pub(crate) async fn wait_written(&self, file: &str) -> SystemTime {
        let path = self.path("out").join(file);
        self.wait(&format!("{file} is written"), async || {
            fs::metadata(&path).ok()?.modified().ok()
        })
        .await
    }
}

/// A manifest with one container `c` that runs a shell script.
pub(crate) fn pod(name: &str, script: &str) -> String {
    pod_with(name, BUSYBOX, script, "")
}

/// The same with another image, and more lines of the Pod's spec.
pub(crate) fn pod_with(name: &str, image: &str, script: &str, spec: &str) -> String {
    let script = serde_json::to_string(script).unwrap();
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\nspec:\n  containers:\n  - name: c\n    \
         image: {image}\n    command: [sh, -c, {script}]\n{spec}"
    )
}

/// A Pod of which an update has this long to become Ready.
pub(crate) fn on_trial(name: &str, limit: &str, script: &str) -> String {
    let annotation =
        format!("metadata:\n  annotations: {{podkeeper.io/rollback-after: {limit}}}\n");
    pod_with(name, BUSYBOX, script, "").replace("metadata:\n", &annotation)
}

/// A manifest of a Pod with this spec, each line of it indented by two blanks at least. In it `$BUSYBOX`
/// stands for an image, and `$FOREVER` for a command that ends at once when told to, and runs for ever
/// else. What does not hear the signal, such as a shell before it has set its trap, has two seconds, where
/// the spec does not say otherwise.
pub(crate) fn manifest(name: &str, spec: &str) -> String {
    let command = serde_json::json!(["sh", "-c", FOREVER]).to_string();
    let spec = spec.replace("$BUSYBOX", BUSYBOX);
    let spec = spec.replace("$FOREVER", &command);
    let spec = spec.trim_start_matches('\n');
    let own = spec
        .lines()
        .any(|line| line.starts_with("  terminationGracePeriodSeconds:"));
    let grace = if own {
        ""
    } else {
        "  terminationGracePeriodSeconds: 2\n"
    };
    format!("apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\nspec:\n{grace}{spec}")
}

/// A script that ends at once when told to, and runs for ever else.
pub(crate) const FOREVER: &str = "trap 'exit 0' TERM; echo up; while :; do sleep 0.1; done";
