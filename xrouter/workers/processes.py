"""What the kernel says of a process (proc(5))."""

import os
from pathlib import Path
from typing import Final, NamedTuple

_TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


class Use(NamedTuple):
    cpu_s: float
    resident_bytes: int


def use(pid: int) -> Use:
    """Zeros for a process that is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return Use(0.0, 0)
    return Use((int(fields[11]) + int(fields[12])) * _TICK_S, pages * _PAGE_BYTES)
