//! The state of a sink that is written.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::{RecordBatch, UInt64Array};
use arrow::buffer::ScalarBuffer;
use arrow::compute::take_record_batch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use async_trait::async_trait;
use futures::future::BoxFuture;
use futures::stream::{self, StreamExt};
use serde::{Deserialize, Serialize};
use weir_base::ErrorKind;
use weir_codecs::otlp::encode::encode;
use weir_component::batch::bytes_of;
use weir_component::checkpoint::{CheckpointError, CheckpointStore};
use weir_component::operator::Aside;
use weir_component::sink::{Opening, Receipt, Sink, SinkError};

use super::answer::Answer;
use super::client::Client;
use super::outgoing::{self, REFUSED, ROWS, Refusals, UNNAMED};
use super::{OtlpDelivery, Settings};

/// Rows wait in memory up to so many bytes, then they are an object.
const OBJECT_BYTES: usize = if cfg!(test) { 2048 } else { 16 << 20 };

/// What [`Sink::commit`] needs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OtlpReceipt {
    /// The rows of the epoch, in their order.
    objects: Vec<String>,
    /// Refusals that are dead letters of this epoch.
    said: Vec<String>,
}

struct OtlpSink {
    settings: Arc<Settings>,
    client: Arc<Client>,
    kept: Arc<dyn CheckpointStore>,
    /// The columns of the rows it is given.
    schema: SchemaRef,
    /// A random number, in all names and keys of this start.
    start: u64,
    waiting: Vec<RecordBatch>,
    waiting_rows: usize,
    waiting_bytes: usize,
    /// Objects of the epoch that is being written.
    objects: Vec<String>,
    /// Objects or requests made by this start.
    count: u64,
    /// Requests that are to be sent now, with their keys; where rows are sent as they come.
    cut: Vec<(String, RecordBatch)>,
    /// Keys that were answered, of objects that are not done.
    answered: BTreeSet<String>,
    /// What has to be said was refused, with the names of its objects; and the names that were said since the last prepare.
    to_say: Vec<Aside>,
    to_name: Vec<String>,
    said: Vec<String>,
}

fn internal(doing: &str, error: &ArrowError) -> SinkError {
    SinkError::new(ErrorKind::Internal, format!("cannot {doing}: {error}"))
}

fn of_store(error: CheckpointError) -> SinkError {
    SinkError::new(error.kind, error.message)
}

fn decode_receipt(receipt: &Receipt) -> Result<OtlpReceipt, SinkError> {
    if receipt.0.is_null() {
        return Ok(OtlpReceipt::default());
    }
    OtlpReceipt::deserialize(&receipt.0)
        .map_err(|error| SinkError::new(ErrorKind::Corrupt, format!("the receipt of requests makes no sense: {error}")))
}

/// Opens the sink: sends what was decided and not sent, and removes what was not decided.
pub(super) async fn open(
    settings: Arc<Settings>,
    schema: SchemaRef,
    opened: Opening,
    kept: Arc<dyn CheckpointStore>,
) -> Result<impl Sink, SinkError> {
    let mut sink = OtlpSink {
        client: Arc::new(Client::new(Arc::clone(&settings))),
        settings,
        kept,
        schema,
        start: u64::from_be_bytes(weir_base::random::bytes()),
        waiting: Vec::new(),
        waiting_rows: 0,
        waiting_bytes: 0,
        objects: Vec::new(),
        count: 0,
        cut: Vec::new(),
        answered: BTreeSet::new(),
        to_say: Vec::new(),
        to_name: Vec::new(),
        said: Vec::new(),
    };
    let mut before: BTreeSet<String> = sink.kept.list().await.map_err(of_store)?.into_iter().collect();
    // What of an object was refused is found out again, if not all of it was sent.
    let unsent: Vec<String> = before.iter().filter_map(|name| name.strip_prefix(ROWS)).map(str::to_owned).collect();
    let is_again = |name: &str| {
        let of = name.strip_prefix(REFUSED).or_else(|| name.strip_prefix(UNNAMED));
        of.is_some_and(|of| unsent.iter().any(|unsent| of.starts_with(&format!("{unsent}."))))
    };
    for name in before.extract_if(.., |name| is_again(name)) {
        sink.kept.delete(&name).await.map_err(of_store)?;
    }
    if let Some((_, receipt)) = &opened.last {
        sink.settle(&decode_receipt(receipt)?).await?;
    }
    for name in sink.kept.list().await.map_err(of_store)? {
        if name.starts_with(ROWS) {
            sink.kept.delete(&name).await.map_err(of_store)?;
        } else if before.contains(&name) {
            // Refused before, and perhaps no dead letter yet.
            let bytes = sink.kept.read(&name).await.map_err(of_store)?.unwrap_or_default();
            let refusals = Refusals::of_object(bytes).map_err(|error| internal("read what was refused", &error))?;
            sink.to_say.extend(refusals.asides(&sink.schema));
            sink.to_name.push(name);
        }
    }
    Ok(sink)
}

