from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from encoded_rows import GivenRows, encoded_suite, encoded_training, load_rows
from tokenizers_small import CHATML, make_tokenizer

from rankscope.data.encode_study import check_relations
from rankscope.data.encoder import Encoder
from rankscope.data.sources import RowReader
from rankscope.data.token_files import TrainingSet
from rankscope.records import Row, Suite, SuiteFacts, Turn
from rankscope.study.problems import InputProblems
from rankscope.study.study import Source, SuiteSource, TrainSource, Validation

ENCODER = Encoder(make_tokenizer(bos=True), context_tokens=400)


def ask(i: int, question: str = "", answer: str = "", **more: object) -> Row:
    return Row(f"i{i}", f"line {i}", question=question or f"What is {i}?", answer=answer or f"it is {i}", **more)


def train_of(rows: Sequence[Row], *, encoder: Encoder = ENCODER, **more: object) -> TrainingSet:
    source = more.pop("source", TrainSource(path="x", domain="law"))
    return encoded_training(source, GivenRows(rows), encoder, **more)


def suite_of(rows: Sequence[Row], *, encoder: Encoder = ENCODER, **more: object) -> tuple[Suite, SuiteFacts]:
    return encoded_suite(SuiteSource(path="x", **more), GivenRows(rows), encoder)


def problem_of(build: object, *args: object, **more: object) -> str:
    with pytest.raises(InputProblems) as caught:
        build(*args, **more)  # type: ignore[operator]
    (problem,) = caught.value.problems
    return str(problem)


def test_clusters_of_rows_stand_in_items_and_in_the_suites_hash() -> None:
    rows = [ask(i) for i in range(3)]
    plain, facts = suite_of(rows, kind="recall")
    suite, other = suite_of([replace(row, cluster=f"text {i // 2}") for i, row in enumerate(rows)], kind="recall")
    assert [item.cluster for item in plain.items] == [None] * 3
    assert [item.cluster for item in suite.items] == ["text 0", "text 0", "text 1"]
    assert facts.content_sha256 != other.content_sha256


# ---- training -------------------------------------------------------------------------------------------------------


def test_validation_is_a_fixed_sample_never_trained_on() -> None:
    rows = [ask(i) for i in range(100)]
    data = train_of(rows)
    held_out = [example.item_id for example in data.validation]
    trained = [example.item_id for example in data.train]
    assert (len(held_out), len(trained)) == (10, 90)
    assert set(held_out).isdisjoint(trained)
    assert trained == [row.item_id for row in rows if row.item_id not in held_out]
    assert held_out != [f"i{i}" for i in range(10)]
    assert held_out[:3] == ["i6", "i12", "i14"]
    assert {e.item_id for e in train_of(rows[::-1]).validation} == set(held_out)
    assert len(train_of(rows, validation=Validation(fraction=0.5, max_items=7)).validation) == 7
    assert len(train_of(rows[:3]).validation) == 1


def test_facts_count_what_is_trained() -> None:
    data = train_of([ask(i) for i in range(20)])
    assert (data.facts.name, data.facts.domain, data.facts.row_count, data.facts.validation_count) == (
        "set",
        "law",
        18,
        2,
    )
    assert data.facts.token_count == sum(len(e.prompt_ids) + len(e.completion_ids) for e in data.train)
    assert data.facts.completion_token_count == sum(len(e.completion_ids) for e in data.train)
    assert (data.facts.dropped, data.facts.warnings) == ({}, [])


def test_long_rows_are_dropped_whole_and_counted() -> None:
    rows = [ask(i) for i in range(20)]
    longest = max(e.token_count for part in (train_of(rows).train, train_of(rows).validation) for e in part)
    long = [ask(50, "why " * 300), ask(51, "why " * 90)]
    data = train_of(rows + long, max_sequence_tokens=longest)
    assert data.facts.dropped == {"longer than max_sequence_tokens": 2}
    assert data.facts.row_count + data.facts.validation_count == 20
    data = train_of(rows + long, max_sequence_tokens=10_000, encoder=Encoder(ENCODER.tokenizer, context_tokens=longest))
    assert data.facts.dropped == {"longer than the model's context": 2}
    some = train_of(rows + long, max_sequence_tokens=longest - 1)
    assert some.facts.dropped["longer than max_sequence_tokens"] > 2


