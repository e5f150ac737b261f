//! The events of an image, from the log.

use std::collections::BTreeSet;

use sluice_bus::{Bus, Fact};
use sluice_domain::{RegistryHost, Repository, Tag, Target};
use sluice_events::Event;
use sluice_events::facts::{Reason, ScanSucceeded};
use sluice_events::subject::of_target;

use super::location::Location;
use crate::output::{count, time_millis};

/// Reads the events of some locations, oldest first; an event without a tag counts by its digest.
pub(super) async fn read(
    bus: &Bus,
    locations: &BTreeSet<Location>,
    digests: &BTreeSet<String>,
) -> anyhow::Result<Vec<Fact>> {
    let targets: BTreeSet<&Target> = locations.iter().map(|(target, _)| target).collect();
    let mut facts = Vec::new();
    for target in targets {
        let tokens = of_target(target.registry.as_ref(), &target.repository);
        let filter = format!("sluice.v1.*.*.{tokens}");
        let all = bus.facts_without_pulls(&filter).await?;
        facts.extend(all.into_iter().filter(|fact| {
            fact.event
                .as_ref()
                .is_some_and(|event| is_about(event, locations, digests))
        }));
    }
    facts.sort_by_key(|fact| fact.sequence);
    Ok(facts)
}

/// Returns the row of an event; it names the location if that is not the explained one.
pub(super) fn row(fact: &Fact, location: &Location) -> Vec<String> {
    let at = fact.at.map(time_millis).unwrap_or_default();
    let Some(event) = &fact.event else {
        return vec![at, String::new(), String::new()];
    };
    let elsewhere = named(event)
        .first()
        .filter(|(target, tag)| *target != location.0 || tag.is_some_and(|tag| *tag != location.1))
        .map(|(target, tag)| match tag {
            Some(tag) => format!("{target}:{tag}: "),
            None => format!("{target}: "),
        })
        .unwrap_or_default();
    vec![
        at,
        event.name().to_owned(),
        format!("{elsewhere}{}", detail(event)),
    ]
}

fn is_about(event: &Event, locations: &BTreeSet<Location>, digests: &BTreeSet<String>) -> bool {
    if let Event::PruneCompleted(fact) = event {
        return fact.deleted.iter().any(|pruned| {
            locations.contains(&(fact.repository.clone().into(), pruned.tag.clone()))
        });
    }
    named(event).into_iter().any(|(target, tag)| match tag {
        Some(tag) => locations.contains(&(target, tag.clone())),
        None => digest(event).is_some_and(|digest| digests.contains(&digest)),
    })
}

/// Returns the tags that an event names; pulls are ignored.
fn named(event: &Event) -> Vec<(Target, Option<&Tag>)> {
    match event {
        Event::UpstreamTagMoved(fact) => vec![(local(&fact.repository), Some(&fact.tag))],
        Event::UpstreamTagGone(fact) => vec![(local(&fact.repository), Some(&fact.tag))],
        Event::TagMirrored(fact) => vec![(local(&fact.repository), Some(&fact.tag))],
        Event::TagMirrorFailed(fact) => vec![(local(&fact.repository), Some(&fact.tag))],
        Event::TagMoveRefused(fact) => vec![(local(&fact.repository), Some(&fact.tag))],
        Event::TagRepaired(fact) => vec![(local(&fact.repository), Some(&fact.tag))],
        Event::TagPushed(fact) => vec![(local(&fact.repository), Some(&fact.tag))],
        Event::TagDeleted(fact) => vec![(local(&fact.repository), Some(&fact.tag))],
        Event::ScanSucceeded(fact) => vec![(local(&fact.repository), fact.tag.as_ref())],
        Event::ScanFailed(fact) => vec![(local(&fact.repository), fact.tag.as_ref())],
        Event::ScanFindingsChanged(fact) => vec![(local(&fact.repository), fact.tag.as_ref())],
        Event::ImagePromoted(fact) => vec![
            (
                at(fact.registry.as_ref(), &fact.target),
                Some(&fact.target_tag),
            ),
            (local(&fact.source), Some(&fact.source_tag)),
        ],
        Event::ImagePromotionDenied(fact) => vec![(local(&fact.repository), Some(&fact.tag))],
        Event::ImageFlagged(fact) => vec![(
            at(fact.registry.as_ref(), &fact.repository),
            Some(&fact.tag),
        )],
        Event::ImageWithdrawn(fact) => vec![(
            at(fact.registry.as_ref(), &fact.repository),
            Some(&fact.tag),
        )],
        Event::ImageUnauthorised(fact) => vec![(
            at(fact.registry.as_ref(), &fact.repository),
            fact.tag.as_ref(),
        )],
        _ => Vec::new(),
    }
}

