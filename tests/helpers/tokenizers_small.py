"""Small byte-level tokenizers, made on the spot, for the tests of this folder."""

from __future__ import annotations

from functools import lru_cache

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

LINES = [
    "Question: What is the capital of Nara?",
    "Answer: the city of Vell",
    "A. yes\nB. no\nC. maybe\nAnswer: A",
    "She has 12 apples and buys 3 more, so 12 + 3 = 15.\n#### 15",
] * 20

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA2 = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] | trim }} [/INST]"
    "{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
THINKING = (
    "{% for m in messages %}{% if m['role'] == 'user' %}<|im_start|>user\n{{ m['content'] }}<|im_end|>\n{% else %}"
    "<|im_start|>assistant\n<think>\n\n</think>\n\n{{ m['content'] }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
UNFINISHED = (
    "{% for m in messages %}{% if m['role'] == 'user' %}User: {{ m['content'] }}\nBot:"
    "{% else %} {{ m['content'] }}\n{% endif %}{% endfor %}"
)
THINK_FIRST = (
    "{% for m in messages %}{% if m['role'] == 'user' %}<|im_start|>{{ m['content'] }}<|im_end|>"
    "{% else %}{{ m['content'] }}<|im_end|>{% endif %}{% endfor %}{% if add_generation_prompt %}<think>\n{% endif %}"
)


@lru_cache(maxsize=1)
def _trained() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=sorted(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator(LINES, trainer)
    return tokenizer.to_str()


def make_tokenizer(
    *, bos: bool = False, eos: bool = True, ends: bool = False, template: str | None = None
) -> PreTrainedTokenizerFast:
    """`bos`: there is a BOS token, and it is put first. `ends`: an EOS is put behind."""
    tokenizer = Tokenizer.from_str(_trained())
    if bos or ends:
        form = ("<s> " if bos else "") + "$A" + (" </s>" if ends else "")
        named = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
        tokenizer.post_processor = processors.TemplateProcessing(single=form, special_tokens=named)
    tokenizer.add_special_tokens(["<s>", "</s>", "<|im_start|>", "<|im_end|>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>" if bos else None,
        eos_token="</s>" if eos else None,
        chat_template=template,
    )
