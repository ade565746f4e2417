"""Audit and compress on adapters that PEFT itself saved: exact numbers, a result that plain PEFT loads, wrong input."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from inside_models import make_model
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel
from typer.testing import CliRunner

from rankscope.cli import app
from rankscope.model.weights.svd_cache import SvdCache
from rankscope.study.problems import InputProblems
from rankscope.tools.adapter_audit import audit, compress

TOKENS = torch.tensor([[3, 14, 15, 92, 65, 35]])


def save_base(folder: Path, family: str = "Llama", **changes: object) -> Path:
    make_model(family, **changes).save_pretrained(folder)
    return folder


def save_adapter(base: Path, out: Path, **settings: Any) -> PeftModel:
    """An adapter with random, not zero, factors of falling size, in PEFT's own format."""
    model = AutoModelForCausalLM.from_pretrained(base)
    defaults = {"r": 6, "lora_alpha": 12, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    peft = get_peft_model(model, LoraConfig(**{**defaults, **settings}))
    dice = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in peft.named_parameters():
            if "lora_" in name and "magnitude" not in name:
                parameter.copy_(torch.randn(parameter.shape, generator=dice) * 0.2)
            if ".lora_B" in name or "embedding_B" in name:
                parameter.mul_(0.5 ** torch.arange(parameter.shape[1]))
    peft.eval().save_pretrained(out)
    return peft


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("adapter")
    save_adapter(base, out)
    return out


def merged_deltas(base: Path, folder: Path) -> dict[str, torch.Tensor]:
    """What plain PEFT adds to each weight of the base, in double."""
    before = AutoModelForCausalLM.from_pretrained(base).double()
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base).double(), folder).double()
    after: PreTrainedModel = model.merge_and_unload()
    old = dict(before.named_parameters())
    return {n: p.detach() - old[n].detach() for n, p in after.named_parameters() if not torch.equal(p, old[n])}


def logits(base: Path, folder: Path) -> torch.Tensor:
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder).eval()
    with torch.no_grad():
        return model(TOKENS).logits


# ---- audit ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "GPT2"])
@pytest.mark.parametrize(
    "settings", [{}, {"use_rslora": True}, {"rank_pattern": {"mlp.*": 3}, "alpha_pattern": {"mlp.*": 5}}]
)
def test_audit_sees_what_peft_adds(tmp_path: Path, family: str, settings: dict[str, Any]) -> None:
    base = save_base(tmp_path / "base", family)
    save_adapter(base, tmp_path / "adapter", **settings)
    found = audit(tmp_path / "adapter", str(base), SvdCache(tmp_path / "cache"))
    deltas = merged_deltas(base, tmp_path / "adapter")
    weights = dict(AutoModelForCausalLM.from_pretrained(base).named_parameters())
    assert {f"{m['module']}.weight" for m in found["modules"]} == set(deltas)
    for module in found["modules"]:
        delta = deltas[f"{module['module']}.weight"]
        values = torch.linalg.svdvals(delta)
        assert module["frobenius_norm"] == pytest.approx(float(delta.norm()), rel=1e-3)
        assert module["spectral_norm"] == pytest.approx(float(values[0]), rel=1e-3)
        held = values.square().cumsum(0) / values.square().sum()
        assert module["energy_rank"]["90"] == int((held < 0.9).sum()) + 1
        ratio = float(delta.norm() / weights[f"{module['module']}.weight"].double().norm())
        assert module["relative_norm"] == pytest.approx(ratio, rel=1e-3)
        shape = list(delta.shape) if family != "GPT2" else list(delta.T.shape)
        assert module["shape"] == shape
    assert found["suggested_rank"] == max(m["energy_rank"]["90"] for m in found["modules"])


def test_audit_without_a_base_leaves_out_what_needs_one(adapter: Path) -> None:
    found = audit(adapter)
    assert all(m["relative_norm"] is None and m["intruders"] is None for m in found["modules"])
    assert json.loads(json.dumps(found)) == found


