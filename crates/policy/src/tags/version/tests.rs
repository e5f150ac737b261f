//! What tags of real repositories are read as.

use proptest::prelude::*;

use super::*;

type Read = (
    &'static str,
    &'static [u64],
    Option<(u8, &'static [u64])>,
    &'static [u64],
    &'static str,
);

/// Tags with their numbers, pre-release, revisions and variant.
const TAGS: [Read; 53] = [
    ("v1.2", &[1, 2], None, &[], ""),
    ("1.27", &[1, 27], None, &[], ""),
    ("1.27.3", &[1, 27, 3], None, &[], ""),
    ("1.27.3-alpine3.20", &[1, 27, 3], None, &[], "alpine3.20"),
    ("1.27.3-alpine-slim", &[1, 27, 3], None, &[], "alpine-slim"),
    ("v1.31.0-rc.1", &[1, 31, 0], Some((5, &[1])), &[], ""),
    ("1.2.3-rc1", &[1, 2, 3], Some((5, &[1])), &[], ""),
    ("1.2.3rc1", &[1, 2, 3], Some((5, &[1])), &[], ""),
    ("3.14.0a2", &[3, 14, 0], Some((2, &[2])), &[], ""),
    ("19beta3-alpine", &[19], Some((3, &[3])), &[], "alpine"),
    ("1.27rc1-alpine", &[1, 27], Some((5, &[1])), &[], "alpine"),
    (
        "1.2.3-beta2-alpine",
        &[1, 2, 3],
        Some((3, &[2])),
        &[],
        "alpine",
    ),
    (
        "24-ea-28-jdk-oracle",
        &[24],
        Some((2, &[28])),
        &[],
        "jdk-oracle",
    ),
    ("22-ea-21", &[22], Some((2, &[21])), &[], ""),
    (
        "28-ea-11-jdk-slim",
        &[28],
        Some((2, &[11])),
        &[],
        "jdk-slim",
    ),
    ("1.4.0-pre.1", &[1, 4, 0], Some((4, &[1])), &[], ""),
    ("1.4.0-M1", &[1, 4, 0], Some((4, &[1])), &[], ""),
    ("1.4.0.M1", &[1, 4, 0], Some((4, &[1])), &[], ""),
    ("2.0.0.Alpha1", &[2, 0, 0], Some((2, &[1])), &[], ""),
    ("2.0.0.CR1", &[2, 0, 0], Some((5, &[1])), &[], ""),
    ("999.0.0-SNAPSHOT", &[999, 0, 0], Some((0, &[])), &[], ""),
    (
        "3.5-dev5-alpine3.24",
        &[3, 5],
        Some((1, &[5])),
        &[],
        "alpine3.24",
    ),
    ("13.0.1-ubi10-rc", &[13, 0, 1], Some((5, &[])), &[], "ubi10"),
    ("1.2-alpine-nightly", &[1, 2], Some((0, &[])), &[], "alpine"),
    (
        "1.29.0-alpha.1.10",
        &[1, 29, 0],
        Some((2, &[1, 10])),
        &[],
        "",
    ),
    ("9.0.100-preview.3", &[9, 0, 100], Some((4, &[3])), &[], ""),
    ("1.2.0-PREVIEW2", &[1, 2, 0], Some((4, &[2])), &[], ""),
    ("1.9.7.Final", &[1, 9, 7], None, &[], ""),
    ("2.5.4.RELEASE", &[2, 5, 4], None, &[], ""),
    ("2019-GA-ubuntu-16.04", &[2019], None, &[], "ubuntu-16.04"),
    (
        "8.0.36-debian-12-r11",
        &[8, 0, 36],
        None,
        &[11],
        "debian-12",
    ),
    ("1.10.1-r2-alpine", &[1, 10, 1], None, &[2], "alpine"),
    ("4.0.14-ls51", &[4, 0, 14], None, &[51], ""),
    (
        "1.32.5.7349-8f4248874-ls51",
        &[1, 32, 5, 7349],
        None,
        &[51],
        "",
    ),
    ("1.27.3-0", &[1, 27, 3], None, &[0], ""),
    ("17.0.9_9-jre", &[17, 0, 9], None, &[9], "jre"),
    ("8u392-b08-jre", &[8, 0, 392], None, &[8], "jre"),
    ("8u392-jre", &[8, 0, 392], None, &[], "jre"),
    ("18.2.1-20240118", &[18, 2, 1], None, &[20_240_118], ""),
    (
        "4.8-20240109-windowsservercore-ltsc2019",
        &[4, 8],
        None,
        &[20_240_109],
        "windowsservercore-ltsc2019",
    ),
    ("1.2.3-5-g1f0d3ab", &[1, 2, 3], None, &[5], ""),
    ("1.2.3-3a7f9c1", &[1, 2, 3], None, &[], ""),
    ("v1.2.3+k3s1", &[1, 2, 3], None, &[], "k3s1"),
    ("2.4.62-0ubuntu1", &[2, 4, 62], None, &[], "0ubuntu1"),
    (
        "12.3.1-devel-ubuntu22.04",
        &[12, 3, 1],
        None,
        &[],
        "devel-ubuntu22.04",
    ),
    ("11-jdk-alpine-3.21", &[11], None, &[], "jdk-alpine-3.21"),
    ("1.7.0-eksbuild.1", &[1, 7, 0], None, &[], "eksbuild.1"),
    ("1.7.0-build.3", &[1, 7, 0], None, &[3], ""),
    (
        "2023.12.20260817.0",
        &[2023, 12, 20_260_817, 0],
        None,
        &[],
        "",
    ),
    ("2026.11.23", &[2026, 11, 23], None, &[], ""),
    ("2025-lta-developer", &[2025], None, &[], "lta-developer"),
    ("1.2.3.4", &[1, 2, 3, 4], None, &[], ""),
    ("007", &[7], None, &[], ""),
];

#[test]
fn reads_what_docker_tags_write() {
    for (tag, numbers, pre_release, revision, variant) in TAGS {
        let version = TagVersion::parse(tag).unwrap_or_else(|| panic!("{tag}"));
        let read = version.suffix.pre_release.as_ref();
        let read = read.map(|(rank, numbers)| (*rank, numbers.as_slice()));
        assert_eq!(version.numbers(), numbers, "{tag}");
        assert_eq!(read, pre_release, "{tag}");
        assert_eq!(version.suffix.revision, revision, "{tag}");
        assert_eq!(version.variant(), variant, "{tag}");
    }
}

#[test]
fn dates_commits_and_words_are_no_versions() {
    for tag in [
        "20261123",
        "20261123.1",
        "20240115-abc1234",
        "v20240115-4ff1c8b",
        "2024-01-15",
        "2024-01-15-abc1234",
        "2024-1-5",
        "2024_01_15",
        "2024-01",
        "202401",
        "20240115103000",
        "1705276800",
        "latest",
        "3a7f9c1",
        "1234567",
        "12e4567",
        "1..2",
        "99999999999999999999.1",
        "stable-1.2",
        "",
        "v",
        "1.2.3.4.5",
        "1.2x",
        "1.2b",
    ] {
        assert_eq!(TagVersion::parse(tag), None, "{tag}");
    }
}

#[test]
fn versions_are_ordered() {
    let ascending = [
        "1.2",
        "1.9",
        "1.10-alpha2",
        "1.10-rc1",
        "1.10-rc2",
        "1.10-rc10",
        "1.10-alpine3.9",
        "1.10-alpine3.20",
        "1.10",
        "1.10.0",
        "1.10.1-r2",
        "1.10.1-r9",
        "1.10.1-r11",
        "1.10.1-debian-11-r20",
        "1.10.1-debian-12-r9",
        "1.10.1-debian-12-r11",
        "1.10.1",
        "1.32.5.7349-8f4248874-ls9",
        "1.32.5.7349-1a2b3c4d5-ls51",
    ];
    let mut tags = ascending;
    tags.reverse();
    tags.sort_by(|a, b| {
        TagVersion::parse(a)
            .unwrap()
            .compare_exactly(&TagVersion::parse(b).unwrap())
    });
    assert_eq!(tags, ascending);
}

proptest! {
    #[test]
    fn parts_of_tags_in_any_order_do_not_make_it_panic(parts in prop::collection::vec(prop_oneof!["[0-9]{1,8}", "[-_.+]", Just("rc".to_owned()), Just("u".to_owned()), Just("-b0".to_owned()), Just("alpine".to_owned()), Just("r".to_owned())], 0..8)) {
        drop(TagVersion::parse(&parts.concat()));
    }

    #[test]
    fn no_tag_makes_it_panic(tag in ".{0,40}") {
        drop(TagVersion::parse(&tag));
    }
}
