//! A column of numbered texts as a column chunk of Parquet: a sorted dictionary, and pages of places
//! in it.
//!
//! The Parquet library has no way in for values that are numbered already; it takes a finished
//! chunk, though. Pages, statistics, page index and Bloom filter are as its own writer would make
//! them, but that the dictionary is sorted: bounds of a page are then those of its numbers, and
//! neighbours in the dictionary compress each other.

use arrow::array::{Array, UInt32Array};
use bytes::Bytes;
use parquet::basic::{BoundaryOrder, Compression, Encoding, PageType, Type};
use parquet::bloom_filter::Sbbf;
use parquet::column::page::{CompressedPage, Page, PageWriteSpec, PageWriter};
use parquet::column::writer::ColumnCloseResult;
use parquet::data_type::ByteArray;
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::{ColumnChunkMetaData, ColumnIndexBuilder, OffsetIndexBuilder, PageEncodingStats};
use parquet::file::statistics::{Statistics, ValueStatistics};
use parquet::file::writer::{SerializedPageWriter, TrackedWrite};
use parquet::schema::types::ColumnDescPtr;
use zstd::bulk::Compressor;

use super::{Texts, hybrid};

/// Bounds are cut to this many bytes, as the Parquet library does.
const BOUND_BYTES_MAX: usize = 64;

/// How a chunk is written.
pub(crate) struct ChunkOptions {
    /// Rows of one page.
    pub(crate) page_rows: usize,
    /// Of zstd.
    pub(crate) compression_level: i32,
    /// A dictionary larger than this is not written: the column is better off plain.
    pub(crate) dictionary_bytes_max: usize,
    /// Distinct values and false positives of a Bloom filter.
    pub(crate) bloom: Option<(u64, f64)>,
}

/// The texts that occur in a chunk, in order, and each one's place.
struct Dictionary {
    /// Numbers in the order of their texts.
    order: Vec<u32>,
    /// By number, the place in `order`.
    places: Vec<u32>,
    bytes: usize,
}

impl Dictionary {
    fn of(columns: &[UInt32Array], texts: &Texts) -> Self {
        const UNSEEN: u32 = u32::MAX;
        let mut places = vec![UNSEEN; texts.len()];
        let mut order = Vec::new();
        for column in columns {
            for (row, number) in column.values().iter().enumerate() {
                // What stands under a null need not be a number of anything.
                if column.is_valid(row) && places[*number as usize] == UNSEEN {
                    places[*number as usize] = 0;
                    order.push(*number);
                }
            }
        }
        // Most comparisons are settled by the first eight bytes.
        let head = |number: u32| {
            let mut head = [0; 8];
            let text = texts.get(number);
            let len = text.len().min(8);
            head[..len].copy_from_slice(&text[..len]);
            u64::from_be_bytes(head)
        };
        let mut keyed: Vec<(u64, u32)> = order.iter().map(|number| (head(*number), *number)).collect();
        keyed.sort_unstable_by(|left, right| {
            left.0.cmp(&right.0).then_with(|| texts.get(left.1).cmp(texts.get(right.1)))
        });
        for (place, (_, number)) in (0..).zip(&keyed) {
            places[*number as usize] = place;
        }
        let order: Vec<u32> = keyed.into_iter().map(|(_, number)| number).collect();
        let bytes = order.iter().map(|number| texts.get(*number).len() + 4).sum();
        Self { order, places, bytes }
    }
}

/// What a chunk is made of so far.
struct Chunk {
    out: TrackedWrite<Vec<u8>>,
    compressor: Compressor<'static>,
    compressed: i64,
    uncompressed: i64,
}

impl Chunk {
    fn write(&mut self, page: Page, uncompressed: usize) -> Result<PageWriteSpec> {
        let spec = SerializedPageWriter::new(&mut self.out).write_page(CompressedPage::new(page, uncompressed))?;
        self.compressed += spec.compressed_size as i64;
        self.uncompressed += spec.uncompressed_size as i64;
        Ok(spec)
    }

    fn compress(&mut self, bytes: &[u8]) -> Result<Bytes> {
        let compressed = self.compressor.compress(bytes).map_err(|error| ParquetError::External(Box::new(error)))?;
        Ok(compressed.into())
    }
}

