//! Aggregates that a document defines by what one row comes to, how two of those are put together, and what is made of
//! the last one.
//!
//! A call is written out like that of any defined function: as its last expression over the fields of a structure. The
//! structure is what this function here makes of the structures of rows, by putting two together again and again. Rows of
//! a batch are put together pair by pair, those of all groups at once, so an expression is evaluated a dozen times for
//! a batch and not once a row.
//!
//! That the result does not depend on the order of rows, nor on how they are cut into batches, is up to the expression:
//! it has to be the same whichever two are put together first. Nobody can tell that of an expression; `weir test` cuts
//! rows in many ways, and shows where it is not so.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, StructArray, UInt32Array, new_null_array};
use arrow::buffer::NullBuffer;
use arrow::compute::{cast, interleave, take};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use datafusion::common::{Result, exec_datafusion_err, not_impl_err, plan_datafusion_err, plan_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::format_state_name;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, EmitTo, GroupsAccumulator, Signature, Volatility,
};
use parking_lot::Mutex;

use crate::error::SqlError;
use crate::expressions::{Language, Scalar};

/// What the names of these functions begin with. No name of a user begins like that.
pub(crate) const FOLD: &str = "__fold_";
/// What stands before the fields of the other structure. No name of a user has a point in it.
pub(crate) const OTHER: &str = "other.";

/// How two structures are put together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Merge {
    /// The function.
    pub(crate) name: String,
    /// What the user calls it.
    pub(crate) shown: String,
    /// Each field with its expression over the fields of both.
    pub(crate) fields: Vec<(String, String)>,
}

/// The function of a definition. Its expressions are compiled with `language`.
pub(crate) fn function(merge: &Merge, language: &Arc<Language>) -> Arc<AggregateUDF> {
    let signature = Signature::user_defined(Volatility::Immutable);
    let fold = Fold { merge: merge.clone(), signature, language: Arc::clone(language), compiled: Mutex::default() };
    Arc::new(AggregateUDF::from(fold))
}

#[derive(Debug)]
struct Fold {
    merge: Merge,
    signature: Signature,
    language: Arc<Language>,
    /// By the fields of the structure.
    compiled: Mutex<HashMap<Fields, Arc<Compiled>>>,
}

impl PartialEq for Fold {
    fn eq(&self, other: &Self) -> bool {
        self.merge == other.merge
    }
}

impl Eq for Fold {}

impl Hash for Fold {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.merge.hash(hasher);
    }
}

/// The expressions for structures of some type.
#[derive(Debug)]
struct Compiled {
    fields: Fields,
    /// The fields of both.
    both: SchemaRef,
    merge: Vec<Scalar>,
}

/// The type of a field of a structure: as it is at the edges of a pipeline.
fn plain(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::Dictionary(_, value) => plain(value),
        other => other.clone(),
    }
}

fn fields_of(data_type: &DataType) -> Option<Fields> {
    let DataType::Struct(fields) = data_type else { return None };
    let field = |field: &FieldRef| Field::new(field.name(), plain(field.data_type()), true);
    Some(fields.iter().map(field).collect())
}

impl Fold {
    fn compile(&self, fields: &Fields) -> Result<Arc<Compiled>> {
        if let Some(compiled) = self.compiled.lock().get(fields) {
            return Ok(Arc::clone(compiled));
        }
        let other = fields.iter().map(|field| Arc::new(field.as_ref().clone().with_name(other(field.name()))));
        let both: SchemaRef = Arc::new(Schema::new(fields.iter().map(Arc::clone).chain(other).collect::<Vec<_>>()));
        let mut merge = Vec::with_capacity(fields.len());
        let shown = &self.merge.shown;
        for field in fields {
            let name = field.name();
            let text = self.merge.fields.iter().find(|(known, _)| known == name).map(|(_, text)| text);
            let text = text.ok_or_else(|| plan_datafusion_err!("{shown} does not say how two `{name}` are merged"))?;
            let value = self.language.scalar(&both, name, text);
            let value = value.map_err(|error| plan_datafusion_err!("two `{name}` of {shown}: {error}"))?;
            let (before, after) = (field.data_type(), value.field().data_type());
            let is_decimal = before.is_decimal() && after.is_decimal();
            if before != after && !is_decimal {
                return plan_err!(
                    "`{name}` of {shown} is {before} for a row and {after} when two are merged: cast one"
                );
            }
            merge.push(value);
        }
        let compiled = Arc::new(Compiled { fields: fields.clone(), both, merge });
        self.compiled.lock().insert(fields.clone(), Arc::clone(&compiled));
        Ok(compiled)
    }
}

/// What a field of the other structure is called.
pub(crate) fn other(field: &str) -> String {
    format!("{OTHER}{field}")
}

