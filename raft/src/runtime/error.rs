//! What a caller is told, and what it may conclude from it.

use crate::codec::{Decoder, Malformed, put_blob};
use crate::core::{Index, NodeId, Term};
use bytes::Bytes;

/// Who leads, and where its clients go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaderHint {
    /// The node.
    pub node: NodeId,
    /// Its address for clients, where the membership has it.
    pub client: String,
}

/// Why a proposal has no reply. The variant says what is known of its effect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProposeError {
    /// It takes no effect, now or later: it can be tried again, here or at the leader.
    #[error("not executed: {why}{}", hinted(.leader))]
    NotAppended {
        /// Why.
        why: String,
        /// Who leads, as far as known.
        leader: Option<LeaderHint>,
    },
    /// It may have taken effect, may yet, or may never. Under a session it can be tried again with the same serial.
    #[error("the outcome is not known: {why}{}", hinted(.leader))]
    Unknown {
        /// Why.
        why: String,
        /// Who leads, as far as known.
        leader: Option<LeaderHint>,
    },
    /// It took effect at this index, but its reply is gone.
    #[error("executed at {index}, but {why}")]
    Committed {
        /// Where.
        index: Index,
        /// Why there is no reply.
        why: String,
    },
    /// It was committed and refused in its place: the session is unknown or expired, or the serial is one that was acknowledged. It took
    /// no effect there.
    #[error("not executed: {0}")]
    Session(SessionError),
}

/// What is wrong with a session, or with a serial in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// There is no such session: it was closed, or expired. What was sent under it and not answered may have taken effect before.
    #[error(
        "the session is unknown or has expired; open another, and decide whether what was not answered may run again"
    )]
    Unknown,
    /// A serial below what the client has acknowledged, or too far ahead of it.
    #[error(
        "the serial is outside of the session's window; use serials one by one and acknowledge replies"
    )]
    Serial,
    /// There are as many sessions as may be.
    #[error("there are too many sessions; close some, or let them expire")]
    TooMany,
    /// Of all sessions together as many commands are not acknowledged as may be.
    #[error(
        "too many commands of all sessions wait for an acknowledgement; it was not executed: try it again"
    )]
    TooManySerials,
}

fn hinted(leader: &Option<LeaderHint>) -> String {
    match leader {
        Some(hint) if hint.client.is_empty() => format!("; node {} leads", hint.node),
        Some(hint) => format!("; node {} at {} leads", hint.node, hint.client),
        None => String::new(),
    }
}

/// A reply to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Where it was executed; of a retried one, where it was for the first time.
    pub index: Index,
    /// Term of that entry; 0 where it is not known: of a session, and of a retried one.
    pub term: Term,
    /// What the state machine answered.
    pub payload: Bytes,
}

/// What became of a proposal.
pub type Outcome = Result<Reply, ProposeError>;

// An outcome on its way back to the node that forwarded the command: kind u8, then index u64, term u64 and payload, or texts and the hint.
const REPLY: u8 = 0;
const NOT_APPENDED: u8 = 1;
const UNKNOWN: u8 = 2;
const COMMITTED: u8 = 3;
const SESSION: u8 = 4;
/// Longest text of an error that is sent.
const TEXT_MAX: usize = 1024;

