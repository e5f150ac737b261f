//! Pausing the consumers of all stages, and finding out which stages run.

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::json;

use crate::connection::Bus;
use crate::error::Error;
use crate::topology::{STAGES, sources_of};

impl Bus {
    /// Pauses the consumers of all stages until a time: stages finish the messages that they have and receive no others.
    ///
    /// # Errors
    /// A consumer that is not provisioned.
    pub async fn pause_consumers(&self, until: DateTime<Utc>) -> Result<(), Error> {
        let until = until.to_rfc3339_opts(SecondsFormat::Secs, true);
        let body = json!({ "pause_until": until }).to_string();
        self.set_pause("pause", body.into()).await
    }

    /// Resumes the consumers of all stages.
    ///
    /// # Errors
    /// A consumer that is not provisioned.
    pub async fn resume_consumers(&self) -> Result<(), Error> {
        self.set_pause("resume", Bytes::from_static(b"{}")).await
    }

    async fn set_pause(&self, action: &'static str, body: Bytes) -> Result<(), Error> {
        for (stage, stream) in consumers() {
            let what = format!("{stream}/{stage}");
            let subject = format!("$JS.API.CONSUMER.PAUSE.{stream}.{stage}");
            self.api_request(&subject, body.clone(), action, &what)
                .await?;
        }
        Ok(())
    }

    /// Returns the consumers of stages that the server does not have, as in `WORK/promoter`.
    pub async fn missing_consumers(&self) -> Result<Vec<String>, Error> {
        let mut missing = Vec::new();
        for (stage, stream) in consumers() {
            if self.consumer_info(stage, stream).await?.is_none() {
                missing.push(format!("{stream}/{stage}"));
            }
        }
        Ok(missing)
    }

    /// Returns the stages that wait for messages now, which a running service always does.
    pub async fn running_stages(&self) -> Result<Vec<&'static str>, Error> {
        let mut running = Vec::new();
        for (stage, stream) in consumers() {
            let info = self.consumer_info(stage, stream).await?;
            let is_running = info.is_some_and(|info| info.num_waiting > 0);
            if is_running && !running.contains(&stage) {
                running.push(stage);
            }
        }
        Ok(running)
    }
}

/// Returns every consumer of every stage, as stage and stream.
fn consumers() -> impl Iterator<Item = (&'static str, &'static str)> {
    STAGES.into_iter().flat_map(|stage| {
        let sources = sources_of(stage).into_iter();
        sources.map(|(stream, _)| (stage.name, stream))
    })
}
