//! The client of `cargo xtask bench raft`: the same program puts into every cluster, so many clients at once, each with one put under way.
//!
//! `cluster-load resp|resp-shared|etcd|etcd-shared ENDPOINTS CLIENTS BYTES` finds the leader, connects, says `{}`, and takes commands on its standard input:
//!
//! | command | what | answer |
//! |---|---|---|
//! | `turn MILLIS` | puts for so long | `puts`, `nanos` |
//! | `end` | | percentiles of all turns |
//!
//! Each client has a key of its own and writes it again and again; all run on one thread. With `resp` and `etcd` each client has a connection. With
//! `etcd-shared` up to 16 share one, which is how its protocol is meant (HTTP/2) and what suits it best. With `resp-shared` as many share one of
//! RESP: a put is written when it comes, with those that have come meanwhile, and replies are told in the order of the puts, as clients of Redis
//! do that multiplex (pipelining).
#![allow(clippy::print_stdout, reason = "it answers on standard output")]

use etcd_client::{Client, KvClient};
use hdrhistogram::Histogram;
use serde_json::json;
use std::io::{BufRead, Write};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Clients on one connection, where they share.
const SHARE: usize = 16;

/// One client.
enum Backend {
    /// `SET key value`.
    Resp { stream: TcpStream, request: Vec<u8> },
    /// The same, on a connection of several.
    Shared { asks: Asks, request: Vec<u8> },
    /// `Put` over gRPC.
    Etcd {
        kv: KvClient,
        key: String,
        value: Vec<u8>,
    },
}

impl Backend {
    async fn put(&mut self) -> Result<(), Failure> {
        match self {
            Backend::Resp { stream, request } => {
                stream.write_all(request).await?;
                let mut reply = [0; 256];
                let mut len = 0;
                while !reply[..len].ends_with(b"\r\n") {
                    match stream.read(&mut reply[len..]).await? {
                        0 => return Err("the server closed the connection".into()),
                        n => len += n,
                    }
                }
                match &reply[..len] {
                    b"+OK\r\n" => Ok(()),
                    other => Err(String::from_utf8_lossy(other).into()),
                }
            }
            Backend::Shared { asks, request } => {
                let (tell, told) = oneshot::channel();
                asks.send((request.clone(), tell))?;
                match told.await? {
                    true => Ok(()),
                    false => Err("a put failed".into()),
                }
            }
            Backend::Etcd { kv, key, value } => {
                kv.put(key.as_str(), value.as_slice(), None).await?;
                Ok(())
            }
        }
    }
}

/// A request, and whom to tell whether it was answered OK.
type Ask = (Vec<u8>, oneshot::Sender<bool>);
type Asks = mpsc::UnboundedSender<Ask>;

