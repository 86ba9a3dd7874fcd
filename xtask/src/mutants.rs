//! `cargo xtask mutants`: the log's safety-relevant files, changed one operator or body at a time; a test must fail for each.
//!
//! cargo-mutants says what to change (`.cargo/mutants.toml` says where). It would build the crate and its tests once for each,
//! which takes hours; here all of them are built at once:
//!
//! - M1: in a copy of the tree each function becomes a choice among its mutants and itself, by a number that the process
//!   takes from its environment when it starts. So a mutant costs the time of its tests and no build.
//! - M2: what cannot be chosen at run time stands *apart* and is built and run by itself: constants, `const fn`, and
//!   whatever the compiler complains of. Only there a mutant is found not to compile.
//! - M3: tests run in the order of what they take unchanged, until one fails. One that takes far longer than unchanged, or more
//!   memory than `MEMORY_KIB`, fails.
//! - M4: a mutant that survives must stand in wal/README.md, "Mutants": its function in the first column, its change (as
//!   `` `<` to `<=` ``, `` without `!` `` or `` body to `0` ``) or *any* in the second. Where it does not, the command fails; where all
//!   are tried, it fails for a row without a survivor as well.
//!
//! `target/mutants/outcomes-*.txt` has what became of each, and the test that failed.

use crate::{Outcome, ctx, root, target_dir};
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs};

const PACKAGE: &str = "esker-wal";
const LIBRARY: &str = "wal/src/lib.rs";
const CHOICE: &str = "ESKER_MUTANT";
/// Seeds of the randomised tests, unless `ESKER_SEEDS` says otherwise.
const SEEDS: &str = "60";
/// What reads documents or needs another build; and what takes long to find what others find too.
const NOT_RUN: [&str; 9] = [
    "broken_builds",
    "damage",
    "durable_queue",
    "event_store",
    "failing_calls",
    "real_faults",
    "reservations",
    "rewind",
    "threads_cut",
];
/// A test hangs that takes so many times the processor as unchanged, and this besides; or that waits for so long in all.
const HANGS_AFTER: (u32, Duration) = (10, Duration::from_secs(4));
const WAITS_FOR: Duration = Duration::from_secs(120);
/// Address space of a test: a mutant may allocate without end.
const MEMORY_KIB: u64 = 8 << 20;

/// Which mutants to try: all by default.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Options {
    /// Only those that were not tried yet: goes on where another run ended.
    #[arg(long)]
    untried: bool,
    /// Only those that are built apart.
    #[arg(long)]
    apart: bool,
    /// Begins none after so long.
    #[arg(long)]
    seconds: Option<u64>,
    /// Only those whose name, as `--list` prints it, contains this: `src/recovery`, say.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Only those that survived, or timed out, when they were tried last.
    #[arg(long)]
    survivors: bool,
    /// Mutants tried at the same time.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// List them and stop.
    #[arg(long)]
    list: bool,
    /// Try none; say what became of each when it was tried last.
    #[arg(long)]
    report: bool,
}

/// One change of the source.
struct Mutant {
    name: String,
    file: String,
    /// The function (`Type.function`: with colons it would be a test's name in the README) or constant.
    place: String,
    /// As the README names it: what by what, in backticks; *body*, *guard* or *arm* for a whole one.
    change: String,
    /// What is replaced: bytes of the file.
    from: usize,
    to: usize,
    with: String,
    /// Between the braces of the function that it is in, where that can be chosen at run time.
    body: Option<(usize, usize)>,
}

/// A test program.
#[derive(Clone)]
struct Test {
    name: String,
    path: PathBuf,
    takes: Duration,
}

#[derive(Clone, PartialEq, Eq)]
enum Verdict {
    Caught(String),
    TimedOut(String),
    DoesNotCompile,
    Survived,
}

