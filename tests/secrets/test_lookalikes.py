"""What is taken for a credential, and what is not."""

from __future__ import annotations

import base64
import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.keys.masters import MAGIC
from scheduler.secrets.lookalikes import lookalikes

KEY = "-----BEGIN RSA PRIVATE KEY-----\nMIIE"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DB_PASSWORD", "hunter2"),
        ("dbPassword", "hunter2"),
        ("password", "x"),
        ("API_KEY", "abc"),
        ("STRIPE_SECRET", "abc"),
        ("GITHUB_TOKEN", "abc"),
        ("AZURE_CONNECTION_STRING", "abc"),
        ("ANYTHING", "AKIAIOSFODNN7EXAMPLE"[:20].replace("1", "2")),
        ("ANYTHING", "key=AKIAABCDEFGHIJKLMNOP;"),
        ("CERTIFICATE", KEY),
        ("ANYTHING", "postgres://app:hunter2@db.example/app"),
        ("ANYTHING", "ghp_" + "a1B2" * 9),
        ("ANYTHING", "hvs." + "a" * 24),
        ("ANYTHING", "eyJhbGciOiJI.eyJzdWIiOiIx.c2lnbmF0dXJl"),
        ("SESSION", "mZ3kQ9xTf7Lr2VbN8cYw4HjD6sPg"),
        ("SALT", "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b"),
    ],
)
def test_is_taken_for_one(name, value):
    (found,) = lookalikes({name: value})
    assert found.name == name
    assert value not in str(found)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("STAGE", "production"),
        ("TABLE_NAME", "customers-production-eu-central-1"),
        ("PASSWORD_MIN_LENGTH", "12"),
        ("TOKEN_TTL", "300"),
        ("SECRET_ARN", "arn:aws:secretsmanager:local:000000000000:secret:db-AbCdEf"),
        ("DB_PASSWORD", "arn:aws:secretsmanager:local:000000000000:secret:db-AbCdEf"),
        ("DB_SECRET_NAME", "db/password"),
        ("USE_TOKEN", "true"),
        ("TOKEN_URL", "https://login.example/oauth2/token"),
        ("KEYBOARD", "qwertz"),
        ("MONKEY", "x"),
        ("URL", "https://api.example.com/v2/customers?limit=100&sort=name"),
        ("DSN", "postgres://db.example:5432/app"),
        ("CLASS", "com.example.billing.handlers.InvoiceCreatedHandler"),
        ("BUCKET", "my-company-data-lake-eu-central-1-a1b2c3"),
        ("REQUEST", "123e4567-e89b-12d3-a456-426614174000"),
        ("COMMIT", "9f86d08"),
        ("PATH_TO", "/var/task/lib/python3.11/site-packages/certifi/cacert.pem"),
        ("EMPTY_PASSWORD", ""),
    ],
)
def test_is_not(name, value):
    assert lookalikes({name: value}) == ()


def test_what_was_encrypted_is_none_any_more():
    blob = base64.b64encode(MAGIC + secrets.token_bytes(80)).decode()
    assert lookalikes({"DB_PASSWORD": blob}) == ()


@given(st.dictionaries(st.text(min_size=1), st.text()))
def test_no_value_is_ever_shown(environment):
    for found in lookalikes(environment):
        value = environment[found.name]
        assert len(value) < 8 or value in found.name or value not in found.why
