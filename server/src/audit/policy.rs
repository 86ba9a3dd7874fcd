//! What is recorded, how, and where it goes: the policy, from a TOML file or as it is without one.
//!
//! - AP1: rules are gone through in order, and the first that matches decides. Behind those of the file stand the default ones, so that a file that adds a
//!   rule takes nothing away; a last rule with `level = "none"` alone does.
//! - AP2: a file with an error in it is refused whole, and the line is named.

use crate::commands::{COMMANDS, glob_matches};
use esker_audit::{Anchor, OnFailure, OnTamper, Options, Policies, Severity, Write};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What kind of thing a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Class {
    /// HELLO with AUTH, and AUTH.
    Authentication,
    /// Clients that come, go, or are turned away.
    Connection,
    /// CONFIG.
    Configuration,
    /// Promotion, membership, flush, the end.
    Administration,
    /// What was answered with an error that is no client's mistake, and commands that are none.
    Refused,
    /// What took long.
    Slow,
    /// Reads of keys.
    Read,
    /// Writes of keys.
    Write,
    /// Every other command.
    Other,
}

impl Class {
    const NAMES: [(&'static str, u16); 11] = [
        ("authentication", 1 << Class::Authentication as u8),
        ("connection", 1 << Class::Connection as u8),
        ("configuration", 1 << Class::Configuration as u8),
        ("administration", 1 << Class::Administration as u8),
        ("refused", 1 << Class::Refused as u8),
        ("slow", 1 << Class::Slow as u8),
        ("read", 1 << Class::Read as u8),
        ("write", 1 << Class::Write as u8),
        ("other", 1 << Class::Other as u8),
        ("data", 1 << Class::Read as u8 | 1 << Class::Write as u8),
        ("any", u16::MAX),
    ];
}

/// How much a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Nothing is recorded.
    None,
    /// Who, what, to which keys, from where, and how it ended.
    Metadata,
    /// The arguments too.
    Request,
}

/// How a key or a value stands in a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Show {
    /// As it is.
    Clear,
    /// As a keyed hash: equal ones are seen to be equal.
    Hmac,
    /// Not at all.
    Omit,
}

fn from_text<'de, D: Deserializer<'de>, T>(
    from: D,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<T, D::Error> {
    let text = String::deserialize(from)?;
    parse(&text).map_err(D::Error::custom)
}

/// Classes that a rule is about.
#[derive(Clone, Copy, Debug)]
struct Classes(u16);

impl<'de> Deserialize<'de> for Classes {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let mut classes = Classes(0);
        for name in Vec::<String>::deserialize(from)? {
            let found = Class::NAMES.iter().find(|(known, _)| *known == name);
            let Some((_, bits)) = found else {
                let known: Vec<&str> = Class::NAMES.iter().map(|(name, _)| *name).collect();
                let known = known.join(", ");
                return Err(D::Error::custom(format!(
                    "class {name:?} is none of {known}"
                )));
            };
            classes.0 |= bits;
        }
        Ok(classes)
    }
}

/// A command, by its name in lower case; of a container also `container|sub`.
#[derive(Clone, Debug, PartialEq)]
struct CommandName(String);

impl<'de> Deserialize<'de> for CommandName {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from_text(from, |text| {
            let name = text.trim().to_ascii_lowercase().replace(' ', "|");
            let known = (COMMANDS.iter())
                .any(|spec| spec.name == name || spec.subcommands.iter().any(|s| s.name == name));
            let others = ["raft.", "lock."];
            match known || others.iter().any(|o| name.starts_with(o)) {
                true => Ok(CommandName(name)),
                false => Err(format!(
                    "command {text:?} is not known; COMMAND LIST names them"
                )),
            }
        })
    }
}

impl CommandName {
    fn is(&self, name: &str) -> bool {
        self.0 == name || name.split_once('|').is_some_and(|(of, _)| of == self.0)
    }
}

/// An address, or all that begin with so many bits of it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Net(IpAddr, u8);

impl std::str::FromStr for Net {
    type Err = String;

    fn from_str(text: &str) -> Result<Net, String> {
        let bad = || format!("address {text:?} is none; write 10.1.2.3, 10.0.0.0/8 or ::1");
        let (addr, bits) = text.split_once('/').unwrap_or((text, ""));
        let addr: IpAddr = addr.parse().map_err(|_| bad())?;
        let most = if addr.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            "" => most,
            bits => bits.parse().ok().filter(|b| *b <= most).ok_or_else(bad)?,
        };
        Ok(Net(addr, bits))
    }
}

