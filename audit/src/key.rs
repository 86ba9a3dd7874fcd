//! Keys: what chains a trail, hides its secrets and signs for it.
//!
//! - KE1: from one secret of 32 bytes come, by BLAKE3's key derivation with a context each, the key of the chain, the key of the
//!   redaction and the seed of the Ed25519 signature. None of them says anything about another.
//! - KE2: a key's id is the first eight bytes of the BLAKE3 hash of its public key, in hexadecimal digits. It stands in every record.
//! - KE3: whoever holds the secret can rebuild the trail; whoever holds the public key can check its signatures. So the key file
//!   belongs where who writes the trail's directory can't read it, or at least on another disk.
//!
//! The key file is text: lines that begin with `#` say what it is, the others are `ID SECRET`, the secret in Base64; the last is
//! the one to write with, the others are there to verify what was written before.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::{Signature, Signer, SigningKey, Verifier, VerifyingKey};
use std::fmt;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zeroize::Zeroize as _;

const HEAD: &str = "# Keys of an Esker audit trail. Whoever has them can rebuild the trail unseen: keep them apart from it.\n";

/// Names a key; see [`Key::id`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub u64);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

/// A key's error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The key file could not be read or written.
    #[error("{doing} the key file {path}: {source}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The key file is none.
    #[error(
        "{path}, line {line}: {why}; a key file has lines `ID SECRET`, made by `esker audit keys new`"
    )]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Its line, from 1.
        line: usize,
        /// What is wrong.
        why: &'static str,
    },
    /// Others may read the key file.
    #[error("{path} may be read by others (mode {mode:o}); `chmod 600` it")]
    Readable {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The system gave no random bytes.
    #[error("no random bytes for a key: {0}")]
    Random(String),
}

/// One key; see the module. Cheap to clone. With the last clone its secrets are wiped from where they were kept; what the hashes left on a stack is not.
#[derive(Clone)]
pub struct Key(Arc<Secrets>);

struct Secrets {
    id: KeyId,
    secret: [u8; 32],
    chain: [u8; 32],
    redaction: [u8; 32],
    signing: SigningKey,
}

impl Drop for Secrets {
    fn drop(&mut self) {
        // The signing key does so itself.
        self.secret.zeroize();
        self.chain.zeroize();
        self.redaction.zeroize();
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.0.id)
    }
}

impl Key {
    /// A new one, of the system's random bytes.
    pub fn random() -> Result<Key, KeyError> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).map_err(|e| KeyError::Random(e.to_string()))?;
        Ok(Key::from_secret(secret))
    }

    /// The key of these 32 bytes, which must be random (KE1).
    #[must_use]
    pub fn from_secret(secret: [u8; 32]) -> Key {
        let derived = |context| blake3::derive_key(context, &secret);
        let signing = SigningKey::from_bytes(&derived("esker-audit 1 signature"));
        Key(Arc::new(Secrets {
            id: id_of(signing.verifying_key().as_bytes()),
            chain: derived("esker-audit 1 chain"),
            redaction: derived("esker-audit 1 redaction"),
            signing,
            secret,
        }))
    }

    /// Its name (KE2).
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.0.id
    }

    /// What checks its signatures: an Ed25519 public key.
    #[must_use]
    pub fn public(&self) -> [u8; 32] {
        self.0.signing.verifying_key().to_bytes()
    }

    pub(crate) fn chain(&self) -> &[u8; 32] {
        &self.0.chain
    }

    /// What stands in a record for a value that must not: 16 bytes of a keyed hash, so that equal values are seen to be equal,
    /// and nobody without the key can try values until one fits.
    #[must_use]
    pub fn redact(&self, value: &[u8]) -> String {
        let hash = blake3::keyed_hash(&self.0.redaction, value);
        let mut out = "hmac:".to_owned();
        for byte in &hash.as_bytes()[..16] {
            out.push_str(&format!("{byte:02x}"));
        }
        out
    }

    pub(crate) fn sign(&self, what: &[u8]) -> [u8; 64] {
        self.0.signing.sign(what).to_bytes()
    }

    pub(crate) fn signed(&self, what: &[u8], signature: &[u8; 64]) -> bool {
        signed(&self.public(), what, signature)
    }
}

/// Whether `signature` is that of the holder of `public` under `what`.
pub(crate) fn signed(public: &[u8; 32], what: &[u8], signature: &[u8; 64]) -> bool {
    VerifyingKey::from_bytes(public)
        .is_ok_and(|key| key.verify(what, &Signature::from_bytes(signature)).is_ok())
}

pub(crate) fn id_of(public: &[u8; 32]) -> KeyId {
    let hash = blake3::hash(public);
    let first = hash.as_bytes().first_chunk().expect("it has 32 bytes");
    KeyId(u64::from_be_bytes(*first))
}

/// The keys of a trail: the last one writes, all of them verify.
#[derive(Clone, Debug)]
pub struct Keyring {
    keys: Vec<Key>,
}

