//! What a seed is made of: a random subset of the kinds of fault, each with a weight of its own, and random rates of everything else
//! (swarm testing). Most seeds are bent towards a trap that chance alone hardly walks into.

use super::{Plan, Rng, TICK};
use crate::core::{Lease, Options};

/// What can be done to a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Fault {
    /// One crashes: a prefix of what it has not synced survives.
    Crash,
    /// The leader crashes.
    CrashLeader,
    /// All crash at once.
    CrashAll,
    /// The next sync of one fails, and it crashes.
    FailedSync,
    /// One is cut off.
    CutOne,
    /// The leader is cut off.
    CutLeader,
    /// A link is cut.
    CutPair,
    /// A link is cut in one direction.
    CutDirection,
    /// Two groups see each other through one node alone.
    Bridge,
    /// Messages are lost at another rate.
    Loss,
    /// One stands still for up to 400 ms.
    Pause,
    /// The leader stands still.
    PauseLeader,
    /// The disk of one syncs nothing for up to 400 ms.
    SlowDisk,
    /// The leader's disk hangs, and it gives up.
    HungDisk,
    /// A clock jumps ahead.
    Jump,
    /// A log is compacted, behind a checkpoint.
    Compact,
    /// Leadership is handed over.
    Transfer,
    /// Leadership is handed over, and the old leader hears nothing.
    TransferAndCut,
    /// One campaigns without need.
    Campaign,
    /// The membership changes.
    Change,
    /// Some of those that are down start again.
    Restart,
    /// All links are whole again.
    Heal,
}

/// With their names in the table of what happened.
pub(super) const FAULTS: &[(Fault, &str)] = &[
    (Fault::Crash, "fault: crash"),
    (Fault::CrashLeader, "fault: the leader crashes"),
    (Fault::CrashAll, "fault: all crash at once"),
    (Fault::FailedSync, "fault: a sync fails"),
    (Fault::CutOne, "fault: one is cut off"),
    (Fault::CutLeader, "fault: the leader is cut off"),
    (Fault::CutPair, "fault: a link is cut"),
    (Fault::CutDirection, "fault: a link is cut in one direction"),
    (Fault::Bridge, "fault: a bridge between two groups"),
    (Fault::Loss, "fault: another rate of loss"),
    (Fault::Pause, "fault: pause"),
    (Fault::PauseLeader, "fault: the leader pauses"),
    (Fault::SlowDisk, "fault: slow disk"),
    (
        Fault::HungDisk,
        "fault: a disk hangs, the leader's above all",
    ),
    (Fault::Jump, "fault: a clock jumps ahead"),
    (Fault::Compact, "fault: compaction"),
    (Fault::Transfer, "fault: transfer"),
    (
        Fault::TransferAndCut,
        "fault: transfer, and the leader hears nothing",
    ),
    (Fault::Campaign, "fault: campaign"),
    (Fault::Change, "fault: change of membership"),
    (Fault::Restart, "restart"),
    (Fault::Heal, "healed"),
];

/// What a seed is bent towards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trap {
    None,
    /// Campaigns upon campaigns, long delays, crashes before a vote is synced.
    Elections,
    /// Leadership handed over, and the old leader cut off.
    Transfers,
    /// Leaders that hardly live to bring an old entry to a majority, one entry at a time (figure 8).
    ShortReigns,
    /// Leaders come again, and acknowledgements of their earlier terms with them.
    LateAcknowledgements,
    /// Disks that take longer than a term.
    SlowDisks,
    /// Who has just voted forgets it, and is nearer to the old leader than to the new one.
    LostVotes,
    /// Leaders that sleep through their lease, with answers and readers at the door when they wake.
    Sleepers,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Swarm {
    faults: Vec<Fault>,
    /// Microseconds between two faults, at most.
    pub(super) every: u64,
    /// One message in so many is lost, repeated, delayed, and how long at most.
    pub(super) loss: u64,
    pub(super) repeat: u64,
    pub(super) delay: u64,
    pub(super) delay_max: u64,
    /// The same of acknowledgements alone.
    pub(super) late_acknowledgement: u64,
    /// One sync in so many is slow, and how slow at most.
    pub(super) slow_sync: u64,
    pub(super) slow_sync_max: u64,
    /// One crash in so many behind a vote that is sent, at the end of a sync, and of who has just been elected.
    pub(super) crash_at_vote: u64,
    pub(super) crash_at_sync: u64,
    pub(super) crash_elected: u64,
    /// One election in so many is forgotten by a voter.
    pub(super) lose_vote: u64,
    /// What is under way when a link is cut still arrives.
    pub(super) under_way_arrives: bool,
    /// Clocks differ by so many per mille at most, in both directions.
    pub(super) drift: u64,
    pub(super) voters: u64,
}

const NEVER: u64 = u64::MAX;

impl Swarm {
    /// Nothing happens.
    pub(super) fn none(voters: u64) -> Swarm {
        Swarm {
            faults: Vec::new(),
            every: NEVER,
            loss: NEVER,
            repeat: NEVER,
            delay: NEVER,
            delay_max: 1,
            late_acknowledgement: NEVER,
            slow_sync: NEVER,
            slow_sync_max: 1,
            crash_at_vote: NEVER,
            crash_at_sync: NEVER,
            crash_elected: NEVER,
            lose_vote: NEVER,
            under_way_arrives: false,
            drift: 0,
            voters,
        }
    }

