"""How many devices a run takes: one where it fits, else the smallest gang over which its weights are shared out.

Pure arithmetic; docs/plan.md has the same formulas. P parameters, p trainable ones, N devices of a gang, s bytes of a
number in the compute dtype.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from rankscope.plan.run_cost import BYTES, RUNTIME_BYTES, moment_bytes, weight_bytes
from rankscope.records import Gang, MachineFacts, ModelFacts
from rankscope.study.study import Arm, Execution, OptimizerName

ALONE = Gang()

GANG_EFFICIENCY = 0.85
"""Share of N devices' speed that a gang of N reaches, weights gathered and gradients reduced on the way: assumed."""

MOST_PROCESSES = 1024
"""On a CPU, where processes may share a core: what `shards` may be."""

OFFLOAD_SLOWDOWN = 2.5
"""How much longer training takes with weights, gradients and moments in the host's memory: between 2 and 3."""


@dataclass(frozen=True)
class Room:
    """Bytes that one device and the host may use, how many devices there are, and whether they share the host's."""

    device_bytes: int
    host_bytes: int
    devices: int
    shared: bool

    @staticmethod
    def of(machine: MachineFacts, usable: float, device_type: Literal["cpu", "cuda"]) -> Room:
        """A machine's, of whose memory a share is `usable`, for work on its CPU or its GPUs."""
        cpu = device_type == "cpu"
        device = machine.memory_bytes if cpu else machine.device_memory_bytes
        devices = MOST_PROCESSES if cpu else machine.device_count
        return Room(int(device * usable), int(machine.memory_bytes * usable), devices, cpu)


@dataclass(frozen=True)
class GangNeed:
    """What a run needs in a gang: on each device by what it is for, and in the host's memory."""

    gang: Gang
    parts: dict[str, int]
    host_bytes: int = 0
    checkpointing: bool = False
    """Whether activations are computed again in the backward pass."""

    @property
    def device_bytes(self) -> int:
        """On one device."""
        return sum(self.parts.values())

    def fits(self, room: Room) -> bool:
        """Whether the room holds it. Processes on a CPU share its memory."""
        if room.shared:
            return self.gang.size * self.device_bytes + self.host_bytes <= room.device_bytes
        return self.device_bytes <= room.device_bytes and self.host_bytes <= room.host_bytes


def can_shard(arm: Arm, facts: ModelFacts, optimizer: OptimizerName) -> str | None:
    """Why an arm cannot be trained in a gang; None where it can.

    Methods that read or wrap the base's weights (DoRA, PiSSA, LN tuning, ...) would read a part of them.
    """
    if facts.quantization is not None:
        return f"a base in {facts.quantization} is not shared out"
    if not arm.traits.whole and not arm.traits.can_pack(arm):
        return f"{arm.method} is not shared out: full methods and LoRA without dropout are"
    if arm.retain is not None:
        return "what an arm is kept near would have to be shared out too"
    if arm.traits.whole and optimizer == "adamw_8bit":
        return "bitsandbytes' optimizer does not take weights that are shared out"
    return None


def choose_gang(
    arm: Arm, facts: ModelFacts, alone: dict[str, int], room: Room, execution: Execution, optimizer: OptimizerName
) -> GangNeed:
    """Where a run goes that needs `alone` on one device.

    The smallest power of two at which it fits, else one device with the host's memory beside it, else alone, where it
    does not fit. What the study gives is taken. On a CPU processes share one memory, so that a gang saves nothing.
    """
    solo = GangNeed(ALONE, alone)
    if can_shard(arm, facts, optimizer) is not None:
        return solo
    offloaded = need_in_gang(arm, facts, alone, Gang(size=1, offload=True), optimizer)
    if execution.shards != "auto":
        if execution.shards > 1:
            return need_in_gang(arm, facts, alone, Gang(size=execution.shards), optimizer)
    elif execution.offload != "always" and not solo.fits(room) and not room.shared:
        size = 2
        while size <= room.devices:
            need = need_in_gang(arm, facts, alone, Gang(size=size), optimizer)
            if need.fits(room):
                return need
            size *= 2
    if execution.offload == "always":
        return offloaded
    wanted = execution.offload == "auto" and not solo.fits(room) and not room.shared
    return offloaded if wanted and offloaded.fits(room) else solo


