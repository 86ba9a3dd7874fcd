//! A transaction in the log: what was queued between MULTI and EXEC, and what was watched.
//!
//! - RT1 (C3): a key is watched by the place in the log of the write that it shows, and that is looked at again where the transaction stands in the log:
//!   so whoever wrote it meanwhile is seen, also if the value is the same again, and on every node alike. A key that is not there has no
//!   place: one that was set and deleted meanwhile is as it was.
//! - RT2: either all commands take effect or none. A command's own error is its reply, and the others take effect, as in Redis.
//! - RT3: what it does and answers is bounded, a single command's reply too; what would be more is not executed.
//! - RT4 (RC2): what version 2 does must stay as it is.
//!
//! Little-endian.
//! ```text
//! version u8 (2), protocol u8 (2 or 3: of the replies), watched u32, each: stored key (length u32 and bytes), place u64 (0: it is not there);
//! commands u32, each: arguments u32, each: length u32 and bytes
//! answer: 0 a watched key has changed; 1 executed: commands u32, of each the length of its reply u32, then the replies; 2 refused: why
//! ```

use super::{
    ARGS_MAX, ApplyError, Target, WRITES_MAX, blob, command, number, protocol_of, put_bytes,
    put_command,
};
use crate::commands::error::CommandError;
use crate::commands::table::{self, Handler};
use crate::commands::transactions::replied;
use crate::commands::{Queued, Transaction};
use crate::engine::Txn;
use crate::engine::cursors::Cursors;
use crate::engine::state::{Change, State};
use crate::{Protocol, Reply};
use bytes::Bytes;
use esker_lsm::StoreError;

/// The first byte.
pub(super) const VERSION: u8 = 2;
/// Bytes of its replies, at most: a follower gets them in one message.
const REPLIES_MAX: usize = 32 << 20;
/// Keys that the commands of one in the log walk over, at most (KEYS, DBSIZE): meanwhile no node applies anything else.
const WALKED_MAX: usize = 1 << 18;

const CHANGED: u8 = 0;
const EXECUTED: u8 = 1;
const REFUSED: u8 = 2;

/// What became of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// A watched key has changed; nothing was executed.
    Changed,
    /// The replies one behind the other, and the length of each.
    Executed(Vec<usize>, Bytes),
    /// Nothing was executed; the error reply.
    Refused(String),
}

impl Answer {
    fn encode(&self) -> Bytes {
        match self {
            Answer::Changed => Bytes::from_static(&[CHANGED]),
            Answer::Refused(why) => [&[REFUSED], why.as_bytes()].concat().into(),
            Answer::Executed(lens, replies) => {
                let mut out = Vec::with_capacity(5 + 4 * lens.len() + replies.len());
                out.push(EXECUTED);
                for n in std::iter::once(&lens.len()).chain(lens) {
                    out.extend_from_slice(&(*n as u32).to_le_bytes());
                }
                out.extend_from_slice(replies);
                out.into()
            }
        }
    }

    /// From the bytes of an answer; `None` where they are none.
    pub(crate) fn decode(answer: &Bytes) -> Option<Answer> {
        let (kind, mut rest) = answer.split_first()?;
        match *kind {
            CHANGED if rest.is_empty() => Some(Answer::Changed),
            REFUSED => Some(Answer::Refused(String::from_utf8_lossy(rest).into_owned())),
            EXECUTED => {
                let count = number(&mut rest)?;
                // E2.
                if count > rest.len() / 4 {
                    return None;
                }
                let lens: Option<Vec<usize>> = (0..count).map(|_| number(&mut rest)).collect();
                let lens = lens?;
                (lens.iter().sum::<usize>() == rest.len())
                    .then(|| Answer::Executed(lens, answer.slice_ref(rest)))
            }
            _ => None,
        }
    }
}

