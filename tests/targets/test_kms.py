"""KMS as boto3 sees it."""

from __future__ import annotations

import pytest

from scheduler.errors import InitFailed, SchedulerError
from tests.e2e.serving import RUNTIME, Served
from tests.lambda_api.client import ROLE, package, refusal

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

HELLO = {"LambdaFunctionName": "hello"}


def test_a_key_from_its_making_to_its_end(as_):
    kms = as_("kms")
    made = kms.create_key(Description="first")["KeyMetadata"]
    key_id = made["KeyId"]
    assert made["Arn"] == f"arn:aws:kms:local:000000000000:key/{key_id}"
    assert (made["KeyState"], made["Enabled"], made["KeyUsage"]) == ("Enabled", True, "ENCRYPT_DECRYPT")
    kms.create_alias(AliasName="alias/whole", TargetKeyId=key_id)
    assert refusal(kms.create_alias, AliasName="alias/whole", TargetKeyId=key_id)[:2] == ("AlreadyExistsException", 400)
    names = (key_id, made["Arn"], "alias/whole", "arn:aws:kms:local:000000000000:alias/whole")
    assert {kms.describe_key(KeyId=name)["KeyMetadata"]["KeyId"] for name in names} == {key_id}
    sealed = kms.encrypt(KeyId="alias/whole", Plaintext=b"text", EncryptionContext=HELLO)["CiphertextBlob"]
    kms.rotate_key_on_demand(KeyId=key_id)
    opened = kms.decrypt(CiphertextBlob=sealed, EncryptionContext=HELLO)
    assert (opened["Plaintext"], opened["KeyId"]) == (b"text", made["Arn"])
    again = kms.encrypt(KeyId=key_id, Plaintext=b"text", EncryptionContext=HELLO)["CiphertextBlob"]
    assert kms.decrypt(CiphertextBlob=again, EncryptionContext=HELLO, KeyId="alias/whole")["Plaintext"] == b"text"
    assert key_id in [key["KeyId"] for page in kms.get_paginator("list_keys").paginate() for key in page["Keys"]]
    assert [a["AliasName"] for a in kms.list_aliases(KeyId=key_id)["Aliases"]] == ["alias/whole"]

    kms.disable_key(KeyId=key_id)
    assert refusal(kms.decrypt, CiphertextBlob=sealed, EncryptionContext=HELLO)[0] == "DisabledException"
    assert refusal(kms.encrypt, KeyId=key_id, Plaintext=b"x")[0] == "DisabledException"
    kms.enable_key(KeyId=key_id)
    kms.schedule_key_deletion(KeyId=key_id, PendingWindowInDays=7)
    assert refusal(kms.decrypt, CiphertextBlob=sealed, EncryptionContext=HELLO)[0] == "KMSInvalidStateException"
    kms.cancel_key_deletion(KeyId=key_id)
    assert kms.describe_key(KeyId=key_id)["KeyMetadata"]["KeyState"] == "Disabled"
    kms.enable_key(KeyId=key_id)
    assert kms.decrypt(CiphertextBlob=sealed, EncryptionContext=HELLO)["Plaintext"] == b"text"
    kms.delete_alias(AliasName="alias/whole")
    assert refusal(kms.describe_key, KeyId="alias/whole")[0] == "NotFoundException"


