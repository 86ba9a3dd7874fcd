//! Concurrency primitives of Esker.
//!
//! Each primitive is a small module that states its invariants, its reason to exist and its
//! memory-ordering argument. All of them stand on [`shim`], which is std and parking_lot in a
//! normal build and loom under `--cfg esker_loom`; `loom-tests/` holds a model of each, beside a
//! broken twin that loom must catch. No I/O here.
//!
//! | module | what | first user |
//! |---|---|---|
//! | [`watermark`] | a position that only grows, with threads and tasks that wait for it | the log's `published` and `synced` |
//! | [`tail`] | reserve in order, fill in parallel, publish with one word | the log's append path |
//! | [`group`] | one leader works for all who wait, and hands over | the log's group commit |
//! | [`histogram`] | counts of values by magnitude | the log's numbers |
//! | [`mod@line`] | a value with cache lines of its own | what each append writes |
//! | [`attended`] | a thing behind a mutex with a mark that is raised without waiting | `HEAD` of an audit trail |
//! | [`baton`] | work of one owner, done by whoever brings some | the core of a Raft node |
//! | [`bell`] | wakes a worker, remembers that it rang | flusher and preparer |
//! | [`deadline`] | when a wait ends, however long it may be | every wait with a time |
//! | [`events`] | subscriptions with filters and bounds, misses counted | the log's events |
//! | [`sequencer`] | work done out of order becomes visible in order | the store's writers |
//! | [`skiplist`] | sorted keys and their versions, added to and read by many, in an arena | the store's memtable |
//! | [`span`] | who owns which positions | the store's memtables |
//! | [`oneshot`] | one value for one waiter | what is proposed to Raft |
//! | [`positions`] | a position below which things are gone, and holds that keep it down | readers and slots of the log |
//! | [`stop`] | hierarchical stop signal | every worker |
//! | [`wanted`] | who brings something need not say so to who will look by itself | requests to a Raft node |
//! | [`interrupt`] | ends one thread's waits | a reader that tails the log |
//! | [`workers`] | named threads that are joined, panics reported | every component with threads |
#![deny(unsafe_code)]
#![deny(missing_docs)]

pub mod attended;
pub mod baton;
pub mod bell;
pub mod deadline;
pub mod events;
pub mod group;
pub mod histogram;
pub mod interrupt;
pub mod line;
pub mod oneshot;
pub mod positions;
pub mod sequencer;
pub mod shim;
#[allow(unsafe_code, reason = "nodes of many lengths in an arena")]
pub mod skiplist;
pub mod span;
pub mod stop;
pub mod tail;
pub mod wanted;
pub mod watermark;
#[cfg(not(esker_loom))]
pub mod workers;
