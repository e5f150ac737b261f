//! Fills the state with 100,000 tags as a pipeline leaves them, lets every service search, and says what that takes.
//!
//! `cargo run --release --example state [TAGS]`, after the services were built with the same profile. It fails where a
//! service ever has more than 256 MiB. Half of the tags are promoted; the registries answer from memory.
#![allow(clippy::disallowed_methods, reason = "it measures real time")]

use std::fs;
use std::process::exit;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Request, State as Shared};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use chrono::{DateTime, TimeDelta, Utc};
use futures_util::{StreamExt as _, stream};
use serde_json::json;
use sha2::Digest as _;
use sluice_bus::topology::STAGES;
use sluice_domain::Digest;
use sluice_events::time_to_wire;
use sluice_events::wire::events::{Reason, SeverityCounts};
use sluice_events::wire::state::{
    Decision, DecisionInput, DecisionOutcome, Delivery, FirstSeen, ImageChild, ImageEntry, Move,
    Promotion, PromotionTarget, Reconciliation, TagEntry, UpstreamPoll, UpstreamTag, Verdict,
    VerdictStatus, VerifiedLayer,
};
use sluice_state::key;
use sluice_tests::{BusClient, Database, Stack, wait_for};

/// How many tags a repository has.
const TAGS: usize = 1_000;
/// How much memory a service may have at most, in MiB.
const LIMIT: f64 = 256.0;
/// How many entries are written at once.
const PARALLEL: usize = 256;
/// How long anything may take, in seconds.
const LONG: u64 = 3_600;
/// The rules by which the scanner adapter reads layers now.
const RULES_VERSION: u32 = 1;

/// One tag of the state, by its number.
#[derive(Clone, Copy)]
struct Numbered(usize);

impl Numbered {
    fn name(self) -> String {
        format!("app{}", self.0 / TAGS)
    }

    fn tag(self) -> String {
        format!("1.{}", self.0 % TAGS)
    }

    fn digest(self) -> Digest {
        let hash = sha2::Sha256::digest(self.0.to_le_bytes());
        format!("sha256:{}", hex::encode(hash)).parse().unwrap()
    }

    /// Every second one passes.
    fn is_allowed(self) -> bool {
        self.0.is_multiple_of(2)
    }
}

/// A registry with what the state says, and nothing else; it counts requests.
struct Registry {
    host: String,
    tags: usize,
    requests: AtomicU64,
}

impl Registry {
    fn start(bus: &BusClient, tags: usize) -> Arc<Self> {
        let listener = bus
            .run(tokio::net::TcpListener::bind("127.0.0.1:0"))
            .unwrap();
        let registry = Arc::new(Self {
            host: listener.local_addr().unwrap().to_string(),
            tags,
            requests: AtomicU64::new(0),
        });
        let routes = Router::new().fallback(answer).with_state(registry.clone());
        bus.run(async {
            drop(tokio::spawn(
                async move { axum::serve(listener, routes).await },
            ))
        });
        registry
    }

    fn repositories(&self) -> usize {
        self.tags.div_ceil(TAGS)
    }

    /// Returns the tags of a repository, as in `official/app7`.
    fn of(&self, repository: &str) -> Vec<Numbered> {
        let Some((organisation, number)) = repository.split_once("/app") else {
            return Vec::new();
        };
        let Ok(number) = number.parse::<usize>() else {
            return Vec::new();
        };
        (number * TAGS..((number + 1) * TAGS).min(self.tags))
            .map(Numbered)
            .filter(|tag| organisation != "official" || tag.is_allowed())
            .collect()
    }
}

