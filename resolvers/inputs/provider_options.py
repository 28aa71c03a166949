"""Fields that a caller adds to the request to a provider. A field is refused if GreenLang sets it itself, or if it could cost
more.

Providers bill by the model, the caps, the number of answers, the tier, and the work of their own tools. If a field sets one of
these, under any name, it would spend money that no budget holds. Names are compared without case and separators.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import cast

from app.llm.messages import Json
from app.settings import ProviderKindName
from resolvers.inputs.checks import Path, invalid

_KINDS = tuple(kind.value for kind in ProviderKindName)
_FIELDS_OF_THE_INPUT = {
    "cachecontrol": "cacheUpTo",
    "functioncall": "toolChoice",
    "functions": "tools",
    "input": "messages",
    "inputs": "messages",
    "messages": "messages",
    "model": "model",
    "outputconfig": "reasoningEffort",
    "paralleltoolcalls": "parallelToolCalls",
    "prompt": "messages",
    "promptcacheoptions": "cacheTtl",
    "reasoning": "reasoningEffort",
    "reasoningeffort": "reasoningEffort",
    "responseformat": "responseFormat",
    "seed": "seed",
    "servicetier": "serviceTier",
    "speed": "serviceTier",
    "stop": "stop",
    "stopsequences": "stop",
    "system": "messages",
    "systeminstruction": "messages",
    "temperature": "temperature",
    "thinking": "reasoningEffort",
    "toolchoice": "toolChoice",
    "toolconfig": "toolChoice",
    "tools": "tools",
    "topp": "topP",
}
_COSTS = re.compile(
    r"""n|numcompletions|numchoices|numgenerations|numreturnsequences|bestof|candidatecount|usebeamsearch|numbeams
    |audio|modalities|prediction|moderation|background|batch|store|previousresponseid|conversation
    |billing\w*|fallbackcredittoken|thread|container|contextmanagement|compaction|mcpservers?|betas?|anthropicbeta|inferencegeo|workspaceid|userprofileid
    |models|fallbacks?|route|routing|provider|plugins|transforms
    |stream|streamoptions|includeusage
    |extra(body|headers|query)?|headers|body|generationconfig""",
    re.VERBOSE,
)
"""Whole names, without separators."""
_COSTS_ANYWHERE = re.compile(
    r"max\w*(token|length|output)|token\w*(limit|budget)|budget|(num|n)predict|maxnew|thinking\w*(token|config)|search|extrabody"
)
"""Parts of names: caps by any name, budgets of thinking, and searches that the provider makes."""
_COSTS_BELOW = re.compile(
    r"max\w*(token|length|output)|token\w*(limit|budget)|budgettokens|thinkingbudget|(num|n)predict|maxnew|extrabody"
    r"|candidatecount|bestof|num(completions|choices|generations|returnsequences)"
)
_FREE = frozenset({"metadata", "logit_bias", "logitbias"})
"""The fields of these options have names that the caller chooses."""


def to_provider_options(value: object) -> Mapping[str, Mapping[str, Json]] | None:
    """Raises Refused(InvalidInput) with the path of the field at fault."""
    if value is None:
        return None
    path: Path = ("providerOptions",)
    if not isinstance(value, dict):
        raise invalid("The options are an object with the kinds of providers as its fields.", path)
    for kind, options in value.items():
        if kind not in _KINDS:
            raise invalid(f"There is no kind of provider with this name, only {', '.join(_KINDS)}.", (*path, kind))
        if not isinstance(options, dict):
            raise invalid("The options of a kind are an object.", (*path, kind))
        for name in options:
            _check(name, (*path, kind, name))
            if name not in _FREE:
                _check_below(options[name], (*path, kind, name))
    return cast("Mapping[str, Mapping[str, Json]]", value)


def _check(name: str, path: Path) -> None:
    plain = _plain(name)
    if plain in _FIELDS_OF_THE_INPUT:
        raise invalid(f"GreenLang sets this field itself: use {_FIELDS_OF_THE_INPUT[plain]}.", path)
    if _COSTS.fullmatch(plain) or _COSTS_ANYWHERE.search(plain):
        raise invalid("GreenLang sets this field itself, or it could cost more than is held for the call.", path)


def _check_below(value: object, path: Path) -> None:
    for name, branch in _branches(value):
        if isinstance(name, str) and _COSTS_BELOW.search(_plain(name)):
            raise invalid("This field could cost more than is held for the call.", (*path, name))
        _check_below(branch, (*path, str(name)))


def _branches(value: object) -> Iterator[tuple[str | int, object]]:
    if isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, list):
        yield from enumerate(value)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
