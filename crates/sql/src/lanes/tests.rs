#![allow(clippy::unwrap_used, reason = "tests")]

use tokio::sync::Semaphore;

use super::*;

const SOON: Duration = Duration::from_millis(20);

fn lanes_of(lanes: &Lanes) -> usize {
    lanes.0.state.lock().lanes.len()
}

/// How many are left when nothing has ended for a while.
async fn until_left(lanes: &Lanes, expected: usize) {
    let left = async {
        while lanes_of(lanes) != expected {
            tokio::time::sleep(SOON).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(10), left).await;
    assert!(waited.is_ok(), "{} lanes, not {expected}", lanes_of(lanes));
}

/// Else a burst of queries takes its threads for as long as the process lives.
#[tokio::test]
async fn lanes_of_a_burst_end_when_they_are_idle() {
    let lanes = Lanes::ending_after(1, SOON).unwrap();
    for _ in 0..2 {
        let gate = Arc::new(Semaphore::new(0));
        let burst: Vec<_> = (0..5)
            .map(|_| {
                let gate = Arc::clone(&gate);
                lanes.spawn(async move { gate.acquire().await.map(drop) }).unwrap()
            })
            .collect();
        assert_eq!(lanes_of(&lanes), 5, "each has its own");
        // What works is not idle, however long it takes.
        tokio::time::sleep(SOON * 4).await;
        assert_eq!(lanes_of(&lanes), 5);
        gate.add_permits(5);
        let mut last = None;
        for (task, on_lane) in burst {
            task.await.unwrap().unwrap();
            last = Some(on_lane);
        }
        // An answer that is still being read is encoded where its query ran.
        until_left(&lanes, 2).await;
        assert_eq!(last.unwrap().spawn(async { 7 }).await.unwrap(), 7);
        until_left(&lanes, 1).await;
    }
    // The one that is left is the one that looks after the others, and takes the next as if it had nothing to do.
    let (task, _) = lanes.spawn(async { 1 }).unwrap();
    assert_eq!((task.await.unwrap(), lanes_of(&lanes)), (1, 1));
}

#[tokio::test]
async fn that_no_thread_can_be_made_is_said_now_and_then() {
    let lanes = Lanes::new(1).unwrap();
    let mut state = lanes.0.state.lock();
    let error = std::io::Error::from(std::io::ErrorKind::WouldBlock);
    state.warn(&error);
    let first = state.warned.unwrap();
    state.warn(&error);
    assert_eq!(state.warned, Some(first), "it was said a moment ago");
    state.warned = first.checked_sub(WARNED_EVERY);
    state.warn(&error);
    assert!(state.warned.unwrap() >= first);
}
