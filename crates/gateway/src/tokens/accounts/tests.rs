//! Tests of logins.

use std::fs;

use axum::http::HeaderValue;
use futures_util::future::join_all;
use sluice_domain::SecretRef;
use sluice_domain::resources::Account;
use sluice_domain::stages::PROMOTER;

use super::*;
use crate::tokens::key_folder::KeyFolder;

struct Fixture {
    accounts: Accounts,
    snapshot: Snapshot,
    keys: KeyFolder,
    _folder: tempfile::TempDir,
}

fn fixture() -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let keys = KeyFolder::at(folder.path().join("keys"));
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
    Fixture {
        accounts: Accounts::new(keys.accounts(), Secrets::at(secrets)),
        snapshot,
        keys,
        _folder: folder,
    }
}

impl Fixture {
    async fn identify(&self, source: &str, value: &str) -> Result<Requester, LoginError> {
        let value = HeaderValue::from_str(value).unwrap();
        let headers = HeaderMap::from_iter([(AUTHORIZATION, value)]);
        let source = ClientNetwork::of(source.parse().unwrap());
        self.accounts
            .identify(&self.snapshot, source, &headers)
            .await
    }

    async fn login(&self, name: &str, password: &str) -> Result<Requester, LoginError> {
        self.login_from("127.0.0.2", name, password).await
    }

    async fn login_from(
        &self,
        source: &str,
        name: &str,
        password: &str,
    ) -> Result<Requester, LoginError> {
        let value = STANDARD.encode(format!("{name}:{password}"));
        self.identify(source, &format!("Basic {value}")).await
    }
}

#[tokio::test(start_paused = true)]
async fn the_right_password_opens_and_no_password_is_nobody() {
    let fixture = fixture();
    let began = Instant::now();
    let account = fixture.login("ci", "hunter2").await.unwrap();
    assert_eq!(account.name(), "ci");
    let password = fs::read_to_string(fixture.keys.password("promoter")).unwrap();
    let service = fixture.login("promoter", &password).await;
    assert_eq!(service, Ok(Requester::Service(&PROMOTER)));
    let nobody = fixture
        .accounts
        .identify(
            &fixture.snapshot,
            ClientNetwork::of("127.0.0.2".parse().unwrap()),
            &HeaderMap::new(),
        )
        .await;
    assert_eq!(nobody, Ok(Requester::Anonymous));
    assert_eq!(began.elapsed(), Duration::ZERO, "the right one waits");
}

