"""Loading a base model: what a study says of its chat, its token and its code, and what the hub refuses."""
# ruff: noqa: E501 - a table of messages reads better so

from __future__ import annotations

import json
from pathlib import Path

import httpx2
import peft
import pytest
import torch
from huggingface_hub import errors
from tiny_models import save_tiny_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from rankscope.model.load import inspect_model, load_model, load_tokenizer
from rankscope.model.model_source import no_progress_bars
from rankscope.model.weights.weight_delta import load_as_saved
from rankscope.study.problems import InputProblems
from rankscope.study.study import ModelSpec


def line_of(spec: ModelSpec, base: Path) -> str:
    with pytest.raises(InputProblems) as caught:
        inspect_model(spec, base)
    (problem,) = caught.value.problems
    return str(problem)


def test_an_adapter_in_the_bases_own_folder_is_no_part_of_the_base(tmp_path: Path) -> None:
    """transformers would put it on while it loads the model, and the base of every comparison would be adapted."""
    plain = load_model(ModelSpec(id=str(save_tiny_model(tmp_path / "m"))), tmp_path, "float32", "cpu").model
    before = inspect_model(ModelSpec(id="./m"), tmp_path)
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    with no_progress_bars():
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
        peft.get_peft_model(theirs, config).save_pretrained(str(tmp_path / "m"))
        assert hasattr(AutoModelForCausalLM.from_pretrained(tmp_path / "m"), "peft_config"), "what transformers does"
    for found in (
        load_model(ModelSpec(id="./m"), tmp_path, "float32", "cpu").model,
        load_as_saved(str(tmp_path / "m")),
    ):
        assert not hasattr(found, "peft_config")
        expected = dict(plain.named_parameters())
        assert {name for name, _ in found.named_parameters()} == set(expected)
        assert all(torch.equal(weight, expected[name]) for name, weight in found.named_parameters())
    assert inspect_model(ModelSpec(id="./m"), tmp_path) == before


def test_cudnn_plans_no_attention_for_every_new_shape(tmp_path: Path) -> None:
    torch.backends.cuda.enable_cudnn_sdp(True)
    load_model(ModelSpec(id=str(save_tiny_model(tmp_path / "base"))), tmp_path, "float32", "cpu")
    assert not torch.backends.cuda.cudnn_sdp_enabled()


def test_chat_never_takes_the_template_away(tmp_path: Path) -> None:
    save_tiny_model(tmp_path / "m", chat=True)
    assert load_tokenizer(ModelSpec(id="./m"), tmp_path).chat_template
    assert load_tokenizer(ModelSpec(id="./m", chat="never"), tmp_path).chat_template is None


def test_a_chat_template_of_the_study_stands_in_place_of_the_tokenizers(tmp_path: Path) -> None:
    save_tiny_model(tmp_path / "m")
    template = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    tokenizer = load_tokenizer(ModelSpec(id="./m", chat_template=template), tmp_path)
    assert tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False) == "<user>Hi"


GATED = errors.GatedRepoError(
    "Cannot access gated repo", response=httpx2.Response(401, request=httpx2.Request("GET", "https://huggingface.co"))
)
UNKNOWN = errors.RepositoryNotFoundError(
    "404", response=httpx2.Response(404, request=httpx2.Request("GET", "https://huggingface.co"))
)
CODE = "The repository org/m contains custom code. Please pass the argument `trust_remote_code=True` to allow it."


@pytest.mark.parametrize(
    ("error", "cause", "said"),
    [
        (OSError("You are trying to access a gated repo.\nMake sure"), GATED, "found a gated model that this account may "
         "not read, expected its terms accepted on https://huggingface.co/org/m, and in MY_TOKEN a token of that account"),
        (OSError("org/m is not a local folder"), UNKNOWN, "found no such model on the hub, or a private one"),
        (OSError("We couldn't connect to 'https://huggingface.co'\nCheck"), errors.LocalEntryNotFoundError("x"),
         "found no connection to the hub, and no copy of the model in the cache"),
        (OSError("v9 is not a valid git identifier (branch name, tag name or commit id)"), None, "found no revision v9"),
        (ValueError(CODE), None, "found a model that needs code of its own from the hub, expected `trust_remote_code: true`"),
        (ValueError("The checkpoint you are trying to load has model type `zzz` but Transformers does not recognize this "
         "architecture. This could"), None, "found the architecture zzz, which this version of transformers does not know"),
    ],
)  # fmt: skip
def test_a_refusal_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, cause: Exception | None, said: str
) -> None:
    error.__cause__ = cause

    def refuse(*_: object, **__: object) -> None:
        raise error

    for kind in (AutoConfig, AutoTokenizer, AutoModelForCausalLM):
        monkeypatch.setattr(kind, "from_pretrained", refuse)
    monkeypatch.setenv("MY_TOKEN", "secret-of-mine")
    spec = ModelSpec(id="org/m", revision="v9", token_env="MY_TOKEN")
    line = line_of(spec, tmp_path)
    assert line.startswith("org/m: model: found ")
    assert said in line
    assert "secret-of-mine" not in line
    for load in (lambda: load_tokenizer(spec, tmp_path), lambda: load_model(spec, tmp_path, "float32", "cpu")):
        with pytest.raises(InputProblems):
            load()


def test_the_token_comes_from_the_variable_that_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}

    def remember(_: str, **options: object) -> None:
        seen.update(options)
        raise OSError("enough")

    monkeypatch.setattr(AutoConfig, "from_pretrained", remember)
    monkeypatch.setenv("MY_TOKEN", "secret")
    line_of(ModelSpec(id="org/m", token_env="MY_TOKEN", revision="main"), tmp_path)
    assert seen == {"trust_remote_code": False, "revision": "main", "token": "secret"}
    monkeypatch.delenv("MY_TOKEN")
    said = "org/m: token_env: found MY_TOKEN, which is not set in the environment"
    assert said in line_of(ModelSpec(id="org/m", token_env="MY_TOKEN"), tmp_path)


def test_code_of_a_model_runs_only_where_the_study_says_so(tmp_path: Path) -> None:
    """A folder whose configuration names a class in a file of its own."""
    folder = save_tiny_model(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text("raise SystemExit('this code ran')\n")
    assert "needs code of its own" in line_of(ModelSpec(id="./m"), tmp_path)
