//! The limiter of expensive runtime calls, shared by all Pods of the node.
//!
//! Calls are served by class: what keeps running Pods running comes before what is new. A class is limited
//! only by holders of its own class and of those above it, so calls of a lower class, hanging or not, never
//! block it; each class always has one permit of its own, so none starves. Within a class the order is first
//! come, first served. A call that takes far longer than calls of its kind usually do releases its permit
//! while it goes on: permits are for work, not for waiting. A dropped future releases its permit.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

/// Bounds of the time that a call holds its permit before it counts as late.
const LATE_MIN: Duration = Duration::from_secs(2);
const LATE_MAX: Duration = Duration::from_secs(15);
/// The same while no call of its kind has ended yet.
const LATE_UNKNOWN: Duration = Duration::from_secs(5);
/// A call is late after this many times the mean duration of its kind.
const LATE_FACTOR: u32 = 5;
/// The weight of the newest duration in the mean is one in this many.
const MEAN_WEIGHT: u32 = 8;

/// The classes of calls, in order of service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Stops, and restarts of containers in a sandbox that is up.
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

const KINDS: usize = CallKind::Remove as usize + 1;

/// The limiter. Cloning it is cheap and shares the permits.
#[derive(Debug, Clone)]
pub struct Limiter {
    permits: usize,
    state: Arc<Mutex<Queues>>,
}

