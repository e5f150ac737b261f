"""Many small images from an upstream registry through `sluice up` into a target: what that takes, program by program."""

import io
import json
import os
import random
import signal
import subprocess
import tarfile
import time
import gzip
from pathlib import Path

from registry import CONFIG, KINDS, LAYER, MANIFEST, config, descriptor, digest, encode, layer

TICKS = os.sysconf("SC_CLK_TCK")
PACKAGES = 80
# How long all of it may take before it counts as stuck.
LONGEST = 1800

RESOURCES = """kind: Registry
name: upstream
host: {host}
plain_http: true
---
kind: Repository
name: hub/*
visibility: private
---
kind: Repository
name: official/*
visibility: public
---
kind: PromotionPolicy
name: clean
from: hub/*
to: official/{{name}}
when: scan.critical == 0 && scan.high == 0
"""
MIRROR = "---\nkind: Mirror\nname: {name}\nfrom: {host}/up/{name}\nto: hub/{name}\nevery: 1h\n"


def system():
    """The layer of a Debian whose packages have no findings."""
    package = "Package: {}\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1.0-1\nMaintainer: a\nDescription: b\n\n"
    libc = "Package: libc6\nStatus: install ok installed\nSource: glibc\nArchitecture: amd64\nVersion: 2.36-9+deb12u99\nMaintainer: a\nDescription: b\n\n"
    files = {
        "etc/os-release": 'ID=debian\nVERSION_ID="12"\n',
        "etc/debian_version": "12.5\n",
        "var/lib/dpkg/status": libc + "".join(package.format(f"package{number}") for number in range(PACKAGES)),
    }
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for path, text in files.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    return gzip.compress(content.getvalue(), mtime=0)


