"""The demo itself; `deploy/demo` is how it is run, and says what it does."""

import argparse
import base64
import contextlib
import fcntl
import json
import os
import queue
import re
import secrets
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

sys.dont_write_bytecode = True
import checks  # noqa: E402
import event_summary  # noqa: E402
import oci  # noqa: E402
import processes  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
TOOLS = os.environ.get("SLUICE_TOOLS", f"{ROOT}/.tools")
WORK = f"{ROOT}/.demo"
RUN, LOGS, STATE = f"{WORK}/run", f"{WORK}/logs", f"{WORK}/processes.json"
# As deploy/demo.yaml has them.
UPSTREAM, RECEIVER = "127.0.0.1:5100", "127.0.0.1:8490"
# The tag that is moved at the end, and its place in staging.
MOVED = ("library/static:1.0", ("hub/static", "1.0"))
# Where Trivy's database is, as version 0.59 knows it.
TRIVY_DATABASE = "https://mirror.gcr.io/v2/aquasec/trivy-db/manifests/2"
STORY_SECONDS, QUIET_SECONDS = 300, 60


def say(text=""):
    print(text, flush=True)


class Progress:
    """A line that is rewritten at a terminal, and repeated now and then elsewhere."""

    def __init__(self):
        self.terminal = sys.stdout.isatty()
        self.began = self.last = time.monotonic()

    def show(self, text):
        now = time.monotonic()
        text = f"  {now - self.began:4.0f} s  {text}"
        if self.terminal:
            print(f"\r\x1b[K{text[:event_summary.WIDTH]}", end="", flush=True)
        elif now - self.last >= 30:
            self.last = now
            say(text)

    def done(self):
        if self.terminal:
            print("\r\x1b[K", end="", flush=True)
        return time.monotonic() - self.began


def address(wanted):
    """The address, or port 0 in its place if somebody has it."""
    host, _, port = wanted.rpartition(":")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
            return wanted
        except OSError:
            return f"{host}:0"


def until(what, seconds, condition, group):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        group.check()
        time.sleep(0.05)
    raise oci.Failed(f"waited {seconds} s in vain for {what}")


def read(file):
    try:
        with open(file, encoding="utf-8", errors="replace") as source:
            return source.read()
    except FileNotFoundError:
        return ""


def write(file, text):
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as out:
        out.write(text)


# ---- the parts ---------------------------------------------------------------------

class Build:
    """`cargo build` of the `sluice` command, under way."""

    def __init__(self, group):
        cargo = shutil.which("cargo") or shutil.which("cargo", path=os.path.expanduser("~/.cargo/bin"))
        if cargo is None:
            raise oci.Failed("Rust is not installed; https://rustup.rs says how, one command")
        self.compiled, self.binary = 0, None
        self.process = group.start(
            "cargo", [cargo, "build", "--profile", "demo", "-p", "sluice-cli", "--locked", "--quiet",
                      "--message-format", "json-render-diagnostics"],
            f"{LOGS}/build.log", stdout=subprocess.PIPE, cwd=ROOT)
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for text in self.process.stdout:
            message = json.loads(text)
            if message["reason"] == "compiler-artifact":
                self.compiled += 1
                if message["target"]["name"] == "sluice" and message["executable"]:
                    self.binary = message["executable"]

    def state(self):
        return f"building sluice, {self.compiled} crates" if self.process.poll() is None else "built"


class Seed:
    """`deploy/images push`, under way."""

    def __init__(self, group, url):
        self.log = f"{LOGS}/images.log"
        self.process = group.start("images", [f"{HERE}/images", "push", "--registry", url], self.log)

    def state(self):
        lines = read(self.log).splitlines()
        told = [text.removeprefix("images: ") for text in lines if text.startswith("images: ")]
        return (told[-1] if told else "images") if self.process.poll() is None else "images are upstream"

    def names(self):
        return [text.split()[0] for text in read(self.log).splitlines() if re.match(r"\S+:\S+ +sha256:", text)]


def finish(group, parts):
    """Waits for what is under way and shows how far it is."""
    progress = Progress()
    while any(part.process.poll() is None for part in parts):
        progress.show("; ".join(part.state() for part in parts))
        for part in parts:
            if part.process.poll() not in (None, 0):
                break
        else:
            time.sleep(0.2)
            continue
        break
    seconds = progress.done()
    for part in parts:
        if part.process.poll() is None:
            continue
        if part.process.returncode != 0:
            raise oci.Failed(f"{os.path.basename(part.process.args[0])} failed; the end of its log:\n"
                             + "\n".join(read(log_of(part)).splitlines()[-15:]))
        group.forget(part.process)
    return seconds


def log_of(part):
    return getattr(part, "log", f"{LOGS}/build.log")


