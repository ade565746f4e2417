from __future__ import annotations

import json
from pathlib import Path

import pytest
from encoded_rows import ReadRows, load_rows

from rankscope.data.row_files import MAX_PROBLEMS
from rankscope.data.sources import seeded_sample
from rankscope.study.problems import InputProblems
from rankscope.study.study import Source, SuiteSource


def question(i: int, **more: object) -> dict[str, object]:
    return {"question": f"What is {i}?", "answer": f"number {i}"} | more


def write(folder: Path, records: list[object], name: str = "rows.jsonl") -> str:
    (folder / name).write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return name


def load(folder: Path, name: str = "rows.jsonl", **more: object) -> ReadRows:
    return load_rows(Source(path=name, **more), base=folder, name="set")


def problems_of(folder: Path, name: str = "rows.jsonl", **more: object) -> list[str]:
    with pytest.raises(InputProblems) as caught:
        load(folder, name, **more)
    return [str(problem) for problem in caught.value.problems]


def test_relative_and_absolute_paths(tmp_path: Path) -> None:
    write(tmp_path, [question(1)])
    assert load(tmp_path).rows == load(Path("/nowhere"), str(tmp_path / "rows.jsonl")).rows


def test_lines_are_lines_only_at_line_feeds(tmp_path: Path) -> None:
    lines = [json.dumps(question(i) | {"context": "a\u2028b\x85c"}, ensure_ascii=False) for i in range(2)]
    (tmp_path / "rows.jsonl").write_bytes(b"\xef\xbb\xbf" + "\r\n\r\n".join(lines).encode())
    rows = load(tmp_path).rows
    assert [row.place for row in rows] == ["line 1", "line 3"]
    assert rows[0].context == "a\u2028b\x85c"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "found an empty file"),
        (b"\n \n", "found an empty file"),
        (b"\x89PNG\r\n\x1a\n\x00", "line 1: found byte 0x89, which is no UTF-8 text"),
        (b'{"text": "a"}\n\xff', "line 2: found byte 0xff"),
        (b'{"text": "a"}\n{"text": ', "line 2: found no valid JSON"),
        (b'{"text": "a"}\n3', "line 2: found 3, expected a JSON object"),
        (b'[{"text": "a"}, 3]', "row 2: found 3, expected a JSON object"),
        (b'[{"text": "a"},\n{"text" "b"}]', "found no valid JSON (Expecting ':' delimiter at line 2, character 9)"),
        (b'{"text": ' + b"[" * 100_000, "nested too deep"),
        (b'{"id": ' + b"9" * 5000 + b', "text": "a"}', "number that is too long"),
        (b'{"messages": [{"role": "user"}]}', "line 1: messages, turn 1: content: found nothing"),
    ],
)
def test_one_line_for_a_bad_file(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "rows.jsonl").write_bytes(content)
    (line,) = problems_of(tmp_path)
    assert line.startswith("rows.jsonl: ")
    assert said in line


def test_a_path_that_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    assert "found a folder" in problems_of(tmp_path, "folder")[0]
    assert "found nothing at" in problems_of(tmp_path, "missing.jsonl")[0]
    assert "no regular file" in problems_of(tmp_path, "/dev/null")[0]
    assert "no system allows" in problems_of(tmp_path, "a\0b")[0]
    assert "File name too long" in problems_of(tmp_path, "x" * 300)[0]
    write(tmp_path, [question(1)])
    assert "Not a directory" in problems_of(tmp_path, "rows.jsonl/x")[0]


@pytest.mark.parametrize("suffix", [".arrow", ".xlsx", ".jsonl.gz"])
def test_formats_that_are_not_read(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"rows{suffix}").write_bytes(b"x")
    assert "expected a file of rows (.jsonl, .json, .csv" in problems_of(tmp_path, f"rows{suffix}")[0]


def test_all_bad_rows_at_once_but_not_hundreds(tmp_path: Path) -> None:
    write(tmp_path, [question(1), {"question": "q"}, question(2), {"text": 3}])
    assert [line.split(": found")[0] for line in problems_of(tmp_path)] == [
        "rows.jsonl: line 2: answer",
        "rows.jsonl: line 4: text",
    ]
    write(tmp_path, [question(1), *[{"text": 3}] * (MAX_PROBLEMS + 7)])
    lines = problems_of(tmp_path)
    assert len(lines) == MAX_PROBLEMS + 1
    assert "found 7 more bad rows" in lines[-1]


