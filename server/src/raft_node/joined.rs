//! Batches of several clients as one proposal, so that they share what an entry costs on every node.
//!
//! - JN1: how a client's commands are answered does not depend on what others sent. Only batches are joined whose commands write no more than they are
//!   long ([`Batch::joins`]), and so few bytes that all of them together stay far below what an entry may write.
//! - JN2: each client gets the replies of its own commands, in its order; where a proposal ends without replies each client of it is told.
//! - JN3: what is answered in RESP3 is not joined with what is answered in RESP2.

use super::writers::Gathered;
use crate::Protocol;
use crate::audit;
use crate::commands::replicated::{BATCH_COMMANDS_MAX, Batch};
use bytes::Bytes;
use mio::Token;
use smallvec::SmallVec;

/// Bytes of the batches in one proposal, where there is more than one (JN1).
const BYTES_MAX: usize = 128 << 10;

/// A client's part of a proposal.
pub(super) type Part = (Token, Gathered);
pub(super) type Parts = SmallVec<[Part; 1]>;

/// What becomes one proposal each.
pub(super) fn join(gathered: Vec<Part>) -> Vec<Parts> {
    let mut joined: Vec<Parts> = Vec::new();
    // Where more fits in: its place, protocol, commands and bytes.
    let mut open: [Option<(usize, usize, usize)>; 2] = [None; 2];
    for part in gathered {
        let (commands, bytes) = (part.1.commands, part.1.batch.len());
        let place = match part.1.protocol {
            Protocol::Resp2 => &mut open[0],
            Protocol::Resp3 => &mut open[1],
        };
        if !part.1.joins || bytes > BYTES_MAX {
            joined.push(Parts::from_iter([part]));
            continue;
        }
        match place {
            Some((at, all_commands, all_bytes))
                if *all_commands + commands <= BATCH_COMMANDS_MAX
                    && *all_bytes + bytes <= BYTES_MAX =>
            {
                joined[*at].push(part);
                *all_commands += commands;
                *all_bytes += bytes;
            }
            _ => {
                *place = Some((joined.len(), commands, bytes));
                joined.push(Parts::from_iter([part]));
            }
        }
    }
    joined
}

/// The command for the log.
pub(super) fn command(parts: &[Part]) -> Bytes {
    match parts {
        [(_, only)] => only.batch.clone(),
        _ => Batch::joined(parts.iter().map(|(_, gathered)| &*gathered.batch)),
    }
}

/// What each part was answered (JN2). `None` where the answer does not fit.
pub(super) fn shares<'a>(parts: &[Part], answer: &'a [u8]) -> Option<Vec<&'a [u8]>> {
    if parts.len() == 1 {
        return Some(vec![answer]);
    }
    let mut replies = audit::replies(answer);
    let (mut shares, mut from) = (Vec::with_capacity(parts.len()), 0);
    for (_, gathered) in parts {
        let mut to = from;
        for _ in 0..gathered.commands {
            to += replies.next()?.len();
        }
        shares.push(&answer[from..to]);
        from = to;
    }
    (from == answer.len()).then_some(shares)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Reply;
    use crate::commands::replicated::{Class, classify};

    fn part(client: usize, protocol: Protocol, lines: &[&str]) -> Part {
        let mut batch = Batch::new(protocol);
        for line in lines {
            let argv: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            match classify(&argv, &mut Reply::new(protocol)) {
                Class::Write { joins, .. } => batch.push(&argv, joins),
                other => panic!("{line} is {other:?}"),
            }
        }
        (Token(client), Gathered::new(batch, Vec::new()))
    }

    fn clients(joined: &[Parts]) -> Vec<Vec<usize>> {
        let of = |parts: &Parts| parts.iter().map(|(token, _)| token.0).collect();
        joined.iter().map(of).collect()
    }

    /// JN1, JN3.
    #[test]
    fn what_may_write_much_and_what_is_answered_otherwise_stand_alone() {
        use Protocol::{Resp2, Resp3};
        let joined = join(vec![
            part(1, Resp2, &["SET a 1"]),
            part(2, Resp3, &["SET b 1"]),
            part(3, Resp2, &["SET c 1", "EXPIRE big 10"]),
            part(4, Resp2, &["DEL a b", "INCR n"]),
            part(5, Resp3, &["MSET a 1 b 2"]),
            part(6, Resp2, &["FLUSHALL"]),
            part(7, Resp2, &["SETEX a 10 1"]),
        ]);
        assert_eq!(
            clients(&joined),
            [vec![1, 4, 7], vec![2, 5], vec![3], vec![6]]
        );
    }

    /// JN1.
    #[test]
    fn a_proposal_of_several_has_bounds() {
        let small = ["SET a 1"; 100];
        let many = (1..=6).map(|client| part(client, Protocol::Resp2, &small));
        assert_eq!(
            clients(&join(many.collect())),
            [vec![1, 2], vec![3, 4], vec![5, 6]]
        );
        let long = format!("SET a {}", "x".repeat(BYTES_MAX / 2 - 100));
        let longer = format!("SET a {}", "x".repeat(BYTES_MAX));
        let large = [&long, &longer, &long, &long].map(|line| &**line);
        let large = (1..)
            .zip(large)
            .map(|(client, line)| part(client, Protocol::Resp2, &[line]));
        assert_eq!(
            clients(&join(large.collect())),
            [vec![1, 3], vec![2], vec![4]]
        );
    }

    /// JN2.
    #[test]
    fn each_gets_the_replies_of_its_own_commands() {
        let parts = [
            part(1, Protocol::Resp2, &["INCR a", "INCR a"]),
            part(2, Protocol::Resp2, &["SET a 1 NX"]),
            part(3, Protocol::Resp2, &["SET a 1"]),
        ];
        let whole: &[u8] = b":1\r\n-ERR no\r\n$-1\r\n+OK\r\n";
        let expected: [&[u8]; 3] = [b":1\r\n-ERR no\r\n", b"$-1\r\n", b"+OK\r\n"];
        assert_eq!(shares(&parts, whole).as_deref(), Some(&expected[..]));
        for (len, _) in whole.iter().enumerate() {
            assert_eq!(shares(&parts, &whole[..len]), None, "{len}");
        }
        assert_eq!(shares(&parts, &[whole, b"+OK\r\n"].concat()), None);
        assert_eq!(shares(&parts[..1], b"+").as_deref(), Some(&[&b"+"[..]][..]));
    }

    /// The bytes are those of one batch with all commands.
    #[test]
    fn joined_batches_are_one() {
        let parts = [
            part(1, Protocol::Resp3, &["INCR a", "SET b 1"]),
            part(2, Protocol::Resp3, &["DEL c"]),
        ];
        let one = part(3, Protocol::Resp3, &["INCR a", "SET b 1", "DEL c"]);
        assert_eq!(command(&parts), one.1.batch);
        assert_eq!(command(&parts[..1]), parts[0].1.batch);
    }
}
