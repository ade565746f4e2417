from __future__ import annotations

from itertools import product

import pytest

from rankscope.data.row_shapes import content_id, content_text, parse
from rankscope.records import Row, Turn
from rankscope.study.problems import Problem

U, A, S = ({"role": role, "content": role[0]} for role in ("user", "assistant", "system"))
CHOICES = {"question": "Which?", "choices": ["a", "b"], "answer_index": 1}


def row_of(record: object) -> Row:
    row = parse(record, file="f.jsonl", place="line 3")
    assert isinstance(row, Row), str(row)
    return row


def test_every_shape() -> None:
    assert row_of(CHOICES | {"id": 7, "context": " c "}) == Row(
        item_id="7", place="line 3", question="Which?", context="c", choices=("a", "b"), answer_index=1
    )
    answer = row_of({"question": " Who? ", "answer": "Ann ", "aliases": ["Anne", ""], "rationale": "r"})
    assert (answer.question, answer.answer, answer.aliases, answer.rationale) == ("Who?", "Ann", ("Anne",), "r")
    completion = row_of({"prompt": "2+2= ", "completion": " 4\n"})
    assert (completion.prompt, completion.completion) == ("2+2= ", " 4\n")
    assert row_of({"text": " kept as is\n"}).text == " kept as is\n"


def test_a_cluster_is_a_name_or_a_number_and_no_content() -> None:
    plain, named, numbered = (
        row_of(CHOICES),
        row_of(CHOICES | {"cluster": " text 1 "}),
        row_of(CHOICES | {"cluster": 3}),
    )
    assert (plain.cluster, named.cluster, numbered.cluster) == (None, "text 1", "3")
    assert plain.item_id == named.item_id
    wrong = parse(CHOICES | {"cluster": ["a"]}, file="f.jsonl", place="line 3")
    assert isinstance(wrong, Problem)


def test_conversations_of_every_tool_are_turns() -> None:
    turns = (Turn("system", "s"), Turn("user", "u"), Turn("assistant", "a"))
    named = [{"from": "system", "value": "s"}, {"from": "human", "value": " u"}, {"from": "gpt", "value": "a\n"}]
    records = [
        {"messages": [S, U, A]},
        {"messages": [U, A], "system": "s"},
        {"conversations": named},
        {"conversations": named[1:], "system": "s"},
        {"conversations": [S, U, A]},
        {"instruction": "u", "input": "", "output": "a", "system": "s"},
    ]
    rows = [row_of(record) for record in records]
    assert [row.messages for row in rows] == [turns] * 6
    assert len({row.item_id for row in rows}) == 1
    alpaca = row_of({"instruction": "Sum it up.", "input": "A text.", "output": "Short."})
    assert alpaca.messages == (Turn("user", "Sum it up.\n\nA text."), Turn("assistant", "Short."))


def test_answers_as_other_sets_have_them() -> None:
    assert row_of(CHOICES | {"answer_index": "b"}).answer_index == 1
    assert row_of(CHOICES | {"choices": [3, 4.5]}).choices == ("3", "4.5")
    assert row_of({"question": "q", "answer": 72}).answer == "72"
    assert row_of({"question": "q", "answer": 145.0}).answer == "145"
    several = row_of({"question": "q", "answer": ["a", "b", "a"], "aliases": ["c", "b"]})
    assert (several.answer, several.aliases) == ("a", ("b", "c"))
    listed = row_of({"question": "q", "choices": "a ) 38 , b ) 27.675 , c ) 3 : 5 (d)", "answer_index": "b"})
    assert (listed.choices, listed.answer_index) == (("38", "27.675", "3 : 5 (d)"), 1)


def test_a_worked_solution_is_split_where_reasoning_is_asked_for() -> None:
    record = {"question": "q", "answer": "2+3=5\nSo 5.\n#### 1,005"}
    row = parse(record, file="f", place="p", reasoning=True)
    assert isinstance(row, Row)
    assert (row.answer, row.rationale) == ("1,005", "2+3=5\nSo 5.")
    assert row_of(record).answer == record["answer"]
    kept = parse(record | {"rationale": "mine"}, file="f", place="p", reasoning=True)
    assert isinstance(kept, Row)
    assert (kept.answer, kept.rationale) == ("1,005", "mine")


