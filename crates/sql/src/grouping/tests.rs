//! Groups and their aggregates are those of DataFusion's own first stage.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringViewArray};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::util::pretty::pretty_format_batches;
use datafusion::datasource::MemTable;
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::context::SQLOptions;
use datafusion::physical_plan::displayable;
use datafusion::prelude::{SessionConfig, SessionContext};

use super::{GROUPS_MAX, UseFewGroups};

/// A generator of numbers (Knuth's MMIX).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// Batches of unequal length over texts (short, long, sharing their beginning, null), numbers and flags.
fn batches(random: &mut Random, texts: u64) -> Vec<RecordBatch> {
    (0..7)
        .map(|_| {
            let rows = random.below(3000) as usize;
            let mut text = || -> Option<String> {
                let number = random.below(texts);
                match number % 4 {
                    0 => None,
                    1 => Some(format!("{number}")),
                    2 => Some(format!("a text that is longer than a view {number}")),
                    _ => Some("é".repeat((number % 9) as usize)),
                }
            };
            let names: ArrayRef = Arc::new((0..rows).map(|_| text()).collect::<StringViewArray>());
            let values: ArrayRef = Arc::new(
                (0..rows)
                    .map(|_| match random.below(5) {
                        0 => None,
                        _ => Some([-5, 7, 1 << 40][random.below(3) as usize]),
                    })
                    .collect::<Int64Array>(),
            );
            let flags: ArrayRef = Arc::new(
                (0..rows).map(|_| [None, Some(true), Some(false)][random.below(3) as usize]).collect::<BooleanArray>(),
            );
            let measures: ArrayRef =
                Arc::new((0..rows).map(|_| Some(random.below(100) as f64)).collect::<Float64Array>());
            let fields = vec![
                Field::new("name", DataType::Utf8View, true),
                Field::new("value", DataType::Int64, true),
                Field::new("flag", DataType::Boolean, true),
                Field::new("measure", DataType::Float64, true),
            ];
            RecordBatch::try_new(Arc::new(Schema::new(fields)), vec![names, values, flags, measures]).unwrap()
        })
        .collect()
}

async fn answer(batches: &[RecordBatch], sql: &str, few: bool) -> (String, String) {
    let config = SessionConfig::new().with_target_partitions(2);
    let mut builder = SessionStateBuilder::new().with_config(config).with_default_features();
    if few {
        builder = builder.with_physical_optimizer_rule(Arc::new(UseFewGroups));
    }
    let context = SessionContext::new_with_state(builder.build());
    let (left, right) = batches.split_at(batches.len() / 2);
    let table = MemTable::try_new(batches[0].schema(), vec![left.to_vec(), right.to_vec()]).unwrap();
    context.register_table("rows", Arc::new(table)).unwrap();
    let frame = context.sql_with_options(sql, SQLOptions::new()).await.unwrap();
    let plan = frame.clone().create_physical_plan().await.unwrap();
    let plan = displayable(plan.as_ref()).indent(false).to_string();
    let rows = frame.collect().await.unwrap();
    let mut lines: Vec<String> = pretty_format_batches(&rows).unwrap().to_string().lines().map(str::to_owned).collect();
    lines.sort();
    (lines.join("\n"), plan)
}

#[tokio::test]
async fn answers_are_those_of_the_plain_stage() {
    let mut random = Random(7);
    for texts in [3, 40, 3 * GROUPS_MAX as u64] {
        let batches = batches(&mut random, texts);
        for (sql, stands) in [
            ("select name, count(*), sum(measure), min(value), max(measure) from rows group by name", true),
            ("select name, value, flag, count(value), avg(measure) from rows group by 1, 2, 3", true),
            ("select value, avg(value) from rows group by value", true),
            ("select flag, count(*) from rows where measure > 50 group by flag", true),
            ("select upper(name), length(name), count(*) from rows group by 1, 2", true),
            ("select distinct name, flag from rows", true),
            ("select name, count(distinct value) from rows group by name", true),
            ("select name, max(name) from rows group by name", false),
            ("select measure, count(*) from rows group by measure", false),
            ("select name, count(*) filter (where flag) from rows group by name", false),
            ("select name, flag, count(*) from rows group by rollup(name, flag)", false),
        ] {
            let (expected, _) = answer(&batches, sql, false).await;
            let (found, plan) = answer(&batches, sql, true).await;
            assert_eq!(found, expected, "{sql} with {texts} texts");
            assert_eq!(plan.contains("FewGroups"), stands, "{sql}: {plan}");
        }
    }
}
