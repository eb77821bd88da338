//! The limiter of expensive runtime calls, shared by all Pods of the node.
//!
//! Calls are served by class: what keeps running Pods running comes before what is new. A class is limited
//! only by holders of its own class and of those above it, so calls of a lower class, hanging or not, never
//! block it; each class always has one permit of its own, so none starves. Stops of sandboxes are limited by
//! themselves alone: they end processes first, and the network's part, which takes longer, comes only then.
//! Removal of what is stopped takes its own permit only once the classes above it have nothing to do or do not
//! get on, so that it costs neither stops nor starts. Within a class what has begun comes before what is new, so
//! that Pods get ready one after the other and not all at the end; else the order is first come, first served. A call that takes far longer than
//! calls of its kind usually do releases its permit while it goes on: permits are for work, not for waiting.
//! A dropped future releases its permit. The number of permits is given, or follows from what the calls take.

mod concurrency;

use std::collections::VecDeque;
use std::future::Future;
use std::ops::RangeInclusive;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use concurrency::Concurrency;

/// Bounds of the time that a call holds its permit before it counts as late.
const LATE_MIN: Duration = Duration::from_secs(2);
const LATE_MAX: Duration = Duration::from_secs(15);
/// The same while no call of its kind has ended yet.
const LATE_UNKNOWN: Duration = Duration::from_secs(5);
/// A call is late after this many times the mean duration of its kind.
const LATE_FACTOR: u32 = 5;
/// The weight of the newest duration in the mean is one in this many.
const MEAN_WEIGHT: u32 = 8;
/// Removal does not wait for the classes above it once none of their calls has ended for this long.
const STANDSTILL: Duration = Duration::from_secs(1);
/// Longest wait of removal for the classes above it.
const REMOVAL_WAIT: Duration = Duration::from_secs(10);

/// Most stops of sandboxes at a time: all Pods of most nodes, since a stop ends the processes first and then clears the
/// network away. With few at a time, the last processes wait for the networks of Pods that have ended.
const STOPS: usize = 128;

/// The classes of calls, in order of service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Stops of sandboxes.
    Stop,
    /// Restarts of containers in a sandbox that is up.
    Running,
    /// Sandboxes and containers on the host's network, which others' network may depend on.
    HostNetwork,
    /// New sandboxes of Pods that ran before, with what runs in them; versions whose predecessor was stopped.
    Restart,
    /// Updates that are about to stop the version before.
    Update,
    /// Pods that never ran here.
    FirstStart,
    /// Removal of what is stopped.
    Cleanup,
}

/// The number of classes.
const CLASSES: usize = Class::Cleanup as usize + 1;

/// The kinds of calls, each with a usual duration of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallKind {
    /// `RunPodSandbox`.
    RunSandbox,
    /// `CreateContainer`.
    CreateContainer,
    /// `StartContainer`.
    StartContainer,
    /// `StopPodSandbox`.
    StopSandbox,
    /// `RemovePodSandbox`, `RemoveContainer`.
    Remove,
}

/// The number of kinds.
const KINDS: usize = CallKind::Remove as usize + 1;

/// The order of calls of one class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// They go on with what others began, such as a container of a sandbox that is up.
    Begun,
    /// They begin something.
    New,
}

/// The limiter. Cloning it is cheap and shares the permits.
#[derive(Debug, Clone)]
pub struct Limiter {
    state: Arc<Mutex<Queues>>,
}

#[derive(Debug)]
struct Queues {
    /// The number of permits.
    concurrency: Concurrency,
    /// Permits in use, by class.
    active: [usize; CLASSES],
    /// The waiting calls by class and order, longest first.
    waiting: [[VecDeque<WaitingCall>; 2]; CLASSES],
    /// The time at which a call above removal ended last.
    progress: Option<Instant>,
    /// The mean duration of each kind of call, once one has ended.
    means: [Option<Duration>; KINDS],
    /// Calls of each kind that are late and still go on.
    late: [usize; KINDS],
}

/// A call that waits for its permit.
#[derive(Debug)]
struct WaitingCall {
    since: Instant,
    sender: oneshot::Sender<Permit>,
}

/// A permit for calls of a class, released when it is dropped.
#[derive(Debug)]
pub struct Permit {
    limiter: Limiter,
    class: Class,
    /// `None` once it is released.
    active: Option<ActivePermit>,
}

