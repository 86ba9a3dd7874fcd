//! Where members are heard: over ZeroMQ with CURVE where there are keys; where there are none, over plain TCP or ZeroMQ.

use esker_raft::runtime::StartError;
use esker_raft::transport::tcp::{PlainListener, TcpOptions};
use esker_raft::transport::zmq::{Keys, ZmqListener, ZmqOptions};
use esker_raft::transport::{Inbound, Sender, Transport};
use std::sync::Arc;

/// Longest message between members: an entry, or a reply that carries what one batch wrote.
const MESSAGE_MAX: usize = 80 << 20;

/// How members without keys speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum MembersOver {
    /// Plain TCP: fewer threads are woken between two nodes.
    #[default]
    Tcp,
    /// ZeroMQ, as with keys.
    Zmq,
}

/// The port is taken.
pub(super) enum MembersPort {
    Plain(PlainListener),
    Zmq(ZmqListener),
}

impl MembersPort {
    pub(super) fn bind(
        listen: &str,
        keys: Option<Keys>,
        over: MembersOver,
        allow_remote_plaintext: bool,
    ) -> Result<MembersPort, StartError> {
        Ok(match (keys, over) {
            (None, MembersOver::Tcp) => {
                let mut options = TcpOptions::new(listen);
                options.allow_remote_plaintext = allow_remote_plaintext;
                options.message_bytes_max = MESSAGE_MAX;
                MembersPort::Plain(PlainListener::bind(options)?)
            }
            (keys, _) => {
                let mut options = ZmqOptions::new(listen);
                options.keys = keys;
                options.allow_remote_plaintext = allow_remote_plaintext;
                options.message_bytes_max = MESSAGE_MAX;
                MembersPort::Zmq(ZmqListener::bind(options)?)
            }
        })
    }

    pub(super) fn endpoint(&self) -> &str {
        match self {
            MembersPort::Plain(port) => port.endpoint(),
            MembersPort::Zmq(port) => port.endpoint(),
        }
    }

    pub(super) fn start(
        self,
        me: Sender,
        inbound: Inbound,
    ) -> Result<Arc<dyn Transport>, StartError> {
        Ok(match self {
            MembersPort::Plain(port) => port.start(me, inbound)?,
            MembersPort::Zmq(port) => port.start(me, inbound)?,
        })
    }
}
