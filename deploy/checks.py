"""Asks registries over plain HTTP whether the outcome is what Sluice says it is.

Only the standard library and none of Sluice's code, so that it is an independent look.
"""

import base64
import hashlib
import json
import re
import urllib.error
import urllib.parse
import urllib.request

import oci

ACCEPT = ", ".join((oci.MANIFEST, oci.INDEX, "application/vnd.docker.distribution.manifest.v2+json",
                    "application/vnd.docker.distribution.manifest.list.v2+json"))
# Docker Hub's registry is not at the name that images have.
HUB = {"docker.io": "https://registry-1.docker.io"}
# An account that may read everything and write nothing.
READER = "scanner-adapter"


class Client:
    """Reads one registry, with a token if it asks for one; anonymously unless there is a credential."""

    def __init__(self, base, credential=None):
        self.base, self.credential = base.rstrip("/"), credential

    def ask(self, method, path, data=None):
        """Returns the status and the body."""
        headers = {"Accept": ACCEPT}
        status, body, challenge = fetch(method, self.base + path, headers, data)
        if status == 401 and challenge.lower().startswith("bearer "):
            token = self.token(dict(re.findall(r'(\w+)="([^"]*)"', challenge)))
            if token is None:
                return status, body
            headers["Authorization"] = f"Bearer {token}"
            status, body, _ = fetch(method, self.base + path, headers, data)
        return status, body

    def token(self, challenge):
        query = urllib.parse.urlencode({name: challenge[name] for name in ("service", "scope") if name in challenge})
        headers = {}
        if self.credential:
            headers["Authorization"] = "Basic " + base64.b64encode(":".join(self.credential).encode()).decode()
        status, body, _ = fetch("GET", f"{challenge['realm']}?{query}", headers)
        return json.loads(body)["token"] if status == 200 else None

    def manifest(self, repository, reference):
        return self.ask("GET", f"/v2/{repository}/manifests/{reference}")


def fetch(method, url, headers, data=None):
    request = urllib.request.Request(url, data=data, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read(), ""
    except urllib.error.HTTPError as error:
        return error.code, error.read(), error.headers.get("WWW-Authenticate", "")
    except urllib.error.URLError as error:
        raise oci.Failed(f"cannot reach {url}: {error.reason}") from error


class Registries:
    """The upstream, and the internal registry as Sluice's reader and as anybody sees it."""

    def __init__(self, upstream, endpoints, data):
        self.plain = upstream
        with open(f"{data}/keys/accounts/{READER}", encoding="utf-8") as file:
            self.inside = Client(endpoints["registry"], (READER, file.read().strip()))
        self.anybody = Client(endpoints["registry"])
        self.same = self.absent = 0

    def upstream(self, source):
        host, _, repository = source.partition("/")
        base = HUB.get(host) or ("http://" if host == self.plain else "https://") + host
        return Client(base), repository

    def problems(self, images):
        """Everything that is not as it should be. `images` is in the order in which they were found."""
        problems, current = [], {image.name: image for image in images}
        for image in images:
            if not image.promoted:
                # A tag that was promoted before keeps its digest while a later one is refused.
                kept = any(other.promoted and other.name == image.name for other in images)
                problems += self.refused(image, kept)
            elif current[image.name] is image:
                problems += self.promoted(image)
        # A repository that surely exists: that a missing one is refused would prove nothing.
        staged = images[0].repository
        for what, wanted, (status, _) in (
            (f"anonymous pull of {staged}", 401, self.anybody.ask("GET", f"/v2/{staged}/tags/list")),
            ("anonymous push to official", 401, self.anybody.ask("POST", "/v2/official/sneaked/blobs/uploads/", b"")),
        ):
            if status != wanted:
                problems.append(f"{what} was answered with {status}, not {wanted}")
        return problems

    def promoted(self, image):
        """The same bytes upstream, in staging and in the target, with everything that an index names."""
        upstream, source = self.upstream(image.source)
        target, tag = image.target
        places = (("upstream", upstream, source), ("staging", self.inside, image.repository),
                  ("the target", self.anybody, target))
        problems, children = [], []
        for place, client, repository in places:
            # Upstream may have moved on; what was found is still there by its digest.
            reference = tag if place == "the target" else image.digest
            status, body = client.manifest(repository, reference)
            if status != 200 or digest(body) != image.digest:
                problems.append(f"{image.name} is not the same in {place} ({status}, {digest(body)})")
            elif not children:
                children = [child["digest"] for child in json.loads(body).get("manifests", [])]
        for child in children:
            for place, client, repository in places:
                status, body = client.manifest(repository, child)
                if status != 200 or digest(body) != child:
                    problems.append(f"{image.name}: {child} is not the same in {place} ({status})")
        self.same += not problems
        return problems

    def refused(self, image, kept):
        """Absent from the target, by tag and by digest, and so is everything that an index names."""
        target = "official/" + image.repository.partition("/")[2]
        status, body = self.inside.manifest(image.repository, image.digest)
        if status != 200:
            return [f"{image.name} cannot be read in staging ({status})"]
        names = [*([] if kept else [image.tag]), image.digest, *(child["digest"] for child in json.loads(body).get("manifests", []))]
        problems = [f"{target}: {name} was answered with {status}, not 404" for name in names
                    if (status := self.anybody.manifest(target, name)[0]) != 404]
        self.absent += not problems
        return problems

    def summary(self):
        return ("Checked over HTTP:\n"
                f"  {self.same} promoted: the same bytes upstream, in hub and in official, with every platform of an index\n"
                f"  {self.absent} refused: 404 in official, by tag and by digest\n"
                "  anybody: 401 for a pull of hub and for a push to official, pulls of official work")


def digest(body):
    return "sha256:" + hashlib.sha256(body).hexdigest()
