//! HTTP/1.1 of every listener, with limits for each client, so that no client keeps others out.
//!
//! A connection is closed when a request head does not arrive, when it is idle, and when a request does not complete in
//! time. Each client network has a share of the connections; when all are in use, the oldest idle connection of the
//! network with the most connections is closed.

pub(crate) mod client_network;
mod connections;
pub(crate) mod listen;

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::response::Response;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::client_network::ServeSettings;
use self::connections::{Connection, Connections, RequestGuard};

/// How long the head of a request may take to arrive, and how long a connection may wait for its next request.
const HEAD_LIMIT: Duration = Duration::from_secs(10);
/// How long a request may take, from its body to the end of the response.
const REQUEST_LIMIT: Duration = Duration::from_secs(60);
/// The largest head of a request, in bytes.
const MAX_HEAD: usize = 64 << 10;
/// How much of a response hyper gets at once, in bytes.
const MAX_CHUNK: usize = 16 << 10;
/// The pause after a connection could not be accepted, as when no file descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Serves until `stopping` is cancelled, and then until the requests under way are answered.
///
/// Each request has its [`ClientNetwork`](client_network::ClientNetwork) among its extensions.
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
                // A connection that is not admitted is closed by being dropped.
                if let Some(connection) = connections.admit(peer.ip()) {
                    let routes = routes.clone();
                    tracker.spawn(serve_connection(
                        stream,
                        connection,
                        routes,
                        stopping.clone(),
                    ));
                }
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    tracker.close();
    tracker.wait().await;
}

/// Answers the requests of one connection.
async fn serve_connection(
    stream: TcpStream,
    connection: Connection,
    routes: Router,
    stopping: CancellationToken,
) {
    // Small responses are sent at once; a connection that is closed already is noticed below.
    stream.set_nodelay(true).ok();
    let routes = TowerToHyperService::new(routes);
    let service = service_fn(|mut request: Request<Incoming>| {
        let guard = connection.begin_request();
        let network = connection.client_network(request.headers());
        request.extensions_mut().insert(network);
        let response = routes.call(request);
        async move {
            let response: Response = response.await?;
            Ok::<_, Infallible>(response.map(|body| ChunkedBody {
                body,
                rest: Bytes::new(),
                _guard: guard,
            }))
        }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(MAX_HEAD);
    let mut served = pin!(http.serve_connection(TokioIo::new(stream), service));
    let mut is_stopping = false;
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
                    tracing::debug!("a request that did not complete in time was cut");
                    return;
                }
            }
            () = stopping.cancelled(), if !is_stopping => {
                is_stopping = true;
                served.as_mut().graceful_shutdown();
            }
        }
    }
}

/// The body of a response; its request is under way until all but the last chunk was sent.
///
/// hyper gets it in small chunks and takes no more than it can send: a large body that the client does not read would
/// otherwise count as sent.
struct ChunkedBody {
    body: Body,
    rest: Bytes,
    _guard: RequestGuard,
}

impl HttpBody for ChunkedBody {
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
        let length = self.rest.len().min(MAX_CHUNK);
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
