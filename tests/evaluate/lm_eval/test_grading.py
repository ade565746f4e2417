"""Answers graded from a token file alone: the scores of lm-eval, when the task's files and data are gone."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import datasets
import pytest
from encoded_rows import encoded_suite
from harness_tasks import CONTINUED, GENERATED, ITEMS, save_task
from tokenizers_small import make_tokenizer

from rankscope.data.encoder import Encoder
from rankscope.evaluate.lm_eval.grading import grade
from rankscope.evaluate.lm_eval.load_task import load_task
from rankscope.records import Item, Suite
from rankscope.study.study import SuiteSource

pytest.importorskip("lm_eval")
pytestmark = pytest.mark.usefixtures("own_datasets_cache")

METRICS = ("acc", "acc_norm", "acc_bytes", "exact_match")
ENCODER = Encoder(make_tokenizer(), context_tokens=2000)
FUNCTIONS = """
from dataclasses import dataclass

@dataclass
class Half:
    share: float = 0.5

def words(doc, results):
    return {"own": Half().share if doc["reply"] in results[0] else float("2" in results[0])}

def choices(doc, results):
    best = max(range(len(results)), key=lambda i: results[i][0])
    return {"acc": float(best == doc["answer"] or results[best][1])}

def asked(doc):
    return f"So {doc['question']}"

def kept(docs):
    return docs.filter(lambda doc: "town 3" not in doc["question"])
"""
CLASS = """
from lm_eval.api.task import ConfigurableTask

class Towns(ConfigurableTask):
    def __init__(self, config=None):
        super().__init__(config={key: value for key, value in config.items() if key != "class"})

    def process_results(self, doc, results):
        return {"acc": float(max(results)[0] == results[doc["answer"]][0])}
"""


def responses_of(items: list[Item], seed: int) -> list[list[Any]]:
    """Log-likelihoods with ties and a flag for each choice; for open items texts with digits in them."""
    dice = random.Random(seed)
    found: list[list[Any]] = []
    for item in items:
        if item.form == "open":
            found.append([dice.choice(["2", "It is 4", "3.", "none", f" {item.answers[0]} e"])])
        else:
            count = sum(len(part.choices_ids) for part in item.parts or (item,))
            found.append([(-float(dice.randint(1, 6)), dice.random() < 0.5) for _ in range(count)])
    return found


def by_lm_eval(task: Any, metric: str, filter_: str, suite: Suite, responses: list[list[Any]]) -> list[float]:
    """lm-eval's own scores of a task that is loaded with its data."""
    asked = []
    for item, found in zip(suite.items, responses, strict=True):
        doc = task.eval_docs[int(item.item_id)]
        context = task.fewshot_context(doc, num_fewshot=0)
        made = task.construct_requests(doc, context, metadata=("t", int(item.item_id), 1))
        made = made if isinstance(made, list) else [made]
        for instance, response in zip(made, found, strict=True):
            instance.resps = [response]
        asked.append(made)
    task._instances = [instance for instances in asked for instance in instances]
    task.apply_filters()
    return [task.process_results(one[0].doc, [i.filtered_resps[filter_] for i in one])[metric] for one in asked]


def check(folder: Path, monkeypatch: pytest.MonkeyPatch, metric: str, filter_: str = "none", **settings: Any) -> Suite:
    """Encode, delete the task with its data, grade; compare with lm-eval. Returns the suite."""
    folder.mkdir(exist_ok=True)
    (folder / "own.py").write_text(FUNCTIONS)
    (folder / "task.py").write_text(CLASS)
    path = save_task(folder, **settings)
    path.write_text(path.read_text().replace("'!", "!function ").replace("!'", ""))
    source = SuiteSource(harness=str(path), kind="recall", metric=f"{metric},{filter_}", limit=ITEMS - 2)
    loaded = load_task(source, base=Path(), name="suites.towns")
    suite, _ = encoded_suite(source, loaded, ENCODER, "towns")
    assert suite.grading is not None
    responses = [responses_of(list(suite.items), seed) for seed in range(20)]
    wanted = [by_lm_eval(loaded.task, metric, filter_, suite, one) for one in responses]
    shutil.rmtree(folder)
    with monkeypatch.context() as patch:
        patch.setattr(datasets, "load_dataset", None)
        found = [[one.score for one in grade(suite.grading, suite.items, given)] for given in responses]
    assert found == wanted
    assert len({score for scores in wanted for score in scores}) > 1
    return suite


@pytest.mark.parametrize("metric", METRICS)
def test_metrics_of_choices_are_lm_evals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metric: str) -> None:
    metrics = [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in METRICS]
    for number, target in enumerate(("answer", "{{[answer, 1]}}", "{{choices[answer]}}")):
        suite = check(tmp_path / str(number), monkeypatch, metric, metric_list=metrics, doc_to_target=target)
        assert suite.grading is not None
        assert "config" not in suite.grading.task  # computed here


def test_mutual_information_and_several_contexts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mutual = [{"metric": "acc_mutual_info"}, {"metric": "acc"}]
    for metric in ("acc_mutual_info", "acc"):
        check(tmp_path / metric, monkeypatch, metric, metric_list=mutual)
    contexts = {
        "doc_to_text": "answer",
        "doc_to_choice": "{{[question ~ ' By ' ~ choices[0], question ~ ' Near ' ~ choices[1]]}}",
        "doc_to_target": "text",
        "metric_list": [{"metric": "acc"}],
    }
    check(tmp_path / "contexts", monkeypatch, "acc", **contexts)


def test_continuations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(tmp_path / "x", monkeypatch, "acc", **CONTINUED)


def test_generated_text_by_the_tasks_filters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    targets = "{% if 'town 1' in question %}none{% else %}{{reply}}{% endif %}"
    for filter_ in ("first", "whole"):
        settings = {**GENERATED, "doc_to_target": targets}
        check(tmp_path / filter_, monkeypatch, "exact_match", filter_, **settings)


def test_functions_beside_the_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = [{"metric": "own", "aggregation": "mean", "higher_is_better": True}]
    generated = {"process_results": "!own.words!", "doc_to_text": "!own.asked!", "process_docs": "!own.kept!"}
    suite = check(tmp_path / "open", monkeypatch, "own", "first", **{**GENERATED, **generated, "metric_list": own})
    assert suite.items[0].prompt_text.startswith("So What")
    assert not any("town 3" in item.prompt_text for item in suite.items)
    check(tmp_path / "choices", monkeypatch, "acc", process_results="!own.choices!")


def test_a_task_that_is_a_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(tmp_path / "x", monkeypatch, "acc", **{"class": "!task.Towns!"})


def test_another_grader_is_another_suite_and_another_place_is_not(tmp_path: Path) -> None:
    def content(folder: Path, functions: str) -> str:
        folder.mkdir()
        (folder / "own.py").write_text(functions)
        own = [{"metric": "own", "aggregation": "mean", "higher_is_better": True}]
        path = save_task(folder, **{**GENERATED, "process_results": "!own.words!", "metric_list": own})
        path.write_text(path.read_text().replace("'!", "!function ").replace("!'", ""))
        source = SuiteSource(harness=str(path), kind="recall")
        return encoded_suite(source, load_task(source, base=Path(), name="x"), ENCODER)[1].content_sha256

    first = content(tmp_path / "a", FUNCTIONS)
    assert content(tmp_path / "b", FUNCTIONS) == first
    assert content(tmp_path / "c", FUNCTIONS.replace("0.5", "0.4")) != first
