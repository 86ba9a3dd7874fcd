//! Users and their passwords: who a client is, and whether it may run commands.
//!
//! - AU1: with an ACL file a client runs nothing but the commands that need no authentication (`Flags::NO_AUTH`) until it has named a user that is on, with
//!   a password of it; or as `default`, where that user has `nopass`. Without a file there is `default` alone, without a password, and nothing is asked.
//! - AU2: of a password nothing is kept but its SHA-256, and they are compared in a time that does not depend on where they differ. No error, log line or
//!   `Debug` output has a password or a word of the file that could be one.
//! - AU3: a reload takes the whole file or nothing. Behind it no command of a client runs that would not be let in again as it was let in: its user is gone or
//!   off, or has the password no more by which it came.
//!
//! Locks, by rank: `reloading`, held while the file is read; `users`, held for a look or a swap; `told`, under which the event loops are woken.

mod file;

pub use file::{AclError, read_secret_file};

use crate::commands::{Flags, find};
use file::Users;
use parking_lot::{Mutex, RwLock};
use sha2::{Digest as _, Sha256};
use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use subtle::ConstantTimeEq;

/// The user of those who name none.
pub const DEFAULT_USER: &str = "default";
/// The answer to a command that needs a user.
pub(crate) const NOAUTH: &str = "NOAUTH Authentication required.";
/// The answer to a wrong name or password.
pub(crate) const WRONGPASS: &str = "WRONGPASS invalid username-password pair or user is disabled.";

static DEFAULT: LazyLock<Arc<str>> = LazyLock::new(|| DEFAULT_USER.into());

/// SHA-256 of a password.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Digest([u8; 32]);

impl Digest {
    fn of(password: &[u8]) -> Digest {
        Digest(Sha256::digest(password).into())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digest(..)")
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A user.
#[derive(Clone, Debug, Default)]
struct User {
    on: bool,
    nopass: bool,
    passwords: Vec<Digest>,
    keys: bool,
    channels: bool,
    commands: bool,
}

impl User {
    /// The default one, where there is no file.
    fn open() -> User {
        User {
            on: true,
            nopass: true,
            passwords: Vec::new(),
            keys: true,
            channels: true,
            commands: true,
        }
    }

    fn is_open(&self) -> bool {
        self.on && self.nopass
    }

    /// Its line, as Redis writes it.
    fn line(&self, name: &str) -> String {
        let mut line = format!("user {name} {}", if self.on { "on" } else { "off" });
        if self.nopass {
            line.push_str(" nopass");
        }
        for password in &self.passwords {
            line.push_str(&format!(" #{password}"));
        }
        let choose = |on: bool, yes: &'static str, no: &'static str| if on { yes } else { no };
        line.push_str(choose(self.keys, " ~*", ""));
        line.push_str(choose(self.channels, " &*", " resetchannels"));
        line.push_str(choose(self.commands, " +@all", " -@all"));
        line
    }
}

/// By what a client was let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// It was not.
    Nothing,
    /// No password was asked.
    NoPass,
    Password(Digest),
}

/// Who a client is.
#[derive(Clone, Debug)]
pub struct Login {
    user: Arc<str>,
    by: By,
    /// Of the users, when that was decided.
    generation: u64,
}

impl Default for Login {
    /// `default`, where there are no passwords.
    fn default() -> Login {
        Login {
            user: DEFAULT.clone(),
            by: By::NoPass,
            generation: 0,
        }
    }
}

impl Login {
    /// Nobody yet.
    pub(crate) fn nobody() -> Login {
        Login {
            by: By::Nothing,
            ..Login::default()
        }
    }

    /// Whether it may run commands.
    #[must_use]
    #[inline]
    pub fn is_open(&self) -> bool {
        self.by != By::Nothing
    }

    /// The user; that of one who has named none is `default`.
    #[must_use]
    pub fn user(&self) -> &Arc<str> {
        &self.user
    }

    /// The user, as records have it; `None` for one who may run nothing.
    pub(crate) fn actor(&self) -> Option<Cow<'static, str>> {
        self.is_open()
            .then(|| match Arc::ptr_eq(&self.user, &DEFAULT) {
                true => Cow::Borrowed(DEFAULT_USER),
                false => Cow::Owned(self.user.as_ref().to_owned()),
            })
    }

