//! A plain key-value application: a command is a batch of the store, with conditions.
//!
//! ```text
//! command  format u8 (1); conditions: a count u32, each a key (length u32, bytes), u8 (1: has this value, 0: is not there) and, of 1, a value;
//!          then a batch as the store has it (docs/formats.md), to the end
//! answer   u8: 1 written; 0 refused, then u32 which condition, u8 whether the key is there, and its value; 2 not a command: why, as text
//! ```
//! - BA1 (SM4): a command that can't be read, or does too much, is answered with that, on all nodes alike; it takes no effect.

use super::effects::Effects;
use super::{Application, OPS_MAX};
use crate::codec::{Decoder, Malformed, put_blob};
use crate::runtime::{Command, MachineError};
use bytes::Bytes;
use esker_lsm::{BatchReader, Condition, Op, WriteBatch};

const FORMAT: u8 = 1;
const REFUSED: u8 = 0;
const WRITTEN: u8 = 1;
const NO_COMMAND: u8 = 2;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct Batches;

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BatchAnswer {
    /// All conditions held, and the batch is written.
    Written,
    /// A condition did not hold, and nothing was written.
    Refused {
        /// Which.
        condition: u32,
        /// What its key is.
        found: Option<Bytes>,
    },
    /// It was no command.
    NoCommand(String),
}

/// The bytes of a command.
#[must_use]
pub fn encode_batch(conditions: &[Condition<'_>], batch: &WriteBatch) -> Bytes {
    let mut out = vec![FORMAT];
    out.extend_from_slice(&(conditions.len() as u32).to_le_bytes());
    for condition in conditions {
        put_blob(&mut out, condition.key);
        out.push(condition.expected.is_some().into());
        if let Some(expected) = condition.expected {
            put_blob(&mut out, expected);
        }
    }
    out.extend_from_slice(batch.payload());
    out.into()
}

impl BatchAnswer {
    /// From the bytes of a reply.
    pub fn decode(bytes: Bytes) -> Result<BatchAnswer, Malformed> {
        let mut d = Decoder::new(bytes);
        Ok(match d.u8("a kind of answer")? {
            WRITTEN => BatchAnswer::Written,
            REFUSED => {
                let condition = d.u32("a condition")?;
                let found = match d.bool("whether the key is there")? {
                    true => Some(d.bytes(d.left(), "a value")?),
                    false => None,
                };
                BatchAnswer::Refused { condition, found }
            }
            NO_COMMAND => {
                let why = d.bytes(d.left(), "a reason")?;
                BatchAnswer::NoCommand(String::from_utf8_lossy(&why).into_owned())
            }
            _ => return Err(d.malformed("a known answer")),
        })
    }
}

impl Batches {
    fn run(payload: Bytes, state: &mut Effects<'_>) -> Result<Result<Bytes, String>, MachineError> {
        let mut d = Decoder::new(payload);
        let conditions = (|| {
            if d.u8("a format")? != FORMAT {
                return Err(d.malformed("format 1"));
            }
            let mut conditions = Vec::new();
            for _ in 0..d.count(5, "a count of conditions")? {
                let key = d.blob("a key")?;
                let expected = match d.bool("whether it is there")? {
                    true => Some(d.blob("a value")?),
                    false => None,
                };
                conditions.push((key, expected));
            }
            let batch = d.bytes(d.left(), "a batch")?;
            Ok((conditions, batch))
        })();
        let (conditions, batch) = match conditions {
            Ok(read) => read,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let ops = match BatchReader::new(&batch) {
            Ok(ops) => ops,
            Err(error) => return Ok(Err(error.to_string())),
        };
        if ops.clone().count() > state.room() {
            return Ok(Err(format!("more than {OPS_MAX} operations")));
        }
        for (condition, (key, expected)) in (0u32..).zip(conditions) {
            let found = state.get(&key)?;
            if found != expected {
                let mut answer = vec![REFUSED];
                answer.extend_from_slice(&condition.to_le_bytes());
                answer.push(found.is_some().into());
                answer.extend_from_slice(&found.unwrap_or_default());
                return Ok(Ok(answer.into()));
            }
        }
        for op in ops {
            match op {
                Op::Put { key, value } => state.put(key, value),
                Op::Delete { key } => state.delete(key),
                Op::DeleteRange { start, end } => {
                    state.delete_range(start, (!end.is_empty()).then_some(end));
                }
            }
        }
        Ok(Ok(Bytes::from_static(&[WRITTEN])))
    }
}

impl Application for Batches {
    fn apply(&mut self, command: Command, state: &mut Effects<'_>) -> Result<Bytes, MachineError> {
        Ok(Batches::run(command.payload, state)?.unwrap_or_else(|why| {
            let mut answer = vec![NO_COMMAND];
            answer.extend_from_slice(why.as_bytes());
            answer.into()
        }))
    }
}
