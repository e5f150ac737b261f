//! Reads one layer: its blob, the compression, the tar and the entries.

pub(crate) mod blob;
pub(crate) mod decompress;

use std::io::{Read, Write};

use crate::error::{Error, LayerRefusal, Rule};
use crate::limits::Limits;
use crate::summary::{LayerDescriptor, LayerSummary, Note, RULES_VERSION, alternative_file_lists};
use crate::tar;
use crate::tar::stream::TarStream;

use self::blob::BlobReader;
use self::decompress::{Decoder, MAGIC_BYTES, check_tar_start, compression};

/// Reads a layer once, writes its tar, and returns the summary of its content.
///
/// What was written counts only if a summary is returned; after an error it must be discarded.
/// Pass `std::io::sink()` as `tar` if the files are not needed.
/// To stop early, let `blob` return an error; it comes back as [`Error::Source`].
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
    if descriptor.size_bytes == 0 {
        return Err(LayerRefusal::new(Rule::Size, "the blob is empty").into());
    }
    if descriptor.size_bytes > limits.compressed_bytes {
        return Err(Error::Limit {
            limit: "the size of the blob in bytes",
            max: limits.compressed_bytes,
        });
    }
    let mut blob = BlobReader::new(blob, descriptor.size_bytes);
    let outcome = read_tar(&mut blob, descriptor, limits, tar);
    blob.finish(descriptor, outcome)
}

fn read_tar<R: Read>(
    blob: &mut BlobReader<R>,
    descriptor: &LayerDescriptor,
    limits: &Limits,
    output: impl Write,
) -> Result<LayerSummary, Error> {
    // An error of the source is found by `BlobReader::finish`, which has the last word.
    let broken = |error| Error::Source(error);
    let mut notes = alternative_file_lists(&descriptor.annotations);
    let actual = match blob.peek(MAGIC_BYTES) {
        Ok(first) => compression(descriptor.layer_type, first)?,
        Err(_) => return Err(LayerRefusal::new(Rule::Size, "the blob cannot be read").into()),
    };
    let declared = descriptor.layer_type.declared();
    if actual != declared {
        notes.push(Note::OtherCompression { declared, actual });
    }
    let decoder = Decoder::new(blob, actual, limits.zstd_window_log).map_err(broken)?;
    let mut stream = TarStream::new(decoder, output, limits, descriptor.size_bytes);
    check_tar_start(stream.peek(MAGIC_BYTES)?)?;
    let entries = tar::read_entries(&mut stream, limits)?;
    let (diff_id, uncompressed_bytes) = stream.finish()?;
    if diff_id != descriptor.diff_id.as_str() {
        return Err(LayerRefusal::new(
            Rule::DiffId,
            format!(
                "the tar is {diff_id}, and the configuration says {}",
                descriptor.diff_id
            ),
        )
        .into());
    }
    Ok(LayerSummary {
        rules_version: RULES_VERSION,
        layer_type: descriptor.layer_type,
        digest: descriptor.digest.clone(),
        size_bytes: descriptor.size_bytes,
        diff_id: descriptor.diff_id.clone(),
        uncompressed_bytes,
        entries: entries.count,
        largest_file_bytes: entries.largest_file_bytes,
        notes,
        databases: entries.packages.databases,
        languages: entries.packages.languages,
        sboms: entries.packages.sboms,
        sbom_examples: entries.packages.sbom_examples,
        left_out: entries.packages.left_out,
        left_out_examples: entries.packages.left_out_examples,
        tree: entries.tree,
    })
}
