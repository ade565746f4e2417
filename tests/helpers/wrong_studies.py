"""Studies that are wrong, each with the line that must say so. Long lines, since a table reads better so."""
# ruff: noqa: E501

from __future__ import annotations

METHODS_SHOWN = (
    "adapters, prompt-tuning, prefix-tuning, full, full-frozen-embeddings, last-k-layers, lora, rslora, dora, pissa, "
    "ia3 or ln-tuning"
)

FILES = [
    (b"", "study.yaml: found an empty file, expected a study file in YAML"),
    (b" \n\n", "study.yaml: found an empty file, expected a study file in YAML"),
    (b"# nothing\n", "study.yaml: found no settings, expected a mapping with name, model, train, suites, arms and seeds"),
    (b"name: a\0b", "study.yaml: found a binary file, expected a study file in YAML"),
    (b"name: a\nmodel: \xff\xfe", "study.yaml: line 2: found the byte 0xff, which is no UTF-8 text, expected a study "
     "file in YAML"),
    (b"- a\n- b\n", 'study.yaml: found ["a", "b"], expected a mapping with name, model, train, suites, arms and seeds'),
    (b"hello", 'study.yaml: found "hello", expected a mapping with name, model, train, suites, arms and seeds'),
    (b"name: [a\nmodel: b", "study.yaml: line 2, column 6: found no valid YAML (expected ',' or ']', but got ':'), "
     "expected a study in YAML"),
    (b"a: 1\n---\nb: 2\n", "study.yaml: line 2, column 1: found no valid YAML (but found another document), expected a "
     "study in YAML"),
    (b"name: \x07", "study.yaml: line 1: found a control character, expected plain text"),
    (b"[" * 5000, "study.yaml: line 1, column 51: found more than 50 levels of nested values, expected a "
     "study in YAML"),
    (b"x" * 1_000_001, "study.yaml: found a file of more than 1 MB, expected a study file in YAML"),]  # fmt: skip
"""A file's bytes, and the line."""

OVERRIDES = [
    ("budget.epoch=2", "--set: budget.epoch: found the unknown key `epoch`, expected one of epochs, batch_size, "
     "max_sequence_tokens, gradient_checkpointing; did you mean `epochs`?"),
    ("budgets.epochs=2", "--set: budgets: found the unknown key `budgets`, expected one of name, model, train, suites, "
     "arms, validation, budget, optimizer, seeds, select, dial, selection, decision, checkpoint, keep, analysis, track, execution; did you mean `budget`?"),
    ("budget.epochs=-1", "--set: budget.epochs: found -1, expected a number above 0"),
    ("arms.lora.ranks=[8, x]", '--set: arms.lora.ranks[1]: found "x", expected a whole number above 0'),
    ("arms.lora.ranks[5]=8", "--set: arms.lora.ranks[5]: found [4, 8] for arms.lora.ranks, expected a list with an "
     "item [5]"),
    ("name.x=1", '--set: name.x: found "small" for name, expected a mapping'),
    ("model.dtype=int8", '--set: model.dtype: found "int8", expected auto, float32 or bfloat16'),
    ("seeds=[1", "--set: seeds: found no valid YAML (expected ',' or ']', but got '<stream end>'), expected a value "
     "in YAML"),
    ("budget.epochs", '--set: found "budget.epochs", expected KEY=VALUE such as budget.epochs=2 or '
     "arms.lora.ranks=[8,16]"),
    ("=3", '--set: found "=3", expected KEY=VALUE such as budget.epochs=2 or arms.lora.ranks=[8,16]'),]  # fmt: skip
"""A `--set`, and the line."""

