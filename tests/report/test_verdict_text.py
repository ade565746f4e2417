"""The verdict's sentences, and the terminal's table of arms."""

from __future__ import annotations

from dataclasses import replace

from made_report import make_report, make_verdict
from made_studies import Study, by_loss
from rich.console import Console

from rankscope.decide.verdict import decide
from rankscope.records import BestBet, Interval, RemedyOutcome, RemedyPart, Verdict, VerdictFile
from rankscope.records.readable_numbers import nats, percent
from rankscope.report.page import render
from rankscope.report.verdict_text import confidence_sentence, forgotten_sentence, print_results, suite_sentences
from rankscope.study.study import Decision


def test_what_was_forgotten_tells_sure_losses_from_noise() -> None:
    arms = {arm.label: arm for arm in make_verdict().arms}
    assert "It surely lost 7.1 points (3.9 to 10.2) on gsm8k" in forgotten_sentence(arms["full"])
    assert "No single suite's loss is beyond the noise" in forgotten_sentence(arms["lora-r16"])
    assert forgotten_sentence(arms["lora-r256"]) == "lora-r256: forgetting was not measured (diverged)."
    inside = [o.model_copy(update={"relation": "in-domain"}) for o in arms["full"].per_suite]
    assert forgotten_sentence(arms["full"].model_copy(update={"per_suite": inside})) == (
        "full: forgetting is unknown, because no suite lies outside the training domain."
    )
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


def with_a_remedy() -> VerdictFile:
    near, far = (Interval(mean=mean, low=mean - 0.01, high=mean + 0.01) for mean in (0.012, 0.043))
    parts = [
        RemedyPart(gave_prompts=gave, suites=suites, forgetting=near, forgetting_saved=far)
        for gave, suites in ((True, ["law", "gsm8k"]), (False, ["world"]))
    ]
    outcome = RemedyOutcome(
        arm="own-r16", own_arm="lora-r16", remedy="replay of 20 % own samples after suite prompts", seeds=[0, 1],
        gain_lost=near, forgetting_saved=far, extra_tokens_share=0.25, extra_seconds_share=None,
        sentence="own-r16 keeps 98.0 % of lora-r16's gain", parts=parts,
    )  # fmt: skip
    file = make_report().verdicts
    return file.model_copy(update={"verdicts": [file.verdicts[0].model_copy(update={"remedies": [outcome]})]})


def test_forgetting_of_suites_that_gave_prompts_stands_apart_in_terminal_and_page() -> None:
    text = " ".join(" ".join(printed(300, with_a_remedy())).split())
    assert "(replay of 20 % own samples after suite prompts): own-r16 keeps 98.0 % of lora-r16's gain." in text
    assert "Of suites that gave prompts (law, gsm8k) it forgets 1.2 points, 4.3 saved; of suites that gave none" in text
    assert "gave none (world) it forgets 1.2 points, 4.3 saved." in text
    page = render(replace(make_report(), verdicts=with_a_remedy()))
    section = page[page.index('<section id="remedies"') :].split("</section>")[0]
    assert "no evidence of suites that gave none" in section
    assert "law, gsm8k" in section
    assert "gave none" in section


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


def test_the_last_answer_is_the_bet_where_nothing_is_recommended_else_what_is_recommended() -> None:
    for kind, first in (("recommended", False), ("tradeoff", True), ("cannot_distinguish", True)):
        lines = printed(120, with_bet(kind))
        bet = next(i for i, line in enumerate(lines) if line.startswith("Best bet: [r16]. Use it."))
        headline = with_bet(kind).verdicts[0].headline
        sure = next(i for i, line in enumerate(lines) if line.startswith(f"{headline}."))
        assert (bet > sure) is first
        assert max(bet, sure) >= len(lines) - 3
        assert lines[bet + 1].strip() == "It misses little."


def test_the_page_leads_with_the_bet() -> None:
    text = render(make_report(with_bet("cannot_distinguish").verdicts))
    assert "<h2>Best bet: [r16]</h2>" in text
    assert "The sure verdict: not decided yet" in text
    assert "It misses little." in text


# ---- two units, and what the base knows ----------------------------------------------------------------------------


def of_both_units() -> Verdict:
    """`law` in points, `sums` in nats, and gain in points."""
    learned = {"lora-r4": 0.70, "lora-r16": 0.70}
    frames = Study(learned, dict.fromkeys(learned, 0.795), items=600).frames()
    frames = by_loss(frames, "sums", dict.fromkeys(learned, -0.01))
    return decide(frames, model="small", train_set="facts", decision=Decision(), bootstrap_draws=0)


def test_the_terminal_says_the_unit_of_every_number() -> None:
    verdict = of_both_units()
    console = Console(width=120, force_terminal=False)
    with console.capture() as capture:
        print_results(console, verdict)
    said = capture.get()
    assert "gain and forgetting in percentage points, of suites judged by loss in nats" in said
    arm = verdict.arms[0]
    assert arm.forgetting_nats is not None
    assert f"{nats(arm.forgetting_nats.mean)} ±" in said
    assert f"{nats(arm.forgetting_nats.mean, sign=False)} nats" in forgotten_sentence(arm)


def test_the_levels_of_the_base_are_told_with_what_guessing_has() -> None:
    verdict = of_both_units()
    told = suite_sentences(verdict)
    outcomes = {outcome.suite: outcome for outcome in verdict.arms[0].per_suite}
    assert f"sums {nats(outcomes['sums'].base_loss_nats, sign=False)} nats per token" in told[0]
    assert f"law {percent(outcomes['law'].base_accuracy)}" in told[0]
    guessed = outcomes["law"].model_copy(update={"chance": 0.25, "left_out": "law: nothing to forget"})
    arm = verdict.arms[0].model_copy(update={"per_suite": [guessed]})
    assert suite_sentences(verdict.model_copy(update={"arms": [arm]})) == [
        f"The base before training: law {percent(guessed.base_accuracy)} (guessing 25.0 %).",
        "law: nothing to forget.",
    ]


def test_the_level_of_the_ranges_is_named() -> None:
    verdict = of_both_units()
    said = confidence_sentence(verdict, 0.95)
    assert "of all compared arms hold at once at 95 % confidence" in said
    assert f"each for itself at {100 * (1 - 0.05 / 4):.4g} %" in said  # two arms, two units


def test_the_page_has_a_table_of_losses_and_the_levels_of_the_base() -> None:
    verdict = of_both_units()
    page = render(replace(make_report(), verdicts=VerdictFile(verdicts=[verdict]), tables={}, searches=[]))
    assert "Arms on the suites that are judged by their loss" in page
    assert "The base before training: " in page
    plain = render(make_report())
    assert "Arms on the suites that are judged by their loss" not in plain
