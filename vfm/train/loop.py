"""Training, from a config to the last checkpoint. It reads from top to bottom."""

import contextlib
import logging
import operator
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

import input_pipeline
from vfm.train import checkpoint, sharding, summary, teachers, tokenizer
from vfm.train import config as configs
from vfm.train.feed import Feed
from vfm.train.initial import check_runs, initial_state
from vfm.train.meter import Meter
from vfm.train.processes import Preemption, alone_in
from vfm.train.program import Program
from vfm.train.progress import Progress, clock
from vfm.train.shown import Plan, Shown
from vfm.train.speed import Speed
from vfm.train.step import State
from vfm.train.writers import BadFiles, Writers

log = logging.getLogger(__name__)
Batches = Callable[[int, slice], Iterator[dict[str, Any]]]


@dataclass(frozen=True)
class Run:
    """What a run consists of once its folder and its data are open."""

    config: ConfigDict
    workdir: Path
    mesh: jax.sharding.Mesh
    source: Any  # of batches on the host
    feed: Feed  # of batches on the devices
    newest: int | None  # step of the newest checkpoint in the folder
    start: int  # steps that are done
    total: int
    examples: int | None  # of an epoch
    every: dict[str, int]  # steps between log, save, keep, eval; 0 = never


def train(
    config: ConfigDict,
    workdir: str | Path,
    *,
    objective: Any = None,
    batches: Batches | None = None,
    evaluator: Callable[[int, Any], dict[str, float]] | None = None,
) -> State:
    """Train until the last step, or until the machine is taken away; a later call goes on from there.

    Args:
      config: a whole run's config, as configs/common.py describes it.
      workdir: folder of config.json, metrics.jsonl, checkpoints/ and so on; made if it is not there.
      objective: what is learned; None = what `config.objective` names.
      batches: (first step, rows of the global batch) -> endless iterator of dicts of numpy arrays with those rows,
        the same for the same step; may have what `input_pipeline.TrainBatches` has beside that. None = `config.data`.
      evaluator: (step, parameters) -> numbers to log, called every `config.eval.every`; it gets the average of the
        parameters where one is kept.

    Returns:
      The last state.

    Raises:
      UserError: a mistake in config, data or checkpoints.
    """
    configs.check(config, need_data=batches is None)
    teachers.check(config)
    check_runs(config, workdir)
    config = tokenizer.recorded(config)
    mesh = sharding.make_mesh(config.mesh)
    sharding.check_batch(config.batch_size, config.accumulate, mesh)
    if images := config.data.get("image_batch", 0):
        sharding.check_batch(images, config.accumulate, mesh, "config.data.image_batch")
    log.info(
        f"{mesh.devices.size} x {mesh.devices.flat[0].device_kind}, {jax.process_count()} process(es), "
        f"mesh {', '.join(f'{axis} {size}' for axis, size in mesh.shape.items())}"
    )
    with contextlib.ExitStack() as leave, alone_in(workdir), jax.set_mesh(mesh):
        preemption = Preemption()  # from here on, as opening the data and compiling can take minutes
        leave.callback(preemption.close)
        run = _open(config, Path(workdir), mesh, batches)
        leave.callback(run.feed.close)
        shapes = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in run.feed.peek().items()}
        program = Program(config, mesh, shapes, run.total, run.examples, objective)
        log.info(summary.parameter_table(program.like["params"], depth=2))
        state = initial_state(config, workdir, run.newest, program.new, program.like)
        if run.start >= run.total:
            log.info(f"nothing to do: '{workdir}' has come to step {run.start:,} of {run.total:,}")
            return state
        frozen = teachers.load(config, workdir, shapes, program.teachers)
        return _fit(run, program, state, frozen, evaluator, preemption)


def _open(config: ConfigDict, workdir: Path, mesh: jax.sharding.Mesh, batches: Batches | None) -> Run:
    """Find out how far the run in `workdir` came, and start reading the data from there."""
    done = checkpoint.steps(workdir)
    newest = done[-1] if done else None
    start = newest or 0
    if newest is not None:
        tokenizer.check_same(config, workdir, "--workdir")
        changed = configs.check_same_model(configs.load_config(workdir), config, workdir)
        for key, (was, now) in changed.items():
            log.info(f"note: config.{key} was {was!r} when the run was saved, is {now!r} from here on")
    # A batch is a function of the step, so this is all there is to resuming the data.
    rows = sharding.local_rows(mesh, config.batch_size)
    if batches is None:
        source = input_pipeline.train_batches(
            config.data,
            batch_size=config.batch_size,
            seed=config.seed,
            start_step=start,
            rows=rows,
            share=Plan(workdir, newest is not None),
        )
    else:
        source = batches(start, rows)
    feed = Feed(source, sharding.batch_sharding(mesh), config.batch_size, config.data.prefetch)
    try:
        examples = getattr(source, "num_examples", None)
        total = configs.total_steps(config, examples)
        seen, of = total * config.batch_size, f" of {examples:,}" if examples else ""
        epochs = f" = {seen / examples:,.1f} epochs{of}" if examples else ""
        log.info(f"{total:,} steps of {config.batch_size} = {seen:,} examples{epochs}, {start:,} steps done")
        every = _intervals(config, total, examples)
    except BaseException:
        feed.close()
        raise
    return Run(config, workdir, mesh, source, feed, newest, start, total, examples, every)


