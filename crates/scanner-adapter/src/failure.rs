//! How a run of Trivy failed, by what it wrote: its exit code is 1 for everything.

use std::fmt;
use std::time::Duration;

/// How much of what Trivy wrote is told.
const MOST_TOLD: usize = 400;

/// Kinds of failures, by who has to do something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The registry no longer has the image or one of its layers.
    Gone,
    /// The registry does not let our account read it.
    Refused,
    /// The registry wants fewer requests.
    TooMany,
    /// The registry did not answer.
    Unreachable,
    /// It took too long.
    TimedOut,
    /// The index does not have that platform.
    NoPlatform,
    /// The server was asked with a wrong token.
    WrongToken,
    /// The server did not answer.
    ServerGone,
    /// The server answered that it failed, as when it panics over an image or a damaged database.
    ServerFailed,
    /// There is no vulnerability database.
    DatabaseMissing,
    /// The vulnerability database is not one for this Trivy.
    DatabaseIncompatible,
    /// The vulnerability database is too old, or from the future.
    DatabaseAge,
    /// The vulnerability database has lost more than it may, or is older than the last one.
    DatabaseShrunk,
    /// The vulnerability database could not be fetched.
    DatabaseDownload,
    /// The index of Java archives is missing or could not be fetched.
    JavaDatabase,
    /// Another process uses the same cache.
    Locked,
    /// The disk is full.
    DiskFull,
    /// Something else.
    Unknown,
}

/// What Trivy writes, in the order in which it is looked for.
///
/// After a refusal Trivy tries again without the account, so what the registry said first is looked for first. A
/// server that is gone is told as a refused connection too.
const SIGNS: [(&str, Kind); 33] = [
    ("no space left on device", Kind::DiskFull),
    // What the machine or the limits of the process lack is no evidence against a database, whoever passes it on.
    ("too many open files", Kind::Unknown),
    ("cannot allocate memory", Kind::Unknown),
    ("resource temporarily unavailable", Kind::Unknown),
    ("MANIFEST_UNKNOWN", Kind::Gone),
    ("NAME_UNKNOWN", Kind::Gone),
    ("BLOB_UNKNOWN", Kind::Gone),
    ("TOOMANYREQUESTS", Kind::TooMany),
    ("Too Many Requests", Kind::TooMany),
    ("Java DB", Kind::JavaDatabase),
    ("--skip-java-db-update", Kind::JavaDatabase),
    (
        "--skip-update cannot be specified on the first run",
        Kind::DatabaseMissing,
    ),
    ("old DB schema", Kind::DatabaseIncompatible),
    ("DB schema doesn't match", Kind::DatabaseIncompatible),
    // Not any failure to open it: that may be a missing permission.
    ("invalid database", Kind::DatabaseIncompatible),
    (
        "failed to download vulnerability DB",
        Kind::DatabaseDownload,
    ),
    ("OCI artifact error", Kind::DatabaseDownload),
    ("no child with platform", Kind::NoPlatform),
    ("twirp error unauthenticated", Kind::WrongToken),
    ("failed to do request", Kind::ServerGone),
    ("twirp error unavailable", Kind::ServerGone),
    ("twirp error", Kind::ServerFailed),
    ("may be in use by another process", Kind::Locked),
    ("UNAUTHORIZED", Kind::Refused),
    ("DENIED", Kind::Refused),
    ("FORBIDDEN", Kind::Refused),
    ("context deadline exceeded", Kind::TimedOut),
    ("connection refused", Kind::Unreachable),
    ("connection reset", Kind::Unreachable),
    ("no such host", Kind::Unreachable),
    ("i/o timeout", Kind::Unreachable),
    ("TLS handshake timeout", Kind::Unreachable),
    ("unexpected status code 5", Kind::Unreachable),
];

/// What becomes of the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// Trying again cannot help.
    Never,
    /// Trying again may help, not before this time.
    Again(Option<Duration>),
    /// The scanner has to be mended first; the work waits and counts as untried.
    Wait,
    /// Something else is away; so does the work.
    Outage,
}

/// A run of Trivy that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failed {
    /// How.
    pub(crate) kind: Kind,
    /// What it wrote, in one line that is safe to show.
    pub(crate) told: String,
}

impl Failed {
    /// Tells a failure by what was written.
    pub(crate) fn of(written: &str) -> Self {
        let sign = SIGNS.iter().find(|(sign, _)| written.contains(sign));
        Self {
            kind: sign.map_or(Kind::Unknown, |(_, kind)| *kind),
            told: told(written),
        }
    }

    pub(crate) fn new(kind: Kind, told: impl Into<String>) -> Self {
        Self {
            kind,
            told: told.into(),
        }
    }
}

