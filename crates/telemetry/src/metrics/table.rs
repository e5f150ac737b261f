//! The one list of all metrics; `docs/METRICS.md` is generated from it.

use super::{Counter, Gauge, Histogram, Metric};

macro_rules! metrics {
    ($($kind:ident $constant:ident: $name:literal, [$($label:literal),*], $services:literal, $help:literal;)*) => {
        $(
            #[doc = concat!("The metric `", $name, "`.")]
            pub const $constant: $kind = $kind(Metric {
                name: $name,
                kind: stringify!($kind),
                labels: &[$($label),*],
                services: $services,
                help: $help,
            });
        )*

        /// Every metric, in the order of the reference page.
        pub const ALL: &[Metric] = &[$($constant.0),*];
    };
}

metrics! {
    Counter MESSAGES_RECEIVED: "sluice_messages_received_total", ["stage"], "every stage",
        "Messages that the stage received, redeliveries included.";
    Counter MESSAGES_SETTLED: "sluice_messages_settled_total", ["stage", "outcome"], "every stage",
        "Messages that the stage settled, by outcome: done, retried, waiting, dead, or abandoned at a shutdown.";
    Histogram MESSAGE_DURATION: "sluice_message_duration_seconds", ["stage"], "every stage",
        "Time from the delivery of a message until it was settled.";
    Gauge MESSAGES_IN_FLIGHT: "sluice_messages_in_flight", ["stage"], "every stage",
        "Messages that the stage is processing.";
    Histogram MESSAGE_DELIVERIES: "sluice_message_deliveries", ["stage"], "every stage",
        "Deliveries that a message had when the stage received it, this one included.";
    Gauge MESSAGES_WAITING: "sluice_messages_waiting", ["stage"], "every stage",
        "Messages of all streams that wait for the stage and were not delivered yet.";
    Gauge LOG_HEADROOM: "sluice_log_headroom_messages", ["stage"], "stages that consume events",
        "Messages that can be dropped from EVENTS before one that the stage has not processed is.";
    Counter LOG_MESSAGES_LOST: "sluice_log_messages_lost_total", ["stage"], "every stage",
        "Upper bound of the messages that were dropped from a stream before the stage processed them.";
    Counter RECONCILIATIONS: "sluice_reconciliations_total", ["stage", "reason"], "every stage",
        "Reconciliations that were completed, by what started them.";
    Counter RECONCILIATION_FOUND: "sluice_reconciliation_found_total", ["stage", "reason"], "every stage",
        "Items of missing work that reconciliations found and queued.";
    Counter EVENTS_PUBLISHED: "sluice_events_published_total", ["service", "event", "registry"], "every service",
        "Events that the service published, by name: tag.mirrored, scan.succeeded, image.promoted, image.promotion_denied, image.withdrawn and so on; registry is the remote one that the event is about, the upstream of a mirror or a remote target, and empty for the internal one.";
    Histogram MIRROR_COPY_DURATION: "sluice_mirror_copy_duration_seconds", ["registry"], "mirror-worker",
        "Time in which an image was copied from the upstream registry into staging.";
    Counter COPIED_BYTES: "sluice_copied_bytes_total", ["registry"], "mirror-worker",
        "Bytes of blobs that were copied from the upstream registry.";
    Histogram SCAN_DURATION: "sluice_scan_duration_seconds", [], "scanner-adapter",
        "Time in which an image was scanned, all of its platforms together, without the time that it waited for a permit.";
    Histogram PROMOTION_DURATION: "sluice_promotion_duration_seconds", ["registry"], "promoter",
        "Time in which an allowed image was copied into its target and tagged there; registry is that of a remote target, and empty for the internal one.";
    Counter PROMOTED_BYTES: "sluice_promoted_bytes_total", ["registry"], "promoter",
        "Bytes of blobs that were uploaded into targets; registry is that of a remote target, and empty for the internal one, where blobs are mounted if it can do that.";
    Histogram WEBHOOK_DELIVERY_DURATION: "sluice_webhook_delivery_duration_seconds", ["webhook", "outcome"], "webhook-dispatcher",
        "Time of one attempt to deliver an event to a webhook, by outcome: delivered or failed.";
    Gauge DEAD_LETTERS: "sluice_dead_letters", ["stage"], "gateway",
        "Messages of the stage in DEAD_LETTERS.";
    Gauge STREAM_BYTES: "sluice_stream_bytes", ["stream"], "gateway",
        "Size of a stream, bucket or object store.";
    Gauge STREAM_LIMIT_BYTES: "sluice_stream_limit_bytes", ["stream"], "gateway",
        "Size limit of a stream, bucket or object store.";
    Counter PULLS_DROPPED: "sluice_pulls_dropped_total", ["reason"], "gateway",
        "Pulls that were not published: busy if more arrived than could be published, not_published if NATS refused.";
    Gauge STATE_ENTRIES: "sluice_state_entries", ["kind"], "promoter",
        "Entries of the state, by kind: decision, tag, upstream, image, verdict, and since the last cleanup report.";
    Counter STATE_REMOVED: "sluice_state_removed_total", ["kind"], "promoter",
        "Entries that the cleanup removed because their tag or image no longer exists.";
    Gauge BREACHES: "sluice_breaches", ["kind"], "promoter",
        "Promoted images that are flagged: they no longer pass their policy, or it no longer exists.";
    Gauge DATABASE_TIMESTAMP: "sluice_vulnerability_database_timestamp_seconds", [], "scanner-adapter",
        "Unix time at which the vulnerability database in use was built.";
    Counter DATABASE_REFUSALS: "sluice_vulnerability_database_refusals_total", ["reason"], "scanner-adapter",
        "Checks that refused a new vulnerability database, by reason: age, shrunk or broken.";
    Gauge POLL_SUCCESS_TIMESTAMP: "sluice_poll_success_timestamp_seconds", ["mirror"], "poller",
        "Unix time of the last successful poll of the mirror.";
    Gauge POLL_FAILURES: "sluice_poll_failures", ["mirror"], "poller",
        "Consecutive failed polls of the mirror.";
    Gauge DELIVERIES_LOST: "sluice_deliveries_lost", [], "webhook-dispatcher",
        "Webhook deliveries that can no longer be made because the log dropped their event, as of the last reconciliation.";
    Gauge UPSTREAM_PULLS_FREE: "sluice_upstream_pulls_free", ["registry", "account"], "poller, mirror-worker",
        "Pulls of the account's budget that are neither used nor granted, when this process last changed the ledger.";
    Gauge UPSTREAM_PULLS_LIMIT: "sluice_upstream_pulls_limit", ["registry", "account"], "poller, mirror-worker",
        "Pulls that the registry allows the account in one window.";
}
