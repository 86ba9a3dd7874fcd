//! Replies beside those of redis-server, byte for byte. Skipped with a message where it is not installed.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a skipped test says why"
)]

mod support;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::{Client, Db, seeds};

struct Redis {
    process: Child,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Redis {
    fn start() -> Option<Redis> {
        for _ in 0..5 {
            let port = std::net::TcpListener::bind("127.0.0.1:0")
                .ok()?
                .local_addr()
                .ok()?
                .port();
            let dir = tempfile::tempdir().expect("a directory");
            let process = Command::new("redis-server")
                .args([
                    "--port",
                    &port.to_string(),
                    "--save",
                    "",
                    "--appendonly",
                    "no",
                ])
                .args(["--databases", "1", "--bind", "127.0.0.1"])
                .current_dir(dir.path())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn();
            let Ok(process) = process else {
                eprintln!("skipped: redis-server is not installed");
                return None;
            };
            let redis = Redis {
                process,
                port,
                _dir: dir,
            };
            let end = Instant::now() + Duration::from_secs(10);
            while Instant::now() < end {
                if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                    return Some(redis);
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        panic!("redis-server does not start");
    }

    fn client(&self) -> RedisClient {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).expect("connects");
        stream.set_nodelay(true).expect("nodelay");
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .expect("timeout");
        RedisClient {
            stream,
            buffer: Vec::new(),
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

struct RedisClient {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl RedisClient {
    fn raw(&mut self, argv: &[&[u8]]) -> Vec<u8> {
        let mut request = format!("*{}\r\n", argv.len()).into_bytes();
        for arg in argv {
            request.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
            request.extend_from_slice(arg);
            request.extend_from_slice(b"\r\n");
        }
        self.stream.write_all(&request).expect("writes");
        loop {
            if let Some(end) = value_end(&self.buffer, 0) {
                return self.buffer.drain(..end).collect();
            }
            let mut chunk = [0; 65_536];
            let n = self.stream.read(&mut chunk).expect("reads");
            assert!(n > 0, "redis-server closed the connection");
            self.buffer.extend_from_slice(&chunk[..n]);
        }
    }
}

/// Where the value at `at` ends, if all of it is there.
fn value_end(bytes: &[u8], at: usize) -> Option<usize> {
    let line = at
        + bytes
            .get(at..)?
            .windows(2)
            .position(|pair| pair == b"\r\n")?;
    let number = || {
        std::str::from_utf8(&bytes[at + 1..line])
            .expect("text")
            .parse::<i64>()
    };
    let mut end = line + 2;
    match bytes[at] {
        b'$' | b'=' => {
            let len = number().expect("a length");
            if len >= 0 {
                end += len as usize + 2;
            }
            (end <= bytes.len()).then_some(end)
        }
        b'*' | b'~' | b'>' | b'%' => {
            let len = number().expect("a count").max(0) * if bytes[at] == b'%' { 2 } else { 1 };
            for _ in 0..len {
                end = value_end(bytes, end)?;
            }
            Some(end)
        }
        _ => Some(end),
    }
}

fn shown(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

#[track_caller]
fn compare(ours: &mut Client<'_>, redis: &mut RedisClient, argv: &[&[u8]], context: &str) {
    let expected = redis.raw(argv);
    let got = ours.raw(argv);
    let call: Vec<String> = argv.iter().map(|arg| shown(arg)).collect();
    assert_eq!(
        shown(&got),
        shown(&expected),
        "{context}: {}",
        call.join(" ")
    );
}

/// Words of a line; `""` is the empty one.
fn words(line: &str) -> Vec<Vec<u8>> {
    line.split(' ')
        .map(|word| {
            if word == "\"\"" {
                Vec::new()
            } else {
                word.replace('_', " ").into_bytes()
            }
        })
        .collect()
}

const SCRIPT: &str = include_str!("commands_redis.txt");

#[test]
fn replies_of_a_script_are_those_of_redis_in_both_protocols() {
    let Some(redis) = Redis::start() else { return };
    let mut failures = Vec::new();
    for protocol in ["2", "3"] {
        let db = Db::new();
        let mut theirs = redis.client();
        let mut ours = db.client();
        theirs.raw(&[b"HELLO", protocol.as_bytes()]);
        ours.raw(&[b"HELLO", protocol.as_bytes()]);
        theirs.raw(&[b"FLUSHALL"]);
        for (number, line) in SCRIPT.lines().enumerate() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let argv = words(line);
            let argv: Vec<&[u8]> = argv.iter().map(Vec::as_slice).collect();
            let (expected, got) = (theirs.raw(&argv), ours.raw(&argv));
            if expected != got {
                failures.push(format!(
                    "RESP{protocol} line {}: {line}\n  redis {}\n  esker {}",
                    number + 1,
                    shown(&expected),
                    shown(&got)
                ));
            }
        }
    }
    assert!(
        failures.is_empty(),
        "{} replies differ:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

fn random_word(rng: &mut StdRng) -> Vec<u8> {
    match rng.random_range(0..10) {
        0 => Vec::new(),
        1 => b"abc".to_vec(),
        2 => rng.random_range(-20..20_i64).to_string().into_bytes(),
        3 => rng.random::<i64>().to_string().into_bytes(),
        4 => format!(
            "{}.{}",
            rng.random_range(-50..50),
            rng.random_range(0..1000)
        )
        .into_bytes(),
        5 => (0..rng.random_range(1..60)).map(|_| rng.random()).collect(),
        6 => vec![b'x'; rng.random_range(1..200)],
        7 => b"01".to_vec(),
        8 => i64::MAX.to_string().into_bytes(),
        _ => rng.random_range(0..100_i64).to_string().into_bytes(),
    }
}

fn random_key(rng: &mut StdRng) -> Vec<u8> {
    let keys: [&[u8]; 9] = [
        b"a",
        b"b",
        b"c",
        b"d",
        b"key:1",
        b"key:2",
        b"",
        b"\0",
        b"\0\0clock",
    ];
    keys[rng.random_range(0..keys.len())].to_vec()
}

fn pick<'a>(rng: &mut StdRng, from: &[&'a str]) -> &'a str {
    from[rng.random_range(0..from.len())]
}

/// A command whose reply does not depend on the moment, nor on the order of keys.
fn random_command(rng: &mut StdRng) -> Vec<Vec<u8>> {
    let mut argv: Vec<Vec<u8>> = Vec::new();
    let one = [
        "get",
        "strlen",
        "incr",
        "decr",
        "getdel",
        "exists",
        "type",
        "persist",
        "del",
        "unlink",
        "touch",
        "getex",
        "pexpiretime",
        "expiretime",
        "ttl",
    ];
    match rng.random_range(0..26) {
        0..5 => {
            argv.push(pick(rng, &one).into());
            argv.push(random_key(rng));
        }
        5 | 6 => {
            argv.extend([b"SET".to_vec(), random_key(rng), random_word(rng)]);
            for _ in 0..rng.random_range(0..3) {
                match rng.random_range(0..8) {
                    0 => argv.push(b"nx".to_vec()),
                    1 => argv.push(b"XX".to_vec()),
                    2 | 3 => argv.push(b"get".to_vec()),
                    4 => argv.push(b"keepttl".to_vec()),
                    5 => argv.extend([b"exat".to_vec(), b"33177117420".to_vec()]),
                    6 => argv.extend([b"pxat".to_vec(), b"33177117420123".to_vec()]),
                    _ => argv.extend([
                        b"ex".to_vec(),
                        pick(rng, &["0", "-1", "abc", "9223372036854775807", "1.5"]).into(),
                    ]),
                }
            }
        }
        7 => argv.extend([
            pick(rng, &["append", "getset", "setnx"]).into(),
            random_key(rng),
            random_word(rng),
        ]),
        8 => argv.extend([
            pick(rng, &["incrby", "decrby", "incrbyfloat"]).into(),
            random_key(rng),
            random_word(rng),
        ]),
        9 => {
            argv.push(b"setrange".to_vec());
            argv.extend([
                random_key(rng),
                rng.random_range(-2..100).to_string().into(),
                random_word(rng),
            ]);
        }
        10 => {
            argv.push(pick(rng, &["getrange", "substr"]).into());
            argv.push(random_key(rng));
            argv.push(rng.random_range(-30..100).to_string().into());
            argv.push(rng.random_range(-30..100).to_string().into());
        }
        11 => {
            argv.push(pick(rng, &["mset", "msetnx"]).into());
            for _ in 0..rng.random_range(1..4) {
                argv.extend([random_key(rng), random_word(rng)]);
            }
            if rng.random_bool(0.1) {
                argv.push(b"x".to_vec());
            }
        }
        12 => {
            argv.push(pick(rng, &["mget", "del", "exists", "unlink", "touch"]).into());
            for _ in 0..rng.random_range(1..5) {
                argv.push(random_key(rng));
            }
        }
        13 => argv.extend([
            pick(rng, &["rename", "renamenx"]).into(),
            random_key(rng),
            random_key(rng),
        ]),
        14 => {
            argv.extend([b"copy".to_vec(), random_key(rng), random_key(rng)]);
            argv.extend(
                pick(rng, &["", "", "replace", "replace db 0", "db 1", "db", "x"])
                    .split(' ')
                    .filter(|w| !w.is_empty())
                    .map(Into::into),
            );
        }
        15 | 16 => {
            argv.push(pick(rng, &["expireat", "pexpireat"]).into());
            argv.push(random_key(rng));
            argv.push(
                pick(
                    rng,
                    &[
                        "33177117420",
                        "33177117421",
                        "33177117419999",
                        "1",
                        "-5",
                        "abc",
                        "9223372036854775807",
                    ],
                )
                .into(),
            );
            argv.extend(
                pick(
                    rng,
                    &[
                        "", "", "", "nx", "xx", "gt", "LT", "nx xx", "gt lt", "xx gt", "zz",
                        "xx lt",
                    ],
                )
                .split(' ')
                .filter(|w| !w.is_empty())
                .map(Into::into),
            );
        }
        17 => argv.extend([
            b"expire".to_vec(),
            random_key(rng),
            pick(rng, &["-1", "0", "x", "9223372036854775807"]).into(),
        ]),
        18 => {
            argv.extend([b"getex".to_vec(), random_key(rng)]);
            argv.extend(
                pick(
                    rng,
                    &[
                        "persist",
                        "exat 33177117420",
                        "pxat 1",
                        "ex 0",
                        "ex",
                        "persist ex 5",
                        "nx",
                        "pxat 33177117419999",
                    ],
                )
                .split(' ')
                .map(Into::into),
            );
        }
        19 => argv.push(b"dbsize".to_vec()),
        20 => {
            if rng.random_bool(0.15) {
                argv.push(pick(rng, &["flushall", "flushdb"]).into());
            } else {
                argv.extend([
                    b"object".to_vec(),
                    pick(rng, &["freq", "nope", "refcount"]).into(),
                    b"none".to_vec(),
                ]);
            }
        }
        21 => argv.push(b"multi".to_vec()),
        22 | 23 => argv.push(b"exec".to_vec()),
        24 => argv.push(pick(rng, &["discard", "unwatch", "exec"]).into()),
        _ => match rng.random_range(0..4) {
            0 => argv.extend([b"watch".to_vec(), random_key(rng)]),
            1 => argv.extend([random_word(rng), b"x".to_vec()]),
            2 => argv.extend([b"nosuch".to_vec(), random_word(rng), random_word(rng)]),
            _ => argv.push(pick(rng, &one).into()),
        },
    }
    argv
}

#[test]
fn replies_to_random_commands_are_those_of_redis() {
    let Some(redis) = Redis::start() else { return };
    for seed in seeds(20) {
        let mut rng = StdRng::seed_from_u64(seed);
        let db = Db::new();
        // Two clients: one's writes meet the other's watches.
        let mut pairs = [(db.client(), redis.client()), (db.client(), redis.client())];
        for (ours, theirs) in &mut pairs {
            let protocol = if rng.random_bool(0.5) { b"2" } else { b"3" };
            theirs.raw(&[b"HELLO", protocol]);
            ours.raw(&[b"HELLO", protocol]);
        }
        pairs[0].1.raw(&[b"FLUSHALL"]);
        for step in 0..400 {
            let argv = random_command(&mut rng);
            let argv: Vec<&[u8]> = argv.iter().map(Vec::as_slice).collect();
            let (ours, theirs) = &mut pairs[rng.random_range(0..2)];
            compare(
                ours,
                theirs,
                &argv,
                &format!("ESKER_SEED={seed} step {step}"),
            );
        }
    }
}