/// The bytes of one for the log. Of its commands, those on keys.
pub(crate) fn encode(protocol: Protocol, transaction: &Transaction) -> Bytes {
    let mut out = vec![VERSION, protocol.number()];
    let watched = transaction.watched();
    out.extend_from_slice(&(watched.len() as u32).to_le_bytes());
    for (key, place) in watched {
        put_bytes(&mut out, key);
        out.extend_from_slice(&place.to_le_bytes());
    }
    let queue = transaction.queue();
    let commands = || queue.iter().filter(|queued| queued.is_data());
    out.extend_from_slice(&(commands().count() as u32).to_le_bytes());
    for queued in commands() {
        put_command(&mut out, &queued.argv());
    }
    out.into()
}

/// Whether a command that may be queued elsewhere may not here; the error. SCAN's places are each node's own; HELLO would have replies of two
/// protocols in one array.
pub(crate) fn refused(name: &str) -> Option<String> {
    ["scan", "hello"].contains(&name).then(|| {
        format!("ERR '{name}' is not served by raft-node between MULTI and EXEC; send it before or behind")
    })
}

/// What stands in the log.
struct Parsed<'a> {
    protocol: Protocol,
    watched: Vec<(&'a [u8], u64)>,
    commands: Vec<Vec<&'a [u8]>>,
}

fn parse(bytes: &[u8]) -> Option<Parsed<'_>> {
    let (protocol, mut rest) = bytes.split_first()?;
    let count = number(&mut rest)?;
    // E2: a key takes twelve bytes at least, a command eight.
    if count > rest.len() / 12 {
        return None;
    }
    let mut watched = Vec::with_capacity(count);
    for _ in 0..count {
        let key = blob(&mut rest)?;
        let (place, behind) = rest.split_first_chunk()?;
        rest = behind;
        watched.push((key, u64::from_le_bytes(*place)));
    }
    let count = number(&mut rest)?;
    if count > rest.len() / 8 {
        return None;
    }
    let mut commands = Vec::with_capacity(count);
    for _ in 0..count {
        commands.push(command(&mut rest)?);
    }
    rest.is_empty().then(|| Parsed {
        protocol: protocol_of(*protocol),
        watched,
        commands,
    })
}

/// Applies one of the log, behind its first byte; the answer.
pub(super) fn apply(
    bytes: &[u8],
    target: &mut dyn Target,
    cursors: &Cursors,
) -> Result<Bytes, ApplyError> {
    let Some(parsed) = parse(bytes) else {
        let why = "EXECABORT Transaction discarded because of: it is malformed in the log";
        return Ok(Answer::Refused(why.into()).encode());
    };
    let room = target.room();
    let txn = Txn::on_state(target, cursors).walking_at_most(WALKED_MAX);
    let commands = parsed.commands.iter().map(Vec::as_slice);
    let watched = parsed.watched.iter().copied();
    let (answer, changes) = run(txn, parsed.protocol, watched, commands, room)?;
    target.change(changes);
    Ok(answer.encode())
}

/// Runs one that only reads.
pub(crate) fn read(
    protocol: Protocol,
    transaction: &Transaction,
    state: &mut dyn State,
    cursors: &Cursors,
) -> Result<Answer, StoreError> {
    let txn = Txn::on_state(state, cursors);
    let queue = transaction.queue().iter().filter(|queued| queued.is_data());
    let argvs: Vec<_> = queue.map(Queued::argv).collect();
    let commands = argvs.iter().map(|argv| &argv[..]);
    run(txn, protocol, transaction.watched(), commands, 0).map(|(answer, _)| answer)
}

