//! Tests of the limiter.

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
    limiter.acquire(class, Order::New).now_or_never().is_some()
}

#[tokio::test(start_paused = true)]
async fn an_upper_class_never_waits_behind_hanging_calls_of_a_lower_one() {
    let limiter = Limiter::new(Some(4));
    let _hanging = hang(&limiter, Class::FirstStart, 10);
    tokio::task::yield_now().await;
    for class in ALL.into_iter().filter(|class| *class < Class::FirstStart) {
        assert!(has_permit(&limiter, class), "{class:?}");
    }
    assert!(!has_permit(&limiter, Class::FirstStart));
}

#[tokio::test(start_paused = true)]
async fn hanging_calls_release_their_permits() {
    let limiter = Limiter::new(Some(2));
    let _hanging = hang(&limiter, Class::FirstStart, 50);
    tokio::task::yield_now().await;
    let began = Instant::now();
    drop(limiter.acquire(Class::FirstStart, Order::New).await);
    assert!(began.elapsed() <= LATE_UNKNOWN + LATE_MIN * 25);
}

#[tokio::test(start_paused = true)]
async fn a_permit_is_released_when_its_call_is_dropped_or_no_longer_waited_for() {
    let limiter = Limiter::new(Some(1));
    let first = limiter.acquire(Class::Update, Order::New).await;
    let mut second = Box::pin(limiter.acquire(Class::Update, Order::New));
    assert!(second.as_mut().now_or_never().is_none());
    let third = limiter.acquire(Class::Update, Order::New);
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
    let limiter = Limiter::new(Some(2));
    let running = [
        limiter.acquire(Class::Running, Order::New).await,
        limiter.acquire(Class::Running, Order::New).await,
    ];
    assert!(!has_permit(&limiter, Class::Running));
    let first_start = limiter.acquire(Class::FirstStart, Order::New).await;
    let order = Arc::new(Mutex::new(vec![]));
    for (n, class) in [
        (1, Class::FirstStart),
        (2, Class::FirstStart),
        (3, Class::Running),
    ] {
        let (limiter, order) = (limiter.clone(), Arc::clone(&order));
        tokio::spawn(async move {
            let _permit = limiter.acquire(class, Order::New).await;
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
    let limiter = Limiter::new(Some(1));
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

#[tokio::test(start_paused = true)]
async fn removal_waits_for_starts_that_get_on() {
    let limiter = Limiter::new(Some(1));
    let start = limiter.acquire(Class::FirstStart, Order::New).await;
    assert!(has_permit(&limiter, Class::Cleanup), "nothing else waits");
    let mut second = Box::pin(limiter.acquire(Class::FirstStart, Order::New));
    assert!(second.as_mut().now_or_never().is_none());
    drop(start);
    let second = second.as_mut().now_or_never().expect("it is its turn");
    let mut third = Box::pin(limiter.acquire(Class::FirstStart, Order::New));
    assert!(third.as_mut().now_or_never().is_none());
    assert!(!has_permit(&limiter, Class::Cleanup), "starts get on");
    drop(second);
    drop(third.as_mut().now_or_never().expect("it is its turn"));
    assert!(has_permit(&limiter, Class::Cleanup), "nothing else waits");
}

#[tokio::test(start_paused = true)]
async fn stops_are_limited_by_themselves_alone_and_come_before_removals() {
    let limiter = Limiter::new(Some(1));
    let mut stops = vec![];
    for _ in 0..STOPS {
        stops.push(limiter.acquire(Class::Stop, Order::New).await);
    }
    // After so many at once tokio makes a task give way.
    tokio::task::yield_now().await;
    assert!(!has_permit(&limiter, Class::Stop));
    assert!(has_permit(&limiter, Class::FirstStart));
    stops.pop();
    assert!(!has_permit(&limiter, Class::Cleanup), "stops get on");
    drop(stops);
    assert!(has_permit(&limiter, Class::Cleanup), "all have stopped");
}

#[tokio::test(start_paused = true)]
async fn removal_does_not_wait_for_starts_that_hang() {
    let limiter = Limiter::new(Some(2));
    drop(limiter.acquire(Class::FirstStart, Order::New).await);
    let _hanging = hang(&limiter, Class::FirstStart, 50);
    tokio::task::yield_now().await;
    let began = Instant::now();
    drop(limiter.acquire(Class::Cleanup, Order::New).await);
    assert!(began.elapsed() <= STANDSTILL, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn removal_waits_for_a_bounded_time() {
    let limiter = Limiter::new(Some(2));
    for _ in 0..1000 {
        let limiter = limiter.clone();
        let call = async move {
            let call = async { tokio::time::sleep(Duration::from_millis(500)).await };
            limiter
                .run(Class::Running, CallKind::StartContainer, call)
                .await;
        };
        tokio::spawn(call);
    }
    tokio::time::sleep(STANDSTILL).await;
    let began = Instant::now();
    drop(limiter.acquire(Class::Cleanup, Order::New).await);
    let waited = began.elapsed();
    assert!(waited >= REMOVAL_WAIT, "{waited:?}");
    assert!(waited <= REMOVAL_WAIT + STANDSTILL, "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn what_has_begun_comes_before_what_is_new() {
    let limiter = Limiter::new(Some(1));
    let class = Class::FirstStart;
    let permit = limiter.acquire(class, Order::New).await;
    let order = Arc::new(Mutex::new(vec![]));
    for (n, of) in [
        (3, Order::New),
        (1, Order::Begun),
        (4, Order::New),
        (2, Order::Begun),
    ] {
        let (limiter, order) = (limiter.clone(), Arc::clone(&order));
        tokio::spawn(async move {
            let _permit = limiter.acquire(class, of).await;
            order.lock().unwrap().push(n);
        });
        tokio::task::yield_now().await;
    }
    drop(permit);
    tokio::time::sleep(LATE_MIN).await;
    assert_eq!(*order.lock().unwrap(), [1, 2, 3, 4]);
}

#[tokio::test(start_paused = true)]
async fn hanging_calls_do_not_lower_the_number_of_calls_at_a_time() {
    let limiter = Limiter::new(None);
    let first = limiter.lock().concurrency.limit();
    let _hanging = hang(&limiter, Class::FirstStart, 200);
    tokio::time::sleep(LATE_MAX * 100).await;
    assert_eq!(limiter.lock().concurrency.limit(), first);
}
