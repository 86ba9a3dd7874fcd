//! INFO and CONFIG: what the server says about itself, in the words that Redis clients look for.

use crate::control::RoleView;
use crate::net::NetLimits;
use crate::node::Node;
use crate::server::Shared;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

/// The version of Redis whose commands are followed; clients choose features by it.
pub const REDIS_VERSION: &str = "7.2.0";

/// The version of Esker.
pub const ESKER_VERSION: &str = env!("CARGO_PKG_VERSION");

/// 40 random hexadecimal digits.
pub(crate) fn random_hex_40() -> String {
    let first = esker_wal::NodeId::random();
    let second = esker_wal::NodeId::random();
    let mut text = format!("{first}{second}");
    text.truncate(40);
    text
}

const SECTIONS: [&str; 10] = [
    "server",
    "clients",
    "memory",
    "persistence",
    "stats",
    "replication",
    "cpu",
    "errorstats",
    "keyspace",
    "audit",
];

/// The text of INFO.
pub(crate) fn info(shared: &Shared, asked: &[&[u8]]) -> String {
    let asked: Vec<String> = asked
        .iter()
        .map(|name| String::from_utf8_lossy(name).to_lowercase())
        .collect();
    let all = asked.is_empty()
        || asked
            .iter()
            .any(|name| matches!(name.as_str(), "all" | "default" | "everything"));
    let mut out = String::with_capacity(4096);
    for section in SECTIONS {
        if !all && !asked.iter().any(|name| name == section) {
            continue;
        }
        if !out.is_empty() {
            out.push_str("\r\n");
        }
        match section {
            "server" => server(shared, &mut out),
            "clients" => clients(shared, &mut out),
            "memory" => memory(shared, &mut out),
            "persistence" => persistence(shared, &mut out),
            "stats" => stats(shared, &mut out),
            "replication" => replication(shared, &mut out),
            "cpu" => cpu(&mut out),
            "audit" => out.push_str(&crate::audit::Audit::info(shared.audit.as_deref())),
            "errorstats" => out.push_str("# Errorstats\r\n"),
            _ => keyspace(shared, &mut out),
        }
    }
    out
}

/// One `name:value` line.
macro_rules! line {
    ($out:expr, $name:literal, $value:expr) => {
        // Writing to a String does not fail.
        let _ = write!($out, concat!($name, ":{}\r\n"), $value);
    };
}

fn server(shared: &Shared, out: &mut String) {
    let uptime = shared.stats.started.elapsed().as_secs();
    let micros = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_micros());
    out.push_str("# Server\r\n");
    line!(out, "redis_version", REDIS_VERSION);
    line!(out, "esker_version", ESKER_VERSION);
    line!(out, "redis_git_sha1", "00000000");
    line!(out, "redis_git_dirty", 0);
    line!(out, "redis_mode", "standalone");
    line!(
        out,
        "os",
        format_args!("{} {}", std::env::consts::OS, std::env::consts::ARCH)
    );
    line!(out, "arch_bits", usize::BITS);
    line!(out, "multiplexing_api", "epoll");
    line!(out, "process_id", std::process::id());
    line!(out, "run_id", shared.run_id);
    line!(out, "tcp_port", shared.addr.port());
    line!(out, "server_time_usec", micros);
    line!(out, "uptime_in_seconds", uptime);
    line!(out, "uptime_in_days", uptime / 86_400);
    line!(out, "hz", 10);
    let config = shared.config.read();
    line!(
        out,
        "io_threads_active",
        config.get("io-threads").map_or("1", |n| n.as_str())
    );
    if let Some(engine) = shared.node.engine() {
        let log = engine.store().log();
        line!(out, "esker_node_id", log.node_id());
        line!(out, "esker_store_id", log.log_id());
        line!(out, "esker_epoch", log.epoch());
        line!(out, "esker_epochs", log.epochs().len());
    }
}

