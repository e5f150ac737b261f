//! `sluice poll`, `prune` and `scan`: queue a command for a stage.

use anyhow::Context as _;
use sluice_bus::{Bus, Cause};
use sluice_domain::resources::Kind;
use sluice_domain::{Repository, ResourceName};
use sluice_events::commands::{PollMirror, PruneRepositories, ScanImage};
use sluice_registry::ImageReference;
use sluice_state::{State, key};

use crate::output::line;

/// Queues a poll of a mirror.
pub(crate) async fn poll(bus: &Bus, mirror: ResourceName) -> anyhow::Result<()> {
    let state = State::open(bus).await?;
    let resource = state
        .resources
        .get(&key::resource(Kind::Mirror.as_str(), &mirror))
        .await?;
    anyhow::ensure!(
        resource.is_some(),
        "mirror `{mirror}` not found; `sluice get mirrors` lists those that exist"
    );
    bus.command(
        &PollMirror {
            mirror: mirror.clone(),
            urgent: true,
        }
        .into(),
        &Cause::root(),
    )
    .await?;
    line(&format!("poll queued for mirror {mirror}"))
}

/// Queues a run of retention: by the tag limit of one or all repositories, or by a policy.
pub(crate) async fn prune(
    bus: &Bus,
    repository: Option<Repository>,
    policy: Option<ResourceName>,
) -> anyhow::Result<()> {
    if let Some(policy) = &policy {
        let key = key::resource(Kind::PruningPolicy.as_str(), policy);
        anyhow::ensure!(
            State::open(bus).await?.resources.get(&key).await?.is_some(),
            "pruningpolicy `{policy}` not found; `sluice get pruningpolicies` lists those that exist"
        );
    }
    let rule = policy
        .as_ref()
        .map_or_else(String::new, |policy| format!(" by policy {policy}"));
    let scope = repository
        .as_ref()
        .map_or_else(|| "all repositories".to_owned(), ToString::to_string);
    let command = PruneRepositories { policy, repository };
    bus.command(&command.into(), &Cause::root()).await?;
    line(&format!(
        "prune queued for {scope}{rule}; `sluice events --subject 'sluice.v1.prune.>'` shows what was deleted"
    ))
}

/// Queues a scan of a tag or digest.
pub(crate) async fn scan(bus: &Bus, image: ImageReference) -> anyhow::Result<()> {
    let ImageReference {
        repository,
        tag,
        digest,
    } = image;
    let digest = match (&tag, digest) {
        (_, Some(digest)) => digest,
        (None, None) => anyhow::bail!("name a tag or a digest, as in `{repository}:1.0`"),
        (Some(tag), None) => {
            let entry = State::open(bus)
                .await?
                .tags
                .get(&key::tag(&repository, tag))
                .await?;
            let entry = entry.filter(|entry| !entry.value.digest.is_empty());
            let entry = entry.with_context(|| format!("`{repository}:{tag}` not found"))?;
            entry.value.digest.parse()?
        }
    };
    line(&format!("scan queued for {repository}@{digest}"))?;
    let command = ScanImage {
        repository,
        tag,
        digest,
    };
    bus.command(&command.into(), &Cause::root()).await?;
    Ok(())
}
