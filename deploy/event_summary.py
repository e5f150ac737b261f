"""Facts of Sluice told in one line each, and what became of every image.

Knows the facts as `sluice events` prints them, and nothing of processes or registries.
"""

import shutil
import textwrap

WIDTH = 100
COUNTED = ("critical", "high", "medium", "low", "unknown")


def short(digest):
    return digest.partition(":")[2][:12]


def size(count):
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            break
        count /= 1024
    else:
        unit = "GiB"
    return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"


def findings(counts):
    """`2 critical, 1 high`, or `no findings`."""
    found = [f"{counts[name]} {name}" for name in COUNTED if counts.get(name)]
    return ", ".join(found) or "no findings"


def refusing(reasons):
    """The rules that did not hold. Those that could not be told follow from another, if there is another."""
    failed = [reason for reason in reasons if not reason.get("passed")]
    return [reason for reason in failed if not reason.get("undetermined")] or failed


def rule(reason):
    """The rule without what is said about it in brackets."""
    return reason["rule"].partition(" (")[0]


class Image:
    """One digest at one tag of the staging area, and how far it has come."""

    def __init__(self, repository, tag, digest, source):
        self.repository, self.tag, self.digest, self.source = repository, tag, digest, source
        self.bytes = self.scan = self.counts = self.target = self.refused = self.told = None
        self.fact_id = None

    @property
    def name(self):
        return f"{self.repository}:{self.tag}"

    @property
    def promoted(self):
        return self.target is not None

    def is_done(self):
        """Whether there is a verdict, and whoever asked was told."""
        return (self.promoted or self.refused is not None) and self.told is not None

    def missing(self):
        """The first step that has not happened."""
        steps = (("not mirrored", self.bytes), ("not scanned", self.scan),
                 ("neither promoted nor refused", self.target or self.refused), ("no webhook delivered", self.told))
        return next((text for text, done in steps if done is None), None)


class Story:
    """Reads facts in their order."""

    def __init__(self):
        self.images = {}
        self.current = {}
        self.failures = []

    def image(self, repository, tag):
        """What the tag points to now, or None."""
        return self.current.get((repository, tag))

    def of(self, data, tag="tag", repository="repository"):
        return self.images.get((data.get(repository), data.get(tag), data.get("digest")))

    def told_by(self, fact):
        """Takes a fact in; returns `(verb, text)` if it is worth a line."""
        event, data = fact.get("event"), fact.get("data")
        teller = getattr(self, "on_" + (event or "").replace(".", "_"), None)
        return teller(data, fact) if teller else None

    def on_upstream_tag_moved(self, data, _):
        image = Image(data["repository"], data["tag"], data["digest"], data["source"])
        self.images[image.repository, image.tag, image.digest] = image
        self.current[image.repository, image.tag] = image
        what = f"moved from {short(data['previous'])} to" if data.get("previous") else "is new:"
        return "found", f"{image.source}:{image.tag} {what} {short(image.digest)}"

    def on_upstream_poll_failed(self, data, _):
        self.failures.append(f"{data['source']} cannot be polled: {data['reason']}")
        return "failed", self.failures[-1]

    def on_tag_mirrored(self, data, _):
        if image := self.of(data):
            image.bytes = int(data.get("sizeBytes", 0))
        new, known = int(data.get("bytesCopied", 0)), int(data.get("blobsMounted", 0)) + int(data.get("blobsSkipped", 0))
        copied = f"{size(new)} copied" if new else "nothing to copy"
        return "mirrored", f"{data['repository']}:{data['tag']}, {copied}" + (f", {known} {'blob' if known == 1 else 'blobs'} known" if known else "")

    def on_tag_mirror_failed(self, data, _):
        self.failures.append(f"{data['repository']}:{data['tag']} cannot be mirrored: {data['reason']}")
        return "failed", self.failures[-1]

    def scanned(self, data, text, counts):
        # A verdict is of a digest; every tag that points to it has it.
        for image in self.images.values():
            if image.repository == data["repository"] and image.digest == data["digest"]:
                image.scan, image.counts = text, counts

    def on_scan_succeeded(self, data, _):
        counts = {name: int(value) for name, value in (data.get("counts") or {}).items()}
        children = data.get("children") or []
        packages = sum(int(child.get("packages", 0)) for child in children)
        platforms = ", ".join(child.get("platform", "?") for child in children)
        self.scanned(data, findings(counts), counts)
        name = f"{data['repository']}:{data.get('tag') or short(data['digest'])}"
        return "scanned", f"{name}, {findings(counts)} in {packages} packages ({platforms})"

    def on_scan_failed(self, data, _):
        self.scanned(data, "not understood" if data.get("unsupported") else "failed", None)
        name = f"{data['repository']}:{data.get('tag') or short(data['digest'])}"
        return "unscanned", f"{name}: {data['reason']}"

    def on_image_promoted(self, data, fact):
        image = self.images.get((data["source"], data["sourceTag"], data["digest"]))
        target = f"{data['target']}:{data['targetTag']}"
        if image:
            image.target, image.fact_id = (data["target"], data["targetTag"]), fact["id"]
        return "promoted", f"{data['source']}:{data['sourceTag']} to {target} by {data['policy']}"

    def on_image_promotion_denied(self, data, fact):
        reasons = refusing(data.get("reasons") or [])
        if image := self.of(data):
            image.refused, image.fact_id = ", ".join(map(rule, reasons)), fact["id"]
        why = [f"  {rule(reason)}: {reason.get('detail', 'does not hold')}" for reason in reasons]
        return "refused", "\n".join([f"{data['repository']}:{data['tag']} by {data['policy']}", *why])

    def on_webhook_delivered(self, data, _):
        image = next((image for image in self.images.values() if image.fact_id == data["eventId"]), None)
        if image is None:
            return None
        image.told = f"{data['status']}"
        attempts = int(data.get("attempts", 1))
        tries = "" if attempts == 1 else f" at attempt {attempts}"
        return "told", f"webhook {data['endpoint']}: {data['eventName']} of {image.name}, answered {data['status']}{tries}"

    def on_webhook_failed(self, data, _):
        self.failures.append(f"webhook {data['endpoint']} was not told of {data['eventName']}: {data['reason']}")
        return "failed", self.failures[-1]

    def on_image_flagged(self, data, _):
        return "flagged", f"{data['repository']}:{data['tag']}: {data['reason']}"

    def on_image_withdrawn(self, data, _):
        return "withdrawn", f"{data['repository']}:{data['tag']}: {data['reason']}"


