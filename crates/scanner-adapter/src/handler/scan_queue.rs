//! Which image is scanned next: a limit of scans at once and of those of one repository, and repositories in turn.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sluice_domain::Repository;
use tokio::sync::oneshot;

/// How long an image waits for a permit before its message is postponed, which frees its place in the queue.
pub(crate) const MAX_WAIT: Duration = Duration::from_secs(600);
/// How many images of one repository may wait even where many others do.
const MIN_WAITING_PER_REPOSITORY: usize = 2;

type Waiting = oneshot::Sender<ScanPermit>;

/// Gives out permits to scan.
#[derive(Debug)]
pub(crate) struct ScanQueue {
    permits: usize,
    permits_per_repository: usize,
    /// How many images may wait.
    max_waiting: usize,
    queues: Mutex<Queues>,
}

#[derive(Debug, Default)]
struct Queues {
    /// Each repository of which an image is scanned or waits.
    repositories: BTreeMap<Repository, Queue>,
    /// The order in which repositories get permits, the next one first.
    order: VecDeque<Repository>,
    in_use: usize,
}

#[derive(Debug, Default)]
struct Queue {
    in_use: usize,
    waiting: VecDeque<Waiting>,
}

/// A permit to scan one image, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct ScanPermit {
    queue: Arc<ScanQueue>,
    repository: Repository,
}

/// No permit could be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Busy;

impl ScanQueue {
    /// Makes a queue with a number of permits, of those of one repository, and of images that may wait.
    pub(crate) fn new(
        permits: usize,
        permits_per_repository: usize,
        max_waiting: usize,
    ) -> Arc<Self> {
        Arc::new(Self {
            permits: permits.max(1),
            permits_per_repository: permits_per_repository.max(1),
            max_waiting,
            queues: Mutex::default(),
        })
    }

    /// Waits for a permit, for [`MAX_WAIT`] at most.
    ///
    /// # Errors
    /// [`Busy`] when that time is over, or when too many images wait already.
    pub(crate) async fn acquire(
        self: &Arc<Self>,
        repository: &Repository,
    ) -> Result<ScanPermit, Busy> {
        let (sender, receiver) = oneshot::channel();
        {
            let mut queues = self.lock();
            queues.remove_cancelled();
            let all = queues.repositories.values();
            let waiting: usize = all.map(|queue| queue.waiting.len()).sum();
            let queue = queues.repositories.get(repository);
            let (is_new, own) = (
                queue.is_none(),
                queue.map_or(0, |queue| queue.waiting.len()),
            );
            let is_half_full = waiting * 2 >= self.max_waiting;
            if waiting >= self.max_waiting || (own >= MIN_WAITING_PER_REPOSITORY && is_half_full) {
                return Err(Busy);
            }
            if is_new {
                queues.order.push_back(repository.clone());
            }
            let queue = queues.repositories.entry(repository.clone()).or_default();
            queue.waiting.push_back(sender);
        }
        self.assign_permits();
        match tokio::time::timeout(MAX_WAIT, receiver).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(Busy),
        }
    }

    /// Returns how many images wait for a permit.
    pub(crate) fn waiting(&self) -> usize {
        let mut queues = self.lock();
        queues.remove_cancelled();
        queues
            .repositories
            .values()
            .map(|queue| queue.waiting.len())
            .sum()
    }

    /// Gives the permits that are free to the images that are next.
    fn assign_permits(self: &Arc<Self>) {
        loop {
            let next = self.lock().next(self.permits, self.permits_per_repository);
            let Some((repository, sender)) = next else {
                return;
            };
            let permit = ScanPermit {
                queue: self.clone(),
                repository,
            };
            // Where nobody waits for it any more, its drop gives it to the next.
            drop(sender.send(permit));
        }
    }

    fn release(&self, repository: &Repository) {
        let mut queues = self.lock();
        queues.in_use = queues.in_use.saturating_sub(1);
        if let Some(queue) = queues.repositories.get_mut(repository) {
            queue.in_use = queue.in_use.saturating_sub(1);
        }
        queues.remove_cancelled();
    }

    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queues {
    /// Takes a permit for the first repository that may have one, and moves it to the end of the order.
    fn next(
        &mut self,
        permits: usize,
        permits_per_repository: usize,
    ) -> Option<(Repository, Waiting)> {
        if self.in_use >= permits {
            return None;
        }
        self.remove_cancelled();
        let is_eligible = |repository: &Repository| {
            let queue = self.repositories.get(repository);
            queue.is_some_and(|queue| {
                queue.in_use < permits_per_repository && !queue.waiting.is_empty()
            })
        };
        let position = self.order.iter().position(is_eligible)?;
        let repository = self.order.remove(position)?;
        self.order.push_back(repository.clone());
        let queue = self.repositories.get_mut(&repository)?;
        let sender = queue.waiting.pop_front()?;
        queue.in_use += 1;
        self.in_use += 1;
        Some((repository, sender))
    }

    /// Removes images whose wait was cancelled, and repositories without any image.
    fn remove_cancelled(&mut self) {
        self.repositories.retain(|_, queue| {
            queue.waiting.retain(|sender| !sender.is_closed());
            queue.in_use > 0 || !queue.waiting.is_empty()
        });
        let repositories = &self.repositories;
        self.order
            .retain(|repository| repositories.contains_key(repository));
    }
}

