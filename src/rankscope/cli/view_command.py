"""`rankscope view`: studies in a browser, while they run."""

from __future__ import annotations

import importlib.util
import webbrowser
from typing import Annotated

import typer

from rankscope.cli.command_helpers import quiet
from rankscope.study.problems import InputProblems, Problem


def view(
    folder: Annotated[str, typer.Argument(metavar="[DIR]", help="A study folder, or a folder that has some.")] = ".",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: one that is free.")] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open it in a browser.")] = True,
) -> None:
    """Follow running studies in a browser: arms, curves, items scored, time left. For this machine alone; only reads.

    \b
    Examples:
      rankscope view
      rankscope view my-study --no-browser
    """
    if any(importlib.util.find_spec(package) is None for package in ("starlette", "uvicorn")):
        expected = "pip install 'rankscope[view]'"
        raise InputProblems([Problem("view", "", "no starlette and uvicorn", expected)])
    quiet()
    import uvicorn

    from rankscope.results.live_server import LiveServer, open_socket
    from rankscope.results.live_study import find_studies

    if not find_studies(folder):
        expected = "a study folder that `rankscope run` made, or a folder that has some, at most two below"
        raise InputProblems([Problem(folder, "DIR", "no study", expected)])
    opened = open_socket(port)
    server = LiveServer(folder, opened.getsockname()[1])
    typer.echo(f"{server.address}\nfor this machine alone, by this address; Ctrl-C ends it")
    if browser:
        _open(server.address)
    config = uvicorn.Config(
        server.app, log_level="error", access_log=False, server_header=False, timeout_graceful_shutdown=1,
        lifespan="off",
    )  # fmt: skip
    try:
        uvicorn.Server(config).run(sockets=[opened])
    except KeyboardInterrupt:  # how it is meant to end
        return


def _open(address: str) -> None:
    try:
        found = webbrowser.open(address)
    except webbrowser.Error:
        found = False
    if not found:
        typer.echo("no browser was found; open the address above in one", err=True)
