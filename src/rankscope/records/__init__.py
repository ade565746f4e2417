"""What each stage hands to the next: frozen, versioned records. Imports no stage."""

from __future__ import annotations

from rankscope.records.plan_record import (
    HarnessFacts,
    MachineFacts,
    MeasuredSpeed,
    ModelFacts,
    Plan,
    PlannedPower,
    PlannedRun,
    PlannedSearch,
    ReplayFacts,
    Resolved,
    SourceState,
    StudyMarker,
    SuiteFacts,
    TrainFacts,
)
from rankscope.records.record_base import FORMAT_VERSION, RESULTS_VERSION, Record
from rankscope.records.row_records import Example, Form, Graded, Grading, Item, Metric, Row, Suite, Turn
from rankscope.records.run_records import (
    Packing,
    PackMembers,
    Prediction,
    ProbedRate,
    Provenance,
    RunRecord,
    RunStatus,
    SamplesRecord,
    SearchRecord,
    Stage,
    State,
    StepRecord,
)
from rankscope.records.verdict_record import (
    ArmCost,
    ArmVerdict,
    DefaultArm,
    Defaults,
    DetectableEffect,
    Interval,
    MoreNeeded,
    PooledInterval,
    Recommended,
    Relation,
    SuiteNoise,
    SuiteOutcome,
    Tone,
    Verdict,
    VerdictFile,
)

__all__ = [
    "FORMAT_VERSION", "RESULTS_VERSION", "ArmCost", "ArmVerdict", "DefaultArm", "Defaults", "DetectableEffect",
    "Example", "Form", "Graded", "Grading", "HarnessFacts", "Interval", "Item", "MachineFacts", "MeasuredSpeed",
    "Metric", "ModelFacts", "MoreNeeded", "PackMembers", "Packing", "Plan", "PlannedPower", "PlannedRun",
    "PlannedSearch", "PooledInterval", "Prediction", "ProbedRate", "Provenance", "Recommended", "Record", "Relation",
    "ReplayFacts", "Resolved", "Row", "RunRecord", "RunStatus", "SamplesRecord", "SearchRecord", "SourceState",
    "Stage", "State", "StepRecord", "StudyMarker", "Suite", "SuiteFacts", "SuiteNoise", "SuiteOutcome", "Tone",
    "TrainFacts", "Turn", "Verdict", "VerdictFile",
]  # fmt: skip
