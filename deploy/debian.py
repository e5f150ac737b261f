"""Root file systems made of Debian's packages, as entries for a layer.

Two ways: `Root` is a `debootstrap`, which needs root; `Archive` downloads packages of any architecture with apt's
own signature checks and extracts them without running anything, which needs neither root nor the same processor.
"""

import glob
import io
import os
import shutil
import subprocess
import tarfile
import time

import oci

SUITE = "bookworm"
MAIN = f"http://deb.debian.org/debian {SUITE} main"
SECURITY = f"http://deb.debian.org/debian-security {SUITE}-security main"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"

# What differs from run to run or from machine to machine, and what a container mounts over.
LEFT_OUT = (
    "dev", "proc", "sys", "run", "tmp", "var/log", "var/cache/apt", "var/cache/debconf", "var/cache/ldconfig",
    "var/lib/apt/lists", "etc/hostname", "etc/resolv.conf", "etc/machine-id",
)
# Own mounts and processes, so that whatever ends this program ends them too, and no mount outlives it.
ISOLATED = ("unshare", "--mount", "--pid", "--fork", "--kill-child")
# The folders that are links into /usr since Debian 12.
MERGED = ("bin", "lib", "lib32", "lib64", "libx32", "sbin")


def run(*command, **more):
    """Runs a command; what it wrote is shown only if it failed."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
                          stdin=subprocess.DEVNULL, **more)
    if done.returncode != 0:
        tail = done.stdout.decode(errors="replace")[-2000:]
        raise oci.Failed(f"`{' '.join(command)}` failed with {done.returncode}:\n{tail}")
    return done.stdout


def with_system_path():
    """The environment with the folders in which Debian keeps `debootstrap` and `chroot`."""
    return {**os.environ, "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin", "LC_ALL": "C.UTF-8",
            "DEBIAN_FRONTEND": "noninteractive"}


class Root:
    """A root file system made by debootstrap in a folder."""

    def __init__(self, folder, started=None):
        self.folder, self.started = folder, started or time.time()

    @staticmethod
    def possible():
        return os.geteuid() == 0 and shutil.which("debootstrap", path=with_system_path()["PATH"]) is not None

    @classmethod
    def bootstrap(cls, folder):
        """The release as it came out: `main` only, without what the security archive has fixed since."""
        root = cls(folder)
        mirror, suite, _ = MAIN.split()
        run(*ISOLATED, "debootstrap", "--variant=minbase", suite, folder, mirror, env=with_system_path())
        return root

    def copy(self, folder):
        run("cp", "--archive", "--one-file-system", self.folder, folder)
        return Root(folder, self.started)

    def upgrade(self):
        """Installs what the security archive has for it."""
        with open(os.path.join(self.folder, "etc/apt/sources.list"), "a", encoding="utf-8") as sources:
            sources.write(f"deb {SECURITY}\n")
        shutil.copy("/etc/resolv.conf", os.path.join(self.folder, "etc/resolv.conf"))
        for command in (["update"], ["--yes", "dist-upgrade"]):
            run(*ISOLATED, "chroot", self.folder, "apt-get", "-q", *command, env=with_system_path())

    def version(self):
        with open(os.path.join(self.folder, "etc/debian_version"), encoding="utf-8") as file:
            return file.read().strip()

    def newest(self):
        """When its newest package was made: nothing in the layer is later than that."""
        times = (os.lstat(os.path.join(folder, name)).st_mtime
                 for folder, _, names in os.walk(self.folder) for name in names)
        return int(max(when for when in times if when < self.started))

    def entries(self):
        """Everything but LEFT_OUT, sorted, no file newer than `newest`."""
        newest = self.newest()
        archive = tarfile.TarFile(fileobj=io.BytesIO(), mode="w", format=tarfile.PAX_FORMAT)
        for folder, folders, names in os.walk(self.folder):
            folders.sort()
            inside = os.path.relpath(folder, self.folder)
            # A link to a folder is listed among the folders, but is not walked into.
            for name in sorted(names + folders):
                path = os.path.normpath(os.path.join(inside, name))
                if path.startswith("var/lib/dpkg/") and path.endswith("-old") or os.path.dirname(path) in LEFT_OUT:
                    continue
                full = os.path.join(self.folder, path)
                if path in LEFT_OUT and not os.path.isdir(full):
                    continue
                info = archive.gettarinfo(full, path)
                if info is None:
                    continue
                # What was mounted over a folder decides its own time.
                info.mtime = newest if path in LEFT_OUT else min(info.mtime, newest)
                if info.isreg():
                    with open(full, "rb") as content:
                        yield info, content
                else:
                    yield info, None
            folders[:] = [name for name in folders if os.path.normpath(os.path.join(inside, name)) not in LEFT_OUT]


class Archive:
    """Debian's archive for one architecture, read through apt with lists and settings of its own."""

    def __init__(self, folder, architecture, sources):
        self.folder, self.architecture = folder, architecture
        for name in ("lists/partial", "archives/partial", "debs"):
            os.makedirs(os.path.join(folder, name))
        with open(os.path.join(folder, "sources.list"), "w", encoding="utf-8") as file:
            file.writelines(f"deb [signed-by={KEYRING}] {source}\n" for source in sources)
        open(os.path.join(folder, "status"), "w", encoding="utf-8").close()
        self.apt("update")

    def apt(self, *arguments):
        settings = {
            "APT::Architecture": self.architecture, "APT::Architectures": self.architecture,
            "APT::Sandbox::User": "", "Acquire::Languages": "none",
            "Dir::Etc::SourceList": f"{self.folder}/sources.list", "Dir::Etc::SourceParts": "/dev/null",
            "Dir::State": self.folder, "Dir::State::Lists": f"{self.folder}/lists",
            "Dir::State::Status": f"{self.folder}/status", "Dir::Cache": self.folder,
            "Dir::Cache::Archives": f"{self.folder}/archives",
        }
        options = [part for name, value in settings.items() for part in ("-o", f"{name}={value}")]
        return run("apt-get", "-q", *options, *arguments, cwd=f"{self.folder}/debs", env=with_system_path())

    def download(self, packages):
        """Exactly these packages, without what they depend on."""
        self.apt("download", *packages)
        return self.debs("debs")

    def download_base(self):
        """What `debootstrap --variant=minbase` would install."""
        self.apt("--yes", "--no-install-recommends", "--download-only", "install",
                 "?essential", "?priority(required)", "apt")
        return self.debs("archives")

    def debs(self, name):
        return sorted(glob.glob(f"{self.folder}/{name}/*.deb"))