def test_absent_fields_and_extra_fields() -> None:
    empty = {"context": None, "choices": [], "answer_index": None, "rationale": "", "aliases": None, "text": None}
    assert row_of({"question": "q", "answer": "a", "fact": 3} | empty) == row_of({"question": "q", "answer": "a"})


def test_choices_win_over_an_answer_in_other_words() -> None:
    row = row_of(CHOICES | {"answer": "B"})
    assert (row.answer, row.answer_index) == (None, 1)
    assert row_of({"question": "q", "choices": ["x", "y"], "answer": "y"}).answer_index == 1


@pytest.mark.parametrize(
    ("record", "place", "found", "expected"),
    [
        ([1], "line 3", "[1]", "a JSON object"),
        ({}, "line 3", "an empty mapping", "question with choices"),
        ({"q": "x"}, "line 3", "a mapping with q", "text"),
        ({"question": "", "answer": "a"}, "line 3: question", '""', "not empty"),
        ({"question": " ", "answer": "a"}, "line 3: question", '""', "not empty"),
        ({"question": "q", "answer": "  "}, "line 3: answer", '""', "not empty"),
        ({"question": "q"}, "line 3: answer", "nothing", "not empty"),
        ({"question": 3, "answer": "a"}, "line 3: question", "3", "text"),
        ({"question": "q", "answer": True}, "line 3: answer", "true", "text"),
        ({"question": "q", "answer": float("nan")}, "line 3: answer", "NaN", "text"),
        ({"question": "q", "answer": []}, "line 3: answer", "an empty list", "not empty"),
        ({"question": "q", "answer": ["a", {}]}, "line 3: answer", "an empty mapping", "text"),
        ({"question": "q", "answer": "a", "aliases": "b"}, "line 3: aliases", '"b"', "a list of texts"),
        ({"question": "q", "answer": "a", "context": ["c"]}, "line 3: context", "[", "text"),
        ({"question": "q", "answer": "\ud800"}, "line 3: answer", "surrogate", "UTF-8"),
        ({"question": "q", "answer": "a", "id": 1.5}, "line 3: id", "1.5", "text"),
        ({"question": "q", "answer": "a", "id": True}, "line 3: id", "true", "text"),
        ({"question": "q", "answer_index": 1, "answer": "a"}, "line 3: choices", "nothing", "answer_index is given"),
        (CHOICES | {"answer_index": 2}, "line 3: answer_index", "2", "0 to 1"),
        (CHOICES | {"answer_index": -1}, "line 3: answer_index", "-1", "0 to 1"),
        (CHOICES | {"answer_index": "1"}, "line 3: answer_index", '"1"', "0 to 1"),
        (CHOICES | {"answer_index": 1.0}, "line 3: answer_index", "1", "a whole number"),
        (CHOICES | {"answer_index": True}, "line 3: answer_index", "true", "a whole number"),
        (CHOICES | {"answer_index": None}, "line 3: answer_index", "nothing", "0 to 1"),
        (CHOICES | {"answer": "a"}, "line 3: answer_index", "1, though answer is choice 0", "counts from 0"),
        (CHOICES | {"choices": ["a", " a"]}, "line 3: choices", '"a" twice', "differ"),
        (CHOICES | {"choices": ["a", ""]}, "line 3: choices", "an empty choice", "not empty"),
        (CHOICES | {"choices": ["a"]}, "line 3: choices", "one choice", "at least two"),
        (CHOICES | {"choices": ["a", [3]]}, "line 3: choices", "[3]", "text"),
        (CHOICES | {"answer_index": "C"}, "line 3: answer_index", '"C"', "a letter from A to B"),
        (CHOICES | {"answer_index": None, "answer": 1}, "line 3: answer_index", "nothing", "`answer_index: answer`"),
        (CHOICES | {"choices": "b ) x , c ) y"}, "line 3: choices", '"b ) x', "a list of texts"),
        ({"instruction": "i"}, "line 3: output", "nothing", "not empty"),
        ({"instruction": "i", "output": "o", "text": "t"}, "line 3", "text and instruction", "one of them"),
        ({"messages": []}, "line 3: messages", "an empty list", "a list of turns"),
        ({"messages": "hi"}, "line 3: messages", '"hi"', "a list of turns"),
        ({"messages": ["hi"]}, "line 3: messages, turn 1", '"hi"', "a turn with role and content"),
        ({"messages": [U, A | {"role": "tool"}]}, "line 3: messages, turn 2: role", '"tool"', "system, user"),
        ({"messages": [U, {"role": "assistant"}]}, "line 3: messages, turn 2: content", "nothing", "not empty"),
        ({"messages": [U, A | {"content": [1]}]}, "line 3: messages, turn 2: content", "[1]", "text"),
        ({"messages": [U, A | {"content": " "}]}, "line 3: messages, turn 2: content", '""', "not empty"),
        ({"messages": [U]}, "line 3: messages, turn 1", "a user's turn at the end", "an assistant's turn"),
        ({"messages": [A]}, "line 3: messages, turn 1", "an assistant's turn", "a user's turn"),
        ({"messages": [S, A]}, "line 3: messages, turn 2", "an assistant's turn", "a user's turn"),
        ({"messages": [S]}, "line 3: messages, turn 2", "nothing", "a user's turn"),
        ({"messages": [U, S, A]}, "line 3: messages, turn 2", "a system turn", "the first"),
        ({"messages": [S, U, A], "system": "x"}, "line 3: system", "beside the system turn", "one of them"),
        (
            {"conversations": [{"from": "human", "value": "x"}, {"from": "me", "value": "y"}]},
            "line 3: conversations, turn 2: from",
            '"me"',
            "human",
        ),
        (CHOICES | {"choices": "ab"}, "line 3: choices", '"ab"', "a list of texts"),
        (CHOICES | {"choices": {"a": 1}}, "line 3: choices", "a mapping", "a list of texts"),
        ({"completion": "c"}, "line 3: prompt", "nothing", "not empty"),
        ({"prompt": "p"}, "line 3: completion", "nothing", "not empty"),
        ({"text": " \n"}, "line 3: text", '""', "not empty"),
        ({"question": "q", "answer": "a", "text": "t"}, "line 3", "question and text", "one of them"),
    ],
)
def test_what_is_wrong_is_named(record: object, place: str, found: str, expected: str) -> None:
    problem = parse(record, file="f.jsonl", place="line 3")
    assert isinstance(problem, Problem)
    assert (problem.file, problem.place) == ("f.jsonl", place)
    assert found in problem.found
    assert expected in problem.expected
    assert str(problem).isprintable()


