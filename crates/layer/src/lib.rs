//! A strict reader of image layers: it accepts a layer only if every client unpacks the same files
//! from it, and a scanner that reads the tar that it wrote sees those files.
//!
//! It knows nothing of registries, scanners or the bus, and does no I/O of its own.

mod error;
mod layer_type;
mod limits;
mod packages;
mod path;
mod reader;
mod stacked_layers;
mod summary;
mod tar;

pub use crate::error::{Error, LayerRefusal, Rule};
pub use crate::layer_type::{Compression, LayerType};
pub use crate::limits::Limits;
pub use crate::packages::{
    Database, EXAMPLES, EntryForm, Language, LanguagePackages, PackageManager,
};
pub use crate::path::EntryPath;
pub use crate::reader::read_layer;
pub use crate::stacked_layers::{ImageContents, ImageDatabase, ImageLanguage, check_layers};
pub use crate::summary::{
    LayerDescriptor, LayerSummary, Note, RULES_VERSION, alternative_file_lists,
};
