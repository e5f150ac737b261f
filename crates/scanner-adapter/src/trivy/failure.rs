//! Why a run of Trivy failed, recognised by its output: its exit code is 1 for everything.

use std::fmt;
use std::time::Duration;

use crate::error::{Error, Remedy, ScannerError};

/// The most characters of Trivy's output that a message shows.
const MAX_MESSAGE: usize = 400;

/// The kinds of failures, by who has to act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FailureKind {
    /// The registry no longer has the image or one of its layers.
    Missing,
    /// The registry does not let the account of this service read the image.
    AccessDenied,
    /// The registry limits the rate of requests.
    RateLimited,
    /// The registry did not answer.
    Unreachable,
    /// The run took too long.
    TimedOut,
    /// The index does not have that platform.
    NoPlatform,
    /// The server refused the token.
    WrongToken,
    /// The server did not answer.
    ServerUnreachable,
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
    /// Any other failure.
    Unknown,
}

/// Texts in Trivy's output with the failures that they show; the first that occurs counts.
///
/// After a refusal Trivy tries again without the account, so the first answers of a registry come first. Of a server
/// that is unreachable Trivy writes a refused connection too.
const SIGNS: [(&str, FailureKind); 33] = [
    ("no space left on device", FailureKind::DiskFull),
    // A lack of resources of the machine or the process is no evidence against a database.
    ("too many open files", FailureKind::Unknown),
    ("cannot allocate memory", FailureKind::Unknown),
    ("resource temporarily unavailable", FailureKind::Unknown),
    ("MANIFEST_UNKNOWN", FailureKind::Missing),
    ("NAME_UNKNOWN", FailureKind::Missing),
    ("BLOB_UNKNOWN", FailureKind::Missing),
    ("TOOMANYREQUESTS", FailureKind::RateLimited),
    ("Too Many Requests", FailureKind::RateLimited),
    ("Java DB", FailureKind::JavaDatabase),
    ("--skip-java-db-update", FailureKind::JavaDatabase),
    (
        "--skip-update cannot be specified on the first run",
        FailureKind::DatabaseMissing,
    ),
    ("old DB schema", FailureKind::DatabaseIncompatible),
    ("DB schema doesn't match", FailureKind::DatabaseIncompatible),
    // Not any failure to open it: that may be a missing permission.
    ("invalid database", FailureKind::DatabaseIncompatible),
    (
        "failed to download vulnerability DB",
        FailureKind::DatabaseDownload,
    ),
    ("OCI artifact error", FailureKind::DatabaseDownload),
    ("no child with platform", FailureKind::NoPlatform),
    ("twirp error unauthenticated", FailureKind::WrongToken),
    ("failed to do request", FailureKind::ServerUnreachable),
    ("twirp error unavailable", FailureKind::ServerUnreachable),
    ("twirp error", FailureKind::ServerFailed),
    ("may be in use by another process", FailureKind::Locked),
    ("UNAUTHORIZED", FailureKind::AccessDenied),
    ("DENIED", FailureKind::AccessDenied),
    ("FORBIDDEN", FailureKind::AccessDenied),
    ("context deadline exceeded", FailureKind::TimedOut),
    ("connection refused", FailureKind::Unreachable),
    ("connection reset", FailureKind::Unreachable),
    ("no such host", FailureKind::Unreachable),
    ("i/o timeout", FailureKind::Unreachable),
    ("TLS handshake timeout", FailureKind::Unreachable),
    ("unexpected status code 5", FailureKind::Unreachable),
];

/// A failure of Trivy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TrivyFailure {
    pub(crate) kind: FailureKind,
    /// The cause, in one line that is safe to show.
    pub(crate) message: String,
}

impl TrivyFailure {
    /// Makes a failure of a server that cannot be started or does not answer.
    pub(crate) fn server_unreachable(cause: impl fmt::Display) -> Self {
        Self::new(FailureKind::ServerUnreachable, cause.to_string())
    }

    /// Recognises a failure by the output of a run.
    pub(crate) fn from_output(output: &str) -> Self {
        let sign = SIGNS.iter().find(|(sign, _)| output.contains(sign));
        Self {
            kind: sign.map_or(FailureKind::Unknown, |(_, kind)| *kind),
            message: error_line(output),
        }
    }

    pub(crate) fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }
}

/// An error of this machine says nothing of Trivy or of an image.
impl From<std::io::Error> for TrivyFailure {
    fn from(error: std::io::Error) -> Self {
        Self::new(FailureKind::Unknown, error.to_string())
    }
}

impl From<TrivyFailure> for Error {
    fn from(failure: TrivyFailure) -> Self {
        ScannerError::new(failure.kind.remedy(), failure).into()
    }
}

