"""The payload of an invocation as the command line gives it: text, `-` for stdin, `@file`. It is checked here to be JSON and
then passed on byte for byte; a mistake is shown with the line and a caret under the place.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scheduler.limits import PAYLOAD_BYTES_MAX

if TYPE_CHECKING:
    from typing import NoReturn

__all__ = ["check_json", "read_payload"]

LINE_CHARS_MAX = 70  # of the line that is shown round the mistake


def read_payload(argument: str | None) -> bytes:
    """The payload's bytes; `{}` where none is given. UsageError: unreadable, too large, or not JSON."""
    if argument is None:
        return b"{}"
    if argument == "-":
        source, data = "stdin", sys.stdin.buffer.read(PAYLOAD_BYTES_MAX + 1)
    elif argument.startswith("@"):
        source = argument[1:]
        try:
            with Path(source).open("rb") as file:
                data = file.read(PAYLOAD_BYTES_MAX + 1)
        except OSError as error:
            raise click.UsageError(f"payload file {source!r}: {error.strerror}") from None
    else:
        source, data = "the payload", argument.encode("utf-8", "surrogateescape")
    if len(data) > PAYLOAD_BYTES_MAX:
        raise click.UsageError(f"{source} has more than {PAYLOAD_BYTES_MAX:,} bytes, which is the limit of a payload")
    check_json(data, source)
    return data


def check_json(data: bytes, source: str) -> None:
    """UsageError with the place shown, if `data` is not JSON text as RFC 8259 has it."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{source} is not UTF-8 text: byte {error.start} is 0x{data[error.start]:02x}") from None
    if not text.strip():
        raise click.UsageError(f"{source} is empty; an event without content is {{}}")
    try:
        json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise click.UsageError(f"{source} is not JSON: {_lower(error.msg)}\n{_caret(text, error)}{_hint(text)}") from None
    except ValueError as error:  # a constant that is not JSON, or a number of too many digits
        raise click.UsageError(f"{source} is not JSON: {error}") from None
    except RecursionError:
        raise click.UsageError(f"{source} is nested too deep") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} has no form in JSON; use null or a string")


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _caret(text: str, error: json.JSONDecodeError) -> str:
    """The line with the mistake, cut to a window, and a caret below; the line's number if there are several."""
    line = text.splitlines()[error.lineno - 1] if error.lineno <= len(text.splitlines()) else ""
    at = error.colno - 1
    start = max(0, at - LINE_CHARS_MAX // 2)
    shown = line[start : start + LINE_CHARS_MAX].expandtabs(1)
    shown = "".join(char if char.isprintable() else "·" for char in shown)
    lead = f"  line {error.lineno}: " if "\n" in text.strip() else "  "
    cut = "…" if start else ""
    return f"{lead}{cut}{shown}\n{' ' * (len(lead) + len(cut) + at - start)}^"


def _hint(text: str) -> str:
    """The commonest mistake: a word or Python's quotes where JSON wants double quotes."""
    first = text.strip()[:1]
    if "'" in text and '"' not in text:
        return '\nJSON needs double quotes; in a shell: \'{"key": "value"}\''
    if first.isalpha() or (first == "{" and '"' not in text and text.strip() != "{}"):
        return '\nDid the shell take the quotes away? Put the payload into single quotes: \'{"key": "value"}\''
    return ""


def decoded(data: Any) -> Any:
    """An answer's JSON text as a value for `--json`; text that is no JSON stays text."""
    if not isinstance(data, (bytes, str)):
        return data
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return data.decode("utf-8", "replace") if isinstance(data, bytes) else data