def test_rows_of_suites_and_repeats_are_dropped_and_counted() -> None:
    rows = [ask(i) for i in range(20)] + [ask(30, "What is 4?", "it is 4")]
    long = " ".join(f"w{i}" for i in range(30))
    suites = {
        "one": [ask(90, "WHAT is 3?", "It is 3"), ask(91, long)],
        "two": [ask(92, "What is 5?", "no", aliases=("it is 5",))],
    }
    data = train_of([*rows, ask(40, long + " more")], suites=suites)
    assert data.facts.dropped == {"repeats another row": 1, "also in suite one": 1, "also in suite two": 1}
    ids = {e.item_id for part in (data.train, data.validation) for e in part}
    assert ids == {f"i{i}" for i in range(20)} - {"i3", "i5"} | {"i40"}
    assert data.facts.warnings == [
        "1 of 2 items of suite one nearly stand in training (13-gram overlap of 0.8 or more), the first is i91"
    ]


def test_the_hash_is_of_what_is_trained() -> None:
    rows = [ask(i) for i in range(20)]
    base = train_of(rows).facts.content_sha256
    renamed = TrainSource(path="elsewhere", domain="other")
    assert train_of(rows, source=renamed).facts.content_sha256 == base
    different = [
        train_of(rows[::-1]),
        train_of(rows[:-1]),
        train_of(rows, validation=Validation(fraction=0.2)),
        train_of(rows, suites={"s": [rows[3]]}),
        train_of(rows, source=TrainSource(path="x", template="{{ question }}")),
        train_of(rows, encoder=Encoder(make_tokenizer(bos=True, template=CHATML), context_tokens=400)),
    ]
    assert len({base, *(data.facts.content_sha256 for data in different)}) == 7


def test_every_turn_with_loss_is_counted_and_hashed() -> None:
    def talk(i: int, first: str) -> Row:
        turns = (Turn("user", "Hi"), Turn("assistant", first), Turn("user", f"And {i}?"), Turn("assistant", "So."))
        return Row(f"t{i}", f"line {i}", messages=turns)

    data = train_of([talk(i, "Oh") for i in range(10)])
    assert data.facts.completion_token_count == sum(sum(example.loss_mask or ()) for example in data.train)
    assert data.facts.completion_token_count < sum(len(example.completion_ids) for example in data.train)
    assert data.facts.content_sha256 != train_of([talk(i, "Ah") for i in range(10)]).facts.content_sha256


def test_dropped_rows_and_the_revision_are_recorded() -> None:
    rows = GivenRows([ask(i) for i in range(10)], bad_count=3, revision="f" * 40)
    facts = encoded_training(TrainSource(path="x", domain="law"), rows, ENCODER).facts
    assert (facts.dropped, facts.revision) == ({"cannot be read": 3}, "f" * 40)
    suite, suite_facts = encoded_suite(SuiteSource(path="x", kind="recall"), rows, ENCODER)
    assert suite.left_out == suite_facts.left_out == {"cannot be read": 3}
    assert suite_facts.revision == "f" * 40


def test_a_training_set_that_ends_up_too_small() -> None:
    assert "found 1 usable rows, expected at least 2" in problem_of(train_of, [ask(1)])
    said = problem_of(train_of, [ask(1), ask(2), ask(3, "why " * 300)], suites={"s": [ask(1), ask(2)]})
    assert "train.set: found 0 usable rows (2 dropped: also in suite s, 1 dropped: longer than max_sequence_" in said


def test_completions_that_run_into_their_prompt_are_warned_of() -> None:
    rows = [Row(f"p{i}", f"line {i}", prompt=f"Say {i}", completion="so") for i in range(3)]
    rows.append(Row("ok", "line 9", prompt="Say:", completion="so"))
    assert "in 3 rows no space stands" in train_of(rows).facts.warnings[0]
    assert train_of(rows, encoder=Encoder(make_tokenizer(template=CHATML), context_tokens=400)).facts.warnings == []


