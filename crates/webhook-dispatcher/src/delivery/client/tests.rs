//! What is sent, and what is made of answers, against a server in this process.
#![expect(
    clippy::disallowed_methods,
    reason = "the server of a test ends with its runtime"
)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::http::{HeaderMap as Sent, StatusCode as Status};
use axum::response::IntoResponse as _;
use axum::routing::post;

use super::*;

async fn serve(router: Router) -> SocketAddr {
    sluice_service::install_crypto();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

fn to(url: &str, private: bool) -> Post<'_> {
    Post {
        url,
        guard: if private {
            AddressGuard::PrivateAllowed
        } else {
            AddressGuard::PublicOnly
        },
        authorities: None,
        id: "event-1",
        keys: None,
        body: Body {
            content_type: "application/cloudevents+json",
            bytes: b"{}".to_vec(),
        },
    }
}

fn clients() -> Clients {
    sluice_service::install_crypto();
    Clients::new(Duration::from_millis(500))
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_is_not_followed() {
    let hits = Arc::new(AtomicUsize::new(0));
    let count = hits.clone();
    let redirect = || async { (Status::TEMPORARY_REDIRECT, [("location", "/there")]) };
    let there = move || {
        count.fetch_add(1, Ordering::SeqCst);
        async { "followed" }
    };
    let router = Router::new()
        .route("/here", post(redirect))
        .route("/there", post(there));
    let address = serve(router).await;
    let url = format!("http://{address}/here");
    let answer = clients().post(to(&url, true)).await.unwrap();
    assert_eq!(answer.status, StatusCode::TEMPORARY_REDIRECT);
    assert_eq!(hits.load(Ordering::SeqCst), 0);
    let url = format!("http://{address}/there");
    clients().post(to(&url, true)).await.unwrap();
    assert_eq!(hits.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_private_address_is_not_connected_to_by_number_or_by_name() {
    let hits = Arc::new(AtomicUsize::new(0));
    let count = hits.clone();
    let hook = move || {
        count.fetch_add(1, Ordering::SeqCst);
        async { "taken" }
    };
    let address = serve(Router::new().route("/", post(hook))).await;
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"] {
        let url = format!("http://{host}:{}/", address.port());
        let fault = clients().post(to(&url, false)).await.unwrap_err();
        assert!(
            matches!(fault, Fault::Forbidden { .. }),
            "{host}: {fault:?}"
        );
    }
    assert_eq!(hits.load(Ordering::SeqCst), 0);
    let url = format!("http://localhost:{}/", address.port());
    let answer = clients().post(to(&url, true)).await.unwrap();
    assert_eq!(
        (answer.status, answer.excerpt.as_str()),
        (StatusCode::OK, "taken")
    );
}

#[tokio::test]
async fn a_webhook_that_allows_private_addresses_reaches_no_metadata() {
    for host in [
        "169.254.169.254",
        "0xa9fea9fe",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "[::ffff:a9fe:a9fe]",
        "100.100.100.200",
        "0.0.0.0",
        "255.255.255.255",
    ] {
        let url = format!("http://{host}/latest/meta-data/");
        let fault = clients().post(to(&url, true)).await.unwrap_err();
        assert!(
            matches!(fault, Fault::Forbidden { .. }),
            "{host}: {fault:?}"
        );
        assert!(!fault.to_string().contains("allow_private_addresses"));
    }
}

#[tokio::test]
async fn a_body_without_end_is_read_to_its_limit_only() {
    let endless = || async { "x\u{7}".repeat(1 << 20).into_response() };
    let address = serve(Router::new().route("/", post(endless))).await;
    let url = format!("http://{address}/");
    let answer = clients().post(to(&url, true)).await.unwrap();
    assert_eq!(answer.excerpt.len(), MAX_EXCERPT - 1);
    assert!(answer.excerpt.starts_with("x x "));
}

#[tokio::test]
async fn an_endpoint_that_does_not_answer_is_not_waited_for() {
    let hang = || async {
        tokio::time::sleep(Duration::from_secs(60)).await;
        "late"
    };
    let address = serve(Router::new().route("/", post(hang))).await;
    let url = format!("http://{address}/secret-token");
    let clients = clients();
    let answer = clients.post(to(&url, true)).await.unwrap();
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    let url = format!("http://{address}/");
    let fault = clients.post(to(&url, true)).await.unwrap_err();
    assert!(matches!(fault, Fault::TimedOut), "{fault:?}");
}

#[tokio::test]
async fn no_error_shows_the_address() {
    let port = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().port()
    };
    let url = format!("http://127.0.0.1:{port}/hunter2");
    let fault = clients().post(to(&url, true)).await.unwrap_err();
    assert!(matches!(fault, Fault::Unreachable(_)));
    assert!(
        !format!("{fault:?} {fault}").contains("hunter2"),
        "{fault:?}"
    );
}

#[tokio::test]
async fn the_headers_are_those_of_standard_webhooks() {
    let seen = Arc::new(Mutex::new(Sent::new()));
    let keep = seen.clone();
    let hook = move |headers: Sent| {
        *keep.lock().unwrap() = headers;
        async { Status::NO_CONTENT }
    };
    let address = serve(Router::new().route("/", post(hook))).await;
    let url = format!("http://{address}/");
    let keys =
        SigningKeys::read(&"whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD".to_owned().into()).unwrap();
    let mut signed = to(&url, true);
    signed.keys = Some(&keys);
    clients().post(signed).await.unwrap();
    let headers = seen.lock().unwrap().clone();
    let text = |name: &str| headers[name].to_str().unwrap().to_owned();
    assert_eq!(text("webhook-id"), "event-1");
    let timestamp: i64 = text("webhook-timestamp").parse().unwrap();
    assert!((Utc::now().timestamp() - timestamp).abs() < 60);
    assert_eq!(
        text("webhook-signature"),
        keys.sign("event-1", timestamp, b"{}")
    );
    assert_eq!(text("content-type"), "application/cloudevents+json");
    clients().post(to(&url, true)).await.unwrap();
    assert!(!seen.lock().unwrap().contains_key("webhook-signature"));
}

#[test]
fn retry_after_is_respected_and_bounded() {
    let now: DateTime<Utc> = "2026-11-24T12:00:00Z".parse().unwrap();
    let seconds = |status: u16, text: &str| {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, text.parse().unwrap());
        let status = StatusCode::from_u16(status).unwrap();
        retry_after(status, &headers, now).map(|wait| wait.as_secs())
    };
    for (status, text, wait) in [
        (429, "7", Some(7)),
        (503, " 7 ", Some(7)),
        (429, "0", Some(0)),
        (429, "999999", Some(3_600)),
        (429, "99999999999999999999999", Some(3_600)),
        (503, "Tue, 24 Nov 2026 12:01:00 GMT", Some(60)),
        (503, "Tue, 24 Nov 2099 12:01:00 GMT", Some(3_600)),
        (503, "Tue, 24 Nov 2020 12:01:00 GMT", Some(0)),
        (503, "soon", None),
        (503, "-1", None),
        (503, "", None),
        (500, "7", None),
        (401, "7", None),
    ] {
        assert_eq!(seconds(status, text), wait, "{status} {text}");
    }
    let busy = StatusCode::TOO_MANY_REQUESTS;
    assert_eq!(retry_after(busy, &HeaderMap::new(), now), None);
}
