"""Damaged files of every kind through the command line: a line for each problem, never a traceback, nothing lost.

Everything is drawn with a fixed seed: 500 cases through the command line's entry function in this process, 20 more as
processes of their own. One finished study is copied for every case. About a minute of CPU; so `report` and `run`,
seconds each, have few of the cases, and the commands of milliseconds most.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import call
from damaged_files import ANY_FILE, changed_value, damages_of, remove
from tiny_study import choice_rows, tiny_study, write_rows

from rankscope.edges.executors import this_machine

SEED = 15
ARMS = {
    "full": {"learning_rate": 1e-3},
    "lora": {"ranks": [2, 3], "learning_rate": 1e-2},
    "searched": {"method": "lora", "ranks": [2], "learning_rate": "auto"},
}
BUDGET = {"epochs": 1, "batch_size": 8, "max_sequence_tokens": 128}

READING = {
    "status": 40, "status --json": 40, "verdict": 40, "verdict --json": 39, "plan": 39, "defaults": 36, "export": 39,
    "report": 3,
}  # fmt: skip
"""Cases of each command that leaves every record as it was, or, of `report`, writes tables, verdict and page anew."""

RUNNING = {"run": 3, "run again": 3}
PROCESSES = {"status": 8, "verdict": 8, "export": 1, "defaults": 1, "plan": 1, "run": 1}
STUDY_FILES, MODELS = 128, 90
CASES = sum(READING.values()) + sum(RUNNING.values()) + STUDY_FILES + MODELS


def test_there_are_as_many_cases_as_are_promised() -> None:
    assert CASES == 500
    assert sum(PROCESSES.values()) == 20


@pytest.fixture(scope="module", autouse=True)
def _in_this_process() -> Iterator[None]:
    """Jobs run in this process: fifty fork servers would take minutes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(this_machine, "Workers", lambda _count, threads, _places: this_machine.InProcess(threads))
        yield


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(study file, finished study)."""
    root = tmp_path_factory.mktemp("mutations")
    study = tiny_study(root / "input", arms=ARMS, budget=BUDGET, seeds=[0], analysis={"enabled": True})
    result = call("run", study, "--out", root / "out")
    assert result.exit_code == 0, result.output
    return study, root / "out"


def check(code: int, stdout: str, stderr: str) -> None:
    """Exit code as promised, a line for each problem, and no fault of ours."""
    crash = re.search(r"(\S+rankscope-crash-\S+\.txt)", stderr)
    if crash is not None:
        report = Path(crash[1]).read_text()
        Path(crash[1]).unlink()
        pytest.fail(report)
    assert "Traceback" not in stdout + stderr
    assert code in (0, 1, 2, 3), stdout + stderr
    if code == 1:
        assert " failed: " in stderr, stderr
    if code == 2:
        lines = stderr.strip().splitlines()
        assert lines
        assert all(len(line) < 1000 for line in lines)
        assert any(": found " in line and ", expected " in line for line in lines), stderr


def words_of(command: str, study: Path, folder: Path, out: Path) -> list[object]:
    name, *options = command.split()
    if name == "plan":
        return [name, study, "--out", folder]
    if name == "run":
        return [name, study, "--out", folder] if options else [name, folder]
    return [name, folder, *options, *(["--out", out] if name == "export" else [])]


def content_of(folder: Path) -> dict[Path, bytes]:
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file() and ".locks" not in p.parts}


def is_rebuilt(name: Path) -> bool:
    """Whether `report` writes the file anew from the records."""
    return name.parts[0] in ("tables", "verdict.json", "report.html")


def mutations(folder: Path, counts: dict[str, int]) -> list[tuple[str, str, str]]:
    """(command, file, damage), drawn with the seed; where there are cases enough, every record's file comes."""
    dice = random.Random(f"{SEED} {counts}")
    names = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and ".locks" not in p.parts)
    records = [name for name in names if not is_rebuilt(Path(name))]
    commands = [command for command, count in counts.items() for _ in range(count)]
    dice.shuffle(commands)
    more = max(0, len(commands) - len(records))
    drawn = [dice.choice(records if dice.random() < 0.85 else names) for _ in range(more)]
    files = dice.sample(records, min(len(records), len(commands))) + drawn
    return [
        (command, name, dice.choice(sorted(damages_of(Path(name)))))
        for command, name in zip(commands, files, strict=True)
    ]


def damage(folder: Path, name: str, how: str) -> None:
    damages_of(Path(name))[how](folder / name, random.Random(f"{SEED} {name} {how}"))


def test_reading_a_damaged_study_loses_nothing_and_never_crashes(done: tuple[Path, Path], tmp_path: Path) -> None:
    study, whole = done
    for i, (command, name, how) in enumerate(mutations(whole, READING)):
        folder = tmp_path / f"case{i}"
        shutil.copytree(whole, folder)
        damage(folder, name, how)
        before = content_of(folder)
        result = call(*words_of(command, study, folder, tmp_path / f"out{i}"))
        print(command, name, how, result.exit_code)
        check(result.exit_code, result.stdout, result.stderr)
        after = content_of(folder)
        kept = {file for file in before if command != "report" or not is_rebuilt(file)}
        assert all(after.get(file) == before[file] for file in kept)
        shutil.rmtree(folder)


