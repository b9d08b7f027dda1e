//! weir-server

pub mod grpc;
pub mod net;
pub mod problem;
pub mod work;
