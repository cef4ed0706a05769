"""`scheduler secrets`, `env` and `keys` against a whole service, each as a process, as others on the machine see them."""

from __future__ import annotations

import base64
import json
import subprocess
import sys

import pytest

from tests.lambda_api.client import refusal

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture
def run(guarded):
    def call(*args, stdin=b"", code=0):
        done = subprocess.run(
            [sys.executable, "-m", "scheduler", "--socket", guarded.socket, *args],
            input=stdin,
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == code, done.stderr.decode()
        return done

    return call


def test_a_secret_from_its_making_to_its_end(run, tmp_path):
    assert b"created db/one" in run("secrets", "put", "db/one", stdin=b"first\n").stdout
    assert run("secrets", "get", "db/one").stdout == b"first"
    (tmp_path / "value").write_bytes(b"second")
    run("secrets", "rotate", "db/one", "--file", str(tmp_path / "value"))
    assert run("secrets", "get", "db/one").stdout == b"second"
    assert run("secrets", "get", "db/one", "--stage", "AWSPREVIOUS").stdout == b"first"
    run("secrets", "put", "db/one", "--stage", "AWSPENDING", stdin=b"third")
    assert run("secrets", "get", "db/one").stdout == b"second"
    run("secrets", "rotate", "db/one", "--pending")
    assert run("secrets", "get", "db/one").stdout == b"third"
    run("secrets", "rotate", "db/one", "--generate", "40")
    assert len(run("secrets", "get", "db/one").stdout) == 40
    run("secrets", "put", "db/raw", "--binary", stdin=b"\0\xff")
    assert run("secrets", "get", "db/raw").stdout == b"\0\xff"
    listed = run("secrets", "list")
    assert b"db/one" in listed.stdout
    assert b"third" not in listed.stdout + run("secrets", "list", "--json").stdout
    run("secrets", "remove", "db/one")
    assert b"marked for deletion" in run("secrets", "get", "db/one", code=3).stderr
    run("secrets", "remove", "db/one", "--restore")
    for name in ("db/one", "db/raw"):
        run("secrets", "remove", name, "--now")
    assert b"ResourceNotFoundException" in run("secrets", "get", "db/one", code=3).stderr
    assert b"1 to 65536" in run("secrets", "put", "empty", code=2).stderr


def test_a_variable_is_encrypted_for_one_function(run, as_, tmp_path):
    (tmp_path / "value").write_bytes(b"planted")
    out = run("env", "encrypt", "--function", "hello", "ONE=first", f"TWO=@{tmp_path}/value", "--json").stdout
    made = json.loads(out)
    kms = as_("kms")
    for name, plain in (("ONE", b"first"), ("TWO", b"planted")):
        sealed = base64.b64decode(made[name])
        assert kms.decrypt(CiphertextBlob=sealed, EncryptionContext={"LambdaFunctionName": "hello"})["Plaintext"] == plain
        assert (
            refusal(kms.decrypt, CiphertextBlob=sealed, EncryptionContext={"LambdaFunctionName": "copy"})[0]
            == "InvalidCiphertextException"
        )
    assert run("env", "encrypt", "--function", "hello", "THREE", stdin=b"planted\n").stdout.startswith(b"THREE=c0tN")


def test_keys_are_listed_and_turned_over(run):
    before = json.loads(run("keys", "list", "--json").stdout)
    run("keys", "rotate")
    after = json.loads(run("keys", "list", "--json").stdout)
    assert len(after["keys"]) == len(before["keys"]) + 1
    assert [key["data_keys"] for key in after["keys"][:-1]] == [0] * len(before["keys"])
    assert b"destroyed" in run("keys", "rotate", "--retire").stdout
    assert len(json.loads(run("keys", "list", "--json").stdout)["keys"]) == 1
    assert b"wraps now" in run("keys", "list").stdout
