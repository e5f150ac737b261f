//! Files of images that the project's own advisories know, or do not know.

/// What makes a file system one of Debian 12.
pub const DEBIAN: [(&str, &str); 2] = [
    ("etc/os-release", "ID=debian\nVERSION_ID=\"12\"\n"),
    ("etc/debian_version", "12.5\n"),
];
/// Where Debian keeps what is installed.
pub const STATUS: &str = "var/lib/dpkg/status";
/// A package with three vulnerabilities of severity high, two of which have a score of 7.8.
pub const OLD_LIBC: (&str, &str) = (
    STATUS,
    "Package: libc6\nStatus: install ok installed\nSource: glibc\nArchitecture: amd64\nVersion: 2.36-9\nMaintainer: a\nDescription: b\n\n",
);
/// The same package without any.
pub const NEW_LIBC: (&str, &str) = (
    STATUS,
    "Package: libc6\nStatus: install ok installed\nSource: glibc\nArchitecture: amd64\nVersion: 2.36-9+deb12u99\nMaintainer: a\nDescription: b\n\n",
);
/// A package with one vulnerability of severity high with a score of 8.6, and two of medium, one of which has a score of 5.3.
pub const JINJA: (&str, &str) = (
    "usr/lib/python3/dist-packages/Jinja2-2.10.dist-info/METADATA",
    "Metadata-Version: 2.1\nName: Jinja2\nVersion: 2.10\n\n",
);

/// Returns the files of an image of Debian 12 with these.
pub fn debian(more: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    DEBIAN.iter().chain(more).copied().collect()
}