def test_the_context_is_part_of_the_lock(as_):
    kms = as_("kms")
    sealed = kms.encrypt(KeyId="alias/default", Plaintext=b"text", EncryptionContext=HELLO)["CiphertextBlob"]
    changed = bytes((*sealed[:-1], sealed[-1] ^ 1))
    for wrong in (
        {"CiphertextBlob": sealed},
        {"CiphertextBlob": sealed, "EncryptionContext": {"LambdaFunctionName": "copy"}},
        {"CiphertextBlob": sealed, "EncryptionContext": {**HELLO, "more": "x"}},
        {"CiphertextBlob": changed, "EncryptionContext": HELLO},
        {"CiphertextBlob": b"sKM\x01" + bytes(60), "EncryptionContext": HELLO},
        {"CiphertextBlob": b"none of ours", "EncryptionContext": HELLO},
    ):
        assert refusal(kms.decrypt, **wrong)[:2] == ("InvalidCiphertextException", 400)
    other = kms.create_key()["KeyMetadata"]["KeyId"]
    assert refusal(kms.decrypt, CiphertextBlob=sealed, EncryptionContext=HELLO, KeyId=other)[0] == "IncorrectKeyException"
    moved = kms.re_encrypt(
        CiphertextBlob=sealed,
        SourceEncryptionContext=HELLO,
        DestinationKeyId=other,
        DestinationEncryptionContext={"for": "other"},
    )
    opened = kms.decrypt(CiphertextBlob=moved["CiphertextBlob"], EncryptionContext={"for": "other"})
    assert (opened["Plaintext"], opened["KeyId"].rpartition("/")[2]) == (b"text", other)


def test_data_keys(as_):
    kms = as_("kms")
    made = kms.generate_data_key(KeyId="alias/default", KeySpec="AES_256", EncryptionContext=HELLO)
    assert len(made["Plaintext"]) == 32
    assert kms.decrypt(CiphertextBlob=made["CiphertextBlob"], EncryptionContext=HELLO)["Plaintext"] == made["Plaintext"]
    without = kms.generate_data_key_without_plaintext(KeyId="alias/default", NumberOfBytes=16)
    assert "Plaintext" not in without
    assert len(kms.decrypt(CiphertextBlob=without["CiphertextBlob"])["Plaintext"]) == 16
    assert len(kms.generate_random(NumberOfBytes=24)["Plaintext"]) == 24


def test_limits_and_what_is_not_here(as_):
    kms = as_("kms")
    longest = kms.encrypt(KeyId="alias/default", Plaintext=b"x" * 4096)["CiphertextBlob"]
    assert len(kms.decrypt(CiphertextBlob=longest)["Plaintext"]) == 4096
    name, status, response = refusal(kms.encrypt, KeyId="alias/default", Plaintext=b"planted" * 600)
    assert (name, status) == ("ValidationException", 400)
    assert "planted" not in response["Error"]["Message"]
    assert "4096" in response["Error"]["Message"]
    for wrong in ({"KeySpec": "RSA_2048"}, {"Origin": "EXTERNAL"}, {"MultiRegion": True}, {"Policy": "{}"}):
        assert refusal(kms.create_key, **wrong)[0] == "UnsupportedOperationException"
    assert refusal(kms.create_alias, AliasName="whole", TargetKeyId="alias/default")[0] == "InvalidAliasNameException"
    assert refusal(kms.create_alias, AliasName="alias/aws/x", TargetKeyId="alias/default")[0] == "InvalidAliasNameException"
    assert refusal(kms.describe_key, KeyId="arn:aws:kms:elsewhere:1:key/a")[0] == "NotFoundException"
    assert refusal(kms.sign, KeyId="a", Message=b"x", SigningAlgorithm="ECDSA_SHA_256")[0] == "UnknownOperationException"
    assert refusal(kms.generate_data_key, KeyId="alias/default")[0] == "ValidationException"


def test_rights_and_tenants(as_, guarded):
    kms, theirs, invoker = as_("kms"), as_("kms", "tenant"), as_("kms", "invoker")
    sealed = kms.encrypt(KeyId="alias/default", Plaintext=b"text")["CiphertextBlob"]
    key_id = kms.describe_key(KeyId="alias/default")["KeyMetadata"]["KeyId"]
    assert refusal(invoker.decrypt, CiphertextBlob=sealed)[0] == "AccessDeniedException"
    assert refusal(theirs.decrypt, CiphertextBlob=sealed)[0] == "InvalidCiphertextException"
    assert refusal(theirs.describe_key, KeyId=key_id)[0] == "NotFoundException"
    mine = theirs.encrypt(KeyId="alias/default", Plaintext=b"acme's")["CiphertextBlob"]
    assert theirs.decrypt(CiphertextBlob=mine)["Plaintext"] == b"acme's"
    assert refusal(kms.decrypt, CiphertextBlob=mine)[0] == "InvalidCiphertextException"
    bad = as_("kms")
    bad._request_signer._credentials.secret_key = "wrong"
    assert refusal(bad.list_keys)[:2] == ("InvalidSignatureException", 400)


