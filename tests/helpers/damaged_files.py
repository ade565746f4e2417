"""Ways in which a file of a user's gets damaged, each a function of the file's path and a seeded generator."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

Damage = Callable[[Path, random.Random], None]


def zeroed(path: Path, dice: random.Random) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def cut(path: Path, dice: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: dice.randrange(len(content))])


def flipped(path: Path, dice: random.Random) -> None:
    """One bit is another."""
    content = bytearray(path.read_bytes())
    content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
    path.write_bytes(content)


def empty(path: Path, dice: random.Random) -> None:
    path.write_bytes(b"")


def noise(path: Path, dice: random.Random) -> None:
    path.write_bytes(dice.randbytes(200))


def folder(path: Path, dice: random.Random) -> None:
    path.unlink()
    path.mkdir()


def dangling(path: Path, dice: random.Random) -> None:
    path.unlink()
    path.symlink_to(path.parent / "no-such-file")


def deleted(path: Path, dice: random.Random) -> None:
    path.unlink()


def newer(path: Path, dice: random.Random) -> None:
    _edit(path, lambda value: {**value, "format_version": 99})


def unknown_field(path: Path, dice: random.Random) -> None:
    _edit(path, lambda value: {**value, "no_such_field": 1})


def null_field(path: Path, dice: random.Random) -> None:
    """One value anywhere becomes null."""
    _edit(path, lambda value: changed_value(value, dice, None))


def other_type(path: Path, dice: random.Random) -> None:
    """One value anywhere becomes a list of texts."""
    _edit(path, lambda value: changed_value(value, dice, ["x"]))


def nested(path: Path, dice: random.Random) -> None:
    """JSON 100,000 deep."""
    path.write_text("[" * 100_000)


ANY_FILE: dict[str, Damage] = {
    damage.__name__: damage for damage in (zeroed, cut, flipped, empty, noise, folder, dangling, deleted)
}
JSON_FILE: dict[str, Damage] = {
    damage.__name__: damage for damage in (newer, unknown_field, null_field, other_type, nested)
}


def damages_of(path: Path) -> dict[str, Damage]:
    """What may befall a file of this kind."""
    return ANY_FILE | (JSON_FILE if path.suffix == ".json" else {})


def changed_value(value: object, dice: random.Random, put: object) -> object:
    """A copy of parsed JSON with one leaf, drawn at random, replaced."""
    whole = json.loads(json.dumps(value))
    leaves = list(_leaves(whole))
    if leaves:
        holder, key = dice.choice(leaves)
        holder[key] = put
    return whole


def _leaves(value: object) -> list[tuple[object, object]]:
    entries = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    found: list[tuple[object, object]] = []
    for key, inner in entries:
        found += _leaves(inner) if isinstance(inner, dict | list) and inner else [(value, key)]
    return found


def _edit(path: Path, change: Callable[[object], object]) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def remove(path: Path) -> None:
    """Whatever stands there."""
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
