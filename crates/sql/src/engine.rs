//! The query engine: from a text to a stream of rows.
//!
//! Queries run on threads of their own ([`Lanes`]), so that no query delays an acknowledgement, and none another
//! query. A query is planned and executed in one task there; the rows cross to the caller over a short bounded
//! channel. The caller's side keeps the deadline by itself, so it ends on time even if an operator
//! does not yield, and what nobody has read by then is dropped; the task is dropped as soon as it
//! yields. Its place among the tenant's concurrent queries is free when the task has ended and
//! nothing of its answer is held any more.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{RecordBatch, StringViewArray};
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::temporal_conversions::timestamp_ns_to_datetime;
use datafusion::common::{DataFusionError, ParamValues};
use datafusion::execution::context::SQLOptions;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::session_state::SessionState;
use datafusion::execution::{SessionStateBuilder, SessionStateDefaults, TaskContext};
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder};
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::prelude::SessionConfig;
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc};
use weir_base::{Clock, TenantId};
use weir_meta::Meta;
use weir_store::Store;

use crate::arithmetic::CheckIntegers;
use crate::attributes::{AttributePlanner, unmarked};
use crate::blocks::newest::CountTogether;
use crate::budget::{BATCH_ROWS_MAX, Budget, Places};
use crate::catalog::{CATALOG, INFORMATION_SCHEMA, SCHEMA, TenantCatalogs, table_names};
use crate::compacting::CompactKept;
use crate::environment::{Environment, ProcessMemory, nothing_shared, private_directory};
use crate::error::{SqlError, from_datafusion, nearest};
use crate::functions::{FUNCTIONS, OperatorPlanner};
use crate::gate::{Gated, OutputNames, gate, parameters};
use crate::grouping::{KeepAllGroups, UseFewGroups};
use crate::hidden::Hides;
use crate::joining::StopJoins;
use crate::lanes::Lanes;
use crate::plan_gate;
use crate::result::{Message, QueryResult, Rows, SharedStats};
use crate::store_tables::StoreTables;
use crate::tables::Tables;

/// The largest limit the engine can count to.
const ROWS_MAX: usize = 1 << 62;
/// What the functions of a row filter may hold.
const FILTER_BYTES_MAX: usize = 64 << 20;
/// Batches waiting for the caller.
const BATCHES_WAITING_MAX: usize = 2;
/// A query may wait behind this many others, for each that may run.
const WAITING_PER_RUNNING: usize = 4;

/// How the query engine is set up.
#[derive(Clone, Debug)]
pub struct QueryOptions {
    /// Memory for all queries together. DataFusion accounts for about a sixth of what it uses at
    /// the worst, so this is not all of what the process can spare.
    pub memory_bytes: usize,
    /// Where intermediate results go that do not fit into memory; a directory of each tenant below
    /// it is made with mode 0700.
    pub spill_dir: PathBuf,
    /// How much one tenant may spill.
    pub spill_bytes_max: u64,
    /// Threads of a query; 0 is one a core.
    pub threads: usize,
    /// Partitions of one query that run side by side; 0 is one a thread.
    pub partitions: usize,
}

impl Default for QueryOptions {
    fn default() -> Self {
        Self {
            memory_bytes: 128 << 20,
            spill_dir: std::env::temp_dir().join("weir-spill"),
            spill_bytes_max: 4 << 30,
            threads: 0,
            partitions: 0,
        }
    }
}

/// What one query may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueryLimits {
    /// Memory of all running queries of the tenant.
    pub memory_bytes: usize,
    /// From the call to the last row.
    pub time: Duration,
    /// Rows in the result; what is beyond is left out, and the statistics say so.
    pub rows: usize,
    /// Bytes of rows in the result, counted in memory; what is beyond is left out likewise.
    pub bytes: usize,
    /// Queries of the tenant that run at once.
    pub concurrent: usize,
}

impl Default for QueryLimits {
    fn default() -> Self {
        Self { memory_bytes: 64 << 20, time: Duration::from_secs(30), rows: 100_000, bytes: 256 << 20, concurrent: 4 }
    }
}

/// A query of one tenant.
#[derive(Clone, Debug, Default)]
pub struct QueryRequest {
    /// The SQL: one `SELECT`, `EXPLAIN`, `SHOW TABLES`, `SHOW COLUMNS` or `DESCRIBE`.
    pub sql: String,
    /// The values of `$1`, `$2` and so on: null, booleans, numbers and strings.
    pub params: Vec<serde_json::Value>,
    /// What it may use.
    pub limits: QueryLimits,
}

