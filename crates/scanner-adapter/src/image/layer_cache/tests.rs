//! What the cache keeps of layers, and when that is not used.

use std::collections::BTreeMap;

use sluice_layer::{LayerType, Limits, read_layer};

use super::*;

const AGE: Duration = Duration::from_secs(3600);

/// A layer of one empty folder, and its results.
fn layer(name: &str) -> (LayerDescriptor, CachedLayer) {
    let mut tar = vec![0; 1536];
    let mut put = |at: usize, text: &[u8]| tar[at..at + text.len()].copy_from_slice(text);
    put(0, name.as_bytes());
    put(
        100,
        b"0000755\x000000000\x000000000\x0000000000000\x0000000000000\x00        5",
    );
    put(257, b"ustar\x0000");
    let sum: u32 = tar[..512].iter().map(|byte| u32::from(*byte)).sum();
    tar[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let digest = digest_of(&tar);
    let layer = LayerDescriptor {
        layer_type: LayerType::OciTar,
        digest: digest.clone(),
        size_bytes: 1536,
        diff_id: digest,
        annotations: BTreeMap::new(),
    };
    let summary = read_layer(tar.as_slice(), &layer, &Limits::default(), io::sink()).unwrap();
    let analysis = LayerAnalysis {
        key: format!("key of {name}"),
        message: Bytes::from(vec![7; 1000]),
    };
    (layer, CachedLayer { summary, analysis })
}

fn open(root: &Path, analysis_version: &str, max_bytes: u64) -> LayerCache {
    LayerCache::open(root, analysis_version, max_bytes, AGE).unwrap()
}

#[test]
fn a_layer_is_known_to_a_later_adapter_and_not_to_another_version_of_the_scanner() {
    let root = tempfile::tempdir().unwrap();
    let (layer, known) = layer("a/");
    let cache = open(root.path(), "scanner 1", 1 << 20);
    assert_eq!(cache.find(&layer), None);
    cache.store(&layer, &known).unwrap();
    drop(cache);
    assert_eq!(
        open(root.path(), "scanner 1", 1 << 20).find(&layer),
        Some(known)
    );
    assert_eq!(open(root.path(), "scanner 2", 1 << 20).find(&layer), None);
    // The other version removed the files of this one.
    assert_eq!(open(root.path(), "scanner 1", 1 << 20).find(&layer), None);
}

#[test]
fn the_same_bytes_with_another_diff_id_type_or_size_are_not_known() {
    let root = tempfile::tempdir().unwrap();
    let (layer, known) = layer("a/");
    let cache = open(root.path(), "", 1 << 20);
    cache.store(&layer, &known).unwrap();
    for other in [
        LayerDescriptor {
            diff_id: digest_of(b"other"),
            ..layer.clone()
        },
        LayerDescriptor {
            layer_type: LayerType::OciTarGzip,
            ..layer.clone()
        },
        LayerDescriptor {
            size_bytes: 1537,
            ..layer.clone()
        },
    ] {
        assert_eq!(cache.find(&other), None);
        // Not even where its file is that of the other.
        fs::copy(cache.path(&layer), cache.path(&other)).unwrap();
        assert_eq!(cache.find(&other), None);
    }
}

#[test]
fn a_file_that_was_cut_or_changed_counts_as_none_and_is_removed() {
    let root = tempfile::tempdir().unwrap();
    let (layer, known) = layer("a/");
    let cache = open(root.path(), "", 1 << 20);
    cache.store(&layer, &known).unwrap();
    let whole = fs::read(cache.path(&layer)).unwrap();
    let mut changed = whole.clone();
    *changed.last_mut().unwrap() ^= 1;
    for bytes in [
        &whole[..0],
        &whole[..10],
        &whole[..whole.len() - 1],
        &changed,
    ] {
        fs::write(cache.path(&layer), bytes).unwrap();
        assert_eq!(cache.find(&layer), None);
        assert!(!cache.path(&layer).exists());
    }
}

#[test]
fn the_least_recently_used_layers_are_removed_first_and_the_cache_stays_within_its_limit() {
    let root = tempfile::tempdir().unwrap();
    let cache = open(root.path(), "", 20_000);
    let layers: Vec<_> = (0..40).map(|number| layer(&format!("{number}/"))).collect();
    let (first, first_known) = &layers[0];
    for (layer, known) in &layers {
        cache.store(layer, known).unwrap();
        // Files of one instant have no order.
        let before = SystemTime::from(Utc::now()) - Duration::from_secs(60);
        let file = File::options().append(true).open(cache.path(layer));
        if let Ok(file) = file {
            file.set_modified(before).unwrap();
        }
        assert_eq!(
            cache.find(first).as_ref(),
            Some(first_known),
            "it is used all the time"
        );
    }
    let files = fs::read_dir(&cache.folder).unwrap().flatten();
    let total: u64 = files.map(|file| file.metadata().unwrap().len()).sum();
    assert!(total <= 20_000 && total > 5_000, "{total}");
    // A file that was not used for too long is removed whatever the size.
    let old = SystemTime::from(Utc::now()) - AGE * 2;
    let file = File::options()
        .append(true)
        .open(cache.path(first))
        .unwrap();
    file.set_modified(old).unwrap();
    drop(cache);
    assert_eq!(open(root.path(), "", 20_000).find(first), None);
}