def extracted(debs):
    """Unpacks packages in memory; returns the layer's entries and the time of the newest file.

    No script of a package runs: enough for data, certificates and static programs, and for a scanner.
    """
    found, folders, status, newest = [], {}, [], 0
    for deb in debs:
        control = run("dpkg-deb", "--field", deb).decode()
        package, _, rest = control.partition("\n")
        status.append(f"{package}\nStatus: install ok installed\n{rest}")
        with tarfile.open(fileobj=io.BytesIO(run("dpkg-deb", "--fsys-tarfile", deb))) as archive:
            for info in archive:
                info.name = merged(info.name)
                newest = max(newest, int(info.mtime))
                if info.isdir():
                    if info.name not in MERGED and info.name != ".":
                        folders.setdefault(info.name, (info, None))
                    continue
                if info.islnk():
                    info.linkname = merged(info.linkname)
                found.append((info, archive.extractfile(info).read() if info.isreg() else None))
    entries = [folders[name] for name in sorted(folders)]
    entries += [oci.link_entry(name, f"usr/{name}", newest) for name in MERGED if f"usr/{name}" in folders]
    entries += [(info, io.BytesIO(data) if data is not None else None) for info, data in found]
    entries.append(oci.file_entry("var/lib/dpkg/status", "\n".join(status).encode(), mtime=newest))
    if certificates := [data for info, data in found if info.name.endswith(".crt") and data]:
        entries.append(oci.file_entry("etc/ssl/certs/ca-certificates.crt", b"".join(certificates), mtime=newest))
    return entries, newest


def merged(path):
    """Where a package's file is, given that /bin and its like are links into /usr."""
    path = os.path.normpath(path)
    return f"usr/{path}" if path.partition("/")[0] in MERGED and path not in MERGED else path
