"""The inputs of collections, documents and searches. Everything that can be checked without the collection is checked here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import strawberry
from strawberry import ID, UNSET, field

from app.retrieval.collections import CollectionRequest
from app.retrieval.ingest import MAX_DOCUMENTS, GivenDocument, IngestRequest
from app.retrieval.search import MAX_TOP_K, SearchMode, SearchRequest
from app.vectors.filters import AllOf, AnyOf, FieldTest, Filter, MetadataOperator, NoneOf, check_filter
from app.vectors.store import Distance, Vector
from app.vectors.vector import vector_from_base64, vector_of
from resolvers.inputs.checks import Path, check_count, check_distinct, check_length, check_range, check_texts, invalid
from resolvers.inputs.completions import MAX_AGENT_LENGTH, MAX_TARGET_LENGTH
from resolvers.inputs.enums import describe_enum

JSON = strawberry.scalars.JSON
MAX_NAME_LENGTH = 128
_MAX_ID_LENGTH = 512
_MAX_SOURCE_LENGTH = 2048
_MAX_TEXT_LENGTH = 1024 * 1024
_MAX_QUESTION_LENGTH = 32 * 1024
_MAX_DELETED = 10_000
_VECTOR_BASE64 = "The vector as base64 of little-endian 32-bit floats, which is shorter than a list. Give one of the two."

describe_enum(
    SearchMode,
    description="How a search finds and orders its hits.",
    values={
        "VECTOR": "By vectors: texts with a similar meaning are near. The score is that of the collection's distance.",
        "TEXT": "By words, with PostgreSQL's full text search and English stems. Needs no embedding and costs nothing.",
        "HYBRID": "Both rankings joined by reciprocal rank fusion. Finds a meaning and rare words, such as names and numbers.",
    },
)
describe_enum(
    Distance,
    description="How the score of two vectors is computed. Higher is nearer.",
    values={
        "COSINE": "The cosine of the angle between them; below 0 it is 0.",
        "DOT": "The dot product.",
        "EUCLIDEAN": "1 / (1 + distance).",
    },
)
describe_enum(
    MetadataOperator,
    description="How a metadata field is compared. A value of another type is not equal, and neither less nor greater.",
    values={
        "EQ": "Equal.",
        "NE": "Not equal, or the field is missing.",
        "GT": "Greater. Strings are ordered by code points.",
        "GTE": "Greater or equal.",
        "LT": "Less.",
        "LTE": "Less or equal.",
        "IN": "Equal to one of a list of values, which all have one type.",
    },
)


@strawberry.input(description="A new collection.")
class CollectionInput:
    name: str = field(description="Unique among the tenant's collections. 1 to 128 characters, such as `handbook`.")
    embedding_model: str | None = field(
        description="Left out: the configured default. One `provider/model`, or a route with one target, such as "
        "`openai/text-embedding-3-small`. `none` for a collection whose callers bring all vectors."
    )
    dimensions: int | None = field(
        description="Needed only where documents bring their own vectors. With a model, the model is asked for vectors of this "
        "length."
    )
    distance: Distance = field(description="How scores are computed.", default=Distance.COSINE)
    store: str | None = field(description="Name of the store that gets its index. Omit for the configured default.")

    def to_domain(self) -> CollectionRequest:
        """Raises Refused(InvalidInput)."""
        check_texts(self)
        check_length(self.name, MAX_NAME_LENGTH, ("name",))
        if not self.name.strip():
            raise invalid("The name is blank.", ("name",))
        check_length(self.embedding_model, MAX_TARGET_LENGTH, ("embeddingModel",))
        check_length(self.store, MAX_NAME_LENGTH, ("store",))
        return CollectionRequest(self.name, self.embedding_model, self.dimensions, self.distance, self.store)


@strawberry.input(description="A document. Text is embedded with the collection's model unless a vector is given.")
class DocumentInput:
    id: ID = field(description="The caller's own id, unique in the collection. 1 to 512 characters.")
    text: str = field(
        description="The text, at most 1048576 characters. Longer texts than the model takes are cut into chunks. It is stored "
        "unencrypted."
    )
    vector: list[float] | None = field(description="The vector of the text. The text is then neither embedded nor cut.")
    vector_base64: str | None = field(description=_VECTOR_BASE64)
    metadata: JSON | None = field(
        description='An object, such as `{"lang": "en", "year": 2026}`. Filters test its top-level strings, numbers and booleans.'
    )
    source: str | None = field(description="Where it comes from, such as a URL. At most 2048 characters.")

    def to_domain(self, place: int) -> GivenDocument:
        """Raises Refused(InvalidInput)."""
        path = ("documents", str(place))
        check_length(self.id, _MAX_ID_LENGTH, (*path, "id"))
        check_length(self.text, _MAX_TEXT_LENGTH, (*path, "text"))
        if not self.text.strip():
            raise invalid("The text is blank.", (*path, "text"))
        check_length(self.source, _MAX_SOURCE_LENGTH, (*path, "source"))
        if self.metadata is not None and not isinstance(self.metadata, dict):
            raise invalid("Metadata must be an object.", (*path, "metadata"))
        vector = _vector(self.vector, self.vector_base64, path)
        return GivenDocument(place, self.id, self.text, vector, cast("dict[str, Any] | None", self.metadata), self.source)


@strawberry.input(description="Documents to write.")
class DocumentsUpsertInput:
    collection: str = field(description="Name of the collection.")
    documents: list[DocumentInput] = field(description="1 to 1000 documents, each id once.")
    agent: str | None = field(description="Who pays for embeddings, within the caller's tenant, such as `research-7`.")

    def to_domain(self) -> IngestRequest:
        """Raises Refused(InvalidInput) with the path of the first fault."""
        check_texts(self)
        if not self.documents:
            raise invalid("There are no documents.", ("documents",))
        check_count(self.documents, MAX_DOCUMENTS, ("documents",))
        check_distinct([document.id for document in self.documents], ("documents",))
        check_length(self.agent, MAX_AGENT_LENGTH, ("agent",))
        documents = tuple(document.to_domain(place) for place, document in enumerate(self.documents))
        return IngestRequest(self.collection, documents, self.agent)


@strawberry.input(description="A test of one top-level field of the metadata.")
class MetadataTest:
    field: str = strawberry.field(description="Name of the field, such as `lang`.")
    op: MetadataOperator = strawberry.field(description="How it is compared.", default=MetadataOperator.EQ)
    value: JSON = strawberry.field(description="A string, a number or a boolean; for IN a list of them.")

    def to_domain(self) -> FieldTest:
        value = tuple(self.value) if isinstance(self.value, list) else self.value
        return FieldTest(self.field, self.op, cast("Any", value))


@strawberry.input(
    one_of=True,
    description="Which metadata matches. Recursive: `all`, `any` and `none` nest up to five levels. Exactly one field.",
)
class MetadataFilter:
    all: list[MetadataFilter] | None = field(description="Matches if every part does.", default=UNSET)
    any: list[MetadataFilter] | None = field(description="Matches if at least one part does.", default=UNSET)
    none: list[MetadataFilter] | None = field(description="Matches if no part does.", default=UNSET)
    where: MetadataTest | None = field(description="Matches if the field passes the test.", default=UNSET)

    def to_domain(self) -> Filter:
        if isinstance(self.where, MetadataTest):
            return self.where.to_domain()
        if isinstance(self.all, list):
            return AllOf(_parts(self.all))
        if isinstance(self.any, list):
            return AnyOf(_parts(self.any))
        assert isinstance(self.none, list)
        return NoneOf(_parts(self.none))


@strawberry.input(description="Which documents to delete: exactly one of ids and filter.")
class DocumentsDeleteInput:
    collection: str = field(description="Name of the collection.")
    ids: list[ID] | None = field(description="1 to 10000 ids of documents. Ids that are not there do not matter.")
    filter: MetadataFilter | None = field(description="All documents whose metadata matches.")

    def to_domain(self) -> tuple[str, ...] | Filter:
        """Returns the ids or the filter. Raises Refused(InvalidInput)."""
        check_texts(self)
        if (self.ids is None) == (self.filter is None):
            raise invalid("Give either ids or a filter.", ("ids",))
        if self.filter is not None:
            return checked_filter(self.filter, ("filter",))
        assert self.ids is not None
        if not self.ids:
            raise invalid("There are no ids.", ("ids",))
        check_count(self.ids, _MAX_DELETED, ("ids",))
        return tuple(self.ids)


@strawberry.input(description="A search: exactly one of text and vector.")
class SearchInput:
    collection: str = field(description="Name of the collection.")
    text: str | None = field(description="A question or words, embedded with the collection's model. At most 32768 characters.")
    vector: list[float] | None = field(description="A vector of the collection's dimensions.")
    vector_base64: str | None = field(description=_VECTOR_BASE64)
    top_k: int = field(description="How many hits to return: 1 to 100.", default=10)
    min_score: float | None = field(description="Only hits with at least this score.")
    filter: MetadataFilter | None = field(description="Only documents whose metadata matches.")
    agent: str | None = field(description="Who pays for the embedding, within the caller's tenant, such as `research-7`.")
    mode: SearchMode = field(
        description="How hits are found and ordered. TEXT and HYBRID need `text` and take no minScore.", default=SearchMode.VECTOR
    )

    def to_domain(self) -> SearchRequest:
        """Raises Refused(InvalidInput) with the path of the fault."""
        check_texts(self)
        check_length(self.text, _MAX_QUESTION_LENGTH, ("text",))
        vector = _vector(self.vector, self.vector_base64, ())
        if (self.text is None) == (vector is None):
            raise invalid("Give either a text or a vector.", ("text",))
        if self.text is not None and not self.text.strip():
            raise invalid("The text is blank.", ("text",))
        check_range(self.top_k, 1, MAX_TOP_K, ("topK",))
        check_length(self.agent, MAX_AGENT_LENGTH, ("agent",))
        self._check_mode()
        where = None if self.filter is None else checked_filter(self.filter, ("filter",))
        return SearchRequest(
            self.collection, self.text, vector, self.top_k, self.min_score, where=where, agent=self.agent, mode=self.mode
        )

    def _check_mode(self) -> None:
        if self.mode is SearchMode.VECTOR:
            return
        if self.text is None:
            raise invalid(f"The mode {self.mode.value} needs a text.", ("text",))
        if self.min_score is not None:
            raise invalid(f"The scores of the mode {self.mode.value} only order the hits of one search.", ("minScore",))


def checked_filter(given: MetadataFilter, path: Path) -> Filter:
    """Raises Refused(InvalidInput) with the path of the first fault."""
    where = given.to_domain()
    check_filter(where, path)
    return where


def _parts(given: Sequence[MetadataFilter]) -> tuple[Filter, ...]:
    return tuple(part.to_domain() for part in given)


def _vector(numbers: list[float] | None, base64: str | None, path: Path) -> Vector | None:
    if numbers is not None and base64 is not None:
        raise invalid("The vector is given twice.", (*path, "vectorBase64"))
    if base64 is None:
        return None if numbers is None else vector_of(numbers)
    try:
        return vector_from_base64(base64)
    except ValueError as error:
        raise invalid(f"The vector is {error}.", (*path, "vectorBase64")) from None
