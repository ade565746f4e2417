"""What each stage hands to the next: frozen, versioned records. Imports no stage."""

from __future__ import annotations

from rankscope.records.arm_record import (
    ArmCost,
    ArmVerdict,
    Interval,
    Relation,
    RemedyOutcome,
    RemedyPart,
    SuiteOutcome,
)
from rankscope.records.data_facts import ReplayFacts, TrainFacts
from rankscope.records.gang_record import Gang
from rankscope.records.gang_task_record import GangCandidate, GangOutcome, GangTask, GangWork
from rankscope.records.machine_facts import MachineFacts
from rankscope.records.plan_record import (
    MeasuredSpeed,
    ModelFacts,
    Plan,
    PlannedPower,
    PlannedRun,
    PlannedSearch,
    Resolved,
    SourceState,
    StudyMarker,
)
from rankscope.records.record_base import FORMAT_VERSION, RESULTS_VERSION, Record
from rankscope.records.repair_record import RepairHow, RepairPoint, RepairRecord, RepairSide
from rankscope.records.row_records import Example, Form, Graded, Grading, Item, Row, Suite, Turn
from rankscope.records.run_records import (
    DialLoss,
    HandedOn,
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
from rankscope.records.schedule_record import Schedule, ScheduledJob
from rankscope.records.settings_record import (
    ArmSetting,
    DialLosses,
    PlannedChoice,
    PlannedSplit,
    SettingPoint,
    SettingsFile,
    WorthAt,
)
from rankscope.records.suite_record import HarnessFacts, SuiteFacts
from rankscope.records.verdict_record import (
    Answer,
    BestBet,
    BetSetting,
    DefaultArm,
    Defaults,
    DetectableEffect,
    LeastBadArm,
    MoreNeeded,
    NextRuns,
    PooledInterval,
    Recommended,
    SuiteNoise,
    Tone,
    Verdict,
    VerdictFile,
)
from rankscope.study.study_settings import Metric

__all__ = [
    "FORMAT_VERSION", "RESULTS_VERSION", "Answer", "ArmCost", "ArmSetting", "ArmVerdict", "BestBet", "BetSetting",
    "DefaultArm", "Defaults", "DetectableEffect", "DialLoss", "DialLosses", "Example", "Form", "Gang",
    "GangCandidate", "GangOutcome", "GangTask", "GangWork", "Graded", "Grading", "HandedOn", "HarnessFacts", "Interval",
    "Item", "LeastBadArm", "MachineFacts", "MeasuredSpeed", "Metric", "ModelFacts", "MoreNeeded", "NextRuns",
    "PackMembers", "Packing", "Plan", "PlannedChoice", "PlannedPower", "PlannedRun", "PlannedSearch", "PlannedSplit",
    "PooledInterval", "Prediction", "ProbedRate", "Provenance", "Recommended", "Record", "Relation", "RemedyOutcome",
    "RemedyPart", "RepairHow", "RepairPoint", "RepairRecord", "RepairSide", "ReplayFacts", "Resolved", "Row",
    "RunRecord", "RunStatus", "SamplesRecord", "Schedule", "ScheduledJob", "SearchRecord", "SettingPoint",
    "SettingsFile", "SourceState", "Stage", "State", "StepRecord", "StudyMarker", "Suite", "SuiteFacts", "SuiteNoise",
    "SuiteOutcome", "Tone", "TrainFacts", "Turn", "Verdict", "VerdictFile", "WorthAt",
]  # fmt: skip
