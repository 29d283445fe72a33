//! The sources, as a snapshot for many look-ups.

use std::{
    collections::HashMap,
    sync::{Arc, RwLock},
};

use crate::{
    domain::{
        id::SourceId,
        name::{Slug, nearest},
        source::Source,
        time::Timestamp,
    },
    store::{self, Store},
};

/// The sources as last committed.
pub struct Sources {
    store: Arc<dyn Store>,
    table: RwLock<Arc<SourceTable>>,
    /// Whoever read last swaps last.
    refreshing: tokio::sync::Mutex<()>,
}

/// Every source, by address and by name.
#[derive(Default)]
pub struct SourceTable {
    /// Each with when it ends, if a newer one has replaced it.
    by_address: HashMap<String, (Option<Timestamp>, Arc<Source>)>,
    by_name: HashMap<Slug, Arc<Source>>,
}

impl Sources {
    pub async fn new(store: Arc<dyn Store>) -> Result<Self, store::Error> {
        let sources = Self { store, table: RwLock::default(), refreshing: tokio::sync::Mutex::default() };
        sources.refresh().await?;
        Ok(sources)
    }

    /// Makes the sources as last committed the ones that are known. Whoever changes one calls this before it answers.
    pub async fn refresh(&self) -> Result<(), store::Error> {
        let _alone = self.refreshing.lock().await;
        let mut table = SourceTable::default();
        for source in self.store.sources().await? {
            let source = Arc::new(source);
            let addresses = source.addresses().map(|(address, until)| (address, (until, Arc::clone(&source))));
            table.by_address.extend(addresses);
            table.by_name.insert(source.new.name.clone(), source);
        }
        *self.table.write().expect("no code panics while it swaps a snapshot") = Arc::new(table);
        Ok(())
    }

    pub fn table(&self) -> Arc<SourceTable> {
        Arc::clone(&self.table.read().expect("no code panics while it swaps a snapshot"))
    }
}

impl SourceTable {
    /// The source whose address ends so at this moment (steady clock). It is found by a hash with a key of this process, so the time
    /// that it takes tells nothing of addresses.
    pub fn at(&self, address: &str, now: Timestamp) -> Option<&Arc<Source>> {
        let (until, source) = self.by_address.get(address)?;
        until.is_none_or(|until| now < until).then_some(source)
    }

    pub fn named(&self, name: &str) -> Option<&Arc<Source>> {
        self.by_name.get(&Slug::parse(name).ok()?)
    }

    pub fn get(&self, id: SourceId) -> Option<&Arc<Source>> {
        self.by_name.values().find(|source| source.id == id)
    }

    pub fn count(&self) -> usize {
        self.by_name.len()
    }

    /// The name that someone most likely meant.
    pub fn nearest(&self, typed: &str) -> Option<&str> {
        nearest(typed, self.by_name.keys().map(|name| &**name))
    }
}
