//! Stored endpoints.

use async_trait::async_trait;

use super::Error;
use crate::domain::{
    endpoint::{Endpoint, EndpointState, NewEndpoint},
    event::NewEvent,
    id::EndpointId,
    name::Slug,
    time::Timestamp,
};

/// Whether a deletion may remove an endpoint that is in use.
#[derive(Clone, Debug)]
pub enum Deletion {
    /// Removes the endpoint in any case. The caller accepts that waiting webhooks are cancelled.
    Forced,
    /// Refuses if deliveries wait for the endpoint, or if one of these plugins recently sent webhooks to it by its name.
    Unused { serving: Vec<Slug> },
}

/// Maximum number of deleted endpoints whose names are known. This is enough for plugins that still name a deleted endpoint, and
/// few enough that the names can be read again after each change of an endpoint.
pub const DELETED_KNOWN_MAX: i64 = 10_000;
/// Maximum number of waiting deliveries of each kind that are counted before a deletion.
pub const WAITING_COUNTED_MAX: i64 = 100_000;
/// To find the plugins that send to an endpoint, this number of its last finished deliveries is searched.
pub const SENT_CHECKED_MAX: i64 = 1_000;

/// Maximum number of unfinished deliveries of one endpoint, of each kind, that [`Endpoints::backlogs`] counts.
pub const BACKLOG_COUNTED_MAX: i64 = 10_000;

/// The unfinished deliveries of an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Number of these deliveries. `None` if there are more than [`BACKLOG_COUNTED_MAX`].
    pub waiting: Option<u64>,
    /// When the oldest event of these deliveries was accepted (wall clock). `None` if no delivery waits, or if more than
    /// [`BACKLOG_COUNTED_MAX`] wait.
    pub oldest: Option<Timestamp>,
}

/// Stores endpoints.
#[async_trait]
pub trait Endpoints {
    /// # Errors
    /// [`Error::Taken`] if an endpoint has this name.
    async fn create_endpoint(&self, endpoint: NewEndpoint) -> Result<Endpoint, Error>;

    /// Replaces everything except the id, the name and the state. The state stays, because a change of the URL must not undo the
    /// effect of a `410` that arrived in the meantime.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    async fn update_endpoint(&self, endpoint: Endpoint) -> Result<(), Error>;

    /// Changes the state, and nothing else, if the present state is one of `from`. Returns whether the state changed. If it
    /// changed, `notice` is stored in the same commit. A change to `active`, even from `active`, creates a job that makes the
    /// endpoint's retrying deliveries due now.
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
    /// [`Error::Conflict`] if the endpoint is in use and `deletion` does not allow that; [`Error::NotFound`]. In both cases nothing
    /// is stored.
    async fn delete_endpoint(&self, id: EndpointId, deletion: Deletion, notice: Option<NewEvent>) -> Result<(), Error>;

    /// Returns all endpoints, sorted by name.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if one cannot be read.
    async fn endpoints(&self) -> Result<Vec<Endpoint>, Error>;

    /// Counts the unfinished deliveries of each of these endpoints, in the given order. Includes deliveries that are being sent.
    ///
    /// # Errors
    /// If the store does not answer.
    async fn backlogs(&self, endpoints: &[EndpointId]) -> Result<Vec<Backlog>, Error>;

    /// Returns the names of the last [`DELETED_KNOWN_MAX`] deleted endpoints. A deleted endpoint is forgotten once retention has
    /// deleted its last delivery and every event that was accepted before the endpoint was deleted.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if one cannot be read.
    async fn deleted_endpoints(&self) -> Result<Vec<(Slug, EndpointId)>, Error>;

    /// Stores since when (wall clock) an endpoint has been failing, or that it no longer fails.
    ///
    /// # Errors
    /// If the commit failed.
    async fn note_failing(&self, id: EndpointId, since: Option<Timestamp>) -> Result<(), Error>;

    /// Returns the endpoints that are failing, and since when (wall clock).
    ///
    /// # Errors
    /// If the store does not answer.
    async fn failing_endpoints(&self) -> Result<Vec<(EndpointId, Timestamp)>, Error>;

    /// Closes one batch of deliveries that wait for disabled or deleted endpoints. A delivery becomes dead if its endpoint is
    /// disabled, and cancelled if its endpoint is deleted. Returns the number of closed deliveries.
    ///
    /// # Errors
    /// If the commit failed.
    async fn close_deliveries(&self, at: Timestamp) -> Result<usize, Error>;
}
