"""Autoencoding through discrete codes: a tokenizer of videos is trained to be decoded again (VQ-VAE, FSQ).

B batch, T H W C frames, height, width and channels of a video, N tokens, d channels of a code, K codes, P pixels.
"""

from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from vfm import models, parts
from vfm.models.quantizers import Averages, averaged, averages_of, codebook_of
from vfm.objectives.masked import normalize
from vfm.ops.patches import patchify, unpatchify


class autoencoder:  # noqa: N801 - parts are named as configs write them
    """Tokenizer and decoder, built from a run config whose encoder is a `video_tokenizer`. Keys of the objective:

    decoder: part (home `vfm.models`): a `pixel_decoder`.
    loss: part (home `vfm.losses`), between true and decoded pixels, normalised as the encoder sees them.
    restart: a code that is used less often than this in an average batch is seeded anew (averaged codebooks).
    """

    def __init__(self, config: Any):
        self.mean, self.std = tuple(config.data.mean), tuple(config.data.std)
        run_time = dict(precision=config.precision, remat=config.remat, unroll=config.unroll)
        self.encoder = models.build(config.model.encoder, **run_time)
        out_dim = 3 * self.encoder.tubelet * self.encoder.patch**2
        self.decoder = models.build(config.objective.decoder, out_dim=out_dim, **run_time)
        self.token_loss = parts.build(config.objective.loss, "vfm.losses")
        self.restart, self.decay = config.objective.restart, self.encoder.quantizer.decay

    def init(self, rng: PRNGKeyArray, batch: dict[str, Any]) -> tuple[dict, dict]:
        """Parameters {"encoder", "decoder"}; extra {"averages"} of a codebook that follows from them."""
        video = jnp.zeros((1, *batch["video"].shape[1:]), jnp.float32)
        encoder_rng, decoder_rng = jax.random.split(rng)
        encoder = self.encoder.init(encoder_rng, video)["params"]
        grid = self._window_grid(video.shape)
        z = jnp.zeros((1, grid[0] * grid[1] * grid[2], self.encoder.quantizer.dim))
        params = {"encoder": encoder, "decoder": self.decoder.init(decoder_rng, z, grid)["params"]}
        averages = averages_of(encoder["quantizer"]["codebook"])._asdict() if self.decay else None
        return params, {"averages": averages} if self.decay else {}

    def loss(self, params, extra, batch, rng, step, teacher) -> tuple[Array, tuple[dict, dict]]:
        """Reconstruction plus the quantizer's loss; metrics of both, and of the codes.

        psnr: of pixels in [0, 1], in decibels; used: share of the codes that occur in the batch; perplexity: how many
        codes, were they equally frequent, would be as diverse as those of the batch.
        """
        del step, teacher
        # Micro-batches share `rng`; their first sample tells them apart, on any mesh.
        dropout_rng, seed_rng = jax.random.split(jax.random.fold_in(rng, batch["id"][0]))
        video = normalize(batch["video"], self.mean, self.std)
        z, quantized = self.encoder.apply(
            {"params": params["encoder"]}, video, train=True, rngs={"dropout": dropout_rng}, method="tokenize"
        )
        decoded = self._pixels(params, quantized.values, video.shape)
        target = patchify(video, self.encoder.tubelet, self.encoder.patch)
        reconstruction = self.token_loss(decoded, target).mean()
        total = reconstruction + quantized.loss
        if self.decay:
            old = Averages(**extra["averages"])
            new = averaged(old, z, quantized.codes, seed_rng, self.decay, self.restart)
            extra = extra | {"averages": new._asdict()}
        means = {"loss": total, "reconstruction": reconstruction, "commitment": quantized.loss}
        means |= self._fidelity(decoded, target) | code_use(quantized.codes, self.encoder.codes)
        rows = jnp.asarray(len(video), jnp.float32)
        return total, ({name: (value * rows, rows) for name, value in means.items()}, extra)

    def settle(self, params: dict, extra: dict, teacher: dict) -> dict:
        """The codebook that follows from the averages."""
        del teacher
        if not self.decay:
            return params
        codebook = codebook_of(Averages(**extra["averages"]))
        return params | {"encoder": params["encoder"] | {"quantizer": {"codebook": codebook}}}

    def encode(self, params: dict, video: UInt8[Array, "B T H W C"]) -> Int[Array, "B N"]:
        """Codes of videos, in raster order."""
        video = normalize(video, self.mean, self.std)
        return self.encoder.apply({"params": params["encoder"]}, video, method="tokenize")[1].codes

    def decode(
        self, params: dict, codes: Int[Array, "B N"], shape: tuple[int, ...]
    ) -> Float[Array, "B T H W C"]:
        """Videos in [0, 1] of codes; `shape` is that of the videos, [..., T, H, W, C]."""
        z = self.encoder.apply({"params": params["encoder"]}, codes, method="lookup")
        size = self.encoder.tubelet, self.encoder.patch
        video = unpatchify(self._pixels(params, z, shape), self.encoder.grid_of(shape), *size)
        return jnp.clip(video * jnp.asarray(self.std) + jnp.asarray(self.mean), 0, 1)

    def _window_grid(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        time, height, width = self.encoder.grid_of(shape)
        window = self.encoder.window
        return (window // self.encoder.tubelet if window else time), height, width

    def _pixels(self, params, z: Float[Array, "B N d"], shape) -> Float[Array, "B N P"]:
        """Pixels of each token, decoded window by window as they were read."""
        grid = self._window_grid(shape)
        windows = rearrange(z, "b (n k) d -> (b n) k d", k=grid[0] * grid[1] * grid[2])
        pixels = self.decoder.apply({"params": params["decoder"]}, windows, grid)
        return rearrange(pixels, "(b n) k p -> b (n k) p", b=len(z)).astype(jnp.float32)

    def _fidelity(self, decoded: Array, target: Array) -> dict[str, Array]:
        error = rearrange(decoded - target, "b n (p c) -> b (n p) c", c=3) * jnp.asarray(self.std)
        squared = jnp.square(error).mean((1, 2))
        return {"psnr": (-10 * jnp.log10(jnp.maximum(squared, 1e-10))).mean()}


def code_use(codes: Int[Array, "B N"], count: int) -> dict[str, Array]:
    """{"used", "perplexity"} of a batch's codes."""
    share = jnp.bincount(codes.reshape(-1), length=count) / codes.size
    entropy = -(share * jnp.log(jnp.maximum(share, 1e-30))).sum()
    return {"used": (share > 0).mean(dtype=jnp.float32), "perplexity": jnp.exp(entropy)}
