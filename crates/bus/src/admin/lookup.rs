//! The streams and consumers that the server has.

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::consumer::{self, PullConsumer};
use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::stream::{Config, ConsumerErrorKind, Info};
use chrono::{DateTime, Utc};

use crate::connection::Bus;
use crate::error::Error;
use crate::topology::backup_order;

/// A stream that the server has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamSummary {
    /// Its name.
    pub name: &'static str,
    /// The messages or entries that it holds.
    pub messages: u64,
    /// When the last one was written.
    pub last_at: Option<DateTime<Utc>>,
}

impl Bus {
    /// Returns the version of the server.
    pub fn server_version(&self) -> Result<String, Error> {
        Ok(self.server()?.client().server_info().version)
    }

    /// Returns the streams of the topology that the server has.
    pub async fn streams(&self) -> Result<Vec<StreamSummary>, Error> {
        let mut streams = Vec::new();
        for name in backup_order() {
            let Some(Info { state, .. }) = self.stream_info(name).await? else {
                continue;
            };
            let last_at = DateTime::from_timestamp(state.last_timestamp.unix_timestamp(), 0);
            streams.push(StreamSummary {
                name,
                messages: state.messages,
                last_at: last_at.filter(|_| state.messages > 0),
            });
        }
        Ok(streams)
    }

    /// Returns the configuration of a stream, if the server has it.
    pub(crate) async fn stream_config(&self, name: &str) -> Result<Option<Config>, Error> {
        Ok(self.stream_info(name).await?.map(|info| info.config))
    }

    /// Returns the configuration and state of a stream, if the server has it.
    pub(crate) async fn stream_info(&self, name: &str) -> Result<Option<Info>, Error> {
        let get = async { Ok::<_, Error>(self.server()?.get_stream(name).await) };
        match self.violations.fail_on(&[name], get).await? {
            Ok(stream) => Ok(Some(stream.cached_info().clone())),
            Err(error) => match error.kind() {
                GetStreamErrorKind::JetStream(reason)
                    if reason.error_code() == ErrorCode::STREAM_NOT_FOUND =>
                {
                    Ok(None)
                }
                _ => Err(Error::server("look up stream", name)(error)),
            },
        }
    }

    /// Returns the state of a consumer, if the server has it.
    pub(crate) async fn consumer_info(
        &self,
        name: &str,
        stream: &str,
    ) -> Result<Option<consumer::Info>, Error> {
        let subject = format!("{stream}.{name}");
        let get = async {
            let server = self.server()?;
            Ok::<_, Error>(server.get_consumer_from_stream(name, stream).await)
        };
        let consumer: Result<PullConsumer, _> = self.violations.fail_on(&[&subject], get).await?;
        match consumer {
            Ok(consumer) => Ok(Some(consumer.cached_info().clone())),
            Err(error) => match error.kind() {
                ConsumerErrorKind::JetStream(reason)
                    if [ErrorCode::CONSUMER_NOT_FOUND, ErrorCode::STREAM_NOT_FOUND]
                        .contains(&reason.error_code()) =>
                {
                    Ok(None)
                }
                _ => Err(Error::server(
                    "look up consumer",
                    format!("{stream}/{name}"),
                )(error)),
            },
        }
    }

    /// Returns the configuration of a consumer, if the server has it.
    pub(crate) async fn consumer_config(
        &self,
        name: &str,
        stream: &str,
    ) -> Result<Option<consumer::Config>, Error> {
        let info = self.consumer_info(name, stream).await?;
        Ok(info.map(|info| info.config))
    }
}

/// Returns the filters of a consumer, sorted; the server may return a single one in either of two fields.
pub(crate) fn filters(config: &consumer::Config) -> Vec<&str> {
    let one = Some(config.filter_subject.as_str()).filter(|subject| !subject.is_empty());
    let several = config.filter_subjects.iter().map(String::as_str);
    let mut all: Vec<&str> = several.chain(one).collect();
    all.sort_unstable();
    all
}
