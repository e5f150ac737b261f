//! Who may do what in the internal registry, with the tokens that the gateway issues.

use sluice_tests::{Image, Stack, Upstream, binary, skopeo, wait_for};

const RESOURCES: &str = "kind: Repository
name: official/*
visibility: public
---
kind: Repository
name: hub/*
visibility: private
---
kind: PromotionPolicy
name: clean
from: hub/*
to: official/{name}
when: scan.critical == 0
";

/// A stack with an image in staging and one in a target, and the image.
fn guarded(accounts: &[(&str, &str)]) -> (Stack, Image, Image) {
    let stack = Stack::start(7_200);
    // The policy comes last, so that whoever knows it knows the accounts too.
    let mut resources: String = accounts
        .iter()
        .map(|(name, rights)| stack.account(name, rights))
        .collect();
    resources += "---\n";
    resources += RESOURCES;
    stack.apply(&resources);
    let (mirror_worker, promoter) = (
        stack.as_service("mirror-worker"),
        stack.as_service("promoter"),
    );
    wait_for("the gateway to know the target", 20, || {
        (promoter.try_upload("official/app") == 202).then_some(())
    });
    let staged = mirror_worker.image("hub/app", "amd64", "staged");
    mirror_worker.put("hub/app", "1.0", &staged);
    let promoted = promoter.image("official/app", "amd64", "promoted");
    promoter.put("official/app", "1.0", &promoted);
    (stack, staged, promoted)
}

/// The statuses of a push of a layer, a push of a manifest, and a deletion.
fn writes(client: &Upstream, repository: &str, image: &Image) -> [u16; 3] {
    [
        client.try_upload(repository),
        client.try_put(repository, "2.0", image),
        client.try_delete(repository, &image.digest),
    ]
}

const REFUSED: [u16; 3] = [401; 3];
const DONE: [u16; 3] = [202, 201, 202];

#[test]
fn without_an_account_only_public_repositories_are_read_and_none_is_written() {
    let (stack, staged, promoted) = guarded(&[]);
    let anonymous = stack.anonymous();
    for (path, status) in [
        ("official/app/manifests/1.0".to_owned(), 200),
        (format!("official/app/manifests/{}", promoted.digest), 200),
        ("official/app/tags/list".to_owned(), 200),
        ("hub/app/manifests/1.0".to_owned(), 401),
        (format!("hub/app/manifests/{}", staged.digest), 401),
        ("hub/app/tags/list".to_owned(), 401),
        ("other/app/manifests/1.0".to_owned(), 401),
        ("_catalog".to_owned(), 401),
        (String::new(), 200),
    ] {
        assert_eq!(anonymous.status(&path), status, "{path}");
    }
    assert_eq!(writes(&anonymous, "official/app", &promoted), REFUSED);
    assert_eq!(writes(&anonymous, "hub/app", &staged), REFUSED);

    let pull = |repository: &str| {
        let from = format!("docker://{}/{repository}:1.0", stack.internal.host);
        let to = format!("dir:{}", stack.folder().join("pulled").display());
        let options = ["--src-tls-verify=false", "--src-no-creds"];
        skopeo("copy", &options, &[&from, &to])
    };
    assert!(pull("official/app").status.success());
    let refused = pull("hub/app");
    let complaint = String::from_utf8(refused.stderr).unwrap();
    assert!(complaint.contains("unauthorized"), "{complaint}");
    assert_eq!(stack.reader().status("_catalog"), 200);
}

#[test]
fn only_the_promoter_writes_to_a_target_and_it_writes_nowhere_else() {
    let (stack, staged, promoted) = guarded(&[("ci", "push: ['**']\n")]);
    let account = Upstream::with_account(&stack.internal.host, "ci", "cici");
    let image = account.image("hub/own", "amd64", "own");
    assert_eq!(writes(&account, "hub/own", &image), DONE);
    for (who, client) in [
        ("an account", account),
        ("mirror-worker", stack.as_service("mirror-worker")),
        ("pruner", stack.as_service("pruner")),
        ("scanner-adapter", stack.as_service("scanner-adapter")),
        ("gateway", stack.as_service("gateway")),
    ] {
        let refused = writes(&client, "official/app", &promoted);
        assert_eq!(refused, REFUSED, "{who} may write to a target");
        assert_eq!(client.get("official/app", "2.0"), None, "{who}");
    }
    let promoter = stack.as_service("promoter");
    assert_eq!(writes(&promoter, "hub/app", &staged), REFUSED);
    assert_eq!(promoter.get("hub/app", "1.0").unwrap(), staged.raw);
    for reader in ["scanner-adapter", "gateway"] {
        let client = stack.as_service(reader);
        assert_eq!(writes(&client, "hub/app", &staged), REFUSED, "{reader}");
    }
    // The same requests are granted to those whose work they are.
    assert_eq!(writes(&promoter, "official/app", &promoted), DONE);
    for (who, repository) in [("mirror-worker", "hub/app"), ("pruner", "hub/other")] {
        let client = stack.as_service(who);
        let image = client.image(repository, "amd64", who);
        assert_eq!(writes(&client, repository, &image), DONE, "{who}");
    }
}

#[test]
fn an_account_reads_and_writes_what_its_patterns_match() {
    let (stack, staged, promoted) = guarded(&[
        ("ci", "push: ['team/*']\n"),
        ("reader", "pull: ['hub/*']\n"),
    ]);
    let as_account =
        |name: &str| Upstream::with_account(&stack.internal.host, name, &format!("{name}{name}"));
    let (ci, reader) = (as_account("ci"), as_account("reader"));
    let own = ci.image("team/app", "amd64", "own");
    ci.put("team/app", "1.0", &own);
    assert_eq!(ci.get("team/app", "1.0").unwrap(), own.raw);
    assert_eq!(ci.get("official/app", "1.0").unwrap(), promoted.raw);
    assert_eq!(ci.get("hub/app", "1.0"), None);
    assert_eq!(reader.get("hub/app", "1.0").unwrap(), staged.raw);
    assert_eq!(reader.get("team/app", "1.0"), None);
    assert_eq!(writes(&reader, "hub/app", &staged), REFUSED);
}

#[test]
fn a_wrong_password_opens_nothing_not_even_what_is_public() {
    let (stack, _, _) = guarded(&[("ci", "pull: ['hub/*']\n")]);
    let status = |name: &str, password: &str, path: &str| {
        Upstream::with_account(&stack.internal.host, name, password).status(path)
    };
    for path in ["hub/app/manifests/1.0", "official/app/manifests/1.0"] {
        assert_eq!(status("ci", "cici", path), 200);
        for (name, password) in [
            ("ci", "cicj"),
            ("ci", ""),
            ("nobody", "cici"),
            ("promoter", "cici"),
        ] {
            assert_eq!(status(name, password, path), 401, "{name}");
        }
    }
    // A resource cannot take the place of one of our own services.
    let file = stack.folder().join("usurper.yaml");
    std::fs::write(&file, stack.account("promoter", "push: ['**']\n")).unwrap();
    let output = stack.try_sluice(&["apply", "-f", file.to_str().unwrap()]);
    assert!(!output.status.success());
}

#[test]
fn the_token_endpoint_answers_as_clients_expect() {
    let stack = Stack::start(7_200);
    let client = reqwest::blocking::Client::new();
    let url = format!("http://{}/token", stack.tokens);
    let body = |answer: reqwest::blocking::Response| -> serde_json::Value {
        serde_json::from_slice(&answer.bytes().unwrap()).unwrap()
    };
    // `docker login` asks without a scope.
    let answer = client
        .get(&url)
        .query(&[("account", "x"), ("client_id", "docker")])
        .send()
        .unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["cache-control"], "no-store");
    let answer = body(answer);
    assert_eq!(answer["token"], answer["access_token"]);
    assert_eq!(answer["expires_in"], 300);
    assert!(answer["issued_at"].as_str().unwrap().ends_with('Z'));
    // containerd begins with POST and takes this as a sign to use GET.
    assert_eq!(client.post(&url).send().unwrap().status(), 405);
    let other = client.get(&url).query(&[("service", "other")]);
    assert_eq!(other.send().unwrap().status(), 400);
    let wrong = client.get(&url).basic_auth("gateway", Some("wrong"));
    let wrong = wrong.send().unwrap();
    assert_eq!(wrong.status(), 401);
    assert!(wrong.headers().contains_key("www-authenticate"));
    assert_eq!(body(wrong)["errors"][0]["code"], "UNAUTHORIZED");
}

#[test]
fn the_keys_of_an_installation_are_made_once() {
    let folder = tempfile::tempdir().unwrap();
    let keys = || {
        let output = std::process::Command::new(binary("sluice"))
            .arg("keys")
            .arg(folder.path().join("keys"))
            .output()
            .unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    let made = keys();
    assert!(made.contains("keys/signing-key.pem created"), "{made}");
    assert!(made.contains("keys/accounts/promoter created"), "{made}");
    assert_eq!(keys(), "all keys and passwords exist\n");
}

#[test]
fn a_flood_of_wrong_passwords_keeps_the_holder_out_nowhere() {
    let (stack, _, _) = guarded(&[("ci", "pull: ['hub/*']\n")]);
    // Its own address: the harness stands before the other one, and would be the source of everything.
    let gateway = std::fs::read_to_string(stack.folder().join("gateway-0.tokens")).unwrap();
    let url = format!("http://{gateway}/token?service=sluice-registry");
    let from = |address: &str| {
        let client = reqwest::blocking::Client::builder();
        let client = client.local_address(address.parse::<std::net::IpAddr>().unwrap());
        client.build().unwrap()
    };
    let login = |client: &reqwest::blocking::Client, password: &str| {
        let request = client.get(&url).basic_auth("ci", Some(password));
        request.send().map(|answer| answer.status().as_u16())
    };
    let over = std::sync::atomic::AtomicBool::new(false);
    let is_over = || over.load(std::sync::atomic::Ordering::SeqCst);
    std::thread::scope(|scope| {
        for _ in 0..24 {
            scope.spawn(|| {
                let attacker = from("127.0.0.2");
                while !is_over() {
                    // Only a connection that was cut is no answer.
                    assert_ne!(login(&attacker, "wrong").ok(), Some(200));
                }
            });
        }
        let (holder, beside) = (from("127.0.0.1"), from("127.0.0.2"));
        wait_for("the guesses to stand in line", 60, || {
            let begun = tokio::time::Instant::now();
            assert_eq!(login(&beside, "cici").unwrap(), 200);
            (begun.elapsed() > std::time::Duration::from_secs(1)).then_some(())
        });
        for _ in 0..20 {
            assert_eq!(login(&holder, "cici").unwrap(), 200);
        }
        over.store(true, std::sync::atomic::Ordering::SeqCst);
    });
}
