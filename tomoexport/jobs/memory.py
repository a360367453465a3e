"""How much memory a job may take."""

import os

SHARE = 0.5  # of the free memory, unless the user says otherwise
_CGROUP, _OWN_GROUPS = "/sys/fs/cgroup", "/proc/self/cgroup"


def budget(options):
    """Memory that a job may take.

    Parameters
    ----------
    options : object
        A verb's options; ``memory`` in GB, 0 for half of what is free.

    Returns
    -------
    int
        Bytes.
    """
    return int(options.memory * 1e9) or int(SHARE * available())


def available():
    """Memory that this process could get: of the machine, or of the group that a queue has put it in.

    Returns
    -------
    int
        Bytes.
    """
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        with open("/proc/meminfo", encoding="ascii") as handle:
            fields = dict(line.split(":", 1) for line in handle)
        free = int(fields["MemAvailable"].split()[0]) * 1024  # what caches hold can be had
    except (OSError, KeyError, ValueError):
        pass
    return min([free] + _rooms())


def _rooms():
    """What the control groups leave that this process is in, and their parents: a queue limits one of them."""
    out = []
    for line in (_text(_OWN_GROUPS) or "").splitlines():
        _, kinds, path = line.split(":", 2)
        version2 = kinds == ""
        if not version2 and "memory" not in kinds.split(","):
            continue
        top = _CGROUP if version2 else os.path.join(_CGROUP, "memory")
        names = [name for name in path.split("/") if name]
        for depth in range(len(names) + 1):
            out.append(_room(os.path.join(top, *names[:depth]), version2))
    return [room for room in out if room is not None]


def _room(folder, version2):
    """What a control group leaves, or None where there is no limit. What it uses for caches can be had."""
    names = ("memory.max", "memory.current") if version2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    most, used = (_text(os.path.join(folder, name)) for name in names)
    if most is None or used is None or not most.strip().isdigit():
        return None
    counts = dict(line.split() for line in (_text(os.path.join(folder, "memory.stat")) or "").splitlines())
    cached = int(counts.get("inactive_file" if version2 else "total_inactive_file", 0))
    return max(0, int(most) - int(used) + cached)


def _text(path):
    try:
        with open(path, encoding="ascii") as handle:
            return handle.read()
    except OSError:
        return None


def workers_that_fit(room, held, each, most):
    """How many threads a budget holds, at least one.

    Parameters
    ----------
    room : int
        The budget, bytes.
    held, each : int
        What all share and what every thread takes, bytes.
    most : int
        Threads that there are.

    Returns
    -------
    int
    """
    return max(1, min(most, int((room - held) // max(1, each))))
