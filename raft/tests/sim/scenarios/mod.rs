//! Short scenarios from the papers, for traps that chance walks into too rarely. Each holds in a good build, whatever is delivered; the
//! broken build that it is named with falls into it.

mod elections;
mod membership;
mod reads;
mod replication;
mod snapshots;

use bytes::Bytes;
use esker_raft::core::*;
use esker_raft::sim::cluster::{Cluster, NODES};

type Outcome = Result<(), String>;

/// Begins what is wrong with a scenario, and not with the build.
pub(crate) const SET_UP: &str = "the scenario does not get there:";

/// A cluster whose mail is delivered by hand.
struct Play {
    cluster: Cluster,
}

impl Play {
    fn new(voters: u64, options: Options) -> Play {
        let cluster = Cluster::scripted(voters, options);
        Play { cluster }
    }

    /// Node 1 leads, and everybody knows it.
    fn led(voters: u64, options: Options) -> Result<Play, String> {
        let mut play = Play::new(voters, options);
        let all: Vec<u64> = (1..=voters).collect();
        play.forget_leader(&[1])?;
        play.elect(1, &all[1..])?;
        play.settle(&all)?;
        Ok(play)
    }

    fn mail(&mut self) -> &mut Vec<(u64, u64, Message)> {
        self.cluster.script.as_mut().expect("it is scripted")
    }

    fn drop_mail(&mut self) {
        self.mail().clear();
    }

    /// Delivers the messages from one to another that `which` takes; what they cause waits.
    fn deliver(&mut self, from: u64, to: u64, which: impl Fn(&Message) -> bool) -> Outcome {
        let (now, later) = std::mem::take(self.mail())
            .into_iter()
            .partition(|(f, t, m)| *f == from && *t == to && which(m));
        *self.mail() = later;
        for (from, to, message) in now {
            self.hand_over(from, to, message)?;
        }
        Ok(())
    }

    /// A message arrives. The sender of a snapshot hears that it did.
    fn hand_over(&mut self, from: u64, to: u64, message: Message) -> Outcome {
        let snapshot = match &message.body {
            Body::Snapshot(meta) => Some(meta.last.index),
            _ => None,
        };
        let up = self.cluster.is_up(to);
        let (sender, receiver) = (NodeId(from), NodeId(to));
        let input = Input::Message {
            from: sender,
            message,
        };
        self.step(to, input)?;
        match snapshot {
            None => Ok(()),
            Some(index) => {
                let last = up.then_some(index);
                self.step(from, Input::SnapshotSent { to: receiver, last })
            }
        }
    }

    /// Everybody's clock runs for so many ticks. Mail over the links that are there, and disks, are much faster than that.
    fn run(&mut self, ticks: u32, link: impl Fn(u64, u64) -> bool) -> Outcome {
        for _ in 0..ticks {
            self.cluster.pass(10_000);
            for id in 1..=NODES {
                self.step(id, Input::Tick)?;
            }
            for _ in 0..20 {
                for id in 1..=NODES {
                    if self.cluster.is_up(id) {
                        self.cluster.synced(id)?;
                    }
                }
                for (from, to, message) in std::mem::take(self.mail()) {
                    if link(from, to) {
                        self.hand_over(from, to, message)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Who leads in the newest term, of those that are up.
    fn leader(&self) -> Option<u64> {
        (1..=NODES)
            .filter(|id| self.cluster.is_up(*id) && self.leads(*id))
            .max_by_key(|id| self.cluster.core(*id).term())
    }

    /// A command that is given to `id` is committed by these.
    fn commits(&mut self, id: u64, among: &[u64]) -> Outcome {
        let before = self.cluster.committed();
        self.propose(id, 1)?;
        self.settle(among)?;
        match self.cluster.committed() > before {
            true => Ok(()),
            false => Err(format!("{id} commits nothing with {among:?}")),
        }
    }

    fn step(&mut self, id: u64, input: Input) -> Outcome {
        self.cluster.step(id, input)
    }

    /// Everything among these is delivered and synced, until nothing is left; what goes to others is lost.
    fn settle(&mut self, among: &[u64]) -> Outcome {
        for _ in 0..200 {
            for id in among {
                self.cluster.synced(*id)?;
            }
            let mail = std::mem::take(self.mail());
            if mail.is_empty() {
                return Ok(());
            }
            for (from, to, message) in mail {
                if among.contains(&from) && among.contains(&to) {
                    self.hand_over(from, to, message)?;
                }
            }
        }
        Err(format!("{SET_UP} it does not settle"))
    }

    /// So long that nobody is loyal to a leader any more.
    fn forget_leader(&mut self, ids: &[u64]) -> Outcome {
        for id in ids {
            for _ in 0..Options::default().election_ticks {
                self.step(*id, Input::Tick)?;
            }
        }
        self.drop_mail();
        Ok(())
    }

    fn leads(&self, id: u64) -> bool {
        self.cluster.core(id).role() == RoleName::Leader
    }

    /// `id` is elected by `by`, and all they say to each other is lost from then on.
    fn elect(&mut self, id: u64, by: &[u64]) -> Outcome {
        self.forget_leader(by)?;
        for at in 0..6 {
            if at % 3 == 0 {
                // The first may do no more than hear of a newer term.
                self.step(id, Input::Campaign)?;
            }
            self.cluster.synced(id)?;
            for peer in by {
                let asks = |m: &Message| matches!(m.body, Body::PreVote { .. } | Body::Vote { .. });
                self.deliver(id, *peer, asks)?;
                self.cluster.synced(*peer)?;
                let answers =
                    |m: &Message| matches!(m.body, Body::PreVoted { .. } | Body::Voted { .. });
                self.deliver(*peer, id, answers)?;
            }
            if self.leads(id) {
                return Ok(());
            }
        }
        Err(format!(
            "{SET_UP} {id} was not elected: {}",
            self.cluster.core(id).explain()
        ))
    }

    fn propose(&mut self, id: u64, commands: u64) -> Outcome {
        let commands = (0..commands)
            .map(|n| (n, Bytes::from(format!("{id}.{n}"))))
            .collect();
        self.step(id, Input::Propose(commands))
    }
}

fn one_by_one() -> Options {
    Options {
        append_bytes_max: 1,
        ..Options::default()
    }
}

fn lease() -> Options {
    Options {
        lease: Some(Lease {
            tick_micros: 10_000,
            drift_per_mille: 120,
        }),
        ..Options::default()
    }
}

/// What a scenario claims, when it is not so.
fn claim(holds: bool, what: &str) -> Outcome {
    match holds {
        true => Ok(()),
        false => Err(what.into()),
    }
}

type Scenario = fn() -> Outcome;

/// All, by name.
pub(crate) fn all() -> impl Iterator<Item = (&'static str, Scenario)> {
    [
        elections::ALL,
        replication::ALL,
        membership::ALL,
        snapshots::ALL,
        reads::ALL,
    ]
    .into_iter()
    .flatten()
    .copied()
}
