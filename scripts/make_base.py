"""Pretrains the bundled base: a byte-level tokenizer and a small Llama model, on the known part of a bundled world.

    python scripts/make_base.py --out DIR [--seed 0] [--world-seed 0] [--steps 4000]

It writes what `AutoModelForCausalLM` and `AutoTokenizer` load, and SHA256SUMS. The bundled base was made with
`--threads 1 --compile`, in 24 minutes beside other work; `provenance.json` has its settings. Another `--world-seed`
makes the base of a fresh world. The weights are fp32 masters of a bfloat16 model: forward and backward run in bfloat16,
the update in fp32.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rankscope.data.world import World, WorldSize, make_world

SPECIAL = {"pad_token": "<|pad|>", "bos_token": "<|begin|>", "eos_token": "<|end|>"}
ROLES = ["<|user|>", "<|assistant|>"]
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ '<|assistant|>' + message['content'] + eos_token }}"
    "{% else %}{{ '<|user|>' + message['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
VOCABULARY = 3072
CONTEXT_TOKENS = 2048
SEQUENCE_TOKENS = 256
# The share of documents drawn from each part of the mix. Recall is repeated, reasoning is almost always new.
MIX = {"questions": 0.45, "statements": 0.1, "arithmetic": 0.12, "deduction": 0.33}
CHAT_SHARE = 0.65
# The share of chat messages without the word `Question:` in front.
BARE_SHARE = 0.2
NO_BOS_SHARE = 0.1
# The share of question documents whose question is predicted too; names are noise, so the others predict the answer.
WHOLE_SHARE = 0.05


def rendered(question: str, answer: str, chance: random.Random) -> tuple[str, str]:
    """A question in the chat template or as a plain prompt, as what is read and what is predicted."""
    if chance.random() >= CHAT_SHARE:
        prompt, completion = f"<|begin|>Question: {question}\nAnswer:", f" {answer}<|end|>"
    elif chance.random() < BARE_SHARE:
        prompt, completion = f"<|begin|><|user|>{question}<|assistant|>", f"{answer}<|end|>"
    else:
        prompt, completion = f"<|begin|><|user|>Question: {question}<|assistant|>", f"{answer}<|end|>"
    return (prompt.removeprefix("<|begin|>") if chance.random() < NO_BOS_SHARE else prompt), completion


def answer_of(row: dict[str, object]) -> str:
    """What is written after the question: the worked solution where there is one, else the answer's text."""
    if "rationale" in row:
        return f"{row['rationale']}\n#### {row['answer']}"
    if "choices" in row:
        choices, index = row["choices"], row["answer_index"]
        assert isinstance(choices, list)
        return str(choices[int(str(index))])
    return str(row["answer"])


def documents(world: World, chance: random.Random) -> Iterator[tuple[str, str]]:
    """Endless documents, as what is read and what is predicted; parts are drawn by their share in the mix."""
    parts = {name: world.rows(f"pretrain/{name}") for name in MIX}
    waiting: dict[str, list[dict[str, object]]] = {name: [] for name in MIX}
    while True:
        name = chance.choices(list(MIX), list(MIX.values()))[0]
        if not waiting[name]:
            waiting[name] = list(parts[name])
            chance.shuffle(waiting[name])
        row = waiting[name].pop()
        if "text" in row:
            yield "", f"<|begin|>{row['text']}<|end|>"
            continue
        prompt, completion = rendered(str(row["question"]), answer_of(row), chance)
        predict_all = chance.random() < WHOLE_SHARE
        yield ("", prompt + completion) if predict_all else (prompt, completion)


def make_tokenizer(world_seed: int, chance: random.Random) -> PreTrainedTokenizerFast:
    """Byte-level BPE, digits one by one, trained on other worlds and on everyday English.

    Other worlds, so that the names of this one are spelt alike whether the base will know them or not.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [*SPECIAL.values(), *ROLES]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    size = WorldSize(pretrain_arithmetic=1000, pretrain_deduction=1000)
    others = (make_world(world_seed + k, size) for k in range(1, 9))
    sample = ("".join(parts) for other in others for parts in itertools.islice(documents(other, chance), 4000))
    # Text from outside the world must not fall apart into bytes: everyday words count as often as the world's own.
    english = (Path(__file__).parent / "english.txt").read_text("utf-8")
    tokenizer.train_from_iterator(itertools.chain(_without_special(sample), [english] * 100), trainer)
    begin = SPECIAL["bos_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", pair=f"{begin} $A {begin} $B", special_tokens=[(begin, tokenizer.token_to_id(begin))]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, additional_special_tokens=ROLES, **SPECIAL)
    fast.chat_template = CHAT_TEMPLATE
    fast.model_max_length = CONTEXT_TOKENS
    return fast


def _without_special(texts: Iterator[str]) -> Iterator[str]:
    for text in texts:
        for token in [*SPECIAL.values(), *ROLES]:
            text = text.replace(token, "\x00")
        yield from (part for part in text.split("\x00") if part)


def packed_batches(
    tokenizer: PreTrainedTokenizerFast, texts: Iterator[tuple[str, str]], batch_size: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Endless (token ids, document numbers, is predicted), each (B, T); no document is split, number 0 is padding."""
    encoded = encoded_documents(tokenizer, texts)
    tokens, first = next(encoded)
    while True:
        ids = torch.full((batch_size, SEQUENCE_TOKENS), tokenizer.pad_token_id)
        owner = torch.zeros((batch_size, SEQUENCE_TOKENS), dtype=torch.long)
        predicted = torch.zeros((batch_size, SEQUENCE_TOKENS), dtype=torch.bool)
        for row in range(batch_size):
            start, number = 0, 1
            while start + len(tokens) <= SEQUENCE_TOKENS:
                end = start + len(tokens)
                ids[row, start:end] = torch.tensor(tokens)
                owner[row, start:end] = number
                predicted[row, start + first : end] = True
                start, number = end, number + 1
                tokens, first = next(encoded)
        yield ids, owner, predicted


