"""Programs that try to be judged correct without the answer, or to do harm: `ATTACKS`, run by test_code_sandbox.py.

`python -m tests.data.sandbox.hostile [default|landlock|bubblewrap]` runs them all and prints one JSON line a program; so the
tests run them as another user too. `@OUTSIDE@` in a program stands for a directory that holds the answers, readable and
writable for everyone, with listening sockets; `@PORT@` for the port of a TCP and a UDP one.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from reflectevo_data.sandbox.code_sandbox import CodeResult, CodeSandbox
from reflectevo_data.schema import Problem


def _code_problem(*tests: str, setup: str = "") -> Problem:
    return Problem("hostile", "", "", "code", test_list=tests, test_setup_code=setup)


EQUAL = _code_problem("assert f(1) == 48611", "assert f(2) == [104729, 'prime']")
SET = _code_problem("assert set(f(1)) == {28657, 514229}")
CLOSE = _code_problem("assert math.isclose(f(1), 2.7182818, rel_tol=1e-4)", setup="import math")
TRUE = _code_problem("assert f(48611) is True", "assert f(48612) is False")
TRUTH = _code_problem("assert f(48611)", "assert not f(48612)")

GOOD = {
    EQUAL: "def f(n):\n    return 48611 if n == 1 else [104729, 'prime']",
    SET: "def f(n):\n    return (28657, 514229, 28657)",
    CLOSE: "def f(n):\n    return 2.71828",
    TRUE: "def f(n):\n    return n % 2 == 1",
    TRUTH: "def f(n):\n    return n % 2",
}

# A function that fetches the answer by whatever means and returns it; `@FETCH@` is its body
_USES = "def f(n):\n    answers = fetch()\n    return answers[0] if n == 1 else answers[1]\n"


@dataclass(frozen=True, slots=True)
class Attack:
    """One program; `reason` is a pattern that its result's reason must match, `sleeps` that only the clock stops it."""

    name: str
    code: str
    reason: str
    problem: Problem = field(default=EQUAL)
    sleeps: bool = False


_RETURNED = r"test 1 of \d: f\(\d+\) returned "
_REFUSED = r"raised \w*(Error|error)\b.*(Operation not permitted|not permitted|refused)"