impl Kind {
    /// Says what becomes of the work.
    pub(crate) const fn remedy(self) -> Remedy {
        match self {
            Self::Gone | Self::NoPlatform => Remedy::Never,
            Self::TooMany => Remedy::Again(Some(Duration::from_secs(60))),
            Self::Unreachable | Self::DiskFull => Remedy::Outage,
            // After any failure Trivy asks again without the account, so a refusal may hide a link that broke.
            Self::Refused
            | Self::TimedOut
            | Self::ServerFailed
            | Self::JavaDatabase
            | Self::Locked
            | Self::Unknown => Remedy::Again(None),
            Self::WrongToken
            | Self::ServerGone
            | Self::DatabaseMissing
            | Self::DatabaseIncompatible
            | Self::DatabaseAge
            | Self::DatabaseShrunk
            | Self::DatabaseDownload => Remedy::Wait,
        }
    }

    /// Says whether a check of a database that failed so shows that what is in it cannot be used.
    ///
    /// A server that does not start, a full disk or a clock that is wrong shows nothing of the kind.
    pub(crate) const fn condemns(self) -> bool {
        matches!(
            self,
            Self::DatabaseMissing
                | Self::DatabaseIncompatible
                | Self::DatabaseShrunk
                | Self::ServerFailed
        )
    }

    /// Returns why a database was refused, as the label of a metric; a failure that refuses none has no such label.
    pub(crate) const fn refusal(self) -> Option<&'static str> {
        match self {
            Self::DatabaseAge => Some("age"),
            Self::DatabaseShrunk => Some("shrunk"),
            Self::DatabaseMissing | Self::DatabaseIncompatible | Self::ServerFailed => {
                Some("broken")
            }
            _ => None,
        }
    }

    const fn words(self) -> &'static str {
        match self {
            Self::Gone => "the registry no longer has the image or one of its layers",
            Self::Refused => {
                "the registry does not let the scanner's account read the image; check `registry.account`"
            }
            Self::TooMany => "the registry wants fewer requests",
            Self::Unreachable => "the registry does not answer",
            Self::TimedOut => "it took too long; raise `scanner.timeout_seconds` if this repeats",
            Self::NoPlatform => "the index does not have this platform",
            Self::WrongToken => "the Trivy server refuses our token; check `trivy.token_file`",
            Self::ServerGone => "the Trivy server does not answer",
            Self::ServerFailed => "the Trivy server failed on it",
            Self::DatabaseMissing => "there is no vulnerability database",
            Self::DatabaseIncompatible => {
                "the vulnerability database is damaged or not made for this version of Trivy"
            }
            Self::DatabaseAge => "the vulnerability database is too old or from the future",
            Self::DatabaseShrunk => {
                "the vulnerability database is older or has less in it than the one before"
            }
            Self::DatabaseDownload => {
                "the vulnerability database cannot be fetched; check `trivy.database_repository`"
            }
            Self::JavaDatabase => {
                "the image has Java archives, and their index cannot be fetched; check `trivy.java_database_repository`"
            }
            Self::Locked => {
                "another process uses the same cache; give each its own `trivy.cache_dir`"
            }
            Self::DiskFull => "the disk is full",
            Self::Unknown => "Trivy failed",
        }
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.words())?;
        if self.told.is_empty() {
            return Ok(());
        }
        write!(f, " ({})", self.told)
    }
}

impl std::error::Error for Failed {}

/// Returns the line that tells the failure, without control characters and without what may be a signed address.
fn told(written: &str) -> String {
    let line = written
        .lines()
        .rev()
        .find(|line| line.contains("FATAL"))
        .or_else(|| written.lines().rev().find(|line| !line.trim().is_empty()))
        .unwrap_or_default();
    let text = line
        .rsplit_once("Fatal error")
        .map_or(line, |(_, text)| text);
    // A list of errors goes on in the lines that follow; its last is the most telling.
    let last = written.lines().rev().find(|line| line.contains("* "));
    let last = last.filter(|last| *last != line).unwrap_or_default();
    let whole = format!("{} {}", text.trim(), last.trim());
    let words: Vec<&str> = whole.split_whitespace().map(without_query).collect();
    let shown: String = words
        .join(" ")
        .chars()
        .filter(|c| !c.is_control())
        .collect();
    shown.chars().take(MOST_TOLD).collect()
}

