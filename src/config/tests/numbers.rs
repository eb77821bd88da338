//! Numbers at the ends of their types in every setting: each is refused by name or does no harm.

use clap::{CommandFactory, Parser};

use super::{FlagsLine, with_fields};
use crate::config::Config;
use crate::config::file::fields;
use crate::config::value_type::ValueType;

const EXTREMES: [&str; 12] = [
    "0",
    "-1",
    "0s",
    "-1s",
    "1ns",
    "65536",
    "2147483648",
    "18446744073709551615",
    "18446744073709551616",
    "2562047h",
    "3000000000000000h",
    "9E",
];

/// Uses the durations of a configuration: times from now on can be computed with them.
fn use_durations(config: &Config) {
    use crate::units::time::Later;
    let now = tokio::time::Instant::now();
    let https = config.https.as_ref();
    let ttls = https.map(|h| {
        [
            h.token_ttl,
            h.authorized_ttl,
            h.unauthorized_ttl,
            h.idle_timeout,
        ]
    });
    let life = [config.life.longest_backoff, config.log_rotation.interval];
    for duration in ttls.into_iter().flatten().chain(life) {
        assert!(now.later(duration) >= now);
    }
}

#[test]
fn no_number_of_a_configuration_file_does_any_harm() {
    for (field, value_type) in fields() {
        for extreme in EXTREMES {
            let value = match value_type {
                ValueType::Count(_)
                | ValueType::Range(..)
                | ValueType::Port
                | ValueType::Percent
                | ValueType::LogLevel => extreme.to_owned(),
                _ => format!("{extreme:?}"),
            };
            let value = field
                .rsplit('.')
                .fold(value, |value, name| match value.as_str() {
                    inner if inner.starts_with('{') => format!("{{{name}: {inner}}}"),
                    scalar => format!("{{{name}: {scalar}}}"),
                });
            let fields = value.trim_start_matches('{');
            let fields = fields.strip_suffix('}').unwrap();
            match with_fields("--port=10250 --address=127.0.0.1", fields) {
                Ok(config) => use_durations(&config),
                Err(error) => {
                    let name = field.rsplit('.').next().unwrap();
                    let error = format!("{error:#}");
                    assert!(
                        error.contains(name) || error.contains("--"),
                        "{fields}: {error}"
                    );
                }
            }
        }
    }
}

#[test]
fn no_number_of_a_flag_does_any_harm() {
    let command = FlagsLine::command();
    let mut tried = 0;
    for argument in command.get_arguments() {
        let Some(name) = argument.get_long() else {
            continue;
        };
        // These name files, and `--help` and the like take no value.
        if !argument.get_action().takes_values() || ["config", "config-dir"].contains(&name) {
            continue;
        }
        for extreme in EXTREMES {
            let line = ["podkeeper".to_owned(), format!("--{name}={extreme}")];
            let base = (name != "pod-manifest-path").then(|| "--pod-manifest-path=/m".to_owned());
            let Ok(line) = FlagsLine::try_parse_from(line.into_iter().chain(base)) else {
                continue;
            };
            if let Ok(config) = Config::load(&line.flags) {
                use_durations(&config);
            }
            tried += 1;
        }
    }
    assert!(tried > 100, "{tried}");
}

#[test]
fn a_duration_that_is_too_long_is_refused_by_name() {
    for field in ["fileCheckFrequency", "httpCheckFrequency"] {
        let error = with_fields("", &format!("{field}: 3000000000000000h")).unwrap_err();
        let error = format!("{error:#}");
        assert!(error.contains(field), "{error}");
        assert!(
            error.contains("expected a duration of at most 2562047h"),
            "{error}"
        );
    }
}
