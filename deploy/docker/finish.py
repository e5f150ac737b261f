"""Makes of a built image the one that is published: with its bill of materials, and the same for the same input.

No builder of Docker 20.10 does this: files that it makes have the time of the build, and the configuration names
intermediate images. So the image is saved, written anew, and loaded.
"""

import datetime
import json
import os
import re
import tarfile
import tempfile

import oci
import sbom


def docker(*arguments):
    return sbom.command("docker", *arguments)


def rewritten(entries, file):
    """Writes a layer: sorted, each file of 1970 and of no name of a user. Returns its digest."""
    out = oci.Hashed(file)
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for info, content in entries:
            info.mtime, info.uname, info.gname = 0, "", ""
            # What else a builder adds are times; these are rights.
            info.pax_headers = {key: value for key, value in info.pax_headers.items() if "xattr.security" in key}
            archive.addfile(info, content)
    return out.digest()


def sorted_entries(layer, files):
    """The entries of a layer, a link after what it links to; keeps the files that the bill needs."""
    for info in sorted(layer.getmembers(), key=lambda info: (info.islnk(), info.name)):
        content = layer.extractfile(info) if info.isreg() else None
        if content and sbom.READ.fullmatch(info.name):
            files[info.name] = content.read()
            content.seek(0)
        yield info, content


def configuration(built, created, labels, digests):
    """What of the configuration depends on the input only."""
    kept = {key: value for key, value in built["config"].items() if value and key not in ("Hostname", "Image")}
    kept["Labels"] = {**kept.get("Labels", {}), **labels}
    history = [{key: entry[key] for key in ("created_by", "comment", "empty_layer") if key in entry}
               for entry in built["history"]]
    history.append({"created_by": "COPY sbom /usr/share/sbom/"})
    return {"architecture": built["architecture"], "os": built["os"], "created": created, "config": kept,
            "rootfs": {"type": "layers", "diff_ids": digests},
            "history": [{**entry, "created": created} for entry in history]}


def ask_version(image, program):
    """The version that a program of the image says it has."""
    said = docker("run", "--rm", "--network", "none", "--entrypoint", program, image, "--version")
    if not (found := re.search(r"\bv?(\d+\.\d+\.\d+\S*)", said)):
        raise oci.Failed(f"`{program} --version` says no version: {said}")
    return found[1]


def finish(built, image, version, seconds, labels, crates):
    """Makes `image` of the built one, created at this time."""
    created = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    name = image.rpartition("/")[2].partition(":")[0]
    with tempfile.TemporaryDirectory() as folder:
        docker("save", "-o", f"{folder}/saved", built)
        files, digests, paths = {}, [], []

        def add(entries):
            paths.append(f"layer-{len(paths)}.tar")
            with open(f"{folder}/{paths[-1]}", "wb") as file:
                digests.append(rewritten(entries, file))

        with tarfile.open(f"{folder}/saved") as saved:
            manifest, = json.load(saved.extractfile("manifest.json"))
            config = json.load(saved.extractfile(manifest["Config"]))
            for path in manifest["Layers"]:
                with tarfile.open(fileobj=saved.extractfile(path)) as layer:
                    add(sorted_entries(layer, files))
        os.remove(f"{folder}/saved")
        bill = sbom.of_image(name, version, files, crates, lambda program: ask_version(built, program))
        add([oci.file_entry(f"usr/share/sbom/{name}.cdx.json", bill)])
        texts = {"config.json": configuration(config, created, labels, digests),
                 "manifest.json": [{"Config": "config.json", "RepoTags": [image], "Layers": paths}]}
        with tarfile.open(f"{folder}/finished", "w") as finished:
            for path in paths:
                finished.add(f"{folder}/{path}", path)
            for path, document in texts.items():
                finished.addfile(*oci.file_entry(path, oci.encode(document)))
        docker("load", "-i", f"{folder}/finished")


def write_bill(image, folder):
    """Copies the bill of an image out of it."""
    os.makedirs(folder, exist_ok=True)
    container = docker("create", image).strip()
    try:
        docker("cp", f"{container}:/usr/share/sbom/.", folder)
    finally:
        docker("rm", container)
