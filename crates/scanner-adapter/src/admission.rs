//! Which image is scanned next: so many at once, so many of one repository, and repositories take turns.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sluice_domain::Repository;
use tokio::sync::oneshot;

/// How long an image waits here before its message is put off, so that others can come in.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(600);
/// How many of one repository may wait here even where many others do.
const FEW: usize = 2;

type Waiting = oneshot::Sender<ScanPermit>;

/// Gives out places to scan.
#[derive(Debug)]
pub(crate) struct Admission {
    places: usize,
    per_repository: usize,
    /// How many images may wait here.
    waiting: usize,
    queues: Mutex<Queues>,
}

#[derive(Debug, Default)]
struct Queues {
    /// Each repository of which an image is scanned or waits.
    repositories: BTreeMap<Repository, Queue>,
    /// Whose turn it is, the next one first.
    order: VecDeque<Repository>,
    taken: usize,
}

#[derive(Debug, Default)]
struct Queue {
    taken: usize,
    waiting: VecDeque<Waiting>,
}

/// A permit to scan one image, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct ScanPermit {
    admission: Arc<Admission>,
    repository: Repository,
}

/// There is no place now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Busy;

impl Admission {
    /// Gives out so many places, to each repository at most so many; as many images as `waiting` may wait for one.
    pub(crate) fn new(places: usize, per_repository: usize, waiting: usize) -> Arc<Self> {
        Arc::new(Self {
            places: places.max(1),
            per_repository: per_repository.max(1),
            waiting,
            queues: Mutex::default(),
        })
    }

    /// Waits for a place, for a while.
    ///
    /// # Errors
    /// [`Busy`] when it takes too long, or when many wait already and those of this repository are not few.
    pub(crate) async fn place(
        self: &Arc<Self>,
        repository: &Repository,
    ) -> Result<ScanPermit, Busy> {
        let (sender, receiver) = oneshot::channel();
        {
            let mut queues = self.lock();
            queues.forget_who_left();
            let all = queues.repositories.values();
            let waiting: usize = all.map(|queue| queue.waiting.len()).sum();
            let queue = queues.repositories.get(repository);
            let (is_new, own) = (
                queue.is_none(),
                queue.map_or(0, |queue| queue.waiting.len()),
            );
            if waiting >= self.waiting || (own >= FEW && waiting * 2 >= self.waiting) {
                return Err(Busy);
            }
            if is_new {
                queues.order.push_back(repository.clone());
            }
            let queue = queues.repositories.entry(repository.clone()).or_default();
            queue.waiting.push_back(sender);
        }
        self.admit();
        match tokio::time::timeout(LONGEST_WAIT, receiver).await {
            Ok(Ok(place)) => Ok(place),
            Ok(Err(_)) | Err(_) => Err(Busy),
        }
    }

    /// Gives the places that are free to whose turn it is.
    fn admit(self: &Arc<Self>) {
        loop {
            let next = self.lock().next(self.places, self.per_repository);
            let Some((repository, sender)) = next else {
                return;
            };
            let place = ScanPermit {
                admission: self.clone(),
                repository,
            };
            // One that nobody waits for any more is free again, and the next one gets it.
            drop(sender.send(place));
        }
    }