/// A permit that counts until it is dropped.
#[derive(Debug)]
struct ActivePermit {
    limiter: Limiter,
    class: Class,
}

impl Drop for ActivePermit {
    fn drop(&mut self) {
        {
            let mut state = self.limiter.lock();
            let active = &mut state.active[self.class as usize];
            *active = active.saturating_sub(1);
            if self.class != Class::Cleanup {
                state.progress = Some(Instant::now());
            }
        }
        self.limiter.grant();
    }
}

/// The permit of work that goes on by itself: held until this is dropped, or for a short time.
#[derive(Debug)]
pub struct Lease {
    _ends: oneshot::Sender<()>,
}

impl Permit {
    /// Runs a call with this permit for as long as that is usual, and without one from then on. Waits for a
    /// new one where an earlier call released it.
    pub async fn run<T>(&mut self, kind: CallKind, call: impl Future<Output = T>) -> T {
        if self.active.is_none() {
            self.active = self.limiter.acquire(self.class, Order::Begun).await.active;
        }
        let began = Instant::now();
        let usual = self.limiter.usual(kind);
        let mut call = pin!(call);
        let done = if let Ok(done) = tokio::time::timeout(usual, &mut call).await {
            self.limiter
                .record_slowdown(self.class, kind, began.elapsed());
            done
        } else {
            let limiter = self.limiter.clone();
            let _late = limiter.count_late(kind);
            self.active = None;
            call.await
        };
        self.limiter.record(kind, began.elapsed());
        done
    }

    /// Keeps the permit for work that goes on by itself.
    #[must_use]
    pub fn lease(self) -> Lease {
        let (sender, ends) = oneshot::channel::<()>();
        tokio::spawn(async move {
            // It ends by the sender's end or by the time, both of which are all there is to know.
            let _ = tokio::time::timeout(LATE_MIN, ends).await;
            drop(self);
        });
        Lease { _ends: sender }
    }
}

/// A late call, counted until it is dropped.
struct Late<'a> {
    limiter: &'a Limiter,
    kind: CallKind,
}

impl Drop for Late<'_> {
    fn drop(&mut self) {
        let late = &mut self.limiter.lock().late[self.kind as usize];
        *late = late.saturating_sub(1);
    }
}

impl Limiter {
    /// A limiter with so many permits, zero counting as one, or with a number that follows from what the
    /// calls take.
    #[must_use]
    pub fn new(permits: Option<usize>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let first = || Concurrency::adaptive(cores.saturating_mul(2));
        let queues = Queues {
            concurrency: permits.map_or_else(first, Concurrency::fixed),
            active: [0; CLASSES],
            waiting: Default::default(),
            progress: None,
            means: [None; KINDS],
            late: [0; KINDS],
        };
        Self {
            state: Arc::new(Mutex::new(queues)),
        }
    }

    /// Waits for a permit.
    pub async fn acquire(&self, class: Class, order: Order) -> Permit {
        loop {
            let (sender, receiver) = oneshot::channel();
            let since = Instant::now();
            let waiting = WaitingCall { since, sender };
            self.lock().waiting[class as usize][order as usize].push_back(waiting);
            self.grant();
            let granted = if class == Class::Cleanup {
                self.granted_in_standstill(receiver).await
            } else {
                receiver.await
            };
            // The sender is only dropped unused by a race with the receiver's end.
            if let Ok(permit) = granted {
                return permit;
            }
        }
    }

    /// Waits for a permit that is also given where nothing happens, which is no event on which it would be.
    async fn granted_in_standstill(
        &self,
        mut receiver: oneshot::Receiver<Permit>,
    ) -> Result<Permit, oneshot::error::RecvError> {
        loop {
            if let Ok(granted) = tokio::time::timeout(STANDSTILL, &mut receiver).await {
                return granted;
            }
            self.grant();
        }
    }

    /// Runs a call with a permit of its own.
    pub async fn run<T>(&self, class: Class, kind: CallKind, call: impl Future<Output = T>) -> T {
        self.acquire(class, Order::New).await.run(kind, call).await
    }

