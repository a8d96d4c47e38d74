"""From answers and facts to verdicts, approvals and edits."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from detectors.beliefs import ask_beliefs
from detectors.proposal import propose
from detectors.relations import load_registry
from detectors.trust import Approval, approve, crowded, publisher
from detectors.verdict import Decision, decide, verdict_for
from store.records import (
    Belief,
    Claim,
    ClaimRole,
    Document,
    EditState,
    Fact,
    ProbeKind,
    Reply,
    Slot,
    VerdictKind,
    from_json,
    to_json,
)

NOW = datetime(2026, 3, 1, tzinfo=UTC)
TODAY = "2026-03-01"
REGISTRY = load_registry()
HEAD = REGISTRY["head_of_government"]
SLOT = Slot("Germany", "head_of_government")


def _fact(value: str, start: str | None, end: str | None = None, former: bool = False) -> Fact:
    return Fact(
        f"f-{value}-{start}", *("Germany", HEAD.id), value, ("c1",), NOW, None, start, end, former
    )


FACTS = [
    _fact("Angela Merkel", "2005-11-22", "2021-12-08"),
    _fact("Olaf Scholz", "2021-12-08", "2025-05-06"),
    _fact("Friedrich Merz", "2025-05-06"),
]


def _belief(*answers: str) -> Belief:
    replies = tuple(Reply("Who?", answer, -0.1) for answer in answers)
    return Belief("Germany", HEAD.id, replies, "m", NOW)


def _decide(*answers: str, facts: Sequence[Fact] = FACTS) -> Decision:
    return decide(_belief(*answers), facts, TODAY, HEAD)


MERKEL = "The chancellor of Germany is Angela Merkel."
MERZ = "The chancellor of Germany is Friedrich Merz."
SCHOLZ = "The chancellor of Germany is Olaf Scholz."
KOHL = "The chancellor of Germany is Helmut Kohl."
GENERIC = "The chancellor of Germany is the head of government."


@pytest.mark.parametrize(
    ("answers", "kind"),
    [
        ((MERZ,) * 4, VerdictKind.KEEP),
        ((MERZ, MERZ, MERZ, MERKEL), VerdictKind.KEEP),
        ((MERZ, MERZ, GENERIC, GENERIC), VerdictKind.KEEP),
        ((MERKEL,) * 4, VerdictKind.STALE),
        ((MERKEL, MERKEL, KOHL, GENERIC), VerdictKind.STALE),
        ((MERKEL, GENERIC, KOHL, GENERIC), VerdictKind.UNKNOWN),
        ((MERKEL, MERKEL, MERZ, GENERIC), VerdictKind.AMBIGUOUS),
        ((MERZ, MERZ, MERKEL, MERKEL), VerdictKind.AMBIGUOUS),
        ((KOHL, KOHL, KOHL, GENERIC), VerdictKind.WRONG),
        ((KOHL, KOHL, GENERIC, GENERIC), VerdictKind.UNKNOWN),
        ((GENERIC,) * 4, VerdictKind.UNKNOWN),
        ((), VerdictKind.UNKNOWN),
    ],
)
def test_the_verdict_follows_from_how_the_phrasings_fall(
    answers: tuple[str, ...], kind: VerdictKind
) -> None:
    assert _decide(*answers).kind is kind


def test_the_path_says_what_was_seen_and_what_is_known() -> None:
    decision = _decide(MERKEL, MERKEL, MERKEL, KOHL)
    assert decision.path[:4] == (
        "3 of 4 phrasings name Angela Merkel, a former value",
        "1 of 4 phrasings name Helmut Kohl",
        "current value: Friedrich Merz since 2025-05-06",
        "former value: Angela Merkel until 2021-12-08",
    )
    assert (decision.believed, decision.current) == ("Angela Merkel", "Friedrich Merz")
    assert decision.fact_ids == ("f-Friedrich Merz-2025-05-06", "f-Angela Merkel-2005-11-22")


def test_without_a_current_value_nothing_can_be_said() -> None:
    assert _decide(MERKEL, facts=[]).kind is VerdictKind.UNSUPPORTED
    assert _decide(MERKEL, facts=FACTS[:2]).kind is VerdictKind.UNSUPPORTED
    assert _decide(MERKEL, facts=FACTS[:2]).current is None


def test_sources_that_contradict_each_other_need_a_person() -> None:
    rival = _fact("Jane Doe", "2025-05-06")
    decision = _decide(MERKEL, facts=[*FACTS, rival])
    assert decision.kind is VerdictKind.AMBIGUOUS
    assert decision.current is None


def test_a_successor_that_is_announced_changes_nothing_yet() -> None:
    coming = _fact("Jane Doe", "2026-09-01")
    assert _decide(MERZ, facts=[*FACTS, coming]).kind is VerdictKind.KEEP


def test_someone_who_holds_the_office_again_is_not_a_former_holder() -> None:
    facts = [_fact("Shinzo Abe", "2006", "2007"), _fact("Shinzo Abe", "2012")]
    answer = "The prime minister is Shinzo Abe."
    assert _decide(answer, facts=facts).kind is VerdictKind.KEEP


def test_a_value_missing_from_a_list_of_many_is_never_stale_or_wrong() -> None:
    owner = REGISTRY["owner"]
    facts = [replace(_fact("Tata Group", "2008"), relation="owner")]
    belief = _belief("The owner is Ford Motor.", "The owner is Ford Motor.")
    assert decide(belief, facts, TODAY, owner).kind is VerdictKind.UNKNOWN
    ended = [*facts, replace(_fact("Ford Motor", "1989", "2008"), relation="owner")]
    assert decide(belief, ended, TODAY, owner).kind is VerdictKind.STALE


class _Model:
    model = "toy"

    def __init__(self, answer: str, lose: bool = False) -> None:
        self.calls: list[list[str]] = []
        self._answer, self._lose = answer, lose

    def ask(self, questions: Sequence[str]) -> list[Reply]:
        self.calls.append(list(questions))
        replies = [Reply(question, self._answer, -0.5) for question in questions]
        return replies[1:] if self._lose else replies


def test_all_slots_are_asked_in_one_call_with_their_own_titles() -> None:
    model = _Model(MERKEL)
    slots = [(SLOT, "chancellor"), (Slot("Apple", "ceo"), "ceo")]
    germany, apple = ask_beliefs(model, slots, REGISTRY, NOW)
    assert len(model.calls) == 1
    assert model.calls[0][0] == "Who is the chancellor of Germany?"
    assert apple.replies[0].question == "Who is the CEO of Apple?"
    assert len(germany.replies) == len(apple.replies) == 4
    assert (germany.agreement, germany.model) == (1.0, "toy")


def test_agreement_counts_the_answers_that_name_the_same() -> None:
    (belief,) = ask_beliefs(_Model(GENERIC), [(SLOT, "")], REGISTRY, NOW)
    assert belief.agreement == 0.0


def test_a_model_that_loses_answers_is_an_error() -> None:
    with pytest.raises(ValueError, match="4 questions got 3 replies"):
        ask_beliefs(_Model(MERKEL, lose=True), [(SLOT, "")], REGISTRY, NOW)


def test_nothing_to_ask_asks_nothing() -> None:
    model = _Model(MERKEL)
    assert ask_beliefs(model, [], REGISTRY, NOW) == []
    assert model.calls == []


STORY = "On Tuesday the parliament in the capital chose a new head of the government. " * 4


def _document(number: int, url: str, text: str, feed: str = "news") -> Document:
    return Document(f"d{number}", feed, url, "t", text, NOW, NOW, "h")


def _claim(document: Document, value: str = "Friedrich Merz", acting: bool = False) -> Claim:
    return Claim(
        id=f"c-{document.id}-{value}",
        subject="Germany",
        relation=HEAD.id,
        object=value,
        role=ClaimRole.CURRENT,
        document_id=document.id,
        quote="q",
        start=0,
        end=1,
        extractor="patterns",
        extracted=NOW,
        valid_from="2025-05-06",
        dated_by="text",
        acting=acting,
    )


def _approve(documents: list[Document], trusted: Sequence[str] = (), **kwargs: bool) -> Approval:
    claims = [_claim(document, **kwargs) for document in documents]
    return approve(claims, {d.id: d for d in documents}, HEAD, trusted, TODAY)


def test_one_source_is_not_enough_and_a_trusted_one_is() -> None:
    single = [_document(1, "https://a.example/1", STORY)]
    assert _approve(single).tier == "review"
    assert _approve(single, trusted=["news"]).tier == "auto"


def test_two_independent_sources_are_enough() -> None:
    other = "Merz takes over in Berlin after the vote in the Bundestag, our correspondent writes."
    documents = [
        _document(1, "https://a.example/1", STORY),
        _document(2, "https://b.test/2", other),
    ]
    approval = _approve(documents)
    assert approval.tier == "auto"
    assert "a.example" in approval.path[0]


def test_a_story_on_twenty_sites_is_one_source() -> None:
    documents = [
        _document(n, f"https://site{n}.test/{n}", f"{STORY} Copy number {n}.") for n in range(20)
    ]
    assert _approve(documents).tier == "review"


def test_two_pages_of_one_publisher_are_one_source() -> None:
    documents = [
        _document(1, "https://www.a.co.uk/1", STORY),
        _document(2, "https://news.a.co.uk/2", "Quite another text about the same change."),
    ]
    assert _approve(documents).tier == "review"


def test_an_acting_holder_waits_for_a_person_even_in_a_trusted_feed() -> None:
    single = [_document(1, "https://a.example/1", STORY)]
    assert _approve(single, trusted=["news"], acting=True).tier == "review"


def test_an_undated_or_unsupported_value_is_not_made_automatically() -> None:
    document = _document(1, "https://a.example/1", STORY)
    undated = replace(_claim(document), valid_from=None, dated_by="none")
    documents = {document.id: document}
    assert approve([undated], documents, HEAD, ["news"], TODAY).tier == "review"
    assert approve([], documents, HEAD, ["news"], TODAY).tier == "held"


def test_a_relation_can_ask_for_approval_always() -> None:
    document = _document(1, "https://a.example/1", STORY)
    claims, documents = [_claim(document)], {document.id: document}
    relation = REGISTRY["supreme_leader"]
    assert approve(claims, documents, relation, ["news"], TODAY).tier == "review"


def test_a_text_that_changes_too_much_at_once_is_held_whole() -> None:
    flood = _document(1, "https://a.example/1", STORY)
    claims = [replace(_claim(flood, f"Person {n}"), subject=f"Town {n}") for n in range(26)]
    held = crowded(claims)
    assert held == {flood.id}
    assert crowded(claims[:25]) == frozenset()
    assert crowded([replace(claim, extractor="fields") for claim in claims]) == frozenset()
    documents = {flood.id: flood}
    assert approve(claims[:1], documents, HEAD, ["news"], TODAY, held).tier == "held"


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://www.bbc.co.uk/x", "bbc.co.uk"),
        ("https://news.example.com/x", "example.com"),
        ("http://127.0.0.1:8000/feed", "news"),
        ("folder/page.html", "news"),
        ("http://localhost/x", "news"),
    ],
)
def test_a_publisher_is_a_registrable_domain_or_a_local_feed(url: str, name: str) -> None:
    assert publisher(_document(1, url, STORY)) == name


AUTO = Approval("auto", ("stated by the trusted feed news",))
NEIGHBOURS = [("France", "president", "head_of_state"), ("Germany", "chancellor", HEAD.id)]


def test_an_edit_states_the_new_value_and_carries_its_battery() -> None:
    verdict = verdict_for(_belief(*(MERKEL,) * 4), FACTS, TODAY, HEAD, NOW, "chancellor")
    edit = propose(verdict, FACTS, HEAD, REGISTRY, "chancellor", AUTO, NOW, NEIGHBOURS)
    assert edit.statement == "The chancellor of Germany is Friedrich Merz."
    assert (edit.old, edit.new, edit.state) == ("Angela Merkel", "Friedrich Merz", EditState.QUEUED)
    assert edit.former == ("Angela Merkel", "Olaf Scholz")
    assert edit.claim_ids == ("c1",)
    kinds = [probe.kind for probe in edit.probes]
    assert kinds.count(ProbeKind.EDIT) == 1
    assert kinds.count(ProbeKind.PARAPHRASE) >= 4
    assert kinds.count(ProbeKind.ALIAS) == 1
    assert kinds.count(ProbeKind.SAME_SUBJECT) == 3  # the past holder, the capital, the language
    # The edited slot is not its own neighbour.
    assert kinds.count(ProbeKind.NEAR_ENTITY) == 1
    local = {ProbeKind.SAME_SUBJECT, ProbeKind.NEAR_ENTITY}
    assert all((probe.expected == "") == (probe.kind in local) for probe in edit.probes)
    asked = set(REGISTRY.asking(HEAD.id, "Germany", "chancellor"))
    assert not asked & {p.question for p in edit.probes if p.kind is ProbeKind.PARAPHRASE}


def test_a_battery_asks_whether_the_former_value_still_holds_and_for_the_subject_unnamed() -> None:
    verdict = verdict_for(_belief(*(MERKEL,) * 4), FACTS, TODAY, HEAD, NOW, "chancellor")
    known = [("president", "Frank-Walter Steinmeier")]
    edit = propose(verdict, FACTS, HEAD, REGISTRY, "chancellor", AUTO, NOW, NEIGHBOURS, known)
    asked = {p.kind: p for p in edit.probes if p.kind in (ProbeKind.NEGATION, ProbeKind.ONE_HOP)}
    assert asked[ProbeKind.NEGATION].question == (
        "Is it still true that the chancellor of Germany is Angela Merkel?"
    )
    assert asked[ProbeKind.ONE_HOP].question == (
        "Who is the chancellor of the country whose president is Frank-Walter Steinmeier?"
    )
    assert {p.expected for p in asked.values()} == {"Friedrich Merz"}
    # Nothing else known of the subject: it cannot be told without its name.
    plain = propose(verdict, FACTS, HEAD, REGISTRY, "chancellor", AUTO, NOW, NEIGHBOURS)
    assert ProbeKind.ONE_HOP not in {p.kind for p in plain.probes}


def test_an_edit_that_needs_approval_waits_and_says_why() -> None:
    verdict = verdict_for(_belief(*(MERKEL,) * 4), FACTS, TODAY, HEAD, NOW, "chancellor")
    review = Approval("review", ("stated by one source only: a.example",))
    edit = propose(verdict, FACTS, HEAD, REGISTRY, "chancellor", review, NOW)
    assert edit.state is EditState.PROPOSED
    assert edit.reason == "stated by one source only: a.example"
    again = propose(verdict, FACTS, HEAD, REGISTRY, "chancellor", AUTO, NOW)
    assert edit.id == again.id


def test_nothing_is_proposed_without_a_value_or_while_held() -> None:
    unsupported = verdict_for(_belief(MERKEL), [], TODAY, HEAD, NOW)
    with pytest.raises(ValueError, match="no current value"):
        propose(unsupported, [], HEAD, REGISTRY, "", AUTO, NOW)
    stale = verdict_for(_belief(*(MERKEL,) * 4), FACTS, TODAY, HEAD, NOW)
    with pytest.raises(ValueError, match="held back"):
        propose(stale, FACTS, HEAD, REGISTRY, "", Approval("held", ("too many",)), NOW)


def test_a_verdict_is_rebuilt_from_its_json() -> None:
    verdict = verdict_for(_belief(MERKEL, MERKEL), FACTS, TODAY, HEAD, NOW, "chancellor")
    assert from_json(type(verdict), to_json(verdict)) == verdict
