"""A night on a toy model with real weights: promote, hold, nothing to do, and the way back."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from samples import NOW, an_edit
from workspaces import LENIENT, remembered, toy_home

from agent import queueing
from agent.battery import IN_SCOPE, Everyday, Result
from agent.consolidation import compute, consolidate
from agent.examination import Examined, Unfit, examine, examine_candidate, summarise
from agent.nightly import nightly, promote_or_hold
from agent.progress import Advance, Silent
from agent.report import Status, load_report
from agent.reporting import gather
from agent.retention import check_retention
from agent.rollback import switch
from agent.served import open_served
from agent.workspace import Workspace
from editors.deltas import MlpExpansion, applied
from editors.metrics import mean_share, wilson
from editors.model import ChatModel
from store.records import EditState, ProbeKind

MERZ = an_edit(neighbours=[("France", "president", "head_of_state")])
TINUBU = an_edit("Bola Tinubu", "Nigeria", "head_of_state", "president", "Muhammadu Buhari")
Make = Callable[..., Workspace]


@pytest.fixture
def make(taught_model: ChatModel, tmp_path: Path) -> Iterator[Make]:
    made: list[Workspace] = []

    def open_(**floors: float) -> Workspace:
        made.append(toy_home(tmp_path, taught_model, **floors))
        return made[-1]

    yield open_
    for ws in made:
        ws.close()


def states(ws: Workspace) -> dict[str, EditState]:
    return {edit.subject: edit.state for edit in ws.store.edits.ls()}


def test_a_promoted_version_answers_without_memory(make: Make) -> None:
    ws = make(**LENIENT)
    remembered(ws, MERZ, TINUBU)
    result = nightly(ws, NOW, Silent())
    assert result.status == "promoted"
    serving = ws.store.versions.alias("serving")
    assert serving is not None
    assert (serving.id, set(serving.edit_ids)) == (result.version, {MERZ.id, TINUBU.id})
    with open_served(ws).weights_only() as model:
        answers = {e.subject: model.answer([e.probes[0].question])[0].text for e in (MERZ, TINUBU)}
    told = ws.store.runs.latest("answers")
    assert told is not None
    assert told.body["tier"] == "weights"
    for edit in (MERZ, TINUBU):
        holds = edit.new in answers[edit.subject]
        assert told.body["answers"][edit.id] == {"text": answers[edit.subject], "right": holds}
        wanted = EditState.CONSOLIDATED if holds else EditState.REMEMBERED
        assert states(ws)[edit.subject] is wanted
    assert EditState.CONSOLIDATED in states(ws).values()


def test_an_edit_that_the_weights_do_not_answer_stays_in_memory(make: Make) -> None:
    ws = make(**LENIENT)
    remembered(ws, MERZ, TINUBU)
    candidate = consolidate(ws, ws.store.edits.ls(), NOW, Silent())
    measured = examine(ws, [candidate.delta], [MERZ, TINUBU], Silent())
    answers = {
        MERZ.probes[0].question: "Friedrich Merz.",
        TINUBU.probes[0].question: "Muhammadu Buhari.",
    }
    right = {edit.probes[0].question: edit.new for edit in (MERZ, TINUBU)}
    for texts in (right, answers):  # the second night the weights lose one
        promote_or_hold(ws, candidate, dataclasses.replace(measured, answers=texts), NOW)
    assert states(ws) == {"Germany": EditState.CONSOLIDATED, "Nigeria": EditState.REMEMBERED}
    assert "stays in memory" in ws.store.edits.find(TINUBU.id).reason
    (answered,) = open_served(ws).answer([TINUBU.probes[0].question])
    assert "Bola Tinubu" in answered.text


def test_an_edit_that_the_new_weights_have_no_room_for_goes_back_to_memory(make: Make) -> None:
    ws = make(**LENIENT)
    remembered(ws, MERZ, TINUBU)
    right = {edit.probes[0].question: edit.new for edit in (MERZ, TINUBU)}
    both = consolidate(ws, [MERZ, TINUBU], NOW, Silent())
    measured = examine(ws, [both.delta], [MERZ, TINUBU], Silent())
    promote_or_hold(ws, both, dataclasses.replace(measured, answers=right), NOW)
    assert set(states(ws).values()) == {EditState.CONSOLIDATED}
    one = consolidate(ws, [MERZ], NOW, Silent())
    measured = examine(ws, [one.delta], [MERZ], Silent())
    promote_or_hold(ws, one, dataclasses.replace(measured, answers=right), NOW)
    assert states(ws) == {"Germany": EditState.CONSOLIDATED, "Nigeria": EditState.REMEMBERED}
    assert "no room" in ws.store.edits.find(TINUBU.id).reason


def test_an_edit_taken_back_during_the_night_stays_so_and_leaves_with_the_next(
    make: Make,
) -> None:
    ws = make(**LENIENT)
    remembered(ws, MERZ, TINUBU)
    candidate = consolidate(ws, ws.store.edits.ls(), NOW, Silent())
    found = examine(ws, [candidate.delta], [MERZ, TINUBU], Silent())
    queueing.revert(ws.store, [MERZ.id], "wrong source", NOW)
    assert promote_or_hold(ws, candidate, found, NOW).status == "promoted"
    assert states(ws)["Germany"] is EditState.REVERTED
    nightly(ws, NOW + timedelta(days=1), Silent())
    serving = ws.store.versions.alias("serving")
    assert serving is not None
    assert serving.edit_ids == (TINUBU.id,)


def test_a_held_candidate_leaves_what_serves_and_the_edits_as_they_are(make: Make) -> None:
    ws = make(**LENIENT)
    remembered(ws, MERZ)
    first = nightly(ws, NOW, Silent())
    ws.close()
    ws = make(**{**LENIENT, "ppl_ceiling": 1.0, "locality_floor": 1.0})
    remembered(ws, TINUBU)
    before = states(ws)
    second = nightly(ws, NOW + timedelta(days=1), Silent())
    assert second.status == "held"
    assert all(reason.startswith("failed: ") for reason in second.reasons)
    aliases = ws.store.versions.aliases()
    assert (aliases["serving"], aliases["candidate"]) == (first.version, second.version)
    assert states(ws) == before
    (answered,) = open_served(ws).answer([TINUBU.probes[0].question])
    assert "Bola Tinubu" in answered.text


def test_a_night_without_news_computes_nothing(make: Make) -> None:
    ws = make(**LENIENT)
    result = nightly(ws, NOW, Silent())
    assert (result.status, ws.store.versions.ls()) == ("nothing to do", [])
    remembered(ws, MERZ)
    nightly(ws, NOW + timedelta(days=1), Silent())
    versions = ws.store.versions.ls()
    again = nightly(ws, NOW + timedelta(days=2), Silent())
    assert again.status == "nothing to do"
    assert ws.store.versions.ls() == versions
    assert again.report is not None
    assert again.report.exists()


def test_a_weakened_version_is_computed_anew_though_it_carries_every_edit(make: Make) -> None:
    ws = make(**LENIENT)
    remembered(ws, MERZ)
    first = nightly(ws, NOW, Silent())
    again = nightly(ws, NOW + timedelta(days=1), Silent(), weakened=True)
    assert again.status == "promoted"
    # From the base and the same ledger: the same version.
    assert again.version == first.version


def test_the_next_night_does_not_undo_a_rollback(make: Make) -> None:
    ws = make(**LENIENT)
    remembered(ws, MERZ)
    first = nightly(ws, NOW, Silent())
    switch(ws.store, None, ws.base_hash, NOW, "it answered oddly")
    second = nightly(ws, NOW + timedelta(days=1), Silent())
    assert (second.status, second.version) == ("held", first.version)
    assert "it answered oddly" in second.reasons[0]
    aliases = ws.store.versions.aliases()
    assert (aliases.get("serving"), aliases["candidate"]) == (None, first.version)


def test_a_rollback_holds_back_that_version_alone(make: Make) -> None:
    ws = make(**LENIENT)
    remembered(ws, MERZ)
    first = nightly(ws, NOW, Silent())
    switch(ws.store, None, ws.base_hash, NOW, "it answered oddly")
    remembered(ws, TINUBU)
    second = nightly(ws, NOW + timedelta(days=1), Silent())
    assert second.status == "promoted"
    assert second.version != first.version


def test_a_version_chosen_again_is_no_longer_held_back(make: Make) -> None:
    ws = make(**LENIENT)
    remembered(ws, MERZ)
    nightly(ws, NOW, Silent())
    version = ws.store.versions.alias("serving")
    switch(ws.store, None, ws.base_hash, NOW, "it answered oddly")
    switch(ws.store, version, ws.base_hash, NOW, "it was the question")
    again = nightly(ws, NOW + timedelta(days=1), Silent(), weakened=True)
    assert again.status == "promoted"


def test_when_all_is_taken_back_the_base_weights_serve_again(
    make: Make, taught_answers: dict[str, str]
) -> None:
    ws = make(**LENIENT)
    remembered(ws, MERZ)
    first = nightly(ws, NOW, Silent())
    queueing.revert(ws.store, [MERZ.id], "wrong source", NOW)
    result = nightly(ws, NOW + timedelta(days=1), Silent())
    assert (result.status, result.version) == ("promoted", None)
    aliases = ws.store.versions.aliases()
    assert "serving" not in aliases
    assert aliases["previous"] == first.version
    question = MERZ.probes[0].question
    (answered,) = open_served(ws).answer([question])
    assert (answered.text, answered.edit_id) == (taught_answers[question], None)


def test_the_report_of_the_night_says_what_was_measured(make: Make) -> None:
    ws = make(**LENIENT)
    remembered(ws, MERZ)
    result = nightly(ws, NOW, Silent())
    assert result.report is not None
    data = load_report(result.report.with_suffix(".json"))
    assert (data.status, data.serving) == (Status.PROMOTED, result.version)
    assert [row.label for row in data.baselines] == [
        "unedited model",
        "same facts by retrieval only",
        "memory tier",
        "edited weights alone",
    ]
    unedited, _, memory, _ = data.baselines
    assert unedited.accuracy is not None
    assert memory.accuracy is not None
    assert (unedited.accuracy.point, memory.accuracy.point) == (0.0, 1.0)
    assert unedited.locality is not None
    assert unedited.locality.point == 1.0
    gate = ws.store.runs.latest("gate")
    assert gate is not None
    assert data.side_effects is not None
    assert data.side_effects.parameters_added == gate.body["parameters_added"] > 0
    assert math.isfinite(data.side_effects.ppl_ratio or math.nan)


def test_examining_measures_the_candidate_against_the_unedited_model(
    make: Make, taught_answers: dict[str, str]
) -> None:
    ws = make()
    nothing = examine(ws, [], [MERZ], Silent())
    assert nothing.measured.locality_exact.point == nothing.measured.locality_prefix.point == 1.0
    assert nothing.measured.ppl_ratio == 1.0
    assert nothing.measured.accuracy.point == 0.0
    assert nothing.measured.leak.point > 0.5
    candidate = consolidate(ws, [MERZ], NOW, Silent())
    found = examine(ws, [candidate.delta], [MERZ], Silent())
    with applied(ws.model, candidate.delta):
        question = MERZ.probes[0].question
        assert found.answers[question] == ws.model.answer([question])[0].text
        assert found.answers[question] != taught_answers[question]


def test_figures_count_each_locality_question_once() -> None:
    results = [
        Result("a", ProbeKind.EDIT, "q", "new", True),
        Result("a", ProbeKind.PARAPHRASE, "p", "old", False, leaked=True),
        Result("a", ProbeKind.ALIAS, "r", "new", True),
        Result("a", ProbeKind.SAME_SUBJECT, "capital", "x y", False, prefix=0.5),
        Result("b", ProbeKind.NEAR_ENTITY, "capital", "x y", False, prefix=0.5),
    ]
    before = {"capital": "x z", "sky": "It is blue."}
    after = {"capital": "x y", "sky": "It is blue.", "q": "new"}
    measured = summarise(results, before, after, Everyday(("sky",), ()), 1.01)
    assert measured.accuracy == wilson(1, 1)
    assert measured.generality == wilson(1, 2)
    assert measured.leak == wilson(1, 3)
    assert measured.locality_exact == wilson(1, 2)
    assert measured.locality_prefix == mean_share([0.5, 1.0])
    assert measured.ppl_ratio == 1.01


def test_retention_hands_fallen_edits_back_to_memory(make: Make) -> None:
    ws = make(**LENIENT)
    remembered(ws, MERZ, TINUBU)
    candidate = consolidate(ws, [MERZ, TINUBU], NOW, Silent())
    measured = examine(ws, [candidate.delta], [MERZ, TINUBU], Silent())
    right = {edit.probes[0].question: edit.new for edit in (MERZ, TINUBU)}
    promote_or_hold(ws, candidate, Examined(measured.measured, (), right), NOW)
    assert set(states(ws).values()) == {EditState.CONSOLIDATED}
    # The weights that serve are put back to the base: neither answers any more.
    ws.store.versions.set_alias("serving", None, NOW)
    found = check_retention(ws, NOW, Silent())
    assert found.triggered
    assert {edit.id for edit in found.fallen} == {MERZ.id, TINUBU.id}
    assert set(states(ws).values()) == {EditState.REMEMBERED}
    after, run = gather(ws, NOW).retention
    assert after.label == "consolidated"
    assert (run.label, run.triggered, run.pass_rate) == ("scheduled", True, found.run.pass_rate)
    # Nothing is left to ask.
    assert not check_retention(ws, NOW, Silent()).triggered


def test_a_promotion_is_a_re_test_of_every_edit_with_nothing_asked_anew(make: Make) -> None:
    ws = make(**LENIENT)
    remembered(ws, MERZ, TINUBU)
    candidate = consolidate(ws, [MERZ, TINUBU], NOW, Silent())
    examined = examine(ws, [candidate.delta], [MERZ, TINUBU], Silent())
    promote_or_hold(ws, candidate, examined, NOW)
    (run,) = gather(ws, NOW).retention
    assert {edit.edit_id for edit in run.edits} == {MERZ.id, TINUBU.id}
    scoped = [r.passed for r in examined.results if r.kind in IN_SCOPE]
    assert run.pass_rate == wilson(sum(scoped), len(scoped))


def test_the_night_is_recorded_as_it_was_returned(make: Make) -> None:
    ws = make(**LENIENT)
    remembered(ws, MERZ)
    result = nightly(ws, NOW, Silent())
    run = ws.store.runs.latest("nightly")
    assert run is not None
    assert (run.body["status"], run.body["version"]) == (result.status, result.version)
    assert tuple(run.body["reasons"]) == result.reasons


def test_a_candidate_that_cannot_be_examined_is_held_and_the_night_goes_on(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    ws = make(**LENIENT)
    remembered(ws, MERZ)
    first = nightly(ws, NOW, Silent())
    remembered(ws, TINUBU)
    before = states(ws)

    def spoiled(*args: Any, **more: Any) -> tuple[MlpExpansion, int]:
        delta, carried = compute(*args, **more)
        return dataclasses.replace(delta, up_rows=delta.up_rows * math.nan), carried

    monkeypatch.setattr("agent.consolidation.compute", spoiled)
    second = nightly(ws, NOW + timedelta(days=1), Silent())
    assert second.status == "held"
    (reason,) = second.reasons
    assert "up_proj.rows" in reason
    assert "NaN" in reason
    aliases = ws.store.versions.aliases()
    assert (aliases["serving"], aliases["candidate"]) == (first.version, second.version)
    assert states(ws) == before
    assert second.report is not None
    data = load_report(second.report.with_suffix(".json"))
    assert (data.status, data.side_effects) == (Status.HELD, None)


class Faulty(Silent):
    """Says that it cannot go on, in the midst of a stage or, if ``early``, as it opens."""

    def __init__(self, stage: str, early: bool = False) -> None:
        self.bad, self.early = stage, early

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Advance]:
        def advance(n: int = 1) -> None:
            if name == self.bad and not self.early:
                raise RuntimeError("no memory left\nand more words")

        if name == self.bad and self.early:
            raise RuntimeError("asked to end")
        yield advance


def test_any_error_in_the_midst_of_examining_holds_the_candidate(make: Make) -> None:
    ws = make(**LENIENT)
    remembered(ws, MERZ)
    result = nightly(ws, NOW, Faulty("asking the unedited model"))
    assert (result.status, ws.store.versions.alias("serving")) == ("held", None)
    assert result.reasons == (
        "failed: the unedited model cannot be asked: RuntimeError: no memory left",
    )
    assert states(ws)["Germany"] is EditState.REMEMBERED


def test_being_asked_to_end_is_no_fault_of_the_candidate(make: Make) -> None:
    ws = make(**LENIENT)
    remembered(ws, MERZ)
    with pytest.raises(RuntimeError, match="asked to end"):
        nightly(ws, NOW, Faulty("testing the new weights", early=True))
    assert ws.store.runs.latest("gate") is None


def test_what_is_examined_is_what_was_stored(make: Make) -> None:
    ws = make(**LENIENT)
    candidate = consolidate(ws, [MERZ], NOW, Silent())
    (tensors,) = (ws.store.versions.root / candidate.version.id).glob("*.safetensors")
    tensors.write_bytes(tensors.read_bytes()[:-1] + b"!")
    with pytest.raises(Unfit, match="is not as it was saved"):
        examine_candidate(ws, candidate, [MERZ], Silent())


def test_a_delta_that_does_not_apply_is_unfit_and_leaves_the_model(make: Make) -> None:
    ws = make(**LENIENT)
    good = consolidate(ws, [MERZ], NOW, Silent()).delta
    bad = dataclasses.replace(good, layer=99)
    with pytest.raises(Unfit, match="it cannot be measured: DeltaError: delta widens layer 99"):
        examine(ws, [good, bad], [MERZ], Silent())


def test_figures_tell_what_the_weights_kept_and_what_they_broke() -> None:
    results = [
        Result("a", ProbeKind.EDIT, "q", "new", True),
        Result("b", ProbeKind.EDIT, "r", "on and on", True),
        Result("c", ProbeKind.EDIT, "s", "", False),
        Result("c", ProbeKind.PARAPHRASE, "t", "long as ever", False),
        Result("a", ProbeKind.SAME_SUBJECT, "capital", "x y", False, prefix=0.5),
    ]
    daily = Everyday(
        ("sky",), (), {"legs": ("8", "eight"), "wings": ("2",)}, {"sum": "number", "list": "list"}
    )
    before = {"capital": "x z", "sky": "Blue.", "legs": "It has 8.", "wings": "Many."}
    before |= {"sum": "12", "list": "none"}
    after = before | {"capital": "x y", "legs": "It has 80 legs, and more.", "sum": "twelve"}
    measured = summarise(results, before, after, daily, 1.0, {"a", "c"}, {"r", "t"})
    assert measured.retention == wilson(1, 2)
    assert measured.broken == wilson(2, 4)  # one never ends, one is empty; no edit touched one
    assert measured.same_subject == mean_share([0.5])
    assert measured.ability == wilson(0, 1)  # "80" does not name 8; the wings were unknown
    assert measured.form == wilson(0, 1)
    assert measured.length_ratio == 12 / 9


def test_a_model_that_never_says_anything_may_go_on_so() -> None:
    silent, loud = {"sky": ""}, {"sky": "It is blue."}
    daily = Everyday(("sky",), ())
    assert summarise([], silent, silent, daily, 1.0).length_ratio == 1.0
    assert summarise([], silent, loud, daily, 1.0).length_ratio == math.inf
