//! An application that is audited: transfers between accounts, who made them, and how they ended. `cargo run -p esker-audit --example ledger`
#![allow(clippy::print_stdout, reason = "an example prints")]

use esker_audit::{
    Format, Keyring, Options, Query, Reader, Record, Severity, Trail, VerifyOptions,
};
use esker_audit::{export, verify};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let scratch = tempfile::tempdir()?;
    let (dir, key_file) = (
        scratch.path().join("audit"),
        scratch.path().join("audit.keys"),
    );
    let keys = Keyring::load_or_create(&key_file)?;
    let (trail, _) = Trail::open(&dir, keys.clone(), Options::default())?;

    let mut balance = 100;
    for (n, (who, amount)) in [("ann", 30), ("bob", 90), ("cid", 20)]
        .into_iter()
        .enumerate()
    {
        let transfer = Record::new("account.debit")
            .actor(who, who)
            .resource("account", "4711")
            .request(format!("r-{n}"))
            .with("amount", amount)
            .secret("card", "4111 1111 1111 1111");
        if balance < amount {
            let refused = transfer.severity(Severity::Warning);
            trail.record(refused.failure("FUNDS", "the account does not hold so much"))?;
            continue;
        }
        // Before it is done: where this can't be written, it is not.
        trail.record(transfer.clone().intent())?;
        balance -= amount;
        trail.record(transfer.success())?;
    }
    let kept_elsewhere = trail.checkpoint()?;
    trail.close()?;

    let report = verify(
        &dir,
        &keys,
        &VerifyOptions {
            against: Some(kept_elsewhere),
            ..VerifyOptions::default()
        },
    )?;
    println!("whole: {}, {} records", report.is_whole(), report.entries);

    let failures = Query {
        outcome: Some(esker_audit::Outcome::Failure),
        ..Query::default()
    };
    let mut found = Reader::open(&dir, keys)?.query(failures)?;
    export(&mut found, std::io::stdout().lock(), Format::JsonLines)?;
    Ok(())
}
