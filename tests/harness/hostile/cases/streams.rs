//! How layers are packed, and which contents the image claims (the `c` rows, `q01`, `j09`).

use serde_json::json;

use super::super::image::{DOCKER_GZIP, Layer, Spec, TAR, TAR_GZIP, TAR_ZSTD};
use super::super::packing::{
    archive_before_gzip, archive_before_zstd, gzip, python, skippable, zstd,
};
use super::super::{CLEAN, STATUS, VULNERABLE, only, system, system_with};
use super::{Case, base};
use crate::hostile::Bundle;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = two_readings();
    cases.extend(claims());
    cases.extend(framing());
    cases.extend(ends());
    cases
}

fn one(layer: Layer) -> Bundle {
    Spec::of(vec![layer]).build()
}

/// A blob of this type over a clean base, with what is said to be in it.
fn packed(media_type: &str, blob: Vec<u8>, unpacked: &[u8]) -> Bundle {
    one(Layer::new(media_type, blob, unpacked))
}

/// Blobs that hold one archive for some readers and another for others.
fn two_readings() -> Vec<Case> {
    let (clean, evil) = (system_with(CLEAN), system_with(VULNERABLE));
    let visible =
        |archive: super::super::Archive| archive.raw(&system().file(STATUS, CLEAN).without_end());
    let skipped = archive_before_zstd(visible, &evil);
    let extra = archive_before_gzip(visible, &evil);
    let hello = [skippable(b"hello"), zstd(&evil)].concat();
    vec![
        Case::promoted("c01", one(Layer::gzip(&clean))),
        Case::vulnerable("c01-evil", one(Layer::gzip(&evil))),
        Case::refused(
            "c02-zstd",
            "rule 8,",
            packed(TAR_ZSTD, skipped.clone(), &evil),
        ),
        Case::refused(
            "c02-gzip",
            "rule 8,",
            packed(TAR_GZIP, skipped.clone(), &evil),
        ),
        Case::refused(
            "c02-docker",
            "rule 8,",
            packed(DOCKER_GZIP, skipped.clone(), &evil),
        ),
        Case::refused("c02r", "rule 8,", packed(TAR, skipped.clone(), &skipped)),
        Case::refused("c02b", "rule 8,", packed(TAR_ZSTD, hello, &evil)),
        Case::refused("c03r", "rule 8,", packed(TAR, extra.clone(), &extra)),
        Case::vulnerable("c03g", packed(TAR_GZIP, extra.clone(), &evil)),
        // Packed once more: what is in the blob is an archive to clients, and a gzip member to a scanner that looks again.
        Case::refused("q01", "rule 9,", packed(TAR_GZIP, gzip(&extra), &extra)),
        Case::refused(
            "q01-zstd",
            "rule 9,",
            packed(TAR_ZSTD, zstd(&skipped), &skipped),
        ),
    ]
}

/// Images whose claims do not fit their layers.
fn claims() -> Vec<Case> {
    let (clean, evil) = (system_with(CLEAN), system_with(VULNERABLE));
    let top = only(VULNERABLE);
    let both = || Spec::of(vec![base(), Layer::gzip(&top)]);
    let off = |by: i64| {
        let layer = base();
        let size = layer.descriptor["size"].as_i64().unwrap() + by;
        one(layer.with("size", json!(size)))
    };
    vec![
        Case::refused(
            "c04",
            "rule 11,",
            Spec::of(vec![Layer::gzip(&evil)])
                .diff_ids(&[&clean])
                .build(),
        ),
        Case::refused(
            "c06",
            "rule 11,",
            both().diff_ids(&[&clean, &clean]).build(),
        ),
        Case::refused("c07", "", both().diff_ids(&[b"never seen"]).build()),
        Case::refused("c07-known", "", both().diff_ids(&[&clean]).build()).later(),
        Case::refused(
            "c07b",
            "",
            Spec::of(vec![base()]).diff_ids(&[&clean, &top]).build(),
        ),
        Case::refused(
            "c07c",
            "",
            Spec::of(vec![Layer::gzip(&evil)]).diff_ids(&[]).build(),
        ),
        Case::promoted("c07d", Spec::of(vec![base(), base()]).build()),
        Case::refused("j09", "(rule 6)", off(5)),
        Case::refused("j09-short", "(rule 6)", off(-5)),
        Case::refused(
            "c-order",
            "rule 11,",
            Spec::of(vec![Layer::gzip(&top), base()])
                .diff_ids(&[&clean, &top])
                .build(),
        ),
        Case::refused(
            "c-upper",
            "",
            Spec::of(vec![base()]).build_with(|config| {
                let digest = config["rootfs"]["diff_ids"][0].as_str().unwrap();
                let hex = digest.strip_prefix("sha256:").unwrap();
                config.to_string().replace(hex, &hex.to_uppercase())
            }),
        ),
        Case::refused("c-nothing", "", Spec::of(vec![]).build()),
    ]
}