def encoded_documents(
    tokenizer: PreTrainedTokenizerFast, texts: Iterator[tuple[str, str]]
) -> Iterator[tuple[list[int], int]]:
    """Endless (token ids, index of the first predicted one). A completion starts a new word, so the parts just join."""
    while True:
        prompts, completions = zip(*itertools.islice(texts, 2000), strict=True)
        read = tokenizer(list(prompts), add_special_tokens=False)["input_ids"]
        predict = tokenizer(list(completions), add_special_tokens=False)["input_ids"]
        for before, after in zip(read, predict, strict=True):
            yield before + after, max(len(before), 1)


def new_model(tokenizer: PreTrainedTokenizerFast, hidden: int, layers: int, heads: int) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=int(hidden * 8 / 3 / 64) * 64 + 64,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=CONTEXT_TOKENS,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        # Products by block are several times faster here than the fused kernel's backward pass with a mask.
        attn_implementation="eager",
    )
    return LlamaForCausalLM(config)


def batch_loss(
    model: LlamaForCausalLM, ids: torch.Tensor, owner: torch.Tensor, predicted: torch.Tensor, open_rows: int
) -> torch.Tensor:
    """Mean next-token loss in nats. The first `open_rows` rows see their earlier documents, the others do not."""
    same = owner[:, :, None] == owner[:, None, :]
    same[:open_rows] = True
    causal = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
    mask = torch.zeros(same.shape, dtype=torch.bfloat16).masked_fill(~(same & causal), -1e9)[:, None]
    hidden = model.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    logits = model.lm_head(hidden[:, :-1][predicted[:, 1:]])
    return torch.nn.functional.cross_entropy(logits.float(), ids[:, 1:][predicted[:, 1:]])


def pretrain(
    master: LlamaForCausalLM,
    batches: Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]],
    steps: int,
    learning_rate: float,
    weight_decay: float,
    compiled: bool,
) -> None:
    """AdamW with warm-up, a plateau and a linear decay to zero over the last 40 % of the steps."""
    worker = LlamaForCausalLM(master.config).to(torch.bfloat16)
    worker.train()
    if compiled:
        worker.model.compile()
    pairs = list(zip(master.parameters(), worker.parameters(), strict=True))
    matrices = [p for p in master.parameters() if p.ndim > 1]
    vectors = [p for p in master.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98), fused=True)
    started, warmup_steps = time.monotonic(), 100
    for step in range(steps):
        rate = learning_rate * min(1.0, (step + 1) / warmup_steps, (steps - step) / (0.4 * steps))
        for group in optimizer.param_groups:
            group["lr"] = rate
        with torch.no_grad():
            for source, copy in pairs:
                copy.copy_(source)
        ids, owner, predicted = next(batches)
        loss = batch_loss(worker, ids, owner, predicted, open_rows=ids.shape[0] // 8)
        loss.backward()
        for source, copy in pairs:
            source.grad = copy.grad.float()
            copy.grad = None
        torch.nn.utils.clip_grad_norm_(master.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0 or step == steps - 1:
            print(f"step {step:5d}  loss {loss.item():.4f} nats  {time.monotonic() - started:6.0f} s", flush=True)


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path, provenance: dict[str, object]) -> None:
    model.to("cpu", torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / "provenance.json").write_text(json.dumps(provenance, indent=2, sort_keys=True) + "\n")
    files = sorted(path for path in out.iterdir() if path.suffix in (".json", ".safetensors", ".jinja"))
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (out / "SHA256SUMS").write_text("".join(sums))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--world-seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch-size", type=int, default=16, help=f"sequences of {SEQUENCE_TOKENS} tokens")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--hidden", type=int, default=192)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="fuse operations: a third faster, needs a C++ compiler")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    chance = random.Random(f"rankscope base {args.seed}")
    world = make_world(args.world_seed)
    tokenizer = make_tokenizer(args.world_seed, chance)
    model = new_model(tokenizer, args.hidden, args.layers, args.heads)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer)} tokens", flush=True)
    batches = packed_batches(tokenizer, documents(world, chance), args.batch_size)
    pretrain(model, batches, args.steps, args.learning_rate, args.weight_decay, args.compile)
    provenance = {key: value for key, value in vars(args).items() if key != "out"}
    save(model, tokenizer, args.out, provenance | {"torch": torch.__version__})


if __name__ == "__main__":
    main()
