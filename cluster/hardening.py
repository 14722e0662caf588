"""What the process asks of the kernel, so that its memory stays its own."""

from __future__ import annotations

import ctypes
import resource
import sys

_PR_SET_DUMPABLE = 4


def no_core_dumps() -> None:
    """A process that dies leaves no copy of its memory: keys are in it. The limit stops files; where dumps are piped to
    a program instead, Linux asks whether the process may be dumped at all (prctl(2)), which also keeps others of the
    same user from reading its memory."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
