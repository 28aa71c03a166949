"""Secrets from AWS Secrets Manager. A secret is a JSON object of texts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as NoConnection

from app.secret_stores.reader import SecretFault, StoreAway
from app.settings import AwsSettings

_TRIES: Final = 2
_NOT_ASKED: Final = "AWS cannot be asked: there are no usable credentials, or a setting of its client is wrong"
_REASONS: Final[Mapping[str, str]] = {
    "AccessDeniedException": "permission denied",
    "UnrecognizedClientException": "permission denied",
    "InvalidSignatureException": "permission denied",
    "ExpiredTokenException": "permission denied",
    "ResourceNotFoundException": "there is no such secret",
    "ThrottlingException": "the store asks to slow down",
    "DecryptionFailure": "the secret cannot be decrypted",
}


class Aws:
    def __init__(self, settings: AwsSettings) -> None:
        """Asks nothing yet. Raises SecretFault."""
        seconds = settings.timeout.total_seconds()
        limits = Config(connect_timeout=seconds, read_timeout=seconds, retries={"total_max_attempts": _TRIES, "mode": "standard"})
        try:
            self._client: Any = boto3.client(
                "secretsmanager", region_name=settings.region, endpoint_url=settings.endpoint, config=limits
            )
        except BotoCoreError:
            raise SecretFault(_NOT_ASKED) from None

    def read(self, path: str) -> Mapping[str, object]:
        try:
            text = self._client.get_secret_value(SecretId=path).get("SecretString")
        except ClientError as error:
            raise SecretFault(_REASONS.get(error.response.get("Error", {}).get("Code", ""), "the store failed")) from None
        except (HTTPClientError, NoConnection):
            raise StoreAway from None
        except BotoCoreError:
            raise SecretFault(_NOT_ASKED) from None
        try:
            fields = json.loads(text or "")
        except ValueError:
            raise SecretFault("the secret is not a JSON object") from None
        if not isinstance(fields, dict):
            raise SecretFault("the secret is not a JSON object")
        return fields
