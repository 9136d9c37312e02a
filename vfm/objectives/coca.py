"""Contrast and captioning with one decoder: CoCa, and VideoCoCa where a clip's frames are one sequence of tokens.

Sources: Yu et al. 2022, "CoCa: Contrastive Captioners are Image-Text Foundation Models" (arXiv 2205.01917); Yan et
al. 2022, "VideoCoCa" (arXiv 2212.04979). B batch, L text positions, N video tokens, Q queries, D width, E embedding.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt8

from vfm import models
from vfm.contrastive import infonce, unit
from vfm.models.layers import Dense
from vfm.objectives.captioner import (
    blind,
    build_decoder,
    generate,
    require_text,
    sum_log_p,
    text_weight,
    token_mean,
)
from vfm.objectives.masked import normalize
from vfm.ops.attention import causal_mask
from vfm.ops.vocabulary import token_cross_entropy


class coca:  # noqa: N801 - parts are named as configs write them
    """CoCa, built from a run config. Keys of the objective:

    decoder: part with text_depth layers over text alone and `depth` that see the video.
    contrast_pool, caption_pool: parts; one query for the embedding, many for the decoder to look at.
    embed_dim: E.
    contrast, caption: weights of the two losses (published: 1 and 2; 0 and 1 to tune on captions).
    temperature: of the start; it is learned, as the log of its inverse, which stays within `scale_range`.
    directions, chunk: of `vfm.contrastive.infonce`; text_chunk, smoothing: of the captions' cross-entropy.
    """

    def __init__(self, config: Any):
        self.mean, self.std = tuple(config.data.mean), tuple(config.data.std)
        self.settings = o = config.objective
        run_time = dict(precision=config.precision, remat=config.remat, unroll=config.unroll)
        self.encoder = models.build(config.model.encoder, **run_time)
        self.decoder, self.eos = build_decoder(config, run_time)
        self.pools = {
            "contrast": models.build(o.contrast_pool, **run_time),
            "caption": models.build(o.caption_pool, **run_time),
        }
        self.contrasts = o.contrast > 0
        self.proj = Dense(o.embed_dim, use_bias=False, precision=self.decoder.precision)

    def init(self, rng: PRNGKeyArray, batch: dict[str, Any]) -> tuple[dict, dict]:
        """Parameters {"encoder", "pool", "decoder", "video_proj", "text_proj", "scale"}; no extra state."""
        require_text(batch)
        rngs = iter(jax.random.split(rng, 6))
        video = jnp.zeros((1, *batch["video"].shape[1:]), jnp.float32)
        tokens = jnp.zeros((1, 1, self.encoder.width), jnp.float32)
        # The text's embedding sees the whole text behind the start, one position more than the text has.
        ids = jnp.zeros((1, batch["text"].shape[1] + 1), jnp.int32)
        memory = jnp.zeros((1, 1, self.pools["caption"].width), jnp.float32)
        params = {
            "encoder": self.encoder.init(next(rngs), video)["params"],
            "pool": {name: pool.init(next(rngs), tokens)["params"] for name, pool in self.pools.items()},
            "decoder": self.decoder.init(next(rngs), ids, memory)["params"],
            "video_proj": self.proj.init(next(rngs), jnp.zeros((1, self.pools["contrast"].width)))["params"],
            "text_proj": self.proj.init(next(rngs), jnp.zeros((1, self.decoder.width)))["params"],
            "scale": {"log_scale": -jnp.log(jnp.asarray(self.settings.temperature, jnp.float32))},
        }
        return params, {}

    def loss(self, params, extra, batch, rng, step, teacher) -> tuple[Array, tuple[dict, dict]]:
        """Weighted sum of contrast and captioning; metrics of both, and {"loss", "temperature"}."""
        del step, teacher
        # Micro-batches share `rng`; their first sample tells them apart, on any mesh.
        dropout_rng = jax.random.fold_in(rng, batch["id"][0])
        tokens = self._tokens(params, batch["video"], dropout_rng)
        read, cls = self._read(params, batch["text"], batch["text_mask"])
        scale = jnp.exp(params["scale"]["log_scale"])
        contrast, found = infonce(
            self._text_embedding(params, cls), self._video_embedding(params, tokens), scale,
            ids=batch.get("text_id"), chunk=self.settings.chunk, directions=self.settings.directions,
        )  # fmt: skip
        hidden = self._attend(params, read[:, :-1], self._pool(params, "caption", tokens))
        scores = token_cross_entropy(
            hidden, params["decoder"]["head"]["kernel"], batch["text"],
            chunk=self.settings.text_chunk, smoothing=self.settings.smoothing, precision=self.decoder.precision,
        )  # fmt: skip
        caption, metrics = token_mean(scores, text_weight(batch))
        total = self.settings.contrast * contrast + self.settings.caption * caption
        rows = jnp.asarray(len(batch["text"]), jnp.float32)
        means = {"loss": total, "contrast": contrast, "temperature": 1 / scale} | found
        metrics = {"caption": metrics["loss"], "accuracy": metrics["accuracy"]}
        return total, (metrics | {name: (value * rows, rows) for name, value in means.items()}, extra)

    def after_update(self, params: dict) -> dict:
        """The scale kept within its range."""
        low, high = (jnp.log(bound) for bound in self.settings.scale_range)
        return params | {"scale": {"log_scale": jnp.clip(params["scale"]["log_scale"], low, high)}}

    def embed_video(self, params: dict, video: UInt8[Array, "B T H W C"]) -> Float[Array, "B E"]:
        """Unit vectors of videos."""
        return self._video_embedding(params, self._tokens(params, video))

    def embed_text(
        self, params: dict, text: Int[Array, "B L"], text_mask: Bool[Array, "B L"]
    ) -> Float[Array, "B E"]:
        """Unit vectors of texts."""
        return self._text_embedding(params, self._read(params, text, text_mask)[1])

    def likelihood(
        self,
        params: dict,
        video: UInt8[Array, "B T H W C"] | None,
        text: Int[Array, "B L"],
        text_mask: Bool[Array, "B L"],
        text_loss: Bool[Array, "B L"],
    ) -> Float[Array, "B"]:
        """Sum of log p over the tokens in `text_loss`, each from the true ones before it; `video` None = blind."""
        if video is None:
            memory = blind(len(text), self.pools["caption"].width)
        else:
            memory = self._pool(params, "caption", self._tokens(params, video))
        hidden = self._attend(params, self._read(params, text, text_mask)[0][:, :-1], memory)
        return sum_log_p(self._decode("logits", params, hidden), text, text_mask & text_loss)

    def generate(
        self,
        params: dict,
        video: UInt8[Array, "B T H W C"] | None,
        prompt_ids: Sequence[int] = (),
        *,
        length: int,
        method: str = "greedy",
        **options: Any,
    ) -> Int[Array, "B length"]:
        """Captions that begin with the prompt (which the result leaves out); options are those of `decode`.

        `video` None = blind: one row.
        """
        options = {"eos": self.eos} | options

        def look():
            if video is None:
                return blind(1, self.pools["caption"].width)
            return self._pool(params, "caption", self._tokens(params, video))

        return generate(self.decoder, params["decoder"], look, prompt_ids, length, method, options)

    def _tokens(self, params, video, dropout_rng=None) -> Float[Array, "B N D"]:
        return self.encoder.apply(
            {"params": params["encoder"]},
            normalize(video, self.mean, self.std),
            train=dropout_rng is not None,
            rngs=None if dropout_rng is None else {"dropout": dropout_rng},
        ).tokens

    def _pool(self, params, name: str, tokens) -> Float[Array, "B Q D"]:
        return self.pools[name].apply({"params": params["pool"][name]}, tokens)

    def _read(self, params, text, text_mask) -> tuple[Float[Array, "B L+1 D"], Float[Array, "B D"]]:
        """Tokens of the start and the text, and the class token, which sees all but padding."""
        start = ((0, 0), (1, 0))
        ids = jnp.pad(text, start, constant_values=self.decoder.start_id)
        return self._decode("read", params, ids, jnp.pad(text_mask, start, constant_values=True))

    def _attend(self, params, read, memory) -> Float[Array, "B L D"]:
        return self._decode("attend", params, read, memory, causal_mask(read.shape[1]))

    def _decode(self, method: str, params, *inputs):
        return self.decoder.apply({"params": params["decoder"]}, *inputs, method=method)

    def _video_embedding(self, params, tokens) -> Float[Array, "B E"]:
        pooled = self._pool(params, "contrast", tokens)[:, 0]
        return unit(self.proj.apply({"params": params["video_proj"]}, pooled))

    def _text_embedding(self, params, cls) -> Float[Array, "B E"]:
        return unit(self.proj.apply({"params": params["text_proj"]}, cls))
