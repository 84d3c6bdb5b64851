"""The process that model-written code is forked from: `python -s -P -S zygote.py CONTROL_FD OPTIONS`.

It imports what programs use, puts on the walls that can be had and then forks one child a check. It never sees a
program, a test or a value: each order is one byte and the descriptor of a fresh socket, on which the child gets its
program from the parent and answers. So no child's memory holds anything of another check. Standard library only.

Control socket, parent to zygote: `FORK` with descriptors (a child for each, for checks to come), `END` (the oldest
child's check is over: kill what is left of it), `LAST` likewise (and say how it ended).
Zygote to parent: one line of JSON when it is ready, then for each `LAST` a `USAGE` record. End of file ends everything.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib
import importlib.machinery
import importlib.util
import json
import marshal
import mmap
import os
import resource
import signal
import socket
import struct
import sys
import time
import types
from collections.abc import Iterable
from typing import Any, NoReturn


FORK, END, LAST = b"f", b"e", b"l"
FORKS = 8  # of one order
USAGE = struct.Struct("=id")  # wait status, CPU seconds
READY = "ready"
NOT_PRELOADED = "not preloaded"
MAX_MESSAGE = 200  # characters of an exception's text

# Imported before the walls go up: the fork of a process takes the longer the more it has mapped, so a zygote has what
# solutions import most, and a program that wants more runs again in one that has the rest as well.
_COMMON = """
    bisect collections collections.abc copy datetime decimal fractions functools heapq itertools json math operator
    random re string struct typing
"""
# Above all the extension modules: there is no file to load them from later. Where the library has the same in Python
# it does without: `_elementtree`, `_queue`, `_uuid`, `_zoneinfo`.
_REST = """
    _bz2 _contextvars _csv _ctypes _hashlib _lzma _opcode _pickle _posixsubprocess _strptime array binascii cmath fcntl
    mmap pyexpat select statistics unicodedata zlib
"""
_NOT_FOR_PROGRAMS = {
    *("site-packages", "dist-packages", "__pycache__", "test", "tests", "idlelib", "lib2to3", "turtledemo"),
    *("ensurepip", "tkinter", "_pyrepl"),
}


class StoredModules:
    """A finder and loader that imports the standard library from memory: behind the walls there are no files.

    The memory is a sealed file that no process can change: it is shared by all forks and none has to copy it. Without
    the base classes of importlib.abc, which brings 30 modules along, one of them with work to do after each fork.
    """

    def __init__(self) -> None:
        self._places: dict[str, tuple[str, int, int, bool]] = {}  # module name: path, start, end, is a package
        self._left_out = {
            name for name in _REST.split() if name not in sys.modules and importlib.util.find_spec(name) is not None
        }
        self.channel = -1  # of the child that this is in
        descriptor = os.memfd_create("modules", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        top = os.path.dirname(os.__file__)
        end = 0
        for folder, folders, files in os.walk(top):
            folders[:] = [name for name in folders if name not in _NOT_FOR_PROGRAMS and "-" not in name]
            package = folder[len(top) + 1 :].replace(os.sep, ".")
            for file in files:
                name = ".".join(filter(None, (package, file.removesuffix(".py"))))
                name, is_package = name.removesuffix(".__init__"), name.endswith("__init__")
                if file.endswith(".py") and name not in sys.modules:
                    path = os.path.join(folder, file)
                    content = self._compiled(path)
                    self._places[name] = (path, end, end + len(content), is_package)
                    end += os.write(descriptor, content)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE)
        self._memory = mmap.mmap(descriptor, end, prot=mmap.PROT_READ)
        os.close(descriptor)

    @staticmethod
    def _compiled(path: str) -> bytes:
        """The module's code where Python has it compiled already, else its source."""
        for candidate in (importlib.util.cache_from_source(path), path):
            with contextlib.suppress(OSError), open(candidate, "rb") as file:
                return file.read()
        return b""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> Any:
        if fullname in self._left_out:
            send(self.channel, [NOT_PRELOADED])
            os._exit(0)
        if fullname not in self._places:
            return None
        origin, _, _, is_package = self._places[fullname]
        loader: Any = self
        return importlib.machinery.ModuleSpec(fullname, loader, origin=origin, is_package=is_package)

    def create_module(self, spec: object) -> None:
        """Python's own way of making a module is right."""

    def exec_module(self, module: types.ModuleType) -> None:
        path, start, end, _ = self._places[module.__name__]
        content = self._memory[start:end]
        if content.startswith(importlib.util.MAGIC_NUMBER):
            code = marshal.loads(content[16:])  # after the magic number, flags, time and size of the source
        else:
            code = compile(content, path, "exec", dont_inherit=True)
        exec(code, module.__dict__)


