//! Opening the trail: the policy, the keys, the plans for each command, the threads.

use super::policy::{Class, Level, Policy, PolicyError};
use super::refusal::Limiter;
use super::what::{self, Program};
use super::{Ask, Audit, Plan};
use crate::Acl;
use crate::commands::COMMANDS;
use crossbeam_channel::{Receiver, RecvTimeoutError};
use esker_audit::{Error, KeyError, Keyring, Trail};
use parking_lot::Mutex;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// Threads that write what waits: so many records share a sync at least.
const ASKERS: usize = 4;
/// How often what was left out is looked for.
const TICK: Duration = Duration::from_secs(1);

/// Where the trail is, and how it is written.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Its directory.
    pub dir: PathBuf,
    /// The policy's file; without one the policy is [`Policy::default`].
    pub policy: Option<PathBuf>,
    /// The keys' file; without one `DIR.keys`.
    pub keys: Option<PathBuf>,
    /// Names this node in every record.
    pub node: String,
    /// Whose commands are recorded.
    pub program: Program,
    /// The users.
    pub acl: Arc<Acl>,
}

/// Why nothing can be recorded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    /// The policy.
    #[error("audit policy: {0}")]
    Policy(#[from] PolicyError),
    /// The keys.
    #[error("audit keys: {0}; name the file of its keys with --audit-key-file")]
    Keys(#[from] KeyError),
    /// The trail.
    #[error("audit trail: {0}")]
    Trail(#[from] Error),
    /// Its threads.
    #[error("starting threads for the audit trail: {0}")]
    Threads(std::io::Error),
}

/// `DIR.keys`, beside the directory.
#[must_use]
pub fn keys_beside(dir: &Path) -> PathBuf {
    let mut name = dir.components().collect::<PathBuf>().into_os_string();
    name.push(".keys");
    name.into()
}

fn load_keys(setup: &Setup) -> Result<Keyring, KeyError> {
    let beside = keys_beside(&setup.dir);
    let path = setup.keys.as_ref().unwrap_or(&beside);
    if setup.keys.is_none() {
        tracing::warn!(keys = %path.display(), "the keys of the audit trail lie beside it, where whoever can change it can read them: keep them elsewhere, and name their file with --audit-key-file");
    }
    // New keys do not open a trail that is there.
    match setup.dir.join("TRAIL").exists() {
        true => Keyring::load(path),
        false => Keyring::load_or_create(path),
    }
}

impl Audit {
    /// Opens the trail, or makes it.
    pub fn open(setup: &Setup) -> Result<Arc<Audit>, AuditError> {
        let policy = match &setup.policy {
            Some(path) => Policy::load(path)?,
            None => Policy::default(),
        };
        let keys = load_keys(setup)?;
        let key = keys.newest().clone();
        let mut options = policy.options.clone();
        options.node.clone_from(&setup.node);
        let (trail, opened) = Trail::open(&setup.dir, keys, options)?;
        for finding in &opened.findings {
            tracing::error!(dir = %setup.dir.display(), %finding, "the audit trail is not what was written");
        }
        let mut plans: Vec<Vec<Plan>> = COMMANDS.iter().map(|_| Vec::new()).collect();
        for (at, _, spec) in what::all() {
            let kind = what::kind_of(spec);
            let rules = rules_for(&policy, kind.class, spec.name);
            plans[at].push(Plan { kind, rules });
        }
        let slow = policy
            .class_is_on(Class::Slow)
            .then_some(policy.slow.as_nanos() as u64);
        let (sender, asks) = crossbeam_channel::unbounded();
        let audit = Arc::new(Audit {
            trail,
            dir: setup.dir.clone(),
            limiter: Limiter::new(policy.refused_per_second),
            policy,
            program: setup.program,
            acl: setup.acl.clone(),
            key,
            plans,
            slow,
            run: crate::status::random_hex_40()[..8].to_owned(),
            requests: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            left_out: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            asks: Mutex::new(Some(sender)),
            threads: Mutex::default(),
        });
        for _ in 0..ASKERS {
            let (audit_of, asks) = (Arc::downgrade(&audit), asks.clone());
            let spawned = std::thread::Builder::new()
                .name("esker-audit-ask".into())
                .spawn(move || serve(&audit_of, &asks));
            match spawned {
                Ok(thread) => audit.threads.lock().push(thread),
                Err(error) => {
                    let _ = audit.close();
                    return Err(AuditError::Threads(error));
                }
            }
        }
        Ok(audit)
    }
}

/// Rules that may be about commands of a class; none where all that is reached says that nothing is recorded.
fn rules_for(policy: &Policy, class: Class, command: &str) -> Box<[usize]> {
    let mut found = Vec::new();
    for (at, rule) in policy.rules.iter().enumerate() {
        if rule.is_about(class, command) {
            found.push(at);
            if rule.is_unconditional() {
                break;
            }
        }
    }
    if found
        .iter()
        .all(|at| policy.rules[*at].level == Level::None)
    {
        found.clear();
    }
    found.into()
}

/// One of the threads that wait.
fn serve(audit: &std::sync::Weak<Audit>, asks: &Receiver<Ask>) {
    loop {
        let asked = asks.recv_timeout(TICK);
        let Some(audit) = audit.upgrade() else {
            return;
        };
        match asked {
            Ok(ask) => (ask.then)(audit.write(ask.due)),
            Err(RecvTimeoutError::Timeout) => audit.tell_left_out(),
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}