/// Answers queries.
#[derive(Debug)]
pub struct QueryEngine {
    tables: Arc<dyn Tables>,
    clock: Arc<dyn Clock>,
    options: QueryOptions,
    partitions: usize,
    lanes: Lanes,
    memory: Arc<ProcessMemory>,
    environments: Mutex<HashMap<TenantId, Arc<Environment>>>,
    filter_runtime: Arc<RuntimeEnv>,
    /// Row filters that may be compiled at once.
    compiling: Arc<Semaphore>,
}

impl QueryEngine {
    /// An engine over the tables of `store`.
    pub fn new(
        store: Arc<Store>,
        meta: Arc<Meta>,
        clock: Arc<dyn Clock>,
        options: QueryOptions,
    ) -> Result<Arc<Self>, SqlError> {
        Self::with_tables(Arc::new(StoreTables::new(store, meta, None)), clock, options)
    }

    /// The same, without the rows that are not to be seen any more.
    ///
    /// # Errors
    /// As those of [`QueryEngine::new`].
    pub fn hiding(
        store: Arc<Store>,
        meta: Arc<Meta>,
        hides: Arc<dyn Hides>,
        clock: Arc<dyn Clock>,
        options: QueryOptions,
    ) -> Result<Arc<Self>, SqlError> {
        Self::with_tables(Arc::new(StoreTables::new(store, meta, Some(hides))), clock, options)
    }

