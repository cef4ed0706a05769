"""A whole service that asks for signatures, and boto3 as its client."""

from __future__ import annotations

import boto3
import botocore.config
import pytest

from scheduler.accesskeys import AccessKeys
from scheduler.keyring import Keyring
from tests.e2e.serving import CannotServe, Served, public_directory


def connect(service, port, key):
    return boto3.client(
        service,
        endpoint_url=f"http://127.0.0.1:{port}",
        region_name="local",
        aws_access_key_id=key.id,
        aws_secret_access_key=key.secret,
        config=botocore.config.Config(retries={"max_attempts": 1}, parameter_validation=False),
    )


@pytest.fixture(scope="module")
def guarded():
    """With keys of three kinds: everything, invoke alone, and a tenant's."""
    with public_directory() as directory:
        state = directory / "state"
        state.mkdir(mode=0o755)
        keys = AccessKeys(state / "access-keys.json", Keyring.open(state / "keyring.json"))
        made = {
            "all": keys.create("all", rights=("invoke", "deploy")),
            "invoker": keys.create("invoker", rights=("invoke",)),
            "tenant": keys.create("tenant", rights=("invoke", "deploy"), tenant="acme"),
        }
        service = Served(state, http="127.0.0.1:0")
        try:
            service.start()
        except CannotServe as error:
            if "isolat" in str(error) or "namespace" in str(error):
                pytest.skip(f"this machine cannot isolate: {error}")
            raise
        service.made = made
        yield service
        assert service.stop() == 0


@pytest.fixture
def as_(guarded):
    """Clients by the service and the name of their key."""
    opened = []

    def client(service, name="all"):
        opened.append(connect(service, guarded.http_port, guarded.made[name]))
        return opened[-1]

    yield client
    for made in opened:
        made.close()
