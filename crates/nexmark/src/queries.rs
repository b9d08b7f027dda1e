//! The queries, as documents a user would write (`tests/nexmark/`), and what they should reach.

/// A query.
pub(crate) struct Query {
    /// What everybody calls it.
    pub(crate) name: &'static str,
    /// The pipeline.
    pub(crate) document: &'static str,
    /// Events for each CPU-second it should reach.
    pub(crate) target: Option<f64>,
    /// The same rows grouped at once, as DataFusion is asked over the table `bid`; to compare with.
    pub(crate) batch: Option<&'static str>,
    /// In what it differs from the query as it was first written.
    pub(crate) remark: &'static str,
}

/// The document and name of a query, and nothing else.
macro_rules! query {
    ($name:literal) => {
        Query {
            name: $name,
            document: include_str!(concat!("../../../tests/nexmark/", $name, ".yaml")),
            target: None,
            batch: None,
            remark: "",
        }
    };
}

/// What windows should reach of the speed at which a batch is grouped.
pub(crate) const SHARE_OF_BATCH: f64 = 0.5;

const STATELESS: f64 = 20e6;
const WINDOWED: f64 = 2e6;
const NEVER_FORGOTTEN: &str = "joined within a bound of time, because a join without one keeps every row for ever; the bound is larger than these events need, so the results are those of the query without it";
const DAILY: &str = "a day is a window, so results come once, when the day is over, and not again with each bid";

/// All of them, in order.
pub(crate) const QUERIES: &[Query] = &[
    Query { target: Some(STATELESS), ..query!("q0") },
    Query { target: Some(STATELESS), ..query!("q1") },
    Query { target: Some(STATELESS), ..query!("q2") },
    Query { remark: NEVER_FORGOTTEN, ..query!("q3") },
    Query {
        remark: "a category's average is one of the auctions that were over in each minute, instead of one of all that changes with each of them",
        ..query!("q4")
    },
    Query {
        target: Some(WINDOWED),
        batch: Some(
            "select date_bin(interval '2 seconds', date_time) as pane, auction, count(*) from bid group by 1, 2",
        ),
        ..query!("q5")
    },
    Query {
        target: Some(WINDOWED),
        batch: Some("select date_bin(interval '10 seconds', date_time) as pane, max(price) from bid group by 1"),
        remark: "the batch it is compared with finds the highest prices alone, without their bids",
        ..query!("q7")
    },
    Query { target: Some(1e6), ..query!("q8") },
    Query { remark: "a winner is put out once, when its auction is over", ..query!("q9") },
    Query {
        target: Some(WINDOWED),
        batch: Some("select bidder, count(*), min(date_time), max(date_time) from bid group by 1"),
        ..query!("q11")
    },
    Query {
        target: Some(WINDOWED),
        batch: Some(
            "select date_bin(interval '10 seconds', date_time) as pane, bidder, count(*) from bid group by 1, 2",
        ),
        ..query!("q12")
    },
    query!("q13"),
    query!("q14"),
    Query { remark: DAILY, ..query!("q15") },
    Query { remark: DAILY, ..query!("q16") },
    Query { remark: DAILY, ..query!("q17") },
    Query { remark: DAILY, ..query!("q18") },
    Query { remark: DAILY, ..query!("q19") },
    Query { remark: NEVER_FORGOTTEN, ..query!("q20") },
];
