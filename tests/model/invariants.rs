//! What must hold after every step, and what the end must be.

use std::collections::{BTreeMap, BTreeSet};

use sluice_bus::topology::PROMOTER;
use sluice_domain::resources::{PromotionPolicy, Recall};
use sluice_domain::{Repository, Tag};
use sluice_events::wire::state::{Decision, DecisionOutcome, UpstreamTag, Verdict};
use sluice_events::{Event, time_from_wire};

use crate::history::Scenario;
use crate::images;
use crate::operator_actions::Plan;
use crate::world::World;

/// Says whether a decision lets a manifest stand in its target.
fn permits(decision: &Decision, repository: &str, digest: &str) -> bool {
    let stands = decision.outcome() == DecisionOutcome::Allow || decision.promoted_at.is_some();
    let former = &decision.former_targets;
    (stands && decision.target == repository
        || former.iter().any(|former| former.target == repository))
        && (decision.digest == digest
            || images::of_digest(&decision.digest)
                .is_some_and(|image| image.children.iter().any(|child| child == digest)))
}

fn parts(digest: &str) -> Vec<String> {
    match images::of_digest(digest) {
        Some(image) if !image.children.is_empty() => image.children.clone(),
        _ => vec![digest.to_owned()],
    }
}

impl World {
    /// Invariant 6: what is allowed had a good verdict on every part while it was judged.
    ///
    /// Invariant 4: a decision says that its event is published only once that is in the log.
    pub fn check_decision(&mut self, key: &str, decision: &Decision) {
        let before = self.decisions.get(key).cloned();
        let allowed = decision.outcome() == DecisionOutcome::Allow;
        let is_new = before
            .as_ref()
            .is_none_or(|before| before.decided_at != decision.decided_at);
        if allowed && is_new {
            let since = self.doing.get(&self.task).map_or(0, |doing| doing.since);
            let made_by = (decision.policy.clone(), decision.policy_revision);
            let policy = self.policies_until.get(&made_by).cloned();
            let lets_all_pass = policy
                .as_ref()
                .is_some_and(|(policy, _)| lets_all_pass(policy));
            if policy.is_none_or(|(policy, until)| !policy.enabled || until < since) {
                self.wrong(format!("{key} allows by a policy that was not applied"));
            }
            for part in parts(&decision.digest) {
                let good = self.good_until.get(&part).copied();
                if !lets_all_pass && good.is_none_or(|until| until < since) {
                    self.wrong(format!(
                        "{key} allows, but the verdict on {part} was not good"
                    ));
                }
            }
        }
        let told = before.is_some_and(|before| !before.published) && decision.published && !is_new;
        if told && !self.is_told(decision) {
            self.wrong(format!(
                "{key} says that its event is published, but the log does not have it"
            ));
        }
    }

    fn is_told(&self, decision: &Decision) -> bool {
        let at = time_from_wire(decision.decided_at.as_ref());
        let same = |policy: &str, digest: &str, decided_at| {
            policy == decision.policy && digest == decision.digest && Some(decided_at) == at
        };
        self.log.facts.iter().any(|(_, fact)| match fact {
            Event::ImagePromoted(fact) => {
                same(fact.policy.as_str(), fact.digest.as_str(), fact.decided_at)
            }
            Event::ImagePromotionDenied(fact) => {
                same(fact.policy.as_str(), fact.digest.as_str(), fact.decided_at)
            }
            _ => false,
        })
    }

    /// Invariant 4: a move is recorded only once it is in the log.
    pub fn check_move(&mut self, entry: &UpstreamTag) {
        // The first move of a tag has its number before it is told, and does not count until then.
        if entry.move_number == 0 {
            return;
        }
        let told = self.log.facts.iter().any(|(_, fact)| match fact {
            Event::UpstreamTagMoved(fact) => {
                fact.mirror.as_str() == entry.mirror
                    && fact.tag.as_str() == entry.tag
                    && fact.move_number == entry.move_number
            }
            Event::UpstreamTagGone(fact) => {
                fact.mirror.as_str() == entry.mirror
                    && fact.tag.as_str() == entry.tag
                    && fact.move_number == entry.move_number
            }
            _ => false,
        });
        if !told {
            self.wrong(format!(
                "move {} of {}:{} is recorded, but not in the log",
                entry.move_number, entry.mirror, entry.tag
            ));
        }
    }

    /// Remembers until when a verdict was good.
    pub fn note_verdict(&mut self, verdict: Verdict) {
        let good = verdict.counts.is_some_and(|counts| counts.critical == 0);
        let steps = self.steps;
        if good {
            self.good_until.insert(verdict.digest, u64::MAX);
        } else if let Some(until) = self.good_until.get_mut(&verdict.digest) {
            *until = (*until).min(steps);
        }
    }

