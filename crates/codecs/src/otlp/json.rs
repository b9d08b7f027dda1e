//! OTLP/JSON.

use super::request::RowFault;

/// Where protobuf bytes made of JSON come from.
#[derive(Debug)]
pub(super) struct Source<'a> {
    text: &'a str,
}

impl<'a> Source<'a> {
    /// The JSON text of the row at that offset.
    pub(super) fn text_of(&self, _offset: usize) -> Option<&'a str> {
        Some(self.text)
    }

    /// What was wrong with the message at that offset.
    pub(super) fn fault_at(&self, _offset: usize) -> Option<&RowFault> {
        None
    }
}
