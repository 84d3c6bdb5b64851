"""The parent's end of one zygote: start it, give it a request, read what its child answers, have the child killed."""

from __future__ import annotations

import contextlib
import json
import marshal
import os
import select
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from . import values
from .zygote import END, FORK, FORKS, LAST, NOT_PRELOADED, USAGE


MAX_ANSWER_BYTES = 4 * values.MAX_BYTES  # bytes of all messages of one request
START_S = 30.0  # for a zygote to come up; it takes 0.2 s on an idle machine
KILL_S = 10.0  # for a zygote to kill its child and say so
QUIET_MS = 20  # in which most programs end: until then no message wakes the parent, only the end


class WorkerDied(Exception):
    """The zygote is gone, or does not answer."""


class NotPreloaded(Exception):
    """The program imports a module that this worker does without: it needs one with `complete` among its options."""


class Ended(NamedTuple):
    """How a request's process ended; `why` is set when the parent had it killed and the program is to blame."""

    status: int
    cpu_s: float
    why: str = ""


class Worker:
    """One zygote.

    Raises:
        WorkerDied: It did not come up.
    """

    def __init__(self, options: dict[str, Any], bubblewrap: str = "") -> None:
        ours, theirs = socket.socketpair()
        # An interpreter in a directory of its own that vanishes once it is the zygote's root
        with tempfile.TemporaryDirectory(prefix="reflectevo-root-") as empty, theirs:
            Path(empty).chmod(0o555)
            options = {**options, "empty_root": "" if bubblewrap else empty, "outside": []}
            if bubblewrap:
                options |= {"namespaces": False, "outside": ["bubblewrap"]}
            # A fresh process, not a fork: it shares nothing with the parent and costs the same whatever the parent holds
            self._process = subprocess.Popen(
                [
                    *_wrapped(bubblewrap),
                    _python(),
                    *("-s", "-P", "-S"),
                    _script(),
                    str(theirs.fileno()),
                    json.dumps(options),
                ],
                env=_environment(),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is the parent's to handle
                cwd="/",
            )
            self._complete = bool(options["complete"])
            self._control = ours
            self._channels: list[socket.socket] = []
            theirs.close()
            ours.settimeout(START_S)
            with contextlib.suppress(OSError):
                line = b""
                while not line.endswith(b"\n") and (part := ours.recv(1 << 12)):
                    line += part
                if line.endswith(b"\n"):
                    self.layers: tuple[str, ...] = tuple(json.loads(line))
                    ours.settimeout(KILL_S)
                    self._fork()
                    return
        self.stop()
        raise WorkerDied("the sandbox's process did not start")

    def stop(self) -> None:
        """End the zygote, and with it whatever runs in it."""
        self._control.close()
        for channel in self._channels:
            channel.close()
        try:
            self._process.wait(1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def run(self, request: dict[str, Any], receive: Callable[[Any], bool], wall_s: float) -> Ended | None:
        """Give a process the request and `receive` each of its messages, until that returns True.

        Returns:
            How the process ended; None when `receive` had all it needs.

        Raises:
            WorkerDied: The zygote died meanwhile.
            NotPreloaded: Nothing is known yet; the program says that it needs another worker.
        """
        missing = False

        def receive_unless_missing(message: Any) -> bool:
            nonlocal missing
            missing = message == [NOT_PRELOADED] and not self._complete
            return missing or receive(message)

        with self._channels.pop(0) as channel:
            why = _converse(channel, marshal.dumps(request), receive_unless_missing, time.monotonic() + wall_s)
        if why == _DONE:
            self._order(END)
            self._fork()
            if missing:
                raise NotPreloaded
            return None
        if why == _TIMED_OUT:
            why = f"was still running after {wall_s:g} s"
        self._order(LAST)
        reply = b""
        with contextlib.suppress(OSError):
            while len(reply) < USAGE.size and (part := self._control.recv(USAGE.size - len(reply))):
                reply += part
        if len(reply) < USAGE.size:
            raise WorkerDied("the sandbox's process died")
        self._fork()
        status, cpu_s = USAGE.unpack(reply)
        return Ended(status, cpu_s, why)

    def _fork(self) -> None:
        """Have the zygote fork the next children, while the last one that it has works."""
        if len(self._channels) <= 1:
            pairs = [socket.socketpair() for _ in range(FORKS)]
            self._channels += [ours for ours, _ in reversed(pairs)]
            try:
                self._order(FORK, [theirs.fileno() for _, theirs in pairs])
            finally:
                for _, theirs in pairs:
                    theirs.close()

    def _order(self, order: bytes, descriptors: Sequence[int] = ()) -> None:
        try:
            socket.send_fds(self._control, [order], descriptors)
        except OSError as error:
            raise WorkerDied("the sandbox's process died") from error


_DONE, _TIMED_OUT = "done", "timed out"


def _converse(channel: socket.socket, request: bytes, receive: Callable[[Any], bool], deadline: float) -> str:
    """Send the request, receive the messages; why that is the end, empty when the process ended by itself."""
    buffer = bytearray()
    n_bytes = 0
    try:
        channel.settimeout(max(deadline - time.monotonic(), 0.001))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it ended before it had read everything
            channel.sendall(request)
            channel.shutdown(socket.SHUT_WR)
        hang_up = select.poll()
        hang_up.register(channel, 0)
        hang_up.poll(QUIET_MS)
        while True:
            channel.settimeout(max(deadline - time.monotonic(), 0.001))
            part = channel.recv(1 << 16)
            if not part or time.monotonic() > deadline:
                return _TIMED_OUT if part else ""
            n_bytes += len(part)
            buffer += part
            while (end := buffer.find(b"\n")) >= 0:
                line = bytes(buffer[:end])
                del buffer[: end + 1]
                if receive(_message(line)):
                    return _DONE
            if len(buffer) > values.MAX_BYTES or n_bytes > MAX_ANSWER_BYTES:
                return "sent more than a result may hold"
    except TimeoutError:
        return _TIMED_OUT
    except ConnectionResetError:
        return ""


def _message(line: bytes) -> Any:
    """A message's content; None when it is no message."""
    try:
        return json.loads(line) if len(line) <= values.MAX_BYTES else None
    except (ValueError, RecursionError):
        return None


def _python() -> str:
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


def _script() -> str:
    return str(Path(__file__).resolve().with_name("zygote.py"))


def _environment() -> dict[str, str]:
    """Nothing of the parent's but where its interpreter finds its libraries."""
    ours = {
        "PYTHONHASHSEED": "0",  # the order of a set, and so the verdict, is the same in every run
        "PYTHONUTF8": "1",
        "PYTHONIOENCODING": "utf-8:backslashreplace",
        "PYTHONDONTWRITEBYTECODE": "1",
        "LD_BIND_NOW": "1",  # else each child resolves the C functions it calls anew, a tenth of its time
    }
    return ours | {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}


def find_bubblewrap() -> str:
    """The path of bubblewrap, empty when it is not installed."""
    return shutil.which("bwrap") or ""


def _wrapped(bubblewrap: str) -> list[str]:
    """The command that starts the rest of a command line in bubblewrap with nothing but an interpreter to read."""
    if not bubblewrap:
        return []
    library = Path(os.__file__).resolve().parent
    readable = [
        *("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/nix/store", "/gnu/store"),
        sysconfig.get_config_var("LIBDIR") or str(library),
        str(library),
        _python(),
        str(Path(__file__).resolve().parent),
    ]
    hidden = [str(path) for name in ("site-packages", "dist-packages") if (path := library / name).is_dir()]
    return [
        bubblewrap,
        *(
            "--unshare-user",
            "--unshare-ipc",
            "--unshare-pid",
            "--unshare-net",
            "--unshare-uts",
            "--unshare-cgroup-try",
        ),
        *("--uid", "65534", "--gid", "65534", "--cap-drop", "ALL", "--chdir", "/"),
        *(part for path in readable for part in ("--ro-bind-try", path, path)),
        *(part for path in hidden for part in ("--tmpfs", path, "--remount-ro", path)),
        *("--remount-ro", "/"),
    ]