/// An address with a query may be signed.
fn without_query(word: &str) -> &str {
    if word.contains("://") {
        word.split('?').next().unwrap_or_default()
    } else {
        word
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_told_by_what_trivy_writes() {
        for (written, kind) in [
            (
                "FATAL\tFatal error\tdatabase error: --skip-update cannot be specified on the first run",
                Kind::DatabaseMissing,
            ),
            (
                "database error: validate error: --skip-update cannot be specified with the old DB schema. Local DB: 0, Expected: 2",
                Kind::DatabaseIncompatible,
            ),
            (
                "DB schema doesn't match. Local DB: 3, Expected: 2",
                Kind::DatabaseIncompatible,
            ),
            (
                "failed to open db: invalid database",
                Kind::DatabaseIncompatible,
            ),
            (
                "failed to download vulnerability DB: OCI artifact error: dial tcp 127.0.0.1:1: connect: connection refused",
                Kind::DatabaseDownload,
            ),
            (
                "GET https://r/v2/a/manifests/1: UNAUTHORIZED: authentication required",
                Kind::Refused,
            ),
            // The account was let in and the manifest was not there; only then anonymous was refused.
            (
                "* GET http://r/v2/a/manifests/x: MANIFEST_UNKNOWN: manifest unknown\n* GET http://r/v2/: UNAUTHORIZED: authentication required",
                Kind::Gone,
            ),
            (
                "NAME_UNKNOWN: repository name not known to registry",
                Kind::Gone,
            ),
            ("BLOB_UNKNOWN: blob unknown to registry", Kind::Gone),
            (
                "dial tcp 127.0.0.1:5000: connect: connection refused",
                Kind::Unreachable,
            ),
            (
                "dial tcp: lookup registry on 10.0.0.1:53: no such host",
                Kind::Unreachable,
            ),
            ("TOOMANYREQUESTS: slow down", Kind::TooMany),
            (
                "no child with platform linux/s390x in index r/a@sha256:0",
                Kind::NoPlatform,
            ),
            (
                "image scan error: context deadline exceeded",
                Kind::TimedOut,
            ),
            (
                "twirp error unauthenticated: invalid token",
                Kind::WrongToken,
            ),
            (
                "twirp error internal: failed to do request: dial tcp 127.0.0.1:4954: connect: connection refused",
                Kind::ServerGone,
            ),
            (
                "failed to detect vulnerabilities via RPC: twirp error internal: Internal service panic",
                Kind::ServerFailed,
            ),
            (
                "cache may be in use by another process: timeout",
                Kind::Locked,
            ),
            (
                "Unable to initialize the Java DB: Java DB update failed: '--skip-java-db-update' cannot be specified on the first run",
                Kind::JavaDatabase,
            ),
            ("write /tmp/x: no space left on device", Kind::DiskFull),
            (
                "failed to extract the archive: unexpected EOF",
                Kind::Unknown,
            ),
            ("", Kind::Unknown),
        ] {
            assert_eq!(Failed::of(written).kind, kind, "{written}");
        }
    }

    #[test]
    fn only_what_cannot_pass_is_final_and_a_broken_scanner_counts_as_no_attempt() {
        for (kind, remedy) in [
            (Kind::Gone, Remedy::Never),
            (Kind::Refused, Remedy::Again(None)),
            (Kind::DiskFull, Remedy::Outage),
            (Kind::NoPlatform, Remedy::Never),
            (Kind::TooMany, Remedy::Again(Some(Duration::from_secs(60)))),
            (Kind::Unreachable, Remedy::Outage),
            (Kind::TimedOut, Remedy::Again(None)),
            (Kind::Unknown, Remedy::Again(None)),
            // An image over which the server panics must not wait for ever.
            (Kind::ServerFailed, Remedy::Again(None)),
            (Kind::ServerGone, Remedy::Wait),
            (Kind::WrongToken, Remedy::Wait),
            (Kind::DatabaseMissing, Remedy::Wait),
        ] {
            assert_eq!(kind.remedy(), remedy, "{kind:?}");
        }
    }

    #[test]
    fn a_start_that_failed_is_no_evidence_against_a_database() {
        for written in [
            "listen tcp 127.0.0.1:4954: bind: address already in use",
            "failed to open db: open db/trivy.db: permission denied",
            "fatal error: runtime: cannot allocate memory",
            "fork/exec /usr/bin/trivy: resource temporarily unavailable",
            "twirp error internal: open fanal.db: too many open files",
            "write fanal.db: no space left on device",
            "twirp error internal: failed to do request: connection refused",
            "context deadline exceeded",
            "",
        ] {
            assert!(!Failed::of(written).kind.condemns(), "{written}");
        }
        for kind in [
            Kind::ServerGone,
            Kind::TimedOut,
            Kind::Locked,
            Kind::DatabaseAge,
        ] {
            assert!(!kind.condemns(), "{kind:?}");
        }
        assert!(Failed::of("old DB schema").kind.condemns());
        // Whoever passes it on.
        let full =
            "twirp error internal: failed cache operation: write fanal.db: no space left on device";
        assert_eq!(Failed::of(full).kind, Kind::DiskFull);
    }

    #[test]
    fn what_is_told_is_one_short_line_without_signatures() {
        let failed = Failed::of(
            "2026-01-01T00:00:00Z\tINFO\tstarting\n2026-01-01T00:00:00Z\tFATAL\tFatal error\tfailed: 1 error occurred:\n\t* Get \"https://cdn.example/blob?X-Signature=secret&y=1\": \x1b[31mforbidden\n\n",
        );
        assert_eq!(
            failed.to_string(),
            "Trivy failed (failed: 1 error occurred: * Get \"https://cdn.example/blob [31mforbidden)"
        );
        let long = Failed::of(&"x".repeat(10_000));
        assert_eq!(long.told.chars().count(), MOST_TOLD);
    }
}