    /// How it was authenticated, as records have it.
    pub(crate) fn method(&self) -> &'static str {
        match self.by {
            By::Password(_) => "password",
            By::NoPass | By::Nothing => "none",
        }
    }
}

/// Whether a command may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Passes {
    /// It may.
    Yes,
    /// It is answered [`NOAUTH`].
    NotYet,
    /// Nothing of this client does any more (AU3): it is to be let go.
    Gone,
}

type Tell = Box<dyn Fn() + Send + Sync>;

/// See the module. The default one is that without a file.
pub struct Acl {
    file: Option<PathBuf>,
    users: RwLock<Users>,
    /// Grows behind each change of `users`.
    generation: AtomicU64,
    denied: AtomicU64,
    reloading: Mutex<()>,
    told: Mutex<Vec<Tell>>,
}

impl fmt::Debug for Acl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acl")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

impl Default for Acl {
    fn default() -> Acl {
        Acl {
            file: None,
            users: RwLock::new(Users::default()),
            generation: AtomicU64::new(0),
            denied: AtomicU64::new(0),
            reloading: Mutex::new(()),
            told: Mutex::default(),
        }
    }
}

impl Acl {
    /// The users of a file.
    pub fn load(path: &Path) -> Result<Acl, AclError> {
        let users = file::load(path)?;
        Ok(Acl {
            file: Some(path.to_owned()),
            users: RwLock::new(users),
            ..Acl::default()
        })
    }

    /// Reads the file anew (AU3); how many users there are.
    pub fn reload(&self) -> Result<usize, AclError> {
        let path = self.file.as_ref().ok_or(AclError::NoFile)?;
        let _one = self.reloading.lock();
        let users = file::load(path)?;
        let count = users.len();
        *self.users.write() = users;
        // Release, after the users: who sees the number sees them.
        self.generation.fetch_add(1, Ordering::Release);
        for tell in &*self.told.lock() {
            tell();
        }
        Ok(count)
    }

    /// Its file, as CONFIG GET has it; empty where there is none.
    pub(crate) fn shown(&self) -> String {
        (self.file.as_ref()).map_or(String::new(), |path| path.display().to_string())
    }

    /// Itself, where clients have to be looked at.
    #[must_use]
    pub fn enforced(&self) -> Option<&Acl> {
        self.file.is_some().then_some(self)
    }

    /// Has `tell` called behind every change, by who made it.
    pub(crate) fn tell(&self, tell: impl Fn() + Send + Sync + 'static) {
        self.told.lock().push(Box::new(tell));
    }

