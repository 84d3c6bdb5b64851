"""A folder's files -> one commit on the Hub, exactly once, whatever fails on the way.

The Hub's client does not retry a commit. Here every attempt begins with what is on the Hub now and commits on top of it
(`parent_commit`): a commit that was applied though its answer got lost leaves nothing to do, and one that another push
overtook is made again, with that push's card read again.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ..errors import InputError, one_line


if TYPE_CHECKING:
    from huggingface_hub import HfApi

RepoType = Literal["dataset", "model"]
RETRIED = frozenset({408, 409, 412, 429, 500, 502, 503, 504})
ATTEMPTS = 8
LONGEST_WAIT = 60.0  # seconds


class Published(NamedTuple):
    """What is on the Hub now; `is_new` unless it was there already."""

    url: str
    commit: str
    is_new: bool

    def __str__(self) -> str:
        return f"{self.url} ({'pushed' if self.is_new else 'was there already'}, commit {self.commit[:12]})"


@dataclass(frozen=True, slots=True)
class Remote:
    """A repository at one commit."""

    api: HfApi
    repo_id: str
    repo_type: RepoType
    commit: str
    files: frozenset[str]

    def read(self, path: str) -> bytes | None:
        """A small file's content, None where there is none."""
        if path not in self.files:
            return None
        local = self.api.hf_hub_download(self.repo_id, path, repo_type=self.repo_type, revision=self.commit)
        return Path(local).read_bytes()


