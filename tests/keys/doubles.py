"""Key servers that are not here, in small: they check each request as the real ones do, and keep real keys.

A KMS judges signatures with the service's own checker, which other tests hold against botocore's. Vault's transit engine
derives a key for each context, as it does with keys that are `derived`.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import secrets
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from scheduler.accesskeys import AccessKey
from scheduler.lambda_api.errors import LambdaError
from scheduler.lambda_api.sigv4 import check
from scheduler.lambda_api.wire import Request

ACCESS_KEY = AccessKey("AKIADOUBLE", "double", ("deploy",), None, "", "", "double-secret")
TOKEN = "hvs.double"


class Refusal(Exception):
    def __init__(self, status, body):
        super().__init__(status)
        self.status, self.body = status, body


@contextlib.contextmanager
def serving(double):
    """The double at a port of loopback; gives its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            double.requests.append((self.path, body))
            try:
                status, said = 200, double.answer(self.command, self.path, dict(self.headers.items()), body)
            except Refusal as refusal:
                status, said = refusal.status, refusal.body
            data = b"" if said is None else json.dumps(said).encode()
            self.send_response(204 if said is None else status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def bound(context):
    return json.dumps(context, sort_keys=True).encode()


class KmsDouble:
    """One symmetric key, `alias/main`; another, `alias/next`. disabled: as DisableKey leaves it."""

    def __init__(self):
        self.requests = []
        self.keys = {"alias/main": AESGCM(secrets.token_bytes(32)), "alias/next": AESGCM(secrets.token_bytes(32))}
        self.disabled = set()
        self.token = ""

    def answer(self, method, path, headers, body):
        lower = {name.lower(): value for name, value in headers.items()}
        try:
            check(Request(method, path, "", lower, body), {ACCESS_KEY.id: ACCESS_KEY}.get, time.time(), service="kms")
        except LambdaError as error:
            raise Refusal(400, {"__type": error.name, "message": error.message}) from None
        if (method, path, lower["content-type"]) != ("POST", "/", "application/x-amz-json-1.1"):
            raise Refusal(400, {"__type": "UnknownOperationException"})
        if lower.get("x-amz-security-token", "") != self.token:
            raise Refusal(400, {"__type": "UnrecognizedClientException"})
        service, _, operation = lower["x-amz-target"].partition(".")
        assert service == "TrentService"
        return getattr(self, operation)(json.loads(body))

    def _key(self, key_id):
        if key_id not in self.keys:
            raise Refusal(400, {"__type": "NotFoundException", "message": "Alias is not found."})
        if key_id in self.disabled:
            raise Refusal(400, {"__type": "com.amazonaws.kms#DisabledException", "message": "is disabled."})
        return self.keys[key_id]

    def _seal(self, key_id, plain, context):
        nonce = secrets.token_bytes(12)
        raw = bytes([len(key_id)]) + key_id.encode() + nonce + self._key(key_id).encrypt(nonce, plain, bound(context))
        return base64.b64encode(raw).decode()

    def _open(self, blob, context):
        raw = base64.b64decode(blob)
        key_id, rest = raw[1 : 1 + raw[0]].decode("utf-8", "replace"), raw[1 + raw[0] :]
        try:
            return self._key(key_id).decrypt(rest[:12], rest[12:], bound(context))
        except InvalidTag:
            raise Refusal(400, {"__type": "InvalidCiphertextException", "message": None}) from None

    def GenerateDataKey(self, said):
        assert said["KeySpec"] == "AES_256"
        plain = secrets.token_bytes(32)
        blob = self._seal(said["KeyId"], plain, said["EncryptionContext"])
        return {"KeyId": said["KeyId"], "Plaintext": base64.b64encode(plain).decode(), "CiphertextBlob": blob}

    def Encrypt(self, said):
        blob = self._seal(said["KeyId"], base64.b64decode(said["Plaintext"]), said["EncryptionContext"])
        return {"KeyId": said["KeyId"], "CiphertextBlob": blob}

    def Decrypt(self, said):
        plain = self._open(said["CiphertextBlob"], said["EncryptionContext"])
        return {"KeyId": "", "Plaintext": base64.b64encode(plain).decode()}

    def ReEncrypt(self, said):
        plain = self._open(said["CiphertextBlob"], said["SourceEncryptionContext"])
        return {"CiphertextBlob": self._seal(said["DestinationKeyId"], plain, said["DestinationEncryptionContext"])}


class VaultDouble:
    """The transit engine at `transit` with one derived key, `main`."""

    def __init__(self):
        self.requests = []
        self.versions = [secrets.token_bytes(32)]
        self.sealed = False

    def answer(self, method, path, headers, body):
        lower = {name.lower(): value for name, value in headers.items()}
        if self.sealed:
            raise Refusal(503, {"errors": ["Vault is sealed"]})
        if lower.get("x-vault-token") != TOKEN or lower.get("x-vault-request") != "true":
            raise Refusal(403, {"errors": ["permission denied"]})
        prefix = "/v1/transit/"
        assert path.startswith(prefix), path
        parts = path.removeprefix(prefix).split("/")
        if "main" not in parts:
            raise Refusal(400 if parts[0] != "keys" else 404, {"errors": ["encryption key not found"]})
        if parts == ["keys", "main", "rotate"]:
            assert method == "POST"
            self.versions.append(secrets.token_bytes(32))
            return None
        if parts == ["keys", "main"]:
            assert method == "GET"
            keys = {str(number): 0 for number in range(1, len(self.versions) + 1)}
            return {"data": {"name": "main", "latest_version": len(self.versions), "keys": keys}}
        said = json.loads(body)
        context = base64.b64decode(said["context"], validate=True)
        return {"data": self._do(parts, said, context)}

    def _do(self, parts, said, context):
        if parts == ["datakey", "plaintext", "main"]:
            assert said["bits"] == 256
            plain = secrets.token_bytes(32)
            return {"plaintext": base64.b64encode(plain).decode(), "ciphertext": self._seal(plain, context)}
        if parts == ["encrypt", "main"]:
            return {"ciphertext": self._seal(base64.b64decode(said["plaintext"]), context)}
        if parts == ["decrypt", "main"]:
            return {"plaintext": base64.b64encode(self._open(said["ciphertext"], context)).decode()}
        if parts == ["rewrap", "main"]:
            return {"ciphertext": self._seal(self._open(said["ciphertext"], context), context)}
        raise Refusal(404, {"errors": []})

    def _cipher(self, version, context):
        return AESGCM(hashlib.sha256(self.versions[version - 1] + context).digest())

    def _seal(self, plain, context):
        version, nonce = len(self.versions), secrets.token_bytes(12)
        raw = nonce + self._cipher(version, context).encrypt(nonce, plain, b"")
        return f"vault:v{version}:{base64.b64encode(raw).decode()}"

    def _open(self, text, context):
        _, version, blob = text.split(":")
        raw = base64.b64decode(blob)
        try:
            return self._cipher(int(version[1:]), context).decrypt(raw[:12], raw[12:], b"")
        except (InvalidTag, IndexError):
            raise Refusal(400, {"errors": ["invalid ciphertext: unable to decrypt"]}) from None
