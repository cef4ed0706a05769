"""Secrets Manager and Parameter Store as boto3 sees them."""

from __future__ import annotations

import pytest

from tests.lambda_api.client import refusal

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def test_a_secret_from_its_making_to_its_end(as_):
    manager = as_("secretsmanager")
    made = manager.create_secret(Name="db/password", SecretString="first", Description="of the database")
    assert made["ARN"].startswith("arn:aws:secretsmanager:local:000000000000:secret:db/password-")
    for name in ("db/password", made["ARN"], made["ARN"][:-7]):
        got = manager.get_secret_value(SecretId=name)
        assert (got["SecretString"], got["VersionStages"]) == ("first", ["AWSCURRENT"])
        assert (got["ARN"], got["Name"], got["VersionId"]) == (made["ARN"], "db/password", made["VersionId"])
    second = manager.put_secret_value(SecretId="db/password", SecretString="second")
    assert second["VersionStages"] == ["AWSCURRENT"]
    assert manager.get_secret_value(SecretId="db/password")["SecretString"] == "second"
    assert manager.get_secret_value(SecretId="db/password", VersionStage="AWSPREVIOUS")["SecretString"] == "first"
    assert manager.get_secret_value(SecretId="db/password", VersionId=made["VersionId"])["SecretString"] == "first"
    third = manager.put_secret_value(SecretId="db/password", SecretBinary=b"\0third", VersionStages=["AWSPENDING"])
    assert manager.get_secret_value(SecretId="db/password")["SecretString"] == "second"
    assert manager.get_secret_value(SecretId="db/password", VersionStage="AWSPENDING")["SecretBinary"] == b"\0third"
    wrong = {"SecretId": "db/password", "VersionStage": "AWSCURRENT", "MoveToVersionId": third["VersionId"]}
    assert refusal(manager.update_secret_version_stage, **wrong)[0] == "InvalidParameterException"
    manager.update_secret_version_stage(**wrong, RemoveFromVersionId=second["VersionId"])
    shown = manager.describe_secret(SecretId="db/password")
    assert shown["VersionIdsToStages"] == {
        second["VersionId"]: ["AWSPREVIOUS"],
        third["VersionId"]: ["AWSPENDING", "AWSCURRENT"],
    }
    assert [s["Name"] for s in manager.list_secrets(Filters=[{"Key": "name", "Values": ["db/"]}])["SecretList"]] == [
        "db/password"
    ]
    manager.delete_secret(SecretId="db/password", RecoveryWindowInDays=7)
    assert refusal(manager.get_secret_value, SecretId="db/password")[0] == "InvalidRequestException"
    manager.restore_secret(SecretId="db/password")
    assert manager.get_secret_value(SecretId="db/password")["SecretBinary"] == b"\0third"
    manager.delete_secret(SecretId="db/password", ForceDeleteWithoutRecovery=True)
    assert refusal(manager.get_secret_value, SecretId="db/password")[:2] == ("ResourceNotFoundException", 400)


def test_the_same_request_again_changes_nothing(as_):
    manager = as_("secretsmanager")
    token = "a" * 32
    made = manager.create_secret(Name="again", SecretString="x", ClientRequestToken=token)
    assert manager.create_secret(Name="again", SecretString="x", ClientRequestToken=token)["VersionId"] == made["VersionId"]
    assert refusal(manager.create_secret, Name="again", SecretString="x")[0] == "ResourceExistsException"
    assert manager.put_secret_value(SecretId="again", SecretString="x", ClientRequestToken=token)["VersionId"] == token
    assert (
        refusal(manager.put_secret_value, SecretId="again", SecretString="y", ClientRequestToken=token)[0]
        == "ResourceExistsException"
    )
    manager.delete_secret(SecretId="again", ForceDeleteWithoutRecovery=True)


def test_limits_and_no_value_in_an_error(as_):
    manager = as_("secretsmanager")
    whole = "x" * 65_536
    manager.create_secret(Name="large", SecretString=whole)
    assert manager.get_secret_value(SecretId="large")["SecretString"] == whole
    name, _, response = refusal(manager.put_secret_value, SecretId="large", SecretString="planted" + whole)
    assert name == "ValidationException"
    assert "planted" not in response["Error"]["Message"]
    assert refusal(manager.create_secret, Name="no name", SecretString="x")[0] == "InvalidParameterException"
    assert refusal(manager.create_secret, Name="both", SecretString="x", SecretBinary=b"y")[0] == "InvalidParameterException"
    for number in range(22):
        manager.put_secret_value(SecretId="large", SecretString=f"value {number}")
    versions = manager.list_secret_version_ids(SecretId="large", IncludeDeprecated=True)["Versions"]
    assert len(versions) == 20
    assert manager.get_secret_value(SecretId="large", VersionStage="AWSPREVIOUS")["SecretString"] == "value 20"
    assert refusal(manager.rotate_secret, SecretId="large")[0] == "InvalidRequestException"
    manager.delete_secret(SecretId="large", ForceDeleteWithoutRecovery=True)
    password = manager.get_random_password(PasswordLength=24, ExcludePunctuation=True)["RandomPassword"]
    assert len(password) == 24
    assert password.isalnum()