def publish(
    repo_id: str,
    repo_type: RepoType,
    files: Callable[[Remote], Mapping[str, Path | bytes]],
    *,
    owned: Sequence[str],
    message: str,
    private: bool | None = None,
    revision: str | None = None,
    api: HfApi | None = None,
    wait: Callable[[float], None] = time.sleep,
) -> Published:
    """Makes the repository hold these files, in one commit.

    Args:
        repo_id: `owner/name`, or a name under the token's user; made when it is not there.
        repo_type: A dataset or a model.
        files: Path in the repository -> file or content; called anew in each attempt, so that a card can be merged with
            the one that is there.
        owned: Patterns of paths that are deleted when `files` does not have them.
        message: Of the commit.
        private: For a repository that is made now; an existing one stays as it is.
        revision: A branch, made when it is not there; `main` by default.
        api: The client; by default the one that HF_ENDPOINT and HF_TOKEN name.
        wait: Sleeps between attempts.

    Raises:
        InputError: The Hub refuses, or is not to be had after several attempts; nothing has been published then.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled

    api = api or HfApi()
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _attempt(api, repo_id, repo_type, files, owned, message, private, revision)
        except HFValidationError as error:
            raise InputError(f"--repo-id {repo_id}: {one_line(error)}. Expected owner/name.") from None
        except LocalTokenNotFoundError:
            raise InputError(f"{repo_id}: no token. Log in with `hf auth login`, or set HF_TOKEN.") from None
        except OfflineModeIsEnabled:
            raise InputError(f"{repo_id}: HF_HUB_OFFLINE is set, and a push needs the Hub. Unset it.") from None
        except Exception as error:
            fault = _fault(error)
            if fault is None:
                raise
            if not fault.may_pass:
                raise InputError(f"{repo_id}: {fault.reason} Nothing was published there.") from None
            if attempt == ATTEMPTS:
                raise InputError(
                    f"{repo_id}: {fault.reason} Gave up after {ATTEMPTS} attempts, and nothing was published there; "
                    "the same command goes on with what was uploaded."
                ) from None
            wait(min(fault.wait if fault.wait is not None else 2.0 ** (attempt - 1), LONGEST_WAIT))
    raise AssertionError("unreachable")


def _attempt(
    api: HfApi,
    repo_id: str,
    repo_type: RepoType,
    files: Callable[[Remote], Mapping[str, Path | bytes]],
    owned: Sequence[str],
    message: str,
    private: bool | None,
    revision: str | None,
) -> Published:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        info = api.repo_info(repo_id, repo_type=repo_type, revision=revision)
    except RevisionNotFoundError:
        api.create_branch(repo_id, branch=revision or "main", repo_type=repo_type, exist_ok=True)
        info = api.repo_info(repo_id, repo_type=repo_type, revision=revision)
    except RepositoryNotFoundError:
        repo_id = api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True).repo_id
        if revision not in (None, "main"):
            api.create_branch(repo_id, branch=revision, repo_type=repo_type, exist_ok=True)
        info = api.repo_info(repo_id, repo_type=repo_type, revision=revision)
    repo_id = info.id  # `name` alone stands for `user/name`
    remote = Remote(
        api,
        repo_id,
        repo_type,
        str(info.sha),
        frozenset(sibling.rfilename for sibling in getattr(info, "siblings", None) or ()),
    )
    wanted = files(remote)
    operations: list[Any] = [
        CommitOperationAdd(path, content if isinstance(content, bytes) else str(content))
        for path, content in sorted(wanted.items())
    ]
    operations += [
        CommitOperationDelete(path, is_folder=False)
        for path in sorted(remote.files - wanted.keys())
        if any(fnmatch.fnmatchcase(path, pattern) for pattern in owned)
    ]
    done = api.create_commit(
        repo_id,
        operations,
        commit_message=message,
        repo_type=repo_type,
        revision=revision,
        parent_commit=remote.commit,
    )
    url = f"{api.endpoint}/{'datasets/' if repo_type == 'dataset' else ''}{repo_id}"
    return Published(url, str(done.oid), done.oid != remote.commit)


class _Fault(NamedTuple):
    reason: str
    may_pass: bool
    wait: float | None = None


def _fault(error: Exception) -> _Fault | None:
    """What went wrong in words, None for a bug."""
    from huggingface_hub.errors import HfHubHTTPError

    transport_error = HfHubHTTPError.__mro__[1]  # HTTPError of httpx or, in later versions of the client, of httpx2
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__
    for cause in causes:
        response = getattr(cause, "response", None)
        if response is not None:
            status = response.status_code
            if status in RETRIED:
                return _Fault(f"the Hub answers {status}.", True, _retry_after(response.headers))
            return _Fault(_refusal(status, cause), False)
    if any(isinstance(cause, (transport_error, ConnectionError, TimeoutError)) for cause in causes):
        return _Fault(f"the Hub cannot be reached ({one_line(causes[0])}).", True)
    if isinstance(error, json.JSONDecodeError):  # the client reads some answers before it looks at their status
        return _Fault("the Hub's answer cannot be read.", True)
    return None


def _refusal(status: int, error: BaseException) -> str:
    said = one_line(getattr(error, "server_message", None) or "").rstrip(".")
    if status == 401:
        return "the Hub does not accept the token, or there is none. Log in with `hf auth login`, or set HF_TOKEN."
    if status == 403:
        return f"the token may not write there{f' ({said})' if said else ''}. Use a token with write access."
    if status == 404:
        return "no such user, organisation or repository, or the token may not see it. Correct --repo-id."
    return f"the Hub refuses with {status}{f' ({said})' if said else ''}."


def _retry_after(headers: Mapping[str, str]) -> float | None:
    value = headers.get("Retry-After", "")
    return float(value) if value.isdecimal() else None


def token_free(name: str, content: bytes | Path) -> None:
    """Refuses to publish a text with an access token in it.

    Raises:
        InputError: There is one.
    """
    text = content if isinstance(content, bytes) else content.read_bytes()
    tokens = {
        token for variable in ("HF_TOKEN", "OPENAI_API_KEY", "WANDB_API_KEY") if (token := os.environ.get(variable))
    }
    if re.search(rb"\b(?:hf_[A-Za-z0-9]{30,}|sk-[A-Za-z0-9_-]{30,})\b", text) or any(
        t.encode() in text for t in tokens
    ):
        raise InputError(f"{name}: holds an access token. Remove it, and revoke the token; nothing was published.")