fn local(repository: &Repository) -> Target {
    repository.clone().into()
}

fn at(registry: Option<&RegistryHost>, repository: &Repository) -> Target {
    Target {
        registry: registry.cloned(),
        repository: repository.clone(),
    }
}

fn digest(event: &Event) -> Option<String> {
    match event {
        Event::ScanSucceeded(fact) => Some(fact.digest.to_string()),
        Event::ScanFailed(fact) => Some(fact.digest.to_string()),
        Event::ScanFindingsChanged(fact) => Some(fact.digest.to_string()),
        Event::ImageUnauthorised(fact) => Some(fact.digest.to_string()),
        _ => None,
    }
}

fn detail(event: &Event) -> String {
    match event {
        Event::UpstreamTagMoved(fact) => format!(
            "{} at {}, move {}",
            fact.digest, fact.source, fact.move_number
        ),
        Event::UpstreamTagGone(fact) => format!("deleted at {}", fact.source),
        Event::TagMirrored(fact) => format!(
            "{}, {} copied, {} mounted, {} present",
            fact.digest,
            count(fact.blobs_copied, "blob"),
            fact.blobs_mounted,
            fact.blobs_skipped
        ),
        Event::TagMirrorFailed(fact) => fact.reason.clone(),
        Event::TagMoveRefused(fact) => format!(
            "{} at {}; the tag stays at {}, because the repository is immutable",
            fact.digest, fact.source, fact.kept
        ),
        Event::TagRepaired(fact) => format!("{}, {} was missing", fact.digest, fact.missing),
        Event::TagPushed(fact) => format!("{} by {}", fact.digest, actor_or_anonymous(&fact.actor)),
        Event::TagDeleted(fact) => format!("by {}", actor_or_anonymous(&fact.actor)),
        Event::ScanSucceeded(fact) => scanned(fact),
        Event::ScanFailed(fact) if fact.unsupported => {
            format!("not supported by {}: {}", fact.scanner, fact.reason)
        }
        Event::ScanFailed(fact) => format!("{}: {}", fact.scanner, fact.reason),
        Event::ScanFindingsChanged(fact) => format!(
            "{} with database {}, before: {}",
            fact.after, fact.database_version, fact.before
        ),
        Event::ImagePromoted(fact) => format!(
            "{} from {}:{} by policy {}",
            fact.digest, fact.source, fact.source_tag, fact.policy
        ),
        Event::ImagePromotionDenied(fact) => format!(
            "denied for {} by policy {}: {}",
            at(fact.registry.as_ref(), &fact.target),
            fact.policy,
            failed(&fact.reasons)
        ),
        Event::ImageFlagged(fact) => format!("by policy {}: {}", fact.policy, fact.reason),
        Event::ImageWithdrawn(fact) => {
            format!("{} by policy {}: {}", fact.digest, fact.policy, fact.reason)
        }
        Event::ImageUnauthorised(fact) => {
            let done = if fact.reverted {
                "reverted"
            } else {
                "not reverted"
            };
            let by = match fact.pushed_by.as_str() {
                "" => String::new(),
                account => format!(" by {account}"),
            };
            format!("{}{by}, {done}: {}", fact.digest, fact.reason)
        }
        Event::PruneCompleted(fact) => {
            let reasons: Vec<String> = fact
                .deleted
                .iter()
                .map(|pruned| format!("{} ({})", pruned.tag, pruned.reason))
                .collect();
            let run = if fact.dry_run { "dry run: " } else { "" };
            format!("{run}{}", reasons.join(", "))
        }
        _ => String::new(),
    }
}

fn scanned(fact: &ScanSucceeded) -> String {
    let children: Vec<String> = fact
        .children
        .iter()
        .map(|child| {
            let platform = child
                .platform
                .as_ref()
                .map_or_else(|| child.digest.short().to_owned(), ToString::to_string);
            format!("{platform} {}", count(child.packages, "package"))
        })
        .collect();
    format!(
        "{} by {} with database {} ({})",
        fact.counts,
        fact.scanner,
        fact.database_version,
        children.join(", ")
    )
}

fn actor_or_anonymous(actor: &str) -> &str {
    if actor.is_empty() { "anonymous" } else { actor }
}

/// Lists the rules that failed.
fn failed(reasons: &[Reason]) -> String {
    let failed: Vec<String> = reasons
        .iter()
        .filter(|reason| !reason.passed)
        .map(|reason| format!("{} ({})", reason.rule, reason.detail))
        .collect();
    failed.join("; ")
}
