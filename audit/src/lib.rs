//! An audit trail.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod chain;
mod closed;
mod entry;
mod error;
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
mod shared;
mod stats;
mod trail;
mod upkeep;
mod verify;

pub use closed::ClosedFile;
pub use entry::{ClockState, Entry, Head, Kind, Root, time_text};
pub use error::Error;
pub use finding::{Finding, FindingKind};
pub use key::{Key, KeyError, KeyId, Keyring};
pub use note::{CHECKPOINT, Checkpoint, verifier_key};
pub use policy::{Anchor, OnFailure, OnTamper, Options, Policies, Policy, Write};
pub use read::{Found, Order, Query, Reader, Records};
pub use record::{Limits, Outcome, Record, SCHEMA, Severity, Text};
pub use ring::Ring;
pub use stats::TrailStats;
pub use trail::{Opened, Receipt, Trail, Written};
pub use verify::{Anchored, OnProgress, Report, VerifyOptions, verify};
