//! The REST API of the gateway.

use std::io::{BufRead as _, BufReader};
use std::process::Command;

use reqwest::Method;
use reqwest::blocking::{Client, RequestBuilder, Response};
use serde_json::{Value, json};
use sluice_tests::{Stack, binary, wait_for};

const MIRROR: &str = "kind: Mirror\nname: app\nfrom: docker.io/library/app\nto: hub/app\n";

/// Sends a request and returns the status and the body, which is JSON or nothing.
fn ask(request: RequestBuilder) -> (u16, Value) {
    let answer = request.send().unwrap();
    let (status, content) = (
        answer.status().as_u16(),
        answer.headers().get("content-type").cloned(),
    );
    let body = answer.bytes().unwrap();
    if status >= 400 {
        assert_eq!(content.unwrap(), "application/problem+json");
    }
    (status, serde_json::from_slice(&body).unwrap_or_default())
}

fn call(stack: &Stack, method: Method, path: &str, body: &str) -> (u16, Value) {
    let url = format!("http://{}/api/v1/{path}", stack.api);
    let request = Client::new().request(method, url).body(body.to_owned());
    ask(request.bearer_auth(stack.api_token()))
}

#[test]
fn resources_are_applied_shown_and_removed_as_by_the_command() {
    let stack = Stack::start(7_200);
    let call = |method, path: &str, body: &str| call(&stack, method, path, body);
    assert_eq!(call(Method::GET, "resources/mirrors", ""), (200, json!([])));
    for changed in [true, false] {
        let (status, answer) = call(Method::PUT, "resources/mirror/app", MIRROR);
        assert_eq!((status, answer), (200, json!({ "changed": changed })));
    }
    let settings = r#"{ "kind": "Repository", "name": "hub/*", "keep": 3 }"#;
    let (status, _) = call(Method::PUT, "resources/repository/hub/*", settings);
    assert_eq!(status, 200);
    let (status, shown) = call(Method::GET, "resources/repositories/hub%2F*", "");
    assert_eq!(status, 200);
    assert_eq!(shown["spec"]["keep"], 3);
    assert_eq!(shown["appliedBy"], "api");
    let listed = stack.sluice(&["get", "mirrors"]);
    assert!(listed.contains("app"), "{listed}");
    assert_eq!(call(Method::DELETE, "resources/mirror/app", "").0, 204);
    let (status, problem) = call(Method::DELETE, "resources/mirror/app", "");
    assert_eq!((status, &problem["code"]), (404, &json!("not_found")));
    let told = stack.events("resource.applied");
    let actors: Vec<_> = told.iter().map(|fact| &fact["data"]["actor"]).collect();
    assert_eq!(actors, ["api", "api", "api"]);
}

#[test]
fn a_policy_that_writes_the_tags_of_another_is_refused() {
    let stack = Stack::start(7_200);
    let policy = |name: &str, from: &str| {
        format!(
            "kind: PromotionPolicy\nname: {name}\nfrom: {from}\nto: official/{{name}}\nwhen: 'true'\n"
        )
    };
    let put = |name: &str, from: &str, more: &str| {
        let path = format!("resources/promotionpolicy/{name}");
        let body = format!("{}{more}", policy(name, from));
        call(&stack, Method::PUT, &path, &body)
    };
    assert_eq!(put("one", "hub/*", "shares_target: true\n").0, 200);
    let (status, problem) = put("other", "staging/*", "");
    assert_eq!(
        (status, &problem["code"]),
        (422, &json!("invalid_resource"))
    );
    assert!(problem.to_string().contains("shares_target"), "{problem}");
    assert_eq!(put("other", "staging/*", "shares_target: true\n").0, 200);
}

