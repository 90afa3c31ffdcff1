from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from xrouter.providers.yandexgpt_cumulative import CumulativeText

texts = st.text("абв🦙x ", max_size=12)


@given(st.text("Перу 🦙\n", max_size=60), st.lists(st.integers(0, 60), max_size=10), st.integers(0, 5))
def test_growing_text_is_sent_whole_and_once(text: str, ends: list[int], hold: int) -> None:
    cumulative = CumulativeText(hold)
    sent = ""
    for end in sorted(ends):
        sent += cumulative.partial(text[:end])
        assert text.startswith(sent)
        assert len(sent) <= max(0, min(end, len(text)) - hold)
    assert sent + cumulative.final(text) == text
    assert (cumulative.rewrites, cumulative.differs) == (0, False)


@given(st.lists(texts, max_size=8), texts, st.integers(0, 3))
def test_whatever_is_rewritten_nothing_is_sent_twice_and_nothing_is_made_up(
    partials: list[str], final: str, hold: int
) -> None:
    """What is sent is always the beginning of one of the texts; the final one whenever that is still possible."""
    cumulative = CumulativeText(hold)
    sent = ""
    for text in partials:
        piece = cumulative.partial(text)
        assert not piece or (sent + piece == text[: len(sent + piece)] and len(sent + piece) <= len(text) - hold)
        sent += piece
    recallable = final.startswith(sent)
    sent += cumulative.final(final)
    assert (sent == final) == recallable
    assert cumulative.differs == (not recallable)
    assert cumulative.sent == sent
    assert cumulative.rewrites <= len(partials) + 1
    history = [*partials, final]
    rewritten = any(not later.startswith(earlier) for earlier, later in pairwise(history))
    assert hold or (cumulative.rewrites > 0) == rewritten


def test_a_rewrite_is_counted_once_however_many_lines_it_lasts() -> None:
    cumulative = CumulativeText()
    assert cumulative.partial("Лима — столица") == "Лима — столица"
    assert [cumulative.partial("Столица"), cumulative.partial("Столица Перу")] == ["", ""]
    assert cumulative.partial("Лима — столица Перу") == " Перу"
    assert (cumulative.final("Столица Перу"), cumulative.rewrites, cumulative.differs) == ("", 2, True)


def test_held_back_characters_hide_a_rewrite_at_the_end() -> None:
    cumulative = CumulativeText(hold_back_chars=4)
    assert cumulative.partial("Столица — Мима") == "Столица — "
    assert cumulative.final("Столица — Лима.") == "Лима."
    assert cumulative.rewrites == 0


def test_a_shrunken_text_waits_until_it_has_grown_again() -> None:
    cumulative = CumulativeText()
    assert [cumulative.partial(text) for text in ("абв", "аб", "абв", "абвг")] == ["абв", "", "", "г"]