def start_upstream(group):
    """A registry that stands for Docker Hub; returns its host and port."""
    listen = address(UPSTREAM)
    config = {
        "version": "0.1", "log": {"level": "info", "formatter": "json", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": f"{RUN}/upstream"}, "delete": {"enabled": True}},
        "http": {"addr": listen, "relativeurls": True},
    }
    write(f"{RUN}/upstream.yml", json.dumps(config))
    binary = f"{TOOLS}/bin/docker-registry"
    if not os.path.exists(binary):
        binary = shutil.which("docker-registry")
    log = f"{LOGS}/upstream.log"
    group.start("upstream registry", [binary, "serve", f"{RUN}/upstream.yml"], log)
    found = until("the upstream registry", 20, lambda: re.search(r"listening on ([0-9.:]+)", read(log)), group)
    return found[1]


def start_receiver(group):
    """A webhook receiver with a fresh secret; returns its host and port."""
    secret = f"{RUN}/secrets/demo-webhook"
    os.makedirs(f"{RUN}/secrets", mode=0o700, exist_ok=True)
    write(secret, "whsec_" + base64.b64encode(secrets.token_bytes(24)).decode() + "\n")
    port_file = f"{RUN}/webhook-port"
    group.start("webhook receiver", [
        f"{HERE}/webhook-receiver", "--secret-file", secret, "--out", f"{RUN}/deliveries.jsonl",
        "--port", address(RECEIVER).rpartition(":")[2], "--port-file", port_file], f"{LOGS}/webhook-receiver.log")
    host = "127.0.0.1:" + until("the webhook receiver", 20, lambda: read(port_file).strip(), group)
    # Nothing is signed with it for anybody else.
    write(f"{secret}.hosts", f"http://{host}\n")
    return host


def resources(upstream, receiver, source):
    """deploy/demo.yaml with the addresses of this run, or with a mirror of another repository."""
    documents = read(f"{HERE}/demo.yaml").split("\n---\n")
    if source:
        documents = [text for text in documents if not re.search(r"^kind: (Registry|Mirror)$", text, re.MULTILINE)]
        name = source.rpartition("/")[2]
        documents.append(f"kind: Mirror\nname: {name}\nfrom: {source}\nto: hub/{name}\n"
                         'tags: { semver: ">=0", newest: 3 }\nevery: 15m\n')
    text = "\n---\n".join(documents).replace(RECEIVER, receiver)
    return text.replace(UPSTREAM, upstream) if upstream else text


def start_sluice(group, binary, environment):
    """`sluice up` on a new data folder; returns what it wrote down of itself."""
    data = f"{RUN}/data"
    command = [binary, "--data", data, "--secrets", f"{RUN}/secrets", "up", "-f", f"{RUN}/demo.yaml", "--tools", TOOLS]
    for option, wanted in (("nats", "127.0.0.1:4222"), ("registry", "127.0.0.1:5000"), ("tokens", "127.0.0.1:8481"),
                           ("api", "127.0.0.1:8480"), ("health", "127.0.0.1:8479")):
        command += [f"--{option}-listen", address(wanted)]
    process = group.start("sluice up", command, f"{LOGS}/sluice.log", env={**os.environ, **environment})
    file = f"{data}/endpoints.json"
    try:
        until("`sluice up`", 90, lambda: os.path.exists(file), group)
    except oci.Failed as failure:
        if process.poll() is not None:
            raise oci.Failed(f"{failure}; the end of its log:\n"
                             + "\n".join(read(f"{LOGS}/sluice.log").splitlines()[-5:])) from failure
        raise
    return json.loads(read(file))


def trivy_is_reachable():
    try:
        with urllib.request.urlopen(TRIVY_DATABASE, timeout=5):
            return True
    except urllib.error.HTTPError as error:
        return error.code == 401
    except OSError:
        return False


# ---- the story ----------------------------------------------------------------------

class Follower:
    """`sluice events --follow`, read line by line."""

    def __init__(self, group, binary):
        self.lines = queue.Queue()
        self.process = group.start(
            "sluice events", [binary, "--data", f"{RUN}/data", "events", "--follow", "--from-start"],
            f"{LOGS}/events.log", stdout=subprocess.PIPE, text=True)
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for text in self.process.stdout:
            self.lines.put(json.loads(text))


class Telling:
    """Tells facts as they come."""

    def __init__(self, group, follower):
        self.group, self.follower = group, follower
        self.story, self.began = event_summary.Story(), time.monotonic()

    def until(self, is_done):
        """Tells until `is_done`; returns whether it came to that. Gives up when nothing happens any more."""
        last = time.monotonic()
        deadline = last + STORY_SECONDS
        while not is_done(self.story):
            now = time.monotonic()
            if now > deadline or now - last > QUIET_SECONDS or self.story.failures:
                return False
            try:
                told = self.story.told_by(self.follower.lines.get(timeout=0.2))
            except queue.Empty:
                self.group.check()
                continue
            if told:
                last = now
                say(event_summary.line(now - self.began, *told))
        return True


class Demo:
    """One run."""

    def __init__(self, arguments, group):
        self.arguments, self.group = arguments, group
        self.problems = []

    def run(self):
        started = time.monotonic()
        local = self.arguments.source is None
        upstream = start_upstream(self.group)
        small = self.arguments.database == "small" or self.arguments.database == "auto" and not trivy_is_reachable()
        if local:
            say("Building sluice and making the images of the upstream registry (cached after the first time)")
            build, seed = Build(self.group), Seed(self.group, f"http://{upstream}")
            seconds = finish(self.group, [build, seed])
        else:
            say("Building sluice")
            build, seed = Build(self.group), None
            seconds = finish(self.group, [build])
        build.reader.join()
        say(f"  {seconds:4.0f} s  done")
        environment = self.database(upstream, small)
        receiver = start_receiver(self.group)
        write(f"{RUN}/demo.yaml", resources(upstream if local else None, receiver, self.arguments.source))
        say("Starting `sluice up` with deploy/demo.yaml")
        endpoints = start_sluice(self.group, build.binary, environment)
        say(f"  registry {endpoints['registry']}, API {endpoints['api']}, NATS {endpoints['nats']['url']}")
        say()
        follower = Follower(self.group, build.binary)
        telling = Telling(self.group, follower)
        self.tell(telling, checks.Registries(upstream, endpoints, f"{RUN}/data"), seed, small)
        say()
        if self.problems:
            for problem in self.problems:
                say(f"missing: {problem}")
            raise oci.Failed("not everything is as it should be")
        if self.arguments.keep:
            self.keep(follower, endpoints, upstream, receiver, build.binary)
        say(f"{time.monotonic() - started:.0f} s in all")

    def database(self, upstream, small):
        """Says where vulnerabilities come from; returns the scanner's settings for it."""
        if not small:
            say("Vulnerabilities: Trivy's own database")
            return {}
        done = subprocess.run([f"{HERE}/trivy-db", "--push", f"http://{upstream}/trivy-db:2", "--updated-at", "now"],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if done.returncode != 0:
            raise oci.Failed(done.stdout.strip())
        say("Vulnerabilities: a small database of deploy/advisories"
            + ("" if self.arguments.database == "small" else " (Trivy's own cannot be reached)"))
        return {"SLUICE__TRIVY__DATABASE_REPOSITORY": f"{upstream}/trivy-db:2",
                "SLUICE__TRIVY__DATABASE_INSECURE": "true"}

    def tell(self, telling, registries, seed, small):
        expected = expectations(seed.names(), small) if seed else {}
        images = telling.story.current

        def arrived(told):
            if not expected:
                # How many tags there are is not known: one poll finds all of them at once.
                found = images and time.monotonic() - telling.began > 5
                return found and all(image.is_done() for image in images.values())
            return all(told.image(*key) and told.image(*key).is_done() for key in expected)

        complete = telling.until(arrived)
        if complete and seed:
            complete = self.move(telling)
        say()
        deliveries = received()
        say(event_summary.table(telling.story, lambda fact: deliveries.get(fact) == 1))
        self.judge(telling.story, expected, complete)
        for image in telling.story.images.values():
            if image.is_done() and deliveries.get(image.fact_id) != 1:
                self.problems.append(f"{image.name}: {deliveries.get(image.fact_id, 0)} verified deliveries, not 1")
        if not self.problems:
            self.problems += registries.problems(list(telling.story.images.values()))
            say()
            say(registries.summary())

    def move(self, telling):
        """Gives a tag a new digest upstream and follows it."""
        name, key = MOVED
        before = telling.story.image(*key)
        say()
        say(f"Now {name} is rebuilt upstream")
        done = subprocess.run([f"{HERE}/images", "move", "--registry", f"http://{before.source.partition('/')[0]}", name],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if done.returncode != 0:
            raise oci.Failed(done.stdout.strip())

        def arrived(told):
            return told.image(*key) is not before and told.image(*key).is_done()

        return telling.until(arrived)

    def judge(self, told, expected, complete):
        """Compares what became of every image with what should have."""
        self.problems += told.failures
        for key, promoted in expected.items():
            image = told.image(*key)
            if image is None:
                self.problems.append(f"{':'.join(key)}: not found upstream")
            elif promoted is not None and image.is_done() and image.promoted != promoted:
                self.problems.append(f"{image.name}: {'not promoted' if promoted else 'promoted'}")
        for key, image in told.current.items():
            if step := image.missing():
                self.problems.append(f"{image.name}: {step}")
            if expected and key not in expected:
                self.problems.append(f"{image.name}: should not have been mirrored")
            # Whatever the database says: clean goes through, and nothing else does.
            clean = image.counts is not None and not any(image.counts.get(name) for name in ("critical", "high", "unknown"))
            if image.is_done() and image.promoted != clean:
                self.problems.append(f"{image.name}: {image.scan}, and yet {'promoted' if image.promoted else 'refused'}")
        if not complete and not self.problems:
            self.problems.append("the new digest of " + MOVED[0])

    def keep(self, follower, endpoints, upstream, receiver, binary):
        processes.end(follower.process.pid, lambda: follower.process.poll() is not None)
        host = endpoints["registry"].partition("://")[2]
        say("Everything is left running:")
        for what, where in (("registry", f"{host}, as in: docker pull {host}/official/debian:12"),
                            ("API", endpoints["api"]), ("NATS", endpoints["nats"]["url"]),
                            ("upstream", f"http://{upstream}"),
                            ("webhooks", f"http://{receiver}/, written to {os.path.relpath(RUN)}/deliveries.jsonl"),
                            ("command", f"{os.path.relpath(binary)} --data {os.path.relpath(RUN)}/data status"),
                            ("stop", "deploy/demo --stop")):
            say(f"  {what:<9} {where}")
        say()
        self.group.keep()


def expectations(names, small):
    """What should become of every tag: promoted, refused, or None where the database decides."""
    expected = {}
    for name in names:
        repository, tag = name.split(":")
        short = repository.rpartition("/")[2]
        if "-rc" in tag or tag == "latest":
            continue
        promoted = None
        if short == "notice":
            promoted = False
        elif small:
            promoted = short == "static" or name == "library/debian:12"
        expected[f"hub/{short}", tag] = promoted
    return expected


def received():
    """How often each fact came to the receiver with a signature that holds, and was accepted."""
    seen = {}
    for text in read(f"{RUN}/deliveries.jsonl").splitlines():
        delivery = json.loads(text)
        if delivery["verified"] and delivery["status"] < 300:
            seen[delivery["id"]] = seen.get(delivery["id"], 0) + 1
    return seen


# ---- begin and end -------------------------------------------------------------------

@contextlib.contextmanager
def alone():
    """Two demos in one folder would remove each other's files."""
    os.makedirs(WORK, exist_ok=True)
    with open(f"{WORK}/lock", "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise oci.Failed("another deploy/demo is running in this project") from None
        yield


def stop():
    with alone():
        names = processes.stop_recorded(STATE)
        shutil.rmtree(RUN, ignore_errors=True)
        shutil.rmtree(LOGS, ignore_errors=True)
    say("stopped " + ", ".join(names) if names else "nothing was running")


def run(arguments, interrupt):
    with alone():
        kept, alive = processes.recorded(STATE)
        if kept and alive:
            raise oci.Failed("a demo was left running with --keep; stop it first: deploy/demo --stop")
        processes.stop_recorded(STATE)
        for folder in (RUN, LOGS):
            shutil.rmtree(folder, ignore_errors=True)
            os.makedirs(folder, mode=0o700)
        group = processes.Processes(STATE, interrupt)
        try:
            Demo(arguments, group).run()
        except BaseException as reason:
            group.stop()
            if isinstance(reason, KeyboardInterrupt):
                shutil.rmtree(LOGS, ignore_errors=True)
            elif os.path.isdir(f"{RUN}/data/logs"):
                shutil.copytree(f"{RUN}/data/logs", LOGS, dirs_exist_ok=True)
            shutil.rmtree(RUN, ignore_errors=True)
            raise
        if not arguments.keep:
            group.stop()
            shutil.rmtree(RUN, ignore_errors=True)
            shutil.rmtree(LOGS, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(prog="deploy/demo")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--stop", action="store_true")
    parser.add_argument("--from", dest="source", metavar="REPOSITORY")
    parser.add_argument("--database", choices=("auto", "small", "trivy"), default="auto")
    arguments = parser.parse_args()
    interrupt = processes.Interrupt()
    interrupt.listen()
    try:
        if arguments.stop:
            stop()
        else:
            run(arguments, interrupt)
            say("demo: ok")
    except KeyboardInterrupt:
        say("\ndemo: interrupted; nothing is left behind")
        sys.exit(130)
    except (oci.Failed, OSError, subprocess.SubprocessError) as failure:
        say(f"demo: {failure}")
        if os.path.isdir(LOGS) and not os.path.exists(STATE):
            say(f"demo: the logs are in {os.path.relpath(LOGS)}")
        sys.exit(1)


if __name__ == "__main__":
    main()