fn clients(shared: &Shared, out: &mut String) {
    out.push_str("# Clients\r\n");
    line!(out, "connected_clients", shared.registry.count());
    line!(out, "cluster_connections", 0);
    line!(out, "maxclients", shared.limits.clients_max);
    line!(
        out,
        "client_buffers_bytes",
        shared.stats.client_memory.load(Ordering::Relaxed)
    );
    line!(out, "blocked_clients", 0);
    line!(out, "tracking_clients", 0);
}

fn memory(shared: &Shared, out: &mut String) {
    out.push_str("# Memory\r\n");
    let rss = resident_bytes();
    line!(out, "used_memory", rss);
    line!(out, "used_memory_human", human(rss));
    line!(out, "used_memory_rss", rss);
    line!(out, "used_memory_rss_human", human(rss));
    if let Some(engine) = shared.node.engine() {
        let stats = engine.store().stats();
        line!(out, "esker_memtable_bytes", stats.memtable_bytes);
        line!(out, "esker_cache_bytes", stats.cache_bytes);
    }
    line!(out, "maxmemory", 0);
    line!(out, "maxmemory_human", "0B");
    line!(out, "maxmemory_policy", "noeviction");
    line!(out, "mem_fragmentation_ratio", "1.00");
    line!(out, "mem_allocator", "system");
}

fn persistence(shared: &Shared, out: &mut String) {
    out.push_str("# Persistence\r\n");
    line!(out, "loading", u8::from(shared.node.engine().is_none()));
    line!(out, "async_loading", 0);
    line!(out, "rdb_changes_since_last_save", 0);
    line!(out, "rdb_bgsave_in_progress", 0);
    line!(out, "rdb_last_bgsave_status", "ok");
    line!(out, "aof_enabled", 1);
    line!(out, "aof_rewrite_in_progress", 0);
    line!(out, "aof_last_bgrewrite_status", "ok");
    let failure = shared.node.failure();
    line!(
        out,
        "aof_last_write_status",
        if failure.is_some() { "err" } else { "ok" }
    );
    line!(
        out,
        "esker_durability",
        shared.node.promise().durability.name()
    );
    if let Some(why) = failure {
        line!(out, "esker_failure", why.replace(['\r', '\n'], " "));
    }
    if let Some(engine) = shared.node.engine() {
        let log = engine.store().log();
        let stats = log.stats();
        line!(out, "aof_current_size", stats.bytes_held);
        line!(out, "esker_log_published", log.published());
        line!(out, "esker_log_synced", log.synced());
        line!(out, "esker_log_oldest", log.oldest());
        line!(out, "esker_log_appends", stats.appends);
        line!(out, "esker_log_appended_bytes", stats.appended_bytes);
        line!(out, "esker_log_syncs", stats.syncs);
        line!(out, "esker_log_segments", stats.segments);
        let stats = engine.store().stats();
        line!(out, "esker_flushes", stats.flushes);
        line!(out, "esker_compactions", stats.compactions);
        line!(
            out,
            "esker_tables",
            stats.tables_per_level.iter().sum::<u64>()
        );
        line!(
            out,
            "esker_table_bytes",
            stats.bytes_per_level.iter().sum::<u64>()
        );
        line!(out, "esker_write_stalls", stats.write_stalls);
    }
}

