"""Renders jinja2 templates that strangers wrote: in jinja2's sandbox, with an end to their steps, memory and time.

Each pass of a loop, macro and call is a step; each text or list that an expression makes counts with its length, before
it is made where one operation could make it huge. A template that spends more than any row can need is refused.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import lru_cache, wraps
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from rankscope.data.template_sizes import TooCostly, deep_size, filter_size, formatted_size, listed, method_size, size

MOST_STEPS = 300_000
MOST_CHARACTERS = 30_000_000
"""Of all texts (and places of all lists) that one rendering makes together."""
MOST_SECONDS = 10.0
LONGEST_SOURCE = 1_000_000
_INTEGER_BITS = 4096

TEMPLATE_ERRORS = (jinja2.TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What a template can raise while it is rendered: it is code, and its author can mend it."""


class _Spent(threading.local):
    """What the rendering that runs in this thread has used up."""

    steps = characters = 0
    until = float("inf")

    def restart(self) -> None:
        self.steps = self.characters = 0
        self.until = time.monotonic() + MOST_SECONDS

    def step(self, characters: int = 0) -> None:
        self.steps += 1
        self.characters += characters
        if self.steps > MOST_STEPS:
            raise TooCostly(f"more than {MOST_STEPS:,} steps")
        if self.characters > MOST_CHARACTERS:
            raise TooCostly(f"text of more than {MOST_CHARACTERS:,} characters")
        if time.monotonic() > self.until:
            raise TooCostly(f"more than {MOST_SECONDS:g} seconds")


class _Environment(ImmutableSandboxedEnvironment):
    """jinja2's sandbox, in which everything that repeats or grows is counted."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, **more: Any) -> None:
        self.spent = _Spent()
        super().__init__(finalize=self._text, **more)
        self.globals.pop("lipsum")
        for name, own in list(self.filters.items()):
            self.add_filter(name, own)
        self.filters |= {"counted": self._counted, "counted_text": self._text}

    def add_filter(self, name: str, own: Callable[..., Any]) -> None:
        """Offer `own` to templates, with its arguments and its result looked at."""

        @wraps(own)
        def counted(*args: Any, **kwargs: Any) -> Any:
            given = [listed(one) for one in args]
            values = [one for one in given if not isinstance(one, Context | nodes.EvalContext | jinja2.Environment)]
            self.spent.step(filter_size(name, values, kwargs))
            return self._counted(own(*given, **kwargs))

        self.filters[name] = counted

    def step(self) -> str:
        """One pass of a loop, or one call of a macro."""
        self.spent.step()
        return ""

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        repeated: list[Any] = list(tree.find_all((nodes.For, nodes.Macro, nodes.CallBlock)))
        for node in repeated:
            call = nodes.Call(nodes.EnvironmentAttribute("step"), [], [], None, None)
            node.body.insert(0, nodes.ExprStmt(call, lineno=node.lineno))
        for block in list(tree.find_all(nodes.AssignBlock)):
            block.filter = nodes.Filter(block.filter, "counted", [], [], None, None)
        for joined in list(tree.find_all(nodes.Concat)):  # `a ~ b` has no hook of its own
            joined.nodes = [nodes.Filter(part, "counted_text", [], [], None, None) for part in joined.nodes]
        tree.set_environment(self)
        return tree

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """The operation, after a look at how large its result will be."""
        if isinstance(left, int) and isinstance(right, int):
            made = {"*": left.bit_length() + right.bit_length(), "**": left.bit_length() * max(0, right)}
            if made.get(operator, 0) > _INTEGER_BITS:
                raise TooCostly("a number of thousands of digits")
        elif operator == "*":
            times, repeated = (left, right) if isinstance(left, int) else (right, left)
            self.spent.step(size(repeated) * max(0, times) if isinstance(times, int) else 0)
        elif operator == "%" and isinstance(left, str | bytes):
            self.spent.step(formatted_size(left, [right]))
        else:
            self.spent.step(size(left) + size(right))
        return super().call_binop(context, operator, left, right)

    def call(self, context: Context, obj: Any, *args: Any, **kwargs: Any) -> Any:
        """A call, of whose arguments and result the sizes are looked at."""
        method = getattr(obj, "__wrapped__", obj)
        owner = getattr(method, "__self__", None)
        if isinstance(owner, str | bytes | int | float):
            args = tuple(map(listed, args))
            self.spent.step(method_size(owner, str(getattr(method, "__name__", "")), [*args, *kwargs.values()]))
        return self._counted(super().call(context, obj, *args, **kwargs))

    def _counted(self, value: Any) -> Any:
        self.spent.step(size(value))
        return value

    def _text(self, value: Any) -> Any:
        """A value as it is written, a text; what is not defined says so itself."""
        if isinstance(value, jinja2.Undefined):
            return value
        self.spent.step(deep_size(value))
        return value if isinstance(value, str) else str(value)


class BoundedTemplate:
    """A compiled template. Raises jinja2.TemplateError, here and when it is rendered, or another of TEMPLATE_ERRORS.

    `chat`: with what transformers gives to chat templates (filters, functions, white space, `generation` blocks). Else
    names that are not defined are errors, and the line break at the end is kept.
    """

    def __init__(self, source: str, *, chat: bool) -> None:
        if len(source) > LONGEST_SOURCE:
            raise TooCostly(f"a template of more than {LONGEST_SOURCE:,} characters")
        if chat:
            self._environment = _chat_environment()
        else:
            self._environment = _Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
        self._template: jinja2.Template = self._guarded(lambda: self._environment.from_string(source))

    def render(self, values: Mapping[str, Any]) -> str:
        """The text for these values, which must be plain data."""
        return str(self._guarded(lambda: self._template.render(values)))

    def _guarded(self, work: Callable[[], Any]) -> Any:
        self._environment.spent.restart()
        try:
            return work()
        except (RecursionError, MemoryError) as error:
            raise TooCostly("more depth or memory than there is") from error
        except (RuntimeError, SyntaxError) as error:  # such as blocks that Python nests no deeper
            raise jinja2.TemplateError(str(error)) from error


@lru_cache(maxsize=64)
def chat_template(source: str) -> BoundedTemplate:
    """A chat template, compiled once. Raises what BoundedTemplate does."""
    return BoundedTemplate(source, chat=True)


# ---- what transformers gives to chat templates ----------------------------------------------------------------------


class _GenerationBlocks(Extension):
    """`{% generation %}` marks what an assistant says; here its body is only written."""

    tags = frozenset({"generation"})  # type: ignore[assignment]

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _PlainNamespace(Namespace):
    """A namespace without names that begin with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        Namespace.__init__(*args, **kwargs)
        if any(str(name).startswith("_") for name in dict(*args[1:], **kwargs)):
            raise jinja2.TemplateError("a name in a namespace that begins with an underscore")

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise jinja2.TemplateError("a name in a namespace that begins with an underscore")
        super().__setitem__(name, value)


def _chat_environment() -> _Environment:
    environment = _Environment(trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlocks, loopcontrols])
    environment.add_filter("tojson", _json)
    own = {"raise_exception": _refuse, "namespace": _PlainNamespace, "strftime_now": _now}
    environment.globals |= own
    return environment


def _now(form: str) -> str:
    return datetime.now().strftime(form)


def _refuse(message: object) -> None:
    raise jinja2.TemplateError(str(message))


def _json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
