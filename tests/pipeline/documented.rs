//! Every command that README and docs/ print is run as it is printed, on a machine that has the hosts they name.
//!
//! That machine is a network namespace: `docker.io`, `registry.example` and the others are one registry in it, with
//! certificates of an authority that everything here trusts, and every port is free.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use sluice_tests::content::{NEW_LIBC, debian};
use sluice_tests::manual::{Block, blocks};
use sluice_tests::servers::Process;
use sluice_tests::{Registry, Upstream, binary, pass, root, tool, wait_for};
use tempfile::TempDir;

/// Says that this process is in the namespace already.
const INSIDE: &str = "SLUICE_TEST_NAMESPACE";
/// What the documentation calls registries, and two that Docker Hub is made of.
const HOSTS: [&str; 6] = [
    "registry-1.docker.io",
    "auth.docker.io",
    "ghcr.io",
    "quay.io",
    "registry.example",
    "registry.internal",
];
/// What no test can run here, and what runs it.
const ELSEWHERE: [(&str, &str); 7] = [
    ("deploy/demo", "the test below"),
    ("tests/run", "it runs this test"),
    ("tests/fuzz/run", "it needs another compiler, and minutes"),
    ("deploy/compose/up", "tests/stack, as it needs Docker"),
    ("docker compose", "tests/stack, as it needs Docker"),
    ("kubectl", "it needs a cluster"),
    ("nsc ", "it needs a NATS that nsc manages"),
];

/// The machine of a reader.
struct Machine {
    home: TempDir,
    upstream: Registry,
    left: Vec<Block>,
    up: Option<Process>,
    _servers: Vec<Process>,
}

#[test]
fn every_command_of_the_documentation_does_what_it_says() {
    if std::env::var_os(INSIDE).is_none() {
        return inside_a_namespace(
            "documented::every_command_of_the_documentation_does_what_it_says",
        );
    }
    let mut machine = Machine::start();
    machine.image("library/alpine", "3.20");

    // README: Sluice runs, and an image comes through it.
    machine.block("cargo build --release");
    machine.wait_for_promotion("3.20");
    machine.block("sluice status");

    // EVENTS: other programs follow.
    machine.block("sluice events --follow --subject");
    machine.block("sluice subscriber add deploys");
    machine.block("python3 -m grpc_tools.protoc");
    machine.subscribe();
    machine.block("sluice subscriber add images");
    machine.block("curl -H");

    // OPERATIONS: what failed, backup and restore, limits.
    machine.block("sluice findings official");
    machine.fail_a_delivery();
    machine.block("sluice dead-letters list");
    machine.block("sluice backup /var/backups");
    let before = machine.run("sluice explain official/alpine:3.20");
    machine.stop_up();
    machine.block("mv sluice-data/nats");
    machine.start_up("sluice up");
    assert_eq!(machine.run("sluice explain official/alpine:3.20"), before);
    machine.block("sluice provision --max-bytes");

    // REGISTRIES: secrets, certificates, and whether a registry is reached.
    machine.file("registries.yaml", &machine.yaml("name: partner"));
    machine.file("hub.yaml", &machine.yaml("name: docker-hub"));
    machine.run("sluice apply -f hub.yaml");
    machine.block("cd sluice-data/secrets");
    machine.secret("partner", "registry.example");
    machine.block("openssl s_client");
    machine.block("openssl req");
    machine.block("sluice registry check");

    // SYNC and TAGS: copies without a server.
    for tag in ["v1.2.3", "latest"] {
        machine.image("team/app", tag);
    }
    machine.block("sluice copy alpine:3.20");
    machine.file("mirrors.yaml", &machine.yaml("tags: { regex:"));
    machine.block("sluice sync -f mirrors.yaml");
    machine.block("sluice plan -f mirrors.yaml");
    machine.select_tags();

    let left: Vec<_> = machine
        .left
        .iter()
        .map(|block| format!("{}:{}: {}", block.page, block.line, block.commands()))
        .filter(|told| !ELSEWHERE.iter().any(|(program, _)| told.contains(program)))
        .collect();
    assert!(left.is_empty(), "nothing runs {left:#?}");
}

