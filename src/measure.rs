//! The kinds of metrics that are kept where they are measured (Prometheus, "Metric types").

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts,
};

// The names and labels below are written here in the code, and every metric is made at each start: one
// that Prometheus does not take fails every test that starts an agent.

/// A distribution of seconds over these limits.
pub(crate) fn histogram(name: &str, help: &str, limits: &[f64]) -> Histogram {
    let options = HistogramOpts::new(name, help).buckets(limits.to_vec());
    Histogram::with_opts(options).expect("a good name and rising limits")
}

/// One for each value of a label.
pub(crate) fn histograms(name: &str, help: &str, label: &str, limits: &[f64]) -> HistogramVec {
    let options = HistogramOpts::new(name, help).buckets(limits.to_vec());
    HistogramVec::new(options, &[label]).expect("good names and rising limits")
}

/// A count for each combination of labels.
pub(crate) fn counters(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    IntCounterVec::new(Opts::new(name, help), labels).expect("good names")
}

/// A count.
pub(crate) fn counter(name: &str, help: &str) -> IntCounter {
    IntCounter::new(name, help).expect("a good name")
}

/// A value.
pub(crate) fn gauge(name: &str, help: &str) -> Gauge {
    Gauge::new(name, help).expect("a good name")
}

/// A value for each combination of labels; with no labels, one that need not be there.
pub(crate) fn gauges(name: &str, help: &str, labels: &[&str]) -> GaugeVec {
    GaugeVec::new(Opts::new(name, help), labels).expect("good names")
}
