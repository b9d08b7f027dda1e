//! Metrics: the table of metrics, one of data points for each kind, and their exemplars.

use super::column::Column;
use super::ipc::{Budget, Columns, broken};
use super::payload::PayloadType;
use super::protobuf::{Result, Writer};
use super::star::{Attributes, Cells, Ids, Index, Origins, Want, cells, ids, run_ids_by, table};
use super::stream::Tables;

/// Writes an `ExportMetricsServiceRequest`.
pub(super) fn write(tables: &Tables<'_>, budget: &mut Budget, out: &mut Writer) -> Result {
    let main = table(tables, PayloadType::UnivariateMetrics, budget)?;
    let Columns { rows, columns } = main;
    let get = |name, want| cells(columns, name, want);
    let metrics = Metrics {
        ids: ids(get("id", Want::Int)?, *rows),
        kind: get("metric_type", Want::Int)?,
        name: get("name", Want::Text)?,
        description: get("description", Want::Text)?,
        unit: get("unit", Want::Text)?,
        temporality: get("aggregation_temporality", Want::Int)?,
        is_monotonic: get("is_monotonic", Want::Bool)?,
        metadata: Attributes::new(tables, PayloadType::MetricAttrs, budget)?,
        numbers: Points::new(tables, &NUMBERS, budget)?,
        histograms: Points::new(tables, &HISTOGRAMS, budget)?,
        exponentials: Points::new(tables, &EXPONENTIALS, budget)?,
        summaries: Points::new(tables, &SUMMARIES, budget)?,
    };
    Origins::new(main, tables, budget)?.write(out, |row, out| out.message(2, |out| metrics.write(row, out)))
}

/// The table `UNIVARIATE_METRICS`.
struct Metrics<'t> {
    ids: Ids,
    kind: Cells<'t>,
    name: Cells<'t>,
    description: Cells<'t>,
    unit: Cells<'t>,
    temporality: Cells<'t>,
    is_monotonic: Cells<'t>,
    metadata: Attributes<'t>,
    numbers: Points<'t>,
    histograms: Points<'t>,
    exponentials: Points<'t>,
    summaries: Points<'t>,
}

impl Metrics<'_> {
    fn write(&self, row: usize, out: &mut Writer) -> Result {
        let id = self.ids[row];
        out.bytes(1, self.name.bytes(row))?;
        out.bytes(2, self.description.bytes(row))?;
        out.bytes(3, self.unit.bytes(row))?;
        self.metadata.write(12, id, out)?;
        // The kinds by their numbers in OTAP, and where their points are.
        let (field, points) = match self.kind.int(row) {
            None | Some(0) => return Ok(()),
            Some(1) => (5, &self.numbers),
            Some(2) => (7, &self.numbers),
            Some(3) => (9, &self.histograms),
            Some(4) => (10, &self.exponentials),
            Some(5) => (11, &self.summaries),
            Some(kind) => return Err(broken(format!("a metric is of type {kind}, which is not known"))),
        };
        out.group(field, |out| {
            points.write(id, out)?;
            if matches!(field, 7 | 9 | 10) {
                out.varint(2, self.temporality.int(row))?;
            }
            if field == 7 {
                out.bool(3, self.is_monotonic.bool(row))?;
            }
            Ok(())
        })
    }
}

/// How a column of points is written.
#[derive(Clone, Copy, Debug)]
enum As {
    Time,
    /// An unsigned integer of 64 bits.
    Count,
    Int,
    Double,
    Flags,
    Scale,
    Counts,
    Doubles,
    Buckets,
    Quantiles,
}

impl As {
    const fn want(self) -> Want {
        match self {
            Self::Time => Want::Time,
            Self::Count | Self::Int | Self::Flags | Self::Scale => Want::Int,
            Self::Double => Want::Double,
            Self::Counts | Self::Doubles | Self::Quantiles => Want::List,
            Self::Buckets => Want::Struct,
        }
    }
}

/// A kind of data points: its tables, and its columns with the fields they become.
struct PointKind {
    points: PayloadType,
    attributes: (PayloadType, u32),
    exemplars: Option<(PayloadType, PayloadType, u32)>,
    columns: &'static [(&'static str, u32, As)],
}