impl Drop for ScanPermit {
    fn drop(&mut self) {
        self.queue.release(&self.repository);
        self.queue.assign_permits();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repository(name: &str) -> Repository {
        name.parse().unwrap()
    }

    /// Starts to wait for a permit.
    #[expect(clippy::disallowed_methods, reason = "the runtime ends with the test")]
    fn ask(
        queue: &Arc<ScanQueue>,
        name: &str,
    ) -> tokio::task::JoinHandle<Result<ScanPermit, Busy>> {
        let (queue, name) = (queue.clone(), repository(name));
        tokio::spawn(async move { queue.acquire(&name).await })
    }

    /// Lets every task run until it waits.
    async fn run_tasks() {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }

    async fn is_ready<T>(handle: &tokio::task::JoinHandle<T>) -> bool {
        run_tasks().await;
        handle.is_finished()
    }

    #[tokio::test(start_paused = true)]
    async fn a_repository_with_many_images_leaves_permits_to_others() {
        let queue = ScanQueue::new(3, 2, 16);
        let busy: Vec<_> = (0..6).map(|_| ask(&queue, "a/busy")).collect();
        run_tasks().await;
        let other = ask(&queue, "a/other");
        assert!(is_ready(&other).await, "one permit is left for others");
        let mut ready = 0;
        for image in &busy {
            ready += usize::from(is_ready(image).await);
        }
        assert_eq!(ready, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn repositories_take_turns() {
        let queue = ScanQueue::new(1, 1, 16);
        let first = queue.acquire(&repository("a/busy")).await.unwrap();
        let mut busy: Vec<_> = (0..4).map(|_| ask(&queue, "a/busy")).collect();
        run_tasks().await;
        let other = ask(&queue, "a/other");
        run_tasks().await;
        drop(first);
        let second = busy.remove(0).await.unwrap();
        assert!(
            !is_ready(&other).await,
            "the busy one was in line before it"
        );
        drop(second);
        assert!(is_ready(&other).await);
        for image in &busy {
            assert!(!is_ready(image).await);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_image_that_waits_for_too_long_is_postponed_and_removed() {
        let queue = ScanQueue::new(1, 1, 16);
        let first = queue.acquire(&repository("a/a")).await.unwrap();
        let waits = queue.acquire(&repository("a/b")).await;
        assert_eq!(waits.unwrap_err(), Busy);
        drop(first);
        let queues = queue.lock();
        assert!(queues.repositories.is_empty() && queues.order.is_empty() && queues.in_use == 0);
    }

    #[tokio::test(start_paused = true)]
    async fn one_repository_fills_at_most_half_of_the_queue() {
        let queue = ScanQueue::new(1, 1, 8);
        let _held = queue.acquire(&repository("a/held")).await.unwrap();
        let busy: Vec<_> = (0..8).map(|_| ask(&queue, "a/busy")).collect();
        run_tasks().await;
        let waiting = busy.iter().filter(|image| !image.is_finished()).count();
        assert_eq!(waiting, 4);
        let other = ask(&queue, "a/other");
        assert!(!is_ready(&other).await, "it waits for its turn");
    }

    #[tokio::test(start_paused = true)]
    async fn the_permit_of_a_cancelled_wait_goes_to_the_next() {
        let queue = ScanQueue::new(1, 1, 16);
        let first = queue.acquire(&repository("a/a")).await.unwrap();
        let leaves = ask(&queue, "a/b");
        let stays = ask(&queue, "a/c");
        run_tasks().await;
        leaves.abort();
        drop(first);
        assert!(is_ready(&stays).await);
    }
}
