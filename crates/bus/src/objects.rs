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

use crate::backend::{Backend, Link};
use crate::connect::Bus;
use crate::error::Error;
use crate::read::to_the_end;
use crate::topology::REPORTS;

/// The largest object that is read back, in bytes.
const MAX_OBJECT: usize = 256 << 20;
/// How long reading an object may take; one that is removed meanwhile would never end.
const READ_LIMIT: Duration = Duration::from_secs(60);

/// An object store.
#[derive(Clone)]
pub struct Objects {
    place: ObjectBackend,
}

/// An object, without its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredObject {
    /// Its name.
    pub name: String,
    /// When it was stored last.
    pub stored_at: Option<DateTime<Utc>>,
    /// Where its bytes are.
    chunks: String,
    /// Its subject, with the place of the message that describes it.
    described: (String, u64),
}

/// Where it is; in a simulation, a bucket holds the objects.
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
    /// A store that was not provisioned.
    pub async fn reports(&self) -> Result<Objects, Error> {
        let place = match &self.link {
            Link::Server(js) => {
                let store = js.get_object_store(REPORTS).await;
                let store = store.map_err(Error::server("open object store", REPORTS))?;
                ObjectBackend::Server(Box::new(store), self.clone())
            }
            Link::Simulated(backend) => ObjectBackend::Simulated(backend.clone()),
        };
        Ok(Objects { place })
    }
}

impl Objects {
    /// Stores an object; the last writer wins, so names are content digests.
    ///
    /// # Errors
    /// A server that does not answer.
    pub async fn put(&self, name: &str, bytes: Bytes) -> Result<(), Error> {
        let store = match &self.place {
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
    /// [`Error::Missing`] where there is none, one that is too large, or a server that does not answer.
    pub async fn get(&self, name: &str) -> Result<Vec<u8>, Error> {
        let store = match &self.place {
            ObjectBackend::Server(store, _) => store,
            ObjectBackend::Simulated(backend) => {
                let mark = backend.read(REPORTS, name.to_owned()).await;
                let mark = mark.map_err(Error::server("read object", name))?;
                let value = mark.and_then(|mark| mark.value);
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

    /// Hands over every object, oldest first, until `take` has enough; a simulation has none.
    ///
    /// # Errors
    /// A server that does not answer.
    pub async fn each(
        &self,
        mut take: impl FnMut(StoredObject) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        let ObjectBackend::Server(_, bus) = &self.place else {
            return Ok(());
        };
        let filter = format!("$O.{REPORTS}.M.>");
        let reader = bus.reader(&stream(), &filter, DeliverPolicy::All).await?;
        to_the_end(reader, "list", REPORTS, |message| {
            match described(message) {
                Some(object) => take(object),
                None => ControlFlow::Continue(()),
            }
        })
        .await
    }

    /// Removes an object if nobody has stored it again since it was listed; says whether it did.
    ///
    /// Its bytes go first, so that none are left that nothing describes.
    ///
    /// # Errors
    /// A server that does not answer.
    pub async fn forget(&self, object: &StoredObject) -> Result<bool, Error> {
        let ObjectBackend::Server(_, bus) = &self.place else {
            return Ok(false);
        };
        let (action, name) = ("forget object", &object.name);
        let stream = bus.server()?.get_stream_no_info(stream()).await;
        let stream = stream.map_err(Error::server(action, name))?;
        let chunks = format!("$O.{REPORTS}.C.{}", object.chunks);
        let purged = stream.purge().filter(chunks).await;
        purged.map_err(Error::server(action, name))?;
        let (subject, sequence) = &object.described;
        // Up to this number, and without it.
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

/// Reads what describes an object, unless that was removed.
fn described(message: &Message) -> Option<StoredObject> {
    let info: ObjectInfo = serde_json::from_slice(&message.payload).ok()?;
    let described = (
        message.subject.to_string(),
        message.info().ok()?.stream_sequence,
    );
    let modified = info.modified;
    let stored_at = modified.and_then(|at| DateTime::from_timestamp(at.unix_timestamp(), 0));
    (!info.deleted).then_some(StoredObject {
        name: info.name,
        stored_at,
        chunks: info.nuid,
        described,
    })
}

fn missing(name: &str) -> Error {
    Error::Missing {
        what: format!("{REPORTS}/{name}"),
    }
}