static NUMBERS: PointKind = PointKind {
    points: PayloadType::NumberDataPoints,
    attributes: (PayloadType::NumberDpAttrs, 7),
    exemplars: Some((PayloadType::NumberDpExemplars, PayloadType::NumberDpExemplarAttrs, 5)),
    columns: &[
        ("start_time_unix_nano", 2, As::Time),
        ("time_unix_nano", 3, As::Time),
        // Of two values the last one counts, and the project's own reader prefers the double.
        ("int_value", 6, As::Int),
        ("double_value", 4, As::Double),
        ("flags", 8, As::Flags),
    ],
};

static HISTOGRAMS: PointKind = PointKind {
    points: PayloadType::HistogramDataPoints,
    attributes: (PayloadType::HistogramDpAttrs, 9),
    exemplars: Some((PayloadType::HistogramDpExemplars, PayloadType::HistogramDpExemplarAttrs, 8)),
    columns: &[
        ("start_time_unix_nano", 2, As::Time),
        ("time_unix_nano", 3, As::Time),
        ("count", 4, As::Count),
        ("sum", 5, As::Double),
        ("bucket_counts", 6, As::Counts),
        ("explicit_bounds", 7, As::Doubles),
        ("flags", 10, As::Flags),
        ("min", 11, As::Double),
        ("max", 12, As::Double),
    ],
};

static EXPONENTIALS: PointKind = PointKind {
    points: PayloadType::ExpHistogramDataPoints,
    attributes: (PayloadType::ExpHistogramDpAttrs, 1),
    exemplars: Some((PayloadType::ExpHistogramDpExemplars, PayloadType::ExpHistogramDpExemplarAttrs, 11)),
    columns: &[
        ("start_time_unix_nano", 2, As::Time),
        ("time_unix_nano", 3, As::Time),
        ("count", 4, As::Count),
        ("sum", 5, As::Double),
        ("scale", 6, As::Scale),
        ("zero_count", 7, As::Count),
        ("positive", 8, As::Buckets),
        ("negative", 9, As::Buckets),
        ("flags", 10, As::Flags),
        ("min", 12, As::Double),
        ("max", 13, As::Double),
        ("zero_threshold", 14, As::Double),
    ],
};

static SUMMARIES: PointKind = PointKind {
    points: PayloadType::SummaryDataPoints,
    attributes: (PayloadType::SummaryDpAttrs, 7),
    exemplars: None,
    columns: &[
        ("start_time_unix_nano", 2, As::Time),
        ("time_unix_nano", 3, As::Time),
        ("count", 4, As::Count),
        ("sum", 5, As::Double),
        ("quantile", 6, As::Quantiles),
        ("flags", 8, As::Flags),
    ],
};

