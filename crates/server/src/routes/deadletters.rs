//! `/api/v1/pipelines/{name}/deadletters`: rows of a pipeline that failed, run again or purged.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, TimeUnit, TimestampNanosecondType};
use axum::Json;
use axum::extract::State;
use futures::StreamExt;
use serde_json::Value;
use weir_api::deadletter as api;
use weir_base::{ErrorKind, Timestamp};
use weir_component::operator::AsideReason;
use weir_meta::pipelines::PipelineRecord;
use weir_pipelines::letters::LetterId;
use weir_pipelines::letters::queue::Queued;
use weir_sql::{QueryLimits, QueryRequest, QueryResult};

use super::query::{problem, query_limits};
use super::time::{parse, rfc3339};
use super::{JsonBody, Path, QueryString};
use crate::app::App;
use crate::auth::Caller;
use crate::pipelines::Fate;
use crate::problem::{Problem, Result};

/// Letters of a list, if it does not say how many.
const LIST_LETTERS: u64 = 100;
/// Letters of a list.
const LIST_LETTERS_MAX: u64 = 10_000;
/// Letters that are run again with one request.
const REPLAY_LETTERS_MAX: usize = 5_000;
/// Ids in a filter.
const IDS_MAX: usize = 1_000;
/// Different reasons in a reply.
const REASONS_MAX: usize = 20;
/// Letters that are purged with one request; each is a few bytes.
const PURGE_LETTERS_MAX: usize = 10_000_000;

/// What a filter says in SQL, with its parameters.
#[derive(Default)]
struct Conditions {
    texts: Vec<String>,
    params: Vec<Value>,
}

impl Conditions {
    fn new(filter: &api::DeadLetterFilter) -> Result<Self> {
        let mut conditions = Self { texts: vec!["id is not null".to_owned()], params: Vec::new() };
        if let Some(since) = &filter.since {
            let since = rfc3339(parse(since, "since")?);
            conditions.texts.push(format!("received_at >= '{since}'"));
        }
        if let Some(class) = &filter.class {
            AsideReason::class(class).map_err(|message| Problem::new(ErrorKind::Input, message).pointer("class"))?;
        }
        for (column, value) in [("reason", &filter.class), ("step", &filter.step)] {
            if let Some(value) = value {
                conditions.add(&format!("{column} = "), value);
            }
        }
        if filter.ids.len() > IDS_MAX {
            let message = format!("{} ids are more than {IDS_MAX}", filter.ids.len());
            return Err(Problem::new(ErrorKind::Input, message).pointer("/filter/ids"));
        }
        if !filter.ids.is_empty() {
            let places = filter.ids.iter().map(|id| {
                conditions.params.push(Value::String(id.clone()));
                format!("${}", conditions.params.len())
            });
            let places = places.collect::<Vec<_>>().join(", ");
            conditions.texts.push(format!("id in ({places})"));
        }
        Ok(conditions)
    }

    fn add(&mut self, comparison: &str, value: &str) {
        self.params.push(Value::String(value.to_owned()));
        self.texts.push(format!("{comparison}${}", self.params.len()));
    }
}

/// The answer to a question about the dead letters of a pipeline; `None` if it has never had one.
async fn ask(
    app: &App,
    caller: &Caller,
    pipeline: &str,
    columns: &str,
    conditions: &Conditions,
    rest: &str,
) -> Result<Option<QueryResult>> {
    let stream = format!("{pipeline}_dead");
    let Some(known) = app.meta.streams().get(&caller.tenant.id, &stream) else { return Ok(None) };
    if known.schema.field_with_name("id").is_err() {
        return Err(Problem::new(ErrorKind::Conflict, "the dead letters there are have no ids yet")
            .code("deadletters_old")
            .hint("start the pipeline: it gives ids to those it sets aside from then on"));
    }
    let conditions_text = conditions.texts.join(" and ");
    let sql = format!("select {columns} from {stream} where {conditions_text} {rest}");
    let limits = query_limits(&caller.tenant.limits, app.config.queries.time_max.0);
    let limits = QueryLimits { rows: usize::MAX >> 1, ..limits };
    let request = QueryRequest { sql, params: conditions.params.clone(), limits };
    app.engine.query(&caller.tenant.id, request).await.map(Some).map_err(|error| problem(&error))
}

/// The columns of a letter.
const COLUMNS: &str = "id, received_at, time, step, reason, message, input, attempts, row";

/// A dead letter as it was written.
struct Row {
    id: LetterId,
    at: i64,
    time: i64,
    step: String,
    class: String,
    error: Option<String>,
    input: Option<usize>,
    attempts: u64,
    row: Option<String>,
}

