"""The peer of `scripts.bench.step`: `transformers`' VideoMAEForPreTraining with torch's AdamW, on one batch of noise.

Runs in an interpreter that has torch, transformers and numpy, and needs nothing of this project but
`scripts.bench.protocol`. Not called by hand.
"""

import contextlib

import torch
import transformers
from transformers import VideoMAEConfig, VideoMAEForPreTraining

from scripts.bench import protocol


def build(settings):
    if settings["device"] == "cpu":
        torch.set_num_threads(settings["threads"])
        device = "cpu"
    else:
        device = "cuda"
    # As ours: float32 means float32 (no TF32), on every device.
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(0)
    wanted = settings["architecture"]
    encoder, decoder = wanted["encoder"], wanted["decoder"]
    config = VideoMAEConfig(
        image_size=settings["image_size"],
        num_frames=settings["frames"],
        patch_size=wanted["patch"],
        tubelet_size=wanted["tubelet"],
        hidden_size=encoder["width"],
        num_hidden_layers=encoder["depth"],
        num_attention_heads=encoder["heads"],
        intermediate_size=encoder["mlp_dim"],
        decoder_hidden_size=decoder["width"],
        decoder_num_hidden_layers=decoder["depth"],
        decoder_num_attention_heads=decoder["heads"],
        decoder_intermediate_size=decoder["mlp_dim"],
        layer_norm_eps=wanted["norm_eps"],
        use_mean_pooling=False,  # a norm after the encoder, as in the original's code
        norm_pix_loss=True,
    )
    model = VideoMAEForPreTraining(config).to(device).train()
    optim = wanted["optim"]
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [dict(params=decayed), dict(params=others, weight_decay=0.0)],
        lr=optim["lr"], betas=tuple(optim["betas"]), eps=optim["eps"], weight_decay=optim["weight_decay"],
    )  # fmt: skip
    batch, frames, size = settings["batch"], settings["frames"], settings["image_size"]
    # Normalised noise is handed over ready made: scaling pixels is not counted against the peer.
    video = torch.randn(batch, frames, 3, size, size, device=device)
    slots, cells = frames // wanted["tubelet"], (size // wanted["patch"]) ** 2
    hidden = int(wanted["mask_ratio"] * cells)
    half = settings["precision"] == "bfloat16"

    def run(steps):
        for _ in range(steps):
            order = torch.rand(batch, cells, device=device).argsort(1)
            mask = (order < hidden).repeat(1, slots)  # the same cells in every time slot
            with torch.autocast(device, torch.bfloat16) if half else contextlib.nullcontext():
                loss = model(video, bool_masked_pos=mask).loss
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()
        return loss.item()

    about = dict(
        name=f"transformers {transformers.__version__}, torch {torch.__version__}",
        device=device if device == "cpu" else torch.cuda.get_device_name(),
        parameters=sum(p.numel() for p in model.parameters()),
        attention=config._attn_implementation,
    )
    return about, run, None if device == "cpu" else torch.cuda.max_memory_allocated


if __name__ == "__main__":
    protocol.serve(build)
