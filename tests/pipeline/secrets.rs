//! No secret is found in a log, a command line, an event, a dead letter, an error or an answer.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use sluice_tests::bus::promoted;
use sluice_tests::endpoint::webhook;
use sluice_tests::{Stack, binary, put_secret, tool, wait_for};

const UPSTREAM: &str = "planted-upstream-7c1f";
const WRONG: &str = "planted-wrong-login-51d0";
const IN_URL: &str = "planted-userinfo-9be2";
const HOOK: &str = "whsec_cGxhbnRlZC1ob29rLXNlY3JldC0wMDAwMDAwMDAwMDA=";
/// `publisher:planted-upstream-7c1f`, as a header carries it.
const ENCODED: &str = "cHVibGlzaGVyOnBsYW50ZWQtdXBzdHJlYW0tN2MxZg==";

/// A server that answers each request, by its path and what it is told of authorization, and remembers that.
struct Hostile {
    host: String,
    told: Arc<Mutex<Vec<(String, String)>>>,
}

impl Hostile {
    fn start(answer: impl Fn(&str, &str) -> String + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let told: Arc<Mutex<Vec<(String, String)>>> = Arc::default();
        let seen = told.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let first = lines.next().and_then(Result::ok).unwrap_or_default();
                let mut authorization = String::new();
                for line in lines
                    .map_while(Result::ok)
                    .take_while(|line| !line.is_empty())
                {
                    let (name, value) = line.split_once(':').unwrap_or_default();
                    if name.eq_ignore_ascii_case("authorization") {
                        authorization = value.trim().to_owned();
                    }
                }
                let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
                let text = answer(&path, &authorization);
                seen.lock().unwrap().push((path, authorization));
                stream.write_all(text.as_bytes()).ok();
            }
        });
        Self { host, told }
    }

    fn expect_published(&self) -> Vec<(String, String)> {
        self.told.lock().unwrap().clone()
    }
}

fn response(status: &str, headers: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// Returns every file below a folder but those that are there to hold secrets.
fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if path.is_dir() && name != "keys" && name != "secrets" {
            found.extend(files(&path));
        } else if path.is_file() && !name.ends_with(".secret") && name != "passwords.conf" {
            found.push(path);
        }
    }
    found
}