def test_content_id_is_of_the_content_alone() -> None:
    row = row_of({"question": "Café  au lait?", "answer": "yes"})
    assert row.item_id == content_id(vars(row)) == "1d291c2f090a000a"
    records: list[dict[str, object]] = [
        {"question": "Café au lait?", "answer": "yes"},
        {"question": "Cafe\u0301 au lait? ", "answer": "yes", "cluster": "c"},
        {"question": "Café au lait?", "answer": "no"},
        {"question": "Café au lait?", "answer": "yes", "rationale": "r"},
        {"question": "Café au lait?", "answer": "yes", "id": "x"},
        {"question": "Café au", "context": "lait?", "answer": "yes"},
        {"question": "q", "choices": ["a", "b c"], "answer_index": 0},
        {"question": "q", "choices": ["a b", "c"], "answer_index": 0},
        {"question": "q", "choices": ["a", "b c"], "answer_index": 1},
        {"messages": [U, A, U, A]},
        {"messages": [U | {"content": "u)\n(a"}, A]},
    ]
    rows = [row_of(record) for record in records]
    ids = [content_id(vars(one)) for one in rows]
    assert [one.item_id for one in rows] == [*ids[:4], "x", *ids[5:]]
    assert ids.count(row.item_id) == 3
    plain = row_of({"messages": [{"role": "user", "content": "user"}, {"role": "assistant", "content": "a"}]})
    assert plain.item_id == "52ecb485ac289281"  # as it was before turns had more than a role and a content
    texts = list(map(content_text, rows))
    for one, other in product(range(len(rows)), repeat=2):
        assert (texts[one] == texts[other]) == (ids[one] == ids[other])
