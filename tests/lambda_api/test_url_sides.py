"""Function URLs: the engine and the control plane make the same event of a request, and the same answer of a result, byte for
byte. What the engine leaves to the control plane says nothing here; that it takes what is usual is asked by tables."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.lambda_api.url_sides import URL_ID, engine_event, engine_reply, plane_event, plane_reply

HOST = f"{URL_ID}.lambda-url.local.localhost:9000"


def http(target="/", headers=(), body=b"", method="GET", host=HOST):
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


USUAL = {
    "least": http(),
    "query": http("/a%20b/%C3%A9?a=1&a=2&b=%26+x&&c=&d&=e&a=%2B3"),
    "only ands": http("/?&&"),
    "empty query": http("/?"),
    "question in the query": http("/p?a=b?c=d"),
    "quotes": http('/"\\?"=\\&%22%5C%0A%00=%7F'),
    "cookies": http("/", ['Cookie: a=1; b="2";; ;c', "X: y", "cookie: d=4"]),
    "empty cookie": http("/", ["Cookie: ;"]),
    "headers": http("/", ["X-One: 1", "x-one:2", "X-ONE: ", "Accept: */*", "Tab: a\tb", 'Q: "\\/', "Empty:"]),
    "agents": http("/", ["User-Agent: a (b)", "User-Agent: c"]),
    "forwarded": http("/", ["X-Forwarded-For: 1.2.3.4", "X-Forwarded-Proto: https"]),
    "text": http("/", ["Content-Type: text/plain; charset=utf-8"], 't\xe9xt\n\x00"'.encode(), "POST"),
    "json": http("/", ["Content-Type: application/json"], b'{"a": [1, 2]}', "POST"),
    "json of a kind": http("/", ["Content-Type: application/ld+JSON;x=y"], b"{}", "PUT"),
    "form": http("/", ["Content-Type: application/x-www-form-urlencoded"], b"a=b", "POST"),
    "json not at its place": http("/", ["Content-Type: application/jsonp"], b"{}", "PATCH"),
    "binary": http("/", ["Content-Type: image/png"], bytes(range(256)), "POST"),
    "no type": http("/", [], b"ab", "DELETE"),
    "text that is none": http("/", ["Content-Type: text/plain"], b"\xff\xfe", "POST"),
    "closing": http("/", ["Connection: close", "X-Amzn-Trace-Id: Root=1-a"]),
    "of no invocation": http("/", ["X-Amz-Invocation-Type: Event", "X-Amz-Client-Context: x"]),
    "a path as an invocation's": http("/2015-03-31/functions/f/invocations", [], b"{}", "POST"),
    "without a port": http("/", host=HOST.partition(":")[0]),
}


@pytest.mark.parametrize("name", USUAL)
@pytest.mark.parametrize("signer", [None, ("000000000000", "AKIA1")], ids=["anybody", "signed"])
def test_the_engine_makes_the_control_planes_event(name, signer):
    made = engine_event(USUAL[name], signer)
    assert made is not None, "it was handed over"
    assert made == plane_event(USUAL[name], signer)
    assert json.loads(made)["version"] == "2.0"


UNUSUAL = {
    "capitals": http("/", host=HOST.upper()),
    "another id": http("/", host="1" + HOST[1:]),
    "no region": http("/", host=f"{URL_ID}.lambda-url.localhost"),
    "port": http("/", host=HOST + "0000"),
    "half an escape": http("/%2"),
    "latin": http("/%E9"),
    "latin in the query": http("/?a=%E9"),
    "no hex": http("/?a=%zz"),
    "many fields": http("/?" + "a&" * 80),
    "not ascii": http("/", ["X: \xe9"]),
    "date twice": http("/", ["X-Amz-Date: a", "X-Amz-Date: a"]),
    "own twice": http("/", ["X-Amz-Mine: a", "X-Amz-Mine: a"]),
    "type twice": http("/", ["Content-Type: text/plain", "Content-Type: a/b"], b"x", "POST"),
    "options": http("/", method="OPTIONS"),
    "head": http("/", method="HEAD"),
    "coded": http("/", ["Content-Encoding: gzip"], b"x", "POST"),
    "upgrade": http("/", ["Upgrade: h2c"]),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_the_engine_hands_over(name):
    assert engine_event(UNUSUAL[name]) is None


def made_of(*pieces, most):
    return st.lists(st.sampled_from(pieces), max_size=most).map("".join)


# What most requests are made of stands often, so that not all are handed over.
TEXT = made_of(*"ab=&ab=&+;/.:?~", '"', "\\", " ", "\t", "%20", "%C3%A9", most=10) | made_of(
    *"a%=#,", "%2", "%e9", "\n", "\x7f", "\xe9", most=6
)
NAMES = st.sampled_from(["X-A", "x-a", "Cookie", "Content-Type", "User-Agent", "x-forwarded-for", "X-Amz-Y", "Origin"])
VALUES = TEXT | st.sampled_from(["text/html", "application/json", "application/a+xml;b", "a=1; b=2", "keep-alive"])


@given(
    target=TEXT,
    query=st.none() | TEXT,
    headers=st.lists(st.tuples(NAMES, VALUES), max_size=5),
    body=st.binary(max_size=12) | TEXT.map(lambda text: text.encode()),
    method=st.sampled_from(["GET", "POST", "PUT", "X"]),
)
def test_any_request_that_the_engine_takes(target, query, headers, body, method):
    whole = f"/{target}" + ("" if query is None else f"?{query}")
    data = http(whole, [f"{name}: {value}" for name, value in headers], body, method)
    made = engine_event(data)
    if made is not None:
        assert made == plane_event(data)


# ---- answers -----------------------------------------------------------------------------------------------------------------


def answer(**parts):
    return json.dumps({"statusCode": 200, **parts}).encode()


USUAL_ANSWERS = {
    "least": answer(),
    "text": b'"a \\u00e9\\ud83d\\ude00 \xc3\xa9\\n\\/"',
    "any JSON": b' {"a": [1, "\\"}", {}], "b": null}\n',
    "a list": b"[1, 2]",
    "a number": b"12",
    "null": b"null",
    "status": b'{"statusCode":"404"}',
    "status at the end": b'{"body": "{\\"statusCode\\": 5}", "x": {"statusCode": 9}, "statusCode":201}',
    "unknown status": b'{"statusCode":299}',
    "none": b'{"statusCode":204,"body":"x"}',
    "not modified": b'{"statusCode":304}',
    "body": answer(body='\u00e9\x00\t"\\ \U0001f600'),
    "null body": answer(body=None),
    "base64": answer(body="AP8=", isBase64Encoded=True),
    "base64 in other words": b'{"statusCode":200,"body":"\\/\\u002b8=","isBase64Encoded":true}',
    "no base64": answer(body="AP8=", isBase64Encoded=False),
    "base64 of one": answer(body="QQ==", isBase64Encoded=True),
    "base64 of nothing": answer(body="", isBase64Encoded=True),
    "headers": answer(headers={"X-A": " b\t", "x-a": "", "N": 5, "M": -12, "T": True, "Z": None, "Q": 'a"\\/'}),
    "type": answer(headers={"content-TYPE": "text/html"}),
    "no headers": answer(headers=None, cookies=None),
    "cookies": answer(cookies=["a=1; Path=/", " b=2 "]),
    "twice": b'{"statusCode":500,"statusCode":200,"body":"a","body":"b"}',
    "blanks": b' { "statusCode" : 200 , "headers" : { "A" : "b" , "C" : 1 } , "cookies" : [ "a" , "b" ] , "body" : "c" } ',
}


@pytest.mark.parametrize("close", [False, True], ids=["open", "closing"])
@pytest.mark.parametrize("name", USUAL_ANSWERS)
def test_the_engine_makes_the_control_planes_answer(name, close):
    made = engine_reply(USUAL_ANSWERS[name], close=close)
    assert made is not None, "it was handed over"
    assert made == plane_reply(USUAL_ANSWERS[name], close=close)


UNUSUAL_ANSWERS = [
    b"",
    b"{",
    b"NaN",
    b'"\xff"',
    b'"\\ud800"',
    b'{"statusCode":99}',
    b'{"statusCode":600}',
    b'{"statusCode":200.0}',
    b'{"statusCode":true}',
    b'{"statusCode":"x"}',
    b'{"status\\u0043ode":200}',
    answer(headers=["x"]),
    answer(headers={"a": "b\r\nc: d"}),
    answer(headers={"bad name": "b"}),
    answer(headers={"": "b"}),
    answer(headers={"a": "\u00e9"}),
    answer(headers={"a": 1.5}),
    answer(headers={"a": []}),
    answer(headers={"Connection": "x"}),
    answer(headers={"X-Amzn-RequestId": "x"}),
    b'{"statusCode":200,"headers":{"a":"1","a":"2"}}',
    answer(headers={f"h{n}": "" for n in range(70)}),
    answer(cookies="a"),
    answer(cookies=["a\nb"]),
    answer(cookies=[1]),
    answer(body={"a": 1}),
    answer(body="!", isBase64Encoded=True),
    answer(body="QQ", isBase64Encoded=True),
    answer(body="QQ=", isBase64Encoded=True),
    answer(body="Q===", isBase64Encoded=True),
    answer(body="====", isBase64Encoded=True),
    json.dumps("x" * 70_000).encode(),
]


@pytest.mark.parametrize("given", UNUSUAL_ANSWERS, ids=range(len(UNUSUAL_ANSWERS)))
def test_the_engine_leaves_an_answer_to_the_control_plane(given):
    assert engine_reply(given) is None
    assert plane_reply(given).startswith(b"HTTP/1.1 ")


WORDS = made_of(*'a=:;,{}[]" /', "\\", "\t", "A", "Q==", most=6) | made_of("a", *"\n\x00\x7f\u00e9\u20ac\U0001f600", most=4)
SCALARS = WORDS | st.integers(-(10**17), 10**17) | st.booleans() | st.none() | st.floats(allow_nan=False)
HEADERS = st.dictionaries(WORDS | st.sampled_from(["A", "a", "Content-Type", "Date", "Set-Cookie"]), SCALARS, max_size=4)
PARTS = st.fixed_dictionaries(
    {},
    optional={
        "statusCode": st.sampled_from([200, 204, 304, 404, 599, 600, "201", "x", 1.5, None, True]),
        "headers": HEADERS | SCALARS,
        "cookies": st.lists(WORDS | SCALARS, max_size=3) | SCALARS,
        "body": WORDS | SCALARS | st.just("QUI=") | HEADERS,
        "isBase64Encoded": st.booleans() | SCALARS,
        "other": SCALARS | HEADERS,
    },
)


@given(value=PARTS | SCALARS, ascii_only=st.booleans(), tight=st.booleans(), close=st.booleans())
@example(value={"statusCode": 200, "body": "\ud83d"}, ascii_only=True, tight=False, close=False)
def test_any_answer_that_the_engine_makes(value, ascii_only, tight, close):
    text = json.dumps(value, ensure_ascii=ascii_only, separators=(",", ":") if tight else None)
    data = text.encode("utf-8", "surrogatepass")
    made = engine_reply(data, close=close)
    if made is not None:
        assert made == plane_reply(data, close=close)
