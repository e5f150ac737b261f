"""Starts every container that the Helm chart renders, in Docker.

    tests/chart/containers FOLDER

FOLDER has the programs of Sluice. Their images are built, the chart is rendered for a NATS and a registry in plain text, and
each container runs as its pod would: the same arguments, variables, files, user and memory, a read-only root, no
capabilities. Secrets are those that `sluice keys` makes; what a pod may write to is in memory. The Job that provisions ends
with 0; each service becomes healthy by the check of its image, except the scanner adapter, which has no vulnerability
database here and says so. Needs Docker, and what `deploy/tools --for tests` installs.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True

import facts  # noqa: E402
import rules  # noqa: E402

sys.path.append(str(facts.ROOT / "deploy" / "kubernetes"))
import chart  # noqa: E402

PREFIX, TAG = "localhost/sluice-chart-test", str(os.getpid())
NETWORK = f"sluice-chart-test-{TAG}"
VALUES = {
    "nats": {"url": "nats://nats:4222", "allowPlainText": True},
    "registry": {"url": "http://sluice-registry:5000", "allowPlainText": True},
    "publicHost": "registry.example.com",
}
# Which file of `sluice keys` is a key of which Secret.
SECRETS = {"sluice-nats-passwords": "nats/{}", "sluice-accounts": "accounts/{}", "sluice-gateway-keys": "{}"}
WAIT_SECONDS = 120


class Failed(Exception):
    pass


def run(*command, **more):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, **more)
    if done.returncode:
        raise Failed(f"`{' '.join(map(str, command))}` failed:\n{done.stdout}{done.stderr}")
    return done.stdout.strip()


class Pods:
    """The containers of one rendering."""

    def __init__(self, folder, objects):
        self.folder, self.keys = folder, folder / "keys"
        self.objects = objects
        self.config_maps = {one["metadata"]["name"]: one for one in objects if one["kind"] == "ConfigMap"}
        self.started = []

    def secret(self, name, key):
        return (self.keys / SECRETS[name].format(key)).read_bytes()

    def files(self, volume):
        """Returns the files of a volume by their paths, or nothing for one that is written to."""
        if "projected" in volume:
            files = {}
            for source in volume["projected"]["sources"]:
                files |= self.files(source)
            return files
        if "configMap" in volume:
            one = self.config_maps[volume["configMap"]["name"]]
            return {key: text.encode() for key, text in one.get("data", {}).items()}
        if "secret" in volume:
            secret = volume["secret"]
            name = secret.get("secretName") or secret["name"]
            return {item["path"]: self.secret(name, item["key"]) for item in secret.get("items", [])}
        return None

    def mounts(self, name, template, container):
        """Returns the options of Docker for the volumes of a container."""
        options = []
        volumes = {one["name"]: one for one in template["spec"].get("volumes", [])}
        for mount in container.get("volumeMounts", []):
            path, files = mount["mountPath"], self.files(volumes[mount["name"]])
            if files is None:
                options += ["--tmpfs", f"{path}:uid=65532,gid=65532,mode=700,size=512m"]
                continue
            at = self.folder / name / mount["name"]
            at.mkdir(parents=True)
            for file, content in files.items():
                (at / file).parent.mkdir(parents=True, exist_ok=True)
                (at / file).write_bytes(content)
            run("chown", "-R", "65532:65532", at)
            options += ["-v", f"{at}:{path}:ro"]
        return options

    def variables(self, container):
        options, known = [], {}
        for one in container.get("env", []):
            value = one.get("value")
            if value is None:
                reference = one["valueFrom"]["secretKeyRef"]
                value = self.secret(reference["name"], reference["key"]).decode().strip()
            # As Kubernetes does for variables that are defined before.
            for name, text in known.items():
                value = value.replace(f"$({name})", text)
            known[one["name"]] = value
            options += ["-e", f"{one['name']}={value}"]
        return options

    def start(self, one, template, container):
        """Starts a container as its pod would."""
        name = one["metadata"]["name"]
        image = container["image"].rpartition("/")[2].partition(":")[0]
        context = container["securityContext"]
        # The official image runs `registry serve` with its argument; ours names its own file.
        command = container.get("command") or (["/usr/bin/registry", "serve"] if image == "registry" else [])
        options = [
            "--network", NETWORK, "--network-alias", name, "--read-only", "--user", str(context["runAsUser"]),
            "--cap-drop", *context["capabilities"]["drop"], "--security-opt", "no-new-privileges",
            "--memory", container["resources"]["limits"]["memory"].replace("i", "").lower(),
            *self.variables(container), *self.mounts(name, template, container),
            *(["--entrypoint", command[0]] if command else []),
        ]
        arguments = [*command[1:], *container.get("args", [])]
        started = run("docker", "run", "-d", "--name", f"{NETWORK}-{name}", *options, f"{PREFIX}/{image}:{TAG}", *arguments)
        self.started.append((name, started))
        return started


def state(container, template):
    return run("docker", "inspect", "-f", template, container)


def log(container):
    done = subprocess.run(["docker", "logs", "--tail", "30", container], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def until(what, container, condition):
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(1)
    raise Failed(f"waited {WAIT_SECONDS} s in vain for {what}:\n{log(container)}")


def check(pods):
    all_containers = list(rules.containers(pods.objects))
    jobs = [one for one in all_containers if rules.component(one[1]["metadata"]["labels"]) == "provision"]
    services = [one for one in all_containers if one[0]["kind"] == "Deployment"]
    for job in jobs:
        started = pods.start(*job)
        until("the end of the Job", started, lambda: state(started, "{{.State.Status}}") == "exited")
        if state(started, "{{.State.ExitCode}}") != "0":
            raise Failed(f"the Job ended with {state(started, '{{.State.ExitCode}}')}:\n{log(started)}")
        print(f"  {job[0]['metadata']['name']}: ended with 0")
    # The gateway first: the others get tokens from it.
    for service in sorted(services, key=lambda one: "gateway" not in one[0]["metadata"]["name"]):
        name, started = service[0]["metadata"]["name"], pods.start(*service)
        began = time.monotonic()
        if name.endswith("scanner-adapter"):
            until("the wait for a database", started, lambda: "nothing is scanned until" in log(started))
            what = "runs, and waits for a vulnerability database"
        elif state(started, "{{if .State.Health}}y{{end}}"):
            until(f"{name} to be healthy", started, lambda: state(started, "{{.State.Health.Status}}") == "healthy")
            what = f"healthy after {time.monotonic() - began:.0f} s"
        else:
            what = "runs"
        if state(started, "{{.State.Running}} {{.RestartCount}}") != "true 0":
            raise Failed(f"{name} does not run:\n{log(started)}")
        print(f"  {name}: {what}")
    print(f"chart: {len(jobs)} Jobs and {len(services)} services ran as rendered")


def main():
    parser = argparse.ArgumentParser(prog="tests/chart/containers", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs", metavar="FOLDER", type=pathlib.Path)
    programs = parser.parse_args().programs
    pods = None
    with tempfile.TemporaryDirectory(prefix="sluice-chart-") as folder:
        folder = pathlib.Path(folder)
        folder.chmod(0o755)
        try:
            run(facts.ROOT / "deploy/docker/build", "--binaries", programs, "--prefix", PREFIX, "--tag", TAG)
            run("docker", "network", "create", NETWORK)
            pods = Pods(folder, chart.render(VALUES))
            run(programs / "sluice", "keys", pods.keys)
            nats = folder / "nats"
            nats.mkdir()
            text = run(programs / "sluice", "nats-config", "--listen", "0.0.0.0:4222", "--plain-text", "--store", "/tmp/nats")
            (nats / "nats-server.conf").write_text(text.replace("nats/passwords.conf", "passwords.conf"))
            (nats / "passwords.conf").write_bytes((pods.keys / "nats/passwords.conf").read_bytes())
            run("chown", "-R", "65532:65532", nats)
            server = run("docker", "run", "-d", "--name", f"{NETWORK}-nats", "--network", NETWORK, "--network-alias", "nats",
                         "--read-only", "--tmpfs", "/tmp:uid=65532,mode=700", "-v", f"{nats}:/etc/sluice:ro",
                         f"{PREFIX}/nats:{TAG}")
            pods.started.append(("nats", server))
            check(pods)
            return 0
        except (Failed, OSError, KeyError) as failure:
            print(f"chart: {failure!r}" if isinstance(failure, KeyError) else f"chart: {failure}", file=sys.stderr)
            return 1
        finally:
            for _, container in pods.started if pods else ():
                subprocess.run(["docker", "rm", "-f", container], capture_output=True, check=False)
            subprocess.run(["docker", "network", "rm", NETWORK], capture_output=True, check=False)
            images = run("docker", "image", "ls", "--format", "{{.Repository}}:{{.Tag}}", "--filter", f"reference={PREFIX}/*:{TAG}")
            if images:
                subprocess.run(["docker", "rmi", "-f", *images.split()], capture_output=True, check=False)


if __name__ == "__main__":
    sys.exit(main())
