//! How the trail stands, for INFO and the metrics.

use super::Audit;
use std::sync::atomic::{AtomicU64, Ordering};

impl Audit {
    /// Name, explanation, value, and whether it only grows; for INFO and the metrics.
    pub(crate) fn numbers(&self) -> Vec<(&'static str, &'static str, u64, bool)> {
        let stats = self.trail.stats();
        let load = |n: &AtomicU64| n.load(Ordering::Relaxed);
        vec![
            (
                "records",
                "Entries written to the audit trail, its own among them",
                stats.records,
                true,
            ),
            ("bytes", "Bytes of them", stats.bytes, true),
            (
                "dropped",
                "Records dropped, as the policy says; a gap's entry names them",
                stats.dropped,
                true,
            ),
            (
                "gaps",
                "Entries that name records which were dropped",
                stats.gaps,
                true,
            ),
            ("refused", "Records refused", stats.refused, true),
            (
                "refused_operations",
                "Commands and clients refused because their record was",
                load(&self.refused),
                true,
            ),
            (
                "lost",
                "Records that were refused or failed",
                load(&self.lost),
                true,
            ),
            (
                "left_out",
                "Refused commands that were counted and have no record of their own",
                load(&self.left_out),
                true,
            ),
            (
                "failures",
                "Tries to write that failed",
                stats.failures,
                true,
            ),
            (
                "reopened",
                "Times that the live log was opened anew",
                stats.reopened,
                true,
            ),
            ("rotations", "Files closed", stats.rotations, true),
            (
                "rotation_failures",
                "Tries to close a file that failed",
                stats.rotation_failures,
                true,
            ),
            ("removed", "Closed files removed", stats.removed, true),
            ("checkpoints", "Checkpoints made", stats.checkpoints, true),
            (
                "checkpoint_failures",
                "Checkpoints that could not be written or sent",
                stats.checkpoint_failures,
                true,
            ),
            ("queue_depth", "Records in the queue", stats.queued, false),
            (
                "last_written_seconds",
                "When the last record was written, since 1970",
                stats.last_written / 1_000_000_000,
                false,
            ),
            (
                "last_checkpoint",
                "Sequence of the newest checkpoint",
                stats.last_checkpoint,
                false,
            ),
            (
                "synced",
                "Sequence of the last entry known to be on stable storage",
                stats.synced,
                false,
            ),
            (
                "live_bytes",
                "Bytes that are not in a closed file",
                stats.live_bytes,
                false,
            ),
            ("closed_files", "Closed files", stats.closed_files, false),
            (
                "closed_bytes",
                "Bytes of closed files",
                stats.closed_bytes,
                false,
            ),
            (
                "retention_behind_seconds",
                "By how much the time that retention by age goes by is behind the wall clock",
                stats.retention_behind,
                false,
            ),
            (
                "free_bytes",
                "Free bytes on its disk",
                stats.free_bytes,
                false,
            ),
            (
                "short",
                "1 while its disk is full but for the reserve",
                u64::from(stats.short),
                false,
            ),
            (
                "down",
                "1 while nothing can be written",
                u64::from(stats.down),
                false,
            ),
        ]
    }

    /// The section of INFO.
    pub(crate) fn info(audit: Option<&Audit>) -> String {
        let mut out = format!("# Audit\r\naudit_enabled:{}\r\n", u8::from(audit.is_some()));
        if let Some(audit) = audit {
            let dir = audit.dir.display().to_string().replace(['\r', '\n'], " ");
            out.push_str(&format!(
                "audit_dir:{dir}\r\naudit_trail:{:016x}\r\n",
                audit.trail.id()
            ));
            for (name, _, value, _) in audit.numbers() {
                out.push_str(&format!("audit_{name}:{value}\r\n"));
            }
        }
        out
    }
}
