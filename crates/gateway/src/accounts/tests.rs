//! Tests of who is let in.

use std::fs;

use axum::http::HeaderValue;
use futures_util::future::join_all;
use sluice_domain::SecretRef;
use sluice_domain::resources::Account;

use super::*;
use crate::keys::Keys;

struct Place {
    accounts: Accounts,
    snapshot: Snapshot,
    keys: Keys,
    _folder: tempfile::TempDir,
}

fn place() -> Place {
    let folder = tempfile::tempdir().unwrap();
    let keys = Keys::at(folder.path().join("keys"));
    keys.create().unwrap();
    let secrets = folder.path().join("secrets");
    fs::create_dir(&secrets).unwrap();
    fs::write(secrets.join("ci"), "hunter2\n").unwrap();
    let mut snapshot = Snapshot::default();
    for name in ["ci", "lost"] {
        let account = Account {
            name: name.parse().unwrap(),
            password: SecretRef {
                secret: name.parse().unwrap(),
            },
            pull: Vec::new(),
            push: Vec::new(),
        };
        snapshot.accounts.insert(account.name.clone(), account);
    }
    Place {
        accounts: Accounts::new(keys.accounts(), Secrets::at(secrets)),
        snapshot,
        keys,
        _folder: folder,
    }
}

impl Place {
    async fn identify(&self, source: &str, value: &str) -> Result<Requester, Refused> {
        let value = HeaderValue::from_str(value).unwrap();
        let headers = HeaderMap::from_iter([(AUTHORIZATION, value)]);
        let source = Source::of(source.parse().unwrap());
        self.accounts
            .identify(&self.snapshot, source, &headers)
            .await
    }

    async fn login(&self, name: &str, password: &str) -> Result<Requester, Refused> {
        self.login_from("127.0.0.2", name, password).await
    }

    async fn login_from(
        &self,
        source: &str,
        name: &str,
        password: &str,
    ) -> Result<Requester, Refused> {
        let value = STANDARD.encode(format!("{name}:{password}"));
        self.identify(source, &format!("Basic {value}")).await
    }
}

#[tokio::test(start_paused = true)]
async fn the_right_password_opens_and_no_password_is_nobody() {
    let place = place();
    let begun = Instant::now();
    let account = place.login("ci", "hunter2").await.unwrap();
    assert_eq!(account.name(), "ci");
    let password = fs::read_to_string(place.keys.password("promoter")).unwrap();
    let service = place.login("promoter", &password).await;
    assert_eq!(service, Ok(Requester::Service("promoter")));
    let nobody = place
        .accounts
        .identify(
            &place.snapshot,
            Source::of("127.0.0.2".parse().unwrap()),
            &HeaderMap::new(),
        )
        .await;
    assert_eq!(nobody, Ok(Requester::Anonymous));
    assert_eq!(begun.elapsed(), Duration::ZERO, "the right one waits");
}

