//! Any bytes, taken for the agent's configuration file and for that of credential providers: loaded, or refused by name.

#![no_main]

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use clap::Parser;
use libfuzzer_sys::fuzz_target;
use podkeeper::config::{Config, Flags};
use podkeeper::units::time::Later;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    flags: Flags,
}

/// A file of this process alone.
static FILE: LazyLock<PathBuf> = LazyLock::new(|| {
    let name = format!("podkeeper-fuzz-{}.yaml", std::process::id());
    std::env::temp_dir().join(name)
});

fuzz_target!(|bytes: &[u8]| {
    fs::write(&*FILE, bytes).expect("the folder for temporary files can be written");
    let config = format!("--config={}", FILE.display());
    let line = Line::parse_from(["run", &config, "--port=10250", "--hostname-override=n"]);
    match Config::load(&line.flags) {
        Ok(config) => {
            let now = tokio::time::Instant::now();
            assert!(now.later(config.life.longest_backoff) >= now);
            assert!(now.later(config.log_rotation.interval) >= now);
        }
        Err(error) => assert!(!format!("{error:#}").is_empty()),
    }
    let providers = format!("--image-credential-provider-config={}", FILE.display());
    let bin_dir = "--image-credential-provider-bin-dir=/bin";
    let line = Line::parse_from(["run", &providers, bin_dir, "--hostname-override=n"]);
    if let Err(error) = Config::load_without_sources(&line.flags) {
        assert!(!format!("{error:#}").is_empty());
    }
});