    /// Checks what must hold after every step.
    pub fn check(&mut self) {
        if std::mem::take(&mut self.changed) && self.violation.is_none() {
            let mut wrong = self.gate(true);
            if !self.lied_to {
                wrong.extend(self.children(true));
                wrong.extend(self.entries(true));
            }
            if let Some(first) = wrong.into_iter().next() {
                self.wrong(first);
            }
        }
    }

    fn writer_is_live(&self, repository: &str, reference: &str) -> bool {
        let place = (repository.to_owned(), reference.to_owned());
        let writer = self.writers.get(&place);
        writer.is_some_and(|id| self.is_at_work(id))
    }

    /// Says whether somebody still has to look at what a target has of an image: who brought it, or who judges it anew.
    fn is_owed(&self, repository: &str, digest: &str) -> bool {
        self.writer_is_live(repository, digest) || self.log.is_to_be_judged(digest)
    }

    /// Says whether promoters still have work, or are at some that others have settled.
    fn promoters_work(&self) -> bool {
        let mut doing = self.doing.values();
        self.log.is_busy(&PROMOTER) || doing.any(|doing| doing.name.starts_with(PROMOTER.name))
    }

    /// Says whether a message is still to be settled, or somebody works on it although it was settled by another.
    fn is_at_work(&self, id: &str) -> bool {
        self.log.is_live(id) || self.doing.values().any(|doing| doing.id == id)
    }

    /// Invariant 1: a target has only what a decision permits.
    ///
    /// What came too late is there until whoever brought it has looked again; that is owed as long as its message is.
    fn gate(&self, under_way: bool) -> Vec<String> {
        let mut wrong = Vec::new();
        // Where a service lies, or policies change, promoters put right what was allowed; what counts is where they rest.
        if under_way && (self.lied_to || self.policies_changed) && self.promoters_work() {
            return wrong;
        }
        for (name, place) in &self.hub.repositories {
            if !is_target(name) {
                continue;
            }
            for digest in place.manifests.keys() {
                let is_image = images::of_digest(digest).is_some();
                let mut decisions = self.decisions.values();
                if !is_image || decisions.any(|decision| permits(decision, name, digest)) {
                    continue;
                }
                // What an index lists goes with it, and that may be owed.
                let lists = images::POOL
                    .iter()
                    .filter(|top| top.children.contains(digest));
                let mut tops = lists.map(|top| &top.digest).chain([digest]);
                if !(under_way && tops.any(|top| self.is_owed(name, top))) {
                    wrong.push(format!("gate: nothing permits {digest} in {name}"));
                }
            }
        }
        wrong
    }

    /// Invariant 5: what a tag names is there with all that it lists.
    ///
    /// In a target, images with a part in common may be withdrawn and promoted at the same time; whoever deletes has
    /// the other looked at again.
    fn children(&self, under_way: bool) -> Vec<String> {
        let mut wrong = Vec::new();
        for (name, place) in &self.hub.repositories {
            let owed = is_target(name) && self.promoters_work();
            if under_way && owed {
                continue;
            }
            for (tag, digest) in &place.tags {
                let listed = images::of_digest(digest).map(|image| image.children.as_slice());
                for needed in listed.unwrap_or_default().iter().chain([digest]) {
                    if !place.manifests.contains_key(needed) {
                        wrong.push(format!("deletion: {name}:{tag} lacks {needed}"));
                    }
                }
            }
        }
        wrong
    }

    /// Invariant 2: a tag that is settled is what its entry says.
    fn entries(&self, under_way: bool) -> Vec<String> {
        let mut wrong = Vec::new();
        for entry in self.tags.values() {
            let place = self.hub.repositories.get(&entry.repository);
            let named = place.and_then(|place| place.tags.get(&entry.tag));
            let owed = is_target(&entry.repository) && self.promoters_work();
            let excused = under_way
                && (entry.claim.is_some()
                    || owed
                    || self.writer_is_live(&entry.repository, &entry.tag));
            let said = Some(&entry.digest).filter(|digest| !digest.is_empty());
            if named != said && !excused {
                wrong.push(format!(
                    "tag: {}:{} names {named:?}, its entry says {said:?}",
                    entry.repository, entry.tag
                ));
            }
            if !under_way && entry.claim.is_some() {
                wrong.push(format!("claim: {}:{} is left", entry.repository, entry.tag));
            }
        }
        wrong
    }