/// What came of a request and the parts it was halved into.
#[derive(Default)]
struct Outcome {
    refusals: Refusals,
    error: Option<SinkError>,
}

/// Sends rows as one request; in halves, if they are too much for one.
fn send<'a>(
    settings: &'a Settings,
    client: &'a Client,
    key: String,
    rows: RecordBatch,
) -> BoxFuture<'a, Result<Outcome, ArrowError>> {
    Box::pin(async move {
        let mut outcome = Outcome::default();
        let encoded = encode(settings.signal, &rows)?;
        let part = |rows: &RecordBatch, picked: &[usize]| {
            take_record_batch(rows, &UInt64Array::from_iter_values(picked.iter().map(|row| *row as u64)))
        };
        if !encoded.unfit.is_empty() {
            let (unfit, messages): (Vec<usize>, Vec<String>) = encoded.unfit.into_iter().unzip();
            outcome.refusals.add(&part(&rows, &unfit)?, &messages)?;
        }
        let sent = encoded.order.len();
        if sent == 0 {
            return Ok(outcome);
        }
        let all = |message: String| vec![message; sent];
        match client.send(&key, &encoded.body).await {
            Answer::Taken => {}
            Answer::Partly { refused, message } if refused >= sent as u64 => {
                outcome.refusals.add(&part(&rows, &encoded.order)?, &all(message))?;
            }
            Answer::Partly { refused, message } => outcome.refusals.add_unnamed(refused, sent, &key, &message)?,
            Answer::Refused(message) => outcome.refusals.add(&part(&rows, &encoded.order)?, &all(message))?,
            Answer::TooLarge(message) if sent == 1 => {
                outcome.refusals.add(&part(&rows, &encoded.order)?, &all(message))?;
            }
            Answer::TooLarge(_) => {
                // The same halves each time, so their keys are those of the same rows.
                let fit = part(&rows, &encoded.order)?;
                let half = sent / 2;
                for (number, rows) in [fit.slice(0, half), fit.slice(half, sent - half)].into_iter().enumerate() {
                    let other = send(settings, client, format!("{key}.{number}"), rows).await?;
                    outcome.refusals.extend(other.refusals);
                    if other.error.is_some() {
                        outcome.error = other.error;
                        break;
                    }
                }
            }
            Answer::Failed(error) => outcome.error = Some(error),
        }
        Ok(outcome)
    })
}

impl OtlpSink {
    /// Sends requests, some at a time, and gives what was refused of each that came to its end. An error of one is
    /// given once all that are under way have ended.
    async fn send_all(
        &self,
        requests: Vec<(String, RecordBatch)>,
    ) -> Result<(Vec<(String, Refusals)>, Option<SinkError>), SinkError> {
        let (settings, client) = (self.settings.as_ref(), self.client.as_ref());
        let has_failed = AtomicBool::new(false);
        let has_failed = &has_failed;
        let mut under_way = stream::iter(requests)
            .map(|(key, rows)| async move {
                // What is not under way yet would meet the same.
                if has_failed.load(Ordering::Relaxed) {
                    return None;
                }
                Some((key.clone(), send(settings, client, key, rows).await))
            })
            .buffer_unordered(settings.requests_max);
        let (mut done, mut failed) = (Vec::new(), None);
        while let Some(answered) = under_way.next().await {
            let Some((key, outcome)) = answered else { continue };
            let outcome = outcome.map_err(|error| internal("make a request of rows", &error))?;
            match outcome.error {
                None => done.push((key, outcome.refusals)),
                Some(error) => {
                    has_failed.store(true, Ordering::Relaxed);
                    failed = Some(error);
                }
            }
        }
        Ok((done, failed))
    }

    /// Sends what an epoch has left to be sent, and forgets refusals that are dead letters of it.
    async fn settle(&mut self, receipt: &OtlpReceipt) -> Result<(), SinkError> {
        for name in &receipt.said {
            self.kept.delete(name).await.map_err(of_store)?;
        }
        for name in &receipt.objects {
            // One that is not there was sent.
            let Some(bytes) = self.kept.read(name).await.map_err(of_store)? else { continue };
            let batches = outgoing::decode(bytes).map_err(|error| internal("read rows that are to be sent", &error))?;
            self.send_object(name, batches).await?;
        }
        Ok(())
    }

    async fn send_object(&mut self, name: &str, batches: Vec<RecordBatch>) -> Result<(), SinkError> {
        let keyed = batches.into_iter().zip(1..).map(|(rows, number)| (format!("weir.{name}.{number}"), rows));
        let left = keyed.filter(|(key, _)| !self.answered.contains(key)).collect();
        let (done, failed) = self.send_all(left).await?;
        let mut refusals = Refusals::default();
        for (key, refused) in done {
            self.answered.insert(key);
            refusals.extend(refused);
        }
        self.keep(name, &refusals).await?;
        if let Some(error) = failed {
            return Err(error);
        }
        self.kept.delete(name).await.map_err(of_store)?;
        let done = format!("weir.{name}.");
        self.answered.retain(|key| !key.starts_with(&done));
        Ok(())
    }