impl FailureKind {
    /// Returns what becomes of the scan.
    pub(crate) const fn remedy(self) -> Remedy {
        match self {
            Self::Missing => Remedy::Missing,
            Self::NoPlatform => Remedy::Never,
            Self::RateLimited => Remedy::Retry(Some(Duration::from_secs(60))),
            Self::Unreachable | Self::DiskFull => Remedy::Outage,
            // After any failure Trivy tries again without the account, so a refusal may hide a broken connection.
            Self::AccessDenied
            | Self::TimedOut
            | Self::ServerFailed
            | Self::JavaDatabase
            | Self::Locked
            | Self::Unknown => Remedy::Retry(None),
            Self::WrongToken
            | Self::ServerUnreachable
            | Self::DatabaseMissing
            | Self::DatabaseIncompatible
            | Self::DatabaseAge
            | Self::DatabaseShrunk
            | Self::DatabaseDownload => Remedy::RepairScanner,
        }
    }

    /// Says whether such a failure of a check shows that the content of a database cannot be used.
    ///
    /// A server that does not start, a full disk or a wrong clock shows nothing of the content.
    pub(crate) const fn is_bad_content(self) -> bool {
        matches!(
            self,
            Self::DatabaseMissing
                | Self::DatabaseIncompatible
                | Self::DatabaseShrunk
                | Self::ServerFailed
        )
    }

    /// Returns why a database was refused, as the label of a metric, if the failure refuses one.
    pub(crate) const fn refusal_label(self) -> Option<&'static str> {
        match self {
            Self::DatabaseAge => Some("age"),
            Self::DatabaseShrunk => Some("shrunk"),
            Self::DatabaseMissing | Self::DatabaseIncompatible | Self::ServerFailed => {
                Some("broken")
            }
            _ => None,
        }
    }

    const fn description(self) -> &'static str {
        match self {
            Self::Missing => "the registry no longer has the image or one of its layers",
            Self::AccessDenied => {
                "the registry does not let the scanner's account read the image; check `registry.account`"
            }
            Self::RateLimited => "the registry limits the rate of requests",
            Self::Unreachable => "the registry does not answer",
            Self::TimedOut => {
                "the run took too long; raise `scanner.timeout_seconds` if this repeats"
            }
            Self::NoPlatform => "the index does not have this platform",
            Self::WrongToken => "the Trivy server refuses the token; check `trivy.token_file`",
            Self::ServerUnreachable => "the Trivy server does not answer",
            Self::ServerFailed => "the Trivy server answered with a failure",
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

impl fmt::Display for TrivyFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.description())?;
        if self.message.is_empty() {
            return Ok(());
        }
        write!(f, " ({})", self.message)
    }
}

impl std::error::Error for TrivyFailure {}

/// Returns the line of an output that names the error, without control characters and without signatures of addresses.
fn error_line(output: &str) -> String {
    let line = output
        .lines()
        .rev()
        .find(|line| line.contains("FATAL"))
        .or_else(|| output.lines().rev().find(|line| !line.trim().is_empty()))
        .unwrap_or_default();
    let text = line
        .rsplit_once("Fatal error")
        .map_or(line, |(_, text)| text);
    // The lines that follow may list several errors; the last one names the cause.
    let last = output.lines().rev().find(|line| line.contains("* "));
    let last = last.filter(|last| *last != line).unwrap_or_default();
    let whole = format!("{} {}", text.trim(), last.trim());
    let words: Vec<&str> = whole.split_whitespace().map(without_query).collect();
    let shown: String = words
        .join(" ")
        .chars()
        .filter(|c| !c.is_control())
        .collect();
    shown.chars().take(MAX_MESSAGE).collect()
}

/// Removes the query of an address, which may hold a signature.
fn without_query(word: &str) -> &str {
    if word.contains("://") {
        word.split('?').next().unwrap_or_default()
    } else {
        word
    }
}

#[cfg(test)]
mod tests {
    use sluice_domain::{Class, Classify as _};

    use super::*;

