"""Locks on an object store: numbered leases, of which only the highest counts.

To hold a lock is to have created `.locks/NAME/NUMBER`, one above the highest that was there. Two that try at once
create the same name, and a conditional put (`If-None-Match: *`) lets one through. The holder overwrites its own object
every few seconds as a sign of life; without one for a minute, by the store's clock, the next number may be taken. A
process that wakes up after that finds a higher number than its own (a zombie's signs of life only touch its own object)
and writes no more. Shared holders have an object each; whoever creates one looks afterwards for what excludes it, so
that of two that exclude each other never both go on.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from rankscope.edges.storages import Busy
from rankscope.edges.storages.objects.object_store import Found, Objects
from rankscope.study.problems import InputProblems

LOCKS = ".locks"

LIFE_SECONDS = 60.0
"""A lease without a sign of life for so long belongs to nobody."""

_BEAT_SECONDS = 15.0
_SETTLE_SECONDS = 3.0
"""How long two that claim one number look for each other, on a store that has no conditional puts."""


@dataclass
class _Held:
    """A lease that this process holds. `seen_at`: when it was last known to be ours, by this machine's clock."""

    lock: str
    object: str
    number: int | None
    seen_at: float = field(default_factory=time.time)
    lost: bool = False
    beats: int = 0


class Leases:
    """The leases of one process on one study. `node` names the machine's mirror of it.

    A lock is asked for only under the node's own file lock of that name: a lease of this node is then a dead process's.
    """

    def __init__(self, store: Objects, node: str) -> None:
        self._store, self._node = store, node
        self._held: list[_Held] = []
        self._lock = threading.RLock()
        self._beating: threading.Thread | None = None
        self._conditional: bool | None = None

    @contextlib.contextmanager
    def hold(self, name: str, *, shared: bool) -> Iterator[None]:
        """Hold the lock for as long as the context lasts. Raises Busy."""
        held = self._take_shared(name) if shared else self._take(name)
        with self._lock:
            self._held.append(held)
        self._start_beating()
        try:
            yield
        finally:
            with self._lock:
                self._held.remove(held)
            self._give_back(held)

    def check(self) -> None:
        """Before anything is written: raises Busy where a lease of this process is no longer its own."""
        with self._lock:
            held = list(self._held)
        for one in held:
            if not one.lost and time.time() - one.seen_at > LIFE_SECONDS / 2:
                self._beat(one)
            if one.lost:
                raise Busy(f"{self._store.url}: another rankscope process took over ({one.lock}) while this one slept")

    def is_taken(self, name: str) -> bool:
        """Whether anybody holds the lock. Who may only read judges by this machine's clock."""
        found = self._store.find(f"{LOCKS}/{name}")
        current = max((one for one in found if _number(one) is not None), default=None)
        asked = [one for one in found if _number(one) is None or one == current]
        alive = [one for one in asked if not self._has_ended(one)]
        if not alive:
            return False
        try:
            now = self._now()
        except InputProblems:
            now = time.time()
        return any(now - found[one].modified_at < LIFE_SECONDS for one in alive)

    # ---- taking ----

    def _take(self, name: str) -> _Held:
        found = self._store.find(f"{LOCKS}/{name}")
        numbers = {number: one for one in found if (number := _number(one)) is not None}
        last = max(numbers, default=0)
        sharing = [one for one in found if _number(one) is None]
        for one in [*([numbers[last]] if numbers else []), *sharing]:
            self._refuse(one, found[one])
        held = _Held(name, f"{LOCKS}/{name}/{last + 1:09d}", last + 1)
        if not self._claim(held):
            raise Busy(f"{self._store.url}: another rankscope process is working on it (it was quicker)")
        try:
            after = self._store.find(f"{LOCKS}/{name}")
            for one in after:
                if _number(one) is None:
                    self._refuse(one, after[one])
        except BaseException:
            self._give_back(held)
            raise
        # Shared holders that were taken for dead find their object gone should they wake up.
        self._store.delete([*sharing, *(one for number, one in sorted(numbers.items()) if number < last)])
        return held

    def _take_shared(self, name: str) -> _Held:
        held = _Held(name, f"{LOCKS}/{name}/shared-{secrets.token_hex(8)}", None)
        self._store.put(held.object, self._text(held))
        try:
            found = self._store.find(f"{LOCKS}/{name}")
            current = max((one for one in found if _number(one) is not None), default=None)
            if current is not None:
                self._refuse(current, found[current])
        except BaseException:
            self._store.delete([held.object])
            raise
        return held

    def _claim(self, held: _Held) -> bool:
        """Create the object of a number; False where somebody else has it."""
        text = self._text(held)
        if self._has_conditions():
            # A put whose answer was lost is made again, and then finds its own object.
            return self._store.create(held.object, text) or self._store.read(held.object) == text
        mine = f"{held.object}-{secrets.token_hex(8)}"
        self._store.put(mine, text)
        time.sleep(_SETTLE_SECONDS)
        found = self._store.find(f"{LOCKS}/{held.lock}")
        rivals = sorted((found[one].modified_at, one) for one in found if _number(one) == held.number)
        if not rivals or rivals[0][1] != mine:
            self._store.delete([mine])
            return False
        held.object = mine
        return True

    def _has_conditions(self) -> bool:
        """Whether the store refuses to create what is there; some take the condition and overwrite all the same."""
        if self._conditional is None:
            probe = f"{LOCKS}/probe-{secrets.token_hex(8)}"
            try:
                self._conditional = self._store.create(probe, b"1") and not self._store.create(probe, b"2")
            except InputProblems as error:
                if "NotImplemented" not in str(error) and "not support" not in str(error):
                    raise
                self._conditional = False
            self._store.delete([probe])
        return self._conditional

    def _refuse(self, name: str, found: Found) -> None:
        """Raises Busy where the lease is somebody's who lives."""
        content = self._store.read(name)
        said = _said(content)
        if content is None or said.get("ended") or said.get("node") == self._node:
            return
        age = self._now() - found.modified_at
        if age < LIFE_SECONDS:
            holder = f"process (pid {said.get('pid', '?')} on {said.get('host', '?')})"
            raise Busy(
                f"{self._store.url}: another rankscope {holder} is working on it; its last sign of life was "
                f"{max(age, 0.0):.0f} s ago, and without one for {LIFE_SECONDS:.0f} s it counts as dead"
            )

    def _now(self) -> float:
        """The time by the store's clock: that of an object that is put now."""
        name = f"{LOCKS}/clock-{self._node}"
        self._store.put(name, secrets.token_bytes(4))
        return self._store.find(LOCKS)[name].modified_at

    def _has_ended(self, name: str) -> bool:
        content = self._store.read(name)
        return content is None or bool(_said(content).get("ended"))

    # ---- holding ----

    def _start_beating(self) -> None:
        with self._lock:
            if self._beating is None or not self._beating.is_alive():
                self._beating = threading.Thread(target=self._beat_on, daemon=True, name="signs-of-life")
                self._beating.start()

    def _beat_on(self) -> None:
        while True:
            time.sleep(_BEAT_SECONDS)
            with self._lock:
                held = [one for one in self._held if not one.lost]
                if not held:
                    self._beating = None
                    return
            for one in held:
                with contextlib.suppress(InputProblems):  # no answer now: `check` asks again before the next write
                    self._beat(one)

    def _beat(self, held: _Held) -> None:
        """Give a sign of life, where the lease is still ours."""
        found = self._store.find(f"{LOCKS}/{held.lock}")
        with self._lock:
            if held not in self._held:
                return  # given back in the meantime
            if held.number is not None:
                held.lost = max((_number(one) or 0 for one in found), default=0) > held.number
            else:
                held.lost = held.object not in found
            if not held.lost:
                held.beats += 1
                self._store.put(held.object, self._text(held))
                held.seen_at = time.time()

    def _give_back(self, held: _Held) -> None:
        """Say that the lock is free. The highest number stays, as the next one counts on from it."""
        if held.lost:
            return
        with contextlib.suppress(InputProblems):  # it then ends by itself
            if held.number is None:
                self._store.delete([held.object])
            else:
                self._store.put(held.object, self._text(held, ended=True))

    def _text(self, held: _Held, *, ended: bool = False) -> bytes:
        said = {
            "host": socket.gethostname(), "pid": os.getpid(), "node": self._node, "beats": held.beats,
            "nonce": secrets.token_hex(8), "ended": ended,
        }  # fmt: skip
        return json.dumps(said).encode()


def _number(name: str) -> int | None:
    """The number of an exclusive lease's object; None for a shared one's."""
    digits = name.rpartition("/")[2].partition("-")[0]
    return int(digits) if digits.isdigit() else None


def _said(content: bytes | None) -> dict[str, object]:
    try:
        said = json.loads(content or b"{}")
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}
