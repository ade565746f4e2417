"""What a process of a gang works with: its team, the study, and models that lie in parts on all devices."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from rankscope.edges.bystander import Bystander
from rankscope.edges.study_folder import StudyFolder
from rankscope.evaluate.judge_grading import Desk
from rankscope.jobs.gang_checkpoints import GangCheckpoints
from rankscope.jobs.job_context import JobContext
from rankscope.model.load import LoadedModel, load_model, load_skeleton
from rankscope.model.methods.attach import method_modules
from rankscope.model.model_checks import check_model_files
from rankscope.model.sharding.load_sharded import ShardedLoad, load_sharded
from rankscope.model.sharding.team import ProcessTeam
from rankscope.plan.resolve import dtype_of
from rankscope.records import GangTask, PlannedRun, PlannedSearch
from rankscope.study.study import Arm
from rankscope.train.optimizer import OPTIMIZERS

_NOWHERE = Path("/")


class GangContext(JobContext):
    """A `JobContext` whose bases are sharded; only the first process's writes into the study folder count."""

    in_gang = True

    def __init__(self, task: GangTask, stop_requested: Callable[[], bool]) -> None:
        folder = StudyFolder.open(task.folder)
        text, plan = folder.read_study_text(), folder.read_plan()
        if text is None or plan is None:
            raise FileNotFoundError(f"{task.folder} holds no study and plan")
        if task.rank:
            folder = StudyFolder(Bystander(folder.storage))
        super().__init__(folder, text, plan)
        self.task, self._asked_to_stop = task, stop_requested
        self.process_team = ProcessTeam()
        self.team = self.process_team
        # Steps of training agree by themselves; elsewhere all processes must see a stop at the same place.
        self.stop_requested = stop_requested if task.work in ("train", "search") else self._all_stop
        self.mesh: DeviceMesh = init_device_mesh(task.device, (task.size,))
        self.checkpoint_group: dist.ProcessGroup = dist.new_group(backend="gloo")

    def _all_stop(self) -> bool:
        (stop,) = self.team.any(self._asked_to_stop())
        return stop

    def desk(self, *, twice: bool = False) -> Desk:
        """That of the first process, which grades for all."""
        return Desk(self.folder, self._asked_to_stop, twice)

    @property
    def evaluate_tokens(self) -> int:
        """Those of the task: fewer where memory ran out before."""
        return self.task.evaluate_tokens

    def micro_batch_tokens(self, run: PlannedRun | PlannedSearch) -> int:
        """Those of the task: fewer where memory ran out before."""
        return self.task.micro_batch_tokens

    def checkpoints(self, name: str) -> GangCheckpoints:
        """Where the state of that name is kept."""
        return GangCheckpoints(self.folder.storage, name, self.process_team, self.mesh, self.checkpoint_group)

    def base(self, model: str, *, own: bool = False, arm: Arm | None = None) -> LoadedModel:
        """A base in parts; with `own` one whose weights `arm` trains, which nobody else gets."""
        if own and arm is not None:
            how = ShardedLoad(
                self.mesh,
                partial(method_modules()[arm.method].put_on, arm=arm),
                masters=OPTIMIZERS[self.study.optimizer.name].needs_masters,
                offload=self.task.offload,
            )
            return self._load_in_parts(model, None, how)
        return super().base(model)

    def make_room(self) -> None:
        """The plan counts what a gang holds beside a base."""

    def _load(self, model: str, weights: Path | None = None) -> LoadedModel:
        return self._load_in_parts(model, weights, ShardedLoad(self.mesh, offload=self.task.offload))

    def _load_in_parts(self, model: str, weights: Path | None, how: ShardedLoad) -> LoadedModel:
        spec, dtype = self.spec(model), dtype_of(self.spec(model), self.plan.resolved)
        check_model_files([state for state in self.plan.model_files if state.name == model])
        return load_sharded(
            partial(load_model, spec, _NOWHERE, dtype, "cpu", weights=weights),
            partial(load_skeleton, spec, _NOWHERE, dtype, weights=weights),
            how,
        )