def line(seconds, verb, text):
    """One step of the story; what is too long goes on below."""
    head = f"{seconds:6.1f} s  {verb:<9} "
    width = max(60, min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns))
    lines = []
    for number, part in enumerate(text.split("\n")):
        begin = head if number == 0 else " " * len(head)
        lines.append(textwrap.fill(part, width, initial_indent=begin, subsequent_indent=" " * len(head) + "  ",
                                   break_long_words=False, break_on_hyphens=False, drop_whitespace=True))
    return "\n".join(lines)


def table(told, verified):
    """Every image and what became of it. `verified` says of a fact's id whether its webhook came, signed."""
    widths = (20, 12, 8, 20, 22, 8)
    rows = [("IMAGE", "DIGEST", "MIRRORED", "SCANNED", "GATE", "WEBHOOK")]
    for image in sorted(told.images.values(), key=lambda image: (image.repository, image.tag)):
        if image.promoted:
            replaced = told.image(image.repository, image.tag) is not image
            gate = "promoted, then replaced" if replaced else "promoted"
        else:
            gate = f"refused:\n{image.refused}" if image.refused is not None else "-"
        webhook = "verified" if verified(image.fact_id) else "answered " + image.told if image.told else "-"
        mirrored = size(image.bytes) if image.bytes is not None else "-"
        rows.append((image.name, short(image.digest), mirrored, image.scan or "-", gate, webhook))
    lines = []
    for row in rows:
        cells = [wrapped(cell, width) for cell, width in zip(row, widths)]
        for number in range(max(map(len, cells))):
            parts = (cell[number] if number < len(cell) else "" for cell in cells)
            lines.append("  ".join(f"{part:<{width}}" for part, width in zip(parts, widths)).rstrip())
    return "\n".join(lines)


def wrapped(cell, width):
    """Lines of a cell, broken after a comma rather than within what belongs together."""
    lines = [""]
    for part in cell.replace(", ", ",\n").split("\n"):
        if not lines[-1]:
            lines[-1] = part
        elif len(lines[-1]) + 1 + len(part) <= width:
            lines[-1] += " " + part
        else:
            lines.append(part)
    return [piece for text in lines for piece in textwrap.wrap(text, width, break_on_hyphens=False) or [""]]
