//! Drives `execute` in-process, as the event loop does.
#![allow(dead_code, reason = "each test binary uses a part")]

use esker_lsm::{Store, StoreOptions};
use esker_server::engine::Engine;
use esker_server::engine::clock::{ManualTimeSource, SystemTimeSource, TimeSource};
use esker_server::{
    Ack, ClientInfo, Ctx, Flow, Reply, RoleView, ServerControl, Session, WriteRefusal, commands,
};
use esker_wal::media::{Media, sim::SimMedia};
use esker_wal::{Create, LogId, Lsn, NodeId};
use std::path::Path;
use std::sync::{Arc, Mutex};

/// A server around the commands that says what a test tells it to.
#[derive(Default)]
pub(crate) struct Server {
    pub(crate) refusal: Mutex<Option<WriteRefusal>>,
    pub(crate) read_at: Mutex<Option<Lsn>>,
    pub(crate) replica: bool,
    pub(crate) acl: esker_server::Acl,
}

impl ServerControl for Server {
    fn write_gate(&self) -> Result<(), WriteRefusal> {
        match &*self.refusal.lock().expect("not poisoned") {
            Some(refusal) => Err(refusal.clone()),
            None => Ok(()),
        }
    }
    fn read_at(&self) -> Option<Lsn> {
        *self.read_at.lock().expect("not poisoned")
    }
    fn role(&self) -> RoleView {
        RoleView::Primary {
            offset: Lsn(0),
            replicas: Vec::new(),
        }
    }
    fn is_replica(&self) -> bool {
        self.replica
    }
    fn replicas_at(&self, _: Ack, _: Lsn) -> usize {
        0
    }
    fn synced(&self) -> Lsn {
        Lsn::MAX
    }
    fn info(&self, _: &[&[u8]]) -> String {
        "# Server\r\n".into()
    }
    fn clients(&self) -> Vec<ClientInfo> {
        vec![
            ClientInfo {
                line: "id=1 name=".into(),
            },
            ClientInfo {
                line: "id=2 name=b".into(),
            },
        ]
    }
    fn client_line(&self, session: &Session) -> String {
        format!("id={}", session.id)
    }
    fn config_get(&self, _: &[&[u8]]) -> Vec<(String, String)> {
        vec![("maxmemory".into(), "0".into())]
    }
    fn config_set(&self, _: &[(&[u8], &[u8])]) -> Result<(), String> {
        Ok(())
    }
    fn reset_stats(&self) {}
    fn acl(&self) -> &esker_server::Acl {
        &self.acl
    }
    fn run_id(&self) -> &str {
        "0000000000000000000000000000000000000000"
    }
}

/// A store in memory, and an engine on it.
pub(crate) struct Db {
    pub(crate) engine: Engine,
    pub(crate) server: Server,
    pub(crate) time: Option<Arc<ManualTimeSource>>,
    media: Arc<dyn Media>,
}

impl Db {
    /// On the machine's clock.
    pub(crate) fn new() -> Db {
        Db::with(Arc::new(SimMedia::new(0)), true, None)
    }
    /// On a clock that the test moves.
    pub(crate) fn timed(wall_millis: i64) -> Db {
        let time = Arc::new(ManualTimeSource::at(wall_millis));
        Db::with(Arc::new(SimMedia::new(0)), true, Some(time))
    }
    fn with(media: Arc<dyn Media>, writer: bool, time: Option<Arc<ManualTimeSource>>) -> Db {
        let mut options = StoreOptions::default();
        options.log.create = Some(Create {
            log: LogId::random(),
            node: NodeId::random(),
            base: Lsn(0),
        });
        options.log.media = Arc::clone(&media);
        options.log.segment_bytes = 8 << 20;
        options.log.payload_bytes_max = 8 << 20;
        options.log.sync_policy = esker_wal::SyncPolicy::Manual;
        let (store, _) = Store::open(Path::new("/db"), options).expect("opens");
        let source: Arc<dyn TimeSource> = match &time {
            Some(time) => time.clone(),
            None => Arc::new(SystemTimeSource::default()),
        };
        Db {
            engine: Engine::stepped(store, writer, source),
            server: Server::default(),
            time,
            media,
        }
    }
    /// Closes it and opens it again on the clock `time`.
    pub(crate) fn reopen(self, time: Option<Arc<ManualTimeSource>>) -> Db {
        let media = Arc::clone(&self.media);
        drop(self);
        Db::with(media, true, time)
    }
    /// A client.
    pub(crate) fn client(&self) -> Client<'_> {
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
        let id = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let addr = "127.0.0.1:1".parse().expect("an address");
        Client {
            db: self,
            session: Session::new(id, addr, addr),
            flow: Flow::Done,
        }
    }
}

impl Drop for Db {
    fn drop(&mut self) {
        self.engine.close();
        let _ = self.engine.store().close();
    }
}

/// A client of a [`Db`].
pub(crate) struct Client<'a> {
    pub(crate) db: &'a Db,
    pub(crate) session: Session,
    pub(crate) flow: Flow,
}

impl Client<'_> {
    /// Runs one command; the encoded reply.
    pub(crate) fn raw(&mut self, argv: &[&[u8]]) -> Vec<u8> {
        loop {
            let mut out = Reply::new(self.session.protocol);
            self.session.touched = Lsn::ZERO;
            self.session.wrote = false;
            let mut ctx = Ctx {
                session: &mut self.session,
                engine: Some(&self.db.engine),
                server: &self.db.server,
            };
            self.flow = commands::execute(&mut ctx, argv, &mut out);
            if matches!(self.flow, Flow::NeedRoom) {
                std::thread::sleep(std::time::Duration::from_millis(1));
                continue;
            }
            return out.as_bytes().to_vec();
        }
    }
    /// Runs a command line of words; the encoded reply as text.
    pub(crate) fn run(&mut self, line: &str) -> String {
        let argv: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        String::from_utf8_lossy(&self.raw(&argv)).into_owned()
    }
    /// Asserts a reply; `~` stands for a line's end.
    #[track_caller]
    pub(crate) fn says(&mut self, line: &str, reply: &str) {
        assert_eq!(
            self.run(line).replace("\r\n", "~"),
            format!("{reply}~"),
            "{line}"
        );
    }
}

impl Drop for Client<'_> {
    fn drop(&mut self) {
        commands::disconnected(&mut Ctx {
            session: &mut self.session,
            engine: Some(&self.db.engine),
            server: &self.db.server,
        });
    }
}

/// Seeds to run: `ESKER_SEED` alone, else `default` (or `ESKER_SEEDS`) of them.
pub(crate) fn seeds(default: u64) -> Vec<u64> {
    let number = |name| {
        std::env::var(name)
            .ok()
            .and_then(|text: String| text.parse().ok())
    };
    match number("ESKER_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("ESKER_SEEDS").unwrap_or(default)).collect(),
    }
}