def test_rights_tenants_and_policies(as_):
    manager, theirs, invoker = as_("secretsmanager"), as_("secretsmanager", "tenant"), as_("secretsmanager", "invoker")
    manager.create_secret(Name="mine", SecretString="x")
    assert refusal(invoker.get_secret_value, SecretId="mine")[0] == "AccessDeniedException"
    assert refusal(theirs.get_secret_value, SecretId="mine")[0] == "ResourceNotFoundException"
    theirs.create_secret(Name="mine", SecretString="acme's")
    assert theirs.get_secret_value(SecretId="mine")["SecretString"] == "acme's"
    assert manager.get_secret_value(SecretId="mine")["SecretString"] == "x"
    policy = '{"Statement": {"Effect": "Allow", "Principal": "*", "Action": "secretsmanager:GetSecretValue", "Resource": "*"}}'
    manager.put_resource_policy(SecretId="mine", ResourcePolicy=policy)
    assert manager.get_resource_policy(SecretId="mine")["ResourcePolicy"] == policy
    for wrong in ("{", policy.replace("Allow", "Deny"), policy.replace('"Resource"', '"NotResource"')):
        assert (
            refusal(manager.put_resource_policy, SecretId="mine", ResourcePolicy=wrong)[0] == "MalformedPolicyDocumentException"
        )
    manager.delete_resource_policy(SecretId="mine")
    for client in (manager, theirs):
        client.delete_secret(SecretId="mine", ForceDeleteWithoutRecovery=True)


def test_secrets_are_parameters(as_):
    manager, ssm = as_("secretsmanager"), as_("ssm")
    manager.create_secret(Name="token", SecretString="first")
    manager.put_secret_value(SecretId="token", SecretString="second")
    got = ssm.get_parameter(Name="token", WithDecryption=True)["Parameter"]
    assert (got["Value"], got["Version"], got["Type"]) == ("second", 2, "SecureString")
    assert got["ARN"] == "arn:aws:ssm:local:000000000000:parameter/token"
    for name, value in (
        ("token:1", "first"),
        ("token:AWSPREVIOUS", "first"),
        (got["ARN"], "second"),
        ("/aws/reference/secretsmanager/token", "second"),
    ):
        assert ssm.get_parameter(Name=name, WithDecryption=True)["Parameter"]["Value"] == value
    assert ssm.get_parameter(Name="token")["Parameter"]["Value"] not in ("first", "second")
    assert refusal(ssm.get_parameter, Name="token:9")[0] == "ParameterVersionNotFound"
    assert refusal(ssm.get_parameter, Name="none")[:2] == ("ParameterNotFound", 400)
    ssm.put_parameter(Name="/app/url", Value="http://a", Type="String")
    assert refusal(ssm.put_parameter, Name="/app/url", Value="b", Type="String")[0] == "ParameterAlreadyExists"
    assert ssm.put_parameter(Name="/app/url", Value="http://b", Overwrite=True)["Version"] == 2
    assert ssm.get_parameter(Name="/app/url")["Parameter"]["Value"] == "http://b"
    both = ssm.get_parameters(Names=["/app/url", "none"])
    assert ([p["Name"] for p in both["Parameters"]], both["InvalidParameters"]) == (["/app/url"], ["none"])
    assert [p["Name"] for p in ssm.get_parameters_by_path(Path="/app")["Parameters"]] == ["/app/url"]
    ssm.delete_parameter(Name="/app/url")
    manager.delete_secret(SecretId="token", ForceDeleteWithoutRecovery=True)


def test_it_is_all_there_after_a_kill(as_, guarded):
    manager, kms = as_("secretsmanager"), as_("kms")
    sealed = kms.encrypt(KeyId="alias/default", Plaintext=b"planted-for-the-next-life")["CiphertextBlob"]
    assert refusal(manager.create_secret, Name="k", SecretString="x", KmsKeyId="alias/none")[0] == "EncryptionFailure"
    manager.create_secret(Name="kept", SecretString="planted-for-the-next-life", KmsKeyId="alias/default")
    guarded.kill()
    found = [p for p in guarded.state_dir.rglob("*") if p.is_file() and b"planted-for-the-next-life" in p.read_bytes()]
    assert found == []
    guarded.start()
    manager, kms = as_("secretsmanager"), as_("kms")
    assert manager.get_secret_value(SecretId="kept")["SecretString"] == "planted-for-the-next-life"
    assert kms.decrypt(CiphertextBlob=sealed)["Plaintext"] == b"planted-for-the-next-life"
    manager.delete_secret(SecretId="kept", ForceDeleteWithoutRecovery=True)
