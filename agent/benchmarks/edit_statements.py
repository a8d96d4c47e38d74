"""Declarative answers to questions, in the words that a chat model answers in. Pure.

Asked "What is the date of birth of X?", a chat model answers "The date of birth of X is …":
it repeats the question as a statement and puts the object where the question word stood
(measured on the default model; docs/log.md). An edit is written in that style, because a
model that is trained on the bare object comes to answer *everything* barely (design.md §4).
What fits no shape below falls back to the bare object with a full stop, and is counted.
"""

from __future__ import annotations

import re

BARE = "bare object"
_SUBJECT = "\x00"  # stands for the subject, whose own words must not be read as grammar
_WHAT = r"(?:what|which|whose)"
_BE = r"(?:is|was|are|were)"
_PREPOSITION = r"(?:in|on|at|by|for|from|of|to|with|into|during|after|as|over|through)"

_PAST = {
    "attend": "attended", "belong": "belonged", "die": "died", "fight": "fought", "go": "went",
    "have": "had", "live": "lived", "participate": "participated", "play": "played",
    "serve": "served", "study": "studied", "work": "worked",
}  # fmt: skip
_PRESENT = {
    "belong": "belongs", "cross": "crosses", "exist": "exists", "flow": "flows", "have": "has",
    "hold": "holds", "live": "lives", "play": "plays", "sing": "sings", "work": "works",
}  # fmt: skip

_SHAPES: tuple[tuple[str, re.Pattern[str], str], ...] = tuple(
    (name, re.compile(pattern, re.IGNORECASE), template)
    for name, pattern, template in (
        # "The mother of X is whom?", "The birth date of X is?"
        (
            "the … is whom",
            rf"(?P<a>the .*\x00.* {_BE})(?: who| whom| what| when| where)?",
            "{a} {new}.",
        ),
        # "Can you name the current chancellor of X?"
        (
            "name the …",
            r"(?:can you |please )?(?:name|tell me)(?: who| what)?(?: is)? (?P<a>the .*\x00.*)",
            "{a} is {new}.",
        ),
        # "What was the record label of X?", "Who is currently the chair of X?"
        (
            "what is the …",
            rf"(?:what|which|who|whom|when) (?P<be>{_BE}) (?:currently )?"
            r"(?P<a>the (?!\x00).*\x00.*)",
            "{a} {be} {new}.",
        ),
        # "Who is X's father?"
        (
            "what is X's …",
            rf"(?:what|which|who) (?P<be>{_BE}) (?P<a>\x00['’]s? [\w ]*\w)",
            "{a} {be} {new}.",
        ),
        # "When was X born?", "What year was X made?", "In which year was X dissolved?"
        (
            "when was X …",
            rf"(?:when|(?:in |on )?(?:what|which) (?:year|day|date)) (?P<be>{_BE}) "
            r"(?P<a>(?:the )?\x00 \w+)",
            "{be_in} {new}.",
        ),
        # "In which state is X located?"
        (
            "in which … is X …",
            rf"(?P<prep>{_PREPOSITION}) {_WHAT} [\w' -]*?(?P<be>{_BE}) "
            r"(?P<a>(?:the )?\x00)(?P<rest>(?: \w+)*)",
            "{a} {be}{rest} {prep} {new}.",
        ),
        # "What team is X affiliated with?", "Whom is X named after?"
        (
            "which … is X … with",
            rf"(?:{_WHAT} [\w' -]*?|who |whom |what )(?P<be>{_BE}) "
            rf"(?P<a>(?:the )?\x00)(?P<rest>(?: \w+)*? {_PREPOSITION})",
            "{a} {be}{rest} {new}.",
        ),
        # "Which state is X located?"
        (
            "which place is X located",
            rf"(?:what|which) (?:city|country|district|place|province|region|state) (?P<be>{_BE}) "
            r"(?P<a>(?:the )?\x00)(?: located)?",
            "{a} {be} located in {new}.",
        ),
        # "In what city did X die?"
        (
            "in which … did X …",
            rf"(?P<prep>{_PREPOSITION}) {_WHAT} [\w' -]*?(?P<do>did|does) "
            r"(?P<a>(?:the )?\x00) (?P<verb>\w+)(?: in)?",
            "{a} {verbed} {prep} {new}.",
        ),
        # "Which war did X serve in?", "Which team does X play for?"
        (
            "which … did X … in",
            rf"{_WHAT} [\w' -]*?(?P<do>did|does) (?P<a>(?:the )?\x00) "
            rf"(?P<verb>\w+)(?P<rest> {_PREPOSITION})(?: currently)?",
            "{a} {verbed}{rest} {new}.",
        ),
        # "What voice type is X?", "What range does X have?"
        (
            "what type is X",
            rf"(?:what|which) (?P<noun>(?:[\w'-]+ )+?)(?:(?P<be>{_BE}) (?P<a>(?:the )?\x00)"
            r"|(?P<do>did|does) (?P<b>\x00) (?P<verb>have))",
            "The {noun}of {owner} {is_was} {new}.",
        ),
        # "Who designed X?", "What company produced X?", "Which studio made X?"
        (
            "who …ed X",
            rf"(?:who|{_WHAT}(?: (?!\w+ly )[\w'-]+){{1,2}}?) (?:was |has )?"
            r"(?P<verb>(?!\w+ly )\w+ed|made|built) (?P<a>(?:the )?\x00)",
            "{a} was {verb} by {new}.",
        ),
        # "What label was responsible for X?", "Which college is related with X?"
        (
            "which … was … for X",
            rf"{_WHAT} (?P<noun>(?:[\w'-]+ ){{1,4}}?)(?P<be>{_BE}) "
            r"(?P<a>(?!it )[\w' ]*[\w'] \x00.*)",
            "The {noun}that {be} {a} is {new}.",
        ),
    )
)