impl AggregateUDFImpl for Fold {
    fn name(&self) -> &str {
        &self.merge.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        let fields = arguments.first().and_then(fields_of);
        let fields = fields.ok_or_else(|| plan_datafusion_err!("{} is called with a structure", self.merge.name))?;
        if let Some(field) = fields.iter().find(|field| field.data_type().is_null()) {
            return plan_err!("`{}` of {} is always null for a row: cast it", field.name(), self.merge.shown);
        }
        Ok(vec![DataType::Struct(fields)])
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        let fields = arguments.first().and_then(fields_of).unwrap_or_default();
        Ok(DataType::Struct(fields))
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        // Whoever plans a call asks for that, and is told what is wrong: nothing is wrong any more when it runs.
        self.compile(&fields_of(args.return_field.data_type()).unwrap_or_default())?;
        let name = format_state_name(args.name, "state");
        Ok(vec![Arc::new(Field::new(name, args.return_field.data_type().clone(), true))])
    }

    fn accumulator(&self, _args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        not_impl_err!("{} is computed for many groups at once", self.merge.name)
    }

    fn groups_accumulator_supported(&self, _args: AccumulatorArgs) -> bool {
        true
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        if args.is_distinct {
            return plan_err!("{} of distinct values is not there", self.merge.shown);
        }
        let fields = fields_of(args.return_field.data_type()).unwrap_or_default();
        Ok(Box::new(Folded::new(self.compile(&fields)?)))
    }
}

/// After so many pieces the structures of groups are put into one.
const PIECES_MAX: usize = 64;
/// The piece that is one null.
const NOTHING: (u32, u32) = (0, 0);

/// The structures of groups.
struct Folded {
    compiled: Arc<Compiled>,
    /// The fields of structures, piece by piece: what comes of a batch is a piece, and what it takes the place of is of
    /// no use any more.
    pieces: Vec<Vec<ArrayRef>>,
    /// In which piece, and where in it, that of each group is.
    places: Vec<(u32, u32)>,
    /// Rows in all pieces.
    rows: usize,
    bytes: usize,
}

/// Structures, and the group of each.
struct Grouped {
    columns: Vec<ArrayRef>,
    groups: Vec<usize>,
}

impl Folded {
    fn new(compiled: Arc<Compiled>) -> Self {
        let nothing = compiled.fields.iter().map(|field| new_null_array(field.data_type(), 1)).collect();
        Self { compiled, pieces: vec![nothing], places: Vec::new(), rows: 0, bytes: 0 }
    }

    /// Puts structures together, two and two.
    fn merge(&self, one: Vec<ArrayRef>, other: Vec<ArrayRef>) -> Result<Vec<ArrayRef>> {
        let both = RecordBatch::try_new(Arc::clone(&self.compiled.both), [one, other].concat())?;
        let merged = self.compiled.merge.iter().zip(&self.compiled.fields).map(|(value, field)| {
            let merged = value.evaluate(&both).map_err(SqlError::into_datafusion)?;
            Ok(if merged.data_type() == field.data_type() { merged } else { cast(&merged, field.data_type())? })
        });
        merged.collect()
    }

    /// Adds the structures of rows.
    fn add(&mut self, values: &ArrayRef, groups: &[usize], filter: Option<&BooleanArray>, total: usize) -> Result<()> {
        self.places.resize(total, NOTHING);
        let structs = values.as_struct_opt().ok_or_else(|| exec_datafusion_err!("it is no structure"))?;
        let is_in = |row: &usize| {
            structs.is_valid(*row) && filter.is_none_or(|filter| filter.is_valid(*row) && filter.value(*row))
        };
        let mut rows: Vec<usize> = (0..structs.len()).filter(is_in).collect();
        if rows.is_empty() {
            return Ok(());
        }
        rows.sort_by_key(|row| groups[*row]);
        let indices: UInt32Array = rows.iter().map(|row| u32::try_from(*row).ok()).collect();
        let columns = structs.columns().iter().zip(&self.compiled.fields).map(|(column, field)| {
            let taken = take(column, &indices, None)?;
            Ok(if taken.data_type() == field.data_type() { taken } else { cast(&taken, field.data_type())? })
        });
        let columns: Vec<ArrayRef> = columns.collect::<Result<_>>()?;
        let groups = rows.iter().map(|row| groups[*row]).collect();
        let one_each = self.one_each(Grouped { columns, groups })?;
        self.put(one_each)
    }