    /// Longest time that a call of this kind holds its permit. While many of the kind hang already, the next
    /// ones are expected to.
    #[must_use]
    pub fn usual(&self, kind: CallKind) -> Duration {
        let state = self.lock();
        let mean = state.means[kind as usize];
        let usual = mean.map_or(LATE_UNKNOWN, |mean| {
            mean.saturating_mul(LATE_FACTOR).clamp(LATE_MIN, LATE_MAX)
        });
        if state.late[kind as usize] >= state.concurrency.limit() {
            return usual.min(mean.unwrap_or_default().max(LATE_MIN));
        }
        usual
    }

    fn count_late(&self, kind: CallKind) -> Late<'_> {
        let late = &mut self.lock().late[kind as usize];
        *late = late.saturating_add(1);
        Late {
            limiter: self,
            kind,
        }
    }

    /// Takes into account how much longer than one alone a call took that ended with its permit.
    fn record_slowdown(&self, class: Class, kind: CallKind, took: Duration) {
        // Stops are limited by themselves.
        if class == Class::Stop {
            return;
        }
        let mut state = self.lock();
        let active = state.active_until(Class::Cleanup);
        let is_short = state.is_awaited(Class::Running..=Class::Cleanup);
        state.concurrency.record(kind, took, active, is_short);
    }

    /// Takes the duration of a call into account.
    fn record(&self, kind: CallKind, took: Duration) {
        let took = took.min(LATE_MAX);
        let mean = &mut self.lock().means[kind as usize];
        let weighted = |mean: Duration| {
            let others = mean.saturating_mul(MEAN_WEIGHT - 1);
            let sum = others.saturating_add(took);
            sum.checked_div(MEAN_WEIGHT).unwrap_or(sum)
        };
        *mean = Some(mean.map_or(took, weighted));
    }

    /// Gives free permits to those who wait, by class.
    fn grant(&self) {
        let mut granted = vec![];
        let mut state = self.lock();
        for class in ALL {
            while state.has_permit(class) {
                let Some(sender) = state.next_waiting(class) else {
                    break;
                };
                let active = &mut state.active[class as usize];
                *active = active.saturating_add(1);
                granted.push((sender, self.granted(class)));
            }
        }
        drop(state);
        for (sender, permit) in granted {
            // A permit that nobody waits for any more is released by its drop.
            drop(sender.send(permit));
        }
    }

    fn granted(&self, class: Class) -> Permit {
        let limiter = self.clone();
        let active = Some(ActivePermit { limiter, class });
        let limiter = self.clone();
        Permit {
            limiter,
            class,
            active,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queues> {
        // Counters and queues are whole after each statement.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const ALL: [Class; CLASSES] = [
    Class::Stop,
    Class::Running,
    Class::HostNetwork,
    Class::Restart,
    Class::Update,
    Class::FirstStart,
    Class::Cleanup,
];

impl Queues {
    fn has_permit(&self, class: Class) -> bool {
        let active = self.active[class as usize];
        if class == Class::Stop {
            return active < STOPS;
        }
        let is_free = active == 0 || self.active_until(class) < self.concurrency.limit();
        is_free && !self.yields(class)
    }

    /// Returns the number of permits in use by a class and those above it but stops.
    fn active_until(&self, class: Class) -> usize {
        self.active[Class::Running as usize..=class as usize]
            .iter()
            .sum()
    }

    /// Returns true if calls of a class wait for those above it, which get on.
    fn yields(&self, class: Class) -> bool {
        let gets_on = |last: Instant| last.elapsed() < STANDSTILL;
        let longest = self.waiting[class as usize].iter().flatten().next();
        let stops = self.active[Class::Stop as usize] > 0;
        class == Class::Cleanup
            && self.progress.is_some_and(gets_on)
            && longest.is_some_and(|call| call.since.elapsed() < REMOVAL_WAIT)
            && (stops || self.is_awaited(Class::Stop..=Class::FirstStart))
    }

    /// Returns true if calls of these classes wait.
    fn is_awaited(&self, classes: RangeInclusive<Class>) -> bool {
        let classes = *classes.start() as usize..=*classes.end() as usize;
        let mut waiting = self.waiting[classes].iter().flatten().flatten();
        waiting.any(|call| !call.sender.is_closed())
    }

    /// Removes the call of a class that is the next one.
    fn next_waiting(&mut self, class: Class) -> Option<oneshot::Sender<Permit>> {
        for queue in &mut self.waiting[class as usize] {
            while let Some(WaitingCall { sender, .. }) = queue.pop_front() {
                if !sender.is_closed() {
                    return Some(sender);
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests;
