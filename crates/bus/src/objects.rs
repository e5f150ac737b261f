//! The object store of reports, named by content.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::object_store::{DeleteErrorKind, GetErrorKind, ObjectStore};
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use tokio::io::AsyncReadExt as _;

use crate::backend::{Backend, Link};
use crate::connect::Bus;
use crate::error::Error;
use crate::topology::REPORTS;

/// The largest object that is read back, in bytes.
const MAX_OBJECT: usize = 256 << 20;
/// How long reading an object may take; one that is removed meanwhile would never end.
const READ_LIMIT: Duration = Duration::from_secs(60);

/// An object store.
#[derive(Clone)]
pub struct Objects {
    place: Place,
}

/// Where it is; in a simulation, a bucket holds the objects.
#[derive(Clone)]
enum Place {
    Server(Box<ObjectStore>),
    Supplied(Arc<dyn Backend>),
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
            Link::Server(js) => Place::Server(Box::new(
                js.get_object_store(REPORTS)
                    .await
                    .map_err(Error::server("open object store", REPORTS))?,
            )),
            Link::Supplied(backend) => Place::Supplied(backend.clone()),
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
            Place::Server(store) => store,
            Place::Supplied(backend) => {
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
            Place::Server(store) => store,
            Place::Supplied(backend) => {
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

    /// Removes an object, if there is one.
    ///
    /// # Errors
    /// A server that does not answer.
    pub async fn delete(&self, name: &str) -> Result<(), Error> {
        let store = match &self.place {
            Place::Server(store) => store,
            Place::Supplied(backend) => {
                let removal = backend.remove(REPORTS, name.to_owned(), None).await;
                return removal.map_err(Error::server("delete object", name));
            }
        };
        match store.delete(name).await {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == DeleteErrorKind::NotFound => Ok(()),
            Err(error) => Err(Error::server("delete object", name)(error)),
        }
    }

    /// Lists the names of all objects.
    ///
    /// # Errors
    /// A server that does not answer.
    pub async fn list(&self) -> Result<Vec<String>, Error> {
        let store = match &self.place {
            Place::Server(store) => store,
            Place::Supplied(backend) => {
                let entries = backend.list(REPORTS, ">".to_owned()).await;
                let entries = entries.map_err(Error::server("list objects of", REPORTS))?;
                return Ok(entries.into_iter().map(|entry| entry.key).collect());
            }
        };
        let list = store
            .list()
            .await
            .map_err(Error::server("list objects of", REPORTS))?;
        list.map_ok(|object| object.name)
            .try_collect()
            .await
            .map_err(Error::server("list objects of", REPORTS))
    }
}

fn missing(name: &str) -> Error {
    Error::Missing {
        what: format!("{REPORTS}/{name}"),
    }
}
