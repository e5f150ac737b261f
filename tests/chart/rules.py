"""The rules for rendered objects. Each takes all objects of a rendering and returns what is wrong with them."""

import json
import re

import facts

SETTINGS = facts.settings()
METRICS = facts.metrics()
COMMANDS, COMMAND_VARIABLES = facts.commands()
CONSUMERS = facts.consumers()

# What is watched by its labels alone: Prometheus adds them to each series.
ADDED_LABELS = {"instance", "job", "namespace", "pod"}
# The volumes of the profile "restricted".
VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret",
}
# Who may connect to addresses of the internet.
INTERNET = {"poller", "mirror-worker", "scanner-adapter", "promoter", "webhook-dispatcher"}


RULES = []


def rule(function):
    """Marks a function as a rule."""
    RULES.append(function)
    return function


def name_of(one):
    return f"{one['kind']} {one['metadata']['name']}"


def of_kind(objects, *kinds):
    return [one for one in objects if one["kind"] in kinds]


def component(labels):
    return labels.get("app.kubernetes.io/component")


def workloads(objects):
    """Yields each object that makes pods with the template of its pods."""
    for one in of_kind(objects, "Deployment", "Job", "CronJob", "StatefulSet", "DaemonSet"):
        spec = one["spec"]
        yield one, (spec["jobTemplate"]["spec"] if one["kind"] == "CronJob" else spec)["template"]


def containers(objects):
    for one, template in workloads(objects):
        spec = template["spec"]
        for container in spec.get("initContainers", []) + spec["containers"]:
            yield one, template, container


def variables(container):
    return {one["name"]: one.get("value") for one in container.get("env", [])}


def is_selected(selector, labels):
    return bool(selector) and all(labels.get(key) == value for key, value in selector.items())


@rule
def names_are_unique(objects):
    names = [name_of(one) for one in objects]
    return [f"{name} is rendered twice" for name in set(names) if names.count(name) > 1]


@rule
def images_are_pinned(objects):
    for one, _, container in containers(objects):
        image = container["image"]
        name, _, digest = image.partition("@")
        tag = name.rpartition("/")[2].partition(":")[2]
        if not (re.fullmatch("sha256:[0-9a-f]{64}", digest) if digest else tag and tag != "latest"):
            yield f"{name_of(one)}: image {image} is not pinned"


