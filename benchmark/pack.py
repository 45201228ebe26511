"""What is worth keeping of a run, small enough to send: ``python -m benchmark.pack run=DIR out=DIR [limit_mb=16]``.

Writes OUT/<run>.tar.gz (configuration, metrics, pictures, evaluation, videos, the acting weights) and, beside it, the
pictures and eval.json as plain files. What does not fit is left out, the largest videos first, and named.
"""

from __future__ import annotations

import gzip
import io
import shutil
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from agent import checkpoint
from agent.checkpoint import CheckpointError
from demos import cli
from demos.errors import DemoError

USAGE = "python -m benchmark.pack run=DIR out=DIR [limit_mb=16]"
FIRST = (
    "config.yaml",
    "versions.json",
    "eval.json",
    "eval-chosen.json",
    "curves.png",
    "theorem2.png",
    "metrics.jsonl",
    "log.txt",
)
SHOWN = ("eval.json", "eval-chosen.json", "curves.png", "theorem2.png")
# Of the world model acting needs the encoder and the posterior, of states their normaliser; of the policy the actor.
EXACT = ("world.mean", "world.std", "world.low", "world.high")  # three digits of a height are none of a step
ACTING = ("world.encoder.", "world.rssm.", "world.project.", *EXACT, "policy.actor.")
IDLE = ("world.rssm.prior_",)


@dataclass(frozen=True)
class Options:
    """Arguments of the command."""

    run: Path
    out: Path
    limit_mb: float = 16.0


def acting_weights(modules: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors that a policy acts with, weights in bfloat16 (a quarter of base's size would not fit otherwise).

    Averaged weights ("slow.world...", "slow.actor...") take the place of the newest where a run has them.
    """
    found: dict[str, Tensor] = {}
    for name, module in modules.items():
        for key, value in module.items():
            path = f"{name}.{key}"
            if name == "slow":
                path = key if key.startswith("world.") else f"policy.{key}"
            if path.startswith(ACTING) and not path.startswith(IDLE) and (name == "slow" or path not in found):
                rounded = value.is_floating_point() and path not in EXACT
                found[path] = value.to(torch.bfloat16) if rounded else value
    return found


def pack(options: Options) -> None:
    """Write the archive and the plain files. Raises DemoError for a bad folder, CheckpointError, OSError."""
    run, out = options.run, options.out
    if not run.is_dir():
        raise DemoError(run, "run", "no such run folder")
    out.mkdir(parents=True, exist_ok=True)
    state = checkpoint.load(run / "checkpoint")
    if state is None:
        raise DemoError(run, "run", "holds no checkpoint")
    files: list[tuple[str, bytes]] = []
    for name in FIRST:
        if (run / name).is_file():
            content = (run / name).read_bytes()
            # Metrics grow without bound; the sizes below are compared with the limit as they are written.
            files += [(name + ".gz", gzip.compress(content))] if name == "metrics.jsonl" else [(name, content)]
    files.append(("policy.safetensors", save(acting_weights(state["modules"]))))
    if (run / "chosen").is_dir() and (chosen := checkpoint.load(run / "chosen")) is not None:
        files.append(("policy-chosen.safetensors", save(acting_weights(chosen["modules"]))))
    videos = sorted((run / "videos").glob("*.mp4")) or sorted((run / "videos").glob("*.gif"))
    newest = {path.name.rsplit("-", 1)[0] if path.stem[-1].isdigit() else path.name: path for path in videos}
    for path in sorted(newest.values(), key=lambda p: p.stat().st_size):
        files.append((f"videos/{path.name}", path.read_bytes()))
    # gzip adds a little to what is compressed already, and tar 1 KiB a file.
    room = options.limit_mb * 2**20 * 0.98 - 10_240
    archive = out / f"{run.resolve().name}.tar.gz"
    left_out = []
    with tarfile.open(archive, "w:gz") as tar:
        for name, content in files:
            room -= len(content) + 1024
            if room < 0:
                room += len(content) + 1024
                left_out.append(f"{name} ({len(content) / 2**20:.1f} MiB)")
                continue
            info = tarfile.TarInfo(f"{run.resolve().name}/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    for name in SHOWN:
        if (run / name).is_file():
            shutil.copy(run / name, out / name)
    print(f"{archive}: {archive.stat().st_size / 2**20:.1f} MiB, {len(files) - len(left_out)} files")
    if left_out:
        print(f"left out, because of limit_mb={options.limit_mb:g}: {', '.join(left_out)}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    try:
        return cli.run(pack, Options, argv, USAGE)
    except (CheckpointError, OSError) as error:
        print(f"benchmark.pack: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
