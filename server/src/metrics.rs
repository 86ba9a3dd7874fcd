//! `/metrics` (Prometheus text), `/healthz` and `/readyz` over HTTP.
//!
//! The responder is a loop of our own over `httparse`: one thread, one request per connection, bounded in
//! bytes and time. A general HTTP server would bring threads that can't be named and joined (E1), for three
//! pages. What is exposed is read from the server when it is asked for; nothing is counted twice.

use crate::server::Shared;
use esker_sync::histogram::Counts;
use mio::net::TcpListener;
use mio::{Events, Interest, Poll, Token, Waker};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const LISTENER: Token = Token(0);
const STOP: Token = Token(1);
const REQUEST_BYTES_MAX: usize = 8 << 10;
/// One client is served at a time, so none may take long.
const CLIENT_TIME_MAX: Duration = Duration::from_secs(1);

/// A running responder. Dropped, it closes.
#[derive(Debug)]
pub struct Metrics {
    addr: SocketAddr,
    stop: Arc<AtomicBool>,
    waker: Arc<Waker>,
    thread: Option<JoinHandle<()>>,
}

impl Metrics {
    /// Answers on `listener` about the server behind `shared`.
    pub fn start(listener: std::net::TcpListener, shared: Arc<Shared>) -> io::Result<Metrics> {
        let addr = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let mut listener = TcpListener::from_std(listener);
        let poll = Poll::new()?;
        poll.registry()
            .register(&mut listener, LISTENER, Interest::READABLE)?;
        let waker = Arc::new(Waker::new(poll.registry(), STOP)?);
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::Builder::new()
            .name("esker-metrics".into())
            .spawn({
                let stop = Arc::clone(&stop);
                move || serve(poll, &listener, &stop, &shared)
            })?;
        Ok(Metrics {
            addr,
            stop,
            waker,
            thread: Some(thread),
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Ends it and joins its thread.
    pub fn close(&mut self) {
        let Some(thread) = self.thread.take() else {
            return;
        };
        self.stop.store(true, Ordering::Release);
        // It fails only when the eventfd is gone, and with it the thread.
        let _ = self.waker.wake();
        if thread.join().is_err() {
            tracing::error!("the metrics thread panicked; see above");
        }
    }
}

impl Drop for Metrics {
    fn drop(&mut self) {
        self.close();
    }
}

fn serve(mut poll: Poll, listener: &TcpListener, stop: &AtomicBool, shared: &Arc<Shared>) {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Numbers(Arc::clone(shared))));
    let mut events = Events::with_capacity(8);
    while !stop.load(Ordering::Acquire) {
        match poll.poll(&mut events, None) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                tracing::error!(%error, "metrics are not served any more");
                return;
            }
        }
        while !stop.load(Ordering::Acquire) {
            match listener.accept() {
                // What a client does wrong is its own loss.
                Ok((stream, _)) => drop(answer(stream.into(), shared, &registry)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }
}

fn answer(mut stream: std::net::TcpStream, shared: &Shared, registry: &Registry) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    let deadline = Instant::now() + CLIENT_TIME_MAX;
    let left = || {
        deadline
            .checked_duration_since(Instant::now())
            .filter(|left| !left.is_zero())
            .ok_or(io::ErrorKind::TimedOut)
    };
    let mut request = Vec::new();
    let mut piece = [0; 1024];
    let path = loop {
        stream.set_read_timeout(Some(left()?))?;
        let n = stream.read(&mut piece)?;
        if n == 0 {
            return Ok(());
        }
        request.extend_from_slice(&piece[..n]);
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut parsed = httparse::Request::new(&mut headers);
        match parsed.parse(&request) {
            Ok(httparse::Status::Complete(_)) => {
                if !matches!(parsed.method, Some("GET" | "HEAD")) {
                    break None;
                }
                let path = parsed.path.unwrap_or("/");
                break Some(path.split('?').next().unwrap_or(path).to_owned());
            }
            Ok(httparse::Status::Partial) if request.len() < REQUEST_BYTES_MAX => {}
            _ => break None,
        }
    };
    let (status, kind, body) = page(path.as_deref(), shared, registry);
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.set_write_timeout(Some(left()?))?;
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())
}

