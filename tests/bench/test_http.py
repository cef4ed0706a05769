"""HTTP as the bench speaks it: the generator tells what came back, the floor hands bodies to workers, wrk's words are read."""

import io
import json
import socket
import threading
import zipfile

import pytest

from bench import programs, web
from bench.context import noise_of
from bench.questions.http_upload import never_seen


@pytest.fixture
def payload(tmp_path):
    return programs.payload_file(tmp_path, 100)


def asked(tmp_path, port, body):
    path = tmp_path / "request"
    path.write_bytes(web.request(port, "/", body))
    return path


def test_a_request_is_whole_and_says_its_length():
    head, _, body = web.request(80, "/x", b'{"a": 1}').partition(b"\r\n\r\n")
    assert body == b'{"a": 1}'
    assert head.split(b"\r\n") == [
        b"POST /x HTTP/1.1",
        b"Host: 127.0.0.1:80",
        b"Content-Type: application/json",
        b"Content-Length: 8",
    ]


def test_a_signed_request_signs_what_is_sent():
    sent = web.request(9000, web.invoke_path("f"), b"{}", web.Key("AKID", "secret")).decode()
    assert "Authorization: AWS4-HMAC-SHA256 Credential=AKID/" in sent
    assert "SignedHeaders=content-type;host;x-amz-date" in sent
    assert sent.count("Host:") == 1


@pytest.mark.parametrize("connections", [1, 7])
def test_the_generator_against_the_front_that_echoes(tmp_path, payload, connections):
    with web.front() as port:
        what = asked(tmp_path, port, payload.read_bytes())
        done = web.http_load(port, what, expect=payload, connections=connections, count=200, warmup_ms=0)
    assert done["statuses"] == {"200": done["ok"]}
    assert done["ok"] >= 200
    assert 0 < done["p50_us"] <= done["p99_us"] <= done["max_us"]


def test_an_answer_of_another_body_is_wrong_and_no_throughput(tmp_path, payload):
    other = tmp_path / "other"
    other.write_bytes(payload.read_bytes().replace(b"Ada", b"Eve"))
    with web.front() as port:
        what = asked(tmp_path, port, payload.read_bytes())
        done = web.http_load(port, what, checked=False, expect=other, duration_ms=30, warmup_ms=0)
        assert done["ok"] == 0
        assert done["mismatched"] > 0
        with pytest.raises(RuntimeError, match="of another body"):
            web.http_load(port, what, expect=other, duration_ms=30, warmup_ms=0)


def test_a_refusal_is_counted_by_its_status(tmp_path, payload):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def refuse():
            peer, _ = server.accept()
            with peer:
                while peer.recv(4096):
                    peer.sendall(b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 2\r\n\r\n{}")

        thread = threading.Thread(target=refuse)
        thread.start()
        port = server.getsockname()[1]
        done = web.http_load(port, asked(tmp_path, port, b"{}"), checked=False, duration_ms=30, warmup_ms=0)
        thread.join(5)
    assert done["ok"] == 0
    assert done["statuses"]["429"] > 0


def test_a_server_that_closes_is_an_error_and_not_a_figure(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=lambda: server.accept()[0].close())
        thread.start()
        port = server.getsockname()[1]
        with pytest.raises(RuntimeError, match="closed a connection"):
            web.http_load(port, asked(tmp_path, port, b"{}"), duration_ms=1000)
        thread.join(5)


@pytest.mark.slow
def test_the_front_with_python_workers_gives_each_client_its_own_answer(tmp_path, payload):
    with web.front(workers=2) as port:
        what = asked(tmp_path, port, payload.read_bytes())
        done = web.http_load(port, what, expect=payload, connections=20, count=500, warmup_ms=0)
        assert done["ok"] >= 500
        clients = [socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(6)]
        for number, client in enumerate(clients):
            client.sendall(web.request(port, "/", json.dumps({"number": number}).encode()))
        for number, client in enumerate(clients):
            assert client.recv(4096).endswith(b'{"number": %d}' % number)
            client.close()


def test_held_connections_are_told_when_they_were_cut(tmp_path):
    with web.front() as port, web.held(port, asked(tmp_path, port, b"{}"), 50) as end:
        pass
    assert end == {"cut": 0, "refused": 0}


def test_what_wrk_says():
    line = 'RESULT {"requests": 3000, "duration_us": 1500000, "failed": 0, "p50_us": 12.0, "p99_us": 80.5}'
    assert web.wrk_result(f"Running 1s test\n{line}\n", "") == web.Throughput(2000.0, 12.0, 80.5)


@pytest.mark.parametrize(
    ("out", "err", "text"),
    [
        ("", "unable to connect", "unable to connect"),
        ('RESULT {"requests": 5, "duration_us": 1, "failed": 2, "p50_us": 1, "p99_us": 1}', "", "2 of 5 calls failed"),
        ('RESULT {"requests": 0, "duration_us": 1, "failed": 0, "p50_us": 1, "p99_us": 1}', "", "0 of 0"),
    ],
)
def test_wrk_failing_is_no_figure(out, err, text):
    with pytest.raises(RuntimeError, match=text):
        web.wrk_result(out, err)


def test_a_copy_of_an_archive_is_another_and_reads_the_same():
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("app.py", "x = 1")
    copies = [never_seen(made.getvalue(), number) for number in (1, 2)]
    assert len({made.getvalue(), *copies}) == 3
    for copy in copies:
        with zipfile.ZipFile(io.BytesIO(copy)) as archive:
            assert archive.testzip() is None
            assert archive.read("app.py") == b"x = 1"


def test_noise_is_what_figures_differ_by_and_never_less_than_a_run_from_another():
    assert noise_of([1.0, 1.0, 1.1]) == 1.3
    assert noise_of([1.0, 2.0, 6.0]) == 3.0
