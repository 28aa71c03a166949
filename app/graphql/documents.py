"""Documents are read, guarded and validated once, then kept by their text. Only valid ones are kept, up to a total number of
tokens.

Cheap checks come first: bytes, tokens, the guard's pass. They limit the cost of validation, which comes last. Long documents
are processed in a thread and never block the event loop.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from uuid import UUID

import msgspec
from graphql import (
    DocumentNode,
    GraphQLError,
    GraphQLSchema,
    GraphQLSyntaxError,
    OperationDefinitionNode,
    OperationType,
    parse,
    validate,
)

from app.access.audience import Audience
from app.domain.errors import Forbidden, LimitExceeded, Overloaded, SettingsError
from app.graphql.body import GraphQLRequest
from app.graphql.cost import CostBuilder, OperationCost
from app.graphql.errors import Code, RequestFailed, failed_by, failure, format_document_error
from app.graphql.fields import Joined, audience_of, joined_of, spends
from app.graphql.guard import Guard
from app.graphql.plans import Plans
from app.graphql.variable_uses import Uses, VariableUses
from app.runtime.offload import Offload
from app.settings import LimitSettings

# Comments count: reading one costs as much as a token. An unterminated string is one token to its end, so that the count is
# linear in any text.
_TOKEN = re.compile(
    r"""[_A-Za-z][_0-9A-Za-z]*+ | -?[0-9][0-9.eE+-]*+ | \.\.\. | [!$&()=:@\[\]{|}] | \#[^\n\r]*+
    | \"{3}(?:[^"\\]|\\.|"(?!""))*+(?:\"{3})? | "(?:[^"\\\n]|\\.)*+"?""",
    re.VERBOSE | re.DOTALL,
)
_TOKENS_KEPT = 200_000
_PERSISTED_BYTES_KEPT = 8 * 1024 * 1024
_ABOUT_THE_SCHEMA = frozenset({"__schema", "__type"})
_MAX_ERRORS = 20
_TRY_AGAIN_MS = 1000
MAX_QUEUED = 8
_SHORT_TEXT = 200
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Operation:
    """`introspection_only` is True if the operation asks only about the schema. Such an operation can run on any thread."""

    node: OperationDefinitionNode
    kind: OperationType
    cost: OperationCost
    spends: bool
    audience: Audience | None
    joined: Joined | None
    introspection_only: bool
    uses: Uses

    @property
    def name(self) -> str | None:
        return self.node.name.value if self.node.name else None

    @property
    def may_be_read_by_get(self) -> bool:
        return self.kind is not OperationType.MUTATION and not self.spends


@dataclass(frozen=True, slots=True)
class Document:
    """`plans` is None if directives may change the selection from one request to the next."""

    text: str
    node: DocumentNode
    operations: Mapping[str | None, Operation]
    introspects: bool
    plans: Plans | None

    def operation(self, name: str | None) -> Operation:
        """Returns the operation with that name, or the only one. Raises RequestFailed."""
        if name is None and len(self.operations) == 1:
            return next(iter(self.operations.values()))
        found = self.operations.get(name)
        if found is None or name is None:
            text = "the document has several operations: say which by operationName" if name is None else "unknown operationName"
            raise RequestFailed([_bad_input(text)], 400, in_document=True)
        return found


def _bad_input(message: str) -> dict[str, object]:
    return {"message": message, "extensions": {"code": Code.BAD_USER_INPUT.value}}


class TrustedDocuments:
    """The allow-list: `{id: document}` in one JSON file, read at the start."""

    def __init__(self, path: Path | None) -> None:
        self._by_id: dict[str, str] = {}
        if path is not None:
            try:
                self._by_id = msgspec.json.decode(path.read_bytes(), type=dict[str, str])
            except (OSError, msgspec.MsgspecError) as error:
                raise SettingsError("limits.trusted_documents", f"{path} is no JSON object of documents by id") from error
        self._texts = frozenset(self._by_id.values())

    def by_id(self, document_id: str) -> str | None:
        return self._by_id.get(document_id)

    def __contains__(self, text: str) -> bool:
        return text in self._texts


class PersistedQueries:
    """Apollo's automatic persisted queries: texts by their SHA-256. The oldest is forgotten first."""

    def __init__(self) -> None:
        self._by_hash: OrderedDict[str, str] = OrderedDict()
        self._bytes = 0

    def resolve(self, request: GraphQLRequest, extension: object) -> str:
        """Returns the text of the query. Raises RequestFailed."""
        found = extension.get("sha256Hash") if isinstance(extension, Mapping) and extension.get("version") == 1 else None
        if not isinstance(found, str) or not _SHA256.fullmatch(found):
            raise failure(Code.BAD_USER_INPUT, "persistedQuery needs version 1 and a sha256Hash in lower-case hex", 400)
        if request.query is None:
            known = self._by_hash.get(found)
            if known is None:
                raise RequestFailed([_bad_input("PersistedQueryNotFound")], 400, in_document=True)
            self._by_hash.move_to_end(found)
            return known
        if hashlib.sha256(request.query.encode("utf-8", "surrogatepass")).hexdigest() != found:
            raise failure(Code.BAD_USER_INPUT, "provided sha does not match query", 400)
        return request.query

    def remember(self, text: str) -> None:
        """Call it when the document has been found valid."""
        key = hashlib.sha256(text.encode()).hexdigest()
        if key in self._by_hash:
            return
        self._by_hash[key] = text
        self._bytes += len(text)
        while self._bytes > _PERSISTED_BYTES_KEPT:
            _, dropped = self._by_hash.popitem(last=False)
            self._bytes -= len(dropped)


class Documents:
    def __init__(self, schema: GraphQLSchema, limits: LimitSettings, offload: Offload) -> None:
        self._schema = schema
        self._limits = limits
        self._kept: OrderedDict[str, Document] = OrderedDict()
        self._tokens = 0
        self._offload = offload
        self._examining: dict[tuple[str, bool], asyncio.Task[Document]] = {}
        self._in_line: Counter[UUID] = Counter()
        self._trusted = TrustedDocuments(limits.trusted_documents)
        self._persisted = PersistedQueries()

    async def read(self, request: GraphQLRequest, key: UUID, *, privileged: bool, hide_suggestions: bool) -> Document:
        """Returns the request's document, ready to run. With `privileged` the document need not be on the allow-list. Raises
        RequestFailed, and Forbidden for a document that is not trusted."""
        extension = None if request.extensions is None else request.extensions.get("persistedQuery")
        text = self._text(request, extension)
        if self._limits.trusted_only and not privileged and text not in self._trusted:
            raise Forbidden("only trusted documents are run here: send a documentId")
        document = self._kept.get(text)
        if document is None:
            if len(text) <= _SHORT_TEXT:
                document = self._examine(text, hide_suggestions=hide_suggestions)
            else:
                document = await self._examined(text, key, hide_suggestions=hide_suggestions)
            self._remember(document)
        else:
            self._kept.move_to_end(text)
        if extension is not None:
            self._persisted.remember(text)
        return document

    async def _examined(self, text: str, key: UUID, *, hide_suggestions: bool) -> Document:
        """Callers with the same document wait for the same task. A key with too many documents in the queue is refused, and the
        others continue."""
        wanted = text, hide_suggestions
        task = self._examining.get(wanted)
        if task is None:
            if self._in_line[key] >= MAX_QUEUED:
                raise failed_by(Overloaded(_TRY_AGAIN_MS), "")
            self._in_line[key] += 1
            examine = partial(self._examine, text, hide_suggestions=hide_suggestions)
            task = self._examining[wanted] = asyncio.create_task(self._offload.run_in_thread(len(text), examine))
            task.add_done_callback(lambda done: self._examination_ends(done, wanted, key))
        return await asyncio.shield(task)

    def _examination_ends(self, task: asyncio.Task[Document], wanted: tuple[str, bool], key: UUID) -> None:
        del self._examining[wanted]
        self._in_line[key] -= 1
        if not self._in_line[key]:
            del self._in_line[key]
        if not task.cancelled():
            task.exception()  # callers that still wait get it raised

    def _text(self, request: GraphQLRequest, extension: object) -> str:
        if request.document_id is not None:
            text = self._trusted.by_id(request.document_id)
            if text is None:
                raise RequestFailed([_bad_input("unknown documentId")], 400, in_document=True)
            return text
        if extension is not None:
            return self._persisted.resolve(request, extension)
        if request.query is None:
            raise failure(Code.BAD_USER_INPUT, "there is no query: send the document as `query`", 400)
        return request.query

    def _examine(self, text: str, *, hide_suggestions: bool) -> Document:
        try:
            node = self._parse(text)
            guard = Guard(node, self._limits)
            introspects = guard.check()
            self._validate(node, hide_suggestions=hide_suggestions)
            operations = self._operations(node)
        except LimitExceeded as error:
            raise failed_by(error, "") from None
        return Document(text, node, operations, introspects, None if guard.directives else {})

    def _parse(self, text: str) -> DocumentNode:
        limits = self._limits
        size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
        _within("document bytes", size, limits.document_bytes)
        _within("tokens", sum(1 for _ in _TOKEN.finditer(text)), limits.tokens)
        try:
            return parse(text, max_lexical_tokens=limits.tokens, max_comments=limits.tokens, allow_empty_selection_sets=False)
        except GraphQLSyntaxError as error:
            formatted = format_document_error(error, Code.GRAPHQL_PARSE_FAILED)
            raise RequestFailed([formatted], 400, in_document=True) from None

    def _validate(self, node: DocumentNode, *, hide_suggestions: bool) -> None:
        errors = validate(
            self._schema,
            node,
            max_errors=_MAX_ERRORS,
            hide_suggestions=hide_suggestions,
            allow_empty_selection_sets=False,
        )
        if errors:
            formatted = [format_document_error(error, Code.GRAPHQL_VALIDATION_FAILED) for error in errors]
            raise RequestFailed(formatted, 400, in_document=True)

    def _operations(self, node: DocumentNode) -> dict[str | None, Operation]:
        costs = CostBuilder(self._schema, node)
        uses = VariableUses(node)
        return {
            definition.name.value if definition.name else None: self._operation(definition, costs, uses)
            for definition in node.definitions
            if isinstance(definition, OperationDefinitionNode)
        }

    def _operation(self, node: OperationDefinitionNode, costs: CostBuilder, uses: VariableUses) -> Operation:
        root = self._schema.get_root_type(node.operation)
        if root is None:
            error = GraphQLError(f"The schema has no {node.operation.value}.", node)
            raise RequestFailed([format_document_error(error, Code.GRAPHQL_VALIDATION_FAILED)], 400, in_document=True)
        names = costs.root_fields(node)
        fields = [found for name in names if (found := root.fields.get(name)) is not None]
        audience = audience_of(fields[0]) if node.operation is OperationType.SUBSCRIPTION and fields else None
        joined = joined_of(fields[0]) if audience is not None else None
        spending = any(spends(found) for found in fields)
        asked = set(names) - {"__typename"}
        introspection_only = bool(asked) and asked <= _ABOUT_THE_SCHEMA
        return Operation(node, node.operation, costs.build(node), spending, audience, joined, introspection_only, uses.of(node))

    def _remember(self, document: Document) -> None:
        if document.text in self._kept:
            return
        self._kept[document.text] = document
        self._tokens += document.node.token_count or 0
        while self._tokens > _TOKENS_KEPT or len(self._kept) > self._limits.documents_cached:
            _, dropped = self._kept.popitem(last=False)
            self._tokens -= dropped.node.token_count or 0


def _within(limit: str, had: int, allowed: int) -> None:
    if had > allowed:
        raise LimitExceeded(limit, had, allowed)