/// A table of data points.
struct Points<'t> {
    ids: Ids,
    index: Index,
    columns: Vec<(Cells<'t>, u32, As)>,
    attributes: (Attributes<'t>, u32),
    exemplars: Option<(Exemplars<'t>, u32)>,
}

impl<'t> Points<'t> {
    fn new(tables: &'t Tables<'t>, kind: &PointKind, budget: &mut Budget) -> Result<Self> {
        let Columns { rows, columns } = table(tables, kind.points, budget)?;
        // These ids are one run from beginning to end.
        let parents = ids(cells(columns, "parent_id", Want::Int)?, *rows);
        let (attributes, field) = kind.attributes;
        Ok(Self {
            ids: ids(cells(columns, "id", Want::Int)?, *rows),
            index: Index::new(&parents),
            columns: kind
                .columns
                .iter()
                .map(|(name, field, written)| Ok((cells(columns, name, written.want())?, *field, *written)))
                .collect::<Result<_>>()?,
            attributes: (Attributes::new(tables, attributes, budget)?, field),
            exemplars: match kind.exemplars {
                None => None,
                Some((exemplars, attributes, field)) => {
                    Some((Exemplars::new(tables, exemplars, attributes, budget)?, field))
                }
            },
        })
    }

    fn write(&self, metric: Option<u32>, out: &mut Writer) -> Result {
        for row in self.index.of(metric) {
            out.message(1, |out| {
                for (cells, field, written) in &self.columns {
                    write_cell(*cells, row, *field, *written, out)?;
                }
                let (attributes, field) = &self.attributes;
                attributes.write(*field, self.ids[row], out)?;
                match &self.exemplars {
                    Some((exemplars, field)) => exemplars.write(*field, self.ids[row], out),
                    None => Ok(()),
                }
            })?;
        }
        Ok(())
    }
}

fn write_cell(cells: Cells<'_>, row: usize, field: u32, written: As, out: &mut Writer) -> Result {
    match written {
        As::Time | As::Count | As::Int => out.fixed64(field, cells.int(row)),
        As::Double => out.double(field, cells.double(row)),
        As::Flags => out.varint(field, cells.int(row)),
        As::Scale => out.zigzag(field, cells.int(row)),
        As::Counts | As::Doubles => write_elements(cells, row, field, written, out),
        As::Buckets => {
            if !cells.is_some(row) {
                return Ok(());
            }
            let columns = cells.fields();
            let (offset, counts) = buckets(columns)?;
            out.message(field, |out| {
                out.zigzag(1, offset.int(row))?;
                let Some((item, range)) = counts.list(row) else { return Ok(()) };
                expect(item, Want::Int)?;
                range.into_iter().try_for_each(|at| out.varint(2, Some(item.int(at).unwrap_or_default())))
            })
        }
        As::Quantiles => {
            let Some((item, range)) = cells.list(row) else { return Ok(()) };
            expect(item, Want::Struct)?;
            let columns = item.columns();
            let quantile = super::star::cells(columns, "quantile", Want::Double)?;
            let value = super::star::cells(columns, "value", Want::Double)?;
            for at in range {
                out.message(field, |out| {
                    out.double(1, quantile.double(at))?;
                    out.double(2, value.double(at))
                })?;
            }
            Ok(())
        }
    }
}

fn buckets<'t>(columns: &'t [Column<'t>]) -> Result<(Cells<'t>, Cells<'t>)> {
    Ok((cells(columns, "offset", Want::Int)?, cells(columns, "bucket_counts", Want::List)?))
}

/// Checks the type of the elements of a list.
fn expect(item: &Column<'_>, want: Want) -> Result {
    if want.takes(item.kind()) {
        return Ok(());
    }
    Err(broken(format!("the elements of a list are {:?}, and {want:?} is needed", item.kind())))
}

fn write_elements(cells: Cells<'_>, row: usize, field: u32, written: As, out: &mut Writer) -> Result {
    let Some((item, mut range)) = cells.list(row) else { return Ok(()) };
    if matches!(written, As::Counts) {
        expect(item, Want::Int)?;
        range.try_for_each(|at| out.fixed64(field, Some(item.int(at).unwrap_or_default())))
    } else {
        expect(item, Want::Double)?;
        range.try_for_each(|at| out.double(field, Some(item.double(at).unwrap_or_default())))
    }
}

/// A table of exemplars.
struct Exemplars<'t> {
    ids: Ids,
    index: Index,
    time: Cells<'t>,
    double: Cells<'t>,
    int: Cells<'t>,
    span_id: Cells<'t>,
    trace_id: Cells<'t>,
    attributes: Attributes<'t>,
}

impl<'t> Exemplars<'t> {
    fn new(
        tables: &'t Tables<'t>,
        exemplars: PayloadType,
        attributes: PayloadType,
        budget: &mut Budget,
    ) -> Result<Self> {
        let Columns { rows, columns } = table(tables, exemplars, budget)?;
        let double = cells(columns, "double_value", Want::Double)?;
        let int = cells(columns, "int_value", Want::Int)?;
        let parents = run_ids_by(cells(columns, "parent_id", Want::Int)?, *rows, &[int, double]);
        Ok(Self {
            ids: ids(cells(columns, "id", Want::Int)?, *rows),
            index: Index::new(&parents),
            time: cells(columns, "time_unix_nano", Want::Time)?,
            double,
            int,
            span_id: cells(columns, "span_id", Want::Bytes)?,
            trace_id: cells(columns, "trace_id", Want::Bytes)?,
            attributes: Attributes::new(tables, attributes, budget)?,
        })
    }

    fn write(&self, field: u32, point: Option<u32>, out: &mut Writer) -> Result {
        for row in self.index.of(point) {
            out.message(field, |out| {
                out.fixed64(2, self.time.int(row))?;
                out.fixed64(6, self.int.int(row))?;
                out.double(3, self.double.double(row))?;
                out.bytes(4, self.span_id.bytes(row))?;
                out.bytes(5, self.trace_id.bytes(row))?;
                self.attributes.write(7, self.ids[row], out)
            })?;
        }
        Ok(())
    }
}
