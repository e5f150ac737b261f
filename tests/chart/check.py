"""Checks the Helm chart, the Kustomize base and the dashboards: `tests/chart/run`."""

import argparse
import copy
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import helm_python
import kubernetes_validate
import yaml

import breakage
import custom
import facts
import rules

sys.path.append(str(facts.ROOT / "deploy" / "kubernetes"))
import chart  # noqa: E402

# The oldest that Chart.yaml allows, one between, and the newest that the validator knows.
VERSIONS = ("1.30", "1.34", "1.37")
# The settings that the chart writes itself, which `settings` in the values must not have.
WRITTEN_SECTIONS = ("BUS", "REGISTRY", "SECRETS", "API")
WRITTEN = {
    "HTTP__LISTEN", "HTTP__ADDRESS_FILE", "NOTIFICATIONS__SECRET_FILE", "TRIVY__BINARY", "TRIVY__CACHE_DIR", "TRIVY__USER",
    "TOKENS__LISTEN", "TOKENS__ALLOW_PLAIN_TEXT", "TOKENS__ADDRESS_FILE", "TOKENS__ISSUER", "TOKENS__SERVICE",
    "TOKENS__KEY_FILE", "TOKENS__CERTIFICATE_FILE", "TOKENS__ACCOUNTS_DIR",
    "WEBHOOKS__TRACE_URL",
}

HA = yaml.safe_load((chart.CHART / "values-ha.yaml").read_text())
EVERYTHING = {
    "nats": {"url": "tls://nats.messaging:4222", "caSecret": "nats-ca"},
    "trust": {"configMap": "authorities"},
    "tracing": {"endpoint": "http://jaeger-collector.tracing:4318", "uiUrl": "https://jaeger.example.com/trace/{trace}"},
    "log": "info,sluice_bus=debug",
    "env": {"HTTPS_PROXY": "http://proxy.example.com:3128"},
    "imagePullSecrets": ["login"],
    "services": {
        "scanner-adapter": {
            "settings": {"layers": {"entries": 5000000}, "http": {"grace_seconds": 600}},
            "nodeSelector": {"disk": "fast"},
            "tolerations": [{"key": "scan", "operator": "Exists"}],
            "env": {"HTTPS_PROXY": "http://other.example.com:3128"},
        },
        "gateway": {
            "settings": {"listeners": {"trusted_proxies": ["192.0.2.1"]}},
            "podAnnotations": {"reloader.stakater.com/auto": "true"},
            "image": {"digest": "sha256:" + "0" * 64},
        },
        "webhook-dispatcher": {"egress": [{"to": [{"ipBlock": {"cidr": "10.1.0.0/16"}}]}], "priorityClassName": "low", "resourceSecret": "receivers"},
    },
    "provision": {"maxBytes": {"EVENTS": "8GiB", "KV_tags": "2GiB"}},
    "resources": {"documents": "kind: Mirror\nname: alpine\n", "schedule": "17 * * * *"},
    "ingress": {"enabled": True, "className": "traefik", "annotations": {"a": "b"}},
    "gatewayApi": {"enabled": True, "parentRefs": [{"name": "edge", "namespace": "edge"}]},
    "api": {"enabled": True, "host": "sluice.example.com"},
    "certManager": {"enabled": True, "issuer": {"name": "corp"}},
    "autoscaling": {"kind": "keda"},
    "monitoring": {
        "labels": {"release": "prometheus"},
        "serviceMonitor": {"enabled": True},
        "prometheusRule": {"enabled": True},
        "dashboards": {"enabled": True},
    },
}
OPTIONS = {
    "defaults": {},
    "values-ha.yaml": HA,
    "everything": EVERYTHING,
    "values-ha.yaml and everything": chart.merge(HA, EVERYTHING),
    "hpa": {"autoscaling": {"kind": "hpa"}},
    "a registry elsewhere": {
        "registry": {"enabled": False, "url": "https://registry.corp.example"},
        "publicHost": "registry.corp.example",
        "networkPolicy": {"registry": [{"ipBlock": {"cidr": "192.0.2.10/32"}}]},
        "ingress": {"enabled": True},
    },
    "a registry elsewhere, tokens under another name": {
        "registry": {"enabled": False, "tokenHost": "tokens.example.com"},
        "gatewayApi": {"enabled": True, "parentRefs": [{"name": "edge"}]},
    },
    "the registry by its name in the cluster, in plain text": {
        "registry": {"url": "http://sluice-registry:5000", "allowPlainText": True},
        "nats": {"url": "nats://nats:4222", "allowPlainText": True},
    },
    "claims and ConfigMaps that exist": {
        "registry": {"persistence": {"existingClaim": "images"}},
        "scanner": {"cache": {"existingClaim": "trivy"}},
        "resources": {"configMap": "ours", "schedule": "17 * * * *"},
    },
    "as little as possible": {
        "registry": {"persistence": {"enabled": False}},
        "provision": {"enabled": False},
        "fullnameOverride": "gate",
    },
}