def test_embeddings_dora_and_modules_saved_whole(base: Path, tmp_path: Path) -> None:
    save_adapter(base, tmp_path / "a", target_modules=["embed_tokens", "q_proj"])
    found = audit(tmp_path / "a", str(base), SvdCache(tmp_path / "cache"))
    embedding = next(m for m in found["modules"] if m["module"] == "model.embed_tokens")
    assert embedding["shape"] == [97, 32]
    delta = merged_deltas(base, tmp_path / "a")["model.embed_tokens.weight"]
    assert embedding["frobenius_norm"] == pytest.approx(float(delta.norm()), rel=1e-3)
    save_adapter(base, tmp_path / "b", target_modules=["q_proj"], use_dora=True, modules_to_save=["lm_head"])
    notes = " ".join(audit(tmp_path / "b")["notes"])
    assert "DoRA" in notes
    assert "lm_head" in notes


# ---- compress -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "GPT2"])
@pytest.mark.parametrize(
    "settings", [{}, {"use_rslora": True}, {"rank_pattern": {"mlp.*": 3}, "alpha_pattern": {"mlp.*": 5}}]
)
@pytest.mark.parametrize("asked", [{"rank": 2}, {"energy": 0.95}])
def test_the_result_is_the_best_approximation_and_loads_in_plain_peft(
    tmp_path: Path, family: str, settings: dict[str, Any], asked: dict[str, Any]
) -> None:
    base = save_base(tmp_path / "base", family)
    save_adapter(base, tmp_path / "adapter", **settings)
    done = compress(tmp_path / "adapter", tmp_path / "out", **asked)
    before, after = merged_deltas(base, tmp_path / "adapter"), merged_deltas(base, tmp_path / "out")
    lost = total = 0.0
    for name, delta in before.items():
        u, values, vh = torch.linalg.svd(delta, full_matrices=False)
        rank = done.ranks[name.removesuffix(".weight")]
        if "energy" in asked:
            held = values.square().cumsum(0) / values.square().sum()
            assert rank == int((held < 0.95).sum()) + 1
        else:
            assert rank == 2
        best = (u[:, :rank] * values[:rank]) @ vh[:rank]
        torch.testing.assert_close(after[name], best, rtol=0, atol=1e-5)
        lost += float((delta - after[name]).square().sum())
        total += float(delta.square().sum())
    assert done.discarded_energy == pytest.approx(lost / total, rel=1e-4)
    assert done.bytes_after < done.bytes_before


def test_full_rank_discards_nothing_and_answers_alike(base: Path, adapter: Path, tmp_path: Path) -> None:
    done = compress(adapter, tmp_path / "out", rank=6)
    assert done.discarded_energy < 1e-12
    torch.testing.assert_close(logits(base, tmp_path / "out"), logits(base, adapter), rtol=0, atol=1e-3)


def test_embeddings_dora_and_whole_modules_survive_compression(base: Path, tmp_path: Path) -> None:
    save_adapter(base, tmp_path / "a", target_modules=["embed_tokens", "q_proj"])
    compress(tmp_path / "a", tmp_path / "a6", rank=6)
    torch.testing.assert_close(logits(base, tmp_path / "a6"), logits(base, tmp_path / "a"), rtol=0, atol=1e-3)
    compress(tmp_path / "a", tmp_path / "a2", rank=2)
    assert load_file(tmp_path / "a2" / "adapter_model.safetensors")[
        "base_model.model.model.embed_tokens.lora_embedding_A"
    ].shape == (2, 97)
    save_adapter(base, tmp_path / "b", target_modules=["q_proj"], use_dora=True, modules_to_save=["lm_head"])
    compress(tmp_path / "b", tmp_path / "b6", rank=6)
    torch.testing.assert_close(logits(base, tmp_path / "b6"), logits(base, tmp_path / "b"), rtol=0, atol=1e-3)


def test_bf16_adapters_stay_bf16_and_the_rounding_is_in_the_discarded_energy(adapter: Path, tmp_path: Path) -> None:
    shutil.copytree(adapter, tmp_path / "bf16")
    file = tmp_path / "bf16" / "adapter_model.safetensors"
    save_file({k: t.bfloat16() for k, t in load_file(file).items()}, file)
    done = compress(tmp_path / "bf16", tmp_path / "out", rank=6)
    assert 1e-8 < done.discarded_energy < 1e-4
    assert {t.dtype for t in load_file(tmp_path / "out" / "adapter_model.safetensors").values()} == {torch.bfloat16}


