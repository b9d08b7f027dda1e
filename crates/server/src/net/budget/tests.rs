#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use super::{BudgetError, ByteBudget};

#[tokio::test]
async fn reservations_grow_shrink_and_go() {
    let budget = ByteBudget::new("test_bytes_max", 1000, Duration::ZERO);
    let mut one = budget.empty();
    let mut two = budget.empty();
    one.grow_to(600).await.unwrap();
    one.grow_to(100).await.unwrap();
    two.grow_to(400).await.unwrap();
    assert_eq!((one.bytes(), two.bytes(), budget.in_use()), (600, 400, 1000));
    let busy = BudgetError::Busy { name: "test_bytes_max", total: 1000, in_use: 1000 };
    assert_eq!(two.grow_to(401).await, Err(busy));
    assert_eq!(two.bytes(), 400, "what is held stays held");
    let never = BudgetError::Never { name: "test_bytes_max", total: 1000, wanted: 1001 };
    assert_eq!(two.grow_to(1001).await, Err(never));
    one.shrink_to(599);
    two.grow_to(401).await.unwrap();
    drop(one);
    assert_eq!(budget.in_use(), 401);
    drop(two);
    assert_eq!(budget.in_use(), 0);
}

#[tokio::test]
async fn who_waits_is_served_when_bytes_come_back() {
    let budget = ByteBudget::new("test_bytes_max", 10, Duration::from_secs(20));
    let mut one = budget.empty();
    one.grow_to(10).await.unwrap();
    let mut two = budget.empty();
    let (grown, ()) = tokio::join!(two.grow_to(4), async { one.shrink_to(6) });
    grown.unwrap();
    assert_eq!(budget.in_use(), 10);
}

#[tokio::test]
async fn large_reservations_leave_room_for_small_ones() {
    let budget = ByteBudget::new("test_bytes_max", 128 << 20, Duration::ZERO);
    let mut all = budget.empty();
    all.grow_to(budget.total()).await.unwrap();
    let mut large = budget.empty();
    assert!(large.grow_to(1 << 20).await.is_err(), "there is nothing left for another large one");
    let mut small = budget.empty();
    small.grow_to(4096).await.unwrap();
    small.grow_to(200_000).await.unwrap();
    assert_eq!((small.bytes(), budget.in_use()), (200_000, budget.total() + 200_000));
    assert!(small.grow_to(1 << 20).await.is_err(), "it is not small any more");
    all.shrink_to(1 << 20);
    small.grow_to(1 << 20).await.unwrap();
    assert_eq!(small.bytes(), 1 << 20);
    small.shrink_to(1000);
    assert_eq!((small.bytes(), budget.in_use()), (1000, (1 << 20) + 1000));
    drop((all, small, large));
    assert_eq!(budget.in_use(), 0);
}