problems = []


def report(what, found, unit):
    """Prints what was checked, and remembers what is wrong."""
    found = list(found)
    print(f"{'FAILED' if found else 'ok':<6} {what}: {unit}")
    for one in found:
        print(f"         {one}")
    problems.extend(found)


def schema_problems(document, version):
    name = rules.name_of(document)
    try:
        kubernetes_validate.validate(document, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        place = "/".join(map(str, error.path))
        return [f"{name}, Kubernetes {version}: {place}: {error.message.splitlines()[0][:200]}"]
    except kubernetes_validate.SchemaNotFoundError:
        if wrong := custom.problem(document):
            return [f"{name}: {wrong}"]
    return []


def rule_problems(objects):
    return [problem for rule in rules.RULES for problem in rule(objects) or []]


def refused(values):
    """Returns why values are refused; empty if they are not."""
    try:
        chart.render(values)
    except helm_python.HelmError as error:
        return str(error)
    return ""


def check_renderings():
    renderings = {name: chart.render(values) for name, values in OPTIONS.items()}
    documents = {}
    for name, objects in renderings.items():
        report(f"rules, {name}", rule_problems(objects), f"{len(objects)} objects, {len(rules.RULES)} rules")
        documents |= {json.dumps(one, sort_keys=True): one for one in objects}
    for version in VERSIONS:
        found = [problem for one in documents.values() for problem in schema_problems(one, version)]
        report(f"schema of Kubernetes {version}, strict", found, f"{len(documents)} different objects")
    kinds = {(one["apiVersion"], one["kind"]) for one in documents.values()}
    report("custom resources", [f"no rendering has {kind}" for _, kind in set(custom.SPECS) - kinds], f"{len(custom.SPECS)} kinds")
    return renderings


def settings_problems(objects, binaries):
    """Lets each service check the settings that its pods would have."""
    for one, template, container in rules.containers(objects):
        service = rules.component(template["metadata"]["labels"])
        if service in rules.SETTINGS:
            environment = {name: value for name, value in rules.variables(container).items() if value is not None}
            command = [binaries / f"sluice-{service}", "--check-config"]
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            if done.returncode:
                yield f"{rules.name_of(one)}: {done.stderr.strip()}"


def check_settings(renderings, binaries):
    found = [problem for objects in renderings.values() for problem in settings_problems(objects, binaries)]
    report("services accept their settings", found, f"{len(renderings)} renderings, binaries of {binaries}")
    broken = copy.deepcopy(renderings["defaults"])
    breakage.add_variable(broken, "SLUICE__POLLER__CONCURRENCY", "0")
    found = [] if len(list(settings_problems(broken, binaries))) == 1 else ["a setting out of range was not found"]
    report("a setting that a service refuses is found", found, "1 rendering")


def check_broken_schema(objects):
    found = []
    for what, change in (
        ("a field with a typing error", lambda o: breakage.container(o).update(resourcess={})),
        ("a text instead of a number", lambda o: breakage.deployment(o)["spec"].update(replicas="two")),
        ("a trigger with a number", lambda o: breakage.first(o, "ScaledObject")["spec"]["triggers"][0]["metadata"].update(lagThreshold=1)),
    ):
        broken = copy.deepcopy(objects)
        change(broken)
        if not any(schema_problems(one, VERSIONS[-1]) for one in broken):
            found.append(f"{what} was not found")
    report("broken objects are found by the schemas", found, "3 objects")


def check_broken_renderings(objects):
    found = []
    for what, rule, change in breakage.RENDERINGS:
        broken = copy.deepcopy(objects)
        change(broken)
        if not list(rule(broken) or []):
            found.append(f"{what} was not found by {rule.__name__}")
    covered = {rule for _, rule, _ in breakage.RENDERINGS}
    found += [f"no broken rendering is written for {rule.__name__}" for rule in rules.RULES if rule not in covered]
    report("broken renderings are found", found, f"{len(breakage.RENDERINGS)} renderings")


def check_values():
    found = []
    for what, values, part in breakage.VALUES:
        message = refused(values)
        if part not in message:
            found.append(f"{what} is not refused: {message or 'rendered'}")
    report("wrong values are refused", found, f"{len(breakage.VALUES)} values")


def check_settings_schema():
    schema = json.loads((chart.CHART / "values.schema.json").read_text())
    services, found, count = schema["properties"]["services"]["properties"], [], 0
    for service, known in facts.settings().items():
        names = {name.removeprefix("SLUICE__") for name in known}
        wanted = {name for name in names - WRITTEN if name.split("__")[0] not in WRITTEN_SECTIONS}
        sections = services[service]["properties"]["settings"]["properties"]
        there = {f"{section}__{key}".upper() for section, keys in sections.items() for key in keys["properties"]}
        found += [f"{service}: values.schema.json and docs/SETTINGS.md differ in {name}" for name in sorted(wanted ^ there)]
        count += len(there)
    report("settings in values.schema.json are those of docs/SETTINGS.md", found, f"{count} settings")


def check_lint():
    result = helm_python.lint(str(chart.CHART), {}, strict=True)
    messages = result["messages"]
    # 1 is a remark, 2 a warning, 3 an error.
    found = result["errors"] + [str(message) for message in messages if message["severity"] > 1]
    report("helm lint, strict", found, f"{len(messages)} messages")


def kustomize(folder):
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True)
    if done.returncode:
        return [], done.stderr.strip()
    return list(yaml.safe_load_all(done.stdout)), ""