#[test]
fn the_demo_ends_well() {
    let folder = tempfile::tempdir().unwrap();
    // The binary that is there already, as cargo names it.
    let told = serde_json::json!({
        "reason": "compiler-artifact",
        "target": { "name": "sluice" },
        "executable": binary("sluice"),
    });
    program(&folder.path().join("cargo"), &format!("echo '{told}'\n"));
    let output = Command::new(root().join("deploy/demo"))
        .env("PATH", path_with(&[folder.path()]))
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{printed}{complaint}");
    assert!(printed.contains("demo: ok"), "{printed}");
}

/// Runs a test of this program once more, in a namespace of its own.
fn inside_a_namespace(test: &str) {
    let ended = Command::new("unshare")
        .args(["--mount", "--net", "--kill-child"])
        .arg(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .expect("`unshare` of util-linux");
    assert!(
        ended.success(),
        "the test failed in its namespace (it needs root)"
    );
}

impl Machine {
    fn start() -> Self {
        let home = tempfile::tempdir().unwrap();
        // The scanner's own user has to come through.
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o711)).unwrap();
        let at = |name: &str| home.path().join(name);
        fs::write(
            at("hosts"),
            format!("127.0.0.1 localhost {}\n", HOSTS.join(" ")),
        )
        .unwrap();
        for folder in ["bin", "backups", "server"] {
            fs::create_dir(at(folder)).unwrap();
        }
        for folder in ["deploy", "proto"] {
            symlink(root().join(folder), at(folder)).unwrap();
        }
        symlink(binary("sluice"), at("bin/sluice")).unwrap();
        // The binary that the tests use, whichever one it is, instead of minutes of another build.
        program(
            &at("bin/cargo"),
            &format!(
                "[ \"$*\" = 'build --release -p sluice-cli' ] || exit 64\n\
                 mkdir -p target/release && ln -sf {} target/release/sluice\n",
                binary("sluice").display()
            ),
        );
        // A Docker engine lives in the network of the machine, and not in this one. As it does, this takes a registry
        // on the loopback address without TLS.
        program(
            &at("bin/docker"),
            "[ \"$1\" = pull ] || exit 64\nexec skopeo copy --src-tls-verify=false \"docker://$2\" \"dir:$HOME/pulled\"\n",
        );
        shell(
            home.path(),
            "ip link set lo up && mount --bind hosts /etc/hosts && mount --bind backups /var/backups",
        );
        let upstream = Registry::start();
        let servers = vec![with_tls(home.path(), &upstream)];
        let database = format!("http://{}/trivy-db:2", upstream.host);
        let pushed = Command::new(root().join("deploy/trivy-db"))
            .args(["--push", &database, "--updated-at", "now"])
            .output()
            .unwrap();
        assert!(pushed.status.success(), "{pushed:?}");
        Self {
            home,
            upstream,
            left: blocks().into_iter().filter(Block::is_run).collect(),
            up: None,
            _servers: servers,
        }
    }

    fn command(&self, script: &str) -> Command {
        let home = self.home.path();
        let tools = tool("nats-server").parent().unwrap().to_owned();
        let python = sluice_tests::python().parent().unwrap().to_owned();
        let mut command = Command::new("bash");
        command
            .args(["-e", "-m", "-c", script])
            .current_dir(home)
            .env("HOME", home)
            .env("PATH", path_with(&[&home.join("bin"), &tools, &python]))
            .env("SLUICE_TOOLS", tools.parent().unwrap())
            .env("SSL_CERT_FILE", home.join("authority.pem"))
            .env(
                "SLUICE__TRIVY__DATABASE_REPOSITORY",
                format!("{}/trivy-db:2", self.upstream.host),
            );
        command
    }

    /// Runs a command, which has to succeed, and returns what it printed.
    fn run(&self, script: &str) -> String {
        self.run_with(script, "")
    }

    fn run_with(&self, script: &str, input: &str) -> String {
        // Files, for what goes on in the background has them open too.
        let [printed, complaint] = ["printed", "complaint"].map(|name| self.home.path().join(name));
        let mut child = self
            .command(script)
            .stdin(Stdio::piped())
            .stdout(File::create(&printed).unwrap())
            .stderr(File::create(&complaint).unwrap())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).ok();
        let status = child.wait().unwrap();
        let [printed, complaint] =
            [printed, complaint].map(|file| fs::read_to_string(file).unwrap());
        assert!(status.success(), "{script}\n{printed}{complaint}");
        printed
    }

    /// Runs the one block whose commands begin so, and returns what it printed.
    ///
    /// Where Sluice is started or something is followed, line by line: that goes on.
    fn block(&mut self, beginning: &str) -> String {
        let block = self.take(beginning);
        let commands = block.commands();
        if !commands.contains("sluice up") && !commands.contains("--follow") {
            return self.run_with(&commands, "a password\n");
        }
        for line in commands.lines() {
            if line.contains("sluice up") {
                self.stop_up();
                self.start_up(line);
            } else if line.contains("--follow") {
                self.follow(line);
            } else {
                self.run(line);
            }
        }
        String::new()
    }

    fn take(&mut self, beginning: &str) -> Block {
        let of = |block: &Block| block.commands().starts_with(beginning);
        let place = self.left.iter().position(of);
        self.left
            .remove(place.unwrap_or_else(|| panic!("no page prints `{beginning}`")))
    }

    /// Returns the one block of resources that says this.
    fn yaml(&self, part: &str) -> String {
        let blocks = blocks()
            .into_iter()
            .filter(|block| block.language == "yaml");
        let mut with = blocks.filter(|block| block.text.contains(part));
        with.next()
            .unwrap_or_else(|| panic!("no page prints `{part}`"))
            .text
    }

    fn file(&self, name: &str, text: &str) {
        fs::write(self.home.path().join(name), text).unwrap();
    }

    fn secret(&self, name: &str, host: &str) {
        self.file(&format!("sluice-data/secrets/{name}"), "a password\n");
        self.file(&format!("sluice-data/secrets/{name}.hosts"), host);
    }

    /// Has an image without findings published upstream.
    fn image(&self, repository: &str, tag: &str) {
        let publisher = Upstream::new(&self.upstream.host);
        let image = publisher.files(repository, "amd64", &debian(&[NEW_LIBC]));
        publisher.put(repository, tag, &image);
    }

    fn start_up(&mut self, command: &str) {
        self.file(
            "sluice.yaml",
            &self.yaml("name: alpine\nfrom: docker.io/library/alpine"),
        );
        let log = self.home.path().join("up.log");
        let child = self
            .command(&format!(
                "exec {}",
                command.replace("SLUICE_MAX", "env SLUICE_MAX")
            ))
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut process = Process(child);
        let endpoints = self.home.path().join("sluice-data/endpoints.json");
        wait_for(&format!("`{command}` to be ready"), 90, || {
            let ended = process.0.try_wait().unwrap();
            assert!(ended.is_none(), "{}", fs::read_to_string(&log).unwrap());
            endpoints.exists().then_some(())
        });
        self.up = Some(process);
    }

    fn stop_up(&mut self) {
        let Some(mut up) = self.up.take() else {
            return;
        };
        self.run(&format!("kill {}", up.0.id()));
        let ended = wait_for("`sluice up` to end", 60, || up.0.try_wait().unwrap());
        assert!(ended.success(), "{ended}");
    }

    fn wait_for_promotion(&self, tag: &str) {
        wait_for(&format!("{tag} to be promoted"), 90, || {
            let events = self.run("sluice events --subject 'sluice.v1.image.promoted.>'");
            events
                .contains(&format!("\"targetTag\":\"{tag}\""))
                .then_some(())
        });
    }

    /// Starts what goes on until it is stopped, and lets something happen that it has to print.
    fn follow(&self, line: &str) {
        let out = self.home.path().join("followed");
        let child = self
            .command(&format!("exec {line}"))
            .stdout(File::create(&out).unwrap())
            .spawn()
            .unwrap();
        let _process = Process(child);
        let mut minor = 20;
        wait_for(&format!("`{line}` to print something"), 90, || {
            minor += 1;
            self.image("library/alpine", &format!("3.{minor}"));
            self.run("sluice poll alpine");
            pass(Duration::from_secs(2));
            let printed = fs::read_to_string(&out).unwrap();
            printed.contains('\n').then_some(())
        });
    }

    /// Runs the program of docs/EVENTS.md.
    fn subscribe(&self) {
        let mut programs = blocks()
            .into_iter()
            .filter(|block| block.language == "python");
        self.file("program.py", &programs.next().unwrap().text);
        let out = self.home.path().join("subscribed");
        let child = self
            .command("exec python3 -u program.py")
            .stdout(File::create(&out).unwrap())
            .spawn()
            .unwrap();
        let _process = Process(child);
        wait_for("the program to print what was promoted", 60, || {
            let printed = fs::read_to_string(&out).unwrap();
            printed
                .contains("official/alpine:3.20 is sha256:")
                .then_some(())
        });
    }

    /// Names a webhook that nothing may be sent to.
    fn fail_a_delivery(&self) {
        let webhook =
            "kind: Webhook\nname: own\nurl: http://127.0.0.1:9/\nevents: [resource.applied]\n";
        self.file("webhook.yaml", webhook);
        self.run("sluice apply -f webhook.yaml");
        let again = format!(
            "{webhook}repositories: []\nenabled: true\n---\nkind: Repository\nname: team/*\nvisibility: private\n"
        );
        self.file("webhook.yaml", &again);
        self.run("sluice apply -f webhook.yaml");
        wait_for("a dead letter", 60, || {
            let letters = self.run("sluice dead-letters list");
            letters.contains("webhook-dispatcher").then_some(())
        });
    }

    /// Prints what docs/TAGS.md prints.
    fn select_tags(&mut self) {
        let block = self.take("sluice tags --from nginx");
        let printed: Vec<&str> = block.output().lines().collect();
        for line in &printed[1..] {
            self.image("library/nginx", line.split_whitespace().next().unwrap());
        }
        let output = self.run(&block.commands());
        let lines: Vec<&str> = output.lines().map(str::trim).collect();
        assert_eq!(lines, printed);
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.home.path().join("up.log");
            eprintln!("{}", fs::read_to_string(log).unwrap_or_default());
        } else {
            self.stop_up();
        }
    }
}

