"""Where each secret stands."""

from __future__ import annotations

from datetime import datetime

import strawberry
from strawberry import field

from app.secret_stores import watch
from app.secrets.reference import SecretSource
from resolvers import secrets as resolve
from resolvers.inputs.enums import describe_enum
from schema.describes import describes

describe_enum(
    SecretSource,
    description="Where the value of a secret comes from.",
    values={
        "ENVIRONMENT": "A variable of the environment. It never changes under a process.",
        "FILE": "A file.",
        "VAULT": "Vault or OpenBao.",
        "AWS": "AWS Secrets Manager.",
    },
)


@describes(watch.SecretState, description="Where one secret stands in the process that answers. Its value is never shown.")
class SecretState:
    place: str = field(description="The key of the configuration that names it, such as `providers[0].api_keys[0]`.")
    source: SecretSource = field(description="Where its value comes from.")
    read_at: datetime | None = field(description="When its value was last read. Null if it could not be read yet.")
    changed_at: datetime | None = field(description="When this process last saw another value. Null if it has seen one only.")
    last_error: str | None = field(
        description="Why the last reading failed, or why the value cannot be used. A category; never a text of the store."
    )
    in_use: bool = field(description="False if the process goes on with the value before. A restart takes the new one.")


@strawberry.type
class SecretQueries:
    secrets = strawberry.field(
        resolver=resolve.secrets,
        graphql_type=list[SecretState] | None,
        description="Where each secret stands and when it was last read; needs ADMIN.",
    )
