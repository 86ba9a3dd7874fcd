//! E1: closing leaves no thread and no descriptor. One test: it looks at the whole process.

mod common;

use common::*;

fn threads() -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir("/proc/self/task")
        .unwrap()
        .filter_map(|t| std::fs::read_to_string(t.unwrap().path().join("comm")).ok())
        .map(|name| name.trim().to_string())
        .filter(|name| name.starts_with("esker") || name.starts_with("ZMQ"))
        .collect();
    names.sort();
    names
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn mappings_of(dir: &std::path::Path) -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines()
        .filter(|l| l.contains(dir.to_str().unwrap()))
        .count()
}

#[test]
fn e1_closing_leaves_no_thread_descriptor_or_mapping() {
    let dir = TempDir::new();
    let before = descriptors();
    for round in 0..3 {
        let node = Node::open(&dir.path("p"));
        let follower = replica(&dir.path("r"), &node.primary.endpoint());
        let nowhere = replica(&dir.path("nowhere"), "tcp://127.0.0.1:1");
        let end = node.write("k", 50);
        caught_up(&follower, end);
        let names = threads();
        for name in ["esker-repl-out", "esker-repl-in", "esker-repl-app"] {
            assert!(
                names.iter().any(|n| n == name),
                "{name} is not in {names:?}"
            );
        }
        nowhere.close().unwrap();
        nowhere.close().unwrap();
        follower.close().unwrap();
        drop((nowhere, follower));
        node.primary.close();
        node.primary.close();
        node.store.close().unwrap();
        drop(node);
        assert_eq!(threads(), Vec::<String>::new(), "round {round}");
        assert_eq!(descriptors(), before, "round {round}");
        assert_eq!(mappings_of(&dir.0), 0, "round {round}");
    }
    // Dropping without closing does the same.
    let node = Node::open(&dir.path("p"));
    let follower = replica(&dir.path("r"), &node.primary.endpoint());
    caught_up(&follower, node.end());
    drop(follower);
    drop(node);
    assert_eq!(threads(), Vec::<String>::new());
    assert_eq!(descriptors(), before);
}
