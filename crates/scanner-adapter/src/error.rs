//! Why an image was not scanned, and what becomes of its message.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sluice_domain::{Class, Classify, Digest};
use thiserror::Error;

use crate::failure::{Failed, Kind, Remedy};
use crate::report::Unusable;

/// When a message that waits for the scanner comes again.
const LOOK_AGAIN: Duration = Duration::from_secs(15);
/// Over how many seconds the messages are spread that wait for their turn.
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
    Failed(#[from] Failed),
    #[error(transparent)]
    Unusable(#[from] Unusable),
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
    NeedsAllRoom,
    /// Trivy asks for layers that were thought to be known.
    #[error("what is known of the layers is of no use to this Trivy")]
    Stale,
    #[error("others are scanned now, and enough of this repository wait")]
    Busy { until: DateTime<Utc> },
    #[error(
        "the database of {ours} is older than {theirs}, by which the image was already scanned"
    )]
    Outdated { ours: String, theirs: String },
}

impl Error {
    pub(crate) fn not_ready(reason: impl Into<String>) -> Self {
        Self::NotReady {
            reason: reason.into(),
            until: Utc::now() + LOOK_AGAIN,
        }
    }

    /// Puts an image off for whose repository there is no place now; many of one repository come again one by one.
    pub(crate) fn busy(digest: &Digest) -> Self {
        let number = digest.hex().get(..8).unwrap_or_default();
        let number = u64::from_str_radix(number, 16).unwrap_or_default();
        let spread = Duration::from_secs(number % SPREAD_SECONDS);
        Self::Busy {
            until: Utc::now() + LOOK_AGAIN + spread,
        }
    }

    pub(crate) fn files(action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Files { action, source }
    }

    /// Says whether the registry no longer has it, which says nothing of the image itself.
    pub(crate) fn is_gone(&self) -> bool {
        match self {
            Self::Registry(error) | Self::State(sluice_state::Error::Registry(error)) => {
                error.is_not_found()
            }
            Self::Failed(failed) => failed.kind == Kind::Gone,
            _ => false,
        }
    }

    /// Says whether the scanner rather than the image is in trouble.
    pub(crate) fn is_scanner(&self) -> bool {
        matches!(self, Self::Failed(failed) if failed.kind.remedy() == Remedy::Wait)
    }
}

impl Classify for Error {
    fn class(&self) -> Class {
        let wait = || Class::Unavailable {
            until: Utc::now() + LOOK_AGAIN,
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
            Self::Failed(failed) => match failed.kind.remedy() {
                Remedy::Never => Class::Permanent,
                Remedy::Again(after) => Class::Transient { after },
                Remedy::Wait => wait(),
                Remedy::Outage => Class::OUTAGE,
            },
            // A report that was cut off is whole the next time; the number of attempts is the limit.
            Self::Unusable(_)
            | Self::TimedOut(_)
            | Self::Files { .. }
            | Self::NeedsAllRoom
            | Self::Stale => Class::TRANSIENT,
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
    Search(#[from] sluice_state::Error),
}

impl Classify for StageError {
    fn class(&self) -> Class {
        match self {
            Self::Image(error) => error.class(),
            Self::Search(error) => error.class(),
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
    /// Tells the failure with all that led to it, in one line.
    pub(crate) fn told(&self) -> String {
        let mut told = self.to_string();
        let mut next: Option<&dyn std::error::Error> = std::error::Error::source(self);
        while let Some(error) = next {
            told += ": ";
            told += &error.to_string();
            next = error.source();
        }
        if self.source.is_gone() {
            told += "; the registry no longer has it";
        }
        told
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
    fn a_failure_is_told_once_with_its_platform_and_cause() {
        let told = child(Failed::new(Kind::DiskFull, "write x")).told();
        assert!(
            told.starts_with("linux/amd64: failed to scan `sha256:000"),
            "{told}"
        );
        assert!(told.ends_with("`: the disk is full (write x)"), "{told}");
        let gone = child(Failed::new(Kind::Gone, "")).told();
        assert!(gone.contains("no longer has"), "{gone}");
    }

    #[test]
    fn a_scanner_in_trouble_makes_the_message_wait() {
        let waits = |error: Error| matches!(error.class(), Class::Unavailable { .. });
        assert!(waits(Failed::new(Kind::ServerGone, "").into()));
        assert!(waits(Failed::new(Kind::DatabaseMissing, "").into()));
        assert!(waits(Error::not_ready("no database")));
        // So does a registry that is away, which says nothing of the scanner.
        for kind in [Kind::Unreachable, Kind::DiskFull] {
            let error = Error::from(Failed::new(kind, ""));
            assert!(error.class().is_outage() && !error.is_scanner());
        }
        assert_eq!(
            Error::from(Failed::new(Kind::Unknown, "")).class(),
            Class::TRANSIENT
        );
        assert_eq!(
            Error::from(Failed::new(Kind::Gone, "")).class(),
            Class::Permanent
        );
        assert_eq!(Error::from(Unusable::Anonymous).class(), Class::TRANSIENT);
    }

    #[test]
    fn what_is_final_for_one_platform_is_final_for_the_image() {
        let mut all = [
            child(Failed::new(Kind::Unknown, "")),
            child(Failed::new(Kind::ServerGone, "")),
            child(Failed::new(Kind::NoPlatform, "")),
        ];
        all.sort_by_key(ChildError::rank);
        assert_eq!(all[0].class(), Class::Permanent);
        assert!(matches!(all[1].class(), Class::Unavailable { .. }));
    }
}
