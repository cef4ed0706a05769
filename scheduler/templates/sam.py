"""AWS SAM and CloudFormation templates, read into a plan.

Law of this file: what is in the file and on this disk, nothing else; no service is asked. SAM is turned into CloudFormation by
AWS's own translator, which belongs to the extra `sam`; of what comes out, Lambda's resources are taken and everything else is
told as passed over. Paths are relative to the template, as `sam` has them.

    plan = read_template(Path("template.yaml"), parameters={"Stage": "dev"}, region="local", account_id="000000000000")
"""

from __future__ import annotations

import json
import logging
import os
from typing import TYPE_CHECKING, Any, Final

from scheduler.templates.grants import Grants, grants_of
from scheduler.templates.intrinsics import Deferred, Resolver
from scheduler.templates.plan import FunctionPlan, LayerPlan, Notice, Plan, TemplateBroken

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["is_template", "read_template"]

TEMPLATE_BYTES_MAX: Final = 1 << 20
LOCAL_BUCKET: Final = "scheduler-local-code"
SUFFIXES: Final = (".yaml", ".yml", ".json", ".template")
# Property of a template -> member of CreateFunction, where they are spelled alike.
CONFIGURATION: Final[tuple[str, ...]] = (
    "Runtime", "Handler", "Description", "Timeout", "MemorySize", "VpcConfig", "DeadLetterConfig", "Environment", "KmsKeyArn",
    "TracingConfig", "FileSystemConfigs", "ImageConfig", "EphemeralStorage", "SnapStart", "LoggingConfig", "Architectures",
    "PackageType", "CodeSigningConfigArn", "TenancyConfig", "CapacityProviderConfig", "DurableConfig",
)  # fmt: skip
# What functions have in CloudFormation and not here, and what becomes of it.
PASSED_OVER: Final = {
    "Role": "there is no IAM here: functions have no role",
}


def is_template(path: Path) -> bool:
    """By its name, and what it begins to say."""
    if path.suffix not in SUFFIXES or not path.is_file():
        return False
    with path.open("rb") as file:
        return b"Resources" in file.read(TEMPLATE_BYTES_MAX)


def read_template(path: Path, *, parameters: Mapping[str, str], region: str, account_id: str) -> Plan:
    """TemplateBroken: what is wrong, and where."""
    template = _load(path)
    places = _Places(path.resolve().parent)
    kept = _local_code(template, places)
    if template.get("Transform") is not None:
        template = _translated(template, parameters, region)
    return _Reader(template, places, kept, parameters, region, account_id).plan()


# ---- the file ------------------------------------------------------------------------------------------------------------