#[test]
fn what_is_wrong_is_told_with_a_code_and_nothing_is_applied() {
    let stack = Stack::start(7_200);
    let call = |method, path: &str, body: &str| call(&stack, method, path, body);
    let unknown_key = format!("{MIRROR}evry: 1h\n");
    let bad_range = format!("{MIRROR}tags: {{ semver: '>=>1' }}\n");
    let two = format!("{MIRROR}---\n{}", MIRROR.replace("app", "b"));
    let put = |path: &str, body: &str| call(Method::PUT, path, body);
    for (expected, code, (status, problem)) in [
        (
            422,
            "invalid_resource",
            put("resources/mirror/app", &unknown_key),
        ),
        (
            422,
            "invalid_resource",
            put("resources/mirror/app", &bad_range),
        ),
        (422, "invalid_resource", put("resources/mirror/app", "")),
        (
            400,
            "resource_mismatch",
            put("resources/mirror/other", MIRROR),
        ),
        (
            400,
            "resource_mismatch",
            put("resources/webhook/app", MIRROR),
        ),
        (400, "resource_mismatch", put("resources/mirror/app", &two)),
        (400, "invalid_request", put("resources/miror/app", MIRROR)),
        (400, "invalid_request", call(Method::GET, "tags/HUB", "")),
        (
            400,
            "invalid_request",
            call(Method::GET, "tags/hub/app?limit=0", ""),
        ),
        (
            400,
            "invalid_request",
            call(Method::GET, "tags/hub/app?after=.", ""),
        ),
        (
            400,
            "invalid_request",
            call(Method::GET, "images/hub/app:-", ""),
        ),
        (
            404,
            "not_found",
            call(Method::GET, "images/hub/app:1.0", ""),
        ),
        (
            404,
            "not_found",
            call(Method::GET, "resources/mirror/app", ""),
        ),
        (404, "not_found", call(Method::POST, "mirrors/app/poll", "")),
        (404, "no_such_path", call(Method::GET, "nothing", "")),
        (
            405,
            "method_not_allowed",
            call(Method::DELETE, "status", ""),
        ),
        (
            400,
            "invalid_body",
            put("resources/mirror/app", &"#".repeat(5 << 20)),
        ),
    ] {
        assert_eq!(
            (status, &problem["code"]),
            (expected, &json!(code)),
            "{problem}"
        );
        assert_eq!(problem["status"], status);
    }
    let (_, problem) = put("resources/mirror/app", &unknown_key);
    assert_eq!(problem["problems"][0]["line"], 5, "{problem}");
    assert_eq!(stack.events("resource.applied"), Vec::<Value>::new());
}

#[test]
fn a_mirrored_image_is_shown_and_a_poll_can_be_asked_for() {
    let mut stack = Stack::start(7_200);
    let image = stack.publisher().image("library/app", "amd64", "content");
    stack.publisher().put("library/app", "1.0", &image);
    stack.service("poller", &[]);
    stack.service("mirror-worker", &[]);
    let mirror = stack.mirror("app", "library/app", "hub/app", "every: 1h\n");
    stack.apply(&format!("{}{mirror}", stack.upstream_resource()));
    let asked = wait_for("the mirror to be known", 10, || {
        let (status, asked) = call(&stack, Method::POST, "mirrors/app/poll", "");
        (status == 202).then_some(asked)
    });
    assert!(asked["id"].is_string());
    let moved = wait_for("the image to arrive", 30, || {
        let mirrored = stack.events("tag.mirrored");
        mirrored.first()?;
        stack.events("upstream.tag_moved").pop()
    });
    assert_eq!(moved["data"]["tag"], "1.0");
    let (_, tags) = call(&stack, Method::GET, "tags/hub/app", "");
    assert_eq!(tags[0]["digest"], image.digest);
    assert_eq!(tags[0]["arrivedBy"], "mirror-worker");
    let (_, tags) = call(&stack, Method::GET, "tags/hub/app?after=1.0", "");
    assert_eq!(tags, json!([]));
    let (_, tags) = call(&stack, Method::GET, "tags/hub/app?after=0.9&limit=1", "");
    assert_eq!(tags[0]["tag"], "1.0");
    let (_, shown) = call(&stack, Method::GET, "images/hub/app:1.0", "");
    assert_eq!(shown["tag"]["mirror"], "app");
    assert_eq!(shown["manifests"][0]["platform"], "linux/amd64");
    assert_eq!(shown["manifests"][0]["verdict"], Value::Null);
    assert_eq!(shown["decisions"], json!([]));
    let (_, status) = call(&stack, Method::GET, "status", "");
    assert_eq!(status["mirrors"][0]["mirror"], "app");
    assert_eq!(status["deadLetters"], 0);
    let (_, document) = call(&stack, Method::GET, "openapi.json", "");
    assert!(document["paths"]["/api/v1/images/{image}"].is_object());
}

