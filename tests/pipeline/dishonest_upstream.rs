//! An upstream that lies: nothing of it is stored, its lies are told, and the truth goes through beside them.

use sluice_tests::dishonest_registry::{Liar, Lie};
use sluice_tests::{Stack, wait_for};

/// What each repository is lied about, and what is told of it: a part of the path, the lie, and a word of the reason.
const FOREIGN: &str = "http://127.0.0.1:9";

fn lies(liar: &Liar, elsewhere: &str) {
    for (name, what, lie) in [
        ("header", "/manifests/sha256", Lie::WrongDigestHeader),
        ("manifest", "/manifests/sha256", Lie::WrongBytes),
        ("blob", "/blobs/", Lie::WrongBytes),
        (
            "realm",
            "/tags/list",
            Lie::Realm(format!("{FOREIGN}/token")),
        ),
        ("endless", "/tags/list", Lie::EndlessTags),
    ] {
        liar.lie(&format!("library/{name}{what}"), lie);
    }
    for (name, what, lie, times) in [
        ("cut", "/manifests/sha256", Lie::Truncated, 4),
        ("broken", "/blobs/", Lie::Status(500, None), 4),
        ("busy", "/manifests/sha256", Lie::Status(503, Some(1)), 4),
        ("quota", "/manifests/sha256", Lie::Status(429, Some(2)), 2),
    ] {
        liar.lie_times(&format!("library/{name}{what}"), lie, times);
    }
    let redirect = Lie::Redirect(format!("http://{elsewhere}"));
    liar.lie("library/moved/blobs/", redirect);
}

#[test]
fn what_an_upstream_lies_about_is_told_and_never_stored() {
    let mut stack = Stack::start(7_200);
    stack.may_leave_messages();
    let liar = Liar::before(&stack.upstream.host);
    let elsewhere = Liar::before(&stack.upstream.host);
    lies(&liar, &elsewhere.host);
    let names = [
        "header", "manifest", "blob", "realm", "endless", "cut", "broken", "busy", "quota",
        "moved", "honest",
    ];
    let publisher = stack.publisher();
    let mut resources = format!(
        "kind: Registry\nname: upstream\n{}",
        stack.login(&liar.host, ("someone", "planted-secret"))
    );
    let mut images = Vec::new();
    for name in names {
        let from = format!("library/{name}");
        let image = publisher.image(&from, "amd64", name);
        publisher.put(&from, "1.0", &image);
        resources += &format!(
            "---\nkind: Mirror\nname: {name}\nfrom: {}/{from}\nto: hub/{name}\nevery: 1h\n",
            liar.host
        );
        images.push(image);
    }
    stack.service("poller", &[]);
    stack.service("mirror-worker", &[]);
    stack.apply(&resources);
    let reader = stack.reader();
    // What passes is waited for; what is a lie is given up at once, with its reason.
    let (lied, passed) = names.split_at(5);
    for (name, image) in passed.iter().zip(&images[5..]) {
        wait_for(&format!("{name} to arrive"), 120, || {
            (reader.get(&format!("hub/{name}"), "1.0")? == image.raw).then_some(())
        });
    }
    for name in ["header", "manifest", "blob"] {
        let failed = wait_for(&format!("{name} to be given up"), 60, || {
            let failed = stack.events("tag.mirror_failed");
            failed
                .into_iter()
                .find(|fact| fact["data"]["repository"] == format!("hub/{name}"))
        });
        let reason = failed["data"]["reason"].to_string();
        assert!(
            reason.contains("cannot be trusted") || reason.contains("digest"),
            "{reason}"
        );
    }
    for (name, reason) in [("realm", "realm"), ("endless", "pages")] {
        let failed = wait_for(&format!("the poll of {name} to fail"), 60, || {
            let failed = stack.events("upstream.poll_failed");
            failed
                .into_iter()
                .find(|fact| fact["data"]["mirror"] == name)
        });
        assert!(
            failed["data"]["reason"].to_string().contains(reason),
            "{failed}"
        );
    }
    assert_eq!(stack.status()["deadLetters"], 3);
    assert_eq!(stack.events("tag.mirror_failed").len(), 3);
    for (name, image) in lied.iter().zip(&images) {
        for reference in ["1.0", &image.digest] {
            assert_eq!(
                reader.get(&format!("hub/{name}"), reference),
                None,
                "{name}"
            );
        }
    }
    // Whoever is sent elsewhere goes there without the credential.
    assert!(!elsewhere.asked().is_empty());
    assert!(
        elsewhere
            .asked()
            .iter()
            .all(|(_, authorization)| authorization.is_none())
    );
    // Once it tells the truth, what failed is asked for again and arrives.
    liar.confess();
    stack.sluice(&["dead-letters", "retry", "--all"]);
    for name in ["realm", "endless"] {
        stack.sluice(&["poll", name]);
    }
    for (name, image) in lied.iter().zip(&images) {
        wait_for(&format!("{name} to arrive"), 60, || {
            (reader.get(&format!("hub/{name}"), "1.0")? == image.raw).then_some(())
        });
    }
    wait_for("nothing to be left", 60, || stack.is_quiet().then_some(()));
}
