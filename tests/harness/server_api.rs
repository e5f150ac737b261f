//! Speaks NATS' own protocol, for what no service may do: purging and removing streams, removing consumers.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;

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

    fn request(&self, subject: &str) {
        let address = self.url.strip_prefix("nats://").unwrap();
        let mut stream = TcpStream::connect(address).unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        write!(
            stream,
            "CONNECT {{\"verbose\":false,\"pedantic\":false}}\r\n\
             SUB _INBOX.test 1\r\nPUB {subject} _INBOX.test 0\r\n\r\n"
        )
        .unwrap();
        let answer = lines.find_map(|line| line.ok().filter(|line| line.starts_with('{')));
        let answer = answer.unwrap();
        assert!(answer.contains("\"success\":true"), "{subject}: {answer}");
    }
}
