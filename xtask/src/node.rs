//! A server process under the harness: started on ports of its own, asked, killed, restarted.

use crate::resp::{Client, Reply};
use crate::{Outcome, ctx, root, target_dir};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File, OpenOptions};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long a start may take, recovery included.
pub const START_MAX: Duration = Duration::from_secs(60);
/// How long a command may take before the harness calls the server stuck.
pub const REPLY_MAX: Duration = Duration::from_secs(20);

/// Where the binaries are.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// `primary`.
    pub primary: PathBuf,
    /// `replica`.
    pub replica: PathBuf,
}

/// Which binaries a command runs.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct BinaryOptions {
    /// Directory that holds `primary` and `replica`. Without it they are built.
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
    /// Build without optimisation (quicker to build; what CI uses).
    #[arg(long)]
    dev: bool,
}

impl BinaryOptions {
    /// Unoptimised binaries, built when asked for.
    pub fn dev() -> Self {
        BinaryOptions {
            bin_dir: None,
            dev: true,
        }
    }

    /// Finds the binaries, building them where no directory was given.
    pub fn find(&self) -> Outcome<Binaries> {
        if let Some(dir) = &self.bin_dir {
            return Binaries::within(dir);
        }
        let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        build
            .args(["build", "--quiet", "--package", "esker-server", "--bins"])
            .current_dir(root());
        if !self.dev {
            build.arg("--release");
        }
        let status = ctx(build.status(), "cargo build")?;
        if !status.success() {
            return Err(format!("cargo build of the binaries: {status}"));
        }
        Binaries::within(&target_dir().join(if self.dev { "debug" } else { "release" }))
    }
}

impl Binaries {
    /// Both binaries in `dir`.
    pub fn within(dir: &Path) -> Outcome<Binaries> {
        let found = Binaries {
            primary: dir.join("primary"),
            replica: dir.join("replica"),
        };
        for path in [&found.primary, &found.replica] {
            if !path.exists() {
                return Err(format!(
                    "{} is missing; build it with `cargo build -p esker-server`",
                    path.display()
                ));
            }
        }
        Ok(found)
    }
}

/// A free port on loopback, below the range from which the kernel takes ports for outgoing connections: a server
/// that is killed and restarted finds its port free again.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 20_000
            + (std::process::id()
                .wrapping_mul(131)
                .wrapping_add(step.wrapping_mul(7))
                % 12_000);
        let port = u16::try_from(port).expect("below 32,000");
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// How to start a node; the same for each restart.
#[derive(Clone, Debug)]
pub struct Setup {
    /// `primary` or `replica`, for messages.
    pub name: String,
    /// The binary.
    pub binary: PathBuf,
    /// Its data directory.
    pub dir: PathBuf,
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Where replicas connect (primary), or the primary's endpoint (replica).
    pub replication: String,
    /// Prometheus metrics.
    pub metrics: SocketAddr,
    /// Standard output and error of every start, one after the other.
    pub output: PathBuf,
    /// Further flags.
    pub flags: Vec<String>,
    /// Put before the binary, as `chrt -r 1`.
    pub prefix: Vec<String>,
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

impl Setup {
    /// A primary with its data in `dir`; its output goes to `output`.
    pub fn primary(binaries: &Binaries, dir: &Path, output: &Path) -> Setup {
        Setup {
            name: "primary".into(),
            binary: binaries.primary.clone(),
            dir: dir.to_path_buf(),
            listen: loopback(free_port()),
            replication: format!("tcp://127.0.0.1:{}", free_port()),
            metrics: loopback(free_port()),
            output: output.to_path_buf(),
            flags: Vec::new(),
            prefix: Vec::new(),
        }
    }

    /// A replica of the primary `of`.
    pub fn replica(binaries: &Binaries, dir: &Path, output: &Path, of: &Setup) -> Setup {
        Setup {
            name: "replica".into(),
            binary: binaries.replica.clone(),
            listen: loopback(free_port()),
            metrics: loopback(free_port()),
            replication: of.replication.clone(),
            ..Setup::primary(binaries, dir, output)
        }
    }

    /// Adds flags.
    pub fn with(mut self, flags: &[&str]) -> Setup {
        self.flags
            .extend(flags.iter().map(|flag| (*flag).to_owned()));
        self
    }

    /// The command line.
    pub fn command(&self) -> Command {
        let mut words = self.prefix.clone();
        words.push(self.binary.to_string_lossy().into_owned());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        command.arg("--data-dir").arg(&self.dir);
        command.args(["--listen", &self.listen.to_string()]);
        command.args(["--metrics-listen", &self.metrics.to_string()]);
        let replication = if self.name == "replica" {
            "--primary"
        } else {
            "--replication-listen"
        };
        command.args([replication, &self.replication]);
        command.args(&self.flags);
        command.stdin(Stdio::null());
        command
    }

    /// Starts it without waiting.
    pub fn spawn(&self) -> Outcome<Node> {
        let output = ctx(
            OpenOptions::new()
                .create(true)
                .append(true)
                .open(&self.output),
            self.output.display(),
        )?;
        let errors = ctx(output.try_clone(), "output file")?;
        let child = self.command().stdout(output).stderr(errors).spawn();
        Ok(Node {
            child: ctx(child, self.binary.display())?,
            setup: self.clone(),
            done: None,
        })
    }