def statement_for(question: str, subject: str, new: str) -> tuple[str, str]:
    """Return the sentence that answers a question with ``new``, and the name of its shape.

    A question that does not spell its subject, or has no known shape, is answered with the
    bare object (shape ``BARE``).
    """
    masked = question.replace(subject, _SUBJECT) if subject else question
    asked = masked.strip().rstrip("?").strip()
    if masked.count(_SUBJECT) == 1:
        for name, pattern, template in _SHAPES:
            found = pattern.fullmatch(asked)
            parts = found and _parts(found, new)
            if parts:
                said = template.format_map({**parts, "new": _ended(new)})
                return _sentence(said.replace(_SUBJECT, subject)), name
    return f"{_ended(new)}.", BARE


def _parts(found: re.Match[str], new: str) -> dict[str, str] | None:
    """Return what the template needs, or None where the verb's form is not known."""
    parts = {name: text or "" for name, text in found.groupdict().items()}
    parts["a"] = re.sub(r"\bcurrently$", "", parts["a"]).strip()
    if "prep" in parts:
        parts["prep"] = parts["prep"].casefold()
        if parts.get("rest", "").casefold().endswith(f" {parts['prep']}"):  # "On what … is X on?"
            parts["prep"] = ""
    if "noun" in parts and "b" in parts:
        parts["owner"] = parts["a"] or parts["b"]
        parts["is_was"] = parts["be"] or ("was" if parts["do"].casefold() == "did" else "is")
    if parts.get("do"):
        forms = _PAST if parts["do"].casefold() == "did" else _PRESENT
        parts["verbed"] = forms.get(parts["verb"].casefold(), "")
        if not parts["verbed"]:
            return None
    if parts.get("be"):
        head, _, participle = parts["a"].rpartition(" ")
        day = "on" if re.search(r"\b\d{1,2}\b", new) else "in"
        parts["be_in"] = f"{head} {parts['be']} {participle} {day}"
    return parts


def _ended(new: str) -> str:
    """The object without its own full stop, which the sentence brings."""
    return new[:-1] if new.endswith(".") else new


def _sentence(text: str) -> str:
    text = re.sub(r"\.\.$", ".", re.sub(r" {2,}", " ", text))
    return text[:1].upper() + text[1:]
