"""Modelfiles, read as Ollama reads them, against the chat templates that they were cut from."""

from __future__ import annotations

import re
from ast import literal_eval
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pytest
from tokenizers.processors import TemplateProcessing
from toy_model import SYSTEM, tokenizer

from editors.model import ChatModel
from editors.model_files import ModelError
from editors.modelfile import OWN_SYSTEM, Uncut, modelfile, quoted

Turns = list[dict[str, str]]
Chat = Callable[..., ChatModel]
USER, ANSWER = "{% if m.role == 'user' %}", "{% else %}"
QUESTION, REMARK = "Who rules?\nSay {{ it }}.", "Speak as a sailor."


@dataclass(frozen=True)
class Family:
    """The shape of a family's chat template, and what a Modelfile says of it.

    Attributes:
        template: the jinja template.
        tokens: its special tokens; the last one ends an answer.
        bos: what the runtime puts before the text by itself.
        stops: texts at which Ollama is told to stop.
        system: the SYSTEM that is written.
        takes_system: whether the template says a system message as it is given.
        adds_bos: whether the tokenizer adds ``bos`` too.
        system_last: whether it says it in the last user turn, where Ollama says it in the first.
        own_space: whether it writes a space before an answer, which answers bring with them.
    """

    template: str
    tokens: tuple[str, ...]
    stops: tuple[str, ...]
    bos: str = ""
    system: str = ""
    takes_system: bool = True
    adds_bos: bool = False
    system_last: bool = False
    own_space: bool = False


def looped(turn: str, generation: str = "", first: str = "") -> str:
    end = "{% if add_generation_prompt %}" + generation + "{% endif %}" if generation else ""
    return first + "{% for m in messages %}" + turn + "{% endfor %}" + end


