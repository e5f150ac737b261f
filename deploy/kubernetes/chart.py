"""Renders the chart, and writes a Kustomize base from it: `deploy/kubernetes/render`."""

import argparse
import pathlib
import shutil
import sys

import helm_python
import yaml

HERE = pathlib.Path(__file__).resolve().parent
CHART = HERE.parent / "helm" / "sluice"
BASE = HERE / "base"
ALERTS = HERE.parent / "alerts.yaml"
HEAD = "# Rendered from deploy/helm/sluice by deploy/kubernetes/render; change it there.\n"
NAMESPACE = "sluice"


def merge(below, above):
    """Returns the values of `below` with those of `above` over them, as Helm merges files of values."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def render_files(values, chart=CHART):
    """Renders the chart and returns the text of each template that makes objects."""
    # Loaded anew each time: a chart keeps what an earlier rendering changed in it.
    with helm_python.Chart.load(str(chart)) as loaded:
        files = loaded.render(values, name="sluice", namespace=NAMESPACE)
    return {name: text for name, text in files.items() if name.endswith(".yaml")}


def render(values, chart=CHART):
    """Renders the chart and returns its objects."""
    documents = (yaml.safe_load_all(text) for text in render_files(values, chart).values())
    return [document for stream in documents for document in stream if document]


def without_helm(value):
    """Returns an object without the marks of Helm, which would be wrong in a base that others install."""
    if isinstance(value, list):
        return [without_helm(item) for item in value]
    if not isinstance(value, dict):
        return value
    kept = {}
    for key, item in value.items():
        if key.startswith("helm.sh/") or key == "app.kubernetes.io/managed-by":
            continue
        item = without_helm(item)
        if key != "annotations" or item:
            kept[key] = item
    return kept


class Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks, and nothing as a reference."""

    def ignore_aliases(self, data):
        return True


Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style="|" if "\n" in text else None
    ),
)


def base_files(values):
    """Returns the text of each file of the base: one file for each component."""
    components = {}
    for document in render(values):
        # The namespace is the kustomization's, so that an overlay can change it.
        document = without_helm(document)
        del document["metadata"]["namespace"]
        component = document["metadata"]["labels"]["app.kubernetes.io/component"]
        components.setdefault(component, []).append(document)
    files = {}
    for component, documents in components.items():
        documents.sort(key=lambda one: (one["kind"], one["metadata"]["name"]))
        text = yaml.dump_all(documents, Dumper=Dumper, sort_keys=False, width=120)
        files[f"{component}.yaml"] = HEAD + text
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": NAMESPACE,
        "resources": sorted(files),
    }
    files["kustomization.yaml"] = HEAD + yaml.dump(kustomization, sort_keys=False)
    return files


def drift(folder=BASE, chart=CHART):
    """Returns what differs between the committed files and those that would be written."""
    wanted = {folder / name: text for name, text in base_files({}).items()}
    wanted[chart / "files" / "alerts.yaml"] = ALERTS.read_text()
    problems = [
        f"{path.name} differs from what deploy/kubernetes/render writes"
        for path, text in wanted.items()
        if not path.exists() or path.read_text() != text
    ]
    extra = set(folder.iterdir()) - set(wanted)
    return problems + [f"{path.name} is not written by deploy/kubernetes/render" for path in extra]


def write(folder, values):
    """Writes the files of a base into a folder, in the place of those that it has."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.yaml"):
        if not path.read_text().startswith(HEAD):
            sys.exit(f"{path} was not written by this program: name another folder")
        path.unlink()
    for name, text in base_files(values).items():
        (folder / name).write_text(text)


def main():
    parser = argparse.ArgumentParser(prog="deploy/kubernetes/render")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the committed base differs")
    parser.add_argument("--values", metavar="FILE", action="append", default=[], help="values, as for the chart")
    parser.add_argument("--to", metavar="FOLDER", type=pathlib.Path, help="where a base with these values goes")
    arguments = parser.parse_args()
    if arguments.check:
        problems = drift()
        print("\n".join(problems) or "no drift")
        sys.exit(bool(problems))
    if bool(arguments.values) != bool(arguments.to):
        parser.error("--values and --to belong together: `base/` has the defaults of the chart")
    if arguments.to:
        values = {}
        for file in arguments.values:
            values = merge(values, yaml.safe_load(pathlib.Path(file).read_text()))
        write(arguments.to, values)
        return
    shutil.copyfile(ALERTS, CHART / "files" / "alerts.yaml")
    write(BASE, {})


if __name__ == "__main__":
    main()