def test_running_a_damaged_study_makes_it_whole_or_says_why_not(done: tuple[Path, Path], tmp_path: Path) -> None:
    study, whole = done
    for i, (command, name, how) in enumerate(mutations(whole, RUNNING)):
        folder = tmp_path / f"case{i}"
        shutil.copytree(whole, folder)
        damage(folder, name, how)
        before = content_of(folder)
        result = call(*words_of(command, study, folder, tmp_path / f"out{i}"))
        print(command, name, how, result.exit_code)
        check(result.exit_code, result.stdout, result.stderr)
        after = content_of(folder)
        kept = {file for file in before if not is_rebuilt(file) and str(file) != name and is_result(file)}
        assert all(file in after for file in kept)
        shutil.rmtree(folder)


def is_result(name: Path) -> bool:
    """Scores and weights: what hours went into."""
    return name.suffix in (".parquet", ".safetensors") or name.name == "status.json"


def test_a_damaged_file_of_a_run_is_made_again_with_a_note(done: tuple[Path, Path], tmp_path: Path) -> None:
    """One file of each of three runs."""
    _, whole = done
    folder = tmp_path / "out"
    shutil.copytree(whole, folder)
    paths = [
        next(folder.glob(pattern))
        for pattern in (
            "runs/lora-r3-*/predictions.parquet", "runs/lora-r2-*/status.json", "runs/full-*/run.json",
            "runs/lora-r3-*/analysis/directions.safetensors",
        )
    ]  # fmt: skip
    sums = next(folder.glob("runs/full-*/analysis/directions.safetensors.sha256"))
    ANY_FILE["folder"](sums, random.Random(0))
    before = paths[0].read_bytes()
    for path in paths:
        content = bytearray(path.read_bytes())
        content[60] ^= 4  # in the rows of a table: a bit of Parquet's statistics, say, may mean nothing
        path.write_bytes(content)
    result = call("run", folder)
    assert result.exit_code == 0, result.output
    for path in paths:
        assert f"{path} is damaged" in result.stderr
        assert path.is_file()
        assert path.with_name(f"{path.name}.damaged").is_file()
    assert sums.with_name("directions.safetensors.damaged").is_file()
    assert paths[0].read_bytes() == before
    assert call("report", folder).exit_code == 0


def test_one_flipped_bit_of_an_adapter_is_never_used(done: tuple[Path, Path], tmp_path: Path) -> None:
    _, whole = done
    folder = tmp_path / "out"
    shutil.copytree(whole, folder)
    path = next(folder.glob("runs/lora-r3-*/adapter/adapter_model.safetensors"))
    ANY_FILE["flipped"](path, random.Random(0))
    result = call("export", folder, "--arm", "lora-r3", "--out", tmp_path / "adapter")
    assert result.exit_code == 2
    assert "another content of adapter_model.safetensors than was saved" in result.stderr
    assert not (tmp_path / "adapter").exists()


def test_a_run_whose_weights_and_scores_are_lost_is_not_done_in_silence(
    done: tuple[Path, Path], tmp_path: Path
) -> None:
    _, whole = done
    folder = tmp_path / "out"
    shutil.copytree(whole, folder)
    run = next(folder.glob("runs/lora-r3-*"))
    shutil.rmtree(run / "adapter")
    (run / "predictions.parquet").write_bytes(b"")
    result = call("run", folder)
    assert f"{run.name}: not scored on " in result.stderr
    again = call("run", folder, "--retrain")
    assert again.exit_code == 0, again.output
    assert (run / "adapter" / "adapter_model.safetensors").is_file()
    assert (run / "predictions.parquet").is_file()


# ---- study files and model folders ----------------------------------------------------------------------------------


PUT = [b"null", b"[[", b"{a: ", b"&x *x", b"!!python/object:os.system ", b"-1e999"]


def test_damaged_study_files_are_refused_in_lines(done: tuple[Path, Path], tmp_path: Path) -> None:
    """Bytes cut, flipped, repeated and swapped in a study file; most are wrong, some are still a study."""
    study, _ = done
    text = study.read_bytes()
    dice = random.Random(SEED)
    for i in range(STUDY_FILES):
        content = bytearray(text)
        for _ in range(dice.choice([1, 1, 2, 5])):
            start, end = sorted(dice.randrange(len(content)) for _ in range(2))
            end = min(end, start + 40)
            kind = dice.randrange(4)
            if kind == 0:
                del content[start:end]
            elif kind == 1:
                content[start] ^= 1 << dice.randrange(8)
            elif kind == 2:
                content[start:start] = content[start:end] * 3
            else:
                content[start:end] = dice.choice(PUT)
        path = study.parent / f"damaged-{i}.yaml"
        path.write_bytes(content)
        result = call("plan", path, "--out", tmp_path / f"none{i}", "--set", "model=no-such-folder/at/all")
        path.unlink()
        check(result.exit_code, result.stdout, result.stderr)
        assert result.exit_code == 2
        assert not (tmp_path / f"none{i}").exists()