/// Tries what `options` say.
pub fn run(options: &Options) -> Outcome {
    let sources = Sources::read()?;
    let mutants = sources.mutants()?;
    let place = target_dir().join("mutants");
    // Of other sources nothing is known.
    let outcomes = place.join(format!("outcomes-{:016x}.txt", sources.hash()));
    let mut known = read_outcomes(&outcomes);
    let wanted: Vec<usize> = (0..mutants.len())
        .filter(|at| !options.untried || !known.contains_key(&mutants[*at].name))
        .filter(|at| {
            let only = options.only.as_ref();
            only.is_none_or(|only| mutants[*at].name.contains(only.as_str()))
        })
        .filter(|at| {
            let last = known.get(&mutants[*at].name);
            !options.survivors || matches!(last, Some(Verdict::Survived | Verdict::TimedOut(_)))
        })
        .collect();
    let of: Vec<&Mutant> = wanted.iter().map(|at| &mutants[*at]).collect();
    if options.list {
        of.iter().for_each(|m| println!("{}", m.name));
        return Ok(());
    }
    if options.report {
        return summary(&of, &known, of.len() == mutants.len());
    }
    let changed = |file: &str| file == LIBRARY || sources.texts.contains_key(file);
    let together = Tree::new(&place, "together", changed)?;
    let (tests, apart) = build_together(&together, &sources, &mutants)?;
    let tests = measure(&together, tests, options.jobs)?;
    let (alone, mut chosen): (Vec<usize>, Vec<usize>) =
        wanted.iter().partition(|at| apart.contains(at));
    if options.apart {
        chosen.clear();
    }
    println!(
        "{} of {} mutants, {} of them built apart",
        wanted.len(),
        mutants.len(),
        alone.len()
    );
    let next = AtomicUsize::new(0);
    let found = Mutex::new((&mut known, 0));
    let note = |at: usize, verdict: Verdict| -> Outcome {
        let mut found = found.lock().expect("no worker panics");
        found.1 += 1;
        println!(
            "{:>4} {}",
            found.1,
            line_of(&mutants[at].name, &verdict).trim_end()
        );
        // Another run may try others meanwhile.
        found.0.append(&mut read_outcomes(&outcomes));
        found.0.insert(mutants[at].name.clone(), verdict);
        write_outcomes(&outcomes, found.0)
    };
    let begun = Instant::now();
    let late = || {
        options
            .seconds
            .is_some_and(|most| begun.elapsed().as_secs() >= most)
    };
    let worker = |number: usize| -> Outcome {
        while !late()
            && let Some(&at) = chosen.get(next.fetch_add(1, Ordering::Relaxed))
        {
            let verdict = try_one(&together, &tests, Some(at), number)?;
            note(at, verdict)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..options.jobs.max(1))
            .map(|number| {
                let name = format!("mutants-{number}");
                let built = std::thread::Builder::new().name(name);
                ctx(
                    built.spawn_scoped(scope, move || worker(number)),
                    "starting a thread",
                )
            })
            .collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker?.join().expect("a worker reports its errors"))
    })?;
    if !alone.is_empty() {
        let tree = Tree::new(&place, "apart", |_| false)?;
        for at in alone.into_iter().take_while(|_| !late()) {
            let mutant = &mutants[at];
            let text = sources.changed(mutant);
            tree.put(&mutant.file, text.as_bytes())?;
            let built = match tree.check()? {
                Built::Tests(_) => tree.build()?,
                errors => errors,
            };
            let verdict = match built {
                Built::Tests(built) => {
                    // As long as they take unchanged.
                    let built = tests
                        .iter()
                        .filter_map(|test| {
                            let path = built.iter().find(|b| b.name == test.name)?.path.clone();
                            Some(Test {
                                path,
                                ..test.clone()
                            })
                        })
                        .collect::<Vec<_>>();
                    try_one(&tree, &built, None, 0)?
                }
                Built::Errors(_) => Verdict::DoesNotCompile,
            };
            tree.put(&mutant.file, sources.text(&mutant.file).as_bytes())?;
            note(at, verdict)?;
        }
    }
    summary(&of, &known, of.len() == mutants.len())
}

/// The files that are changed, and what cargo-mutants says of them.
struct Sources {
    texts: BTreeMap<String, String>,
    listed: Vec<Value>,
}

impl Sources {
    fn read() -> Outcome<Sources> {
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.args(["mutants", "--list", "--json", "--package", PACKAGE]);
        let output = ctx(command.current_dir(root()).output(), "starting cargo")?;
        if !output.status.success() {
            return Err(format!(
                "`cargo mutants --list` failed; `cargo install --locked cargo-mutants` installs it\n{}",
                String::from_utf8_lossy(&output.stderr)
            ));
        }
        let listed: Vec<Value> = ctx(
            serde_json::from_slice(&output.stdout),
            "reading the list of mutants",
        )?;
        let mut texts = BTreeMap::new();
        for file in listed.iter().filter_map(|m| m["file"].as_str()) {
            if !texts.contains_key(file) {
                let text = ctx(fs::read_to_string(root().join(file)), file)?;
                texts.insert(file.to_owned(), text);
            }
        }
        Ok(Sources { texts, listed })
    }