    /// One structure for each group, of those of its rows, which stand together.
    fn one_each(&self, mut grouped: Grouped) -> Result<Grouped> {
        loop {
            let (mut one, mut other, mut places, mut groups) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
            let mut at = 0;
            while at < grouped.groups.len() {
                let group = grouped.groups[at];
                let index = u32::try_from(at).map_err(|error| exec_datafusion_err!("{error}"))?;
                groups.push(group);
                if grouped.groups.get(at + 1) == Some(&group) {
                    places.push((1, one.len()));
                    one.push(index);
                    other.push(index + 1);
                    at += 2;
                } else {
                    places.push((0, at));
                    at += 1;
                }
            }
            if one.is_empty() {
                return Ok(grouped);
            }
            let part = |rows: Vec<u32>| {
                let rows = UInt32Array::from(rows);
                let columns = grouped.columns.iter().map(|column| Ok(take(column, &rows, None)?));
                columns.collect::<Result<Vec<ArrayRef>>>()
            };
            let merged = self.merge(part(one)?, part(other)?)?;
            let columns = grouped.columns.iter().zip(&merged);
            let columns = columns.map(|(before, merged)| Ok(interleave(&[before.as_ref(), merged.as_ref()], &places)?));
            grouped = Grouped { columns: columns.collect::<Result<_>>()?, groups };
        }
    }

    /// Puts the structure of each group together with the one there is of it.
    fn put(&mut self, grouped: Grouped) -> Result<()> {
        let Grouped { columns, groups } = grouped;
        let is_known = |at: &usize| self.places[groups[*at]] != NOTHING;
        let known: Vec<usize> = (0..groups.len()).filter(is_known).collect();
        let columns = if known.is_empty() {
            columns
        } else {
            let before = self.gather(&known.iter().map(|at| self.places[groups[*at]]).collect::<Vec<_>>())?;
            let rows: UInt32Array = known.iter().map(|at| u32::try_from(*at).ok()).collect();
            let new: Result<Vec<ArrayRef>> = columns.iter().map(|column| Ok(take(column, &rows, None)?)).collect();
            let merged = self.merge(before, new?)?;
            let mut places: Vec<(usize, usize)> = (0..groups.len()).map(|at| (0, at)).collect();
            known.iter().enumerate().for_each(|(merged, at)| places[*at] = (1, merged));
            let both = columns.iter().zip(&merged);
            both.map(|(new, merged)| Ok(interleave(&[new.as_ref(), merged.as_ref()], &places)?))
                .collect::<Result<_>>()?
        };
        let piece = u32::try_from(self.pieces.len()).map_err(|error| exec_datafusion_err!("{error}"))?;
        for (group, row) in groups.iter().zip(0_u32..) {
            self.places[*group] = (piece, row);
        }
        self.rows += groups.len();
        self.bytes += columns.iter().map(|column| column.get_array_memory_size()).sum::<usize>();
        self.pieces.push(columns);
        // What is of no use is at most as much again as what is.
        if self.pieces.len() > PIECES_MAX || self.rows > 2 * self.places.len() + 8192 {
            self.tidy()?;
        }
        Ok(())
    }

    /// The structures at some places.
    fn gather(&self, places: &[(u32, u32)]) -> Result<Vec<ArrayRef>> {
        let places: Vec<(usize, usize)> = places.iter().map(|(piece, row)| (*piece as usize, *row as usize)).collect();
        let column = |at: usize| {
            let pieces: Vec<&dyn Array> = self.pieces.iter().map(|piece| piece[at].as_ref()).collect();
            Ok(interleave(&pieces, &places)?)
        };
        (0..self.compiled.fields.len()).map(column).collect()
    }

    /// Puts the structures of all groups into one piece.
    fn tidy(&mut self) -> Result<()> {
        let columns = self.gather(&self.places)?;
        self.pieces.truncate(1);
        for (place, row) in self.places.iter_mut().zip(0_u32..) {
            *place = if *place == NOTHING { NOTHING } else { (1, row) };
        }
        self.rows = self.places.len();
        self.bytes = columns.iter().map(|column| column.get_array_memory_size()).sum();
        self.pieces.push(columns);
        Ok(())
    }

    /// The structures of the first groups, which are forgotten.
    fn emit(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let places = emit_to.take_needed(&mut self.places);
        let columns = self.gather(&places)?;
        let nulls = NullBuffer::from_iter(places.iter().map(|place| *place != NOTHING));
        if self.places.is_empty() {
            self.pieces.truncate(1);
            (self.rows, self.bytes) = (0, 0);
        }
        Ok(Arc::new(StructArray::try_new(self.compiled.fields.clone(), columns, Some(nulls))?))
    }
}

impl GroupsAccumulator for Folded {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        self.add(&values[0], group_indices, opt_filter, total_num_groups)
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        self.emit(emit_to)
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        Ok(vec![self.emit(emit_to)?])
    }

    fn merge_batch(&mut self, values: &[ArrayRef], group_indices: &[usize], total_num_groups: usize) -> Result<()> {
        self.add(&values[0], group_indices, None, total_num_groups)
    }

    fn convert_to_state(&self, values: &[ArrayRef], opt_filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let mut alone = Self::new(Arc::clone(&self.compiled));
        let groups: Vec<usize> = (0..values[0].len()).collect();
        alone.add(&values[0], &groups, opt_filter, groups.len())?;
        alone.state(EmitTo::All)
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.bytes + self.places.capacity() * size_of::<(u32, u32)>()
    }
}