def check_base():
    report("deploy/kubernetes/base is what the chart renders", chart.drift(), "no drift")
    objects, error = kustomize(chart.BASE)
    wanted = {rules.name_of(one) for one in chart.render({})}
    found = [error] if error else rule_problems(objects)
    found += [f"{name} differs" for name in wanted ^ {rules.name_of(one) for one in objects}]
    found += [one for document in objects for one in schema_problems(document, VERSIONS[0])]
    report("kubectl kustomize deploy/kubernetes/base", found, f"{len(objects)} objects")
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        shutil.copytree(chart.BASE, folder / "base")
        overlay = {
            "resources": ["../base"],
            "namespace": "gate",
            "images": [{"name": "images.example.com/sluice/sluice-poller", "newTag": "9.9.9"}],
        }
        (folder / "overlay").mkdir()
        (folder / "overlay" / "kustomization.yaml").write_text(yaml.dump(overlay))
        objects, error = kustomize(folder / "overlay")
        found = [error] if error else rule_problems(objects)
        if not error and not breakage.container(objects)["image"].endswith("sluice-poller:9.9.9"):
            found.append("the image was not changed")
        found += [f"{rules.name_of(one)} is in another namespace" for one in objects if one["metadata"]["namespace"] != "gate"]
        report("an overlay with another namespace and image", found, f"{len(objects)} objects")
        changed = folder / "base"
        file = changed / "poller.yaml"
        file.write_text(file.read_text().replace("replicas: 1", "replicas: 7"))
        (changed / "extra.yaml").write_text("")
        found = [] if len(chart.drift(changed)) == 2 else ["a changed and an additional file were not found"]
        report("drift is found", found, "2 files")
        shutil.copytree(chart.CHART, folder / "sluice")
        with (folder / "sluice" / "files" / "alerts.yaml").open("a") as alerts:
            alerts.write("# changed\n")
        found = [] if len(chart.drift(chart=folder / "sluice")) == 1 else ["a changed copy of the alerts was not found"]
        report("drift of the alerts is found", found, "1 file")


def check_dashboards():
    files = sorted((chart.CHART / "files" / "dashboards").glob("*.json"))
    dashboards = [json.loads(file.read_text()) for file in files]
    found = []
    for key in ("uid", "title"):
        found += [f"two dashboards have one {key}"] * (len({one[key] for one in dashboards}) != len(dashboards))
    shown = {name for name in facts.metrics() if any(name in file.read_text() for file in files)}
    base = {name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count") for name in facts.metrics()}
    missing = {name for name in base if not any(one.startswith(name) for one in shown)}
    found += [f"no dashboard shows {name}" for name in sorted(missing)]
    report("dashboards show every metric of docs/METRICS.md", found, f"{len(files)} dashboards, {len(base)} metrics")


def check_nats_values():
    values = yaml.safe_load((chart.CHART.parent / "nats-values.yaml").read_text())
    config = values["config"]
    wanted = {
        "three servers": config["cluster"]["replicas"] == 3,
        "a limit below the volume": config["jetstream"]["fileStore"]["maxSize"] < config["jetstream"]["fileStore"]["pvc"]["size"],
        "each write on the disk": config["jetstream"]["merge"]["sync_interval"] == "always",
        "no token": values["podTemplate"]["merge"]["spec"]["automountServiceAccountToken"] is False,
        "a pinned image": "tag" in values["container"]["image"],
        "the users of Sluice, in a file that reads the passwords itself": list(config["merge"].values()) == ["../nats-auth/accounts.conf"],
    }
    report("deploy/helm/nats-values.yaml", [f"it lacks {what}" for what, is_met in wanted.items() if not is_met], f"{len(wanted)} rules")


def main():
    parser = argparse.ArgumentParser(prog="tests/chart/run")
    parser.add_argument("--binaries", metavar="FOLDER", type=pathlib.Path, help="built services that check their settings")
    binaries = parser.parse_args().binaries
    renderings = check_renderings()
    if binaries:
        check_settings(renderings, binaries)
    full = renderings["everything"]
    check_broken_schema(full)
    check_broken_renderings(full)
    check_values()
    check_settings_schema()
    check_lint()
    check_base()
    check_dashboards()
    check_nats_values()
    print(f"chart: {len(problems)} problems" if problems else "chart: ok")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
