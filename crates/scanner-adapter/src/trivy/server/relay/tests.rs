//! What a run of Trivy can do at the relay, and what the server behind it gets.

use axum::extract::Path;

use crate::trivy::server::client::{ServerAddress, Token, http_client};

use super::*;

type Requests = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

/// A server that records its requests.
async fn server() -> (ServerClient, Requests) {
    let requests = Requests::default();
    let app = Router::new().route(
        "/twirp/{*path}",
        axum::routing::post({
            let requests = requests.clone();
            |Path(path): Path<String>, body: Bytes| async move {
                lock(&requests).push((path, body.to_vec()));
                "answer"
            }
        }),
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    #[expect(clippy::disallowed_methods, reason = "the runtime ends with the test")]
    tokio::spawn(async move { axum::serve(listener, app).await });
    let address = ServerAddress {
        url: url.parse().unwrap(),
        token: Some(Token::Generated("secret".into())),
    };
    let client = ServerClient {
        address,
        http: http_client().unwrap(),
    };
    (client, requests)
}

async fn ask(session: &Session, token: &str, path: &str, body: Vec<u8>) -> (u16, Vec<u8>) {
    let url = format!("http://{}/twirp/trivy.{path}", session.address);
    let request = http_client().unwrap().post(url).header(TOKEN_HEADER, token);
    let answer = request.body(body).send().await.unwrap();
    let status = answer.status().as_u16();
    (status, answer.bytes().await.unwrap().to_vec())
}

fn fields(list: &[(u64, &str)]) -> Vec<u8> {
    let mut message = Vec::new();
    for (number, text) in list {
        twirp::put_text(&mut message, *number, text);
    }
    message
}

fn earlier(key: &str) -> Option<LayerAnalysis> {
    Some(LayerAnalysis {
        key: key.to_owned(),
        message: fields(&[(1, key), (3, "earlier")]).into(),
    })
}

fn verified() -> CancellationToken {
    let verified = CancellationToken::new();
    verified.cancel();
    verified
}

const LIMIT: Duration = Duration::from_secs(10);
const MISSING: &str = "cache.v1.Cache/MissingBlobs";
const PUT: &str = "cache.v1.Cache/PutBlob";
const MATCH: &str = "scanner.v1.Scanner/Scan";

#[tokio::test]
async fn the_server_gets_the_layers_under_names_of_one_match() {
    let (client, requests) = server().await;
    let relay = Relay::start().await.unwrap();
    let session = relay.open(client, LIMIT, vec![earlier("a"), None], verified());
    let token = session.token.clone();
    let asked = fields(&[(1, "image"), (2, "a"), (2, "b")]);
    let (status, answer) = ask(&session, &token, MISSING, asked).await;
    assert_eq!(
        (status, twirp::texts(&answer, 2).unwrap()),
        (200, vec!["b".to_owned()])
    );
    let found = fields(&[(1, "b"), (3, "found")]);
    assert_eq!(ask(&session, &token, PUT, found.clone()).await.0, 200);
    let artifact = fields(&[(1, "image")]);
    assert_eq!(
        ask(&session, &token, "cache.v1.Cache/PutArtifact", artifact)
            .await
            .0,
        200
    );
    let asked = fields(&[
        (1, "target"),
        (2, "image"),
        (3, "a"),
        (3, "b"),
        (4, "options"),
    ]);
    let (status, answer) = ask(&session, &token, MATCH, asked).await;
    assert_eq!((status, answer.as_slice()), (200, b"answer".as_slice()));
    assert!(!session.is_stale());
    let kept = session.analyses();
    let kept: Vec<_> = kept
        .iter()
        .map(|found| found.as_ref().unwrap().key.as_str())
        .collect();
    assert_eq!(kept, ["a", "b"]);

    let requests = lock(&requests).clone();
    let paths: Vec<_> = requests
        .iter()
        .map(|(path, _)| path.rsplit('/').next().unwrap())
        .collect();
    assert_eq!(
        paths,
        ["PutBlob", "PutBlob", "PutArtifact", "Scan", "DeleteBlobs"]
    );
    let names: Vec<_> = requests[..2]
        .iter()
        .map(|(_, body)| twirp::text(body, 1).unwrap())
        .collect();
    assert_eq!(twirp::text(&requests[1].1, 3).unwrap(), "found");
    assert_eq!(twirp::texts(&requests[3].1, 3).unwrap(), names);
    assert_eq!(twirp::texts(&requests[4].1, 1).unwrap(), names);
    assert_eq!(twirp::text(&requests[3].1, 4).unwrap(), "options");
    for name in names {
        assert!(name.starts_with("sha256:") && name.len() == 71, "{name}");
    }
}

#[tokio::test]
async fn a_run_can_store_nothing_for_layers_of_other_images_and_change_no_earlier_analysis() {
    let (client, requests) = server().await;
    let relay = Relay::start().await.unwrap();
    let session = relay.open(client.clone(), LIMIT, vec![earlier("a"), None], verified());
    let other = relay.open(client, LIMIT, vec![None], verified());
    let token = session.token.clone();
    let asked = fields(&[(1, "image"), (2, "a"), (2, "b")]);
    ask(&session, &token, MISSING, asked).await;
    // A layer of no image of this run, and a wrong token.
    assert_eq!(ask(&session, &token, PUT, fields(&[(1, "c")])).await.0, 400);
    assert_eq!(
        ask(&session, "wrong", PUT, fields(&[(1, "b")])).await.0,
        401
    );
    // An earlier analysis, and one that the run has stored.
    for value in ["first", "second"] {
        for key in ["a", "b"] {
            let message = fields(&[(1, key), (3, value)]);
            assert_eq!(ask(&session, &token, PUT, message).await.0, 200);
        }
    }
    let found = session.analyses();
    assert_eq!(found[0], earlier("a"));
    let second = found[1].as_ref().unwrap();
    assert_eq!(twirp::text(&second.message, 3).unwrap(), "first");
    assert!(other.analyses().is_empty());
    // A match of fewer layers than the image has, and of one that was not analysed.
    for keys in [
        &[(3, "a")][..],
        &[(3, "b"), (3, "a")],
        &[(3, "a"), (3, "c")],
    ] {
        let mut asked = fields(&[(2, "image")]);
        asked.extend(fields(keys));
        assert_eq!(ask(&session, &token, MATCH, asked).await.0, 400);
    }
    ask(
        &other,
        &other.token,
        MISSING,
        fields(&[(1, "image"), (2, "c")]),
    )
    .await;
    let asked = fields(&[(2, "image"), (3, "c")]);
    assert_eq!(ask(&other, &other.token, MATCH, asked).await.0, 400);
    assert!(lock(&requests).is_empty());
}

#[tokio::test]
async fn a_trivy_that_asks_for_other_analyses_makes_the_earlier_ones_stale() {
    let (client, _) = server().await;
    let relay = Relay::start().await.unwrap();
    let session = relay.open(client.clone(), LIMIT, vec![earlier("a")], verified());
    let asked = fields(&[(1, "image"), (2, "of another version")]);
    let (_, answer) = ask(&session, &session.token, MISSING, asked).await;
    assert_eq!(twirp::texts(&answer, 2).unwrap(), ["of another version"]);
    assert!(session.is_stale());
    // More or fewer layers than the image has are refused.
    let asked = fields(&[(1, "image")]);
    assert_eq!(ask(&session, &session.token, MISSING, asked).await.0, 400);
    let token = session.token.clone();
    drop(session);
    let later = relay.open(client, LIMIT, vec![None], verified());
    assert_eq!(ask(&later, &token, MISSING, Vec::new()).await.0, 401);
}

#[tokio::test]
async fn a_run_learns_of_no_layer_before_all_are_verified() {
    let (client, requests) = server().await;
    let relay = Relay::start().await.unwrap();
    let are_verified = CancellationToken::new();
    let session = relay.open(client, LIMIT, vec![None], are_verified.clone());
    let token = session.token.clone();
    let asked = fields(&[(1, "image"), (2, "a")]);
    let mut missing = std::pin::pin!(ask(&session, &token, MISSING, asked));
    let early = tokio::time::timeout(Duration::from_millis(200), &mut missing).await;
    assert!(early.is_err(), "{early:?}");
    // It does not wait for an answer, and stores an analysis of bytes that were not verified.
    let found = fields(&[(1, "a"), (3, "found")]);
    assert_eq!(ask(&session, &token, PUT, found).await.0, 400);
    let matched = fields(&[(1, "target"), (2, "image"), (3, "a")]);
    assert_eq!(ask(&session, &token, MATCH, matched).await.0, 400);
    are_verified.cancel();
    let (status, answer) = missing.await;
    let layers = twirp::texts(&answer, 2).unwrap();
    assert_eq!((status, layers), (200, vec!["a".to_owned()]));
    assert!(lock(&requests).is_empty());
}
