"""Packages that mean harm, and those that only look like it, through the API as a client sends them."""

from __future__ import annotations

import struct
import urllib.request
import zipfile

import pytest

from tests.e2e.serving import RUNTIME
from tests.lambda_api.client import ROLE, package, refusal, run
from tests.lambda_api.packing import HANDLER, link, renamed, zeros, zipped

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

UNZIPPED_MAX = 262_144_000
UNZIP_TEXT = "Could not unzip uploaded file. Please check your file, then try to upload again."


def lying() -> bytes:
    """Says that its file has 10 bytes, and holds a megabyte."""
    whole, size = zeros(1 << 20), struct.pack("<L", 1 << 20)
    assert size in whole
    return whole.replace(size, struct.pack("<L", 10))


def wrong_byte() -> bytes:
    data = zipped(("data", "x" * 1000), method=zipfile.ZIP_STORED)
    return data.replace(b"xxxx", b"xxyx", 1)


REFUSED = {
    "slips out": zipped(("../../etc/cron.d/x", "x")),
    "slips out further in": zipped(("a/../../x", "x")),
    "an absolute name": zipped(("/etc/passwd", "x")),
    "a backslash": renamed(zipped(("aXb", "x")), b"aXb", b"a\\b"),
    "a NUL": renamed(zipped(("aXb", "x")), b"aXb", b"a\0b"),
    "a name that is no UTF-8": renamed(zipped(("aXXb", "x")), b"aXXb", b"a\xff\xfeb"),
    "a link out, absolute": zipped(link("data", "/etc/passwd")),
    "a link out, climbing": zipped(link("data", "../secret")),
    "a link through a link": zipped(link("here", "."), link("data", "here/../../secret")),
    "a file through a link": zipped(link("here", "/tmp"), ("here/x", "x")),
    "a file that is a directory too": zipped(("data", "x"), ("data/x", "x")),
    "the end is missing": zipped(("data", "x" * 1000))[:-30],
    "the beginning is missing": zipped(("data", "x" * 1000))[40:],
    "a byte is wrong": wrong_byte(),
    "no zip at all": b"#!/bin/sh\n",
    "no files": b"PK\x05\x06" + bytes(18),
    "sizes that lie": lying(),
    "a method nobody asked for": zipped(("data", "x"), method=zipfile.ZIP_BZIP2),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_hostile_package_is_refused_and_leaves_nothing(aws, served, case):
    given = {"FunctionName": "hostile", "Runtime": RUNTIME, "Role": ROLE, "Handler": "app.handler"}
    before = kept(served)
    name, status, response = refusal(aws.create_function, **given, Code={"ZipFile": REFUSED[case]})
    assert (name, status) == ("InvalidParameterValueException", 400)
    assert response["Error"]["Message"].startswith(UNZIP_TEXT)
    assert refusal(aws.get_function, FunctionName="hostile")[0] == "ResourceNotFoundException"
    assert refusal(aws.publish_layer_version, LayerName="hostile", Content={"ZipFile": REFUSED[case]})[0] == name
    assert kept(served) == before


def kept(served):
    """What stands in the code store."""
    return sorted(path.name for path in (served.state_dir / "code").iterdir())


def test_a_bomb_costs_its_sender_alone(aws, function):
    """40 MB of zeros in 40 kB."""
    name, status, response = refusal(aws.update_function_code, FunctionName=function, ZipFile=zeros(40 << 20, 9))
    assert (name, status) == ("InvalidParameterValueException", 400)
    assert "times its size, the limit is" in response["Error"]["Message"]
    assert run(aws, function)["StatusCode"] == 200


def test_the_limit_of_250_mb_unpacked(aws, served, function):
    """To the byte; code and layers count together."""
    before = kept(served)
    over = zeros(UNZIPPED_MAX - len(HANDLER) + 1)
    name, status, response = refusal(aws.update_function_code, FunctionName=function, ZipFile=over)
    assert (name, status) == ("InvalidParameterValueException", 400)
    assert response["Error"]["Message"].startswith("Unzipped size must be smaller than 262144000 bytes")
    assert f"{UNZIPPED_MAX + 1} bytes" in response["Error"]["Message"]
    assert kept(served) == before
    half = zeros(UNZIPPED_MAX // 2)  # kept once, counted for each layer
    layer = aws.publish_layer_version(LayerName="half", Content={"ZipFile": half})["LayerVersionArn"]
    other = aws.publish_layer_version(LayerName="other-half", Content={"ZipFile": half})["LayerVersionArn"]
    name, status, response = refusal(aws.update_function_configuration, FunctionName=function, Layers=[layer, other])
    assert (name, status) == ("InvalidParameterValueException", 400)
    assert response["Error"]["Message"].startswith(
        "Function code combined with layers exceeds the maximum allowed size of 262144000 bytes. The actual size is "
    )
    aws.update_function_configuration(FunctionName=function, Layers=[layer])
    name, status, response = refusal(aws.update_function_code, FunctionName=function, ZipFile=half)
    assert (name, status) == ("InvalidParameterValueException", 400)
    assert response["Error"]["Message"].startswith("Function code combined with layers exceeds")
    assert run(aws, function)["StatusCode"] == 200
    for name in ("half", "other-half"):
        aws.delete_layer_version(LayerName=name, VersionNumber=1)


@pytest.mark.parametrize(
    "data",
    {
        "names of other scripts": zipped(("データ/é", "x"), ("data", "whole")),
        "a link within": zipped(("real/text", "whole"), link("data", "real/text")),
        "a link that climbs within": zipped(("text", "whole"), link("a/b", "../text"), link("data", "a/b")),
        "stored": zipped(("data", "whole"), method=zipfile.ZIP_STORED),
        "a prefix before the archive": b"#!/usr/bin/env python3\n" + zipped(("data", "whole")),
        "a comment": zipped(("data", "whole")),
    }.items(),
    ids=lambda pair: pair[0],
)
def test_a_strange_but_honest_package_runs_and_comes_back_as_it_was_sent(aws, function, data):
    _, sent = data
    changed = aws.update_function_code(FunctionName=function, ZipFile=sent)
    assert changed["CodeSize"] == len(sent)
    assert run(aws, function)["Payload"] == b'"whole"'
    with urllib.request.urlopen(aws.get_function(FunctionName=function)["Code"]["Location"]) as downloaded:
        assert downloaded.read() == sent


def test_a_link_to_code_is_good_for_that_package_alone(aws, served, function):
    location = aws.get_function(FunctionName=function)["Code"]["Location"]
    aws.update_function_code(FunctionName=function, ZipFile=package("handler = print"))
    other = aws.get_function(FunctionName=function)["Code"]["Location"]
    path = location.partition("?")[0]
    for wrong in (path, location[:-1] + ("0" if location[-1] != "0" else "1"), path + "?" + other.partition("?")[2]):
        with pytest.raises(urllib.error.HTTPError) as caught, urllib.request.urlopen(wrong):
            pass
        assert caught.value.code == 403
        caught.value.close()
