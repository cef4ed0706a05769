"""From the text "module.function" to something to call, with Lambda's errors for everything that can be wrong about it."""

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

from .faults import Fault

__all__ = ["find_handler"]


def find_handler(name: str) -> Callable[[Any, Any], Any]:
    """Import the module (this runs the function's own init) and get the attribute.

    name: "app.handler", "package.app.handler" or "package/app.handler". Fault: as Lambda words it. Any other exception is the
    module's own.
    """
    module_name, dot, attribute = name.rpartition(".")
    if not dot:
        raise Fault("Runtime.MalformedHandlerName", f"Bad handler '{name}': not enough values to unpack (expected 2, got 1)")
    if module_name.split(".")[0] in sys.builtin_module_names:
        raise Fault("Runtime.BuiltInModuleConflict", f"Cannot use built-in module {module_name} as a handler module")
    try:
        module = import_module(module_name.replace("/", "."))
    except ImportError as error:
        raise Fault("Runtime.ImportModuleError", f"Unable to import module '{module_name}': {error}") from None
    except SyntaxError as error:
        trace = [f'  File "{error.filename}" Line {error.lineno}\n    {error.text}']
        message = f"Syntax error in module '{module_name}': {error}"
        raise Fault("Runtime.UserCodeSyntaxError", message, trace) from None
    try:
        return getattr(module, attribute)  # type: ignore[no-any-return]
    except AttributeError:
        raise Fault("Runtime.HandlerNotFound", f"Handler '{attribute}' missing on module '{module_name}'") from None
