//! The progress of copies on a terminal: a bar for each blob and one for everything; elsewhere plain lines.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use sluice_copier::{CopyOutcome, Image, ImageProgress, Progress, Work};
use sluice_domain::Digest;
use sluice_domain::resources::Mirror;
use sluice_registry::{BlobOutcome, Progress as TransferEvent, ProgressListener};

use super::render;
use crate::output::{note, one_line};

/// The maximum number of bars for blobs; further blobs only count.
const MAX_BARS: usize = 8;
/// The characters of a digest in a bar.
const SHORT_DIGEST: usize = 12;

/// The progress of all copies of a command.
#[derive(Debug)]
pub(crate) struct ProgressBars {
    bars: MultiProgress,
    total: ProgressBar,
    /// Whether lines are shown instead of bars.
    lines: bool,
    done: AtomicU64,
    images: AtomicU64,
}

impl ProgressBars {
    /// Shows bars if standard error is a terminal, else lines unless `quiet`.
    pub(crate) fn new(quiet: bool) -> Arc<Self> {
        let bars = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        let hidden = bars.is_hidden();
        let total = bars.add(ProgressBar::new(0).with_style(style(
            "{msg} {bytes} of {total_bytes}, {bytes_per_sec} {elapsed}",
        )));
        Arc::new(Self {
            bars,
            total,
            lines: hidden && !quiet,
            done: AtomicU64::default(),
            images: AtomicU64::default(),
        })
    }

    /// Removes the bars.
    pub(crate) fn clear(&self) {
        self.total.finish_and_clear();
        self.bars.clear().ok();
    }

    fn line(&self, text: &str) {
        if self.lines {
            note(text);
        }
    }

    fn update(&self) {
        let done = self.done.load(Ordering::Relaxed);
        let images = self.images.load(Ordering::Relaxed);
        self.total
            .set_message(format!("{done} of {images} images,"));
    }
}

impl Progress for ProgressBars {
    fn add_images(&self, count: usize) {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        self.images.fetch_add(count, Ordering::Relaxed);
        self.update();
    }

    fn image_done(&self, image: &Image, outcome: Result<&CopyOutcome, &str>) {
        self.done.fetch_add(1, Ordering::Relaxed);
        self.update();
        let is_copied = |work: &Work| matches!(work, Work::Copied(_));
        match outcome {
            Err(reason) => self.line(&format!("{image}: failed: {reason}")),
            // Planned work is part of the report.
            Ok(outcome) if outcome.works().into_iter().any(is_copied) => {
                self.line(&format!("{image}: {}", render::outcome(outcome)));
            }
            Ok(_) => {}
        }
    }

    fn mirror_failed(&self, mirror: &Mirror, error: &anyhow::Error) {
        self.line(&format!("{}: failed: {error:#}", mirror.from));
    }

    fn image(&self, name: String) -> Arc<dyn ImageProgress> {
        Arc::new(TransferBars {
            bars: self.bars.clone(),
            total: self.total.clone(),
            name,
            state: Mutex::default(),
        })
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// The progress of one transfer; subtracts what it has counted if it is dropped before it is complete.
#[derive(Debug)]
struct TransferBars {
    bars: MultiProgress,
    total: ProgressBar,
    name: String,
    state: Mutex<TransferState>,
}

#[derive(Debug, Default)]
struct TransferState {
    /// The bytes of all blobs.
    size: u64,
    /// The bytes that were counted as done.
    counted: u64,
    /// The blobs that are being transferred, with their bytes so far.
    blobs: HashMap<Digest, (Option<ProgressBar>, u64)>,
    complete: bool,
}

impl ImageProgress for TransferBars {
    fn complete(&self) {
        self.state().complete = true;
    }
}

impl TransferBars {
    fn state(&self) -> MutexGuard<'_, TransferState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bar(&self, digest: &Digest, size: u64, others: usize) -> Option<ProgressBar> {
        if self.bars.is_hidden() || others >= MAX_BARS {
            return None;
        }
        let short: String = digest.as_str().chars().skip(7).take(SHORT_DIGEST).collect();
        let bar = ProgressBar::new(size)
            .with_style(style(
                "{msg:40!} [{bar:30}] {bytes:>10} of {total_bytes:<10}",
            ))
            .with_message(one_line(&format!("{short} {}", self.name)));
        Some(self.bars.insert_before(&self.total, bar))
    }
}

impl ProgressListener for TransferBars {
    fn on_progress(&self, event: &TransferEvent<'_>) {
        let mut state = self.state();
        let total = &self.total;
        match event {
            TransferEvent::Planned { bytes, .. } => {
                state.size += bytes;
                total.inc_length(*bytes);
            }
            TransferEvent::BlobStarted { digest, size } => {
                let others = state.blobs.len();
                let (bar, arrived) = state
                    .blobs
                    .entry((*digest).clone())
                    .or_insert_with(|| (self.bar(digest, *size, others), 0));
                let arrived = std::mem::take(arrived);
                if let Some(bar) = bar {
                    bar.reset();
                }
                total.dec(arrived);
                state.counted = state.counted.saturating_sub(arrived);
            }
            TransferEvent::BytesReceived { digest, bytes } => {
                if let Some((bar, arrived)) = state.blobs.get_mut(*digest) {
                    *arrived += bytes;
                    if let Some(bar) = bar {
                        bar.inc(*bytes);
                    }
                }
                state.counted += bytes;
                total.inc(*bytes);
            }
            TransferEvent::BlobDone {
                digest,
                size,
                outcome,
            } => {
                let (bar, arrived) = state.blobs.remove(*digest).unwrap_or_default();
                if let Some(bar) = bar {
                    bar.finish_and_clear();
                }
                let rest = match outcome {
                    BlobOutcome::Copied => size.saturating_sub(arrived),
                    BlobOutcome::Mounted | BlobOutcome::Skipped => *size,
                };
                state.counted += rest;
                total.inc(rest);
            }
            _ => {}
        }
    }
}

impl Drop for TransferBars {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        let state = state.unwrap_or_else(PoisonError::into_inner);
        for (bar, _) in state.blobs.drain().map(|(_, blob)| blob) {
            if let Some(bar) = bar {
                bar.finish_and_clear();
            }
        }
        if !state.complete {
            self.total.dec_length(state.size);
            self.total.dec(state.counted);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_transfer_does_not_count() {
        let progress = ProgressBars::new(true);
        let total = || (progress.total.position(), progress.total.length());
        let digest: Digest = format!("sha256:{}", "0".repeat(64)).parse().unwrap();
        let watch = progress.image("a:1".to_owned());
        let digest = &digest;
        watch.on_progress(&TransferEvent::Planned {
            blobs: 2,
            bytes: 30,
        });
        watch.on_progress(&TransferEvent::BlobStarted { digest, size: 10 });
        watch.on_progress(&TransferEvent::BytesReceived { digest, bytes: 4 });
        watch.on_progress(&TransferEvent::BlobStarted { digest, size: 10 });
        assert_eq!(total(), (0, Some(30)));
        watch.on_progress(&TransferEvent::BytesReceived { digest, bytes: 10 });
        watch.on_progress(&TransferEvent::BlobDone {
            digest,
            size: 10,
            outcome: BlobOutcome::Copied,
        });
        watch.on_progress(&TransferEvent::BlobDone {
            digest,
            size: 20,
            outcome: BlobOutcome::Mounted,
        });
        assert_eq!(total(), (30, Some(30)));
        drop(watch);
        assert_eq!(total(), (0, Some(0)));
    }
}
