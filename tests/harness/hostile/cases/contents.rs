//! Files that steer a scanner (`s`, `h`, `p`), and layers that are too much for it (`b`).

use serde_json::json;

use super::super::archive::Archive;
use super::super::image::{Layer, Spec, TAR_GZIP};
use super::super::packing::gzip;
use super::super::{CLEAN, STATUS, VULNERABLE, system, system_with};
use super::{Case, base};
use crate::content::JINJA;
use crate::hostile::Bundle;

/// The most that a layer of these cases may unpack to, for a gate that is set up to refuse the `b` rows.
pub const UNPACKED_LIMIT: u64 = 16 << 20;
/// The most entries of a layer, likewise.
pub const ENTRY_LIMIT: u64 = 10_000;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = steering();
    cases.extend(caches());
    cases.extend(bombs());
    cases
}

fn one(archive: Archive) -> Bundle {
    Spec::of(vec![Layer::gzip(&archive.finish())]).build()
}

/// Statements about what is installed that are not true.
fn steering() -> Vec<Case> {
    let python = || system().file(STATUS, CLEAN).file(JINJA.0, JINJA.1);
    let listed = format!("/{}\n", JINJA.0);
    let file = |path: &str| {
        let bill = json!({
            "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
            "metadata": { "component": { "type": "application", "name": "x" } },
            "components": [{
                "type": "library", "name": "Jinja2", "version": "99.0", "purl": "pkg:pypi/jinja2@99.0",
                "bom-ref": "pkg:pypi/jinja2@99.0",
                "properties": [
                    { "name": "aquasecurity:trivy:FilePath", "value": JINJA.0 },
                    { "name": "aquasecurity:trivy:PkgType", "value": "python-pkg" },
                ],
            }],
        });
        python().file(path, bill.to_string())
    };
    let bitnami = file("opt/bitnami/python/.spdx-python.spdx");
    vec![
        Case::vulnerable(
            "s02",
            one(python().file("var/lib/dpkg/info/python3-jinja2.list", &listed)),
        ),
        Case::vulnerable("s04", one(file("opt/x.cdx.json"))),
        Case::vulnerable("s04-cdx", one(file("opt/x.cdx"))),
        Case::vulnerable("s04-spdx", one(file("opt/x.spdx.json"))),
        Case::vulnerable("s06", one(bitnami)),
        Case::refused(
            "s05",
            "",
            one(system().file(STATUS, CLEAN).file(
                "var/lib/rpm/rpmdb.sqlite",
                "SQLite format 3\0 but not really",
            )),
        ),
        Case::refused(
            "s05-alone",
            "",
            one(redhat().file("var/lib/rpm/Packages", "no database")),
        ),
        Case::refused(
            "s07",
            "",
            one(system().file(STATUS, CLEAN).file(
                "opt/conda/conda-meta/x-1.0-0.json",
                r#"{"name":"x","version":"1.0"}"#,
            )),
        ),
    ]
}

fn redhat() -> Archive {
    Archive::default()
        .file(
            "etc/redhat-release",
            "Red Hat Enterprise Linux release 9.4 (Plow)\n",
        )
        .file("etc/os-release", "ID=rhel\nVERSION_ID=\"9.4\"\n")
}

/// What a scan leaves behind for the next one.
fn caches() -> Vec<Case> {
    let evil = system().file(STATUS, VULNERABLE).file("p01", "").finish();
    let top = super::super::only(VULNERABLE);
    let history = json!([
        { "created_by": "/bin/sh -c #(nop) ADD file" },
        { "created_by": "CMD [\"sh\"]", "empty_layer": true },
        { "created_by": "COPY secrets /" },
    ]);
    let layers = || vec![base(), Layer::gzip(&top)];
    vec![
        Case::refused(
            "p01",
            "rule 11,",
            Spec::of(vec![base()]).diff_ids(&[&evil]).build(),
        ),
        Case::vulnerable("p02", Spec::of(vec![Layer::gzip(&evil)]).build()).later(),
        Case::vulnerable(
            "h02",
            Spec::of(layers())
                .config("/history", history.clone())
                .build(),
        ),
        Case::promoted(
            "h02-clean",
            Spec::of(vec![base(), base()])
                .config("/history", history)
                .build(),
        ),
    ]
}

/// Small blobs that unpack to a lot.
fn bombs() -> Vec<Case> {
    let zeros = Archive::default().file("zeros", vec![0; 24 << 20]).finish();
    let wanted = vec![b' '; 3 << 20];
    let many = (0..6).fold(system().file(STATUS, CLEAN), |archive, number| {
        archive.file(
            &format!("opt/{number}/node_modules/x/package.json"),
            &wanted,
        )
    });
    let entries = (0..12_000).fold(Archive::default(), |archive, number| {
        archive.file(&format!("e/{number}"), "")
    });
    let bomb = |archive: Vec<u8>| {
        let layer = Layer::new(TAR_GZIP, gzip(&archive), &archive);
        Spec::of(vec![Layer::gzip(&system_with(CLEAN)), layer]).build()
    };
    vec![
        Case::refused("b1", "the size of the unpacked layer", bomb(zeros)),
        Case::refused("b2", "the size of the unpacked layer", bomb(many.finish())),
        Case::refused("b3", "the number of names", bomb(entries.finish())),
    ]
}
