//! A peer below HTTP: it answers with whatever bytes the test wants, slowly, without an end, or not to the end.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use secrecy::SecretString;
use sluice_registry::{Client, Credential, Endpoint};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// A part of an answer.
#[derive(Debug, Clone)]
pub(crate) enum Piece {
    /// These bytes.
    Bytes(Vec<u8>),
    /// These bytes again and again, for as long as the other side takes them.
    Forever(Vec<u8>),
    /// One byte a second.
    Drip,
    /// Nothing any more, and the connection stays open.
    Silence,
}

/// A listening peer.
#[derive(Debug, Clone)]
pub(crate) struct Raw {
    pub(crate) host: String,
    sent: Arc<AtomicUsize>,
    slow: Arc<AtomicBool>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Raw {
    /// Starts one that answers each request, on a connection of its own, as `answer` says for its head.
    pub(crate) async fn start(answer: impl Fn(&str) -> Vec<Piece> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let raw = Self {
            host: listener.local_addr().unwrap().to_string(),
            sent: Arc::default(),
            slow: Arc::default(),
            asked: Arc::default(),
        };
        let (shared, answer) = (raw.clone(), Arc::new(answer));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (shared, answer) = (shared.clone(), Arc::clone(&answer));
                tokio::spawn(async move { shared.serve(stream, &*answer).await });
            }
        });
        raw
    }

    async fn serve(&self, mut stream: TcpStream, answer: &(dyn Fn(&str) -> Vec<Piece> + Sync)) {
        let (mut head, mut part) = (Vec::new(), [0; 4_096]);
        while !head.windows(4).any(|end| end == b"\r\n\r\n") {
            match stream.read(&mut part).await {
                Ok(read) if read > 0 => head.extend_from_slice(&part[..read]),
                _ => return,
            }
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let pieces = answer(&head);
        self.asked.lock().unwrap().push(head);
        for piece in pieces {
            match piece {
                Piece::Bytes(bytes) => {
                    if stream.write_all(&bytes).await.is_err() {
                        return;
                    }
                    self.sent.fetch_add(bytes.len(), Ordering::SeqCst);
                }
                Piece::Forever(bytes) => {
                    while stream.write_all(&bytes).await.is_ok() {
                        self.sent.fetch_add(bytes.len(), Ordering::SeqCst);
                    }
                    return;
                }
                Piece::Drip => {
                    self.slow.store(true, Ordering::SeqCst);
                    while stream.write_all(b" ").await.is_ok() {
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                    return;
                }
                Piece::Silence => {
                    self.slow.store(true, Ordering::SeqCst);
                    std::future::pending::<()>().await;
                }
            }
        }
        stream.shutdown().await.ok();
    }

    /// Returns how many bytes the other side has taken.
    pub(crate) fn sent(&self) -> usize {
        self.sent.load(Ordering::SeqCst)
    }

    /// Returns the heads of what was asked.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    /// Waits until it has begun to be slow, and lets time fly from there on.
    pub(crate) async fn let_time_fly(&self) {
        while !self.slow.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::pause();
    }

    /// Makes a client with a credential that must not leave.
    pub(crate) fn client(&self) -> Client {
        let mut endpoint = Endpoint::of(&self.host.parse().unwrap(), true).unwrap();
        endpoint.credential = Some(Credential {
            username: "user".to_owned(),
            password: SecretString::from("planted-secret".to_owned()),
        });
        Client::new(endpoint).unwrap()
    }
}

/// The bytes of an answer with these headers and the beginning of a body; the connection ends with it.
pub(crate) fn answer(status: &str, headers: &[(&str, &str)], body: &[u8]) -> Piece {
    let mut text = format!("HTTP/1.1 {status}\r\nconnection: close\r\n");
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    text += "\r\n";
    Piece::Bytes([text.as_bytes(), body].concat())
}

/// One chunk of a body whose length nobody says.
pub(crate) fn chunk(bytes: &[u8]) -> Vec<u8> {
    let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
    chunk.extend_from_slice(bytes);
    chunk.extend_from_slice(b"\r\n");
    chunk
}
