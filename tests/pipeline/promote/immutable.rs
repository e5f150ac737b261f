//! An immutable target keeps what its tags name, whatever its sources come to name.

use super::CLEAN_TO_OFFICIAL;
use super::scene::{CLEAN, Scene};

#[test]
fn a_tag_of_an_immutable_target_keeps_its_image_and_the_next_one_is_denied() {
    let mut scene = Scene::start();
    let immutable = "---\nkind: Repository\nname: official/*\nimmutable: true\n";
    scene.policy(&format!("{CLEAN_TO_OFFICIAL}{immutable}"));
    scene.stack.service("promoter", &[]);
    let first = scene.arrived("app", "1.0", "first");
    scene.scan("app", "1.0", &first, CLEAN);
    scene.events("image.promoted", 1);
    let second = scene.publish("app", "1.0", "second");
    scene.mirrored("app", "1.0", &second);
    scene.scan("app", "1.0", &second, CLEAN);
    let denied = scene.events("image.promotion_denied", 1);
    assert_eq!(denied[0]["data"]["digest"], second.digest);
    let reasons = denied[0]["data"]["reasons"].as_array().unwrap();
    let rule = reasons.iter().find(|reason| reason["rule"] == "immutable");
    let detail = rule.unwrap()["detail"].as_str().unwrap();
    assert!(detail.contains(&first.digest), "{detail}");
    // Neither another scan nor the search for missing work moves it, or tells it again.
    scene.tell_scanned("app", "1.0", &second);
    scene.stack.sluice(&["reconcile", "promoter"]);
    scene.expect_published("image.promotion_denied", 1);
    scene.expect_published("image.promoted", 1);
    let reader = scene.reader();
    assert_eq!(reader.get("official/app", "1.0").unwrap(), first.raw);
    assert_eq!(reader.get("official/app", &second.digest), None);
}
