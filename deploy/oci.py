"""What deploy's scripts share: OCI blobs, layers, images and pushing them to a registry.

Only the standard library. Knows nothing of Sluice, Debian or Trivy.
"""

import base64
import gzip
import hashlib
import io
import json
import os
import tarfile
import tempfile
import urllib.error
import urllib.parse
import urllib.request

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


class Failed(Exception):
    """Something a person has to look at; the message says what."""


def encode(document):
    """The one way in which these scripts write JSON, so that bytes never depend on the run."""
    return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()


def file_entry(path, data, mode=0o644, mtime=0):
    """A file for a layer."""
    info = tarfile.TarInfo(path)
    info.size, info.mode, info.mtime = len(data), mode, mtime
    return info, io.BytesIO(data)


def link_entry(path, target, mtime=0):
    """A symbolic link for a layer."""
    info = tarfile.TarInfo(path)
    info.type, info.linkname, info.mode, info.mtime = tarfile.SYMTYPE, target, 0o777, mtime
    return info, None


class Hashed:
    """A file to write to that counts and hashes what passes."""

    def __init__(self, file):
        self.file, self.hash, self.size = file, hashlib.sha256(), 0

    def write(self, data):
        self.hash.update(data)
        self.size += len(data)
        return self.file.write(data)

    def flush(self):
        self.file.flush()

    def digest(self):
        return "sha256:" + self.hash.hexdigest()


class Store:
    """Blobs in a folder, laid out as in an OCI image layout."""

    def __init__(self, folder):
        self.folder = folder
        self.blobs = os.path.join(folder, "blobs", "sha256")
        os.makedirs(self.blobs, exist_ok=True)

    def path(self, descriptor):
        return os.path.join(self.folder, "blobs", *descriptor["digest"].split(":"))

    def put(self, data, media_type, **more):
        """Stores bytes and returns their descriptor."""
        with tempfile.NamedTemporaryFile(dir=self.blobs, delete=False) as file:
            out = Hashed(file)
            out.write(data)
        return self.keep(file.name, out, media_type, more)

    def put_layer(self, entries, media_type=LAYER, **more):
        """Stores a compressed tar of `(TarInfo, file or None)`; returns its descriptor and diff id.

        Streams. Equal entries give equal bytes: no names of users, no fractions of seconds, no gzip header fields.
        """
        with tempfile.NamedTemporaryFile(dir=self.blobs, delete=False) as file:
            packed = Hashed(file)
            with gzip.GzipFile("", "wb", compresslevel=6, fileobj=packed, mtime=0) as stream:
                plain = Hashed(stream)
                with tarfile.open(fileobj=plain, mode="w|", format=tarfile.PAX_FORMAT, bufsize=1 << 20) as archive:
                    for info, content in entries:
                        info.uname = info.gname = ""
                        info.mtime = int(info.mtime)
                        archive.addfile(info, content)
        return self.keep(file.name, packed, media_type, more), plain.digest()

    def keep(self, temporary, written, media_type, more):
        descriptor = {"mediaType": media_type, "digest": written.digest(), "size": written.size, **more}
        os.chmod(temporary, 0o644)
        os.replace(temporary, self.path(descriptor))
        return descriptor

    def put_image(self, layers, architecture, created, config=None, labels=None):
        """Stores an image of `(descriptor, diff id, what made it)` layers and returns its descriptor."""
        document = {
            "architecture": architecture, "os": "linux", "created": created,
            "config": {**(config or {}), "Labels": labels or {}},
            "rootfs": {"type": "layers", "diff_ids": [diff_id for _, diff_id, _ in layers]},
            "history": [{"created": created, "created_by": made_by} for _, _, made_by in layers],
        }
        platform = {"architecture": architecture, "os": "linux"}
        if architecture == "arm64":
            document["variant"] = platform["variant"] = "v8"
        manifest = {
            "schemaVersion": 2, "mediaType": MANIFEST, "config": self.put(encode(document), CONFIG),
            "layers": [descriptor for descriptor, _, _ in layers],
        }
        return self.put(encode(manifest), MANIFEST, platform=platform)

    def put_index(self, manifests):
        return self.put(encode({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}), INDEX)

    def read(self, descriptor):
        with open(self.path(descriptor), "rb") as file:
            return file.read()

    def document(self, descriptor):
        return json.loads(self.read(descriptor))


class Registry:
    """Pushes to one registry, with the name and password of its URL if it has them."""

    def __init__(self, url):
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Failed(f"`{url}` is not a registry's URL, for example `http://127.0.0.1:5000`")
        self.host = parts.netloc.rpartition("@")[2]
        self.base = f"{parts.scheme}://{self.host}"
        self.authorization = None
        if parts.username is not None:
            pair = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
            self.authorization = "Basic " + base64.b64encode(pair.encode()).decode()

    def request(self, method, url, data=None, **headers):
        """Returns status and headers; any answer but 2xx, or 404 to a HEAD, is a failure."""
        url = urllib.parse.urljoin(self.base, url)
        request = urllib.request.Request(url, data=data, method=method)
        for name, value in headers.items():
            request.add_header(name.replace("_", "-"), value)
        # The registry chooses where uploads and redirects go; the password goes to no other host.
        if self.authorization and url.startswith(self.base + "/"):
            request.add_unredirected_header("Authorization", self.authorization)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.headers
        except urllib.error.HTTPError as error:
            if error.code == 404 and method == "HEAD":
                return 404, error.headers
            text = error.read(300).decode(errors="replace")
            raise Failed(f"{method} {url} was answered with {error.code}: {text}") from error
        except urllib.error.URLError as error:
            raise Failed(f"cannot reach {self.base}: {error.reason}") from error

    def current(self, repository, reference):
        """The digest that a tag has now, or None."""
        status, headers = self.request("HEAD", f"/v2/{repository}/manifests/{reference}", Accept=f"{MANIFEST}, {INDEX}")
        return headers["Docker-Content-Digest"] if status == 200 else None

    def push(self, repository, reference, store, descriptor):
        """Pushes an image or an index with all that it names, children first."""
        document = store.document(descriptor)
        for child in document.get("manifests", []):
            self.push(repository, child["digest"], store, child)
        if "config" in document:
            for blob in [document["config"], *document["layers"]]:
                self.push_blob(repository, store, blob)
        self.request("PUT", f"/v2/{repository}/manifests/{reference}",
                     data=store.read(descriptor), Content_Type=descriptor["mediaType"])

    def push_blob(self, repository, store, descriptor):
        name = descriptor["digest"]
        if self.request("HEAD", f"/v2/{repository}/blobs/{name}")[0] == 200:
            return
        _, headers = self.request("POST", f"/v2/{repository}/blobs/uploads/", data=b"")
        location = headers["Location"]
        location += ("&" if "?" in location else "?") + urllib.parse.urlencode({"digest": name})
        with open(store.path(descriptor), "rb") as file:
            self.request("PUT", location, data=file, Content_Type="application/octet-stream",
                         Content_Length=str(descriptor["size"]))
