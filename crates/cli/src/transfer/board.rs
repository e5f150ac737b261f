//! Shows a person how copies go on: a bar for each blob under way and one for everything, or plain lines.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use sluice_domain::Digest;
use sluice_registry::{Arrival, Progress, Watch};

use crate::output::one_line;

/// How many blobs have a bar of their own at a time; the rest only counts.
const MOST_BARS: usize = 8;
/// How much of a digest tells blobs apart for a person.
const SHORT: usize = 12;

/// What all copies of a command show together.
#[derive(Debug)]
pub(crate) struct Board {
    bars: MultiProgress,
    total: ProgressBar,
    /// Whether nobody looks at bars but lines are wanted.
    lines: bool,
    images: [AtomicU64; 2],
}

impl Board {
    /// Shows bars where standard error is a terminal, and lines elsewhere unless it is to be quiet.
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
            images: Default::default(),
        })
    }

    /// Takes note of images that are looked at.
    pub(crate) fn expect(&self, images: usize) {
        let images = u64::try_from(images).unwrap_or(u64::MAX);
        self.images[1].fetch_add(images, Ordering::Relaxed);
        self.tell();
    }

    /// Tells that one image is done, and how if that is worth a line.
    pub(crate) fn done(&self, line: Option<&str>) {
        self.images[0].fetch_add(1, Ordering::Relaxed);
        self.tell();
        if let Some(line) = line {
            self.note(line);
        }
    }

    /// Says something that belongs to no image, where nobody looks at bars.
    pub(crate) fn note(&self, line: &str) {
        if self.lines {
            crate::output::note(line);
        }
    }

    /// Takes everything away that is shown.
    pub(crate) fn clear(&self) {
        self.total.finish_and_clear();
        self.bars.clear().ok();
    }

    fn tell(&self) {
        let [done, known] = &self.images;
        let (done, known) = (done.load(Ordering::Relaxed), known.load(Ordering::Relaxed));
        self.total.set_message(format!("{done} of {known} images,"));
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// Follows the copy of one image; a try that failed takes back what it counted when it is dropped.
#[derive(Debug)]
pub(crate) struct ImageWatch {
    board: Arc<Board>,
    name: String,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    known: u64,
    counted: u64,
    blobs: HashMap<Digest, (Option<ProgressBar>, u64)>,
    complete: bool,
}

impl ImageWatch {
    /// Follows the copy of an image with this name.
    pub(crate) fn new(board: &Arc<Board>, name: String) -> Arc<Self> {
        Arc::new(Self {
            board: board.clone(),
            name,
            seen: Mutex::default(),
        })
    }

    /// Lets what was counted stand.
    pub(crate) fn complete(&self) {
        self.seen().complete = true;
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bar(&self, digest: &Digest, size: u64, others: usize) -> Option<ProgressBar> {
        if self.board.bars.is_hidden() || others >= MOST_BARS {
            return None;
        }
        let short: String = digest.as_str().chars().skip(7).take(SHORT).collect();
        let bar = ProgressBar::new(size)
            .with_style(style(
                "{msg:40!} [{bar:30}] {bytes:>10} of {total_bytes:<10}",
            ))
            .with_message(one_line(&format!("{short} {}", self.name)));
        Some(self.board.bars.insert_before(&self.board.total, bar))
    }
}

impl Watch for ImageWatch {
    fn note(&self, progress: &Progress<'_>) {
        let mut seen = self.seen();
        let total = &self.board.total;
        match progress {
            Progress::Known { bytes, .. } => {
                seen.known += bytes;
                total.inc_length(*bytes);
            }
            Progress::Begun { digest, size } => {
                let others = seen.blobs.len();
                let (bar, arrived) = seen
                    .blobs
                    .entry((*digest).clone())
                    .or_insert_with(|| (self.bar(digest, *size, others), 0));
                let arrived = std::mem::take(arrived);
                if let Some(bar) = bar {
                    bar.reset();
                }
                total.dec(arrived);
                seen.counted = seen.counted.saturating_sub(arrived);
            }
            Progress::Arrived { digest, bytes } => {
                if let Some((bar, arrived)) = seen.blobs.get_mut(*digest) {
                    *arrived += bytes;
                    if let Some(bar) = bar {
                        bar.inc(*bytes);
                    }
                }
                seen.counted += bytes;
                total.inc(*bytes);
            }
            Progress::Ended {
                digest,
                size,
                arrival,
            } => {
                let (bar, arrived) = seen.blobs.remove(*digest).unwrap_or_default();
                if let Some(bar) = bar {
                    bar.finish_and_clear();
                }
                let rest = match arrival {
                    Arrival::Copied => size.saturating_sub(arrived),
                    Arrival::Mounted | Arrival::Skipped => *size,
                };
                seen.counted += rest;
                total.inc(rest);
            }
            _ => {}
        }
    }
}

impl Drop for ImageWatch {
    fn drop(&mut self) {
        let seen = self.seen.get_mut().unwrap_or_else(PoisonError::into_inner);
        for (bar, _) in seen
            .blobs
            .drain()
            .filter_map(|(_, (bar, n))| Some((bar?, n)))
        {
            bar.finish_and_clear();
        }
        if !seen.complete {
            self.board.total.dec_length(seen.known);
            self.board.total.dec(seen.counted);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_try_that_failed_does_not_count() {
        let board = Board::new(true);
        let digest: Digest = format!("sha256:{}", "0".repeat(64)).parse().unwrap();
        let watch = ImageWatch::new(&board, "a:1".to_owned());
        let digest = &digest;
        watch.note(&Progress::Known {
            blobs: 2,
            bytes: 30,
        });
        watch.note(&Progress::Begun { digest, size: 10 });
        watch.note(&Progress::Arrived { digest, bytes: 4 });
        watch.note(&Progress::Begun { digest, size: 10 });
        assert_eq!(
            (board.total.position(), board.total.length()),
            (0, Some(30))
        );
        watch.note(&Progress::Arrived { digest, bytes: 10 });
        watch.note(&Progress::Ended {
            digest,
            size: 10,
            arrival: Arrival::Copied,
        });
        watch.note(&Progress::Ended {
            digest,
            size: 20,
            arrival: Arrival::Mounted,
        });
        assert_eq!(board.total.position(), 30);
        drop(watch);
        assert_eq!((board.total.position(), board.total.length()), (0, Some(0)));
    }
}
