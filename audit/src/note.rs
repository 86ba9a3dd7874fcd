//! Checkpoints: signed statements of how far the trail went, to be kept elsewhere.
//!
//! A checkpoint is a signed note (<https://c2sp.org/signed-note>) whose text is that of a transparency log's checkpoint
//! (<https://c2sp.org/tlog-checkpoint>): origin, size, root hash, and one line more with the time. The root is that of the chain, not of a tree; who has the trail
//! and its key can check it ([`crate::verify`]), and who has the public key alone can check who signed it.
//!
//! ```text
//! esker-audit/00d1e6a1c4b2a3f0
//! 1234
//! 1x2mYh0...=
//! time 2026-01-31T12:00:00.000000000Z
//!
//! — esker-audit/91b0c4f17c9b1c5e wXyz...
//! ```

use crate::entry::{Root, time_text};
use crate::finding::{Finding, FindingKind};
use crate::key::{Key, KeyId, Keyring, signed};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use esker_wal::media::Media;
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::io;
use std::path::Path;

/// Name of the file in the trail's directory that holds the newest.
pub const CHECKPOINT: &str = "CHECKPOINT";
const ORIGIN: &str = "esker-audit/";
/// The algorithm byte of Ed25519 in a signed note.
const ED25519: u8 = 1;

/// A signed statement: at this sequence, the chain had this root.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Checkpoint {
    /// Identity of the trail.
    pub trail: u64,
    /// Sequence of the newest entry.
    pub sequence: u64,
    /// Its root.
    pub root: Root,
    /// When, as RFC 3339 has it.
    pub time: String,
    /// Who signed it.
    pub key: KeyId,
    note: String,
}

/// Its text is the note, as it is to be sent elsewhere.
impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.note)
    }
}

fn key_name(key: KeyId) -> String {
    format!("{ORIGIN}{key}")
}

/// The first four bytes of SHA-256 of the key's name, a newline, the algorithm and the public key: they say which key signed.
fn key_hash(name: &str, public: &[u8; 32]) -> [u8; 4] {
    let mut hasher = Sha256::new();
    hasher.update(name.as_bytes());
    hasher.update([b'\n', ED25519]);
    hasher.update(public);
    *hasher.finalize().first_chunk().expect("32 bytes")
}

/// The verifier's key as tools for signed notes take it: `NAME+HASH+KEY`.
#[must_use]
pub fn verifier_key(key: &Key) -> String {
    let (name, public) = (key_name(key.id()), key.public());
    let hash = u32::from_be_bytes(key_hash(&name, &public));
    let bytes = [&[ED25519], &public[..]].concat();
    format!("{name}+{hash:08x}+{}", BASE64.encode(bytes))
}

impl Checkpoint {
    pub(crate) fn sign(key: &Key, trail: u64, sequence: u64, root: Root, nanos: u64) -> Checkpoint {
        let time = time_text(nanos);
        let text = format!(
            "{ORIGIN}{trail:016x}\n{sequence}\n{}\ntime {time}\n",
            BASE64.encode(root.0)
        );
        let name = key_name(key.id());
        let mut bytes = key_hash(&name, &key.public()).to_vec();
        bytes.extend_from_slice(&key.sign(text.as_bytes()));
        let note = format!("{text}\n\u{2014} {name} {}\n", BASE64.encode(bytes));
        Checkpoint {
            trail,
            sequence,
            root,
            time,
            key: key.id(),
            note,
        }
    }

    /// The checkpoint in `note`, if it is one that a key of `keys` signed. Where several follow one another the last must be; of its trail it is the one that
    /// saw most: who can append to a file of checkpoints, and no more, gains nothing by repeating an old one.
    pub fn parse(note: &str, keys: &Keyring) -> Result<Checkpoint, String> {
        let begins = note.match_indices(ORIGIN).map(|(at, _)| at);
        let begins = begins.filter(|at| *at == 0 || note[..*at].ends_with('\n'));
        let begins: Vec<usize> = begins.collect();
        let (last, before) = begins.split_last().ok_or("it has no origin of a trail")?;
        let mut newest = Checkpoint::parse_one(&note[*last..], keys)?;
        for (at, begin) in before.iter().enumerate() {
            let note = &note[*begin..begins[at + 1]];
            // Signatures are dear: those that saw less are not looked at. One that a crash tore while it was appended says nothing.
            let saw_more = Checkpoint::says(note)
                .is_some_and(|(trail, saw)| trail == newest.trail && saw > newest.sequence);
            if saw_more && let Ok(other) = Checkpoint::parse_one(note, keys) {
                newest = other;
            }
        }
        Ok(newest)
    }

    /// Which trail a note says that it is about, and how much it saw.
    fn says(note: &str) -> Option<(u64, u64)> {
        let mut lines = note.lines();
        let trail = lines.next()?.strip_prefix(ORIGIN)?;
        let trail = u64::from_str_radix(trail, 16).ok()?;
        Some((trail, lines.next()?.parse().ok()?))
    }