RATE = "a number above 0 such as 2e-4, or auto, or auto_shared"
COUNT = "a whole number above 0"
WRONG = [
    ("learning_rate: 2e-4", "learning_rate: .nan", f"line 11, arms.lora.learning_rate: found NaN, expected {RATE}"),
    ("learning_rate: 2e-4", "learning_rate: .inf", f"line 11, arms.lora.learning_rate: found infinity, expected {RATE}"),
    ("learning_rate: 2e-4", "learning_rate: -1e-4", f"line 11, arms.lora.learning_rate: found -0.0001, expected {RATE}"),
    ("learning_rate: 2e-4", "learning_rate: fast", f'line 11, arms.lora.learning_rate: found "fast", expected {RATE}'),
    ("learning_rate: 2e-4", "learning_rate: true", f"line 11, arms.lora.learning_rate: found true, expected {RATE}"),
    ("[4, 8]", "[4, 0]", f"line 11, arms.lora.ranks[1]: found 0, expected {COUNT}"),
    ("[4, 8]", "[4, -8]", f"line 11, arms.lora.ranks[1]: found -8, expected {COUNT}"),
    ("[4, 8]", "[4.5]", f"line 11, arms.lora.ranks[0]: found 4.5, expected {COUNT}"),
    ("[4, 8]", '["8"]', f'line 11, arms.lora.ranks[0]: found "8", expected {COUNT}'),
    ("[4, 8]", "8", "line 11, arms.lora.ranks: found 8, expected a list of different whole numbers above 0, such as "
     "[8, 16, 32]"),
    ("[4, 8]", "[]", "line 11, arms.lora.ranks: found an empty list, expected a list of different whole numbers above 0, "
     "such as [8, 16, 32]"),
    ("[4, 8]", "[8, 8]", "line 11, arms.lora.ranks: found [8, 8], expected a list of different whole numbers above 0, "
     "such as [8, 16, 32]"),
    ("alpha: 2r", "alpha: r2", 'line 11, arms.lora.alpha: found "r2", expected a number above 0, or a multiple of the '
     "rank such as 2r"),
    ("alpha: 2r", "alpha: 0.0r", 'line 11, arms.lora.alpha: found "0.0r", expected a number above 0, or a multiple of the '
     "rank such as 2r"),
    ("alpha: 2r", "alpha: -1", "line 11, arms.lora.alpha: found -1, expected a number above 0, or a multiple of the rank "
     "such as 2r"),
    ("alpha: 2r", "target: [q]", "line 11, arms.lora.target: found the unknown key `target`, expected one of method, "
     "learning_rate, dial, retain, replay, ranks, alpha, targets, dropout; did you mean `targets`?"),
    ("alpha: 2r", "targets: []", "line 11, arms.lora.targets: found an empty list, expected all-linear, or a list of "
     "module names such as [q_proj, v_proj]"),
    ("full: {", "full: {ranks: [2], ", "line 10, arms.full.ranks: found the unknown key `ranks`, expected one of method, "
     "learning_rate, dial, retain, replay"),
    ("full: {", "mine: {", "line 10, arms.mine: found no method, and the label `mine` is not the name of one, expected "
     f"`method:` {METHODS_SHOWN}"),
    ("full: {", "loar: {", "line 10, arms.loar: found no method, and the label `loar` is not the name of one, expected "
     f"`method:` {METHODS_SHOWN}; did you mean `lora`?"),
    ("full: {", "mine: {method: 7, ", f"line 10, arms.mine.method: found 7, expected {METHODS_SHOWN}"),
    ("full: {", "base: {method: full, ", "line 10, arms.base: found the label `base`, expected another label: this one "
     "names the base model"),
    ("full: {", "lora-r8: {method: full, ", "line 11, arms.lora: found the arm `lora-r8`, which `lora-r8` makes too, "
     "expected labels that stand once"),
    ("full: {learning_rate: 1e-5}", "again: {method: lora, ranks: [8], learning_rate: 2e-4}",
     "line 11, arms.lora: found `lora-r8` with the settings of `again-r8`, expected arms that differ"),
    ("full: {learning_rate: 1e-5}", "theirs: {adapters: [., .]}", "line 10, arms.theirs.adapters: found 2 folders for 3 "
     "seeds, expected a folder for each seed, or `seeds` of 2"),
    ("full: {learning_rate: 1e-5}", "theirs: {models: [., ., gone]}", 'line 10, arms.theirs.models[2]: found "gone", where '
     "no folder is, expected a folder with a model; relative paths start at FOLDER"),
    ("full: {learning_rate: 1e-5}", "theirs: {adapters: [., ., .], learning_rate: 1e-4}", "line 10, "
     "arms.theirs.learning_rate: found 0.0001, expected nothing, or null"),
    ("full: {learning_rate: 1e-5}", "theirs: {adapters: [., ., .], rank: 8}", "line 10, arms.theirs.rank: found the unknown "
     "key `rank`, expected one of method, learning_rate, dial, retain, replay, found, adapters; did you mean `retain`?"),
    ("full: {learning_rate: 1e-5}", "full: 3", "line 10, arms.full: found 3, expected a mapping of an arm's settings"),
    ("full: {", "a b: {method: full, ", 'line 10, arms.a b: found the name "a b", expected a name of letters, digits, '
     "`.`, `_` or `-` that begins with a letter or digit (at most 64)"),
    ("seeds: [", "sedes: [", "line 12, sedes: found the unknown key `sedes`, expected one of name, model, train, suites, "
     "arms, validation, budget, optimizer, seeds, select, dial, selection, decision, checkpoint, keep, analysis, track, execution; did you mean `seeds`?"),
    ("[0, 1, 2]", "[]", "line 12, seeds: found an empty list, expected a list of different whole numbers of 0 or more, "
     "such as [0, 1, 2], or {start: 3, max: 8}"),
    ("[0, 1, 2]", "3", "line 12, seeds: found 3, expected a list of different whole numbers of 0 or more, such as "
     "[0, 1, 2], or {start: 3, max: 8}"),
    ("[0, 1, 2]", "{start: 1, max: 8}", "line 12, seeds.start: found 1, expected a whole number of 2 or more"),
    ("[0, 1, 2]", "{start: 3, max: 8, stop: 5}", "line 12, seeds.stop: found the unknown key `stop`, expected one of "
     "start, max"),
    ("[0, 1, 2]", "{start: 3, max: 3}", "line 12, seeds.max: found 3, expected a whole number above `start`, at most 64"),
    ("[0, 1, 2]", "[0, 1, 0]", "line 12, seeds[2]: found the seed 0 again, expected each seed once"),
    ("[0, 1, 2]", "[-1]", "line 12, seeds[0]: found -1, expected a whole number from 0 to 2147483647"),
    ("[0, 1, 2]", "[2147483648]", "line 12, seeds[0]: found 2147483648, expected a whole number from 0 to 2147483647"),
    ("seeds: [0, 1, 2]", "# none", "seeds: found nothing, expected a list of different whole numbers of 0 or more, such "
     "as [0, 1, 2], or {start: 3, max: 8}"),
    ("name: small", "name: a/b", 'line 1, name: found "a/b", expected a name of letters, digits, `.`, `_` or `-` that '
     "begins with a letter or digit (at most 64)"),
    ("name: small", "nmae: small", None),
    ("model: bundled", "model: [bundled, bundled]", 'line 2, model[1]: found "bundled" beside "bundled", expected models '
     "whose last part of the path or id differs: it names them in tables"),
    ("model: bundled", "model: ./nowhere", 'line 2, model: found "./nowhere", where no folder is, expected a model '
     "folder, or a hub id"),
    ("model: bundled", "model: []", "line 2, model: found an empty list, expected `bundled`, a folder, a hub id, a mapping "
     "with `id`, or a list of these"),
    ("model: bundled", "model: 8", "line 2, model: found 8, expected `bundled`, a folder, a hub id, a mapping with `id`, "
     "or a list of these"),
    ("model: bundled", "model: {id: x, dtype: fp8}", 'line 2, model.dtype: found "fp8", expected auto, float32 or bfloat16'),
    ("model: bundled", "model: {id: bundled, gguf_file: a.gguf}", "line 2, model.gguf_file: found `gguf_file` of the bundled "
     "base, which comes with rankscope, expected a model of yours, or no `gguf_file`"),
    ("model: bundled", "model: {dtype: auto}", "line 2, model.id: found nothing, expected `bundled`, a folder, a hub id, or a store's URL"),
    ("path: train.jsonl", "path: gone.jsonl", 'line 4, train.medical.path: found "gone.jsonl", which does not exist, '
     "expected a file of rows; relative paths start at FOLDER"),
    ("path: train.jsonl", "path: .", 'line 4, train.medical.path: found ".", which is a folder, expected a file of rows; '
     "relative paths start at FOLDER"),
    ("path: train.jsonl", 'path: "a\\0b"', None),
    ("path: train.jsonl", "world: w, path: train.jsonl", "line 4, train.medical: found `path` and `world`, expected "
     "exactly one of `path`, `hub` and `world`"),
    ("path: train.jsonl, ", "", "line 4, train.medical: found none of them, expected exactly one of `path`, `hub` and "
     "`world`"),
    ("path: train.jsonl, domain: medical", "path: train.jsonl", "line 4, train.medical: found no domain, expected "
     "`domain`: the suites with the same one are its in-domain suites"),
    ("path: train.jsonl, domain: medical", "path: train.jsonl, domain: a b", 'line 4, train.medical.domain: found "a b", '
     "expected a name of letters, digits, `.`, `_` or `-` that begins with a letter or digit (at most 64)"),
    ("domain: medical, kind: recall", "domain: drugs, kind: recall", 'line 4, train.medical: found no suite with the '
     'domain "medical", expected at least one in-domain suite: one with `domain: medical`'),
    ("domain: legal, kind: recall", "domain: legal, kind: memory", 'line 7, suites.law.kind: found "memory", expected '
     "recall or reasoning"),
    ("domain: legal", "domain: legal, limit: 0", f"line 7, suites.law.limit: found 0, expected {COUNT}"),
    ("domain: legal", "domian: legal", "line 7, suites.law.domian: found the unknown key `domian`, expected one of path, "
     "hub, config, split, revision, columns, bad_rows, world, world_seed, domain, choices, template, limit, kind, harness, num_fewshot, metric, max_new_tokens, grade, trust_code, held_out, share, auto, chosen_for; did you mean `domain`?"),
    ("path: law.jsonl", "path: law.jsonl, split: test", "line 7, suites.law.split: found `split` without `hub`, expected it "
     "only with `hub`, the data set that it belongs to"),
    ("path: law.jsonl", "path: law.jsonl, num_fewshot: 5", "line 7, suites.law.num_fewshot: found `num_fewshot` without "
     "`harness`, expected it only with `harness`, the task that it belongs to"),
    ("path: law.jsonl", "harness: arc_easy, choices: letters", "line 7, suites.law.choices: found `choices` without rows of "
     "its own, expected no such key: a task of lm-eval brings its own"),
    ("path: law.jsonl", "harness: gone.yaml", 'line 7, suites.law.harness: found "gone.yaml", where no file is, expected '
     "the YAML file of an lm-eval task; relative paths start at FOLDER"),
    ("path: law.jsonl", "harness: arc_easy, path: law.jsonl", "line 7, suites.law: found `path` and `harness`, expected "
     "exactly one of `path`, `hub`, `world`, `harness`, `held_out` and `auto`"),
    ("path: law.jsonl, domain: legal, kind: recall", "auto: nowhere", 'line 7, suites.law.auto: found "nowhere", where no folder '
     "is, expected ready, or a folder with files of rows; relative paths start at FOLDER"),
    ("path: law.jsonl, domain: legal", "auto: ready", "line 7, suites.law.kind: found `kind` beside `auto`, expected `limit` "
     "or nothing: what is chosen brings its own settings"),
    ("path: law.jsonl, domain: legal", "held_out: medicl", "line 7, suites.law.held_out: found \"medicl\", expected a "
     "training set of the study: medical; did you mean `medical`?"),
    ("path: law.jsonl, domain: legal", "held_out: medical, share: 1", "line 7, suites.law.share: found 1, expected a share of the "
     "training set's rows above 0 and below 1, such as 0.1"),
    ("path: law.jsonl, domain: legal", "held_out: medical, share: 0", "line 7, suites.law.share: found 0, expected a share of the "
     "training set's rows above 0 and below 1, such as 0.1"),
    ("path: law.jsonl", "path: law.jsonl, share: 0.2", "line 7, suites.law.share: found `share` without `held_out`, "
     "expected it only with `held_out`, the training set that it belongs to"),
    ("path: law.jsonl", "held_out: medical", 'line 7, suites.law.domain: found "legal", expected "medical", the domain of '
     "train.medical, or no `domain`"),
    ("path: law.jsonl, domain: legal", "held_out: medical, bad_rows: drop", "line 7, suites.law.bad_rows: found `bad_rows` beside "
     "`held_out`, expected it in train.medical, whose rows these are"),
    ("path: law.jsonl", "harness: arc_easy, num_fewshot: -1", "line 7, suites.law.num_fewshot: found -1, expected a whole "
     "number of 0 or more"),
    ("path: train.jsonl", "harness: arc_easy", None),
    ("path: law.jsonl", "path: law.jsonl, columns: [q]", "line 7, suites.law.columns: found [\"q\"], expected a mapping from "
     "fields to the columns that hold them, such as {question: problem, answer: solution}"),
    ("path: law.jsonl", "path: law.jsonl, bad_rows: skip", 'line 7, suites.law.bad_rows: found "skip", expected refuse or drop'),
    ("model: bundled", "model: {id: x, chat: always}", 'line 2, model.chat: found "always", expected auto (the tokenizer\'s '
     "chat template where it has one) or never"),
    ("seeds:", "seeds: [1]\nseeds:", "line 13, seeds: found the key `seeds` again (first on line 12), expected each key "
     "once"),
    ("seeds:", "dial: [0.5]\nseeds:", "line 12, dial: found [0.5], expected different numbers, with 1 among them"),
    ("seeds:", "dial: [0.5, 0.5, 1]\nseeds:", "line 12, dial: found [0.5, 0.5, 1], expected different numbers, with 1 "
     "among them"),
    ("seeds:", "dial: [1.5, 1]\nseeds:", "line 12, dial[0]: found 1.5, expected a list of different numbers above 0 and at "
     "most 1, with 1 among them, such as [0.5, 1]"),
    ("seeds:", "dial: [0, 1]\nseeds:", "line 12, dial[0]: found 0, expected a list of different numbers above 0 and at most "
     "1, with 1 among them, such as [0.5, 1]"),
    ("seeds:", "select: best\nseeds:", 'line 12, select: found "best", expected retention or loss'),
    ("seeds:", "selection: {min_items: 50, max_items: 20}\nseeds:", "line 12, selection: found max_items 20, min_items 50, "
     "expected max_items of at least min_items"),
    ("full: {", "full: {dial: 2, ", "line 10, arms.full.dial: found 2, expected a number above 0, at most 1, or null"),
    ("full: {", "ia3: {dial: 0.5, ", "line 10, arms.ia3.dial: found the dial 0.5 of ia3, whose change cannot be scaled, "
     "expected 1, or no `dial`"),
    ("name: small", "name: !!python/name:os.system x", "line 1, name: found the tag tag:yaml.org,2002:python/name:"
     "os.system, expected a plain value"),
]  # fmt: skip
"""A text in the small study, what it is changed to, and the line (None: other lines too)."""

