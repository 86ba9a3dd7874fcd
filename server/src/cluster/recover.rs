//! `esker cluster recover`: the last resort where a majority is lost for good; see [`esker_raft::runtime::Recovery`].

use crate::raft_node::Commands;
use clap::Args;
use esker_lsm::StoreOptions;
use esker_raft::core::NodeId;
use esker_raft::log::{Identity, LogStore, WalLog, WalLogOptions};
use esker_raft::machine::LsmMachine;
use esker_raft::runtime::{MachineError, Recovery, StateMachine};
use esker_wal::media::real::RealMedia;
use esker_wal::{LogId, Survey, VerifyOptions, verify};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

#[derive(Debug, Args)]
pub struct RecoverArgs {
    /// The data directory of the node that is to go on; the node is stopped
    dir: PathBuf,
    /// The node's id
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    id: u64,
    /// Number of the cluster
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    cluster_id: u64,
    /// Do it. Without, it says what would be done and what that risks, and changes nothing
    #[arg(long)]
    i_accept_data_loss: bool,
}

pub(super) fn run(args: &RecoverArgs) -> ExitCode {
    let mut out = io::stdout().lock();
    match recover(&mut out, args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(why) => {
            // Nothing is left to do where these fail too.
            let _ = out.flush();
            let _ = writeln!(io::stderr(), "esker: {why}");
            ExitCode::from(2)
        }
    }
}

fn text(error: impl ToString) -> String {
    error.to_string()
}

fn has_files(dir: &Path) -> Result<bool, String> {
    match std::fs::read_dir(dir) {
        Ok(mut entries) => Ok(entries.next().is_some()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(format!("{}: {error}", dir.display())),
    }
}

/// Opens the state, which no other process has open then.
fn open_state(args: &RecoverArgs, dir: &Path) -> Result<LsmMachine<Commands>, String> {
    let id = LogId(u128::from(args.cluster_id));
    let opened = LsmMachine::open(dir, id, StoreOptions::default(), Commands::default());
    opened.map_err(|error: MachineError| {
        let io = error.source.downcast_ref::<io::Error>();
        match io.map(io::Error::kind) {
            Some(io::ErrorKind::WouldBlock) => format!(
                "{} is in use by another process; stop the node first",
                args.dir.display()
            ),
            _ => error.to_string(),
        }
    })
}

/// Whether it was done.
fn recover(out: &mut impl Write, args: &RecoverArgs) -> Result<bool, String> {
    let (log_dir, state_dir) = (args.dir.join("log"), args.dir.join("state"));
    for dir in [&log_dir, &state_dir] {
        if !has_files(dir)? {
            return Err(format!(
                "{} is empty or not there: {} is no data directory of a raft-node that has run",
                dir.display(),
                args.dir.display()
            ));
        }
    }
    let survey = Survey::of(&log_dir, Arc::new(RealMedia::default())).map_err(text)?;
    let (cluster, id) = (survey.log_id().0 >> 64, survey.log_id().0 as u64);
    if (cluster, id) != (u128::from(args.cluster_id), args.id) {
        return Err(format!(
            "{} is the directory of node {id} of cluster {cluster}: say --id {id} --cluster-id {cluster} if that is the one to go on with",
            args.dir.display()
        ));
    }
    drop(survey);
    let mut machine = open_state(args, &state_dir)?;
    // Read alone, before anything opens the log to write.
    let verified = verify(&log_dir, &VerifyOptions::default()).map_err(text)?;
    if let Some(damage) = verified.damage.first() {
        return Err(format!(
            "the log is damaged, so what this node held can't be told: {damage}. Recover from another member; `esker log verify` says more"
        ));
    }
    let identity = Identity {
        cluster: args.cluster_id,
        group: 1,
        node: NodeId(args.id),
    };
    let (mut log, recovered) =
        WalLog::open(&log_dir, identity, WalLogOptions::default()).map_err(text)?;
    let recovery = Recovery::survey(NodeId(args.id), &recovered, &mut machine).map_err(text)?;
    say(out, args, &recovery).map_err(text)?;
    if args.i_accept_data_loss {
        recovery.carry_out(&mut log).map_err(text)?;
    }
    log.close().map_err(text)?;
    machine.close().map_err(text)?;
    let said = match args.i_accept_data_loss {
        true => done(out, args, &recovery),
        false => writeln!(
            out,
            "\nNothing was changed. To do it, say --i-accept-data-loss."
        ),
    };
    said.map_err(text)?;
    Ok(args.i_accept_data_loss)
}

fn say(out: &mut impl Write, args: &RecoverArgs, recovery: &Recovery) -> io::Result<()> {
    let lost: Vec<String> = recovery
        .lost()
        .iter()
        .map(|n| format!("node {n}"))
        .collect();
    let kept = recovery.last.index.0 - recovery.committed.index.0;
    let learner = match recovery.membership.is_voter(recovery.node) {
        true => "",
        false => ", a learner: it was asked for no acknowledgement, and may lack more than a voter",
    };
    writeln!(
        out,
        "Going on with node {} of cluster {} alone, in {}{learner}.\n",
        recovery.node,
        args.cluster_id,
        args.dir.display()
    )?;
    writeln!(
        out,
        "given up:   {}\nterm:       {}\nincarnation: {}\ncommitted:  up to {} (term.index) for certain: it is in this node's state",
        lost.join(", "),
        recovery.term,
        recovery.incarnation.0,
        recovery.committed
    )?;
    writeln!(
        out,
        "kept:       {kept} entries behind that, up to {}; whether they were acknowledged is not known here, and they become committed",
        recovery.last
    )?;
    writeln!(
        out,
        "
What this risks:
- Writes that were acknowledged and that only lost members hold are gone. Of several survivors recover the one whose log ends last:
  the highest term, then the highest index of \"kept: ... up to\". Run this on each without --i-accept-data-loss first.
- Writes that were answered UNKNOWNOUTCOME may take effect, now or never.
- The members that are given up must never come back with their old disks, other survivors included. This node will not hear them; but
  they may elect a leader among themselves and serve clients what is history here. Empty their directories before they start."
    )
}

fn done(out: &mut impl Write, args: &RecoverArgs, recovery: &Recovery) -> io::Result<()> {
    let (id, incarnation) = (args.id, recovery.incarnation.1);
    writeln!(
        out,
        "
Done: node {id} is the only voter, of incarnation {incarnation} of the cluster.
Start it with the command line that it always had. Then let others join, with empty directories: start each with
`raft-node --join --incarnation {incarnation} ...`, and send this node RAFT.ADD."
    )
}
