"""Training, from a config to the last checkpoint. It reads from top to bottom."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

import input_pipeline
from vfm.train import checkpoint, flops, sharding, summary
from vfm.train import config as configs
from vfm.train.feed import Feed
from vfm.train.initial import initial_state
from vfm.train.meter import Meter
from vfm.train.processes import Preemption
from vfm.train.program import Program
from vfm.train.progress import Progress, clock
from vfm.train.step import State
from vfm.train.writers import BadFiles, Writers

log = logging.getLogger(__name__)


def train(
    config: ConfigDict,
    workdir: str | Path,
    *,
    objective: Any = None,
    batches: Callable[[int, slice], Iterator[dict[str, Any]]] | None = None,
    evaluator: Callable[[int, Any], dict[str, float]] | None = None,
) -> State:
    """Train until the last step, or until the machine is taken away; a later call goes on from there.

    Args:
      config: a whole run's config, as configs/common.py describes it.
      workdir: folder of config.json, metrics.jsonl, checkpoints/ and so on; made if it is not there.
      objective: what is learned; None = what `config.objective` names.
      batches: (first step, rows of the global batch) -> endless iterator of dicts of numpy arrays with those rows,
        the same for the same step; may have `num_examples`, `bad_files` and `close`. None = `config.data`.
      evaluator: (step, parameters) -> numbers to log, called every `config.eval.every`; it gets the average of the
        parameters where one is kept.

    Returns:
      The last state.

    Raises:
      UserError: a mistake in config, data or checkpoints.
    """
    configs.check(config, need_data=batches is None)
    workdir = Path(workdir)
    mesh = sharding.make_mesh(config.mesh)
    sharding.check_batch(config.batch_size, config.accumulate, mesh)
    device = mesh.devices.flat[0]
    log.info(
        f"{mesh.devices.size} x {device.device_kind} ({device.platform}), {jax.process_count()} process(es), "
        f"mesh {' x '.join(f'{axis} {size}' for axis, size in mesh.shape.items())}"
    )
    with contextlib.ExitStack() as leave, jax.set_mesh(mesh):
        # The run's folder: is it a run of this model, and how far did it come?
        done = checkpoint.steps(workdir)
        newest = done[-1] if done else None
        start = newest or 0
        if newest is not None:
            _note_changes(configs.check_same_model(configs.load_config(workdir), config, workdir))

        # Data from the step on which the run goes on; a batch is a function of the step.
        if batches is None:
            source = input_pipeline.train_batches(
                config.data,
                batch_size=config.batch_size,
                seed=config.seed,
                start_step=start,
                rows=sharding.local_rows(mesh, config.batch_size),
            )
        else:
            source = batches(start, sharding.local_rows(mesh, config.batch_size))
        examples = getattr(source, "num_examples", None)
        feed = Feed(source, sharding.batch_sharding(mesh), config.batch_size, config.data.prefetch)
        leave.callback(feed.close)
        total = configs.total_steps(config, examples)
        log.info(
            f"{total:,} steps of {config.batch_size} = {_epochs(total * config.batch_size, examples)}"
            + (f"; {start:,} are done" if start else "")
        )

        # The program, and the state to start from (see initial_state for the order).
        shapes = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in feed.peek().items()}
        program = Program(config, mesh, shapes, total, examples, objective)
        log.info(summary.parameter_table(program.like["params"], depth=2))
        state = initial_state(config, workdir, newest, program.new, program.like)
        if start >= total:
            log.info(f"nothing to do: '{workdir}' has come to step {start:,} of {total:,}")
            return state
        every = _intervals(config, total, examples)
        checkpoints = checkpoint.Checkpoints(workdir, keep=config.checkpoint.keep, keep_every=every["keep"])
        leave.callback(checkpoints.close)
        if jax.process_index() == 0:
            configs.save_config(config, workdir)
        began = time.perf_counter()
        train_step = program.compile()
        log.info(f"compiled in {time.perf_counter() - began:.1f} s, {program.flops / 1e9:,.1f} GFLOP a step")

        writers = Writers(workdir, start, config)
        leave.callback(writers.close)
        environment = summary.environment(mesh)
        peak, peak_source = flops.peak(device)
        environment |= dict(peak_flops_per_device=peak, peak_source=peak_source)
        log.info(
            f"peak {peak / 1e12:.2f} TFLOP/s a device ({peak_source})" if peak else f"no MFU: {peak_source}"
        )
        bad_files = BadFiles(workdir)
        meter = Meter(config.max_bad_steps)
        progress = Progress(start, total)
        leave.callback(progress.close)
        preemption = Preemption()
        leave.callback(preemption.close)

        began, waited = time.perf_counter() - writers.seconds_before, feed.waited
        for step in range(start + 1, total + 1):
            batch, ids = next(feed)
            state, metrics = train_step(state, batch)
            meter.add(step, ids, metrics)
            progress.step()
            last = preemption.reached(step) or step == total

            if last or step % every["log"] == 0:
                scalars = meter.scalars(feed.waited - waited)
                waited = feed.waited
                scalars["lr"] = float(program.schedule(step - 1))
                scalars["clips_per_s"] = config.batch_size / scalars["step_time"]
                if peak:
                    scalars["mfu"] = program.flops / scalars["step_time"] / (peak * mesh.devices.size)
                if (memory := summary.peak_memory()) is not None:
                    scalars["peak_memory_gib"] = memory
                writers.write_scalars(step, {"time": time.perf_counter() - began} | scalars)
                progress.report(step, scalars)
                bad_files.update(getattr(source, "bad_files", ()))
                checkpoints.check()

            if last or step % every["save"] == 0:
                checkpoints.save(step, state)

            if evaluator is not None and every["eval"] and (step % every["eval"] == 0 or step == total):
                found = evaluator(step, state.get("ema", state["params"]))
                writers.write_scalars(step, {"time": time.perf_counter() - began} | found)
                log.info(f"step {step:,}  " + "  ".join(f"{k} {v:.4f}" for k, v in found.items()))
                meter.restart_clock()

            if last:
                break

        checkpoints.wait()
        seconds = time.perf_counter() - began
        if jax.process_index() == 0:
            configs.write_json(workdir / "environment.json", environment | {"seconds": round(seconds, 1)})
        if step < total:
            log.info(
                f"{preemption.received}: saved step {step:,} of {total:,}; run the same command again to go on"
            )
        else:
            log.info(f"done: {total:,} steps in {clock(seconds)}, saved in '{workdir}'")
    return state


def _intervals(config: ConfigDict, total: int, examples: int | None) -> dict[str, int]:
    """Steps between log lines, checkpoints, checkpoints that stay and evaluations; 0 = never."""
    texts = dict(
        log=config.log_every,
        save=config.checkpoint.every,
        keep=config.checkpoint.keep_every,
        eval=config.eval.every,
    )
    units = dict(total_steps=total, batch_size=config.batch_size, examples=examples)
    steps = {name: max(1, configs.duration(t, **units)) if t else 0 for name, t in texts.items()}
    return steps | {"log": steps["log"] or total, "save": steps["save"] or total}


def _note_changes(changed: dict[str, tuple[Any, Any]]) -> None:
    """Say what differs from the config that the run was saved with; none of it makes another model."""
    for key, (was, now) in changed.items():
        log.info(f"note: config.{key} was {was!r} when the run was saved, is {now!r} from here on")


def _epochs(seen: int, examples: int | None) -> str:
    text = f"{seen:,} examples"
    return f"{text} = {seen / examples:,.1f} epochs of {examples:,}" if examples else text
