//! A policy that is gone, narrowed, tightened or led elsewhere protects nothing, and what it promoted is not forgotten.

use sluice_bus::topology;
use sluice_events::wire::state::DecisionOutcome;
use sluice_state::key;
use sluice_state::reconcile::{self, reason};
use sluice_tests::{Image, wait_for};

use super::CLEAN_TO_OFFICIAL;
use super::scene::{CLEAN, Scan, Scene};

const WITHDRAWS: &str = "recall: withdraw\n";

impl Scene {
    fn remove_policy(&self, name: &str) {
        self.stack.sluice(&["delete", "PromotionPolicy", name]);
    }

    /// Has the promoter look for what is missing, and waits until that is done.
    fn reconcile(&self) {
        self.bus
            .command(reconcile::command(&topology::PROMOTER, reason::ASKED));
        self.quiet();
    }

    /// Waits for the status of a manifest.
    fn until(&self, repository: &str, reference: &str, status: u16) {
        wait_for(
            &format!("{repository} {reference} to be {status}"),
            60,
            || (self.status(repository, reference) == status).then_some(()),
        );
    }
}

/// Starts a promoter with a policy, and promotes `hub/app:1.0` by it.
fn promoted(policy: &str) -> (Scene, Image) {
    let mut scene = Scene::start();
    scene.policy(policy);
    scene.stack.service("promoter", &[]);
    let image = scene.arrived("app", "1.0", "content");
    scene.scan("app", "1.0", &image, CLEAN);
    scene.expect_published("image.promoted", 1);
    (scene, image)
}

#[test]
fn what_a_deleted_policy_allowed_does_not_keep_an_image_that_others_withdraw() {
    let (scene, image) = promoted(&format!("{CLEAN_TO_OFFICIAL}{WITHDRAWS}"));
    scene.policy(
        &CLEAN_TO_OFFICIAL
            .replace("clean", "loose")
            .replace("== 0", "<= 5"),
    );
    scene.expect_published("image.promoted", 2);
    scene.scan("app", "1.0", &image, Scan::Critical(1));
    scene.expect_published("image.withdrawn", 0);
    assert_eq!(
        scene.status("official/app", "1.0"),
        200,
        "one still allows it"
    );
    scene.remove_policy("loose");
    scene.until("official/app", "1.0", 404);
    scene.expect_published("image.withdrawn", 1);
    assert_eq!(scene.status("official/app", &image.digest), 404);
}

#[test]
fn what_only_a_deleted_or_disabled_policy_promoted_is_flagged_and_stays_until_it_is_allowed_again()
{
    let policy = format!("{CLEAN_TO_OFFICIAL}{WITHDRAWS}");
    let (scene, image) = promoted(&policy);
    scene.remove_policy("clean");
    let flagged = scene.events("image.flagged", 1);
    let reason = flagged[0]["data"]["reason"].as_str().unwrap();
    assert!(reason.contains("policy `clean` was deleted"), "{reason}");
    let explained = scene.stack.sluice(&["explain", "official/app:1.0"]);
    assert!(explained.contains("was deleted"), "{explained}");
    // A deletion by mistake empties nothing, and the same policy makes it good.
    assert_eq!(scene.status("official/app", "1.0"), 200);
    scene.policy(&policy);
    scene.expect_published("image.promoted", 2);
    let flag = || {
        let key = key::decision(
            &"clean".parse().unwrap(),
            &"hub/app".parse().unwrap(),
            &"1.0".parse().unwrap(),
            &image.digest.parse().unwrap(),
        );
        let decision = scene.bus.run(scene.bus.state.decisions.get(&key)).unwrap();
        decision.unwrap().value.flagged
    };
    assert_eq!(flag(), "");
    scene.policy(&format!("{policy}enabled: false\n"));
    let flagged = scene.events("image.flagged", 2);
    let reason = flagged[1]["data"]["reason"].as_str().unwrap();
    assert!(reason.contains("is disabled"), "{reason}");
    scene.reconcile();
    scene.expect_published("image.flagged", 2);
    scene.expect_published("image.withdrawn", 0);
    assert_eq!(scene.status("official/app", "1.0"), 200);
}

#[test]
fn a_policy_that_is_renamed_takes_over_what_it_promoted() {
    let (scene, image) = promoted(CLEAN_TO_OFFICIAL);
    scene.policy(&format!(
        "{}{WITHDRAWS}",
        CLEAN_TO_OFFICIAL.replace("clean", "renamed")
    ));
    scene.expect_published("image.promoted", 2);
    scene.remove_policy("clean");
    scene.reconcile();
    scene.expect_published("image.flagged", 0);
    assert_eq!(scene.status("official/app", "1.0"), 200);
    // The tag was brought by the old name.
    scene.scan("app", "1.0", &image, Scan::Critical(1));
    scene.expect_published("image.withdrawn", 1);
    assert_eq!(scene.status("official/app", "1.0"), 404);
    assert_eq!(scene.status("official/app", &image.digest), 404);
}

