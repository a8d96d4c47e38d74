"""Every editing method that is built, as data: what `corrigenda editors ls` lists."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from editors.requests import EditorError

if TYPE_CHECKING:
    from editors.editor import Editor


@dataclass(frozen=True)
class EditorInfo:
    """One method.

    Attributes:
        family: of the survey's taxonomy (arXiv 2310.16218).
        lives_in: where an edit is kept.
        sequential_safe: whether many edits in a row leave earlier ones standing.
        reaches_gguf: whether an edit can travel in an exported weight file.
        settings: dotted name of the settings class, or "" where there are none.
        editor: dotted name of the class that is the method by the protocol of
            ``editors.editor``: a frozen dataclass of its settings. "" where it is no editor.
    """

    name: str
    family: str
    paper: str
    lives_in: str
    sequential_safe: bool
    reaches_gguf: bool
    summary: str
    settings: str = ""
    editor: str = ""


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
            "editors.memory.memory_editor.MemorySettings",
            "editors.memory.memory_editor.Memory",
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
            "editors.memory.compiled_editor.CompiledMemory",
        ),
        EditorInfo(
            "lookup",
            "external memory, extension-based",
            "after T-Patcher (Huang et al. 2023), compiled memory in closed form",
            "extra gated neurons in the last layer's MLP",
            True,
            True,
            "lookup neurons: keys of the unedited model, columns from the output head, no training",
            "editors.memory.lookup.LookupSettings",
            "editors.memory.lookup.Lookup",
        ),
        EditorInfo(
            "recall",
            "external memory, extension-based",
            "ours; after the subject and relation lookup that Geva et al. 2023 describe",
            "gated neurons that flag subjects, one group of heads, gated neurons that answer",
            True,
            False,
            "catches the subject where it is named and the relation where the answer is made; an "
            "attention head brings them together; closed form",
            "editors.memory.recall.RecallSettings",
            "editors.memory.recall.Recall",
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
            "editors.optimize.finetune.FineTuning",
        ),
        EditorInfo(
            "ft-l",
            "global optimisation, constrained fine-tuning",
            "Modifying Memories (Zhu et al. 2020)",
            "one MLP matrix, within a bound of the unedited one",
            False,
            True,
            "fine-tuning that no entry leaves its bound in; the toolkit's loss is a switch",
            "editors.optimize.ft_l.BoundedSettings",
            "editors.optimize.ft_l.BoundedFineTuning",
        ),
        EditorInfo(
            "recadam",
            "global optimisation, constrained fine-tuning",
            "RecAdam (Chen et al. 2020)",
            "one MLP matrix",
            False,
            True,
            "fine-tuning with an Adam that recalls where it came from, less and less",
            "editors.optimize.recadam.RecAdamSettings",
            "editors.optimize.recadam.RecAdam",
        ),
        EditorInfo(
            "distillation",
            "global optimisation, fine-tuning",
            "context distillation (Padmanabhan et al. 2023) into LoRA (Hu et al. 2022)",
            "changes of low rank of several MLP matrices",
            False,
            True,
            "learns what the memory tier says, from the base weights on all edits at once",
            "editors.optimize.distillation.DistillationSettings",
            "editors.optimize.distillation.Distillation",
        ),
        EditorInfo(
            "f-learning",
            "global optimisation, constrained fine-tuning",
            "Forgetting before Learning (Ni et al. 2023)",
            "one MLP matrix",
            False,
            True,
            "takes off what training on the old answers adds, then learns the new ones",
            "editors.optimize.f_learning.ForgettingSettings",
            "editors.optimize.f_learning.FLearning",
        ),
        EditorInfo(
            "ppa",
            "global optimisation, constrained fine-tuning",
            "PPA (Lee et al. 2022), ported to a decoder-only model",
            "low-rank experts beside the MLPs of the upper layers, and a router",
            True,
            False,
            "one plug-in expert a batch, turned on by the nearest question; weights untouched",
            "editors.optimize.ppa.PpaSettings",
            "editors.optimize.ppa.Ppa",
        ),
        EditorInfo(
            "mend",
            "global optimisation, intermediate fine-tuning",
            "MEND (Mitchell et al. 2021)",
            "the MLP matrices of the last layers, low rank",
            False,
            True,
            "a trained network turns one gradient into an edit; `editors train mend` first",
            "editors.optimize.mend.MendSettings",
            "editors.optimize.mend.Mend",
        ),
        EditorInfo(
            "malmen",
            "global optimisation, intermediate fine-tuning",
            "MALMEN (Tan et al. 2023)",
            "the MLP matrices of the last layers",
            False,
            True,
            "MEND's network, the edits of all requests fused in one solve; train it first",
            "editors.optimize.malmen.MalmenSettings",
            "editors.optimize.malmen.Malmen",
        ),
        EditorInfo(
            "editable-training",
            "global optimisation, constrained fine-tuning",
            "Editable Training (Sinitsin et al. 2020)",
            "the MLP matrices of the last layers, retrained once",
            False,
            True,
            "the model is retrained so that a few gradient steps edit it; train it first",
            "editors.optimize.editable_training.EditableSettings",
            "editors.optimize.editable_training.EditableTraining",
        ),
        EditorInfo(
            "ke",
            "global optimisation, intermediate fine-tuning",
            "KnowledgeEditor (De Cao et al. 2021)",
            "the MLP matrices of the last layers",
            False,
            True,
            "a trained network masks one gradient, told by a text; `editors train ke` first",
            "editors.optimize.knowledge_editor.KnowledgeEditorSettings",
            "editors.optimize.knowledge_editor.KnowledgeEditor",
        ),
        EditorInfo(
            "slag",
            "global optimisation, intermediate fine-tuning",
            "SLAG (Hase et al. 2021)",
            "the MLP matrices of the last layers",
            False,
            True,
            "KE's network again and again until it is right; `editors train slag` first",
            "editors.optimize.slag.SlagSettings",
            "editors.optimize.slag.Slag",
        ),
        EditorInfo(
            "kgeditor",
            "global optimisation, intermediate fine-tuning",
            "KGEditor (Cheng et al. 2023), ported to a decoder-only model",
            "a path beside the MLPs' output matrices of the last layers, merged into them",
            False,
            True,
            "KE's network writes into an added path; its own task is `bench graph`",
            "editors.optimize.kgeditor.KgEditorSettings",
            "editors.optimize.kgeditor.KgEditor",
        ),
        EditorInfo(
            "rome",
            "local modification, ground-truth based",
            "ROME (Meng et al. 2022) as r-ROME (Gupta et al. 2024)",
            "one MLP output matrix, rank one an edit",
            False,
            True,
            "one key gets its value exactly; the original ROME with symmetric = false",
            "editors.local.rome.Rome",
            "editors.local.rome.Rome",
        ),
        EditorInfo(
            "memit",
            "local modification, ground-truth based",
            "MEMIT (Meng et al. 2023)",
            "MLP output matrices of a window of layers",
            True,
            True,
            "many edits in one ridge solve a layer, earlier keys preserved",
            "editors.local.memit.Memit",
            "editors.local.memit.Memit",
        ),
        EditorInfo(
            "pmet",
            "local modification, ground-truth based",
            "PMET (Li et al. 2024)",
            "MLP output matrices of a window of layers",
            True,
            True,
            "MEMIT with the MLP's value optimised beside the attention's, which is not written",
            "editors.local.pmet.Pmet",
            "editors.local.pmet.Pmet",
        ),
        EditorInfo(
            "emmet",
            "local modification, ground-truth based",
            "EMMET (Gupta et al. 2024)",
            "one MLP output matrix",
            False,
            True,
            "ROME for a batch: every key gets its value, up to a slack",
            "editors.local.emmet.Emmet",
            "editors.local.emmet.Emmet",
        ),
        EditorInfo(
            "alphaedit",
            "local modification, ground-truth based",
            "AlphaEdit (Fang et al. 2024)",
            "MLP output matrices, in ordinary keys' null space",
            True,
            True,
            "MEMIT's values, written where ordinary keys and earlier edits do not look",
            "editors.local.alphaedit.AlphaEdit",
            "editors.local.alphaedit.AlphaEdit",
        ),
        EditorInfo(
            "memit_csk",
            "local modification, prompt based",
            "MEMIT_CSK (Gupta et al. 2023)",
            "MLP output matrices of a window of layers",
            True,
            True,
            "MEMIT at the last token of the subject, the verb or the object",
            "editors.local.memit_csk.MemitCsk",
            "editors.local.memit_csk.MemitCsk",
        ),
        EditorInfo(
            "bird",
            "local modification, prompt based",
            "BIRD (Ma et al. 2023), its loss reconstructed",
            "one MLP output matrix, rank one an edit",
            False,
            True,
            "r-ROME that draws the reversed relation along",
            "editors.local.bird.Bird",
            "editors.local.bird.Bird",
        ),
        EditorInfo(
            "kn",
            "local modification, ground-truth based",
            "Knowledge Neurons (Dai et al. 2021)",
            "columns of the MLPs' output matrices",
            False,
            True,
            "finds the neurons that say a fact, and writes the new object into their columns",
            "editors.local.knowledge_neurons.NeuronSettings",
            "editors.local.knowledge_neurons.KnowledgeNeurons",
        ),
        EditorInfo(
            "depn",
            "local modification, ground-truth based",
            "DEPN (Wu et al. 2023)",
            "columns of the MLPs' output matrices, set to zero",
            False,
            True,
            "forgets the old object (a request's old, where its questions and prompts ask for it); "
            "writes nothing new",
            "editors.local.depn.ForgettingSettings",
            "editors.local.depn.Depn",
        ),
        EditorInfo(
            "pcgu",
            "local modification, ground-truth based",
            "PCGU (Yu et al. 2023)",
            "what single neurons of the MLPs read and write",
            False,
            True,
            "evens out a preference: old is the completion that has the advantage, new the other; "
            "writes nothing new",
            "editors.local.pcgu.ContrastSettings",
            "editors.local.pcgu.Pcgu",
        ),
        EditorInfo(
            "ultraedit",
            "global optimisation, closed form",
            "UltraEdit (Gu et al. 2025)",
            "one MLP matrix of several layers",
            False,
            True,
            "one gradient pass and one ridge solve a batch, with a lifelong normaliser",
            "editors.local.ultraedit.UltraSettings",
            "editors.local.ultraedit.UltraEdit",
        ),
        EditorInfo(
            "grace",
            "external memory, extension-based",
            "GRACE (Hartvigsen et al. 2023), a value for each answer place",
            "a codebook of keys, and values in place of one MLP's output",
            True,
            False,
            "looks the question up; answers with a stored value inside a ball, untouched outside",
            "editors.memory.grace.GraceSettings",
            "editors.memory.grace.Grace",
        ),
        EditorInfo(
            "t-patcher",
            "external memory, extension-based",
            "T-Patcher (Huang et al. 2023), bias-free gated neurons",
            "one extra neuron a wrong token, in the last MLP",
            True,
            True,
            "adds a neuron for each answer token that comes out wrong, shut on all else",
            "editors.memory.t_patcher.PatcherSettings",
            "editors.memory.t_patcher.TPatcher",
        ),
        EditorInfo(
            "wise",
            "external memory, extension-based",
            "WISE (Wang et al. 2024)",
            "a side copy of one MLP output matrix, and a router",
            True,
            False,
            "questions that move the side copy take it; all others meet the unedited model",
            "editors.memory.wise.WiseSettings",
            "editors.memory.wise.Wise",
        ),
        EditorInfo(
            "melo",
            "external memory, extension-based",
            "MELO (Yu et al. 2023)",
            "low-rank blocks beside MLP input matrices, and a vector database",
            True,
            False,
            "one block a batch, turned on by the nearest key of a cluster; weights untouched",
            "editors.memory.melo.MeloSettings",
            "editors.memory.melo.Melo",
        ),
        EditorInfo(
            "calinet",
            "external memory, extension-based",
            "CaliNet (Dong et al. 2022)",
            "a block of extra neurons a batch, in the last MLP",
            False,
            True,
            "trains a small block beside the last MLP on a batch of facts; nothing routes",
            "editors.memory.calinet.CalinetSettings",
            "editors.memory.calinet.Calinet",
        ),
        EditorInfo(
            "ike",
            "external memory",
            "IKE (Zheng et al. 2023)",
            "the prompt: demonstrations and the nearest fact",
            True,
            False,
            "a fact after worked examples, whatever is asked; no scope unless set",
            "editors.memory.ike.IkeSettings",
            "editors.memory.ike.Ike",
        ),
        EditorInfo(
            "serac",
            "external memory",
            "SERAC (Mitchell et al. 2022)",
            "the prompt of questions in scope: the fact",
            True,
            False,
            "a trained scope decides which questions are told the edit; others are untouched",
            "editors.memory.serac.SeracSettings",
            "editors.memory.serac.Serac",
        ),
        EditorInfo(
            "memprompt",
            "external memory",
            "MemPrompt (Madaan et al. 2022)",
            "the prompt of known questions: a clarification behind the question",
            True,
            False,
            "corrections by the question they were made on, found by spelling and by embedding",
            "editors.memory.memprompt.MemPromptSettings",
            "editors.memory.memprompt.MemPrompt",
        ),
        EditorInfo(
            "language-patches",
            "external memory",
            "Language Patches (Murty et al. 2022)",
            "a row that is told the fact, run beside the untold one",
            True,
            False,
            "if this is asked, that holds: told and untold probabilities mixed by a gate",
            "editors.memory.language_patches.PatchSettings",
            "editors.memory.language_patches.LanguagePatches",
        ),
        EditorInfo(
            "mello",
            "external memory",
            "MeLLo (Zhong et al. 2023)",
            "the prompt of questions whose own answer a stored fact contradicts",
            True,
            False,
            "the model answers first; a fact in scope that contradicts it is told, hop by hop",
            "editors.memory.mello.MelloSettings",
            "editors.memory.mello.Mello",
        ),
        EditorInfo(
            "kaft",
            "external memory",
            "KAFT (Li et al. 2022), with a memory of told facts",
            "the upper MLPs' output matrices, tuned once; the prompt of questions in scope",
            True,
            False,
            "a model tuned to heed relevant texts only, told the edit where it is in scope",
            "editors.memory.kaft.KaftSettings",
            "editors.memory.kaft.Kaft",
        ),
        EditorInfo(
            "rag",
            "baseline",
            "retrieval-augmented generation",
            "the prompt: the nearest statements of the edits",
            True,
            False,
            "plain retrieval over the edits' statements, no scope, decoding not guided",
            "editors.memory.rag.RagSettings",
            "editors.memory.rag.Rag",
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


def build(name: str, overrides: Mapping[str, Any] | None = None) -> Editor:
    """Return a method by its name, with some of its settings changed.

    Imports the method, and with it torch.

    Raises EditorError: an unknown name, a method that is no editor, a setting that it does
    not have or of another type.
    """
    infos = {info.name: info for info in editors() if info.editor}
    if name not in infos:
        raise EditorError(f"no editor is named {name!r}; editors: {', '.join(infos)}")
    module, _, leaf = infos[name].editor.rpartition(".")
    made: Any = getattr(import_module(module), leaf)
    defaults = dataclasses.asdict(made())
    for key, value in (overrides or {}).items():
        if key not in defaults:
            raise EditorError(f"{name} has no setting {key!r}; settings: {', '.join(defaults)}")
        if not _fits(value, defaults[key]):
            kind = type(defaults[key]).__name__
            raise EditorError(f"setting {key} of {name} is a {kind}, not {value!r}")
    editor: Editor = made(**dict(overrides or {}))
    return editor


def _fits(value: object, default: object) -> bool:
    """Whether a value can stand for a default: whole numbers do for floats, and what may be
    None takes anything."""
    if default is None or isinstance(default, (tuple, list)):
        return True
    if isinstance(value, bool) or isinstance(default, bool):
        return type(value) is type(default)
    if isinstance(default, float):
        return isinstance(value, (int, float))
    return isinstance(value, type(default))
