#![allow(clippy::unwrap_used, reason = "tests")]

use std::thread;

use super::{INLINE_BYTES_MAX, WorkError, Workers};

#[tokio::test]
async fn small_work_stays_and_large_work_leaves_the_thread() {
    let workers = Workers::new();
    let here = thread::current().id();
    assert_eq!(workers.run(INLINE_BYTES_MAX, || thread::current().id()).await.unwrap(), here);
    assert_ne!(workers.run(INLINE_BYTES_MAX + 1, || thread::current().id()).await.unwrap(), here);
}

#[tokio::test]
async fn panics_are_errors_and_counted() {
    let workers = Workers::new();
    for (bytes, n_panics) in [(0, 1), (usize::MAX, 2)] {
        let error = workers.run(bytes, || assert_eq!(1 + 1, 3, "arithmetic")).await.unwrap_err();
        assert!(matches!(&error, WorkError::Panicked { message } if message.contains("arithmetic")), "{error}");
        assert_eq!(workers.panics(), n_panics);
    }
    // The places are given back.
    for _ in 0..100 {
        assert_eq!(workers.run(usize::MAX, || 7).await.unwrap(), 7);
    }
}