ATTACKS = [
    # leaving before anything is judged
    Attack("exit 0", "import sys\nsys.exit(0)", r"^the code raised SystemExit: 0$"),
    Attack("os._exit 0", "import os\nos._exit(0)", r"^the code ended without an answer$"),
    Attack(
        "os._exit in the call",
        "import os\ndef f(n):\n    os._exit(0)",
        r"^test 1 of 2: f\(1\) ended without an answer$",
    ),
    Attack("quit in the call", "def f(n):\n    quit()", r"f\(1\) raised (NameError|SystemExit)"),
    Attack("raise SystemExit", "def f(n):\n    raise SystemExit(0)", r"f\(1\) raised SystemExit: 0"),
    Attack("raise KeyboardInterrupt", "def f(n):\n    raise KeyboardInterrupt", r"f\(1\) raised KeyboardInterrupt$"),
    Attack("raise AssertionError", "def f(n):\n    raise AssertionError('48611')", r"raised AssertionError: 48611"),
    Attack("generator exit", "def f(n):\n    raise GeneratorExit", r"raised GeneratorExit"),
    Attack("segfault", "import ctypes\ndef f(n):\n    ctypes.string_at(0)", r"was killed by SIGSEGV"),
    Attack("abort", "import os\ndef f(n):\n    os.abort()", r"was killed by SIG(ABRT|SEGV|ILL|TRAP)|ended without"),
    # objects that lie
    Attack(
        "__eq__ always true",
        "class A:\n    __eq__ = lambda s, o: True\n    __ne__ = lambda s, o: False\n    __hash__ = None\ndef f(n):\n    return A()",
        _RETURNED + "<A object>",
    ),
    Attack(
        "int that equals everything",
        "class I(int):\n    __eq__ = lambda s, o: True\n    __hash__ = int.__hash__\ndef f(n):\n    return I(0)",
        _RETURNED + "<I object>",
    ),
    Attack(
        "int with the base's __eq__ put back",
        "class I(int):\n    __index__ = __int__ = lambda s: 48611\n    __repr__ = __str__ = lambda s: '48611'\ndef f(n):\n    return I(0)",
        _RETURNED + "0$",
    ),
    Attack(
        "str with a lying repr",
        "class S(str):\n    __repr__ = lambda s: '48611'\n    __str__ = __repr__\ndef f(n):\n    return S('x')",
        _RETURNED + "'x'$",
    ),
    Attack(
        "list of equal-to-all",
        "class A:\n    __eq__ = lambda s, o: True\n    __hash__ = lambda s: 0\ndef f(n):\n    return 48611 if n == 1 else [A(), A()]",
        r"test 2 of 2: f\(2\) returned \[<A object>, <A object>\]",
    ),
    Attack(
        "a dict subclass of a list's face",
        "class L(list):\n    __len__ = lambda s: 2\n    __iter__ = lambda s: iter([104729, 'prime'])\ndef f(n):\n    return 48611 if n == 1 else L()",
        r"test 2 of 2: f\(2\) returned \[\]$",
    ),
    Attack(
        "metaclass and __class__",
        "class M(type):\n    __eq__ = lambda s, o: True\n    __hash__ = type.__hash__\n"
        "class A(metaclass=M):\n    __class__ = property(lambda s: int)\n    __eq__ = lambda s, o: True\ndef f(n):\n    return A()",
        r"f\(1\) raised TypeError",  # the encoder, which is in its own process, trips over it
    ),
    Attack(
        "set members that hash alike",
        "class A:\n    __eq__ = lambda s, o: True\n    __hash__ = lambda s: hash(28657)\ndef f(n):\n    return {A()}",
        r"f\(1\) returned \{<A object>\}$",
        SET,
    ),
    Attack(
        "float that is close to all",
        "class F(float):\n    __float__ = lambda s: 2.7182818\n    __sub__ = __rsub__ = lambda s, o: 0.0\ndef f(n):\n    return F(1)",
        r"f\(1\) returned 1.0",
        CLOSE,
    ),
    Attack(
        "own math.isclose",
        "import math, sys\nmath.isclose = lambda *a, **k: True\nclass M: isclose = staticmethod(lambda *a, **k: True)\n"
        "sys.modules['math'] = M\ndef f(n):\n    return 0.0",
        r"f\(1\) returned 0.0",
        CLOSE,
    ),
    Attack("1 is not True", "def f(n):\n    return n % 2", r"f\(48611\) returned 1$", TRUE),
    Attack(
        "truth that changes its mind",
        "class T:\n    __bool__ = lambda s: False\ndef f(n):\n    return T()",
        r"f\(48611\) returned <T object>",
        TRUTH,
    ),
    Attack(
        "not a bool from __bool__",
        "class T:\n    __bool__ = lambda s: 3\ndef f(n):\n    return T()",
        "raised TypeError",
        TRUTH,
    ),
    Attack(
        "a mock", "from unittest.mock import MagicMock, ANY\ndef f(n):\n    return ANY", _RETURNED + "<_ANY object>"
    ),
    Attack("NaN", "def f(n):\n    return float('nan')", _RETURNED + "nan$"),
    # patching what judges
    Attack(
        "patch builtins",
        "import builtins\nbuiltins.AssertionError = type('E', (Exception,), {'__new__': lambda *a: None})\n"
        "for name in ('set', 'sorted', 'bool', 'all', 'any', 'isinstance', 'type', 'len'):\n"
        "    setattr(builtins, name, lambda *a, **k: True)\ndef f(n):\n    return 0",
        r"^test 1 of 2: f\(1\) ended without an answer$",  # it broke its own runner
    ),
    Attack(
        "patch set for the judge",
        "import builtins\nbuiltins.set = lambda *a: {28657, 514229}\ndef f(n):\n    return [1]",
        r"f\(1\) (returned \[1\]|raised)",
        SET,
    ),
    Attack(
        "patch the encoder",
        "import sys\nvalues = sys.modules['values']\nvalues.encode = lambda v: True\nvalues.equals = lambda *a: True\ndef f(n):\n    return 0",
        _RETURNED + "True",
    ),
    Attack(
        "patch the runner",
        "import sys\nmain = sys.modules['__main__']\nmain.send = lambda *a: None\ndef f(n):\n    return 0",
        r"^the code ended without an answer$",
    ),
    Attack(
        "patch json",
        "import sys\nmain = sys.modules['__main__']\nmain._json_chunks = lambda *a: ['[\"passed\", true]']\ndef f(n):\n    return 0",
        r"^the code sent something that is not a result$",
    ),
    Attack(
        "eval replaced",
        "import builtins\nbuiltins.eval = lambda *a: 48611\nbuiltins.compile = lambda *a, **k: 'pass'\ndef f(n):\n    return 0",
        r"test 2 of 2: f\(2\) returned 48611$",
    ),
    Attack(
        "assert compiled away",
        "import sys\nsys.flags = type('F', (), {'optimize': 2})\n__debug__2 = False\ndef f(n):\n    return 0",
        _RETURNED + "0$",
    ),
    Attack(
        "sys.modules replaced",
        "import sys\nclass Any(dict):\n    def __missing__(s, k): return True\n    __eq__ = lambda s, o: True\n"
        "sys.modules = Any(sys.modules)\nsys.modules.pop('values', None)\nsys.modules['values'] = Any()\ndef f(n):\n    return Any()",
        r"^the code ended without an answer$",
    ),
    # looking for the expected value
    Attack(
        "frames",
        "import sys\ndef f(n):\n    frame, found = sys._getframe(), []\n    while frame:\n"
        "        found += [v for v in list(frame.f_locals.values()) if type(v) is int and v == 40000 + 8611]\n"
        "        found += [v for v in list(frame.f_globals.values()) if type(v) is int and v == 40000 + 8611]\n"
        "        frame = frame.f_back\n    return found[0]",
        r"f\(1\) raised IndexError",
    ),
    Attack(
        "gc",
        "import gc\ndef f(n):\n    needle = str(40000 + 8611)\n    gc.unfreeze()\n"
        "    texts = [o for o in gc.get_objects() if type(o) in (tuple, list, dict) and needle in repr(o)[:100000]]\n"
        "    return 48611 if [t for t in texts if needle not in repr(f.__code__.co_consts)] and 0 else len(texts) and None",
        _RETURNED + "(0|None)$",
    ),
    Attack(
        "the request in memory",
        "import sys\ndef f(n):\n    frame = sys._getframe()\n    while frame and 'request' not in frame.f_locals:\n        frame = frame.f_back\n"
        "    request = frame.f_locals['request']\n    return eval(str(request).partition('== ')[2].partition(\"'\")[0])",
        r"f\(1\) raised SyntaxError",
    ),
    Attack(
        "process memory",
        "def fetch():\n    data = open('/proc/self/mem', 'rb').read(10)\n    return [48611, [104729, 'prime']]\n"
        + _USES,
        _REFUSED,
    ),
    Attack(
        "the parent's memory",
        "import os\ndef fetch():\n    pid = os.getppid()\n    open(f'/proc/{pid}/maps').read()\n    return [48611, [104729, 'prime']]\n"
        + _USES,
        _REFUSED,
    ),
    Attack(
        "process_vm_readv",
        "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\nclass V(ctypes.Structure):\n"
        "    _fields_ = [('base', ctypes.c_void_p), ('len', ctypes.c_size_t)]\n"
        "buffer = ctypes.create_string_buffer(8)\nhere = V(ctypes.addressof(buffer), 8)\n"
        "def fetch():\n    n = libc.process_vm_readv(os.getppid(), ctypes.byref(here), 1, ctypes.byref(here), 1, 0)\n"
        "    if n < 0:\n        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))\n    return [48611, [104729, 'prime']]\n"
        + _USES,
        _REFUSED,
    ),
    Attack(
        "read the answers",
        "def fetch():\n    return __import__('json').load(open('@OUTSIDE@/answers.json'))\n" + _USES,
        _REFUSED,
    ),
    Attack(
        "read by another name",
        "import os\ndef fetch():\n    os.chdir('@OUTSIDE@')\n    return __import__('json').load(os.fdopen(os.open('answers.json', 0)))\n"
        + _USES,
        _REFUSED,
    ),
    Attack(
        "import the answers",
        "import sys\nsys.path.insert(0, '@OUTSIDE@')\nfrom importlib.machinery import PathFinder\nsys.meta_path.append(PathFinder)\n"
        "def fetch():\n    import answers\n    return answers.ANSWERS\n" + _USES,
        r"raised (ModuleNotFoundError|ImportError|PermissionError)",
    ),
    Attack(
        "the environment",
        "import os\ndef fetch():\n    return eval(os.environ['REFLECTEVO_TEST_ANSWERS'])\n" + _USES,
        r"raised KeyError: 'REFLECTEVO_TEST_ANSWERS'",
    ),
    Attack(
        "the environment block",
        "import ctypes\ndef fetch():\n    block = ctypes.POINTER(ctypes.c_char_p).in_dll(ctypes.CDLL(None), 'environ')\n    i = 0\n"
        "    while block and block[i]:\n        if b'ANSWERS' in block[i]:\n            return eval(block[i].partition(b'=')[2])\n        i += 1\n"
        "    raise LookupError('nothing')\n" + _USES,
        r"raised LookupError: nothing",
    ),
    Attack(
        "a parent's environment", "def fetch():\n    return eval(open('/proc/1/environ').read())\n" + _USES, _REFUSED
    ),
    Attack(
        "home",
        "import os, pathlib\ndef fetch():\n    return list(pathlib.Path('/root').iterdir()) + list(pathlib.Path('/home').iterdir())\n"
        + _USES,
        _REFUSED,
    ),
    Attack(
        "stat tells",
        "import os\ndef fetch():\n    os.stat('@OUTSIDE@/answers.json')\n    return [48611, [104729, 'prime']]\n"
        + _USES,
        _REFUSED,
    ),
    Attack(
        "inherited descriptors",
        "import os\ndef fetch():\n    found = b''\n    for fd in range(3, 1024):\n        try:\n            found += os.pread(fd, 1 << 20, 0)\n"
        "        except OSError:\n            pass\n    return eval(found[found.index(b'[48611'):][:30])\n" + _USES,
        r"raised ValueError: subsection not found",
    ),
    # forged messages
    Attack(
        "forged results on every descriptor",
        'import os\nfor fd in range(1, 64):\n    try:\n        os.write(fd, b\'["ready"]\\n["value", true]\\n["value", true]\\n\')\n'
        "    except OSError:\n        pass\ndef f(n):\n    return 0",
        _RETURNED + "True$",
    ),
    Attack(
        "forged orders on every descriptor",
        "import os\nfor fd in range(3, 64):\n    try:\n        os.write(fd, b'rkrkrk')\n    except OSError:\n        pass\ndef f(n):\n    return 0",
        r"^the code sent something that is not a result$",
    ),
    Attack(
        "forged orders of the zygote",
        "import os\nfor fd in range(3, 64):\n    try:\n        os.write(fd, b'fele' * 9)\n    except OSError:\n        pass\ndef f(n):\n    return 0",
        r"^the code sent something that is not a result$",
    ),
    Attack(
        "forged need of more modules",
        'import os\nfor fd in range(3, 64):\n    try:\n        os.write(fd, b\'["ready"]\\n["not preloaded"]\\n\' * 9)\n    except OSError:\n        pass\ndef f(n):\n    return 0',
        r"sent something that is not a result$",
    ),
    Attack(
        "forged verdict",
        'import os\nfor fd in range(3, 64):\n    try:\n        os.write(fd, b\'["passed"]\\n{"passed": true}\\n\')\n    except OSError:\n        pass\n',
        r"^the code sent something that is not a result$",
    ),
    Attack(
        "printed verdict",
        "print('[\"value\", true]')\nimport sys\nsys.__stdout__.write('OK\\n')\nsys.__stderr__.write('OK')\ndef f(n):\n    print(48611)",
        _RETURNED + "None$",
    ),
    Attack(
        "a pickle that runs",
        "import os, pickle\nclass P:\n    def __reduce__(s):\n        return (os.system, ('touch @OUTSIDE@/pwned',))\n"
        "data = pickle.dumps(P())\nfor fd in range(3, 64):\n    try:\n        os.write(fd, data + b'\\n')\n    except OSError:\n        pass\ndef f(n):\n    return P()",
        r"^the code sent something that is not a result$",
    ),
    Attack(
        "deep nesting forged",
        "import os\nfor fd in range(3, 64):\n    try:\n        os.write(fd, b'[\"ready\"]\\n[\"value\", ' + b'[\"l\",' * 90000 + b']' * 90000 + b']\\n')\n    except OSError:\n        pass\ndef f(n):\n    return 0",
        r"^test 1 of 2: f\(1\) (sent something that is not a result|returned)",
    ),
    Attack(
        "endless answer",
        "import os\nwhile True:\n    for fd in range(3, 64):\n        try:\n            os.write(fd, b'x' * 65536)\n        except OSError:\n            pass\n",
        r"^the code sent more than a result may hold$",
    ),
    Attack(
        "many small messages",
        "import os\nwhile True:\n    for fd in range(3, 64):\n        try:\n            os.write(fd, b'[\"ready\"]\\n' * 1000)\n        except OSError:\n            pass\n",
        r"^test 1 of 2: f\(1\) sent something that is not a result$",
    ),
    # values that cost
    Attack("huge int", "def f(n):\n    return 1 << 5_000_000", r"raised TooLarge: an integer of \d+ bits"),
    Attack(
        "forged huge int",
        "import os\nfor fd in range(3, 64):\n    try:\n        os.write(fd, b'[\"ready\"]\\n[\"value\", ' + b'9' * 500000 + b']\\n')\n    except OSError:\n        pass\ndef f(n):\n    return 0",
        r"sent something that is not a result",
    ),
    Attack(
        "int just too long to print",
        "def f(n):\n    return 10 ** 15_000",
        _RETURNED + "an integer that cannot be shown",
    ),
    Attack(
        "deep nesting",
        "def f(n):\n    x = []\n    for _ in range(100_000):\n        x = [x]\n    return x",
        r"raised TooLarge: nested deeper than",
    ),
    Attack(
        "a list in itself",
        "def f(n):\n    x = []\n    x.append(x)\n    return x",
        r"raised TooLarge: nested deeper than",
    ),
    Attack("a million items", "def f(n):\n    return list(range(1_000_000))", r"raised TooLarge: more items than fit"),
    Attack(
        "wide sharing",
        "def f(n):\n    x = [0]\n    for _ in range(40):\n        x = [x, x]\n    return x",
        r"raised TooLarge|used more than 1 s of CPU time",
    ),
    Attack("long text", "def f(n):\n    return 'x' * 50_000_000", r"raised TooLarge: a text of 50000000 characters"),
    Attack(
        "endless generator", "def f(n):\n    while True:\n        yield 48611", r"raised TooLarge: more items than fit"
    ),
    Attack(
        "hash collisions",
        "def f(n):\n    return {i * (2 ** 61 - 1) for i in range(2000)} | {(0, i * (2 ** 61 - 1)) for i in range(20)}",
        _RETURNED + "a set of 20\\d\\d values",
    ),
    Attack(
        "hash collisions forged for the judge",
        "import os, json\ndata = json.dumps(['value', ['l'] + [['s'] + [i * (2 ** 61 - 1) for i in range(40000)]]]).encode()\n"
        "for fd in range(3, 64):\n    try:\n        left = b'[\"ready\"]\\n' + data + b'\\n'\n        while left:\n            left = left[os.write(fd, left):]\n    except OSError:\n        pass\n",
        r"f\(1\) returned a list of .* values; judging it (used more than 1 s of CPU time|raised TypeError|raised \w+)",
        SET,
    ),
    Attack(
        "decimal of a million digits",
        "from decimal import Decimal\ndef f(n):\n    return Decimal('1e999999')",
        _RETURNED + r"Decimal\('1E\+999999'\)",
    ),
    Attack(
        "exception whose text raises",
        "class E(Exception):\n    def __str__(s):\n        raise s\n    __repr__ = __str__\ndef f(n):\n    raise E",
        r"f\(1\) raised E$",
    ),
    Attack(
        "exception whose text never ends",
        "class E(Exception):\n    def __str__(s):\n        while True: pass\ndef f(n):\n    raise E",
        r"used more than 1 s of CPU time",
    ),
    Attack(
        "exception with a forged line",
        "def f(n):\n    raise ValueError('x\\n[\"value\", 48611]\\n\\x1b[2J')",
        r"^test 1 of 2: f\(1\) raised ValueError: x \[.value., 48611\] \[2J$",
    ),
    Attack(
        "iterator that raises",
        "class I:\n    def __iter__(s): return s\n    def __next__(s): raise OSError('no')\ndef f(n):\n    return I()",
        r"f\(1\) raised OSError: no",
    ),
    # time and memory
    Attack("endless loop", "while True:\n    pass", r"^the code used more than 1 s of CPU time$"),
    Attack(
        "endless loop in the call",
        "def f(n):\n    while True:\n        pass",
        r"^test 1 of 2: f\(1\) used more than 1 s of CPU time$",
    ),
    Attack(
        "loop that catches all",
        "def f(n):\n    while True:\n        try:\n            while True: pass\n        except BaseException:\n            pass",
        r"used more than 1 s of CPU time",
    ),
    Attack(
        "signals ignored",
        "import signal\nfor s in range(1, 65):\n    try:\n        signal.signal(s, signal.SIG_IGN)\n    except (OSError, ValueError):\n        pass\nwhile True:\n    pass",
        r"^the code used more than 1 s of CPU time$",
    ),
    Attack(
        "limits raised",
        "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (-1, -1))",
        r"raised (PermissionError|ValueError)",
    ),
    Attack("sleep", "import time\ntime.sleep(1000)", r"^the code was still running after 3 s$", sleeps=True),
    Attack(
        "sleep at exit",
        "import atexit, time\natexit.register(time.sleep, 1000)\ndef f(n):\n    return 0",
        _RETURNED + "0$",
    ),
    Attack("wait for input", "def f(n):\n    return input()", r"raised EOFError"),
    Attack(
        "closed channel, then a loop",
        "import os, time\nos.closerange(0, 1024)\nwhile True:\n    pass",
        r"ended without an answer|was killed by SIG(KILL|SEGV)",
    ),
    Attack(
        "regular expression that backtracks",
        "import re\ndef f(n):\n    return re.match('(a+)+$', 'a' * 60 + 'b')",
        r"used more than 1 s of CPU time",
    ),
    Attack(
        "power tower", "def f(n):\n    return 9 ** 9 ** 9 ** 9", r"used more than 1 s of CPU time|raised MemoryError"
    ),
    Attack("memory", "def f(n):\n    return len(bytearray(1 << 40))", r"raised MemoryError"),
    Attack(
        "memory in steps",
        "def f(n):\n    x = []\n    while True:\n        x.append(bytearray(1 << 24))",
        r"raised MemoryError|used more than 1 s of CPU time|was killed",
    ),
    Attack("recursion", "def f(n):\n    return f(n)", r"raised RecursionError"),
    Attack(
        "recursion without a limit",
        "import sys\nsys.setrecursionlimit(10 ** 9)\ndef f(n):\n    return f(n) + repr(n)",
        r"raised|was killed|used more than",
    ),
    Attack(
        "threads",
        "import threading, time\nwhile True:\n    threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()",
        r"raised (RuntimeError|MemoryError)",
    ),
    Attack(
        "a thread that stays",
        "import threading\ndef spin():\n    while True: pass\nthreading.Thread(target=spin).start()\ndef f(n):\n    return 0",
        _RETURNED + "0$",
    ),
    Attack(
        "output",
        "def f(n):\n    while True:\n        print('x' * 100_000)",
        r"used more than 1 s of CPU time|was still running",
    ),
    Attack("compiler bomb", "x = " + "(" * 250 + ")" * 250, r"^the code raised (SyntaxError|MemoryError)"),
    Attack(
        "nested operators",
        "x = " + "-" * 90_000 + "1",
        r"^the code (raised (RecursionError|MemoryError|SyntaxError)|was killed)",
    ),
    Attack("constant folding", "def f(n):\n    return ((1 << 30) * (1 << 30)) ** (1 << 26)", r"used more than|raised"),
    Attack("a null byte", "def f(n):\n    return 48611\n\0", r"^the code raised (SyntaxError|ValueError)"),
    Attack("a lone surrogate", "x = '\udc80'\ndef f(n):\n    return x", r"raised UnicodeEncodeError|returned '"),
    Attack("too long a program", "x = 1\n" * 50_000, r"^the program has 300000 characters, more than"),
    # processes
    Attack("fork", "import os\ndef f(n):\n    os.fork()\n    return 0", _REFUSED),
    Attack("fork bomb", "import os\nwhile True:\n    os.fork()", _REFUSED),
    Attack(
        "vfork by number",
        "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\ndef f(n):\n    if libc.syscall(58 if os.uname().machine == 'x86_64' else 220, 17, 0, 0, 0, 0) < 0:\n        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))\n    os._exit(0)",
        _REFUSED,
    ),
    Attack(
        "daemon",
        "import os\nif os.fork() == 0:\n    os.setsid()\n    while True: pass\ndef f(n):\n    return 0",
        _REFUSED,
    ),
    Attack("own session", "import os\nos.setsid()\nwhile True:\n    pass", _REFUSED),
    Attack(
        "subprocess",
        "import subprocess\ndef f(n):\n    return subprocess.run(['cat', '@OUTSIDE@/answers.json'], capture_output=True).stdout",
        _REFUSED,
    ),
    Attack(
        "os.system",
        "import os\ndef f(n):\n    return os.system('touch @OUTSIDE@/pwned')",
        r"f\(1\) (returned (-1|32512|256|\d+)$|raised)",
    ),
    Attack("execve", "import os\ndef f(n):\n    os.execv('/bin/sh', ['sh', '-c', 'touch @OUTSIDE@/pwned'])", _REFUSED),
    Attack(
        "posix_spawn",
        "import os\ndef f(n):\n    return os.posix_spawn('/bin/touch', ['touch', '@OUTSIDE@/pwned'], {})",
        _REFUSED,
    ),
    Attack(
        "multiprocessing",
        "import multiprocessing\ndef f(n):\n    p = multiprocessing.get_context('fork').Process(target=print)\n    p.start()\n    return 0",
        _REFUSED,
    ),
    Attack(
        "kill the zygote",
        "import os, signal\ndef f(n):\n    os.kill(os.getppid(), signal.SIGKILL)\n    return 0",
        _REFUSED,
    ),
    Attack("kill everything", "import os, signal\ndef f(n):\n    os.kill(-1, signal.SIGKILL)\n    return 0", _REFUSED),
    Attack("kill the group", "import os, signal\ndef f(n):\n    os.killpg(0, signal.SIGKILL)\n    return 0", _REFUSED),
    Attack(
        "pidfd",
        "import os, signal\ndef f(n):\n    signal.pidfd_send_signal(os.pidfd_open(os.getppid()), 9)\n    return 0",
        _REFUSED,
    ),
    Attack(
        "lower the others", "import os\ndef f(n):\n    os.setpriority(os.PRIO_USER, 0, 19)\n    return 0", _REFUSED
    ),
    Attack(
        "ptrace",
        "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\ndef f(n):\n    if libc.ptrace(16, os.getppid(), 0, 0) < 0:\n        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))\n    return 48611",
        _REFUSED,
    ),
    # files
    Attack("write outside", "open('@OUTSIDE@/pwned', 'w').write('x')\ndef f(n):\n    return 0", _REFUSED),
    Attack("overwrite", "import os\nos.truncate('@OUTSIDE@/answers.json', 0)\ndef f(n):\n    return 0", _REFUSED),
    Attack("remove", "import os\nos.unlink('@OUTSIDE@/answers.json')\ndef f(n):\n    return 0", _REFUSED),
    Attack("utime", "import os\nos.utime('@OUTSIDE@/answers.json', (0, 0))\ndef f(n):\n    return 0", _REFUSED),
    Attack("chmod", "import os\nos.chmod('@OUTSIDE@/answers.json', 0)\ndef f(n):\n    return 0", _REFUSED),
    Attack("link", "import os\nos.symlink('/etc/passwd', '@OUTSIDE@/pwned')\ndef f(n):\n    return 0", _REFUSED),
    Attack("mkfifo", "import os\nos.mkfifo('@OUTSIDE@/pwned')\ndef f(n):\n    return 0", _REFUSED),
    Attack(
        "fill the disk",
        "import tempfile\nwith tempfile.TemporaryFile() as file:\n    while True:\n        file.write(b'x' * 1_000_000)",
        r"raised (FileNotFoundError|PermissionError)",
    ),
    Attack(
        "/dev/shm", "open('/dev/shm/reflectevo-pwned', 'w').write('x' * 1_000_000)\ndef f(n):\n    return 0", _REFUSED
    ),
    Attack(
        "shared memory",
        "from multiprocessing import shared_memory\nshared_memory.SharedMemory('reflectevo-pwned', True, 1_000_000)\ndef f(n):\n    return 0",
        r"raised (ImportError|ModuleNotFoundError|PermissionError)",
    ),
    Attack("memfd", "import os\nos.memfd_create('x')\ndef f(n):\n    return 0", _REFUSED),
    Attack(
        "stdlib in memory",
        "import sys\nfinder = sys.meta_path[-1]\nfinder._memory[0] = 0\ndef f(n):\n    return 0",
        r"raised TypeError",
    ),
    Attack(
        "stdlib made writable",
        "import ctypes, os, sys\nlibc = ctypes.CDLL(None, use_errno=True)\nmemory = sys.meta_path[-1]._memory\nbuffer = (ctypes.c_char * 1)\nobject_start = id(memory) + 16\naddress = ctypes.c_size_t.from_address(object_start).value\nif libc.mprotect(ctypes.c_void_p(address), 4096, 3) < 0:\n    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))\ndef f(n):\n    return 0",
        r"raised PermissionError: \[Errno 13\]",
    ),
    Attack("chroot", "import os\nos.chroot('/')\ndef f(n):\n    return 0", _REFUSED),
    Attack(
        "mount",
        "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\nif libc.mount(b'proc', b'/', b'proc', 0, None) < 0:\n    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))",
        _REFUSED,
    ),
    # network and the kernel
    Attack(
        "TCP",
        "import socket\nsocket.create_connection(('127.0.0.1', @PORT@)).send(b'x')\ndef f(n):\n    return 0",
        _REFUSED,
    ),
    Attack(
        "UDP",
        "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', @PORT@))\ndef f(n):\n    return 0",
        _REFUSED,
    ),
    Attack(
        "IPv6", "import socket\nsocket.socket(socket.AF_INET6, socket.SOCK_STREAM)\ndef f(n):\n    return 0", _REFUSED
    ),
    Attack(
        "Unix socket",
        "import socket\nsocket.socket(socket.AF_UNIX).connect('@OUTSIDE@/socket')\ndef f(n):\n    return 0",
        _REFUSED,
    ),
    Attack(
        "abstract Unix socket",
        "import socket\nsocket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'x', '\\0reflectevo')\ndef f(n):\n    return 0",
        _REFUSED,
    ),
    Attack(
        "raw socket",
        "import socket\nsocket.socket(socket.AF_PACKET, socket.SOCK_RAW)\ndef f(n):\n    return 0",
        _REFUSED,
    ),
    Attack("vsock", "import socket\nsocket.socket(40, socket.SOCK_STREAM)\ndef f(n):\n    return 0", _REFUSED),
    Attack("socketpair", "import socket\nsocket.socketpair()\ndef f(n):\n    return 0", _REFUSED),
    Attack(
        "a listening server",
        "import http.server\nhttp.server.HTTPServer(('127.0.0.1', 0), http.server.BaseHTTPRequestHandler)\ndef f(n):\n    return 0",
        _REFUSED,
    ),
    Attack(
        "HTTP",
        "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:@PORT@/')\ndef f(n):\n    return 0",
        r"raised URLError|" + _REFUSED,
    ),
    Attack(
        "name look-up",
        "import socket\nsocket.getaddrinfo('example.org', 80)\ndef f(n):\n    return 0",
        r"raised gaierror",
    ),
    *(
        Attack(
            name,
            "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"
            f"if libc.syscall({number}, {arguments}) < 0:\n    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))\n"
            "def f(n):\n    return 0",
            r"raised (OSError|PermissionError): \[Errno 1\] Operation not permitted",
        )
        for name, number, arguments in (
            ("io_uring_setup", 425, "8, ctypes.create_string_buffer(200)"),
            ("unshare", "272 if os.uname().machine == 'x86_64' else 97", "0x10000000"),
            ("setns", "308 if os.uname().machine == 'x86_64' else 268", "0, 0"),
            ("keyctl", "250 if os.uname().machine == 'x86_64' else 219", "0, -3, 1, 0, 0"),
            ("bpf", "321 if os.uname().machine == 'x86_64' else 280", "0, 0, 0"),
            ("userfaultfd", "323 if os.uname().machine == 'x86_64' else 282", "0"),
            ("perf_event_open", "298 if os.uname().machine == 'x86_64' else 241", "0, 0, 0, 0, 0"),
            ("prctl", "157 if os.uname().machine == 'x86_64' else 167", "4, 1, 0, 0, 0"),
            ("seccomp", "317 if os.uname().machine == 'x86_64' else 277", "1, 0, 0"),
            ("clone with a new namespace", "56 if os.uname().machine == 'x86_64' else 220", "0x10000011, 0, 0, 0, 0"),
            ("setuid", "105 if os.uname().machine == 'x86_64' else 146", "0"),
            ("shmget", "29 if os.uname().machine == 'x86_64' else 194", "0, 4096, 0o1666"),
            ("mq_open", "240 if os.uname().machine == 'x86_64' else 180", "b'x', 0o102, 0o666, 0"),
            ("open_by_handle_at", "304 if os.uname().machine == 'x86_64' else 265", "0, 0, 0"),
            ("sendmsg with descriptors", "46 if os.uname().machine == 'x86_64' else 211", "3, 0, 0"),
            ("the x32 table", "0x40000000 + 41", "2, 1, 0"),
        )
    ),
]


