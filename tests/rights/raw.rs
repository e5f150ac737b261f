//! The protocol of NATS by hand, so that a test sees each refusal and nothing of our own code stands between.

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::operator::Issued;

/// A connection of one user.
pub(crate) struct Raw {
    reader: BufReader<TcpStream>,
    writer: TcpStream,
    user: String,
    inbox: u32,
    arrived: VecDeque<Arrived>,
}

/// A message that arrived.
#[derive(Debug)]
pub(crate) struct Arrived {
    subscription: String,
    /// Where an acknowledgement goes; empty if there is no such place.
    pub(crate) reply: String,
    pub(crate) body: String,
}

impl Raw {
    /// Logs in; the refusal where the server refuses.
    pub(crate) fn login(url: &str, user: &str, password: &str) -> Result<Self, String> {
        Self::connect(url, user, |_| json!({ "user": user, "pass": password }))
    }

    /// Logs in with a JWT, as the user of this name.
    pub(crate) fn issued(url: &str, user: &str, issued: &Issued) -> Self {
        let login = |nonce: &str| {
            let signature = issued.key.sign(nonce.as_bytes()).unwrap();
            json!({ "jwt": issued.jwt, "sig": URL_SAFE_NO_PAD.encode(signature) })
        };
        Self::connect(url, user, login).unwrap()
    }

    fn connect(url: &str, user: &str, login: impl FnOnce(&str) -> Value) -> Result<Self, String> {
        let address = url.strip_prefix("nats://").unwrap();
        let writer = TcpStream::connect(address).unwrap();
        writer
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let mut raw = Self {
            reader: BufReader::new(writer.try_clone().unwrap()),
            writer,
            user: user.to_owned(),
            inbox: 0,
            arrived: VecDeque::new(),
        };
        let greeting = raw.line();
        let info: Value = serde_json::from_str(greeting.strip_prefix("INFO ").unwrap()).unwrap();
        let mut login = login(info["nonce"].as_str().unwrap_or_default());
        for (option, value) in [
            ("verbose", false),
            ("pedantic", false),
            ("headers", true),
            ("no_responders", true),
        ] {
            login[option] = value.into();
        }
        login["lang"] = "test".into();
        raw.send(&format!("CONNECT {login}\r\n"));
        match raw.settle().pop() {
            Some(refusal) => Err(refusal),
            None => Ok(raw),
        }
    }

    /// Logs in with the password that is in a file.
    pub(crate) fn service(url: &str, user: &str, password: &Path) -> Self {
        let password = fs::read_to_string(password).unwrap();
        Self::login(url, user, password.trim()).unwrap()
    }

    /// Publishes, and returns the refusal if there is one.
    pub(crate) fn publish(&mut self, subject: &str, body: &str) -> Option<String> {
        self.send(&format!("PUB {subject} {}\r\n{body}\r\n", body.len()));
        self.settle().pop()
    }

    /// Publishes with headers and with the place that the answer goes to.
    pub(crate) fn publish_with(
        &mut self,
        subject: &str,
        answer: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Option<String> {
        let lines = headers
            .iter()
            .map(|(key, value)| format!("{key}: {value}\r\n"));
        let head = format!("NATS/1.0\r\n{}\r\n", lines.collect::<String>());
        let (before, whole) = (head.len(), head.len() + body.len());
        self.send(&format!(
            "HPUB {subject} {answer} {before} {whole}\r\n{head}{body}\r\n"
        ));
        self.settle().pop()
    }

    /// Subscribes, and returns the refusal if there is one.
    pub(crate) fn subscribe(&mut self, subject: &str) -> Option<String> {
        self.send(&format!("SUB {subject} 1\r\n"));
        let refusal = self.settle().pop();
        self.send("UNSUB 1\r\n");
        self.settle();
        refusal
    }

    /// Asks, and returns the answer or the refusal.
    pub(crate) fn ask(
        &mut self,
        subject: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Result<Arrived, String> {
        self.inbox += 1;
        let inbox = format!("_INBOX_{}.{}", self.user, self.inbox);
        let subscription = format!("ask-{}", self.inbox);
        self.send(&format!(
            "SUB {inbox} {subscription}\r\nUNSUB {subscription} 1\r\n"
        ));
        if let Some(refusal) = self.publish_with(subject, &inbox, headers, body) {
            return Err(refusal);
        }
        Ok(self.next(&subscription))
    }

    /// Returns the first message that arrives on a subject after something was done.
    pub(crate) fn listen(&mut self, subject: &str, work: impl FnOnce(&mut Self)) -> Arrived {
        self.send(&format!("SUB {subject} 3\r\n"));
        work(self);
        self.next("3")
    }

    /// Returns the next message of a subscription, which may have come before something else was confirmed.
    fn next(&mut self, subscription: &str) -> Arrived {
        loop {
            let mut arrived = self.arrived.iter();
            if let Some(place) = arrived.position(|one| one.subscription == subscription) {
                return self.arrived.remove(place).unwrap();
            }
            let line = self.line();
            assert!(!line.is_empty(), "{} waits in vain", self.user);
            self.take(&line);
        }
    }

    /// Waits until the server has taken everything, and returns what it refused.
    fn settle(&mut self) -> Vec<String> {
        self.send("PING\r\n");
        let mut refused = Vec::new();
        loop {
            let line = self.line();
            if line.is_empty() && refused.is_empty() {
                refused.push("the server ended the connection".to_owned());
            }
            if line.is_empty() || line == "PONG" {
                return refused;
            }
            match line.strip_prefix("-ERR ") {
                Some(refusal) => refused.push(refusal.trim_matches('\'').to_owned()),
                None => self.take(&line),
            }
        }
    }

    /// Takes a message whose first line was read.
    fn take(&mut self, line: &str) {
        let words: Vec<_> = line.split(' ').collect();
        let without_reply = match words[0] {
            "MSG" => 4,
            "HMSG" => 5,
            _ => return,
        };
        let reply = words.get(3).filter(|_| words.len() > without_reply);
        let size: usize = words.last().unwrap().parse().unwrap();
        let mut body = vec![0; size + 2];
        self.reader.read_exact(&mut body).unwrap();
        self.arrived.push_back(Arrived {
            subscription: words[2].to_owned(),
            reply: reply.copied().unwrap_or_default().to_owned(),
            body: String::from_utf8_lossy(&body).trim_end().to_owned(),
        });
    }

    fn send(&mut self, text: &str) {
        // Where the server has ended the connection, that is what is read next.
        self.writer.write_all(text.as_bytes()).ok();
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        // A server that refuses a login ends the connection.
        self.reader.read_line(&mut line).unwrap_or(0);
        line.trim_end().to_owned()
    }
}