fn rows(batch: &RecordBatch) -> Result<Vec<Row>> {
    let internal = |error: arrow::error::ArrowError| Problem::internal(error.to_string());
    let text = |name: &str| -> Result<StringArray> {
        let column = batch.column_by_name(name).ok_or_else(|| Problem::internal(format!("no column {name}")))?;
        Ok(cast(column, &DataType::Utf8).map_err(internal)?.as_string::<i32>().clone())
    };
    let number = |name: &str| -> Result<Int64Array> {
        let column = batch.column_by_name(name).ok_or_else(|| Problem::internal(format!("no column {name}")))?;
        let is_time = matches!(column.data_type(), DataType::Timestamp(..));
        let nanos = DataType::Timestamp(TimeUnit::Nanosecond, None);
        if is_time {
            let times = cast(column, &nanos).map_err(internal)?;
            return Ok(times.as_primitive::<TimestampNanosecondType>().reinterpret_cast());
        }
        Ok(cast(column, &DataType::Int64).map_err(internal)?.as_primitive().clone())
    };
    let (ids, steps, classes, errors, texts) =
        (text("id")?, text("step")?, text("reason")?, text("message")?, text("row")?);
    let (ats, times, inputs, attempts) =
        (number("received_at")?, number("time")?, number("input")?, number("attempts")?);
    let owned = |texts: &StringArray, row: usize| texts.is_valid(row).then(|| texts.value(row).to_owned());
    let row = |row: usize| {
        Some(Row {
            id: LetterId::parse(ids.value(row))?,
            at: ats.value(row),
            time: times.value(row),
            step: steps.value(row).to_owned(),
            class: classes.value(row).to_owned(),
            error: owned(&errors, row),
            input: inputs.is_valid(row).then(|| usize::try_from(inputs.value(row)).ok()).flatten(),
            attempts: u64::try_from(attempts.value(row)).unwrap_or(1).max(1),
            row: owned(&texts, row),
        })
    };
    Ok((0..batch.num_rows()).filter_map(row).collect())
}

/// `GET /api/v1/pipelines/{name}/deadletters`.
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(name): Path<String>,
    QueryString(parameters): QueryString<api::DeadLetterParameters>,
) -> Result<Json<api::DeadLetterList>> {
    caller.require_query()?;
    let record = app.pipelines.show(&caller.tenant.id, &name).await?;
    let api::DeadLetterParameters { since, class, step, all, limit } = parameters;
    let conditions = Conditions::new(&api::DeadLetterFilter { since, class, step, ids: Vec::new() })?;
    let limit = usize::try_from(limit.unwrap_or(LIST_LETTERS).min(LIST_LETTERS_MAX)).unwrap_or(0);
    let fates = app.pipelines.fates(&record).await?;
    // Those that were run again are left out here, so more may have to be looked at than are wanted.
    let mut looked_at = limit.saturating_mul(2).saturating_add(100);
    let deadletters = loop {
        let rest = format!("order by received_at desc, id limit {looked_at}");
        let Some(mut answer) = ask(&app, &caller, &name, COLUMNS, &conditions, &rest).await? else {
            break Vec::new();
        };
        let (mut found, mut seen) = (Vec::new(), 0);
        while let Some(batch) = answer.next().await {
            let batch = batch.map_err(|error| problem(&error))?;
            seen += batch.num_rows();
            let shown = rows(&batch)?.into_iter().map(|row| (fates.of(row.id), row));
            found.extend(shown.filter(|(fate, _)| all || *fate == Fate::Open));
        }
        if found.len() >= limit || seen < looked_at {
            found.truncate(limit);
            break found;
        }
        looked_at = looked_at.saturating_mul(4);
    };
    let deadletters = deadletters.into_iter().map(|(fate, row)| api::DeadLetter {
        id: row.id.to_string(),
        state: match fate {
            Fate::Open => api::DeadLetterState::Open,
            Fate::Waiting => api::DeadLetterState::Waiting,
            Fate::Replayed => api::DeadLetterState::Replayed,
        },
        at: rfc3339(Timestamp(row.at)),
        time: rfc3339(Timestamp(row.time)),
        step: row.step,
        class: row.class,
        error: row.error,
        attempts: row.attempts,
        row: row.row,
    });
    Ok(Json(api::DeadLetterList { deadletters: deadletters.collect() }))
}

/// Letters that are open, in the order of their ids, and the last id that was looked at if there may be more.
async fn open_letters(
    app: &App,
    caller: &Caller,
    record: &PipelineRecord,
    mut conditions: Conditions,
    after: Option<&str>,
) -> Result<(Vec<Queued>, Option<String>)> {
    if let Some(after) = after {
        conditions.add("id > ", after);
    }
    let fates = app.pipelines.fates(record).await?;
    // First the ids, which are short, then the letters that are wanted.
    let Some(mut answer) = ask(app, caller, &record.name, "id", &conditions, "order by id").await? else {
        return Ok((Vec::new(), None));
    };
    let (mut ids, mut last, mut is_more) = (Vec::new(), None, false);
    'all: while let Some(batch) = answer.next().await {
        let batch = batch.map_err(|error| problem(&error))?;
        let column = cast(batch.column(0), &DataType::Utf8).map_err(|error| Problem::internal(error.to_string()))?;
        for text in column.as_string::<i32>().iter().flatten() {
            if ids.len() >= REPLAY_LETTERS_MAX {
                is_more = true;
                break 'all;
            }
            last = Some(text.to_owned());
            if LetterId::parse(text).is_some_and(|id| fates.of(id) == Fate::Open) {
                ids.push(text.to_owned());
            }
        }
    }
    drop(answer);
    let (Some(first), Some(end)) = (ids.first().cloned(), ids.last().cloned()) else { return Ok((Vec::new(), None)) };
    conditions.add("id >= ", &first);
    conditions.add("id <= ", &end);
    let mut letters = Vec::with_capacity(ids.len());
    if let Some(mut answer) = ask(app, caller, &record.name, COLUMNS, &conditions, "").await? {
        while let Some(batch) = answer.next().await {
            let batch = batch.map_err(|error| problem(&error))?;
            let open = rows(&batch)?.into_iter().filter(|row| fates.of(row.id) == Fate::Open);
            letters.extend(open.map(|row| Queued {
                id: row.id.to_string(),
                step: row.step,
                reason: row.class,
                input: row.input,
                attempts: row.attempts,
                time: row.time,
                row: row.row.unwrap_or_default(),
            }));
        }
    }
    // In the order they were set aside, as far as that is known.
    letters.sort_by_cached_key(|letter| LetterId::parse(&letter.id));
    Ok((letters, last.filter(|_| is_more)))
}

