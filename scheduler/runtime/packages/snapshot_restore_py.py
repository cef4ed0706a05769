"""What a function has called before an image of its initialised process is made, and in each process restored from it.

The names are those of AWS's package. A function that brings that package itself uses its own; the runtime asks whichever was
imported. Where no image is made nothing is called.
"""

__all__ = ["get_after_restore", "get_before_snapshot", "register_after_restore", "register_before_snapshot"]

_before_snapshot: list[tuple[object, ...]] = []
_after_restore: list[tuple[object, ...]] = []


def register_before_snapshot(func, *args, **kwargs):
    """func(*args, **kwargs) is called before the image is written: the last registered first."""
    _before_snapshot.append((func, args, kwargs))


def register_after_restore(func, *args, **kwargs):
    """func(*args, **kwargs) is called in each restored process before its first call: the first registered first."""
    _after_restore.append((func, args, kwargs))


def get_before_snapshot():
    """The list itself."""
    return _before_snapshot


def get_after_restore():
    """The list itself."""
    return _after_restore
