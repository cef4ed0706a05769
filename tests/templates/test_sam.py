"""Templates read into plans: what is taken, what is passed over and said, what is refused and where."""

from __future__ import annotations

from pathlib import Path

import pytest

from scheduler.templates.folder import read_settings
from scheduler.templates.plan import TemplateBroken
from scheduler.templates.sam import is_template, read_template

EXAMPLE = Path(__file__).parents[2] / "examples" / "sam" / "template.yaml"
HEAD = "AWSTemplateFormatVersion: '2010-09-09'\nTransform: AWS::Serverless-2016-10-31\n"


def read(path, **parameters):
    return read_template(path, parameters=parameters, region="local", account_id="123456789012")


@pytest.fixture
def template(tmp_path):
    """Writes a template beside a folder `src` with app.py."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "app.py").write_text("def handler(e, c):\n    return e\n")

    def write(text, name="template.yaml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def function(template, properties, *, more="", head=HEAD):
    lines = "\n".join(f"      {line}" for line in properties.strip().splitlines())
    return template(f"{head}{more}\nResources:\n  Fn:\n    Type: AWS::Serverless::Function\n    Properties:\n{lines}\n")


BASE = "CodeUri: src\nHandler: app.handler\nRuntime: python3.11\n"


def test_the_example_is_a_whole_application():
    plan = read(EXAMPLE, Stage="prod")
    (layer,) = plan.layers
    (made,) = plan.functions
    assert (layer.name, layer.source) == ("words-prod", EXAMPLE.parent / "words")
    assert (made.name, made.source, made.layers) == ("greeting-prod", EXAMPLE.parent / "hello", (f"@{layer.logical}",))
    assert (made.configuration["Timeout"], made.configuration["MemorySize"]) == (5, 256)
    variables = made.configuration["Environment"]["Variables"]
    assert variables == {"STAGE": "prod", "SELF": "arn:aws:lambda:local:123456789012:function:greeting-prod"}
    assert (made.aliases, made.publish, made.url) == (("live",), True, {"AuthType": "NONE"})
    assert {p["Action"] for p in made.permissions} == {"lambda:InvokeFunctionUrl", "lambda:InvokeFunction"}
    assert made.events["EachHour"]["Type"] == "Schedule"
    told = {notice.where for notice in plan.notices}
    assert told == {"Greeting.Policies", "Greeting.Events.EachHour"}


def test_policies_grant_secrets_and_keys(template):
    policies = """Policies:
  - AWSSecretsManagerGetSecretValuePolicy:
      SecretArn: !Sub arn:${AWS::Partition}:secretsmanager:${AWS::Region}:${AWS::AccountId}:secret:db/password-??????
  - SSMParameterReadPolicy: {ParameterName: app/url}
  - KMSDecryptPolicy: {KeyId: alias/app}
  - KMSEncryptPolicy: {KeyId: alias/app}
  - AWSLambdaBasicExecutionRole
"""
    plan = read(function(template, BASE + policies))
    (made,) = plan.functions
    start = "arn:aws:secretsmanager:local:123456789012:secret:db/password"
    assert (made.secrets, made.keys) == ((start + "-*", "app/url", "/app/url"), ("alias/app",))
    (notice,) = (notice for notice in plan.notices if notice.where.endswith(".Policies"))
    assert "AWSLambdaBasicExecutionRole" in notice.text
    assert "KMS" not in notice.text
    assert read(function(template, BASE)).functions[0].secrets == ()


def test_names_are_those_of_the_template_where_it_gives_none(template):
    (made,) = read(function(template, BASE)).functions
    assert (made.name, made.aliases, made.publish) == ("Fn", (), False)


def test_settings_of_functions(template):
    (made,) = read(
        function(
            template,
            BASE
            + "ReservedConcurrentExecutions: 7\nAutoPublishAlias: live\nEphemeralStorage: {Size: 600}\n"
            + "ProvisionedConcurrencyConfig: {ProvisionedConcurrentExecutions: 2}\n"
            + "EventInvokeConfig: {MaximumRetryAttempts: 1}\nTags: {team: blue}\n",
        )
    ).functions
    assert (made.reserved, made.provisioned, made.configuration["EphemeralStorage"]) == (7, 2, {"Size": 600})
    assert made.event_config == {"MaximumRetryAttempts": 1, "Qualifier": "live"}
    assert made.tags["team"] == "blue"


def test_fields_of_a_functions_configuration(template):
    (made,) = read(
        function(
            template,
            BASE
            + "Tracing: Active\nLoggingConfig: {LogFormat: JSON, SystemLogLevel: WARN}\nRecursiveLoop: Allow\n"
            + "SnapStart: {ApplyOn: PublishedVersions}\nRuntimeManagementConfig: {UpdateRuntimeOn: Auto}\n"
            + "DeadLetterQueue: {Type: SQS, TargetArn: 'arn:aws:sqs:local:123456789012:dead'}\n",
        )
    ).functions
    assert made.configuration["TracingConfig"] == {"Mode": "Active"}
    assert made.configuration["LoggingConfig"] == {"LogFormat": "JSON", "SystemLogLevel": "WARN"}
    assert made.configuration["SnapStart"] == {"ApplyOn": "PublishedVersions"}
    assert made.configuration["DeadLetterConfig"] == {"TargetArn": "arn:aws:sqs:local:123456789012:dead"}
    assert (made.recursive_loop, made.runtime_management) == ("Allow", {"UpdateRuntimeOn": "Auto"})


def test_inline_code(template):
    text = 'InlineCode: "def handler(e, c): return 1"\nHandler: index.handler\nRuntime: python3.11'
    (made,) = read(function(template, text)).functions
    assert made.source is None
    assert made.inline is not None
    assert "return 1" in made.inline


def test_plain_cloudformation(template):
    path = template(
        '{"Resources": {"F": {"Type": "AWS::Lambda::Function", "Properties": {"Code": "src", "Handler": "app.handler",'
        ' "Runtime": "python3.11", "Role": "arn:aws:iam::1:role/r", "FunctionName": {"Fn::Join": ["-", ["a", "b"]]}}},'
        ' "T": {"Type": "AWS::DynamoDB::Table", "Properties": {}}}}',
        "template.json",
    )
    plan = read(path)
    assert plan.functions[0].name == "a-b"
    assert {notice.where for notice in plan.notices} == {"F.Role", "T"}


INTRINSICS = {
    "!Sub 'x-${Stage}-${!Kept}'": "x-dev-${Kept}",
    "!Join ['.', [a, !Ref Stage]]": "a.dev",
    "!Select [1, !Split ['-', 'a-b-c']]": "b",
    "!FindInMap [Sizes, !Ref Stage, Name]": "small",
    "!If [IsProd, large-one, small-one]": "small-one",
    "!If [IsDev, !Sub '${AWS::Region}', other]": "local",
    "!Ref AWS::AccountId": "123456789012",
    "!Base64 abc": "YWJj",
}
DECLARED = """
Parameters:
  Stage: {Type: String, Default: dev}
