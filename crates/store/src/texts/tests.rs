//! Columns of numbers are read back by the Parquet library as the texts they were.

use std::sync::Arc;

use arrow::array::{ArrayRef, DictionaryArray, RecordBatch, StringArray, UInt32Array};
use arrow::datatypes::{DataType, Field, Int32Type, Schema, SchemaRef};
use bytes::Bytes;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::file::metadata::PageIndexPolicy;
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use parquet::file::properties::WriterProperties;
use parquet::file::statistics::Statistics;
use proptest::prelude::*;

use super::chunk::ChunkOptions;
use super::{Coding, hybrid, repeat};
use crate::row_groups::{GroupOptions, RowGroups};

const PAGE_ROWS: usize = 50;

fn schema(nullable: bool) -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("text", DataType::Utf8, nullable)]))
}

fn batch(values: &[Option<&str>]) -> RecordBatch {
    let column: ArrayRef = Arc::new(StringArray::from(values.to_vec()));
    RecordBatch::try_new(schema(true), vec![column]).unwrap()
}

/// A file of one column of numbers.
fn written(batches: &[RecordBatch], rows_max: usize, dictionary_bytes_max: usize) -> Bytes {
    let schema = batches[0].schema();
    let mut coding = Coding::new(&schema, |_| true);
    let chunk =
        ChunkOptions { page_rows: PAGE_ROWS, compression_level: 1, dictionary_bytes_max, bloom: Some((1000, 0.01)) };
    let options = GroupOptions { rows_max, bytes_max: usize::MAX, chunks: vec![chunk] };
    let properties = WriterProperties::builder().set_dictionary_enabled(false).build();
    let mut out = RowGroups::begin(Vec::new(), &schema, properties, options).unwrap();
    for batch in batches {
        out.write(&coding.encode(batch).unwrap(), &coding).unwrap();
    }
    out.finish(&coding).unwrap();
    std::mem::take(out.inner_mut()).into()
}

fn read(file: &Bytes) -> Vec<Option<String>> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(file.clone()).unwrap().build().unwrap();
    let mut values = Vec::new();
    for batch in reader {
        let batch = batch.unwrap();
        let column = batch.column(0).as_any().downcast_ref::<StringArray>().unwrap().clone();
        values.extend(column.iter().map(|value| value.map(str::to_owned)));
    }
    values
}

proptest! {
    #[test]
    fn texts_come_back(
        values in proptest::collection::vec(proptest::option::weighted(0.8, "[a-dßé]{0,3}"), 1..400),
        cut in 1_usize..400,
        rows_max in 1_usize..300,
        dictionary_bytes_max in prop_oneof![Just(1 << 20), Just(20_usize)],
    ) {
        let all: Vec<Option<&str>> = values.iter().map(Option::as_deref).collect();
        let cut = cut.min(all.len());
        let batches: Vec<RecordBatch> = [&all[..cut], &all[cut..]].into_iter().filter(|part| !part.is_empty()).map(batch).collect();
        let file = written(&batches, rows_max, dictionary_bytes_max);
        prop_assert_eq!(read(&file), values);
    }

    #[test]
    fn packed_numbers_come_back(
        values in proptest::collection::vec((0_u32..200, 1_usize..30), 0..60),
        wide in any::<bool>(),
    ) {
        let values: Vec<u32> = values.into_iter().flat_map(|(value, times)| {
            std::iter::repeat_n(if wide { value * 1_000_003 } else { value % 3 }, times)
        }).collect();
        let width = hybrid::width(values.iter().copied().max().unwrap_or(0));
        let mut bytes = Vec::new();
        hybrid::write(&values, width, &mut bytes);
        prop_assert_eq!(unpack(&bytes, width, values.len()), values);
    }
}