impl<'de> Deserialize<'de> for Net {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from_text(from, str::parse)
    }
}

impl Net {
    fn holds(self, addr: IpAddr) -> bool {
        let wide = |addr: IpAddr| match addr {
            IpAddr::V4(addr) => u128::from(addr.to_bits()) << 96,
            IpAddr::V6(addr) => addr.to_bits(),
        };
        let addr = addr.to_canonical();
        let mask = u128::MAX.checked_shl(128 - u32::from(self.1)).unwrap_or(0);
        addr.is_ipv4() == self.0.is_ipv4() && (wide(addr) ^ wide(self.0)) & mask == 0
    }
}

/// A time: `500ms`, `5s`, `10m`, `24h`, `365d`.
#[derive(Clone, Copy, Debug)]
struct Time(Duration);

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from_text(from, |text| {
            let at = text
                .find(|c: char| !c.is_ascii_digit())
                .unwrap_or(text.len());
            let (number, unit) = text.split_at(at);
            let millis: u64 = match unit.trim() {
                "ms" => 1,
                "s" => 1_000,
                "m" | "min" => 60_000,
                "h" => 3_600_000,
                "d" => 86_400_000,
                _ => 0,
            };
            let time = number.parse().ok().and_then(|n: u64| n.checked_mul(millis));
            match time.filter(|_| millis > 0) {
                Some(time) => Ok(Time(Duration::from_millis(time))),
                None => Err(format!(
                    "{text:?} is no time; write a whole number with ms, s, m, h or d, as in 24h"
                )),
            }
        })
    }
}

/// A number of bytes: `64MiB`.
#[derive(Clone, Copy, Debug)]
struct Size(u64);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from_text(from, crate::config::parse_size).map(Size)
    }
}

/// A severity, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Grave(Severity);

impl<'de> Deserialize<'de> for Grave {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from_text(from, str::parse).map(Grave)
    }
}

/// A rule; what it does not name matches everything.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Rule {
    class: Option<Classes>,
    command: Option<Vec<CommandName>>,
    key_prefix: Option<Vec<String>>,
    user: Option<Vec<String>>,
    address: Option<Vec<Net>>,
    client: Option<Vec<String>>,
    pub(super) level: Level,
    #[serde(default = "clear")]
    pub(super) keys: Show,
    #[serde(default = "hmac")]
    pub(super) values: Show,
    severity: Option<Grave>,
}

fn clear() -> Show {
    Show::Clear
}

fn hmac() -> Show {
    Show::Hmac
}

/// Who is asking, as rules see it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Who<'a> {
    pub(super) user: &'a str,
    pub(super) address: IpAddr,
    pub(super) client: &'a [u8],
}

impl Rule {
    /// Of one class, without a condition.
    fn of(class: u16, level: Level, values: Show) -> Rule {
        Rule {
            class: Some(Classes(class)),
            command: None,
            key_prefix: None,
            user: None,
            address: None,
            client: None,
            level,
            keys: Show::Clear,
            values,
            severity: None,
        }
    }

    /// Whether it may be about a command of a class.
    pub(super) fn is_about(&self, class: Class, command: &str) -> bool {
        self.class.is_none_or(|c| c.0 & 1 << class as u8 != 0)
            && (self.command.as_ref()).is_none_or(|names| names.iter().any(|n| n.is(command)))
    }

    /// Whether whatever it is about matches.
    pub(super) fn is_unconditional(&self) -> bool {
        self.key_prefix.is_none()
            && self.user.is_none()
            && self.address.is_none()
            && self.client.is_none()
    }

