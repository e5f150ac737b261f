//! What is attached to images is no image: it does not count, and goes with the image.

use sluice_tests::{Image, Stack};

use super::{deleted, has, hold, keep, limit, quiet};

#[test]
fn what_is_attached_goes_with_its_image_and_does_not_count() {
    let mut stack = Stack::start(7_200);
    let bus = stack.bus();
    let hold = |tag: &str, minutes| hold(&stack, &bus, "hub/app", tag, minutes);
    let (old, new) = (hold("1.0", 20), hold("2.0", 10));
    let signed = |image: &Image, kind: &str| format!("{}{kind}", image.digest.replace(':', "-"));
    let attached = [".sig", ".att", ""].map(|kind| signed(&old, kind));
    let kept = signed(&new, ".sig");
    let signature = hold(&attached[0], 5);
    // A signature of the signature.
    let further = signed(&signature, ".sig");
    for tag in [&attached[1], &attached[2], &kept, &further] {
        hold(tag, 5);
    }
    stack.apply(keep("hub/*", 1).trim_start_matches("---\n"));
    stack.service("pruner", &[]);
    bus.command(limit("hub/app"));
    quiet(&stack);
    assert_eq!(deleted(&stack), ["1.0"]);
    for tag in attached.iter().chain([&further]) {
        assert!(!has(&stack, "hub/app", tag), "{tag}");
    }
    for tag in ["2.0", &kept] {
        assert!(has(&stack, "hub/app", tag), "{tag}");
    }
}
