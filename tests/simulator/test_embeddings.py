from __future__ import annotations

import array
import base64

import openai
import pytest
from openai import AsyncOpenAI

pytestmark = pytest.mark.anyio


class TestEmbeddings:
    async def test_are_unit_vectors_the_same_for_the_same_text(self, openai_client: AsyncOpenAI) -> None:
        answer = await openai_client.embeddings.create(model="text-embedding-3-small", input=["steam and heat", "steam", "steam"])
        vectors = [each.embedding for each in answer.data]

        assert [len(vector) for vector in vectors] == [1536] * 3
        assert sum(value * value for value in vectors[0]) == pytest.approx(1, abs=1e-6)
        assert vectors[1] == vectors[2]
        assert answer.usage.prompt_tokens == -(-len("steam and heat") // 4) + 2 * 2

    async def test_texts_that_share_words_are_nearer(self, openai_client: AsyncOpenAI) -> None:
        answer = await openai_client.embeddings.create(
            model="text-embedding-3-small", input=["boiler pressure is high", "the boiler pressure", "invoice of march"]
        )
        base, near, far = [each.embedding for each in answer.data]

        def dot(other: list[float]) -> float:
            return sum(a * b for a, b in zip(base, other, strict=True))

        assert dot(near) > dot(far) + 0.2

    async def test_floats_and_base64_are_the_same_and_dimensions_are_honoured(self, openai_client: AsyncOpenAI) -> None:
        async def embed(form: str) -> list[float]:
            answer = await openai_client.embeddings.create(
                model="text-embedding-3-large",
                input="steam",
                dimensions=64,
                encoding_format="float" if form == "float" else "base64",
            )
            vector: object = answer.data[0].embedding
            return _floats(vector) if isinstance(vector, str) else answer.data[0].embedding

        assert len(await embed("float")) == 64
        assert await embed("float") == await embed("base64")

    @pytest.mark.parametrize("given", [[], "", ["a", ""], ["a"] * 2049, "word" * 8193])
    async def test_bad_input_is_refused(self, openai_client: AsyncOpenAI, given: str | list[str]) -> None:
        with pytest.raises(openai.BadRequestError):
            await openai_client.embeddings.create(model="text-embedding-3-small", input=given)

    async def test_models_are_listed_and_found(self, openai_client: AsyncOpenAI) -> None:
        names = [model.id async for model in openai_client.models.list()]

        assert {"gpt-5.4-mini", "text-embedding-3-small", "sim-unpriced"} <= set(names)
        assert (await openai_client.models.retrieve("gpt-5.4-mini")).id == "gpt-5.4-mini"


def _floats(encoded: str) -> list[float]:
    return [*array.array("f", base64.b64decode(encoded))]
