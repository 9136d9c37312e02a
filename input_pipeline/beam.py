"""The preparation of a set as an Apache Beam graph, for clusters.

    shard numbers -> spread over the workers -> each makes its shards -> one worker makes them a set

A worker makes a shard from beginning to end, so that no video travels between machines: each has to see the videos and
the folder under the same names. The files are those that `input_pipeline.prepare` writes. Workers read the plan from
the folder's `.plan.pickle`, because a graph must not hold the millions of names that a plan may have.
"""

import os
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path

from input_pipeline import prepare
from input_pipeline.atomic import appearing
from input_pipeline.plan import PackedVideos, Plan
from input_pipeline.workers import Workers
from vfm.errors import UserError

RUNNERS = {
    "direct": "DirectRunner",
    "flink": "FlinkRunner",
    "dataflow": "DataflowRunner",
    "spark": "SparkRunner",
    "portable": "PortableRunner",
    "prism": "PrismRunner",
}
_PLAN = ".plan.pickle"


def run_beam(plan: Plan, out: Path, runner: str, options: Sequence[str] = (), seconds: float = 0.0) -> bool:
    """Prepares a source in a folder with Apache Beam, or goes on; False = it was complete already.

    Args:
      plan: what.
      out: a folder that all workers see under this name.
      runner: a key of `RUNNERS`, or the name of a runner that Beam knows.
      options: of Beam's command line, such as `--parallelism=64`.
      seconds: that one video may take; 0 = any time.

    Raises:
      UserError: Beam is not installed, or the folder holds something else.
    """
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions, SetupOptions
    except ImportError as error:
        raise UserError(
            f"--runner {runner}: Apache Beam is not installed; it needs an environment of its own: pip install -c "
            f"constraints-beam.txt 'video-foundation[beam]' (see docs/data.md), or leave out --runner"
        ) from error
    out = Path(os.path.abspath(out))
    with prepare.alone(out):
        if not prepare.begin(plan, out):
            return False
        settings = PipelineOptions([f"--runner={RUNNERS.get(runner, runner)}", *options])
        settings.view_as(SetupOptions).save_main_session = False
        place = out / _PLAN
        with appearing(place) as partial:
            partial.write_bytes(pickle.dumps(plan))
        try:
            with beam.Pipeline(options=settings) as pipeline:
                numbers = pipeline | "shard numbers" >> beam.Create(prepare.unfinished(plan, out))
                made = (
                    numbers
                    | "spread over workers" >> beam.Reshuffle()
                    | "make shards" >> beam.FlatMap(make_one, os.fspath(out), seconds)
                )
                made | "count" >> beam.CombineGlobally(sum) | "make a set" >> beam.Map(finish, os.fspath(out))
        finally:
            place.unlink(missing_ok=True)
    return True


def make_one(shard: int, out: str, seconds: float) -> Iterator[int]:
    """Makes one shard; gives how many videos it holds."""
    plan = _plan(out)
    numbers = plan.members(shard)
    # A process of its own: a video that crashes its decoder must not take the worker with it.
    with Workers(PackedVideos(plan), 1, 2, limit=seconds, indices=numbers) as packed:
        prepare.make_shard(plan, Path(out), shard, packed)
    yield len(numbers)


def finish(count: int, out: str) -> int:
    """Makes the shards a set; gives how many videos were prepared in this run."""
    prepare.finish(_plan(out), Path(out))
    return count


def _plan(out: str) -> Plan:
    return pickle.loads((Path(out) / _PLAN).read_bytes())
