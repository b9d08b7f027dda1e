#![allow(clippy::unwrap_used, reason = "tests")]

use weir_base::{StreamName, TenantId};

use super::{Pending, Queue};
use crate::{Append, AppendPart, Durability};

fn pending(tenant: &str, size: usize, n_parts: usize) -> Pending {
    let batch = arrow::array::RecordBatch::new_empty(std::sync::Arc::new(arrow::datatypes::Schema::empty()));
    let part = AppendPart { stream: StreamName::new("s").unwrap(), batch, id_column: None };
    Pending {
        append: Append {
            tenant: TenantId::new(tenant).unwrap(),
            parts: vec![part; n_parts],
            idempotency_key: None,
            producer: None,
            durability: Durability::Disk,
        },
        schemas: vec![None; n_parts],
        size,
        reply: None,
    }
}

fn taken(queue: &Queue, bytes_max: usize) -> Vec<(String, usize)> {
    queue.take(bytes_max).iter().map(|pending| (pending.append.tenant.to_string(), pending.size)).collect()
}

fn names(taken: &[(String, usize)]) -> String {
    taken.iter().map(|(tenant, _)| tenant.as_str()).collect()
}

#[test]
fn tenants_take_turns_and_keep_their_order() {
    let queue = Queue::new(1000);
    for (tenant, size) in [("a", 1), ("a", 2), ("a", 3), ("a", 4), ("b", 5), ("b", 6), ("c", 7)] {
        queue.push(pending(tenant, size, 1)).unwrap();
    }
    let first = taken(&queue, 15);
    assert_eq!(first.iter().map(|(_, size)| *size).collect::<Vec<_>>(), [1, 5, 7, 2]);
    let rest = taken(&queue, 1000);
    assert_eq!(names(&rest), "baa");
    assert_eq!(rest.iter().map(|(_, size)| *size).collect::<Vec<_>>(), [6, 3, 4]);
}

#[test]
fn a_commit_holds_at_least_one_request_and_no_more_parts_than_a_block_can() {
    let queue = Queue::new(1000);
    queue.push(pending("a", 500, 1)).unwrap();
    queue.push(pending("b", 1, 400)).unwrap();
    queue.push(pending("c", 1, 200)).unwrap();
    assert_eq!(names(&taken(&queue, 10)), "a");
    assert_eq!(names(&taken(&queue, 10)), "b");
    assert_eq!(names(&taken(&queue, 10)), "c");
    assert_eq!(names(&taken(&queue, 10)), "");
}

#[test]
fn the_bound_counts_what_is_being_committed() {
    let queue = Queue::new(100);
    queue.push(pending("a", 40, 1)).unwrap();
    queue.push(pending("b", 40, 1)).unwrap();
    queue.push(pending("c", 40, 1)).unwrap_err();
    queue.push(pending("a", 20, 1)).unwrap_err();
    let requests = queue.take(1000);
    queue.push(pending("c", 40, 1)).unwrap_err();
    queue.done(requests.iter().map(|request| request.size).sum());
    queue.push(pending("c", 40, 1)).unwrap();
    queue.close();
    queue.push(pending("d", 1, 1)).unwrap_err();
    assert_eq!(names(&taken(&queue, 1000)), "c");
}