Mappings:
  Sizes: {dev: {Name: small}, prod: {Name: large}}
Conditions:
  IsProd: !Equals [!Ref Stage, prod]
  IsDev: !Not [!Condition IsProd]
  Both: !And [!Condition IsProd, !Condition IsDev]
"""


@pytest.mark.parametrize("text", INTRINSICS)
def test_intrinsic_functions(template, text):
    (made,) = read(function(template, BASE + f"Description: {text}", more=DECLARED)).functions
    assert made.configuration["Description"] == INTRINSICS[text]


def test_a_value_that_is_not_there(template):
    (made,) = read(function(template, BASE + "Description: !If [IsProd, x, !Ref AWS::NoValue]", more=DECLARED)).functions
    assert "Description" not in made.configuration


def test_functions_under_a_condition(template):
    path = function(template, BASE, more=DECLARED)
    path.write_text(path.read_text().replace("  Fn:\n", "  Fn:\n    Condition: IsProd\n"))
    assert read(path, Stage="prod").functions
    with pytest.raises(TemplateBroken, match="no function in it"):
        read(path)


@pytest.mark.parametrize(
    ("properties", "more", "text"),
    [
        ("CodeUri: absent\nHandler: a.b\nRuntime: python3.11", "", "nothing at"),
        ("CodeUri: s3://bucket/key\nHandler: a.b\nRuntime: python3.11", "", "code on this disk"),
        ("PackageType: Image\nImageUri: x", "", "code on this disk"),
        (BASE + "Description: !Ref Absent", "", "Absent"),
        (BASE + "Description: !GetAtt Fn.Absent", "", "made by AWS"),
        (BASE + "Description: !FindInMap [Sizes, no, Name]", DECLARED, "Mappings has no"),
        (BASE + "Description: !ImportValue x", "", "ImportValue is not understood"),
        (BASE + "Layers: [!Ref Fn2]", "", "Fn2"),
        ("Handler: app.handler\nRuntime: 5\nCodeUri: [a]", "", "no valid SAM"),
    ],
)
def test_what_cannot_be_deployed_is_told_with_its_place(template, properties, more, text):
    with pytest.raises(TemplateBroken, match=text):
        read(function(template, properties, more=more))


def test_parameters_are_checked(template):
    declared = "Parameters:\n  A: {Type: String}\n  B: {Type: String, Default: x, AllowedValues: [x]}\n"
    path = function(template, BASE, more=declared)
    for given, text in (
        ({}, "parameter A: has no default"),
        ({"A": "1", "B": "y"}, "not one of x"),
        ({"A": "1", "C": "1"}, "none such"),
    ):
        with pytest.raises(TemplateBroken, match=text):
            read(path, **given)


@pytest.mark.parametrize("text", ["Resources: [", "a: b", "[]", "Resources: {A: 1}", "Resources: {}"])
def test_files_that_are_no_templates(template, text):
    with pytest.raises(TemplateBroken):
        read(template(text))


def test_what_a_template_looks_like(template, tmp_path):
    assert is_template(template("Resources: {}"))
    assert not is_template(template("a: b", "other.yaml"))
    assert not is_template(tmp_path)
    assert not is_template(template("Resources: {}", "app.py"))


def test_a_folders_settings(tmp_path):
    assert read_settings(tmp_path) == {}
    (tmp_path / "function.toml").write_text('handler = "a.b"\nmemory_mb = 512\n[environment]\nA = "b"\n')
    assert read_settings(tmp_path) == {"handler": "a.b", "memory_mb": 512, "environment": {"A": "b"}}
    for text, what in (("memory = 5", "no key 'memory'"), ("=", "cannot be read"), ("environment = 1", "table of texts")):
        (tmp_path / "function.toml").write_text(text)
        with pytest.raises(TemplateBroken, match=what):
            read_settings(tmp_path)