def _fit(
    run: Run, program: Program, state: State, frozen: State, evaluator: Any, preemption: Preemption
) -> State:
    """The loop itself: step, log, save, evaluate, from `run.start` to the end or to a SIGTERM."""
    config, workdir, feed, every, total = run.config, run.workdir, run.feed, run.every, run.total
    with contextlib.ExitStack() as leave:

        def opened(thing):
            leave.callback(thing.close)
            return thing

        keep = dict(keep=config.checkpoint.keep, keep_every=every["keep"])
        checkpoints = opened(checkpoint.Checkpoints(workdir, **keep))
        speed = Speed(program.flops, config.batch_size, run.mesh)
        environment = (
            summary.environment(run.mesh) | speed.known() | {"step": run.start, "total_steps": total}
        )
        if jax.process_index() == 0:
            configs.save_config(config, workdir)
            configs.write_json(workdir / "environment.json", environment)
        began = time.perf_counter()
        train_step = program.compile()
        log.info(f"compiled in {time.perf_counter() - began:.1f} s")
        log.info(str(speed))
        writers = opened(Writers(workdir, run.start, config))
        bad_files, meter = BadFiles(workdir), Meter(config.max_bad_steps)
        shown = Shown(workdir, run.source, run.start)
        progress = opened(Progress(run.start, total))

        began, waited = time.perf_counter() - writers.seconds_before, feed.waited
        for step in range(run.start + 1, total + 1):
            batch, ids = next(feed)
            state, metrics = train_step(state, batch, frozen)
            meter.add(step, ids, metrics)
            progress.step()
            last = preemption.reached(step) or step == total

            if last or step % every["log"] == 0:
                scalars = meter.scalars(feed.waited - waited)
                waited = feed.waited
                scalars |= {f"input/{name}": value for name, value in _telemetry(run.source).items()}
                scalars |= {"lr": float(program.schedule(step - 1))} | speed.of(scalars["step_time"])
                writers.write_scalars(step, {"time": time.perf_counter() - began} | scalars)
                progress.report(step, scalars)
                bad_files.update(getattr(run.source, "bad_files", ()))
                checkpoints.check()

            if last or step % every["save"] == 0:
                checkpoints.save(step, state)
                shown.save(step)

            if evaluator is not None and every["eval"] and (step % every["eval"] == 0 or step == total):
                found = evaluator(step, state.get("ema", state["params"]))
                writers.write_scalars(step, {"time": time.perf_counter() - began} | found)
                log.info(f"step {step:,}  " + "  ".join(f"{k} {v:.4f}" for k, v in found.items()))
                meter.restart_clock()

            if last:
                break

        checkpoints.wait()
        shown.report(step)
        seconds = time.perf_counter() - began
        if jax.process_index() == 0:
            ended = {"step": step, "seconds": round(seconds, 1)}
            configs.write_json(workdir / "environment.json", environment | ended)
    if step < total:
        log.info(
            f"{preemption.received}: saved step {step:,} of {total:,}; the same command goes on from there"
        )
    else:
        log.info(f"done: {total:,} steps in {clock(seconds)}, kept in '{workdir}'")
    return state


def _telemetry(source: Any) -> dict[str, float]:
    """What a source of batches tells about reading since it was last asked; nothing where it tells nothing."""
    return source.telemetry() if hasattr(source, "telemetry") else {}


def _intervals(config: ConfigDict, total: int, examples: int | None) -> dict[str, int]:
    """Steps between log lines, checkpoints, checkpoints that stay and evaluations; 0 = never."""
    keys = dict(log="log_every", save="checkpoint.every", keep="checkpoint.keep_every", eval="eval.every")
    units = dict(total_steps=total, batch_size=config.batch_size, examples=examples)
    steps = {}
    for name, key in keys.items():
        text = operator.attrgetter(key)(config)
        steps[name] = max(1, configs.duration(text, key=f"config.{key}", **units)) if text else 0
    return steps | {"log": steps["log"] or total, "save": steps["save"] or total}