async fn answer(Shared(registry): Shared<Arc<Registry>>, request: Request) -> Response {
    registry.requests.fetch_add(1, Ordering::Relaxed);
    let path = request.uri().path().trim_start_matches("/v2/");
    if path == "_catalog" {
        let numbers = 0..registry.repositories();
        let names = numbers
            .flat_map(|number| [format!("hub/app{number}"), format!("official/app{number}")]);
        let mut names: Vec<String> = names.collect();
        names.sort();
        return axum::Json(json!({ "repositories": names })).into_response();
    }
    if let Some(repository) = path.strip_suffix("/tags/list") {
        let tags: Vec<String> = registry
            .of(repository)
            .iter()
            .map(|tag| tag.tag())
            .collect();
        return axum::Json(json!({ "name": repository, "tags": tags })).into_response();
    }
    let tag = path
        .split_once("/manifests/")
        .and_then(|(repository, reference)| {
            let all = registry.of(repository);
            all.into_iter()
                .find(|tag| tag.tag() == reference || tag.digest().as_str() == reference)
        });
    match tag {
        Some(tag) => (
            [
                ("docker-content-digest", tag.digest().to_string()),
                (
                    "content-type",
                    "application/vnd.oci.image.manifest.v1+json".to_owned(),
                ),
            ],
            "",
        )
            .into_response(),
        None if path.is_empty() => StatusCode::OK.into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

/// What is written of every tag.
struct Filling<'a> {
    bus: &'a BusClient,
    upstream: String,
    policy_revision: u64,
    at: DateTime<Utc>,
}

impl Filling<'_> {
    async fn tag(&self, number: Numbered) {
        let state = &self.bus.state;
        let (name, tag, digest) = (number.name(), number.tag(), number.digest());
        let (hub, official) = (format!("hub/{name}"), format!("official/{name}"));
        let at = Some(time_to_wire(self.at));
        let upstream = UpstreamTag {
            mirror: name.clone(),
            source: format!("{}/library/{name}", self.upstream),
            repository: hub.clone(),
            tag: tag.clone(),
            digest: digest.to_string(),
            move_number: 1,
            history: vec![Move {
                digest: digest.to_string(),
                move_number: 1,
                at,
            }],
            first_seen: vec![FirstSeen {
                digest: digest.to_string(),
                at,
            }],
            ..Default::default()
        };
        let image = ImageEntry {
            digest: digest.to_string(),
            media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
            children: vec![ImageChild {
                platform: "linux/amd64".to_owned(),
                digest: digest.to_string(),
                created_at: at,
                size_bytes: 50 << 20,
                labels: (0..8)
                    .map(|n| {
                        (
                            format!("org.opencontainers.image.{n}"),
                            "a label".to_owned(),
                        )
                    })
                    .collect(),
                ..Default::default()
            }],
            size_bytes: 50 << 20,
            ..Default::default()
        };
        let layer = |layer: u8| VerifiedLayer {
            digest: sluice_tests::bus::digest(layer),
            media_type: "application/vnd.oci.image.layer.v1.tar+gzip".to_owned(),
            diff_id: sluice_tests::bus::digest(layer + 100),
            rules_version: RULES_VERSION,
            ..Default::default()
        };
        let verdict = Verdict {
            digest: digest.to_string(),
            scanner: key::SCANNER.to_owned(),
            database_version: "2026-11-01T00:00:00Z".to_owned(),
            status: VerdictStatus::Covered.into(),
            counts: Some(SeverityCounts {
                critical: u64::from(!number.is_allowed()),
                ..Default::default()
            }),
            packages: 120,
            os: "debian 12.5".to_owned(),
            report_key: sluice_tests::bus::digest(1),
            sbom_key: sluice_tests::bus::digest(2),
            findings_key: sluice_tests::bus::digest(3),
            vulnerability_ids: lines(200, |number| format!("CVE-2026-{number:05}")),
            package_names: lines(120, |number| format!("libpackage-{number:03}")),
            licenses: lines(10, |number| format!("LICENSE-{number}.0-or-later")),
            scanned_at: at,
            platform: "linux/amd64".to_owned(),
            layers: (0..5).map(layer).collect(),
            ..Default::default()
        };
        let decision = self.decision(number, &verdict);
        let entry = TagEntry {
            repository: hub.clone(),
            tag: tag.clone(),
            digest: digest.to_string(),
            generation: 2,
            arrived_at: at,
            arrived_by: "mirror-worker".to_owned(),
            mirror: name.clone(),
            move_number: 1,
            ..Default::default()
        };
        let promoted = TagEntry {
            repository: official.clone(),
            arrived_by: "promoter".to_owned(),
            mirror: String::new(),
            move_number: 0,
            promoted_from: Some(Promotion {
                policy: "clean".to_owned(),
                repository: hub.clone(),
                tag: tag.clone(),
                decided_at: at,
            }),
            ..entry.clone()
        };
        let delivery = Delivery {
            endpoint: "hook".to_owned(),
            event_id: digest.to_string(),
            event_name: "image.promoted".to_owned(),
            delivered: true,
            attempt_count: 1,
            ..Default::default()
        };
        let (hub, official) = (hub.parse().unwrap(), official.parse().unwrap());
        let (mirror, tag) = (name.parse().unwrap(), tag.parse().unwrap());
        state
            .upstream
            .put(&key::upstream(&mirror, &tag), &upstream)
            .await
            .unwrap();
        state.tags.put(&key::tag(&hub, &tag), &entry).await.unwrap();
        state
            .images
            .put(&key::image(&digest), &image)
            .await
            .unwrap();
        state
            .verdicts
            .put(&key::verdict(&digest), &verdict)
            .await
            .unwrap();
        let policy = "clean".parse().unwrap();
        let key = key::decision(&policy, &hub, &tag, &digest);
        state.decisions.put(&key, &decision).await.unwrap();
        if number.is_allowed() {
            state
                .tags
                .put(&key::tag(&official, &tag), &promoted)
                .await
                .unwrap();
            let manifests = [number.digest()];
            let record = state.record_target_image(&official, &hub, &manifests, &key);
            record.await.unwrap();
        }
        let key = key::delivery(&"hook".parse().unwrap(), digest.as_str());
        state.deliveries.put(&key, &delivery).await.unwrap();
    }

    fn decision(&self, number: Numbered, verdict: &Verdict) -> Decision {
        let at = Some(time_to_wire(self.at));
        let is_allowed = number.is_allowed();
        let outcome = if is_allowed {
            DecisionOutcome::Allow
        } else {
            DecisionOutcome::Deny
        };
        Decision {
            policy: "clean".to_owned(),
            repository: format!("hub/{}", number.name()),
            tag: number.tag(),
            digest: number.digest().to_string(),
            target: format!("official/{}", number.name()),
            target_tag: number.tag(),
            outcome: outcome.into(),
            reasons: vec![Reason {
                rule: "scan.critical == 0".to_owned(),
                detail: "linux/amd64: scan.critical = 1".to_owned(),
                passed: is_allowed,
                ..Default::default()
            }],
            decided_at: at,
            published: true,
            inputs: vec![DecisionInput {
                platform: verdict.platform.clone(),
                digest: verdict.digest.clone(),
                scanner: verdict.scanner.clone(),
                database_version: verdict.database_version.clone(),
                status: verdict.status,
                counts: verdict.counts,
                packages: verdict.packages,
                os: verdict.os.clone(),
                report_key: verdict.report_key.clone(),
                ..Default::default()
            }],
            promoted_at: at.filter(|_| is_allowed),
            policy_revision: self.policy_revision,
            was_allowed: is_allowed,
            allowed_revision: if is_allowed { self.policy_revision } else { 0 },
            ..Default::default()
        }
    }

    /// Writes what there is once for each repository.
    async fn repository(&self, number: usize) {
        let state = &self.bus.state;
        let name = Numbered(number * TAGS).name();
        let target = format!("official/{name}").parse().unwrap();
        let record = PromotionTarget {
            repository: format!("official/{name}"),
            since: Some(time_to_wire(self.at)),
            ..Default::default()
        };
        state
            .targets
            .put(&key::promotion_target(&target), &record)
            .await
            .unwrap();
        let now = Some(time_to_wire(Utc::now()));
        let poll = UpstreamPoll {
            mirror: name.clone(),
            polled_at: now,
            succeeded_at: now,
            tags_selected: u64::try_from(TAGS).unwrap(),
            ..Default::default()
        };
        state
            .polls
            .put(&key::poll(&name.parse().unwrap()), &poll)
            .await
            .unwrap();
    }
}

