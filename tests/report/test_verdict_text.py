"""The verdict's sentences, and the terminal's table of arms."""

from __future__ import annotations

from made_report import make_report, make_verdict
from rich.console import Console

from rankscope.records import BestBet, Interval, VerdictFile
from rankscope.report.page import render
from rankscope.report.verdict_text import confidence_sentence, forgotten_sentence, print_results


def test_what_was_forgotten_tells_sure_losses_from_noise() -> None:
    arms = {arm.label: arm for arm in make_verdict().arms}
    assert "It surely lost on gsm8k -7.1 points (-10.2 to -3.9)" in forgotten_sentence(arms["full"])
    assert "No single suite's loss is beyond the noise" in forgotten_sentence(arms["lora-r16"])
    assert "unknown" in forgotten_sentence(arms["lora-r256"])
    better = [
        o.model_copy(update={"change": Interval(mean=0.01, low=-0.01, high=0.03)}) for o in arms["lora-r1"].per_suite
    ]
    assert "lost nothing on law, world and gsm8k" in forgotten_sentence(
        arms["lora-r1"].model_copy(update={"per_suite": better})
    )


def test_one_seed_is_called_a_description() -> None:
    verdict = make_verdict()
    once = [arm.model_copy(update={"seeds": arm.seeds[:1]}) for arm in verdict.arms]
    assert "does not decide" in confidence_sentence(verdict.model_copy(update={"arms": once}), 0.95)
    assert "does not decide" not in confidence_sentence(verdict, 0.95)


# ---- terminal -------------------------------------------------------------------------------------------------------


def printed(width: int, verdicts: VerdictFile) -> list[str]:
    console = Console(width=width, highlight=False, force_terminal=False)
    with console.capture() as capture:
        print_results(console, verdicts)
    return capture.get().splitlines()


def test_eighty_columns_hold_a_row_an_arm_with_its_interval() -> None:
    lines = printed(80, make_report().verdicts)
    assert max(len(line.rstrip()) for line in lines) <= 80
    row = next(line for line in lines if line.startswith("lora-r16 "))
    for cell in ("492 k", "1e-3", "+30.3 ±2.1", "+1.4 ±0.9", "recommended", "21 s"):
        assert cell in row
    assert any(line.startswith("lora-r256") and "diverged" in line for line in lines)


def test_long_labels_fold_and_lose_nothing_else() -> None:
    long = "lora-all-linear-and-embeddings-with-a-long-name-r16"
    verdict = make_verdict(candidates=[])
    arms = [arm.model_copy(update={"label": long}) if arm.label == "lora-r4" else arm for arm in verdict.arms]
    lines = printed(80, VerdictFile(verdicts=[verdict.model_copy(update={"arms": arms})]))
    table = "".join(line.split(" ")[0] for line in lines[2:12])
    assert max(len(line.rstrip()) for line in lines) <= 80
    assert long in table
    assert any("+24.0 ±2.1" in line for line in lines)


def test_a_wide_terminal_gets_the_whole_interval() -> None:
    assert any("+30.3 (+28.2 to +32.4)" in line for line in printed(140, make_report().verdicts))


def test_markup_in_names_is_printed_as_it_is() -> None:
    verdict = make_verdict(reasons=["[bold]not markup[/]", "[/oops]"], kind="tradeoff", model="[red]base")
    text = "\n".join(printed(100, VerdictFile(verdicts=[verdict], notes=["[x]"])))
    assert "[bold]not markup[/]" in text
    assert "[red]base" in text
    assert "Note: [x]" in text


def test_no_verdict_says_so() -> None:
    assert "no verdict" in "\n".join(printed(80, VerdictFile(verdicts=[])))


# ---- the best bet ---------------------------------------------------------------------------------------------------


def with_bet(kind: str) -> VerdictFile:
    bet = BestBet(
        label="lora-r16", setting=None, probability=0.84, expected_regret=0.004, runner_up=None, probability_base=0.02,
        headline="Best bet: [r16]", sentence="Use it.", why="It misses little.",
    )  # fmt: skip
    return VerdictFile(verdicts=[make_verdict(kind=kind, best_bet=bet)])


def test_the_bet_comes_first_where_nothing_is_recommended_and_second_where_something_is() -> None:
    for kind, first in (("recommended", False), ("tradeoff", True), ("cannot_distinguish", True)):
        lines = printed(120, with_bet(kind))
        bet = next(i for i, line in enumerate(lines) if line.startswith("Best bet: [r16]. Use it."))
        headline = with_bet(kind).verdicts[0].headline
        sure = next(i for i, line in enumerate(lines) if line.startswith(f"{headline}."))
        assert (bet < sure) is first
        assert lines[bet + 1].strip() == "It misses little."


def test_the_page_leads_with_the_bet() -> None:
    text = render(make_report(with_bet("cannot_distinguish").verdicts))
    assert "<h2>Best bet: [r16]</h2>" in text
    assert "<h3>Not decided yet</h3>" in text
    assert "It misses little." in text
