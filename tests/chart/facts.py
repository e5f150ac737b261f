"""What the documentation says that the services, the command and the metrics are."""

import json
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[2]


def read(path):
    return (ROOT / path).read_text()


def settings():
    """Returns the settings of each service with their defaults: {"poller": {"SLUICE__HTTP__LISTEN": "127.0.0.1:8483"}}."""
    found, service = {}, None
    for line in read("docs/SETTINGS.md").splitlines():
        if heading := re.fullmatch(r"### `([a-z-]+)`: `\[[a-z]+\]`", line):
            service = heading[1]
        elif row := re.match(r"\| `[a-z_]+` \| `(SLUICE__\w+)` \| (?:`(.*?)`)? \|", line):
            found.setdefault(service, {})[row[1]] = json.loads(row[2]) if row[2] else None
    return found


def metrics():
    """Returns the labels of each series: {"sluice_messages_waiting": {"stage"}}."""
    found = {}
    for line in read("docs/METRICS.md").splitlines():
        if row := re.match(r"\| `(sluice_\w+)` \| (\w+) \| (.*?) \|", line):
            name, kind, labels = row[1], row[2], set(re.findall(r"`(\w+)`", row[3]))
            names = [name]
            if kind == "histogram":
                names = [name + end for end in ("_bucket", "_sum", "_count")]
                labels = labels | {"le"}
            found |= {one: labels for one in names}
    return found


def commands():
    """Returns the options of each command of `sluice`, and the variables of all of them."""
    options, variables, common, command = {}, set(), set(), None
    for line in read("docs/CLI.md").splitlines():
        if heading := re.fullmatch(r"### `sluice ([a-z -]+)`", line):
            command = heading[1]
            options[command] = set()
        elif row := re.match(r"\| `(-.*?)` \|", line):
            names = set(re.findall(r"--[a-z-]+", row[1]))
            (options[command] if command else common).update(names)
            variables |= set(re.findall(r"Environment: `(\w+)`", line))
    return {name: own | common for name, own in options.items()}, variables


def consumers():
    """Returns the consumers that services acknowledge to, with their streams: {("EVENTS", "promoter")}."""
    return set(re.findall(r'service: "\$JS\.ACK\.([A-Za-z_-]+)\.([a-z-]+)\.>", accounts', read("deploy/nats.conf")))