/// Returns terms as a verdict lists them.
fn lines(count: usize, term: impl Fn(usize) -> String) -> String {
    (0..count).map(term).collect::<Vec<_>>().join("\n")
}

/// Returns the peak of a process's memory in MiB.
fn peak(process: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.unwrap().trim().trim_end_matches(" kB");
    peak.parse::<f64>().unwrap() / 1_024.0
}

fn resources(upstream: &str, repositories: usize) -> String {
    let mut text = format!(
        "kind: Registry\nname: upstream\nhost: {upstream}\nplain_http: true\n---\n\
         kind: Repository\nname: official/*\nvisibility: public\n---\n\
         kind: PromotionPolicy\nname: clean\nfrom: hub/*\nto: official/{{name}}\nwhen: scan.critical == 0\n"
    );
    for number in 0..repositories {
        text += &format!(
            "---\nkind: Mirror\nname: app{number}\nfrom: {upstream}/library/app{number}\nto: hub/app{number}\nevery: 24h\n"
        );
    }
    text
}

/// Returns how the last search of a stage went.
fn last_search(bus: &BusClient, stage: &str) -> Option<Reconciliation> {
    let entry = bus.run(bus.state.reconciliations.get(&key::reconciliation(stage)));
    entry
        .unwrap()
        .map(|entry| entry.value)
        .filter(|last| !last.run.is_empty())
}

