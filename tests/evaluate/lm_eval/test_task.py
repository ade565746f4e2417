"""Tasks of lm-eval as suites of a study: every sample's score is what lm-eval's own `hf` model gets."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from encoded_rows import encoded_suite
from harness_tasks import CONTINUED, GENERATED, ITEMS, ROLLING, save_task
from tiny_models import save_tiny_model

from rankscope.data.encoder import Encoder
from rankscope.evaluate.lm_eval.load_task import load_task, need_lm_eval
from rankscope.evaluate.score_suites import score_suite
from rankscope.model.load import LoadedModel, load_model
from rankscope.records import Prediction, Suite, SuiteFacts
from rankscope.study.problems import InputProblems
from rankscope.study.study import ModelSpec, SuiteSource

lm_eval = pytest.importorskip("lm_eval")

from lm_eval.tasks import TaskManager  # noqa: E402

pytestmark = pytest.mark.usefixtures("own_datasets_cache")


def loaded_model(folder: Path, chat: bool = False) -> LoadedModel:
    save_tiny_model(folder, chat=chat, initializer_range=0.3)
    return load_model(ModelSpec(id=str(folder)), Path(), "float32", "cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return loaded_model(tmp_path_factory.mktemp("model"))


def suite_of(task: Path, model: LoadedModel, **settings: Any) -> tuple[Suite, SuiteFacts]:
    system = settings.pop("system_prompt", None)
    source = SuiteSource(**{"harness": str(task), "kind": "recall", **settings})
    encoder = Encoder(model.tokenizer, context_tokens=settings.pop("context", 512), system_prompt=system)
    return encoded_suite(source, load_task(source, base=Path(), name="suites.towns"), encoder, "towns")


def scored(suite: Suite, model: LoadedModel) -> list[Prediction]:
    return score_suite(model.model, model.tokenizer, suite, token_budget=512)


def reference(task: Path, model: LoadedModel, **settings: Any) -> dict[str, Any]:
    from lm_eval.models.huggingface import HFLM

    hf = HFLM(pretrained=model.model, tokenizer=model.tokenizer, device="cpu", batch_size=4)
    manager = TaskManager(include_defaults=False)
    found: dict[str, Any] = lm_eval.simple_evaluate(
        model=hf, tasks=[str(task)], task_manager=manager, bootstrap_iters=0, **settings
    )
    return found


def samples(found: dict[str, Any], filter_: str = "none") -> list[dict[str, Any]]:
    return [one for one in found["samples"]["towns"] if one["filter"] == filter_]


def test_multiple_choice_few_shot(model: LoadedModel, tmp_path: Path) -> None:
    task = save_task(tmp_path)
    wanted = samples(reference(task, model, num_fewshot=2))
    suite, facts = suite_of(task, model, num_fewshot=2)
    assert facts.harness is not None
    assert (facts.form, facts.harness.version, facts.harness.num_fewshot, facts.harness.metric) == (
        "choices",
        2.0,
        2,
        "acc",
    )
    found = scored(suite, model)
    assert [one.item_id for one in found] == [str(one["doc_id"]) for one in wanted]
    assert [one.score for one in found] == [one["acc"] for one in wanted]
    assert [one.score_normalized for one in found] == [one["acc_norm"] for one in wanted]
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.choice_logprobs == pytest.approx([resp[0][0] for resp in theirs["resps"]], abs=1e-3)
        assert ours.answer == theirs["doc"]["choices"][theirs["doc"]["answer"]]
    assert 0 < sum(one["acc"] for one in wanted) < ITEMS


@pytest.mark.slow
def test_generated_text_with_stops_and_a_filter(model: LoadedModel, tmp_path: Path) -> None:
    rows = save_task(tmp_path, **GENERATED)
    free = scored(suite_of(rows, model)[0], model)
    # The answers become what the model writes, for half of them, so that scores differ.
    task = save_task(
        tmp_path, **{**GENERATED, "doc_to_target": "{% if 'own 1' in question %}nothing{% else %}{{reply}}{% endif %}"}
    )
    wanted = reference(task, model)
    for metric, filter_ in ((None, "first"), ("exact_match,whole", "whole")):
        suite, facts = suite_of(task, model, metric=metric)
        found = scored(suite, model)
        assert (suite.max_new_tokens, facts.form) == (12, "open")
        assert [one.score for one in found] == [one["exact_match"] for one in samples(wanted, filter_)]
        assert [one.predicted for one in found] == [one["filtered_resps"][0] for one in samples(wanted, filter_)]
    assert any(one.predicted for one in free)


@pytest.mark.slow
def test_rolling_text_and_continuations(model: LoadedModel, tmp_path: Path) -> None:
    task = save_task(tmp_path, **ROLLING)
    wanted = samples(reference(task, model))
    suite, facts = suite_of(task, model, kind=None)
    found = scored(suite, model)
    assert (facts.form, found[0].score) == ("text", None)
    assert [one.loss_nats for one in found] == pytest.approx([-one["resps"][0][0] for one in wanted], abs=1e-3)
    assert [one.text_bytes for one in found] == [one["bits_per_byte"][1] for one in wanted]

    task = save_task(tmp_path, **CONTINUED)
    wanted = samples(reference(task, model))
    found = scored(suite_of(task, model)[0], model)
    assert [one.score for one in found] == [one["acc"] for one in wanted]
    assert [one.choice_logprobs[0] for one in found if one.choice_logprobs] == pytest.approx(
        [one["resps"][0][0][0] for one in wanted], abs=1e-3
    )


@pytest.mark.slow
def test_a_chat_model_s_prompts(tmp_path: Path) -> None:
    model = loaded_model(tmp_path / "chat", chat=True)
    task = save_task(tmp_path)
    wanted = reference(task, model, num_fewshot=2, apply_chat_template=True, system_instruction="Be right.")
    suite, _ = suite_of(task, model, num_fewshot=2, system_prompt="Be right.")
    assert suite.items[0].prompt_text == samples(wanted)[0]["arguments"][0][0]
    assert suite.items[0].prompt_text.startswith("<|system|>Be right.<|user|>Question: ")
    for ours, theirs in zip(scored(suite, model), samples(wanted), strict=True):
        assert ours.choice_logprobs == pytest.approx([resp[0][0] for resp in theirs["resps"]], abs=1e-3)


@pytest.mark.slow
def test_several_contexts_and_mutual_information(model: LoadedModel, tmp_path: Path) -> None:
    """winogrande's way: each choice stands in the context; and log-likelihoods without a context."""
    contexts = {
        "doc_to_text": "answer",
        "doc_to_choice": "{{[question ~ ' By ' ~ choices[0], question ~ ' Near ' ~ choices[1]]}}",
        "doc_to_target": "text",
        "metric_list": [{"metric": "acc"}],
    }
    mutual = {"metric_list": [{"metric": "acc_mutual_info"}, {"metric": "acc"}]}
    for changes, metric in ((contexts, "acc"), (mutual, "acc_mutual_info")):
        task = save_task(tmp_path, **changes)
        wanted = samples(reference(task, model))
        suite, _ = suite_of(task, model)
        assert [len(item.parts) for item in suite.items] == [2] * ITEMS
        found = scored(suite, model)
        assert [one.score for one in found] == [one[metric] for one in wanted]
        for ours, theirs in zip(found, wanted, strict=True):
            assert ours.choice_logprobs == pytest.approx([resp[0][0] for resp in theirs["resps"]], abs=1e-3)