    /// Makes refusals durable: whoever takes over says them again, until they are dead letters.
    async fn keep(&mut self, name: &str, refusals: &Refusals) -> Result<(), SinkError> {
        if refusals.is_empty() {
            return Ok(());
        }
        let objects = refusals.objects().map_err(|error| internal("keep what was refused", &error))?;
        for (prefix, bytes) in objects {
            self.count += 1;
            let name = format!("{prefix}{}.{:016x}.{:08}", name.trim_start_matches(ROWS), self.start, self.count);
            self.kept.create(&name, &bytes).await.map_err(of_store)?;
            self.to_name.push(name);
        }
        self.to_say.extend(refusals.clone().asides(&self.schema));
        Ok(())
    }

    /// A name that no other object and no other request has.
    fn name(&self, number: u64) -> String {
        format!("{ROWS}{:016x}.{number:08}", self.start)
    }

    fn take_waiting(&mut self) -> Result<Vec<RecordBatch>, SinkError> {
        let Settings { request_rows_max, request_bytes_max, .. } = *self.settings;
        let requests = outgoing::requests(&self.waiting, request_rows_max, request_bytes_max);
        let requests = requests.map_err(|error| internal("make requests of rows", &error))?;
        self.waiting.clear();
        (self.waiting_rows, self.waiting_bytes) = (0, 0);
        Ok(requests)
    }

    /// Makes an object of the rows that wait.
    async fn make_object(&mut self) -> Result<(), SinkError> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let Settings { request_rows_max, request_bytes_max, .. } = *self.settings;
        let requests = outgoing::requests(&self.waiting, request_rows_max, request_bytes_max);
        let bytes = requests.and_then(|requests| outgoing::encode(&requests));
        let bytes = bytes.map_err(|error| internal("make requests of rows", &error))?;
        // After a failure the same rows are written under the same name.
        let name = self.name(self.count + 1);
        self.kept.create(&name, &bytes).await.map_err(of_store)?;
        self.count += 1;
        self.objects.push(name);
        self.waiting.clear();
        (self.waiting_rows, self.waiting_bytes) = (0, 0);
        Ok(())
    }

    /// Sends the rows that wait, where they are sent as they come.
    async fn send_waiting(&mut self) -> Result<(), SinkError> {
        if !self.waiting.is_empty() {
            for rows in self.take_waiting()? {
                self.count += 1;
                let key = format!("weir.{}", self.name(self.count));
                self.cut.push((key, rows));
            }
        }
        let (done, failed) = self.send_all(self.cut.clone()).await?;
        for (key, refusals) in done {
            self.cut.retain(|(other, _)| *other != key);
            self.to_say.extend(refusals.asides(&self.schema));
        }
        failed.map_or(Ok(()), Err)
    }
}

#[async_trait]
impl Sink for OtlpSink {
    async fn write(&mut self, rows: &RecordBatch) -> Result<(), SinkError> {
        self.write_timed(rows, &vec![0; rows.num_rows()].into()).await
    }

    async fn write_timed(&mut self, rows: &RecordBatch, times: &ScalarBuffer<i64>) -> Result<(), SinkError> {
        let Settings { request_rows_max, request_bytes_max, .. } = *self.settings;
        match self.settings.delivery {
            OtlpDelivery::Idempotent if self.waiting_bytes >= OBJECT_BYTES => self.make_object().await?,
            // As many as can be under way at once.
            OtlpDelivery::AtLeastOnce
                if !self.cut.is_empty()
                    || self.waiting_rows >= request_rows_max * self.settings.requests_max
                    || self.waiting_bytes >= request_bytes_max * self.settings.requests_max =>
            {
                self.send_waiting().await?;
            }
            _ => {}
        }
        if rows.num_rows() > 0 {
            let rows = outgoing::with_time(rows, times);
            let rows = rows.map_err(|error| internal("give rows a time", &error))?;
            self.waiting_rows += rows.num_rows();
            self.waiting_bytes += bytes_of(&rows);
            self.waiting.push(rows);
        }
        Ok(())
    }

    async fn prepare(&mut self, _epoch: u64) -> Result<Receipt, SinkError> {
        match self.settings.delivery {
            OtlpDelivery::Idempotent => self.make_object().await?,
            OtlpDelivery::AtLeastOnce => self.send_waiting().await?,
        }
        let receipt = OtlpReceipt { objects: std::mem::take(&mut self.objects), said: std::mem::take(&mut self.said) };
        let receipt = serde_json::to_value(receipt)
            .map_err(|error| SinkError::new(ErrorKind::Internal, format!("cannot write a receipt: {error}")))?;
        Ok(Receipt(receipt))
    }

    async fn commit(&mut self, _epoch: u64, receipt: &Receipt) -> Result<(), SinkError> {
        self.settle(&decode_receipt(receipt)?).await
    }

    fn refused(&mut self) -> Vec<Aside> {
        self.said.append(&mut self.to_name);
        std::mem::take(&mut self.to_say)
    }
}
