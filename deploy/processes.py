"""Child processes that are stopped in order and are found again by a later run.

Only the standard library; knows nothing of what they do.
"""

import json
import os
import signal
import subprocess
import time

import oci

# How long a process may take to end once it is asked to: `sluice up` drains first.
STOP_SECONDS = 60


class Interrupt:
    """Makes signals a KeyboardInterrupt; once, so that what is cleaned up then is not interrupted again."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self):
        self.came = self.held = False

    def listen(self):
        for number in self.SIGNALS:
            signal.signal(number, self.handle)

    def handle(self, *_):
        if not self.came:
            self.came = True
            if not self.held:
                raise KeyboardInterrupt

    def __enter__(self):
        """Holds it back, for what must not be left half done."""
        self.held = True

    def __exit__(self, *_):
        self.held = False
        if self.came:
            raise KeyboardInterrupt


class Processes:
    """Processes in sessions of their own, so that Ctrl-C reaches us alone; a file says which there are."""

    def __init__(self, file, interrupt):
        self.file, self.interrupt = file, interrupt
        self.running = []

    def start(self, name, command, log, **more):
        """Starts a process whose output goes to a log file."""
        # A process that was started is one that is stopped.
        with open(log, "ab") as out, self.interrupt:
            more = {"stdout": out, "stderr": out, "stdin": subprocess.DEVNULL, **more}
            process = subprocess.Popen(command, start_new_session=True, **more)
            self.running.append((name, process))
            self.write(False)
        return process

    def write(self, kept):
        records = [{"name": name, "pid": process.pid, "started": started(process.pid)}
                   for name, process in self.running if process.poll() is None]
        with open(f"{self.file}.part", "w", encoding="utf-8") as out:
            json.dump({"kept": kept, "processes": records}, out)
        os.replace(f"{self.file}.part", self.file)

    def keep(self):
        """Leaves them to a later `stop_recorded`."""
        self.write(True)
        self.running = []

    def forget(self, process):
        """Lets go of a process that has ended."""
        self.running = [entry for entry in self.running if entry[1] is not process]
        self.write(False)

    def check(self):
        """Fails if one has ended."""
        for name, process in self.running:
            if process.poll() is not None:
                raise oci.Failed(f"{name} ended with {process.returncode}")

    def stop(self):
        """Stops them, the last started first."""
        while self.running:
            _, process = self.running.pop()
            end(process.pid, lambda process=process: process.poll() is not None)
        if os.path.exists(self.file):
            os.remove(self.file)


def recorded(file):
    """What an earlier run left running: whether it meant to, and `(name, pid)` of each that still runs."""
    try:
        with open(file, encoding="utf-8") as source:
            record = json.load(source)
    except FileNotFoundError:
        return False, []
    alive = [(entry["name"], entry["pid"]) for entry in record["processes"]
             if entry["started"] is not None and started(entry["pid"]) == entry["started"]]
    return record["kept"], alive


def stop_recorded(file):
    """Stops what an earlier run left running, and returns the names."""
    _, alive = recorded(file)
    for name, pid in reversed(alive):
        began = started(pid)
        end(pid, lambda pid=pid, began=began: started(pid) != began)
    if os.path.exists(file):
        os.remove(file)
    return [name for name, _ in alive]


def started(pid):
    """When a process was started, in ticks: with its number it is that process and no later one. None if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def end(pid, is_gone):
    """Asks a process group to end, and kills it if it does not."""
    for number, seconds in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, 5)):
        if is_gone():
            break
        try:
            os.killpg(pid, number)
        except ProcessLookupError:
            break
        deadline = time.monotonic() + seconds
        while not is_gone() and time.monotonic() < deadline:
            time.sleep(0.02)
    # What the first of the group has started and left.
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
