//! `/metrics` (Prometheus text), `/healthz` and `/readyz` over HTTP.
//!
//! What is exposed is read from the server when it is asked for; nothing is counted twice.

pub(crate) mod encode;
pub(crate) mod http;

pub use http::Metrics;

use crate::server::Shared;
use encode::{Magnitudes, audited, labelled};
use http::Source;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Metrics {
    /// Answers on `listener` about the server behind `shared`.
    pub fn start(listener: std::net::TcpListener, shared: Arc<Shared>) -> io::Result<Metrics> {
        Metrics::serve(listener, shared)
    }
}

impl Source for Shared {
    fn failure(&self) -> Option<String> {
        self.node.failure().map(|why| why.to_string())
    }

    fn readiness(&self) -> Result<(), String> {
        if self.node.engine().is_none() {
            return Err("waiting for the first handshake with the primary".into());
        }
        if self.node.is_replica() {
            return match self.node.upstream().map(|upstream| upstream.link().2) {
                Some("connected") => Ok(()),
                _ => Err("not connected to the primary".into()),
            };
        }
        self.node
            .write_gate()
            .map_err(|refusal| refusal.text().into_owned())
    }

    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut counter = |name: &str, help: &str, value: u64| {
            let metric = ConstCounter::new(value);
            let one = encoder.encode_descriptor(name, help, None, metric.metric_type())?;
            metric.encode(one)
        };
        let shared = self;
        let stats = &shared.stats;
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        counter("esker_commands", "Commands run", load(&stats.commands))?;
        counter(
            "esker_replies_held",
            "Replies that had to wait until they were safe",
            load(&stats.held),
        )?;
        counter(
            "esker_loop_turns",
            "Turns of the event loops",
            load(&stats.turns),
        )?;
        counter(
            "esker_net_input_bytes",
            "Bytes read from clients",
            load(&stats.bytes_in),
        )?;
        counter(
            "esker_net_output_bytes",
            "Bytes sent to clients",
            load(&stats.bytes_out),
        )?;
        counter(
            "esker_protocol_errors",
            "Clients closed for what they sent",
            load(&stats.protocol_errors),
        )?;
        counter(
            "esker_connections",
            "Connections accepted",
            load(&stats.connections),
        )?;
        counter(
            "esker_connections_rejected",
            "Connections above the limit",
            load(&stats.rejected),
        )?;
        counter(
            "esker_accept_errors",
            "Connections that could not be accepted",
            load(&stats.accept_errors),
        )?;
        counter(
            "esker_acl_access_denied_auth",
            "Logins that failed",
            shared.acl.denied(),
        )?;
        if let Some(engine) = shared.node.engine() {
            let numbers = engine.stats();
            counter(
                "esker_keyspace_hits",
                "Lookups that found their key",
                numbers.hits,
            )?;
            counter(
                "esker_keyspace_misses",
                "Lookups that did not",
                numbers.misses,
            )?;
            counter(
                "esker_expired_keys",
                "Keys deleted after their deadline",
                numbers.expired,
            )?;
            let log = engine.store().log().stats();
            counter("esker_log_appends", "Frames appended", log.appends)?;
            counter(
                "esker_log_appended_bytes",
                "Bytes appended",
                log.appended_bytes,
            )?;
            counter("esker_log_voids", "Reservations given up", log.voids)?;
            counter("esker_log_syncs", "Syncs of the log", log.syncs)?;
            counter(
                "esker_log_sync_nanoseconds",
                "Time spent in syncs",
                log.sync_nanos,
            )?;
            counter(
                "esker_log_synced_bytes",
                "Bytes of frames made durable",
                log.synced_bytes,
            )?;
            counter("esker_log_stalls", "Appends that met a bound", log.stalls)?;
            counter("esker_log_rotations", "Segments begun", log.rotations)?;
            counter("esker_log_recycled", "Segments reused", log.recycled)?;
            counter(
                "esker_log_early_flushes",
                "Flushes begun at half of what may be unsynced",
                log.early_flushes,
            )?;
            let store = engine.store().stats();
            counter(
                "esker_store_flushes",
                "Memtables written to tables",
                store.flushes,
            )?;
            counter(
                "esker_store_flushed_bytes",
                "Bytes written by flushes",
                store.bytes_flushed,
            )?;
            counter("esker_store_compactions", "Compactions", store.compactions)?;
            counter(
                "esker_store_compacted_bytes",
                "Bytes written by compactions",
                store.bytes_compacted,
            )?;
            counter(
                "esker_store_write_stalls",
                "Writes slowed down or stopped",
                store.write_stalls,
            )?;
            counter(
                "esker_store_cache_hits",
                "Blocks found in the cache",
                store.cache_hits,
            )?;
            counter(
                "esker_store_cache_misses",
                "Blocks read from disk",
                store.cache_misses,
            )?;
        }

