//! Events as Arrow batches, and in files.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use arrow::array::{ArrayRef, Int64Builder, RecordBatch, StringBuilder, TimestampNanosecondBuilder};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use parquet::arrow::ArrowWriter;

use crate::events::{Event, Events};

/// Rows of a batch, as the benchmark's description has it.
pub(crate) const BATCH_ROWS: usize = 8192;
/// The column with the event time.
pub(crate) const TIME: &str = "date_time";

/// The table at the side, and how many keys it has.
const SIDE: &str = "side";
const SIDE_KEYS: i64 = 10_000;

const PERSON: &[(&str, Type)] = &[
    ("id", Type::Number),
    ("name", Type::Text),
    ("email_address", Type::Text),
    ("credit_card", Type::Text),
    ("city", Type::Text),
    ("state", Type::Text),
    (TIME, Type::Time),
    ("extra", Type::Text),
];
const AUCTION: &[(&str, Type)] = &[
    ("id", Type::Number),
    ("item_name", Type::Text),
    ("description", Type::Text),
    ("initial_bid", Type::Number),
    ("reserve", Type::Number),
    (TIME, Type::Time),
    ("expires", Type::Time),
    ("seller", Type::Number),
    ("category", Type::Number),
    ("extra", Type::Text),
];
const BID: &[(&str, Type)] = &[
    ("auction", Type::Number),
    ("bidder", Type::Number),
    ("price", Type::Number),
    ("channel", Type::Text),
    ("url", Type::Text),
    (TIME, Type::Time),
    ("extra", Type::Text),
];

#[derive(Clone, Copy)]
enum Type {
    Number,
    Text,
    Time,
}

/// The rows of one kind of event, in batches.
#[derive(Clone)]
pub(crate) struct Table {
    pub(crate) schema: SchemaRef,
    pub(crate) batches: Arc<[RecordBatch]>,
}

impl Table {
    pub(crate) fn rows(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }

    /// Writes a Parquet file.
    pub(crate) fn to_parquet(&self, path: &Path) -> Result<()> {
        to_parquet(&self.schema, &self.batches, path)
    }

    /// Writes Arrow IPC, for a program that reads it into memory again.
    pub(crate) fn to_arrow(&self, path: &Path) -> Result<()> {
        let file = BufWriter::new(create(path)?);
        let mut writer = arrow_ipc::writer::FileWriter::try_new(file, &self.schema)?;
        for batch in self.batches.iter() {
            writer.write(batch)?;
        }
        writer.finish()?;
        Ok(())
    }

    /// Writes a JSON object a line.
    pub(crate) fn to_ndjson(&self, path: &Path) -> Result<()> {
        let mut writer = arrow::json::LineDelimitedWriter::new(BufWriter::new(create(path)?));
        for batch in self.batches.iter() {
            writer.write(batch)?;
        }
        writer.finish()?;
        writer.into_inner().flush()?;
        Ok(())
    }
}

fn create(path: &Path) -> Result<File> {
    File::create(path).with_context(|| format!("cannot create {}", path.display()))
}

/// Writes batches to a Parquet file.
pub(crate) fn to_parquet(schema: &SchemaRef, batches: &[RecordBatch], path: &Path) -> Result<()> {
    let mut writer = ArrowWriter::try_new(create(path)?, Arc::clone(schema), None)?;
    for batch in batches {
        writer.write(batch)?;
    }
    writer.close()?;
    Ok(())
}

/// All events there are.
pub(crate) struct Tables {
    pub(crate) person: Table,
    pub(crate) auction: Table,
    pub(crate) bid: Table,
    /// What q13 looks up.
    side: Table,
}

