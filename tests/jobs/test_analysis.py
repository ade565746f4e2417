"""A tiny study looks inside: every analysis file, tables with the numbers of a direct computation, derived runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from inside_models import make_model
from one_adapter import load_adapter, open_factors
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from test_pipeline import plan_of, run
from tiny_study import tiny_study

from rankscope.analyse.intruder_scaling import intruder_change
from rankscope.edges.executors import WorkPlace
from rankscope.edges.study_folder import StudyFolder
from rankscope.jobs.analysis import probes
from rankscope.jobs.derive_job import derivations
from rankscope.jobs.job_context import job_context
from rankscope.model.weights.adapter_file import read_adapter
from rankscope.model.weights.svd_cache import SvdCache
from rankscope.model.weights.weight_delta import LowRank, merged_changes
from rankscope.pipeline import Outcome
from rankscope.results.write_results import write_results
from rankscope.study.read_study import read_study

ARMS = {
    "full": {"learning_rate": 1e-3},
    "lora": {"ranks": [2, 4], "learning_rate": 1e-2},
}

PLACE = WorkPlace(lambda: False)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inside")
    study = tiny_study(folder / "input", arms=ARMS, seeds=[0, 1], analysis={"enabled": True, "probe_items": 12})
    assert run(study, folder / "out") == Outcome()
    return folder / "out"


def test_every_finished_run_has_its_analysis(out: Path) -> None:
    for planned in plan_of(out).runs:
        folder = out / "runs" / planned.run_id / "analysis"
        assert {p.name for p in folder.iterdir()} == {
            "spectra.parquet", "hidden.parquet", "attention.parquet", "neurons.parquet", "directions.safetensors",
            "notes.json", "directions.safetensors.sha256",
        }  # fmt: skip
        assert len(pd.read_parquet(folder / "spectra.parquet")) == 14
        hidden = pd.read_parquet(folder / "hidden.parquet")
        assert len(hidden) == 3 * 2, "three suites with questions, two layers"
        assert hidden["cka"].between(-0.5, 1).all()


def test_spectra_are_those_of_the_saved_adapter(out: Path) -> None:
    planned = next(r for r in plan_of(out).runs if r.arm.rank == 4)
    adapter = read_adapter(out / "runs" / planned.run_id / "adapter")
    table = pd.read_parquet(out / "tables" / "spectra.parquet")
    mine = table[(table["arm"] == planned.arm.label) & (table["seed"] == planned.seed)].set_index("module")
    for module, delta in adapter.deltas.items():
        assert mine.loc[module, "frobenius_norm"] == pytest.approx(float(delta.dense().double().norm()), rel=1e-4)
    held = load_file(out / "runs" / planned.run_id / "analysis" / "directions.safetensors")
    assert {tuple(v.shape)[1] for v in held.values()} == {4}


def test_full_fine_tuning_is_looked_at_before_its_weights_are_deleted(out: Path) -> None:
    assert not list((out / "runs").glob("full*/model"))
    table = pd.read_parquet(out / "tables" / "spectra.parquet")
    full = table[table["arm"] == "full"]
    assert set(full["rank"]) == {16, 32}
    assert full["relative_norm"].between(1e-4, 1).all()
    assert full["intruders"].notna().all()


def test_tables_of_the_inside(out: Path) -> None:
    tables = {p.stem: pd.read_parquet(p) for p in (out / "tables").glob("*.parquet")}
    assert {
        "spectra",
        "subspaces",
        "hidden",
        "attention",
        "neurons",
        "neuron_overlaps",
        "diagnostics",
        "derived",
    } <= set(tables)
    assert tables["subspaces"]["similarity"].between(0, 1 + 1e-6).all()
    assert tables["diagnostics"].empty, "a base that guesses on every suite has nothing to forget"
    assert set(tables["attention"]["head"]) == {0, 1, 2, 3}


def test_the_largest_adapter_is_truncated_and_its_intruders_scaled(out: Path) -> None:
    derived = pd.read_parquet(out / "tables" / "derived.parquet")
    assert set(derived["derivation"]) == {"truncated", "energy", "intruders", "control", "layers", "spectrum cut"}
    assert set(derived[derived["derivation"] == "spectrum cut"]["arm"]) == {"full"}
    assert set(derived[~derived["derivation"].isin(["layers", "spectrum cut"])]["arm"]) == {"lora-r4"}
    layers = derived[derived["derivation"] == "layers"]
    assert {*layers[["arm", "below", "above"]].itertuples(index=False, name=None)} == {
        (arm, *dials) for arm in ("full", "lora-r4") for dials in ((0.5, 1.0), (1.0, 0.5))
    }
    assert set(derived["seed"]) == {0}
    assert set(derived[derived["derivation"] == "truncated"]["rank"]) == {2}
    assert set(derived["suite"]) == {"taught", "other", "sums"}
    verdicts = StudyFolder.open(out).read_verdicts()
    assert verdicts is not None
    assert {arm.label for arm in verdicts.verdicts[0].arms} == {"full", "lora-r2", "lora-r4"}, "never a candidate"


def test_nothing_is_done_twice_and_new_probe_items_are_a_new_analysis_of_adapters(out: Path) -> None:
    study = out.parent / "input" / "study.yaml"

    assert not list((out / "runs").glob("full-s1-*/derived/*")), "of one seed"

    def times() -> dict[Path, int]:
        found = [*(out / "runs").rglob("analysis/neurons.parquet"), *(out / "runs").rglob("derived/*.parquet")]
        return {path: path.stat().st_mtime_ns for path in found}

    before = times()
    assert run(study, out) == Outcome()
    assert times() == before
    assert run(study, out, ["analysis.probe_items=9"]) == Outcome()
    changed = {p.parent.parent.name.split("-")[0] for p, t in times().items() if t != before[p]}
    assert changed == {"lora"}, "of full fine-tuning the weights are gone"
    assert run(study, out, ["analysis.enabled=false"]) == Outcome()


def test_probe_items_are_a_seeded_sample_spread_over_the_suites(out: Path) -> None:
    here = job_context(str(out), PLACE)
    model = here.study.models[0].name
    first, again = probes(here, model), probes(here, model)
    assert first == again
    assert set(first) == {"taught", "other", "sums"}, "plain text has no question"
    assert sum(map(len, first.values())) == here.study.analysis.probe_items
    assert max(map(len, first.values())) - min(map(len, first.values())) <= 1


def test_results_are_rebuilt_without_a_model(out: Path) -> None:
    before = pd.read_parquet(out / "tables" / "hidden.parquet")
    write_results(StudyFolder.open(out))
    pd.testing.assert_frame_equal(pd.read_parquet(out / "tables" / "hidden.parquet"), before)


def test_factors_act_and_leave(out: Path) -> None:
    here = job_context(str(out), PLACE)
    planned = next(r for r in here.plan.runs if r.arm.rank == 4)
    weights, base = here.folder.weights(planned.run_id, whole=False), here.base(planned.model)
    assert weights is not None
    deltas, tokens = read_adapter(weights).deltas, torch.tensor([[5, 6, 7, 8]])

    def logits(changed: Callable[[LowRank], LowRank]) -> torch.Tensor:
        factors = {name: changed(delta) for name, delta in deltas.items()}
        with open_factors(base, [planned.arm], [factors]), torch.no_grad():
            return base.model(tokens).logits

    with torch.no_grad():
        plain = base.model(tokens).logits
        with load_adapter(base, planned.arm, weights):
            whole = base.model(tokens).logits
    tolerance = 1e-4 if whole.dtype == torch.float32 else 0.05
    assert float((whole - plain).abs().max()) > 10 * tolerance
    torch.testing.assert_close(logits(lambda d: d), whole, rtol=0, atol=tolerance)
    torch.testing.assert_close(logits(lambda d: d.svd().low_rank(d.scale)), whole, rtol=0, atol=tolerance)
    torch.testing.assert_close(logits(lambda d: LowRank(d.a[:0], d.b[:, :0], d.scale)), plain)
    with torch.no_grad():
        assert torch.equal(base.model(tokens).logits, plain)
    assert [d.name for d in derivations(here.study, here.plan, planned)] == [
        "rank-2", "energy-0.9", "intruders-0.5", "control-0.5", "layers-0.5-1", "layers-1-0.5",
    ]  # fmt: skip


@pytest.mark.parametrize("shape", [(40, 40), (60, 30), (30, 60)])
def test_scaling_intruders_changes_their_singular_values_only(shape: tuple[int, int], tmp_path: Path) -> None:
    dice = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=dice)
    b = torch.randn(shape[0], 2, generator=dice) * 3
    delta = LowRank(torch.randn(2, shape[1], generator=dice) * 3, b, 0.5)
    change = intruder_change(SvdCache(tmp_path), weight, None, delta, 0.25)
    assert change.rank > 0, "a change this large has intruders"
    merged = weight.double() + delta.dense().double()
    u, values, vh = torch.linalg.svd(merged, full_matrices=False)
    u0 = torch.linalg.svd(weight.double(), full_matrices=False)[0]
    chosen = (u0.T @ u[:, :10]).abs().amax(0) < 0.5
    expected = merged - 0.75 * (u[:, :10][:, chosen] * values[:10][chosen]) @ vh[:10][chosen]
    torch.testing.assert_close(merged + change.dense().double(), expected, rtol=0, atol=1e-4)


def test_settings_are_read_and_wrong_ones_named(tmp_path: Path) -> None:
    study = tiny_study(tmp_path, analysis={"enabled": True, "probe_items": 5, "derived": False})
    assert read_study(study).analysis.probe_items == 5
    with pytest.raises(Exception, match="probe_items"):
        read_study(study, ["analysis.probe_items=0"])


def test_dora_is_looked_at_as_merging_it_would_change_the_weights() -> None:
    model = make_model("Llama")
    weights = {n: p.clone() for n, p in model.named_parameters()}
    peft = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], use_dora=True, task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, parameter in peft.named_parameters():
            if "lora_B" in name or "magnitude" in name:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    found = {name: delta.weight for name, delta, _ in merged_changes(model)}
    after = dict(peft.merge_and_unload().named_parameters())
    assert set(found) == {f"model.layers.{n}.self_attn.q_proj" for n in range(2)}
    for name, delta in found.items():
        torch.testing.assert_close(delta, after[f"{name}.weight"] - weights[f"{name}.weight"])


def test_methods_without_a_weight_change_say_so(tmp_path: Path) -> None:
    arms = {
        "dora": {"method": "dora", "ranks": [2], "learning_rate": 1e-2},
        "prompt": {"method": "prompt-tuning", "virtual_tokens": [2], "learning_rate": 1e-2},
        "adapters": {"method": "adapters", "bottlenecks": [4], "learning_rate": 1e-2},
    }
    study = tiny_study(tmp_path / "input", arms=arms, seeds=[0], analysis={"enabled": True, "probe_items": 6})
    assert run(study, tmp_path / "out") == Outcome()
    found = {}
    for planned in plan_of(tmp_path / "out").runs:
        folder = tmp_path / "out" / "runs" / planned.run_id / "analysis"
        sizes = {name: len(pd.read_parquet(folder / f"{name}.parquet")) for name in ("spectra", "hidden", "neurons")}
        found[planned.arm.method] = (*sizes.values(), json.loads((folder / "notes.json").read_text())["reason"])
    assert found["dora"] == (14, 6, 6, None)
    assert found["adapters"] == (0, 6, 6, "adapters changes no weight matrix;")
    assert found["prompt-tuning"][:3] == (0, 0, 0)
    assert "virtual tokens" in found["prompt-tuning"][3]