    /// Returns what does not hold although everything is at rest.
    pub fn at_rest(&self, plan: &Plan) -> Vec<String> {
        // What a service wrote that lies is nobody's to put in order, but nothing comes of it in a target.
        if plan.scenario == Scenario::Sabotage {
            return self.unnoticed();
        }
        let mut wrong: Vec<String> = self.log.dead.clone();
        wrong.extend(self.gate(false));
        wrong.extend(self.unnoticed());
        wrong.extend(self.children(false));
        wrong.extend(self.entries(false));
        wrong.extend(self.moves_told());
        wrong.extend(self.staging(plan));
        wrong.extend(self.targets(plan));
        for (key, decision) in &self.decisions {
            // One whose source moved on before it was carried out tells nobody anything.
            let stands = self.tags.values().any(|entry| {
                entry.repository == decision.repository
                    && entry.tag == decision.tag
                    && entry.digest == decision.digest
            });
            // A policy that is gone decides on nothing that does not stand anywhere.
            let is_decided = self.policy_of(decision).is_some() || decision.promoted_at.is_some();
            if stands && is_decided && !decision.published {
                wrong.push(format!("decision {key} is not published"));
            }
        }
        let mut ids = BTreeSet::new();
        let hours = self.now - crate::world::beginning();
        if hours < self.log.window {
            let twice = self
                .log
                .facts
                .iter()
                .filter(|(id, _)| !ids.insert(id.clone()));
            wrong.extend(twice.map(|(id, fact)| format!("{} {id} is stored twice", fact.name())));
        }
        wrong
    }

    /// One move has one number, and one number is that of one move.
    fn moves_told(&self) -> Vec<String> {
        let mut moves: BTreeMap<(&str, &str, u64), BTreeSet<&str>> = BTreeMap::new();
        for (_, fact) in &self.log.facts {
            let (mirror, tag, number, digest) = match fact {
                Event::UpstreamTagMoved(fact) => (
                    fact.mirror.as_str(),
                    fact.tag.as_str(),
                    fact.move_number,
                    fact.digest.as_str(),
                ),
                Event::UpstreamTagGone(fact) => (
                    fact.mirror.as_str(),
                    fact.tag.as_str(),
                    fact.move_number,
                    "",
                ),
                _ => continue,
            };
            let led_to = moves.entry((mirror, tag, number)).or_default();
            led_to.insert(digest);
        }
        let mut wrong = Vec::new();
        for ((mirror, tag, number), led_to) in &moves {
            if led_to.len() > 1 {
                wrong.push(format!("move {number} of {mirror}:{tag} led to {led_to:?}"));
            }
            if moves.get(&(*mirror, *tag, number + 1)) == Some(led_to) {
                wrong.push(format!("move {number} of {mirror}:{tag} has two numbers"));
            }
        }
        wrong
    }

    /// Staging has what upstream has, but for what was pruned, and not more than it may keep.
    fn staging(&self, plan: &Plan) -> Vec<String> {
        let mut wrong = Vec::new();
        for mirror in &plan.mirrors {
            let name = format!("hub/{mirror}");
            let upstream = &self.upstream.repositories[*mirror].tags;
            let empty = std::collections::BTreeMap::new();
            let here = self.hub.repositories.get(&name);
            let here = here.map_or(&empty, |place| &place.tags);
            for (tag, digest) in upstream {
                let mut entries = self.tags.values();
                let entry = entries.find(|entry| entry.repository == name && entry.tag == *tag);
                let pruned = entry.is_some_and(|entry| entry.pruned);
                if !pruned && here.get(tag) != Some(digest) {
                    wrong.push(format!(
                        "{name}:{tag} is {:?}, upstream has {digest}",
                        here.get(tag)
                    ));
                }
            }
            for tag in here.keys() {
                if plan.deletes && !upstream.contains_key(tag) {
                    wrong.push(format!("{name}:{tag} is gone upstream, and not here"));
                }
            }
            if plan.keep > 0 && here.len() > plan.keep {
                wrong.push(format!("{name} has {} tags", here.len()));
            }
        }
        wrong
    }

    /// A target has what policies allow.
    fn targets(&self, plan: &Plan) -> Vec<String> {
        let mut wrong = Vec::new();
        for mirror in &plan.mirrors {
            let name = format!("hub/{mirror}");
            let Some(staging) = self.hub.repositories.get(&name) else {
                continue;
            };
            for (tag, digest) in &staging.tags {
                for (policy, _) in self.policies.values() {
                    let Some((target, target_tag)) = leads_to(policy, &name, tag) else {
                        continue;
                    };
                    let place = self.hub.repositories.get(&target);
                    let there = place.and_then(|place| place.tags.get(&target_tag));
                    if self.passes(policy, digest) {
                        if there != Some(digest) {
                            wrong.push(format!("{target}:{target_tag} is {there:?}, not {digest}"));
                        }
                    } else if policy.recall == Recall::Withdraw
                        && there == Some(digest)
                        && !self.is_allowed_at(&target, &target_tag, digest)
                    {
                        let flagged = self.is_flagged_at(&target, Some(&target_tag), digest);
                        // What another policy flags stays, even where this one would withdraw what it promoted.
                        if !flagged {
                            wrong.push(format!("{target}:{target_tag} is {digest}, which fails"));
                        }
                    }
                }
            }
        }
        wrong
    }

