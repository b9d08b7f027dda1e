//! The configuration as the options of each part.

use weir_component::spec::Access;
use weir_log::LogOptions;
use weir_sql::QueryOptions;
use weir_store::StoreOptions;

use super::Config;
use crate::net::NetOptions;
use crate::net::body::BodyOptions;
use crate::pipelines::Policy;

impl Config {
    /// The log's, in `log` of the data directory.
    pub fn log_options(&self) -> LogOptions {
        let log = &self.log;
        LogOptions {
            dir: self.data_dir.join("log"),
            shards: log.shards,
            segment_bytes: log.segment_bytes.0,
            commit_bytes_max: log.commit_bytes_max.as_usize(),
            queue_bytes_max: log.queue_bytes_max.as_usize(),
            retention: log.retention.0,
            retention_bytes: log.retention_bytes.0,
            dedup_window: log.dedup_window.0,
            producers_max: log.producers_max,
            reserve_bytes: log.reserve_bytes.0,
            ..LogOptions::default()
        }
    }

    /// The tables', in `tables` of the data directory.
    pub fn store_options(&self) -> StoreOptions {
        let tables = &self.tables;
        StoreOptions {
            dir: self.data_dir.join("tables"),
            flush_bytes: tables.flush_bytes.0,
            flush_age: tables.flush_age.0,
            unflushed_bytes_max: tables.unflushed_bytes_max.0,
            tail_bytes_max: tables.tail_bytes_max.0,
            metadata_bytes_max: tables.metadata_bytes_max.0,
            compaction_bytes: tables.compaction_bytes.0,
            compaction_bytes_max: tables.compaction_bytes_max.0,
            compaction_memory_max: tables.compaction_memory_max.0,
            retention_interval: tables.retention_interval.0,
            promoted_keys_max: tables.promoted_keys_max,
            ..StoreOptions::default()
        }
    }

    /// The query engine's; it spills to `spill` of the data directory.
    pub fn query_options(&self) -> QueryOptions {
        let queries = &self.queries;
        QueryOptions {
            memory_bytes: queries.memory_bytes.as_usize(),
            spill_dir: self.data_dir.join("spill"),
            spill_bytes_max: queries.spill_bytes_max.0,
            threads: queries.threads,
            partitions: queries.partitions,
        }
    }

    /// What pipelines may reach.
    pub(crate) fn pipelines_policy(&self) -> Policy {
        let connects = self.pipelines.tenants_may_connect;
        Policy { tenants: Access { connects, credentials: connects, ..Access::default() } }
    }
}

impl From<&Config> for NetOptions {
    fn from(config: &Config) -> Self {
        let limits = &config.limits;
        Self {
            connections_max: limits.connections_max,
            connections_per_address_max: limits.connections_per_address_max,
            proxies: config.trusted_proxies.iter().map(|cidr| cidr.0).collect(),
            header_timeout: limits.header_timeout.0,
            handshake_timeout: limits.handshake_timeout.0,
            idle_timeout: limits.idle_timeout.0,
            write_timeout: limits.write_timeout.0,
            streams_max: limits.streams_max,
            header_bytes_max: u32::try_from(limits.header_bytes_max.0).unwrap_or(u32::MAX),
            drain_timeout: config.shutdown_deadline.0,
            ..Self::default()
        }
    }
}

impl From<&Config> for BodyOptions {
    fn from(config: &Config) -> Self {
        let limits = &config.limits;
        Self {
            idle_timeout: limits.body_timeout.0,
            bytes_per_second_min: limits.body_bytes_per_second_min.0,
            in_flight_bytes_max: limits.decoded_bytes_in_flight_max.as_usize(),
            in_flight_wait: limits.decoded_bytes_wait.0,
        }
    }
}
