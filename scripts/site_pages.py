"""A hook of mkdocs (`hooks` in mkdocs.yml): the pages of the site that do not lie in docs/.

README.md becomes the first page, the other documents of the repository's root pages beside the guides, and every room
of src/rankscope a page of its own with the docstrings of its modules (read from the source, nothing is imported).
Guides that docs/ has and the navigation does not name come last among the guides, so that no page is lost.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "rankscope"
ROOT_PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "", "CHANGELOG.md": "", "SECURITY.md": ""}
"""Documents of the repository's root; "": under their own name."""

_LINK = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")


def on_config(config: Any) -> Any:
    """Fill in the navigation: guides that it does not name, and the pages of the API."""
    guides = next(part["Guides"] for part in config.nav if isinstance(part, dict) and "Guides" in part)
    named = set(re.findall(r"[\w-]+\.md", str(config.nav)))
    guides += sorted({path.name for path in (ROOT / "docs").glob("*.md")} - named)
    for part in config.nav:
        if isinstance(part, dict) and "API" in part:
            part["API"] = [f"api/{name}.md" for name in ["rankscope", *rooms()]]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made here."""
    for name, page in ROOT_PAGES.items():
        files.append(File.generated(config, page or name, content=(ROOT / name).read_text(encoding="utf-8")))
    for room in rooms():
        files.append(File.generated(config, f"api/{room}.md", content=room_page(room)))
    front = _front("rankscope", SOURCE, "rankscope") + "\n::: rankscope.pipeline\n"
    files.append(File.generated(config, "api/rankscope.md", content=front))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links as they lead in the repository, turned to the pages of the site."""

    def turned(found: re.Match[str]) -> str:
        target = found[2]
        if "://" in target:
            return found[0]
        name = target.removeprefix("../").removeprefix("docs/")
        return f"{found[1]}{ROOT_PAGES.get(name) or name}{found[3]}"

    return markdown if page.file.src_uri.startswith("api/") else _LINK.sub(turned, markdown)


def rooms() -> list[str]:
    """The packages directly inside rankscope, sorted; those without code (assets) are left out."""
    found = sorted(path.parent.name for path in SOURCE.glob("*/__init__.py"))
    return [name for name in found if any(path.name != "__init__.py" for path in (SOURCE / name).rglob("*.py"))]


def room_page(room: str) -> str:
    """A page of one room: what it says of itself, then each module of it."""
    lines = [_front(room, SOURCE / room, None)]
    for path in sorted((SOURCE / room).rglob("*.py")):
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        if path.name != "__init__.py" and not path.stem.startswith("_"):
            lines.append(f"::: {'.'.join(parts)}\n")
    return "\n".join(lines)


def _front(title: str, package: Path, identifier: str | None) -> str:
    docstring = ast.get_docstring(ast.parse((package / "__init__.py").read_text(encoding="utf-8"))) or ""
    return f"# {title}\n\n" + (f"::: {identifier}\n" if identifier else f"{docstring}\n")
