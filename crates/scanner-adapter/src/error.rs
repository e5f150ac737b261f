//! Why an image was not scanned, and what becomes of its message.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sluice_domain::{Class, Classify, Digest};
use sluice_service::error_chain;
use thiserror::Error;

/// When a message that waits for the scanner is delivered again.
const RETRY_AFTER: Duration = Duration::from_secs(15);
/// Over how many seconds the retries of messages that found no permit are spread.
const SPREAD_SECONDS: u64 = 30;

/// Why an image was not scanned.
#[derive(Debug, Error)]
pub(crate) enum Error {
    #[error(transparent)]
    State(#[from] sluice_state::Error),
    #[error(transparent)]
    Registry(#[from] sluice_registry::Error),
    #[error("nothing can be scanned now: {reason}")]
    NotReady {
        reason: String,
        until: DateTime<Utc>,
    },
    #[error(transparent)]
    Scanner(#[from] ScannerError),
    #[error("the disk is full ({0})")]
    DiskFull(String),
    #[error("not scanned within {0:?}; raise `scanner.timeout_seconds` if this repeats")]
    TimedOut(Duration),
    #[error("failed to {action} the files of a scan")]
    Files {
        action: &'static str,
        source: std::io::Error,
    },
    #[error("the {what} has {size_bytes} bytes, at most {limit_bytes} are taken")]
    TooLarge {
        what: &'static str,
        size_bytes: u64,
        limit_bytes: u64,
    },
    #[error("the entry of the image names `{0}`, which is no digest")]
    Entry(String),
    /// The image breaks a rule or a limit; it gets a verdict that says so.
    #[error("{0}")]
    Unsupported(String),
    /// The registry sent other bytes than those of the digest, which says nothing of the image.
    #[error("{0}")]
    WrongBlob(String),
    /// The image unpacks to more than was reserved for it.
    #[error("the image unpacks to more than was expected")]
    NeedsWholeQuota,
    /// The scanner asked for an analysis of a layer that was thought to be in the cache.
    #[error("the cached analyses of the layers are of no use to this scanner")]
    Stale,
    #[error("other images are scanned now, and enough of this repository wait")]
    Busy { until: DateTime<Utc> },
    #[error(
        "the database of {ours} is older than {theirs}, by which the image was already scanned"
    )]
    Outdated { ours: String, theirs: String },
}

/// What becomes of a scan at which the scanner failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// A retry cannot help: the registry no longer has the image.
    Missing,
    /// A retry cannot help.
    Never,
    /// A retry may help, after the time that was asked for.
    Retry(Option<Duration>),
    /// The scanner has to be repaired first; the scan waits and counts as untried.
    RepairScanner,
    /// Another part is unreachable or full; the scan waits for it and counts as untried.
    Outage,
}

/// A failure of the scanner, in the words of its driver.
#[derive(Debug)]
pub(crate) struct ScannerError {
    remedy: Remedy,
    cause: Box<dyn std::error::Error + Send + Sync>,
}

impl ScannerError {
    pub(crate) fn new(
        remedy: Remedy,
        cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self {
            remedy,
            cause: cause.into(),
        }
    }
}

impl fmt::Display for ScannerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cause.fmt(f)
    }
}

impl std::error::Error for ScannerError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.source()
    }
}

impl Error {
    pub(crate) fn not_ready(reason: impl Into<String>) -> Self {
        Self::NotReady {
            reason: reason.into(),
            until: Utc::now() + RETRY_AFTER,
        }
    }

    /// Postpones an image for which there is no permit now; the images of one repository are retried one by one.
    pub(crate) fn busy(digest: &Digest) -> Self {
        let number = digest.hex().get(..8).unwrap_or_default();
        let number = u64::from_str_radix(number, 16).unwrap_or_default();
        let spread = Duration::from_secs(number % SPREAD_SECONDS);
        Self::Busy {
            until: Utc::now() + RETRY_AFTER + spread,
        }
    }

    pub(crate) fn files(action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Files { action, source }
    }

    /// Says whether the image is missing from the registry, which says nothing of the image itself.
    pub(crate) fn is_missing(&self) -> bool {
        match self {
            Self::Registry(error) | Self::State(sluice_state::Error::Registry(error)) => {
                error.is_not_found()
            }
            Self::Scanner(error) => error.remedy == Remedy::Missing,
            _ => false,
        }
    }

    /// Says whether the scanner failed for a reason that lies in itself and not in the image.
    pub(crate) fn is_scanner_outage(&self) -> bool {
        matches!(self, Self::Scanner(error) if error.remedy == Remedy::RepairScanner)
    }
}