    fn hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.texts.hash(&mut hasher);
        let names = self.listed.iter().map(|m| m["name"].as_str());
        names.for_each(|name| name.hash(&mut hasher));
        hasher.finish()
    }

    fn text(&self, file: &str) -> &str {
        &self.texts[file]
    }

    fn mutants(&self) -> Outcome<Vec<Mutant>> {
        let read = |m: &Value| {
            let file = m["file"].as_str()?;
            let text = self.text(file);
            let (from, to) = span(text, &m["span"])?;
            let function = &m["function"]["span"];
            let with = m["replacement"].as_str()?;
            let what = match m["genre"].as_str()? {
                "FnValue" => "body".to_owned(),
                "MatchArmGuard" => "guard".to_owned(),
                "MatchArm" => "arm".to_owned(),
                // Of a field its name.
                "StructField" => format!("`{}`", text[from..to].split([':', ',']).next()?),
                _ => format!("`{}`", &text[from..to]),
            };
            let constant = || {
                let before = text[..from].rsplit_once("const ")?.1;
                before.split_once(':').map(|(name, _)| name)
            };
            Some(Mutant {
                name: m["name"].as_str()?.to_owned(),
                file: file.to_owned(),
                place: match m["function"]["function_name"].as_str() {
                    Some(name) => name.replace("::", "."),
                    None => constant()?.to_owned(),
                },
                change: match with {
                    "" => format!("without {what}"),
                    with => format!("{what} to `{with}`"),
                },
                from,
                to,
                with: with.to_owned(),
                body: span(text, function).and_then(|(from, to)| body(text, from, to)),
            })
        };
        let read = self.listed.iter().map(read);
        read.collect::<Option<_>>()
            .ok_or_else(|| "cargo-mutants lists its mutants in another form".to_owned())
    }

    /// The file of `mutant` with its change.
    fn changed(&self, mutant: &Mutant) -> String {
        let text = self.text(&mutant.file);
        format!(
            "{}{}{}",
            &text[..mutant.from],
            mutant.with,
            &text[mutant.to..]
        )
    }

    /// `file` with all its mutants that are not `apart`, and the lines of each.
    fn together(
        &self,
        file: &str,
        mutants: &[Mutant],
        apart: &BTreeSet<usize>,
    ) -> (String, Vec<(usize, usize, usize)>) {
        let text = self.text(file);
        let mut bodies: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
        for (at, mutant) in mutants.iter().enumerate() {
            if let Some(body) = mutant.body.filter(|_| mutant.file == file)
                && !apart.contains(&at)
            {
                bodies.entry(body).or_default().push(at);
            }
        }
        let (mut out, mut done, mut lines) = (String::new(), 0, Vec::new());
        for ((from, to), choices) in bodies {
            out += &text[done..from];
            out += "\nmatch crate::mutant_chosen() {\n";
            for at in choices {
                let (mutant, first) = (&mutants[at], out.lines().count() + 1);
                out += &format!(
                    "{at} => {{ {}{}{}\n}}\n",
                    &text[from..mutant.from],
                    mutant.with,
                    &text[mutant.to..to]
                );
                lines.push((first, out.lines().count(), at));
            }
            out += &format!("_ => {{ {}\n}}\n}}\n", &text[from..to]);
            done = to;
        }
        (out + &text[done..], lines)
    }
}

/// A span of cargo-mutants', in bytes.
fn span(text: &str, span: &Value) -> Option<(usize, usize)> {
    let place = |place: &Value| {
        let line = place["line"].as_u64()? as usize;
        let column = place["column"].as_u64()? as usize;
        let start: usize = text
            .split_inclusive('\n')
            .take(line - 1)
            .map(str::len)
            .sum();
        let inside = text[start..].chars().take(column - 1);
        Some(start + inside.map(char::len_utf8).sum::<usize>())
    };
    Some((place(&span["start"])?, place(&span["end"])?))
}

