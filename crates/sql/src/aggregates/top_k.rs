//! `approx_top_k(x, k)`: the `k` most frequent values, as a list of structs of `value`, `count` and `error`.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, StructArray, UInt64Array};
use arrow::buffer::OffsetBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Fields};
use arrow::row::{RowConverter, SortField};
use datafusion::common::{Result, ScalarValue, exec_datafusion_err, plan_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::format_state_name;
use datafusion::logical_expr::{Accumulator, AggregateUDFImpl, Signature, Volatility};

use super::constant;
use super::frequent::Frequent;

/// The most values that can be asked for.
const VALUES_MAX: u64 = 1000;
/// As many different values are counted exactly at least, and for each value that is asked for.
const EXACT_MIN: usize = 256;
const EXACT_PER_VALUE: usize = 16;

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct TopK {
    signature: Signature,
}

impl TopK {
    pub(super) fn new() -> Self {
        Self { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

/// The type values are counted in: the one text has at the edges of a pipeline, and no dictionaries.
fn plain(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::Dictionary(_, value) => plain(value),
        other => other.clone(),
    }
}

fn fields(value: &DataType) -> Fields {
    Fields::from(vec![
        Field::new("value", value.clone(), true),
        Field::new("count", DataType::UInt64, false),
        Field::new("error", DataType::UInt64, false),
    ])
}

impl AggregateUDFImpl for TopK {
    fn name(&self) -> &str {
        "approx_top_k"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        let [value, _] = arguments else {
            return plan_err!("approx_top_k takes a value, and how many of its most frequent ones are wanted");
        };
        let value = plain(value);
        if !RowConverter::supports_fields(&[SortField::new(value.clone())]) {
            return plan_err!("values of type {value} cannot be told apart");
        }
        Ok(vec![value, DataType::Int64])
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        let value = plain(arguments.first().unwrap_or(&DataType::Null));
        Ok(DataType::List(Arc::new(Field::new_list_field(DataType::Struct(fields(&value)), true))))
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        Ok(vec![Arc::new(Field::new(format_state_name(args.name, "values"), DataType::Binary, true))])
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        if args.is_distinct {
            return plan_err!("of distinct values none is more frequent than another");
        }
        let wanted = constant(args.exprs.get(1), "approx_top_k", "the second argument")?;
        let wanted = match wanted.cast_to(&DataType::UInt64)? {
            ScalarValue::UInt64(Some(wanted @ 1..=VALUES_MAX)) => usize::try_from(wanted).unwrap_or(1),
            _ => return plan_err!("approx_top_k gives 1 to {VALUES_MAX} values"),
        };
        let data_type = plain(args.expr_fields.first().map_or(&DataType::Null, |field| field.data_type()));
        let converter = RowConverter::new(vec![SortField::new(data_type.clone())])?;
        let frequent = Frequent::new(EXACT_MIN.max(wanted * EXACT_PER_VALUE));
        Ok(Box::new(Counting { wanted, data_type, converter, frequent }))
    }
}

#[derive(Debug)]
struct Counting {
    wanted: usize,
    data_type: DataType,
    converter: RowConverter,
    frequent: Frequent,
}

impl Accumulator for Counting {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let values = cast(&values[0], &self.data_type)?;
        let rows = self.converter.convert_columns(&[Arc::clone(&values)])?;
        for row in (0..values.len()).filter(|row| values.is_valid(*row)) {
            self.frequent.add(rows.row(row).data(), 1);
        }
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let most = self.frequent.most(self.wanted);
        let parser = self.converter.parser();
        let values = self.converter.convert_rows(most.iter().map(|counted| parser.parse(&counted.value)))?;
        let value = values.into_iter().next().ok_or_else(|| exec_datafusion_err!("there is no column of values"))?;
        let counts: ArrayRef = Arc::new(most.iter().map(|counted| counted.count).collect::<UInt64Array>());
        let errors: ArrayRef = Arc::new(UInt64Array::from_value(self.frequent.error(), most.len()));
        let structs = StructArray::try_new(fields(&self.data_type), vec![value, counts, errors], None)?;
        let field = Arc::new(Field::new_list_field(structs.data_type().clone(), true));
        let list = ListArray::try_new(field, OffsetBuffer::from_lengths([most.len()]), Arc::new(structs), None)?;
        Ok(ScalarValue::List(Arc::new(list)))
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.frequent.size()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![ScalarValue::Binary(Some(self.frequent.to_bytes()))])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        for state in states[0].as_binary::<i32>().iter().flatten() {
            let other =
                Frequent::parse(state).ok_or_else(|| exec_datafusion_err!("this is no state of approx_top_k"))?;
            self.frequent.merge(&other);
        }
        Ok(())
    }
}
