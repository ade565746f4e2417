"""What a model card says of each method: what the thing is, and how it is loaded."""

from __future__ import annotations

from rankscope.study.study import Arm

LOW_RANK = {"lora": "LoRA", "rslora": "rank-stabilised LoRA", "dora": "DoRA", "pissa": "PiSSA"}


def is_peft(arm: Arm) -> bool:
    """Whether the exported folder is an adapter in PEFT's format."""
    return not arm.traits.whole and arm.method != "adapters"


def what_it_is(arm: Arm) -> str:
    """The subject of the card's first sentence."""
    match arm.method:
        case "full":
            return "A fully fine-tuned model"
        case "full-frozen-embeddings":
            return "A model fine-tuned but for its embeddings and output head,"
        case "last-k-layers":
            return f"A model whose last {arm.layers} blocks were fine-tuned,"
        case "prompt-tuning":
            return f"A tuned prompt of {arm.virtual_tokens} virtual tokens"
        case "prefix-tuning":
            return f"A tuned prefix of {arm.virtual_tokens} virtual tokens"
        case "adapters":
            return f"Bottleneck adapters of {arm.bottleneck} units"
        case "ln-tuning":
            return "Tuned normalisations"
        case "ia3":
            return "An IA3 adapter"
        case "pissa":
            rank = arm.rank or 0
            return f"A PiSSA adapter of rank {rank} (saved as a plain LoRA of rank {2 * rank} for the untouched base)"
        case _:
            return f"A {LOW_RANK[arm.method]} adapter of rank {arm.rank}"


def settings_of(arm: Arm) -> dict[str, object]:
    """The method and its own settings, in words."""
    facts: dict[str, object] = {"method": arm.method}
    if arm.rank is not None:
        targets = arm.targets if isinstance(arm.targets, str) else ", ".join(arm.targets or ())
        facts |= {"rank": arm.rank, "alpha": arm.alpha, "targets": targets, "dropout": arm.dropout}
    sizes = {"virtual tokens": arm.virtual_tokens, "bottleneck": arm.bottleneck, "last blocks trained": arm.layers}
    return facts | {name: size for name, size in sizes.items() if size is not None}


def how_to_load(arm: Arm, base: str) -> str:
    """Python that loads the exported folder. `base` is a hub id, a folder, or `bundled`."""
    if arm.traits.whole:
        return (
            "```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            'model = AutoModelForCausalLM.from_pretrained("PATH_OF_THIS_FOLDER")\n'
            'tokenizer = AutoTokenizer.from_pretrained("PATH_OF_THIS_FOLDER")\n```'
        )
    bundled = base == "bundled"
    found = "str(bundled_base_path())" if bundled else repr(base)
    more = "\nfrom rankscope.assets import bundled_base_path" if bundled else ""
    lines = f"base_path = {found}\nbase = AutoModelForCausalLM.from_pretrained(base_path)\n"
    tokenizer = "tokenizer = AutoTokenizer.from_pretrained(base_path)\n"
    imports = f"from transformers import AutoModelForCausalLM, AutoTokenizer{more}\n"
    if is_peft(arm):
        load = 'model = PeftModel.from_pretrained(base, "PATH_OF_THIS_FOLDER")\n'
        return f"```python\nfrom peft import PeftModel\n{imports}\n{lines}{load}{tokenizer}```"
    ours = "\nfrom rankscope.model.methods.bottleneck import load_bottlenecks\n"
    load = 'load_bottlenecks(base, Path("PATH_OF_THIS_FOLDER"))  # in place\n'
    return f"```python\nfrom pathlib import Path\n\n{imports}{ours}\n{lines}{load}{tokenizer}```"