def preload(names: Iterable[str]) -> None:
    """Import what programs use."""
    # What random, threading and logging do after each fork serves processes with threads; it is half a fork's cost
    register, os.register_at_fork = os.register_at_fork, lambda **_: None
    for name in names:
        with contextlib.suppress(ImportError):  # a Python without it: so its programs do without, too
            importlib.import_module(name)
    os.register_at_fork = register


def build_walls(options: dict[str, Any]) -> list[str]:
    """Put on every wall that can be had and is wanted; their names."""
    layers = list(options["outside"])
    # The kernel, when out of memory, takes the program first
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")
    if sys.platform == "linux":
        import walls

        if options["namespaces"]:
            with contextlib.suppress(OSError):
                walls.enter_namespaces()
                layers.append("namespaces")
        if options["empty_root"]:
            with contextlib.suppress(OSError):
                walls.enter_empty_root(options["empty_root"])
                layers.append("empty root")
        if walls.drop_privileges():
            layers.append("no privileges")
        walls.forbid_new_privileges()
        if options["landlock"]:
            with contextlib.suppress(OSError):
                layers.append(f"Landlock {walls.landlock()}")
    for name, value in (("AS", options["memory_mb"] << 20), ("FSIZE", 0), ("CORE", 0), ("NOFILE", 32)):
        limit: int = getattr(resource, f"RLIMIT_{name}")
        with contextlib.suppress(ValueError, OSError):  # macOS has no limit on the address space
            resource.setrlimit(limit, lowered(limit, value, value))
    return layers


def lowered(limit: int, soft: int, hard: int) -> tuple[int, int]:
    """A limit's values as far as this process may set them."""
    highest = resource.getrlimit(limit)[1]
    return (soft, hard) if highest == resource.RLIM_INFINITY else (min(soft, highest), min(hard, highest))


def serve(control: socket.socket, cpu_limit: tuple[int, int], seccomp: Any, stored: StoredModules | None) -> None:
    """Fork children, and kill the oldest when the parent says so, until the parent is gone.

    Children are forked before their program is known, so that no check waits for it, and several at a time: what the
    zygote writes to its memory between two forks is copied for each.
    """
    children: list[int] = []
    while True:
        order, descriptors, _, _ = socket.recv_fds(control, 1, FORKS)
        if order == FORK:
            while descriptors:
                descriptor = descriptors.pop()
                child = os.fork()
                if child == 0:
                    for foreign in (control.fileno(), *descriptors):
                        os.close(foreign)
                    if stored is not None:
                        stored.channel = descriptor
                    run_child(descriptor, cpu_limit, seccomp)
                children.append(child)
                os.close(descriptor)
        elif order == END:
            end(children.pop(0))
        elif order == LAST:
            let_end(children[0])
            control.send(USAGE.pack(*end(children.pop(0))))
        else:
            return


def let_end(child: int) -> None:
    """Wait a moment for a child that has hung up to end by itself: how it did so is asked for."""
    for _ in range(100 if hasattr(os, "waitid") else 0):  # macOS has none
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return
        time.sleep(0.001)


def end(child: int) -> tuple[int, float]:
    """Kill a child with what it started; its wait status and CPU seconds."""
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(OSError):  # its group is gone, or was never made
            kill(child, signal.SIGKILL)
    _, status, usage = os.wait4(child, 0)
    return status, usage.ru_utime + usage.ru_stime


