"""`janus demo`: the whole pipeline in minutes, on text that janus makes itself."""

from janus_cli.commands import options


def demo(
    changes: options.Set = None,
    seed: options.Seed = None,
    threads: options.Threads = None,
    force: options.Force = False,
) -> None:
    """Each input has several right outputs, and training shows one of them at a time: this is hard for a
    non-autoregressive model. All three have the same size, data and number of updates, and one thread each unless
    --threads gives more. After a stop, the same command continues. The runs stay under runs/demo-ar, runs/demo-cmlm and
    runs/demo-janus for `janus decode` and `janus score`.

    Examples:
      janus demo
      janus demo --set training.updates=1000 --force
      janus decode --run runs/demo-janus --mode nar --iters 4 --trace
    """
    from janus_cli import recipe_load

    recipe_load.load("demo", changes)  # before torch is imported
    from janus_cli.device import interruptible
    from janus_cli.lab.demo import run_demo
    from janus_cli.lab.processes import continues

    with interruptible(continues(force=force)):
        run_demo(changes=changes or (), seed=seed, threads=threads, force=force)
