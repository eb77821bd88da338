//! What the runtime is told to do: how containers live and die, what commands in them answer, and
//! which calls fail or are late.

use std::time::Duration;

use podkeeper::cri::v1;
use tonic::Status;

use super::state::{KILLED, TERMINATED};
use super::{Call, Subject};

/// How a container lives and dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Life {
    /// How long after its start it ends by itself, and with which code.
    pub(crate) end: Option<(Duration, i32)>,
    /// How long after its stop signal it ends, and with which code; without, it waits for the kill.
    pub(crate) on_stop: Option<(Duration, i32)>,
}

impl Life {
    /// It runs until it is told to stop.
    pub(crate) const LONG: Self = Self {
        end: None,
        on_stop: Some((Duration::ZERO, TERMINATED)),
    };

    /// It ends by itself, as soon as it has started.
    pub(crate) const fn ends(code: i32) -> Self {
        Self::ends_after(Duration::ZERO, code)
    }

    /// It ends by itself after this long.
    pub(crate) const fn ends_after(after: Duration, code: i32) -> Self {
        Self {
            end: Some((after, code)),
            ..Self::LONG
        }
    }

    /// It does not hear its stop signal.
    pub(crate) const DEAF: Self = Self {
        end: None,
        on_stop: None,
    };

    /// How long after the stop call with this timeout it is over, and with which code.
    pub(super) fn stopped(self, timeout: Duration) -> (Duration, i32) {
        match self.on_stop {
            Some((after, code)) if after <= timeout => (after, code),
            _ => (timeout, KILLED),
        }
    }
}

/// What a command in a container answers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Executed {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    /// How long it takes.
    pub(crate) takes: Duration,
    /// How long after its end a child of it still holds its output, which the answer waits for.
    pub(crate) held: Duration,
}

/// What becomes of a call.
#[derive(Debug, Clone)]
pub(crate) enum Fate {
    /// It fails, and nothing happens.
    Fails(Status),
    /// It is carried out, but the answer is this error.
    DoneButFails(Status),
    /// It begins only after this long.
    Late(Duration),
    /// It never ends.
    Hangs,
    /// It succeeds, and nothing happens.
    Nothing,
    /// It runs into its deadline, and the name of what it was to make stays reserved for nothing.
    LeavesName,
}

/// Which calls a fate is for.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    method: &'static str,
    pod: Option<String>,
    container: Option<String>,
    /// Calls that it lets by before the first that it is for.
    skip: usize,
    /// How many it is for then.
    times: usize,
    pub(crate) fate: Fate,
}

impl Rule {
    /// For every call of this method, by the contract's name.
    pub(crate) fn of(method: &'static str, fate: Fate) -> Self {
        Self {
            method,
            pod: None,
            container: None,
            skip: 0,
            times: usize::MAX,
            fate,
        }
    }

    /// Only for this Pod, by its full name.
    pub(crate) fn pod(mut self, name: &str) -> Self {
        self.pod = Some(name.to_owned());
        self
    }

    /// Only for the container of this name; with `PullImage` and `ImageStatus` the image.
    pub(crate) fn container(mut self, name: &str) -> Self {
        self.container = Some(name.to_owned());
        self
    }

    /// Only for so many calls from the n-th on, counted from 1.
    pub(crate) fn nth(mut self, first: usize, times: usize) -> Self {
        self.skip = first - 1;
        self.times = times;
        self
    }

    /// Whether the rule is for this call; counts it.
    fn takes(&mut self, method: &str, subject: &Subject) -> bool {
        let is = |asked: &Option<String>, found: &Option<String>| asked.is_none() || asked == found;
        if self.method != method
            || !is(&self.pod, &subject.pod)
            || !is(&self.container, &subject.container)
        {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        let left = self.times > 0;
        self.times = self.times.saturating_sub(1);
        left
    }
}

type Lives = dyn Fn(&str, &str, u32) -> Life + Send;
type Commands = dyn Fn(&Subject, &[String]) -> Executed + Send;

/// All that the runtime is told to do.
#[derive(Default)]
pub(crate) struct Script {
    pub(super) rules: Vec<Rule>,
    pub(super) lives: Option<Box<Lives>>,
    pub(super) commands: Option<Box<Commands>>,
}

impl Script {
    /// What becomes of a call.
    pub(super) fn fates(&mut self, call: &Call) -> Vec<Fate> {
        let rules = self.rules.iter_mut();
        let taken = rules.filter_map(|rule| {
            let takes = rule.takes(call.method, &call.subject);
            takes.then(|| rule.fate.clone())
        });
        taken.collect()
    }

    pub(super) fn life(&self, pod: &str, config: &v1::ContainerConfig) -> Life {
        let metadata = config.metadata.clone().unwrap_or_default();
        match &self.lives {
            Some(lives) => lives(pod, &metadata.name, metadata.attempt),
            None => Life::LONG,
        }
    }

    pub(super) fn executed(&self, subject: &Subject, command: &[String]) -> Executed {
        let commands = self.commands.as_ref();
        commands.map(|c| c(subject, command)).unwrap_or_default()
    }
}