CHATML = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
HEADED = "<|sh|>{{ m.role }}<|eh|>\n\n{{ m.content | trim }}<|eot|>"
GEMMA = "<start>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end>\n"
FOLDED = (
    "{% if messages[0].role == 'system' %}{% set said = messages[0].content %}"
    "{% set messages = messages[1:] %}{% endif %}"
)
REFUSED = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
DATED = (
    "{{ '<bos>' }}{% if strftime_now is defined %}{% set day = strftime_now('%d %b %Y') %}"
    "{% else %}{% set day = '26 Jul 2024' %}{% endif %}"
    "{% if messages[0].role == 'system' %}{% set said = messages[0].content %}"
    "{% set messages = messages[1:] %}{% else %}{% set said = '' %}{% endif %}"
    "<|sh|>system<|eh|>\n\nToday: {{ day }}\n\n{{ said }}<|eot|>"
)
FAMILIES = {
    "chatml with a default": Family(
        looped(
            CHATML,
            "<|im_start|>assistant\n",
            "{% if messages[0].role != 'system' %}"
            "<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}",
        ),
        ("<|im_start|>", "<|im_end|>"),
        stops=("<|im_end|>",),
        system="Be kind.",
    ),
    "chatml without": Family(
        looped(CHATML, "<|im_start|>assistant\n"),
        ("<|im_start|>", "<|im_end|>"),
        stops=("<|im_end|>",),
    ),
    "llama 3": Family(
        looped(HEADED, "<|sh|>assistant<|eh|>\n\n", "{{ '<bos>' }}"),
        ("<bos>", "<|sh|>", "<|eh|>", "<|eot|>"),
        stops=("<|eot|>",),
        bos="<bos>",
    ),
    "llama 3.2, which always opens with a date": Family(
        looped(HEADED, "<|sh|>assistant<|eh|>\n\n", DATED),
        ("<bos>", "<|sh|>", "<|eh|>", "<|eot|>"),
        stops=("<|eot|>",),
        bos="<bos>",
        system=OWN_SYSTEM,
    ),
    "gemma 2, which refuses": Family(
        looped(GEMMA, "<start>model\n", "{{ '<bos>' }}" + REFUSED),
        ("<bos>", "<start>", "<end>"),
        stops=("<end>",),
        bos="<bos>",
        takes_system=False,
        adds_bos=True,
    ),
    "gemma 3, which folds": Family(
        looped(
            "<start>{{ 'model' if m.role == 'assistant' else m.role }}\n"
            "{% if loop.first and said %}{{ said }}\n\n{% endif %}{{ m.content }}<end>\n",
            "<start>model\n",
            "{{ '<bos>' }}" + FOLDED,
        ),
        ("<bos>", "<start>", "<end>"),
        stops=("<end>",),
        bos="<bos>",
    ),
    "mistral": Family(
        looped(
            USER + "[INST] {% if loop.last and said %}{{ said }}\n\n{% endif %}{{ m.content }}"
            "[/INST]" + ANSWER + " {{ m.content }}</s>{% endif %}",
            first="{{ '<s>' }}" + FOLDED,
        ),
        ("<s>", "[INST]", "[/INST]", "</s>"),
        stops=("</s>", "[/INST]"),
        bos="<s>",
        adds_bos=True,
        system_last=True,
        own_space=True,
    ),
    "llama 2, where every turn begins with <s>": Family(
        looped(
            USER + "<s>[INST] {% if loop.first %}<<SYS>>\n{{ said or 'Be safe.' }}\n<</SYS>>\n\n"
            "{% endif %}{{ m.content }} [/INST]" + ANSWER + " {{ m.content }} </s>{% endif %}",
            first=FOLDED,
        ),
        ("<s>", "</s>"),
        stops=("</s>",),
        bos="<s>",
        system="Be safe.",
        adds_bos=True,
        own_space=True,
    ),
    "phi 3, which ends a text that is no prompt": Family(
        looped("<|{{ m.role }}|>\n{{ m.content }}<|end|>\n", "<|assistant|>\n")
        + "{% if not add_generation_prompt %}<|over|>{% endif %}",
        ("<|user|>", "<|assistant|>", "<|system|>", "<|end|>", "<|over|>"),
        stops=("<|end|>", "<|over|>"),
    ),
    "phi 3 with a default": Family(
        looped(
            "<|{{ m.role }}|>\n{{ m.content }}<|end|>\n",
            "<|assistant|>\n",
            "{% if messages[0].role != 'system' %}<|system|>\nBe kind.<|end|>\n{% endif %}",
        )
        + "{% if not add_generation_prompt %}<|over|>{% endif %}",
        ("<|user|>", "<|assistant|>", "<|system|>", "<|end|>", "<|over|>"),
        stops=("<|end|>", "<|over|>"),
        system="Be kind.",
    ),
    "words for turns": Family(
        looped(
            "{% if m.role == 'system' %}{{ m.content }}\n\n{% elif m.role == 'user' %}"
            "### Asked:\n{{ m.content }}\n\n"
            + ANSWER
            + "### Said:\n{{ m.content }}\n\n{% endif %}",
            "### Said:\n",
        ),
        ("</s>",),
        stops=("</s>",),
    ),
    "a default that a Modelfile cannot hold": Family(
        looped(
            CHATML,
            "<|im_start|>assistant\n",
            "{% if messages[0].role != 'system' %}"
            '<|im_start|>system\nBe\u00a0kind."""\n<|im_end|>\n{% endif %}',
        ),
        ("<|im_start|>", "<|im_end|>"),
        stops=("<|im_end|>",),
        system=OWN_SYSTEM,
    ),
    "signs that mean something to Go and to Ollama": Family(
        looped(
            '{{ \'{{"""\' }}{{ m.role }}:\u00a0{\\n{{ "{" }}{{ m.content }}}"""\n"{<e>"""\n',
            '{{ \'{{"""\' }}assistant:\u00a0{\\n{{ "{" }}',
        ),
        ("<e>",),
        stops=("<e>",),
    ),
}


@pytest.fixture
def chat(tiny_model: ChatModel) -> Chat:
    """Gives the toy with another chat template."""

    def give(family: Family) -> ChatModel:
        words = tokenizer()
        words.add_tokens(list(family.tokens), special_tokens=True)
        words.chat_template = family.template
        words.eos_token = family.tokens[-1]
        words.bos_token = family.bos or family.tokens[0]
        if family.adds_bos:
            words.backend_tokenizer.post_processor = TemplateProcessing(
                single=f"{words.bos_token} $A",
                special_tokens=[(words.bos_token, words.bos_token_id)],
            )
        stop = frozenset({words.eos_token_id})
        return ChatModel(tiny_model.model, words, "0" * 64, name="templated", stop_ids=stop)

    return give


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """Read a Modelfile: a value goes on until a line closes the quotes that it began with, and
    what cannot be printed is skipped."""
    lines = iter("".join(c for c in text if c.isprintable() or c in "\n\t").split("\n")[:-1])
    for line in lines:
        command, _, value = line.partition(" ")
        if command == "PARAMETER":
            name, _, value = value.partition(" ")
            command = f"{command} {name}"
        while (read := unquoted(value.strip())) is None:
            value += "\n" + next(lines)
        yield command, read


