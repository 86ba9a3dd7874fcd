//! One client's state, and what a command sees when it runs.

use crate::acl::Login;
use crate::control::ServerControl;
use crate::engine::Engine;
use crate::resp::Protocol;
use esker_wal::Lsn;
use std::net::SocketAddr;
use std::time::Instant;

/// What is remembered of a client between its commands.
///
/// The event loop owns it. Before a command it sets `touched` to zero and `wrote` to false; afterwards it
/// holds the reply until the safe position has reached `touched`.
#[derive(Debug)]
pub struct Session {
    /// `CLIENT ID`: grows with each connection, never reused in a process.
    pub id: u64,
    /// Its address.
    pub addr: SocketAddr,
    /// `addr` as text: it stands in every record of the audit.
    pub(crate) addr_text: String,
    /// The address it connected to.
    pub local_addr: SocketAddr,
    /// When it connected.
    pub connected_at: Instant,
    /// `CLIENT SETNAME`; empty is none.
    pub name: Vec<u8>,
    /// `CLIENT SETINFO LIB-NAME`.
    pub lib_name: Vec<u8>,
    /// `CLIENT SETINFO LIB-VER`.
    pub lib_ver: Vec<u8>,
    /// Who it is: `AUTH` and `HELLO` set it.
    pub login: Login,
    /// What it speaks; `HELLO` sets this and `Reply::set_protocol`.
    pub protocol: Protocol,
    /// `CLIENT NO-EVICT`. Kept and shown, nothing else.
    pub no_evict: bool,
    /// `CLIENT NO-TOUCH`. Kept and shown, nothing else.
    pub no_touch: bool,
    /// Name of the command run last, for `CLIENT LIST`.
    pub last_command: &'static str,
    /// MULTI queue and WATCHes; belongs to the commands.
    pub tx: crate::commands::Tx,
    /// End of the last frame this client wrote: what WAIT and WAITAOF ask about.
    pub last_write: Lsn,
    /// This command: the position that must be safe before its reply leaves. The greatest of the `end` of
    /// what it wrote and SeqNo + 1 of what it read (tombstones behind misses included).
    pub touched: Lsn,
    /// This command: whether it appended anything. Decides the error when its reply is held in vain.
    pub wrote: bool,
}

impl Session {
    /// A fresh one, of somebody who may run everything; a server with an ACL file sets `login`.
    #[must_use]
    pub fn new(id: u64, addr: SocketAddr, local_addr: SocketAddr) -> Self {
        Session {
            id,
            addr,
            addr_text: addr.to_string(),
            local_addr,
            connected_at: Instant::now(),
            name: Vec::new(),
            lib_name: Vec::new(),
            lib_ver: Vec::new(),
            login: Login::default(),
            protocol: Protocol::Resp2,
            no_evict: false,
            no_touch: false,
            last_command: "",
            tx: crate::commands::Tx::default(),
            last_write: Lsn::ZERO,
            touched: Lsn::ZERO,
            wrote: false,
        }
    }

    /// Notes that this command read a version (or the tombstone behind a miss).
    pub fn read(&mut self, seqno: esker_lsm::SeqNo) {
        // Zero is "nothing was ever there", which is always safe to say.
        if seqno.0 > 0 {
            self.touched = self.touched.max(Lsn(seqno.0 + 1));
        }
    }

    /// Notes that this command wrote a frame that ends at `end`.
    pub fn wrote(&mut self, end: Lsn) {
        self.touched = self.touched.max(end);
        self.last_write = self.last_write.max(end);
        self.wrote = true;
    }
}

/// What a command runs with: the client's session, the store, the server.
pub struct Ctx<'a> {
    /// The client.
    pub session: &'a mut Session,
    /// The store; `None` on a replica that has not met its primary yet: commands that need it answer
    /// [`LOADING`].
    pub engine: Option<&'a Engine>,
    /// The server around it.
    pub server: &'a dyn ServerControl,
}

/// The answer of a replica that has no store yet.
pub const LOADING: &str = "LOADING Esker is waiting for the first handshake with its primary; try again once it is connected";