        if let Some(engine) = shared.node.engine() {
            let log = engine.store().log().stats();
            for (name, help, counts, unit) in [
                (
                    "esker_log_append_seconds",
                    "An append to the log; one in 64 is timed",
                    &log.append_times,
                    1e9,
                ),
                (
                    "esker_log_wait_seconds",
                    "A thread's wait for a sync",
                    &log.wait_times,
                    1e9,
                ),
                (
                    "esker_log_sync_seconds",
                    "A sync of the log",
                    &log.sync_times,
                    1e9,
                ),
                (
                    "esker_log_stall_seconds",
                    "An append's wait at a bound",
                    &log.stall_times,
                    1e9,
                ),
                (
                    "esker_log_group_frames",
                    "Frames of one sync",
                    &log.group_frames,
                    1.0,
                ),
                (
                    "esker_log_group_bytes",
                    "Bytes of one sync",
                    &log.group_bytes,
                    1.0,
                ),
            ] {
                let metric = Magnitudes(counts, unit);
                let one = encoder.encode_descriptor(name, help, None, metric.metric_type())?;
                metric.encode(one)?;
            }
        }
        let mut gauge = |name: &str, help: &str, value: i64| {
            let metric = ConstGauge::new(value);
            let one = encoder.encode_descriptor(name, help, None, metric.metric_type())?;
            metric.encode(one)
        };
        let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        gauge(
            "esker_connected_clients",
            "Clients now",
            number(shared.registry.count() as u64),
        )?;
        gauge(
            "esker_client_buffer_bytes",
            "Bytes held for clients",
            number(stats.client_memory.load(Ordering::Relaxed) as u64),
        )?;
        gauge(
            "esker_resident_bytes",
            "Memory of the process",
            number(crate::status::resident_bytes()),
        )?;
        gauge(
            "esker_uptime_seconds",
            "Since the start",
            number(stats.started.elapsed().as_secs()),
        )?;
        gauge(
            "esker_is_replica",
            "1 on a replica",
            i64::from(shared.node.is_replica()),
        )?;
        gauge(
            "esker_healthy",
            "0 when the log or the store has failed",
            i64::from(shared.node.failure().is_none()),
        )?;
        if let Some(engine) = shared.node.engine() {
            let log = engine.store().log();
            let numbers = log.stats();
            gauge(
                "esker_log_published_lsn",
                "Everything below is in the log",
                number(log.published().0),
            )?;
            gauge(
                "esker_log_synced_lsn",
                "Everything below is on stable storage",
                number(log.synced().0),
            )?;
            gauge(
                "esker_log_oldest_lsn",
                "Oldest position held",
                number(log.oldest().0),
            )?;
            gauge(
                "esker_log_epoch",
                "Number of the epoch",
                number(log.epoch().number),
            )?;
            gauge(
                "esker_log_segments",
                "Segments held",
                number(numbers.segments),
            )?;
            gauge(
                "esker_log_segments_ready",
                "Segments prepared",
                number(numbers.segments_ready),
            )?;
            gauge(
                "esker_log_bytes_held",
                "Bytes of log on disk",
                number(numbers.bytes_held),
            )?;
            let store = engine.store().stats();
            gauge("esker_keys", "Keys, estimated", number(engine.stats().keys))?;
            gauge(
                "esker_store_memtable_bytes",
                "Bytes of memtables",
                number(store.memtable_bytes),
            )?;
            gauge(
                "esker_store_memtable_spare_bytes",
                "Bytes kept from flushed memtables for the next ones",
                number(store.memtable_spare_bytes),
            )?;
            gauge(
                "esker_store_immutable_memtables",
                "Memtables to be flushed",
                number(store.immutable_memtables),
            )?;
            gauge(
                "esker_store_cache_bytes",
                "Bytes in the block cache",
                number(store.cache_bytes),
            )?;
            gauge(
                "esker_store_table_memory_bytes",
                "Bytes of indexes and filters",
                number(store.table_memory_bytes),
            )?;
            gauge(
                "esker_store_snapshots",
                "Live snapshots",
                number(store.snapshots),
            )?;
            let levels = |values: &[u64]| -> Vec<(Vec<(&'static str, String)>, i64)> {
                values
                    .iter()
                    .enumerate()
                    .map(|(level, value)| (vec![("level", level.to_string())], number(*value)))
                    .collect()
            };
            labelled(
                &mut encoder,
                "esker_store_tables",
                "Tables",
                &levels(&store.tables_per_level),
            )?;
            labelled(
                &mut encoder,
                "esker_store_table_bytes",
                "Bytes of tables",
                &levels(&store.bytes_per_level),
            )?;
            if let Some(peers) = shared.node.peers() {
                let end = log.synced();
                let replicas = peers.replicas();
                let each = |value: &dyn Fn(&crate::ReplicaLine) -> u64| -> Vec<_> {
                    replicas
                        .iter()
                        .map(|replica| {
                            (
                                vec![("replica", replica.name.clone())],
                                number(value(replica)),
                            )
                        })
                        .collect()
                };
                labelled(
                    &mut encoder,
                    "esker_replica_connected",
                    "1 while connected",
                    &each(&|replica| u64::from(replica.connected)),
                )?;
                labelled(
                    &mut encoder,
                    "esker_replica_durable_lsn",
                    "Synced there",
                    &each(&|replica| replica.durable.0),
                )?;
                labelled(
                    &mut encoder,
                    "esker_replica_applied_lsn",
                    "Readable there",
                    &each(&|replica| replica.applied.0),
                )?;
                labelled(
                    &mut encoder,
                    "esker_replica_lag_bytes",
                    "Synced here and not applied there",
                    &each(&|replica| end.0.saturating_sub(replica.applied.0)),
                )?;
            }
        }
        audited(&mut encoder, shared.audit.as_deref())
    }
}