#[tokio::test(start_paused = true)]
async fn every_refusal_looks_the_same_and_takes_the_same_time() {
    let place = place();
    let promoter = fs::read_to_string(place.keys.password("promoter")).unwrap();
    for (name, password) in [
        ("ci", "hunter3"),
        ("ci", ""),
        ("nobody", "hunter2"),
        ("", ""),
        ("lost", "hunter2"),
        ("promoter", "hunter2"),
        ("pruner", &promoter),
        ("../ci", "hunter2"),
        ("../keys/notifications", "hunter2"),
    ] {
        let begun = Instant::now();
        let refused = place.login(name, password).await;
        assert_eq!(refused, Err(Refused::Wrong), "{name}");
        assert_eq!(begun.elapsed(), REFUSAL, "{name}");
    }
    for value in ["Bearer hunter2", "Basic", "Basic !", "Basic aHVudGVyMg=="] {
        assert_eq!(
            place.identify("127.0.0.2", value).await,
            Err(Refused::Wrong),
            "{value}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_changed_password_counts_at_once() {
    let place = place();
    let file = place.keys.password("promoter");
    let before = fs::read_to_string(&file).unwrap();
    fs::write(&file, "another").unwrap();
    assert!(place.login("promoter", "another").await.is_ok());
    assert!(place.login("promoter", &before).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn guesses_of_one_source_do_not_keep_the_holder_out() {
    let place = place();
    let guesses = 16 * ATTEMPTS;
    let begun = Instant::now();
    let flood = join_all((0..guesses).map(|_| place.login("ci", "wrong")));
    let others = async {
        // The holder elsewhere, and a service at the same source, wait for nothing.
        assert!(place.login_from("127.0.0.1", "ci", "hunter2").await.is_ok());
        let password = fs::read_to_string(place.keys.password("gateway")).unwrap();
        assert!(place.login("gateway", &password).await.is_ok());
        assert_eq!(begun.elapsed(), Duration::ZERO);
        // The holder at the same source waits in line, and is let in.
        assert!(place.login("ci", "hunter2").await.is_ok());
        assert!(begun.elapsed() < PATIENCE);
    };
    let (refused, ()) = tokio::join!(flood, others);
    assert!(refused.iter().all(|one| *one == Err(Refused::Wrong)));
    // The one who guesses has eight tries a second.
    assert_eq!(begun.elapsed(), REFUSAL * 16);
}

#[tokio::test(start_paused = true)]
async fn guesses_that_keep_going_do_not_keep_the_holder_out() {
    let place = place();
    let guess_on = |_| async {
        loop {
            place.login("ci", "wrong").await.unwrap_err();
        }
    };
    let guessing = join_all((0..8 * ATTEMPTS).map(guess_on));
    let holder = async {
        for _ in 0..50 {
            assert!(place.login("ci", "hunter2").await.is_ok());
            assert!(place.login_from("127.0.0.1", "ci", "hunter2").await.is_ok());
        }
    };
    tokio::select! {
        _ = guessing => {}
        () = holder => {}
    }
}

#[tokio::test(start_paused = true)]
async fn who_does_not_wait_for_the_answer_tries_no_faster() {
    let place = place();
    let begun = Instant::now();
    for _ in 0..ATTEMPTS {
        let guess = place.login("ci", "wrong");
        assert!(timeout(Duration::from_millis(10), guess).await.is_err());
    }
    // Those that gave up while they waited did not shorten it.
    for _ in 0..ATTEMPTS {
        let guess = place.login("ci", "hunter2");
        assert!(timeout(Duration::from_millis(10), guess).await.is_err());
    }
    assert!(place.login("ci", "hunter2").await.is_ok());
    assert!(begun.elapsed() >= REFUSAL);
}

#[tokio::test(start_paused = true)]
async fn guesses_at_unknown_accounts_wait_like_those_at_known_ones() {
    let place = place();
    let mut times = Vec::new();
    for name in ["ci", "lost", "nobody", "someone", "No Name"] {
        let begun = Instant::now();
        join_all((0..5 * ATTEMPTS).map(|_| place.login(name, "wrong"))).await;
        times.push(begun.elapsed());
        // One try more at the same moment is not slower for guesses at other names.
        let begun = Instant::now();
        let other = place.login("other", "wrong");
        let (_, _) = tokio::join!(place.login(name, "wrong"), other);
        assert_eq!(begun.elapsed(), REFUSAL, "{name}");
    }
    assert!(times.iter().all(|time| *time == REFUSAL * 5), "{times:?}");
}

#[tokio::test(start_paused = true)]
async fn paces_that_are_over_are_forgotten() {
    let place = place();
    for round in 0..4 {
        let names: Vec<_> = (0..MANY)
            .map(|number| format!("n{round}-{number}"))
            .collect();
        join_all(names.iter().map(|name| place.login(name, "x"))).await;
        assert!(place.accounts.paces.lock().unwrap().len() <= MANY);
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_too_long_is_told_so() {
    let place = place();
    let answers = join_all((0..30 * ATTEMPTS).map(|_| place.login("ci", "wrong"))).await;
    let busy = answers.iter().filter(|one| **one == Err(Refused::Busy));
    // Those whose turn comes at the end of the patience may be either.
    let told = 9 * ATTEMPTS..=10 * ATTEMPTS;
    assert!(told.contains(&busy.count()));
}