    /// Whether what it is about matches.
    pub(super) fn holds<'k>(&self, who: Who<'_>, keys: impl Iterator<Item = &'k [u8]>) -> bool {
        self.user
            .as_ref()
            .is_none_or(|u| u.iter().any(|u| u == who.user))
            && (self.address.as_ref()).is_none_or(|n| n.iter().any(|n| n.holds(who.address)))
            && (self.client.as_ref())
                .is_none_or(|c| c.iter().any(|c| glob_matches(c.as_bytes(), who.client)))
            && self.has_key(keys)
    }

    fn has_key<'k>(&self, mut keys: impl Iterator<Item = &'k [u8]>) -> bool {
        self.key_prefix.as_ref().is_none_or(|prefixes| {
            keys.any(|key| prefixes.iter().any(|p| key.starts_with(p.as_bytes())))
        })
    }

    /// The severity of its records, where it says one.
    pub(super) fn severity(&self, usual: Severity) -> Severity {
        self.severity.map_or(usual, |grave| grave.0)
    }
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Mode {
    Sync,
    Interval,
    Async,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Failure {
    Block,
    Drop,
    Refuse,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Written {
    mode: Mode,
    on_failure: Failure,
    /// With `block`: how long, before it is refused.
    wait: Option<Time>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct WriteTable {
    info: Option<Written>,
    notice: Option<Written>,
    warning: Option<Written>,
    error: Option<Written>,
    critical: Option<Written>,
    interval: Option<Time>,
    queue: Option<usize>,
    reserve: Option<Size>,
    reserve_from: Option<Grave>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RotationTable {
    size: Option<Size>,
    age: Option<Time>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RetentionTable {
    age: Option<Time>,
    size: Option<Size>,
    clock_settles: Option<Time>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct CheckpointTable {
    records: Option<u64>,
    every: Option<Time>,
    file: Option<PathBuf>,
    command: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    #[serde(default)]
    rule: Vec<Rule>,
    #[serde(default)]
    write: WriteTable,
    #[serde(default)]
    rotation: RotationTable,
    #[serde(default)]
    retention: RetentionTable,
    #[serde(default)]
    checkpoint: CheckpointTable,
    slow: Option<Time>,
    refused_per_second: Option<u32>,
    on_tamper: Option<Tamper>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Tamper {
    Refuse,
    Continue,
}

/// A policy that can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// The file can't be read.
    #[error("{}: {source}; name a readable file with --audit-policy", .path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not as it must be.
    #[error("{}, line {line}: {why}; docs/operations.md describes the policy", .path.display())]
    Malformed {
        /// Which.
        path: PathBuf,
        /// Its line, from 1.
        line: usize,
        /// What is wrong.
        why: String,
    },
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Policy {
    pub(super) rules: Vec<Rule>,
    pub(super) options: Options,
    /// A command is slow from here on.
    pub(super) slow: Duration,
    /// Records of one kind of refusal in a second; what is beyond is counted.
    pub(super) refused_per_second: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Policy::from(File::default())
    }
}

impl Policy {
    /// The policy of a file.
    pub fn load(path: &Path) -> Result<Policy, PolicyError> {
        let text = std::fs::read_to_string(path).map_err(|source| PolicyError::Io {
            path: path.to_owned(),
            source,
        })?;
        Policy::parse(&text).map_err(|(line, why)| PolicyError::Malformed {
            path: path.to_owned(),
            line,
            why,
        })
    }

    /// That of a text; else the line, and what is wrong with it (AP2).
    pub(super) fn parse(text: &str) -> Result<Policy, (usize, String)> {
        let file: File = toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start.min(text.len()));
            let line = text.as_bytes()[..at]
                .iter()
                .filter(|b| **b == b'\n')
                .count()
                + 1;
            (line, error.message().trim().replace('\n', " "))
        })?;
        Ok(Policy::from(file))
    }

    pub(super) fn class_is_on(&self, class: Class) -> bool {
        let about = self
            .rules
            .iter()
            .filter(|rule| rule.class.is_none_or(|c| c.0 & 1 << class as u8 != 0));
        for rule in about {
            if rule.level != Level::None {
                return true;
            }
            if rule.is_unconditional() && rule.command.is_none() {
                return false;
            }
        }
        false
    }
}

impl From<File> for Policy {
    fn from(file: File) -> Policy {
        let mut rules = file.rule;
        let bit = |class: Class| 1 << class as u8;
        let metadata = bit(Class::Authentication)
            | bit(Class::Connection)
            | bit(Class::Refused)
            | bit(Class::Slow);
        rules.extend([
            Rule::of(metadata, Level::Metadata, Show::Hmac),
            Rule::of(bit(Class::Configuration), Level::Request, Show::Hmac),
            Rule::of(bit(Class::Administration), Level::Request, Show::Clear),
            Rule::of(u16::MAX, Level::None, Show::Hmac),
        ]);
        let usual = |mode, on_failure| Written {
            mode,
            on_failure,
            wait: None,
        };
        let (light, grave) = (
            usual(Mode::Interval, Failure::Drop),
            usual(Mode::Sync, Failure::Block),
        );
        let write = file.write;
        let policies = [
            (
                Severity::Info,
                write.info,
                usual(Mode::Async, Failure::Drop),
            ),
            (Severity::Notice, write.notice, light),
            (Severity::Warning, write.warning, light),
            (Severity::Error, write.error, grave),
            (Severity::Critical, write.critical, grave),
        ];
        let policies =
            policies
                .into_iter()
                .fold(Policies::default(), |all, (severity, said, usual)| {
                    let written = said.unwrap_or(usual);
                    let wait = written.wait.map_or(Duration::from_secs(5), |wait| wait.0);
                    all.with(
                        severity,
                        esker_audit::Policy {
                            write: match written.mode {
                                Mode::Sync => Write::Sync,
                                Mode::Interval => Write::Interval,
                                Mode::Async => Write::Async,
                            },
                            on_failure: match written.on_failure {
                                Failure::Block => OnFailure::Block(wait),
                                Failure::Drop => OnFailure::Drop,
                                Failure::Refuse => OnFailure::Refuse,
                            },
                        },
                    )
                });
        let mut options = Options {
            policies,
            ..Options::default()
        };
        let set = |to: &mut Duration, from: Option<Time>| *to = from.map_or(*to, |time| time.0);
        set(&mut options.interval, write.interval);
        set(&mut options.rotate_after, file.rotation.age);
        set(&mut options.checkpoint_after, file.checkpoint.every);
        options.queue = write.queue.unwrap_or(options.queue);
        options.reserve_bytes = write.reserve.map_or(options.reserve_bytes, |size| size.0);
        options.reserve_from = write
            .reserve_from
            .map_or(options.reserve_from, |grave| grave.0);
        options.rotate_bytes = file
            .rotation
            .size
            .map_or(options.rotate_bytes, |size| size.0);
        options.keep_for = file.retention.age.map(|time| time.0);
        set(&mut options.clock_settles, file.retention.clock_settles);
        options.keep_bytes = file.retention.size.map(|size| size.0);
        options.checkpoint_entries = file
            .checkpoint
            .records
            .unwrap_or(options.checkpoint_entries);
        options.anchor = Anchor {
            file: file.checkpoint.file,
            command: file.checkpoint.command,
        };
        options.on_tamper = match file.on_tamper {
            Some(Tamper::Continue) => OnTamper::Continue,
            Some(Tamper::Refuse) | None => OnTamper::Refuse,
        };
        Policy {
            rules,
            options,
            slow: file.slow.map_or(Duration::from_millis(10), |time| time.0),
            refused_per_second: file.refused_per_second.unwrap_or(10),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ap2_a_malformed_policy_names_its_line() {
        for (text, line, said) in [
            (
                "slow = \"1s\"\n\n[[rule]]\nlevel = \"all\"\n",
                4,
                "unknown variant `all`",
            ),
            (
                "[[rule]]\nclass = [\"writes\"]\nlevel = \"none\"\n",
                2,
                "is none of authentication",
            ),
            (
                "[[rule]]\nlevel = \"none\"\ncommand = [\"sett\"]\n",
                3,
                "not known",
            ),
            (
                "[[rule]]\nlevel = \"none\"\naddress = [\"10.0.0.0/33\"]\n",
                3,
                "10.0.0.0/8",
            ),
            ("[retention]\nage = \"a year\"\n", 2, "is no time"),
            ("[rotation]\nsize = 64\n", 2, "invalid type"),
            ("[[rules]]\nlevel = \"none\"\n", 1, "unknown field `rules`"),
            ("[write]\ninfo = { mode = \"async\" }\n", 2, "on-failure"),
            ("[[rule]]\nclass = [\"any\"]\n", 1, "level"),
            ("slow = \"1s\n", 1, ""),
        ] {
            let (at, why) = Policy::parse(text).expect_err(text);
            assert_eq!(at, line, "{text}: {why}");
            assert!(why.contains(said), "{text}: {why}");
        }
    }

    #[test]
    fn ap1_the_first_rule_that_matches_decides_and_the_defaults_stand_behind() {
        let text = "
            [[rule]]
            class = [\"write\"]
            key-prefix = [\"tmp:\"]
            level = \"none\"
            [[rule]]
            class = [\"data\"]
            address = [\"10.0.0.0/8\", \"::1\"]
            client = [\"app-*\"]
            level = \"request\"
        ";
        let policy = Policy::parse(text).expect("parses");
        let who = |address: &str, client| Who {
            user: "default",
            address: address.parse().expect("an address"),
            client,
        };
        let level = |class, command, who, key: &'static [u8]| {
            let rule = policy.rules.iter().find(|rule| {
                rule.is_about(class, command) && rule.holds(who, std::iter::once(key))
            });
            rule.expect("the last matches").level
        };
        let app = who("10.2.3.4", &b"app-1"[..]);
        assert_eq!(level(Class::Write, "set", app, b"tmp:1"), Level::None);
        assert_eq!(level(Class::Write, "set", app, b"acct"), Level::Request);
        assert_eq!(level(Class::Read, "get", app, b"tmp:1"), Level::Request);
        assert_eq!(
            level(Class::Read, "get", who("::1", b"app-"), b"x"),
            Level::Request
        );
        assert_eq!(
            level(Class::Read, "get", who("::ffff:10.1.1.1", b"app-"), b"x"),
            Level::Request
        );
        assert_eq!(
            level(Class::Read, "get", who("11.1.1.1", b"app-"), b"x"),
            Level::None
        );
        assert_eq!(
            level(Class::Read, "get", who("10.1.1.1", b"cli"), b"x"),
            Level::None
        );
        assert_eq!(
            level(Class::Administration, "flushall", app, b""),
            Level::Request
        );
        assert!(policy.class_is_on(Class::Slow) && policy.class_is_on(Class::Write));
        let quiet = Policy::parse("[[rule]]\nlevel = \"none\"\n").expect("parses");
        assert!(!quiet.class_is_on(Class::Slow) && !quiet.class_is_on(Class::Refused));
    }

    #[test]
    fn the_policy_in_the_documentation_can_be_used() {
        let page = include_str!("../../../docs/operations.md");
        let block = page
            .split("```toml\n")
            .find(|block| block.starts_with("slow = "));
        let text = block
            .and_then(|block| block.split("```").next())
            .expect("it is there");
        let policy = Policy::parse(text).expect("it can be used");
        assert_eq!(policy.rules.len(), 2 + Policy::default().rules.len());
        let told = policy.options.policies.of(Severity::Critical);
        assert_eq!(
            (told.write, told.on_failure),
            (Write::Sync, OnFailure::Refuse)
        );
    }

    #[test]
    fn what_a_file_says_of_writing_is_what_the_trail_gets() {
        let text = "
            slow = \"50ms\"
            on-tamper = \"continue\"
            [write]
            info = { mode = \"interval\", on-failure = \"refuse\" }
            error = { mode = \"sync\", on-failure = \"block\", wait = \"2s\" }
            queue = 7
            [retention]
            age = \"365d\"
            clock-settles = \"2h\"
            [checkpoint]
            command = [\"logger\", \"-t\", \"esker\"]
        ";
        let policy = Policy::parse(text).expect("parses");
        let of = |severity| policy.options.policies.of(severity);
        assert_eq!(of(Severity::Info).write, Write::Interval);
        assert_eq!(of(Severity::Info).on_failure, OnFailure::Refuse);
        assert_eq!(
            of(Severity::Error).on_failure,
            OnFailure::Block(Duration::from_secs(2))
        );
        assert_eq!(
            of(Severity::Critical).on_failure,
            OnFailure::Block(Duration::from_secs(5))
        );
        assert_eq!(of(Severity::Notice).on_failure, OnFailure::Drop);
        assert_eq!(policy.options.queue, 7);
        assert_eq!(
            policy.options.keep_for,
            Some(Duration::from_secs(365 * 86_400))
        );
        assert_eq!(policy.options.clock_settles, Duration::from_secs(7200));
        assert_eq!(policy.options.on_tamper, OnTamper::Continue);
        assert_eq!(policy.slow, Duration::from_millis(50));
        assert_eq!(
            policy.options.anchor.command.as_ref().map(Vec::len),
            Some(3)
        );
    }
}
