//! Images made from bytes: mostly sound, with some trick of an adversary in most of them.
//!
//! The same bytes give the same image, so that tests and the fuzz target share it.

use crate::build::*;
use crate::clients::Layer;

/// Bytes that decide what is generated; after their end everything is 0, the plainest choice.
pub(crate) struct Entropy<'a> {
    bytes: &'a [u8],
    /// One choice of this many is a trick.
    rarity: usize,
}

const MEDIA_TYPES: [&str; 5] = [
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar",
];

/// Names that meet each other: in folders, through links, and as whiteouts.
const NAMES: [&str; 26] = [
    "a",
    "a/b",
    "a/b/c",
    "a/d",
    "b",
    "b/c",
    "bin/tool",
    "usr/bin/tool",
    "lib/x",
    "usr/lib/x",
    "var/lib/dpkg/status",
    "var/lib/dpkg",
    "var/lib",
    "etc/os-release",
    "etc",
    "lib",
    "bin",
    "./a/e",
    "/b/d",
    "a//f",
    "usr",
    "usr/lib",
    "c",
    "d/e/f/g",
    "pax_global_header",
    "srv/status",
];

const WHITEOUTS: [&str; 8] = [
    ".wh.a",
    ".wh.b",
    "a/.wh.b",
    "b/.wh.c",
    "a/.wh..wh..opq",
    "usr/.wh.lib",
    ".wh.lib",
    "var/lib/.wh.dpkg",
];

const BAD_NAMES: [&str; 12] = [
    "../a",
    "a/../b",
    "..",
    "",
    ".wh.",
    "a/.wh..",
    ".wh..wh..opq",
    ".wh..wh.plnk",
    ".wh.a/b",
    ".",
    "/",
    "../var/lib/dpkg/status",
];

impl<'a> Entropy<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        let mut entropy = Self { bytes, rarity: 0 };
        entropy.rarity = [400, 60, 25, 10][entropy.below(4)];
        entropy
    }

    fn byte(&mut self) -> usize {
        let Some((first, rest)) = self.bytes.split_first() else {
            return 0;
        };
        self.bytes = rest;
        usize::from(*first)
    }

    fn below(&mut self, end: usize) -> usize {
        let wide = self.byte() << 8 | self.byte();
        wide % end
    }

    /// Returns whether something unusual is done; never once the bytes are used up.
    fn trick(&mut self) -> bool {
        let rarity = self.rarity;
        self.below(rarity) == rarity - 1
    }

    fn pick<T: Copy, const N: usize>(&mut self, from: [T; N]) -> T {
        from[self.below(N)]
    }
}

/// An image of one to three layers.
pub(crate) fn image(bytes: &[u8]) -> Vec<Layer> {
    let mut entropy = Entropy::new(bytes);
    let count = 1 + entropy.below(3);
    let mut layers: Vec<Layer> = (0..count).map(|_| layer(&mut entropy)).collect();
    if entropy.trick() {
        // The diff ids of other layers, as in an image that claims a clean layer twice.
        let diff_id = layers[0].diff_id.clone();
        layers.last_mut().unwrap().diff_id = diff_id;
    }
    layers
}

fn layer(entropy: &mut Entropy<'_>) -> Layer {
    let tar = tar_bytes(entropy);
    let media_type = entropy.pick(MEDIA_TYPES);
    let raw = media_type.ends_with("layer.v1.tar");
    let blob = if raw && !entropy.trick() {
        tar.clone()
    } else if entropy.trick() {
        polyglot(entropy, &tar)
    } else {
        match entropy.below(3) {
            0 => gzip_blob(entropy, &tar),
            1 => zstd_blob(entropy, &tar),
            _ => tar.clone(),
        }
    };
    let diff_id = if entropy.trick() {
        sha256(b"another tar")
    } else {
        sha256(&tar)
    };
    Layer {
        media_type,
        blob,
        diff_id,
    }
}

