//! Tests of who is let in.

use std::fs;

use axum::http::HeaderValue;
use futures_util::future::join_all;
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
    let password_file = folder.path().join("ci");
    fs::write(&password_file, "hunter2\n").unwrap();
    let mut snapshot = Snapshot::default();
    for (name, password_file) in [
        ("ci", password_file),
        ("lost", folder.path().join("missing")),
    ] {
        let account = Account {
            name: name.parse().unwrap(),
            password_file,
            pull: Vec::new(),
            push: Vec::new(),
        };
        snapshot.accounts.insert(account.name.clone(), account);
    }
    Place {
        accounts: Accounts::new(keys.accounts()),
        snapshot,
        keys,
        _folder: folder,
    }
}

impl Place {
    async fn identify(&self, value: &str) -> Result<Requester, Refused> {
        let value = HeaderValue::from_str(value).unwrap();
        let headers = HeaderMap::from_iter([(AUTHORIZATION, value)]);
        self.accounts.identify(&self.snapshot, &headers).await
    }

    async fn login(&self, name: &str, password: &str) -> Result<Requester, Refused> {
        let value = STANDARD.encode(format!("{name}:{password}"));
        self.identify(&format!("Basic {value}")).await
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
        .identify(&place.snapshot, &HeaderMap::new())
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
        assert_eq!(place.identify(value).await, Err(Refused::Wrong), "{value}");
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
async fn guesses_of_one_account_wait_for_each_other_and_stop_nobody_else() {
    let place = place();
    let guesses = 8 * ATTEMPTS_AT_ONCE;
    let begun = Instant::now();
    let flood = join_all((0..guesses).map(|_| place.login("ci", "wrong")));
    let other = async {
        let password = fs::read_to_string(place.keys.password("gateway")).unwrap();
        let let_in = place.login("gateway", &password).await;
        (let_in.is_ok(), begun.elapsed())
    };
    let (refused, (let_in, waited)) = tokio::join!(flood, other);
    assert!(refused.iter().all(|one| *one == Err(Refused::Wrong)));
    assert_eq!(begun.elapsed(), REFUSAL * 8);
    assert!(let_in);
    assert!(waited < REFUSAL, "a service waited for {waited:?}");
}

#[tokio::test(start_paused = true)]
async fn who_waits_too_long_is_told_so() {
    let place = place();
    let answers = join_all((0..30 * ATTEMPTS_AT_ONCE).map(|_| place.login("ci", "wrong"))).await;
    let busy = answers.iter().filter(|one| **one == Err(Refused::Busy));
    // Those whose turn comes at the end of the patience may be either.
    let told = 9 * ATTEMPTS_AT_ONCE..=10 * ATTEMPTS_AT_ONCE;
    assert!(told.contains(&busy.count()));
}