def test_an_id_stands_once(tmp_path: Path) -> None:
    write(tmp_path, [question(1, id="a"), question(2, id=5), question(3, id="a"), question(4, id="5")])
    lines = problems_of(tmp_path)
    assert [line.split(": found")[0] for line in lines] == ["rows.jsonl: line 3: id", "rows.jsonl: line 4: id"]
    assert "line 1 has too" in lines[0]


def test_repeated_rows_without_an_id_are_kept_once(tmp_path: Path) -> None:
    write(tmp_path, [question(1), question(2), question(1), question(1)])
    rows = load(tmp_path)
    assert [row.place for row in rows.rows] == ["line 1", "line 2"]
    assert (rows.repeated_count, rows.available_count) == (2, 2)


def test_limit_is_a_stable_sample_and_not_the_first(tmp_path: Path) -> None:
    records: list[object] = [question(i, id=f"i{i}") for i in range(200)]
    write(tmp_path, records)
    write(tmp_path, records[::-1], "reversed.jsonl")
    small, large = load(tmp_path, limit=20), load(tmp_path, limit=60)
    ids = [int(row.item_id[1:]) for row in small.rows]
    assert (len(ids), small.available_count) == (20, 200)
    assert ids == sorted(ids)
    assert max(ids) > 100
    assert {row.item_id for row in small.rows} < {row.item_id for row in large.rows}
    assert {row.item_id for row in load(tmp_path, "reversed.jsonl", limit=20).rows} == {f"i{i}" for i in ids}
    assert len(load(tmp_path, limit=500).rows) == 200
    assert ids[:4] == [2, 5, 31, 50]  # the same on every machine and in every version


def test_samples_for_different_purposes_are_independent() -> None:
    ids = [str(i) for i in range(2000)]
    one, two = set(seeded_sample(ids, 1000, "one")), set(seeded_sample(ids, 1000, "two"))
    assert 400 < len(one & two) < 600


def test_columns_name_the_fields_to_read(tmp_path: Path) -> None:
    write(tmp_path, [{"q": "Who?", "a": "Ann", "text": "formatted"}])
    (row,) = load(tmp_path, columns={"question": "q", "answer": "a"}).rows
    assert (row.question, row.answer, row.text) == ("Who?", "Ann", None)
    assert 'found "q", expected one of id, question' in problems_of(tmp_path, columns={"q": "q"})[0]
    (line,) = problems_of(tmp_path, columns={"question": "q", "answer": "solution"})
    assert line.startswith('rows.jsonl: columns.answer: found no column "solution", expected one of the columns q, a,')
    assert line.endswith("such as `columns: {question: q, answer: a}`")
    (line,) = problems_of(tmp_path, columns={"question": ["q"], "answer": "a"})
    assert "columns.question" in line
    assert "only choices" in line