    /// An engine over other tables.
    pub fn with_tables(
        tables: Arc<dyn Tables>,
        clock: Arc<dyn Clock>,
        options: QueryOptions,
    ) -> Result<Arc<Self>, SqlError> {
        let failed = |what: &'static str| {
            move |error: std::io::Error| {
                tracing::error!(%error, "cannot {what}");
                SqlError::Transient { message: format!("cannot {what}") }
            }
        };
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let threads = if options.threads == 0 { cores } else { options.threads };
        let partitions = if options.partitions == 0 { threads } else { options.partitions };
        private_directory(&options.spill_dir).map_err(failed("make the spill directory"))?;
        forget_spilled(&options.spill_dir);
        let lanes = Lanes::new(threads).map_err(failed("start the query threads"))?;
        Ok(Arc::new(Self {
            tables,
            clock,
            memory: ProcessMemory::new(options.memory_bytes),
            options,
            partitions,
            lanes,
            environments: Mutex::default(),
            filter_runtime: nothing_shared()?,
            compiling: Arc::new(Semaphore::new(threads)),
        }))
    }

    /// Bytes all running queries have reserved.
    pub fn memory_used(&self) -> usize {
        self.memory.used()
    }

    /// Forgets what is kept for a tenant. Called when a tenant is deleted.
    pub fn forget_tenant(&self, tenant: &TenantId) {
        self.environments.lock().remove(tenant);
    }

    fn environment(&self, tenant: &TenantId, limits: &QueryLimits) -> Result<Arc<Environment>, SqlError> {
        let mut environments = self.environments.lock();
        if let Some(environment) = environments.get(tenant)
            && environment.memory_bytes == limits.memory_bytes
            && environment.concurrent_max == limits.concurrent
        {
            return Ok(Arc::clone(environment));
        }
        let environment = Arc::new(match environments.get(tenant) {
            Some(before) => before.with_limits(limits.memory_bytes, limits.concurrent),
            None => Environment::new(
                tenant,
                limits.memory_bytes,
                limits.concurrent,
                &self.options.spill_dir,
                self.options.spill_bytes_max,
                &self.memory,
            )?,
        });
        environments.insert(tenant.clone(), Arc::clone(&environment));
        Ok(environment)
    }

    /// Runs a query. Returns once the first rows are there, or the end, or an error; must be
    /// called and its result read within a Tokio runtime that has timers. Dropping the result
    /// cancels the query.
    pub async fn query(&self, tenant: &TenantId, request: QueryRequest) -> Result<QueryResult, SqlError> {
        let begun = self.clock.monotonic();
        let deadline = tokio::time::Instant::now() + request.limits.time;
        let timeout = SqlError::Timeout { limit: request.limits.time };
        let environment = self.environment(tenant, &request.limits)?;
        let gated = gate(&request.sql, &table_names(&self.tables.streams(tenant)))?;
        let values = parameters(&request.params, gated.parameters)?;

        let waiting_max = environment.concurrent_max.saturating_mul(WAITING_PER_RUNNING);
        let busy = || SqlError::Busy { limit: environment.concurrent_max };
        let place = environment.place(waiting_max).ok_or_else(busy)?;
        let permit = tokio::time::timeout_at(deadline, place.acquire()).await.map_err(|_| busy())?;
        let Some(permit) = permit else { return Err(SqlError::Cancelled) };

        let stats = SharedStats::new(Arc::clone(&self.clock), begun);
        let (sender, receiver) = mpsc::channel(BATCHES_WAITING_MAX);
        let limits = request.limits;
        let (shares, memory) = environment.for_query();
        let budget = Budget::new(Arc::clone(&self.clock), limits.memory_bytes, begun, limits.time);
        let planner = Planner {
            tables: Arc::clone(&self.tables),
            tenant: tenant.clone(),
            runtime: shares,
            budget: Arc::clone(&budget),
            partitions: self.partitions,
            now: self.clock.now(),
        };
        let shared = Arc::clone(&stats);
        let place = Arc::new(permit);
        let running_place = Arc::clone(&place);
        let spawned = self.lanes.spawn(async move {
            let failed = |error: DataFusionError| from_datafusion(&error, memory.context());
            let running = run(planner, gated, values, limits, &sender, &shared, &failed);
            let outcome = match tokio::time::timeout_at(deadline, running).await {
                Ok(outcome) => outcome,
                Err(_elapsed) => Err(SqlError::Timeout { limit: limits.time }),
            };
            // What it has found keeps its place, until somebody has come for it or the deadline.
            drop(running_place);
            if let Err(error) = outcome {
                // The receiver is gone if nobody wants to know.
                let _ = sender.send(Message::Failed(error)).await;
            }
        });
        let Some((task, lane)) = spawned else { return Err(SqlError::Cancelled) };
        let rows = Rows::new(receiver, task, budget, place);
        QueryResult::start(rows, lane, deadline, timeout, stats).await
    }

    /// What a row filter is compiled with. It computes row by row, so it has no share in what the
    /// tenant's queries have.
    pub(crate) fn filter_planner(&self, tenant: &TenantId, time: Duration) -> Planner {
        Planner {
            tables: Arc::clone(&self.tables),
            tenant: tenant.clone(),
            runtime: Arc::clone(&self.filter_runtime),
            budget: Budget::new(Arc::clone(&self.clock), FILTER_BYTES_MAX, self.clock.monotonic(), time),
            partitions: 1,
            now: self.clock.now(),
        }
    }

    /// Runs `compile` on a query thread, so that it delays nothing but queries, and waits for it
    /// for `time`.
    pub(crate) async fn compile<T: Send + 'static>(
        &self,
        time: Duration,
        compile: impl FnOnce() -> Result<T, SqlError> + Send + 'static,
    ) -> Result<T, SqlError> {
        let timeout = SqlError::Timeout { limit: time };
        let deadline = tokio::time::Instant::now() + time;
        let place = tokio::time::timeout_at(deadline, Arc::clone(&self.compiling).acquire_owned());
        let Ok(place) = place.await.map_err(|_| timeout.clone())? else { return Err(SqlError::Cancelled) };
        let compiling = self.lanes.spawn_blocking(move || {
            let outcome = compile();
            drop(place);
            outcome
        });
        let Some(task) = compiling else { return Err(SqlError::Cancelled) };
        match tokio::time::timeout_at(deadline, task).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) if error.is_panic() => {
                tracing::error!("compiling a row filter panicked");
                Err(SqlError::Internal)
            }
            Ok(Err(_)) => Err(SqlError::Cancelled),
            Err(_) => Err(timeout),
        }
    }
}

/// Removes what a process that was killed had spilled.
fn forget_spilled(dir: &std::path::Path) {
    let children = |dir: &std::path::Path| -> Vec<std::path::PathBuf> {
        std::fs::read_dir(dir).map(|entries| entries.flatten().map(|entry| entry.path()).collect()).unwrap_or_default()
    };
    for tenant in children(dir) {
        for left in children(&tenant) {
            let ours =
                left.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("datafusion-"));
            if ours && let Err(error) = std::fs::remove_dir_all(&left) {
                tracing::warn!(%error, "cannot remove what an earlier process had spilled");
            }
        }
    }
}

/// What planning needs.
pub(crate) struct Planner {
    tables: Arc<dyn Tables>,
    tenant: TenantId,
    runtime: Arc<RuntimeEnv>,
    pub(crate) budget: Arc<Budget>,
    partitions: usize,
    now: weir_base::Timestamp,
}

