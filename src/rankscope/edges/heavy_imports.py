"""Importing torch, transformers and pandas, which takes seconds, without the garbage collector in between.

Imports next to nothing: it is used before what is heavy.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_rests() -> Iterator[None]:
    """No garbage is collected inside, where modules are imported, and what there is at the end is never looked through.

    The collector would go through hundreds of thousands of new objects again and again, a sixth of the time of the
    imports and a seventh of what a report takes after them; and modules stay. Forked processes share their pages so.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
