//! How every listener serves HTTP: what any client may take of it is bounded, so that no client keeps others out.
//!
//! A head that does not arrive, an idle connection, and a request that does not come to its end are closed after a
//! while. One source has a share of the connections; where there is no room, a connection that waits for its next request
//! makes room, the oldest of the source that has most. Only HTTP/1.1 is spoken.

mod connections;

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::HeaderMap;
use axum::response::Response;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::Deserialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::connections::{Busy, Connection, Connections};

/// How long the head of a request may take to arrive, and how long a connection may wait for its next request.
const HEAD_LIMIT: Duration = Duration::from_secs(10);
/// How long a request may take: its body, the work, and the sending of the answer.
const REQUEST_LIMIT: Duration = Duration::from_secs(60);
/// The largest head of a request, in bytes.
const MAX_HEAD: usize = 64 << 10;
/// How much of an answer hyper gets at once, in bytes.
const MAX_PART: usize = 16 << 10;
/// How long is waited when a connection cannot be accepted, as where no file descriptor is left.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// Where a proxy writes for whom it asks.
const FORWARDED_FOR: &str = "x-forwarded-for";

/// How many connections a listener has, and which proxies are before it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServeSettings {
    /// The most connections of a listener.
    pub connections: usize,
    /// The most of them from one source.
    pub connections_per_source: usize,
    /// The addresses of proxies whose `X-Forwarded-For` says who asks.
    #[serde(default)]
    pub trusted_proxies: Vec<IpAddr>,
}

impl Default for ServeSettings {
    fn default() -> Self {
        Self {
            connections: 256,
            connections_per_source: 64,
            trusted_proxies: Vec::new(),
        }
    }
}

impl ServeSettings {
    /// Returns what is wrong with them, as the settings of a section.
    #[must_use]
    pub fn problems(&self, section: &str) -> Vec<String> {
        let mut problems = Vec::new();
        if !(8..=65_536).contains(&self.connections) {
            problems.push(format!("`{section}.connections` must be 8 to 65536"));
        }
        if !(4..=self.connections).contains(&self.connections_per_source) {
            problems.push(format!(
                "`{section}.connections_per_source` must be 4 to `{section}.connections`"
            ));
        }
        problems
    }

    /// Returns who sends a request: the peer, or for whom a trusted proxy says that it asks. Only what the last proxy
    /// wrote is believed, which is the end of the list; what comes before is the client's to choose.
    fn source(&self, peer: IpAddr, headers: &HeaderMap) -> Source {
        let mut source = peer.to_canonical();
        let hops = headers.get_all(FORWARDED_FOR).iter().rev();
        let mut hops = hops
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.rsplit(','));
        while self.trusted_proxies.contains(&source) {
            let Some(hop) = hops.next().and_then(address) else {
                break;
            };
            source = hop.to_canonical();
        }
        Source::of(source)
    }
}

/// Who sends a request: an IPv4 address, or the /64 network of an IPv6 address, which one customer has all of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Source(IpAddr);

impl Source {
    /// Returns the source of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        const NETWORK: u128 = !0 << 64;
        Self(match address.to_canonical() {
            IpAddr::V6(address) => IpAddr::V6((address.to_bits() & NETWORK).into()),
            address @ IpAddr::V4(_) => address,
        })
    }
}

fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let with_port = || text.parse::<SocketAddr>().map(|address| address.ip());
    text.parse().or_else(|_| with_port()).ok()
}

/// Serves until it is told to stop, and then until the requests under way have their answers.
///
/// Each request has its [`Source`] among its extensions.
///
/// # Errors
/// None; the signature is that of a task.
pub async fn serve(
    listener: TcpListener,
    routes: Router,
    settings: ServeSettings,
    stopping: CancellationToken,
) -> anyhow::Result<()> {
    accept(
        listener,
        routes,
        Arc::new(Connections::new(settings)),
        stopping,
    )
    .await;
    Ok(())
}

async fn accept(
    listener: TcpListener,
    routes: Router,
    connections: Arc<Connections>,
    stopping: CancellationToken,
) {
    let tracker = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stopping.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                // Where there is no room the connection is closed by being dropped.
                if let Some(connection) = connections.enter(peer.ip()) {
                    let routes = routes.clone();
                    tracker.spawn(converse(stream, connection, routes, stopping.clone()));
                }
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(ACCEPT_AGAIN).await;
            }
        }
    }
    drop(listener);
    tracker.close();
    tracker.wait().await;
}

/// Answers the requests of one connection.
async fn converse(
    stream: TcpStream,
    connection: Connection,
    routes: Router,
    stopping: CancellationToken,
) {
    // Small answers are sent at once; a connection that is gone already is found out below.
    stream.set_nodelay(true).ok();
    let routes = TowerToHyperService::new(routes);
    let answer = service_fn(|mut request: Request<Incoming>| {
        let busy = connection.busy();
        let source = connection.source(request.headers());
        request.extensions_mut().insert(source);
        let answer = routes.call(request);
        async move {
            let answer: Response = answer.await?;
            Ok::<_, Infallible>(answer.map(|body| Answer {
                body,
                rest: Bytes::new(),
                _busy: busy,
            }))
        }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(MAX_HEAD);
    let mut served = pin!(http.serve_connection(TokioIo::new(stream), answer));
    let mut told_to_stop = false;
    loop {
        tokio::select! {
            ended = served.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection was cut");
                }
                return;
            }
            () = connection.evicted() => return,
            () = sleep_until(connection.deadline(REQUEST_LIMIT)) => {
                if connection.is_overdue(REQUEST_LIMIT) {
                    tracing::debug!("a request that did not come to its end was cut");
                    return;
                }
            }
            () = stopping.cancelled(), if !told_to_stop => {
                told_to_stop = true;
                served.as_mut().graceful_shutdown();
            }
        }
    }
}

/// The body of an answer; its connection is busy until all but the last of it was sent.
///
/// It is given to hyper in small parts, which takes no more of them than it can send: a large one that nobody reads would
/// otherwise count as sent.
struct Answer {
    body: Body,
    rest: Bytes,
    _busy: Busy,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                end => return Poll::Ready(end),
            }
        }
        let length = self.rest.len().min(MAX_PART);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, body) = (self.rest.len() as u64, self.body.size_hint());
        let mut hint = SizeHint::new();
        hint.set_lower(body.lower().saturating_add(rest));
        if let Some(upper) = body.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint
    }
}

#[cfg(test)]
mod tests;
