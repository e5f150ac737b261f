//! The access rules of the internal registry: which account may do what. Pure.
//!
//! Only the promoter writes to a target of promotion (invariant 1); a denied action is not granted, and no error.

use serde::Serialize;
use sluice_domain::resources::{Account, Visibility};
use sluice_domain::stages::RegistryAccess;
use sluice_domain::{Repository, Stage};
use sluice_state::Snapshot;

use crate::tokens::scope::{Actions, Scope};

/// The account that requests a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Requester {
    /// No credentials were sent.
    Anonymous,
    /// One of Sluice's services.
    Service(&'static Stage),
    /// An account of a person or a build system.
    Account(Account),
}

/// One entry of a token's `access`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Access {
    /// `repository` or `registry`.
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    /// The exact name.
    pub(crate) name: String,
    /// The granted actions.
    pub(crate) actions: Vec<&'static str>,
}

impl Requester {
    /// Returns the name of the account, empty for none; notifications repeat it as the actor.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Anonymous => "",
            Self::Service(stage) => stage.name,
            Self::Account(account) => account.name.as_str(),
        }
    }

    fn may_list_repositories(&self) -> bool {
        matches!(self, Self::Service(stage) if stage.lists_repositories)
    }
}

/// Returns the granted part of the requested scopes; scopes without a granted action are omitted.
pub(crate) fn grant(snapshot: &Snapshot, requester: &Requester, scopes: &[Scope]) -> Vec<Access> {
    let access = |scope: &Scope| match scope {
        Scope::Repository(repository, asked) => {
            let actions = asked
                .and(allowed_actions(snapshot, requester, repository))
                .names();
            let entry = Access {
                kind: "repository",
                name: repository.to_string(),
                actions,
            };
            (!entry.actions.is_empty()).then_some(entry)
        }
        Scope::Catalog => requester.may_list_repositories().then(|| Access {
            kind: "registry",
            name: "catalog".to_owned(),
            actions: vec!["*"],
        }),
    };
    scopes.iter().filter_map(access).collect()
}

/// Returns the actions that an account may do in a repository.
pub(crate) fn allowed_actions(
    snapshot: &Snapshot,
    requester: &Requester,
    repository: &Repository,
) -> Actions {
    let is_target = snapshot.is_target(repository);
    let is_public = snapshot.settings(repository).visibility == Visibility::Public;
    let (pull, write) = match requester {
        Requester::Anonymous => (false, false),
        Requester::Account(account) => {
            let name = repository.as_str();
            let push = account.push.iter().any(|pattern| pattern.matches(name));
            let pull = account.pull.iter().any(|pattern| pattern.matches(name));
            (pull || push, push && !is_target)
        }
        Requester::Service(stage) => match stage.registry {
            RegistryAccess::None => (false, false),
            RegistryAccess::Read => (true, false),
            RegistryAccess::WriteOutsideTargets => (!is_target, !is_target),
            RegistryAccess::WriteTargets => (true, is_target),
        },
    };
    Actions {
        pull: pull || is_public,
        push: write,
        delete: write,
    }
}

#[cfg(test)]
mod tests {
    use sluice_domain::resources::Resource;
    use sluice_domain::{SecretRef, stages};

    use super::*;

