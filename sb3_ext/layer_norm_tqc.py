"""TQC's policy with layer normalisation in the critics; apart, because sb3-contrib is an extra."""

from __future__ import annotations

from sb3_contrib.tqc.policies import TQCPolicy

from sb3_ext.layer_norm_policies import NormedCritics


class LayerNormTQCPolicy(NormedCritics, TQCPolicy):  # type: ignore[misc]
    """``TQC(LayerNormTQCPolicy, env)``, see :class:`~sb3_ext.layer_norm_policies.NormedCritics`."""