class Outside:
    """What programs must not reach: a world-writable directory with the answers, an environment variable, sockets."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.directory.chmod(0o777)
        answers = [48611, [104729, "prime"]]
        (directory / "answers.json").write_text(json.dumps(answers))
        (directory / "answers.json").chmod(0o666)
        (directory / "answers.py").write_text(f"ANSWERS = {answers!r}")
        os.environ["REFLECTEVO_TEST_ANSWERS"] = repr(answers)
        self._tcp = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._tcp.getsockname()[1]
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind(("127.0.0.1", self.port))
        self._unix = socket.socket(socket.AF_UNIX)
        self._unix.bind(str(directory / "socket"))
        self._unix.listen()
        (directory / "socket").chmod(0o777)
        self._before = self._state()

    def _state(self) -> list[tuple[str, int, int, int]]:
        files = [path for path in sorted(self.directory.iterdir()) if path.name != "__pycache__"]
        return [(path.name, (stat := path.stat()).st_mode, stat.st_mtime_ns, stat.st_size) for path in files]

    def touched(self) -> list[str]:
        """What a program reached after all."""
        found = [] if self._state() == self._before else ["the directory"]
        for name, server in (("TCP", self._tcp), ("UDP", self._udp), ("the Unix socket", self._unix)):
            server.settimeout(0)
            with contextlib.suppress(BlockingIOError):
                server.recv(1) if server is self._udp else server.accept()
                found.append(name)
        return found + [str(path) for path in Path("/dev/shm").glob("*reflectevo-pwned*")]

    def close(self) -> None:
        for server in (self._tcp, self._udp, self._unix):
            server.close()
        del os.environ["REFLECTEVO_TEST_ANSWERS"]


@contextlib.contextmanager
def outside() -> Iterator[Outside]:
    """Something to attack, gone afterwards."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        place = Path(directory) / "outside"
        place.mkdir()
        target = Outside(place)
        try:
            yield target
        finally:
            target.close()