fn stats(shared: &Shared, out: &mut String) {
    out.push_str("# Stats\r\n");
    let stats = &shared.stats;
    let rates = stats.rates();
    line!(
        out,
        "total_connections_received",
        stats.connections.load(Ordering::Relaxed)
    );
    line!(
        out,
        "total_commands_processed",
        stats.commands.load(Ordering::Relaxed)
    );
    line!(out, "instantaneous_ops_per_sec", rates.commands);
    line!(
        out,
        "total_net_input_bytes",
        stats.bytes_in.load(Ordering::Relaxed)
    );
    line!(
        out,
        "total_net_output_bytes",
        stats.bytes_out.load(Ordering::Relaxed)
    );
    line!(
        out,
        "instantaneous_input_kbps",
        format_args!("{:.2}", rates.bytes_in as f64 / 1024.0)
    );
    line!(
        out,
        "instantaneous_output_kbps",
        format_args!("{:.2}", rates.bytes_out as f64 / 1024.0)
    );
    line!(
        out,
        "rejected_connections",
        stats.rejected.load(Ordering::Relaxed)
    );
    line!(out, "acl_access_denied_auth", shared.acl.denied());
    let engine = shared
        .node
        .engine()
        .map(crate::engine::Engine::stats)
        .unwrap_or_default();
    line!(out, "expired_keys", engine.expired);
    line!(out, "evicted_keys", 0);
    line!(out, "keyspace_hits", engine.hits);
    line!(out, "keyspace_misses", engine.misses);
    line!(out, "pubsub_channels", 0);
    line!(out, "pubsub_patterns", 0);
    line!(out, "latest_fork_usec", 0);
    line!(
        out,
        "total_error_replies",
        stats.protocol_errors.load(Ordering::Relaxed)
    );
    line!(
        out,
        "esker_protocol_errors",
        stats.protocol_errors.load(Ordering::Relaxed)
    );
    line!(
        out,
        "esker_replies_held",
        stats.held.load(Ordering::Relaxed)
    );
    line!(out, "esker_loop_turns", stats.turns.load(Ordering::Relaxed));
}

fn replication(shared: &Shared, out: &mut String) {
    out.push_str("# Replication\r\n");
    match shared.node.role() {
        RoleView::Primary { offset, replicas } => {
            line!(out, "role", "master");
            let connected = replicas.iter().filter(|replica| replica.connected);
            line!(out, "connected_slaves", connected.clone().count());
            for (at, replica) in connected.enumerate() {
                let _ = write!(
                    out,
                    "slave{at}:ip={},port={},state=online,offset={},lag={},name={},durable={}\r\n",
                    replica.ip, replica.port, replica.applied, 0, replica.name, replica.durable
                );
            }
            line!(
                out,
                "min_slaves_good_slaves",
                shared.node.peers().map_or(0, |peers| peers.connected())
            );
            line!(out, "master_failover_state", "no-failover");
            line!(out, "master_replid", replid(shared));
            line!(out, "master_repl_offset", offset);
            line!(out, "second_repl_offset", -1);
            line!(out, "repl_backlog_active", 1);
        }
        RoleView::Replica {
            host,
            port,
            state,
            offset,
        } => {
            line!(out, "role", "slave");
            line!(out, "master_host", host);
            line!(out, "master_port", port);
            line!(
                out,
                "master_link_status",
                if state == "connected" { "up" } else { "down" }
            );
            line!(
                out,
                "master_last_io_seconds_ago",
                if state == "connected" { 0 } else { -1 }
            );
            line!(out, "master_sync_in_progress", u8::from(state == "sync"));
            line!(out, "slave_read_repl_offset", offset);
            line!(out, "slave_repl_offset", offset);
            line!(out, "slave_priority", 100);
            line!(out, "slave_read_only", 1);
            line!(out, "replica_announced", 1);
            line!(out, "connected_slaves", 0);
            line!(out, "master_failover_state", "no-failover");
            line!(out, "master_replid", replid(shared));
            line!(out, "master_repl_offset", offset);
            line!(out, "second_repl_offset", -1);
        }
    }
}

/// Redis has 40 digits here; ours is the store's identity, filled up with zeros.
fn replid(shared: &Shared) -> String {
    match shared.node.engine() {
        Some(engine) => format!("{:0<40}", engine.store().log().log_id().to_string()),
        None => "0".repeat(40),
    }
}

fn cpu(out: &mut String) {
    out.push_str("# CPU\r\n");
    let (user, system) = cpu_seconds().unwrap_or_default();
    line!(out, "used_cpu_sys", format_args!("{system:.6}"));
    line!(out, "used_cpu_user", format_args!("{user:.6}"));
    line!(out, "used_cpu_sys_children", "0.000000");
    line!(out, "used_cpu_user_children", "0.000000");
}