impl Keyring {
    /// With one key.
    #[must_use]
    pub fn of(key: Key) -> Keyring {
        Keyring { keys: vec![key] }
    }

    /// The key to write with.
    #[must_use]
    pub fn newest(&self) -> &Key {
        self.keys.last().expect("a keyring is never empty")
    }

    /// The key of that name.
    #[must_use]
    pub fn get(&self, id: KeyId) -> Option<&Key> {
        self.keys.iter().rev().find(|key| key.id() == id)
    }

    /// All, oldest first.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Key> {
        self.keys.iter()
    }

    /// Adds a key, to write with from now on.
    pub fn add(&mut self, key: Key) {
        self.keys.retain(|k| k.id() != key.id());
        self.keys.push(key);
    }

    /// The keys in the file `path`; where there is none, it is made, with a new key, for its owner alone to read.
    pub fn load_or_create(path: &Path) -> Result<Keyring, KeyError> {
        match Keyring::load(path) {
            Err(KeyError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Keyring::create(path)
            }
            other => other,
        }
    }

    /// A new key in a new file `path`, for its owner alone to read; it is on stable storage when this returns. A file that is there is left alone, and an error.
    pub fn create(path: &Path) -> Result<Keyring, KeyError> {
        let ring = Keyring::of(Key::random()?);
        let aside = aside(path);
        let _ = std::fs::remove_file(&aside);
        ring.write(&aside)?;
        // Unlike a rename it replaces nothing.
        let linked = std::fs::hard_link(&aside, path);
        let _ = std::fs::remove_file(&aside);
        let put = linked.and_then(|()| sync_dir(path));
        put.map_err(|source| KeyError::Io {
            doing: "writing",
            path: path.to_owned(),
            source,
        })?;
        Ok(ring)
    }

    /// The keys in the file `path`. A file that others may read is refused.
    pub fn load(path: &Path) -> Result<Keyring, KeyError> {
        let failed = |source| KeyError::Io {
            doing: "reading",
            path: path.to_owned(),
            source,
        };
        let text = std::fs::read_to_string(path).map_err(failed)?;
        // Who made or replaced it may have been killed before its name was on the disk, and a trail is about to be written with the keys. A
        // directory that can't be synced was not changed by us.
        match sync_dir(path) {
            Err(e) if NOT_OURS.contains(&e.kind()) => {}
            other => other.map_err(failed)?,
        }
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt as _;
            let mode = std::fs::metadata(path).map_err(failed)?.mode() & 0o777;
            if mode & 0o077 != 0 {
                return Err(KeyError::Readable {
                    path: path.to_owned(),
                    mode,
                });
            }
        }
        let mut keys = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let bad = |why| KeyError::Malformed {
                path: path.to_owned(),
                line: at + 1,
                why,
            };
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let (id, secret) = line.trim().split_once(' ').ok_or(bad("not two words"))?;
            let secret = BASE64.decode(secret.trim()).ok();
            let secret = secret.and_then(|s| <[u8; 32]>::try_from(s).ok());
            let key = Key::from_secret(secret.ok_or(bad("the secret is not Base64 of 32 bytes"))?);
            if id != key.id().to_string() {
                return Err(bad("the secret is not that of the id"));
            }
            keys.push(key);
        }
        if keys.is_empty() {
            return Err(KeyError::Malformed {
                path: path.to_owned(),
                line: text.lines().count().max(1),
                why: "there is no key in it",
            });
        }
        Ok(Keyring { keys })
    }

    /// Writes the keys to the file `path`, aside, synced, and renamed over what is there; its owner alone may read it.
    pub fn store(&self, path: &Path) -> Result<(), KeyError> {
        let aside = aside(path);
        let _ = std::fs::remove_file(&aside);
        self.write(&aside)?;
        let put = || {
            std::fs::rename(&aside, path)?;
            sync_dir(path)
        };
        put().map_err(|source| KeyError::Io {
            doing: "writing",
            path: path.to_owned(),
            source,
        })
    }

    fn write(&self, path: &Path) -> Result<(), KeyError> {
        let mut text = HEAD.to_owned();
        for key in &self.keys {
            text += &format!("{} {}\n", key.id(), BASE64.encode(key.0.secret));
        }
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let write = || {
            let mut file = options.open(path)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()
        };
        write().map_err(|source| KeyError::Io {
            doing: "writing",
            path: path.to_owned(),
            source,
        })
    }
}

/// Errors of syncing a directory that others keep, for this process to read at most.
const NOT_OURS: [io::ErrorKind; 3] = [
    io::ErrorKind::PermissionDenied,
    io::ErrorKind::ReadOnlyFilesystem,
    io::ErrorKind::InvalidInput,
];

/// Where a key file is written first.
fn aside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    name.into()
}

fn sync_dir(path: &Path) -> io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    std::fs::File::open(dir.unwrap_or(Path::new(".")))?.sync_all()
}
