"""The fine-tune's own process: ``python -m services.trainer.child FOLDER``, alone or under torchrun.

It has the lowest priority and few threads, so that serving on the same machine does not notice it, and it ends when
the trainer that started it does: two processes never work in one folder.
"""

import os
import sys
import threading
from pathlib import Path

from services.trainer.settings import Settings
from shared import settings
from shared.logs import Log, set_up

_log = Log("ratchet.trainer.finetune")
_ORPHANED = 75


def run() -> None:
    """Do the job in the folder named on the command line, from wherever it stands."""
    chosen = settings.read(Settings)
    set_up(chosen.log_level)
    os.nice(19)
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = str(chosen.n_threads)
    threading.Thread(target=_end_with_the_trainer, name="watch-trainer", daemon=True).start()
    work(Path(sys.argv[1]), chosen)


def work(path: Path, chosen: Settings) -> None:
    """Do the job in a folder, in this process; see ``tuning.run``."""
    # Imported after the thread limits are set: the libraries read them once.
    from torch.utils.tensorboard import SummaryWriter

    from services.trainer import tuning
    from services.trainer.job import Folder
    from services.trainer.store import Store
    from shared.models import flops
    from shared.models.encoder import Encoder, choose_device, limit_threads
    from shared.models.finetune import Step
    from shared.models.ranks import Ranks

    limit_threads(chosen.n_threads)
    folder = Folder(path)
    job = folder.job()
    if job is None:
        raise SystemExit(f"there is no job in {path}")
    device = choose_device(chosen.device)
    ranks = Ranks.join(device=device)
    base = Encoder.load(job.base, device=device)
    curves = SummaryWriter(str(chosen.registry.artifacts_dir / job.loop / "tensorboard" / f"g{job.generation}")) \
        if ranks.rank == 0 else None

    peak = flops.peak(device)

    def on_step(step: Step) -> None:
        if curves is None:
            return
        curves.add_scalar("finetune/loss", step.loss, step.number)
        curves.add_scalar("finetune/learning_rate", step.learning_rate, step.number)
        curves.add_scalar("finetune/gradient_norm", step.gradient_norm, step.number)
        curves.add_scalar("finetune/tokens_per_s", step.n_tokens / step.seconds, step.number)
        if peak is not None:
            curves.add_scalar("finetune/mfu", step.flops / step.seconds / (peak * ranks.world), step.number)
        if step.number % 10 == 0:
            curves.flush()

    store = Store(chosen.postgres.url, job.loop, text_path=job.text_path)
    try:
        result = tuning.run(job, tuning.Tools(store, folder, base, ranks, on_step))
        if result is not None:
            _log.info("fine_tuned", loop=job.loop, generation=job.generation, n_tuned=result.n_tuned,
                      n_steps=result.n_steps, seconds=round(result.seconds, 1), device=device, ranks=ranks.world)
    finally:
        store.close()
        ranks.leave()
        if curves is not None:
            curves.close()


def _end_with_the_trainer() -> None:
    """Block until the trainer's end of the pipe closes, whatever ended it, then end this process at once."""
    # The bare descriptor: a thread inside sys.stdin's buffer at the interpreter's end is a fatal error.
    while os.read(0, 1):
        pass
    os._exit(_ORPHANED)


if __name__ == "__main__":
    run()