fn put_text(out: &mut Vec<u8>, text: &str) {
    let mut end = text.len().min(TEXT_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    put_blob(out, &text.as_bytes()[..end]);
}

fn text(decoder: &mut Decoder, what: &'static str) -> Result<String, Malformed> {
    let bytes = decoder.blob(what)?;
    String::from_utf8(bytes.to_vec()).map_err(|_| decoder.malformed(what))
}

fn put_hint(out: &mut Vec<u8>, hint: &Option<LeaderHint>) {
    let (node, client) = (hint.as_ref()).map_or((0, ""), |h| (h.node.0, h.client.as_str()));
    out.extend_from_slice(&node.to_le_bytes());
    put_text(out, client);
}

fn hint(decoder: &mut Decoder) -> Result<Option<LeaderHint>, Malformed> {
    let node = NodeId(decoder.u64("a node")?);
    let client = text(decoder, "an address")?;
    Ok((node.0 != 0).then_some(LeaderHint { node, client }))
}

/// A reply of more than `bytes_max` stays behind.
pub(super) fn put_outcome(outcome: &Outcome, bytes_max: Option<usize>) -> Bytes {
    let mut out = Vec::new();
    match outcome {
        Ok(reply) if bytes_max.is_some_and(|max| reply.payload.len() > max) => {
            let why = format!(
                "its reply of {} bytes is longer than what the nodes send each other: ask the node that leads",
                reply.payload.len()
            );
            let index = reply.index;
            return put_outcome(&Err(ProposeError::Committed { index, why }), bytes_max);
        }
        Ok(reply) => {
            out.push(REPLY);
            out.extend_from_slice(&reply.index.0.to_le_bytes());
            out.extend_from_slice(&reply.term.0.to_le_bytes());
            put_blob(&mut out, &reply.payload);
        }
        Err(ProposeError::NotAppended { why, leader }) => {
            out.push(NOT_APPENDED);
            put_text(&mut out, why);
            put_hint(&mut out, leader);
        }
        Err(ProposeError::Unknown { why, leader }) => {
            out.push(UNKNOWN);
            put_text(&mut out, why);
            put_hint(&mut out, leader);
        }
        Err(ProposeError::Committed { index, why }) => {
            out.push(COMMITTED);
            out.extend_from_slice(&index.0.to_le_bytes());
            put_text(&mut out, why);
        }
        Err(ProposeError::Session(error)) => {
            out.push(SESSION);
            out.push(match error {
                SessionError::Unknown => 0,
                SessionError::Serial => 1,
                SessionError::TooMany => 2,
                SessionError::TooManySerials => 3,
            });
        }
    }
    out.into()
}

pub(super) fn outcome(bytes: Bytes) -> Result<Outcome, Malformed> {
    let mut d = Decoder::new(bytes);
    let outcome = match d.u8("an outcome")? {
        REPLY => Ok(Reply {
            index: Index(d.u64("an index")?),
            term: Term(d.u64("a term")?),
            payload: d.blob("a reply")?,
        }),
        NOT_APPENDED => Err(ProposeError::NotAppended {
            why: text(&mut d, "a reason")?,
            leader: hint(&mut d)?,
        }),
        UNKNOWN => Err(ProposeError::Unknown {
            why: text(&mut d, "a reason")?,
            leader: hint(&mut d)?,
        }),
        COMMITTED => Err(ProposeError::Committed {
            index: Index(d.u64("an index")?),
            why: text(&mut d, "a reason")?,
        }),
        SESSION => Err(ProposeError::Session(match d.u8("a session error")? {
            0 => SessionError::Unknown,
            1 => SessionError::Serial,
            2 => SessionError::TooMany,
            3 => SessionError::TooManySerials,
            _ => return Err(d.malformed("a known session error")),
        })),
        _ => return Err(d.malformed("a known outcome")),
    };
    d.end()?;
    Ok(outcome)
}

/// Why a read can't be answered. Nothing was changed; it can be tried again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// No leader confirmed it.
    #[error("the read was not confirmed by a leader{}", hinted(.leader))]
    NoLeader {
        /// Who leads, as far as known.
        leader: Option<LeaderHint>,
    },
    /// It was not confirmed and applied in time.
    #[error("the read was not confirmed in time")]
    TimedOut,
    /// The node is closed, or has failed.
    #[error("the node is down: {0}")]
    Down(String),
}

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// An option can't be.
    #[error(transparent)]
    Option(#[from] crate::core::BadOption),
    /// The log can't be used.
    #[error(transparent)]
    Log(#[from] crate::log::LogError),
    /// The state machine can't be used.
    #[error(transparent)]
    Machine(#[from] super::MachineError),
    /// Log and state machine are not of one node.
    #[error("{0}")]
    Mismatch(String),
    /// The system gives no thread, or no socket.
    #[error("{doing}: {why}")]
    System {
        /// What was tried.
        doing: &'static str,
        /// What it said.
        why: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    /// E2.
    #[test]
    fn outcomes_survive_the_way_and_damage_is_refused() {
        let leader = Some(LeaderHint {
            node: NodeId(3),
            client: "127.0.0.1:6391".into(),
        });
        let why = "because".to_string();
        for one in [
            Ok(Reply {
                index: Index(9),
                term: Term(3),
                payload: Bytes::from_static(b"x"),
            }),
            Err(ProposeError::NotAppended {
                why: why.clone(),
                leader: leader.clone(),
            }),
            Err(ProposeError::Unknown {
                why: why.clone(),
                leader: None,
            }),
            Err(ProposeError::Committed {
                index: Index(4),
                why,
            }),
            Err(ProposeError::Session(SessionError::Serial)),
        ] {
            let bytes = put_outcome(&one, None);
            assert_eq!(outcome(bytes.clone()), Ok(one));
            for len in 0..bytes.len() {
                assert!(outcome(bytes.slice(..len)).is_err());
            }
        }
    }

    /// RT1: what no message can carry is not lost on the way again and again, nor breaks the link.
    #[test]
    fn a_reply_that_is_too_long_for_a_message_is_told_as_executed() {
        let reply = |len: usize| Reply {
            index: Index(9),
            term: Term(3),
            payload: vec![b'x'; len].into(),
        };
        let told = |len| outcome(put_outcome(&Ok(reply(len)), Some(1000))).unwrap();
        assert_eq!(told(1000), Ok(reply(1000)));
        let Err(ProposeError::Committed { index, why }) = told(1001) else {
            panic!("it was sent");
        };
        assert_eq!(index, Index(9));
        assert!(why.contains("1001"), "{why}");
    }

    #[test]
    fn an_error_names_the_leader_and_its_address_for_clients() {
        let error = ProposeError::NotAppended {
            why: "this node does not lead".into(),
            leader: Some(LeaderHint {
                node: NodeId(3),
                client: "127.0.0.1:6391".into(),
            }),
        };
        assert_eq!(
            error.to_string(),
            "not executed: this node does not lead; node 3 at 127.0.0.1:6391 leads"
        );
    }
}
