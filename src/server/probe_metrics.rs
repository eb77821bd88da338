//! Metrics of the probes, which the kubelet serves at `/metrics/probes`.

use super::page::{MetricsPage, Sample, labels, seconds};
use crate::probe::{DURATION_LIMITS, ProbeCounter, ProbeMetrics, RESULTS};

/// Returns the page. A result that no probe had has no value, as with the kubelet.
pub(super) fn page(metrics: &ProbeMetrics) -> String {
    let all = metrics.all();
    let mut page = MetricsPage::default();
    page.family(
        "prober_probe_duration_seconds",
        "histogram",
        "Duration of the probes of a container, in seconds.",
        all.iter().flat_map(|counter| durations(counter)),
    );
    page.family(
        "prober_probe_total",
        "counter",
        "Startup, liveness and readiness probes of a container, by result.",
        all.iter().flat_map(|counter| results(counter)),
    );
    page.0
}

fn results(counter: &ProbeCounter) -> Vec<Sample> {
    let kind = counter.kind.to_string();
    let counts = counter.counts().results.into_iter().zip(RESULTS);
    let counts = counts.filter(|(count, _)| *count > 0);
    let sample = |(count, result): (u64, &str)| Sample {
        labels: labels(&[
            ("container", &counter.container),
            ("namespace", &counter.pod.namespace),
            ("pod", &counter.pod.name),
            ("pod_uid", &counter.uid),
            ("probe_type", &kind),
            ("result", result),
        ]),
        ..value("", count.to_string())
    };
    counts.map(sample).collect()
}

/// Returns a histogram: counts up to each limit, their sum and number.
fn durations(counter: &ProbeCounter) -> Vec<Sample> {
    let kind = counter.kind.to_string();
    let counts = counter.counts();
    let own = [
        ("container", counter.container.as_str()),
        ("namespace", &counter.pod.namespace),
        ("pod", &counter.pod.name),
        ("probe_type", &kind),
    ];
    let all = counts.results.into_iter().fold(0, u64::saturating_add);
    let limits = DURATION_LIMITS.map(|limit| limit.to_string());
    let mut up_to = 0_u64;
    let mut samples = vec![];
    for (limit, count) in limits.iter().zip(counts.durations) {
        up_to = up_to.saturating_add(count);
        let with_limit = [&own[..], &[("le", limit)]].concat();
        samples.push(bucket(&with_limit, up_to));
    }
    samples.push(bucket(&[&own[..], &[("le", "+Inf")]].concat(), all));
    let took = u64::try_from(counts.took.as_nanos()).unwrap_or(u64::MAX);
    let own = labels(&own);
    samples.push(value(&format!("_sum{own}"), seconds(took)));
    samples.push(value(&format!("_count{own}"), all.to_string()));
    samples
}

fn bucket(with_limit: &[(&str, &str)], count: u64) -> Sample {
    let mut sorted = with_limit.to_vec();
    sorted.sort_unstable();
    value(&format!("_bucket{}", labels(&sorted)), count.to_string())
}

fn value(labels: &str, value: String) -> Sample {
    Sample {
        labels: labels.to_owned(),
        value,
        time: None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::manifest::PodKey;
    use crate::probe::{ProbeKind, ProbeOutcome};

    #[test]
    fn a_probe_is_shown_as_the_kubelet_shows_it() {
        let (metrics, pod) = (ProbeMetrics::default(), PodKey::default());
        let counter = metrics.add(&pod, "u", "c", ProbeKind::Liveness);
        counter.record(&ProbeOutcome::Success, Duration::from_millis(20));
        counter.record(&ProbeOutcome::Failure("no".into()), Duration::from_secs(20));
        let page = page(&metrics);
        let own = "container=\"c\"";
        let rest = "namespace=\"\",pod=\"\",probe_type=\"Liveness\"";
        for line in [
            format!("prober_probe_duration_seconds_bucket{{{own},le=\"0.01\",{rest}}} 0"),
            format!("prober_probe_duration_seconds_bucket{{{own},le=\"0.025\",{rest}}} 1"),
            format!("prober_probe_duration_seconds_bucket{{{own},le=\"+Inf\",{rest}}} 2"),
            format!("prober_probe_duration_seconds_sum{{{own},{rest}}} 20.020000000"),
            format!("prober_probe_duration_seconds_count{{{own},{rest}}} 2"),
            format!(
                "prober_probe_total{{{own},namespace=\"\",pod=\"\",pod_uid=\"u\",\
                 probe_type=\"Liveness\",result=\"failed\"}} 1"
            ),
        ] {
            assert!(page.lines().any(|l| l == line), "{line}\n{page}");
        }
    }
}