#[test]
fn a_local_user_without_the_token_reads_and_changes_nothing() {
    let refused = Command::new(binary("sluice-gateway"))
        .env("SLUICE__HTTP__LISTEN", "127.0.0.1:0")
        .env("SLUICE__API__TOKEN_FILE", "")
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(78));
    let complaint = String::from_utf8(refused.stderr).unwrap();
    assert!(complaint.contains("api.token_file"), "{complaint}");

    let stack = Stack::start(7_200);
    let policy = |when: &str| {
        format!(
            "kind: PromotionPolicy\nname: clean\nfrom: hub/*\nto: official/{{name}}\nwhen: {when}\n"
        )
    };
    let path = "resources/promotionpolicy/clean";
    let strict = policy("scan.critical == 0");
    assert_eq!(call(&stack, Method::PUT, path, &strict).0, 200);
    let (_, before) = call(&stack, Method::GET, path, "");
    let local = |method: Method, path: &str, header: (&str, &str)| {
        let url = format!("http://{}/api/v1/{path}", stack.api);
        let request = Client::new()
            .request(method, url)
            .body(policy("scan.critical < 100"));
        ask(request.header(header.0, header.1))
    };
    // What this machine could do before, as a program and as a page of its own in a browser.
    for header in [
        ("accept", "*/*"),
        ("host", "127.0.0.1"),
        ("sec-fetch-site", "same-origin"),
        ("authorization", "Bearer "),
        ("authorization", "Bearer hunter2"),
        ("authorization", "Basic YXBpOmFwaQ=="),
    ] {
        for (method, path) in [
            (Method::PUT, path),
            (Method::DELETE, path),
            (Method::GET, path),
            (Method::GET, "status"),
            (Method::GET, "openapi.json"),
            (Method::GET, "nothing"),
            (Method::POST, "mirrors/app/poll"),
            (Method::OPTIONS, path),
        ] {
            let (status, problem) = local(method.clone(), path, header);
            assert_eq!(
                (status, &problem["code"]),
                (401, &json!("unauthorised")),
                "{method} {path} {header:?}"
            );
        }
    }
    assert_eq!(call(&stack, Method::GET, path, "").1, before);
    let (_, document) = call(&stack, Method::GET, "openapi.json", "");
    assert_eq!(document["security"], json!([{ "token": [] }]));
    let scheme = &document["components"]["securitySchemes"]["token"];
    assert_eq!(scheme["scheme"], "bearer");
}

/// A stream of server-sent events, message by message.
struct EventStream(BufReader<Response>);

impl EventStream {
    /// Opens a stream; `last` is the position after which a client continues.
    fn open(stack: &Stack, query: &str, last: Option<&str>) -> Self {
        let url = format!("http://{}/api/v1/events{query}", stack.api);
        let mut request = Client::new().get(url).bearer_auth(stack.api_token());
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let answer = request.send().unwrap();
        assert_eq!(answer.status().as_u16(), 200);
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        Self(BufReader::new(answer))
    }

    /// Returns the position and the event of the next message; the first message has no event.
    fn next(&mut self) -> (String, Option<Value>) {
        let (mut id, mut data) = (None, None);
        loop {
            let mut line = String::new();
            assert_ne!(self.0.read_line(&mut line).unwrap(), 0, "the stream ended");
            let line = line.trim_end_matches('\n');
            if let Some(text) = line.strip_prefix("id: ") {
                id = Some(text.to_owned());
            } else if let Some(text) = line.strip_prefix("data: ") {
                data = Some(serde_json::from_str(text).unwrap());
            } else if line.is_empty()
                && let Some(id) = id.take()
            {
                return (id, data);
            }
        }
    }

    /// Returns the position and the name of the next event's resource.
    fn next_name(&mut self) -> (String, Value) {
        let (id, event) = self.next();
        let event = event.unwrap();
        assert_eq!(event["event"], "resource.applied", "{event}");
        (id, event["data"]["name"].clone())
    }
}

#[test]
fn events_are_streamed_and_a_client_continues_where_it_was() {
    let stack = Stack::start(7_200);
    let apply = |name: &str| {
        let body = format!("kind: Repository\nname: {name}\nkeep: 3\n");
        let path = format!("resources/repository/{name}");
        assert_eq!(call(&stack, Method::PUT, &path, &body).0, 200);
    };
    apply("hub/before");
    let only = "?subject=sluice.v1.resource.%3E";
    let mut now = EventStream::open(&stack, only, None);
    let (begin, nothing) = now.next();
    assert_eq!(nothing, None);
    apply("hub/first");
    apply("hub/second");
    let (position, name) = now.next_name();
    assert_eq!(name, "hub/first", "what was before is not sent");
    // Its connection ends here, with an event that it did not get.
    drop(now);
    let mut again = EventStream::open(&stack, only, Some(&position));
    assert_eq!(again.next().0, position);
    assert_eq!(again.next_name().1, "hub/second");
    // One whose connection ended before its first event loses none.
    let mut early = EventStream::open(&stack, only, Some(&begin));
    early.next();
    assert_eq!(early.next_name().1, "hub/first");
    let mut all = EventStream::open(&stack, &format!("{only}&after=start"), None);
    all.next();
    assert_eq!(all.next_name().1, "hub/before");
    for wrong in [
        "?subject=sluice.do.%3E",
        "?after=yesterday",
        "?after=EVENTS%3D18446744073709551615",
        "?subjct=a",
    ] {
        let (status, problem) = call(&stack, Method::GET, &format!("events{wrong}"), "");
        assert_eq!((status, &problem["code"]), (400, &json!("invalid_request")));
    }
    let url = format!("http://{}/api/v1/events", stack.api);
    assert_eq!(ask(Client::new().get(url)).0, 401);
}