    /// Grows with each change.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Whether who connects is let in without a password.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.users.read().default_user().is_open()
    }

    /// Whether the default user is let in with whatever password.
    pub(crate) fn takes_any_password(&self) -> bool {
        self.users.read().default_user().nopass
    }

    /// What an operator should know of the users, if anything.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        let path = self.file.as_ref()?;
        self.is_open().then(|| {
            format!(
                "{}: whoever connects is the user `default`, without a password: write `user default off`, or give it one",
                path.display()
            )
        })
    }

    /// Who a client is that has connected.
    pub(crate) fn arrives(&self) -> Login {
        let generation = self.generation();
        let by = match self.is_open() {
            true => By::NoPass,
            false => By::Nothing,
        };
        Login {
            generation,
            by,
            ..Login::default()
        }
    }

    /// Whether the command may run. With a file alone ([`Acl::enforced`]); without one all may.
    #[inline]
    pub(crate) fn passes(&self, login: &mut Login, argv: &[&[u8]]) -> Passes {
        if login.generation != self.generation() && !self.renew(login) {
            return Passes::Gone;
        }
        let free = |name| find(name).is_some_and(|spec| spec.flags.contains(Flags::NO_AUTH));
        if login.is_open() || argv.first().is_some_and(|name| free(name)) {
            return Passes::Yes;
        }
        Passes::NotYet
    }

    /// Whether a client may stay behind a change (AU3).
    pub(crate) fn keeps(&self, login: &Login) -> bool {
        let users = self.users.read();
        let user = users.get(&login.user).filter(|user| user.on);
        match (login.by, user) {
            (By::Nothing, _) => true,
            (_, None) => false,
            (By::NoPass, Some(user)) => user.nopass,
            (By::Password(digest), Some(user)) => user.nopass || user.passwords.contains(&digest),
        }
    }

    fn renew(&self, login: &mut Login) -> bool {
        // Before the look: a change behind it is met next time.
        let generation = self.generation();
        if !login.is_open() {
            *login = self.arrives();
        }
        let stays = self.keeps(login);
        // Who is gone is met as that again, however often it is asked.
        if stays {
            login.generation = generation;
        }
        stays
    }

    /// The login that a name and a password give.
    pub(crate) fn check(&self, name: &[u8], password: &[u8]) -> Option<Login> {
        let digest = Digest::of(password);
        let generation = self.generation();
        let users = self.users.read();
        let found = std::str::from_utf8(name)
            .ok()
            .and_then(|name| users.entry(name));
        let (name, user) = found?;
        // AU2: all are compared, whichever is the one.
        let same = user
            .passwords
            .iter()
            .fold(subtle::Choice::from(0), |same, one| {
                same | one.0.ct_eq(&digest.0)
            });
        let by = match (user.nopass, bool::from(same)) {
            (true, _) => By::NoPass,
            (false, true) => By::Password(digest),
            (false, false) => return None,
        };
        user.on.then(|| Login {
            user: name.clone(),
            by,
            generation,
        })
    }

    /// As `check`; what is not let in is counted.
    pub(crate) fn login(&self, name: &[u8], password: &[u8]) -> Option<Login> {
        let login = self.check(name, password);
        if login.is_none() {
            // Relaxed: a number for people.
            self.denied.fetch_add(1, Ordering::Relaxed);
        }
        login
    }

    /// Whether there is a user of that name.
    pub(crate) fn knows(&self, name: &[u8]) -> bool {
        std::str::from_utf8(name).is_ok_and(|name| self.users.read().get(name).is_some())
    }

    /// Failed logins.
    pub(crate) fn denied(&self) -> u64 {
        self.denied.load(Ordering::Relaxed)
    }

    /// The users' names, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        let users = self.users.read();
        users.iter().map(|(name, _)| name.to_string()).collect()
    }

    /// The users' lines.
    pub(crate) fn lines(&self) -> Vec<String> {
        let users = self.users.read();
        users.iter().map(|(name, user)| user.line(name)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::os::unix::fs::PermissionsExt as _;

    fn write(file: &mut tempfile::NamedTempFile, text: &str) {
        file.as_file_mut().set_len(0).unwrap();
        std::fs::write(file.path(), text).unwrap();
        file.flush().unwrap();
        let mode = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(file.path(), mode).unwrap();
    }

    fn acl(text: &str) -> (Acl, tempfile::NamedTempFile) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        write(&mut file, text);
        (Acl::load(file.path()).unwrap(), file)
    }

    #[test]
    fn au1_only_commands_without_authentication_run_before_it() {
        let (acl, _file) = acl("user default off\nuser ann on >a >b ~* +@all\n");
        let mut login = acl.arrives();
        for (line, passes) in [
            ("AUTH", true),
            ("hello 3", true),
            ("RESET", true),
            ("QUIT", true),
            ("PING", false),
            ("ACL WHOAMI", false),
            ("MULTI", false),
            ("NOSUCH", false),
            ("RAFT.ADD 4", false),
            ("LOCK.ACQUIRE a b 10", false),
        ] {
            let argv: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            let expected = if passes { Passes::Yes } else { Passes::NotYet };
            assert_eq!(acl.passes(&mut login, &argv), expected, "{line}");
        }
        for (name, password, there) in [
            ("ann", "a", true),
            ("ann", "b", true),
            ("ann", "c", false),
            ("ann", "", false),
            ("Ann", "a", false),
            ("default", "a", false),
            ("bob", "a", false),
        ] {
            let found = acl.login(name.as_bytes(), password.as_bytes());
            assert_eq!(found.is_some(), there, "{name} {password}");
        }
        assert_eq!(acl.denied(), 5);
        let mut login = acl.check(b"ann", b"a").unwrap();
        assert_eq!(acl.passes(&mut login, &[b"PING"]), Passes::Yes);
        assert_eq!(
            (login.actor().as_deref(), login.method()),
            (Some("ann"), "password")
        );
        assert_eq!(acl.arrives().actor(), None);
    }

    #[test]
    fn without_a_file_everybody_is_default_with_any_password() {
        let acl = Acl::default();
        assert!(acl.enforced().is_none() && acl.is_open() && acl.warning().is_none());
        assert!(acl.check(b"default", b"whatever").is_some());
        assert!(acl.check(b"ann", b"whatever").is_none());
        assert_eq!(acl.lines(), ["user default on nopass ~* &* +@all"]);
        assert!(matches!(acl.reload(), Err(AclError::NoFile)));
        assert_eq!(acl.arrives().method(), "none");
    }

    #[test]
    fn au3_a_client_stays_as_long_as_it_would_be_let_in_as_it_was() {
        let before = "user default on nopass ~* +@all\nuser ann on >a >b ~* +@all\nuser bob on nopass ~* +@all\nuser eve on >e ~* +@all\n";
        let (acl, mut file) = acl(before);
        let told = Arc::new(AtomicU64::new(0));
        let count = told.clone();
        acl.tell(move || {
            count.fetch_add(1, Ordering::Relaxed);
        });
        let mut by_a = acl.check(b"ann", b"a").unwrap();
        let mut by_b = acl.check(b"ann", b"b").unwrap();
        let mut bob = acl.check(b"bob", b"").unwrap();
        let mut eve = acl.check(b"eve", b"e").unwrap();
        let mut default = acl.arrives();
        assert!(acl.warning().is_some());

        write(&mut file, "user ann on >b\n");
        assert!(acl.reload().is_err());
        assert_eq!(acl.passes(&mut eve, &[b"GET"]), Passes::Yes);
        assert_eq!(told.load(Ordering::Relaxed), 0);

        write(
            &mut file,
            "user ann on >b >c ~* +@all\nuser bob on >x ~* +@all\nuser eve off >e ~* +@all\nuser default on >d ~* +@all\n",
        );
        assert_eq!(acl.reload().unwrap(), 4);
        assert_eq!(told.load(Ordering::Relaxed), 1);
        for (login, stays) in [
            (&mut by_a, false),
            (&mut by_b, true),
            (&mut bob, false),
            (&mut eve, false),
            (&mut default, false),
        ] {
            assert_eq!(acl.keeps(login), stays, "{login:?}");
            let passes = acl.passes(login, &[b"GET"]);
            let expected = if stays { Passes::Yes } else { Passes::Gone };
            assert_eq!(passes, expected, "{login:?}");
        }
        assert!(acl.warning().is_none());
        // Who had not come in yet is not cut off, and may be let in by the change.
        let mut waiting = acl.arrives();
        assert_eq!(acl.passes(&mut waiting, &[b"GET"]), Passes::NotYet);
        write(
            &mut file,
            "user ann on >b ~* +@all\nuser default on nopass ~* +@all\n",
        );
        acl.reload().unwrap();
        assert_eq!(acl.passes(&mut waiting, &[b"GET"]), Passes::Yes);
    }

    /// Some ask twice before a command runs.
    #[test]
    fn au3_who_is_gone_stays_gone_however_often_it_is_asked() {
        let (acl, mut file) = acl("user default off\nuser bob on >b ~* +@all\n");
        let mut bob = acl.check(b"bob", b"b").unwrap();
        write(&mut file, "user default off\n");
        acl.reload().unwrap();
        for _ in 0..3 {
            assert_eq!(acl.passes(&mut bob, &[b"SET"]), Passes::Gone);
        }
    }

    /// A file that is being written, or was when the power went.
    #[test]
    fn au3_no_beginning_of_a_file_lets_anybody_in_without_a_password() {
        let whole = "# who may\nuser ann on >a ~* +@all\nuser default off\n";
        let (acl, mut file) = acl(whole);
        for len in 0..whole.len() {
            write(&mut file, &whole[..len]);
            let begun = acl.reload();
            assert!(!acl.is_open(), "{:?}: {begun:?}", &whole[..len]);
            let started = Acl::load(file.path());
            assert!(started.is_err() || !started.unwrap().is_open());
        }
    }

    #[test]
    fn au2_nothing_that_is_shown_has_a_password() {
        let (acl, _file) = acl("user ann on >hunter2 ~* +@all\nuser default off\n");
        let login = acl.check(b"ann", b"hunter2").unwrap();
        let shown = format!("{acl:?} {login:?} {:?}", acl.users.read());
        assert!(!shown.contains("hunter2"), "{shown}");
        // SHA-256 of it, as Redis shows it.
        assert_eq!(
            acl.lines(),
            [
                "user ann on #f52fbd32b2b3b86ff88ef6c490628285f482af15ddcb29541f94bcf526a3f6c7 ~* resetchannels +@all",
                "user default off resetchannels -@all"
            ]
        );
    }
}