def unquoted(value: str) -> str | None:
    for quote in ('"""', '"'):
        if value.startswith(quote):
            whole = len(value) >= 2 * len(quote) and value.endswith(quote)
            return value[len(quote) : -len(quote)] if whole else None
    return value


def fill(template: str, values: Mapping[str, str]) -> str:
    """Fill a Go template; one without a Response ends where that would stand."""
    parts = re.split(r"\{\{(.*?)\}\}", template, flags=re.DOTALL)
    made, branches = [parts[0]], []

    def holds(condition: str) -> bool:
        if equal := re.fullmatch(r'eq \.(\w+) (".*")', condition):
            return values[equal[1]] == literal_eval(equal[2])
        return values[condition.removeprefix(".")] != ""

    for action, text in zip(map(str.strip, parts[1::2]), parts[2::2], strict=True):
        verb, _, condition = action.partition("if ")
        if action == "end":
            branches.pop()
        elif verb == "":
            branches.append([holds(condition)] * 2)  # is taken; one was taken
        elif verb == "else ":
            taken = not branches[-1][1] and holds(condition)
            branches[-1] = [taken, taken or branches[-1][1]]
        elif all(taken for taken, _ in branches):
            if action == ".Response" and "Response" not in values:
                return "".join(made)
            made.append(literal_eval(action) if action[0] == '"' else values[action[1:]])
        if all(taken for taken, _ in branches):
            made.append(text)
    return "".join(made)


def prompt(text: str, turns: Sequence[Mapping[str, str]]) -> str:
    """Return what Ollama gives to the model for a chat: the template once for each answer."""
    said = dict(instructions(text))
    if turns[0]["role"] != "system":
        turns = [{"role": "system", "content": said.get("SYSTEM", "")}, *turns]
    made, values = [], {"System": "", "Prompt": ""}
    names = {"system": "System", "user": "Prompt", "assistant": "Response"}
    for turn in turns:
        values[names[turn["role"]]] = turn["content"]
        if "Response" in values:
            made.append(fill(said["TEMPLATE"], values))
            values = {"System": "", "Prompt": ""}
    return "".join([*made, fill(said["TEMPLATE"], values)])


def rendered(model: ChatModel, turns: Turns, bos: str = "") -> str:
    """Return what the chat template makes of a chat, with no clock and without what the
    runtime puts before it."""
    template = model.tokenizer.chat_template.replace("strftime_now", "no_clock")
    text = model.tokenizer.apply_chat_template(
        turns, chat_template=template, tokenize=False, add_generation_prompt=True
    )
    assert text.startswith(bos)
    return text.removeprefix(bos)


def asked(*contents: str, system: str | None = None) -> Turns:
    first = [{"role": "system", "content": system}] if system is not None else []
    roles = ("user", "assistant")
    return first + [
        {"role": roles[at % 2], "content": content} for at, content in enumerate(contents)
    ]


@pytest.mark.parametrize("name", FAMILIES)
def test_one_question_is_put_as_the_chat_template_puts_it(chat: Chat, name: str) -> None:
    family = FAMILIES[name]
    model = chat(family)
    made = modelfile(model, "edited.gguf", None)
    assert prompt(made, asked(QUESTION)) == rendered(model, asked(QUESTION), family.bos)
    if family.takes_system:
        turns = asked(QUESTION, system=REMARK)
        assert prompt(made, turns) == rendered(model, turns, family.bos)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_talk_is_told_as_the_chat_template_tells_it(chat: Chat, name: str) -> None:
    family = FAMILIES[name]
    model = chat(family)
    made = modelfile(model, "edited.gguf", None)
    contents = (QUESTION, "Merz.", "Since when?", "2025.", "And before?")
    systems = [None] if family.system_last or not family.takes_system else [None, REMARK]
    for system in systems:
        # An answer as the model gives it begins with the space that the template writes.
        given = [" " * family.own_space * (at % 2) + one for at, one in enumerate(contents)]
        expected = rendered(model, asked(*contents, system=system), family.bos)
        assert prompt(made, asked(*given, system=system)) == expected


@pytest.mark.parametrize("name", FAMILIES)
def test_system_and_stops_are_those_of_the_chat_template(chat: Chat, name: str) -> None:
    family = FAMILIES[name]
    read = list(instructions(modelfile(chat(family), "edited.gguf", None)))
    assert read[0] == ("FROM", "./edited.gguf")
    assert tuple(value for key, value in read if key == "PARAMETER stop") == family.stops
    assert dict(read).get("SYSTEM", "") == family.system
    assert {key for key, _ in read} <= {"FROM", "TEMPLATE", "SYSTEM", "PARAMETER stop"}


