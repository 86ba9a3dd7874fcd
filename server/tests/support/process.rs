//! Programs as processes, and a client that speaks to them.
#![allow(dead_code, reason = "each test binary uses a part")]

use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

/// Generous: CI machines are busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Below the range of outgoing connections, so that it stays free between two starts. Test binaries run one after the other, and each process has a
/// place of its own to begin.
pub(crate) fn free_port() -> u16 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 10_000 + (std::process::id().wrapping_mul(97).wrapping_add(step) % 19_000);
        let port = u16::try_from(port).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut get: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = get() {
            return value;
        }
        assert!(Instant::now() < end, "{what} did not come about");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A program that is killed with its test.
pub(crate) struct Program {
    pub(crate) child: Child,
    pub(crate) port: u16,
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Program {
    /// Once it serves clients at `port`.
    pub(crate) fn serving(child: Child, port: u16) -> Program {
        let mut program = Program { child, port };
        eventually("a start", || {
            assert!(program.child.try_wait().unwrap().is_none(), "it ended");
            Client::connect(port)
        });
        program
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        eventually("an end", || self.child.try_wait().unwrap())
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.port).unwrap()
    }
}

/// Speaks RESP2, and of RESP3 what a map is.
pub(crate) struct Client(pub(crate) BufReader<TcpStream>);

impl Client {
    pub(crate) fn connect(port: u16) -> Option<Client> {
        let stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Some(Client(BufReader::new(stream)))
    }

    /// What the server sees as its address.
    pub(crate) fn address(&self) -> String {
        self.0.get_ref().local_addr().unwrap().to_string()
    }

    /// A command as a person types it.
    pub(crate) fn send(&mut self, line: &str) {
        let line = format!("{line}\r\n");
        self.0.get_mut().write_all(line.as_bytes()).unwrap();
    }

    pub(crate) fn send_words(&mut self, words: &[&str]) {
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request += &format!("${}\r\n{word}\r\n", word.len());
        }
        self.0.get_mut().write_all(request.as_bytes()).unwrap();
    }

    /// One reply: a string without its header, `nil`, the elements of an array one per line, anything else as it came.
    pub(crate) fn reply(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        assert!(line.ends_with("\r\n"), "the connection ended: {line:?}");
        let line = line.trim_end();
        match line.split_at(1) {
            ("$" | "*", "-1") => "nil".into(),
            ("$", len) => {
                let mut bytes = vec![0; len.parse::<usize>().unwrap() + 2];
                self.0.read_exact(&mut bytes).unwrap();
                bytes.truncate(bytes.len() - 2);
                String::from_utf8(bytes).unwrap()
            }
            (kind @ ("*" | "%"), len) => {
                let each = if kind == "%" { 2 } else { 1 };
                let len = each * len.parse::<usize>().unwrap();
                let parts: Vec<String> = (0..len).map(|_| self.reply()).collect();
                parts.join("\n")
            }
            _ => line.to_owned(),
        }
    }

    pub(crate) fn ask(&mut self, line: &str) -> String {
        self.send(line);
        self.reply()
    }

    pub(crate) fn ask_words(&mut self, words: &[&str]) -> String {
        self.send_words(words);
        self.reply()
    }

    /// Queues these in a transaction; the reply to its end.
    #[track_caller]
    pub(crate) fn exec(&mut self, lines: &[&str]) -> String {
        assert_eq!(self.ask("MULTI"), "+OK");
        for line in lines {
            let words: Vec<&str> = line.split(' ').collect();
            assert_eq!(self.ask_words(&words), "+QUEUED", "{line:.100}");
        }
        self.ask("EXEC")
    }

    /// Asks until the reply is that one.
    #[track_caller]
    pub(crate) fn until(&mut self, line: &str, expected: &str) {
        let mut last = String::new();
        let end = Instant::now() + PATIENCE;
        while last != expected {
            assert!(Instant::now() < end, "{line}: {last}, not {expected}");
            last = self.ask(line);
        }
    }
}