/// Encodes the rows of a row group, given in pieces. `None` if a dictionary does not pay.
pub(crate) fn encode(
    columns: &[UInt32Array],
    texts: &Texts,
    column: &ColumnDescPtr,
    options: &ChunkOptions,
) -> Result<Option<(Bytes, ColumnCloseResult)>> {
    let rows: usize = columns.iter().map(Array::len).sum();
    let nulls: usize = columns.iter().map(Array::null_count).sum();
    let dictionary = Dictionary::of(columns, texts);
    let distinct = dictionary.order.len();
    if dictionary.bytes > options.dictionary_bytes_max || distinct * 4 > (rows - nulls) * 3 && distinct > 64 {
        return Ok(None);
    }
    let compressor = Compressor::new(options.compression_level);
    let compressor = compressor.map_err(|error| ParquetError::External(Box::new(error)))?;
    let mut chunk = Chunk { out: TrackedWrite::new(Vec::new()), compressor, compressed: 0, uncompressed: 0 };

    let mut plain = Vec::with_capacity(dictionary.bytes);
    for number in &dictionary.order {
        let text = texts.get(*number);
        plain.extend_from_slice(&(text.len() as u32).to_le_bytes());
        plain.extend_from_slice(text);
    }
    let page = Page::DictionaryPage {
        buf: chunk.compress(&plain)?,
        num_values: distinct as u32,
        encoding: Encoding::PLAIN,
        is_sorted: true,
    };
    let dictionary_spec = chunk.write(page, plain.len())?;

    let mut pages = Pages::new(column, &dictionary, texts, options.page_rows);
    for column in columns {
        for (row, number) in column.values().iter().enumerate() {
            pages.push(column.is_valid(row).then(|| dictionary.places[*number as usize]));
            if pages.is_full() {
                pages.end(&mut chunk)?;
            }
        }
    }
    pages.end(&mut chunk)?;

    let bloom_filter = match options.bloom {
        None => None,
        Some((distinct, false_positives)) => {
            let mut filter = Sbbf::new_with_ndv_fpp(distinct, false_positives)?;
            for number in &dictionary.order {
                filter.insert(texts.get(*number));
            }
            filter.fold_to_target_fpp(false_positives);
            Some(filter)
        }
    };
    let statistics = bounds(&dictionary, texts, distinct.checked_sub(1).map(|last| (0, last as u32)), nulls as u64);
    let stats_of = |page_type, encoding, count| PageEncodingStats { page_type, encoding, count };
    let metadata = ColumnChunkMetaData::builder(column.clone())
        .set_compression(Compression::ZSTD(Default::default()))
        .set_encodings(vec![Encoding::PLAIN, Encoding::RLE, Encoding::RLE_DICTIONARY])
        .set_page_encoding_stats(vec![
            stats_of(PageType::DICTIONARY_PAGE, Encoding::PLAIN, 1),
            stats_of(PageType::DATA_PAGE, Encoding::RLE_DICTIONARY, pages.count),
        ])
        .set_total_compressed_size(chunk.compressed)
        .set_total_uncompressed_size(chunk.uncompressed)
        .set_num_values(rows as i64)
        .set_dictionary_page_offset(Some(dictionary_spec.offset as i64))
        .set_data_page_offset((dictionary_spec.offset + dictionary_spec.bytes_written) as i64)
        .set_unencoded_byte_array_data_bytes(Some(pages.text_bytes))
        .set_statistics(statistics)
        .build()?;
    let close = ColumnCloseResult {
        bytes_written: chunk.out.bytes_written() as u64,
        rows_written: rows as u64,
        metadata,
        bloom_filter,
        column_index: Some(pages.index()?),
        offset_index: Some(std::mem::take(&mut pages.offsets).build()),
    };
    Ok(Some((chunk.out.into_inner()?.into(), close)))
}

/// Data pages, one after the other, and what the page index says of them.
struct Pages<'a> {
    dictionary: &'a Dictionary,
    texts: &'a Texts,
    nullable: bool,
    width: u8,
    rows_max: usize,
    /// Of the present page: one a row, then one a value.
    levels: Vec<u32>,
    places: Vec<u32>,
    rows: usize,
    rows_before: usize,
    count: i32,
    text_bytes: i64,
    offsets: OffsetIndexBuilder,
    /// Of each page the lowest and highest place, and the nulls.
    bounds: Vec<(Option<(u32, u32)>, usize)>,
}

impl<'a> Pages<'a> {
    fn new(column: &ColumnDescPtr, dictionary: &'a Dictionary, texts: &'a Texts, rows_max: usize) -> Self {
        Self {
            dictionary,
            texts,
            nullable: column.max_def_level() > 0,
            width: hybrid::width(dictionary.order.len().saturating_sub(1) as u32),
            rows_max,
            levels: Vec::with_capacity(rows_max),
            places: Vec::with_capacity(rows_max),
            rows: 0,
            rows_before: 0,
            count: 0,
            text_bytes: 0,
            offsets: OffsetIndexBuilder::new(),
            bounds: Vec::new(),
        }
    }

    fn push(&mut self, place: Option<u32>) {
        self.levels.push(u32::from(place.is_some()));
        self.places.extend(place);
        self.rows += 1;
    }

    fn is_full(&self) -> bool {
        self.rows == self.rows_max
    }

