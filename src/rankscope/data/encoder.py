"""Encodes rows as tokens, by the same rules for training and scoring."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from rankscope.data.batch_tokenizer import BatchTokenizer, BeyondEmbeddings, Ids
from rankscope.data.chat_text import ChatFrame, Conversation, Frame, PlainFrame
from rankscope.data.prompts import PromptMaker, asked_form, reference_answer
from rankscope.records import Example, Form, Item, Row, Turn
from rankscope.study.problems import InputProblems, Problem
from rankscope.study.study import Source

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_Made = TypeVar("_Made", Example, Item)


class Encoder:
    """A tokenizer with the rules of this project. `chat: None` uses its chat template if it has one.

    `eos_ids` are the tokens that generation stops at: the tokenizer's EOS and what ends an assistant's turn; `end_text`
    is what a chat template writes before that, empty where it is nothing or white space. `vocabulary_size`: how many
    tokens the model has embeddings for, where that is known; a text with a token beyond them is refused.
    Raises InputProblems for a tokenizer without EOS, and for `chat` or a system prompt without a usable template.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        context_tokens: int,
        chat: bool | None = None,
        system_prompt: str | None = None,
        vocabulary_size: int | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.context_tokens = context_tokens
        name = tokenizer.name_or_path or "tokenizer"
        if tokenizer.eos_token_id is None:
            raise InputProblems([Problem(name, "tokenizer", "no EOS token", "one, to end an answer with")])
        if chat and not tokenizer.chat_template:
            raise InputProblems([Problem(name, "tokenizer", "no chat template", "one")])
        self.chat = bool(tokenizer.chat_template) if chat is None else chat
        if system_prompt is not None and not self.chat:
            expected = "a model that is asked by a chat template, or no `system_prompt`"
            raise InputProblems([Problem(name, "system_prompt", "no chat template that is used", expected)])
        self.system_prompt = system_prompt
        self._frame = ChatFrame(tokenizer, system_prompt) if self.chat else None
        self._turns: Frame = self._frame or PlainFrame(tokenizer)
        eos_id: int = tokenizer.eos_token_id
        self._eos_id = eos_id
        turn_end_id = self._frame.end_id if self._frame else None
        self._answer_end_id = eos_id if turn_end_id is None else turn_end_id
        self.eos_ids = frozenset({eos_id, self._answer_end_id})
        self.end_text = self._frame.end_text.strip() if self._frame else ""
        self.tokens = BatchTokenizer(tokenizer, vocabulary_size)
        if self.tokens.beyond and self._frame is not None:
            self._check_template(name, self._frame)

    def training(self, rows: Sequence[Row], source: Source, file: str) -> list[Example]:
        """Each row as an Example of any length; its completion ends with the learned EOS (of a chat: the token that
        ends the turn). `source.kind` decides whether a rationale is trained. Raises InputProblems naming the row."""
        return self._naming_rows(self._training, rows, source, file)

    def items(self, rows: Sequence[Row], source: Source, file: str) -> list[Item]:
        """Each row as an Item of any length, in order. An open answer's prompt is all that generation starts from."""
        return self._naming_rows(self._items, rows, source, file)

    def _naming_rows(
        self, work: Callable[[Sequence[Row], Source, str], list[_Made]], rows: Sequence[Row], source: Source, file: str
    ) -> list[_Made]:
        try:
            return work(rows, source, file)
        except BeyondEmbeddings:
            for row in rows:
                try:
                    work([row], source, file)
                except BeyondEmbeddings as error:
                    raise error.of(file, row.place) from error
            raise

    def _check_template(self, name: str, frame: ChatFrame) -> None:
        talk = (Turn("user", "Which?"), Turn("assistant", "This."))
        try:
            self.tokens.plain([frame.before(talk[:1]), frame.conversation(talk, name, "chat template").text])
        except BeyondEmbeddings as error:
            raise error.of(name, "chat template") from error

    def _training(self, rows: Sequence[Row], source: Source, file: str) -> list[Example]:
        maker = PromptMaker(source, file)
        talks = [i for i, row in enumerate(rows) if _is_talk(row, source)]
        talked = [self._turns.conversation(rows[i].messages or (), file, rows[i].place) for i in talks]
        ready = dict(zip(talks, self._talk_examples([rows[i] for i in talks], talked), strict=True))
        others = [row for i, row in enumerate(rows) if i not in ready]
        split = iter(self.tokens.split([self._pair(row, maker) for row in others]))
        examples = []
        for i, row in enumerate(rows):
            if i in ready:
                examples.append(ready[i])
                continue
            prompt_ids, completion_ids = next(split)
            end_id = self._eos_id if row.text is not None else self._answer_end_id
            ended = completion_ids if completion_ids[-1:] == (end_id,) else (*completion_ids, end_id)
            examples.append(Example(row.item_id, prompt_ids, ended))
        return examples

    def _items(self, rows: Sequence[Row], source: Source, file: str) -> list[Item]:
        maker = PromptMaker(source, file)
        reasoning = getattr(source, "kind", None) == "reasoning"
        forms = [asked_form(row, source) for row in rows]
        for row in rows:
            if _is_talk(row, source) and not (row.messages or ())[-1].content:
                found, expected = "a call of a tool at the end", "an answer in words, which can be scored"
                raise InputProblems([Problem(file, f"{row.place}: turn {len(row.messages or ())}", found, expected)])
        prompts = [
            self._turns.before((row.messages or ())[:-1]) if _is_talk(row, source) else self._prompt(row, maker)
            for row in rows
        ]
        pairs: list[tuple[str, str]] = []
        for row, prompt, form in zip(rows, prompts, forms, strict=True):
            pairs += [(prompt, continuation) for continuation in self._continuations(row, form, prompt, maker)]
        split = iter(self.tokens.split(pairs))
        open_prompts = iter(
            self.tokens.tokenize([_open(p) for p, form in zip(prompts, forms, strict=True) if generated(form)])
        )
        items = []
        for row, prompt, form in zip(rows, prompts, forms, strict=True):
            if generated(form):
                choices = maker.choices(row)
                right = choices[row.answer_index or 0] if choices else reference_answer(row, reasoning=reasoning)
                answers = tuple(dict.fromkeys((right, *row.aliases)))
                prompt_ids = next(open_prompts) or (self.tokens.prefix_id,)
                items.append(
                    Item(row.item_id, form, prompt_ids, answers=answers, prompt_text=prompt, cluster=row.cluster)
                )
            elif form in ("text", "reference"):
                prompt_ids, text_ids = next(split)
                items.append(_text_item(row, form, prompt, maker.completion(row), (prompt_ids, text_ids)))
            else:
                items.append(self._choice_item(row, prompt, maker, [next(split) for _ in row.choices or ()]))
        return items

    def chat_text(self, turns: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation of lm-eval's by the chat template, the date fixed; without the system turn where it takes
        none. Without `add_generation_prompt` the last turn is left open."""
        assert self._frame is not None
        return self._frame.text(turns, add_generation_prompt)

    def text_ids(self, texts: Sequence[str]) -> list[tuple[Ids, Ids]]:
        """Whole texts as (prefix, the tokens that lm-eval's `loglikelihood_rolling` predicts after it)."""
        return [((self.tokens.prefix_id,), ids) for ids in self.tokens.tokenize(texts)]

    def prompt_ids(self, texts: Sequence[str]) -> list[Ids]:
        """What generation starts from after each text: a user's message by the chat template, or the plain text."""
        frame = self._frame
        prompts = list(texts) if frame is None else [frame.before((Turn("user", text),)) for text in texts]
        return [ids or (self.tokens.prefix_id,) for ids in self.tokens.tokenize([_open(text) for text in prompts])]

    def _prompt(self, row: Row, maker: PromptMaker) -> str:
        if self._frame is None or row.text is not None:
            return maker.plain(row)
        return self._frame.before((Turn("user", maker.message(row)),))

    def _pair(self, row: Row, maker: PromptMaker) -> tuple[str, str]:
        prompt, completion = self._prompt(row, maker), maker.completion(row)
        if self._frame and row.text is None:
            return prompt, completion.strip() + self._frame.end_text
        return prompt, maker.plain_gap(row, prompt) + completion

    def _talk_examples(self, rows: Sequence[Row], talks: Sequence[Conversation]) -> list[Example]:
        """Conversations as examples with loss on every assistant's turn, through the token that ends it.

        A turn begins where the tokens of all text before it end, which is where a suite would score it.
        """
        wholes = self.tokens.tokenize([talk.text for talk in talks])
        starts = iter(self.tokens.tokenize([talk.text[:at].rstrip() for talk in talks for at in talk.starts]))
        end_id = self._turns.end_id
        # Without a token to look for, the ends are found as the starts are.
        ends = iter(
            self.tokens.tokenize([talk.text[:at] for talk in talks for at in talk.ends]) if end_id is None else []
        )
        examples = []
        for row, talk, ids in zip(rows, talks, wholes, strict=True):
            spans = []
            for _ in talk.starts:
                start = len(next(starts))
                spans.append((start, len(next(ends)) if end_id is None else ids.index(end_id, start) + 1))
            ids = ids[: spans[-1][1]] if end_id is not None else (*ids, self._answer_end_id)
            first = spans[0][0]
            mask = None
            if len(spans) > 1:
                lost = [False] * len(ids)
                for start, end in [*spans[:-1], (spans[-1][0], len(ids))]:
                    lost[start:end] = [True] * (end - start)
                mask = tuple(lost)
            examples.append(Example(row.item_id, ids[:first], ids[first:], mask))
        return examples

    def _continuations(self, row: Row, form: Form, prompt: str, maker: PromptMaker) -> Iterable[str]:
        """What is scored after the prompt; of a reference what would be trained there, but for what ends it."""
        if row.text is not None:
            return (row.text,)
        gap = "" if self._frame else maker.plain_gap(row, prompt)
        if form == "reference":
            reference = maker.completion(row)
            return (reference.strip() if self._frame else gap + reference,)
        return (gap + choice for choice in maker.choices(row))

    def _choice_item(self, row: Row, prompt: str, maker: PromptMaker, split: Sequence[tuple[Ids, Ids]]) -> Item:
        choices = row.choices or ()
        return Item(
            item_id=row.item_id,
            form="choices",
            prompt_ids=split[0][0],
            choices_ids=tuple(rest for _, rest in split),
            # lm-eval divides by the choice's characters, without the space before it (`acc_norm`)
            choice_characters=tuple(len(text) for text in maker.choices(row)),
            answer_index=row.answer_index,
            answers=(choices[row.answer_index or 0],),
            prompt_text=prompt,
            choice_texts=choices,
            cluster=row.cluster,
        )


def _text_item(row: Row, form: Form, prompt: str, text: str, ids: tuple[Ids, Ids]) -> Item:
    """A text that has a loss, plain or a reference; of a plain one nothing is shown."""
    prompt_ids, text_ids = ids
    choices, size = (text_ids,) if text_ids else (), len(text.encode())
    item = Item(row.item_id, form, prompt_ids, choices, text_bytes=size, cluster=row.cluster)
    return item if form == "text" else replace(item, prompt_text=prompt, answers=(text,))


def answer_end(tokenizer: PreTrainedTokenizerBase) -> tuple[frozenset[int], str]:
    """What ends an answer of this tokenizer, as its rows are trained: `Encoder.eos_ids` and `Encoder.end_text`."""
    encoder = Encoder(tokenizer, context_tokens=1)
    return encoder.eos_ids, encoder.end_text


def _is_talk(row: Row, source: Source) -> bool:
    """Whether the row is written turn by turn; a template of the study makes a prompt of its one question instead."""
    return row.messages is not None and source.template is None


def generated(form: Form) -> bool:
    """Whether an item of this form is answered in words of the model's own."""
    return form in ("open", "number")


def _open(prompt: str) -> str:
    """The prompt to generate from: a space at its end would belong to the first token that is generated."""
    return prompt.rstrip(" \t")
