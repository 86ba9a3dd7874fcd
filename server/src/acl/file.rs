//! The ACL file: Redis's format, as much of it as Esker enforces.
//!
//! - AF1: each line is a user, a comment (`#` at its beginning) or blank. What is in a line is done, or the file is refused, with the line's number and what
//!   to write instead: Esker gives a user all keys and all commands, or nothing.
//! - AF2: words of the file stand in no error: one could be a password that lacks its `>`.
//! - AF3: a file that others may change is refused, and one with passwords that others may read.
//! - AF4: a file says who `default` is. Without a line for it Redis lets everybody in, and so an empty file would, as one is that is being written, or was when
//!   the power went.

use super::{DEFAULT_USER, Digest, User};
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes of a file.
const FILE_MAX: u64 = 1 << 20;
/// Bytes of a name.
const NAME_MAX: usize = 128;

/// Why there are no users.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AclError {
    /// ACL LOAD of a server that was started without.
    #[error("This instance is not configured to use an ACL file; start it with --acl-file FILE")]
    NoFile,
    /// It can't be read.
    #[error("{}: {source}; name a file that this process can read", .path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is no file of that kind.
    #[error("{}: {why}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        why: &'static str,
    },
    /// AF3.
    #[error("{}: its mode {mode:04o} lets others {what}; chmod 600 it{remedy}", .path.display())]
    Mode {
        /// Which.
        path: PathBuf,
        /// Its mode.
        mode: u32,
        /// Do what.
        what: &'static str,
        /// What else helps.
        remedy: &'static str,
    },
    /// AF1.
    #[error("{}, line {line}: {why}", .path.display())]
    Line {
        /// Which.
        path: PathBuf,
        /// From 1 on.
        line: usize,
        /// What is wrong, and what to write.
        why: String,
    },
}

/// All users, by name; `default` is there where they are of a whole file.
#[derive(Debug)]
pub(super) struct Users(BTreeMap<Arc<str>, User>);

impl Default for Users {
    fn default() -> Users {
        Users(BTreeMap::from([(DEFAULT_USER.into(), User::open())]))
    }
}

impl Users {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn get(&self, name: &str) -> Option<&User> {
        self.0.get(name)
    }

    pub(super) fn entry(&self, name: &str) -> Option<(&Arc<str>, &User)> {
        self.0.get_key_value(name)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &User)> {
        self.0.iter()
    }

    pub(super) fn default_user(&self) -> &User {
        &self.0[DEFAULT_USER]
    }
}

/// Reads and checks a file.
pub(super) fn load(path: &Path) -> Result<Users, AclError> {
    let (text, mode) = read(path)?;
    let refused = |what, remedy| AclError::Mode {
        path: path.to_owned(),
        mode,
        what,
        remedy,
    };
    if mode & 0o002 != 0 {
        return Err(refused("change it", ""));
    }
    let (users, plain) = parse(&text).map_err(|(line, why)| AclError::Line {
        path: path.to_owned(),
        line,
        why,
    })?;
    if users.get(DEFAULT_USER).is_none() {
        return Err(AclError::File {
            path: path.to_owned(),
            why: "it has no line for `default`, who is everybody that connects; write `user default off`, or `user default on nopass ~* &* +@all` if all are to be let in",
        });
    }
    if plain && mode & 0o004 != 0 {
        return Err(refused(
            "read the passwords in it",
            ", or write `#` and the SHA-256 of each password instead of `>` and the password",
        ));
    }
    Ok(users)
}

/// Its text, and its mode.
fn read(path: &Path) -> Result<(String, u32), AclError> {
    let failed = |source| AclError::Io {
        path: path.to_owned(),
        source,
    };
    let wrong = |why| AclError::File {
        path: path.to_owned(),
        why,
    };
    // Before it is opened, which would wait for a writer where it is a pipe.
    if !std::fs::metadata(path).map_err(failed)?.is_file() {
        return Err(wrong("it is no regular file"));
    }
    let file = std::fs::File::open(path).map_err(failed)?;
    let about = file.metadata().map_err(failed)?;
    let mut bytes = Vec::new();
    (file.take(FILE_MAX + 1).read_to_end(&mut bytes)).map_err(failed)?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(wrong("it has more than 1 MiB"));
    }
    let text = String::from_utf8(bytes).map_err(|_| wrong("it is not UTF-8"))?;
    Ok((text, about.permissions().mode() & 0o777))
}

