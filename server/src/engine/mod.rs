//! The store with key locks and expiry. (Placeholder; see the contract.)

/// The store with key locks and expiry.
#[derive(Debug)]
pub struct Engine {
    store: esker_lsm::Store,
}

/// What INFO and the metrics show of the engine.
#[derive(Clone, Copy, Debug, Default)]
pub struct EngineStats {
    /// Lookups that found their key.
    pub hits: u64,
    /// Lookups that did not.
    pub misses: u64,
    /// Keys deleted because their deadline passed.
    pub expired: u64,
    /// Keys, estimated.
    pub keys: u64,
    /// Of these, with a deadline; estimated.
    pub expires: u64,
}

impl Engine {
    /// On `store`; `writer` is false on a replica.
    #[must_use]
    pub fn new(store: esker_lsm::Store, writer: bool) -> Self {
        let _ = writer;
        Engine { store }
    }
    /// The store.
    #[must_use]
    pub fn store(&self) -> &esker_lsm::Store {
        &self.store
    }
    /// Numbers.
    #[must_use]
    pub fn stats(&self) -> EngineStats {
        EngineStats::default()
    }
    /// Sets the counters (not the estimates) to zero.
    pub fn reset_stats(&self) {}
    /// A promotion made this node the writer.
    pub fn set_writer(&self) {}
    /// Ends its workers; the store stays open.
    pub fn close(&self) {}
}