    const RESOURCES: &str = "kind: Repository
name: official/*
visibility: public
---
kind: Repository
name: hub/*
---
kind: Repository
name: hub/open
visibility: public
---
kind: PromotionPolicy
name: clean
from: hub/*
to: official/{name}
when: 'true'
---
kind: PromotionPolicy
name: switched-off
from: hub/*
to: quiet/{name}
when: 'true'
enabled: false
";

    fn snapshot() -> Snapshot {
        let mut snapshot = Snapshot::default();
        for document in sluice_policy::check::load(RESOURCES).unwrap() {
            match document.resource {
                Resource::Repository(one) => {
                    drop(snapshot.repositories.insert(one.name.clone(), one));
                }
                Resource::PromotionPolicy(one) => {
                    drop(snapshot.policies.insert(one.name.clone(), one));
                }
                other => panic!("{other:?}"),
            }
        }
        snapshot
    }

    fn account(pull: &[&str], push: &[&str]) -> Requester {
        let patterns = |all: &[&str]| all.iter().map(|text| text.parse().unwrap()).collect();
        Requester::Account(Account {
            name: "ci".parse().unwrap(),
            password: SecretRef {
                secret: "ci".parse().unwrap(),
            },
            pull: patterns(pull),
            push: patterns(push),
        })
    }

    fn service(name: &str) -> Requester {
        Requester::Service(stages::find(name).unwrap())
    }

    const NOTHING: &str = "";
    const READ: &str = "pull";
    const WRITE: &str = "pull,push,delete";

    /// The actions in a staging repository, a public one, a public target, a private target, and a repository without
    /// settings.
    #[test]
    fn every_account_may_do_what_the_table_says_and_no_more() {
        let snapshot = snapshot();
        let all = |requester: Requester| {
            ["hub/app", "hub/open", "official/app", "quiet/app", "other"].map(|repository| {
                allowed_actions(&snapshot, &requester, &repository.parse().unwrap())
                    .names()
                    .join(",")
            })
        };
        for (who, expected) in [
            (
                Requester::Anonymous,
                [NOTHING, READ, READ, NOTHING, NOTHING],
            ),
            (account(&[], &[]), [NOTHING, READ, READ, NOTHING, NOTHING]),
            (
                account(&["hub/*"], &[]),
                [READ, READ, READ, NOTHING, NOTHING],
            ),
            (account(&["**"], &[]), [READ; 5]),
            (
                account(&[], &["hub/app"]),
                [WRITE, READ, READ, NOTHING, NOTHING],
            ),
            (account(&[], &["**"]), [WRITE, WRITE, READ, READ, WRITE]),
            (
                account(&[], &["official/*"]),
                [NOTHING, READ, READ, NOTHING, NOTHING],
            ),
            (
                service("mirror-worker"),
                [WRITE, WRITE, READ, NOTHING, WRITE],
            ),
            (service("pruner"), [WRITE, WRITE, READ, NOTHING, WRITE]),
            (service("scanner-adapter"), [READ; 5]),
            (service("gateway"), [READ; 5]),
            (service("promoter"), [READ, READ, WRITE, WRITE, READ]),
            (service("poller"), [NOTHING, READ, READ, NOTHING, NOTHING]),
        ] {
            assert_eq!(all(who.clone()), expected, "{who:?}");
        }
    }

    #[test]
    fn a_repository_with_promoted_images_stays_a_target_without_a_policy() {
        let mut snapshot = snapshot();
        snapshot.policies.clear();
        let repository: Repository = "official/app".parse().unwrap();
        let all = [
            (account(&[], &["**"]), true),
            (service("mirror-worker"), true),
            (service("pruner"), true),
            (service("promoter"), false),
        ];
        let may =
            |snapshot: &Snapshot, who: &Requester| allowed_actions(snapshot, who, &repository).push;
        for (who, expected) in &all {
            assert_eq!(may(&snapshot, who), *expected, "{who:?}");
        }
        snapshot.targets.insert(repository.clone());
        for (who, expected) in &all {
            assert_eq!(may(&snapshot, who), !expected, "{who:?}");
        }
    }

    #[test]
    fn a_token_grants_what_is_both_asked_for_and_allowed() {
        let snapshot = snapshot();
        let scopes = Scope::parse_all(
            [
                "repository:hub/app:pull,push",
                "repository:official/app:*",
                "repository:quiet/app:push",
                "registry:catalog:*",
            ]
            .into_iter(),
        );
        let access = |requester: &Requester| {
            serde_json::to_value(grant(&snapshot, requester, &scopes)).unwrap()
        };
        assert_eq!(
            access(&account(&[], &["**"])),
            serde_json::json!([
                { "type": "repository", "name": "hub/app", "actions": ["pull", "push"] },
                { "type": "repository", "name": "official/app", "actions": ["pull"] },
            ])
        );
        assert_eq!(
            access(&service("gateway")),
            serde_json::json!([
                { "type": "repository", "name": "hub/app", "actions": ["pull"] },
                { "type": "repository", "name": "official/app", "actions": ["pull"] },
                { "type": "registry", "name": "catalog", "actions": ["*"] },
            ])
        );
        assert_eq!(
            access(&service("promoter"))[3],
            serde_json::json!({ "type": "registry", "name": "catalog", "actions": ["*"] })
        );
        assert_eq!(
            access(&Requester::Anonymous),
            serde_json::json!([{ "type": "repository", "name": "official/app", "actions": ["pull"] }])
        );
    }

    #[test]
    fn without_resources_nothing_is_open_and_nothing_is_a_target() {
        let snapshot = Snapshot::default();
        let repository = "official/app".parse().unwrap();
        let may = |who: Requester| {
            allowed_actions(&snapshot, &who, &repository)
                .names()
                .join(",")
        };
        assert_eq!(may(Requester::Anonymous), NOTHING);
        assert_eq!(may(service("promoter")), READ);
        assert_eq!(may(service("mirror-worker")), WRITE);
    }
}
