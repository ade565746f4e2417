"""What the guides print for others to use: study snippets, manifests of clusters, and the commands inside both."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from importlib import util
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from made_facts import STUDY
from test_docs import ROOT, blocks

from rankscope.cli import app
from rankscope.study.study import Study

GUIDES = sorted((ROOT / "docs").glob("guide-*.md"))
SETTING = re.compile(r"--set (?:'([^']+)'|([^\s']+))")
RANKSCOPE = re.compile(r"(?<![\w/.-])rankscope (?=[a-z-]+ )([^\n'|>]+)")
EXTRAS = re.compile(r"rankscope\[([\w,]+)\]")

SKY_KEYS = {"name", "num_nodes", "resources", "workdir", "setup", "run", "envs", "secrets", "file_mounts"}
"""Of a SkyPilot task (docs.skypilot.co, task YAML specification), those that this project's guide could want."""

Read = Callable[..., Study]


def yaml_blocks() -> list[Any]:
    found = []
    for path in GUIDES:
        texts = [text for language, text in blocks(path) if language == "yaml"]
        found += [pytest.param(text, id=f"{path.stem}-{i}") for i, text in enumerate(texts)]
    return found


def parsed(kind: str) -> dict[str, Any]:
    """The one block of the guides that has this key."""
    found = [one for param in yaml_blocks() if kind in (one := yaml.safe_load(param.values[0]))]
    assert len(found) == 1
    return dict(found[0])


def texts(value: object) -> Iterator[str]:
    """Every text in what a YAML block holds."""
    if isinstance(value, dict):
        for one in value.values():
            yield from texts(one)
    elif isinstance(value, list):
        for one in value:
            yield from texts(one)
    elif isinstance(value, str):
        yield value


def is_accepted(line: str) -> None:
    """Parse a command as our own command line does, without running it."""
    name, *words = shlex.split(line, comments=True)
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    command.make_context(name, words)


def commands_in(text: str) -> list[str]:
    """Calls of rankscope, also behind another command that starts them."""
    return RANKSCOPE.findall(text.replace("\\\n", " "))


def settings_in(text: str) -> list[str]:
    """What `--set` is given, with an address in the place of a shell's variable."""
    return [(quoted or bare).replace('"$head:6379"', "head:6379") for quoted, bare in SETTING.findall(text)]


# ---- studies ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", yaml_blocks())
def test_a_yaml_block_is_a_study_s_or_a_manifest_that_is_known(text: str, read: Read) -> None:
    found = yaml.safe_load(text)
    if set(found) <= set(Study.model_fields):
        rest = {name: value for name, value in yaml.safe_load(STUDY).items() if name not in found}
        study = read(yaml.safe_dump(rest) + text)  # as printed: to PyYAML the key `on` is a truth value
        assert {name for name in found if getattr(study, name) is not None} == set(found)
        return
    assert len({"cluster_name", "rayClusterSpec", "num_nodes"} & {*found, *found.get("spec", {})}) == 1
    for one in texts(found):
        for line in commands_in(one):
            is_accepted(line)
        if settings := settings_in(one):
            assert read(STUDY, *settings).execution.on == "ray"


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: path.stem)
def test_a_shell_block_is_one_and_its_commands_are_accepted(path: Path, read: Read) -> None:
    shells = [text for language, text in blocks(path) if language == "bash"]
    assert shells
    for text in shells:
        done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        for line in commands_in(text):
            is_accepted(line)
        if settings := settings_in(text):
            read(STUDY, *settings)


def test_a_command_and_a_setting_that_do_not_exist_are_told() -> None:
    with pytest.raises(Exception, match="--onn"):
        is_accepted("run study.yaml --onn ray")
    assert commands_in("ray exec x 'rankscope run a.yaml --out b' --tmux") == ["run a.yaml --out b"]
    assert settings_in('--set execution.on=ray --set execution.address="$head:6379"') == [
        "execution.on=ray",
        "execution.address=head:6379",
    ]


def test_the_extras_that_the_guides_install_exist() -> None:
    known = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    asked = {name for path in GUIDES for group in EXTRAS.findall(path.read_text()) for name in group.split(",")}
    assert asked
    assert asked <= known


# ---- manifests -------------------------------------------------------------------------------------------------------


def test_ray_up_takes_the_cluster_file() -> None:
    """By Ray's own schema, which `ray up` checks it against."""
    ray, jsonschema = util.find_spec("ray"), pytest.importorskip("jsonschema")
    if ray is None or ray.origin is None:
        pytest.skip("no ray")
    found = parsed("cluster_name")
    schema = json.loads((Path(ray.origin).parent / "autoscaler" / "ray-schema.json").read_text())
    types = found["available_node_types"]
    for one in types.values():
        one.setdefault("resources", {})  # Ray asks the cloud what such a machine has, before it looks at the schema
    jsonschema.validate(found, schema)
    assert found["head_node_type"] in types
    assert types["head"]["resources"]["CPU"] == 0
    assert 1 <= types["gpus"]["min_workers"] <= types["gpus"]["max_workers"] <= found["max_workers"]


def test_the_rayjob_s_parts_fit_together() -> None:
    """Versions as pinned, every mounted volume there, the study where the command looks for it, GPUs on the workers."""
    job = parsed("apiVersion")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec = job["spec"]
    cluster = spec["rayClusterSpec"]
    pinned = re.search(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)
    assert pinned is not None
    assert cluster["rayVersion"] == pinned[1]
    assert f"rayproject/ray:{pinned[1]}-" in (ROOT / "docs" / "guide-ray.md").read_text(encoding="utf-8")
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        pod = group["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} == volumes
            assert container["resources"]["limits"] == container["resources"]["requests"]
    head = groups[0]["template"]["spec"]["containers"][0]
    assert Path(shlex.split(spec["entrypoint"])[2]).parent.as_posix() in [m["mountPath"] for m in head["volumeMounts"]]
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert int(limits["nvidia.com/gpu"]) > 0


def test_the_skypilot_task_has_known_keys_and_a_script_that_bash_reads() -> None:
    task = parsed("num_nodes")
    assert set(task) <= SKY_KEYS
    kind, count = next(iter(_accelerators(task["resources"]["accelerators"])))
    assert kind
    assert count > 0
    done = subprocess.run(["bash", "-n"], input=task["run"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def _accelerators(text: str) -> Iterator[tuple[str, int]]:
    kind, _, count = text.partition(":")
    yield kind, int(count or 1)