/// The inside of the function in `from..to`, unless it is `const`.
fn body(text: &str, from: usize, to: usize) -> Option<(usize, usize)> {
    let mut at = from;
    for line in text[from..to].split_inclusive('\n') {
        let trimmed = line.trim_start();
        if !trimmed.starts_with("//") && !trimmed.starts_with('#') {
            break;
        }
        at += line.len();
    }
    let open = at + text[at..to].find('{')?;
    let constant = text[at..open].contains("const fn");
    (!constant).then_some((open + 1, to - 1))
}

/// A copy of the workspace, to be changed and built.
struct Tree {
    root: PathBuf,
    target: PathBuf,
}

enum Built {
    Tests(Vec<Test>),
    /// File and line.
    Errors(Vec<(String, usize, String)>),
}

impl Tree {
    /// As the tree is now, but for what is `changed` there.
    fn new(place: &Path, name: &str, changed: impl Fn(&str) -> bool) -> Outcome<Tree> {
        let tree = Tree {
            root: place.join(name).join("tree"),
            target: place.join(name).join("target"),
        };
        let listed = Command::new("git")
            .args(["ls-files", "--cached", "--others", "--exclude-standard"])
            .current_dir(root())
            .output();
        let listed = ctx(listed, "starting git")?;
        for file in String::from_utf8_lossy(&listed.stdout).lines() {
            // Deleted, and not yet committed.
            if !changed(file)
                && let Ok(bytes) = fs::read(root().join(file))
            {
                tree.put(file, &bytes)?;
            }
        }
        Ok(tree)
    }

    /// Written only where it differs: cargo looks at times.
    fn put(&self, file: &str, bytes: &[u8]) -> Outcome {
        let path = self.root.join(file);
        if fs::read(&path).is_ok_and(|there| there == bytes) {
            return Ok(());
        }
        let dir = path.parent().expect("it is in the tree");
        ctx(fs::create_dir_all(dir), dir.display())?;
        ctx(fs::write(&path, bytes), path.display())
    }

    /// The library alone, without code: enough to see that a mutant does not compile.
    fn check(&self) -> Outcome<Built> {
        self.cargo(&["check", "--lib"])
    }

    fn build(&self) -> Outcome<Built> {
        self.cargo(&["test", "--no-run", "--lib", "--tests"])
    }

    fn cargo(&self, what: &[&str]) -> Outcome<Built> {
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo)
            .args(what)
            .args(["--package", PACKAGE, "--message-format", "json"])
            .env("CARGO_TARGET_DIR", &self.target)
            .env("CARGO_PROFILE_DEV_DEBUG", "0")
            .env("CARGO_INCREMENTAL", "1")
            .env("RUSTFLAGS", "--cap-lints=allow")
            .current_dir(&self.root)
            .output();
        let output = ctx(output, "starting cargo")?;
        let (mut tests, mut errors) = (Vec::new(), Vec::new());
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            let Ok(message) = serde_json::from_str::<Value>(line) else {
                continue;
            };
            let target = &message["target"];
            if let (Some(path), Some(name)) =
                (message["executable"].as_str(), target["name"].as_str())
                && message["profile"]["test"] == true
                && !NOT_RUN.contains(&name)
            {
                tests.push(Test {
                    name: name.to_owned(),
                    path: PathBuf::from(path),
                    takes: Duration::ZERO,
                });
            }
            let message = &message["message"];
            if message["level"] == "error" {
                let text = message["rendered"].as_str().unwrap_or_default();
                for span in message["spans"].as_array().into_iter().flatten() {
                    if let (Some(file), Some(line)) =
                        (span["file_name"].as_str(), span["line_start"].as_u64())
                    {
                        errors.push((file.to_owned(), line as usize, text.to_owned()));
                    }
                }
            }
        }
        match (output.status.success(), errors.is_empty()) {
            (true, _) => Ok(Built::Tests(tests)),
            (false, false) => Ok(Built::Errors(errors)),
            (false, true) => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }
}

