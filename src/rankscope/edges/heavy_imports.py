"""Importing torch, transformers and pandas, which takes seconds, without the garbage collector in between.

Imports next to nothing: it is used before what is heavy.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_rests() -> Iterator[None]:
    """No garbage is collected inside, where modules are imported: the collector looks through hundreds of thousands of
    new objects again and again (a sixth of the time), and modules stay."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def leave_modules_alone() -> None:
    """Never look again through what there is now: by then mostly modules, which stay to the end. A process ends sooner
    so, and forked ones, which would write into those pages, share them."""
    gc.freeze()