    fn passes(&self, policy: &PromotionPolicy, digest: &str) -> bool {
        let is_good = |part: &String| !self.bad.contains(part);
        lets_all_pass(policy) || parts(digest).iter().all(is_good)
    }

    /// Returns the policy that made a decision, if it is applied, on, unchanged, and takes images from there.
    fn policy_of(&self, decision: &Decision) -> Option<&PromotionPolicy> {
        let mut policies = self.policies.values();
        let (policy, _) = policies.find(|(policy, revision)| {
            policy.name.as_str() == decision.policy && *revision == decision.policy_revision
        })?;
        Some(policy).filter(|policy| policy.enabled && policy.from.matches(&decision.repository))
    }

    /// Says whether a policy allows an image now, on what is true of it.
    fn is_allowed(&self, decision: &Decision) -> bool {
        decision.outcome() == DecisionOutcome::Allow
            && self.policy_of(decision).is_some_and(|policy| {
                leads_to(policy, &decision.repository, &decision.tag)
                    == Some((decision.target.clone(), decision.target_tag.clone()))
                    && self.passes(policy, &decision.digest)
            })
    }

    fn is_allowed_at(&self, target: &str, tag: &str, digest: &str) -> bool {
        self.decisions.values().any(|decision| {
            let place = (&*decision.target, &*decision.target_tag, &*decision.digest);
            place == (target, tag, digest) && self.is_allowed(decision)
        })
    }

    /// Says whether people were told of an image in a target: that it does not pass any more, or that nobody allowed it.
    fn is_flagged_at(&self, target: &str, tag: Option<&str>, digest: &str) -> bool {
        let is_there = |at: &str, name: &str| at == target && tag.is_none_or(|tag| tag == name);
        let flagged = self.decisions.values().any(|decision| {
            let main = !decision.flagged.is_empty()
                && decision.promoted_at.is_some()
                && is_there(&decision.target, &decision.target_tag);
            let mut former = decision.former_targets.iter();
            let former = former.any(|former| {
                !former.flagged.is_empty() && is_there(&former.target, &former.target_tag)
            });
            decision.digest == digest && (main || former)
        });
        flagged
            || self.unauthorised.values().any(|found| {
                found.published && found.digest == digest && is_there(&found.repository, &found.tag)
            })
    }

    /// Whatever stands in a target is allowed by a policy that exists now, on what is true of it, or people know of it.
    fn unnoticed(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        for (name, place) in self
            .hub
            .repositories
            .iter()
            .filter(|(name, _)| is_target(name))
        {
            let mut reached = BTreeSet::new();
            for (tag, digest) in &place.tags {
                reached.extend(parts(digest));
                reached.insert(digest.clone());
                if images::of_digest(digest).is_some()
                    && !self.is_allowed_at(name, tag, digest)
                    && !self.is_flagged_at(name, Some(tag), digest)
                {
                    wrong.push(format!(
                        "unnoticed: no policy allows {digest} at {name}:{tag}"
                    ));
                }
            }
            for digest in place.manifests.keys() {
                if reached.contains(digest) || images::of_digest(digest).is_none() {
                    continue;
                }
                let holds = |decision: &&Decision| {
                    let listed = parts(&decision.digest);
                    permits(decision, name, digest)
                        && (decision.digest == *digest || listed.contains(digest))
                };
                let is_known = |decision: &Decision| {
                    self.is_allowed(decision) || self.is_flagged_at(name, None, &decision.digest)
                };
                let mut decisions = self.decisions.values().filter(holds);
                if !decisions.any(is_known) {
                    wrong.push(format!("unnoticed: no policy allows {digest} in {name}"));
                }
            }
        }
        wrong
    }
}

/// Says whether a repository is one into which policies promote.
fn is_target(repository: &str) -> bool {
    repository.starts_with("official/") || repository.starts_with("approved/")
}

/// Says whether a policy of the model lets images with a finding pass.
fn lets_all_pass(policy: &PromotionPolicy) -> bool {
    policy
        .when
        .as_ref()
        .is_some_and(|when| when.0.ends_with('1'))
}

/// Returns to which target and tag a policy leads from a source.
fn leads_to(policy: &PromotionPolicy, repository: &str, tag: &str) -> Option<(String, String)> {
    let source: Repository = repository.parse().ok()?;
    if !policy.enabled || !policy.from.matches(repository) {
        return None;
    }
    let target = policy.to.render(&source).ok()?.stored();
    let tag: Tag = tag.parse().ok()?;
    Some((target, policy.tag.replace("%n", tag.as_str())))
}