/// Builds all mutants into one (M1); returns its tests and who stands apart (M2).
fn build_together(
    tree: &Tree,
    sources: &Sources,
    mutants: &[Mutant],
) -> Outcome<(Vec<Test>, BTreeSet<usize>)> {
    let remembered = tree
        .root
        .with_file_name(format!("apart-{:016x}.txt", sources.hash()));
    let mut apart: BTreeSet<usize> = match fs::read_to_string(&remembered) {
        Ok(text) => text.lines().filter_map(|line| line.parse().ok()).collect(),
        Err(_) => {
            let numbered = mutants.iter().enumerate();
            let constant = numbered.filter(|(_, mutant)| mutant.body.is_none());
            constant.map(|(at, _)| at).collect()
        }
    };
    let text = ctx(fs::read_to_string(root().join(LIBRARY)), LIBRARY)?;
    let chosen = format!(
        "\npub(crate) fn mutant_chosen() -> usize {{\n\
         static CHOSEN: std::sync::OnceLock<usize> = std::sync::OnceLock::new();\n\
         *CHOSEN.get_or_init(|| std::env::var({CHOICE:?}).map_or(usize::MAX, |n| n.parse().unwrap()))\n}}\n"
    );
    tree.put(LIBRARY, (text + &chosen).as_bytes())?;
    loop {
        let mut lines = BTreeMap::new();
        for file in sources.texts.keys() {
            let (text, of) = sources.together(file, mutants, &apart);
            tree.put(file, text.as_bytes())?;
            lines.insert(file.as_str(), of);
        }
        println!("building {} mutants", mutants.len() - apart.len());
        let errors = match tree.build()? {
            Built::Tests(tests) => {
                let text: String = apart.iter().map(|at| format!("{at}\n")).collect();
                ctx(fs::write(&remembered, text), remembered.display())?;
                return Ok((tests, apart));
            }
            Built::Errors(errors) => errors,
        };
        let before = apart.len();
        for (file, line, _) in &errors {
            let of = lines.get(file.as_str()).into_iter().flatten();
            apart.extend(
                of.filter(|(from, to, _)| (from..=to).contains(&line))
                    .map(|(.., at)| at),
            );
        }
        if apart.len() == before {
            return Err(errors.into_iter().map(|(.., text)| text).collect());
        }
    }
}

/// What each takes unchanged; the quickest first (M3).
fn measure(tree: &Tree, mut tests: Vec<Test>, jobs: usize) -> Outcome<Vec<Test>> {
    let remembered = tree.root.with_file_name("takes.txt");
    let of_before = fs::read_to_string(&remembered).unwrap_or_default();
    let newest = tests
        .iter()
        .filter_map(|t| fs::metadata(&t.path).ok()?.modified().ok())
        .max();
    let current = fs::metadata(&remembered).is_ok_and(|m| m.modified().ok() >= newest);
    let mut text = String::new();
    for test in &mut tests {
        let line = of_before
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{} ", test.name)));
        let millis = line.filter(|_| current).and_then(|line| line.parse().ok());
        let millis = match millis {
            Some(millis) => millis,
            None => {
                let begun = Instant::now();
                let whole = Test {
                    takes: WAITS_FOR,
                    ..test.clone()
                };
                if let Some(verdict) = fails(tree, &whole, None, 0)? {
                    let line = line_of("unchanged", &verdict);
                    return Err(format!("without any change: {line}"));
                }
                // As many run beside each other later.
                (begun.elapsed() * jobs as u32).as_millis() as u64
            }
        };
        test.takes = Duration::from_millis(millis);
        text += &format!("{} {millis}\n", test.name);
    }
    if !current {
        ctx(fs::write(&remembered, &text), remembered.display())?;
        print!("unchanged, in milliseconds:\n{text}");
    }
    tests.sort_by_key(|test| test.takes);
    Ok(tests)
}

fn try_one(tree: &Tree, tests: &[Test], chosen: Option<usize>, worker: usize) -> Outcome<Verdict> {
    for test in tests {
        let failed = match fails(tree, test, chosen, worker)? {
            // What fails by itself now and then has caught nothing.
            Some(Verdict::Caught(_)) => fails(tree, test, chosen, worker)?,
            other => other,
        };
        if let Some(verdict) = failed {
            return Ok(verdict);
        }
    }
    Ok(Verdict::Survived)
}

