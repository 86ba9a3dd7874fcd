//! What openraft's suite does not ask: what is there after a restart, after power cuts at any call, with damage, with large payloads.

mod support;

use esker_openraft::LogStore;
use esker_wal::media::Media;
use esker_wal::media::sim::{CallKind, EIO, Fault};
use openraft::storage::{RaftLogReader, RaftLogStorage};
use std::path::Path;
use support::{DIR, Store, all, append, entry, id, medium, open, options, vote};

fn texts(term: u64, range: std::ops::Range<u64>) -> Vec<(u64, String)> {
    range.map(|i| (i, format!("{term}.{i}"))).collect()
}

async fn fill(store: &mut Store, term: u64, range: std::ops::Range<u64>) {
    let entries = range.map(|i| entry(term, i, &format!("{term}.{i}")));
    append(store, entries.collect()).await.unwrap();
}

/// OR1.
#[tokio::test]
async fn all_is_there_after_a_restart() {
    let media = medium();
    let mut store = open(&media);
    fill(&mut store, 1, 0..10).await;
    store.save_vote(&vote(3)).await.unwrap();
    store.truncate_after(Some(id(1, 6))).await.unwrap();
    fill(&mut store, 3, 7..9).await;
    store.save_committed(Some(id(1, 5))).await.unwrap();
    store.purge(id(1, 2)).await.unwrap();
    store.close().unwrap();
    let mut store = open(&media);
    let kept = [texts(1, 3..7), texts(3, 7..9)].concat();
    assert_eq!(all(&mut store).await, kept);
    assert_eq!(store.read_vote().await.unwrap(), Some(vote(3)));
    assert_eq!(store.read_committed().await.unwrap(), Some(id(1, 5)));
    let state = store.get_log_state().await.unwrap();
    assert_eq!(state.last_purged_log_id, Some(id(1, 2)));
    assert_eq!(state.last_log_id, Some(id(3, 8)));
    // A hole is refused.
    assert!(append(&mut store, vec![entry(3, 10, "x")]).await.is_err());
    fill(&mut store, 3, 9..10).await;
    // A snapshot beyond the end.
    store.purge(id(4, 100)).await.unwrap();
    assert_eq!(all(&mut store).await, []);
    fill(&mut store, 4, 101..103).await;
    store.close().unwrap();
    let mut store = open(&media);
    assert_eq!(all(&mut store).await, texts(4, 101..103));
}

/// OR4.
#[tokio::test]
async fn what_is_purged_gives_its_files_back_and_the_rest_stays() {
    let media = medium();
    let mut store = open(&media);
    store.save_vote(&vote(7)).await.unwrap();
    let mut most = 0;
    for round in 0..40 {
        fill(&mut store, 7, round * 50..round * 50 + 50).await;
        if round > 0 {
            store.purge(id(7, round * 50 - 10)).await.unwrap();
        }
        if round % 7 == 0 {
            store.close().unwrap();
            store = open(&media);
            assert_eq!(store.read_vote().await.unwrap(), Some(vote(7)), "{round}");
            let first = (round * 50).saturating_sub(9) * u64::from(round > 0);
            assert_eq!(all(&mut store).await, texts(7, first..round * 50 + 50));
        }
        most = most.max(media.list(Path::new(DIR)).unwrap().len());
    }
    // 40 rounds of 50 entries are eight segments and more.
    assert!(most < 14, "{most} files");
}

/// OR4: an older purge can stand before entries whose predecessors' files are gone.
#[tokio::test]
async fn of_several_purges_the_last_says_what_is_missing() {
    // With one of these lengths the first segment ends before the first purge.
    for (n, last) in (44..48).flat_map(|n| (0..264).step_by(8).map(move |last| (n, last))) {
        let media = medium();
        let mut store = open(&media);
        let len = |i| if i + 1 == n { last } else { 200 };
        let entries = (0..n).map(|i| entry(1, i, &"x".repeat(len(i))));
        append(&mut store, entries.collect()).await.unwrap();
        store.purge(id(1, 10)).await.unwrap();
        fill(&mut store, 2, n..n + 5).await;
        store.purge(id(1, n - 1)).await.unwrap();
        store.close().unwrap();
        let mut store = open(&media);
        assert_eq!(all(&mut store).await, texts(2, n..n + 5), "{n} {last}");
    }
}

