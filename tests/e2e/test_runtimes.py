"""Functions in every language that is here, deployed as people do it: from samples, by the command and by AWS's own client."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from scheduler.cli.init import SAMPLES
from scheduler.sandboxes.declarations import read_declarations
from scheduler.sandboxes.offers import find_offers
from tests.e2e.serving import ISOLATION, CannotServe, Served, wait_until
from tests.lambda_api.client import ROLE, connect, refusal, run

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
OFFERS = find_offers(read_declarations(), prefer_public=ISOLATION == "process")
NODE = next((name for name in OFFERS.here if name.startswith("nodejs")), "")
OWN = next(iter(OFFERS.here))
needs_node = pytest.mark.skipif(not NODE, reason="no Node.js of a version that is served is installed")
TOOLS = {"c": ("make", "cc"), "shell": ("curl",), "node": (), "python": ()}


def has_perl() -> bool:
    perl = shutil.which("perl")
    return (
        perl is not None
        and subprocess.run([perl, "-MHTTP::Tiny", "-MJSON::PP", "-e", "1"], capture_output=True).returncode == 0
    )


def perl_of_the_manual(directory: Path) -> str:
    """Writes the runtime that docs/runtimes.md shows as an example; gives its function."""
    text = (ROOT / "docs" / "runtimes.md").read_text().split("### Example: Perl", 1)[1].split("\n### ", 1)[0]
    (declaration,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    bootstrap, function = re.findall(r"```perl\n(.*?)```", text, re.DOTALL)
    directory.mkdir()
    (directory / "perl.toml").write_text(declaration)
    (directory / "bootstrap.pl").write_text(bootstrap)
    return function


@pytest.fixture(scope="module")
def served(place):
    """With the runtime of the manual's example beside ours."""
    function = perl_of_the_manual(place / "runtimes")
    settings = {"http": "127.0.0.1:0", "http_auth": "none", "shells_ahead": 1, "runtimes_dir": place / "runtimes"}
    service = Served(place / "served-runtimes", **settings)
    service.perl = function
    try:
        service.start()
    except CannotServe as error:
        if "isolat" in str(error) or "namespace" in str(error):
            pytest.skip(f"this machine cannot isolate: {error}")
        raise
    yield service
    assert service.stop() == 0


@pytest.fixture(scope="module")
def aws(served):
    client = connect(served.http_port)
    yield client
    client.close()


