"""export: the corrected model as files that other programs run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent.commands import output
from agent.commands.shell import FAILED, AsJson, group, shell

if TYPE_CHECKING:
    from agent.exporting import Checked, Exported

app = group("The corrected model as files: GGUF (llama.cpp, Ollama), Hugging Face, Modelfile.")

Which = Annotated[
    str, typer.Option("--version", help="An id, its beginning, or an alias; base: no edits.")
]
Force = Annotated[bool, typer.Option("--force", help="Write over a file that is there.")]


@app.command("gguf", epilog="Example: corrigenda export gguf corrected.gguf")
def gguf(
    ctx: typer.Context,
    out: Annotated[Path, typer.Argument(help="The file to write, or a folder for it.")],
    version: Which = "serving",
    type: Annotated[
        str, typer.Option("--type", help="same, or of all weights: q8_0, f16, q4_k, …")
    ] = "same",
    padded: Annotated[
        bool, typer.Option("--padded", help="Keep the architecture's name; all layers widen.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="Ask the file by llama.cpp, and rescue.")
    ] = True,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Write a GGUF: every tensor that no edit touched is the source's, byte for byte.

    The corrections' questions are then asked of the file itself, by llama.cpp; what quantising
    took away is rescued by finer types for the matrices that carry the edits.
    """
    from agent.exporting import exported

    with shell(ctx).open() as ws:
        found = ws.store.versions.find(version)
        made = exported(
            ws,
            found,
            out,
            shell(ctx).progress(),
            type=type,
            padded=padded,
            check=check,
            force=force,
        )
    if as_json:
        output.dump(made)
    else:
        _show(made)
    if made.checked and not made.checked.held:
        raise typer.Exit(FAILED)


@app.command("hf", epilog="Example: corrigenda export hf corrected-model --type bf16")
def hf(
    ctx: typer.Context,
    out: Annotated[Path, typer.Argument(help="The folder to make.")],
    version: Which = "serving",
    type: Annotated[str, typer.Option("--type", help="f32, f16 or bf16; same: the model's.")] = (
        "same"
    ),
    as_json: AsJson = False,
) -> None:
    """Write a Hugging Face folder that loads with no code of corrigenda.

    Such a folder has one width for all layers: the layers without edits are padded with zeros.
    """
    from agent.export_folder import export_folder

    with shell(ctx).open() as ws:
        made = export_folder(ws, ws.store.versions.find(version), out, type, shell(ctx).progress())
    if as_json:
        output.dump({**vars(made), "folder": str(made.folder)})
        return
    output.details(
        [
            ("folder", made.folder),
            ("size", f"{made.bytes:,} bytes"),
            ("edits in", f"{made.neurons} neurons" + (f", {made.heads} heads" * bool(made.heads))),
            ("added by edits", f"{made.parameters_added_by_edits:,} parameters"),
            ("added by padding", f"{made.parameters_added_by_padding:,} parameters, all zero"),
        ]
    )


@app.command("modelfile", epilog="Example: corrigenda export modelfile corrected.gguf")
def modelfile(
    ctx: typer.Context,
    gguf: Annotated[Path, typer.Argument(help="An exported GGUF; the Modelfile goes beside it.")],
    force: Force = False,
) -> None:
    """Write an Ollama Modelfile for an exported GGUF: `ollama create NAME -f Modelfile`."""
    from agent.export_folder import export_modelfile

    with shell(ctx).open() as ws:
        print(export_modelfile(ws, gguf, force))


def _show(made: Exported) -> None:
    growth = made.size / made.source_size - 1
    rows = [
        ("file", made.path),
        ("size", f"{made.size:,} bytes, {growth:+.1%} against the source"),
        ("sha256", made.sha256),
        ("version", f"{made.version[:12] if made.version else 'base'}, {made.edits} edits"),
        ("llama.cpp", f"architecture {made.architecture}"),
    ]
    if made.neurons:
        types = ", ".join(f"{part} {name}" for part, name in made.types.items())
        heads = f" and {made.heads} heads" if made.heads else ""
        rows.append(("edits in", f"{made.neurons} neurons{heads} ({types})"))
    if made.padding:
        rows.append(("padding", f"{made.padding:,} bytes of zeros in the other layers"))
    rows.append(("tensors", f"{made.copied} as in the source, {len(made.changed)} written anew"))
    output.details(rows)
    if made.checked:
        _show_checked(made.checked)
    elif made.edits:
        print("not asked: llama.cpp was not run on the file (--check)")


def _show_checked(checked: Checked) -> None:
    print()
    for one in checked.tries:
        types = ", ".join(f"{part} {name}" for part, name in one.types.items())
        print(f"  {types}: {one.passed.point:.1%} of {one.passed.n} questions")
    print(
        f"asked of the file: {checked.exported.point:.1%} of {checked.exported.n} questions are "
        f"answered with the new value; unquantised, {checked.weights.point:.1%}"
    )
    if not checked.held:
        print("that is more than a point lost; --type f16 may keep more")
