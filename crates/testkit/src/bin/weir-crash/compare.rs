//! What is found against what was promised.

use std::collections::HashMap;
use std::fmt;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::bodies::{Protocol, checksum};
use crate::load::Load;
use weir_testkit::oracle::server::Server;

/// The verdict: how many rows broke which promise.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) rows: u64,
    lost: u64,
    doubled: u64,
    phantom: u64,
    damaged: u64,
    out_of_order: u64,
    examples: Vec<String>,
}

impl Found {
    pub(crate) fn is_clean(&self) -> bool {
        self.lost + self.doubled + self.phantom + self.damaged + self.out_of_order == 0
    }

    pub(crate) fn examples(&self) -> String {
        self.examples.join("\n")
    }

    fn example(&mut self, text: impl FnOnce() -> String) {
        if self.examples.len() < 20 {
            self.examples.push(text());
        }
    }
}

impl fmt::Display for Found {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rows, lost, doubled, phantom, damaged, out_of_order, .. } = self;
        write!(
            formatter,
            "{rows} rows, lost {lost}, doubled {doubled}, phantom {phantom}, damaged {damaged}, out of order {out_of_order}"
        )
    }
}

/// A row as it was found.
struct Row {
    seq: u64,
    received_at: i64,
}

/// Asks for every row of every tenant and compares.
pub(crate) async fn compare(server: &Server, load: &Load) -> Result<Found> {
    let mut found = Found::default();
    let mut rows: HashMap<(String, String), Vec<Row>> = HashMap::new();
    let mut tenants: Vec<&str> = load.producers.iter().map(|producer| producer.tenant.as_str()).collect();
    tenants.dedup();
    let mut tables: Vec<&str> = Protocol::ALL.iter().map(|protocol| protocol.table()).collect();
    tables.dedup();
    for tenant in tenants {
        for table in &tables {
            for row in query(server, &load.admin_key, tenant, table).await? {
                read_row(tenant, table, &row, &mut found, &mut rows)?;
            }
        }
    }
    for producer in &load.producers {
        let name = (producer.tenant.clone(), producer.name.clone());
        judge(&name, producer.n_rows, rows.remove(&name).unwrap_or_default(), &mut found);
    }
    for ((tenant, producer), rows) in rows {
        found.phantom += rows.len() as u64;
        found.example(|| format!("phantom: {} rows of {tenant}/{producer}, whom nobody knows", rows.len()));
    }
    Ok(found)
}

async fn query(server: &Server, admin_key: &str, tenant: &str, table: &str) -> Result<Vec<Value>> {
    let column = if table == "events" { "properties" } else { "attributes" };
    let sql = format!(
        "select {column}['producer'], {column}['seq'], {column}['crc'], {column}['payload'], \
         cast(received_at as bigint) from {table}"
    );
    let headers = [("authorization", format!("Bearer {admin_key}")), ("x-weir-tenant", tenant.to_owned())];
    let body = json!({ "sql": sql });
    let mut answer = server.http.json(&server.addresses.http, "/api/v1/query", &headers, &body).await?;
    anyhow::ensure!(answer["stats"]["truncated"] != json!(true), "the query's answer was cut; use fewer cycles");
    match answer["rows"].take() {
        Value::Array(rows) => Ok(rows),
        other => anyhow::bail!("the query's answer has no rows: {other}"),
    }
}

fn read_row(
    tenant: &str,
    table: &str,
    row: &Value,
    found: &mut Found,
    rows: &mut HashMap<(String, String), Vec<Row>>,
) -> Result<()> {
    found.rows += 1;
    // Numbers among attributes read as float64; these are whole and below 2^53.
    let whole = |index: usize| row[index].as_f64().filter(|number| number.fract() == 0.0).map(|number| number as u64);
    let (Some(producer), Some(seq), Some(crc), Some(payload)) = (row[0].as_str(), whole(1), whole(2), row[3].as_str())
    else {
        found.damaged += 1;
        found.example(|| format!("damaged: {tenant}.{table} has the row {row}"));
        return Ok(());
    };
    if u64::from(checksum(tenant, producer, seq, payload)) != crc {
        found.damaged += 1;
        found.example(|| format!("damaged: {tenant}.{table}, {producer} {seq}: checksum"));
    }
    let received_at = row[4].as_i64().context("received_at is not an integer")?;
    rows.entry((tenant.to_owned(), producer.to_owned())).or_default().push(Row { seq, received_at });
    Ok(())
}

fn judge(name: &(String, String), n_rows: u64, mut rows: Vec<Row>, found: &mut Found) {
    let (tenant, producer) = name;
    rows.sort_by_key(|row| row.seq);
    let mut expected = 0;
    let mut previous: Option<&Row> = None;
    for row in &rows {
        if previous.is_some_and(|previous| previous.seq == row.seq) {
            found.doubled += 1;
            found.example(|| format!("doubled: {tenant}/{producer} {}", row.seq));
            continue;
        }
        if row.seq >= n_rows {
            found.phantom += 1;
            found.example(|| format!("phantom: {tenant}/{producer} {} of {n_rows}", row.seq));
        } else if row.seq > expected {
            found.lost += row.seq - expected;
            found.example(|| format!("lost: {tenant}/{producer} {expected}..{}", row.seq));
        }
        if let Some(previous) = previous.filter(|previous| previous.received_at > row.received_at) {
            found.out_of_order += 1;
            found.example(|| format!("out of order: {tenant}/{producer} {} after {}", previous.seq, row.seq));
        }
        expected = row.seq + 1;
        previous = Some(row);
    }
    if expected < n_rows {
        found.lost += n_rows - expected;
        found.example(|| format!("lost: {tenant}/{producer} {expected}..{n_rows}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The oracle itself must see every kind of fault.
    #[test]
    fn every_broken_promise_is_seen() {
        #[track_caller]
        fn check(n_rows: u64, rows: &[(u64, i64)], expected: [u64; 4]) {
            let mut found = Found::default();
            let rows = rows.iter().map(|(seq, received_at)| Row { seq: *seq, received_at: *received_at }).collect();
            judge(&("t".to_owned(), "p".to_owned()), n_rows, rows, &mut found);
            assert_eq!([found.lost, found.doubled, found.phantom, found.out_of_order], expected);
        }
        check(3, &[(2, 9), (0, 5), (1, 5)], [0, 0, 0, 0]);
        check(3, &[(0, 5), (2, 5)], [1, 0, 0, 0]);
        check(3, &[], [3, 0, 0, 0]);
        check(4, &[(0, 5), (1, 5)], [2, 0, 0, 0]);
        check(2, &[(0, 5), (1, 5), (1, 6)], [0, 1, 0, 0]);
        check(2, &[(0, 5), (1, 5), (2, 6)], [0, 0, 1, 0]);
        check(2, &[(0, 7), (1, 5)], [0, 0, 0, 1]);
    }

    #[test]
    fn a_changed_row_is_seen() {
        let crc = checksum("t", "p", 7, "text");
        for (row, damaged) in [
            (json!(["p", 7.0, crc, "text", 1]), 0),
            (json!(["p", 7.0, crc, "Text", 1]), 1),
            (json!(["p", 8.0, crc, "text", 1]), 1),
            (json!([null, 7.0, crc, "text", 1]), 1),
        ] {
            let mut found = Found::default();
            assert!(read_row("t", "events", &row, &mut found, &mut HashMap::new()).is_ok());
            assert_eq!(found.damaged, damaged, "{row}");
        }
    }
}
