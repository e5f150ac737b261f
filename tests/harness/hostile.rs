//! Images that mean different things to different readers, made byte by byte, and what the gate must say of each.
//!
//! The cases are those of the table of test inputs in the design's page on unpacking; each has the id that it has there.

pub mod archive;
mod cases;
pub mod drawn;
pub mod image;
pub mod packing;

pub use cases::{Case, ENTRY_LIMIT, Expected, UNPACKED_LIMIT, all};
pub use image::{Bundle, Document, Layer, Spec};

use archive::Archive;

/// The package database of a system with a package that has no vulnerability.
pub const CLEAN: &str = "Package: libc6\nStatus: install ok installed\nSource: glibc\nArchitecture: amd64\nVersion: 2.36-9+deb12u99\nMaintainer: a\nDescription: b\n\n";
/// The package database of a system with a package of three vulnerabilities of severity high.
pub const VULNERABLE: &str = "Package: libc6\nStatus: install ok installed\nSource: glibc\nArchitecture: amd64\nVersion: 2.36-9\nMaintainer: a\nDescription: b\n\n";
/// Where Debian keeps what is installed.
pub const STATUS: &str = "var/lib/dpkg/status";

/// Returns an archive of a system without packages, to which a case adds its own.
pub fn system() -> Archive {
    Archive::default()
        .file("etc/os-release", "ID=debian\nVERSION_ID=\"12\"\n")
        .file("etc/debian_version", "12.5\n")
}

/// Returns a whole system with this package database, as a finished archive.
pub fn system_with(status: &str) -> Vec<u8> {
    system().file(STATUS, status).finish()
}

/// Returns an archive that only holds a package database.
pub fn only(status: &str) -> Vec<u8> {
    Archive::default().file(STATUS, status).finish()
}
