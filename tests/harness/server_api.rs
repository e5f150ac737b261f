//! Speaks NATS' own protocol, for what no service may do: purging and removing streams, removing consumers.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::servers::Nats;

impl Nats {
    /// Removes every message of a stream.
    pub fn purge(&self, stream: &str) {
        self.request(&format!("$JS.API.STREAM.PURGE.{stream}"));
    }

    /// Removes a stream with all that it holds; provisioned again, it begins at the first sequence.
    pub fn remove_stream(&self, stream: &str) {
        self.request(&format!("$JS.API.STREAM.DELETE.{stream}"));
    }

    /// Removes the consumer of a stage; provisioned again, it is given everything that the stream holds.
    pub fn remove_consumer(&self, stream: &str, stage: &str) {
        self.request(&format!("$JS.API.CONSUMER.DELETE.{stream}.{stage}"));
    }

    /// Returns how many messages a stream was ever given.
    pub fn stored(&self, stream: &str) -> u64 {
        let info = self.ask(&format!("$JS.API.STREAM.INFO.{stream}"), "");
        info["state"]["last_seq"].as_u64().unwrap()
    }

    /// Reads how a stream is configured, lets the test change that, and gives it back.
    pub fn reconfigure(&self, stream: &str, change: impl FnOnce(&mut Value)) {
        let mut info = self.ask(&format!("$JS.API.STREAM.INFO.{stream}"), "");
        change(&mut info["config"]);
        let config = info["config"].to_string();
        let answer = self.ask(&format!("$JS.API.STREAM.UPDATE.{stream}"), &config);
        assert_eq!(answer.get("error"), None, "{stream}: {answer}");
    }

    /// Makes a durable consumer of a stage that is given what matches one of these filters.
    pub fn consumer(&self, stream: &str, stage: &str, filters: &[&str]) {
        let request = json!({ "stream_name": stream, "config": {
            "durable_name": stage, "filter_subjects": filters, "ack_policy": "explicit", "max_deliver": -1,
            "max_ack_pending": 1000,
        } });
        let subject = format!("$JS.API.CONSUMER.DURABLE.CREATE.{stream}.{stage}");
        let answer = self.ask(&subject, &request.to_string());
        assert_eq!(answer.get("error"), None, "{stream}/{stage}: {answer}");
    }

    /// Publishes what no service would: a message with these headers, as they are.
    pub fn publish_raw(&self, subject: &str, headers: &[(&str, &str)], body: &str) {
        let headers: String = headers
            .iter()
            .map(|(name, value)| format!("{name}: {value}\r\n"))
            .collect();
        let headers = format!("NATS/1.0\r\n{headers}\r\n");
        let total = headers.len() + body.len();
        let publish = format!(
            "HPUB {subject} _INBOX.test {} {total}\r\n{headers}{body}\r\n",
            headers.len()
        );
        let answer = self.send(&publish);
        assert_eq!(answer.get("error"), None, "{subject}: {answer}");
    }

    fn request(&self, subject: &str) {
        let answer = self.ask(subject, "");
        assert_eq!(answer["success"], true, "{subject}: {answer}");
    }

    fn ask(&self, subject: &str, body: &str) -> Value {
        self.send(&format!(
            "PUB {subject} _INBOX.test {}\r\n{body}\r\n",
            body.len()
        ))
    }

    /// Sends a message, and returns the answer.
    fn send(&self, publish: &str) -> Value {
        let address = self.url.strip_prefix("nats://").unwrap();
        let mut stream = TcpStream::connect(address).unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        write!(
            stream,
            "CONNECT {{\"verbose\":false,\"pedantic\":false,\"headers\":true}}\r\nSUB _INBOX.test 1\r\n{publish}"
        )
        .unwrap();
        let answer = lines.find_map(|line| line.ok().filter(|line| line.starts_with('{')));
        serde_json::from_str(&answer.unwrap()).unwrap()
    }
}
