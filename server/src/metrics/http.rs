//! The responder: `/metrics`, `/healthz` and `/readyz` of a [`Source`].
//!
//! A loop of our own over `httparse`: one thread, one request per connection, bounded in bytes and time. A general HTTP server would bring
//! threads that can't be named and joined (E1), for three pages.

use mio::net::TcpListener;
use mio::{Events, Interest, Poll, Token, Waker};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::Registry;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Whom it answers about.
pub(crate) trait Source: Send + Sync + 'static {
    /// The numbers, as they are now.
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error>;

    /// Why it does not work any more.
    fn failure(&self) -> Option<String>;

    /// Whether clients should be sent here; else why not.
    fn readiness(&self) -> Result<(), String>;
}

const LISTENER: Token = Token(0);
const STOP: Token = Token(1);
const REQUEST_BYTES_MAX: usize = 8 << 10;
/// One client is served at a time, so none may take long.
const CLIENT_TIME_MAX: Duration = Duration::from_secs(1);

/// A running responder. Dropped, it closes.
#[derive(Debug)]
pub struct Metrics {
    addr: SocketAddr,
    stop: Arc<AtomicBool>,
    waker: Arc<Waker>,
    thread: Option<JoinHandle<()>>,
}

impl Metrics {
    /// Answers on `listener` about `source`.
    pub(crate) fn serve(
        listener: std::net::TcpListener,
        source: Arc<dyn Source>,
    ) -> io::Result<Metrics> {
        let addr = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let mut listener = TcpListener::from_std(listener);
        let poll = Poll::new()?;
        poll.registry()
            .register(&mut listener, LISTENER, Interest::READABLE)?;
        let waker = Arc::new(Waker::new(poll.registry(), STOP)?);
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::Builder::new()
            .name("esker-metrics".into())
            .spawn({
                let stop = Arc::clone(&stop);
                move || serve(poll, &listener, &stop, &source)
            })?;
        Ok(Metrics {
            addr,
            stop,
            waker,
            thread: Some(thread),
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Ends it and joins its thread.
    pub fn close(&mut self) {
        let Some(thread) = self.thread.take() else {
            return;
        };
        self.stop.store(true, Ordering::Release);
        // It fails only when the eventfd is gone, and with it the thread.
        let _ = self.waker.wake();
        if thread.join().is_err() {
            tracing::error!("the metrics thread panicked; see above");
        }
    }
}

impl Drop for Metrics {
    fn drop(&mut self) {
        self.close();
    }
}

fn serve(mut poll: Poll, listener: &TcpListener, stop: &AtomicBool, source: &Arc<dyn Source>) {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Numbers(Arc::clone(source))));
    let mut events = Events::with_capacity(8);
    while !stop.load(Ordering::Acquire) {
        match poll.poll(&mut events, None) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                tracing::error!(%error, "metrics are not served any more");
                return;
            }
        }
        while !stop.load(Ordering::Acquire) {
            match listener.accept() {
                // What a client does wrong is its own loss.
                Ok((stream, _)) => drop(answer(stream.into(), &**source, &registry)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }
}

fn answer(
    mut stream: std::net::TcpStream,
    source: &dyn Source,
    registry: &Registry,
) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    let deadline = Instant::now() + CLIENT_TIME_MAX;
    let left = || {
        deadline
            .checked_duration_since(Instant::now())
            .filter(|left| !left.is_zero())
            .ok_or(io::ErrorKind::TimedOut)
    };
    let mut request = Vec::new();
    let mut piece = [0; 1024];
    let path = loop {
        stream.set_read_timeout(Some(left()?))?;
        let n = stream.read(&mut piece)?;
        if n == 0 {
            return Ok(());
        }
        request.extend_from_slice(&piece[..n]);
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut parsed = httparse::Request::new(&mut headers);
        match parsed.parse(&request) {
            Ok(httparse::Status::Complete(_)) => {
                if !matches!(parsed.method, Some("GET" | "HEAD")) {
                    break None;
                }
                let path = parsed.path.unwrap_or("/");
                break Some(path.split('?').next().unwrap_or(path).to_owned());
            }
            Ok(httparse::Status::Partial) if request.len() < REQUEST_BYTES_MAX => {}
            _ => break None,
        }
    };
    let (status, kind, body) = page(path.as_deref(), source, registry);
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.set_write_timeout(Some(left()?))?;
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())
}

const TEXT: &str = "text/plain; charset=utf-8";

fn page(
    path: Option<&str>,
    source: &dyn Source,
    registry: &Registry,
) -> (&'static str, &'static str, String) {
    match path {
        Some("/metrics") => {
            let mut body = String::new();
            match prometheus_client::encoding::text::encode(&mut body, registry) {
                Ok(()) => (
                    "200 OK",
                    "application/openmetrics-text; version=1.0.0; charset=utf-8",
                    body,
                ),
                Err(error) => ("500 Internal Server Error", TEXT, format!("{error}\n")),
            }
        }
        Some("/healthz") => match source.failure() {
            None => ("200 OK", TEXT, "ok\n".into()),
            Some(why) => ("503 Service Unavailable", TEXT, format!("{why}\n")),
        },
        Some("/readyz") => match source.readiness() {
            Ok(()) => ("200 OK", TEXT, "ready\n".into()),
            Err(why) => ("503 Service Unavailable", TEXT, format!("{why}\n")),
        },
        Some("/") => (
            "200 OK",
            TEXT,
            "Esker: /metrics, /healthz, /readyz\n".into(),
        ),
        Some(_) => (
            "404 Not Found",
            TEXT,
            "try /metrics, /healthz or /readyz\n".into(),
        ),
        None => (
            "400 Bad Request",
            TEXT,
            "GET one of /metrics, /healthz, /readyz\n".into(),
        ),
    }
}

/// Reads the numbers when they are asked for.
struct Numbers(Arc<dyn Source>);

impl fmt::Debug for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Numbers")
    }
}

impl Collector for Numbers {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        self.0.encode(encoder)
    }
}
