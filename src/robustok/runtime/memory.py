"""How much memory the process took."""

import sys
from pathlib import Path


def peak_rss_gib() -> float:
    """The most memory this process has held at once, in GiB (resident set, children not counted)."""
    status = Path("/proc/self/status")
    if status.is_file():  # Linux; ru_maxrss would start from the parent's memory there
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**20
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**30 if sys.platform == "darwin" else peak / 2**20