impl Planner {
    /// A stream of the tenant.
    pub(crate) fn stream(&self, name: &str) -> Option<Arc<weir_data::streams::StreamDef>> {
        self.tables.streams(&self.tenant).into_iter().find(|stream| stream.name == name)
    }

    /// What the tenant can read.
    pub(crate) fn table_names(&self) -> Vec<String> {
        table_names(&self.tables.streams(&self.tenant))
    }

    /// A session that contains this tenant's tables and the allowed functions, and nothing else.
    pub(crate) fn state(&self) -> Result<SessionState, SqlError> {
        let mut config = SessionConfig::new()
            .with_create_default_catalog_and_schema(false)
            .with_default_catalog_and_schema(CATALOG, SCHEMA)
            .with_information_schema(false)
            .with_target_partitions(self.partitions)
            .with_batch_size(BATCH_ROWS_MAX);
        let options = config.options_mut();
        options.sql_parser.collect_spans = true;
        options.execution.enable_recursive_ctes = false;
        options.execution.collect_statistics = false;
        options.execution.parquet.pushdown_filters = true;
        options.execution.parquet.reorder_filters = true;
        options.execution.sort_spill_reservation_bytes = 1 << 20;
        options.execution.sort_pushdown_buffer_capacity = 8 << 20;
        options.explain.show_sizes = false;
        let mut planners = vec![
            Arc::new(AttributePlanner::new(self.tables.attribute_kinds(&self.tenant)?))
                as Arc<dyn datafusion::logical_expr::planner::ExprPlanner>,
            Arc::new(OperatorPlanner::new(Arc::clone(&self.budget))),
        ];
        planners.extend(SessionStateDefaults::default_expr_planners());
        Ok(SessionStateBuilder::new()
            .with_config(config)
            .with_runtime_env(Arc::clone(&self.runtime))
            .with_execution_props(
                ExecutionProps::new().with_query_execution_start_time(
                    timestamp_ns_to_datetime(self.now.0).unwrap_or_default().and_utc(),
                ),
            )
            .with_catalog_list(Arc::new(TenantCatalogs::new(Arc::clone(&self.tables), self.tenant.clone())))
            .with_expr_planners(planners)
            .with_analyzer_rule(Arc::new(CheckIntegers))
            .with_physical_optimizer_rule(Arc::new(KeepAllGroups))
            .with_physical_optimizer_rule(Arc::new(UseFewGroups))
            .with_physical_optimizer_rule(Arc::new(CountTogether))
            .with_physical_optimizer_rule(Arc::new(CompactKept))
            .with_physical_optimizer_rule(Arc::new(StopJoins(Arc::clone(&self.budget))))
            .with_scalar_functions(FUNCTIONS.scalar(&self.budget))
            .with_aggregate_functions(FUNCTIONS.aggregate.clone())
            .with_window_functions(FUNCTIONS.window.clone())
            .with_table_function_list(Vec::new())
            .with_table_factories(HashMap::new())
            .with_file_formats(Vec::new())
            .build())
    }

    async fn plan(
        &self,
        gated: &Gated,
        values: Vec<datafusion::scalar::ScalarValue>,
        limits: &QueryLimits,
        failed: &(dyn Fn(DataFusionError) -> SqlError + Send + Sync),
    ) -> Result<(Arc<TaskContext>, Arc<dyn ExecutionPlan>), SqlError> {
        let state = self.state()?;
        let names = self.table_names();
        for reference in state.resolve_table_references(&gated.statement).map_err(failed)? {
            let catalog = reference.catalog().unwrap_or(CATALOG);
            let schema = reference.schema().unwrap_or(SCHEMA);
            let known = catalog == CATALOG
                && match schema {
                    SCHEMA => names.iter().any(|name| name == reference.table()),
                    // The provider answers for its own; it says which there are.
                    INFORMATION_SCHEMA => ["columns", "schemata", "tables"].contains(&reference.table()),
                    _ => false,
                };
            if !known {
                return Err(SqlError::UnknownTable {
                    suggestion: nearest(reference.table(), names.iter().map(String::as_str)),
                    name: reference.to_string(),
                    tables: names,
                });
            }
        }
        let mut plan = state.statement_to_plan(gated.statement.clone()).await.map_err(failed)?;
        SQLOptions::new()
            .with_allow_ddl(false)
            .with_allow_dml(false)
            .with_allow_statements(false)
            .verify_plan(&plan)
            .map_err(failed)?;
        if !values.is_empty() {
            plan = plan.with_param_values(ParamValues::from(values)).map_err(failed)?;
        }
        plan_gate::check_plan_types(&plan).map_err(failed)?;
        plan_gate::check_maps(&plan).map_err(failed)?;
        if !gated.explain {
            // One row more than is given out, to know that there are more.
            plan = LogicalPlanBuilder::from(plan)
                .limit(0, Some(limits.rows.saturating_add(1).min(ROWS_MAX)))
                .and_then(LogicalPlanBuilder::build)
                .map_err(failed)?;
        }
        let plan: LogicalPlan = state.optimize(&plan).map_err(failed)?;
        plan_gate::check_patterns(&plan).map_err(failed)?;
        plan_gate::check_maps(&plan).map_err(failed)?;
        let physical = state.query_planner().create_physical_plan(&plan, &state).await.map_err(failed)?;
        plan_gate::check(&physical)?;
        let batch_rows = self.budget.planned(Places::of(&plan).map_err(failed)?)?;
        let context = TaskContext::from(&state).with_session_config(state.config().clone().with_batch_size(batch_rows));
        Ok((Arc::new(context), physical))
    }
}

