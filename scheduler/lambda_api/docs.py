"""docs/lambda-api.md, made from the table of operations: `python -m scheduler.lambda_api.docs > docs/lambda-api.md`.

Law of this file: it renders rows; a test compares the page with it.
"""

from __future__ import annotations

import sys

from scheduler.lambda_api.errors import ERRORS
from scheduler.lambda_api.operations import OPERATIONS, Support

__all__ = ["render"]

HEAD = """# The Lambda API

`scheduler serve --http 127.0.0.1:9000` answers AWS Lambda's HTTP API on that address: boto3, the AWS CLI and other clients of
AWS work unmodified when they are given the address as endpoint.

```sh
aws --endpoint-url http://127.0.0.1:9000 lambda list-functions
```

This page is generated from the table of operations (`python -m scheduler.lambda_api.docs`). An operation that is not there is
answered `NotImplementedException`, status 501, which AWS's clients do not try again. A field that this service would not
honour is refused by name, not stored and ignored.
"""


def render() -> str:
    """The page."""
    counts = {support: sum(row.support is support for row in OPERATIONS) for support in Support}
    lines = [HEAD, ", ".join(f"{count} {support.value}" for support, count in counts.items()) + ".", ""]
    lines += ["| operation | route | here | note |", "|---|---|---|---|"]
    for row in OPERATIONS:
        query = "".join(f"?{key}={value}" for key, value in row.query.items())
        lines.append(f"| {row.name} | `{row.method} {row.path}{query}` | {row.support.value} | {row.note} |")
    lines += ["", "## Errors", "", "| error | status |", "|---|---|"]
    lines += [f"| {kind.name} | {kind.status} |" for kind in ERRORS.values()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(render())