/// The specification's reading of what [`hybrid`] writes.
fn unpack(bytes: &[u8], width: u8, len: usize) -> Vec<u32> {
    let (mut at, mut out) = (0, Vec::new());
    while at < bytes.len() {
        let (mut header, mut shift) = (0_u64, 0);
        loop {
            let byte = bytes[at];
            at += 1;
            header |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
        if header & 1 == 1 {
            for value in 0..(header >> 1) as usize * 8 {
                let bit = |bit: usize| u32::from(bytes[at + bit / 8] >> (bit % 8) & 1);
                let width = usize::from(width);
                out.push((0..width).map(|place| bit(value * width + place) << place).sum());
            }
            at += (header >> 1) as usize * usize::from(width);
        } else {
            let mut value = [0; 4];
            let taken = usize::from(width.div_ceil(8));
            value[..taken].copy_from_slice(&bytes[at..at + taken]);
            at += taken;
            out.extend(std::iter::repeat_n(u32::from_le_bytes(value), (header >> 1) as usize));
        }
    }
    out.truncate(len);
    out
}

#[test]
fn bounds_pages_and_filter_are_those_of_the_texts() {
    let long = "z".repeat(100);
    let mut values: Vec<Option<&str>> = vec![Some("b"); 2 * PAGE_ROWS];
    values[7] = Some("a");
    values[PAGE_ROWS + 3] = Some(&long);
    values.extend([None; PAGE_ROWS]);
    let file = written(&[batch(&values)], 1000, 1 << 20);
    let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Required);
    let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(file.clone(), options).unwrap();
    let metadata = builder.metadata();
    let column = metadata.row_group(0).column(0);
    let Some(Statistics::ByteArray(bounds)) = column.statistics() else { panic!("no bounds") };
    assert_eq!(bounds.min_opt().unwrap().data(), b"a");
    // Cut, and no less than the longest.
    let high = bounds.max_opt().unwrap().data();
    assert!(high.len() <= 64 && high > long.as_bytes() && !bounds.max_is_exact(), "{high:?}");
    assert_eq!(bounds.null_count_opt(), Some(PAGE_ROWS as u64));
    let ColumnIndexMetaData::BYTE_ARRAY(index) = &metadata.column_index().unwrap()[0][0] else { panic!("no index") };
    assert_eq!(index.num_pages(), 3);
    assert_eq!((index.min_value(0), index.max_value(0)), (Some(&b"a"[..]), Some(&b"b"[..])));
    assert!(index.is_null_page(2) && !index.is_null_page(1));
    let offsets = &metadata.offset_index().unwrap()[0][0];
    let firsts: Vec<i64> = offsets.page_locations().iter().map(|page| page.first_row_index).collect();
    assert_eq!(firsts, [0, 50, 100]);
    let filter = builder.get_row_group_column_bloom_filter(0, 0).unwrap().unwrap();
    assert!(filter.check("a") && filter.check(long.as_str()) && !filter.check("nobody"));
    // The offsets are right: one page alone can be read.
    let page =
        parquet::arrow::arrow_reader::RowSelection::from_consecutive_ranges(std::iter::once(53..54), values.len());
    let mut reader = builder.with_row_selection(page).build().unwrap();
    let row = reader.next().unwrap().unwrap();
    assert_eq!(row.column(0).as_any().downcast_ref::<StringArray>().unwrap().value(0), long);
}

#[test]
fn dictionaries_of_files_are_looked_up_once_and_renewed() {
    let mut coding = Coding::new(&schema(true), |_| true);
    let keyed = |keys: Vec<Option<i32>>, values: &[&str]| {
        let values: ArrayRef = Arc::new(StringArray::from(values.to_vec()));
        let column: ArrayRef =
            Arc::new(DictionaryArray::<Int32Type>::try_new(keys.into_iter().collect(), values).unwrap());
        let fields = vec![Field::new("text", column.data_type().clone(), true)];
        RecordBatch::try_new(Arc::new(Schema::new(fields)), vec![column]).unwrap()
    };
    let long = "x".repeat(5 << 20);
    let first = coding.encode(&keyed(vec![Some(1), None, Some(0)], &["no", "yes"])).unwrap();
    let mut second = [coding.encode(&keyed(vec![Some(1), Some(0)], &["yes", &long])).unwrap()];
    let texts = |coding: &Coding, batch: &RecordBatch| {
        let numbers = batch.column(0).as_any().downcast_ref::<UInt32Array>().unwrap().clone();
        let texts: Vec<Option<String>> =
            coding.texts(0).unwrap().decode(&numbers).iter().map(|text| text.map(str::to_owned)).collect();
        texts
    };
    assert_eq!(texts(&coding, &first), [Some("yes".to_owned()), None, Some("no".to_owned())]);
    assert_eq!(coding.texts(0).unwrap().len(), 3);
    coding.renew(&mut second).unwrap();
    assert_eq!(coding.texts(0).unwrap().len(), 2);
    assert_eq!(texts(&coding, &second[0]), [Some(long), Some("yes".to_owned())]);
}

#[test]
fn ids_do_not_repeat_and_names_do() {
    let ids: StringArray = (0..3000).map(|number| Some(format!("id-{number}"))).collect();
    let names: StringArray = (0..3000).map(|number| Some(format!("name-{}", number % 700))).collect();
    assert!(!repeat([&ids].into_iter()));
    assert!(repeat([&names, &names].into_iter()));
}
