//! The metadata database: tenants, keys, limits, attribute kinds, and the catalogue of table files.

pub mod catalogue;