fn keyspace(shared: &Shared, out: &mut String) {
    out.push_str("# Keyspace\r\n");
    if let Some(engine) = shared.node.engine() {
        let stats = engine.stats();
        if stats.keys > 0 {
            let _ = write!(
                out,
                "db0:keys={},expires={},avg_ttl=0\r\n",
                stats.keys, stats.expires
            );
        }
    }
}

/// Bytes of this process in memory.
pub(crate) fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|text| text.split_whitespace().nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}

/// User and system time of this process, in seconds.
pub(crate) fn cpu_seconds() -> Option<(f64, f64)> {
    let text = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name in parentheses may hold anything; the fields follow its last parenthesis.
    let fields = text.rsplit_once(')')?.1;
    let mut fields = fields.split_whitespace().skip(11);
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    let user = fields.next()?.parse::<f64>().ok()?;
    let system = fields.next()?.parse::<f64>().ok()?;
    Some((user / ticks, system / ticks))
}

fn human(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes}B"),
        1024..1_048_576 => format!("{:.2}K", bytes as f64 / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.2}M", bytes as f64 / 1_048_576.0),
        _ => format!("{:.2}G", bytes as f64 / 1_073_741_824.0),
    }
}

/// What CONFIG GET shows: names of Redis where the thing exists under one, our own otherwise.
pub(crate) fn initial_config(
    node: &Node,
    limits: &NetLimits,
    addr: SocketAddr,
    data_dir: &str,
) -> BTreeMap<String, String> {
    let promise = node.promise();
    let fsync = match promise.durability {
        crate::node::Durability::Always => "always",
        crate::node::Durability::Interval => "everysec",
        crate::node::Durability::No => "no",
    };
    [
        ("appendonly", "yes".to_owned()),
        ("appendfsync", fsync.to_owned()),
        ("bind", addr.ip().to_string()),
        ("databases", "1".to_owned()),
        ("dir", data_dir.to_owned()),
        ("durability", promise.durability.name().to_owned()),
        ("io-threads", "1".to_owned()),
        ("maxclients", limits.clients_max.to_string()),
        ("maxmemory", "0".to_owned()),
        ("maxmemory-policy", "noeviction".to_owned()),
        (
            "min-replicas-to-write",
            promise.min_sync_replicas.to_string(),
        ),
        ("port", addr.port().to_string()),
        (
            "proto-max-bulk-len",
            limits.request.bulk_bytes_max.to_string(),
        ),
        ("save", String::new()),
        ("timeout", "0".to_owned()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}

/// CONFIG SET: nothing that Esker has can change while it runs, so only the value that is there is taken.
pub(crate) fn config_set(shared: &Shared, pairs: &[(&[u8], &[u8])]) -> Result<(), String> {
    let config = shared.config.read();
    for (name, value) in pairs {
        let shown = String::from_utf8_lossy(name).to_lowercase();
        match config.get(&shown) {
            None => {
                return Err(format!(
                    "ERR Unknown option or number of arguments for CONFIG SET - '{}'",
                    String::from_utf8_lossy(name)
                ));
            }
            Some(now) if now.as_bytes() == *value => {}
            Some(_) => {
                return Err(format!(
                    "ERR CONFIG SET failed (possibly related to argument '{shown}') - can't set immutable config"
                ));
            }
        }
    }
    Ok(())
}

/// Glob match as far as parameter names need it: `*`, `?`, and everything else literally.
pub(crate) fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(b'?') => {
                p += 1;
                t += 1;
            }
            Some(byte) if *byte == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    p = at + 1;
                    t = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_parameter_names() {
        for (pattern, text, expected) in [
            ("*", "save", true),
            ("save", "save", true),
            ("s*e", "save", true),
            ("*max*", "maxclients", true),
            ("m?x*", "maxclients", true),
            ("max", "maxclients", false),
            ("", "save", false),
            ("*e", "saved", false),
        ] {
            assert_eq!(
                glob(pattern.as_bytes(), text.as_bytes()),
                expected,
                "{pattern} {text}"
            );
        }
    }
}
