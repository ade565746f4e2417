"""What stands in report.html beside its words: scripts, styles, data, the policy, and the picture for who has no
script."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import re
from importlib import resources
from typing import Any

import jinja2
import vl_convert
from markupsafe import Markup, escape

from rankscope.report.chart_drawing import Figure
from rankscope.report.vega_bundle import vega_bundle

SCRIPTS = ("page_base.js", "page_charts.js", "page_tables.js", "page_items.js")
"""In this order one script, whose parts share their names."""

_PRINT_COLOURS = ["#0072b2", "#d55e00", "#00845f", "#b0457f", "#8a6d00", "#3a9bd1", "#5b4ba8", "#4d4d4d"]
"""Those of the light theme (page_charts.js)."""


def json_text(value: Any) -> Markup:
    """JSON that no HTML parser can leave: `<`, `>`, `&` and everything outside ASCII are escaped."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def file_text(name: str) -> str:
    """The text of a file beside this one."""
    return (resources.files("rankscope") / "report" / name).read_text(encoding="utf-8")


@functools.cache
def scripts() -> dict[str, Markup]:
    """`library`: Vega, Vega-Lite and Vega-Embed as one script; `ours`."""
    ours = "\n".join(file_text(name) for name in SCRIPTS)
    return {
        "library": Markup(f"(function(){{{vega_bundle()}}})();"),
        "ours": Markup(f'(function () {{\n"use strict";\n{ours}\n}})();'),
    }


def policy(parts: dict[str, Markup]) -> str:
    """A content security policy: these very scripts, our styles, and nothing from anywhere."""
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(str(text).encode()).digest()).decode()}'" for text in parts.values()
    )
    return f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'"


def still_picture(shown: Figure) -> Markup:
    """The chart as SVG markup, for a reader without scripts; Vega escapes the texts in it."""
    config = {"background": "white", "range": {"category": _PRINT_COLOURS}, "view": {"stroke": None}}
    return Markup(vl_convert.vegalite_to_svg(shown.spec | {"config": config}))


_UNIT = r"%|points?\b|nats\b|s\b|min\b|h\b|[kMGT]?B\b|[kMG]\b"
_WHOLE = re.compile(r"(?<![\w.])\d+(?:\.\d+)?e-\d+")


def typeset(text: str) -> Markup:
    """Escaped text with a proper minus sign before a number, no line that begins with a unit, and none that breaks
    within a number such as 1e-3."""
    text = re.sub(rf"(?<=\d) (?={_UNIT})", "\u00a0", re.sub(r"(?<![\w.\-/])-(?=\d)", "−", text))
    return Markup(_WHOLE.sub(lambda found: f'<span class="whole">{found[0]}</span>', str(escape(text))))


def environment() -> jinja2.Environment:
    """The templates beside this file, everything escaped."""
    found = jinja2.Environment(
        loader=jinja2.FunctionLoader(file_text),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["typeset"] = typeset
    return found