    fn release(&self, repository: &Repository) {
        let mut queues = self.lock();
        queues.taken = queues.taken.saturating_sub(1);
        if let Some(queue) = queues.repositories.get_mut(repository) {
            queue.taken = queue.taken.saturating_sub(1);
        }
        queues.forget_who_left();
    }

    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queues {
    /// Takes a place for the first repository that may have one; it comes last the next time.
    fn next(&mut self, places: usize, per_repository: usize) -> Option<(Repository, Waiting)> {
        if self.taken >= places {
            return None;
        }
        self.forget_who_left();
        let may = |repository: &Repository| {
            let queue = self.repositories.get(repository);
            queue.is_some_and(|queue| queue.taken < per_repository && !queue.waiting.is_empty())
        };
        let turn = self.order.iter().position(may)?;
        let repository = self.order.remove(turn)?;
        self.order.push_back(repository.clone());
        let queue = self.repositories.get_mut(&repository)?;
        let sender = queue.waiting.pop_front()?;
        queue.taken += 1;
        self.taken += 1;
        Some((repository, sender))
    }

    /// Removes those who wait no more, and repositories of which nothing is left.
    fn forget_who_left(&mut self) {
        self.repositories.retain(|_, queue| {
            queue.waiting.retain(|sender| !sender.is_closed());
            queue.taken > 0 || !queue.waiting.is_empty()
        });
        let repositories = &self.repositories;
        self.order
            .retain(|repository| repositories.contains_key(repository));
    }
}

impl Drop for ScanPermit {
    fn drop(&mut self) {
        self.admission.release(&self.repository);
        self.admission.admit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repository(name: &str) -> Repository {
        name.parse().unwrap()
    }

    /// Asks for a place, and returns it or what waits for it.
    #[expect(clippy::disallowed_methods, reason = "the runtime ends with the test")]
    fn ask(
        admission: &Arc<Admission>,
        name: &str,
    ) -> tokio::task::JoinHandle<Result<ScanPermit, Busy>> {
        let (admission, name) = (admission.clone(), repository(name));
        tokio::spawn(async move { admission.place(&name).await })
    }

    /// Lets everybody who can do something do it.
    async fn settle() {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }

    async fn is_ready<T>(handle: &tokio::task::JoinHandle<T>) -> bool {
        settle().await;
        handle.is_finished()
    }

    #[tokio::test(start_paused = true)]
    async fn a_repository_with_many_images_leaves_places_to_others() {
        let admission = Admission::new(3, 2, 16);
        let busy: Vec<_> = (0..6).map(|_| ask(&admission, "a/busy")).collect();
        settle().await;
        let other = ask(&admission, "a/other");
        assert!(is_ready(&other).await, "one place is left for others");
        let mut ready = 0;
        for image in &busy {
            ready += usize::from(is_ready(image).await);
        }
        assert_eq!(ready, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn repositories_take_turns() {
        let admission = Admission::new(1, 1, 16);
        let first = admission.place(&repository("a/busy")).await.unwrap();
        let mut busy: Vec<_> = (0..4).map(|_| ask(&admission, "a/busy")).collect();
        settle().await;
        let other = ask(&admission, "a/other");
        settle().await;
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
    async fn whoever_waits_for_too_long_is_put_off_and_leaves_nothing() {
        let admission = Admission::new(1, 1, 16);
        let first = admission.place(&repository("a/a")).await.unwrap();
        let waits = admission.place(&repository("a/b")).await;
        assert_eq!(waits.unwrap_err(), Busy);
        drop(first);
        let queues = admission.lock();
        assert!(queues.repositories.is_empty() && queues.order.is_empty() && queues.taken == 0);
    }

    #[tokio::test(start_paused = true)]
    async fn where_many_wait_only_few_of_one_repository_do() {
        let admission = Admission::new(1, 1, 8);
        let _held = admission.place(&repository("a/held")).await.unwrap();
        let busy: Vec<_> = (0..8).map(|_| ask(&admission, "a/busy")).collect();
        settle().await;
        let waiting = busy.iter().filter(|image| !image.is_finished()).count();
        assert_eq!(waiting, 4);
        let other = ask(&admission, "a/other");
        assert!(!is_ready(&other).await, "it waits for its turn");
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_of_one_who_left_goes_to_the_next() {
        let admission = Admission::new(1, 1, 16);
        let first = admission.place(&repository("a/a")).await.unwrap();
        let leaves = ask(&admission, "a/b");
        let stays = ask(&admission, "a/c");
        settle().await;
        leaves.abort();
        drop(first);
        assert!(is_ready(&stays).await);
    }
}