const TEXT: &str = "text/plain; charset=utf-8";

fn page(
    path: Option<&str>,
    shared: &Shared,
    registry: &Registry,
) -> (&'static str, &'static str, String) {
    match path {
        Some("/metrics") => {
            let mut body = String::new();
            match prometheus_client::encoding::text::encode(&mut body, registry) {
                Ok(()) => (
                    "200 OK",
                    "application/openmetrics-text; version=1.0.0; charset=utf-8",
                    body,
                ),
                Err(error) => ("500 Internal Server Error", TEXT, format!("{error}\n")),
            }
        }
        Some("/healthz") => match shared.node.failure() {
            None => ("200 OK", TEXT, "ok\n".into()),
            Some(why) => ("503 Service Unavailable", TEXT, format!("{why}\n")),
        },
        Some("/readyz") => match readiness(shared) {
            Ok(()) => ("200 OK", TEXT, "ready\n".into()),
            Err(why) => ("503 Service Unavailable", TEXT, format!("{why}\n")),
        },
        Some("/") => (
            "200 OK",
            TEXT,
            "Esker: /metrics, /healthz, /readyz\n".into(),
        ),
        Some(_) => (
            "404 Not Found",
            TEXT,
            "try /metrics, /healthz or /readyz\n".into(),
        ),
        None => (
            "400 Bad Request",
            TEXT,
            "GET one of /metrics, /healthz, /readyz\n".into(),
        ),
    }
}

/// Whether clients should be sent here.
fn readiness(shared: &Shared) -> Result<(), String> {
    if shared.node.engine().is_none() {
        return Err("waiting for the first handshake with the primary".into());
    }
    if shared.node.is_replica() {
        return match shared.node.upstream().map(|upstream| upstream.link().2) {
            Some("connected") => Ok(()),
            _ => Err("not connected to the primary".into()),
        };
    }
    shared
        .node
        .write_gate()
        .map_err(|refusal| refusal.text().into_owned())
}

/// Reads the numbers of a server when they are asked for.
struct Numbers(Arc<Shared>);

impl fmt::Debug for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Numbers")
    }
}

/// Gauges of the same name that differ in labels.
struct Labelled<'a>(&'a [(Vec<(&'a str, String)>, i64)]);

impl EncodeMetric for Labelled<'_> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        for (labels, value) in self.0 {
            let one = encoder.encode_family(labels)?;
            ConstGauge::new(*value).encode(one)?;
        }
        Ok(())
    }
    fn metric_type(&self) -> MetricType {
        MetricType::Gauge
    }
}

/// A histogram of the log's, by powers of two; its values divided by `unit`.
struct Magnitudes<'a>(&'a Counts, f64);

impl EncodeMetric for Magnitudes<'_> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        let Magnitudes(counts, unit) = *self;
        let bucket = |(largest, count)| match largest {
            u64::MAX => (f64::MAX, count),
            largest => (largest as f64 / unit, count),
        };
        let buckets: Vec<_> = counts.buckets().map(bucket).collect();
        let sum = counts.sum() as f64 / unit;
        encoder.encode_histogram::<NoLabelSet>(sum, counts.count(), &buckets, None)
    }
    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

impl Collector for Numbers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut counter = |name: &str, help: &str, value: u64| {
            let metric = ConstCounter::new(value);
            let one = encoder.encode_descriptor(name, help, None, metric.metric_type())?;
            metric.encode(one)
        };
        let shared = &self.0;
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
        Ok(())
    }
}

fn labelled(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: &[(Vec<(&str, String)>, i64)],
) -> Result<(), fmt::Error> {
    let metric = Labelled(values);
    let one = encoder.encode_descriptor(name, help, None, metric.metric_type())?;
    metric.encode(one)
}
