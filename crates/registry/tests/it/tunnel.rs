//! A proxy that counts what passes.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

/// A proxy for tunnels and for plain requests.
pub(crate) struct Tunnel {
    pub(crate) address: String,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Tunnel {
    /// Lets pass who shows this `Proxy-Authorization`, or everybody.
    pub(crate) async fn start(wanted: Option<&str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let heads: Arc<Mutex<Vec<String>>> = Arc::default();
        let (seen, wanted) = (heads.clone(), wanted.map(str::to_owned));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(pass(stream, seen.clone(), wanted.clone()));
            }
        });
        Self { address, heads }
    }

    /// Returns the first head of each connection.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

async fn pass(mut stream: TcpStream, seen: Arc<Mutex<Vec<String>>>, wanted: Option<String>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else {
            return;
        };
        head.push(byte);
    }
    let text = String::from_utf8(head).unwrap();
    seen.lock().unwrap().push(text.clone());
    let shown = text.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("proxy-authorization")
            .then_some(value)
    });
    if wanted.is_some() && shown != wanted.as_deref() {
        let refusal = "HTTP/1.1 407 Who Are You\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        stream.write_all(refusal.as_bytes()).await.ok();
        return;
    }
    let target = text.split(' ').nth(1).unwrap();
    let plain = target.strip_prefix("http://");
    let authority = plain.map_or(target, |rest| rest.split('/').next().unwrap());
    let Ok(mut there) = TcpStream::connect(authority).await else {
        return;
    };
    if plain.is_some() {
        there.write_all(text.as_bytes()).await.unwrap();
    } else {
        stream
            .write_all(b"HTTP/1.1 200 Open\r\n\r\n")
            .await
            .unwrap();
    }
    copy_bidirectional(&mut stream, &mut there).await.ok();
}