CONFIGS: list[tuple[str, object]] = [
    ("num_hidden_layers", 200_000), ("num_hidden_layers", 10**12), ("num_hidden_layers", -1), ("num_hidden_layers", 0),
    ("num_hidden_layers", "two"), ("hidden_size", 10**9), ("hidden_size", 0), ("hidden_size", 2.5),
    ("vocab_size", 10**12), ("vocab_size", "many"), ("vocab_size", -5), ("vocab_size", 7), ("num_attention_heads", 0),
    ("num_attention_heads", 3), ("num_attention_heads", 10**6), ("num_key_value_heads", 0), ("head_dim", -4),
    ("intermediate_size", 10**12), ("model_type", "no-such-model"), ("model_type", None), ("model_type", 5),
    ("model_type", "bert"), ("model_type", "t5"), ("architectures", "x"), ("hidden_act", "no-such-function"),
    ("rope_parameters", {"rope_type": "no-such"}), ("rope_parameters", "x"), ("max_position_embeddings", "x"),
    ("max_position_embeddings", -1), ("torch_dtype", "no-such"), ("dtype", "float7"), ("rms_norm_eps", "x"),
    ("quantization_config", {"quant_method": "no-such"}), ("quantization_config", 5), ("auto_map", {"AutoConfig": "x"}),
    ("eos_token_id", "x"), ("tie_word_embeddings", "x"), ("pad_token_id", 10**9),
]  # fmt: skip
"""A setting of config.json and what it becomes."""


def header(folder: Path, tensors: object, size: int | None = None) -> None:
    """model.safetensors with this header and no weights behind it."""
    text = json.dumps(tensors).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", size if size is not None else len(text)) + text)


def damaged_models(model: Path, root: Path) -> Iterator[tuple[str, Path]]:
    dice = random.Random(f"{SEED} models")
    config = json.loads((model / "config.json").read_text())

    def copy(name: str) -> Path:
        return Path(shutil.copytree(model, root / re.sub(r"[^A-Za-z0-9]+", "-", name)[:60]))

    for i, (key, value) in enumerate(CONFIGS):
        folder = copy(f"{i} {key}")
        (folder / "config.json").write_text(json.dumps({**config, key: value}))
        yield f"{key} = {value}", folder
    for key in ("model_type", "hidden_size", "vocab_size", "num_hidden_layers", "architectures"):
        folder = copy(f"without {key}")
        (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != key}))
        yield f"no {key}", folder
    terabytes = {"x": {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 4 * 10**12]}}
    for name, tensors, size in (
        ("terabytes", terabytes, None), ("long header", {}, 2**62), ("no header", {}, 0), ("list", [], None),
        ("offsets", {"x": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}, None),
    ):  # fmt: skip
        folder = copy(name)
        header(folder, tensors, size)
        yield name, folder
    damages = [(file.name, how) for file in sorted(model.iterdir()) for how in sorted(damages_of(file))]
    for file, how in dice.sample(damages, MODELS - len(CONFIGS) - 18):
        folder = copy(f"{file} {how}")
        damage(folder, file, how)
        yield f"{file} {how}", folder
    for i in range(8):
        folder = copy(f"tokenizer {i}")
        path = folder / dice.choice(["tokenizer.json", "tokenizer_config.json"])
        path.write_text(
            json.dumps(changed_value(json.loads(path.read_text()), dice, dice.choice([None, [], "x", -1, {}])))
        )
        yield f"{path.name} value {i}", folder


def test_damaged_models_are_refused_in_lines(done: tuple[Path, Path], tmp_path: Path) -> None:
    study, _ = done
    rows = write_rows(tmp_path / "rows.jsonl", choice_rows(4, "q", 9))
    models = enumerate(damaged_models(study.parent / "model", tmp_path / "models"), start=1)
    for count, (name, folder) in models:
        plan = ["plan", study, "--out", tmp_path / "none", "--set", f"model={folder}"]
        score = ["score", folder, "--suite", rows]
        result = call(*(plan if count % 2 else score))
        print(name, "plan" if count % 2 else "score", result.exit_code, result.stderr[:300])
        check(result.exit_code, result.stdout, result.stderr)
        remove(folder)
    assert count == MODELS


@pytest.mark.slow
def test_damaged_studies_as_real_processes(done: tuple[Path, Path], tmp_path: Path) -> None:
    """The same by the command itself: what a library prints past Python, or ends the process with, is seen here."""
    study, whole = done
    for i, (command, name, how) in enumerate(mutations(whole, PROCESSES)):
        folder = tmp_path / f"case{i}"
        shutil.copytree(whole, folder)
        damage(folder, name, how)
        words = [str(word) for word in words_of(command, study, folder, tmp_path / f"out{i}")]
        found = subprocess.run(
            [sys.executable, "-m", "rankscope", *words], capture_output=True, text=True, timeout=300,
            stdin=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        check(found.returncode, found.stdout, found.stderr)
        shutil.rmtree(folder)