/// `POST /api/v1/pipelines/{name}/deadletters/replay`.
pub(crate) async fn replay(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(name): Path<String>,
    JsonBody(request): JsonBody<api::DeadLetterReplay>,
) -> Result<Json<api::DeadLettersReplayed>> {
    caller.require_admin()?;
    let record = app.pipelines.show(&caller.tenant.id, &name).await?;
    let conditions = Conditions::new(&request.filter)?;
    let (letters, after) = open_letters(&app, &caller, &record, conditions, request.after.as_deref()).await?;
    let replayed = app.pipelines.replay(&caller.tenant.id, &name, letters, request.dry_run).await?;
    if !request.dry_run {
        tracing::info!(
            tenant = %caller.tenant.id, pipeline = name, by = %caller.principal.key_id,
            letters = replayed.taken.len(), refused = replayed.refused.len(), "dead letters are run again"
        );
    }
    let mut reasons: BTreeMap<String, api::DeadLetterReason> = BTreeMap::new();
    let refused = replayed.refused.len() as u64;
    for (example, reason) in replayed.refused {
        let new = || api::DeadLetterReason { reason: reason.clone(), count: 0, example };
        reasons.entry(reason.clone()).or_insert_with(new).count += 1;
    }
    let mut reasons: Vec<api::DeadLetterReason> = reasons.into_values().collect();
    reasons.sort_by_key(|reason| std::cmp::Reverse(reason.count));
    reasons.truncate(REASONS_MAX);
    Ok(Json(api::DeadLettersReplayed { replayed: replayed.taken.len() as u64, refused, reasons, after }))
}

/// `POST /api/v1/pipelines/{name}/deadletters/purge`.
pub(crate) async fn purge(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(name): Path<String>,
    JsonBody(request): JsonBody<api::DeadLetterPurge>,
) -> Result<Json<api::DeadLettersPurged>> {
    caller.require_admin()?;
    let record = app.pipelines.show(&caller.tenant.id, &name).await?;
    if (request.filter == api::DeadLetterFilter::default()) != request.all {
        let message = "say which dead letters are to be purged: a filter, or all of them";
        return Err(Problem::new(ErrorKind::Input, message)
            .pointer("/all")
            .hint("either `filter` with since, class, step or ids, or `all`: true"));
    }
    let conditions = Conditions::new(&request.filter)?;
    let mut ids = Vec::new();
    if let Some(mut answer) = ask(&app, &caller, &record.name, "id", &conditions, "").await? {
        while let Some(batch) = answer.next().await
            && ids.len() < PURGE_LETTERS_MAX
        {
            let batch = batch.map_err(|error| problem(&error))?;
            let column =
                cast(batch.column(0), &DataType::Utf8).map_err(|error| Problem::internal(error.to_string()))?;
            ids.extend(column.as_string::<i32>().iter().flatten().filter_map(LetterId::parse));
        }
    }
    let purged = ids.len() as u64;
    app.pipelines.purge(&caller.tenant.id, &name, ids).await?;
    tracing::info!(
        tenant = %caller.tenant.id, pipeline = name, by = %caller.principal.key_id, letters = purged,
        "dead letters purged"
    );
    Ok(Json(api::DeadLettersPurged { purged }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    /// A list that is empty would be taken for there being none.
    #[test]
    fn a_class_that_is_none_is_refused_with_those_there_are() {
        let filter = |class: &str| api::DeadLetterFilter { class: Some(class.to_owned()), ..Default::default() };
        for class in AsideReason::CLASSES {
            assert_eq!(Conditions::new(&filter(class.as_str())).unwrap().params, [class.as_str()]);
        }
        for class in ["unknown", "late", ""] {
            let refused = Conditions::new(&filter(class)).err().unwrap();
            assert_eq!((refused.kind(), refused.http_status().as_u16()), (ErrorKind::Input, 400));
            assert!(refused.message().contains("the classes are malformed, no_time, failed,"), "{}", refused.message());
        }
    }
}
