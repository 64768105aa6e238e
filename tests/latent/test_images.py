"""Images as sensors: convolutions instead of perceptrons, and everything else as before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from mbrl_wrappers import load, save
from mbrl_wrappers.latent import LatentOptions, LatentStateSpaceModel
from mbrl_wrappers.nets.image_layers import ImageDecoder, ImageEncoder
from mbrl_wrappers.replay import TransitionStore
from mbrl_wrappers.seeding import global_stream_states, torch_generator
from mbrl_wrappers.tasks.functions import never_terminates
from mbrl_wrappers.training.sequence_trainer import SequenceFitConfig, SequenceTrainer

FRAMES = spaces.Box(0.0, 1.0, (256,), np.float32)
PUSHES = spaces.Box(-1.0, 1.0, (1,), np.float32)
DOT = np.arange(16)


def frame(x: float, y: float = 8.0) -> np.ndarray:
    """A bright spot at ``(x, y)`` in 16 by 16 pixels, row by row."""
    image = np.exp(-((DOT - x) ** 2)[None, :] / 4 - ((DOT - y) ** 2)[:, None] / 4)
    return image.reshape(-1).astype(np.float32)


def image_model(**options: Any) -> LatentStateSpaceModel:
    settings: dict[str, Any] = dict(
        latent_size=4, posterior="single", hidden=(32,), encoder_hidden=(32,), image_shape=(1, 16, 16), decoder_std=0.3
    )
    return LatentStateSpaceModel(
        FRAMES, PUSHES, options=LatentOptions(**{**settings, **options}), termination_fn=never_terminates, device="cpu"
    )


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 32, 32), (1, 8, 16), (2, 4, 4), (3, 64, 64)])
def test_images_go_through_and_come_back_in_their_shape(shape: tuple[int, int, int]) -> None:
    streams, g = global_stream_states(), torch_generator(0)
    encoder, decoder = ImageEncoder(shape, 7, generator=g), ImageDecoder(7, shape, generator=g)
    pixels = th.rand(2, 3, int(np.prod(shape)), generator=g)
    vector = encoder(pixels)
    assert vector.shape == (2, 3, 7)
    assert decoder(vector).shape == pixels.shape
    th.testing.assert_close(encoder(pixels[1]), vector[1])
    assert global_stream_states() == streams


def test_pixels_are_rows_of_the_image() -> None:
    # The first convolution of a map that looks at one corner only answers to the pixels of that corner.
    encoder = ImageEncoder((1, 16, 16), 5, generator=torch_generator(0))
    pixels = th.zeros(256, requires_grad=True)
    encoder.convolutions[0](pixels.reshape(1, 1, 16, 16))[0, 0, 0, 0].backward()
    assert pixels.grad is not None
    touched = set(pixels.grad.nonzero().flatten().tolist())
    assert touched == {16 * row + column for row in range(3) for column in range(3)}


@pytest.mark.parametrize("shape", [(1, 18, 18), (1, 16, 18), (1, 10, 10)])
def test_shapes_that_cannot_be_halved_are_refused(shape: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="cannot be halved"):
        ImageEncoder(shape, 4, generator=torch_generator(0))


def test_pixels_and_sensors_must_be_as_many() -> None:
    with pytest.raises(ValueError, match=r"has 1024 pixels and the sensors have 256 entries"):
        image_model(image_shape=(1, 32, 32))
    with pytest.raises(ValueError, match="must be .channels, height, width."):
        LatentOptions(image_shape=(16, 16))  # type: ignore[arg-type]


def test_a_model_of_images_learns_where_a_spot_is_and_survives_saving(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    store, places = TransitionStore(400, FRAMES, PUSHES), []
    for _ in range(20):
        x = rng.uniform(3, 12)
        for step in range(20):
            action = rng.uniform(-1, 1, 1).astype(np.float32)
            following = float(np.clip(x + 2 * action[0], 2, 13))
            store.add(frame(x), action, -abs(following - 8), frame(following), False, step == 19)
            x = following
            places.append(following)
    model = image_model()
    config = SequenceFitConfig(max_gradient_steps=80, batch_size=8, window=8, learning_rate=3e-3)
    report = SequenceTrainer(model, config).fit(store.transitions())
    assert report.quality.bound > report.initial_bound + 50
    scale = model.obs_normalizer
    assert bool((scale.std == scale.std[0]).all()), "all pixels have one scale"
    rows = store.transitions()
    first = th.ones(400, dtype=th.bool)
    state = model.observe(model.initial(400), rows.action, rows.next_obs, first, generator=torch_generator(0))
    seen = th.cat([state.mean, th.ones(400, 1)], 1).double()
    wanted = th.tensor(places, dtype=th.float64)[:, None]
    error = seen @ th.linalg.lstsq(seen, wanted).solution - wanted
    assert 1 - float(error.square().mean() / wanted.var()) > 0.9
    restored = load(save(model, tmp_path / "frames"), device="cpu")
    assert th.equal(restored.decode(state), model.decode(state))
    assert restored.options == model.options
