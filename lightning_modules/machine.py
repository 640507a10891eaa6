"""What the machine still has to give."""

import re
from pathlib import Path


def available_memory(meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """Bytes that processes can still get without swapping; None where the system does not tell (only Linux does)."""
    if not meminfo.is_file():
        return None
    found = re.search(r"^MemAvailable: *(\d+) kB$", meminfo.read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else None
