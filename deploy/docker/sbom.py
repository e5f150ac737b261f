"""The bill of materials of an image, as CycloneDX 1.6.

It lists what the files of the image show: the crates of our programs, the modules of programs in Go, Debian's packages.
Equal images have equal bills: there is no time, no random number and no folder of this machine in them.
"""

import json
import re
import shutil
import subprocess
import tomllib
import urllib.parse

import oci

# The files of an image that are read: its programs, what Debian knows of its packages, and which Debian it is.
READ = re.compile(r"usr/bin/[^/]+|var/lib/dpkg/status(\.d/[^/]+)?|usr/lib/os-release")
GO_MARK = b"\xff Go buildinf:"


def command(*arguments):
    done = subprocess.run(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
                          check=False)
    if done.returncode != 0:
        raise oci.Failed(f"`{' '.join(arguments)}` failed:\n{done.stderr.strip()}")
    return done.stdout


def component(kind, name, version, purl=None, licence=None, sha256=None):
    """One entry; its reference in the graph is the package URL, or name and version where there is none."""
    found = {"type": kind, "bom-ref": purl or f"{name}@{version}", "name": name, "version": version}
    if purl:
        found["purl"] = purl
    if licence:
        # Older crates write a slash where SPDX has OR.
        found["licenses"] = [{"expression": re.sub(r"\s*/\s*", " OR ", licence)}]
    if sha256:
        found["hashes"] = [{"alg": "SHA-256", "content": sha256}]
    return found


class Bill:
    """The components of an image and what each needs."""

    def __init__(self, name, version):
        self.image = component("container", name, version)
        self.components, self.needs = {}, {self.image["bom-ref"]: set()}

    def add(self, found, needed_by=None):
        """Adds a component; without a name of who needs it, the image itself does."""
        ref = found["bom-ref"]
        self.components[ref] = found
        self.needs.setdefault(ref, set())
        self.needs[needed_by or self.image["bom-ref"]].add(ref)
        return ref

    def encoded(self):
        return oci.encode({
            "bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "metadata": {"component": self.image},
            "components": [self.components[ref] for ref in sorted(self.components)],
            "dependencies": [{"ref": ref, "dependsOn": sorted(self.needs[ref])} for ref in sorted(self.needs)],
        })


class Crates:
    """What cargo links into the programs of a workspace.

    The edges are those of `cargo tree`. The graph of `cargo metadata` has optional crates too that no feature switches on.
    """

    def __init__(self, root, rust):
        # Without a cargo of its own this machine uses that of the compiler's image.
        cargo = ["cargo"] if shutil.which("cargo") else ["docker", "run", "--rm", "-v", f"{root}:{root}:ro", rust, "cargo"]
        manifest = ("--locked", "--manifest-path", f"{root}/Cargo.toml")
        metadata = json.loads(command(*cargo, "metadata", *manifest, "--no-deps", "--format-version", "1"))
        self.programs = {target["name"]: f"{package['name']} v{package['version']}" for package in metadata["packages"]
                         for target in package["targets"] if "bin" in target["kind"]}
        tree = command(*cargo, "tree", *manifest, "--edges", "normal,no-proc-macro", "--prefix", "depth",
                       "--format", "\t{p}\t{l}")
        self.needs, self.licences, above = {}, {}, []
        for depth, package, licence in (line.split("\t") for line in tree.splitlines() if line):
            crate = " ".join(package.split(" ")[:2])
            del above[int(depth):]
            if above:
                self.needs[above[-1]].add(crate)
            above.append(crate)
            self.needs.setdefault(crate, set())
            self.licences[crate] = licence.removesuffix(" (*)")
        with open(f"{root}/Cargo.lock", "rb") as file:
            self.checksums = {f"{package['name']} v{package['version']}": package.get("checksum")
                              for package in tomllib.load(file)["package"]}

    def summary(self):
        """All of it, the same for equal workspaces."""
        needs = {crate: sorted(needed) for crate, needed in self.needs.items()}
        return oci.encode([self.programs, needs, self.licences, self.checksums]).decode()

    def add(self, bill, crate, needed_by=None):
        """Adds a crate with all that it needs."""
        name, version = crate.split(" v")
        checksum = self.checksums[crate]
        # Our own crates are in no registry.
        purl = f"pkg:cargo/{name}@{urllib.parse.quote(version)}" if checksum else None
        found = component("library", name, version, purl, self.licences[crate], checksum)
        is_known = found["bom-ref"] in bill.components
        ref = bill.add(found, needed_by)
        if not is_known:
            for needed in self.needs[crate]:
                self.add(bill, needed, ref)
        return ref


def go_modules(program):
    """The version of Go and the lines about modules that Go's linker wrote into a program, or None."""
    at = program.find(GO_MARK)
    # Programs before Go 1.18 have pointers there instead of texts.
    if at < 0 or not program[at + 15] & 2:
        return None
    at, texts = at + 32, []
    for _ in range(2):
        length = shift = 0
        while True:
            byte, at = program[at], at + 1
            length |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        texts.append(program[at:at + length])
        at += length
    # The lines are between two marks of 16 bytes.
    return texts[0].decode(), [line.split("\t") for line in texts[1][16:-16].decode().splitlines()]


def go_component(kind, name, path, version):
    return component(kind, name, version, f"pkg:golang/{path}@{urllib.parse.quote(version)}" if path else None)


def add_go_program(bill, name, go, lines, version):
    module = next((line[1] for line in lines if line[0] == "mod"), None)
    ref = bill.add(go_component("application", name, module, f"v{version}" if module else version))
    bill.add(go_component("library", "stdlib", "stdlib", go.removeprefix("go")), ref)
    modules = []
    for line in lines:
        if line[0] == "=>":
            modules[-1] = line
        elif line[0] == "dep":
            modules.append(line)
    for _, path, version, *_ in modules:
        bill.add(go_component("library", path, path, version), ref)


def add_packages(bill, files):
    """Debian's packages, of one file or of one file for each."""
    release = re.search(rb'^VERSION_ID="?([\d.]+)', files.get("usr/lib/os-release", b""), re.MULTILINE)
    distribution = ""
    if release:
        distribution = f"&distro=debian-{release[1].decode()}"
        bill.add(component("operating-system", "debian", release[1].decode()))
    for path, text in files.items():
        if path.startswith("var/lib/dpkg/status"):
            for paragraph in text.decode().split("\n\n"):
                field = dict(re.findall(r"^([\w-]+): *(.*)$", paragraph, re.MULTILINE))
                if "Package" in field:
                    name, version = field["Package"], field["Version"]
                    purl = f"pkg:deb/debian/{name}@{urllib.parse.quote(version, safe=':')}"
                    bill.add(component("library", name, version, f"{purl}?arch={field['Architecture']}{distribution}"))


def of_image(name, version, files, crates, ask_version):
    """The bill of an image with these files; `ask_version` gives the version of a program that is not ours."""
    bill = Bill(name, version)
    add_packages(bill, files)
    for path, content in sorted(files.items()):
        program = path.removeprefix("usr/bin/")
        if program in crates.programs:
            ref = crates.add(bill, crates.programs[program])
            bill.components[ref]["type"] = "application"
            for rust in set(re.findall(rb"rustc version (\d+\.\d+\.\d+)", content)):
                version = rust.decode()
                bill.add(component("library", "rust-std", version, f"pkg:generic/rust-std@{version}",
                                   "MIT OR Apache-2.0"), ref)
        elif path != program and (found := go_modules(content)):
            add_go_program(bill, program, *found, ask_version(f"/{path}"))
    return bill.encoded()