def test_columns_of_real_sets(tmp_path: Path) -> None:
    write(tmp_path, [{"question": "q", "opa": "1", "opb": "2", "opc": "3", "opd": "4", "cop": 2}], "medmcqa.jsonl")
    columns = {"question": "question", "choices": ["opa", "opb", "opc", "opd"], "answer_index": "cop"}
    (row,) = load(tmp_path, "medmcqa.jsonl", columns=columns).rows
    assert (row.choices, row.answer_index) == (("1", "2", "3", "4"), 2)
    write(tmp_path, [{"question": "q", "subject": "s", "choices": ["x", "y"], "answer": 1}], "mmlu.jsonl")
    columns = {"question": "question", "choices": "choices", "answer_index": "answer"}
    assert load(tmp_path, "mmlu.jsonl", columns=columns).rows[0].answer_index == 1
    assert "`columns:` with `answer_index: answer`" in problems_of(tmp_path, "mmlu.jsonl")[0]
    write(tmp_path, [{"question": "q", "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "key": "B"}], "arc.jsonl")
    columns = {"question": "question", "choices": "choices.text", "answer_index": "key"}
    assert load(tmp_path, "arc.jsonl", columns=columns).rows[0].answer_index == 1
    write(tmp_path, [{"q": "q", "answer": {"value": "a", "aliases": ["b"]}}], "trivia.jsonl")
    columns = {"question": "q", "answer": "answer.value", "aliases": "answer.aliases"}
    assert load(tmp_path, "trivia.jsonl", columns=columns).rows[0].aliases == ("b",)


def test_worked_solutions_are_split_by_the_kind(tmp_path: Path) -> None:
    write(tmp_path, [{"question": "q", "answer": "1+1=2\n#### 2"}])
    suite = load_rows(SuiteSource(path="rows.jsonl", kind="reasoning"), base=tmp_path, name="set")
    assert (suite.rows[0].answer, suite.rows[0].rationale) == ("2", "1+1=2")
    assert load(tmp_path).rows[0].rationale is None


def test_bad_rows_may_be_dropped_and_are_counted(tmp_path: Path) -> None:
    write(tmp_path, [question(1), {"question": "q"}, question(2), question(3)])
    rows = load(tmp_path, bad_rows="drop")
    assert (len(rows.rows), rows.bad_count) == (3, 1)
    write(tmp_path, [question(1), {"question": "q"}, {"text": 3}])
    assert len(problems_of(tmp_path, bad_rows="drop")) == 2  # most rows are bad: the wrong columns are read


def test_aliases_beside_the_file(tmp_path: Path) -> None:
    write(tmp_path, [question(1, id="a", aliases=["one"]), question(2, id="b")])
    before = load(tmp_path)
    (tmp_path / "aliases.json").write_text(json.dumps({"a": ["1", "number 1", "one"], "zzz": ["x"]}))
    after = load(tmp_path)
    assert [row.aliases for row in after.rows] == [("one", "1"), ()]
    assert [row.aliases for row in before.rows] == [("one",), ()]
    (tmp_path / "aliases.json").write_text('{"a": "1", "b": [2]}')
    assert [line.split("aliases.json: ")[1][:7] for line in problems_of(tmp_path)] == ["a: foun", "b: foun"]
    (tmp_path / "aliases.json").write_text("[]")
    assert "a JSON object from an id" in problems_of(tmp_path)[0]


def test_the_world_is_a_source() -> None:
    source = Source(world="medical/known/test", limit=5)
    rows = load_rows(source, base=Path("/nowhere"), name="known")
    assert [row.choices is not None for row in rows.rows] == [True] * 5
    assert rows.rows == load_rows(source, base=Path("/"), name="x").rows
    with pytest.raises(
        InputProblems, match=r'known: world: found "medical/none", expected one of .*medical/known/test'
    ):
        load_rows(Source(world="medical/none"), base=Path("/nowhere"), name="known")


def test_every_public_data_set_loads(shared_data: Path) -> None:
    paths = sorted(shared_data.rglob("*.jsonl"))
    assert len(paths) > 20
    for path in paths:
        with path.open(encoding="utf-8") as lines:
            records = [json.loads(line) for line in lines]
        if path.parent.name == "blimp":  # pairs of whole sentences: there is no question to ask
            assert len(problems_of(path.parent, path.name)) == 1
            continue
        rows = load(path.parent, path.name).rows
        assert [row.item_id for row in rows] == [record["id"] for record in records]
        for row, record in zip(rows, records, strict=True):
            wanted = {field: record.get(field) or None for field in ("question", "context", "answer", "text")}
            right = row.choices[row.answer_index or 0] if row.choices is not None else row.answer
            if row.choices is not None:
                wanted["answer"] = record["choices"][record["answer_index"]]
            found = {"question": row.question, "context": row.context, "answer": right, "text": row.text}
            assert found == wanted


def test_natural_questions_have_their_aliases(shared_data: Path) -> None:
    rows = load_rows(Source(path="test.jsonl"), base=shared_data / "nq_open", name="nq")
    by_id = {row.item_id: row for row in rows.rows}
    assert by_id["nqopen-efficientqa.test.1.1-3"].aliases == ("527",)
    assert sum(bool(row.aliases) for row in rows.rows) > 300