def push(registry, count, tags, seed):
    """Pushes images that each have a layer of 1 KiB over one of their repository and two that all share."""
    chance = random.Random(seed)
    shared = [system(), layer(chance, 1 << 20)]
    names = []
    for first in range(0, count, tags):
        name = f"app{first // tags:03}"
        names.append(name)
        below = [*shared, layer(chance, 64 << 10)]
        for body in below:
            registry.push_blob(f"up/{name}", body, digest(body))
        for number in range(min(tags, count - first)):
            layers = [*below, layer(chance, 1 << 10)]
            settings = config("amd64", layers, f"{name} {number}")
            for body in (layers[-1], settings):
                registry.push_blob(f"up/{name}", body, digest(body))
            described = [descriptor(LAYER, body) for body in layers]
            image = {"schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor(CONFIG, settings), "layers": described}
            registry.put(f"up/{name}", f"1.{number}", MANIFEST, encode(image))
    return names


def stat(pid):
    """The parent of a process, its own processor time, and that of its children that have ended."""
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
        fields = file.read().rpartition(")")[2].split()
    own, ended = sum(map(int, fields[11:13])), sum(map(int, fields[13:15]))
    return int(fields[1]), own / TICKS, ended / TICKS


def processor_time(sluice):
    """Seconds by program: of `sluice`, of its servers, and of the runs of Trivy, which have ended."""
    parents, times = {}, {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                parents[int(entry)], own, ended = stat(entry)
                program = os.path.basename(os.readlink(f"/proc/{entry}/exe"))
                times[int(entry)] = (program, own, ended)
            except OSError:
                continue
    taken = {}

    def add(name, seconds):
        taken[name] = taken.get(name, 0.0) + seconds

    for pid, (program, own, ended) in times.items():
        above = pid
        while above not in (0, sluice):
            above = parents.get(above, 0)
        if pid == sluice:
            add("sluice", own)
            add("trivy clients", ended)
        elif above == sluice and program == "trivy":
            with open(f"/proc/{pid}/cmdline", "rb") as line:
                add("trivy server" if b"server" in line.read().split(b"\0") else "trivy clients", own)
        elif above == sluice:
            add("registry" if "registry" in program else program, own)
    return taken


class Up:
    """`sluice up` on a folder of its own, with the access log of its registry on."""

    def __init__(self, sluice, tools, folder, upstream):
        self.sluice, self.data, self.log = sluice, folder / "data", folder / "sluice.log"
        real = Path(tools).resolve() / "bin/docker-registry"
        counting = folder / "counting-registry"
        counting.write_text(
            f'#!/bin/sh\nsed \'s/"disabled":true/"disabled":false/\' "$2" > "$2.counting"\nexec {real} serve "$2.counting"\n'
        )
        counting.chmod(0o755)
        environment = {
            **os.environ,
            "SLUICE_TOOLS": str(Path(tools).resolve()),
            "SLUICE_REGISTRY_PROGRAM": str(counting),
            "SLUICE__TRIVY__DATABASE_REPOSITORY": f"{upstream.host}/trivy-db:2",
            "SLUICE__TRIVY__DATABASE_INSECURE": "true",
        }
        for server in ("NATS", "REGISTRY", "TOKENS", "API", "HEALTH"):
            environment[f"SLUICE_{server}_LISTEN"] = "127.0.0.1:0"
        command = [sluice, "--data", self.data, "up"]
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        deadline = time.monotonic() + 90
        while not (self.data / "endpoints.json").exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(self.log.read_text(errors="replace")[-3000:])
            time.sleep(0.05)
        command = [sluice, "--data", self.data, "events", "--follow", "--from-start"]
        self.events = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.promoted = 0

    def apply(self, text):
        file = self.data.parent / "resources.yaml"
        file.write_text(text)
        subprocess.run([self.sluice, "--data", self.data, "apply", "-f", file], check=True, stdout=subprocess.DEVNULL)

    def until_promoted(self, count):
        deadline = time.monotonic() + LONGEST
        for line in self.events.stdout:
            event = json.loads(line)
            if event["event"] in ("scan.failed", "tag.mirror_failed", "image.promotion_denied"):
                raise SystemExit(line)
            self.promoted += event["event"] == "image.promoted"
            if self.promoted == count:
                return
            if time.monotonic() > deadline:
                break
        raise SystemExit(f"{self.promoted} of {count} images were promoted")

    def requests(self):
        """What its registry was asked for, by kind."""
        counts = {}
        for log in (self.data / "logs").glob("registry*"):
            for line in log.read_text(errors="replace").splitlines():
                kind = next((kind for kind, pattern in KINDS if pattern.search(line)), None)
                if kind:
                    counts[kind] = counts.get(kind, 0) + 1
        return counts

    def stop(self):
        for process in (self.events, self.process):
            process.send_signal(signal.SIGTERM)
            process.wait()


def less(after, before):
    return {key: value - before.get(key, 0) for key, value in after.items() if value != before.get(key, 0)}


def measure(options, folder, registry):
    """Promotes one image, so that everything is ready, and then all others; returns the seconds and the processor time."""
    upstream = registry()
    names = push(upstream, options.images + options.image_tags, options.image_tags, options.seed)
    root = Path(__file__).resolve().parents[2]
    place = f"http://{upstream.host}/trivy-db:2"
    subprocess.run([root / "deploy/trivy-db", "--push", place, "--updated-at", "now"], check=True, stdout=subprocess.DEVNULL)
    up = Up(options.binaries / "sluice", options.tools, folder, upstream)
    try:
        first, *others = names
        up.apply(RESOURCES.format(host=upstream.host) + MIRROR.format(name=first, host=upstream.host))
        up.until_promoted(options.image_tags)
        # What follows from them is over by then.
        time.sleep(2)
        upstream.counted()
        requests, before = up.requests(), processor_time(up.process.pid)
        upstream_before = stat(upstream.process.pid)[1]
        began = time.monotonic()
        up.apply("".join(MIRROR.format(name=name, host=upstream.host) for name in others))
        up.until_promoted(options.image_tags + options.images)
        seconds = time.monotonic() - began
        time.sleep(1)
        taken = less(processor_time(up.process.pid), before)
        taken["upstream registry"] = stat(upstream.process.pid)[1] - upstream_before
        asked = {"upstream": upstream.counted(), "internal": less(up.requests(), requests)}
    finally:
        up.stop()
        upstream.stop()
    for host, kinds in asked.items():
        told = ", ".join(f"{number / options.images:.2f} {kind}" for kind, number in sorted(kinds.items()))
        print(f"    {sum(kinds.values()) / options.images:.1f} requests per image at the {host} registry: {told}")
    for program, time_taken in sorted(taken.items(), key=lambda item: -item[1]):
        print(f"    {program:18} {time_taken:7.2f} s of processor time, {time_taken / options.images:.3f} s per image")
    print(f"    {options.images} images in {seconds:.1f} s, {seconds / options.images * 1000:.0f} ms each", flush=True)
    return seconds, sum(taken.values()), asked