fn run<'a>(
    mut txn: Txn<'_>,
    protocol: Protocol,
    watched: impl Iterator<Item = (&'a [u8], u64)>,
    commands: impl Iterator<Item = &'a [&'a [u8]]>,
    room: usize,
) -> Result<(Answer, Vec<Change>), StoreError> {
    for (key, place) in watched {
        if txn.version(key)?.seqno != place {
            return Ok((Answer::Changed, Vec::new()));
        }
    }
    txn = txn.with_overlay();
    let mut out = Reply::new(protocol).at_most(REPLIES_MAX);
    let mut lens = Vec::new();
    for argv in commands {
        let mark = out.len();
        let result = match table::resolve(argv).map(|spec| (spec.name, spec.handler)) {
            // None of these was queued.
            Ok((name, Handler::Data(_))) if refused(name).is_some() || name == "randomkey" => {
                Err(format!("ERR '{name}' does not go through the log").into())
            }
            _ if argv.len() > ARGS_MAX => Err(CommandError::from("ERR too many arguments")),
            Ok((_, Handler::Data(run))) => run(&mut txn, argv, &mut out),
            Ok((name, _)) => Err(format!("ERR '{name}' is not about keys").into()),
            Err(text) => Err(String::from_utf8_lossy(&text).into_owned().into()),
        };
        replied(result, mark, &mut out)?;
        lens.push(out.len() - mark);
        // RT3.
        if txn.walked_too_far() {
            let why = format!(
                "EXECABORT Transaction discarded because of: KEYS and DBSIZE in one that writes walk over {WALKED_MAX} keys at most, together; send them before \
                 or behind"
            );
            return Ok((Answer::Refused(why), Vec::new()));
        }
        let (count, bytes) = txn.changed();
        let answered = out.is_over() || out.len() > REPLIES_MAX;
        if count > room || bytes > WRITES_MAX || answered {
            let why = format!(
                "EXECABORT Transaction discarded because of: it would write more than {WRITES_MAX} bytes or too many keys, or be answered more than \
                 {REPLIES_MAX} bytes; send it in parts"
            );
            return Ok((Answer::Refused(why), Vec::new()));
        }
    }
    let answer = Answer::Executed(lens, Bytes::copy_from_slice(out.as_bytes()));
    Ok((answer, txn.into_changes()))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Map, said};
    use super::*;

    fn applied(map: &mut Map, watched: &[(&str, u64)], lines: &[&str]) -> Answer {
        let transaction = Transaction::of(watched, lines);
        let bytes = encode(Protocol::Resp2, &transaction);
        map.index += 1;
        let answer = super::super::apply(&bytes, map, &Cursors::default()).expect("applied");
        Answer::decode(&answer).expect("an answer")
    }

    fn replies(answer: Answer) -> String {
        match answer {
            Answer::Executed(lens, replies) => {
                assert_eq!(lens.iter().sum::<usize>(), replies.len());
                String::from_utf8_lossy(&replies).replace("\r\n", "~")
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_transaction_sees_what_it_wrote_and_one_command_s_error_is_its_reply() {
        let mut map = Map::default();
        said(&mut map, &["MSET a 1 b x c 3"]);
        let lines = [
            "INCR a", "GET a", "INCR b", "DEL c", "KEYS *", "SET d 4", "DBSIZE", "PING",
        ];
        assert_eq!(
            replies(applied(&mut map, &[], &lines)),
            ":2~$1~2~-ERR value is not an integer or out of range~:1~*2~$1~a~$1~b~+OK~:3~"
        );
        assert_eq!(map.keys.len(), 3);
        let lines = [
            "FLUSHALL",
            "SET z 1",
            "KEYS *",
            "GET a",
            "RENAME z y",
            "DBSIZE",
        ];
        assert_eq!(
            replies(applied(&mut map, &[], &lines)),
            "+OK~+OK~*1~$1~z~$-1~+OK~:1~"
        );
        assert_eq!(map.keys.keys().collect::<Vec<_>>(), [b"y"]);
    }

    /// RT1.
    #[test]
    fn c3_a_watched_key_has_changed_when_it_was_written_again_or_is_gone() {
        let mut map = Map::default();
        said(&mut map, &["SET k 1", "SET gone 1 PX 50"]);
        let place = map.written(b"k").expect("there");
        let watched = [("k", place), ("none", 0), ("gone", place)];
        assert_eq!(replies(applied(&mut map, &watched, &["GET k"])), "$1~1~");
        // Another key, and a write that writes nothing.
        said(&mut map, &["SET other 2", "SETNX k 5", "DEL none"]);
        assert_eq!(replies(applied(&mut map, &watched, &["GET k"])), "$1~1~");
        for write in ["SET k 1", "EXPIRE k 100", "DEL k"] {
            said(&mut map, &["SET k 1"]);
            let watched = [("k", map.written(b"k").expect("there"))];
            said(&mut map, &[write]);
            assert_eq!(
                applied(&mut map, &watched, &["SET k 9"]),
                Answer::Changed,
                "{write}"
            );
            assert_ne!(said(&mut map, &["GETSET k 1"]), "$1~9~");
        }
        // Set and deleted behind WATCH, and there again with the same value.
        let watched = [("k", map.written(b"k").expect("there"))];
        said(&mut map, &["DEL k", "SET k 1"]);
        assert_eq!(applied(&mut map, &watched, &[]), Answer::Changed);
        said(&mut map, &["SET none 1"]);
        assert_eq!(applied(&mut map, &[("none", 0)], &[]), Answer::Changed);
        map.now = 50;
        assert_eq!(applied(&mut map, &[("gone", place)], &[]), Answer::Changed);
        assert_eq!(
            applied(&mut map, &[("gone", 0)], &[]),
            Answer::Executed(vec![], Bytes::new())
        );
    }

    /// RT2, RT3: the map has room for a hundred changes.
    #[test]
    fn what_would_be_too_much_is_not_executed_at_all() {
        let mut map = Map::default();
        let lines: Vec<String> = (0..101).map(|n| format!("SET k{n} v")).collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let Answer::Refused(why) = applied(&mut map, &[], &lines) else {
            panic!("it is too much");
        };
        assert!(why.starts_with("EXECABORT"), "{why}");
        assert!(map.keys.is_empty());
        assert_eq!(
            replies(applied(&mut map, &[], &lines[1..])),
            "+OK~".repeat(100)
        );
        let long = format!("SET long {}", "x".repeat(REPLIES_MAX / 2));
        said(&mut map, &[&long]);
        let refused = applied(&mut map, &[], &["SET a 1", "GET long", "GET long"]);
        assert!(matches!(refused, Answer::Refused(_)));
        assert!(!map.keys.contains_key(&b"a"[..]));
    }

    /// RT3: one command's reply could be larger than memory, on every node, and again behind each of its restarts.
    #[test]
    fn a_command_in_a_transaction_stops_where_its_reply_has_no_room() {
        let mut map = Map::default();
        let long = format!("SET long {}", "x".repeat(REPLIES_MAX / 4));
        said(&mut map, &[&long]);
        let many = format!("MGET{}", " long".repeat(1000));
        map.reads = 0;
        let refused = applied(&mut map, &[], &["SET a 1", &many]);
        assert!(matches!(refused, Answer::Refused(why) if why.contains("be answered more than")));
        assert!(!map.keys.contains_key(&b"a"[..]));
        assert!(map.reads < 10, "{} keys were read", map.reads);
        let stored = map.keys[&b"long"[..]].clone();
        for n in 0..5 {
            let key = n.to_string().repeat(REPLIES_MAX / 4);
            map.keys.insert(key.into(), stored.clone());
        }
        let refused = applied(&mut map, &[], &["SET a 1", "KEYS *"]);
        assert!(matches!(refused, Answer::Refused(why) if why.contains("be answered more than")));
        // Elsewhere, an error.
        let mut out = Reply::new(Protocol::Resp2).at_most(REPLIES_MAX);
        let argv = vec![&b"MGET"[..], b"long", b"long", b"long", b"long"];
        let ran = super::super::read(&argv, &mut map, &Cursors::default(), &mut out);
        ran.expect("it is read");
        assert!(
            out.as_bytes()
                .starts_with(b"-ERR the reply would be longer")
        );
    }

    /// RT3: KEYS and DBSIZE walk over all there is, on every node, and again behind each of its restarts.
    #[test]
    fn a_transaction_that_writes_walks_over_so_many_keys_and_no_more() {
        let mut map = Map::default();
        said(&mut map, &["SET k v"]);
        let value = map.keys[&b"k"[..]].clone();
        for n in 2..WALKED_MAX / 64 {
            map.keys.insert(format!("k{n}").into(), value.clone());
        }
        let lines = |walks: usize| {
            [
                vec!["SET a 1"],
                vec!["KEYS nosuch"; walks - 1],
                vec!["DBSIZE"],
            ]
            .concat()
        };
        let Answer::Refused(why) = applied(&mut map, &[], &lines(65)) else {
            panic!("it walks too far");
        };
        assert!(
            why.starts_with("EXECABORT") && why.contains("KEYS"),
            "{why}"
        );
        assert!(!map.keys.contains_key(&b"a"[..]));
        let done = replies(applied(&mut map, &[], &lines(64)));
        assert!(done.ends_with(&format!(":{}~", WALKED_MAX / 64)), "{done}");
        // A reader walks as long as it likes: nobody waits for it.
        let transaction = Transaction::of(&[], &lines(65)[1..]);
        let answer = read(Protocol::Resp2, &transaction, &mut map, &Cursors::default());
        assert!(matches!(answer, Ok(Answer::Executed(..))));
    }

    /// C3, TX2: what only reads is checked and run on the state as it is.
    #[test]
    fn one_that_only_reads_is_looked_at_in_the_same_way() {
        let mut map = Map::default();
        said(&mut map, &["SET k 1"]);
        let transaction = Transaction::of(&[("k", 1)], &["GET k", "EXISTS k k"]);
        let run = |map: &mut Map| {
            read(Protocol::Resp3, &transaction, map, &Cursors::default()).expect("read")
        };
        assert_eq!(replies(run(&mut map)), "$1~1~:2~");
        said(&mut map, &["SET k 1"]);
        assert_eq!(run(&mut map), Answer::Changed);
    }

    /// E2, RC1.
    #[test]
    fn e2_a_cut_transaction_is_refused_and_takes_no_effect() {
        let transaction = Transaction::of(&[("a", 0)], &["SET a 1", "SET b 2"]);
        let whole = encode(Protocol::Resp2, &transaction);
        for len in 1..whole.len() {
            let mut map = Map::default();
            let answer = super::super::apply(&whole[..len], &mut map, &Cursors::default());
            let answer = Answer::decode(&answer.expect("applied")).expect("an answer");
            assert!(matches!(answer, Answer::Refused(_)), "{len}: {answer:?}");
            assert!(map.keys.is_empty());
        }
        for answer in [
            &b""[..],
            &[3],
            &[CHANGED, 0],
            &[EXECUTED, 1, 0, 0],
            &[EXECUTED, 255, 255, 255, 255],
        ] {
            assert_eq!(Answer::decode(&Bytes::copy_from_slice(answer)), None);
        }
        // What none queued is an error, and what reads other nodes' places or rolls dice is none of the log's.
        let mut out = vec![VERSION, 2];
        out.extend_from_slice(&0_u32.to_le_bytes());
        out.extend_from_slice(&4_u32.to_le_bytes());
        for line in [
            &[&b"SCAN"[..], b"0"][..],
            &[b"RANDOMKEY"],
            &[b"PING"],
            &[b"NOSUCH"],
        ] {
            put_command(&mut out, line);
        }
        let answer = super::super::apply(&out, &mut Map::default(), &Cursors::default());
        let answer = Answer::decode(&answer.expect("applied")).expect("an answer");
        assert_eq!(replies(answer).matches("-ERR").count(), 4);
    }
}