    #[test]
    fn failures_are_recognised_by_the_output_of_trivy() {
        use FailureKind::{
            AccessDenied, DatabaseDownload, DatabaseIncompatible, DatabaseMissing, DiskFull,
            JavaDatabase, Locked, Missing, NoPlatform, RateLimited, ServerFailed,
            ServerUnreachable, TimedOut, Unknown, Unreachable, WrongToken,
        };
        for (written, kind) in [
            (
                "FATAL\tFatal error\tdatabase error: --skip-update cannot be specified on the first run",
                DatabaseMissing,
            ),
            (
                "database error: validate error: --skip-update cannot be specified with the old DB schema. Local DB: 0, Expected: 2",
                DatabaseIncompatible,
            ),
            (
                "DB schema doesn't match. Local DB: 3, Expected: 2",
                DatabaseIncompatible,
            ),
            ("failed to open db: invalid database", DatabaseIncompatible),
            (
                "failed to download vulnerability DB: OCI artifact error: dial tcp 127.0.0.1:1: connect: connection refused",
                DatabaseDownload,
            ),
            (
                "GET https://r/v2/a/manifests/1: UNAUTHORIZED: authentication required",
                AccessDenied,
            ),
            // The account was let in and the manifest was not there; only then anonymous was refused.
            (
                "* GET http://r/v2/a/manifests/x: MANIFEST_UNKNOWN: manifest unknown\n* GET http://r/v2/: UNAUTHORIZED: authentication required",
                Missing,
            ),
            (
                "NAME_UNKNOWN: repository name not known to registry",
                Missing,
            ),
            ("BLOB_UNKNOWN: blob unknown to registry", Missing),
            (
                "dial tcp 127.0.0.1:5000: connect: connection refused",
                Unreachable,
            ),
            (
                "dial tcp: lookup registry on 10.0.0.1:53: no such host",
                Unreachable,
            ),
            ("TOOMANYREQUESTS: slow down", RateLimited),
            (
                "no child with platform linux/s390x in index r/a@sha256:0",
                NoPlatform,
            ),
            ("image scan error: context deadline exceeded", TimedOut),
            ("twirp error unauthenticated: invalid token", WrongToken),
            (
                "twirp error internal: failed to do request: dial tcp 127.0.0.1:4954: connect: connection refused",
                ServerUnreachable,
            ),
            (
                "failed to detect vulnerabilities via RPC: twirp error internal: Internal service panic",
                ServerFailed,
            ),
            ("cache may be in use by another process: timeout", Locked),
            (
                "Unable to initialize the Java DB: Java DB update failed: '--skip-java-db-update' cannot be specified on the first run",
                JavaDatabase,
            ),
            ("write /tmp/x: no space left on device", DiskFull),
            ("failed to extract the archive: unexpected EOF", Unknown),
            ("", Unknown),
        ] {
            assert_eq!(TrivyFailure::from_output(written).kind, kind, "{written}");
        }
    }

    #[test]
    fn only_a_permanent_failure_is_final_and_that_of_the_scanner_counts_as_no_attempt() {
        for (kind, remedy) in [
            (FailureKind::Missing, Remedy::Missing),
            (FailureKind::AccessDenied, Remedy::Retry(None)),
            (FailureKind::DiskFull, Remedy::Outage),
            (FailureKind::NoPlatform, Remedy::Never),
            (
                FailureKind::RateLimited,
                Remedy::Retry(Some(Duration::from_secs(60))),
            ),
            (FailureKind::Unreachable, Remedy::Outage),
            (FailureKind::TimedOut, Remedy::Retry(None)),
            (FailureKind::Unknown, Remedy::Retry(None)),
            // An image over which the server panics must not wait for ever.
            (FailureKind::ServerFailed, Remedy::Retry(None)),
            (FailureKind::ServerUnreachable, Remedy::RepairScanner),
            (FailureKind::WrongToken, Remedy::RepairScanner),
            (FailureKind::DatabaseMissing, Remedy::RepairScanner),
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
            assert!(
                !TrivyFailure::from_output(written).kind.is_bad_content(),
                "{written}"
            );
        }
        for kind in [
            FailureKind::ServerUnreachable,
            FailureKind::TimedOut,
            FailureKind::Locked,
            FailureKind::DatabaseAge,
        ] {
            assert!(!kind.is_bad_content(), "{kind:?}");
        }
        assert!(
            TrivyFailure::from_output("old DB schema")
                .kind
                .is_bad_content()
        );
        // Also where the server passes it on.
        let full =
            "twirp error internal: failed cache operation: write fanal.db: no space left on device";
        assert_eq!(TrivyFailure::from_output(full).kind, FailureKind::DiskFull);
    }

    #[test]
    fn a_message_is_one_short_line_without_signatures() {
        let failed = TrivyFailure::from_output(
            "2026-01-01T00:00:00Z\tINFO\tstarting\n2026-01-01T00:00:00Z\tFATAL\tFatal error\tfailed: 1 error occurred:\n\t* Get \"https://cdn.example/blob?X-Signature=secret&y=1\": \x1b[31mforbidden\n\n",
        );
        assert_eq!(
            failed.to_string(),
            "Trivy failed (failed: 1 error occurred: * Get \"https://cdn.example/blob [31mforbidden)"
        );
        let long = TrivyFailure::from_output(&"x".repeat(10_000));
        assert_eq!(long.message.chars().count(), MAX_MESSAGE);
    }

    #[test]
    fn a_scanner_that_cannot_scan_makes_the_message_wait() {
        let waits = |error: Error| matches!(error.class(), Class::Unavailable { .. });
        assert!(waits(
            TrivyFailure::new(FailureKind::ServerUnreachable, "").into()
        ));
        assert!(waits(
            TrivyFailure::new(FailureKind::DatabaseMissing, "").into()
        ));
        assert!(waits(Error::not_ready("no database")));
        // So does an unreachable registry, which says nothing of the scanner.
        for kind in [FailureKind::Unreachable, FailureKind::DiskFull] {
            let error = Error::from(TrivyFailure::new(kind, ""));
            assert!(error.class().is_outage() && !error.is_scanner_outage());
        }
        assert_eq!(
            Error::from(TrivyFailure::new(FailureKind::Unknown, "")).class(),
            Class::TRANSIENT
        );
        assert_eq!(
            Error::from(TrivyFailure::new(FailureKind::Missing, "")).class(),
            Class::Permanent
        );
    }
}
