"""The walls around a checked program: a seccomp allow-list, Landlock, namespaces, an empty root, no privileges.

The allow-list is the wall that everything stands on: no system call that takes a path, opens a socket, makes a
process, sends a signal or looks into another process. The others stand behind it, and each alone would keep the
program from files or from the network. x86-64 and aarch64, by raw system calls: the sandbox's own process imports
this file by its path and has the standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import struct
import sys
from typing import Any


ARCH = {"x86_64": 0, "amd64": 0, "aarch64": 1, "arm64": 1}.get(platform.machine().lower())
AUDIT_ARCH = (0xC000003E, 0xC00000B7)
UNPRIVILEGED_ID = 65534  # nobody

# What computing in Python needs: memory, threads, clocks, randomness, and file descriptors that are open already.
# name: (x86-64, aarch64); None: not there. The busiest first.
ALLOWED: dict[str, tuple[int | None, int | None]] = {
    "mmap": (9, 222),
    "munmap": (11, 215),
    "brk": (12, 214),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "mprotect": (10, 226),
    "futex": (202, 98),
    "read": (0, 63),
    "write": (1, 64),
    "readv": (19, 65),
    "writev": (20, 66),
    "lseek": (8, 62),
    "close": (3, 57),
    "fstat": (5, 80),
    "dup": (32, 23),
    "fcntl": (72, 25),
    "poll": (7, None),
    "ppoll": (271, 73),
    "select": (23, None),
    "pselect6": (270, 72),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123),
    "nanosleep": (35, 101),
    "clock_nanosleep": (230, 115),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "gettimeofday": (96, 169),
    "time": (201, None),
    "times": (100, 153),
    "getrusage": (98, 165),
    "getrlimit": (97, 163),
    "getrandom": (318, 278),
    "getpid": (39, 172),
    "getppid": (110, 173),
    "gettid": (186, 178),
    "getuid": (102, 174),
    "geteuid": (107, 175),
    "getgid": (104, 176),
    "getegid": (108, 177),
    "uname": (63, 160),
    "sysinfo": (99, 179),
    "arch_prctl": (158, None),
    "set_tid_address": (218, 96),
    "set_robust_list": (273, 99),
    "rseq": (334, 293),
    "membarrier": (324, 283),
    "restart_syscall": (219, 128),
    "exit": (60, 93),
    "exit_group": (231, 94),
}
CLONE, CLONE3, IOCTL, PRLIMIT64 = (56, 220), (435, 435), (16, 29), (302, 261)
CLONE_THREAD = 0x00010000

_LOAD, _JUMP_IF_EQUAL, _JUMP_IF_SET, _RETURN = 0x20, 0x15, 0x45, 0x06
_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOTTY, _ENOSYS = 1, 25, 38
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
_CLONE_NEWNS, _CLONE_NEWCGROUP, _CLONE_NEWUTS = 0x00020000, 0x02000000, 0x04000000
_CLONE_NEWIPC, _CLONE_NEWUSER, _CLONE_NEWNET = 0x08000000, 0x10000000, 0x40000000
_LANDLOCK_CREATE_RULESET, _LANDLOCK_RESTRICT_SELF = 444, 446  # the same on every architecture
_CAPSET = (126, 91)


class WallError(OSError):
    """The kernel refused to build a wall."""


def seccomp_filter(arch: int) -> bytes:
    """The allow-list as a BPF program. Threads may start, processes may not; limits may be read, not set."""

    def op(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
        return struct.pack("=HBBI", code, if_true, if_false, value)

    def error(number: int) -> bytes:
        return op(_RETURN, _ERRNO | number)

    argument = [_ARGUMENTS + 8 * i for i in range(6)]  # the lower half first: both architectures are little-endian
    program = [
        # For a filter that looks at nothing but the number the kernel works out all answers when it is put on, which
        # takes as long again; what a check's few calls win by that is less. So it looks at an argument first.
        op(_LOAD, argument[0]),
        op(_LOAD, _ARCHITECTURE),
        op(_JUMP_IF_EQUAL, AUDIT_ARCH[arch], 1, 0),
        op(_RETURN, _KILL_PROCESS),  # 32-bit system calls have other numbers
        op(_LOAD, _NUMBER),
    ]
    for numbers in ALLOWED.values():
        if (number := numbers[arch]) is not None:
            program += [op(_JUMP_IF_EQUAL, number, 0, 1), op(_RETURN, _ALLOW)]
    program += [
        op(_JUMP_IF_EQUAL, CLONE[arch], 0, 4),
        op(_LOAD, argument[0]),
        op(_JUMP_IF_SET, CLONE_THREAD, 0, 1),
        op(_RETURN, _ALLOW),
        error(_EPERM),
        op(_JUMP_IF_EQUAL, PRLIMIT64[arch], 0, 6),
        op(_LOAD, argument[2]),
        op(_JUMP_IF_EQUAL, 0, 0, 3),
        op(_LOAD, argument[2] + 4),
        op(_JUMP_IF_EQUAL, 0, 0, 1),
        op(_RETURN, _ALLOW),
        error(_EPERM),
        op(_JUMP_IF_EQUAL, CLONE3[arch], 0, 1),
        error(_ENOSYS),  # its flags are behind a pointer; the C library falls back to clone
        op(_JUMP_IF_EQUAL, IOCTL[arch], 0, 1),
        error(_ENOTTY),
        error(_EPERM),
    ]
    return b"".join(program)


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


class Seccomp:
    """The filter, ready to be put on: built once, installed in each checked program's process."""

    def __init__(self) -> None:
        if ARCH is None or sys.platform != "linux":
            raise WallError(f"no seccomp filter for {sys.platform} on {platform.machine()}")
        instructions = seccomp_filter(ARCH)
        self._program = _Program(len(instructions) // 8, instructions)
        self._arguments = _prctl_arguments(_PR_SET_SECCOMP, 2, ctypes.addressof(self._program))

    def install(self) -> None:
        """Put the calling thread under the filter, for good."""
        _check(_LIBC.prctl(*self._arguments), "seccomp")


_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.syscall.restype = ctypes.c_long


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise WallError(number, f"{what}: {os.strerror(number)}")
    return result


def _prctl_arguments(option: int, value: int, address: int = 0) -> tuple[Any, ...]:
    return (option, *(ctypes.c_ulong(number) for number in (value, address, 0, 0)))


def _prctl(option: int, value: int) -> None:
    _check(_LIBC.prctl(*_prctl_arguments(option, value)), f"prctl {option}")


_DIE_WITH_PARENT = _prctl_arguments(_PR_SET_PDEATHSIG, 9)  # made once, not in each child: see zygote.py


def _syscall(number: int, *arguments: object, what: str) -> int:
    return _check(_LIBC.syscall(ctypes.c_long(number), *arguments), what)


def forbid_new_privileges() -> None:
    """Make set-user-id programs powerless, and this process unreadable for others of its user."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_DUMPABLE, 0)


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends."""
    _check(_LIBC.prctl(*_DIE_WITH_PARENT), "prctl")


def enter_namespaces() -> None:
    """Leave the machine's network, IPC, mounts and host name; as an ordinary user, in a new user namespace."""
    flags = _CLONE_NEWNS | _CLONE_NEWNET | _CLONE_NEWIPC | _CLONE_NEWUTS | _CLONE_NEWCGROUP
    if os.geteuid() != 0:
        flags |= _CLONE_NEWUSER
    _check(_LIBC.unshare(flags), "unshare")


def enter_empty_root(directory: str) -> None:
    """Make an empty directory the root of the file system."""
    os.chroot(directory)
    os.chdir("/")


def landlock() -> int:
    """Deny all file access, TCP, and signals or abstract sockets to the outside, as far as the kernel's version knows.

    Returns:
        The version of the kernel's Landlock.
    """
    version = _syscall(
        _LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(1), what="landlock_create_ruleset"
    )
    file_rights = {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)
    handled = struct.pack(
        "=QQQ",
        (1 << file_rights) - 1,
        0b11 if version >= 4 else 0,  # bind and connect over TCP
        0b11 if version >= 6 else 0,  # abstract Unix sockets, signals
    )
    used = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = _syscall(
        _LANDLOCK_CREATE_RULESET,
        ctypes.c_char_p(handled),
        ctypes.c_size_t(used),
        ctypes.c_uint32(0),
        what="landlock_create_ruleset",
    )
    try:
        _syscall(_LANDLOCK_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0), what="landlock_restrict_self")
    finally:
        os.close(ruleset)
    return version


def drop_privileges() -> bool:
    """Give up root's identity, where the process has it, and every capability. Whether the identity is an ordinary one."""
    if os.geteuid() == 0:
        with contextlib.suppress(OSError):  # a container may have taken the right to do this as well
            os.setgroups([])
            os.setresgid(UNPRIVILEGED_ID, UNPRIVILEGED_ID, UNPRIVILEGED_ID)
            os.setresuid(UNPRIVILEGED_ID, UNPRIVILEGED_ID, UNPRIVILEGED_ID)
    header = struct.pack("=Ii", 0x20080522, 0)
    _syscall(_CAPSET[ARCH or 0], ctypes.c_char_p(header), ctypes.c_char_p(bytes(24)), what="capset")
    return os.geteuid() != 0
