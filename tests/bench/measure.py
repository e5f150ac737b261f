"""Runs commands and tells what they took."""

import os
import statistics
import subprocess
import threading
import time
from dataclasses import dataclass, field


@dataclass
class Taken:
    """What one run of a command took."""

    seconds: float
    cpu: float
    """The peak of resident memory in MiB; of the process itself, without its children."""
    memory: float
    requests: dict = field(default_factory=dict)


def peak(pid):
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0.0


class Peak:
    """Follows the peak of a process, which the kernel keeps until the process ends."""

    def __init__(self, pid):
        self.pid, self.most, self.ended = pid, 0.0, threading.Event()
        self.thread = threading.Thread(target=self.follow, daemon=True)
        self.thread.start()

    def follow(self):
        while not self.ended.wait(0.005):
            self.most = max(self.most, peak(self.pid))

    def stop(self):
        self.ended.set()
        self.thread.join()
        return self.most


def run(command, log, environment=None):
    """Runs a command to its end; one that fails ends the whole."""
    with open(log, "ab") as output:
        output.write(("$ " + " ".join(map(str, command)) + "\n").encode())
        output.flush()
        began = time.monotonic()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **(environment or {})},
        )
        follow = Peak(process.pid)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        memory = follow.stop()
    if process.returncode != 0:
        raise SystemExit(f"`{command[0]}` failed with {process.returncode}; see {log}")
    return Taken(seconds, usage.ru_utime + usage.ru_stime, memory)


def median(values):
    return statistics.median(values)


def merged(counts):
    """Returns the median of each kind of request."""
    kinds = sorted({kind for one in counts for kind in one})
    return {kind: round(median([one.get(kind, 0) for one in counts])) for kind in kinds}


class Results:
    """What every tool took in every scenario."""

    def __init__(self):
        self.taken = {}

    def add(self, scenario, tool, taken):
        self.taken.setdefault(scenario, {}).setdefault(tool, []).append(taken)
        print(
            f"    {scenario}: {tool} {taken.seconds:.2f} s, CPU {taken.cpu:.2f} s, {taken.memory:.1f} MiB",
            flush=True,
        )

    def summary(self):
        summary = {}
        for scenario, tools in self.taken.items():
            for tool, every in tools.items():
                summary.setdefault(scenario, {})[tool] = {
                    "runs": len(every),
                    "seconds": round(median([one.seconds for one in every]), 3),
                    "cpu_seconds": round(median([one.cpu for one in every]), 3),
                    "peak_mib": round(max(one.memory for one in every), 1),
                    "requests": merged([one.requests for one in every]),
                    "all_seconds": [round(one.seconds, 3) for one in every],
                }
        return summary

    def print(self):
        for scenario, tools in self.summary().items():
            print(f"\n{scenario}")
            print(f"  {'':12} {'seconds':>9} {'CPU s':>8} {'peak MiB':>9} {'requests':>9}")
            for tool, row in tools.items():
                total = sum(row["requests"].values())
                print(
                    f"  {tool:12} {row['seconds']:9.3f} {row['cpu_seconds']:8.3f} {row['peak_mib']:9.1f} {total:9}"
                )
            for tool, row in tools.items():
                if row["requests"]:
                    kinds = ", ".join(f"{n} {kind}" for kind, n in row["requests"].items())
                    print(f"  {tool}: {kinds}")
