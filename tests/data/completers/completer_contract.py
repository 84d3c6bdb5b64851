"""What every engine must do: one suite, run against each of them.

A test module subclasses `CompleterContract` and gives it a `completer` fixture.
"""

from __future__ import annotations

import asyncio

import pytest

from reflectevo_data.completers.base import Completer, CompletionFailed, Sampling


GREEDY = Sampling(temperature=0.0, max_tokens=24)
SAMPLED = Sampling(temperature=1.0, max_tokens=24)
TOO_LONG = "12345 " * 4000  # for any context up to 8,192
PROMPT = "Start with 83. Subtract 9. Add 7. What is left?"


class CompleterContract:
    """Subclass it; override the attributes where an engine differs.

    Attributes:
        tolerance: Nats a token by which log-probabilities of one text may differ between batches.
    """

    tolerance = 1e-3

    async def test_is_a_completer(self, completer: Completer) -> None:
        assert isinstance(completer, Completer)
        assert completer.slots >= 1
        assert completer.model
        assert not completer.model.startswith("/")

    async def test_one_completion_a_sample(self, completer: Completer) -> None:
        completions = await completer.complete(PROMPT, sampling=SAMPLED, seed=7, n=3)
        assert len(completions) == 3
        for completion in completions:
            assert completion.finish_reason in ("stop", "length")
            assert completion.error == ""
            assert completion.n_prompt_tokens > 10
            assert 1 <= completion.n_completion_tokens <= SAMPLED.max_tokens

    async def test_greedy_needs_no_seed(self, completer: Completer) -> None:
        texts = [
            c.text for seed in (0, 256) for c in await completer.complete(PROMPT, sampling=GREEDY, seed=seed, n=2)
        ]
        assert texts[0]
        assert len(texts) == 4
        assert len(set(texts)) == 1

    async def test_a_seed_gives_its_sample_in_any_company(self, completer: Completer) -> None:
        [alone] = await completer.complete(PROMPT, sampling=SAMPLED, seed=512)
        others = [completer.complete(f"{PROMPT} {'x' * i}", sampling=SAMPLED, seed=i << 8) for i in range(20)]
        [among], *_ = await asyncio.gather(completer.complete(PROMPT, sampling=SAMPLED, seed=512), *others)
        assert among == alone

    async def test_sample_i_uses_seed_plus_i(self, completer: Completer) -> None:
        several = await completer.complete(PROMPT, sampling=SAMPLED, seed=1024, n=12)  # a sure model may repeat itself
        [third] = await completer.complete(PROMPT, sampling=SAMPLED, seed=1026)
        assert several[2].text == third.text
        assert len({completion.text for completion in several}) > 1

    async def test_a_small_nucleus_is_greedy(self, completer: Completer) -> None:
        [greedy] = await completer.complete(PROMPT, sampling=GREEDY, seed=0)
        narrow = Sampling(temperature=1.0, top_p=1e-6, max_tokens=24)
        [narrowed] = await completer.complete(PROMPT, sampling=narrow, seed=3)
        assert narrowed.text == greedy.text

    async def test_max_tokens_ends_with_length(self, completer: Completer) -> None:
        [completion] = await completer.complete(PROMPT, sampling=Sampling(0.0, max_tokens=3), seed=0)
        assert (completion.finish_reason, completion.n_completion_tokens) == ("length", 3)

    async def test_stop_strings_are_cut(self, completer: Completer) -> None:
        [whole] = await completer.complete(PROMPT, sampling=GREEDY, seed=0)
        place = len(whole.text) // 2
        stop = whole.text[place : place + 3]
        [cut] = await completer.complete(
            PROMPT, sampling=Sampling(0.0, max_tokens=24, stop=("never said", stop)), seed=0
        )
        assert cut.text == whole.text[: whole.text.find(stop)]
        assert cut.finish_reason == "stop"
        assert cut.n_completion_tokens <= whole.n_completion_tokens

    async def test_prefill_is_continued(self, completer: Completer) -> None:
        [whole] = await completer.complete(PROMPT, sampling=GREEDY, seed=0)
        head, mark, tail = whole.text.partition(self.split_at(whole.text))
        [rest] = await completer.complete(PROMPT, sampling=GREEDY, seed=0, prefill=head + mark)
        assert tail
        assert rest.text.startswith(tail)
        assert rest.n_prompt_tokens > whole.n_prompt_tokens

    def split_at(self, text: str) -> str:
        """A character after which a text may be cut in two so that the halves have the tokens they had together."""
        return next(filter(str.isdigit, text[4:-4]), text[len(text) // 2])

    async def test_an_over_long_prompt_fails_alone(self, completer: Completer) -> None:
        [fine], bad, [also_fine] = await asyncio.gather(
            completer.complete(PROMPT, sampling=GREEDY, seed=0),
            completer.complete(TOO_LONG, sampling=GREEDY, seed=0, n=2),
            completer.complete(PROMPT, sampling=SAMPLED, seed=0),
        )
        assert [completion.finish_reason for completion in bad] == ["error", "error"]
        assert all(completion.error and not completion.text for completion in bad)
        assert "error" not in (fine.finish_reason, also_fine.finish_reason)

    async def test_log_probabilities_add_up(self, completer: Completer) -> None:
        [whole] = await completer.complete(PROMPT, sampling=GREEDY, seed=0)
        head, mark, tail = whole.text.partition(self.split_at(whole.text))
        head += mark
        of_all, of_head, of_tail = await asyncio.gather(
            completer.logprob(PROMPT, whole.text),
            completer.logprob(PROMPT, head),
            completer.logprob(PROMPT, tail, prefill=head),
        )
        assert of_all.n_tokens == of_head.n_tokens + of_tail.n_tokens
        assert of_all.total == pytest.approx(of_head.total + of_tail.total, abs=self.tolerance * of_all.n_tokens)
        assert of_all.total < 0

    async def test_the_greedy_text_is_more_probable_than_another(self, completer: Completer) -> None:
        [whole] = await completer.complete(PROMPT, sampling=GREEDY, seed=0)
        said = await completer.logprob(PROMPT, whole.text)
        unsaid = await completer.logprob(PROMPT, whole.text[::-1])
        assert said.mean > unsaid.mean + 0.1

    async def test_an_over_long_continuation_is_refused(self, completer: Completer) -> None:
        with pytest.raises(CompletionFailed):
            await completer.logprob(PROMPT, TOO_LONG)

    async def test_a_cancelled_request_leaves_the_engine_well(self, completer: Completer) -> None:
        endless = Sampling(temperature=1.0, max_tokens=400)
        tasks = [asyncio.create_task(completer.complete(PROMPT, sampling=endless, seed=i << 8)) for i in range(8)]
        await asyncio.sleep(0.05)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        [completion] = await asyncio.wait_for(completer.complete(PROMPT, sampling=GREEDY, seed=0), timeout=60)
        assert completion.finish_reason != "error"
