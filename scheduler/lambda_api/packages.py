"""Packages that come with a request, of functions and of layers.

Law of this file: what is wrong with a package in Lambda's words; the work is the code store's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scheduler import limits
from scheduler.errors import BadRequest, TooLarge
from scheduler.functions.model import CodeKind
from scheduler.lambda_api.errors import LambdaError
from scheduler.lambda_api.rooms import refuse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scheduler.functions.model import CodeRef
    from scheduler.lambda_api.rooms import Rooms

__all__ = ["admit"]


async def admit(rooms: Rooms, given: Mapping[str, Any], handler: str = "", runtime: str | None = None) -> CodeRef:
    """The package that a request brings, unpacked. handler, runtime: of the function it is for. LambdaError, Throttled,
    Unavailable."""
    for other in ("S3Bucket", "S3Key", "ImageUri"):
        if other in given:
            raise refuse(f"{other}: is not supported here; send the package as ZipFile")
    data = given.get("ZipFile")
    if not data:
        raise refuse("Please provide a source for function code.")
    try:
        return await rooms.code.add(data, CodeKind.ZIP, handler=handler, interpreter=rooms.runtime(runtime))
    except TooLarge as error:
        if len(data) > limits.CODE_ZIPPED_BYTES_MAX:
            raise LambdaError("RequestTooLargeException", error.message) from None
        raise refuse(f"Unzipped size must be smaller than {limits.CODE_UNZIPPED_BYTES_MAX} bytes: {error.message}") from None
    except BadRequest as error:
        raise refuse(
            f"Could not unzip uploaded file. Please check your file, then try to upload again. {error.message}"
        ) from None
