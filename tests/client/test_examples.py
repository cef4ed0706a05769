"""The sample functions and the sample client do what their first lines say."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.client.fake_service import Refusal

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def load(path: Path, monkeypatch):
    monkeypatch.syspath_prepend(str(path.parent))
    spec = importlib.util.spec_from_file_location(f"example_{path.parent.name}_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CONTEXT = SimpleNamespace(
    function_name="hello", function_version="$LATEST", memory_limit_in_mb="128", get_remaining_time_in_millis=lambda: 3000
)


def test_hello(monkeypatch, capsys):
    hello = load(EXAMPLES / "hello" / "app.py", monkeypatch)
    assert hello.handler({"name": "you"}, CONTEXT)["message"] == "Hello, you!"
    assert capsys.readouterr().out == "greeting you\n"
    monkeypatch.setenv("GREETING", "Salut")
    assert hello.handler([], CONTEXT)["message"] == "Salut, world!"


def test_wordcount(monkeypatch):
    monkeypatch.delitem(sys.modules, "words", raising=False)
    wordcount = load(EXAMPLES / "wordcount" / "app.py", monkeypatch)
    answer = wordcount.handler({"text": "a rose is a rose", "top": 2}, CONTEXT)
    assert answer == {"words": 5, "top": {"a": 2, "rose": 2}}
    with pytest.raises(TypeError, match="text must be a string, not int"):
        wordcount.handler({"text": 5}, CONTEXT)
    monkeypatch.delitem(sys.modules, "words", raising=False)


def test_the_sample_client_calls_many_at_once(service, monkeypatch, capsys):
    def hello(params):
        name = json.loads(params[1])["name"]
        if name == "number 7" and len(params) > 2:  # the trio half says how long it waits
            raise Refusal("Throttled", "full", account="function:hello", resource="concurrency", retry_after_ms=3)
        return [json.dumps({"message": f"Hello, {name}!"}).encode(), None]

    service.methods["invoke"] = hello
    client = load(EXAMPLES / "call_many.py", monkeypatch)
    client.main(service.address)
    assert capsys.readouterr().out == "100 answers, the last: Hello, number 99!\n" * 2
    assert len(service.requests) == 200