/// OR2, OR3: the power goes at each call of a history that has everything in it.
#[tokio::test]
async fn what_was_acknowledged_survives_a_power_cut_at_any_call() {
    for (cuts, n) in (1..).enumerate() {
        let media = medium();
        let mut store = open(&media);
        media.cut_at_call(n);
        let mut kept = Vec::new();
        let mut voted = None;
        let mut purged = None;
        // Until something fails: then the power is gone.
        let mut run = async || -> std::io::Result<()> {
            for round in 0..6u64 {
                let term = round + 1;
                store.save_vote(&vote(term)).await?;
                voted = Some(term);
                // The end of before is superseded.
                let next = kept.len() as u64;
                let keep = next.saturating_sub(3);
                if round > 0 {
                    store.truncate_after(Some(id(round, keep - 1))).await?;
                }
                let entries = (keep..keep + 30).map(|i| entry(term, i, &"x".repeat(60)));
                append(&mut store, entries.collect()).await?;
                kept.truncate(keep as usize);
                kept.extend((keep..keep + 30).map(|i| (term, i)));
                if round == 3 {
                    store.purge(id(kept[20].0, 20)).await?;
                    purged = Some(20);
                }
            }
            Ok(())
        };
        let through = run().await.is_ok();
        drop(store);
        media.power_cut(n);
        media.heal();
        let mut store = open(&media);
        let state = store.get_log_state().await.unwrap();
        let found = store
            .read_vote()
            .await
            .unwrap()
            .map_or(0, |v| v.leader_id.term);
        assert!(found >= voted.unwrap_or(0), "cut at {n}: a vote is gone");
        let at = state.last_purged_log_id.map(|id| id.index);
        assert!(at >= purged, "cut at {n}: a purge is undone");
        let entries = store.try_get_log_entries(..).await.unwrap();
        // What was not acknowledged may be there too, and supersede the last three.
        for (term, index) in &kept {
            let newer = voted.unwrap_or(0).max(found) > *term && *index + 3 >= kept.len() as u64;
            let there = entries.iter().find(|e| e.log_id.index == *index);
            let is = there.is_some_and(|e| e.log_id.committed_leader_id().term == *term);
            assert!(
                is || newer || at.is_some_and(|at| *index <= at),
                "cut at {n}: entry {term}.{index} is gone: {there:?}"
            );
        }
        if through {
            assert!(cuts > 30, "{cuts}");
            return;
        }
    }
}

/// OR6: nothing is acknowledged behind a sync that failed.
#[tokio::test]
async fn a_failed_sync_is_told_and_ends_the_log() {
    let media = medium();
    let mut store = open(&media);
    fill(&mut store, 1, 0..3).await;
    media.fail(Fault::nth(1).of(CallKind::SyncMap).errno(EIO));
    assert!(append(&mut store, vec![entry(1, 3, "x")]).await.is_err());
    assert!(append(&mut store, vec![entry(1, 4, "x")]).await.is_err());
    assert!(store.save_vote(&vote(9)).await.is_err());
}

/// OR5.
#[tokio::test]
async fn damage_is_reported_by_open() {
    let media = medium();
    let mut store = open(&media);
    fill(&mut store, 1, 0..20).await;
    store.close().unwrap();
    let (path, bytes) = (media.image().into_iter())
        .find(|(path, bytes)| {
            path.extension().is_some_and(|e| e == "seg") && bytes.windows(3).any(|w| w == b"1.7")
        })
        .unwrap();
    let at = bytes.windows(3).position(|w| w == b"1.7").unwrap();
    media.flip(&path, at as u64, 1).unwrap();
    let error = LogStore::<support::Config>::open(options(&media)).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData, "{error}");
}

/// A payload larger than a segment, and an empty one; read in parts.
#[tokio::test]
async fn payloads_of_any_size_come_back() {
    let media = medium();
    let mut store = open(&media);
    let large = "y".repeat(3 << 20);
    let entries = vec![entry(1, 0, ""), entry(1, 1, &large), entry(1, 2, "z")];
    append(&mut store, entries).await.unwrap();
    for _ in 0..2 {
        let texts: Vec<String> = all(&mut store).await.into_iter().map(|(_, t)| t).collect();
        assert_eq!(texts, ["", &large, "z"]);
        let part = store.limited_get_log_entries(0, 3).await.unwrap();
        assert_eq!(part.len(), 2, "ended by its bytes");
        assert_eq!(store.limited_get_log_entries(2, 3).await.unwrap().len(), 1);
        store.close().unwrap();
        store = open(&media);
    }
}

/// A directory is bound to its node.
#[tokio::test]
async fn another_node_s_directory_is_refused() {
    let media = medium();
    open(&media).close().unwrap();
    let mut other = options(&media);
    other.node = 4;
    assert!(LogStore::<support::Config>::open(other).is_err());
}
