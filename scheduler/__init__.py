"""A self-hosted function service with AWS Lambda's semantics.

Rooms and who may import whom are described in ARCHITECTURE.md and enforced by tests/test_tidy.py.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