/// Returns the path of this process with folders before it.
fn path_with(folders: &[&Path]) -> OsString {
    let own = std::env::var_os("PATH").unwrap();
    let folders = folders.iter().map(|folder| folder.to_path_buf());
    std::env::join_paths(folders.chain(std::env::split_paths(&own))).unwrap()
}

fn program(path: &Path, script: &str) {
    fs::write(path, format!("#!/bin/sh\n{script}")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn shell(folder: &Path, script: &str) {
    let done = Command::new("sh")
        .args(["-c", script])
        .current_dir(folder)
        .status();
    assert!(done.unwrap().success(), "{script}");
}

/// Serves what a registry holds at the addresses of all hosts, with a certificate for them.
fn with_tls(home: &Path, upstream: &Registry) -> Process {
    let mut parameters = CertificateParams::default();
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let hosts = HOSTS.map(ToOwned::to_owned).to_vec();
    let certificate = CertificateParams::new(hosts)
        .unwrap()
        .signed_by(&key, &authority)
        .unwrap();
    let file = |name: &str, text: String| -> PathBuf {
        let path = home.join(name);
        fs::write(&path, text).unwrap();
        path
    };
    file("authority.pem", authority.pem());
    let certificate = file("server/certificate.pem", certificate.pem());
    let key = file("server/key.pem", key.serialize_pem());
    let config = file(
        "server/config.yml",
        format!(
            "version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\n  delete: {{enabled: true}}\n\
             http:\n  addr: 127.0.0.1:443\n  tls: {{certificate: {}, key: {}}}\n",
            upstream.storage().display(),
            certificate.display(),
            key.display()
        ),
    );
    let mut command = Command::new(tool("docker-registry"));
    let child = command
        .arg("serve")
        .arg(config)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let process = Process(child);
    wait_for("the registry with TLS", 20, || {
        std::net::TcpStream::connect("127.0.0.1:443").ok()
    });
    process
}
