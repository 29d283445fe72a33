//! Stored sources.

use std::collections::HashMap;

use async_trait::async_trait;

use super::Error;
use crate::domain::{
    id::SourceId,
    source::{NewSource, Requests, Source},
};

/// Stores sources.
#[async_trait]
pub trait Sources {
    /// # Errors
    /// [`Error::Taken`] if a source has this name.
    async fn create_source(&self, source: NewSource) -> Result<Source, Error>;

    /// Replaces everything except the id and the name.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    async fn update_source(&self, source: Source) -> Result<(), Error>;

    /// Deletes a source. Its events stay. Its name and its address become free.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    async fn delete_source(&self, id: SourceId) -> Result<(), Error>;

    /// Adds counts and refusals of requests to sources. Sources that no longer exist are skipped.
    ///
    /// # Errors
    /// If the store cannot be written; then nothing is added.
    async fn add_source_requests(&self, requests: Vec<(SourceId, Requests)>) -> Result<(), Error>;

    /// Returns the counts and refusals of each source since it was created, over all nodes.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if one cannot be read.
    async fn source_requests(&self) -> Result<HashMap<SourceId, Requests>, Error>;

    /// Returns all sources, sorted by name.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if one cannot be read.
    async fn sources(&self) -> Result<Vec<Source>, Error>;
}
