//! Tests of what a client may take of a listener, with real sockets.

use std::io::ErrorKind;
use std::net::SocketAddr;

use axum::Extension;
use axum::routing::{get, post};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;
use tokio::time::{Instant, timeout};

use super::client_network::ClientNetwork;
use super::*;

/// A server, and how many connections it has.
struct Server {
    address: SocketAddr,
    connections: Arc<Connections>,
    stopping: CancellationToken,
}

async fn server(settings: ServeSettings) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let routes = Router::new()
        .route("/", get(|| async { "fine" }))
        .route("/body", post(|body: String| async move { body }))
        .route("/never", get(std::future::pending::<()>))
        .route("/large", get(|| async { "x".repeat(64 << 20) }))
        .route(
            "/source",
            get(|Extension(source): Extension<ClientNetwork>| async move { format!("{source:?}") }),
        );
    let (connections, stopping) = (
        Arc::new(Connections::new(settings)),
        CancellationToken::new(),
    );
    #[expect(clippy::disallowed_methods, reason = "the runtime ends with the test")]
    tokio::spawn(accept(
        listener,
        routes,
        connections.clone(),
        stopping.clone(),
    ));
    Server {
        address,
        connections,
        stopping,
    }
}

impl Server {
    /// Connects from an address of this machine.
    async fn connect(&self, from: &str) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
        socket.connect(self.address).await.unwrap()
    }

    async fn send(&self, from: &str, text: &str) -> TcpStream {
        let mut stream = self.connect(from).await;
        stream.write_all(text.as_bytes()).await.unwrap();
        stream
    }

    /// Asks on a connection of its own, and returns the answer.
    async fn ask(&self, from: &str, path: &str, headers: &str) -> String {
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: a\r\n{headers}connection: close\r\n\r\n");
        rest(self.send(from, &request).await).await
    }

    async fn is_fine(&self, from: &str) -> bool {
        self.ask(from, "/", "").await.ends_with("fine")
    }

    async fn until_count(&self, is: impl Fn(usize) -> bool) {
        self.until(|connections| is(connections.count())).await;
    }

    async fn until_at_work(&self, requests: usize) {
        self.until(|connections| connections.busy_count() == requests)
            .await;
    }

    async fn until(&self, is: impl Fn(&Connections) -> bool) {
        let wait = async {
            while !is(&self.connections) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        let came = timeout(Duration::from_secs(300), wait).await.is_ok();
        assert!(came, "{:?}", self.connections);
    }
}

/// Reads to the end; a connection that was cut ends, too.
async fn rest(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    if let Err(error) = stream.read_to_end(&mut bytes).await {
        let is_cut = matches!(
            error.kind(),
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
        );
        assert!(is_cut, "{error}");
    }
    String::from_utf8(bytes).unwrap()
}

fn few() -> ServeSettings {
    ServeSettings {
        connections: 24,
        connections_per_source: 8,
        trusted_proxies: Vec::new(),
    }
}

