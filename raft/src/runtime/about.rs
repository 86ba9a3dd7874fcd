//! What a membership says of a member: where it is, and whose disk it has.
//!
//! ```text
//! version u8 (1), disk u64 (0: not known yet), address for members: length u32 and text, address for clients: the same
//! ```

use crate::codec::{Decoder, Malformed, put_blob};
use bytes::Bytes;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    /// Identity of its disk; 0 until the leader has heard from it. Packets of the same node with another disk are dropped: it was wiped, and
    /// does not know any more what it promised (C2).
    pub disk: u64,
    /// Where members reach it.
    pub address: String,
    /// Where clients reach it: what a redirect names.
    pub client: String,
}

impl About {
    /// Of a member that was not heard from yet.
    #[must_use]
    pub fn at(address: &str, client: &str) -> About {
        About {
            disk: 0,
            address: address.to_owned(),
            client: client.to_owned(),
        }
    }

    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = vec![1];
        out.extend_from_slice(&self.disk.to_le_bytes());
        put_blob(&mut out, self.address.as_bytes());
        put_blob(&mut out, self.client.as_bytes());
        out.into()
    }

    /// From its bytes.
    pub fn decode(bytes: &Bytes) -> Result<About, Malformed> {
        let mut d = Decoder::new(bytes.clone());
        if d.u8("a version")? != 1 {
            return Err(d.malformed("version 1 of what is known of a member"));
        }
        let disk = d.u64("a disk")?;
        let mut text = || {
            let bytes = d.blob("an address")?;
            String::from_utf8(bytes.to_vec()).map_err(|_| d.malformed("an address"))
        };
        let about = About {
            disk,
            address: text()?,
            client: text()?,
        };
        d.end()?;
        Ok(about)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// E2.
    #[test]
    fn what_is_known_of_a_member_survives_and_damage_is_refused() {
        let mut about = About::at("tcp://127.0.0.1:5571", "127.0.0.1:6391");
        about.disk = 7;
        let bytes = about.encode();
        assert_eq!(About::decode(&bytes), Ok(about));
        for len in 0..bytes.len() {
            assert!(About::decode(&bytes.slice(..len)).is_err());
        }
    }
}
