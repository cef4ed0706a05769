"""The source of data keys that the settings name.

Law of this file: from settings to a source, and what cannot be so.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from scheduler.config import ConfigError
from scheduler.keys.awskms import AwsKms, Credentials
from scheduler.keys.http import Address
from scheduler.keys.vault import VaultTransit

if TYPE_CHECKING:
    from scheduler.config import Settings
    from scheduler.keys.embedded import EmbeddedKeys
    from scheduler.keys.port import KeySource

__all__ = ["key_source"]


def key_source(settings: Settings, embedded: EmbeddedKeys) -> KeySource:
    """ConfigError: the file of authorities cannot be read. Whether the server can be reached shows when it is asked."""
    if settings.key_source == "keyring":
        return embedded
    assert settings.key_credentials_file is not None, "the settings were checked"
    try:
        address = Address.parse(settings.key_server, settings.key_ca_file)
    except (OSError, ssl.SSLError, ValueError) as error:
        raise ConfigError((f"key_ca_file: {settings.key_ca_file}: {error}",)) from None
    if settings.key_source == "kms":
        return AwsKms(
            address,
            key_id=settings.key_id,
            region=settings.key_region or settings.region,
            credentials=Credentials(settings.key_credentials_file),
        )
    return VaultTransit(
        address,
        mount=settings.key_mount,
        key=settings.key_id,
        token_file=settings.key_credentials_file,
        namespace=settings.key_namespace,
    )
