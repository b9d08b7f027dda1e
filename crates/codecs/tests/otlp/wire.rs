//! Writing protobuf by hand, also such as no generated code would write.

pub(crate) fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

pub(crate) fn tag(field: u32, wire_type: u32) -> Vec<u8> {
    varint(u64::from(field << 3 | wire_type))
}

/// A length-delimited field.
pub(crate) fn len(field: u32, bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    [&tag(field, 2)[..], &varint(bytes.len() as u64), bytes].concat()
}

pub(crate) fn int(field: u32, value: u64) -> Vec<u8> {
    [tag(field, 0), varint(value)].concat()
}

pub(crate) fn fixed64(field: u32, value: u64) -> Vec<u8> {
    [&tag(field, 1)[..], &value.to_le_bytes()].concat()
}

/// A request of one resource and one scope with these items.
pub(crate) fn request(items: &[Vec<u8>]) -> Vec<u8> {
    let items: Vec<u8> = items.iter().flat_map(|item| len(2, item)).collect();
    len(1, len(2, items))
}

/// A `KeyValue` with a string.
pub(crate) fn attribute(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Vec<u8> {
    [len(1, key), len(2, len(1, value))].concat()
}

/// A metric that is a gauge of these points.
pub(crate) fn gauge(name: impl AsRef<[u8]>, points: &[Vec<u8>]) -> Vec<u8> {
    let points: Vec<u8> = points.iter().flat_map(|point| len(1, point)).collect();
    [len(1, name), len(5, points)].concat()
}
