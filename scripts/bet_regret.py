"""What the best bet misses on the bundled world: its regret against the best setting of the same grid.

    python scripts/bet_regret.py [--worlds 0 1 2 3 4] [--out bet-regret]

For each set of taught facts (`--worlds`; everything else is what the base knows) three studies are run:

1. the demo's arms with `learning_rate: auto`: what a user would do. Its best bet is what is judged.
2. the oracle: per arm the three rates around the one that the search found best by validation loss (and the chosen one
   where it is none of these), at every dial, three seeds.
3. the oracle's contenders, eight seeds: every rate with a dial whose gain is within 3 points of the best setting's, and
   whose forgetting is at most 3 points over the margin; and the rate of the bet.

Gain G and forgetting F are those on the items that chose nothing, by the oracle with the most seeds. Regret, in
points, is max(0, G* - G) + max(0, F - margin), G* the highest gain of all settings with F at most the margin, or 0 (the
base). `aim` is what aiming at two thirds of the margin costs, whoever chooses: G* less the highest gain at F at most
2/3 of the margin. Runs that OUT holds already are not made again.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import pandas as pd
from search_demo import to_search

from rankscope.edges.executors.this_machine import make
from rankscope.edges.machine import look_at_machine
from rankscope.edges.study_folder import StudyFolder
from rankscope.jobs.planning import StudyPlanner
from rankscope.pipeline import run_study
from rankscope.plan.resolve import next_rate
from rankscope.records import BestBet
from rankscope.study.read_study import read_study
from rankscope.study.study import Study

NEAR = 0.03
Settings = list[tuple[str, float]]
"""(arm, rate) of every arm of an oracle."""


@dataclass(frozen=True)
class WorldRegret:
    """One row of the table, in points; `rate` and `dial` are None where the base was bet."""

    world: int
    bet: str
    rate: float | None
    dial: float | None
    probability: float | None
    gain: float
    forgetting: float
    best: str
    best_gain: float
    regret: float
    aim: float

    def row(self) -> str:
        setting = "" if self.rate is None else f" at {self.rate:g} x {self.dial:g}"
        said = "" if self.probability is None else f"{100 * self.probability:.0f} %"
        return (
            f"| {self.world} | {self.bet}{setting} | {said} | {self.gain:.1f} | {self.forgetting:.1f} | {self.best} | "
            f"{self.best_gain:.1f} | {self.regret:.1f} | {self.aim:.1f} |"
        )


def run(study: Study, base: Path, out: Path, before: Path | None = None) -> StudyFolder:
    """The finished study in `out`. What of it `before` has finished is taken over from there."""
    folder, machine = StudyFolder.open(out), look_at_machine(out)
    if before is not None and folder.read_marker() is None:
        with StudyPlanner(study, base) as planner:
            plan = planner.plan(machine, folder)
            folder.claim(study.name, planner.text(plan))
        for own in plan.runs:
            if (before / "runs" / own.run_id).is_dir():
                shutil.copytree(before / "runs" / own.run_id, out / "runs" / own.run_id)
    outcome = run_study(
        StudyPlanner(study, base),
        folder,
        machine=machine,
        make_executor=make,
    )
    if outcome.stopped or outcome.failed:
        raise SystemExit(f"{out}: not every run is done: run it again to go on. {outcome.failed or ''}")
    return folder


def at_rates(study: Study, settings: Settings, seeds: int, name: str) -> Study:
    """The study with one arm for each of `settings`, labelled `arm-at-rate`."""
    arms = {f"{arm}-at-{rate:g}": study.arms[arm].model_copy(update={"learning_rate": rate}) for arm, rate in settings}
    return study.model_copy(update={"name": name, "arms": arms, "seeds": tuple(range(seeds))})


def judged(folder: StudyFolder, study: Study, settings: Settings) -> pd.DataFrame:
    """arm, learning_rate, dial, gain, forgetting of every setting that all seeds of its arm were judged at."""
    labels = {study.arms_of(f"{arm}-at-{rate:g}")[0].label: arm for arm, rate in settings}
    table = folder.read_table("operating_points")
    assert table is not None
    table = table[table["judged_seeds"].notna() & table["gain"].notna() & table["forgetting"].notna()]
    columns = ["arm", "learning_rate", "dial", "gain", "forgetting"]
    return table.assign(arm=table["arm"].map(labels))[columns].reset_index(drop=True)


def rates_around_best(folder: StudyFolder) -> Settings:
    """Of every arm the loss-best rate of its search, its two neighbours, and the rate that was chosen."""
    settings, plan = folder.read_settings(), folder.read_plan()
    assert settings is not None
    assert plan is not None
    found = {}
    for search in plan.searches:
        record = folder.read_search(search.search_id)
        assert record is not None
        best = record.finals[0]
        rates = {next_rate(best, up=False), best, next_rate(best, up=True)}
        for arm in search.arms:
            chosen = settings.of(search.model, search.train_set, arm.label)
            own = {chosen.learning_rate} if chosen is not None and chosen.learning_rate is not None else set()
            found[arm.label] = sorted(rates | own)
    return [(arm, rate) for arm, rates in found.items() for rate in rates]


def best_setting(points: pd.DataFrame, most: float) -> pd.Series | None:  # type: ignore[type-arg]
    """The highest gain of the settings that forget at most `most`; None where none does."""
    kept = points[(points["forgetting"] <= most) & (points["gain"] > 0)]
    return None if kept.empty else kept.loc[kept["gain"].idxmax()]


def contenders(points: pd.DataFrame, margin: float, bet: BestBet) -> Settings:
    best = best_setting(points, margin)
    least = 0.0 if best is None else float(best["gain"])
    near = points[(points["gain"] >= least - NEAR) & (points["forgetting"] <= margin + NEAR)]
    found = {(row.arm, row.learning_rate) for row in near.itertuples()}
    if bet.setting is not None:
        found.add((bet.label, bet.setting.learning_rate))
    return sorted(found)


def regret_of(world: int, points: pd.DataFrame, margin: float, bet: BestBet) -> WorldRegret:
    best, aimed = best_setting(points, margin), best_setting(points, margin * 2 / 3)
    top = 0.0 if best is None else float(best["gain"])
    gain = forgetting = 0.0
    rate = dial = None
    if bet.setting is not None:
        rate, dial = bet.setting.learning_rate, bet.setting.dial
        own = points[(points["arm"] == bet.label) & (points["learning_rate"] == rate) & (points["dial"] == dial)]
        gain, forgetting = float(own["gain"].iloc[0]), float(own["forgetting"].iloc[0])
    return WorldRegret(
        world, bet.label, rate, dial, bet.probability, 100 * gain, 100 * forgetting,
        best="base" if best is None else f"{best['arm']} at {best['learning_rate']:g} x {best['dial']:g}",
        best_gain=100 * top,
        regret=100 * (max(0.0, top - gain) + max(0.0, forgetting - margin)),
        aim=100 * (top - (0.0 if aimed is None else float(aimed["gain"]))),
    )  # fmt: skip


def of_world(demo: Study, base: Path, world: int, out: Path) -> WorldRegret:
    study = to_search(demo, world).model_copy(update={"name": f"bet-{world}", "analysis": type(demo.analysis)()})
    folder = run(study, base, out / "study")
    verdicts = folder.read_verdicts()
    assert verdicts is not None
    bet = verdicts.verdicts[0].best_bet
    assert bet is not None
    margin = study.decision.retention_margin
    settings = rates_around_best(folder)
    oracle = at_rates(study, settings, 3, f"oracle-{world}")
    points = judged(run(oracle, base, out / "oracle", before=out / "study"), oracle, settings)
    near = contenders(points, margin, bet)
    eight = at_rates(study, near, 8, f"contenders-{world}")
    closer = judged(run(eight, base, out / "contenders", before=out / "oracle"), eight, near)
    keys = ["arm", "learning_rate", "dial"]
    points = pd.concat([closer, points]).drop_duplicates(keys, keep="first").reset_index(drop=True)
    return regret_of(world, points, margin, bet)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", type=Path, default=Path("bet-regret"))
    arguments = parser.parse_args()
    print("| world | best bet | said | gain | forgets | best setting | its gain | regret | aim |", flush=True)
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    with resources.as_file(resources.files("rankscope") / "assets" / "demo.yaml") as path:
        demo = read_study(path)
        rows = []
        for world in arguments.worlds:
            rows.append(of_world(demo, path.parent, world, arguments.out / f"world-{world}"))
            print(rows[-1].row(), flush=True)
    regrets = [row.regret for row in rows]
    print(f"\nregret: mean {sum(regrets) / len(regrets):.1f}, worst {max(regrets):.1f} points")


if __name__ == "__main__":
    main()
