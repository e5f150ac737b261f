//! A strict reader of image layers: it accepts a layer only if every client unpacks the same files
//! from it, and a scanner that reads the tar that it wrote sees those files.
//!
//! It knows nothing of registries, scanners or the bus, and does no I/O of its own.

mod blob;
mod decompress;
mod error;
mod image;
mod layer_type;
mod limits;
mod packages;
mod path;
mod stream;
mod summary;
mod tar;

use std::io::{Read, Write};

pub use crate::error::{Error, Refused, Rule};
pub use crate::image::{ImageContents, ImageDatabase, ImageLanguage, check_layers};
pub use crate::layer_type::{Compression, LayerType};
pub use crate::limits::Limits;
pub use crate::packages::{
    Database, EXAMPLES, EntryForm, Language, LanguagePackages, PackageManager,
};
pub use crate::path::EntryPath;
pub use crate::summary::{LayerDescriptor, LayerSummary, Note, RULES_VERSION, second_views};

/// Reads a layer once, writes its tar, and tells what is in it.
///
/// What was written counts only if a summary is returned; after an error it must be thrown away.
/// `std::io::sink()` takes the tar of a layer whose files nobody needs.
/// To end it early, let `blob` return an error; it comes back as [`Error::Source`].
///
/// Memory does not grow with the bytes of the layer. It grows with its names, by 17 to 34 bytes
/// for each however long it is: to 102 MiB at 2 million of them ([`Limits::entries`]), and to twice
/// as much in an archive that leaves out the entries of its folders. zstd takes up to the window
/// that [`Limits::zstd_window_log`] allows. A stored summary takes 30 bytes for each symbolic link
/// and whiteout, and the names of the folders that are no entries.
///
/// # Errors
///
/// [`Error::Refused`] and [`Error::Limit`] are final: the bytes are those of the digest, and they
/// are not read. After all others another try may succeed.
pub fn read_layer(
    blob: impl Read,
    descriptor: &LayerDescriptor,
    limits: &Limits,
    tar: impl Write,
) -> Result<LayerSummary, Error> {
    stream::read_layer(blob, descriptor, limits, tar)
}
