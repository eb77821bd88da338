//! The connections of a listener, and which of them is closed when there are too many.
//!
//! A connection waits until its request has arrived, and is served from then on. A flood of connections that
//! send no request must not keep out a caller whose request takes a few round trips to arrive:
//!
//! - Many may wait. When there are too many, those that have sent nothing are closed first, of these the ones
//!   of the address with most of them, oldest first. Connections in a TLS handshake, and those with a partial
//!   request, take memory: each kind has a share of the capacity, and no more.
//! - A connection that is served stays, unless its caller does not read. No address has more than half of the
//!   capacity for served connections.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::Instant;

/// A served caller that reads nothing for this long may be closed to free its slot.
const STALLED: Duration = Duration::from_secs(1);
/// Shares of the waiting connections that may be in a TLS handshake, or have sent a part of a request.
const PARTS: [(ConnectionPhase, usize); 2] = [
    (ConnectionPhase::Talking, 8),
    (ConnectionPhase::Handshake, 4),
];

/// Address by which connections are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Source {
    /// An address of the network; of IPv6 the first 64 bits, since a host has all the rest.
    Ip(IpAddr),
    /// A process of this machine, by the Unix socket.
    Local,
}

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        Self::Ip(match address.to_canonical() {
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
            v4 @ IpAddr::V4(_) => v4,
        })
    }
}

/// State of a connection, in the order of its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ConnectionPhase {
    /// Nothing was received yet. A connection that is being closed counts as one of these.
    Silent,
    /// In a TLS handshake, so not authenticated yet.
    Handshake,
    /// A part of its request has arrived.
    Talking,
    /// Its request has arrived.
    Served,
    /// Its response is a stream without an end. These have a limit of their own.
    Streaming,
}

/// The connections of one listener.
#[derive(Debug)]
pub(super) struct Callers {
    /// Connections that may wait at a time.
    waiting: usize,
    /// Connections that may be served at a time.
    served: usize,
    epoch: Instant,
    table: Mutex<ConnectionTable>,
}

#[derive(Debug, Default)]
struct ConnectionTable {
    /// Rises with each connection and each change of a phase: lower is older.
    next: u64,
    entries: HashMap<u64, Entry>,
    queues: [Queue; 5],
}

#[derive(Debug)]
struct Entry {
    source: Source,
    phase: ConnectionPhase,
    /// Its place in the queue of its phase.
    turn: u64,
    /// The task that serves it; `None` until that has started.
    task: Option<AbortHandle>,
    blocked: Arc<Blocked>,
}

/// The connections in one phase.
#[derive(Debug, Default)]
struct Queue {
    count: usize,
    /// The connections of each address, by their turns.
    sources: HashMap<Source, BTreeMap<u64, u64>>,
}

impl Queue {
    fn add(&mut self, source: Source, turn: u64, number: u64) {
        let of_source = self.sources.entry(source).or_default();
        if of_source.insert(turn, number).is_none() {
            self.count = self.count.saturating_add(1);
        }
    }

    fn remove(&mut self, source: Source, turn: u64) {
        let Some(of_source) = self.sources.get_mut(&source) else {
            return;
        };
        if of_source.remove(&turn).is_some() {
            self.count = self.count.saturating_sub(1);
        }
        if of_source.is_empty() {
            self.sources.remove(&source);
        }
    }

    fn of_source(&self, source: Source) -> usize {
        self.sources.get(&source).map_or(0, BTreeMap::len)
    }

    /// Returns the oldest connection of the address with most of them, among those that `may_go`.
    fn oldest_of_largest(&self, may_go: impl Fn(Source, u64) -> bool) -> Option<u64> {
        let oldest = self.sources.iter().filter_map(|(source, all)| {
            let mut all_that_may = all.iter().filter(|(_, number)| may_go(*source, **number));
            let (turn, number) = all_that_may.next()?;
            Some((all.len(), std::cmp::Reverse(*turn), *number))
        });
        oldest.max().map(|(.., number)| number)
    }
}

impl Callers {
    pub(super) fn new(waiting: usize, served: usize) -> Self {
        Self {
            waiting: waiting.max(1),
            served: served.max(1),
            epoch: Instant::now(),
            table: Mutex::default(),
        }
    }

    /// Admits one more connection; another one may be closed for it.
    pub(super) fn admit(self: &Arc<Self>, source: Source) -> ConnectionSlot {
        let mut table = self.lock();
        while table.waiting() >= self.waiting && table.drop_waiting(self.waiting) {}
        let blocked = Arc::new(Blocked::new(self.epoch));
        let number = table.add(source, Arc::clone(&blocked));
        ConnectionSlot {
            callers: Arc::clone(self),
            number,
            source,
            blocked,
            unflushed: Mutex::default(),
        }
    }

    /// Registers the task that serves a connection, or ends it if the connection was closed already.
    pub(super) fn set_task(&self, number: u64, task: AbortHandle) {
        match self.lock().entries.get_mut(&number) {
            Some(entry) => entry.task = Some(task),
            None => task.abort(),
        }
    }

