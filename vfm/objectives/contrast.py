"""Contrast of videos with their texts: two towers whose embeddings of a pair shall be nearest to each other.

Encoder, pool and projection on one side, a text encoder and a projection on the other; InfoNCE or the sigmoid loss
over the whole batch (VTC). Beside them, where their weights are not 0, matching (VTM) and masked language modelling
(MLM) through fusion layers that let texts look at videos, as Unmasked Teacher and InternVideo2's second stage do, and
alignment of the visible tokens with frozen teachers (UTA), which Unmasked Teacher keeps in its second stage.

Letters: B pairs of one medium (videos or images), L text tokens, N visible video tokens, D widths, E embedding size.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt8

from vfm import models, parts
from vfm.contrastive import infonce, sigmoid, unit
from vfm.errors import UserError
from vfm.masking import Mask, draw_batch, sample_keys
from vfm.models.layers import Dense, require
from vfm.objectives import aligned, fusion, teachers
from vfm.objectives.captioner import require_text
from vfm.objectives.masked import normalize
from vfm.objectives.rows import apply, in_chunks
from vfm.objectives.temperature import Temperature
from vfm.objectives.words import sized, special_words

KINDS = ("infonce", "sigmoid")
LOSSES = ("vtc", "vtm", "mlm", "uta")
SAMPLE = ("id", "clip")  # keys of a batch that tell one sample, and with it its randomness, from another
_SOURCES = 8191  # of a mixture, more than there are; odd, so that products that overflow stay apart


class Pairs(NamedTuple):
    """Pairs of one medium, with what the two towers made of them (tokens only where fusion needs them)."""

    rows: dict[str, Array]  # id (and clip), text, text_mask, positive
    video: Float[Array, "B E"]
    text: Float[Array, "B E"]
    video_tokens: Float[Array, "B N D"] | None
    text_tokens: Float[Array, "B L D"] | None  # as the fusion layers take them
    uta: Float[Array, "B"] | None  # the heads' mean losses, weighted


class contrast:  # noqa: N801 - parts are named as configs write them
    """Video-text contrast, built from a run config; `contrast()` in configs/objectives.py explains its keys.

    Batches hold `video`, `id`, `text`, `text_mask`, and may hold a second medium, `image` [Bi,1,S,S,3] with
    `image_text`, `image_text_mask`: its pairs join the same contrast.
    """

    images = True

    def __init__(self, config: Any):
        self.mean, self.std = tuple(config.data.mean), tuple(config.data.std)
        self.settings = o = config.objective
        require("objective.kind", o.kind, KINDS)
        self.weights = {name: float(o.losses.get(name, 0.0)) for name in LOSSES}
        for name in o.losses:
            require("objective.losses", name, LOSSES)
        if min(self.weights.values()) < 0 or not any(self.weights.values()):
            raise UserError(
                f"config.objective.losses={self.weights}: expected weights from 0 up, one of them above 0"
            )
        # A micro-batch has fewer pairs, and with them fewer negatives, than the batch.
        self.contrasts = bool(self.weights["vtc"] or self.weights["vtm"])
        run_time = dict(precision=config.precision, remat=config.remat, unroll=config.unroll)
        self.encoder = models.build(config.model.encoder, **run_time)
        self.pool = models.build(o.pool, **run_time)
        self.text = models.build(sized(config.model.text, config), **run_time)
        self.fusion = None
        if self.weights["vtm"] or self.weights["mlm"]:
            own = sized(config.model.fusion, config) if config.model.get("fusion") else None
            self.fusion_part = "fusion" if own else "text"
            self.fusion = models.build(own, **run_time) if own else self.text
            self.special = special_words(config) if self.weights["mlm"] else None
            if not hasattr(self.fusion, "fuse"):
                raise UserError(
                    "config.objective.losses asks for vtm or mlm, which need fusion layers; set config.model.text to a "
                    "'bert' with a fusion_layer, or config.model.fusion to one of its own"
                )
        self.masks = {"video": _mask(o.mask), "image": _mask(o.image_mask or o.mask)}
        asked = self.weights["uta"] or any(hasattr(mask, "teacher") for mask in self.masks.values())
        self.teachers, self.heads = teachers.build(config) if asked else {}, None
        for mask in self.masks.values():
            aligned.ask(mask, self.teachers)
        if self.weights["uta"]:
            self.heads = aligned.Heads(o.get("heads"), self.encoder, self.pool, self.teachers, run_time)
        self.temperature = Temperature(o.temperature, bias=o.bias if o.kind == "sigmoid" else None)
        dense = dict(features=o.dim, use_bias=o.projection_bias, precision=self.encoder.precision)
        self.proj = Dense(**dense) if o.dim else None
        self.vtm_head = Dense(2, precision=self.encoder.precision)

    def init(self, rng: PRNGKeyArray, batch: dict[str, Any]) -> tuple[dict, dict]:
        """Parameters {"encoder", "pool", "video_proj", "text", "text_proj", "scale", "fusion", "vtm_head", "heads"},
        without those that this config does not have; no extra state."""
        require_text(batch)
        heads_rng = jax.random.fold_in(rng, 7)
        rngs = iter(jax.random.split(rng, 7))
        video = jnp.zeros((1, *batch["video"].shape[1:]), jnp.float32)
        ids = jnp.zeros((1, batch["text"].shape[1]), jnp.int32)
        real = jnp.ones(ids.shape, bool)
        features, encoder = self.encoder.init_with_output(next(rngs), video)
        pooled, pool = self.pool.init_with_output(next(rngs), features.tokens, features.cls)
        everything = (ids, real, features.tokens), dict(method="everything")
        if self.fusion is self.text:
            text = self.text.init(next(rngs), *everything[0], **everything[1])
            encoded = self.text.apply(text, ids, real)
        else:
            encoded, text = self.text.init_with_output(next(rngs), ids, real)
        params = {"encoder": encoder, "pool": pool, "text": text}
        if self.fusion is not None:
            if self.fusion is not self.text:
                params["fusion"] = self.fusion.init(next(rngs), *everything[0], **everything[1])
            params["vtm_head"] = self.vtm_head.init(next(rngs), encoded.tokens[:, 0])
        if self.proj is not None:
            params["video_proj"] = self.proj.init(next(rngs), pooled)
            params["text_proj"] = self.proj.init(next(rngs), encoded.pooled)
        elif pooled.shape != encoded.pooled.shape:
            raise UserError(
                f"config.objective.dim=0 compares pooled videos and texts as they are, but these are {pooled.shape[1]} "
                f"and {encoded.pooled.shape[1]} wide; set objective.dim to the size of a shared embedding"
            )
        params = {name: variables.get("params", {}) for name, variables in params.items()}
        if self.heads is not None:
            params["heads"] = self.heads.init(heads_rng, pooled)
        params["scale"] = self.temperature.init()
        return {name: tree for name, tree in params.items() if tree}, {}

    def loss(self, params, extra, batch, rng, step, teacher) -> tuple[Array, tuple[dict, dict]]:
        """Weighted sum of the losses; metrics {"loss"}, each loss by name, accuracies, temperature and spread."""
        del step
        require_text(batch)
        media = self._media(batch)
        keys = {name: jax.random.fold_in(rng, index) for index, name in enumerate(media)}
        pairs = {name: self._embed(params, name, rows, keys[name], teacher) for name, rows in media.items()}
        found, metrics = {}, {}
        if self.weights["vtc"]:
            found["vtc"], metrics = self._contrast(params, list(pairs.values()))
        if self.weights["vtm"]:
            found["vtm"] = [self._match(params, p, keys[name]) for name, p in pairs.items()]
        if self.weights["mlm"]:
            found["mlm"] = [self._guess_words(params, p, keys[name]) for name, p in pairs.items()]
        one, total = jnp.ones(()), 0.0
        for name in found.keys() - {"vtc"}:
            score = jax.tree.map(lambda *media: sum(x.sum() for x in media), *found[name])
            found[name], metrics[f"{name}_accuracy"] = score.mean(), (score.right, score.weight)
        if self.weights["uta"]:
            found["uta"] = jnp.concatenate([p.uta for p in pairs.values()]).mean()
        for name, loss in found.items():
            total += self.weights[name] * loss
            metrics[name] = (loss, one)
        metrics["temperature"] = (1 / self.temperature.scale(params), one)
        rows = sum(len(p.video) for p in pairs.values())
        metrics["loss"] = (total * rows, rows * one)
        return total, (jax.tree.map(jax.lax.stop_gradient, metrics), extra)

    def after_update(self, params: dict) -> dict:
        """Parameters with the temperature inside its bounds."""
        return self.temperature.clamp(params)

    def embed_video(self, params: dict, video: UInt8[Array, "B T H W C"]) -> Float[Array, "B E"]:
        """Unit vectors of whole clips (nothing masked, nothing dropped)."""
        return self._video(params, normalize(_repeated(video, self.encoder.tubelet), self.mean, self.std))[0]

    def embed_text(
        self, params: dict, text: Int[Array, "B L"], text_mask: Bool[Array, "B L"]
    ) -> Float[Array, "B E"]:
        """Unit vectors of texts."""
        return self._text(params, text, text_mask)[0]

    def match(
        self,
        params: dict,
        video: UInt8[Array, "B T H W C"],
        text: Int[Array, "B L"],
        text_mask: Bool[Array, "B L"],
    ) -> Float[Array, "B"]:
        """The matching head's logit for "they belong together", by which candidates are ranked again.

        Raises:
          UserError: the objective has no fusion layers.
        """
        if self.fusion is None:
            raise UserError("this model cannot match: it was trained without vtm (config.objective.losses)")
        clip = normalize(_repeated(video, self.encoder.tubelet), self.mean, self.std)
        tokens = self._video(params, clip)[1]
        return self._match_logits(params, self._fusion_text(params, text, text_mask), text_mask, tokens)[:, 1]

    # From a batch to embeddings

    def _media(self, batch: dict[str, Array]) -> dict[str, dict[str, Array]]:
        """Rows of each medium in the batch, under the same keys."""
        media = {
            "video": {key: batch[key] for key in (*SAMPLE, "video", "text", "text_mask") if key in batch}
        }
        positives = self.settings.positives
        if positives and positives not in batch:
            raise UserError(
                f"config.objective.positives='{positives}' is no key of the batch, which has {', '.join(sorted(batch))}"
            )
        if positives:
            media["video"]["positive"] = _identity(batch, positives)
        if "image" in batch:
            rows = len(batch["image"])
            media["image"] = dict(
                video=batch["image"], text=batch["image_text"], text_mask=batch["image_text_mask"]
            )
            media["image"]["id"] = batch.get("image_id", jnp.arange(rows, dtype=jnp.int32))
            if positives:
                same = _identity(batch, positives, "image_")
                # Both sources number their samples from 0: an image is never the video of its number.
                media["image"]["positive"] = -1 - same if positives == "id" else same
        return media

    def _embed(self, params: dict, medium: str, rows: dict[str, Array], rng: PRNGKeyArray, teacher) -> Pairs:
        """Both towers on the rows of one medium, in `objective.chunks` parts."""
        mask_rng, *drop_rngs = jax.random.split(jax.random.fold_in(rng, 0), 3)
        mask = self.masks[medium]

        def towers(rows):
            video_keys, text_keys = (sample_keys(drop_rng, rows) for drop_rng in drop_rngs)
            clip = _repeated(rows["video"], self.encoder.tubelet)
            grid, looks = self.encoder.grid_of(clip.shape), {}
            if self.teachers:
                looks = teachers.look(self.teachers, teacher, {"video": clip})
                aligned.check_grids(looks, grid)
            keep = None
            if mask is not None:
                keep = draw_batch(mask, mask_rng, rows, grid, aligned.importance(mask, looks)).keep
            clip = normalize(clip, self.mean, self.std)
            uta = None
            if self.heads is None:
                video, video_tokens = self._video(params, clip, keep, video_keys)
            else:
                video, video_tokens, seen = self._watched(params, clip, keep, video_keys, grid)
                uta = self._aligned(params, seen, looks)
            text, tokens = self._text(params, rows["text"], rows["text_mask"], text_keys)
            if self.fusion is None:
                return video, text, None, None, uta
            if self.fusion is not self.text and self.weights["vtm"]:
                tokens = self._fusion_text(params, rows["text"], rows["text_mask"], text_keys)
            return video, text, video_tokens, tokens, uta

        return Pairs(rows, *in_chunks(towers, self.settings.chunks, rows))

    def _video(self, params, clip, keep=None, keys=None) -> tuple[Array, Array]:
        """(embeddings [B,E], tokens with the class token first) of normalised clips."""
        video, tokens, _ = self._joined(params, apply(self.encoder, params["encoder"], clip, keep, keys=keys))
        return video, tokens

    def _watched(self, params, clip, keep, keys, grid) -> tuple[Array, Array, aligned.Watched]:
        """The same with what the heads align."""
        features, layers = apply(self.encoder, params["encoder"], clip, keep, keys=keys, layers=True)
        video, tokens, pooled = self._joined(params, features)
        if keep is None:
            count = features.tokens.shape[1]
            keep = jnp.broadcast_to(jnp.arange(count, dtype=jnp.int32), (len(clip), count))
        layers = aligned.normed(self.encoder, params["encoder"], jnp.moveaxis(layers, 1, 0))
        return video, tokens, aligned.Watched(keep, layers, pooled, grid)

    def _aligned(self, params, seen: aligned.Watched, looks) -> Float[Array, "B"]:
        """UTA of each clip."""
        total = 0.0
        for name, losses in self.heads.losses(params["heads"], seen, looks).items():
            of_clips = losses.mean((0, 2)) if losses.ndim == 3 else losses
            total += self.heads.heads[name].weight * of_clips
        return total

    def _joined(self, params, features) -> tuple[Array, Array, Array]:
        """(embeddings, tokens with the class token first, pooled vectors)."""
        pooled = self.pool.apply({"params": params.get("pool", {})}, features.tokens, features.cls)
        tokens = features.tokens
        if features.cls is not None:
            tokens = jnp.concatenate([features.cls[:, None], tokens], axis=1)
        return self._project(params, "video_proj", pooled), tokens, pooled

    def _text(self, params, text, text_mask, keys=None) -> tuple[Array, Array]:
        """(embeddings [B,E], tokens [B,L,D]) of texts."""
        encoded = apply(self.text, params["text"], text, text_mask, keys=keys)
        return self._project(params, "text_proj", encoded.pooled), encoded.tokens

    def _project(self, params, name, pooled) -> Float[Array, "B E"]:
        return unit(pooled if self.proj is None else self.proj.apply({"params": params[name]}, pooled))

    # Losses

    def _contrast(self, params, pairs: list[Pairs]) -> tuple[Array, dict]:
        """VTC over all media together, and its metrics."""
        text, video = (jnp.concatenate([getattr(p, side) for p in pairs]) for side in ("text", "video"))
        o, ids = self.settings, None
        if o.positives:
            ids = jnp.concatenate([p.rows["positive"] for p in pairs])
        scale, common = self.temperature.scale(params), dict(ids=ids, chunk=o.loss_chunk)
        if o.kind == "sigmoid":
            loss, metrics = sigmoid(text, video, scale, params["scale"]["bias"], **common)
        else:
            loss, metrics = infonce(text, video, scale, directions=o.directions, **common)
        return loss, {name: (value, jnp.ones(())) for name, value in metrics.items()}

    def _match(self, params, pairs: Pairs, rng) -> fusion.Score:
        """VTM: each pair, each text with a wrong video, each video with a wrong text."""
        rows, count = pairs.rows, len(pairs.video)
        own = jnp.arange(count, dtype=jnp.int32)
        ids = rows.get("positive", own)
        logits = jax.lax.stop_gradient(self.temperature.scale(params) * pairs.text @ pairs.video.T)
        video_rng, text_rng, drop_rng = jax.random.split(jax.random.fold_in(rng, 1), 3)
        of_text, has_video = fusion.draw_negatives(sample_keys(video_rng, rows), logits, ids)
        of_video, has_text = fusion.draw_negatives(sample_keys(text_rng, rows), logits.T, ids)
        texts, videos = jnp.concatenate([own, own, of_video]), jnp.concatenate([own, of_text, own])

        def classify(rows):
            # A sample is here three times; each time it is dropped anew.
            keys = jax.vmap(jax.random.fold_in)(sample_keys(drop_rng, rows), rows["third"])
            return self._match_logits(params, rows["tokens"], rows["text_mask"], rows["video"], keys)

        thirds = {name: jnp.tile(rows[name], 3) for name in SAMPLE if name in rows}
        thirds |= dict(
            tokens=pairs.text_tokens[texts],
            text_mask=rows["text_mask"][texts],
            video=pairs.video_tokens[videos],
            third=jnp.repeat(jnp.arange(3), count),
        )
        logits = in_chunks(classify, self.settings.chunks, thirds)
        weight = jnp.concatenate([jnp.ones(count, bool), has_video, has_text])
        return fusion.cross_entropy(logits, (thirds["third"] == 0).astype(jnp.int32), weight)

    def _guess_words(self, params, pairs: Pairs, rng) -> fusion.Score:
        """MLM: hidden words from the others and the video; summed over each text."""
        mask_rng, drop_rng = jax.random.split(jax.random.fold_in(rng, 2))
        rows, (mask_id, special_ids) = pairs.rows, self.special
        allowed = fusion.maskable(rows["text"], rows["text_mask"], special_ids)
        keys = sample_keys(mask_rng, rows)
        size = self.fusion.vocab_size
        text, hidden = fusion.mask_words(keys, rows["text"], allowed, self.settings.mlm_rate, size, mask_id)

        def guess(rows):
            keys = sample_keys(drop_rng, rows)
            tokens = self._fusion_text(params, rows["text"], rows["text_mask"], keys)
            tokens = self._fuse(params, tokens, rows["text_mask"], rows["video"], keys)
            logits = self.fusion.apply({"params": params[self.fusion_part]}, tokens, method="predict")
            score = fusion.cross_entropy(logits, rows["answer"], rows["hidden"])
            return jax.tree.map(lambda x: x.sum(-1), score)

        same = {name: rows[name] for name in (*SAMPLE, "text_mask") if name in rows}
        masked = dict(text=text, answer=rows["text"], hidden=hidden, video=pairs.video_tokens)
        return in_chunks(guess, self.settings.chunks, same | masked)

    def _fusion_text(self, params, text, text_mask, keys=None) -> Float[Array, "B L D"]:
        """Texts as the fusion layers take them."""
        return apply(self.fusion, params[self.fusion_part], text, text_mask, keys=keys).tokens

    def _fuse(self, params, tokens, text_mask, video_tokens, keys=None) -> Float[Array, "B L D"]:
        inputs = (tokens, text_mask, video_tokens)
        return apply(self.fusion, params[self.fusion_part], *inputs, keys=keys, method="fuse")

    def _match_logits(self, params, tokens, text_mask, video_tokens, keys=None) -> Float[Array, "B 2"]:
        first = self._fuse(params, tokens, text_mask, video_tokens, keys)[:, 0]
        return self.vtm_head.apply({"params": params["vtm_head"]}, first)


def _mask(part: Any) -> Mask | None:
    return parts.build(part, "vfm.masking") if part else None


def _identity(batch: dict[str, Array], key: str, medium: str = "") -> Int[Array, " B"]:
    """What is equal in pairs that are positives of each other: ids are of samples of one source of a mixture."""
    if key == "id" and f"{medium}source" in batch:
        return batch[f"{medium}id"] * _SOURCES + batch[f"{medium}source"]
    return batch[medium + key]


def _repeated(video: UInt8[Array, "B T H W C"], tubelet: int) -> UInt8[Array, "B T H W C"]:
    """An image (a video of one frame) as the still clip that one tubelet needs; other videos as they are."""
    return jnp.repeat(video, tubelet, axis=1) if video.shape[1] == 1 else video
