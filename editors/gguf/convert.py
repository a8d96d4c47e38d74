"""A GGUF as a model folder that ``transformers`` loads: converted once, kept by its hash."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from editors.gguf import container
from editors.gguf.container import GgufFile
from editors.gguf.tokenizer import split_as_said
from editors.model_files import ModelError, first_line

FORM = 2
"""Of what is kept: a folder of another form is made anew."""


def converted(path: Path, folder: Path) -> Path:
    """Convert a file once; a half-written folder never gets the name.

    Weights become float32, the tokenizer splits as the file says, the chat template is kept.

    Raises ModelError: the file is damaged, has no tokenizer, is an export of ours, is of an
    architecture or type that is not read, or there is no room.
    """
    if (folder / "config.json").exists():
        return folder
    source = checked(path)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".convert-", dir=folder.parent))
    try:
        where: dict[str, Any] = {
            "pretrained_model_name_or_path": path.parent,
            "gguf_file": path.name,
        }
        tokenizer = AutoTokenizer.from_pretrained(**where)
        split_as_said(tokenizer, str(source.get("tokenizer.ggml.pre", "")))
        model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
        # A model loaded from GGUF is marked quantised and refuses to be saved: rebuild it.
        settings = model.config.to_dict()
        settings.pop("quantization_config", None)
        config = AutoConfig.for_model(**settings)
        plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        plain.load_state_dict(model.state_dict())
        plain.generation_config = model.generation_config
        plain.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        (temporary / "source.json").write_text(json.dumps({"gguf": path.name}))
        temporary.replace(folder)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        if (folder / "config.json").exists():  # another process converted it meanwhile
            return folder
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ModelError(f"no room in {folder.parent} for the weights of {path}") from error
        raise ModelError(f"{path} cannot be read as a model: {first_line(error)}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def checked(path: Path) -> GgufFile:
    """Read what a file is, without its weights.

    Raises ModelError for one that is damaged, or whole and yet no chat model to be edited.
    """
    source = container.read(path)
    if source.get("corrigenda.base") is not None:
        raise ModelError(
            f"{source.path} is an export with {source.get('corrigenda.edits')} edits in it; set "
            "model.path to the model that it was made from, and the edits stay editable"
        )
    if source.get("tokenizer.ggml.tokens") is None:
        raise ModelError(f"{source.path} has no tokenizer; set model.path to a chat model")
    if not source.tensors:
        raise ModelError(f"{source.path} holds no weights; set model.path to a chat model")
    return source