impl Classify for Error {
    fn class(&self) -> Class {
        let wait = || Class::Unavailable {
            until: Utc::now() + RETRY_AFTER,
        };
        match self {
            Self::State(error) => error.class(),
            // Another answer may be right; the number of attempts is the limit.
            Self::Registry(sluice_registry::Error::Untrusted { .. }) | Self::WrongBlob(_) => {
                Class::TRANSIENT
            }
            Self::Registry(error) => error.class(),
            Self::NotReady { until, .. } | Self::Busy { until } => {
                Class::Unavailable { until: *until }
            }
            Self::Outdated { .. } => wait(),
            Self::Scanner(error) => match error.remedy {
                Remedy::Missing | Remedy::Never => Class::Permanent,
                Remedy::Retry(after) => Class::Transient { after },
                Remedy::RepairScanner => wait(),
                Remedy::Outage => Class::OUTAGE,
            },
            Self::DiskFull(_) => Class::OUTAGE,
            Self::TimedOut(_) | Self::Files { .. } | Self::NeedsWholeQuota | Self::Stale => {
                Class::TRANSIENT
            }
            Self::TooLarge { .. } | Self::Entry(_) | Self::Unsupported(_) => Class::Permanent,
        }
    }
}

/// Why a message of the stage is not done.
#[derive(Debug, Error)]
pub(crate) enum StageError {
    #[error(transparent)]
    Image(#[from] ChildError),
    #[error(transparent)]
    Reconcile(#[from] sluice_state::Error),
}

impl Classify for StageError {
    fn class(&self) -> Class {
        match self {
            Self::Image(error) => error.class(),
            Self::Reconcile(error) => error.class(),
        }
    }
}

/// A platform of an image that was not scanned.
#[derive(Debug, Error)]
#[error("{}failed to scan `{digest}`", platform.as_ref().map(|platform| format!("{platform}: ")).unwrap_or_default())]
pub(crate) struct ChildError {
    /// Its platform, where it is known.
    pub(crate) platform: Option<sluice_domain::Platform>,
    /// Its digest, or that of the whole image.
    pub(crate) digest: Digest,
    /// Why.
    pub(crate) source: Box<Error>,
}

impl Classify for ChildError {
    fn class(&self) -> Class {
        self.source.class()
    }
}

impl ChildError {
    /// Returns the failure with its causes, in one line.
    pub(crate) fn message(&self) -> String {
        let mut message = error_chain(self);
        if self.source.is_missing() {
            message += "; the registry no longer has it";
        }
        message
    }

    /// Orders failures by what becomes of the whole image: what is final comes first, then what waits.
    pub(crate) fn rank(&self) -> u8 {
        match self.class() {
            Class::Permanent => 0,
            Class::Unavailable { .. } => 1,
            Class::Transient { .. } => 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn child(source: impl Into<Error>) -> ChildError {
        ChildError {
            platform: "linux/amd64".parse().ok(),
            digest: format!("sha256:{}", "0".repeat(64)).parse().unwrap(),
            source: Box::new(source.into()),
        }
    }

    #[test]
    fn a_failure_is_reported_once_with_its_platform_and_cause() {
        let message = child(Error::DiskFull("write x".to_owned())).message();
        assert!(
            message.starts_with("linux/amd64: failed to scan `sha256:000"),
            "{message}"
        );
        assert!(
            message.ends_with("`: the disk is full (write x)"),
            "{message}"
        );
        let missing = child(ScannerError::new(Remedy::Missing, "")).message();
        assert!(missing.contains("no longer has"), "{missing}");
    }

    #[test]
    fn what_is_done_about_a_failure_follows_from_its_remedy() {
        let error = |remedy| Error::from(ScannerError::new(remedy, ""));
        let minute = Some(Duration::from_secs(60));
        assert_eq!(error(Remedy::Missing).class(), Class::Permanent);
        assert!(error(Remedy::Missing).is_missing() && !error(Remedy::Never).is_missing());
        assert_eq!(error(Remedy::Never).class(), Class::Permanent);
        let retried = error(Remedy::Retry(minute)).class();
        assert_eq!(retried, Class::Transient { after: minute });
        let waits = |error: &Error| matches!(error.class(), Class::Unavailable { .. });
        assert!(waits(&error(Remedy::RepairScanner)));
        assert!(error(Remedy::RepairScanner).is_scanner_outage());
        // A disk that is full says nothing of the scanner.
        for outage in [error(Remedy::Outage), Error::DiskFull(String::new())] {
            assert!(outage.class().is_outage() && !outage.is_scanner_outage());
        }
    }

    #[test]
    fn what_is_final_for_one_platform_is_final_for_the_image() {
        let mut all = [
            child(ScannerError::new(Remedy::Retry(None), "")),
            child(ScannerError::new(Remedy::RepairScanner, "")),
            child(ScannerError::new(Remedy::Never, "")),
        ];
        all.sort_by_key(ChildError::rank);
        assert_eq!(all[0].class(), Class::Permanent);
        assert!(matches!(all[1].class(), Class::Unavailable { .. }));
    }
}