def scheduler(served, *arguments, code=0):
    done = subprocess.run(
        [sys.executable, "-m", "scheduler", "--socket", served.socket, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, (done.stdout, done.stderr)
    return done


def zipped(**files: str) -> bytes:
    """Names with / for __ and . for what is behind the last _."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, text in files.items():
            info = zipfile.ZipInfo(name.replace("__", "/"))
            info.external_attr = 0o755 << 16
            archive.writestr(info, text)
    return made.getvalue()


def create(aws, name: str, runtime: str, handler: str, files: dict[str, str], **more):
    package = zipped(**files)
    settings = {"MemorySize": 512, "Timeout": 10, **more}
    return aws.create_function(
        FunctionName=name, Runtime=runtime, Handler=handler, Role=ROLE, Code={"ZipFile": package}, **settings
    )


def answer(aws, name: str, event: object = None, **options):
    found = run(aws, name, json.dumps(event if event is not None else {}).encode(), **options)
    return found.get("FunctionError"), json.loads(found["Payload"])


# ---- samples -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("language", ["python", "node", "c", "shell"])
def test_a_sample_from_init_to_invoke(served, aws, tmp_path, language):
    if language == "node" and NODE != "nodejs20.x":
        pytest.skip("the sample names Node.js 20, which is not installed")
    missing = [tool for tool in TOOLS[language] if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} is not installed")
    folder = tmp_path / f"first-{language}"
    scheduler(served, "init", folder, "--language", language)
    assert "there already" in scheduler(served, "init", folder, "--language", language, code=2).stderr
    if language == "c":
        subprocess.run(["make", "-s", "-C", str(folder)], check=True)
    scheduler(served, "deploy", folder)
    said = json.loads(scheduler(served, "invoke", folder.name, '{"name": "you"}').stdout)
    assert said["message"].startswith("hello")
    if language in ("c", "shell"):
        assert said["event"] == {"name": "you"}
    for _ in range(3):
        error, again = answer(aws, folder.name, {"name": "you"})
        assert error is None
        assert again["message"] == said["message"]
    wait_until(lambda: "greeting" in scheduler(served, "logs", folder.name).stdout, 5, "what it printed is in its log")


@pytest.mark.parametrize("language", ["node", "c", "shell"])
def test_the_examples_are_the_samples(language):
    sample = {
        path.name: path.read_text() for path in (SAMPLES / language).iterdir() if path.name != "bootstrap" or language != "c"
    }
    example = EXAMPLES / f"hello-{language}"
    assert sample == {path.name: path.read_text() for path in example.iterdir() if path.name in sample}


@pytest.mark.slow
def test_the_example_of_aws_client(served, aws):
    scheduler(served, "deploy", EXAMPLES / "hello-awslambdaric")
    assert json.loads(scheduler(served, "describe", "hello-awslambdaric", "--json").stdout)["runtime_client"] == "awslambdaric"
    error, said = answer(aws, "hello-awslambdaric", {"name": "you"})
    assert (error, said["message"]) == (None, "hello, you")


@needs_node
@pytest.mark.slow
def test_a_watched_folder_of_javascript(served, tmp_path):
    folder = tmp_path / "watched-js"
    folder.mkdir()
    (folder / "function.toml").write_text(f'runtime = "{NODE}"\nmemory_mb = 512\n')
    (folder / "app.mjs").write_text("export const handler = async () => { console.log('first'); return 1; };\n")
    with (tmp_path / "said").open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-u", "-m", "scheduler", "--socket", served.socket, "dev", str(folder)], stdout=out, stderr=out
        )
    said = tmp_path / "said"
    try:
        wait_until(lambda: b"watching" in said.read_bytes(), 10, "it watches")
        assert scheduler(served, "invoke", "watched-js").stdout.strip() == "1"
        wait_until(lambda: b"first" in said.read_bytes(), 10, "its log is shown")
        (folder / "app.mjs").write_text("export const handler = async () => 22;\n")
        wait_until(lambda: b"revision 2" in said.read_bytes(), 10, "it is deployed again")
        assert scheduler(served, "invoke", "watched-js").stdout.strip() == "22"
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0, said.read_bytes()


# ---- AWS's API -----------------------------------------------------------------------------------------------------------


def test_a_runtime_that_is_not_here(aws):
    code, status, response = refusal(create, aws=aws, name="x", runtime="cobol", handler="a.b", files={"a.py": ""})
    assert (code, status) == ("InvalidParameterValueException", 400)
    message = response["Error"]["Message"]
    assert "Value cobol at 'runtime'" in message
    assert all(name in message for name in OFFERS.here)
    absent = next(iter(OFFERS.missing), None)
    if absent is not None:
        code, status, response = refusal(create, aws=aws, name="x", runtime=absent, handler="a.b", files={"a.py": ""})
        assert (code, status) == ("InvalidParameterValueException", 400)
        assert f"{absent} is known here" in response["Error"]["Message"]
        assert "to install it:" in response["Error"]["Message"]


@needs_node
@pytest.mark.slow
def test_javascript_by_boto3(aws):
    source = """
    const dep = require('dep');
    exports.handler = async (event, context) => {
      if (event.raise) throw new TypeError('no');
      if (event.exit) process.exit(7);
      if (event.sleep) await new Promise((resolve) => setTimeout(resolve, event.sleep));
      console.log('seen', event);
      return { dep: dep.name, version: context.functionVersion, env: process.env.AWS_EXECUTION_ENV, name: process.env.NAME,
               arn: context.invokedFunctionArn, client: context.clientContext, left: context.getRemainingTimeInMillis() > 0 };
    };"""
    layer = aws.publish_layer_version(
        LayerName="deps", Content={"ZipFile": zipped(**{"nodejs/node_modules/dep/index.js": "exports.name = 'of a layer';"})}
    )
    create(
        aws, "js", NODE, "app.handler", {"app.js": source}, Environment={"Variables": {"NAME": "me"}}, Timeout=1,
        Layers=[layer["LayerVersionArn"]], Publish=True,
    )  # fmt: skip
    context = base64.b64encode(b'{"custom": {"a": 1}}').decode()
    error, said = answer(aws, "js", {"a": 1}, ClientContext=context)
    arn = "arn:aws:lambda:local:000000000000:function:js"
    assert error is None
    assert said == {
        "dep": "of a layer", "version": "$LATEST", "env": f"AWS_Lambda_{NODE}", "name": "me", "arn": arn, "left": True,
        "client": {"custom": {"a": 1}},
    }  # fmt: skip
    error, said = answer(aws, "js", {}, Qualifier="1")
    assert (error, said["version"], said["arn"]) == (None, "1", f"{arn}:1")
    error, said = answer(aws, "js", {"raise": True})
    assert (error, said["errorType"], said["errorMessage"]) == ("Unhandled", "TypeError", "no")
    assert said["trace"][0] == "TypeError: no"
    error, said = answer(aws, "js", {"exit": True})
    assert (error, said["errorType"]) == ("Unhandled", "Runtime.ExitError")
    assert "exit status 7" in said["errorMessage"]
    error, said = answer(aws, "js", {"sleep": 5000})
    assert (error, said["errorType"]) == ("Unhandled", "Sandbox.Timedout")
    assert "timed out after 1.00 seconds" in said["errorMessage"]
    assert answer(aws, "js", {})[0] is None, "and the next call has a new process"
    found = run(aws, "js", b"{}", LogType="Tail")
    assert "seen" in base64.b64decode(found["LogResult"]).decode()


STREAMING = """
exports.handler = awslambda.streamifyResponse(async (event, stream) => {
  if (event.fail === 'early') throw new TypeError('early');
  stream.write('one ');
  await new Promise((resolve) => setTimeout(resolve, event.wait ?? 0));
  if (event.fail) throw new RangeError('late');
  stream.write('two');
  stream.end();
});
exports.http = awslambda.streamifyResponse(async (event, stream) => {
  stream = awslambda.HttpResponseStream.from(stream, { statusCode: 201, headers: { 'x-a': 'b' } });
  stream.write('body');
  stream.end();
});
"""


def streamed(aws, event: object) -> tuple[list[tuple[float, bytes]], dict]:
    """(seconds after the first, bytes) of each chunk, and how it ended."""
    answer = aws.invoke_with_response_stream(FunctionName="pieces", Payload=json.dumps(event).encode())
    chunks, end, began = [], {}, None
    for part in answer["EventStream"]:
        if "PayloadChunk" in part:
            began = began or time.monotonic()
            chunks.append((time.monotonic() - began, part["PayloadChunk"]["Payload"]))
        else:
            end = part["InvokeComplete"]
    return chunks, end


@needs_node
@pytest.mark.slow
def test_javascript_that_answers_in_pieces(served, aws):
    create(aws, "pieces", NODE, "app.handler", {"app.js": STREAMING})
    assert run(aws, "pieces")["Payload"] == b"one two"
    chunks, end = streamed(aws, {"wait": 300})
    assert b"".join(data for _, data in chunks) == b"one two"
    assert chunks[-1][0] >= 0.2, "the first piece did not wait for the second"
    assert "ErrorCode" not in end
    chunks, end = streamed(aws, {"fail": "early"})
    assert (chunks, end["ErrorCode"]) == ([], "TypeError")
    chunks, end = streamed(aws, {"fail": "late"})
    assert [data for _, data in chunks] == [b"one "]
    assert end["ErrorCode"] == "RangeError"
    assert json.loads(end["ErrorDetails"])["errorMessage"] == "late"


@needs_node
@pytest.mark.slow
def test_javascript_behind_a_url(served, aws):
    create(aws, "page", NODE, "app.http", {"app.js": STREAMING})
    made = aws.create_function_url_config(FunctionName="page", AuthType="NONE", InvokeMode="RESPONSE_STREAM")
    permit = {"FunctionName": "page", "Principal": "*"}
    aws.add_permission(**permit, StatementId="u", Action="lambda:InvokeFunctionUrl", FunctionUrlAuthType="NONE")
    aws.add_permission(**permit, StatementId="f", Action="lambda:InvokeFunction", InvokedViaFunctionUrl=True)
    place = urlsplit(made["FunctionUrl"])
    asked = urllib.request.Request(f"http://127.0.0.1:{served.http_port}/", headers={"Host": place.netloc})
    with urllib.request.urlopen(asked, timeout=30) as found:
        assert (found.status, found.headers["x-a"], found.read()) == (201, "b", b"body")


@needs_node
@pytest.mark.slow
def test_what_a_started_process_cannot_take_reaches_the_function_all_the_same(aws):
    source = (
        "exports.handler = async () => ({ limit: process.execArgv, options: process.env.NODE_OPTIONS, title: process.title });"
    )
    variables = {"NODE_OPTIONS": "--title=mine"}
    create(aws, "options", NODE, "app.handler", {"app.js": source}, Environment={"Variables": variables})
    assert answer(aws, "options")[1] == {"limit": [], "options": "--title=mine", "title": "mine"}


@needs_node
@pytest.mark.slow
@pytest.mark.parametrize(
    ("handler", "error_type"),
    [
        ("gone.handler", "Runtime.ImportModuleError"),
        ("app.gone", "Runtime.HandlerNotFound"),
        ("app", "Runtime.MalformedHandlerName"),
    ],
)
def test_what_fails_in_a_javascript_init(aws, handler, error_type):
    name = f"broken-{handler.replace('.', '-')}"
    create(aws, name, NODE, handler, {"app.js": "exports.handler = async () => 1;"})
    error, said = answer(aws, name)
    assert (error, said["errorType"]) == ("Unhandled", error_type)


@pytest.mark.slow
def test_the_client_is_chosen_by_a_variable_where_the_api_has_no_member(served, aws):
    source = "import sys\ndef handler(event, context): return 'awslambdaric' in sys.modules"
    create(aws, "which", OWN, "app.handler", {"app.py": source})
    assert answer(aws, "which") == (None, False)
    variables = {"SCHEDULER_RUNTIME_CLIENT": "awslambdaric"}
    aws.update_function_configuration(FunctionName="which", Environment={"Variables": variables})
    assert answer(aws, "which") == (None, True)
    aws.update_function_configuration(FunctionName="which", Environment={"Variables": {}})
    assert answer(aws, "which") == (None, False)
    wrong = {"Variables": {"SCHEDULER_RUNTIME_CLIENT": "mine"}}
    code, _, response = refusal(aws.update_function_configuration, FunctionName="which", Environment=wrong)
    assert code in ("InvalidParameterValueException", "ValidationException")
    assert "own, awslambdaric" in response["Error"]["Message"]
    with served.client() as client:
        assert client.get("which").runtime_client == "own"


@pytest.mark.slow
def test_a_program_of_its_own_that_is_missing(aws):
    create(aws, "empty", "provided.al2023", "any", {"readme.txt": "no bootstrap"})
    error, said = answer(aws, "empty")
    assert (error, said["errorType"]) == ("Unhandled", "Runtime.InvalidEntrypoint")


EXTENSION = """#!/bin/sh
api="http://$AWS_LAMBDA_RUNTIME_API/2020-01-01/extension"
id=$(curl -sS -D - -o /dev/null -H 'Lambda-Extension-Name: watcher' --data '{"events":["INVOKE"]}' "$api/register" |
  tr -d '\\r' | sed -n 's/^[Ll]ambda-[Ee]xtension-[Ii]dentifier: *//p')
while true; do
  curl -sS -H "Lambda-Extension-Identifier: $id" "$api/event/next" >>/tmp/events || exit 1
done
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="the extension needs curl")
def test_a_layer_with_an_extension_makes_python_speak_the_runtime_api(aws):
    layer = aws.publish_layer_version(LayerName="watcher", Content={"ZipFile": zipped(**{"extensions/watcher": EXTENSION})})
    source = """
import os
def handler(event, context):
    return [os.environ.get("AWS_LAMBDA_RUNTIME_API"), open("/tmp/events").read().count("INVOKE")]
"""
    create(aws, "watched", OWN, "app.handler", {"app.py": source}, Layers=[layer["LayerVersionArn"]], MemorySize=1769)
    assert answer(aws, "watched")[0] is None
    error, said = answer(aws, "watched")
    assert error is None
    assert said[0] is not None
    assert said[1] >= 1, "the extension heard of the first call"


TELLS = """#!/bin/sh
api="http://$AWS_LAMBDA_RUNTIME_API/2020-01-01/extension"
id=$(curl -sS -D - -o /dev/null -H 'Lambda-Extension-Name: teller' --data '{"events":["SHUTDOWN"]}' "$api/register" |
  tr -d '\\r' | sed -n 's/^[Ll]ambda-[Ee]xtension-[Ii]dentifier: *//p')
curl -sS -H "Lambda-Extension-Identifier: $id" "$api/event/next"
sleep 1
echo said
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="the extension needs curl")
def test_a_crash_is_answered_at_once_and_extensions_hear_of_it(served, aws):
    layer = aws.publish_layer_version(LayerName="teller", Content={"ZipFile": zipped(**{"extensions/teller": TELLS})})
    source = "import os\ndef handler(event, context):\n    return os._exit(5) if event.get('end') else 1"
    create(aws, "crashes", OWN, "app.handler", {"app.py": source}, Layers=[layer["LayerVersionArn"]], MemorySize=1769)
    assert answer(aws, "crashes") == (None, 1)
    began = time.monotonic()
    error, said = answer(aws, "crashes", {"end": True})
    assert time.monotonic() - began < 0.9, "the caller does not wait for extensions"
    assert (error, said["errorType"]) == ("Unhandled", "Runtime.ExitError")
    assert "exit status 5" in said["errorMessage"]

    def told() -> bool:
        log = scheduler(served, "logs", "crashes").stdout
        return '"shutdownReason":"failure"' in log and "said" in log

    wait_until(told, 10, "it heard, and had its time")
    assert answer(aws, "crashes") == (None, 1)


ONE_CALL_EACH = """#!/bin/sh
api="http://$AWS_LAMBDA_RUNTIME_API/2018-06-01/runtime/invocation"
id=$(curl -sS -D - -o /dev/null "$api/next" | tr -d '\\r' | sed -n 's/^[Ll]ambda-[Rr]untime-[Aa]ws-[Rr]equest-[Ii]d: *//p')
sleep 0.1
curl -sS -o /dev/null --data '"once"' "$api/$id/response"
exit 3
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="the program needs curl")
def test_a_call_that_a_runtime_did_not_begin_does_not_share_its_end(aws):
    create(aws, "once", "provided.al2023", "any", {"bootstrap": ONE_CALL_EACH}, MemorySize=1769)
    aws.put_function_concurrency(FunctionName="once", ReservedConcurrentExecutions=1)
    assert answer(aws, "once") == (None, "once")
    with ThreadPoolExecutor(2) as callers:  # the second waits for the first one's sandbox, which ends after it
        assert list(callers.map(lambda _: answer(aws, "once"), range(2))) == [(None, "once")] * 2


