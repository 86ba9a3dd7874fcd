//! An audit trail: who did what to what, from where, and how it ended, as evidence. What was written can't be changed, removed, put elsewhere or cut off without
//! [`verify`] saying so and where; a record that was acknowledged as synced is found after any crash; and what was not written is counted.
//!
//! ```
//! use esker_audit::{Keyring, Options, Record, Severity, Trail, VerifyOptions, verify};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let scratch = tempfile::tempdir()?;
//! # let (dir, key_file) = (scratch.path().join("audit"), scratch.path().join("audit.keys"));
//! let keys = Keyring::load_or_create(&key_file)?; // keep it apart from the trail
//! let (trail, _) = Trail::open(&dir, keys.clone(), Options::default())?;
//! let login = Record::new("user.login").severity(Severity::Notice).actor("17", "ann").origin("10.0.0.1:5123", "web");
//! trail.record(login.clone().success())?; // on stable storage when it returns
//! trail.record(login.failure("WRONGPASS", "no such user"))?;
//! let checkpoint = trail.checkpoint()?; // signed: keep it where nobody can reach both
//! trail.close()?;
//! let against = VerifyOptions { against: Some(checkpoint), ..VerifyOptions::default() };
//! assert!(verify(&dir, &keys, &against)?.is_whole());
//! # Ok(())
//! # }
//! ```
//!
//! - *Writing*: [`Trail::record`]. When a call returns and what is done where nothing can be written is the operator's choice, by severity: [`Policies`] (A2).
//!   One process at a time has a trail open; any number read it meanwhile.
//! - *Chain*: each record carries a keyed hash of itself and the one before, over files and restarts; closed files are signed; `HEAD` says how far it was synced;
//!   what retention removes leaves a signed tombstone, and what was dropped a gap's record (A1). [`verify`] checks all of it.
//! - *Checkpoints*: [`Checkpoint`], signed notes to be kept elsewhere: alone they show an old copy put back.
//! - *Reading*: [`Reader`] and [`Query`], with one block in memory at a time; [`Records::renew`] follows; [`Summary`] counts; [`export()`] writes JSON lines, CSV and
//!   syslog. The tool `esker audit` does these from outside.
//!
//! What it is not: it hides nothing (values that must not be readable: [`Record::secret`]), and it does not hold against who has the key: keep keys apart from the trail and checkpoints
//! apart from both. The crate's README has the table of attack and answer; docs/audit.md the operator's side; docs/formats.md the bytes.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod aging;
mod chain;
mod closed;
mod entry;
mod error;
mod export;
mod finding;
mod head;
mod key;
mod live;
mod note;
mod open;
mod policy;
mod read;
mod record;
mod ring;
#[doc(hidden)]
pub mod sabotage;
mod several;
mod shared;
mod stats;
mod summary;
mod trail;
mod upkeep;
mod verify;

pub use closed::ClosedFile;
pub use entry::{ClockState, Entry, Head, Kind, Root, time_text};
pub use error::Error;
pub use export::{COLUMNS, ENTERPRISE, Export, Format, Framing, export, json_line, printable};
pub use finding::{Finding, FindingKind};
pub use key::{Key, KeyError, KeyId, Keyring};
pub use note::{CHECKPOINT, Checkpoint, verifier_key};
pub use policy::{Anchor, OnFailure, OnTamper, Options, Policies, Policy, Write};
pub use read::{Found, Order, Query, Reader, Records};
pub use record::{Limits, Outcome, Record, SCHEMA, Severity, Text};
pub use ring::Ring;
pub use stats::TrailStats;
pub use summary::{Counts, Summary};
pub use trail::{Opened, Receipt, Trail, Written};
pub use verify::{Anchored, OnProgress, Report, VerifyOptions, verify};

// The example of the README compiles and runs.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