/// Cuts bytes in up to three parts.
fn parts<'b>(entropy: &mut Entropy<'_>, bytes: &'b [u8]) -> Vec<&'b [u8]> {
    let mut cuts = [0, bytes.len(), bytes.len(), bytes.len()];
    for cut in cuts.iter_mut().skip(1).take(entropy.below(3)) {
        *cut = entropy.below(bytes.len() + 1);
    }
    cuts.sort_unstable();
    let pairs = cuts.windows(2);
    pairs
        .map(|pair| &bytes[pair[0]..pair[1]])
        .filter(|part| !part.is_empty())
        .collect()
}

fn gzip_blob(entropy: &mut Entropy<'_>, tar: &[u8]) -> Vec<u8> {
    let mut blob = Vec::new();
    for part in parts(entropy, tar) {
        blob.extend(match entropy.below(4) {
            0 => gzip_extra(part, b"extra"),
            _ => gzip(part),
        });
    }
    if blob.is_empty() {
        blob = gzip(b"");
    }
    damage(entropy, blob)
}

fn zstd_blob(entropy: &mut Entropy<'_>, tar: &[u8]) -> Vec<u8> {
    let mut blob = Vec::new();
    if entropy.trick() {
        blob = skippable(b"first");
    }
    for part in parts(entropy, tar) {
        blob.extend(zstd(part));
        if entropy.below(3) == 1 {
            blob.extend(skippable(b"between"));
        }
    }
    if blob.is_empty() {
        blob = zstd(b"");
    }
    damage(entropy, blob)
}

fn damage(entropy: &mut Entropy<'_>, mut blob: Vec<u8>) -> Vec<u8> {
    if entropy.trick() {
        match entropy.below(5) {
            0 => blob.extend_from_slice(b"junk"),
            1 => blob.extend_from_slice(&[0; 512]),
            2 => blob.truncate(blob.len() - entropy.below(blob.len().min(40))),
            3 => {
                let at = blob.len() - 1 - entropy.below(blob.len().min(12));
                blob[at] ^= 1 << entropy.below(8);
            }
            _ => {
                let other = tar(&[file("a", "evil")]);
                blob.extend(if entropy.below(2) == 0 {
                    gzip(&other)
                } else {
                    zstd(&other)
                });
            }
        }
    }
    blob
}

/// Two archives in one blob.
fn polyglot(entropy: &mut Entropy<'_>, tar: &[u8]) -> Vec<u8> {
    let evil = open_tar(&[file("a", "evil")]);
    match entropy.below(4) {
        0 => [skippable(&evil), zstd(tar)].concat(),
        1 => gzip_extra(tar, &evil),
        2 => {
            let mut blob = b"\x50\x2a\x4d\x18".to_vec();
            blob.extend_from_slice(&1528_u32.to_le_bytes());
            let mut hidden = open_tar(&[file(&blob, "x")]);
            hidden.resize(1536, 0);
            [hidden, zstd(tar)].concat()
        }
        _ => gzip(&gzip(tar)),
    }
}

fn tar_bytes(entropy: &mut Entropy<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut used = Vec::new();
    for _ in 0..entropy.below(12) {
        let (raws, name, is_folder) = entry(entropy);
        // Entries that are in each other's way are what every rule of names is about: rare.
        if meets(&used, &name, is_folder) && !entropy.trick() {
            continue;
        }
        used.push((name, is_folder));
        for raw in raws {
            bytes.extend(raw.bytes());
        }
    }
    if entropy.trick() {
        match entropy.below(5) {
            0 => bytes.resize(bytes.len() + 512, 0),
            1 => {
                bytes.resize(bytes.len() + 512, 0);
                bytes.extend(file("a", "evil").bytes());
            }
            2 => {
                bytes.resize(bytes.len() + 1024, 0);
                bytes.extend(tar(&[file("a", "evil")]));
            }
            3 => bytes.truncate(bytes.len() - bytes.len().min(entropy.below(700))),
            _ => bytes.resize(bytes.len() + 1030, 0),
        }
    } else if entropy.below(4) != 3 {
        bytes.resize(bytes.len() + 1024, 0);
    }
    bytes
}

