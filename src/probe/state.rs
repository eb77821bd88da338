//! State of a probe by its thresholds. Pure.

use std::fmt;

use k8s_openapi::api::core::v1::{Container, Probe};

use super::ProbeOutcome;

/// Kind of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProbeKind {
    /// Reports that the container has started. The other probes wait for it.
    Startup,
    /// Reports that the container must be restarted.
    Liveness,
    /// Reports that the container can serve.
    Readiness,
}

impl ProbeKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Startup, Self::Liveness, Self::Readiness];

    /// The probe of this kind that a container has.
    #[must_use]
    pub fn of(self, spec: &Container) -> Option<&Probe> {
        match self {
            Self::Startup => spec.startup_probe.as_ref(),
            Self::Liveness => spec.liveness_probe.as_ref(),
            Self::Readiness => spec.readiness_probe.as_ref(),
        }
    }
}

impl fmt::Display for ProbeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        })
    }
}

/// Result of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProbeResult {
    /// Started, alive or ready.
    Success,
    /// Never came up, dead or not ready.
    Failure,
}

/// One probe of one container: what it says now, and how far it is from saying something else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeState {
    kind: ProbeKind,
    success_threshold: u32,
    failure_threshold: u32,
    result: Option<ProbeResult>,
    /// The last outcome that counted, and how often it came in a row.
    last: Option<ProbeResult>,
    run: u32,
}

impl ProbeState {
    /// A probe of a container of which `known` is known already, or nothing. Until it says otherwise,
    /// a container is alive and not ready; whether it has started is open.
    #[must_use]
    pub fn new(kind: ProbeKind, probe: &Probe, known: Option<ProbeResult>) -> Self {
        let threshold = |field: Option<i32>, default| {
            let given = field.and_then(|n| u32::try_from(n).ok());
            given.filter(|n| *n > 0).unwrap_or(default)
        };
        let initial = match kind {
            ProbeKind::Startup => None,
            ProbeKind::Liveness => Some(ProbeResult::Success),
            ProbeKind::Readiness => Some(ProbeResult::Failure),
        };
        Self {
            kind,
            success_threshold: threshold(probe.success_threshold, 1),
            failure_threshold: threshold(probe.failure_threshold, 3),
            result: known.or(initial),
            last: None,
            run: 0,
        }
    }

    /// Returns the current result; `None` while a startup probe has neither passed nor failed.
    #[must_use]
    pub fn result(&self) -> Option<ProbeResult> {
        self.result
    }

    /// True if no further probe can change anything: the container has started, or must be restarted and is
    /// not probed until then.
    #[must_use]
    pub fn is_over(&self) -> bool {
        match self.kind {
            ProbeKind::Startup => self.result.is_some(),
            ProbeKind::Liveness => self.result == Some(ProbeResult::Failure),
            ProbeKind::Readiness => false,
        }
    }

