"""Broken renderings and values: each must be found by the rule that it is written for."""

import rules


def deployment(objects, name="poller"):
    return next(one for one in objects if one["kind"] == "Deployment" and one["metadata"]["name"] == f"sluice-{name}")


def pod(objects, name="poller"):
    return deployment(objects, name)["spec"]["template"]["spec"]


def container(objects, name="poller"):
    return pod(objects, name)["containers"][0]


def first(objects, kind):
    return next(one for one in objects if one["kind"] == kind)


def add_variable(objects, name, value):
    container(objects)["env"].append({"name": name, "value": value})


def dashboard(objects, text):
    config = next(one for one in objects if one["metadata"]["name"] == "sluice-dashboards")
    config["data"]["sluice-overview.json"] = config["data"]["sluice-overview.json"].replace("sluice_breaches", text)


def remove(objects, kind, name="sluice-poller"):
    objects[:] = [one for one in objects if (one["kind"], one["metadata"]["name"]) != (kind, name)]


# What is done to the objects of a full rendering, and the rule that must find it.
RENDERINGS = [
    ("an image without a tag", rules.images_are_pinned, lambda o: container(o).update(image="registry.example.com/a")),
    ("an image with the tag latest", rules.images_are_pinned, lambda o: container(o).update(image="a/b:latest")),
    ("an image with half a digest", rules.images_are_pinned, lambda o: container(o).update(image="a/b@sha256:12")),
    ("a pod that runs as root", rules.pods_are_restricted, lambda o: pod(o)["securityContext"].update(runAsUser=0)),
    ("a pod without seccomp", rules.pods_are_restricted, lambda o: pod(o)["securityContext"].pop("seccompProfile")),
    ("a pod with a token", rules.pods_are_restricted, lambda o: pod(o).pop("automountServiceAccountToken")),
    ("a pod with service links", rules.pods_are_restricted, lambda o: pod(o).pop("enableServiceLinks")),
    ("a folder of the host", rules.pods_are_restricted, lambda o: pod(o)["volumes"].append({"name": "x", "hostPath": {"path": "/"}})),
    ("a container as root", rules.containers_are_restricted, lambda o: container(o)["securityContext"].update(runAsUser=0)),
    ("a root that can be written", rules.containers_are_restricted, lambda o: container(o)["securityContext"].update(readOnlyRootFilesystem=False)),
    ("capabilities that stay", rules.containers_are_restricted, lambda o: container(o)["securityContext"].pop("capabilities")),
    ("privileges that grow", rules.containers_are_restricted, lambda o: container(o)["securityContext"].pop("allowPrivilegeEscalation")),
    ("no limit of memory", rules.resources_are_set, lambda o: container(o)["resources"]["limits"].pop("memory")),
    ("no readiness probe", rules.probes_are_there, lambda o: container(o).pop("readinessProbe")),
    ("readiness by the wrong path", rules.probes_are_there, lambda o: container(o)["readinessProbe"]["httpGet"].update(path="/healthz")),
    ("a probe of a port that is not there", rules.probes_are_there, lambda o: container(o)["livenessProbe"]["httpGet"].update(port="web")),
    ("a setting that does not exist", rules.settings_are_known, lambda o: add_variable(o, "SLUICE__POLLER__CONCURENCY", "4")),
    ("a setting of another service", rules.settings_are_known, lambda o: add_variable(o, "SLUICE__MIRROR__CONCURRENCY", "4")),
    ("a number that is none", rules.settings_are_known, lambda o: add_variable(o, "SLUICE__POLLER__CONCURRENCY", "5e+06")),
    ("a setting without its prefix", rules.settings_are_known, lambda o: add_variable(o, "SLUICE_POLLER_CONCURRENCY", "4")),
    ("an unknown option of a job", rules.commands_are_known, lambda o: first(o, "Job")["spec"]["template"]["spec"]["containers"][0]["args"].append("--prune")),
    ("an unknown command of a job", rules.commands_are_known, lambda o: first(o, "Job")["spec"]["template"]["spec"]["containers"][0].update(args=["install"])),
    ("too little time to stop", rules.services_finish_their_work, lambda o: pod(o).update(terminationGracePeriodSeconds=30)),
    ("a port that nobody listens on", rules.ports_are_listened_on, lambda o: container(o)["ports"].append({"name": "x", "containerPort": 1})),
    ("a password that is not mounted", rules.files_are_mounted, lambda o: container(o)["volumeMounts"].pop(0)),
    ("a volume that nobody mounts", rules.files_are_mounted, lambda o: pod(o)["volumes"].append({"name": "x", "emptyDir": {}})),
    ("an account with rights", rules.accounts_have_no_rights, lambda o: o.append({"kind": "Role", "metadata": {"name": "x"}})),
    ("a pod without an account", rules.accounts_have_no_rights, lambda o: remove(o, "ServiceAccount")),
    ("a secret in the chart", rules.secrets_are_elsewhere, lambda o: o.append({"kind": "Secret", "metadata": {"name": "x"}})),
    ("a pod without a NetworkPolicy", rules.pods_are_isolated, lambda o: remove(o, "NetworkPolicy")),
    ("a rule for everybody", rules.pods_are_isolated, lambda o: first(o, "NetworkPolicy")["spec"]["egress"].append({"ports": [{"port": 443}]})),
    ("a pruner with the internet", rules.pods_are_isolated, lambda o: next(one for one in o if one["kind"] == "NetworkPolicy" and one["metadata"]["name"] == "sluice-pruner")["spec"]["egress"].append({"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]})),
    ("a Service without pods", rules.selectors_find_pods, lambda o: first(o, "Service")["spec"]["selector"].update(x="y")),
    ("a Service to a port that is not there", rules.selectors_find_pods, lambda o: first(o, "Service")["spec"]["ports"][0].update(targetPort="web")),
    ("a monitor without a Service", rules.selectors_find_pods, lambda o: first(o, "ServiceMonitor")["spec"]["selector"]["matchLabels"].update(x="y")),
    ("a route to nowhere", rules.services_are_reachable, lambda o: first(o, "HTTPRoute")["spec"]["rules"][0]["backendRefs"][0].update(port=1)),
    ("an Ingress to nowhere", rules.services_are_reachable, lambda o: first(o, "Ingress")["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"].update(name="x")),
    ("no budget", rules.drains_are_possible, lambda o: remove(o, "PodDisruptionBudget")),
    ("a budget that blocks a drain", rules.drains_are_possible, lambda o: first(o, "PodDisruptionBudget")["spec"].update(maxUnavailable=0)),
    ("replicas on one node", rules.replicas_spread, lambda o: pod(o).pop("topologySpreadConstraints")),
    ("scaling by a consumer that is not there", rules.scaling_follows_consumers, lambda o: first(o, "ScaledObject")["spec"]["triggers"][0]["metadata"].update(consumer="x")),
    ("scaling that leaves a stream out", rules.scaling_follows_consumers, lambda o: first(o, "ScaledObject")["spec"]["triggers"].pop()),
    ("scaling against a fixed number", rules.scaling_follows_consumers, lambda o: deployment(o, "mirror-worker")["spec"].update(replicas=2)),
    ("a dashboard of a metric that is not there", rules.metrics_exist, lambda o: dashboard(o, "sluice_images_promoted_total")),
    ("a dashboard by a label that is not there", rules.metrics_exist, lambda o: dashboard(o, "sluice_state_entries) + sum by (image) (sluice_breaches")),
    ("an alarm on a metric that is not there", rules.metrics_exist, lambda o: first(o, "PrometheusRule")["spec"]["groups"][0]["rules"][0].update(expr="sluice_message_waiting > 1")),
    ("an object twice", rules.names_are_unique, lambda o: o.append(first(o, "Service"))),
]

# Values that the schema or a template must refuse, and a part of the message.
VALUES = [
    ("a typing error at the top", {"replica": 2}, "replica"),
    ("a typing error below a service", {"services": {"poller": {"replica": 2}}}, "replica"),
    ("a service that does not exist", {"services": {"scanner": {"replicas": 2}}}, "scanner"),
    ("a setting that does not exist", {"services": {"poller": {"settings": {"poller": {"concurency": 2}}}}}, "concurency"),
    ("a setting of another service", {"services": {"poller": {"settings": {"mirror": {"concurrency": 2}}}}}, "mirror"),
    ("a setting of another type", {"services": {"poller": {"settings": {"poller": {"concurrency": "two"}}}}}, "concurrency"),
    ("a setting that the chart writes", {"services": {"poller": {"settings": {"http": {"listen": "0.0.0.0:1"}}}}}, "listen"),
    ("a setting among the variables", {"env": {"SLUICE__BUS__URL": "nats://x"}}, "SLUICE__BUS__URL"),
    ("the URL of traces without a place for the id", {"tracing": {"uiUrl": "https://jaeger.example.com/trace/"}}, "uiUrl"),
    ("the tag latest", {"image": {"tag": "latest"}}, "tag"),
    ("a digest that is none", {"registry": {"image": {"digest": "sha256:1"}}}, "digest"),
    ("a password in the URL of NATS", {"nats": {"url": "nats://a:b@nats:4222"}}, "url"),
    ("limits without memory", {"jobs": {"resources": {"limits": {"cpu": 1, "memory": None}}}}, "memory"),
    ("two replicas of streams", {"provision": {"replicas": 2}}, "replicas"),
    ("scaling of a service that does not scale", {"autoscaling": {"services": {"pruner": {"min": 1, "max": 2, "lag": 1}}}}, "pruner"),
    ("scaling to zero", {"autoscaling": {"services": {"promoter": {"min": 0, "max": 2, "lag": 1}}}}, "min"),
    ("a peer with a typing error", {"networkPolicy": {"edge": [{"namespaceselector": {}}]}}, "namespaceselector"),
    ("two registries on one volume", {"registry": {"replicas": 2, "httpSecret": {"name": "x"}}}, "ReadWriteMany"),
    ("two registries without a common secret", {"registry": {"replicas": 2}}, "httpSecret"),
    ("an API without a host", {"api": {"enabled": True}, "ingress": {"enabled": True}}, "api.host"),
    ("a route without a Gateway", {"gatewayApi": {"enabled": True}}, "parentRefs"),
    ("a certificate without an issuer", {"certManager": {"enabled": True}}, "issuer"),
    ("resources from two places", {"resources": {"documents": "kind: Mirror", "configMap": "x"}}, "resources"),
]