#[tokio::test]
async fn a_head_that_comes_a_byte_at_a_time_is_cut_off() {
    let server = server(few()).await;
    let mut slow = server
        .send("127.0.0.2", "GET / HTTP/1.1\r\nhost: a\r\n")
        .await;
    let idle = server.connect("127.0.0.2").await;
    server.until_count(|count| count == 2).await;
    tokio::time::pause();
    let begun = Instant::now();
    while slow.write_all(b"x: y\r\n").await.is_ok() {
        assert!(begun.elapsed() < HEAD_LIMIT * 2, "it may go on for ever");
        sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(rest(idle).await, "");
    assert!(begun.elapsed() >= HEAD_LIMIT);
    server.until_count(|count| count == 0).await;
}

#[tokio::test]
async fn a_connection_that_asks_no_more_is_closed() {
    let server = server(few()).await;
    let mut kept = server
        .send("127.0.0.2", "GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        .await;
    let mut answer = [0; 8];
    kept.read_exact(&mut answer).await.unwrap();
    tokio::time::pause();
    assert!(rest(kept).await.ends_with("fine"));
    server.until_count(|count| count == 0).await;
}

#[tokio::test]
async fn a_request_that_never_ends_is_cut() {
    let server = server(few()).await;
    let body = server
        .send(
            "127.0.0.2",
            "POST /body HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nx",
        )
        .await;
    let work = server
        .send("127.0.0.2", "GET /never HTTP/1.1\r\nhost: a\r\n\r\n")
        .await;
    // Its answer does not fit into what the system keeps for who does not read.
    let unread = server
        .send("127.0.0.2", "GET /large HTTP/1.1\r\nhost: a\r\n\r\n")
        .await;
    server.until_at_work(3).await;
    tokio::time::pause();
    let begun = Instant::now();
    assert_eq!(rest(body).await, "");
    assert_eq!(rest(work).await, "");
    server.until_count(|count| count == 0).await;
    assert!(begun.elapsed() <= REQUEST_LIMIT + Duration::from_secs(1));
    drop(unread);
}

#[tokio::test]
async fn a_flood_from_one_client_does_not_stop_another() {
    let server = server(few()).await;
    let mut held = Vec::new();
    for _ in 0..8 {
        let request = "GET /never HTTP/1.1\r\nhost: a\r\n\r\n";
        held.push(server.send("127.0.0.2", request).await);
    }
    server.until_at_work(8).await;
    // Its share is used up by requests that are under way, whatever it sends.
    let refused = server.connect("127.0.0.2").await;
    assert_eq!(rest(refused).await, "");
    for from in ["127.0.0.1", "127.0.0.3"] {
        assert!(server.is_fine(from).await, "{from}");
    }
    assert_eq!(server.connections.count(), 8);
    // What was cut gives its place back.
    drop(held.pop());
    server.until_count(|count| count < 8).await;
    assert!(server.is_fine("127.0.0.2").await);
}

#[tokio::test]
async fn ten_thousand_idle_connections_stop_nobody() {
    let settings = ServeSettings::default();
    let (most, of_one) = (settings.connections, settings.connections_per_source);
    let server = server(settings).await;
    let mut idle = Vec::new();
    // Half of them from one source, and half of them from two hundred.
    for number in 0..10_000_usize {
        let from = if number < 5_000 {
            "127.0.0.2".to_owned()
        } else {
            format!("127.0.1.{}", 1 + number % 200)
        };
        idle.push(server.connect(&from).await);
        assert!(server.connections.count() <= most);
        if number < 5_000 {
            assert!(server.connections.count() <= of_one);
        }
        if number % 1_000 == 999 {
            assert!(server.is_fine("127.0.0.1").await, "after {number}");
            assert!(server.is_fine("127.0.0.2").await, "after {number}");
        }
    }
    assert_eq!(idle.len(), 10_000);
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let server = server(few()).await;
    let headers = format!("x: {}\r\n", "y".repeat(2 * MAX_HEAD));
    let answer = server.ask("127.0.0.2", "/", &headers).await;
    assert!(answer.is_empty() || answer.contains(" 431 "), "{answer}");
    assert!(server.is_fine("127.0.0.2").await);
}

#[tokio::test]
async fn a_stop_waits_for_the_answers_and_for_no_idle_connection() {
    let server = server(few()).await;
    let idle = server.connect("127.0.0.2").await;
    let begun = "POST /body HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nfi";
    let mut busy = server.send("127.0.0.2", begun).await;
    server.until_at_work(1).await;
    server.stopping.cancel();
    assert_eq!(rest(idle).await, "");
    busy.write_all(b"ne").await.unwrap();
    assert!(rest(busy).await.ends_with("fine"));
    server.until_count(|count| count == 0).await;
}

#[tokio::test]
async fn only_a_trusted_proxy_names_its_client() {
    let trusted = ServeSettings {
        trusted_proxies: vec!["127.0.0.8/31".parse().unwrap()],
        ..few()
    };
    let server = server(trusted).await;
    let forwarded = |hops: &str| format!("x-forwarded-for: {hops}\r\n");
    for (from, headers, source) in [
        ("127.0.0.2", String::new(), "127.0.0.2"),
        ("127.0.0.2", forwarded("192.0.2.1"), "127.0.0.2"),
        ("127.0.0.9", String::new(), "127.0.0.9"),
        ("127.0.0.9", forwarded("192.0.2.1"), "192.0.2.1"),
        ("127.0.0.9", forwarded("192.0.2.1:4711"), "192.0.2.1"),
        ("127.0.0.9", forwarded("10.9.9.9, 192.0.2.1"), "192.0.2.1"),
        ("127.0.0.9", forwarded("192.0.2.1,127.0.0.8"), "192.0.2.1"),
        (
            "127.0.0.9",
            forwarded("10.9.9.9") + &forwarded("192.0.2.1"),
            "192.0.2.1",
        ),
        ("127.0.0.9", forwarded("192.0.2.1, nobody"), "127.0.0.9"),
        ("127.0.0.9", forwarded("::ffff:192.0.2.1"), "192.0.2.1"),
        ("127.0.0.9", forwarded("2001:db8::7:8"), "2001:db8::"),
    ] {
        let answer = server.ask(from, "/source", &headers).await;
        assert!(
            answer.ends_with(&format!("ClientNetwork({source})")),
            "{headers}{answer}"
        );
    }
}

#[test]
fn an_ipv6_network_is_one_client() {
    let of = |text: &str| ClientNetwork::of(text.parse().unwrap());
    assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
    assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
    assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
    assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
}

#[test]
fn a_connection_that_waits_gives_way_and_one_at_work_does_not() {
    let connections = Arc::new(Connections::new(ServeSettings {
        connections: 3,
        connections_per_source: 2,
        trusted_proxies: vec!["192.0.2.9".parse().unwrap()],
    }));
    let enter = |from: &str| connections.admit(from.parse().unwrap());
    let (one, two) = (enter("192.0.2.1").unwrap(), enter("192.0.2.1").unwrap());
    let at_work = two.begin_request();
    // The share of a client: its own idle connection is evicted.
    let three = enter("192.0.2.1").unwrap();
    assert!(one.is_evicted() && !two.is_evicted());
    let more = three.begin_request();
    assert!(enter("192.0.2.1").is_none());
    // All connections: an idle one of another client is evicted; while all have requests, no other is admitted.
    let other = enter("192.0.2.2").unwrap();
    let next = enter("192.0.2.3").unwrap();
    assert!(other.is_evicted() && !two.is_evicted() && !three.is_evicted());
    let last = next.begin_request();
    assert!(enter("192.0.2.4").is_none());
    assert!(enter("192.0.2.9").is_none());
    drop((at_work, more, last));
    // A proxy speaks for many: its own share is all of them.
    let proxied: Vec<_> = (0..3).map(|_| enter("192.0.2.9").unwrap()).collect();
    assert_eq!(connections.count(), 3);
    drop((one, two, three, other, next, proxied));
    assert_eq!(connections.count(), 0);
}

#[test]
fn limits_are_checked() {
    assert_eq!(ServeSettings::default().problems("x"), Vec::<String>::new());
    for (connections, connections_per_source) in [(4, 4), (100_000, 4), (8, 9), (8, 0)] {
        let settings = ServeSettings {
            connections,
            connections_per_source,
            trusted_proxies: Vec::new(),
        };
        assert_eq!(settings.problems("x").len(), 1, "{settings:?}");
    }
}