/// A file with a password and nothing else, that others may not read.
pub fn read_secret_file(path: &Path) -> Result<String, AclError> {
    let (text, mode) = read(path)?;
    if mode & 0o007 != 0 {
        return Err(AclError::Mode {
            path: path.to_owned(),
            mode,
            what: "read or change the password in it",
            remedy: "",
        });
    }
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() || text.contains('\n') {
        return Err(AclError::File {
            path: path.to_owned(),
            why: "it has to hold one line, the password",
        });
    }
    Ok(text.to_owned())
}

/// The users, and whether a password stands there as it is; or the line and what is wrong with it.
fn parse(text: &str) -> Result<(Users, bool), (usize, String)> {
    let mut users = BTreeMap::new();
    let mut plain = false;
    for (at, line) in text.split('\n').enumerate() {
        let line = line.trim_matches([' ', '\t', '\r']);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let failed = |why: String| (at + 1, why);
        let mut words = line.split(' ').filter(|word| !word.is_empty());
        let (first, name) = (words.next(), words.next());
        let name = name.filter(|_| first == Some("user"));
        let name = name.ok_or_else(|| {
            failed(
                "a line begins with `user` and a name, as in: user ann on #SHA-256 ~* &* +@all"
                    .into(),
            )
        })?;
        if name.len() > NAME_MAX || name.chars().any(char::is_control) {
            return Err(failed(format!(
                "the name has to have at most {NAME_MAX} bytes and no control characters"
            )));
        }
        let user = user(words, &mut plain).map_err(failed)?;
        if users.insert(name.into(), user).is_some() {
            return Err(failed(
                "this user has a line already; write all of a user in one".into(),
            ));
        }
    }
    Ok((Users(users), plain))
}

/// What the words behind a name make of a user, which begins as Redis has it: off, with nothing.
fn user<'a>(words: impl Iterator<Item = &'a str>, plain: &mut bool) -> Result<User, String> {
    let mut user = User::default();
    let mut state = None;
    for (at, word) in words.enumerate() {
        let at = at + 3;
        let refused = |why: &str| Err(format!("word {at}: {why}"));
        match word {
            "on" | "off" => {
                if state.replace(word).is_some_and(|other| other != word) {
                    return refused("a user is on or off; write one of them");
                }
            }
            "nopass" => user.nopass = true,
            "~*" | "allkeys" => user.keys = true,
            "&*" | "allchannels" => user.channels = true,
            "+@all" | "allcommands" => user.commands = true,
            // There are no channels, and no payloads to restore.
            "resetchannels" => user.channels = false,
            "sanitize-payload" => {}
            // As `ACL SAVE` writes it of users that may nothing.
            "-@all" | "nocommands" => user.commands = false,
            "resetkeys" => user.keys = false,
            _ => match word.as_bytes()[0] {
                b'>' if word.len() == 1 => {
                    return refused("an empty password; write nopass if that is meant");
                }
                b'>' => {
                    *plain = true;
                    user.passwords.push(Digest::of(&word.as_bytes()[1..]));
                }
                b'#' => match digest(&word[1..]) {
                    Some(digest) => user.passwords.push(digest),
                    None => {
                        return refused(
                            "behind # stand the 64 hexadecimal digits, in lower case, of the password's SHA-256; a comment has a line of its own",
                        );
                    }
                },
                b'~' | b'%' => {
                    return refused("Esker gives a user all keys or none; write ~* for all keys");
                }
                b'&' => return refused("Esker has no channels; write &* or leave it out"),
                b'+' | b'-' => {
                    return refused(
                        "Esker gives a user all commands or none; write +@all for all commands",
                    );
                }
                b'(' | b')' => {
                    return refused("Esker has no selectors; write ~* &* +@all, or leave it out");
                }
                b'<' | b'!' => {
                    return refused(
                        "a file takes no password away: leave out the one that is to go",
                    );
                }
                _ => {
                    return refused(
                        "none of on, off, nopass, #SHA-256, >PASSWORD, ~*, allkeys, &*, allchannels, +@all, allcommands; a password stands behind a >",
                    );
                }
            },
        }
    }
    user.on = state == Some("on");
    user.passwords.dedup();
    if user.nopass && !user.passwords.is_empty() {
        return Err(
            "nopass lets the user in with any password; leave out nopass, or the passwords".into(),
        );
    }
    if user.on && !(user.keys && user.commands) {
        return Err(
            "Esker gives a user that is on all keys and all commands; write ~* &* +@all, or off"
                .into(),
        );
    }
    Ok(user)
}

