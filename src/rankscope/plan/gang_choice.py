"""How many devices a run takes: one where it fits, else the smallest gang over which its weights are shared out.

Pure arithmetic; docs/plan.md has the same formulas. P parameters, p trainable ones, N devices of a gang, s bytes of a
number in the compute dtype.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from rankscope.plan.run_cost import BYTES, RUNTIME_BYTES, activation_bytes, moment_bytes, weight_bytes
from rankscope.plan.run_time import SCORING_BATCH_TOKENS
from rankscope.records import Gang, MachineFacts, ModelFacts
from rankscope.records.machine_facts import Device
from rankscope.study.study import Arm, Execution, OptimizerName

ALONE = Gang()
PARTS = ("weights", "masters", "moments", "gradients", "reference")

GANG_EFFICIENCY = 0.85
"""Share of N devices' speed that a gang of N reaches, weights gathered and gradients reduced on the way: assumed."""

LEAST_PROCESSES = 8
"""On a CPU, where processes may share a core, a gang may be as large as this in any case, for trying out."""

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
    def of(machine: MachineFacts, usable: float, device_type: Device) -> Room:
        """A machine's, of whose memory a share is `usable`, for work on its CPU or its GPUs."""
        shared = device_type != "cuda"  # a Mac's GPU works in the host's memory
        device = machine.memory_bytes if shared else machine.device_memory_bytes
        return Room(int(device * usable), int(machine.memory_bytes * usable), most_shards(machine, device_type), shared)


def most_shards(machine: MachineFacts, device_type: Device) -> int:
    """The largest gang that a machine may have."""
    if device_type == "mps":
        return 1
    return machine.device_count if device_type == "cuda" else max(LEAST_PROCESSES, machine.core_count)


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
    words, (root, block) = facts.vocab_size * facts.hidden_size, _groups(facts)
    parts = {key: alone[key] for key in ("activations", "logits")} | {"runtime": alone["runtime"]}
    gathered = size * (root + 2 * block)
    if arm.traits.whole and arm.retain is not None and arm.retain.kl is not None:
        gathered += size * (root + 2 * block)  # of the base that it is kept near
    if arm.traits.whole:
        masters = optimizer != "adamw_bf16"
        held = 4 if masters else size
        shared = {
            "weights": size * (facts.parameter_count - trained),
            "masters": held * trained,
            "moments": moment_bytes(trained, optimizer),
            "gradients": held * trained,
            "reference": alone.get("reference", 0),
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
    held_here = {key: split.get(key, 0) + own.get(key, 0) for key in PARTS}
    if not held_here["reference"]:
        del held_here["reference"]
    return GangNeed(gang, {**held_here, "gathered": gathered, **parts})


def _groups(facts: ModelFacts) -> tuple[int, int]:
    """Parameters that are gathered together: outside the blocks, and of the largest block."""
    words = facts.vocab_size * facts.hidden_size
    vocabulary = facts.vocabulary_parameters or words * (1 if facts.tied_embeddings else 2)
    blocks = sum(facts.block_parameters) or facts.parameter_count - vocabulary
    block = max(facts.block_parameters, default=math.ceil(blocks / max(1, facts.layer_count)))
    return facts.parameter_count - blocks, block


# ---- scoring ---------------------------------------------------------------------------------------------------------


def choose_scoring(
    arm: Arm | None, facts: ModelFacts, dtype: str, room: Room, execution: Execution, copies: int = 1
) -> GangNeed:
    """Where a run is scored and looked into, or the base (None), as `choose_gang` chooses where it is trained.

    `copies` as of `scoring_need`. What cannot be shared out is scored alone.
    """

    def need(gang: Gang) -> GangNeed:
        return scoring_need(arm, facts, dtype, gang, copies)

    solo = need(ALONE)
    if facts.quantization is not None or (arm is not None and not arm.traits.whole and not arm.traits.can_pack(arm)):
        return solo
    if execution.scoring_shards != "auto":
        return need(Gang(size=execution.scoring_shards))
    if room.shared or solo.fits(room):
        return solo
    sizes = [Gang(size=2**power) for power in range(1, room.devices.bit_length())]
    last = [] if execution.offload == "never" else [Gang(offload=True)]
    return next((found for gang in [*sizes, *last] if (found := need(gang)).fits(room)), solo)


def scoring_need(arm: Arm | None, facts: ModelFacts, dtype: str, gang: Gang, copies: int = 1) -> GangNeed:
    """What scoring takes in a gang, of which each device has the adapter whole.

    `copies` of the model stand there at once: of a whole model at other dials three, as it was trained, as it is now,
    and the base; where it is looked into beside the base two. `activations` are those of one block.
    """
    size, model = BYTES[dtype], copies * weight_bytes(facts, dtype)
    adapter = 0 if arm is None or arm.traits.whole else size * arm.stored_parameters(facts)
    tokens, layers = SCORING_BATCH_TOKENS["cuda"], max(1, facts.layer_count)
    parts = {
        "weights": model + adapter,
        "activations": activation_bytes(facts, dtype, tokens, checkpointing=False) // layers,
        "runtime": RUNTIME_BYTES["cuda"],
    }
    if gang.alone:
        return GangNeed(gang, parts)
    root, block = _groups(facts)
    parts["gathered"] = size * (root + 2 * block)
    if gang.offload:
        return GangNeed(gang, {**parts, "weights": adapter}, model + RUNTIME_BYTES["cpu"])
    return GangNeed(gang, {**parts, "weights": math.ceil(model / gang.size) + adapter})


def host_bytes(need: GangNeed, scored: GangNeed, facts: ModelFacts, dtype: str, device_type: Device) -> int:
    """What a run takes of the host's memory, beside others. On a CPU all of it, for each of its processes; on CUDA, as
    it is trained or scored, its processes and the base once, which is read into it, or what `offload` keeps there."""
    if device_type == "cpu":
        return need.gang.size * need.device_bytes + need.host_bytes
    processes = max(need.gang.size, scored.gang.size)
    read = (processes + (processes > 1)) * RUNTIME_BYTES["cpu"] + weight_bytes(facts, dtype)
    return max(need.host_bytes, scored.host_bytes, read)


def _dtype_of(alone: dict[str, int], facts: ModelFacts) -> str:
    """The compute dtype of a run without masters: in fp32 weights take 4 bytes each, else 2."""
    return "float32" if alone["weights"] >= 4 * facts.parameter_count else "bfloat16"


def gang_seconds(seconds: float, gang: Gang) -> float:
    """How long a gang takes for what one device does in so many seconds."""
    if gang.offload:
        return seconds * OFFLOAD_SLOWDOWN
    return seconds if gang.size == 1 else seconds / (gang.size * GANG_EFFICIENCY)