# ---- the command line and wrong input -------------------------------------------------------------------------------


def lines_of(*arguments: object) -> list[str]:
    """The lines on stderr of a command that must end with 2."""
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return result.stderr.strip().splitlines()


def test_both_commands_print(base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANKSCOPE_CACHE", str(tmp_path / "cache"))
    result = CliRunner().invoke(app, ["audit", str(adapter), "--base", str(base)])
    assert result.exit_code == 0, result.output
    assert "holds 90 % of the energy" in " ".join(result.output.split())
    as_json = CliRunner().invoke(app, ["audit", str(adapter), "--json"])
    assert {"adapter", "suggested_rank", "modules"} <= json.loads(as_json.stdout).keys()
    result = CliRunner().invoke(app, ["compress", str(adapter), "--energy", "0.9", "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "of the energy is discarded" in result.output


def broken(adapter: Path, out: Path, change: Any) -> Path:
    """A copy of the adapter whose tensors went through `change`."""
    shutil.copytree(adapter, out)
    file = out / "adapter_model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file({k: t.contiguous() for k, t in tensors.items()}, file)
    return out


KEY = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"


def test_a_folder_that_is_no_adapter(adapter: Path, base: Path, tmp_path: Path) -> None:
    assert "no such folder" in lines_of("audit", tmp_path / "none")[0]
    assert "no adapter_config.json" in lines_of("audit", base)[0]
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    shutil.copy(adapter / "adapter_config.json", pickled)
    torch.save({}, pickled / "adapter_model.bin")
    (line,) = lines_of("audit", pickled)
    assert "adapter_model.bin" in line
    assert "pickles are not opened" in line
    shutil.copytree(adapter, tmp_path / "cut")
    (tmp_path / "cut" / "adapter_model.safetensors").write_bytes(b"x" * 20)
    assert "damaged" in lines_of("compress", tmp_path / "cut", "--rank", 1, "--out", tmp_path / "o")[0]
    shutil.copytree(adapter, tmp_path / "other")
    (tmp_path / "other" / "adapter_config.json").write_text('{"peft_type": "IA3"}')
    assert "IA3" in lines_of("audit", tmp_path / "other")[0]


def test_weights_that_are_no_numbers_name_the_module(adapter: Path, tmp_path: Path) -> None:
    bad = broken(adapter, tmp_path / "nan", lambda tensors: tensors[KEY].fill_(float("nan")))
    (line,) = lines_of("audit", bad)
    assert "layers.1.self_attn.q_proj" in line
    assert "NaN" in line
    bad = broken(adapter, tmp_path / "inf", lambda tensors: tensors[KEY].fill_(float("inf")))
    assert "infinity" in lines_of("compress", bad, "--rank", 1, "--out", tmp_path / "o")[0]
    bad = broken(adapter, tmp_path / "half", lambda tensors: tensors.pop(KEY))
    assert "only lora_B" in lines_of("audit", bad)[0]
    bad = broken(adapter, tmp_path / "uneven", lambda tensors: tensors.update({KEY: torch.ones(5, 32)}))
    assert "factors of one rank" in lines_of("audit", bad)[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.update({KEY: torch.ones(6, 32).to(torch.float8_e4m3fn)}), "lora_A of float8_e4m3fn"),
        (lambda t: t.update({KEY: torch.ones(6, 32, dtype=torch.int8)}), "lora_A of int8"),
        (lambda t: t.update({KEY: torch.full((6, 32), 3e38)}), "a change of size"),
        (lambda t: t.update({KEY: t[KEY][:0], KEY.replace("_A", "_B"): t[KEY.replace("_A", "_B")][:, :0]}), "at least"),
    ],
)
def test_factors_that_cannot_be_decomposed_name_the_module(
    adapter: Path, tmp_path: Path, change: Any, words: str
) -> None:
    (line,) = lines_of("audit", broken(adapter, tmp_path / "bad", change))
    assert "layers.1.self_attn.q_proj" in line
    assert words in line


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"lora_alpha": 0}, "lora_alpha: found 0"),
        ({"lora_alpha": float("nan")}, "lora_alpha: found NaN"),
        ({"r": True}, "r: found true"),
        ({"alpha_pattern": {"q_proj": "x"}}, "alpha_pattern"),
        ({"alpha_pattern": [1]}, "alpha_pattern"),
        ({"alpha_pattern": {"(": 3}}, "no regular expression"),
    ],
)
def test_settings_that_no_scale_follows_from(
    adapter: Path, tmp_path: Path, settings: dict[str, Any], words: str
) -> None:
    shutil.copytree(adapter, tmp_path / "a")
    file = tmp_path / "a" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    (line,) = lines_of("compress", tmp_path / "a", "--rank", 1, "--out", tmp_path / "out")
    assert words in line