fn main() {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse().unwrap());
    let tags: usize = numbers.next().unwrap_or(100_000);
    let mut stack = Stack::start(7_200);
    stack.may_leave_messages();
    let bus = stack.bus();
    let registry = Registry::start(&bus, tags);
    stack.apply(&resources(&registry.host, registry.repositories()));
    let policy = key::resource("PromotionPolicy", &"clean".parse().unwrap());
    let policy = bus.run(bus.state.resources.get(&policy)).unwrap().unwrap();
    let filling = Filling {
        bus: &bus,
        upstream: registry.host.clone(),
        policy_revision: policy.revision,
        at: Utc::now() - TimeDelta::days(1),
    };
    let began = Instant::now();
    bus.run(async {
        for number in 0..registry.repositories() {
            filling.repository(number).await;
        }
        let all = stream::iter((0..tags).map(Numbered));
        all.for_each_concurrent(PARALLEL, |number| filling.tag(number))
            .await;
        // The search of the mirror worker is not to look at every blob in the registry too.
        let audited = Reconciliation {
            audited_at: Some(time_to_wire(Utc::now())),
            ..Default::default()
        };
        let key = key::reconciliation("mirror-worker");
        bus.state.reconciliations.put(&key, &audited).await.unwrap();
    });
    println!(
        "{tags} tags were written in {:.1} s",
        began.elapsed().as_secs_f64()
    );

    let at = [("SLUICE__REGISTRY__URL", format!("http://{}", registry.host))];
    let at: Vec<(&str, &str)> = at
        .iter()
        .map(|(key, value)| (*key, value.as_str()))
        .collect();
    Database::of("2020-01-02T00:00:00Z").publish(&stack);
    stack.kill_all();
    let mut services = Vec::new();
    for stage in STAGES {
        let number = match stage.name {
            "scanner-adapter" => stack.scanner(&at),
            "gateway" => {
                stack.gateway(&at);
                services.len() + 1
            }
            "poller" | "webhook-dispatcher" => stack.service(stage.name, &[]),
            name => stack.service(name, &at),
        };
        services.push((stage.name, stack.process_id(number)));
    }
    for stage in STAGES {
        wait_for(
            &format!("{} to search at its start", stage.name),
            LONG,
            || {
                std::thread::sleep(Duration::from_millis(500));
                last_search(&bus, stage.name)
            },
        );
    }
    println!(
        "every service has searched at its start, {:.1} s after the filling began",
        began.elapsed().as_secs_f64()
    );
    for stage in STAGES {
        let began = Instant::now();
        let (messages, requests) = (
            stack.nats.stored("WORK"),
            registry.requests.load(Ordering::Relaxed),
        );
        stack.sluice(&["reconcile", stage.name, "--timeout-seconds", "3600"]);
        let took = began.elapsed().as_secs_f64();
        let last = last_search(&bus, stage.name).unwrap();
        println!(
            "{:20} {took:7.1} s, {} looked at, {} missing, {} messages, {} requests to registries",
            stage.name,
            last.looked_at,
            last.found,
            stack.nats.stored("WORK") - messages,
            registry.requests.load(Ordering::Relaxed) - requests,
        );
        assert_eq!(last.found, 0, "{}: nothing is missing", stage.name);
    }
    let mut is_over = false;
    for (name, process) in services {
        let peak = peak(process);
        println!("{name:20} {peak:7.1} MiB at most");
        is_over |= peak > LIMIT;
    }
    if is_over {
        eprintln!("a service had more than {LIMIT} MiB");
        drop(stack);
        exit(1);
    }
}