# ---- one's own -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not has_perl(), reason="perl with HTTP::Tiny and JSON::PP is not installed")
def test_the_runtime_of_the_manual_runs(served, aws, tmp_path):
    folder = tmp_path / "perl-hello"
    folder.mkdir()
    (folder / "app.pl").write_text(served.perl)
    scheduler(served, "deploy", folder, "--runtime", "perl5", "--handler", "app.handler", "--memory", "512")
    assert json.loads(scheduler(served, "invoke", "perl-hello", '{"name": "you"}').stdout) == {"hello": "you"}
    assert answer(aws, "perl-hello", {"name": "me"}) == (None, {"hello": "me"})
    (folder / "app.pl").write_text("sub handler { die 'no' } 1;\n")
    scheduler(served, "deploy", folder)
    error, said = answer(aws, "perl-hello")
    assert (error, said["errorType"]) == ("Unhandled", "Function.PerlError")


def test_a_broken_file_stops_the_start_and_says_where(place):
    directory = place / "broken-runtimes"
    directory.mkdir()
    (directory / "x.toml").write_text('name = "x"\n')
    service = Served(place / "served-broken", runtimes_dir=directory)
    with pytest.raises(CannotServe, match=r"x\.toml: argv: None is not a list of 1 to 64 texts"):
        service.start()