/// Runs one test program; what of it fails, where something does.
fn fails(
    tree: &Tree,
    test: &Test,
    chosen: Option<usize>,
    worker: usize,
) -> Outcome<Option<Verdict>> {
    // In memory where that can be: they sync all the time, and a disk's queue is no reason to fail.
    let memory = Path::new("/dev/shm");
    let scratch = match memory.is_dir() {
        true => memory.join(format!("esker-mutants-{}-{worker}", std::process::id())),
        false => tree.root.with_file_name(format!("scratch-{worker}")),
    };
    // What the last one left behind, if it was killed.
    let _ = fs::remove_dir_all(&scratch);
    ctx(fs::create_dir_all(&scratch), scratch.display())?;
    let said = scratch.join("said");
    let output = ctx(fs::File::create(&said), said.display())?;
    let seconds = (test.takes * HANGS_AFTER.0 + HANGS_AFTER.1).as_secs();
    let limited = format!("ulimit -v {MEMORY_KIB}; ulimit -t {seconds}; exec \"$0\"");
    let mut command = Command::new("sh");
    command
        .args(["-c", &limited])
        .arg(&test.path)
        .env("TMPDIR", &scratch)
        .current_dir(tree.root.join("wal"))
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(Stdio::null())
        .process_group(0);
    if env::var_os("ESKER_SEEDS").is_none() {
        command.env("ESKER_SEEDS", SEEDS);
    }
    match chosen {
        Some(at) => command.env(CHOICE, at.to_string()),
        None => command.env_remove(CHOICE),
    };
    let mut child = ctx(command.spawn(), "starting a test")?;
    let deadline = Instant::now() + WAITS_FOR;
    let status = loop {
        if let Some(status) = ctx(child.try_wait(), "waiting for a test")? {
            break Some(status);
        }
        if Instant::now() >= deadline {
            let group = Pid::from_raw(child.id() as i32).expect("a process has a number");
            // It may have ended just now.
            let _ = kill_process_group(group, Signal::KILL);
            ctx(child.wait(), "waiting for a test")?;
            break None;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let said = fs::read_to_string(&said).unwrap_or_default();
    let _ = fs::remove_dir_all(&scratch);
    // The first that failed, or, where the process died, no name.
    let failed = said.lines().find_map(|line| {
        let of = line.strip_prefix("test ")?.strip_suffix(" ... FAILED")?;
        Some(of.to_owned())
    });
    let what = match failed {
        Some(failed) => format!("{}::{failed}", test.name),
        None => test.name.clone(),
    };
    Ok(match status {
        Some(status) if status.success() => None,
        Some(status) if status.signal().is_none_or(|by| ![9, 24].contains(&by)) => {
            Some(Verdict::Caught(what))
        }
        // Ended by us, or at its limit (SIGKILL, SIGXCPU).
        _ => Some(Verdict::TimedOut(what)),
    })
}

fn line_of(name: &str, verdict: &Verdict) -> String {
    match verdict {
        Verdict::Caught(by) => format!("caught | {name} | {by}\n"),
        Verdict::TimedOut(by) => format!("timed out | {name} | {by}\n"),
        Verdict::DoesNotCompile => format!("does not compile | {name} |\n"),
        Verdict::Survived => format!("survived | {name} |\n"),
    }
}

fn read_outcomes(path: &Path) -> BTreeMap<String, Verdict> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let read = |line: &str| {
        // Bodies have bars in them.
        let (verdict, rest) = line.split_once(" | ")?;
        let (name, by) = rest.rsplit_once(" |")?;
        let by = by.trim().to_owned();
        let verdict = match verdict {
            "caught" => Verdict::Caught(by),
            "timed out" => Verdict::TimedOut(by),
            "does not compile" => Verdict::DoesNotCompile,
            _ => Verdict::Survived,
        };
        Some((name.to_owned(), verdict))
    };
    text.lines().filter_map(read).collect()
}

fn write_outcomes(path: &Path, known: &BTreeMap<String, Verdict>) -> Outcome {
    let text: String = known.iter().map(|(name, v)| line_of(name, v)).collect();
    ctx(fs::write(path, text), path.display())
}

/// Counts, and the survivors that nobody has explained (M4).
fn summary(mutants: &[&Mutant], known: &BTreeMap<String, Verdict>, whole: bool) -> Outcome {
    let readme = root().join("wal/README.md");
    let readme = ctx(fs::read_to_string(&readme), readme.display())?;
    let rows = rows(&readme);
    let mut used = vec![false; rows.len()];
    let (mut caught, mut hung, mut uncompiled, mut survived) = (0, 0, 0, 0);
    let mut open = String::new();
    for mutant in mutants {
        match known.get(&mutant.name) {
            None => open += &format!("not tried: {}\n", mutant.name),
            Some(Verdict::Caught(_)) => caught += 1,
            Some(Verdict::TimedOut(_)) => hung += 1,
            Some(Verdict::DoesNotCompile) => uncompiled += 1,
            Some(Verdict::Survived) => {
                survived += 1;
                let mut explained = false;
                for (row, used) in rows.iter().zip(&mut used) {
                    if row.explains(mutant) {
                        (*used, explained) = (true, true);
                    }
                }
                if !explained {
                    open += &format!("survived, unexplained: {}\n", mutant.name);
                }
            }
        }
    }
    println!(
        "{} mutants: {caught} caught, {hung} timed out, {uncompiled} do not compile, {survived} survived",
        mutants.len()
    );
    for (row, _) in rows.iter().zip(used).filter(|(_, used)| whole && !used) {
        open += &format!(
            "explained, but did not survive: {} {}\n",
            row.places, row.changes
        );
    }
    match open.is_empty() {
        true => Ok(()),
        false => Err(format!("see wal/README.md, \"Mutants\"\n{open}")),
    }
}

/// A row of the README's table.
struct Row {
    places: String,
    changes: String,
}

impl Row {
    fn explains(&self, mutant: &Mutant) -> bool {
        self.places.contains(&format!("`{}`", mutant.place))
            && (self.changes == "any" || self.changes.contains(&mutant.change))
    }
}

fn rows(readme: &str) -> Vec<Row> {
    let table = readme.split("\n## Mutants\n").nth(1).unwrap_or_default();
    let lines = table.lines().skip_while(|line| !line.starts_with("|--"));
    let read = |line: &str| {
        // A bar in a cell has a backslash before it.
        let line = line.replace("\\|", "\0");
        let mut cells = line
            .split('|')
            .skip(1)
            .map(|cell| cell.trim().replace('\0', "|"));
        Some(Row {
            places: cells.next()?,
            changes: cells.next()?,
        })
    };
    lines.skip(1).map_while(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "/// Is {it}?\nfn first(a: u8) -> bool {\n    a < 2\n}\nconst fn two() -> u8 {\n    1 + 1\n}\n";

    fn mutant(place: &str, change: &str) -> Mutant {
        Mutant {
            name: String::new(),
            file: "a.rs".to_owned(),
            place: place.to_owned(),
            change: change.to_owned(),
            from: 0,
            to: 0,
            with: String::new(),
            body: None,
        }
    }

    #[test]
    fn a_body_lies_between_the_functions_braces_and_a_const_fn_has_none() {
        let second = SOURCE.find("const").unwrap();
        let (from, to) = body(SOURCE, 0, second - 1).unwrap();
        assert_eq!(SOURCE[from..to].trim(), "a < 2");
        assert_eq!(body(SOURCE, second, SOURCE.len() - 1), None);
    }

    #[test]
    fn a_function_becomes_a_choice_among_its_mutants_and_itself() {
        let less = SOURCE.find('<').unwrap();
        let mut one = mutant("first", "`<` to `>`");
        one.body = body(SOURCE, 0, SOURCE.find("const").unwrap() - 1);
        (one.from, one.to, one.with) = (less, less + 1, ">".to_owned());
        let sources = Sources {
            texts: BTreeMap::from([("a.rs".to_owned(), SOURCE.to_owned())]),
            listed: Vec::new(),
        };
        assert_eq!(sources.changed(&one), SOURCE.replace('<', ">"));
        let (text, lines) = sources.together("a.rs", &[one], &BTreeSet::new());
        let arms =
            "match crate::mutant_chosen() {\n0 => { \n    a > 2\n\n}\n_ => { \n    a < 2\n\n}\n}\n";
        assert_eq!(text, SOURCE.replace("\n    a < 2\n", &format!("\n{arms}")));
        assert_eq!(lines, [(4, 7, 0)]);
    }

    #[test]
    fn a_row_explains_its_functions_and_changes_and_no_others() {
        let readme = "# A\n\n## Mutants\n\nSome.\n\n| where | change | why |\n|---|---|---|\n| `f`, `g` | `\\|` to `^`, without `!` | so |\n\
             | `h` | any | so |\n\nMore.\n";
        let rows = rows(readme);
        assert_eq!(rows.len(), 2);
        for (place, change, explained) in [
            ("f", "`|` to `^`", true),
            ("g", "without `!`", true),
            ("g", "`^` to `|`", false),
            ("h", "body to `()`", true),
            ("i", "body to `()`", false),
        ] {
            let mutant = mutant(place, change);
            let found = rows.iter().any(|row| row.explains(&mutant));
            assert_eq!(found, explained, "{place}: {change}");
        }
    }
}
