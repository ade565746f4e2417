"""A gang of devices, and what is planned for one."""

from __future__ import annotations

from rankscope.records.record_base import Record


class Gang(Record):
    """The devices that train a run together; `offload`: what is not computed with lies in the host's memory."""

    size: int = 1
    offload: bool = False

    @property
    def alone(self) -> bool:
        """Whether it is one device that holds all that it works with."""
        return self.size == 1 and not self.offload


class Placed(Record):
    """What is trained and scored, with the devices that do so; of a search those of the largest of its arms."""

    gang: int = 1
    """Devices that train it together, its weights shared out over them."""
    offload: bool = False
    """Whether masters and moments lie in the host's memory, which is slow."""
    host_bytes: int = 0
    """Of the host's memory, for what runs beside it: on a CPU all that it needs."""
    scoring: Gang = Gang()
    """The devices that hold it together while it is scored and looked into; one where it fits."""

    @property
    def training(self) -> Gang:
        """The devices that train it together."""
        return Gang(size=self.gang, offload=self.offload)

    @property
    def in_gang(self) -> bool:
        """Whether processes of its own train it."""
        return not self.training.alone

    @property
    def devices(self) -> int:
        """The most devices that it takes at once."""
        return max(self.gang, self.scoring.size)