def need_in_gang(arm: Arm, facts: ModelFacts, alone: dict[str, int], gang: Gang, optimizer: OptimizerName) -> GangNeed:
    """What a run needs in a gang, of what it needs `alone` (activations and logits are those of the same micro-batch).

    Of trained weights there are the fp32 masters alone, which are gathered in the compute dtype. `gathered`: the root's
    weights (vocabulary and last norm), two blocks (the next is fetched while one runs), and where these are trained the
    gradients of a block before they are reduced, and of the head in fp32 while its loss is made.
    """
    dtype = "bfloat16" if alone["masters"] else _dtype_of(alone, facts)
    size, trained = BYTES[dtype], arm.trainable_parameters(facts)
    words = facts.vocab_size * facts.hidden_size
    vocabulary = facts.vocabulary_parameters or words * (1 if facts.tied_embeddings else 2)
    blocks = sum(facts.block_parameters) or facts.parameter_count - vocabulary
    block = max(facts.block_parameters, default=math.ceil(blocks / max(1, facts.layer_count)))
    root = facts.parameter_count - blocks
    parts = {key: alone[key] for key in ("activations", "logits")} | {"runtime": alone["runtime"]}
    gathered = size * (root + 2 * block)
    if arm.traits.whole:
        masters = optimizer != "adamw_bf16"
        held = 4 if masters else size
        shared = {
            "weights": size * (facts.parameter_count - trained),
            "masters": held * trained,
            "moments": moment_bytes(trained, optimizer),
            "gradients": held * trained,
        }
        own = dict.fromkeys(shared, 0)
        gathered += (size + 4) * block + (4 * words if trained == facts.parameter_count else 0)
    else:
        base = weight_bytes(facts, dtype)
        shared = {"weights": base}
        own = {"weights": alone["weights"] - base} | {key: alone[key] for key in ("masters", "moments", "gradients")}
    split = {key: math.ceil(value / gang.size) for key, value in shared.items()}
    if gang.offload:
        host = sum(shared.values()) + RUNTIME_BYTES["cpu"]
        return GangNeed(gang, {**own, "gathered": gathered, **parts}, host)
    held_here = {key: split.get(key, 0) + own.get(key, 0) for key in ("weights", "masters", "moments", "gradients")}
    return GangNeed(gang, {**held_here, "gathered": gathered, **parts})


def scoring_bytes(arm: Arm, facts: ModelFacts, dtype: str, *, dials: bool) -> int:
    """What scoring a trained run takes on its one device, but for activations: the model, and the adapter beside it.

    A whole model that is scored at other dials stands there three times: as it was trained, as it is now, and the base.
    """
    model = weight_bytes(facts, dtype)
    if arm.traits.whole:
        return model * (3 if dials else 1) + RUNTIME_BYTES["cuda"]
    return model + BYTES[dtype] * arm.stored_parameters(facts) + RUNTIME_BYTES["cuda"]


def host_bytes(need: GangNeed, facts: ModelFacts, dtype: str, device_type: Literal["cpu", "cuda"]) -> int:
    """What a run takes of the host's memory, beside others: on a CPU all of it, for each of its processes; on CUDA the
    processes, and the base once, which is read into it; or what `offload` keeps there."""
    if device_type == "cpu":
        return need.gang.size * need.device_bytes + need.host_bytes
    processes = need.gang.size + (need.gang.size > 1)
    return max(need.host_bytes, processes * RUNTIME_BYTES["cpu"] + weight_bytes(facts, dtype))


def _dtype_of(alone: dict[str, int], facts: ModelFacts) -> str:
    """The compute dtype of a run without masters: in fp32 weights take 4 bytes each, else 2."""
    return "float32" if alone["weights"] >= 4 * facts.parameter_count else "bfloat16"


def gang_seconds(seconds: float, gang: Gang) -> float:
    """How long a gang takes for what one device does in so many seconds."""
    if gang.offload:
        return seconds * OFFLOAD_SLOWDOWN
    return seconds if gang.size == 1 else seconds / (gang.size * GANG_EFFICIENCY)
