//! Calls of containerd's own services, for what CRI has nothing for: snapshots, and the leases that keep what a pull has
//! fetched. Other runtimes answer all of them with [`Error::Unimplemented`].

use tonic::Request;
use tonic::metadata::MetadataValue;

use super::client::{CHANGE, CRI_NAMESPACE, Client, QUERY, request};
use super::containerd_leases::leases_client::LeasesClient;
use super::containerd_leases::{CreateRequest, DeleteRequest, Lease, ListRequest};
use super::containerd_snapshots::RemoveSnapshotRequest;
use super::containerd_snapshots::snapshots_client::SnapshotsClient;
use super::error::{Error, if_found};

/// Label of leases that end by themselves, as those of pulls do (containerd, "Garbage Collection").
const EXPIRES: &str = "containerd.io/gc.expire";
/// ID of the lease whose deletion has containerd remove what nothing refers to.
const COLLECTION: &str = "podkeeper-garbage-collection";

/// The lease of a pull: content and snapshots that no image refers to yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullLease {
    /// Its ID.
    pub id: String,
    /// Time of its creation, in seconds since 1970, by the clock of that time.
    pub created: i64,
}

impl Client {
    /// Lists the leases of pulls, those of other clients of containerd among them.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn pull_leases(&self) -> Result<Vec<PullLease>, Error> {
        let mut client = LeasesClient::new(self.channel.clone());
        let call = Box::pin(client.list(of_cri(request(ListRequest::default(), QUERY))));
        let list = self.finish("ListLeases", QUERY, call).await?;
        let of_pulls = |lease: &Lease| lease.labels.contains_key(EXPIRES);
        let leases = list.leases.into_iter().filter(of_pulls);
        let lease = |lease: Lease| PullLease {
            created: lease.created_at.map_or(0, |time| time.seconds),
            id: lease.id,
        };
        Ok(leases.map(lease).collect())
    }

    /// Deletes a lease; one that is not there is none to delete.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn delete_lease(&self, id: &str) -> Result<(), Error> {
        self.delete(id, false).await
    }

    /// Has containerd remove the content and the snapshots that nothing refers to, and waits for that.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn collect_garbage(&self) -> Result<(), Error> {
        let message = CreateRequest {
            id: COLLECTION.to_owned(),
            ..CreateRequest::default()
        };
        let mut client = LeasesClient::new(self.channel.clone());
        let call = Box::pin(client.create(of_cri(request(message, QUERY))));
        match self.finish("CreateLease", QUERY, call).await {
            // One of an agent that was killed.
            Ok(_) | Err(Error::Failed { .. }) => self.delete(COLLECTION, true).await,
            Err(error) => Err(error),
        }
    }

    async fn delete(&self, id: &str, sync: bool) -> Result<(), Error> {
        let message = DeleteRequest {
            id: id.to_owned(),
            sync,
        };
        let mut client = LeasesClient::new(self.channel.clone());
        let call = Box::pin(client.delete(of_cri(request(message, CHANGE))));
        if_found(self.finish("DeleteLease", CHANGE, call).await).map(drop)
    }

    /// Removes a snapshot; one that is not there is none to remove.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn remove_snapshot(&self, snapshotter: &str, key: &str) -> Result<(), Error> {
        let message = RemoveSnapshotRequest {
            snapshotter: snapshotter.to_owned(),
            key: key.to_owned(),
        };
        let mut client = SnapshotsClient::new(self.channel.clone());
        let call = Box::pin(client.remove(of_cri(request(message, CHANGE))));
        if_found(self.finish("RemoveSnapshot", CHANGE, call).await).map(drop)
    }
}

/// Names the namespace of the CRI plugin in a request.
fn of_cri<T>(mut request: Request<T>) -> Request<T> {
    let namespace = MetadataValue::from_static(CRI_NAMESPACE);
    request
        .metadata_mut()
        .insert("containerd-namespace", namespace);
    request
}