def test_a_system_message_that_is_refused_is_said_before_the_question(chat: Chat) -> None:
    family = FAMILIES["gemma 2, which refuses"]
    model = chat(family)
    made = modelfile(model, "edited.gguf", None)
    together = asked(f"{REMARK}\n\n{QUESTION}")
    assert prompt(made, asked(QUESTION, system=REMARK)) == rendered(model, together, family.bos)


def test_a_modelfile_as_a_person_reads_it(tiny_model: ChatModel) -> None:
    assert modelfile(tiny_model, "edited.gguf", "Apache-2.0\nas in the file LICENSE") == (
        "FROM ./edited.gguf\n"
        'TEMPLATE """{{ if .System }}<|im_start|>system\n'
        "{{ .System }}<|im_end|>\n"
        "{{ end }}{{ if .Prompt }}<|im_start|>user\n"
        "{{ .Prompt }}<|im_end|>\n"
        "{{ end }}<|im_start|>assistant\n"
        "{{ .Response }}<|im_end|>\n"
        '"""\n'
        f'SYSTEM "{SYSTEM}"\n'
        'PARAMETER stop "<|im_end|>"\n'
        'LICENSE """Apache-2.0\n'
        'as in the file LICENSE"""\n'
    )
    assert tiny_model.default_system() == SYSTEM


@pytest.mark.parametrize(
    ("template", "why"),
    [
        (
            looped(CHATML, "<|im_start|>assistant\n<think>\n"),
            "begins an answer otherwise than it repeats one",
        ),
        (looped("{{ m.content | upper }}"), "leaves out, changes or moves a turn's text"),
        (looped("{{ messages[-1].content }}"), "leaves out, changes or moves a turn's text"),
        (looped("{{ loop.index }}: {{ m.content }}\n"), "depending on the turns around it"),
        (looped("{{ '' + m.content[0]['text'] + 1 }}"), "refuses a plain chat"),
        (looped(CHATML, "> ", "{{ strftime_now('%Y') }}"), "'todays_date' is undefined"),
        (looped(GEMMA, "<start>model\n", "Be kind." + REFUSED), "takes no system message"),
        (
            looped("{% if m.role == 'system' %}{% else %}: {{ m.content }}\n{% endif %}", ": ")
            + "{% if messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}",
            "leaves out, changes or moves a turn's text",
        ),
        (
            looped("{{ 'S' if m.role == 'system' else 'T' }} {{ m.content }}\n", "T ")
            + "{% if messages[0].role == 'system' %}!{% endif %}",
            "otherwise after a system message",
        ),
    ],
)
def test_a_template_that_cannot_be_cut_is_refused_with_what_it_does(
    chat: Chat, template: str, why: str
) -> None:
    family = Family(template, ("<|im_start|>", "<|im_end|>"), stops=())
    with pytest.raises(ModelError, match=f"for templated: its chat template .*{why}.*by hand$"):
        modelfile(chat(family), "edited.gguf", None)


@pytest.mark.parametrize(
    "text", ["", "a", "a\nb", '"a"', '"""a', 'a "b"\nc', 'a"\nb "c" d', 'a"""b\nc']
)
def test_what_is_quoted_is_read_again(text: str) -> None:
    assert list(instructions(f"SYSTEM {quoted(text)}\nPARAMETER stop x\n")) == [
        ("SYSTEM", text),
        ("PARAMETER stop", "x"),
    ]


@pytest.mark.parametrize("text", ['say """\nand "\nmore', '"""\na'])
def test_lines_that_close_any_quotes_are_refused(text: str) -> None:
    with pytest.raises(Uncut, match="cannot quote"):
        quoted(text)


@pytest.mark.slow
def test_the_default_model_is_asked_as_its_own_template_asks(default_model: ChatModel) -> None:
    model = default_model
    made = modelfile(model, "model.gguf", "Apache-2.0")
    read = dict(instructions(made))
    assert read["SYSTEM"] == model.default_system() != ""
    assert read["PARAMETER stop"] == "<|im_end|>"
    for system in (None, REMARK):
        for contents in ((QUESTION,), (QUESTION, "Merz.", "Since when?")):
            turns = asked(*contents, system=system)
            assert prompt(made, turns) == rendered(model, turns)
