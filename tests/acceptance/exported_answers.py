"""The serving version as files, answered by three programs that are not ours.

    PYTHONPATH=. python tests/acceptance/exported_answers.py --home HOME --node FOLDER

HOME has a version that serves (`corrigenda demo` makes one). The version is exported as GGUF and
as a Hugging Face folder; every correction's own question is asked of the GGUF by llama.cpp
(xllamacpp) and, where FOLDER has the package (`npm install node-llama-cpp`), by node-llama-cpp, and
of the folder by plain transformers. A line of JSON each, and the perplexity of the GGUF against
its source on the shipped everyday texts; exit code 1 where it is above 1.01.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from agent.battery import everyday
from agent.export_folder import export_folder
from agent.exporting import edits_of, export_gguf
from agent.llama_cpp import LlamaCpp
from agent.progress import Silent
from agent.workspace import Workspace

SCRIPT = Path(__file__).parent / "node" / "answers.mjs"
MOST = 1.01
TOKENS = 48
TEXT = 300


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--node", type=Path, help="a folder in which node-llama-cpp is installed")
    options = parser.parse_args()
    with Workspace.open(options.home) as ws, tempfile.TemporaryDirectory() as folder:
        version = ws.store.versions.alias("serving")
        if version is None:
            sys.exit(f"{options.home}: the base model serves, there is nothing to export")
        edits = edits_of(ws, version)
        asked = [edit.probes[0].question for edit in edits]
        path = Path(folder) / "model.gguf"
        export_gguf(ws, version, path, Silent(), check=False)
        export_folder(ws, version, Path(folder) / "hf", "same", Silent())
        answers = {"transformers": by_transformers(Path(folder) / "hf", asked)}
        with LlamaCpp(path) as running:
            answers["llama.cpp"] = running.answer(asked, TOKENS)
        if options.node:
            answers["node-llama-cpp"] = by_node(options.node, path, asked)
        for by, texts in answers.items():
            for edit, text in zip(edits, texts, strict=True):
                right = ws.registry[edit.relation].mentions(text, edit.new, tuple(edit.former))
                told = {"by": by, "question": edit.probes[0].question, "answer": text}
                print(json.dumps({**told, "right": right}, ensure_ascii=False))
            right = sum(
                ws.registry[e.relation].mentions(t, e.new, tuple(e.former))
                for e, t in zip(edits, texts, strict=True)
            )
            print(json.dumps({"by": by, "right": right, "of": len(edits)}))
        tokens = ws.model.encode(" ".join(everyday().texts))[:TEXT]
        word = ws.model.encode(" the")[0]
        losses = []
        for file in (ws.model_path(), path):
            with LlamaCpp(file) as running:
                total, count = running.loss(tokens, word)
            losses.append(total / count)
        ratio = math.exp(losses[1] - losses[0])
        print(json.dumps({"perplexity": ratio, "tokens": len(tokens)}))
    return 1 if ratio > MOST else 0


def by_transformers(folder: Path, asked: Sequence[str]) -> list[str]:
    """Answer from a folder, with nothing but transformers."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    words = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    found = []
    for question in asked:
        prompt = words.apply_chat_template(
            [{"role": "user", "content": question}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        made = model.generate(**prompt, max_new_tokens=TOKENS, do_sample=False)
        found.append(
            words.decode(made[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
        )
    return found


def by_node(folder: Path, path: Path, asked: Sequence[str]) -> list[str]:
    """Answer from a GGUF by node-llama-cpp."""
    script = shutil.copy(SCRIPT, folder)  # node looks for packages beside the script
    done = subprocess.run(
        ["node", script, str(path), *asked],
        check=True,
        capture_output=True,
        text=True,
    )
    return [json.loads(line)["answer"] for line in done.stdout.splitlines() if line[:1] == "{"]


if __name__ == "__main__":
    sys.exit(main())