#[test]
fn a_policy_that_takes_from_there_no_more_withdraws_or_flags_as_it_says() {
    for (recall, name, status) in [
        ("flag", "image.flagged", 200),
        ("withdraw", "image.withdrawn", 404),
    ] {
        let policy = format!("{CLEAN_TO_OFFICIAL}recall: {recall}\n");
        let (scene, image) = promoted(&policy);
        scene.policy(&policy.replace("hub/*", "hub/other"));
        let told = scene.events(name, 1);
        let reason = told[0]["data"]["reason"].as_str().unwrap();
        assert!(reason.contains("no longer from hub/app"), "{reason}");
        scene.expect_published(name, 1);
        assert_eq!(scene.status("official/app", "1.0"), status);
        assert_eq!(scene.status("official/app", &image.digest), status);
    }
}

#[test]
fn a_policy_that_leads_elsewhere_leaves_nothing_unnoticed_where_it_led_before() {
    let (scene, image) = promoted(CLEAN_TO_OFFICIAL);
    scene.policy(&CLEAN_TO_OFFICIAL.replace("official", "approved"));
    let flagged = scene.events("image.flagged", 1);
    assert_eq!(flagged[0]["data"]["repository"], "official/app");
    scene.expect_published("image.promoted", 2);
    assert_eq!(scene.status("official/app", "1.0"), 200);
    assert_eq!(scene.status("approved/app", "1.0"), 200);
    // No policy names the old target any more, and still nobody else may write there.
    for account in ["mirror-worker", "pruner"] {
        let client = scene.stack.as_service(account);
        assert_eq!(client.try_upload("official/app"), 401, "{account}");
        assert_eq!(
            client.try_put("official/app", "evil", &image),
            401,
            "{account}"
        );
    }
    // Asked to withdraw, it does, from there alone.
    scene.policy(&format!(
        "{}{WITHDRAWS}",
        CLEAN_TO_OFFICIAL.replace("official", "approved")
    ));
    let withdrawn = scene.events("image.withdrawn", 1);
    assert_eq!(withdrawn[0]["data"]["repository"], "official/app");
    scene.until("official/app", &image.digest, 404);
    scene.expect_published("image.withdrawn", 1);
    assert_eq!(scene.status("approved/app", "1.0"), 200);
    // With the last image the target is free again.
    scene.reconcile();
    let worker = scene.stack.as_service("mirror-worker");
    wait_for("the repository to be free", 30, || {
        (worker.try_upload("official/app") == 202).then_some(())
    });
}

#[test]
fn a_tag_template_that_is_changed_leaves_no_old_tag_unnoticed() {
    let policy = format!("{CLEAN_TO_OFFICIAL}{WITHDRAWS}");
    let (scene, image) = promoted(&policy);
    scene.policy(&format!("{policy}tag: 'v%n'\n"));
    scene.expect_published("image.promoted", 2);
    scene.until("official/app", "1.0", 404);
    scene.expect_published("image.withdrawn", 1);
    assert_eq!(scene.status("official/app", "v1.0"), 200);
    assert_eq!(scene.status("official/app", &image.digest), 200);
}

#[test]
fn a_tightened_policy_reaches_what_its_source_tag_names_no_more() {
    let loose = CLEAN_TO_OFFICIAL.replace("== 0", "<= 1");
    let mut scene = Scene::start();
    scene.policy(&loose);
    scene.stack.service("promoter", &[]);
    let moved = scene.publish("app", "moved", "moved on");
    let pruned = scene.publish("app", "pruned", "pruned");
    scene.mirror("app");
    for (tag, image) in [("moved", &moved), ("pruned", &pruned)] {
        scene.mirrored("app", tag, image);
        scene.scan("app", tag, image, Scan::Critical(1));
    }
    scene.expect_published("image.promoted", 2);
    let newer = scene.publish("app", "moved", "newer");
    scene.mirrored("app", "moved", &newer);
    scene.stack.apply(
        "kind: PruningPolicy\nname: old\nrepositories: [hub/*]\nschedule: '0 3 1 1 *'\ndelete: tag == 'pruned'\n",
    );
    scene.stack.service("pruner", &[]);
    scene
        .bus
        .command(sluice_events::commands::PruneRepositories {
            policy: "old".parse().ok(),
            repository: None,
        });
    scene.until("hub/app", "pruned", 404);
    // Its manifest is gone from staging, too.
    scene
        .stack
        .as_service("mirror-worker")
        .delete("hub/app", &pruned.digest);
    scene.expect_published("image.flagged", 0);
    scene.policy(&loose.replace("<= 1", "== 0"));
    let mut flagged: Vec<String> = scene
        .events("image.flagged", 2)
        .iter()
        .map(|fact| fact["data"]["tag"].as_str().unwrap().to_owned())
        .collect();
    flagged.sort();
    assert_eq!(flagged, ["moved", "pruned"]);
    scene.policy(&format!("{}{WITHDRAWS}", loose.replace("<= 1", "== 0")));
    for image in [&moved, &pruned] {
        scene.until("official/app", &image.digest, 404);
    }
    scene.expect_published("image.withdrawn", 2);
    for tag in ["moved", "pruned"] {
        assert_eq!(scene.status("official/app", tag), 404, "{tag}");
    }
}