    pub(super) fn of(rng: &mut Rng, options: &mut Options) -> Swarm {
        let trap = match rng.below(20) {
            0 => Trap::Elections,
            1 | 2 => Trap::Transfers,
            3..=5 => Trap::ShortReigns,
            6..=10 => Trap::LateAcknowledgements,
            11 | 12 => Trap::SlowDisks,
            13 => Trap::Sleepers,
            14 => Trap::LostVotes,
            _ => Trap::None,
        };
        let mut faults = Vec::new();
        for (fault, _) in FAULTS {
            if rng.one_in(2) {
                for _ in 0..=rng.below(4) {
                    faults.push(*fault);
                }
            }
        }
        // Where nothing ever heals nothing happens.
        let some = faults.len() / 5 + 1;
        for end in [Fault::Restart, Fault::Heal] {
            faults.extend(std::iter::repeat_n(end, some));
        }
        let or_never = |rng: &mut Rng, n: u64| match rng.one_in(2) {
            true => 2 + rng.below(n),
            false => NEVER,
        };
        let mut swarm = Swarm {
            faults,
            every: 10_000 + rng.below(60_000),
            loss: or_never(rng, 60),
            repeat: or_never(rng, 60),
            delay: or_never(rng, 60),
            delay_max: 1_000 + rng.below(400_000),
            late_acknowledgement: NEVER,
            slow_sync: or_never(rng, 40),
            slow_sync_max: 1_000 + rng.below(150_000),
            crash_at_vote: or_never(rng, 100),
            crash_at_sync: or_never(rng, 400),
            crash_elected: or_never(rng, 20),
            lose_vote: NEVER,
            under_way_arrives: rng.one_in(2),
            drift: rng.below(55),
            voters: 3 + 2 * rng.below(2),
        };
        *options = Options {
            election_ticks: 4 + rng.below(7) as u32,
            heartbeat_ticks: 1 + rng.below(2) as u32,
            append_bytes_max: 64 + rng.below(1000) as usize,
            inflight_messages_max: 1 + rng.below(8) as usize,
            inflight_bytes_max: 100 + rng.below(4000) as usize,
            uncommitted_bytes_max: 2000,
            tail_bytes_max: 200 + rng.below(4000) as usize,
            lease: rng.one_in(2).then_some(Lease {
                tick_micros: TICK,
                drift_per_mille: 120,
            }),
        };
        swarm.bend(trap, rng, options);
        swarm
    }

    fn bend(&mut self, trap: Trap, rng: &mut Rng, options: &mut Options) {
        let mut often = |fault, times| self.faults.extend(std::iter::repeat_n(fault, times));
        match trap {
            Trap::None => {}
            Trap::Elections => {
                often(Fault::Campaign, 8);
                self.every = 30_000;
                self.crash_at_vote = 12;
                self.delay = 6;
                self.delay_max = 400_000;
            }
            Trap::Transfers => {
                often(Fault::TransferAndCut, 6);
                often(Fault::Heal, 2);
                self.every = 30_000;
            }
            Trap::ShortReigns => {
                often(Fault::CutLeader, 4);
                often(Fault::Heal, 4);
                often(Fault::Restart, 4);
                options.append_bytes_max = 1;
                options.inflight_messages_max = 1;
                options.election_ticks = 4;
                options.heartbeat_ticks = 1;
                self.crash_elected = 2;
                self.every = 20_000 + rng.below(40_000);
                self.voters = 5;
            }
            Trap::LateAcknowledgements => {
                often(Fault::CutLeader, 6);
                often(Fault::Heal, 5);
                options.election_ticks = 4;
                options.heartbeat_ticks = 1;
                self.late_acknowledgement = 2;
                self.delay_max = 100_000 + rng.below(500_000);
                self.under_way_arrives = true;
                self.every = 20_000 + rng.below(40_000);
                self.voters = 3 + 2 * rng.below(2);
            }
            Trap::SlowDisks => {
                often(Fault::CutLeader, 6);
                often(Fault::Heal, 5);
                options.election_ticks = 4;
                options.heartbeat_ticks = 1;
                self.slow_sync = 2;
                self.slow_sync_max = 100_000 + rng.below(400_000);
                self.every = 20_000 + rng.below(40_000);
            }
            Trap::LostVotes => {
                often(Fault::CutLeader, 6);
                often(Fault::Heal, 3);
                self.lose_vote = 3;
                self.every = 40_000;
            }
            Trap::Sleepers => {
                often(Fault::PauseLeader, 8);
                often(Fault::Heal, 2);
                options.lease = Some(Lease {
                    tick_micros: TICK,
                    drift_per_mille: 120,
                });
                self.every = 40_000;
                self.under_way_arrives = true;
            }
        }
    }

    /// Leaves out what the plan does.
    pub(super) fn only(&mut self, plan: &Plan) {
        let Some(faults) = &plan.faults else {
            return;
        };
        let ends = [Fault::Restart, Fault::Heal];
        self.faults
            .retain(|f| faults.contains(f) || ends.contains(f));
        self.faults.extend(faults);
        if !faults.contains(&Fault::Crash) {
            (self.crash_at_vote, self.crash_at_sync, self.crash_elected) = (NEVER, NEVER, NEVER);
            self.lose_vote = NEVER;
        }
        if !faults.contains(&Fault::Loss) {
            (self.loss, self.repeat) = (NEVER, NEVER);
        }
    }

    /// What comes next.
    pub(super) fn fault(&self, rng: &mut Rng) -> Fault {
        self.faults[rng.below(self.faults.len() as u64) as usize]
    }
}
