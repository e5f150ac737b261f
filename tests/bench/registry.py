"""Local registries, what is in them, and what they are asked for."""

import gzip
import hashlib
import http.client
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import tarfile
import time
from pathlib import Path

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"

CONFIGURATION = """version: 0.1
log: {{level: error, accesslog: {{disabled: false}}}}
storage:
  filesystem: {{rootdirectory: {data}, maxthreads: 200}}
  cache: {{blobdescriptor: inmemory}}
  delete: {{enabled: true}}
http: {{addr: '127.0.0.1:{port}', relativeurls: true, secret: bench}}
"""

# What is counted apart: the manifests that Docker Hub counts, and the rest by what it does.
KINDS = [
    ("HEAD manifest", re.compile(r'"HEAD /v2/[^ ]+/manifests/')),
    ("GET manifest", re.compile(r'"GET /v2/[^ ]+/manifests/')),
    ("PUT manifest", re.compile(r'"PUT /v2/[^ ]+/manifests/')),
    ("HEAD blob", re.compile(r'"HEAD /v2/[^ ]+/blobs/')),
    ("GET blob", re.compile(r'"GET /v2/[^ ]+/blobs/')),
    ("mount", re.compile(r'"POST /v2/[^ ]+/blobs/uploads/\?[^ ]*from=')),
    ("POST upload", re.compile(r'"POST /v2/[^ ]+/blobs/uploads/')),
    ("PATCH upload", re.compile(r'"PATCH /v2/[^ ]+/blobs/uploads/')),
    ("PUT upload", re.compile(r'"PUT /v2/[^ ]+/blobs/uploads/')),
    ("other", re.compile(r'"[A-Z]+ /')),
]


def free_port():
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Registry:
    """A docker-registry with a folder of its own, or with one that another one filled."""

    def __init__(self, binary, folder, data=None):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.data = Path(data) if data else self.folder / "data"
        port = free_port()
        self.host = f"127.0.0.1:{port}"
        config = self.folder / "config.yml"
        config.write_text(CONFIGURATION.format(data=self.data, port=port))
        self.log = self.folder / "log"
        self.read = 0
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [binary, "serve", str(config)], stdout=log, stderr=subprocess.STDOUT
            )
        deadline = time.monotonic() + 15
        while True:
            try:
                self.ask("GET", "/v2/")
                break
            except OSError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise SystemExit(f"docker-registry does not start; see {self.log}")
                time.sleep(0.02)
        self.counted()

    def stop(self, keep=False):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        if not keep:
            shutil.rmtree(self.folder, ignore_errors=True)

    def ask(self, method, path, body=None, headers=None):
        connection = http.client.HTTPConnection(self.host)
        try:
            connection.request(method, path, body=body, headers=headers or {})
            answer = connection.getresponse()
            content = answer.read()
            if answer.status >= 300:
                raise SystemExit(f"{method} {path}: {answer.status} {content[:300]}")
            return answer.headers
        finally:
            connection.close()

    def push_blob(self, repository, body, digest):
        location = self.ask("POST", f"/v2/{repository}/blobs/uploads/")["Location"]
        sign = "&" if "?" in location else "?"
        headers = {"Content-Type": "application/octet-stream"}
        self.ask("PUT", f"{location}{sign}digest={digest}", body, headers)

    def mount(self, repository, origin, digest):
        path = f"/v2/{repository}/blobs/uploads/?mount={digest}&from={origin}"
        self.ask("POST", path)

    def put(self, repository, reference, media_type, body):
        path = f"/v2/{repository}/manifests/{reference}"
        self.ask("PUT", path, body, {"Content-Type": media_type})

    def counted(self):
        """Returns what it was asked for since the last time, by kind."""
        # The log is written as requests end; the last lines may be under way.
        time.sleep(0.2)
        counts = {}
        with open(self.log, encoding="utf-8", errors="replace") as log:
            log.seek(self.read)
            for line in log:
                for kind, pattern in KINDS:
                    if pattern.search(line):
                        counts[kind] = counts.get(kind, 0) + 1
                        break
            self.read = log.tell()
        return counts

    def size(self):
        blobs = self.data / "docker/registry/v2/blobs"
        return sum(file.stat().st_size for file in blobs.rglob("data"))


def digest(body):
    return "sha256:" + hashlib.sha256(body).hexdigest()


