//! `esker cluster status`: all members of a cluster, as each says of itself (RAFT.STATUS).
//!
//! - CS1: asked are the addresses that are given, then those of members that have not answered, as those that have know them.
//! - CS2: of several that say they lead, the one of the highest term does.
//! - CS3: a quorum is up when voters that make one have answered and do not abstain. One whose address for clients nobody knows counts when
//!   the leader replicates to it.
//! - CS4 (E2): what is answered is bounded, and anything is an answer or an error.

use super::auth::{AuthArgs, Credentials};
use crate::boot::complain;
use crate::table::{or_dash, table};
use clap::Args;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::time::Duration;

/// One that does not answer for so long is shown as unreachable.
const TIME_MAX: Duration = Duration::from_secs(1);
/// Elements of an answer, and bytes of one.
const PARTS_MAX: usize = 4096;
const PART_BYTES_MAX: usize = 64 << 10;
/// Members that are looked for.
const ROWS_MAX: usize = 256;

#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Where clients reach one or several of the members; the others are found through them as far as the cluster knows their addresses
    #[arg(required = true, value_delimiter = ',', value_name = "ADDR")]
    addresses: Vec<String>,
    /// Ask again every so many seconds, until interrupted
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    watch: Option<u32>,
    /// Answer in JSON, one line each time
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    auth: AuthArgs,
}

pub(super) fn run(args: &StatusArgs) -> ExitCode {
    let credentials = match args.auth.credentials() {
        Ok(credentials) => credentials,
        Err(why) => {
            complain(&format!("error: {why}"));
            return ExitCode::from(2);
        }
    };
    loop {
        let seen = Seen::ask(&args.addresses, &credentials);
        let mut text = Vec::new();
        if args.watch.is_some() && !args.json && io::stdout().is_terminal() {
            text.extend_from_slice(b"\x1b[H\x1b[2J");
        }
        let written = match args.json {
            true => writeln!(text, "{}", seen.json()),
            false => seen.show(&mut text),
        };
        let mut out = io::stdout().lock();
        let written = written.and_then(|()| out.write_all(&text));
        // Nobody reads it any more.
        let unread = written.and_then(|()| out.flush()).is_err();
        drop(out);
        match args.watch {
            Some(seconds) if !unread => {
                std::thread::sleep(Duration::from_secs(seconds.into()));
            }
            _ => return ExitCode::from(seen.code()),
        }
    }
}

/// What a node answered.
#[derive(Clone, Debug, Default)]
struct Answer(BTreeMap<String, String>);

impl Answer {
    fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    fn number(&self, name: &str) -> u64 {
        self.text(name).parse().unwrap_or(0)
    }

    fn ids(&self, name: &str) -> BTreeSet<u64> {
        let ids = self.text(name).split(',');
        ids.filter_map(|id| id.parse().ok()).collect()
    }

    fn is(&self, name: &str) -> bool {
        self.text(name) == "1"
    }

    fn leads(&self) -> bool {
        self.text("raft_role") == "leader"
    }

    /// A field of a pair that is written `name=value,name=value`; the last one may have commas in it.
    fn field(&self, pair: &str, field: &str) -> Option<String> {
        let text = self.0.get(pair)?;
        let begin = format!("{field}=");
        let at = match text.starts_with(&begin) {
            true => begin.len(),
            false => text.find(&format!(",{begin}"))? + 1 + begin.len(),
        };
        let rest = &text[at..];
        let value = rest.split(',').next().unwrap_or(rest);
        Some(value.to_owned())
    }

    /// All members, and where clients reach them.
    fn members(&self) -> BTreeMap<u64, Option<String>> {
        let lists = ["raft_voters", "raft_outgoing_voters", "raft_learners"];
        let ids = lists.iter().flat_map(|list| self.ids(list));
        ids.map(|id| {
            let client = self.field(&format!("raft_member{id}"), "client");
            (id, client.filter(|client| !client.is_empty()))
        })
        .collect()
    }
}

/// A line: a member, or an address.
#[derive(Clone, Debug)]
struct Row {
    node: Option<u64>,
    address: Option<String>,
    answer: Result<Answer, String>,
}

