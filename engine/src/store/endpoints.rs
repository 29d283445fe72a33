//! Stored endpoints.

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

    /// Replaces everything except the id, the name and the state. A change of the URL must not undo a `410` that arrived
    /// meanwhile.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    async fn update_endpoint(&self, endpoint: Endpoint) -> Result<(), Error>;

    /// Changes only the state, and only from one of `from`. Returns whether it changed. If so, it stores `notice` in the same
    /// commit. A change to `active`, also from `active`, creates a job that makes due now what waits for its next try.
    ///
    /// # Errors
    /// If the commit failed: neither the state nor the notice is stored.
    async fn set_endpoint_state(
        &self,
        id: EndpointId,
        from: &[EndpointState],
        to: EndpointState,
        notice: Option<NewEvent>,
    ) -> Result<bool, Error>;

    /// Deletes an endpoint and stores `notice` in the same commit. [`Self::close_deliveries`] cancels its waiting deliveries.
    ///
    /// # Errors
    /// [`Error::NotFound`], storing nothing.
    async fn delete_endpoint(&self, id: EndpointId, notice: Option<NewEvent>) -> Result<(), Error>;

    /// Returns all endpoints, by name.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if one cannot be read.
    async fn endpoints(&self) -> Result<Vec<Endpoint>, Error>;

    /// Stores since when (wall clock) an endpoint has been failing, or that it no longer fails.
    ///
    /// # Errors
    /// If the commit failed.
    async fn note_failing(&self, id: EndpointId, since: Option<Timestamp>) -> Result<(), Error>;

    /// Closes one batch of deliveries that wait for disabled or deleted endpoints. They become dead if the endpoint is disabled,
    /// cancelled if it is deleted. Returns their number.
    ///
    /// # Errors
    /// If the commit failed.
    async fn close_deliveries(&self, at: Timestamp) -> Result<usize, Error>;
}
