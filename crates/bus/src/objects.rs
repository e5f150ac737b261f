//! The object store of reports, named by content.

use async_nats::jetstream::object_store::ObjectStore;
use bytes::Bytes;
use tokio::io::AsyncReadExt as _;

use crate::connect::Bus;
use crate::error::Error;
use crate::topology::REPORTS;

/// The largest object that is read back, in bytes.
const MAX_OBJECT: u64 = 256 << 20;

/// An object store.
#[derive(Clone)]
pub struct Objects {
    store: ObjectStore,
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
        let store = self
            .js
            .get_object_store(REPORTS)
            .await
            .map_err(Error::server("open object store", REPORTS))?;
        Ok(Objects { store })
    }
}

impl Objects {
    /// Stores an object; the last writer wins, so names are content digests.
    ///
    /// # Errors
    /// A server that does not answer.
    pub async fn put(&self, name: &str, bytes: Bytes) -> Result<(), Error> {
        let mut reader = bytes.as_ref();
        self.store
            .put(name, &mut reader)
            .await
            .map(drop)
            .map_err(Error::server("store", name))
    }

    /// Reads an object.
    ///
    /// # Errors
    /// An object that does not exist, or a server that does not answer.
    pub async fn get(&self, name: &str) -> Result<Vec<u8>, Error> {
        let object = self
            .store
            .get(name)
            .await
            .map_err(Error::server("read object", name))?;
        let mut bytes = Vec::new();
        object
            .take(MAX_OBJECT)
            .read_to_end(&mut bytes)
            .await
            .map_err(Error::server("read object", name))?;
        Ok(bytes)
    }
}