SECTIONS = [
    ("budget", "epochs: .nan", "NaN, expected a number above 0"),
    ("budget", "epochs: 0", "0, expected a number above 0"),
    ("budget", "batch_size: 1.5", "1.5, expected a whole number above 0"),
    ("budget", "max_sequence_tokens: 1", "1, expected a whole number above 1"),
    ("validation", "fraction: 1", "1, expected a share of the training rows above 0 and below 1"),
    ("validation", "max_items: -3", "-3, expected a whole number above 0"),
    ("optimizer", "weight_decay: -0.1", "-0.1, expected a number of 0 or more"),
    ("optimizer", "warmup_fraction: 2", "2, expected a number from 0 to below 1"),
    ("optimizer", "schedule: step", '"step", expected cosine, linear or constant'),
    ("optimizer", "clip_norm: .inf", "infinity, expected a number above 0"),
    ("decision", "confidence: 2", "2, expected a number from 0.5 to below 1, such as 0.95"),
    ("decision", "task_margin: -0.03", "-0.03, expected a difference of accuracy above 0 and below 1, such as 0.03"),
    ("decision", "retention_margin: .nan", "NaN, expected a difference of accuracy above 0 and below 1, such as 0.03"),
    ("decision", "min_gain: null", "nothing, expected a difference of accuracy from 0 to below 1, such as 0.01"),
    ("checkpoint", 'minutes: "10"', '"10", expected a number above 0'),
    ("selection", "share: 1", "1, expected a share of each suite above 0 and below 1"),
    ("selection", "min_items: 0", "0, expected a whole number above 0"),
    ("keep", "full: some", '"some", expected none, best or all'),
]
"""A section, a setting in it, and the rest of the line."""

LATER = [
    ("seeds:", "optimizer: paged_adamw_8bit\nseeds:", "the optimizer paged_adamw_8bit"),
    ("seeds:", "optimizer: {name: adafactor, clip_norm: 1}\nseeds:", "the optimizer adafactor"),
    *[("full: {", f"x: {{method: {method}, ", f"the method {method}") for method in ("qlora", "adalora")],
    ("full: {", "adalora: {ranks: [8], ", "the method adalora"),
]
"""A text in the small study, what it is changed to, and what the one line names."""
