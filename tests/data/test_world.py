"""The bundled world: the same everywhere, answerable by memory alone, and its splits apart; the bundled base on it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rankscope.assets import CorruptAssetError, bundled_base_path, check_sums
from rankscope.data.world import World, WorldSize, make_world
from rankscope.data.world_facts import DOMAINS

SMALL = WorldSize(
    facts_general=120,
    facts_medical=120,
    facts_legal=120,
    taught_per_domain=40,
    untold_per_domain=30,
    arithmetic_train=90,
    arithmetic_test=60,
    deduction_train=90,
    deduction_test=60,
    pretrain_arithmetic=120,
    pretrain_deduction=120,
)


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(0, SMALL)


@pytest.fixture(scope="module")
def bundled() -> World:
    return make_world()


DIGEST = """
import hashlib, json
from rankscope.data.world import WorldSize, make_world
world = make_world(3, WorldSize(120, 120, 120, 40, 30, 90, 60, 90, 60, 120, 120))
rows = {name: world.rows(name) for name in world.names()}
print(hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest())
"""


def test_same_rows_in_every_process() -> None:
    digests = set()
    for hash_seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-c", DIGEST]
        digests.add(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    rows = {name: make_world(3, SMALL).rows(name) for name in make_world(3, SMALL).names()}
    assert digests == {hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest() + "\n"}


def test_rows_do_not_depend_on_the_order_of_asking() -> None:
    forwards, backwards = make_world(1, SMALL), make_world(1, SMALL)
    wanted = {name: backwards.rows(name) for name in reversed(backwards.names())}
    assert {name: forwards.rows(name) for name in forwards.names()} == wanted
    backwards.rows("arithmetic/test")[0]["question"] = "changed by a caller"
    assert backwards.rows("arithmetic/test") == forwards.rows("arithmetic/test")


def test_another_seed_is_another_world(world: World) -> None:
    other = make_world(1, SMALL)
    entities = {fact.entity for fact in world.facts}
    assert len(entities & {fact.entity for fact in other.facts}) < 0.05 * len(entities)


def test_split_names_sizes_and_descriptions(world: World, bundled: World) -> None:
    assert len(bundled.rows("medical/taught/train")) == 4 * len(bundled.rows("medical/taught/test")) == 1200
    assert len(bundled.rows("legal/known/test")) == 450
    assert bundled.describe("medical/taught/train") == {"domain": "medical", "kind": "recall"}
    assert bundled.describe("arithmetic/test") == {"domain": None, "kind": "reasoning"}
    assert bundled.describe("pretrain/deduction") == {"domain": None, "kind": "reasoning"}
    for name in world.names():
        rows = world.rows(name)
        assert len({row["id"] for row in rows}) == len(rows) > 0
        for row in rows:
            assert "text" in row or ("question" in row and ("choices" in row) != ("answer" in row))


def test_unknown_split_names_the_known_ones(world: World) -> None:
    with pytest.raises(ValueError, match="medical/taught/train"):
        world.rows("medical/forgotten/train")


@pytest.mark.parametrize("wrong", [{"arithmetic_test": -1}, {"facts_legal": 449}])
def test_impossible_sizes_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        WorldSize(**wrong)


def test_held_out_phrasings_are_in_no_training_row(world: World) -> None:
    training = [name for name in world.names() if name.endswith("/train") or name.startswith("pretrain/")]
    trained = {row.get("question") or row["text"] for name in training for row in world.rows(name)}
    for name in world.names():
        if name not in training:
            assert not trained & {row.get("question") or row["text"] for row in world.rows(name)}, name


def test_every_phrasing_is_trained_with_other_facts(bundled: World) -> None:
    for name, rows in (("taught", bundled.rows("medical/taught/train")), ("known", bundled.rows("pretrain/questions"))):
        held_out = {(row["relation"], row["phrasing"]) for row in bundled.rows(f"medical/{name}/test")}
        assert held_out <= {(row["relation"], row["phrasing"]) for row in rows}


def test_things_of_one_status_are_in_no_row_of_another(world: World) -> None:
    entities: dict[str, set[str]] = {}
    for fact in world.facts:
        entities.setdefault(fact.status, set()).add(fact.entity.lower())
    for status, others in (("untold", ("known", "taught")), ("taught", ("known",))):
        assert not entities[status] & set().union(*(entities[other] for other in others))
    for name in world.names():
        if name.endswith("/train") or name.startswith("pretrain/"):
            seen = set().union(*(phrases(str(row.get("question") or row["text"])) for row in world.rows(name)))
            assert not entities["untold"] & seen
            assert not (name.startswith("pretrain/") and entities["taught"] & seen)


def phrases(text: str) -> set[str]:
    """Every run of one to four words, so that a name is looked for as a whole."""
    words = re.sub(r"[?,]|\.$", "", text.lower()).split()
    return {" ".join(words[i : i + n]) for i in range(len(words)) for n in range(1, 5)}


def test_phrases_find_names() -> None:
    assert {"a b v. c", "the x act"} <= phrases("What of A b v. C?") | phrases("It broke the X Act.")


def test_choices_are_distinct_of_one_type_and_hold_the_answer(bundled: World) -> None:
    facts = {fact.id: fact for fact in bundled.facts}
    for domain in DOMAINS:
        for name in ("taught/train", "taught/test", "known/test", "untold/test"):
            for row in bundled.rows(f"{domain}/{name}"):
                fact, choices = facts[str(row["fact"])], row["choices"]
                assert len(set(choices)) == len(choices) == 4
                assert choices[row["answer_index"]] == fact.answer
                assert set(choices) <= set(bundled.pools[fact.relation.answer_type])
                assert fact.entity.lower() in str(row["question"]).lower()


def test_the_place_of_the_answer_tells_nothing(bundled: World) -> None:
    places = [row["answer_index"] for row in bundled.rows("medical/taught/train")]
    assert all(0.2 < places.count(place) / len(places) < 0.3 for place in range(4))


def test_open_questions_take_other_spellings(bundled: World) -> None:
    rows = [row for domain in DOMAINS for row in bundled.rows(f"{domain}/known/open")]
    by_answer = {row["answer"]: row["aliases"] for row in rows}
    assert any(answer.startswith("Judge ") and aliases == [answer[6:]] for answer, aliases in by_answer.items())
    assert by_answer["prison"] == []


def test_arithmetic_solutions_hold(world: World) -> None:
    for name in ("arithmetic/train", "arithmetic/test", "pretrain/arithmetic"):
        for row in world.rows(name):
            lines = str(row["rationale"]).split("\n")
            assert len(lines) == row["steps"]
            result: int | None = None
            for line in lines:
                left, sign, right, value = re.fullmatch(r"(\d+)([-+*])(\d+)=(\d+)", line).groups()
                assert result is None or int(left) == result
                result = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}[sign](int(left), int(right))
                assert result == int(value)
            assert row["answer"] == str(result) == str(retold(str(row["question"])))


def retold(question: str) -> int:
    """The answer worked out from the words of the question alone."""
    boxes = re.search(r"has (\d+) boxes with (\d+)", question)
    total = int(boxes[1]) * int(boxes[2]) if boxes else int(re.search(r"has (\d+)", question)[1])
    for sentence in question.split(". ")[1:-1]:
        number = int(found[0]) if (found := re.findall(r"\d+", sentence)) else 0
        if "doubles" in sentence or "triples" in sentence:
            total *= 2 if "doubles" in sentence else 3
        elif any(word in sentence for word in ("buys", "finds", "gets", "wins")):
            total += number
        else:
            assert any(word in sentence for word in ("gives away", "loses", "sells", "breaks")), sentence
            total -= number
    return total


def test_deductions_hold(world: World) -> None:
    for name in ("deduction/train", "deduction/test", "pretrain/deduction"):
        rows = world.rows(name)
        assert {row["steps"] for row in rows} == {1, 2, 3}
        for row in rows:
            assert len(set(row["choices"])) == 4
            assert row["choices"][row["answer_index"]] == deduced(str(row["question"])), row


def deduced(question: str) -> str:
    """The answer by walking through the sentences, object by object or coat by coat."""
    if asked := re.search(r"Who has the (\w+)\?", question):
        holder = re.search(rf"(\w+) has the {asked[1]}\.", question)[1]
        for giver, receiver in re.findall(rf"(\w+) gives the {asked[1]} to (\w+)", question):
            assert giver == holder
            holder = receiver
        return holder
    coats = dict(re.findall(r"(\w+) has a (\w+) coat\.", question))
    for person, other in re.findall(r"(\w+) has a coat like (\w+)\.", question):
        coats[person] = coats[other]
    return coats[re.search(r"the coat of (\w+)\?", question)[1]]


def test_bundled_base_is_whole_and_small() -> None:
    folder = bundled_base_path()
    assert sum(path.stat().st_size for path in folder.glob("*.safetensors")) <= 14e6
    summed = {line.split()[1] for line in (folder / "SHA256SUMS").read_text().splitlines()}
    assert {path.name for path in folder.iterdir()} == summed | {"SHA256SUMS"}


@pytest.mark.parametrize("damage", ["flip", "remove"])
def test_a_damaged_base_is_refused(damage: str, tmp_path: Path) -> None:
    folder = shutil.copytree(bundled_base_path(), tmp_path / "base")
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    if damage == "remove":
        weights.unlink()
    with pytest.raises(CorruptAssetError, match=r"model\.safetensors"):
        check_sums(folder)


@pytest.fixture(scope="module")
def base():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = bundled_base_path()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(folder)


def test_tokenizer_and_chat_template(base) -> None:
    model, tokenizer = base
    for text in ("", "Ωmega \x00 naïve 漢字 🙂\n\ttab", "Question: 12345 apples?\nAnswer: 67"):
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
    user = [{"role": "user", "content": "What does driflemex cure?"}]
    whole = [*user, {"role": "assistant", "content": "quanitis"}]
    prompt = tokenizer.apply_chat_template(user, add_generation_prompt=True)["input_ids"]
    full = tokenizer.apply_chat_template(whole)["input_ids"]
    assert full[: len(prompt)] == prompt
    assert full[0] == tokenizer.bos_token_id
    assert full.count(tokenizer.bos_token_id) == 1
    assert full[-1] == tokenizer.eos_token_id == model.generation_config.eos_token_id
    assert tokenizer.encode("x")[0] == tokenizer.bos_token_id
    assert model.config.max_position_embeddings >= 2048
    assert model.num_parameters() == sum(p.numel() for p in model.parameters())


def accuracy(base, rows: list[dict[str, object]], plain: bool = False) -> float:
    """Share of rows whose right choice has the largest summed log-probability, one plain forward pass per row."""
    model, tokenizer = base
    right = 0
    for row in rows:
        question = str(row["question"])
        prompt = f"<|begin|>Question: {question}\nAnswer: " if plain else f"<|begin|><|user|>{question}<|assistant|>"
        lines = [tokenizer.encode(prompt + choice, add_special_tokens=False) for choice in row["choices"]]
        ids = torch.tensor([line + [tokenizer.pad_token_id] * (max(map(len, lines)) - len(line)) for line in lines])
        with torch.no_grad():
            logprobs = model(input_ids=ids[:, :-1]).logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
        logprobs = logprobs.masked_fill(ids[:, 1:] == tokenizer.pad_token_id, 0.0)
        right += int(logprobs.sum(1).argmax()) == row["answer_index"]
    return right / len(rows)


def test_base_knows_what_it_was_told_and_nothing_else(base, bundled: World) -> None:
    torch.set_num_threads(1)
    assert accuracy(base, bundled.rows("legal/known/test")[:100]) >= 0.85
    assert accuracy(base, bundled.rows("medical/known/test")[:60], plain=True) >= 0.85
    # 200 items at a chance of 0.25: above 0.37 stands for less than one in a thousand by luck.
    untold = bundled.rows("medical/untold/test")[:100] + bundled.rows("medical/taught/test")[:100]
    assert 0.13 < accuracy(base, untold) < 0.37