    fn end(&mut self, chunk: &mut Chunk) -> Result<()> {
        if self.rows == 0 {
            return Ok(());
        }
        let mut bytes = Vec::new();
        if self.nullable {
            bytes.extend_from_slice(&[0; 4]);
            hybrid::write(&self.levels, 1, &mut bytes);
            let len = (bytes.len() - 4) as u32;
            bytes[..4].copy_from_slice(&len.to_le_bytes());
        }
        bytes.push(self.width);
        hybrid::write(&self.places, self.width, &mut bytes);
        let page = Page::DataPage {
            buf: chunk.compress(&bytes)?,
            num_values: self.rows as u32,
            encoding: Encoding::RLE_DICTIONARY,
            def_level_encoding: Encoding::RLE,
            rep_level_encoding: Encoding::RLE,
            statistics: None,
        };
        let spec = chunk.write(page, bytes.len())?;
        let len = |place: &u32| self.texts.get(self.dictionary.order[*place as usize]).len() as i64;
        let text_bytes = self.places.iter().map(len).sum();
        self.text_bytes += text_bytes;
        self.offsets.append_row_count(self.rows as i64);
        self.offsets.append_offset_and_size(spec.offset as i64, spec.compressed_size as i32);
        self.offsets.append_unencoded_byte_array_data_bytes(Some(text_bytes));
        let lowest = self.places.iter().min().copied();
        let bounds = lowest.zip(self.places.iter().max().copied());
        self.bounds.push((bounds, self.rows - self.places.len()));
        self.rows_before += self.rows;
        (self.rows, self.count) = (0, self.count + 1);
        self.levels.clear();
        self.places.clear();
        Ok(())
    }

    fn index(&self) -> Result<parquet::file::page_index::column_index::ColumnIndexMetaData> {
        let mut builder = ColumnIndexBuilder::new(Type::BYTE_ARRAY);
        let text = |place: u32| self.texts.get(self.dictionary.order[place as usize]);
        for (bounds, nulls) in &self.bounds {
            let (low, high) = match bounds {
                Some((low, high)) => (cut_low(text(*low)).0, cut_high(text(*high)).0),
                None => (Vec::new(), Vec::new()),
            };
            builder.append(bounds.is_none(), low, high, *nulls as i64);
        }
        let ordered = |is_so: fn(&(u32, u32), &(u32, u32)) -> bool| {
            let valid: Vec<(u32, u32)> = self.bounds.iter().filter_map(|(bounds, _)| *bounds).collect();
            valid.windows(2).all(|pair| is_so(&pair[0], &pair[1]))
        };
        builder.set_boundary_order(if ordered(|left, right| left.0 <= right.0 && left.1 <= right.1) {
            BoundaryOrder::ASCENDING
        } else if ordered(|left, right| left.0 >= right.0 && left.1 >= right.1) {
            BoundaryOrder::DESCENDING
        } else {
            BoundaryOrder::UNORDERED
        });
        builder.build()
    }
}

fn bounds(dictionary: &Dictionary, texts: &Texts, places: Option<(u32, u32)>, nulls: u64) -> Statistics {
    let text = |place: u32| texts.get(dictionary.order[place as usize]);
    let low = places.map(|(low, _)| cut_low(text(low)));
    let high = places.map(|(_, high)| cut_high(text(high)));
    let (low_exact, high_exact) =
        (low.as_ref().is_none_or(|(_, exact)| *exact), high.as_ref().is_none_or(|(_, exact)| *exact));
    let value = |cut: Option<(Vec<u8>, bool)>| cut.map(|(bytes, _)| ByteArray::from(bytes));
    ValueStatistics::new(value(low), value(high), None, Some(nulls), false)
        .with_min_is_exact(low_exact)
        .with_max_is_exact(high_exact)
        .into()
}

/// No greater than the text, of limited length; and whether it is the text.
fn cut_low(text: &[u8]) -> (Vec<u8>, bool) {
    (text[..cut_at(text)].to_vec(), text.len() <= BOUND_BYTES_MAX)
}

/// No less than the text, of limited length if there is such; and whether it is the text.
fn cut_high(text: &[u8]) -> (Vec<u8>, bool) {
    if text.len() <= BOUND_BYTES_MAX {
        return (text.to_vec(), true);
    }
    let cut = std::str::from_utf8(&text[..cut_at(text)]).unwrap_or_default();
    // The last character that has a next one of the same length counts up; what follows it goes.
    for (at, last) in cut.char_indices().rev() {
        let next = char::from_u32(u32::from(last) + 1).filter(|next| next.len_utf8() == last.len_utf8());
        if let Some(next) = next {
            let mut bound = cut[..at].to_owned();
            bound.push(next);
            return (bound.into_bytes(), false);
        }
    }
    (text.to_vec(), true)
}

/// The longest prefix within the limit that does not cut a character in two.
fn cut_at(text: &[u8]) -> usize {
    if text.len() <= BOUND_BYTES_MAX {
        return text.len();
    }
    let mut at = BOUND_BYTES_MAX;
    while at > 0 && text[at] & 0xc0 == 0x80 {
        at -= 1;
    }
    at
}
