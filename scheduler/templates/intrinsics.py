"""CloudFormation's intrinsic functions, resolved as far as a file can be read by itself.

Law of this file: pure. What cannot be known before something is made stays as a Deferred, and whoever needs a value there says
so. Source: "Intrinsic function reference", AWS CloudFormation user guide.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from scheduler.templates.plan import TemplateBroken

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["Deferred", "Resolver"]

DEPTH_MAX: Final = 64
_SUB: Final = re.compile(r"\$\{(!?)([A-Za-z0-9:._]+)\}")


@dataclass(frozen=True, slots=True)
class Deferred:
    """A value that is only there once something was made. `text`: how the file names it."""

    text: str
    logical: str = ""


class Resolver:
    """attribute: what !GetAtt LOGICAL.NAME or !Ref LOGICAL (name "Ref") of a resource is; Deferred where it is not known."""

    def __init__(
        self,
        *,
        parameters: Mapping[str, Any],
        mappings: Mapping[str, Any],
        conditions: Mapping[str, Any],
        pseudo: Mapping[str, str],
        attribute: Callable[[str, str], Any],
    ) -> None:
        self._parameters = parameters
        self._mappings = mappings
        self._conditions = conditions
        self._pseudo = pseudo
        self._attribute = attribute

    def value(self, given: Any, at: str, depth: int = 0) -> Any:
        """`given` with everything resolved in it. TemplateBroken names the place."""
        if depth > DEPTH_MAX:
            raise TemplateBroken(f"{at}: is nested deeper than {DEPTH_MAX}")
        if isinstance(given, list):
            found = [self.value(item, f"{at}[{i}]", depth + 1) for i, item in enumerate(given)]
            return [item for item in found if item is not _GONE]
        if not isinstance(given, dict):
            return given
        if len(given) == 1:
            ((key, argument),) = given.items()
            operation = _OPERATIONS.get(key)
            if operation is not None:
                return operation(self, argument, f"{at}.{key}", depth + 1)
            if key.startswith("Fn::"):
                raise TemplateBroken(f"{at}: {key} is not understood here")
        resolved = {key: self.value(item, f"{at}.{key}", depth + 1) for key, item in given.items()}
        return {key: item for key, item in resolved.items() if item is not _GONE}

    def holds(self, name: str, at: str, depth: int = 0) -> bool:
        """Whether a condition of the file does."""
        if name not in self._conditions:
            raise TemplateBroken(f"{at}: there is no condition {name!r}")
        return self._truth(self._conditions[name], f"Conditions.{name}", depth + 1)

    # ---- one for each ----

    def _ref(self, argument: Any, at: str, depth: int) -> Any:
        name = str(argument)
        if name == "AWS::NoValue":
            return _GONE
        if name in self._pseudo:
            return self._pseudo[name]
        if name in self._parameters:
            return self._parameters[name]
        return self._attribute(name, "Ref")

    def _get_att(self, argument: Any, at: str, depth: int) -> Any:
        parts = argument if isinstance(argument, list) else str(argument).split(".", 1)
        if len(parts) != 2:
            raise TemplateBroken(f"{at}: {argument!r} is not RESOURCE.ATTRIBUTE")
        return self._attribute(str(parts[0]), str(self.value(parts[1], at, depth)))

    def _sub(self, argument: Any, at: str, depth: int) -> Any:
        text, own = (argument, {}) if isinstance(argument, str) else (argument[0], self.value(argument[1], at, depth))
        deferred: list[Deferred] = []

        def put(match: re.Match[str]) -> str:
            if match[1]:
                return "${" + match[2] + "}"
            name = match[2]
            if name in own:
                found = own[name]
            elif "." in name:
                found = self._get_att(name, at, depth)
            else:
                found = self._ref(name, at, depth)
            if isinstance(found, Deferred):
                deferred.append(found)
                return found.text
            return str(found)

        made = _SUB.sub(put, str(text))
        return Deferred(made, deferred[0].logical) if deferred else made

    def _join(self, argument: Any, at: str, depth: int) -> Any:
        between, parts = argument[0], self.value(argument[1], at, depth)
        deferred = next((part for part in parts if isinstance(part, Deferred)), None)
        made = str(between).join(part.text if isinstance(part, Deferred) else str(part) for part in parts)
        return made if deferred is None else Deferred(made, deferred.logical)

    def _select(self, argument: Any, at: str, depth: int) -> Any:
        index, values = int(self.value(argument[0], at, depth)), self.value(argument[1], at, depth)
        if not 0 <= index < len(values):
            raise TemplateBroken(f"{at}: {index} is not within the list's {len(values)}")
        return values[index]

    def _split(self, argument: Any, at: str, depth: int) -> Any:
        return str(self.value(argument[1], at, depth)).split(str(argument[0]))

    def _find_in_map(self, argument: Any, at: str, depth: int) -> Any:
        found: Any = self._mappings
        for key in (self.value(part, at, depth) for part in argument[:3]):
            if not isinstance(found, dict) or str(key) not in found:
                raise TemplateBroken(f"{at}: Mappings has no {key!r} there")
            found = found[str(key)]
        return found

    def _if(self, argument: Any, at: str, depth: int) -> Any:
        return self.value(argument[1] if self.holds(str(argument[0]), at, depth) else argument[2], at, depth)

    def _base64(self, argument: Any, at: str, depth: int) -> Any:
        import base64

        return base64.b64encode(str(self.value(argument, at, depth)).encode()).decode()

    def _truth(self, given: Any, at: str, depth: int) -> bool:
        if depth > DEPTH_MAX:
            raise TemplateBroken(f"{at}: is nested deeper than {DEPTH_MAX}")
        if isinstance(given, dict) and len(given) == 1:
            ((key, argument),) = given.items()
            if key == "Condition":
                return self.holds(str(argument), at, depth)
            if key == "Fn::Equals":
                first, second = self.value(argument, at, depth)
                return str(first) == str(second)
            if key == "Fn::Not":
                return not self._truth(argument[0], at, depth + 1)
            if key in ("Fn::And", "Fn::Or"):
                each = [self._truth(part, at, depth + 1) for part in argument]
                return all(each) if key == "Fn::And" else any(each)
        raise TemplateBroken(f"{at}: is not a condition")


_GONE: Final = object()  # AWS::NoValue: the property is not there

_OPERATIONS: Final[Mapping[str, Callable[[Resolver, Any, str, int], Any]]] = {
    "Ref": Resolver._ref,
    "Fn::GetAtt": Resolver._get_att,
    "Fn::Sub": Resolver._sub,
    "Fn::Join": Resolver._join,
    "Fn::Select": Resolver._select,
    "Fn::Split": Resolver._split,
    "Fn::FindInMap": Resolver._find_in_map,
    "Fn::If": Resolver._if,
    "Fn::Base64": Resolver._base64,
}
