//! Named crash points: places between two writes at which a test makes the process die.
//!
//! Random kills hardly ever hit a gap of a millisecond, and in every such gap work could be lost or done twice. So each
//! gap calls [`point`] with a name, and a test of the pipeline dies there. The calls compile to nothing unless the feature
//! `crash-points` is on, and only the package of the tests enables it: a deployed binary cannot be made to crash.
//!
//! `SLUICE_CRASH_AT=name` kills the process when it reaches the point for the first time, `name:3` for the third time;
//! `name=detail` and `name:3=detail` count only calls with this detail, such as one image. The process dies as by SIGKILL:
//! nothing is unwound, drained or flushed. Before, it writes the name to the file of `SLUICE_CRASH_MARK`, so that a test
//! knows where it died.

/// Marks a crash point.
#[cfg(not(feature = "crash-points"))]
#[inline(always)]
pub const fn point(_name: &str) {}

/// Marks a crash point with a detail.
#[cfg(not(feature = "crash-points"))]
#[inline(always)]
pub const fn point_of<D: std::fmt::Display + ?Sized>(_name: &str, _detail: &D) {}

#[cfg(feature = "crash-points")]
pub use on::{point, point_of};

#[cfg(feature = "crash-points")]
mod on {
    use std::fmt::Display;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Mutex, OnceLock};

    /// The crash that a test asked for, if any.
    static PLANNED: OnceLock<Option<Planned>> = OnceLock::new();

    /// A crash that a test asked for.
    #[derive(Debug)]
    struct Planned {
        name: String,
        detail: Option<String>,
        /// How many times the point is passed before.
        left: AtomicUsize,
    }

    /// Marks a crash point.
    pub fn point(name: &str) {
        if planned().is_some_and(|planned| planned.detail.is_none() && planned.is_due(name, "")) {
            die(name);
        }
    }

    /// Marks a crash point with a detail.
    pub fn point_of<D: Display + ?Sized>(name: &str, detail: &D) {
        if planned().is_some_and(|planned| planned.is_due(name, &detail.to_string())) {
            die(name);
        }
    }

    impl Planned {
        fn read(text: &str) -> Self {
            let (place, detail) = match text.split_once('=') {
                Some((place, detail)) => (place, Some(detail.to_owned())),
                None => (text, None),
            };
            let (name, nth) = match place.split_once(':') {
                Some((name, nth)) => (name, nth.parse().unwrap_or(1)),
                None => (place, 1_usize),
            };
            Self {
                name: name.to_owned(),
                detail,
                left: AtomicUsize::new(nth.saturating_sub(1)),
            }
        }

        /// Says whether the process is to die at this call.
        fn is_due(&self, name: &str, detail: &str) -> bool {
            let is_here =
                self.name == name && self.detail.as_deref().is_none_or(|wanted| wanted == detail);
            let one_less = |left: usize| left.checked_sub(1);
            is_here
                && self
                    .left
                    .fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less)
                    .is_err()
        }
    }

    #[allow(
        clippy::disallowed_methods,
        reason = "this is no setting: it exists in builds for tests only"
    )]
    fn variable(name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn planned() -> Option<&'static Planned> {
        PLANNED
            .get_or_init(|| Some(Planned::read(&variable("SLUICE_CRASH_AT")?)))
            .as_ref()
    }

    fn die(name: &str) -> ! {
        // Held until the process is gone: another thread that comes here must neither empty the mark nor end the process
        // before it is written.
        static DYING: Mutex<()> = Mutex::new(());
        let _dying = DYING.lock();
        if let Some(file) = variable("SLUICE_CRASH_MARK") {
            // A mark that is missing fails the test that waits for it.
            std::fs::write(file, name).ok();
        }
        std::process::abort();
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        fn dies(plan: &str, visits: &[(&str, &str)]) -> Vec<bool> {
            let planned = Planned::read(plan);
            let visits = visits.iter();
            visits
                .map(|(name, detail)| planned.is_due(name, detail))
                .collect()
        }

        #[test]
        fn it_dies_at_the_named_place_only() {
            let visits = [("a.b", ""), ("a.c", ""), ("a.b", "")];
            assert_eq!(dies("a.c", &visits), [false, true, false]);
            assert_eq!(dies("a", &visits), [false, false, false]);
        }

        #[test]
        fn it_dies_at_the_nth_time_and_for_the_detail() {
            let visits = [("a", "x"), ("a", "y"), ("a", "y"), ("b", "y")];
            assert_eq!(dies("a:2", &visits), [false, true, true, false]);
            assert_eq!(dies("a=y", &visits), [false, true, true, false]);
            assert_eq!(dies("a:2=y", &visits), [false, false, true, false]);
            assert_eq!(dies("a=z", &visits), [false; 4]);
        }
    }
}
