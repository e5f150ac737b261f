//! The object store of reports, named by content.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::object_store::{GetErrorKind, ObjectInfo, ObjectStore};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use tokio::io::AsyncReadExt as _;

use crate::connection::backend::Backend;
use crate::connection::{Bus, Link};
use crate::error::Error;
use crate::streams::reader::drain_pending;
use crate::topology::REPORTS;

/// The largest object that is read, in bytes.
const MAX_OBJECT: usize = 256 << 20;
/// How long reading an object may take; that of one that is removed meanwhile would never end.
const READ_LIMIT: Duration = Duration::from_secs(60);

/// An object store.
#[derive(Clone)]
pub struct Objects {
    backend: ObjectBackend,
}

/// An object, without its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredObject {
    /// Its name.
    pub name: String,
    /// When it was stored last.
    pub stored_at: Option<DateTime<Utc>>,
    /// The id of its chunks in their subjects.
    chunks: String,
    /// The subject and sequence of the message with its metadata.
    metadata: (String, u64),
}

/// Where objects are stored; in a simulation, a bucket holds them.
#[derive(Clone)]
enum ObjectBackend {
    Server(Box<ObjectStore>, Bus),
    Simulated(Arc<dyn Backend>),
}

impl std::fmt::Debug for Objects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(REPORTS)
    }
}

impl Bus {
    /// Opens the store of reports.
    ///
    /// # Errors
    /// A store that is not provisioned.
    pub async fn reports(&self) -> Result<Objects, Error> {
        let backend = match &self.link {
            Link::Server(js) => {
                let store = js.get_object_store(REPORTS).await;
                let store = store.map_err(Error::server("open object store", REPORTS))?;
                ObjectBackend::Server(Box::new(store), self.clone())
            }
            Link::Simulated(backend) => ObjectBackend::Simulated(backend.clone()),
        };
        Ok(Objects { backend })
    }
}

impl Objects {
    /// Stores an object; the last writer wins, so names are content digests.
    pub async fn put(&self, name: &str, bytes: Bytes) -> Result<(), Error> {
        let store = match &self.backend {
            ObjectBackend::Server(store, _) => store,
            ObjectBackend::Simulated(backend) => {
                let write = backend.write(REPORTS, name.to_owned(), bytes, None).await;
                return write.map(drop).map_err(Error::server("store", name));
            }
        };
        let mut reader = bytes.as_ref();
        store
            .put(name, &mut reader)
            .await
            .map(drop)
            .map_err(Error::server("store", name))
    }

    /// Reads an object.
    ///
    /// # Errors
    /// [`Error::Missing`] where there is none, [`Error::TooLarge`] above 256 MiB.
    pub async fn get(&self, name: &str) -> Result<Vec<u8>, Error> {
        let store = match &self.backend {
            ObjectBackend::Server(store, _) => store,
            ObjectBackend::Simulated(backend) => {
                let state = backend.read(REPORTS, name.to_owned()).await;
                let state = state.map_err(Error::server("read object", name))?;
                let value = state.and_then(|state| state.value);
                return value.map(Into::into).ok_or_else(|| missing(name));
            }
        };
        let mut object = store.get(name).await.map_err(|error| match error.kind() {
            GetErrorKind::NotFound => missing(name),
            _ => Error::server("read object", name)(error),
        })?;
        let size_bytes = object.info().size;
        if size_bytes > MAX_OBJECT {
            return Err(Error::TooLarge {
                name: name.to_owned(),
                size_bytes,
                limit_bytes: MAX_OBJECT,
            });
        }
        let mut bytes = Vec::with_capacity(size_bytes);
        tokio::time::timeout(READ_LIMIT, object.read_to_end(&mut bytes))
            .await
            .map_err(Error::server("read object", name))?
            .map_err(Error::server("read object", name))?;
        Ok(bytes)
    }

    /// Passes on every object, oldest first, until `visit` breaks; a simulation has none.
    pub async fn for_each(
        &self,
        mut visit: impl FnMut(StoredObject) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        let ObjectBackend::Server(_, bus) = &self.backend else {
            return Ok(());
        };
        let filter = format!("$O.{REPORTS}.M.>");
        let consumer = bus
            .ordered_consumer(&stream(), &filter, DeliverPolicy::All)
            .await?;
        drain_pending(consumer, "list", REPORTS, |message| {
            match read_metadata(message) {
                Some(object) => visit(object),
                None => ControlFlow::Continue(()),
            }
        })
        .await
    }

    /// Removes an object unless it was stored again since it was listed; says whether it did.
    ///
    /// Its chunks are purged first, so that none are left without metadata.
    pub async fn purge_if_unchanged(&self, object: &StoredObject) -> Result<bool, Error> {
        let ObjectBackend::Server(_, bus) = &self.backend else {
            return Ok(false);
        };
        let (action, name) = ("forget object", &object.name);
        let stream = bus.stream_handle(&stream()).await?;
        let chunks = format!("$O.{REPORTS}.C.{}", object.chunks);
        let purged = stream.purge().filter(chunks).await;
        purged.map_err(Error::server(action, name))?;
        let (subject, sequence) = &object.metadata;
        // The sequence itself is not purged.
        let purge = stream.purge().sequence(sequence.saturating_add(1));
        let purged = purge.filter(subject).await;
        let purged = purged.map_err(Error::server(action, name))?;
        Ok(purged.purged > 0)
    }
}

/// Returns the stream that holds the objects.
fn stream() -> String {
    format!("OBJ_{REPORTS}")
}

/// Reads the metadata of an object, unless the object was removed.
fn read_metadata(message: &Message) -> Option<StoredObject> {
    let info: ObjectInfo = serde_json::from_slice(&message.payload).ok()?;
    let metadata = (
        message.subject.to_string(),
        message.info().ok()?.stream_sequence,
    );
    let modified = info.modified;
    let stored_at = modified.and_then(|at| DateTime::from_timestamp(at.unix_timestamp(), 0));
    (!info.deleted).then_some(StoredObject {
        name: info.name,
        stored_at,
        chunks: info.nuid,
        metadata,
    })
}

fn missing(name: &str) -> Error {
    Error::Missing {
        what: format!("{REPORTS}/{name}"),
    }
}
