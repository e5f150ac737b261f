"""The poller itself."""


def measure(bench):
    raise SystemExit("not yet")