#[tokio::test(start_paused = true)]
async fn every_refusal_looks_the_same_and_takes_the_same_time() {
    let fixture = fixture();
    let promoter = fs::read_to_string(fixture.keys.password("promoter")).unwrap();
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
        let began = Instant::now();
        let refused = fixture.login(name, password).await;
        assert_eq!(refused, Err(LoginError::WrongPassword), "{name}");
        assert_eq!(began.elapsed(), REFUSAL, "{name}");
    }
    for value in ["Bearer hunter2", "Basic", "Basic !", "Basic aHVudGVyMg=="] {
        assert_eq!(
            fixture.identify("127.0.0.2", value).await,
            Err(LoginError::WrongPassword),
            "{value}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_changed_password_counts_at_once() {
    let fixture = fixture();
    let file = fixture.keys.password("promoter");
    let before = fs::read_to_string(&file).unwrap();
    fs::write(&file, "another").unwrap();
    assert!(fixture.login("promoter", "another").await.is_ok());
    assert!(fixture.login("promoter", &before).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn guesses_of_one_source_do_not_keep_the_holder_out() {
    let fixture = fixture();
    let guesses = 16 * MAX_ATTEMPTS;
    let began = Instant::now();
    let flood = join_all((0..guesses).map(|_| fixture.login("ci", "wrong")));
    let others = async {
        // The holder elsewhere, and a service at the same source, wait for nothing.
        assert!(
            fixture
                .login_from("127.0.0.1", "ci", "hunter2")
                .await
                .is_ok()
        );
        let password = fs::read_to_string(fixture.keys.password("gateway")).unwrap();
        assert!(fixture.login("gateway", &password).await.is_ok());
        assert_eq!(began.elapsed(), Duration::ZERO);
        // The holder at the same source waits in line, and is let in.
        assert!(fixture.login("ci", "hunter2").await.is_ok());
        assert!(began.elapsed() < MAX_WAIT);
    };
    let (refused, ()) = tokio::join!(flood, others);
    assert!(
        refused
            .iter()
            .all(|one| *one == Err(LoginError::WrongPassword))
    );
    // The one who guesses has eight tries a second.
    assert_eq!(began.elapsed(), REFUSAL * 16);
}

#[tokio::test(start_paused = true)]
async fn guesses_that_keep_going_do_not_keep_the_holder_out() {
    let fixture = fixture();
    let guess_on = |_| async {
        loop {
            fixture.login("ci", "wrong").await.unwrap_err();
        }
    };
    let guessing = join_all((0..8 * MAX_ATTEMPTS).map(guess_on));
    let holder = async {
        for _ in 0..50 {
            assert!(fixture.login("ci", "hunter2").await.is_ok());
            assert!(
                fixture
                    .login_from("127.0.0.1", "ci", "hunter2")
                    .await
                    .is_ok()
            );
        }
    };
    tokio::select! {
        _ = guessing => {}
        () = holder => {}
    }
}

#[tokio::test(start_paused = true)]
async fn who_does_not_wait_for_the_answer_tries_no_faster() {
    let fixture = fixture();
    let began = Instant::now();
    for _ in 0..MAX_ATTEMPTS {
        let guess = fixture.login("ci", "wrong");
        assert!(timeout(Duration::from_millis(10), guess).await.is_err());
    }
    // Those that gave up while they waited did not shorten it.
    for _ in 0..MAX_ATTEMPTS {
        let guess = fixture.login("ci", "hunter2");
        assert!(timeout(Duration::from_millis(10), guess).await.is_err());
    }
    assert!(fixture.login("ci", "hunter2").await.is_ok());
    assert!(began.elapsed() >= REFUSAL);
}

#[tokio::test(start_paused = true)]
async fn guesses_at_unknown_accounts_wait_like_those_at_known_ones() {
    let fixture = fixture();
    let mut times = Vec::new();
    for name in ["ci", "lost", "nobody", "someone", "No Name"] {
        let began = Instant::now();
        join_all((0..5 * MAX_ATTEMPTS).map(|_| fixture.login(name, "wrong"))).await;
        times.push(began.elapsed());
        // One try more at the same moment is not slower for guesses at other names.
        let began = Instant::now();
        let other = fixture.login("other", "wrong");
        let (_, _) = tokio::join!(fixture.login(name, "wrong"), other);
        assert_eq!(began.elapsed(), REFUSAL, "{name}");
    }
    assert!(times.iter().all(|time| *time == REFUSAL * 5), "{times:?}");
}

#[tokio::test(start_paused = true)]
async fn failures_in_the_past_are_removed() {
    let fixture = fixture();
    for round in 0..4 {
        let names: Vec<_> = (0..CLEANUP_THRESHOLD)
            .map(|number| format!("n{round}-{number}"))
            .collect();
        join_all(names.iter().map(|name| fixture.login(name, "x"))).await;
        assert!(fixture.accounts.failures.lock().unwrap().len() <= CLEANUP_THRESHOLD);
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_waits_too_long_is_refused() {
    let fixture = fixture();
    let answers = join_all((0..30 * MAX_ATTEMPTS).map(|_| fixture.login("ci", "wrong"))).await;
    let busy = answers
        .iter()
        .filter(|one| **one == Err(LoginError::TooManyAttempts));
    // Attempts at the end of the longest wait may fail either way.
    let expected = 9 * MAX_ATTEMPTS..=10 * MAX_ATTEMPTS;
    assert!(expected.contains(&busy.count()));
}
