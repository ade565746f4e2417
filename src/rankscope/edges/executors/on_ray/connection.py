"""Connecting to a Ray cluster, or starting a Ray on this machine, with one clear line where that cannot be done.

Nothing of Ray's reports to anybody: usage statistics are off where this process starts it, and a Ray of its own has no
dashboard. Its token, which keeps other users of the machine out, is made here and lives in the environment of its
processes alone; by default Ray would write one into the user's home folder.
"""

from __future__ import annotations

import importlib
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rankscope.edges.cores import core_count
from rankscope.study.problems import InputProblems, Problem
from rankscope.study.study import Execution

LOCAL = "local"
CLIENT = "ray://"

_REACH_SECONDS = 5.0
_TRIES = 3
_NO_SERVER_FOR_CLIENT = ("Proxy failed to Connect to backend", "Starting Ray client server failed")
"""Ray's words where the process that it started for a client was not ready in time, or ended before it was."""
_OBJECT_STORE_BYTES = 100 * 2**20
"""Of a Ray of our own: jobs and their outcomes are a few kilobytes; weights never go through it."""

_START_A_CLUSTER = "a running cluster: `ray start --head`, or `address: local` for a Ray on this machine alone"

_OURS: list[str] = []
"""The address at which this process connected; empty where it did not, or where somebody else had done so before."""


def connect(execution: Execution, study: str) -> Any:
    """The module `ray`, connected; what is connected already stays. `study` is how messages name the study.

    Raises InputProblems where the package is missing, where nothing answers at the address, where its Ray or Python is
    another version than ours, and where it does not let us in.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if execution.address == LOCAL:
        _keep_token_off_the_disk()
    try:
        import ray
    except ImportError:
        expected = "the package ray: pip install 'rankscope[ray]'"
        raise InputProblems([Problem(study, "execution.on", "no package for ray", expected)]) from None
    if ray.is_initialized():
        return ray
    if execution.address == LOCAL:
        options: dict[str, Any] = {
            "num_cpus": core_count(), "include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES
        }  # fmt: skip
        address = LOCAL
    else:
        address, options = _answering(execution.address, study), {}
    with _own_signal_handlers():
        try:
            _init_with_patience(ray, address, options)
        except Exception as error:
            raise InputProblems([_why_not(error, address, study)]) from error
    _OURS.append(address)
    _say_it_ourselves()
    return ray


def _init_with_patience(ray: Any, address: str, options: dict[str, Any]) -> None:
    """`ray.init`, again where the head node was too busy: it starts a process for each client and gives up on it where
    that ends or takes half a minute, which says nothing about the next try."""
    for last in [False] * (_TRIES - 1) + [True]:
        try:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR", **options)
            return
        except ConnectionAbortedError as error:
            if last or not _head_was_busy(str(error)):
                raise


def _head_was_busy(text: str) -> bool:
    """Whether Ray's words say that a client's own server did not come up."""
    return any(words in text for words in _NO_SERVER_FOR_CLIENT)


def disconnect() -> None:
    """Leave the cluster, or end the Ray of our own; nothing where somebody else had connected."""
    import ray

    if _OURS:
        _OURS.clear()
        ray.shutdown()


def _keep_token_off_the_disk() -> None:
    """To be called before Ray is imported, which is when it reads whether there are tokens."""
    if any(name in os.environ for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")):
        return
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    if "ray" in sys.modules:  # whoever calls us as a library imported it before: it must read that again
        raylet: Any = importlib.import_module("ray._raylet")  # its compiled part, without types
        raylet.Config.initialize("")
        raylet.AuthenticationTokenLoader.instance().reset_cache()


def _answering(address: str, study: str) -> str:
    """The address, as Ray takes it, of somebody who listens. Ray itself tries for minutes before it says so."""
    if address == "auto":
        from ray._private.services import canonicalize_bootstrap_address_or_die

        given = os.environ.get("RAY_ADDRESS", "")
        try:
            address = given if given.startswith(CLIENT) else canonicalize_bootstrap_address_or_die("auto")
        except ConnectionError as error:
            several = "multiple" in str(error)
            found = "auto, and several clusters that this machine is part of" if several else "auto, and no cluster"
            expected = "the address of one: HOST:PORT" if several else _START_A_CLUSTER
            raise InputProblems([Problem(study, "execution.address", found, expected)]) from None
        except ValueError:
            raise InputProblems([_malformed(given, study)]) from None
    host, _, port = address.removeprefix(CLIENT).rstrip("/").rpartition(":")
    if not host or not port.isdigit():
        raise InputProblems([_malformed(address, study)])
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or ("no answer" if isinstance(error, TimeoutError) else str(error))
        found = f"no cluster at {address} ({why[:1].lower()}{why[1:]})"
        raise InputProblems([Problem(study, "execution.address", found, _START_A_CLUSTER)]) from None
    return address


def _malformed(address: str, study: str) -> Problem:
    return Problem(study, "execution.address", address, "auto, local, HOST:PORT of a head node, or ray://HOST:PORT")


def _why_not(error: Exception, address: str, study: str) -> Problem:
    """The line for what Ray raised when it was asked to connect."""
    text = " ".join(str(error).split())
    place = "execution.address"
    if "ersion mismatch" in text or "versions differ" in text:
        return Problem(study, place, f"{address}: {text[:300]}", "the same versions of Ray and Python everywhere")
    if "uthenticat" in type(error).__name__ + text or "UNAUTHENTICATED" in text:
        expected = "the cluster's token in RAY_AUTH_TOKEN or ~/.ray/auth_token, and RAY_AUTH_MODE=token"
        return Problem(study, place, f"{address}: this cluster asks for a token", expected)
    if isinstance(error, ImportError) or "ray[client]" in text:
        return Problem(study, place, f"{address}: no package for Ray's client", "pip install 'ray[client]'")
    if _head_was_busy(text):
        found = f"a cluster at {address} whose head node did not start a server for this client in {_TRIES} tries"
        return Problem(study, place, found, "a head node with a free core; its logs: ray_client_server*.err")
    return Problem(study, place, f"no cluster at {address} ({text[:200]})", _START_A_CLUSTER)


@contextmanager
def _own_signal_handlers() -> Iterator[None]:
    """Ray takes SIGTERM for itself, which asks us to save and stop."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say_it_ourselves() -> None:
    """Ray prints a paragraph to stdout for each process that dies; the executor says it in a line on stderr."""
    from ray._private import worker

    if hasattr(worker, "print_to_stdstream"):  # an inner part of Ray's: where it is gone the paragraphs stay
        setattr(worker, "print_to_stdstream", lambda *_, **__: None)  # noqa: B010  (mypy sees a module)


def said_by_ray(error: object) -> str:
    """The part of a message of Ray's that says why, in a line."""
    text = " ".join(str(error).split())
    for before in ("Worker exit detail: ", "The actor is dead because ", "The actor died because "):
        if before in text:
            text = text.partition(before)[2]
    return text.partition(". ")[0].rstrip(".")[:200]
