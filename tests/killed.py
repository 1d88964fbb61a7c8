"""A training in a process of its own that kills itself some time after its first step: for `test_train_motion`.

python -m tests.killed vae|decoder FOLDER SECONDS; 0 seconds let it live.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import torch

from compress.training.loop import Progress, train
from tests.test_train_motion import TASKS, config


def main(kind: str, out: Path, seconds: float, steps: int = 600) -> None:
    torch.set_num_threads(1)
    began: list[float] = []

    def observe(progress: Progress) -> None:
        if not began and seconds:
            threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()
        began.append(time.monotonic())

    trained = train(TASKS[kind](), config(out, steps=steps, checkpoint_minutes=1e-3), observe)
    torch.save(trained.weights.state_dict(), out / "final.pt")
    took = time.monotonic() - began[0] if began else 0.0  # none: it was killed behind its last step
    (out / "seconds").write_text(str(took))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]))
