"""Data keys and what wraps them: the keyring file, a KMS, Vault's transit engine, and the service's own master keys."""