#[derive(Debug, Default)]
struct Queues {
    /// Permits in use, by class.
    active: [usize; CLASSES],
    /// The waiting calls by class, longest first.
    waiting: [VecDeque<oneshot::Sender<Permit>>; CLASSES],
    /// The mean duration of each kind of call, once one has ended.
    means: [Option<Duration>; KINDS],
    /// Calls of each kind that are late and still go on.
    late: [usize; KINDS],
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
            let active = &mut self.limiter.lock().active[self.class as usize];
            *active = active.saturating_sub(1);
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
            self.active = self.limiter.acquire(self.class).await.active;
        }
        let began = Instant::now();
        let usual = self.limiter.usual(kind);
        let mut call = pin!(call);
        let done = if let Ok(done) = tokio::time::timeout(usual, &mut call).await {
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
    /// A limiter with so many permits; zero counts as one.
    #[must_use]
    pub fn new(permits: usize) -> Self {
        Self {
            permits: permits.max(1),
            state: Arc::default(),
        }
    }

    /// Waits for a permit.
    pub async fn acquire(&self, class: Class) -> Permit {
        loop {
            let (sender, receiver) = oneshot::channel();
            self.lock().waiting[class as usize].push_back(sender);
            self.grant();
            // The sender is only dropped unused by a race with the receiver's end.
            if let Ok(permit) = receiver.await {
                return permit;
            }
        }
    }

    /// Runs a call with a permit of its own.
    pub async fn run<T>(&self, class: Class, kind: CallKind, call: impl Future<Output = T>) -> T {
        self.acquire(class).await.run(kind, call).await
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
        if state.late[kind as usize] >= self.permits {
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
            while state.has_permit(class, self.permits) {
                let waiting = &mut state.waiting[class as usize];
                let Some(sender) = waiting.pop_front() else {
                    break;
                };
                if sender.is_closed() {
                    continue;
                }
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
    Class::Running,
    Class::HostNetwork,
    Class::Restart,
    Class::Update,
    Class::FirstStart,
    Class::Cleanup,
];

impl Queues {
    fn has_permit(&self, class: Class, permits: usize) -> bool {
        let active = &self.active;
        let above: usize = active[..=class as usize].iter().sum();
        active[class as usize] == 0 || above < permits
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use futures_util::FutureExt;

    use super::*;

    /// Holds so many permits of a class with calls that hang.
    fn hang(limiter: &Limiter, class: Class, count: usize) -> Vec<tokio::task::JoinHandle<()>> {
        let hang = || {
            let limiter = limiter.clone();
            tokio::spawn(async move {
                limiter
                    .run(class, CallKind::RunSandbox, pending::<()>())
                    .await;
            })
        };
        std::iter::repeat_with(hang).take(count).collect()
    }

    fn has_permit(limiter: &Limiter, class: Class) -> bool {
        limiter.acquire(class).now_or_never().is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn an_upper_class_never_waits_behind_hanging_calls_of_a_lower_one() {
        let limiter = Limiter::new(4);
        let _hanging = hang(&limiter, Class::FirstStart, 10);
        tokio::task::yield_now().await;
        for class in ALL {
            assert_eq!(
                has_permit(&limiter, class),
                class != Class::FirstStart,
                "{class:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn hanging_calls_release_their_permits() {
        let limiter = Limiter::new(2);
        let _hanging = hang(&limiter, Class::FirstStart, 50);
        tokio::task::yield_now().await;
        let began = Instant::now();
        drop(limiter.acquire(Class::FirstStart).await);
        assert!(began.elapsed() <= LATE_UNKNOWN + LATE_MIN * 25);
    }

    #[tokio::test(start_paused = true)]
    async fn a_permit_is_released_when_its_call_is_dropped_or_no_longer_waited_for() {
        let limiter = Limiter::new(1);
        let first = limiter.acquire(Class::Update).await;
        let mut second = Box::pin(limiter.acquire(Class::Update));
        assert!(second.as_mut().now_or_never().is_none());
        let third = limiter.acquire(Class::Update);
        let mut third = Box::pin(third);
        assert!(third.as_mut().now_or_never().is_none());
        // The permit is given to the second, which does not take it.
        drop(first);
        drop(second);
        assert!(third.as_mut().now_or_never().is_some());
        assert!(has_permit(&limiter, Class::Update));
        for hanging in hang(&limiter, Class::Update, 3) {
            tokio::task::yield_now().await;
            hanging.abort();
            // It ends by that alone.
            let _ = hanging.await;
        }
        assert!(has_permit(&limiter, Class::Update));
    }

    #[tokio::test(start_paused = true)]
    async fn no_class_starves_and_each_is_served_in_order() {
        let limiter = Limiter::new(2);
        let running = [
            limiter.acquire(Class::Running).await,
            limiter.acquire(Class::Running).await,
        ];
        assert!(!has_permit(&limiter, Class::Running));
        let first_start = limiter.acquire(Class::FirstStart).await;
        let order = Arc::new(Mutex::new(vec![]));
        for (n, class) in [
            (1, Class::FirstStart),
            (2, Class::FirstStart),
            (3, Class::Running),
        ] {
            let (limiter, order) = (limiter.clone(), Arc::clone(&order));
            tokio::spawn(async move {
                let _permit = limiter.acquire(class).await;
                order.lock().unwrap().push(n);
            });
            tokio::task::yield_now().await;
        }
        drop(first_start);
        tokio::time::sleep(LATE_MIN).await;
        assert_eq!(*order.lock().unwrap(), [1, 2]);
        drop(running);
        tokio::time::sleep(LATE_MIN).await;
        assert_eq!(*order.lock().unwrap(), [1, 2, 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_usual_duration_follows_the_calls_within_bounds() {
        let limiter = Limiter::new(1);
        let kind = CallKind::CreateContainer;
        assert_eq!(limiter.usual(kind), LATE_UNKNOWN);
        for (took, usual) in [
            (0, LATE_MIN),
            (2, 10 * Duration::from_secs(1)),
            (9, LATE_MAX),
        ] {
            for _ in 0..60 {
                let call = tokio::time::sleep(Duration::from_secs(took));
                limiter.run(Class::Running, kind, call).await;
            }
            let found = limiter.usual(kind);
            let off = found.abs_diff(usual);
            assert!(off < Duration::from_millis(20), "{took} s: {found:?}");
        }
    }
}
