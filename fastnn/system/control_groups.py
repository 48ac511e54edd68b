"""The control groups of this process: limits that Linux, or a container, sets.

Groups are nested. The tightest limit of a group and its ancestors applies.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

PROC, _ROOT = Path("/proc"), Path("/sys/fs/cgroup")


def control_groups(controller: str) -> Iterator[tuple[Path, int]]:
    """Yield the directories of groups that may limit a resource, each with its version, 1 or 2.

    A directory may be missing: inside a container, its own group is at the root, but the path that
    Linux reports may be that outside the container.

    Parameters
    ----------
    controller : {"memory", "cpu"}
        The resource.
    """
    with suppress(OSError):
        for line in os.fsdecode((PROC / "self" / "cgroup").read_bytes()).splitlines():
            if line.count(":") < 2:
                continue
            _, controllers, path = line.split(":", 2)
            own = Path(path.lstrip("/"))
            if not controllers:
                yield from ((_ROOT / group, 2) for group in (own, *own.parents))
            elif controller in controllers.split(","):
                yield from ((_ROOT / controller / group, 1) for group in (own, *own.parents))