def test_a_functions_environment_under_a_key_of_its_own(as_, guarded):
    kms, functions = as_("kms"), as_("lambda")
    key = kms.create_key()["KeyMetadata"]["Arn"]
    given = {"Runtime": RUNTIME, "Role": ROLE, "Handler": "app.handler", "Code": {"ZipFile": package()}}
    made = functions.create_function(
        FunctionName="locked", KMSKeyArn=key, Environment={"Variables": {"NAME": "planted"}}, **given
    )
    assert (made["KMSKeyArn"], made["Environment"]) == (key, {"Variables": {"NAME": "planted"}})
    kms.disable_key(KeyId=key)
    shown = functions.get_function_configuration(FunctionName="locked")
    assert shown["Environment"]["Error"]["ErrorCode"] == "KMSDisabledException"
    assert "Variables" not in shown["Environment"]
    for call in (functions.invoke, functions.invoke_with_response_stream):
        name, status, _ = refusal(call, FunctionName="locked", Payload=b"{}")
        assert (name, status) == ("KMSDisabledException", 502)
    changed = functions.update_function_configuration(FunctionName="locked", Timeout=5)
    assert changed["Timeout"] == 5
    assert refusal(functions.update_function_configuration, FunctionName="locked", KMSKeyArn="")[0] == "KMSDisabledException"
    kms.enable_key(KeyId=key)
    assert b"planted" in functions.invoke(FunctionName="locked", Payload=b"{}")["Payload"].read()
    absent = key[:-4] + "0000"
    name, status, response = refusal(functions.create_function, FunctionName="absent", KMSKeyArn=absent, **given)
    assert (name, status) == ("InvalidParameterValueException", 400)
    assert "KMSNotFoundException" in response["message"]
    functions.delete_function(FunctionName="locked")


def test_another_service_keeps_its_data_keys_under_a_key_of_this_one(as_, guarded, tmp_path):
    kms, key = as_("kms"), guarded.made["all"]
    key_id = kms.create_key(Description="of the other one")["KeyMetadata"]["KeyId"]
    file = tmp_path / "credentials"
    file.write_text(f"[default]\naws_access_key_id = {key.id}\naws_secret_access_key = {key.secret}\n")
    file.chmod(0o600)
    source = "import os\ndef handler(event, context):\n    return os.environ['PLANTED']\n"
    told = {
        "key_source": "kms",
        "key_server": f"http://127.0.0.1:{guarded.http_port}",
        "key_id": key_id,
        "key_credentials_file": file,
        "key_cache_s": 1,
    }
    with Served(tmp_path / "state", **told) as other, other.client() as client:
        other.deploy("keeper", source, environment={"PLANTED": "planted"}, runtime=RUNTIME)
        assert client.invoke_json("keeper", {}) == "planted"
        assert client.call("keys.list", [])["keys"] == [{"id": key_id, "made": "", "current": True, "data_keys": 1}]
        rotated = kms.rotate_key_on_demand(KeyId=key_id)
        assert rotated["KeyId"].endswith(key_id)
        assert client.call("keys.rotate", [])["wrapped"] == 1
        assert client.invoke_json("keeper", {}) == "planted"
        kms.disable_key(KeyId=key_id)
        other.deploy("keeper2", source, runtime=RUNTIME)  # seals nothing
        with pytest.raises(SchedulerError, match="DisabledException"):
            client.update("keeper2", environment={"PLANTED": "x"})
    with Served(tmp_path / "state", **told) as other, other.client() as client:
        assert client.get("keeper").raw["environment_error"]["ErrorCode"] == "KMSDisabledException"
        with pytest.raises(InitFailed):
            client.invoke("keeper", b"{}")
        kms.enable_key(KeyId=key_id)
        assert client.invoke_json("keeper", {}) == "planted"