#[test]
fn a_refused_tag_goes_although_its_digest_stays_under_another() {
    let mut scene = Scene::start();
    scene.policy(
        "name: tags\nfrom: hub/*\nto: official/{name}\nwhen: tag == '1.1' || scan.critical == 0\nrecall: withdraw\n",
    );
    scene.stack.service("promoter", &[]);
    let image = scene.publish("app", "1.0", "content");
    scene.stack.publisher().put("library/app", "1.1", &image);
    scene.mirror("app");
    for tag in ["1.0", "1.1"] {
        scene.mirrored("app", tag, &image);
    }
    scene.scan("app", "1.0", &image, CLEAN);
    scene.expect_published("image.promoted", 2);
    scene.scan("app", "1.0", &image, Scan::Critical(1));
    let withdrawn = scene.events("image.withdrawn", 1);
    assert_eq!(withdrawn[0]["data"]["tag"], "1.0");
    scene.expect_published("image.withdrawn", 1);
    for (reference, status) in [("1.0", 404), ("1.1", 200), (&*image.digest, 200)] {
        assert_eq!(
            scene.status("official/app", reference),
            status,
            "{reference}"
        );
    }
}

#[test]
fn a_withdrawal_does_not_depend_on_an_entry_that_others_may_write() {
    let (scene, image) = promoted(&format!("{CLEAN_TO_OFFICIAL}{WITHDRAWS}"));
    // The accounts of the mirror worker and the pruner may write any entry of `tags`.
    let key = key::tag(&"official/app".parse().unwrap(), &"1.0".parse().unwrap());
    scene.bus.run(scene.bus.state.tags.delete(&key)).unwrap();
    scene.scan("app", "1.0", &image, Scan::Critical(1));
    scene.expect_published("image.withdrawn", 1);
    assert_eq!(scene.status("official/app", "1.0"), 404);
    assert_eq!(scene.status("official/app", &image.digest), 404);
}

#[test]
fn a_verdict_or_policy_that_changes_while_an_image_is_promoted_is_what_counts() {
    for by_policy in [false, true] {
        let mut scene = Scene::start();
        let policy = format!("{CLEAN_TO_OFFICIAL}recall: withdraw\n");
        scene.policy(&policy);
        scene.stack.service("promoter", &[]);
        let image = scene.arrived("app", "1.0", "content");
        let decision = || {
            let filter = key::decisions_about(&image.digest.parse().unwrap());
            let decisions = scene
                .bus
                .run(scene.bus.state.decisions.list(&filter))
                .unwrap();
            decisions.into_iter().next()
        };
        // The image is known, so that it is judged without the registry.
        scene.verdict(&image, Scan::Critical(1));
        scene.tell_scanned("app", "1.0", &image);
        scene.expect_published("image.promotion_denied", 1);
        let refused = decision().unwrap().revision;
        scene.verdict(&image, CLEAN);
        scene.stack.internal.freeze(true);
        scene.tell_scanned("app", "1.0", &image);
        wait_for("the image to be allowed", 30, || {
            let now = decision().filter(|now| now.revision > refused)?;
            (now.value.outcome() == DecisionOutcome::Allow).then_some(())
        });
        if by_policy {
            scene.policy(&policy.replace("critical == 0", "critical == 0 && tag != '1.0'"));
        } else {
            scene.verdict(&image, Scan::Critical(1));
        }
        scene.stack.internal.freeze(false);
        wait_for("the image to be refused", 60, || {
            (decision()?.value.outcome() == DecisionOutcome::Deny).then_some(())
        });
        scene.expect_published("image.promoted", 0);
        // What was copied until then goes as well.
        wait_for("nothing of it to be in the target", 30, || {
            let is_gone = |reference: &str| scene.status("official/app", reference) == 404;
            (is_gone("1.0") && is_gone(&image.digest)).then_some(())
        });
    }
}

#[test]
fn two_policies_into_one_tag_are_refused_by_the_command_unless_both_say_so() {
    let scene = Scene::start();
    scene.policy(CLEAN_TO_OFFICIAL);
    let other = format!(
        "kind: PromotionPolicy\n{}",
        CLEAN_TO_OFFICIAL
            .replace("clean", "other")
            .replace("hub", "staging")
    );
    let file = scene.stack.folder().join("other.yaml");
    let file = file.to_str().unwrap();
    std::fs::write(file, &other).unwrap();
    let refused = scene.stack.try_sluice(&["apply", "-f", file]);
    let complaint = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success(), "{complaint}");
    assert!(
        complaint.contains("`shares_target: true` in both"),
        "{complaint}"
    );
    let says = "shares_target: true\n";
    scene.stack.apply(&format!(
        "kind: PromotionPolicy\n{CLEAN_TO_OFFICIAL}{says}---\n{other}{says}"
    ));
}