    fn parse_one(note: &str, keys: &Keyring) -> Result<Checkpoint, String> {
        let (text, signatures) = note.split_once("\n\n").ok_or("it has no signature")?;
        let text = format!("{text}\n");
        let mut lines = text.lines();
        let mut line = |what: &str| lines.next().ok_or(format!("it has no {what}"));
        let origin = line("origin")?;
        let trail = (origin.strip_prefix(ORIGIN))
            .and_then(|id| u64::from_str_radix(id, 16).ok())
            .ok_or("its first line is not the origin of a trail")?;
        let sequence = (line("sequence")?.parse()).map_err(|_| "its second line is no sequence")?;
        let root = BASE64.decode(line("root")?).ok();
        let root = root.and_then(|r| <[u8; 32]>::try_from(r).ok());
        let root = Root(root.ok_or("its third line is no root")?);
        let time = line("time")?.trim_start_matches("time ").to_owned();
        for signature in signatures.lines() {
            let Some((name, bytes)) =
                (signature.strip_prefix("\u{2014} ")).and_then(|rest| rest.split_once(' '))
            else {
                continue;
            };
            let bytes = BASE64.decode(bytes.trim()).unwrap_or_default();
            let id = (name.strip_prefix(ORIGIN)).and_then(|id| u64::from_str_radix(id, 16).ok());
            let Some(key) = id.and_then(|id| keys.get(KeyId(id))) else {
                continue;
            };
            let (Some(hash), Some(signature)) = (bytes.first_chunk::<4>(), bytes.get(4..)) else {
                continue;
            };
            let public = key.public();
            let Ok(signature) = <&[u8; 64]>::try_from(signature) else {
                continue;
            };
            if *hash == key_hash(name, &public) && signed(&public, text.as_bytes(), signature) {
                return Ok(Checkpoint {
                    trail,
                    sequence,
                    root,
                    time,
                    key: key.id(),
                    note: note.to_owned(),
                });
            }
        }
        Err("no key of the keyring signed it".to_owned())
    }
}

/// Bytes of the file `CHECKPOINT` that are read.
const FILE_MAX: usize = 4096;

/// The checkpoint in the trail's directory, or what is wrong with it; `None` where there is none.
pub(crate) fn beside(
    media: &dyn Media,
    dir: &Path,
    keys: &Keyring,
) -> io::Result<Option<Result<Checkpoint, Finding>>> {
    let path = dir.join(CHECKPOINT);
    let file = match media.open(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let mut bytes = vec![0; FILE_MAX];
    let n = file.read_at(&mut bytes, 0)?;
    bytes.truncate(n);
    let text = String::from_utf8(bytes).unwrap_or_default();
    // What is before and behind the note is under no signature, and nothing is there.
    let alone = |note: &str| note == text && text.ends_with('\n') && text.lines().count() == 6;
    let found = match Checkpoint::parse(&text, keys) {
        Ok(found) if alone(&found.note) => return Ok(Some(Ok(found))),
        Ok(_) => "it is not what was written".to_owned(),
        Err(why) => why,
    };
    let finding = Finding {
        kind: FindingKind::Signature,
        path,
        sequence: None,
        what: found,
    };
    Ok(Some(Err(finding)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_is_a_signed_note_and_any_change_of_it_is_seen() {
        let keys = Keyring::of(Key::from_secret([7; 32]));
        let made = Checkpoint::sign(keys.newest(), 0xabc, 17, Root([9; 32]), 1_700_000_000 << 30);
        let note = made.to_string();
        assert_eq!(Checkpoint::parse(&note, &keys).unwrap(), made);
        let twice = format!("{note}{note}");
        assert_eq!(Checkpoint::parse(&twice, &keys).unwrap(), made);
        let older = Checkpoint::sign(keys.newest(), 0xabc, 12, Root([8; 32]), 1_700_000_000 << 30);
        let torn = &note[..note.len() / 2];
        for rows in [
            format!("{older}{note}"),
            // Appended once more by somebody who wants an old copy to pass.
            format!("{note}{older}"),
            format!("{torn}{older}{note}{older}"),
        ] {
            assert_eq!(Checkpoint::parse(&rows, &keys).unwrap(), made, "{rows}");
        }
        assert!(Checkpoint::parse(&format!("{note}{torn}"), &keys).is_err());
        assert!(Checkpoint::parse("", &keys).is_err());
        let other = Keyring::of(Key::from_secret([8; 32]));
        assert!(Checkpoint::parse(&note, &other).is_err());
        // The last newline is not signed.
        for at in 0..note.trim_end().len() {
            let mut bytes = note.clone().into_bytes();
            bytes[at] ^= 1;
            if let Ok(text) = String::from_utf8(bytes) {
                assert!(
                    Checkpoint::parse(&text, &keys).is_err(),
                    "byte {at}: {text}"
                );
            }
        }
    }
}