def test_a_base_that_does_not_match_names_each_module(adapter: Path, tmp_path: Path) -> None:
    wider = save_base(tmp_path / "wider", hidden_size=40, num_attention_heads=5, num_key_value_heads=5)
    lines = lines_of("audit", adapter, "--base", wider)
    assert len(lines) == 14
    assert "model.layers.0.self_attn.q_proj of shape [40, 40]" in "\n".join(lines)
    assert "[32, 32], as the adapter has it" in "\n".join(lines)
    other = save_base(tmp_path / "gpt2", "GPT2")
    assert "no module model.layers.0" in lines_of("audit", adapter, "--base", other)[0]
    assert lines_of("audit", adapter, "--base", tmp_path / "nothing")


def test_a_configuration_of_another_adapter_is_refused(adapter: Path, tmp_path: Path) -> None:
    """PEFT does not load such a folder; its scale would be right of neither."""
    shutil.copytree(adapter, tmp_path / "a")
    file = tmp_path / "a" / "adapter_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "r": config["r"] + 5}))
    with pytest.raises(InputProblems, match=rf"adapter_config.json: r: found {config['r'] + 5} where .* has"):
        audit(tmp_path / "a")


def test_ranks_and_energies_that_cannot_be(adapter: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert "at most the adapter's 6" in lines_of("compress", adapter, "--rank", 7, "--out", out)[0]
    assert "above 0" in lines_of("compress", adapter, "--rank", 0, "--out", out)[0]
    assert "at most 1" in lines_of("compress", adapter, "--energy", 1.5, "--out", out)[0]
    assert "neither" in lines_of("compress", adapter, "--out", out)[0]
    assert "both" in lines_of("compress", adapter, "--rank", 1, "--energy", 0.5, "--out", out)[0]
    out.mkdir()
    (out / "x").write_text("")
    assert "something there already" in lines_of("compress", adapter, "--rank", 1, "--out", out)[0]


@pytest.mark.parametrize(
    ("settings", "words"), [({"init_lora_weights": "pissa"}, "changes the base"), ({"lora_bias": True}, "biases")]
)
def test_what_cannot_be_compressed_is_refused_with_the_reason(
    adapter: Path, tmp_path: Path, settings: dict[str, Any], words: str
) -> None:
    shutil.copytree(adapter, tmp_path / "a")
    file = tmp_path / "a" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    with pytest.raises(InputProblems, match=words):
        compress(tmp_path / "a", tmp_path / "out", rank=1)
    assert not (tmp_path / "out").exists()


def test_compress_copies_no_link_and_makes_files_of_ordinary_modes(adapter: Path, tmp_path: Path) -> None:
    """A tokenizer that was saved along comes with it; what a link points at may be anything that this user can read."""
    given, out = tmp_path / "given", tmp_path / "out"
    shutil.copytree(adapter, given)
    (tmp_path / "secret").write_text("of somebody else")
    (given / "tokenizer.json").write_text("{}")
    (given / "special_tokens_map.json").symlink_to(tmp_path / "secret")
    before = os.umask(0o027)
    try:
        done = compress(given, out, rank=2)
    finally:
        os.umask(before)
    assert "special_tokens_map.json is a link and was not copied" in done.notes
    names = {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json"}
    assert {path.name for path in out.iterdir()} == names
    assert {path.stat().st_mode & 0o777 for path in out.iterdir()} == {0o640}
    assert out.stat().st_mode & 0o777 == 0o750
    assert {path.name for path in tmp_path.iterdir()} == {"given", "out", "secret"}
