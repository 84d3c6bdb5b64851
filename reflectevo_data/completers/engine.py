"""`Engine`: which models answer, and on what. `open_roles` opens the completers of what the command line names."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from ..errors import InputError
from .base import Completer, RoleCompleters
from .locate import LocatedModel, locate_models, published_name


ENGINES = ("transformers", "vllm", "openai")


@dataclass(frozen=True, slots=True)
class Engine:
    """Which models answer, and on what: the command line's flags of the same names.

    Attributes:
        model: `miniature`, a folder or a Hub id; for `openai` the name of a served model.
        reflector, corrector: The same; the model unless given. A LoRA adapter runs on its base, loaded once.
        base_urls: `openai` alone: the servers, such as `http://127.0.0.1:8000/v1`.
        slots: Requests worked on at once; each engine has its own default.
    """

    name: str
    model: str
    reflector: str | None = None
    corrector: str | None = None
    base_urls: tuple[str, ...] = ()
    slots: int | None = None

    def names(self) -> dict[str, str]:
        """Published names by role."""
        names = [name if self.name == "openai" else published_name(name) for _, name in self.named()]
        return dict(zip(RoleCompleters._fields, names, strict=True))

    def named(self) -> list[tuple[str, str]]:
        """Flag and value for generator, reflector, corrector; the model's flag where it has the role."""
        return [
            ("--model", self.model),
            ("--reflector", self.reflector) if self.reflector else ("--model", self.model),
            ("--corrector", self.corrector) if self.corrector else ("--model", self.model),
        ]

    def check(self) -> list[LocatedModel]:
        """Finds the models without loading any: generator, reflector, corrector.

        Raises:
            InputError: A flag names something that cannot be used.
        """
        if self.name not in ENGINES:
            raise InputError(f"--engine {self.name}: expected one of {', '.join(ENGINES)}.")
        if self.base_urls and self.name != "openai":
            raise InputError(f"--base-url is for --engine openai, not for {self.name}. Drop one of the two.")
        if self.name != "openai":
            return locate_models(self.named())
        if not self.base_urls:
            raise InputError("--engine openai: no server. Give --base-url http://HOST:PORT/v1.")
        for flag, name in self.named():
            if not name or name.startswith(("/", ".", "~")):
                raise InputError(
                    f"{flag} {name or '(empty)'}: not a name. Give the name that the server has for the model "
                    "(vLLM's --served-model-name)."
                )
        return []


@asynccontextmanager
async def open_roles(engine: Engine) -> AsyncIterator[RoleCompleters]:
    """The completers of the three roles, loaded on entry and shut down on every way out.

    Raises:
        InputError: As `Engine.check`, or a model cannot be loaded.
    """
    models = engine.check()
    if engine.name == "transformers":
        _need("torch", "transformers", extra="transformers")
        from .transformers_engine import open_transformers

        engines, completers = await asyncio.to_thread(open_transformers, models, slots=engine.slots)
        try:
            yield RoleCompleters(*completers)
        finally:
            for one in engines:
                await asyncio.to_thread(one.close)
    elif engine.name == "vllm":
        _need("vllm", extra="vllm")
        from .vllm_engine import open_vllm

        async with open_vllm(models, slots=engine.slots) as completers:
            yield RoleCompleters(*completers)
    else:
        _need("openai", extra="openai")
        from .openai_engine import OpenAICompleter, OpenAIEngine

        servers = OpenAIEngine(engine.base_urls, slots=engine.slots)
        try:
            await servers.open()
            named = engine.named()
            for flag, name in named:
                servers.check_served(flag, name)
            served = {name: OpenAICompleter(servers, name) for _, name in named}
            yield RoleCompleters(*(served[name] for _, name in named))
        finally:
            await servers.close()


@asynccontextmanager
async def open_completer(engine: Engine) -> AsyncIterator[Completer]:
    """The one completer of `engine.model`: for a judge."""
    async with open_roles(engine) as roles:
        yield roles.generator


def _need(*modules: str, extra: str) -> None:
    from importlib.util import find_spec

    if missing := [module for module in modules if find_spec(module) is None]:
        raise InputError(
            f"--engine needs {missing[0]}, which is not installed. Run: pip install 'reflectevo[{extra}]'"
        )