def run_child(descriptor: int, cpu_limit: tuple[int, int], seccomp: Any) -> NoReturn:
    """Put on the last walls, wait for a request, work, and end without any clean-up of the program's."""
    try:
        zygote = os.getppid()
        os.setsid()
        if seccomp is not None:
            sys.modules["walls"].die_with_parent()
            if os.getppid() != zygote:
                os._exit(1)
        resource.setrlimit(resource.RLIMIT_CPU, cpu_limit)
        if seccomp is not None:
            seccomp.install()
        data = b""
        while part := os.read(descriptor, max(1 << 12, len(data))):
            data += part
        request = marshal.loads(data)  # with the calls as code objects: parent and zygote are one interpreter
        del data, part
        gc.enable()
        if "expressions" in request:
            judge(descriptor, request)
        else:
            run_program(descriptor, request)
        os.close(descriptor)  # tells the parent before the memory is torn down
    except BaseException as error:
        with contextlib.suppress(BaseException):
            send(descriptor, failure(error))
    finally:
        os._exit(0)


# `json.dumps` makes one for each text, for which a fresh fork has to copy 30 pages of memory
_json_chunks: Any = json.JSONEncoder(check_circular=False).iterencode
if make_encoder := getattr(json.encoder, "c_make_encoder", None):
    _json_chunks = make_encoder(None, None, json.encoder.encode_basestring_ascii, None, ": ", ", ", False, False, True)


def send(descriptor: int, message: Any) -> None:
    """Write one message as one line."""
    data = "".join(_json_chunks(message, 0)).encode() + b"\n"
    if len(data) > sys.modules["values"].MAX_BYTES:
        raise sys.modules["values"].TooLarge(f"a result of {len(data)} bytes")
    while data:
        data = data[os.write(descriptor, data) :]


def failure(error: BaseException) -> list[str]:
    """A message that says what was raised."""
    try:
        text = str(error)[:MAX_MESSAGE]
    except BaseException:
        text = ""
    return ["raised", str(type(error).__name__)[:MAX_MESSAGE], str.__str__(text)]


def run_program(descriptor: int, request: dict[str, Any]) -> None:
    """Run the code, the setup, then each call; a message for each of the three stages that ends well."""
    import values

    namespace = sys.modules["solution"].__dict__
    for name in ("code", "setup"):
        if request[name]:
            exec(compile(request[name], f"<{name}>", "exec", dont_inherit=True), namespace)
    send(descriptor, [READY])
    for call in request["calls"]:
        send(descriptor, ["value", values.encode(eval(call, namespace))])


def judge(descriptor: int, request: dict[str, Any]) -> None:
    """Evaluate trusted expressions over returned values: a message with a truth value for each."""
    import values

    for expression, trees in request["expressions"]:
        namespace: dict[str, Any] = {}
        exec(request["imports"], namespace)
        try:
            for name, tree in trees.items():
                namespace[name] = values.decode(tree)
            verdict = bool(eval(expression, namespace))
        except Exception as error:
            send(descriptor, failure(error))
        else:
            send(descriptor, ["value", verdict])


def main() -> None:
    """Load, build the walls, say so, serve."""
    control = socket.socket(fileno=int(sys.argv[1]))
    options = json.loads(sys.argv[2])
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import values  # noqa: F401  # loaded here for the children

    seccomp = None
    if options["seccomp"]:
        import walls

        with contextlib.suppress(OSError):
            seccomp = walls.Seccomp()
    preload(_COMMON.split() + (_REST.split() if options["complete"] else []))
    stored = StoredModules() if sys.platform == "linux" else None
    layers = build_walls(options)
    if seccomp is not None:
        layers.append("seccomp")
    if stored is not None:
        sys.path[:] = []
        sys.meta_path[:] = [importlib.machinery.BuiltinImporter, importlib.machinery.FrozenImporter, stored]
        sys.path_importer_cache.clear()
    sys.argv[:] = ["solution"]
    os.environ.clear()
    sys.modules["random"].seed(0)  # the same program gets the same verdict
    sys.modules["solution"] = types.ModuleType("solution")  # dataclasses and pickles look there
    gc.collect()
    gc.freeze()  # the collector of a child leaves the shared pages alone
    gc.disable()
    control.send(json.dumps(layers).encode() + b"\n")
    serve(control, lowered(resource.RLIMIT_CPU, options["cpu_s"], options["cpu_s"] + 1), seccomp, stored)


if __name__ == "__main__":
    main()
