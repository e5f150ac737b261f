//! How much of a layer is read at most.

/// Bounds of one layer; a layer beyond one of them is not scanned.
///
/// The defaults are those that section 11 of the reference recommends: well above every image
/// that is known, and below what a clever archive could ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the blob: 16 GiB.
    pub compressed_bytes: u64,
    /// Bytes of the tar: 64 GiB.
    pub uncompressed_bytes: u64,
    /// Entries and the folders that are only part of their names: 2 million.
    pub entries: u64,
    /// Bytes of one file: 16 GiB.
    pub file_bytes: u64,
    /// Bytes of one name: 4,096, which is what Linux takes.
    pub path_bytes: usize,
    /// Components of one name: 256.
    pub path_depth: usize,
    /// Bytes of one extended header: 1 MiB, which is what Go takes.
    pub pax_bytes: u64,
    /// Bytes of tar for each byte of the blob: 200.
    pub ratio: u64,
    /// Bytes of tar from which on the ratio counts: 1 GiB.
    pub ratio_after_bytes: u64,
    /// Binary logarithm of the largest window of zstd: 27, that is 128 MiB.
    pub zstd_window_log: u32,
}

impl Default for Limits {
    fn default() -> Self {
        const GIB: u64 = 1 << 30;
        Self {
            compressed_bytes: 16 * GIB,
            uncompressed_bytes: 64 * GIB,
            entries: 2_000_000,
            file_bytes: 16 * GIB,
            path_bytes: 4096,
            path_depth: 256,
            pax_bytes: 1 << 20,
            ratio: 200,
            ratio_after_bytes: GIB,
            zstd_window_log: 27,
        }
    }
}