#[test]
fn planted_secrets_are_found_nowhere() {
    let mut stack = Stack::start(7_200);
    stack.may_leave_messages();
    let folder = stack.folder().to_owned();
    let elsewhere = Hostile::start(|_, _| response("404 Not Found", "", ""));
    let other = elsewhere.host.clone();
    let hostile = Hostile::start(move |path, authorization| {
        if authorization.is_empty() {
            return response(
                "401 Unauthorized",
                "WWW-Authenticate: Basic realm=\"hostile\"\r\n",
                "{}",
            );
        }
        if path.contains("/moved/") {
            let to = format!("Location: http://{other}{path}\r\n");
            return response("307 Temporary Redirect", &to, "");
        }
        let body = format!(
            "{{\"errors\":[{{\"code\":\"DENIED\",\"message\":\"{authorization} {UPSTREAM}\",\"detail\":\"{UPSTREAM}\"}}]}}"
        );
        response(
            "403 Forbidden",
            &format!("X-Echo: {authorization}\r\n"),
            &body,
        )
    });
    let hook = Hostile::start(|_, _| response("500 Internal Server Error", "", HOOK));
    for name in ["poller", "mirror-worker", "promoter", "pruner"] {
        stack.service(name, &[]);
    }
    stack.service("webhook-dispatcher", &[]);
    let trivy = tool("trivy");
    stack.begin(
        "scanner-adapter",
        &[
            ("SLUICE__TRIVY__DATABASE_REPOSITORY", "127.0.0.1:9/none:2"),
            ("SLUICE__TRIVY__BINARY", trivy.to_str().unwrap()),
        ],
    );
    let running = 0..7;
    let publisher = stack.publisher();
    publisher.put(
        "lib/fine",
        "1.0",
        &publisher.image("lib/fine", "amd64", "fine"),
    );
    let (hostile_host, hook_url) = (&hostile.host, format!("http://{}/in", hook.host));
    stack.apply(&format!(
        "{}---\nkind: Registry\nname: hostile\n{login}---\nkind: Mirror\nname: echo\nfrom: {hostile_host}/lib/echo\nto: hub/echo\n---\n\
         kind: Mirror\nname: moved\nfrom: {hostile_host}/lib/moved/app\nto: hub/moved\n---\n{hook}{}{}",
        stack.upstream_resource(),
        stack.mirror("fine", "lib/fine", "hub/fine", ""),
        stack.account("dev", "pull: [hub/*]\n"),
        login = stack.login(hostile_host, ("publisher", UPSTREAM)),
        hook = webhook(&folder, "hook", &hook_url, HOOK, "events: ['image.*', 'tag.*', 'upstream.*']\n"),
    ));
    let bus = stack.bus();
    bus.publish(promoted("fine", "1.0"), "once");
    wait_for("both polls to fail", 60, || {
        (stack.events("upstream.poll_failed").len() == 2).then_some(())
    });
    wait_for("the good image", 60, || {
        (!stack.events("tag.mirrored").is_empty()).then_some(())
    });
    wait_for("a webhook to fail", 60, || {
        hook.expect_published().first().map(drop)
    });
    // The secrets were in use, and the other origin was not told one.
    assert!(
        hostile
            .expect_published()
            .iter()
            .any(|(_, told)| told.contains(ENCODED)),
        "{:?}",
        hostile.expect_published()
    );
    assert!(
        elsewhere
            .expect_published()
            .iter()
            .all(|(_, told)| told.is_empty()),
        "{:?}",
        elsewhere.expect_published()
    );
    let mut seen = Vec::new();
    // A login that fails, and addresses with a credential in them.
    let login = reqwest::blocking::Client::new()
        .get(format!(
            "http://{}/token?service=sluice-registry",
            stack.tokens
        ))
        .basic_auth("dev", Some(WRONG))
        .send()
        .unwrap();
    assert_eq!(login.status(), 401);
    seen.push(("the token endpoint".to_owned(), login.text().unwrap()));
    let resource = format!(
        "kind: Webhook\nname: bad\nurl: http://me:{IN_URL}@127.0.0.1/in\nevents: ['image.*']\n"
    );
    fs::write(folder.join("bad.secret"), resource).unwrap();
    let refused = stack.try_sluice(&["apply", "-f", folder.join("bad.secret").to_str().unwrap()]);
    assert!(
        !refused.status.success(),
        "an address with a credential was applied"
    );
    seen.push(("apply".to_owned(), format!("{refused:?}")));
    let started = Command::new(binary("sluice-poller"))
        .env("SLUICE__HTTP__LISTEN", "127.0.0.1:0")
        .env(
            "SLUICE__BUS__URL",
            format!("nats://me:{IN_URL}@127.0.0.1:4222"),
        )
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(started.status.code(), Some(78));
    seen.push(("the poller".to_owned(), format!("{started:?}")));
    for arguments in [
        &["events"][..],
        &["status", "-o", "json"],
        &["dead-letters", "list", "-o", "json"],
        &["get", "registries", "-o", "json"],
        &["get", "webhooks", "-o", "json"],
        &["get", "accounts", "-o", "json"],
        &["explain", "hub/fine:1.0", "-o", "json"],
        &["explain", "hub/echo:1.0"],
    ] {
        seen.push((
            format!("sluice {arguments:?}"),
            format!("{:?}", stack.try_sluice(arguments)),
        ));
    }
    for path in [
        "status",
        "resources/registry",
        "resources/webhook",
        "images/hub/fine:1.0",
        "tags/hub/fine",
    ] {
        let url = format!("http://{}/api/v1/{path}", stack.api);
        let request = reqwest::blocking::Client::new().get(url);
        let answer = request.bearer_auth(stack.api_token()).send().unwrap();
        assert_eq!(answer.status(), 200);
        seen.push((path.to_owned(), answer.text().unwrap()));
    }
    for number in running {
        let process = format!("/proc/{}", stack.process_id(number));
        let line = fs::read(format!("{process}/cmdline")).unwrap();
        let environment = fs::read(format!("{process}/environ")).unwrap();
        seen.push((
            format!("{process}/cmdline"),
            String::from_utf8_lossy(&line).into_owned(),
        ));
        seen.push((
            format!("{process}/environ"),
            String::from_utf8_lossy(&environment).into_owned(),
        ));
    }
    seen.push(("nats-server".to_owned(), stack.nats.log()));
    // What the server keeps is every event, command, dead letter and entry.
    for file in files(&folder).into_iter().chain(files(stack.nats.data())) {
        let content = fs::read(&file).unwrap_or_default();
        seen.push((
            file.display().to_string(),
            String::from_utf8_lossy(&content).into_owned(),
        ));
    }
    let mut planted: Vec<String> = [UPSTREAM, WRONG, IN_URL, HOOK, ENCODED, "devdev"]
        .map(str::to_owned)
        .into();
    for secrets in [stack.keys.accounts(), stack.keys.nats()] {
        for entry in fs::read_dir(secrets)
            .unwrap()
            .flatten()
            .filter(|entry| entry.file_name() != "passwords.conf")
        {
            planted.push(fs::read_to_string(entry.path()).unwrap().trim().to_owned());
        }
    }
    for file in [stack.keys.notifications(), stack.keys.api_token()] {
        planted.push(fs::read_to_string(file).unwrap().trim().to_owned());
    }
    assert!(
        planted.len() > 15 && seen.len() > 40,
        "{} in {}",
        planted.len(),
        seen.len()
    );
    let found: Vec<_> = seen
        .iter()
        .flat_map(|(place, text)| {
            planted
                .iter()
                .filter(|secret| text.contains(secret.as_str()))
                .map(move |secret| (place, secret))
        })
        .collect();
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn a_secret_is_sent_to_no_host_that_its_folder_does_not_name() {
    let mut stack = Stack::start(7_200);
    stack.may_leave_messages();
    let folder = stack.folder().to_owned();
    let attacker = Hostile::start(|_, _| {
        let realm = "WWW-Authenticate: Basic realm=\"give\"\r\n";
        response("401 Unauthorized", realm, "{}")
    });
    let hook = Hostile::start(|_, _| response("204 No Content", "", ""));
    let host = &attacker.host;
    put_secret(&folder, "bound", UPSTREAM, Some("http://registry.example"));
    put_secret(&folder, "unbound", UPSTREAM, None);
    put_secret(&folder, "key", HOOK, Some("https://hooks.example"));
    let account = |name: &str| format!("username: publisher\npassword: {{ secret: {name} }}\n");
    // What was possible: any file to any host.
    let file = folder.join("old.yaml");
    let old =
        format!("kind: Registry\nname: r\nhost: {host}\nusername: u\npassword_file: /etc/passwd\n");
    fs::write(&file, old).unwrap();
    let refused = stack.try_sluice(&["apply", "-f", file.to_str().unwrap()]);
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success());
    assert!(
        told.contains("write `password: { secret: NAME }`"),
        "{told}"
    );
    // Whoever may apply resources names the secrets of others, their own host, and an issuer of their own.
    let config = format!("{{\"auths\":{{\"{host}\":{{\"auth\":\"{ENCODED}\"}}}}}}");
    put_secret(&folder, "config", &config, Some("http://registry.example"));
    for name in ["poller", "webhook-dispatcher"] {
        stack.service(name, &[]);
    }
    for (number, more) in [
        account("bound"),
        account("unbound"),
        account("missing"),
        "docker_config: { secret: config }\n".to_owned(),
        format!("proxy: http://{host}\nproxy_username: u\nproxy_password: {{ secret: bound }}\n"),
    ]
    .into_iter()
    .enumerate()
    {
        stack.apply(&format!(
            "kind: Registry\nname: attack\nhost: {host}\nplain_http: true\n{more}---\n\
             kind: Mirror\nname: m{number}\nfrom: {host}/a/b\nto: hub/m{number}\nevery: 1h\n"
        ));
        let failed = wait_for("the poll to be refused", 30, || {
            let failed = stack.events("upstream.poll_failed");
            failed
                .into_iter()
                .find(|fact| fact["data"]["mirror"] == format!("m{number}"))
        });
        let reason = failed["data"]["reason"].as_str().unwrap().to_owned();
        assert!(
            reason.contains(".hosts` in the folder") && reason.contains("secrets.dir"),
            "{more}: {reason}"
        );
        assert!(!reason.contains(UPSTREAM), "{reason}");
    }
    let told = attacker.expect_published();
    assert!(told.iter().all(|(_, told)| told.is_empty()), "{told:?}");
    stack.apply(&format!(
        "kind: Webhook\nname: steal\nurl: http://{}/in\nevents: ['image.*']\nsigning_key: {{ secret: key }}\nallow_private_addresses: true\n",
        hook.host
    ));
    let bus = stack.bus();
    let mut number = 0;
    wait_for("the signature to be refused", 30, || {
        // The dispatcher may not know the webhook yet.
        number += 1;
        bus.publish(promoted("app", "1.0"), &format!("{number}"));
        let health = bus.run(bus.state.endpoints.get("steal")).unwrap()?;
        health
            .value
            .last_error
            .contains("`key.hosts`")
            .then_some(())
    });
    assert!(
        hook.expect_published().is_empty(),
        "{:?}",
        hook.expect_published()
    );
}
