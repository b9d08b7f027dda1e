//! W3C Trace Context: which trace a request belongs to.

use std::fmt;

use http::HeaderMap;

/// The trace a client's request is part of, from its `traceparent`. An extension of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace.
    pub trace_id: [u8; 16],
    /// The client's span.
    pub parent_id: [u8; 8],
    /// Whether the client records it.
    pub is_sampled: bool,
}

impl TraceContext {
    /// The client's span as it is written in logs.
    pub(super) fn parent_text(&self) -> String {
        format!("{:016x}", u64::from_be_bytes(self.parent_id))
    }

    /// The context of these headers. One that is malformed, or given twice, is none.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all("traceparent").iter();
        let text = values.next()?.to_str().ok()?;
        if values.next().is_some() {
            return None;
        }
        Self::parse(text.trim())
    }

    /// `00-<32 hex>-<16 hex>-<2 hex>`; later versions may append to that.
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let version = hex::<1>(parts.next()?)?[0];
        let trace_id = hex(parts.next()?)?;
        let parent_id = hex(parts.next()?)?;
        let flags = hex::<1>(parts.next()?)?[0];
        let has_more = parts.next().is_some();
        if version == 0xff || version == 0 && has_more || trace_id == [0; 16] || parent_id == [0; 8] {
            return None;
        }
        Some(Self { trace_id, parent_id, is_sampled: flags & 1 == 1 })
    }
}

/// The trace id as it is written in logs.
impl fmt::Display for TraceContext {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.trace_id.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

/// Exactly `N` bytes in lower-case hexadecimal, as the specification demands.
fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)) {
        return None;
    }
    let mut bytes = [0; N];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(bytes)
}
