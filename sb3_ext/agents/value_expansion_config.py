"""How far value expansion looks ahead, and what it learns from on the way."""

from __future__ import annotations

from dataclasses import dataclass

from mbrl_wrappers.checks import at_least


@dataclass(frozen=True)
class ExpansionConfig:
    """Settings of MVE and STEVE; the defaults are those of the STEVE paper (Buckman et al. 2018).

    Attributes:
        horizon: imagined steps ``H`` after each real one; 0 is the parent agent, bit for bit.
        every_step: MVE regresses the critics at all imagined steps too (the TD-k trick of Feinberg et al. 2018), and
            not at the real step alone. STEVE does not read it: an imagined state belongs to one member, so there is
            nothing that members could disagree about.
        members: trajectories that STEVE follows from each state, each inside one member of the model.
    """

    horizon: int = 3
    every_step: bool = True
    members: int = 4

    def __post_init__(self) -> None:
        at_least("horizon", self.horizon, 0)
        at_least("members", self.members)