fn name(entropy: &mut Entropy<'_>) -> Vec<u8> {
    if entropy.trick() {
        return match entropy.below(BAD_NAMES.len() + 2) {
            at if at < BAD_NAMES.len() => BAD_NAMES[at].into(),
            at if at == BAD_NAMES.len() => b"BZh9".to_vec(),
            _ => b"\x28\xb5\x2f\xfdx".to_vec(),
        };
    }
    let mut name = if entropy.below(8) == 7 {
        entropy.pick(WHITEOUTS).as_bytes().to_vec()
    } else {
        entropy.pick(NAMES).as_bytes().to_vec()
    };
    if entropy.below(16) == 15 {
        name.push(b'/');
    }
    name
}

/// Returns whether a name is used already, lies below what is no folder, or the reverse.
fn meets(used: &[(Vec<u8>, bool)], name: &[u8], is_folder: bool) -> bool {
    let below = |name: &[u8], other: &[u8]| {
        name.strip_prefix(other)
            .is_some_and(|rest| rest.starts_with(b"/"))
    };
    used.iter().any(|(other, other_is_folder)| {
        other == name
            || (!other_is_folder && below(name, other))
            || (!is_folder && below(other, name))
    })
}

/// The path that an entry has or hides.
fn path(name: &[u8]) -> Vec<u8> {
    let parts: Vec<&[u8]> = name
        .split(|byte| *byte == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .map(|part| part.strip_prefix(b".wh.").unwrap_or(part))
        .collect();
    parts.join(&b'/')
}

/// An entry with the headers before it, its path, and whether it is a folder.
fn entry(entropy: &mut Entropy<'_>) -> (Vec<Raw>, Vec<u8>, bool) {
    let name = name(entropy);
    let whiteout = name
        .split(|byte| *byte == b'/')
        .any(|part| part.starts_with(b".wh."));
    let content: &[u8] = match entropy.below(3) {
        _ if whiteout && !entropy.trick() => b"",
        0 => b"one",
        1 => b"",
        _ => b"Package: two\nStatus: install ok installed\n",
    };
    let mut raw = match entropy.below(12) {
        _ if whiteout && !entropy.trick() => file(&name, content),
        0..=4 => file(&name, content),
        5..=7 => folder(&name),
        8 | 9 => symlink(
            &name,
            entropy.pick(["usr", "a", "/usr/lib", "../b", "srv", "a/b", "/"]),
        ),
        10 => hard_link(
            &name,
            entropy.pick(["a", "a/b", "b", "./c", "/etc", "srv/status"]),
        ),
        _ => device(entropy.pick([b'3', b'4', b'6']), &name, (5, 1)),
    };
    raw.magic = entropy.pick([USTAR, USTAR, GNU, V7]);
    if entropy.trick() {
        twist(entropy, &mut raw);
    }
    let is_folder = raw.typeflag == b'5';
    let (mut raws, renamed) = before(entropy, &mut raw);
    raws.push(raw);
    (raws, path(renamed.as_ref().unwrap_or(&name)), is_folder)
}

/// Changes a header as an adversary would.
fn twist(entropy: &mut Entropy<'_>, raw: &mut Raw) {
    let length = raw.content.len() as u64;
    match entropy.below(18) {
        0 => raw.typeflag = entropy.pick([0, b'7', b'Z', b'S', b'0', b'5', b'1', b'g', b'x']),
        1 => raw.mode = entropy.pick([0o040_755, 0o120_777, 0o100_644, 0o1_000_644, 0o020_644]),
        2 => raw.sum = entropy.pick([Sum::Wrong, Sum::Signed]),
        3 => raw.size = base256(length.cast_signed(), 12),
        4 => raw.size = base256(entropy.pick([-1, -512, i64::MIN]), 12),
        5 => raw.size = octal(length + 512, 12),
        6 => raw.size = format!(" {length:o}").into_bytes(),
        7 => raw.size = format!("\0{length:o}").into_bytes(),
        8 => raw.size = format!("{length:o}\x007").into_bytes(),
        9 => {
            raw.magic = entropy.pick([
                *b"ustar\0  ",
                *b"ustar 00",
                *b"USTAR\x0000",
                *b"ustar\0\0\0",
            ]);
        }
        10 => {
            raw.prefix = entropy
                .pick([&b"usr"[..], b"..", b"a/b", b"12345", b"/"])
                .to_vec();
        }
        11 => {
            raw.trailer = *b"tar\0";
            raw.prefix = [&[b'p'; 131][..], b"/hidden"].concat();
        }
        12 => raw.device = entropy.pick([(0, 0), (0x1000, 0), (0, 0), (1 << 20, 1 << 20)]),
        13 => {
            raw.typeflag = b'3';
            raw.device = (0, 0);
        }
        14 => raw.mtime = b"not a number".to_vec(),
        15 => raw.link = b"".to_vec(),
        16 => {
            raw.content = file("a/evil", "evil").bytes();
            raw.size = octal(entropy.pick([0, 512, 1024]), 12);
        }
        _ => raw.link = b"../../etc".to_vec(),
    }
}

/// Extended headers before an entry, and the name that they give it.
fn before(entropy: &mut Entropy<'_>, raw: &mut Raw) -> (Vec<Raw>, Option<Vec<u8>>) {
    if entropy.trick() {
        return (contradiction(entropy), None);
    }
    let renamed = match entropy.below(16) {
        choice @ 0..=2 => (choice, name(entropy)),
        3 => {
            return (
                vec![pax(
                    b'x',
                    &[("SCHILY.xattr.security.capability", b"\x01\0")],
                )],
                None,
            );
        }
        4 => return (vec![pax(b'g', &[("comment", b"x")])], None),
        5 => {
            let size = raw.content.len().to_string();
            raw.size = octal(0, 12);
            return (vec![pax(b'x', &[("size", size.as_bytes())])], None);
        }
        _ => return (Vec::new(), None),
    };
    match renamed {
        (_, path) if path.is_empty() => (Vec::new(), None),
        (2, path) => (vec![long(b'L', &path)], Some(path)),
        (_, path) => (
            vec![pax(b'x', &[("mtime", b"1.5"), ("path", &path)])],
            Some(path),
        ),
    }
}

/// Extended headers that readers could understand in two ways.
fn contradiction(entropy: &mut Entropy<'_>) -> Vec<Raw> {
    let (one, two) = (name(entropy), name(entropy));
    match entropy.below(14) {
        0 => vec![pax(b'x', &[("path", &one), ("path", &two)])],
        1 => vec![pax(b'x', &[("path", &one)]), long(b'L', &two)],
        2 => vec![long(b'L', &one), pax(b'x', &[("path", &two)])],
        3 => vec![pax(b'x', &[("path", &one)]), pax(b'x', &[("mtime", b"1")])],
        4 => vec![pax(b'g', &[("path", &one)])],
        5 => vec![pax(b'x', &[("path", &one)]), pax(b'g', &[])],
        6 => vec![pax(b'x', &[("size", b"512")])],
        7 => vec![pax(
            b'x',
            &[
                ("GNU.sparse.name", &one),
                ("GNU.sparse.major", b"1"),
                ("GNU.sparse.minor", b"0"),
            ],
        )],
        8 => vec![pax(b'x', &[("SCHILY.xattr.trusted.overlay.opaque", b"y")])],
        9 => vec![pax(b'x', &[("linkpath", &one)])],
        10 => vec![long(b'K', &one)],
        11 => vec![long(b'L', &[&one[..], b"\0", &two].concat())],
        12 => vec![Raw::new(b'x', "x", b"99 path=a\n")],
        _ => vec![pax(b'x', &[("path", b"")])],
    }
}
