"""Money for a schedule: what is paid for, what of it is idle, and prices that cannot be read."""

from __future__ import annotations

import pytest

from rankscope.plan.price import NO_GPU_HOURS, Price, cost_of, money, parse_price
from rankscope.records import Schedule, ScheduledJob
from rankscope.study.problems import InputProblems


def made(device: str = "cuda") -> Schedule:
    """Two devices for two hours, of which the second one works for one: a quarter of the time is idle."""
    jobs = [
        ScheduledJob(what="run", ids=["a"], stage=0, devices=[0], start_seconds=0, end_seconds=7200),
        ScheduledJob(what="run", ids=["b"], stage=0, devices=[1], start_seconds=0, end_seconds=3600),
    ]
    hours = 3.0 if device == "cuda" else 0.0
    return Schedule(
        device=device, devices=[0, 1], makespan_seconds=7200, gpu_hours=hours, idle_share=0.25, host_bytes=1, jobs=jobs
    )  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "price"),
    [
        ("2.5/gpu-hour", Price(2.5, "gpu-hour")),
        (" .5 / GPU-hour ", Price(0.5, "gpu-hour")),
        ("3/hour", Price(3.0, "hour")),
        ("0/hour", Price(0.0, "hour")),
    ],
)
def test_a_price_is_a_number_and_a_unit(text: str, price: Price) -> None:
    assert parse_price(text) == price


@pytest.mark.parametrize(
    "text", ["", "2.5", "2.5/day", "-1/hour", "nan/hour", "inf/hour", "$2/gpu-hour", "1e3/hour", "2,5/hour", "9" * 400]
)
def test_what_is_no_price_is_one_line(text: str) -> None:
    with pytest.raises(InputProblems, match=r"^--price: found .* expected a number and a unit: 2\.5/gpu-hour") as error:
        parse_price(text)
    assert len(error.value.problems) == 1
    assert "\n" not in str(error.value)


def test_a_number_too_large_for_money_is_no_price() -> None:
    with pytest.raises(InputProblems):
        parse_price("9" * 400 + "/hour")


def test_gpus_are_paid_for_until_the_last_job_has_ended() -> None:
    cost = cost_of(made(), Price(2.5, "gpu-hour"))
    assert cost is not None
    assert (cost.hours, cost.units, cost.busy_units) == (2.0, 4.0, 3.0)
    assert (cost.amount, cost.busy_amount) == (10.0, 7.5)
    assert cost.as_json()["amount"] == 10.0
    assert cost.said == (
        "At 2.5 per GPU hour: about 10.00 for 2.0 h (4 GPU hours until the last job has ended; "
        "2.50 of the price is for idle GPUs)."
    )


def test_a_machine_is_paid_for_by_the_hour() -> None:
    cost = cost_of(made("cpu"), Price(0.4, "hour"))
    assert cost is not None
    assert (cost.units, cost.amount) == (2.0, 0.8)
    assert cost.said == "At 0.4 per hour of the machine: about 0.80 for 2.0 h."
    nodes = cost_of(made().model_copy(update={"node_count": 2}), Price(0.4, "hour"))
    assert nodes is not None
    assert (nodes.hours, nodes.units, nodes.amount) == (2.0, 4.0, 1.6), "each node has its price"


def test_gpu_hours_of_a_study_without_gpus_cost_no_money() -> None:
    assert cost_of(made("cpu"), Price(2.5, "gpu-hour")) is None
    assert "--price AMOUNT/hour prices the hours of this machine" in NO_GPU_HOURS


def test_money_has_cents_where_they_matter() -> None:
    assert [money(amount) for amount in (0.0, 0.004, 0.006, 99.994, 1234.6)] == [
        "0.00", "less than 0.01", "0.01", "99.99", "1,235",
    ]  # fmt: skip
