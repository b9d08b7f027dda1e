use std::future::poll_fn;
use std::time::Duration;

use super::*;

const TIME: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(30);

/// What one who waits is told; the thing itself never has anything to say.
async fn wait(held: &Expiring<Arc<()>>) -> Option<()> {
    poll_fn(|context| held.poll(context, |_, _| Poll::<()>::Pending)).await
}

#[tokio::test]
async fn what_nobody_comes_for_is_dropped_at_its_deadline() {
    let guard = Arc::new(());
    let begun = Instant::now();
    let held = Expiring::new(Arc::clone(&guard), begun + TIME);
    let asked = poll_fn(|context| held.poll(context, |thing, _| Poll::Ready(Arc::strong_count(thing)))).await;
    assert_eq!(asked, Some(2));
    while Arc::strong_count(&guard) > 1 {
        assert!(begun.elapsed() < PATIENCE, "it is held beyond its deadline");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(begun.elapsed() >= TIME);
    assert_eq!(wait(&held).await, None);
}

#[tokio::test]
async fn who_waits_is_woken_at_the_deadline() {
    let begun = Instant::now();
    let held = Expiring::new(Arc::new(()), begun + TIME);
    assert_eq!(wait(&held).await, None);
    assert!(begun.elapsed() >= TIME);
}

#[tokio::test]
async fn what_is_given_up_is_dropped_at_once_with_its_timer() {
    let guard = Arc::new(());
    let deadline = Instant::now() + PATIENCE;
    drop(Expiring::new(Arc::clone(&guard), deadline));
    assert_eq!(Arc::strong_count(&guard), 1);
    let held = Expiring::new(Arc::clone(&guard), deadline);
    held.empty();
    assert_eq!(Arc::strong_count(&guard), 1);
    assert_eq!(wait(&held).await, None);
    while Handle::current().metrics().num_alive_tasks() > 0 {
        assert!(Instant::now() < deadline, "a timer is left");
        tokio::task::yield_now().await;
    }
}
