//! Where the bytes of table files are: by column, and apart from the columns by what they are.
//!
//! `cargo run --release -p weir-store --example file_bytes FILE...`
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement, not a program")]
#![allow(clippy::disallowed_methods, reason = "it looks at files from outside")]

use std::collections::BTreeMap;
use std::fs::File;

use parquet::file::metadata::{PageIndexPolicy, ParquetMetaDataReader};

#[derive(Default)]
struct Column {
    bytes: i64,
    uncompressed: i64,
    bloom: i64,
    encodings: Vec<String>,
}

fn main() {
    let mut columns: BTreeMap<String, Column> = BTreeMap::new();
    let (mut rows, mut bytes) = (0_i64, 0_i64);
    for path in std::env::args().skip(1) {
        let file = File::open(&path).unwrap();
        bytes += i64::try_from(file.metadata().unwrap().len()).unwrap();
        let reader = ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Optional);
        let metadata = { reader }.parse_and_finish(&file).unwrap();
        rows += metadata.file_metadata().num_rows();
        for chunk in metadata.row_groups().iter().flat_map(|group| group.columns()) {
            let column = columns.entry(chunk.column_path().string()).or_default();
            column.bytes += chunk.compressed_size();
            column.uncompressed += chunk.uncompressed_size();
            column.bloom += i64::from(chunk.bloom_filter_length().unwrap_or(0));
            let encodings: Vec<String> = chunk.encodings().map(|encoding| encoding.to_string()).collect();
            column.encodings = encodings;
        }
    }
    let a_row = |bytes: i64| bytes as f64 / rows as f64;
    println!("{rows} rows, {:.2} bytes a row", a_row(bytes));
    let mut by_size: Vec<(&String, &Column)> = columns.iter().collect();
    by_size.sort_by_key(|(_, column)| std::cmp::Reverse(column.bytes + column.bloom));
    println!("bytes a row | uncompressed | bloom filter | column, encodings");
    for (name, column) in by_size {
        println!(
            "{:8.3} | {:8.3} | {:6.3} | {name} {}",
            a_row(column.bytes),
            a_row(column.uncompressed),
            a_row(column.bloom),
            column.encodings.join(" ")
        );
    }
    let in_columns: i64 = columns.values().map(|column| column.bytes + column.bloom).sum();
    println!("{:8.3} | the rest: search index, page index, footer", a_row(bytes - in_columns));
}