/// All that was seen.
#[derive(Debug)]
struct Seen(Vec<Row>);

impl Seen {
    /// CS1.
    fn ask(addresses: &[String], credentials: &Credentials) -> Seen {
        let mut rows: Vec<Row> = Vec::new();
        let mut asked = BTreeSet::new();
        for address in addresses {
            if asked.insert(address.clone()) {
                rows.push(Row::ask(address, None, credentials));
            }
        }
        // What an answer names may name further ones.
        while rows.len() < ROWS_MAX {
            let found = |row: &Row, id| row.node == Some(id) && row.answer.is_ok();
            let unknown = (rows.iter().filter_map(|row| row.answer.as_ref().ok()))
                .flat_map(Answer::members)
                .find(|(id, address)| {
                    let new = address.as_ref().is_some_and(|a| !asked.contains(a));
                    new && !rows.iter().any(|row| found(row, *id))
                });
            let Some((id, Some(address))) = unknown else {
                break;
            };
            asked.insert(address.clone());
            rows.push(Row::ask(&address, Some(id), credentials));
        }
        Seen::of(rows)
    }

    /// One line for each member.
    fn of(mut rows: Vec<Row>) -> Seen {
        let mut named = BTreeMap::new();
        for answer in rows.iter().filter_map(|row| row.answer.as_ref().ok()) {
            for (id, address) in answer.members() {
                let known: &mut Option<String> = named.entry(id).or_default();
                *known = known.take().or(address);
            }
        }
        for row in rows.iter_mut().filter(|row| row.node.is_none()) {
            let is = |(_, known): &(&u64, &Option<String>)| **known == row.address;
            row.node = named.iter().find(is).map(|(id, _)| *id);
        }
        for (id, address) in named {
            if !rows.iter().any(|row| row.node == Some(id)) {
                rows.push(Row {
                    node: Some(id),
                    address,
                    answer: Err(NOT_ASKED.into()),
                });
            }
        }
        // Of one node that was asked twice, by two addresses, the line that says more.
        rows.sort_by_key(|row| (row.node.unwrap_or(u64::MAX), row.answer.is_err()));
        rows.dedup_by(|later, row| row.node.is_some() && later.node == row.node);
        Seen(rows)
    }

    fn answers(&self) -> impl Iterator<Item = &Answer> {
        self.0.iter().filter_map(|row| row.answer.as_ref().ok())
    }

    /// CS2.
    fn leader(&self) -> Option<&Answer> {
        let leading = self.answers().filter(|answer| answer.leads());
        leading.max_by_key(|answer| answer.number("raft_term"))
    }

    /// CS3: whether `node` is up.
    fn up(&self, node: u64) -> bool {
        let row = self.0.iter().find(|row| row.node == Some(node));
        match row.map(|row| (&row.answer, &row.address)) {
            Some((Ok(answer), _)) => !answer.is("raft_abstains"),
            Some((Err(_), None)) => self.leader().is_some_and(|leader| {
                let peer = format!("raft_peer{node}");
                let says =
                    |field, value: &str| leader.field(&peer, field).is_some_and(|v| v == value);
                says("state", "replicating") && says("paused", "no")
            }),
            _ => false,
        }
    }

    /// How many voters are up, of how many; and whether that is a quorum.
    fn quorum(&self) -> (usize, usize, bool) {
        let newest = self.answers().max_by_key(|a| a.number("raft_term"));
        let Some(of) = self.leader().or(newest) else {
            return (0, 0, false);
        };
        let (voters, outgoing) = (of.ids("raft_voters"), of.ids("raft_outgoing_voters"));
        let up = |ids: &BTreeSet<u64>| ids.iter().filter(|id| self.up(**id)).count();
        let majority = |ids: &BTreeSet<u64>| ids.is_empty() || up(ids) * 2 > ids.len();
        let quorum = !voters.is_empty() && majority(&voters) && majority(&outgoing);
        let all = &voters | &outgoing;
        (up(&all), all.len(), quorum)
    }