    /// Takes the outcome of one more round. Gives the new result if that changes it.
    pub fn take(&mut self, outcome: &ProbeOutcome) -> Option<ProbeResult> {
        let result = match outcome {
            ProbeOutcome::Success | ProbeOutcome::Warning(_) => ProbeResult::Success,
            ProbeOutcome::Failure(_) => ProbeResult::Failure,
            ProbeOutcome::Error(_) => return None,
        };
        if self.is_over() {
            return None;
        }
        if self.last != Some(result) {
            self.run = 0;
        }
        self.last = Some(result);
        self.run = self.run.saturating_add(1);
        let threshold = match result {
            ProbeResult::Success => self.success_threshold,
            ProbeResult::Failure => self.failure_threshold,
        };
        if self.run < threshold || self.result == Some(result) {
            return None;
        }
        self.result = Some(result);
        Some(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rules of Kubernetes' documentation of probes: the kind, its thresholds (failures,
    /// successes), the outcomes (`s`uccess, `w`arning, `f`ailure, `e`rror), and what the probe says
    /// before the first and after each (`+`, `-`, or `?` while open).
    const RULES: [(&str, ProbeKind, i32, i32, &str, &str); 16] = [
        (
            "a container is alive until it is known to be dead",
            ProbeKind::Liveness,
            3,
            1,
            "",
            "+",
        ),
        (
            "a container is not ready until it is known to be",
            ProbeKind::Readiness,
            3,
            1,
            "",
            "-",
        ),
        (
            "a container has neither started nor failed at first",
            ProbeKind::Startup,
            3,
            1,
            "",
            "?",
        ),
        (
            "liveness fails after the third failure in a row",
            ProbeKind::Liveness,
            3,
            1,
            "fff",
            "+++-",
        ),
        (
            "a success between restarts the count",
            ProbeKind::Liveness,
            3,
            1,
            "ffsfff",
            "++++++-",
        ),
        (
            "a threshold of one needs no second failure",
            ProbeKind::Liveness,
            1,
            1,
            "f",
            "+-",
        ),
        (
            "a dead container is left alone until it is another",
            ProbeKind::Liveness,
            1,
            1,
            "fsss",
            "+----",
        ),
        (
            "readiness comes with the first success",
            ProbeKind::Readiness,
            3,
            1,
            "s",
            "-+",
        ),
        (
            "readiness waits for its successes in a row",
            ProbeKind::Readiness,
            3,
            3,
            "sfsss",
            "-----+",
        ),
        (
            "readiness is lost after the failures in a row",
            ProbeKind::Readiness,
            2,
            1,
            "sfsff",
            "-++++-",
        ),
        (
            "readiness comes back as it came",
            ProbeKind::Readiness,
            1,
            2,
            "ssfsfss",
            "--+----+",
        ),
        (
            "a startup probe passes once and for all",
            ProbeKind::Startup,
            3,
            1,
            "ffsfff",
            "???++++",
        ),
        (
            "a startup probe fails for good",
            ProbeKind::Startup,
            2,
            1,
            "ffs",
            "??--",
        ),
        (
            "a warning is a success",
            ProbeKind::Readiness,
            3,
            1,
            "w",
            "-+",
        ),
        (
            "an error says nothing",
            ProbeKind::Readiness,
            1,
            1,
            "see",
            "-+++",
        ),
        (
            "an error does not interrupt a row",
            ProbeKind::Liveness,
            2,
            1,
            "fef",
            "+++-",
        ),
    ];

    fn probe(failures: i32, successes: i32) -> Probe {
        Probe {
            failure_threshold: Some(failures),
            success_threshold: Some(successes),
            ..Probe::default()
        }
    }

    fn outcome(letter: char) -> ProbeOutcome {
        match letter {
            's' => ProbeOutcome::Success,
            'w' => ProbeOutcome::Warning(String::new()),
            'f' => ProbeOutcome::Failure(String::new()),
            _ => ProbeOutcome::Error(String::new()),
        }
    }

    fn sign(state: &ProbeState) -> char {
        match state.result() {
            Some(ProbeResult::Success) => '+',
            Some(ProbeResult::Failure) => '-',
            None => '?',
        }
    }

    #[test]
    fn outcomes_become_results_by_the_rules_of_kubernetes() {
        for (rule, kind, failures, successes, outcomes, expected) in RULES {
            let mut state = ProbeState::new(kind, &probe(failures, successes), None);
            let mut found = String::from(sign(&state));
            for letter in outcomes.chars() {
                let before = state.result();
                let update = state.take(&outcome(letter));
                assert_eq!(
                    update.is_some(),
                    before != state.result(),
                    "{rule}: {letter}"
                );
                found.push(sign(&state));
            }
            assert_eq!(found, expected, "{rule}");
        }
    }

    #[test]
    fn what_was_known_before_stands_until_it_is_found_otherwise() {
        let known = Some(ProbeResult::Success);
        let mut state = ProbeState::new(ProbeKind::Readiness, &probe(2, 1), known);
        assert_eq!(sign(&state), '+');
        assert_eq!(state.take(&outcome('f')), None);
        assert_eq!(state.take(&outcome('f')), Some(ProbeResult::Failure));

        assert!(ProbeState::new(ProbeKind::Startup, &probe(1, 1), known).is_over());
    }

    #[test]
    fn a_container_that_must_be_restarted_is_probed_no_more() {
        for kind in [ProbeKind::Startup, ProbeKind::Liveness] {
            let mut state = ProbeState::new(kind, &probe(1, 1), None);
            assert!(!state.is_over(), "{kind}");
            state.take(&outcome('f'));
            assert!(state.is_over(), "{kind}");
        }
        let mut state = ProbeState::new(ProbeKind::Readiness, &probe(1, 1), None);
        state.take(&outcome('f'));
        assert!(!state.is_over(), "readiness can come back");
    }

    #[test]
    fn thresholds_that_are_not_given_are_kubernetes_defaults() {
        let bare = Probe::default();
        let mut state = ProbeState::new(ProbeKind::Liveness, &bare, None);
        let failures = (1..).take_while(|_| state.take(&outcome('f')).is_none());
        assert_eq!(failures.count(), 2);
        let mut state = ProbeState::new(ProbeKind::Readiness, &bare, None);
        assert_eq!(state.take(&outcome('s')), Some(ProbeResult::Success));
    }
}