fn digest(text: &str) -> Option<Digest> {
    let digit = |b: &u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    if text.len() != 64 || !text.as_bytes().iter().all(digit) {
        return None;
    }
    let mut digest = [0; 32];
    for (byte, pair) in digest.iter_mut().zip(text.as_bytes().as_chunks::<2>().0) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(Digest(digest))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "f52fbd32b2b3b86ff88ef6c490628285f482af15ddcb29541f94bcf526a3f6c7";

    fn line(text: &str) -> Result<String, String> {
        let (users, _) = parse(text).map_err(|(line, why)| format!("{line}: {why}"))?;
        Ok(users
            .get("ann")
            .map_or(String::new(), |user| user.line("ann")))
    }

    #[test]
    fn what_is_taken_is_what_redis_shows_of_it() {
        let two = "#5994471abb01112afcc18159f6cc74b4f511b99806da59b3caf5a9c173cacfc5";
        for (text, shown) in [
            (
                format!("user ann on #{HASH} ~* &* +@all"),
                format!("user ann on #{HASH} ~* &* +@all"),
            ),
            (
                " \t user  ann on  >hunter2 >12345 allkeys allchannels allcommands \r\n\n# note\n\t\n".into(),
                format!("user ann on #{HASH} {two} ~* &* +@all"),
            ),
            (
                "user ann on nopass ~* +@all".into(),
                "user ann on nopass ~* resetchannels +@all".into(),
            ),
            ("user ann".into(), "user ann off resetchannels -@all".into()),
            (
                "user ann off resetchannels -@all".into(),
                "user ann off resetchannels -@all".into(),
            ),
            (
                "user ann off nopass sanitize-payload resetkeys nocommands".into(),
                "user ann off nopass resetchannels -@all".into(),
            ),
            (
                "user ann +@all ~* on".into(),
                "user ann on ~* resetchannels +@all".into(),
            ),
            (
                "user ann ~* +@all".into(),
                "user ann off ~* resetchannels +@all".into(),
            ),
            ("# user ann on".into(), String::new()),
        ] {
            assert_eq!(line(&text), Ok(shown), "{text}");
        }
    }

    #[test]
    fn af1_what_is_not_enforced_is_refused_with_its_line_and_what_to_write() {
        for (text, expected) in [
            (
                "user ann on >p ~app:* +@all",
                "1: word 5: Esker gives a user all keys",
            ),
            (
                "user ann on >p %R~app:* ~* +@all",
                "word 5: Esker gives a user all keys",
            ),
            (
                "user ann on >p ~* &news +@all",
                "word 6: Esker has no channels; write &*",
            ),
            (
                "user ann on >p ~* +get",
                "word 6: Esker gives a user all commands or none; write +@all",
            ),
            (
                "user ann on >p ~* +@all -flushall",
                "word 7: Esker gives a user all commands",
            ),
            (
                "user ann on >p ~* +@read",
                "word 6: Esker gives a user all commands",
            ),
            ("user ann on >p ~* +@all -@dangerous", "word 7: Esker gives"),
            (
                "user ann on >p ~* +@all (~a +get)",
                "word 7: Esker has no selectors",
            ),
            ("user ann on >p ~* +@all clearselectors", "word 7: none of"),
            (
                "user ann on >p <p ~* +@all",
                "word 5: a file takes no password away",
            ),
            (
                &format!("user ann on >p !{HASH} ~* +@all"),
                "word 5: a file takes no password",
            ),
            ("user ann on >p resetpass ~* +@all", "word 5: none of"),
            ("user ann on >p reset ~* +@all", "word 5: none of"),
            ("user ann on > ~* +@all", "word 4: an empty password"),
            ("user ann on #12 ~* +@all", "word 4: behind # stand the 64"),
            (
                &format!("user ann on #{} ~* +@all", HASH.to_uppercase()),
                "word 4: behind #",
            ),
            ("user ann on >p ~* +@all # admin", "word 7: behind #"),
            ("user ann on hunter2 ~* +@all", "word 4: none of"),
            ("user ann on >p\t~* +@all", "all keys and all commands"),
            (
                "user ann on >p",
                "1: Esker gives a user that is on all keys and all commands; write ~* &* +@all, or off",
            ),
            ("user ann on >p ~*", "all keys and all commands"),
            ("user ann on >p +@all", "all keys and all commands"),
            ("user ann on >p ~* +@all -@all", "all keys and all commands"),
            (
                "user ann on >p nopass ~* +@all",
                "leave out nopass, or the passwords",
            ),
            ("user ann on off", "word 4: a user is on or off"),
            ("\n\nuser", "3: a line begins with `user` and a name"),
            ("ann on", "a line begins with `user`"),
            ("USER ann on", "a line begins with `user`"),
            ("user ann\nuser ann", "2: this user has a line already"),
            ("user a\u{7}nn", "no control characters"),
            (&format!("user {}", "a".repeat(129)), "at most 128 bytes"),
        ] {
            let why = line(text).expect_err(text);
            assert!(why.contains(expected), "{text}: {why}");
            for secret in ["hunter2", "app", "news", "flushall"] {
                assert!(!why.contains(secret), "AF2: {text}: {why}");
            }
        }
    }

    #[test]
    fn e2_any_bytes_are_users_or_an_error() {
        let whole = format!("user ann on >p #{HASH} ~* +@all\nuser b\u{f6}b off\n");
        for end in 0..whole.len() {
            if let Some(part) = whole.get(..end) {
                let _ = parse(part);
            }
        }
        for text in [
            "user \u{f6} on >\u{f6} ~* +@all",
            "user ann \u{f6}",
            "user # # #",
        ] {
            let _ = parse(text);
        }
    }

    #[test]
    fn af3_a_file_that_others_may_read_or_change_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users.acl");
        let plain = "user default on >p ~* +@all\n".to_owned();
        let hashed = format!("user default on #{HASH} ~* +@all\n");
        for (text, mode, expected) in [
            (&plain, 0o600, None),
            (&plain, 0o640, None),
            (
                &plain,
                0o644,
                Some("mode 0644 lets others read the passwords in it; chmod 600 it, or write `#`"),
            ),
            (&hashed, 0o644, None),
            (&hashed, 0o646, Some("lets others change it")),
        ] {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let why = load(&path).err().map(|error| error.to_string());
            match expected {
                None => assert_eq!(why, None, "{mode:o}"),
                Some(text) => assert!(why.unwrap().contains(text), "{mode:o}"),
            }
        }
        assert!(
            load(dir.path())
                .unwrap_err()
                .to_string()
                .contains("no regular file")
        );
        assert!(
            load(&dir.path().join("none"))
                .unwrap_err()
                .to_string()
                .contains("name a file")
        );
        std::fs::write(&path, "x".repeat(2 << 20)).unwrap();
        assert!(matches!(
            load(&path),
            Err(AclError::Mode { .. } | AclError::File { .. })
        ));

        for (text, mode, password) in [
            ("hunter2\n", 0o600, Some("hunter2")),
            ("a b\r\n", 0o640, Some("a b")),
            ("hunter2", 0o644, None),
            ("", 0o600, None),
            ("a\nb\n", 0o600, None),
        ] {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(
                read_secret_file(&path).ok().as_deref(),
                password,
                "{text:?}"
            );
        }
    }
}