    fn committed(&self) -> u64 {
        let all = self.answers().map(|a| a.number("raft_committed_index"));
        all.max().unwrap_or(0)
    }

    fn code(&self) -> u8 {
        match self.answers().next() {
            None => 2,
            Some(_) if self.leader().is_some() && self.quorum().2 => 0,
            Some(_) => 1,
        }
    }

    fn notes(&self, row: &Row) -> Vec<String> {
        let mut notes = Vec::new();
        match &row.answer {
            Err(why) => notes.push(why.clone()),
            Ok(answer) => {
                for (name, note) in [
                    ("raft_abstains", "abstains"),
                    ("raft_disk_full", "disk full"),
                    ("raft_disk_hangs", "disk hangs"),
                ] {
                    if answer.is(name) {
                        notes.push(note.to_owned());
                    }
                }
                let newest = self.leader().map(|of| of.text("raft_incarnation"));
                if newest.is_some_and(|of| of != answer.text("raft_incarnation")) {
                    notes.push(format!(
                        "of incarnation {}, apart from the leader's",
                        answer.text("raft_incarnation")
                    ));
                }
                if answer.text("raft_leader").is_empty() {
                    notes.push(answer.text("raft_explanation").to_owned());
                }
            }
        }
        if let (Some(leader), Some(node)) = (self.leader(), row.node) {
            let peer = format!("raft_peer{node}");
            if let Some(state) = leader.field(&peer, "state").filter(|s| s != "replicating") {
                notes.push(state);
            }
            if let Some(why) = leader.field(&peer, "paused").filter(|why| why != "no") {
                notes.push(format!("paused: {why}"));
            }
        }
        notes
    }

    fn role<'a>(&self, row: &'a Row) -> &'a str {
        match (&row.answer, row.node) {
            (Err(why), _) if why == NOT_ASKED => "?",
            (Err(_), _) => "unreachable",
            (Ok(answer), Some(node)) if answer.ids("raft_learners").contains(&node) => "learner",
            (Ok(answer), _) => answer.text("raft_role"),
        }
    }

    fn show(&self, out: &mut impl Write) -> io::Result<()> {
        let committed = self.committed();
        let rows: Vec<Vec<String>> = (self.0.iter())
            .map(|row| {
                let answer = row.answer.as_ref().ok();
                let field = |name: &str| {
                    let text = answer.map(|answer| answer.text(name).to_owned());
                    or_dash(text.filter(|text| !text.is_empty()))
                };
                let lag = answer.map(|a| committed.saturating_sub(a.number("raft_applied_index")));
                vec![
                    or_dash(row.node),
                    or_dash(row.address.clone()),
                    self.role(row).to_owned(),
                    field("raft_term"),
                    field("raft_leader"),
                    field("raft_last_index"),
                    field("raft_synced_index"),
                    field("raft_committed_index"),
                    field("raft_applied_index"),
                    or_dash(lag),
                    self.notes(row).join("; "),
                ]
            })
            .collect();
        let head = [
            "NODE",
            "CLIENTS",
            "ROLE",
            "TERM",
            "LEADER",
            "LAST",
            "SYNCED",
            "COMMITTED",
            "APPLIED",
            "LAG",
            "NOTES",
        ];
        table(out, &head, &rows)?;
        let (up, voters, quorum) = self.quorum();
        let quorum = if quorum { "a quorum" } else { "no quorum" };
        match (self.leader(), self.code()) {
            (_, 2) => writeln!(out, "nobody could be asked"),
            (Some(leader), _) => writeln!(
                out,
                "node {} leads in term {}; {up} of {voters} voters are up: {quorum}",
                leader.text("raft_node"),
                leader.text("raft_term")
            ),
            (None, _) => writeln!(
                out,
                "nobody leads; {up} of {voters} voters are up: {quorum}"
            ),
        }
    }

    fn json(&self) -> Value {
        let committed = self.committed();
        let (up, voters, quorum) = self.quorum();
        let nodes: Vec<Value> = (self.0.iter())
            .map(|row| {
                let answer = row.answer.as_ref().ok();
                let number = |name: &str| answer.map(|a| a.number(name));
                let flag = |name: &str| answer.map(|a| a.is(name));
                json!({
                    "node": row.node,
                    "clients": row.address,
                    "reached": answer.is_some(),
                    "role": self.role(row),
                    "term": number("raft_term"),
                    "leader": number("raft_leader").filter(|id| *id != 0),
                    "last": number("raft_last_index"),
                    "synced": number("raft_synced_index"),
                    "committed": number("raft_committed_index"),
                    "applied": number("raft_applied_index"),
                    "lag": number("raft_applied_index").map(|at| committed.saturating_sub(at)),
                    "incarnation": number("raft_incarnation"),
                    "abstains": flag("raft_abstains"),
                    "disk_full": flag("raft_disk_full"),
                    "disk_hangs": flag("raft_disk_hangs"),
                    "notes": self.notes(row),
                })
            })
            .collect();
        json!({
            "leader": self.leader().map(|leader| leader.number("raft_node")),
            "term": self.answers().map(|a| a.number("raft_term")).max(),
            "voters": voters,
            "voters_up": up,
            "quorum": quorum,
            "nodes": nodes,
        })
    }
}

