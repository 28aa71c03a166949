"""The selection of entries to invalidate."""

from __future__ import annotations

import strawberry
from strawberry import UNSET, field

from app.cache.invalidations import Selector, SelectorKind
from resolvers.inputs.checks import check_length, check_names, check_texts, invalid

MAX_TAGS = 20
MAX_TAG_LENGTH = 128
_MAX_NAME_LENGTH = 512
_PATH = ("select",)


@strawberry.input(one_of=True, description="Which stored answers. Exactly one; all within the caller's tenant.")
class CacheSelector:
    key: str | None = field(description="The `cacheKey` of a completion.", default=UNSET)
    pattern: str | None = field(
        description="Glob: * and ?. It is compared with the whole key, such as `completion/openai/gpt-5/*`.", default=UNSET
    )
    tags: list[str] | None = field(description="1 to 20 tags. Every answer with one of them is selected.", default=UNSET)
    everything: bool | None = field(description="True: all stored answers of the tenant.", default=UNSET)

    def to_domain(self) -> Selector:
        """Raises Refused(InvalidInput)."""
        check_texts(self, _PATH)
        if isinstance(self.key, str):
            check_length(self.key, _MAX_NAME_LENGTH, (*_PATH, "key"))
            return Selector(SelectorKind.NAME, (self.key,))
        if isinstance(self.pattern, str):
            check_length(self.pattern, _MAX_NAME_LENGTH, (*_PATH, "pattern"))
            return Selector(SelectorKind.PATTERN, (self.pattern,))
        if isinstance(self.tags, list):
            path = (*_PATH, "tags")
            if not self.tags:
                raise invalid("There are no tags.", path)
            return Selector(SelectorKind.TAG, check_names(self.tags, MAX_TAGS, MAX_TAG_LENGTH, path))
        if self.everything is not True:
            raise invalid("Only true is allowed.", (*_PATH, "everything"))
        return Selector(SelectorKind.EVERYTHING)


@strawberry.input(description="Which stored answers to invalidate.")
class CacheInvalidateInput:
    select: CacheSelector = field(description="Which stored answers.")
    dry_run: bool = field(description="True: only count them; nothing changes.", default=False)
