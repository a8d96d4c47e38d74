"""Every editing method that is built, as data: what `corrigenda editors ls` lists."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EditorInfo:
    """One method.

    Attributes:
        family: of the survey's taxonomy (arXiv 2310.16218).
        lives_in: where an edit is kept.
        sequential_safe: whether many edits in a row leave earlier ones standing.
        reaches_gguf: whether an edit can travel in an exported weight file.
        settings: dotted name of the settings class, or "" where there are none.
    """

    name: str
    family: str
    paper: str
    lives_in: str
    sequential_safe: bool
    reaches_gguf: bool
    summary: str
    settings: str = ""


def editors() -> tuple[EditorInfo, ...]:
    """Return all methods, the daemon's own two tiers first."""
    return (
        EditorInfo(
            "memory",
            "external memory",
            "after IKE (Zheng et al. 2023) and SERAC (Mitchell et al. 2022)",
            "the ledger; told in context, decoding guided along the object",
            True,
            False,
            "the memory tier: answers an approved edit at once, weights untouched",
        ),
        EditorInfo(
            "compiled",
            "external memory, extension-based",
            "after T-Patcher (Huang et al. 2023)",
            "extra gated neurons in the MLP of one layer",
            True,
            True,
            "compiled memory: the nightly weights tier, recomputed from base and ledger",
            "editors.memory.compiled.CompiledSettings",
        ),
        EditorInfo(
            "ft-m",
            "global optimisation, constrained fine-tuning",
            "Modifying Memories (Zhu et al. 2020), loss on all answer tokens",
            "one MLP matrix",
            False,
            True,
            "plain fine-tuning of one matrix: a baseline, and the drill's way to do harm",
            "editors.optimize.finetune.FinetuneSettings",
        ),
        EditorInfo(
            "retrieval",
            "baseline",
            "retrieval-augmented generation",
            "the evidence store",
            True,
            False,
            "the same facts by retrieval only, decoding not guided",
        ),
    )
