"""Train what a config describes.

python main.py --config configs/NAME.py[:arg] --workdir DIR [--config.a.b=value ...]
    trains; goes on where it stopped if DIR has a checkpoint
python main.py --config configs/NAME.py[:arg] --dry_run
    prints parameters, shardings, FLOPs and memory a device; trains nothing and needs no data
"""

import os
import sys

# Decoding processes import this file again and have no use for jax, so the rest is imported where it is needed.


def use_huge_pages() -> None:
    """Start this process anew, under the same number, with an allocator that asks Linux for huge pages.

    A step on a CPU allocates gigabytes; by the small pages of glibc's default that costs it a fifth to a third of its
    speed (docs/benchmarks.md). The C library reads the setting only when a process starts.
    """
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def define_flags() -> None:
    from absl import flags

    from vfm.train import cli

    cli.define_config()
    flags.DEFINE_string("workdir", None, "folder of the run: config, metrics, checkpoints")
    flags.DEFINE_bool("dry_run", False, "print parameters, shardings, FLOPs and memory a device, and leave")


def main() -> None:
    from vfm.errors import UserError
    from vfm.train import cli, dry_run, processes, progress, train, virtual_devices

    define_flags()
    flag = cli.parse(sys.argv, "a training run")
    if flag.config is None:
        raise UserError("--config is missing: give a config file, such as --config configs/quickstart.py")
    if flag.workdir is None and not flag.dry_run:
        raise UserError("--workdir is missing: give the folder that the run shall be kept in")
    if flag.workdir is not None:
        cli.check_folder(flag.workdir)
    if flag.dry_run:
        virtual_devices(flag.config)
    processes.initialize()
    progress.show_logs()
    if flag.dry_run:
        print(dry_run(flag.config))
        return
    from eval.in_training import evaluator

    train(flag.config, flag.workdir, evaluator=evaluator(flag.config))


if __name__ == "__main__":
    use_huge_pages()
    from vfm.train import cli

    cli.run(main)