impl Tables {
    /// The first `events` events of a seed.
    pub(crate) fn generate(seed: u64, events: u64, rate: u64) -> Result<Self> {
        let mut sequence = Events::new(seed, rate);
        let (mut people, mut auctions, mut bids) = (Rows::new(PERSON), Rows::new(AUCTION), Rows::new(BID));
        for _ in 0..events {
            let (time, event) = sequence.next();
            match event {
                Event::Person(person) => {
                    people.number(0, person.id);
                    people.text(1, &person.name);
                    people.text(2, &person.email);
                    people.text(3, &person.credit_card);
                    people.text(4, person.city);
                    people.text(5, person.state);
                    people.time(6, time);
                    people.text(7, &person.extra);
                    people.end()?;
                }
                Event::Auction(auction) => {
                    auctions.number(0, auction.id);
                    auctions.text(1, &auction.item_name);
                    auctions.text(2, &auction.description);
                    auctions.number(3, auction.initial_bid);
                    auctions.number(4, auction.reserve);
                    auctions.time(5, time);
                    auctions.time(6, auction.expires);
                    auctions.number(7, auction.seller);
                    auctions.number(8, auction.category);
                    auctions.text(9, &auction.extra);
                    auctions.end()?;
                }
                Event::Bid(bid) => {
                    bids.number(0, bid.auction);
                    bids.number(1, bid.bidder);
                    bids.number(2, bid.price);
                    bids.text(3, &bid.channel);
                    bids.text(4, &bid.url);
                    bids.time(5, time);
                    bids.text(6, &bid.extra);
                    bids.end()?;
                }
            }
        }
        Ok(Self { person: people.table()?, auction: auctions.table()?, bid: bids.table()?, side: side()? })
    }

    /// The tables with the names of their streams.
    pub(crate) fn all(&self) -> [(&'static str, &Table); 3] {
        [("person", &self.person), ("auction", &self.auction), ("bid", &self.bid)]
    }

    /// The same and the table at the side, to look them up.
    pub(crate) fn by_name(&self) -> BTreeMap<String, Table> {
        let side = [(SIDE, &self.side)];
        self.all().into_iter().chain(side).map(|(name, table)| (name.to_owned(), table.clone())).collect()
    }
}

/// A value for each of so many keys.
fn side() -> Result<Table> {
    let mut rows = Rows::new(&[("key", Type::Number), ("value", Type::Text)]);
    for key in 0..SIDE_KEYS {
        rows.number(0, key);
        rows.text(1, &key.to_string());
        rows.end()?;
    }
    rows.table()
}

/// Columns that are being filled.
enum Column {
    Number(Int64Builder),
    Text(StringBuilder),
    Time(TimestampNanosecondBuilder),
}

/// Rows of a table that is being made. A row is one call for each column, then [`Rows::end`].
struct Rows {
    schema: SchemaRef,
    columns: Vec<Column>,
    n_rows: usize,
    batches: Vec<RecordBatch>,
}

impl Rows {
    fn new(columns: &[(&str, Type)]) -> Self {
        let utc = || DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into()));
        let field = |(name, kind): &(&str, Type)| {
            let data_type = match kind {
                Type::Number => DataType::Int64,
                Type::Text => DataType::Utf8,
                Type::Time => utc(),
            };
            Field::new(*name, data_type, true)
        };
        let made = columns.iter().map(|(_, kind)| match kind {
            Type::Number => Column::Number(Int64Builder::with_capacity(BATCH_ROWS)),
            Type::Text => Column::Text(StringBuilder::new()),
            Type::Time => Column::Time(TimestampNanosecondBuilder::with_capacity(BATCH_ROWS).with_data_type(utc())),
        });
        Self {
            schema: Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>())),
            columns: made.collect(),
            n_rows: 0,
            batches: Vec::new(),
        }
    }

    fn number(&mut self, column: usize, value: i64) {
        if let Column::Number(builder) = &mut self.columns[column] {
            builder.append_value(value);
        }
    }

    fn text(&mut self, column: usize, value: &str) {
        if let Column::Text(builder) = &mut self.columns[column] {
            builder.append_value(value);
        }
    }

    /// A time in milliseconds since 1970.
    fn time(&mut self, column: usize, millis: i64) {
        if let Column::Time(builder) = &mut self.columns[column] {
            builder.append_value(millis * 1_000_000);
        }
    }

    fn end(&mut self) -> Result<()> {
        self.n_rows += 1;
        if self.n_rows == BATCH_ROWS { self.cut() } else { Ok(()) }
    }

    fn cut(&mut self) -> Result<()> {
        if self.n_rows > 0 {
            let columns = self.columns.iter_mut().map(|column| -> ArrayRef {
                match column {
                    Column::Number(builder) => Arc::new(builder.finish()),
                    Column::Text(builder) => Arc::new(builder.finish()),
                    Column::Time(builder) => Arc::new(builder.finish()),
                }
            });
            self.batches.push(RecordBatch::try_new(Arc::clone(&self.schema), columns.collect())?);
            self.n_rows = 0;
        }
        Ok(())
    }

    fn table(mut self) -> Result<Table> {
        self.cut()?;
        Ok(Table { schema: self.schema, batches: self.batches.into() })
    }
}