# ---- suites ---------------------------------------------------------------------------------------------------------

CHOICES = [
    Row(f"c{i}", f"line {i}", question=f"Is it {i}?", choices=("yes", "no indeed"), answer_index=i % 2)
    for i in range(6)
]


def test_a_suite_and_its_facts() -> None:
    suite, facts = suite_of(CHOICES, kind="recall", domain="law", max_new_tokens=9)
    assert (suite.name, suite.domain, suite.kind, suite.max_new_tokens, suite.left_out) == (
        "suite",
        "law",
        "recall",
        9,
        {},
    )
    assert [item.item_id for item in suite.items] == [row.item_id for row in CHOICES]
    assert (facts.form, facts.item_count) == ("choices", 6)
    assert facts.token_count == sum(len(i.prompt_ids) + sum(len(c) for c in i.choices_ids) for i in suite.items)
    assert suite_of(CHOICES, kind="recall")[1].content_sha256 != facts.content_sha256  # other max_new_tokens
    assert suite_of(CHOICES[1:], kind="recall", max_new_tokens=9)[1].content_sha256 != facts.content_sha256


def test_what_does_not_fit_is_left_out_and_counted() -> None:
    lengths = [len(i.prompt_ids) + max(map(len, i.choices_ids)) for i in suite_of(CHOICES, kind="recall")[0].items]
    long = Row("long", "line 9", question="Is it " + "so " * 99, choices=("a", "b"), answer_index=0)
    longest, shortest = max(lengths), min(lengths)
    suite, facts = suite_of([*CHOICES, long], kind="recall", encoder=Encoder(ENCODER.tokenizer, context_tokens=longest))
    assert suite.left_out == facts.left_out == {f"longer than the context of {longest} tokens": 1}
    assert len(suite.items) == 6
    encoder = Encoder(ENCODER.tokenizer, context_tokens=shortest - 1)
    said = problem_of(suite_of, CHOICES, kind="recall", encoder=encoder)
    assert f"no item that can be scored (6 items: longer than the context of {shortest - 1} tokens)" in said


def test_an_open_item_needs_room_for_its_reference_answer() -> None:
    rows = [ask(1, "Who?", "Ann"), ask(2, "Who?", "Ann", rationale="because " * 20)]
    short = ENCODER.training(rows[:1], Source(path="x"), "x")[0].token_count
    encoder = Encoder(ENCODER.tokenizer, context_tokens=short)
    assert [item.item_id for item in suite_of(rows, kind="recall", encoder=encoder)[0].items] == ["i1", "i2"]
    assert [item.item_id for item in suite_of(rows, kind="reasoning", encoder=encoder)[0].items] == ["i1"]
    assert "no item that can be scored" in problem_of(
        suite_of, rows, kind="recall", encoder=Encoder(ENCODER.tokenizer, context_tokens=short - 1)
    )


def test_texts() -> None:
    rows = [Row("a", "line 1", text="A text."), Row("b", "line 2", text="<s>"), Row("c", "line 3", text="long " * 400)]
    suite, facts = suite_of(rows)
    assert (facts.form, facts.kind, len(suite.items)) == ("text", None, 1)
    assert suite.left_out == {"has no token to score": 1, "longer than the context of 400 tokens": 1}


def test_numbers_are_a_form_of_reasoning() -> None:
    rows = [ask(1, answer="12"), ask(2, answer="1,200")]
    assert suite_of(rows, kind="reasoning")[1].form == "number"
    assert suite_of(rows, kind="recall")[1].form == "open"


def test_suites_that_nobody_can_score() -> None:
    said = problem_of(suite_of, [*CHOICES, ask(9)], kind="recall")
    assert "found 6 of form choices (line 0) and 1 of form open (line 9), expected one form in all rows" in said
    said = problem_of(suite_of, [ask(1, answer="12"), ask(2, answer="12"), ask(3, answer="twelve")], kind="reasoning")
    assert "1 of form open (line 3)" in said
    assert "no `kind: reasoning`" in said


