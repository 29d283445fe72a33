//! Endpoints as they are stored.

use async_trait::async_trait;

use super::Error;
use crate::domain::{
    endpoint::{Endpoint, EndpointState, NewEndpoint},
    event::NewEvent,
    id::EndpointId,
    time::Timestamp,
};

/// Stores endpoints.
#[async_trait]
pub trait Endpoints {
    /// # Errors
    /// [`Error::Taken`] if an endpoint has this name.
    async fn create_endpoint(&self, endpoint: NewEndpoint) -> Result<Endpoint, Error>;

    /// Replaces everything but the id, the name and the state: a change of the address must not undo a `410` that came meanwhile.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    async fn update_endpoint(&self, endpoint: Endpoint) -> Result<(), Error>;

    /// Changes only the state, and only from one of `from`. Returns whether it did. If so, `notice` is stored with it.
    ///
    /// # Errors
    /// If the commit failed: neither is stored.
    async fn set_endpoint_state(
        &self,
        id: EndpointId,
        from: &[EndpointState],
        to: EndpointState,
        notice: Option<NewEvent>,
    ) -> Result<bool, Error>;

    /// Deletes an endpoint and stores `notice` with the deletion. [`Self::close_deliveries`] cancels the deliveries that wait for it.
    ///
    /// # Errors
    /// [`Error::NotFound`], storing nothing.
    async fn delete_endpoint(&self, id: EndpointId, notice: Option<NewEvent>) -> Result<(), Error>;

    /// Returns all endpoints, by name.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if one cannot be read.
    async fn endpoints(&self) -> Result<Vec<Endpoint>, Error>;

    /// Notes since when (wall clock) an endpoint has been failing, or that it is no longer failing.
    ///
    /// # Errors
    /// If the commit failed.
    async fn note_failing(&self, id: EndpointId, since: Option<Timestamp>) -> Result<(), Error>;

    /// Ends one batch of the deliveries that wait for disabled or deleted endpoints: dead if disabled, cancelled if deleted. Returns
    /// their number.
    ///
    /// # Errors
    /// If the commit failed.
    async fn close_deliveries(&self, at: Timestamp) -> Result<usize, Error>;
}
