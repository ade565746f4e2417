"""The chosen arm, ready to load and to push: PEFT's adapter (or a whole model) with a model card."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from rankscope.decide.run_outcomes import median_seed
from rankscope.edges.out_folder import check_out, out_folder
from rankscope.edges.study_folder import StudyFolder
from rankscope.model.load import load_model, load_tokenizer
from rankscope.model.methods.attach import SavedAdapter, attach, unmergeable
from rankscope.model.weights.adapter_file import CONFIG, adapter_config
from rankscope.model.weights.dialled import Interpolation
from rankscope.model.weights.gguf_file import NotForGguf, write_gguf
from rankscope.records import ArmVerdict, Plan, PlannedRun, Verdict
from rankscope.report.card_picture import trade_off_png
from rankscope.report.model_card import Exported, model_card
from rankscope.report.serving_lines import GGUF_FILE, MODELFILE, Files, modelfile
from rankscope.results.frames import planned_study, runs_frame
from rankscope.results.write_results import provenance_of
from rankscope.study.problems import InputProblems, Problem
from rankscope.study.study import ModelSpec, Study

PICTURE = "trade-off.png"
"""Beside the card, which shows it."""

_NOWHERE = Path("/")
"""What relative paths would start at: a study in its folder has none."""


def export_arm(
    folder: StudyFolder,
    out: str | Path,
    *,
    arm: str | None,
    merged: bool,
    gguf: bool = False,
    notice: Callable[[str], None] = lambda _: None,
) -> str:
    """Write the arm's median-validation seed at the arm's dial to `out`, a folder or a URL; a line that says what was
    written.

    `arm` None is the recommended one. A study of several models or training sets takes the first verdict that has the
    arm. `gguf`: a whole model, and beside it model.gguf with Ollama's Modelfile; where it cannot be written `notice` is
    told why, and what can. Raises InputProblems where there is nothing to export.
    """
    study, plan, verdict, row, run = chosen_run(folder, arm)
    check_out(out)
    merged = merged or gguf
    if merged and not run.arm.traits.merges:
        raise InputProblems([unmergeable(run.arm)])
    if merged and next(facts for facts in plan.models if facts.name == run.model).quantization is not None:
        found = f"{row.label}, trained on a base in 4 bits"
        raise InputProblems([Problem("--merged", row.label, found, "the adapter, exported without --merged")])
    scores = folder.read_table("scores")
    if scores is None:
        raise _nothing(folder, "no tables/scores.parquet", "the tables; `rankscope report` rebuilds them")
    picture = trade_off_png(verdict, folder.read_table("seeds"), study.decision)
    whole = merged or run.arm.traits.whole
    settings = study.model_dump(mode="json", by_alias=True, exclude_none=True)
    provenance = provenance_of(folder, plan)
    with out_folder(out) as target:
        target.mkdir()
        _fill(folder, study, run, target, dial=row.dial, merged=merged)
        in_gguf = gguf and _write_gguf(target, f"{study.name}-{row.label}", notice)
        files: Files = "gguf" if in_gguf else "model" if whole else "adapter"
        exported = Exported(run.arm, run.seed, files, PICTURE if picture is not None else None)
        card = model_card(verdict, row, exported, scores, settings, provenance)
        (target / "README.md").write_text(card, encoding="utf-8")
        if picture is not None:
            (target / PICTURE).write_bytes(picture)
    what = ("model, with model.gguf," if in_gguf else "model") if whole else "adapter"
    at = "" if row.dial == 1 else f" at the dial {row.dial:g}"
    return f"the {what} of {row.label}{at}, seed {run.seed},"


def chosen_run(folder: StudyFolder, arm: str | None) -> tuple[Study, Plan, Verdict, ArmVerdict, PlannedRun]:
    """The arm that is exported (None: the recommended one), with its verdict and the run of its median validation
    loss, of those whose weights were kept if any were. Raises InputProblems where there is none."""
    study, plan = planned_study(folder)
    verdict, row = _choose(folder, folder.verdicts().verdicts, arm)
    runs = runs_frame(folder, plan)
    kept = {run.run_id for run in plan.runs if folder.has_weights(run.run_id, whole=run.arm.traits.whole)}
    own = runs[(runs["arm"] == row.label) & runs["run_id"].isin(kept) & (runs["state"] == "done")]
    try:
        seed = median_seed(runs if own.empty else own, verdict.model, verdict.train_set, row.label)
    except LookupError:
        raise _nothing(folder, f"no finished run of {row.label}", "an arm that was trained") from None
    wanted = (verdict.model, verdict.train_set, row.label, seed)
    run = next(r for r in plan.runs if (r.model, r.train_set, r.arm.label, r.seed) == wanted)
    return study, plan, verdict, row, run


def _nothing(folder: StudyFolder, found: str, expected: str) -> InputProblems:
    return InputProblems([Problem(folder.url, "export", found, expected)])


def _choose(folder: StudyFolder, verdicts: list[Verdict], arm: str | None) -> tuple[Verdict, ArmVerdict]:
    for verdict in verdicts:
        wanted = arm if arm is not None else (verdict.recommended.label if verdict.recommended else None)
        for row in verdict.arms:
            if row.label == wanted:
                return verdict, row
    labels = list(dict.fromkeys(row.label for verdict in verdicts for row in verdict.arms))
    if arm is not None:
        raise _nothing(folder, f"no arm {arm}", f"one of {', '.join(labels)}")
    bets = {verdict.best_bet.label for verdict in verdicts if verdict.best_bet is not None}
    named = " or ".join(f"--arm {label}" for label in labels if label in bets)  # the base is no arm
    expected = f"the best bet by {named}, or another arm" if named else "an arm named with --arm"
    raise _nothing(folder, "no arm that is recommended for sure", f"{expected}: {', '.join(labels)}")


def _write_gguf(target: Path, name: str, notice: Callable[[str], None]) -> bool:
    """Whether model.gguf and a Modelfile stand beside the model now."""
    try:
        write_gguf(target, target / GGUF_FILE, name)
    except NotForGguf as why:
        (target / GGUF_FILE).unlink(missing_ok=True)
        notice(
            f"no {GGUF_FILE} is written: {why}; llama.cpp's own converter, in the exported folder: "
            f"python llama.cpp/convert_hf_to_gguf.py . --outfile {GGUF_FILE}"
        )
        return False
    (target / MODELFILE).write_text(modelfile(), encoding="utf-8")
    return True


def _fill(folder: StudyFolder, study: Study, run: PlannedRun, target: Path, *, dial: float, merged: bool) -> None:
    """The weights at the arm's dial: of the run on disk, which is as it was trained, nothing is changed."""
    full = run.arm.traits.whole
    weights = folder.weights(run.run_id, whole=full)
    if weights is None:
        expected = "weights that were kept: run the study into another folder with --set keep.full=best"
        raise _nothing(folder, f"no weights of {run.arm.label}", expected)
    spec = next(spec for spec in study.models if spec.name == run.model)
    if full and dial < 1:
        _interpolate(spec, run, weights, target, dial)
    elif merged and not full:
        with TemporaryDirectory() as temporary:
            _merge(spec, run, _dialled(weights, Path(temporary) / "adapter", dial), target)
    else:
        _dialled(weights, target, dial)
        _name_base(target / CONFIG, spec.public_id)
    if merged or full:
        load_tokenizer(spec, _NOWHERE).save_pretrained(str(target))