def test_a_suite_of_which_nobody_said_the_kind_is_asked_as_one_of_recall() -> None:
    for rows in (CHOICES, [ask(1, answer="12"), ask(2, answer="twelve #### 12")]):
        suite, facts = suite_of(rows)
        recalled, of_recall = suite_of(rows, kind="recall")
        assert (facts.kind, facts.form, facts.content_sha256) == (None, of_recall.form, of_recall.content_sha256)
        assert [item.prompt_ids for item in suite.items] == [item.prompt_ids for item in recalled.items]


def test_a_gain_needs_a_suite_with_answers() -> None:
    training = {"set": TrainSource(path="x", domain="law")}
    asked = suite_of(CHOICES, kind="recall", domain="law")[1]
    text = suite_of([Row("a", "line 1", text="A text.")], domain="law")[1]
    other = suite_of(CHOICES, kind="recall", domain="math")[1]
    check_relations(training, [text, asked], "study.yaml")
    said = "study.yaml: suites of domain law, for train.set: found {}, expected at least one suite with answers"
    assert problem_of(check_relations, training, [text, other], "study.yaml") == said.format("only plain text")
    assert problem_of(check_relations, training, [other], "study.yaml") == said.format("no suite")
    nowhere = {"set": TrainSource(path="x")}
    general = asked.model_copy(update={"domain": None})
    assert "no suite" in problem_of(check_relations, nowhere, [general], "study.yaml")


def test_a_suite_of_a_single_item_is_refused_unless_it_is_plain_text() -> None:
    training = {"set": TrainSource(path="x", domain="law")}
    asked = suite_of(CHOICES, kind="recall", domain="law")[1]
    single = suite_of(CHOICES[:1], kind="recall")[1]
    said = problem_of(check_relations, training, [asked, single], "study.yaml")
    assert said == "study.yaml: suites.suite: found a single item, expected at least two: one says nothing of others"
    check_relations(training, [asked, suite_of([Row("a", "line 1", text="A text.")])[1]], "study.yaml")


# ---- real data ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "more", "form"),
    [
        ("gsm8k", {"kind": "reasoning"}, "number"),
        ("svamp", {"kind": "reasoning"}, "number"),
        ("pubmedqa", {"kind": "reasoning"}, "choices"),
        ("mmlu_law", {"kind": "recall", "choices": "letters"}, "choices"),
        ("nq_open", {"kind": "recall"}, "open"),
    ],
)
def test_public_suites_become_items(shared_data: Path, name: str, more: dict[str, object], form: str) -> None:
    source = SuiteSource(path=f"{name}/test.jsonl", limit=60, **more)
    encoder = Encoder(ENCODER.tokenizer, context_tokens=10_000)
    suite, facts = encoded_suite(source, RowReader(source, base=shared_data, name=name), encoder)
    assert (facts.form, facts.item_count, facts.left_out) == (form, 60, {})
    assert all(item.prompt_text.endswith("Answer:") and item.answers for item in suite.items)


def test_public_training_rows_become_examples(shared_data: Path) -> None:
    source = TrainSource(path="gsm8k/train.jsonl", kind="reasoning", limit=100)
    suite = load_rows(SuiteSource(path="gsm8k/test.jsonl", kind="reasoning"), base=shared_data, name="test")
    rows = load_rows(source, base=shared_data, name="gsm8k")
    data = train_of(rows.rows, source=source, suites={"gsm8k": suite.rows}, max_sequence_tokens=399)
    assert data.facts.row_count + data.facts.validation_count + sum(data.facts.dropped.values()) == 100
    text = ENCODER.tokenizer.decode(list(data.train[0].prompt_ids + data.train[0].completion_ids))
    assert text.startswith("<s>Question: ")
    assert "\nAnswer: " in text
    assert text.split("\n#### ")[1].endswith("</s>")