@pytest.mark.slow
def test_the_hash_is_lm_evals_and_a_limit_is_a_seeded_sample(model: LoadedModel, tmp_path: Path) -> None:
    from lm_eval.loggers import EvaluationTracker

    task = save_task(tmp_path)
    found = reference(task, model)
    EvaluationTracker(output_path=str(tmp_path / "out")).save_results_aggregated(found, found["samples"])
    suite, facts = suite_of(task, model)
    assert facts.harness is not None
    assert facts.harness.task_sha256 == found["task_hashes"]["towns"]
    some, fewer = suite_of(task, model, limit=5)[0], suite_of(task, model, limit=3)[0]
    ids = [item.item_id for item in some.items]
    assert len(ids) == 5
    assert ids != [str(i) for i in range(5)]
    assert {item.item_id for item in fewer.items} < set(ids)
    whole = {item.item_id: item for item in suite.items}
    assert all(whole[item.item_id] == item for item in some.items)


def test_what_cannot_be_used_is_one_line(model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sampled = {**GENERATED, "generation_kwargs": {"until": ["\n"], "do_sample": True, "temperature": 0.7}}
    cases: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        (sampled, {}, "found do_sample: true, expected greedy"),
        ({**CONTINUED, "metric_list": [{"metric": "perplexity"}]}, {}, "found the metrics perplexity"),
        ({}, {"metric": "f1"}, r'metric: found "f1", expected one of acc, acc_norm'),
        ({}, {"metric": "acc,strict"}, 'found "strict", expected a filter of the task: none'),
        ({"doc_to_target": "{{nowhere.at.all}}"}, {}, "towns"),
        ({"repeats": 3}, {}, "found 3 answers to each question"),
        ({"unsafe_code": True}, {}, "runs what the model writes"),
        ({"dataset_kwargs": {"data_files": {"test": str(tmp_path / "gone.jsonl")}}}, {}, "towns.*harness"),
    ]
    for changes, settings, message in cases:
        task = save_task(tmp_path, **changes)
        with pytest.raises(InputProblems, match=message) as caught:
            suite_of(task, model, **settings)
        assert len(caught.value.problems) == 1
    with pytest.raises(InputProblems, match="no such file"):
        suite_of(tmp_path / "nowhere.yaml", model)
    broken = tmp_path / "broken.yaml"
    broken.write_text("task: [towns\n")
    with pytest.raises(InputProblems, match="cannot be read"):
        suite_of(broken, model)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputProblems, match=r"not installed, expected it: pip install 'rankscope\[harness\]'"):
        need_lm_eval("suites.arc")