    /// Closes a waiting connection when the process has no file descriptor for one more.
    pub(super) fn drop_one(&self) {
        self.lock().drop_waiting(self.waiting);
    }

    fn lock(&self) -> MutexGuard<'_, ConnectionTable> {
        // Nothing in here panics halfway through a change.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConnectionTable {
    fn add(&mut self, source: Source, blocked: Arc<Blocked>) -> u64 {
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        let entry = Entry {
            source,
            phase: ConnectionPhase::Silent,
            turn: number,
            task: None,
            blocked,
        };
        self.entries.insert(number, entry);
        self.queues[ConnectionPhase::Silent as usize].add(source, number, number);
        number
    }

    fn remove(&mut self, number: u64) -> Option<Entry> {
        let entry = self.entries.remove(&number)?;
        self.queues[entry.phase as usize].remove(entry.source, entry.turn);
        Some(entry)
    }

    fn set_phase(&mut self, number: u64, phase: ConnectionPhase) {
        let Some(entry) = self.entries.get_mut(&number) else {
            return;
        };
        self.queues[entry.phase as usize].remove(entry.source, entry.turn);
        (entry.phase, entry.turn) = (phase, self.next);
        self.queues[phase as usize].add(entry.source, entry.turn, number);
        self.next = self.next.wrapping_add(1);
    }

    fn count(&self, phase: ConnectionPhase) -> usize {
        self.queues[phase as usize].count
    }

    fn waiting(&self) -> usize {
        let of_parts = PARTS.iter().map(|(phase, _)| self.count(*phase));
        of_parts.fold(self.count(ConnectionPhase::Silent), usize::saturating_add)
    }

    /// Closes one waiting connection; `false` if there is none.
    fn drop_waiting(&mut self, most: usize) -> bool {
        let too_many = |(phase, part): &&(ConnectionPhase, usize)| {
            self.count(*phase) > most.checked_div(*part).unwrap_or(0)
        };
        let phase = match PARTS.iter().find(too_many) {
            Some((phase, _)) => *phase,
            None if self.count(ConnectionPhase::Silent) > 0 => ConnectionPhase::Silent,
            None if self.count(ConnectionPhase::Handshake) > 0 => ConnectionPhase::Handshake,
            None => ConnectionPhase::Talking,
        };
        let victim = self.queues[phase as usize].oldest_of_largest(|_, _| true);
        victim.is_some_and(|number| self.end(number))
    }

    /// Closes one served connection whose caller does not read; `false` if there is none.
    fn drop_stalled(&mut self, source: Option<Source>) -> bool {
        let stalled = |of: Source, number: u64| {
            let entry = self.entries.get(&number);
            source.is_none_or(|source| source == of)
                && entry.is_some_and(|entry| entry.blocked.is_stalled())
        };
        let victim = self.queues[ConnectionPhase::Served as usize].oldest_of_largest(stalled);
        victim.is_some_and(|number| self.end(number))
    }

    fn end(&mut self, number: u64) -> bool {
        let entry = self.remove(number);
        if let Some(task) = entry.and_then(|entry| entry.task) {
            task.abort();
        }
        true
    }
}

/// Time since which a caller has not read what is written to it.
#[derive(Debug)]
struct Blocked {
    epoch: Instant,
    /// In milliseconds since `epoch`; 0 while the caller reads.
    since: AtomicU64,
}

impl Blocked {
    fn new(epoch: Instant) -> Self {
        let since = AtomicU64::new(0);
        Self { epoch, since }
    }

    /// Never 0.
    fn now(&self) -> u64 {
        let millis = self.epoch.elapsed().as_millis();
        u64::try_from(millis).unwrap_or(u64::MAX).max(1)
    }

    fn is_stalled(&self) -> bool {
        let since = self.since.load(Ordering::Relaxed);
        let blocked = Duration::from_millis(self.now().saturating_sub(since));
        since > 0 && blocked >= STALLED
    }
}

/// Slot of one connection, freed when it is dropped.
#[derive(Debug)]
pub(super) struct ConnectionSlot {
    callers: Arc<Callers>,
    number: u64,
    source: Source,
    blocked: Arc<Blocked>,
    /// Written and not flushed yet, and the task that waits for the flush.
    unflushed: Mutex<(bool, Option<Waker>)>,
}

impl ConnectionSlot {
    /// Number of the connection.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Phase of the connection; `None` if it was closed to free its slot.
    pub(super) fn phase(&self) -> Option<ConnectionPhase> {
        let table = self.callers.lock();
        table.entries.get(&self.number).map(|entry| entry.phase)
    }

    pub(super) fn set_phase(&self, phase: ConnectionPhase) {
        self.callers.lock().set_phase(self.number, phase);
    }