/// In place of an error.
const NOT_ASKED: &str = "not asked: its address for clients is not known to the cluster; name it";

impl Row {
    fn ask(address: &str, node: Option<u64>, credentials: &Credentials) -> Row {
        let answer = ask(address, credentials).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "no answer in time".to_owned(),
            _ => error.to_string(),
        });
        let said = answer.as_ref().ok().map(|a| a.number("raft_node"));
        Row {
            node: said.filter(|id| *id != 0).or(node),
            address: Some(address.to_owned()),
            answer,
        }
    }
}

fn ask(address: &str, credentials: &Credentials) -> io::Result<Answer> {
    let address = match address.parse::<u16>() {
        Ok(port) => format!("127.0.0.1:{port}"),
        Err(_) => address.to_owned(),
    };
    let mut last = io::Error::new(io::ErrorKind::NotFound, "no such address");
    for addr in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&addr, TIME_MAX) {
            Ok(mut stream) => {
                stream.set_read_timeout(Some(TIME_MAX))?;
                stream.set_write_timeout(Some(TIME_MAX))?;
                let login = credentials.request();
                let logs_in = login.is_some();
                let mut request = login.unwrap_or_default();
                request.extend_from_slice(b"*1\r\n$11\r\nRAFT.STATUS\r\n");
                stream.write_all(&request)?;
                let from = &mut BufReader::new(stream);
                let said = if logs_in { line(from)? } else { String::new() };
                let answer = answer(from);
                // One that asks for no password refuses it, and answers.
                return match said.strip_prefix('-') {
                    Some(why) if answer.is_err() => Err(io::Error::other(why.to_owned())),
                    _ => answer,
                };
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn invalid(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

fn line(from: &mut impl BufRead) -> io::Result<String> {
    let mut line = Vec::new();
    from.take(PART_BYTES_MAX as u64)
        .read_until(b'\n', &mut line)?;
    match line.strip_suffix(b"\r\n") {
        Some(line) => Ok(String::from_utf8_lossy(line).into_owned()),
        None => Err(invalid("the answer ended too early")),
    }
}

fn length(line: &str, kind: char, max: usize) -> io::Result<usize> {
    let len = line.strip_prefix(kind).and_then(|len| len.parse().ok());
    len.filter(|len| *len <= max)
        .ok_or_else(|| invalid("it does not answer like a raft-node"))
}

/// CS4.
fn answer(from: &mut impl BufRead) -> io::Result<Answer> {
    let head = line(from)?;
    if let Some(error) = head.strip_prefix('-') {
        return Err(io::Error::other(error.to_owned()));
    }
    let mut parts = Vec::new();
    for _ in 0..length(&head, '*', PARTS_MAX)? {
        let len = length(&line(from)?, '$', PART_BYTES_MAX)?;
        let mut bytes = vec![0; len + 2];
        from.read_exact(&mut bytes)?;
        bytes.truncate(len);
        parts.push(String::from_utf8_lossy(&bytes).into_owned());
    }
    let (pairs, []) = parts.as_chunks::<2>() else {
        return Err(invalid("it does not answer like a raft-node"));
    };
    let pairs = pairs.iter().cloned();
    Ok(Answer(pairs.map(|[name, value]| (name, value)).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(pairs: &[(&str, &str)]) -> Answer {
        let owned = pairs
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
        Answer(owned.collect())
    }

    fn row(node: u64, address: Option<&str>, answer: Result<Answer, &str>) -> Row {
        Row {
            node: Some(node),
            address: address.map(str::to_owned),
            answer: answer.map_err(str::to_owned),
        }
    }

    fn leader() -> Answer {
        says(&[
            ("raft_node", "1"),
            ("raft_role", "leader"),
            ("raft_term", "3"),
            ("raft_leader", "1"),
            ("raft_voters", "1,2,3"),
            ("raft_outgoing_voters", ""),
            ("raft_member1", "client=h:1,address=tcp://h:11"),
            ("raft_member2", "client=,address=tcp://h:12"),
            ("raft_member3", "client=h:3,address=tcp://h:13"),
            ("raft_peer2", "state=replicating,matched=7,paused=no"),
            ("raft_peer3", "state=probing,matched=0,paused=it waits"),
        ])
    }

    /// CS3.
    #[test]
    fn who_could_not_be_asked_counts_when_the_leader_replicates_to_it() {
        let seen = |rows: &[Row]| Seen::of(rows.to_vec());
        let up = row(1, Some("h:1"), Ok(leader()));
        let gone = row(3, Some("h:3"), Err("refused"));
        let two = seen(&[gone.clone(), up.clone()]);
        assert_eq!((two.quorum(), two.code()), ((2, 3, true), 0));
        let text = |seen: &Seen| {
            let mut out = Vec::new();
            seen.show(&mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        let shown = text(&two);
        for words in [
            "unreachable",
            "paused: it waits",
            "not asked",
            "2 of 3 voters",
        ] {
            assert!(shown.contains(words), "{words} in\n{shown}");
        }
        // It has an address and does not answer.
        let other = seen(&[up, gone, row(2, Some("h:2"), Err("refused"))]);
        assert_eq!((other.quorum(), other.code()), ((1, 3, false), 1));
        let nobody = seen(&[row(1, Some("h:1"), Err("refused"))]);
        assert_eq!(nobody.code(), 2);
        assert!(text(&nobody).contains("nobody could be asked"));
    }

    /// CS2, CS3.
    #[test]
    fn the_highest_term_leads_and_who_abstains_is_not_up() {
        let mut old = leader();
        old.0.insert("raft_node".into(), "2".into());
        old.0.insert("raft_term".into(), "2".into());
        old.0.insert("raft_abstains".into(), "1".into());
        let rows = [
            row(2, Some("h:2"), Ok(old)),
            row(1, Some("h:1"), Ok(leader())),
        ];
        let seen = Seen::of(rows.to_vec());
        assert_eq!(seen.json()["leader"], 1);
        assert_eq!((seen.quorum(), seen.code()), ((1, 3, false), 1));
    }

    /// CS4.
    #[test]
    fn anything_is_an_answer_or_an_error() {
        let read = |bytes: &[u8]| answer(&mut io::BufReader::new(bytes));
        let whole = b"*2\r\n$9\r\nraft_node\r\n$1\r\n7\r\n";
        assert_eq!(read(whole).unwrap().number("raft_node"), 7);
        for len in 0..whole.len() {
            assert!(read(&whole[..len]).is_err(), "{len}");
        }
        for other in [
            "-ERR no\r\n",
            "+OK\r\n",
            "*1\r\n$1\r\na\r\n",
            "*1\r\n$-1\r\n",
            "*99999999\r\n",
            "*2\r\n$99999999\r\n",
        ] {
            assert!(read(other.as_bytes()).is_err(), "{other}");
        }
    }
}