/// Compressed streams that are not just one member or frame.
fn framing() -> Vec<Case> {
    let clean = system_with(CLEAN);
    let (first, rest) = clean.split_at(700);
    let members = [gzip(first), gzip(rest)].concat();
    let after = |more: &[u8]| [&gzip(&clean)[..], more].concat();
    let cut = gzip(&clean)[..gzip(&clean).len() - 6].to_vec();
    let mut wrong_sum = gzip(&clean);
    let at = wrong_sum.len() - 8;
    wrong_sum[at] ^= 1;
    let mut wrong_length = gzip(&clean);
    let at = wrong_length.len() - 1;
    wrong_length[at] ^= 1;
    let frames = [zstd(first), skippable(b"x"), zstd(rest), skippable(b"y")].concat();
    // Not the bytes of `v01`, which the registry serves forged.
    let raw = system().file(STATUS, CLEAN).file("raw", "").finish();
    let zstd_cut = zstd(&clean)[..zstd(&clean).len() - 6].to_vec();
    vec![
        Case::promoted("c09", packed(TAR_GZIP, members, &clean)),
        Case::refused(
            "c08",
            "rule 10,",
            packed(TAR_GZIP, after(b"junk after the member"), &clean),
        ),
        Case::refused(
            "c08-zeros",
            "rule 10,",
            packed(TAR_GZIP, after(&[0; 512]), &clean),
        ),
        Case::refused("c10", "rule 10,", packed(TAR_GZIP, cut, &clean)),
        Case::refused("c10b", "rule 10,", packed(TAR_GZIP, wrong_sum, &clean)),
        Case::refused(
            "c10-length",
            "rule 10,",
            packed(TAR_GZIP, wrong_length, &clean),
        ),
        Case::promoted(
            "c12z",
            packed(TAR_ZSTD, [zstd(first), zstd(rest)].concat(), &clean),
        ),
        Case::promoted("c12y", packed(TAR_ZSTD, frames, &clean)),
        Case::refused(
            "c12x",
            "rule 10,",
            packed(TAR_ZSTD, [&zstd(&clean)[..], b"junk"].concat(), &clean),
        ),
        Case::refused("c12x-cut", "rule 10,", packed(TAR_ZSTD, zstd_cut, &clean)),
        Case::refused(
            "c13b",
            "rule 8,",
            packed(DOCKER_GZIP, python("bz2", &clean), &clean),
        ),
        Case::refused(
            "c13x",
            "rule 8,",
            packed(DOCKER_GZIP, python("lzma", &clean), &clean),
        ),
        Case::refused("c13g", "rule 8,", packed(TAR, gzip(&clean), &clean)),
        Case::refused(
            "c13g-claimed",
            "rule 8,",
            packed(TAR, gzip(&clean), &gzip(&clean)),
        ),
        Case::promoted("c13r", packed(TAR_GZIP, raw.clone(), &raw)),
        Case::promoted("c13z", packed(TAR_GZIP, zstd(&clean), &clean)),
        Case::promoted("c13-zstd-gzip", packed(TAR_ZSTD, gzip(&clean), &clean)),
        Case::promoted("c01-raw", packed(TAR, raw.clone(), &raw)),
        Case::refused(
            "c13e",
            "(rule 6)",
            Spec::of(vec![base(), Layer::new(TAR_GZIP, Vec::new(), b"")]).build(),
        ),
    ]
}

/// Where an archive ends.
fn ends() -> Vec<Case> {
    let clean = system_with(CLEAN);
    let second = [clean.clone(), only(VULNERABLE)].concat();
    let entry = super::super::Archive::default().file(STATUS, VULNERABLE);
    let one_block = system()
        .raw(&[0; 512])
        .raw(&entry.clone().without_end())
        .finish();
    let open = system().file(STATUS, CLEAN).without_end();
    let block_short = system().file(STATUS, CLEAN).raw(&[0; 512]).without_end();
    let zeros = [clean.clone(), vec![0; 9_216]].concat();
    let ragged = [clean.clone(), vec![0; 100]].concat();
    let cut = clean[..clean.len() - 1_100].to_vec();
    let not_an_archive = b"this is no archive at all, only text".repeat(40);
    vec![
        Case::refused("c11", "rule 12,", one(Layer::gzip(&second))),
        Case::refused("c11b", "rule 12,", one(Layer::gzip(&one_block))),
        Case::promoted("c11c", one(Layer::gzip(&open))),
        // Every client takes the end of the stream for the second block.
        Case::promoted("c11-one-block", one(Layer::gzip(&block_short))),
        Case::promoted("c11-zeros", one(Layer::gzip(&zeros))),
        Case::promoted("c11-ragged", one(Layer::gzip(&ragged))),
        Case::refused("c11-cut", "rule 12,", one(Layer::gzip(&cut))),
        Case::refused(
            "c11-text",
            "rule 12,",
            Spec::of(vec![base(), Layer::gzip(&not_an_archive)]).build(),
        ),
    ]
}