/// The schema of the result: the names as they were written, without marks of ours.
fn result_schema(schema: &Schema, names: Option<&OutputNames>) -> SchemaRef {
    let columns = schema.fields().len();
    let fields: Vec<Field> = schema
        .fields()
        .iter()
        .enumerate()
        .map(|(at, field)| {
            let field = unmarked(field);
            match names.and_then(|names| names.name(at, columns)) {
                Some(name) => field.with_name(name),
                None => field,
            }
        })
        .collect();
    Arc::new(Schema::new(fields))
}

async fn run(
    planner: Planner,
    gated: Gated,
    values: Vec<datafusion::scalar::ScalarValue>,
    limits: QueryLimits,
    sender: &mpsc::Sender<Message>,
    stats: &SharedStats,
    failed: &(dyn Fn(DataFusionError) -> SqlError + Send + Sync),
) -> Result<(), SqlError> {
    let (task, plan) = planner.plan(&gated, values, &limits, failed).await?;
    stats.planned();
    let schema = result_schema(&plan.schema(), gated.names.as_ref());
    if sender.send(Message::Schema(Arc::clone(&schema))).await.is_err() {
        return Ok(());
    }
    let mut stream = execute_stream(Arc::clone(&plan), task).map_err(failed)?;
    let (mut rows, mut bytes) = (0, 0);
    while let Some(batch) = stream.next().await {
        let mut batch = batch.map_err(failed)?;
        if batch.num_rows() == 0 {
            continue;
        }
        let room = limits.rows - rows;
        let mut last = false;
        if batch.num_rows() > room {
            batch = batch.slice(0, room);
            last = true;
        }
        let size = batch_bytes(&batch);
        if bytes + size > limits.bytes && !gated.explain {
            // Whole rows, as many as are sure to fit.
            let fit = (limits.bytes.saturating_sub(bytes)).saturating_mul(batch.num_rows()) / size.max(1);
            batch = batch.slice(0, fit.min(batch.num_rows()));
            last = true;
        }
        rows += batch.num_rows();
        bytes += size;
        stats.add_rows(batch.num_rows());
        if last {
            stats.truncate();
        }
        if batch.num_rows() > 0 {
            let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
            let batch = RecordBatch::try_new_with_options(Arc::clone(&schema), batch.columns().to_vec(), &options)
                .map_err(|error| failed(error.into()))?;
            if sender.send(Message::Batch(batch)).await.is_err() {
                return Ok(());
            }
        }
        if last {
            break;
        }
    }
    drop(stream);
    stats.scanned(&plan);
    // It may hold memory, such as a side of a join, and whoever sees the end may ask for the next.
    drop(plan);
    let _ = sender.send(Message::End).await;
    Ok(())
}

/// The bytes of the rows of a batch, without what it shares with batches it was cut from.
pub(crate) fn batch_bytes(batch: &RecordBatch) -> usize {
    batch
        .columns()
        .iter()
        .map(|column| {
            let data = column.to_data();
            let texts = column.as_any().downcast_ref::<StringViewArray>().map_or(0, |texts| texts.total_bytes_len());
            data.get_slice_memory_size().unwrap_or_else(|_| data.get_array_memory_size()) + texts
        })
        .sum()
}