    /// Starts to serve the connection's request; `false` if too many are served already.
    pub(super) fn begin(&self) -> bool {
        let served = self.callers.served;
        let mut table = self.callers.lock();
        let of_served = |table: &ConnectionTable| {
            table.queues[ConnectionPhase::Served as usize].of_source(self.source)
        };
        while of_served(&table) >= served.div_ceil(2) {
            if !table.drop_stalled(Some(self.source)) {
                return false;
            }
        }
        while table.count(ConnectionPhase::Served) >= served {
            if !table.drop_stalled(None) {
                return false;
            }
        }
        table.set_phase(self.number, ConnectionPhase::Served);
        true
    }

    /// Records whether the caller reads what is written.
    pub(super) fn set_blocked(&self, is_blocked: bool) {
        let Blocked { since, .. } = &*self.blocked;
        if !is_blocked {
            since.store(0, Ordering::Relaxed);
        } else if since.load(Ordering::Relaxed) == 0 {
            since.store(self.blocked.now(), Ordering::Relaxed);
        }
    }

    /// Records that something was written and is to be flushed.
    pub(super) fn written(&self) {
        self.unflushed().0 = true;
    }

    /// Records that everything written has been flushed.
    pub(super) fn flushed(&self) {
        let mut unflushed = self.unflushed();
        unflushed.0 = false;
        if let Some(waker) = unflushed.1.take() {
            waker.wake();
        }
    }

    /// Returns whether everything written has been flushed; the waker is woken once it has.
    pub(super) fn is_flushed(&self, waker: &Waker) -> bool {
        let mut unflushed = self.unflushed();
        if unflushed.0 {
            unflushed.1 = Some(waker.clone());
        }
        !unflushed.0
    }

    fn unflushed(&self) -> MutexGuard<'_, (bool, Option<Waker>)> {
        self.unflushed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.callers.lock().remove(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(last: u8) -> Source {
        IpAddr::from([10, 0, 0, last]).into()
    }

    fn callers(waiting: usize, served: usize) -> Arc<Callers> {
        Arc::new(Callers::new(waiting, served))
    }

    fn is_there(place: &ConnectionSlot) -> bool {
        place.phase().is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_from_one_address_ends_its_own_connections_oldest_first() {
        let callers = callers(8, 8);
        let honest = callers.admit(source(1));
        let mut flood = vec![];
        for _ in 0..100 {
            tokio::time::advance(Duration::from_millis(1)).await;
            flood.push(callers.admit(source(2)));
        }
        assert!(is_there(&honest));
        let left: Vec<bool> = flood.iter().map(is_there).collect();
        assert_eq!(left.iter().filter(|there| **there).count(), 7);
        assert!(left[93..].iter().all(|there| *there));
    }

    #[tokio::test(start_paused = true)]
    async fn connections_that_sent_nothing_are_closed_first() {
        let callers = callers(8, 8);
        let talking = callers.admit(source(1));
        talking.set_phase(ConnectionPhase::Talking);
        let handshake = callers.admit(source(1));
        handshake.set_phase(ConnectionPhase::Handshake);
        let flood: Vec<ConnectionSlot> = (0..100).map(|_| callers.admit(source(1))).collect();
        assert!(is_there(&talking) && is_there(&handshake));
        // A partial request is cheap, too: slow senders take their own share at most.
        for place in &flood {
            place.set_phase(ConnectionPhase::Talking);
        }
        let silent = callers.admit(source(1));
        let more: Vec<ConnectionSlot> = (0..100)
            .map(|_| {
                let place = callers.admit(source(1));
                place.set_phase(ConnectionPhase::Talking);
                place
            })
            .collect();
        assert!(is_there(&silent));
        assert!(!is_there(&talking));
        assert!(is_there(&more[99]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_served_connection_stays_unless_its_caller_does_not_read() {
        let callers = callers(4, 4);
        let served: Vec<ConnectionSlot> = (0..2).map(|_| callers.admit(source(1))).collect();
        assert!(served.iter().all(ConnectionSlot::begin));
        let stream = callers.admit(source(1));
        stream.set_phase(ConnectionPhase::Streaming);
        let flood: Vec<ConnectionSlot> = (0..100).map(|_| callers.admit(source(1))).collect();
        assert!(served.iter().all(is_there) && is_there(&stream));
        // One address has half of the places; the rest is for others.
        assert!(!flood[99].begin());
        let other = callers.admit(source(2));
        assert!(other.begin());
        served[0].set_blocked(true);
        assert!(!flood[99].begin());
        tokio::time::advance(2 * STALLED).await;
        assert!(flood[99].begin());
        assert!(!is_there(&served[0]) && is_there(&served[1]) && is_there(&other));
    }

    #[test]
    fn a_host_is_one_source_whichever_of_its_addresses_it_takes() {
        let of = |text: &str| Source::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
        assert_eq!(of("fd00::1:2:3:4"), of("fd00::1"));
        assert_ne!(of("fd00:0:0:1::1"), of("fd00::1"));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
    }
}