@rule
def pods_are_restricted(objects):
    for one, template in workloads(objects):
        pod, context = template["spec"], template["spec"].get("securityContext", {})
        wanted = {
            "runs as root": context.get("runAsNonRoot") is True and context.get("runAsUser", 0) != 0,
            "has no seccomp profile": context.get("seccompProfile") == {"type": "RuntimeDefault"},
            "gets a token of the API": pod.get("automountServiceAccountToken") is False,
            "gets variables of Services": pod.get("enableServiceLinks") is False,
            "is in a namespace of the host": not any(pod.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")),
            "has a volume that restricted refuses": all(
                set(volume) - {"name"} <= VOLUMES for volume in pod.get("volumes", [])
            ),
        }
        yield from (f"{name_of(one)} {what}" for what, is_met in wanted.items() if not is_met)


@rule
def containers_are_restricted(objects):
    for one, _, container in containers(objects):
        context = container.get("securityContext", {})
        wanted = {
            "runs as root": context.get("runAsNonRoot") is True and context.get("runAsUser") == 65532,
            "may write to its root": context.get("readOnlyRootFilesystem") is True,
            "may gain privileges": context.get("allowPrivilegeEscalation") is False and not context.get("privileged"),
            "has capabilities": context.get("capabilities") == {"drop": ["ALL"]},
            "opens a port of the host": not any("hostPort" in port for port in container.get("ports", [])),
        }
        where = f"{name_of(one)}: container {container['name']}"
        yield from (f"{where} {what}" for what, is_met in wanted.items() if not is_met)


@rule
def resources_are_set(objects):
    for one, _, container in containers(objects):
        for part in ("requests", "limits"):
            missing = {"cpu", "memory", "ephemeral-storage"} - set(container.get("resources", {}).get(part, {}))
            if missing:
                yield f"{name_of(one)}: no {part} of {', '.join(sorted(missing))}"


@rule
def probes_are_there(objects):
    for one, template, container in containers(of_kind(objects, "Deployment")):
        is_registry = component(template["metadata"]["labels"]) == "registry"
        ports = {port["name"] for port in container.get("ports", [])}
        for probe, path in (("startupProbe", "/healthz"), ("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
            request = container.get(probe, {}).get("httpGet", {})
            if request.get("path") != ("/" if is_registry else path) or request.get("port") not in ports:
                yield f"{name_of(one)}: {probe} is missing or wrong"


@rule
def settings_are_known(objects):
    for one, template, container in containers(objects):
        known = SETTINGS.get(component(template["metadata"]["labels"]), {})
        for name, value in variables(container).items():
            if name.startswith("SLUICE__"):
                if name not in known:
                    yield f"{name_of(one)}: setting {name} is not in docs/SETTINGS.md for this service"
                    continue
                default = known[name]
                is_number = isinstance(default, int) and not isinstance(default, bool)
                if is_number and not re.fullmatch("[0-9]+", value):
                    yield f"{name_of(one)}: {name} is {value}, not a number"
                if isinstance(default, bool) and value not in ("true", "false"):
                    yield f"{name_of(one)}: {name} is {value}, neither true nor false"
            elif name.startswith("SLUICE_") and (known or name not in COMMAND_VARIABLES):
                yield f"{name_of(one)}: variable {name} is not in docs/CLI.md"


@rule
def commands_are_known(objects):
    for one, _, container in containers(of_kind(objects, "Job", "CronJob")):
        command, *arguments = container["args"]
        options = {argument for argument in arguments if argument.startswith("-")}
        if unknown := options - COMMANDS.get(command, set()):
            yield f"{name_of(one)}: `sluice {command}` has no {', '.join(sorted(unknown))}"
        if command not in COMMANDS:
            yield f"{name_of(one)}: there is no command `sluice {command}`"


@rule
def services_finish_their_work(objects):
    for one, template, container in containers(of_kind(objects, "Deployment")):
        known = SETTINGS.get(component(template["metadata"]["labels"]))
        if known:
            name = "SLUICE__HTTP__GRACE_SECONDS"
            grace = int(variables(container).get(name, known[name]))
            if template["spec"].get("terminationGracePeriodSeconds") != grace + 15:
                yield f"{name_of(one)}: terminationGracePeriodSeconds is not {grace} + 15"


@rule
def ports_are_listened_on(objects):
    for one, template, container in containers(of_kind(objects, "Deployment")):
        known = SETTINGS.get(component(template["metadata"]["labels"]))
        if not known:
            continue
        values = known | variables(container)
        listening = [value for name, value in values.items() if name.endswith("__LISTEN")]
        open_ports = {int(value.rpartition(":")[2]) for value in listening if value.startswith("0.0.0.0:")}
        if open_ports != {port["containerPort"] for port in container["ports"]}:
            yield f"{name_of(one)}: its ports are not those that it listens on"


@rule
def files_are_mounted(objects):
    for one, template, container in containers(objects):
        volumes = {volume["name"]: volume for volume in template["spec"].get("volumes", [])}
        mounts = {mount["mountPath"]: mount["name"] for mount in container.get("volumeMounts", [])}
        for name in set(mounts.values()) ^ set(volumes):
            yield f"{name_of(one)}: volume {name} is not there, or not mounted"
        paths = [value for name, value in variables(container).items() if name.endswith("_FILE") and value]
        paths += [one for one in container.get("args", []) if one.startswith("/etc/sluice/resources/")]
        for path in paths:
            folder, _, file = path.rpartition("/")
            volume = volumes.get(mounts.get(folder), {})
            source = volume.get("secret") or volume.get("configMap") or {}
            if file not in {item["path"] for item in source.get("items", [])}:
                yield f"{name_of(one)}: nothing is mounted at {path}"


@rule
def accounts_have_no_rights(objects):
    for one in of_kind(objects, "Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"):
        yield f"{name_of(one)} gives rights"
    accounts = {one["metadata"]["name"]: one for one in of_kind(objects, "ServiceAccount")}
    for one, template in workloads(objects):
        account = accounts.get(template["spec"].get("serviceAccountName"))
        if not account or account.get("automountServiceAccountToken") is not False:
            yield f"{name_of(one)} has no ServiceAccount without a token"


@rule
def secrets_are_elsewhere(objects):
    yield from (f"{name_of(one)}: the chart makes no secrets" for one in of_kind(objects, "Secret"))


@rule
def pods_are_isolated(objects):
    policies = of_kind(objects, "NetworkPolicy")
    for one, template in workloads(objects):
        labels = template["metadata"]["labels"]
        own = [policy for policy in policies if is_selected(policy["spec"]["podSelector"].get("matchLabels"), labels)]
        if len(own) != 1 or set(own[0]["spec"]["policyTypes"]) != {"Ingress", "Egress"}:
            yield f"{name_of(one)}: not exactly one NetworkPolicy for both directions"
    for policy in policies:
        spec = policy["spec"]
        allowed = [one.get("from") for one in spec.get("ingress") or []] + [one.get("to") for one in spec["egress"]]
        for peers in allowed:
            if not peers:
                yield f"{name_of(policy)}: a rule is open to everybody"
            is_internet = any(peer.get("ipBlock", {}).get("cidr") == "0.0.0.0/0" for peer in peers or [])
            if is_internet and component(spec["podSelector"]["matchLabels"]) not in INTERNET | {"registry"}:
                yield f"{name_of(policy)}: it needs nothing from the internet"


@rule
def selectors_find_pods(objects):
    pods = [(one, template) for one, template in workloads(objects)]
    for service in of_kind(objects, "Service"):
        selected = [template for _, template in pods if is_selected(service["spec"]["selector"], template["metadata"]["labels"])]
        targets = {port["targetPort"] for port in service["spec"]["ports"]}
        if not selected:
            yield f"{name_of(service)} selects no pod"
        for template in selected:
            ports = {port["name"] for one in template["spec"]["containers"] for port in one.get("ports", [])}
            if not targets <= ports:
                yield f"{name_of(service)}: a pod has no port {', '.join(sorted(targets - ports))}"
    for monitor in of_kind(objects, "ServiceMonitor"):
        wanted = monitor["spec"]["selector"]["matchLabels"]
        if not any(is_selected(wanted, one["metadata"]["labels"]) for one in of_kind(objects, "Service")):
            yield f"{name_of(monitor)} selects no Service"
    for one, template in workloads(objects):
        if one["kind"] == "Deployment" and not is_selected(one["spec"]["selector"]["matchLabels"], template["metadata"]["labels"]):
            yield f"{name_of(one)} does not select its own pods"


@rule
def services_are_reachable(objects):
    """Routes lead to ports of Services."""
    services = {one["metadata"]["name"]: one["spec"]["ports"] for one in of_kind(objects, "Service")}
    targets = []
    for one in of_kind(objects, "Ingress"):
        for host in one["spec"]["rules"]:
            for path in host["http"]["paths"]:
                service = path["backend"]["service"]
                targets.append((one, service["name"], service["port"].get("name")))
    for one in of_kind(objects, "HTTPRoute"):
        for match in one["spec"]["rules"]:
            targets += [(one, backend["name"], backend["port"]) for backend in match["backendRefs"]]
    for one, name, port in targets:
        if not any(port in (known["name"], known["port"]) for known in services.get(name, [])):
            yield f"{name_of(one)} leads to port {port} of {name}, which is not there"


@rule
def drains_are_possible(objects):
    budgets = of_kind(objects, "PodDisruptionBudget")
    for one, template in workloads(objects):
        if one["kind"] != "Deployment":
            continue
        labels = template["metadata"]["labels"]
        own = [budget["spec"] for budget in budgets if is_selected(budget["spec"]["selector"]["matchLabels"], labels)]
        if len(own) != 1 or own[0].get("maxUnavailable") != 1 or own[0].get("unhealthyPodEvictionPolicy") != "AlwaysAllow":
            yield f"{name_of(one)}: not exactly one PodDisruptionBudget that lets nodes be drained"


@rule
def replicas_spread(objects):
    for one, template in workloads(objects):
        if one["kind"] == "Deployment":
            spread = template["spec"].get("topologySpreadConstraints", [])
            keys = {constraint["topologyKey"] for constraint in spread}
            if keys != {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}:
                yield f"{name_of(one)} is not spread over nodes and zones"


@rule
def scaling_follows_consumers(objects):
    deployments = {one["metadata"]["name"]: one for one in of_kind(objects, "Deployment")}
    for scaler in of_kind(objects, "ScaledObject", "HorizontalPodAutoscaler"):
        target = deployments.get(scaler["spec"]["scaleTargetRef"]["name"])
        if not target or "replicas" in target["spec"]:
            yield f"{name_of(scaler)}: its target is not there, or has a fixed number of replicas"
    for scaler in of_kind(objects, "ScaledObject"):
        followed = {(one["metadata"]["stream"], one["metadata"]["consumer"]) for one in scaler["spec"]["triggers"]}
        stage = component(scaler["metadata"]["labels"])
        for stream, consumer in followed ^ {pair for pair in CONSUMERS if pair[1] == stage}:
            yield f"{name_of(scaler)}: consumer {consumer} of {stream} is not there, or not followed"


def expressions(objects):
    """Yields each query of a dashboard, a rule and a scaler, with the object that has it."""
    for one in of_kind(objects, "PrometheusRule"):
        for group in one["spec"]["groups"]:
            yield from ((one, alert["expr"]) for alert in group["rules"])
    for one in of_kind(objects, "ConfigMap"):
        for name, text in one["data"].items():
            if not name.endswith(".json"):
                continue
            dashboard = json.loads(text)
            for panel in dashboard["panels"]:
                yield from ((one, target["expr"]) for target in panel["targets"])
            for variable in dashboard["templating"]["list"]:
                if variable["type"] == "query":
                    yield one, variable["query"]["query"]
    for one in of_kind(objects, "HorizontalPodAutoscaler"):
        for metric in one["spec"]["metrics"]:
            labels = ", ".join(f'{key}="{value}"' for key, value in metric["external"]["metric"]["selector"]["matchLabels"].items())
            yield one, f"{metric['external']['metric']['name']}{{{labels}}}"


@rule
def metrics_exist(objects):
    for one, expression in expressions(objects):
        names = re.findall(r"\bsluice_\w+", expression)
        for unknown in sorted(set(names) - set(METRICS)):
            yield f"{name_of(one)}: metric {unknown} is not in docs/METRICS.md"
        if not names:
            yield f"{name_of(one)}: no metric of Sluice in `{expression}`"
        known = ADDED_LABELS.union(*(METRICS.get(name, set()) for name in names))
        groups = re.findall(r"\b(?:by|on) \(([^)]*)\)", expression)
        labels = {label.strip() for group in groups for label in group.split(",")}
        labels |= set(re.findall(r"[{,]\s*(\w+)\s*[=!]", expression))
        labels |= set(re.findall(r"label_values\(\w+, (\w+)\)", expression))
        for unknown in sorted(labels - known):
            yield f"{name_of(one)}: no metric in `{expression}` has the label {unknown}"
