"""Every operation that is here, by boto3: a good answer held against botocore's model of it, and each error it can give.

CASES has one row for each. A row that is missing, and an error of the model that a row neither provokes nor explains, fail.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from botocore import xform_name

from scheduler.lambda_api.operations import OPERATIONS, Support
from scheduler.lambda_api.shapes import Place, Type
from tests.e2e.serving import RUNTIME
from tests.lambda_api.client import ROLE, connect, package
from tests.lambda_api.judge import MODEL, Recorder, check_answer, check_error

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

NOT_FOUND, INVALID = "ResourceNotFoundException", "InvalidParameterValueException"
CONFLICT, STALE = "ResourceConflictException", "PreconditionFailedException"
LARGE, NO_JSON, BUSY = "RequestTooLargeException", "InvalidRequestContentException", "TooManyRequestsException"
NO_PROVISIONED = "ProvisionedConcurrencyConfigNotFoundException"
LAMBDA = "arn:aws:lambda:local:000000000000:"
ZIP, BROKEN = package(), b"PK\x05\x06 no archive"
# In a case's values these stand for what was made for it.
FN, NEW, LAYER = "{fn}", "{new}", "{layer}"
OF_FN = {"FunctionName": FN}
ABSENT = {"FunctionName": "absent"}
DISAGREE = {"FunctionName": FN + ":1", "Qualifier": "2"}
VERSION_AS_FUNCTION = {"FunctionName": FN + ":1"}

# Errors of the model that nothing a client sends brings about, in any operation.
NEVER = {
    "ServiceException": "the service's own fault",
    "InvalidCodeSignatureException": "no code signing",
    "CodeVerificationFailedException": "no code signing",
    "CodeSigningConfigNotFoundException": "no code signing",
    "FunctionVersionsPerCapacityProviderLimitExceededException": "no capacity providers",
    "CodeStorageExceededException": "the setting code_bytes_max; in test_api_limits.py",
    "AliasLimitExceededException": "a thousand aliases of one function, which take too long to make",
    "PublicPolicyException": "no block of public access",
    "ServiceQuotaExceededException": "no quota above the account's",
    "NoPublishedVersionException": "no $LATEST.PUBLISHED",
    "UnsupportedMediaTypeException": "no Content-Type is refused: Lambda's own clients send several",
    "SerializedRequestEntityTooLargeException": "events are not expanded",
    "ResourceNotReadyException": "no function is put to sleep",
    "RecursiveInvocationException": "no recursion detection yet",
    "DurableExecutionAlreadyStartedException": "no durable executions",
    "ModeNotSupportedException": "no managed instances",
    "InvalidZipFileException": "packages are judged when they come",
    "InvalidRuntimeException": "runtimes are judged when they come",
    **{name: "no VPC, KMS, file system, SnapStart or managed account of AWS's" for name in MODEL.shape_names if name.startswith(
        ("EC2", "EFS", "S3Files", "ENI", "KMS", "SnapStart", "Subnet", "InvalidSecurityGroup", "InvalidSubnet",
         "CodeArtifact", "RuntimeAlias", "RuntimeVersion")
    )},
}  # fmt: skip
NOT_THROTTLED = "no rate limit for operations other than Invoke"
IN_TURN = "changes of this kind wait for each other"


@dataclass(frozen=True)
class Case:
    """happy: of the good call. before: calls that come first. errors: values of calls that get each. explained: errors of the
    model that this operation does not give, and why. clean: a call that undoes what the happy one made outside the function."""

    happy: dict[str, Any]
    before: tuple[tuple[str, dict[str, Any]], ...] = ()
    errors: dict[str, tuple[dict[str, Any], ...]] = field(default_factory=dict)
    explained: dict[str, str] = field(default_factory=dict)
    clean: tuple[tuple[str, dict[str, Any]], ...] = ()


def of(happy, *before, clean=(), explained=None, **errors):
    found = {"not_found": NOT_FOUND, "invalid": INVALID, "conflict": CONFLICT, "stale": STALE, "large": LARGE,
             "no_json": NO_JSON, "busy": BUSY, "no_provisioned": NO_PROVISIONED}  # fmt: skip
    given = {found[key]: value if isinstance(value, tuple) else (value,) for key, value in errors.items()}
    return Case(
        happy, before, given, {BUSY: NOT_THROTTLED, **(explained or {})} if "busy" not in errors else explained or {}, clean
    )


CREATE = {"FunctionName": NEW, "Runtime": RUNTIME, "Role": ROLE, "Handler": "app.handler", "Code": {"ZipFile": ZIP}}
S3 = {"S3Bucket": "bucket", "S3Key": "key"}
UPDATING = "an update is under way; in test_updates.py"
PERMIT = {"FunctionName": FN, "StatementId": "one", "Action": "lambda:InvokeFunction", "Principal": "123456789012"}
PERMITTED = ("AddPermission", PERMIT)
ALIAS = {"FunctionName": FN, "Name": "live"}
ALIASED = ("CreateAlias", {**ALIAS, "FunctionVersion": "1"})
LAYER_ONE = {"LayerName": LAYER, "VersionNumber": 1}
SHARE = {**LAYER_ONE, "StatementId": "one", "Action": "lambda:GetLayerVersion", "Principal": "123456789012"}
SHARED = ("AddLayerVersionPermission", SHARE)
TAGGED = LAMBDA + "function:" + FN
PLACE = {"FunctionName": FN, "Qualifier": "1"}
PROVISIONED = ("PutProvisionedConcurrencyConfig", {**PLACE, "ProvisionedConcurrentExecutions": 1})
EVENTS = {"FunctionName": FN, "MaximumRetryAttempts": 1}
CONFIGURED = ("PutFunctionEventInvokeConfig", EVENTS)
URL = {"FunctionName": FN, "AuthType": "NONE"}
URL_MADE = ("CreateFunctionUrlConfig", URL)
CLOSED = ("PutFunctionConcurrency", {"FunctionName": FN, "ReservedConcurrentExecutions": 0})
OLD = {"RevisionId": "00000000-0000-0000-0000-000000000000"}

CASES: dict[str, Case] = {
    # ---- functions ----
    "CreateFunction": of(
        {**CREATE, "Publish": True, "Tags": {"a": "b"}, "Description": "d", "Environment": {"Variables": {"AB": "c"}}},
        conflict={**CREATE, "FunctionName": FN},
        not_found={**CREATE, "FunctionName": "no-layer", "Layers": [LAMBDA + "layer:absent:1"]},
        invalid=(
            {**CREATE, "FunctionName": "s3", "Code": S3},
            {**CREATE, "FunctionName": "image", "PackageType": "Image", "Code": {"ImageUri": "x"}},
            {**CREATE, "FunctionName": "zip", "Code": {"ZipFile": BROKEN}},
            {**CREATE, "FunctionName": "none", "Code": {}},
            {**CREATE, "FunctionName": "no name"},
            {**CREATE, "FunctionName": "old", "Runtime": "python2.7"},
            {**CREATE, "FunctionName": "new", "Runtime": "cobol9"},
            {**CREATE, "FunctionName": "vpc", "VpcConfig": {"SubnetIds": ["subnet-1"]}},
            {**CREATE, "FunctionName": "big", "Environment": {"Variables": {"AB": "x" * 4096}}},
            {**CREATE, "FunctionName": "tag", "Tags": {"aws:x": "y"}},
            {**CREATE, "FunctionName": "versioned:1"},
        ),
        clean=(("DeleteFunction", {"FunctionName": NEW}),),
    ),
    "GetFunction": of(OF_FN, not_found=(ABSENT, {**OF_FN, "Qualifier": "9"}), invalid=(DISAGREE, {"FunctionName": "a b"})),
    "GetFunctionConfiguration": of(OF_FN, not_found=ABSENT, invalid=DISAGREE),
    "ListFunctions": of({}, invalid={"Marker": "none of ours"}),
    "UpdateFunctionCode": of(
        {**OF_FN, "ZipFile": package("handler = print"), "Publish": True},
        not_found={**ABSENT, "ZipFile": ZIP},
        invalid=({**OF_FN, "ZipFile": BROKEN}, {**OF_FN, **S3}, {**OF_FN, "ImageUri": "x"}, OF_FN),
        stale={**OF_FN, "ZipFile": ZIP, **OLD},
        explained={CONFLICT: UPDATING},
    ),
    "UpdateFunctionConfiguration": of(
        {**OF_FN, "Timeout": 7, "MemorySize": 256, "LoggingConfig": {"LogFormat": "Text"}},
        not_found=({**ABSENT, "Timeout": 7}, {**OF_FN, "Layers": [LAMBDA + "layer:absent:1"]}),
        invalid=({**VERSION_AS_FUNCTION, "Timeout": 7}, {**OF_FN, "Layers": ["no-arn"]},
                 {**OF_FN, "KMSKeyArn": "arn:aws:kms:local:000000000000:key/a"}),
        stale={**OF_FN, "Timeout": 7, **OLD},
        explained={CONFLICT: UPDATING},
    ),
    "DeleteFunction": of(
        OF_FN, ALIASED, not_found=ABSENT, invalid={**OF_FN, "Qualifier": "$LATEST"}, conflict={**OF_FN, "Qualifier": "1"}
    ),
    "PublishVersion": of(
        {**OF_FN, "Description": "of a version"},
        not_found=ABSENT, invalid={**OF_FN, "CodeSha256": "other"}, stale={**OF_FN, **OLD}, explained={CONFLICT: UPDATING},
    ),
    "ListVersionsByFunction": of(OF_FN, not_found=ABSENT, invalid={**OF_FN, "Marker": "none of ours"}),
    # ---- invocation ----
    "Invoke": of(
        {**OF_FN, "Payload": b"{}", "LogType": "Tail"},
        not_found=(ABSENT, {**OF_FN, "Qualifier": "9"}, {**ABSENT, "InvocationType": "Event"}),
        invalid=(DISAGREE, {**OF_FN, "TenantId": "a"}, {**OF_FN, "DurableExecutionName": "a"}),
        no_json=({**OF_FN, "Payload": b"{"}, {**OF_FN, "Payload": b"{", "InvocationType": "Event"},
                 {**OF_FN, "ClientContext": "!"}),
        large={**OF_FN, "Payload": b" " * (1 << 20) + b"{}", "InvocationType": "Event"},
        busy={"FunctionName": "{closed}"},
        explained={CONFLICT: "no function is seen before it can be invoked"},
    ),
    "InvokeAsync": of(
        {**OF_FN, "InvokeArgs": b"{}"},
        not_found={**ABSENT, "InvokeArgs": b"{}"}, no_json={**OF_FN, "InvokeArgs": b"{"},
        explained={CONFLICT: "no function is seen before it can be invoked"},
    ),
    "InvokeWithResponseStream": of(
        {**OF_FN, "Payload": b"{}"},
        not_found=ABSENT, invalid=DISAGREE, no_json={**OF_FN, "Payload": b"{"},
        large={**OF_FN, "Payload": b" " * (6 << 20) + b"{}"}, busy={"FunctionName": "{closed}"},
        explained={CONFLICT: "no function is seen before it can be invoked"},
    ),
    # ---- aliases ----
    "CreateAlias": of(
        {**ALIAS, "FunctionVersion": "1", "Description": "d", "RoutingConfig": {"AdditionalVersionWeights": {"2": 0.5}}},
        ("UpdateFunctionConfiguration", {**OF_FN, "Description": "two"}),
        ("PublishVersion", OF_FN),
        not_found=({**ABSENT, "Name": "a", "FunctionVersion": "1"}, {**OF_FN, "Name": "a", "FunctionVersion": "9"}),
        conflict={**ALIAS, "FunctionVersion": "1"},
        invalid={**OF_FN, "Name": "a", "FunctionVersion": "$LATEST", "RoutingConfig": {"AdditionalVersionWeights": {"1": 0.5}}},
    ),
    "GetAlias": of(ALIAS, ALIASED, not_found=({**OF_FN, "Name": "absent"}, {**ABSENT, "Name": "live"}),
                   invalid={**VERSION_AS_FUNCTION, "Name": "live"}),
    "ListAliases": of(OF_FN, ALIASED, not_found=ABSENT, invalid={**OF_FN, "Marker": "none of ours"}),
    "UpdateAlias": of(
        {**ALIAS, "Description": "new"}, ALIASED,
        not_found={**OF_FN, "Name": "absent"}, stale={**ALIAS, **OLD},
        invalid={**ALIAS, "RoutingConfig": {"AdditionalVersionWeights": {"1": 0.5}}}, explained={CONFLICT: IN_TURN},
    ),
    "DeleteAlias": of(ALIAS, ALIASED, not_found={**ABSENT, "Name": "live"}, invalid={**VERSION_AS_FUNCTION, "Name": "live"},
                      explained={CONFLICT: IN_TURN}),
    # ---- layers ----
    "PublishLayerVersion": of(
        {"LayerName": LAYER, "Content": {"ZipFile": ZIP}, "CompatibleRuntimes": [RUNTIME], "LicenseInfo": "MIT"},
        invalid=({"LayerName": "a b", "Content": {"ZipFile": ZIP}}, {"LayerName": LAYER, "Content": {"ZipFile": BROKEN}},
                 {"LayerName": LAYER, "Content": S3}),
        explained={NOT_FOUND: "nothing that must be there"},
    ),
    "GetLayerVersion": of(LAYER_ONE, not_found={"LayerName": LAYER, "VersionNumber": 9},
                          invalid={"LayerName": "a b", "VersionNumber": 1}),
    "GetLayerVersionByArn": of(
        {"Arn": LAMBDA + "layer:" + LAYER + ":1"}, not_found={"Arn": LAMBDA + "layer:absent:1"}, invalid={"Arn": "none"}
    ),
    "ListLayers": of({"CompatibleRuntime": RUNTIME}, invalid={"Marker": "none of ours"}),
    "ListLayerVersions": of({"LayerName": LAYER}, invalid={"LayerName": "a b"},
                            explained={NOT_FOUND: "a layer without versions is an empty list, as in Lambda"}),
    "DeleteLayerVersion": of(LAYER_ONE, invalid={"LayerName": "a b", "VersionNumber": 1},
                             explained={NOT_FOUND: "one that is not there is fine, as in Lambda"}),
    "AddLayerVersionPermission": of(
        SHARE, not_found={**SHARE, "VersionNumber": 9}, conflict=SHARE, stale={**SHARE, "StatementId": "two", **OLD},
        invalid={**SHARE, "LayerName": "a b"}, explained={"PolicyLengthExceededException": "in test_api_limits.py"},
    ),
    "GetLayerVersionPolicy": of(LAYER_ONE, SHARED, not_found={**LAYER_ONE, "VersionNumber": 9},
                                invalid={"LayerName": "a b", "VersionNumber": 1}),
    "RemoveLayerVersionPermission": of(
        {**LAYER_ONE, "StatementId": "one"}, SHARED, ("AddLayerVersionPermission", {**SHARE, "StatementId": "two"}),
        not_found={**LAYER_ONE, "StatementId": "absent"}, stale={**LAYER_ONE, "StatementId": "two", **OLD},
        invalid={"LayerName": "a b", "VersionNumber": 1, "StatementId": "two"}, explained={CONFLICT: IN_TURN},
    ),
    # ---- tags ----
    "TagResource": of({"Resource": TAGGED, "Tags": {"a": "b"}}, not_found={"Resource": LAMBDA + "function:absent", "Tags": {}},
                      invalid=({"Resource": TAGGED + ":1", "Tags": {}}, {"Resource": TAGGED, "Tags": {"aws:a": "b"}}),
                      explained={CONFLICT: IN_TURN}),
    "UntagResource": of({"Resource": TAGGED, "TagKeys": ["a"]},
                        not_found={"Resource": LAMBDA + "function:absent", "TagKeys": ["a"]},
                        invalid={"Resource": "no-arn", "TagKeys": ["a"]}, explained={CONFLICT: IN_TURN}),
    "ListTags": of({"Resource": TAGGED}, ("TagResource", {"Resource": TAGGED, "Tags": {"a": "b"}}),
                   not_found={"Resource": LAMBDA + "function:absent"}, invalid={"Resource": "no-arn"}),
    # ---- configurations ----
    "PutRuntimeManagementConfig": of(
        {**OF_FN, "UpdateRuntimeOn": "Auto"}, not_found={**ABSENT, "UpdateRuntimeOn": "Auto"},
        invalid=({**OF_FN, "UpdateRuntimeOn": "Manual"}, {**OF_FN, "UpdateRuntimeOn": "FunctionUpdate"}),
        explained={CONFLICT: IN_TURN},
    ),
    "GetRuntimeManagementConfig": of(OF_FN, not_found=ABSENT, invalid={**OF_FN, "FunctionName": "no name"}),
    "PutFunctionRecursionConfig": of({**OF_FN, "RecursiveLoop": "Allow"}, not_found={**ABSENT, "RecursiveLoop": "Allow"},
                                     invalid={**VERSION_AS_FUNCTION, "RecursiveLoop": "Allow"}, explained={CONFLICT: IN_TURN}),
    "GetFunctionRecursionConfig": of(OF_FN, ("PutFunctionRecursionConfig", {**OF_FN, "RecursiveLoop": "Allow"}),
                                     not_found=ABSENT, invalid=VERSION_AS_FUNCTION),
    # ---- concurrency ----
    "PutFunctionConcurrency": of(
        {**OF_FN, "ReservedConcurrentExecutions": 2}, not_found={**ABSENT, "ReservedConcurrentExecutions": 2},
        invalid=({**OF_FN, "ReservedConcurrentExecutions": 901}, {**VERSION_AS_FUNCTION, "ReservedConcurrentExecutions": 2}),
        explained={CONFLICT: IN_TURN},
    ),
    "GetFunctionConcurrency": of(OF_FN, ("PutFunctionConcurrency", {**OF_FN, "ReservedConcurrentExecutions": 2}),
                                 not_found=ABSENT, invalid=VERSION_AS_FUNCTION),
    "DeleteFunctionConcurrency": of(OF_FN, not_found=ABSENT, invalid=VERSION_AS_FUNCTION, explained={CONFLICT: IN_TURN}),
    "PutProvisionedConcurrencyConfig": of(
        {**PLACE, "ProvisionedConcurrentExecutions": 1},
        not_found={**OF_FN, "Qualifier": "9", "ProvisionedConcurrentExecutions": 1},
        invalid={**OF_FN, "Qualifier": "$LATEST", "ProvisionedConcurrentExecutions": 1}, explained={CONFLICT: IN_TURN},
    ),
    "GetProvisionedConcurrencyConfig": of(
        PLACE, PROVISIONED, ALIASED, no_provisioned={**OF_FN, "Qualifier": "live"}, not_found={**OF_FN, "Qualifier": "9"},
        invalid={**OF_FN, "Qualifier": "$LATEST"},
    ),
    "ListProvisionedConcurrencyConfigs": of(OF_FN, PROVISIONED, not_found=ABSENT, invalid=VERSION_AS_FUNCTION),
    "DeleteProvisionedConcurrencyConfig": of(PLACE, PROVISIONED, not_found={**OF_FN, "Qualifier": "9"},
                                             invalid={**OF_FN, "Qualifier": "$LATEST"}, explained={CONFLICT: IN_TURN}),
    # ---- asynchronous invocation ----
    "PutFunctionEventInvokeConfig": of(EVENTS, not_found={**EVENTS, "Qualifier": "9"}, invalid=OF_FN,
                                       explained={CONFLICT: IN_TURN}),
    "UpdateFunctionEventInvokeConfig": of(
        {**OF_FN, "MaximumEventAgeInSeconds": 60}, CONFIGURED, not_found={**EVENTS, "Qualifier": "1"}, invalid=OF_FN,
        explained={CONFLICT: IN_TURN},
    ),
    "GetFunctionEventInvokeConfig": of(OF_FN, CONFIGURED, not_found={**OF_FN, "Qualifier": "1"}, invalid=DISAGREE),
    "ListFunctionEventInvokeConfigs": of(OF_FN, CONFIGURED, not_found=ABSENT, invalid=VERSION_AS_FUNCTION),
    "DeleteFunctionEventInvokeConfig": of(OF_FN, CONFIGURED, not_found={**OF_FN, "Qualifier": "1"}, invalid=DISAGREE,
                                          explained={CONFLICT: IN_TURN}),
    # ---- function URLs ----
    "CreateFunctionUrlConfig": of({**URL, "Cors": {"AllowOrigins": ["*"], "MaxAge": 1}}, not_found={**URL, **ABSENT},
                                  conflict=URL, invalid={**URL, "FunctionName": FN + ":1"}),
    "GetFunctionUrlConfig": of(OF_FN, URL_MADE, ALIASED, not_found={**OF_FN, "Qualifier": "live"}, invalid=VERSION_AS_FUNCTION),
    "UpdateFunctionUrlConfig": of({**OF_FN, "AuthType": "AWS_IAM"}, URL_MADE, ALIASED,
                                  not_found={**OF_FN, "Qualifier": "live"}, invalid=VERSION_AS_FUNCTION,
                                  explained={CONFLICT: IN_TURN}),
    "ListFunctionUrlConfigs": of(OF_FN, URL_MADE, not_found=ABSENT, invalid=VERSION_AS_FUNCTION),
    "DeleteFunctionUrlConfig": of(OF_FN, URL_MADE, ALIASED, not_found={**OF_FN, "Qualifier": "live"},
                                  invalid=VERSION_AS_FUNCTION, explained={CONFLICT: IN_TURN}),
    # ---- policies ----
    "AddPermission": of(
        {**PERMIT, "SourceArn": "arn:aws:s3:::b", "SourceAccount": "123456789012"}, not_found={**PERMIT, **ABSENT},
        conflict=PERMIT, stale={**PERMIT, "StatementId": "two", **OLD}, invalid={**PERMIT, "Qualifier": "$LATEST"},
        explained={"PolicyLengthExceededException": "in test_attached.py"},
    ),
    "RemovePermission": of(
        {**OF_FN, "StatementId": "one"}, PERMITTED, ("AddPermission", {**PERMIT, "StatementId": "two"}),
        not_found={**OF_FN, "StatementId": "absent"}, stale={**OF_FN, "StatementId": "two", **OLD},
        invalid={**OF_FN, "StatementId": "two", "Qualifier": "$LATEST"},
    ),
    "GetPolicy": of(OF_FN, PERMITTED, not_found={**OF_FN, "Qualifier": "1"}, invalid={**OF_FN, "Qualifier": "$LATEST"}),
    # ---- account ----
    "GetAccountSettings": of({}),
}  # fmt: skip

BUILT = [row for row in OPERATIONS if row.support in (Support.FULL, Support.PARTIAL)]
LATER = [row for row in OPERATIONS if row not in BUILT and row.name in MODEL.operation_names]


def filled(value, names):
    if isinstance(value, str):
        for name, text in names.items():
            value = value.replace("{" + name + "}", text)
        return value
    if isinstance(value, dict):
        return {key: filled(inner, names) for key, inner in value.items()}
    return [filled(inner, names) for inner in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def recorded(served):
    client = connect(served.http_port)
    client.create_function(
        FunctionName="every-closed", Runtime=RUNTIME, Role=ROLE, Handler="app.handler", Code={"ZipFile": ZIP}
    )
    client.put_function_concurrency(FunctionName="every-closed", ReservedConcurrentExecutions=0)
    yield Recorder(client)
    client.delete_function(FunctionName="every-closed")
    client.close()


@pytest.fixture
def place(recorded):
    """A function with version 1 and a layer with version 1, and how to call an operation on them."""
    end = uuid.uuid4().hex[:8]
    names = {"fn": f"every-{end}", "new": f"every-new-{end}", "layer": f"every-layer-{end}", "closed": "every-closed"}
    client = recorded.client

    def call(operation, values):
        return getattr(client, xform_name(operation))(**filled(values, names))

    call("CreateFunction", {**CREATE, "FunctionName": FN, "Publish": True})
    call("PublishLayerVersion", {"LayerName": LAYER, "Content": {"ZipFile": ZIP}})
    yield SimpleNamespace(call=call, recorded=recorded)
    for operation, values in (
        ("DeleteFunction", OF_FN),
        *(("DeleteLayerVersion", {"LayerName": LAYER, "VersionNumber": version}) for version in (1, 2)),
    ):
        try:
            call(operation, values)
        except client.exceptions.ResourceNotFoundException:
            assert operation == "DeleteFunction"  # the happy call of that operation's own case


def test_every_operation_has_a_case():
    assert set(CASES) == {row.name for row in BUILT}


@pytest.mark.parametrize("row", BUILT, ids=lambda row: row.name)
def test_every_error_of_the_model_is_provoked_or_explained(row):
    case = CASES[row.name]
    theirs = {shape.name for shape in MODEL.operation_model(row.name).error_shapes}
    open_ones = theirs - set(case.errors) - set(case.explained) - set(NEVER)
    assert open_ones == set()
    assert not set(case.errors) & (set(case.explained) | set(NEVER))


@pytest.mark.parametrize("row", BUILT, ids=lambda row: row.name)
def test_good_and_bad_calls(row, place):
    case, recorded = CASES[row.name], place.recorded
    for operation, values in case.before:
        place.call(operation, values)
    first = {name: calls for name, calls in case.errors.items() if name != CONFLICT or row.name == "DeleteFunction"}
    for name, calls in first.items():
        _refuse(place, row.name, name, calls)
    broken = _too_much(row)
    if broken is not None:
        with recorded.refused() as found:
            place.call(row.name, {**case.happy, **broken})
        check_error(found, "ValidationException")
        assert "1 validation error detected: Value '" in found["body"]["message"]
    answer = place.call(row.name, case.happy)
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == row.status
    assert recorded.last["headers"]["x-amzn-RequestId"]
    if row.name != "InvokeWithResponseStream":
        check_answer(row.name, recorded.last)
    for name in set(case.errors) - set(first):
        _refuse(place, row.name, name, case.errors[name])
    for operation, values in case.clean:
        place.call(operation, values)


def _refuse(place, operation, name, calls):
    for values in calls:
        with place.recorded.refused() as found:
            place.call(operation, values)
        try:
            check_error(found, name)
        except AssertionError as error:
            raise AssertionError(f"{operation} {values}: {error}") from error


def _too_much(row):
    """A member that breaks its bounds; None: no member of the operation has any."""
    for member in row.shape.members:
        if member.place is Place.PAYLOAD or member.shape.maximum is None or member.shape.maximum > 4096:
            continue
        above = int(member.shape.maximum) + 1
        value = {Type.WHOLE: above, Type.TEXT: "a" * above}.get(member.shape.type)
        if value is not None:
            return {member.name: value}
    return None


@pytest.mark.parametrize("row", LATER, ids=lambda row: row.name)
def test_what_is_not_here_says_so(row, recorded):
    shape = MODEL.operation_model(row.name).input_shape
    values = {} if shape is None else {name: _any(shape.members[name]) for name in shape.required_members}
    with recorded.refused() as found:
        getattr(recorded.client, xform_name(row.name))(**values)
    check_error(found, "NotImplementedException")
    assert found["status"] == 501
    assert row.name in found["body"]["message"]


def _any(shape):
    """Some value of the right type."""
    plain = {"string": "a", "integer": 1, "boolean": True, "list": [], "map": {}, "blob": b"a", "timestamp": 0}
    if shape.type_name == "structure":
        return {name: _any(shape.members[name]) for name in shape.required_members}
    return plain[shape.type_name]
