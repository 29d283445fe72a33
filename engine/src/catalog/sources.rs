//! A snapshot of the sources.

use std::{
    collections::HashMap,
    sync::{Arc, RwLock},
};

use super::readings::Readings;
use crate::{
    domain::{
        id::SourceId,
        name::{Slug, nearest},
        source::Source,
        time::Timestamp,
    },
    store::{self, Store},
};

/// The last committed sources.
pub struct Sources {
    store: Arc<dyn Store>,
    table: RwLock<Arc<SourceTable>>,
    readings: Readings,
}

/// Every source, by address and by name.
#[derive(Default)]
pub struct SourceTable {
    /// Each address with the end of its grace period, if a newer address has replaced it.
    by_address: HashMap<String, (Option<Timestamp>, Arc<Source>)>,
    by_name: HashMap<Slug, Arc<Source>>,
}

impl Sources {
    pub async fn new(store: Arc<dyn Store>) -> Result<Self, store::Error> {
        let sources = Self { store, table: RwLock::default(), readings: Readings::default() };
        sources.refresh().await?;
        Ok(sources)
    }

    /// Reads the last committed sources. A request that changes a source calls this before it answers.
    pub async fn refresh(&self) -> Result<(), store::Error> {
        let read = async {
            let mut table = SourceTable::default();
            for source in self.store.sources().await? {
                let source = Arc::new(source);
                let addresses = source.addresses().map(|(address, until)| (address, (until, Arc::clone(&source))));
                table.by_address.extend(addresses);
                table.by_name.insert(source.new.name.clone(), source);
            }
            *self.table.write().expect("no code panics while it swaps a snapshot") = Arc::new(table);
            Ok(())
        };
        self.readings.share(read).await
    }

    pub fn table(&self) -> Arc<SourceTable> {
        Arc::clone(&self.table.read().expect("no code panics while it swaps a snapshot"))
    }
}

impl SourceTable {
    /// Returns the source with this address at this time (steady clock). The look-up uses a hash with a random key per process, so
    /// its time reveals nothing about addresses.
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

    /// Returns every source, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Source>> {
        self.by_name.values()
    }

    pub fn count(&self) -> usize {
        self.by_name.len()
    }

    /// Returns the name that is most similar to `typed`.
    pub fn nearest(&self, typed: &str) -> Option<&str> {
        nearest(typed, self.by_name.keys().map(|name| &**name))
    }
}