def layer(chance, size):
    """Makes a layer that no tool would compress again."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        entry = tarfile.TarInfo(f"file-{chance.getrandbits(64):x}")
        entry.size = size
        archive.addfile(entry, io.BytesIO(chance.randbytes(size)))
    return gzip.compress(content.getvalue(), compresslevel=0, mtime=0)


def descriptor(media_type, body, **more):
    return {"mediaType": media_type, "digest": digest(body), "size": len(body), **more}


def encode(document):
    return json.dumps(document, separators=(",", ":")).encode()


def config(architecture, layers, note):
    return encode(
        {
            "architecture": architecture,
            "os": "linux",
            "config": {"Labels": {"note": note}},
            "rootfs": {
                "type": "layers",
                "diff_ids": [digest(gzip.decompress(body)) for body in layers],
            },
        }
    )


class Images:
    """Repositories of two-platform tags that share layers, as real ones do."""

    PLATFORMS = ("amd64", "arm64")

    def __init__(self, registry, repositories, tags, megabytes, seed):
        self.registry = registry
        self.chance = random.Random(seed)
        self.repositories = [f"up/app{number:02}" for number in range(repositories)]
        self.tags = [f"1.{number}" for number in range(tags)]
        self.pushed = {}
        self.original = {}
        # A twentieth is in bases that all share, half in what the tags of a repository share, the rest in the tags.
        total = megabytes << 20
        platforms = len(self.PLATFORMS)
        self.own = max(1024, total * 45 // 100 // (repositories * tags * platforms))
        shared = max(1024, total // 2 // (repositories * platforms))
        base = max(1024, total // 20 // platforms)
        bases = {name: layer(self.chance, base) for name in self.PLATFORMS}
        for repository in self.repositories:
            self.layers = {
                name: [bases[name], layer(self.chance, shared)]
                for name in self.PLATFORMS
            }
            self.pushed[repository] = self.layers
            for tag in self.tags:
                self.original[repository, tag] = self.tag(repository, tag)

    def blob(self, repository, body, known={}):
        name = digest(body)
        places = known.setdefault((self.registry.host, name), [])
        if repository not in places:
            if places:
                self.registry.mount(repository, places[0], name)
            else:
                self.registry.push_blob(repository, body, name)
            places.append(repository)

    def tag(self, repository, tag):
        """Gives a tag a new image that shares what the others of its repository share."""
        children = []
        for name in self.PLATFORMS:
            layers = [*self.pushed[repository][name], layer(self.chance, self.own)]
            settings = config(name, layers, f"{repository}:{tag} {self.chance.random()}")
            for body in [settings, *layers]:
                self.blob(repository, body)
            image = encode(
                {
                    "schemaVersion": 2,
                    "mediaType": MANIFEST,
                    "config": descriptor(CONFIG, settings),
                    "layers": [descriptor(LAYER, body) for body in layers],
                }
            )
            self.registry.put(repository, digest(image), MANIFEST, image)
            platform = {"architecture": name, "os": "linux"}
            children.append(descriptor(MANIFEST, image, platform=platform))
        index = encode({"schemaVersion": 2, "mediaType": INDEX, "manifests": children})
        self.registry.put(repository, tag, INDEX, index)
        return index

    def move(self, share):
        """Moves a share of the tags to new images; returns them."""
        every = list(self.original)
        moved = self.chance.sample(every, max(1, round(len(every) * share)))
        for repository, tag in moved:
            self.tag(repository, tag)
        return moved

    def move_back(self, moved):
        for repository, tag in moved:
            self.registry.put(repository, tag, INDEX, self.original[repository, tag])


def push_large(registry, repository, megabytes, layers, seed):
    """Pushes an image of large layers under the tag `1`; returns their digests and sizes."""
    chance = random.Random(seed)
    described = []
    for _ in range(layers):
        # Looks like gzip to whoever looks at its beginning, and costs no memory to make.
        path = registry.folder / "large"
        hasher, size = hashlib.sha256(), 0
        with open(path, "wb") as file:
            for number in range(megabytes):
                head = b"\x1f\x8b\x08\x00" if number == 0 else b""
                body = head + chance.randbytes((1 << 20) - len(head))
                hasher.update(body)
                file.write(body)
                size += len(body)
        name = "sha256:" + hasher.hexdigest()
        with open(path, "rb") as file:
            location = registry.ask("POST", f"/v2/{repository}/blobs/uploads/")["Location"]
            headers = {
                "Content-Type": "application/octet-stream",
                "Content-Length": str(size),
            }
            sign = "&" if "?" in location else "?"
            registry.ask("PUT", f"{location}{sign}digest={name}", file, headers)
        os.unlink(path)
        described.append({"mediaType": LAYER, "digest": name, "size": size})
    settings = encode(
        {
            "architecture": "amd64",
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [d["digest"] for d in described]},
        }
    )
    registry.push_blob(repository, settings, digest(settings))
    image = encode(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(CONFIG, settings),
            "layers": described,
        }
    )
    registry.put(repository, "1", MANIFEST, image)
    return [(d["digest"], d["size"]) for d in described]


def push_many(registry, repositories, tags):
    """Fills the folder of a registry with repositories that all have one small image under many tags."""
    chance = random.Random(0)
    body = layer(chance, 100)
    settings = config("amd64", [body], "one of many")
    for blob in [body, settings]:
        registry.push_blob("up/r0000", blob, digest(blob))
    image = encode(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(CONFIG, settings),
            "layers": [descriptor(LAYER, body)],
        }
    )
    names = [f"{number}.0" for number in range(tags)]
    for name in names:
        registry.put("up/r0000", name, MANIFEST, image)
    root = registry.data / "docker/registry/v2/repositories/up"
    every = ["up/r0000"]
    for number in range(1, repositories):
        shutil.copytree(root / "r0000", root / f"r{number:04}", copy_function=os.link)
        every.append(f"up/r{number:04}")
    return every, names