MODES = {
    "default": {},
    "landlock": {"namespaces": False, "bubblewrap": False},
    "namespaces": {"landlock": False, "bubblewrap": False},
    "bubblewrap": {"bubblewrap": True},
    "bubblewrap alone": {"bubblewrap": True, "landlock": False},
}


class Boxes:
    """Two sandboxes behind the walls of one mode: one that waits for a busy machine, one for programs that sleep."""

    def __init__(self, mode: str) -> None:
        self.patient = CodeSandbox(2, cpu_s=1, wall_s=100, **MODES[mode])
        self.hasty = CodeSandbox(1, cpu_s=1, wall_s=3, **MODES[mode])

    def __enter__(self) -> Boxes:
        return self

    def __exit__(self, *exception: object) -> None:
        self.patient.close()
        self.hasty.close()


def run(box: CodeSandbox, attack: Attack, target: Outside) -> CodeResult:
    """What a sandbox says of an attack."""
    code = attack.code.replace("@OUTSIDE@", str(target.directory)).replace("@PORT@", str(target.port))
    return box.check(code, attack.problem)


def complaints(boxes: Boxes, attack: Attack, target: Outside) -> list[str]:
    """What went wrong with an attack: nothing, when it failed for its reason and a good program passes right after."""
    box = boxes.hasty if attack.sleeps else boxes.patient
    result = run(box, attack, target)
    found = []
    if result.passed:
        found.append("was judged correct")
    elif not re.search(attack.reason, result.reason):
        found.append(f"failed with {result.reason!r}, expected a match of {attack.reason!r}")
    after = boxes.patient.check(GOOD[attack.problem], attack.problem)
    if not after.passed:
        found.append(f"a good program failed after it: {after.reason}")
    return found


def main() -> None:
    """Run all attacks in one mode; one JSON line for each that was not held, and one at the end."""
    mode = sys.argv[1] if len(sys.argv) > 1 else "default"
    with outside() as target, Boxes(mode) as boxes, ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda attack: complaints(boxes, attack, target), ATTACKS))
        for attack, complaint in zip(ATTACKS, found, strict=True):
            if complaint:
                sys.stdout.write(json.dumps({"attack": attack.name, "complaints": complaint}) + "\n")
        summary = {
            "uid": os.getuid(),
            "attacks": len(ATTACKS),
            "failed": sum(map(bool, found)),
            "touched": target.touched(),
        }
        sys.stdout.write(json.dumps(summary | {"layers": boxes.patient.preflight().layers}) + "\n")


if __name__ == "__main__":
    main()