def _copy(weights: Path, target: Path) -> None:
    """Regular files only. Raises InputProblems for a link, which may lead anywhere."""
    links = [path for path in sorted(weights.rglob("*")) if path.is_symlink()]
    if links:
        raise InputProblems([Problem(str(path), "export", "a link", "a file of the study itself") for path in links])
    shutil.copytree(weights, target, dirs_exist_ok=True, copy_function=shutil.copyfile)


def _name_base(path: Path, base: str) -> None:
    """The base in PEFT's settings as others know it, not as a path of this machine."""
    if path.is_file():
        config = json.loads(path.read_text(encoding="utf-8")) | {"base_model_name_or_path": base}
        path.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")


def _dialled(weights: Path, target: Path, dial: float) -> Path:
    """A copy of a folder of weights, an adapter's alpha times `dial`; where it is."""
    _copy(weights, target)
    if dial < 1:
        config = adapter_config(target)
        pattern = {name: alpha * dial for name, alpha in (config.get("alpha_pattern") or {}).items()}
        scaled = {**config, "lora_alpha": config["lora_alpha"] * dial, "alpha_pattern": pattern}
        (target / CONFIG).write_text(json.dumps(scaled, indent=2, sort_keys=True), encoding="utf-8")
    return target


def _interpolate(spec: ModelSpec, run: PlannedRun, weights: Path, target: Path, dial: float) -> None:
    """W0 + dial (W - W0), as it was scored."""
    base = load_model(spec, _NOWHERE, run.dtype, "cpu")
    trained = load_model(spec, _NOWHERE, run.dtype, "cpu", weights=weights)
    Interpolation(trained.model, base.model).turn_to(dial)
    trained.model.save_pretrained(str(target), safe_serialization=True)


def _merge(spec: ModelSpec, run: PlannedRun, weights: Path, target: Path) -> None:
    """The adapter added into the base's weights in fp32, so that nothing but the last rounding is lost."""
    base = load_model(spec, _NOWHERE, "float32", "cpu")
    with attach(base, SavedAdapter(weights, run.arm), packed=False) as pack:
        pack.members[0].merged().save_pretrained(str(target), safe_serialization=True)
