"""`python -m schema.export` writes the schema's text beside this file."""

from __future__ import annotations

from pathlib import Path

from graphql import print_schema

from schema.build import build_schema

EXPORTED = Path(__file__).with_name("schema.graphql")


def export() -> str:
    return print_schema(build_schema()._schema) + "\n"


if __name__ == "__main__":
    EXPORTED.write_text(export(), encoding="utf-8")
