//! The demo's flow as a test: a primary and a replica, a kill -9 in the middle of a load, every key compared.

use xtask::node::Binaries;

#[test]
fn every_acknowledged_line_is_on_both_nodes_after_a_kill() {
    let binaries = Binaries {
        primary: env!("CARGO_BIN_EXE_primary").into(),
        replica: env!("CARGO_BIN_EXE_replica").into(),
    };
    let lines = 4000;
    let text = std::fs::read("/usr/share/unicode/UnicodeData.txt").unwrap_or_else(|_| {
        // Without Debian's unicode-data: lines of that shape.
        (0..lines)
            .flat_map(|n| format!("{n:04X};LINE {n};Lo;0;L;;;;;N;;;;;\n").into_bytes())
            .collect()
    });
    xtask::demo::load(&binaries, &xtask::demo::records(&text, lines), 400, 7).unwrap();
}
