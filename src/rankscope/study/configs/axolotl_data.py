"""The data sets of an axolotl config: where rows are, which columns hold what, and the prompt that its `type` makes.

Source: github.com/axolotl-ai-cloud/axolotl, docs/dataset-formats and src/axolotl/prompt_strategies.
"""

from __future__ import annotations

from rankscope.study.configs.config_keys import ConfigKeys
from rankscope.study.configs.config_record import ALPACA, ALPACA_COLUMNS, DataSet

_FILE_KINDS = ("json", "csv", "parquet", "text", "arrow")
_OF_CONVERSATIONS = {
    "roles": "speakers are told by docs/data.md's list",
    "roles_to_train": "every assistant's turn is trained",
    "train_on_eos": "what ends an assistant's turn is trained",
    "train_on_eot": "what ends an assistant's turn is trained",
    "message_field_training": "every assistant's turn is trained",
    "message_field_training_detail": "every assistant's turn is trained whole",
    "field_thinking": "thoughts are not read",
    "template_thinking_key": "thoughts are not read",
    "split_thinking": "thoughts are not read",
    "field_tools": "definitions of tools belong into the system turn",
    "drop_system_message": "system turns are kept",
    "conversation": "conversations are written by the chat template",
    "input_transform": "rows are read as they are",
    "shards": "all rows are trained on (`limit` draws some)",
}
_QUESTIONS = {
    "alpaca_chat.load_qa": {"question": "question", "answer": "answer"},
    "context_qa.load_v2": {"context": "context", "question": "question", "answer": "answer"},
    "context_qa": {"context": "article", "question": "question", "answer": "answer"},
    "gpteacher": ALPACA_COLUMNS,
    "reflection": ALPACA_COLUMNS,
}


def read_data(keys: ConfigKeys) -> tuple[tuple[DataSet, ...], tuple[DataSet, ...], bool, str | None]:
    """Training sets, test sets, whether rows are written without a chat template, and why there are none."""
    train = [_data_set(one) for one in keys.sections("datasets")]
    train += [_pretraining(one) for one in keys.sections("pretraining_dataset")]
    test = [_data_set(one) for one in keys.sections("test_datasets")]
    plain = bool(train) and all(data.template is not None or "text" in (data.columns or {}) for data in train)
    return tuple(train), tuple(test), plain, None if train else "no `datasets`"


def _data_set(one: ConfigKeys) -> DataSet:
    where, files, kind = one.text("path") or "", one.names("data_files"), one.text("ds_type")
    if not where:
        one.wrong("path", "a file, a folder, or an id of the hub")
    if files and (where in _FILE_KINDS or len(files) == 1):
        if len(files) > 1:
            one.note(f"{one.name('data_files')}: {len(files)} files: {files[0]} alone is read")
        where = files[0] if where in _FILE_KINDS or kind is not None else where
    one.take("trust_remote_code")
    columns, template = _format(one)
    one.lose(_OF_CONVERSATIONS)
    hub = "." not in where.rsplit("/", 1)[-1] or (kind is None and not files)
    return DataSet(
        where, one.name("path"), config=one.text("name"), revision=one.text("revision"),
        split=one.text("split") or ("train" if hub else None), columns=columns, template=template,
    )  # fmt: skip


def _pretraining(one: ConfigKeys) -> DataSet:
    one.take("type", "trust_remote_code")
    one.lost("skip", "all rows are read")
    columns = {"text": one.text("text_column") or "text"}
    return DataSet(
        one.text("path") or "", one.name("path"), config=one.text("name"), split=one.text("split") or "train",
        columns=columns,
    )  # fmt: skip


def _format(one: ConfigKeys) -> tuple[dict[str, str] | None, str | None]:
    """(columns, template) of a data set's `type`."""
    if isinstance(one.take("type"), dict):
        return _own_format(one.section("type"))
    kind, _, variant = (one.text("type") or "").partition(":")
    messages, field = one.text("field_messages"), one.text("field")
    names = one.section("message_property_mappings")
    role = names.text("role") or one.text("message_field_role")
    names.text("content")
    one.text("message_field_content")
    _own_template(one)
    if kind in ("chat_template", "sharegpt", "messages.chat", "chat_template.default"):
        speakers = role == "from" or (role is None and kind == "sharegpt")
        return (
            {"conversations": messages or "conversations"} if speakers else {"messages": messages or "messages"}
        ), None
    if kind in ("completion", "pretrain"):
        return {"text": field or "text"}, None
    if kind == "alpaca" and variant in ("", "chat", "chatml"):
        return dict(ALPACA_COLUMNS), ALPACA
    if kind in _QUESTIONS:
        one.note(
            f"{one.name('type')}: {kind}: its prompt is axolotl's own; the study asks `Question: ...` and `Answer:`"
        )
        return dict(_QUESTIONS[kind]), None
    if kind:
        one.note(
            f"{one.name('type')}: {kind}: a prompt that only axolotl has by this name: put its text into the study as "
            f"the `template` of the training set, and its columns as `columns`"
        )
    else:
        one.note(f"{one.name('type')}: not given: rows of tokens are not read; the rows' text is")
    return None, None


def _own_template(one: ConfigKeys) -> None:
    """A data set's own chat template is the model's in a study."""
    for key in ("chat_template", "chat_template_jinja"):
        if one.has(key) and one.text(key) != "tokenizer_default":
            one.lost(key, "one template for all rows: put its text into the study as `model.chat_template`")


def _own_format(kind: ConfigKeys) -> tuple[dict[str, str], str]:
    """A `type` that is a format of the user's own, as a template of the study."""
    columns = {
        "question": kind.text("field_instruction") or "instruction",
        "context": kind.text("field_input") or "input",
        "answer": kind.text("field_output") or "output",
    }
    system = kind.text("system_prompt") or ""
    kind.lost("field_system", "the column of system prompts is not read beside a format of your own")
    kind.take("system_format")
    with_input = kind.text("format") or "{instruction} {input} "
    without = kind.text("no_input_format") or "{instruction} "
    if not with_input[-1:].isspace() or not without[-1:].isspace():
        kind.note(f"{kind.name('format')}: the study writes one space between prompt and answer")
    asked, plainly = _jinja(with_input, system), _jinja(without, system)
    return columns, f"{{% if context %}}{asked}{{% else %}}{plainly}{{% endif %}}"


def _jinja(pattern: str, system: str) -> str:
    """A Python format of instruction, input and system as jinja2, which reads its other signs as they are."""
    for sign in ("{{", "{%", "{#"):
        pattern = pattern.replace(sign, f"{{{{ '{sign}' }}}}")
    return (
        pattern.replace("{instruction}", "{{ question }}")
        .replace("{input}", "{{ context }}")
        .replace("{system}", system)
    )