    /// Starts it and waits until it answers.
    pub fn start(&self) -> Outcome<Node> {
        let mut node = self.spawn()?;
        node.wait_ready(START_MAX)?;
        Ok(node)
    }
}

/// A running node; dropped, it is killed.
#[derive(Debug)]
pub struct Node {
    child: Child,
    setup: Setup,
    done: Option<ExitStatus>,
}

impl Node {
    /// How it was started.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it answers PING; an exit before that is an error with what it printed.
    pub fn wait_ready(&mut self, max: Duration) -> Outcome {
        let began = Instant::now();
        loop {
            if let Some(status) = self.exited()? {
                return Err(format!(
                    "{} ended at its start: {status}\n{}",
                    self.setup.name,
                    self.tail()
                ));
            }
            if let Ok(mut client) = Client::connect(self.setup.listen, Duration::from_secs(2))
                && let Ok(Reply::Simple(pong)) = client.line("PING")
                && pong == "PONG"
            {
                return Ok(());
            }
            if began.elapsed() > max {
                return Err(format!(
                    "{} does not answer after {max:?}\n{}",
                    self.setup.name,
                    self.tail()
                ));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whether it has ended.
    pub fn exited(&mut self) -> Outcome<Option<ExitStatus>> {
        if self.done.is_none() {
            self.done = ctx(self.child.try_wait(), "wait")?;
        }
        Ok(self.done)
    }

    /// The end of what it printed.
    pub fn tail(&self) -> String {
        let text = fs::read(&self.setup.output).unwrap_or_default();
        let text = String::from_utf8_lossy(&text[text.len().saturating_sub(4000)..]).into_owned();
        format!("--- {}:\n{text}", self.setup.output.display())
    }

    /// A connection to it.
    pub fn client(&self) -> Outcome<Client> {
        ctx(
            Client::connect(self.setup.listen, REPLY_MAX),
            format_args!("connecting to the {}", self.setup.name),
        )
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Outcome {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| "a process id out of range".to_owned())?;
        ctx(kill_process(pid, signal), "kill")
    }

    /// `kill -9`, and waits for the end.
    pub fn kill(&mut self) -> Outcome {
        if self.exited()?.is_none() {
            ctx(self.child.kill(), "kill -9")?;
            self.done = Some(ctx(self.child.wait(), "wait")?);
        }
        Ok(())
    }

    /// SIGTERM, and waits at most `max` for the end.
    pub fn terminate(&mut self, max: Duration) -> Outcome<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait_exit(max)
    }

    /// Waits at most `max` for the end.
    pub fn wait_exit(&mut self, max: Duration) -> Outcome<ExitStatus> {
        let began = Instant::now();
        loop {
            if let Some(status) = self.exited()? {
                return Ok(status);
            }
            if began.elapsed() > max {
                return Err(format!(
                    "{} still runs after {max:?}\n{}",
                    self.setup.name,
                    self.tail()
                ));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// A field of INFO.
    pub fn info(&self, field: &str) -> Outcome<Option<String>> {
        let reply = ctx(self.client()?.line("INFO everything"), "INFO")?;
        Ok(info_field(&reply.text(), field))
    }

    /// Kibibytes of a line such as `VmRSS` in `/proc/PID/status`.
    pub fn status_kib(&self, line: &str) -> Outcome<u64> {
        let path = format!("/proc/{}/status", self.pid());
        let text = ctx(fs::read_to_string(&path), &path)?;
        text.lines()
            .find_map(|row| {
                row.strip_prefix(line)?
                    .strip_prefix(':')?
                    .trim()
                    .strip_suffix(" kB")?
                    .parse()
                    .ok()
            })
            .ok_or_else(|| format!("{path} has no {line}"))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // A failed kill means it has ended.
        let _ = self.kill();
    }
}

/// A field of an INFO reply.
pub fn info_field(info: &str, field: &str) -> Option<String> {
    info.lines().find_map(|line| {
        Some(
            line.strip_prefix(field)?
                .strip_prefix(':')?
                .trim()
                .to_owned(),
        )
    })
}

/// A directory for one run, removed at its end unless the run failed.
#[derive(Debug)]
pub struct Workspace {
    dir: Option<tempfile::TempDir>,
}

impl Workspace {
    /// Makes one in the target directory: a real file system, where `/tmp` may be memory.
    pub fn new(name: &str) -> Outcome<Workspace> {
        let parent = target_dir().join("harness");
        ctx(fs::create_dir_all(&parent), parent.display())?;
        let dir = tempfile::Builder::new()
            .prefix(&format!("{name}-"))
            .tempdir_in(&parent);
        Ok(Workspace {
            dir: Some(ctx(dir, parent.display())?),
        })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        self.dir.as_ref().expect("kept until the end").path()
    }

    /// Removes it after success; keeps it, and says where, after a failure.
    pub fn finish<T>(mut self, outcome: Outcome<T>) -> Outcome<T> {
        let dir = self.dir.take().expect("finished once");
        match outcome {
            Ok(value) => Ok(value),
            Err(error) => Err(format!(
                "{error}\n(kept for a look: {})",
                dir.keep().display()
            )),
        }
    }
}

/// Opens a log file for a child's output.
pub fn output_file(path: &Path) -> Outcome<File> {
    ctx(File::create(path), path.display())
}