/// A connection that clients share; it ends with them, or with the server.
async fn share(endpoint: &str) -> Result<Asks, Failure> {
    let stream = TcpStream::connect(endpoint).await?;
    stream.set_nodelay(true)?;
    let (mut replies, mut requests) = stream.into_split();
    let (asks, mut asked) = mpsc::unbounded_channel::<Ask>();
    let (wait, mut waiting) = mpsc::unbounded_channel::<oneshot::Sender<bool>>();
    tokio::spawn(async move {
        let (mut some, mut bytes) = (Vec::new(), Vec::new());
        while asked.recv_many(&mut some, SHARE).await > 0 {
            bytes.clear();
            for (request, tell) in some.drain(..) {
                bytes.extend_from_slice(&request);
                if wait.send(tell).is_err() {
                    return;
                }
            }
            if requests.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
    tokio::spawn(async move {
        let (mut bytes, mut at) = (vec![0; 64 << 10], 0);
        while let Ok(n @ 1..) = replies.read(&mut bytes[at..]).await {
            at += n;
            let mut from = 0;
            while let Some(len) = bytes[from..at].iter().position(|b| *b == b'\n') {
                let Some(tell) = waiting.recv().await else {
                    return;
                };
                // Its client may have ended.
                let _ = tell.send(&bytes[from..=from + len] == b"+OK\r\n");
                from += len + 1;
            }
            bytes.copy_within(from..at, 0);
            at -= from;
        }
    });
    Ok(asks)
}

/// Bytes that don't compress, the same in every run.
fn payload(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(bytes).collect()
}

/// The leader among the endpoints.
async fn leader<'a>(kind: &str, endpoints: &'a str) -> Result<&'a str, Failure> {
    for endpoint in endpoints.split(',') {
        let leads = match kind {
            "resp" | "resp-shared" => {
                let mut stream = TcpStream::connect(endpoint).await?;
                stream.write_all(b"INFO raft\r\nQUIT\r\n").await?;
                let mut info = String::new();
                stream.read_to_string(&mut info).await?;
                info.contains("raft_role:leader")
            }
            _ => {
                let mut client = Client::connect([endpoint], None).await?;
                let status = client.status().await?;
                status
                    .header()
                    .is_some_and(|me| me.member_id() == status.leader())
            }
        };
        if leads {
            return Ok(endpoint);
        }
    }
    Err("nobody leads".into())
}

async fn connect(
    kind: &str,
    endpoints: &str,
    clients: usize,
    bytes: usize,
) -> Result<Vec<Backend>, Failure> {
    let endpoint = leader(kind, endpoints).await?;
    let value = payload(bytes);
    let mut all = Vec::with_capacity(clients);
    let mut shared: Option<Client> = None;
    let mut asks: Option<Asks> = None;
    let set = |key: &str| {
        let mut request =
            format!("*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${bytes}\r\n", key.len()).into_bytes();
        request.extend_from_slice(&value);
        request.extend_from_slice(b"\r\n");
        request
    };
    for client in 0..clients {
        let key = format!("key-{client:06}");
        all.push(match kind {
            "resp" => {
                let stream = TcpStream::connect(endpoint).await?;
                stream.set_nodelay(true)?;
                let request = set(&key);
                Backend::Resp { stream, request }
            }
            "resp-shared" => {
                if client % SHARE == 0 {
                    asks = Some(share(endpoint).await?);
                }
                let asks = asks.clone().expect("made above");
                let request = set(&key);
                Backend::Shared { asks, request }
            }
            "etcd" | "etcd-shared" => {
                if kind == "etcd" || client % SHARE == 0 {
                    shared = Some(Client::connect([endpoint], None).await?);
                }
                let kv = shared.as_ref().expect("made above").kv_client();
                Backend::Etcd {
                    kv,
                    key,
                    value: value.clone(),
                }
            }
            other => return Err(format!("no protocol is called {other:?}").into()),
        });
    }
    Ok(all)
}

/// A client's part of a turn: it comes back with what it saw.
async fn puts(mut client: Backend, until: Instant) -> Result<(Backend, Vec<u64>), Failure> {
    let mut nanos = Vec::new();
    while Instant::now() < until {
        let begun = Instant::now();
        client.put().await?;
        nanos.push(begun.elapsed().as_nanos() as u64);
    }
    Ok((client, nanos))
}

async fn turn(
    clients: &mut Vec<Backend>,
    time: Duration,
    seen: &mut Histogram<u64>,
) -> Result<serde_json::Value, Failure> {
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for client in clients.drain(..) {
        tasks.spawn(puts(client, begun + time));
    }
    let mut count = 0;
    while let Some(done) = tasks.join_next().await {
        let (client, nanos) = done??;
        clients.push(client);
        count += nanos.len();
        for one in nanos {
            seen.record(one)?;
        }
    }
    Ok(json!({ "puts": count, "nanos": begun.elapsed().as_nanos() as u64 }))
}

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().collect();
    let [_, kind, endpoints, clients, bytes] = &args[..] else {
        return Err(
            "cluster-load resp|resp-shared|etcd|etcd-shared ENDPOINTS CLIENTS BYTES".into(),
        );
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let connected = connect(kind, endpoints, clients.parse()?, bytes.parse()?);
    let mut clients = match runtime.block_on(connected) {
        Ok(clients) => clients,
        Err(error) => {
            println!("{}", json!({ "error": error.to_string() }));
            return Ok(());
        }
    };
    let mut seen = Histogram::new(3)?;
    println!("{{}}");
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let answer = match words[..] {
            ["turn", millis] => {
                let time = Duration::from_millis(millis.parse()?);
                runtime.block_on(turn(&mut clients, time, &mut seen))
            }
            ["end"] => Ok(json!({
                "p50_us": seen.value_at_percentile(50.0) as f64 / 1e3,
                "p99_us": seen.value_at_percentile(99.0) as f64 / 1e3,
                "max_us": seen.max() as f64 / 1e3,
            })),
            _ => Err(format!("can't do {line:?}").into()),
        };
        let answer = answer.unwrap_or_else(|error| json!({ "error": error.to_string() }));
        let mut out = std::io::stdout().lock();
        writeln!(out, "{answer}")?;
        out.flush()?;
    }
    Ok(())
}
