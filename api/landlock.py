"""Giving up, for good, what a process has no use for: files, TCP, and signals to others.

Source: https://docs.kernel.org/userspace-api/landlock.html
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys

#: system calls; the same numbers on every architecture.
_CREATE_RULESET = 444
_RESTRICT_SELF = 446
_ASK_VERSION = 1
#: how many rights to files each version knows; version 1 came with Linux 5.13.
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}
_FILE_RIGHTS_SINCE_5 = 16
_BIND_AND_CONNECT_TCP = 0b11
_ABSTRACT_SOCKETS_AND_SIGNALS = 0b11


def version() -> int:
    """Landlock's version in this kernel; 0: it has none, or a sandbox around this process forbids it."""
    if sys.platform != "linux":
        return 0
    return max(0, int(_syscall(_CREATE_RULESET, None, 0, _ASK_VERSION)))


def close_off() -> None:
    """This thread, and every process that it forks, opens no file by any path from now on, and reaches no TCP port
    (Linux ≥ 6.7) and no process outside (≥ 6.12). What is open stays open. Does nothing where there is no Landlock.

    Needs `PR_SET_NO_NEW_PRIVS`.

    Raises:
        OSError: the kernel knows Landlock and refused.
    """
    known = version()
    if known == 0:
        return
    files = (1 << _FILE_RIGHTS.get(known, _FILE_RIGHTS_SINCE_5)) - 1
    fields = [files, _BIND_AND_CONNECT_TCP, _ABSTRACT_SOCKETS_AND_SIGNALS][: 1 + (known >= 4) + (known >= 6)]
    # Every right is handled and none is granted.
    rules = struct.pack(f"={len(fields)}Q", *fields)
    ruleset = _syscall(_CREATE_RULESET, rules, len(rules), 0)
    if ruleset < 0 or _syscall(_RESTRICT_SELF, ruleset, 0) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    os.close(ruleset)


def _syscall(number: int, *arguments: bytes | int | None) -> int:
    # As wide as registers are: the kernel reads all of each.
    wide = [value if isinstance(value, bytes | None) else ctypes.c_long(value) for value in arguments]
    return int(ctypes.CDLL(None, use_errno=True).syscall(ctypes.c_long(number), *wide))