def _load(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    if len(data) > TEMPLATE_BYTES_MAX:
        raise TemplateBroken(f"{path}: has {len(data)} bytes, the limit is {TEMPLATE_BYTES_MAX}")
    try:
        text = data.decode()
        found = json.loads(text) if path.suffix == ".json" else _yaml(text)
    except ValueError as error:
        raise TemplateBroken(f"{path}: cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict) or not isinstance(found.get("Resources"), dict):
        raise TemplateBroken(f"{path}: has no Resources; it is no template")
    return found


def _yaml(text: str) -> Any:
    try:
        import yaml
        from samtranslator.yaml_helper import yaml_parse
    except ImportError:
        raise _no_extra() from None
    try:
        return yaml_parse(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


def _no_extra() -> TemplateBroken:
    return TemplateBroken("templates need AWS's own translator: pip install 'invocation-scheduler[sam]'")


class _Places:
    """Where code lies that the template names by a path: each under a number, which goes through the translator as a key."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.notices: list[Notice] = []
        self.policies: dict[str, Any] = {}  # of functions, as the file has them
        self._paths: list[Path] = []

    def keep(self, text: str) -> str:
        self._paths.append((self.root / text).resolve())
        return str(len(self._paths) - 1)

    def find(self, bucket: Any, key: Any) -> Path | None:
        if bucket != LOCAL_BUCKET or not str(key).isdigit() or int(key) >= len(self._paths):
            return None
        return self._paths[int(key)]


def _local_code(template: dict[str, Any], places: _Places) -> dict[str, dict[str, Any]]:
    """Puts numbers where paths are; the events of each function as the file has them."""
    events: dict[str, dict[str, Any]] = {}
    of_all = template.get("Globals", {}).get("Function", {}) if isinstance(template.get("Globals"), dict) else {}
    holders = [(of_all, "CodeUri")]
    for logical, resource in template["Resources"].items():
        if not isinstance(resource, dict) or not isinstance(resource.get("Properties", {}), dict):
            raise TemplateBroken(f"Resources.{logical}: is no resource")
        properties = resource.setdefault("Properties", {})
        kind = resource.get("Type")
        if kind == "AWS::Serverless::Function":
            if not {"CodeUri", "InlineCode", "ImageUri"} & set(properties) and "CodeUri" not in of_all:
                properties["CodeUri"] = "."
            holders.append((properties, "CodeUri"))
            if isinstance(properties.get("Events"), dict):
                events[logical] = properties["Events"]
            if "Policies" in properties:
                places.policies[logical] = properties["Policies"]
        elif kind == "AWS::Serverless::LayerVersion":
            holders.append((properties, "ContentUri"))
        elif kind in ("AWS::Lambda::Function", "AWS::Lambda::LayerVersion"):
            name = "Code" if kind.endswith("Function") else "Content"
            if isinstance(properties.get(name), str):
                properties[name] = {"S3Bucket": LOCAL_BUCKET, "S3Key": places.keep(properties[name])}
    for holder, name in holders:
        given = holder.get(name)
        if isinstance(given, str) and not given.startswith(("s3://", "https://")):
            holder[name] = f"s3://{LOCAL_BUCKET}/{places.keep(given)}"
    return events


def _translated(template: dict[str, Any], parameters: Mapping[str, str], region: str) -> dict[str, Any]:
    try:
        from samtranslator.model.exceptions import InvalidDocumentException
        from samtranslator.translator.transform import transform
    except ImportError:
        raise _no_extra() from None

    class Policies:
        """Managed policies by name: they are passed over here, so any will do."""

        def load(self) -> dict[str, str]:
            return {}

    # It counts what it translates, and complains where nobody takes the counts.
    logging.getLogger("samtranslator").setLevel(logging.ERROR)
    before = os.environ.get("AWS_DEFAULT_REGION")
    # The translator asks boto3 for a region, and knows AWS's own only.
    os.environ["AWS_DEFAULT_REGION"] = region if region.count("-") == 2 else "us-east-1"
    try:
        found: dict[str, Any] = transform(template, dict(parameters), Policies())
    except InvalidDocumentException as error:
        causes = "; ".join(" ".join(str(cause.message).split()) for cause in error.causes)
        raise TemplateBroken(f"the template is no valid SAM: {causes or error.message}") from None
    finally:
        if before is None:
            del os.environ["AWS_DEFAULT_REGION"]
        else:
            os.environ["AWS_DEFAULT_REGION"] = before
    return found


# ---- the plan ------------------------------------------------------------------------------------------------------------


class _Reader:
    def __init__(
        self,
        template: dict[str, Any],
        places: _Places,
        events: Mapping[str, dict[str, Any]],
        parameters: Mapping[str, str],
        region: str,
        account_id: str,
    ) -> None:
        self._resources: dict[str, dict[str, Any]] = template["Resources"]
        self._places = places
        self._events = events
        self._arns = f"arn:aws:lambda:{region}:{account_id}"
        self._notices = list(places.notices)
        self._resolver = Resolver(
            parameters=_parameters(template.get("Parameters", {}), parameters),
            mappings=template.get("Mappings", {}),
            conditions=template.get("Conditions", {}),
            pseudo={
                "AWS::Region": region,
                "AWS::AccountId": account_id,
                "AWS::Partition": "aws",
                "AWS::StackName": places.root.name or "stack",
                "AWS::URLSuffix": "localhost",
            },
            attribute=self._attribute,
        )

    def plan(self) -> Plan:
        layers = tuple(self._layer(*found) for found in self._of("AWS::Lambda::LayerVersion"))
        functions = tuple(self._function(*found) for found in self._of("AWS::Lambda::Function"))
        if not functions and not layers:
            raise TemplateBroken("Resources: there is no function in it, and no layer")
        self._tell_the_rest()
        names = [function.name for function in functions]
        for name in names:
            if names.count(name) > 1:
                raise TemplateBroken(f"two functions of the template are called {name!r}")
        return Plan(layers, functions, tuple(self._notices))

    def _of(self, kind: str) -> list[tuple[str, dict[str, Any]]]:
        """Resources of a type whose condition holds, resolved."""
        found = []
        for logical, resource in self._resources.items():
            if resource.get("Type") != kind:
                continue
            at = f"Resources.{logical}"
            if "Condition" in resource and not self._resolver.holds(str(resource["Condition"]), at):
                continue
            found.append((logical, self._resolver.value(resource.get("Properties", {}), f"{at}.Properties")))
        return found

    def _attribute(self, logical: str, name: str) -> Any:
        resource = self._resources.get(logical)
        if resource is None:
            raise TemplateBroken(f"{logical}: neither a parameter nor a resource is called so")
        kind = resource.get("Type")
        if kind == "AWS::Lambda::Function" and name in ("Ref", "Arn"):
            called = self._name(logical, resource)
            return called if name == "Ref" else f"{self._arns}:function:{called}"
        if kind == "AWS::Lambda::Alias" and name == "Ref":
            properties = resource.get("Properties", {})
            function = self._resolver.value(properties.get("FunctionName"), f"Resources.{logical}")
            return f"{self._arns}:function:{function}:{properties.get('Name')}"
        return Deferred(f"{logical}.{name}", logical)

    def _name(self, logical: str, resource: Mapping[str, Any]) -> str:
        given = resource.get("Properties", {}).get("FunctionName")
        return logical if given is None else str(self._resolver.value(given, f"Resources.{logical}.FunctionName"))

    # ---- layers ----

    def _layer(self, logical: str, properties: dict[str, Any]) -> LayerPlan:
        content = properties.get("Content", {})
        source = self._places.find(content.get("S3Bucket"), content.get("S3Key"))
        if source is None:
            raise TemplateBroken(f"Resources.{logical}.Content: only paths on this disk can be deployed, not S3")
        return LayerPlan(
            logical,
            str(properties.get("LayerName", logical)),
            _existing(source, logical),
            str(properties.get("Description", "")),
            tuple(properties.get("CompatibleRuntimes", ())),
            str(properties.get("LicenseInfo", "")),
        )

    # ---- functions ----

    def _grants(self, logical: str) -> Grants:
        """Of secrets and keys; the rest of its policies is passed over."""
        if logical not in self._places.policies:
            return Grants()
        grants = grants_of(self._resolver.value(self._places.policies[logical], f"Resources.{logical}.Policies"))
        if grants.passed_over:
            text = f"passed over: there is no IAM here ({', '.join(grants.passed_over)})"
            self._notices.append(Notice(f"{logical}.Policies", text))
        return grants

    def _function(self, logical: str, properties: dict[str, Any]) -> FunctionPlan:
        at = f"Resources.{logical}"
        name = str(properties.get("FunctionName", logical))
        for key in PASSED_OVER:
            if key in properties and not isinstance(properties[key], Deferred):
                self._notices.append(Notice(f"{logical}.{key}", PASSED_OVER[key]))
        configuration: dict[str, Any] = {
            key: self._plain(properties[key], f"{at}.{key}") for key in CONFIGURATION if key in properties
        }
        if "KmsKeyArn" in configuration:
            configuration["KMSKeyArn"] = configuration.pop("KmsKeyArn")
        source, inline = self._code(logical, properties.get("Code", {}))
        versions = [own for own, found in self._of("AWS::Lambda::Version") if self._is(found.get("FunctionName"), name)]
        aliases = [found for _, found in self._of("AWS::Lambda::Alias") if self._is(found.get("FunctionName"), name)]
        urls = [found for _, found in self._of("AWS::Lambda::Url") if self._is(found.get("TargetFunctionArn"), name)]
        configs = [
            found for _, found in self._of("AWS::Lambda::EventInvokeConfig") if self._is(found.get("FunctionName"), name)
        ]
        permissions = [found for _, found in self._of("AWS::Lambda::Permission") if self._is(found.get("FunctionName"), name)]
        grants = self._grants(logical)
        provisioned = [found["ProvisionedConcurrencyConfig"] for found in aliases if "ProvisionedConcurrencyConfig" in found]
        return FunctionPlan(
            logical=logical,
            name=name,
            configuration=configuration,
            source=source,
            inline=inline,
            layers=self._layers(properties.get("Layers"), at),
            publish=bool(versions or aliases),
            aliases=tuple(str(found["Name"]) for found in aliases),
            tags={str(tag["Key"]): str(self._plain(tag["Value"], f"{at}.Tags")) for tag in properties.get("Tags", ())},
            reserved=self._plain(properties.get("ReservedConcurrentExecutions"), f"{at}.ReservedConcurrentExecutions"),
            runtime_management=self._plain(properties.get("RuntimeManagementConfig"), f"{at}.RuntimeManagementConfig"),
            recursive_loop=self._plain(properties.get("RecursiveLoop"), f"{at}.RecursiveLoop"),
            provisioned=int(provisioned[0]["ProvisionedConcurrentExecutions"]) if provisioned else None,
            url=_without(urls[0], "TargetFunctionArn", "Qualifier") if urls else None,
            event_config=_event_config(configs[0]) if configs else None,
            permissions=tuple(self._permissions(logical, permissions)),
            secrets=grants.secrets,
            keys=grants.keys,
            events=self._events.get(logical, {}),
        )

    def _belonging(self, name: str, kind: str, by: str = "FunctionName") -> list[dict[str, Any]]:
        return [found for _, found in self._of(f"AWS::Lambda::{kind}") if self._is(found.get(by), name)]

    def _plain(self, given: Any, at: str) -> Any:
        """TemplateBroken where something in it is only known once it was made."""
        if isinstance(given, Deferred):
            raise TemplateBroken(f"{at}: {given.text} is made by AWS, and not known here; give it as a parameter")
        if isinstance(given, dict):
            return {key: self._plain(value, f"{at}.{key}") for key, value in given.items()}
        if isinstance(given, list):
            return [self._plain(value, f"{at}[{i}]") for i, value in enumerate(given)]
        return given

    def _is(self, given: Any, name: str) -> bool:
        """Whether a reference means this function or one of its aliases."""
        text = str(given)
        return text == name or text.startswith(f"{self._arns}:function:{name}:") or text == f"{self._arns}:function:{name}"

    def _code(self, logical: str, code: Any) -> tuple[Path | None, str | None]:
        if not isinstance(code, dict):
            raise TemplateBroken(f"Resources.{logical}.Code: is no code")
        if "ZipFile" in code:
            return None, str(self._plain(code["ZipFile"], f"Resources.{logical}.Code.ZipFile"))
        source = self._places.find(code.get("S3Bucket"), code.get("S3Key"))
        if source is None:
            raise TemplateBroken(f"Resources.{logical}.Code: only code on this disk can be deployed, neither S3 nor images")
        return _existing(source, logical), None

    def _layers(self, given: Any, at: str) -> tuple[str, ...] | None:
        if given is None:
            return None
        found = []
        for layer in given:
            if isinstance(layer, Deferred):
                if self._resources.get(layer.logical, {}).get("Type") != "AWS::Lambda::LayerVersion":
                    raise TemplateBroken(f"{at}.Layers: {layer.text} is no layer")
                found.append(f"@{layer.logical}")
            else:
                found.append(str(layer))
        return tuple(found)

    def _permissions(self, logical: str, given: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Those that somebody here can use: triggers of AWS's services are not connected yet."""
        found = []
        for number, permission in enumerate(given):
            service = str(permission.get("Principal", "")).endswith(".amazonaws.com")
            if service or any(isinstance(value, Deferred) for value in permission.values()):
                continue
            found.append({"StatementId": f"{logical}-{number}", **_without(permission, "FunctionName")})
        return found

    def _tell_the_rest(self) -> None:
        taken = ("Function", "Version", "Alias", "LayerVersion", "Url", "EventInvokeConfig", "Permission")
        for logical, events in self._events.items():
            for name, event in events.items():
                kind = event.get("Type", "?") if isinstance(event, dict) else "?"
                self._notices.append(Notice(f"{logical}.Events.{name}", f"{kind}: kept with the function, not connected yet"))
        others = [
            (logical, str(resource.get("Type")))
            for logical, resource in self._resources.items()
            if str(resource.get("Type")) not in {f"AWS::Lambda::{kind}" for kind in taken}
        ]
        for logical, kind in others:
            if kind != "AWS::IAM::Role" and not kind.startswith(("AWS::ApiGateway", "AWS::Events::")):
                self._notices.append(Notice(logical, f"{kind}: passed over, this service runs functions only"))


def _parameters(declared: Mapping[str, Any], given: Mapping[str, str]) -> dict[str, Any]:
    unknown = sorted(set(given) - set(declared))
    if unknown:
        raise TemplateBroken(f"parameter {unknown[0]}: the template has none such; there are: {', '.join(declared) or 'none'}")
    found: dict[str, Any] = {}
    for name, row in declared.items():
        value = given.get(name, row.get("Default"))
        if value is None:
            raise TemplateBroken(f"parameter {name}: has no default; give --parameter {name}=VALUE")
        allowed = row.get("AllowedValues")
        if allowed is not None and str(value) not in [str(option) for option in allowed]:
            raise TemplateBroken(f"parameter {name}: {value!r} is not one of {', '.join(map(str, allowed))}")
        is_list = "List" in str(row.get("Type", ""))
        found[name] = [part.strip() for part in str(value).split(",")] if is_list else value
    return found


def _existing(source: Path, logical: str) -> Path:
    if not source.exists():
        raise TemplateBroken(f"Resources.{logical}: there is nothing at {source}")
    return source


def _without(given: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in given.items() if key not in names}


def _event_config(given: Mapping[str, Any]) -> dict[str, Any]:
    found = _without(given, "FunctionName")
    if not found.get("DestinationConfig"):
        found.pop("DestinationConfig", None)
    return found
