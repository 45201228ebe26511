"""``python -m agent.label``: comparisons of segments, ``preferences=PATH`` of AIHF (algorithms 3.15).

    run=DIR | dataset=PATH out=PREFS.npz              by=oracle: synthetic labels, by the rewards that the source holds
    run=DIR | dataset=PATH out=PREFS.npz by=hand      PREFS.html, to be answered in a browser, and PREFS.pairs.npz
    answers=ANSWERS.json out=PREFS.npz                what the page gave; more answers are added to those already there

A run's segments come from its replay, or from ``episodes`` new ones that its policy plays. True rewards make synthetic
labels and go nowhere else: they are in none of the files. Segments that end by termination are left out.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agent.finished import command, open_env, open_run, refuse_recordings, restore
from agent.record import collected, played
from demos import dataset, label_page, preferences
from demos.errors import DemoError
from demos.preferences import Comparisons, Segment
from demos.redraw import redrawn
from envs.episode import Episode

USAGE = """python -m agent.label (run=DIR|dataset=PATH) out=PREFS.npz [by=oracle|hand] [length=50]
       [pairs=500, of pictures 200] [flips=0.1] [seed=0] [episodes=0] [limit=none] [obs=none] [size=128] [device=auto]
python -m agent.label answers=ANSWERS.json out=PREFS.npz"""
PAIRS = {"oracle": {"state": 500, "image": 200}, "hand": {"state": 100, "image": 100}}
LABEL_SEEDS = 15 << 27  # above those of training, evaluation, recording and deployment


@dataclass(frozen=True)
class Options:
    """Arguments of the command:

    out         PREFS.npz: the comparisons; with by=hand the page and what belongs to it are named alike
    run         a run whose segments are compared: of its replay, or of new episodes
    dataset     or recorded episodes
    answers     what the page gave: PREFS.npz is made of it, or gets more
    by          oracle: synthetic labels by the true rewards; hand: a page to be answered in a browser
    pairs       how many; none: 500, of pictures 200, by hand 100
    length      pairs of a segment
    flips       expected share of synthetic labels against the truth
    seed        of which segments are compared, of the labels, and of new episodes
    episodes    of a run: so many new ones instead of its replay
    limit       episodes of the data set, at most
    obs         state or pixels, of a data set with both; none: state
    size        of the pictures by hand, where they are drawn
    device      auto, cpu, cuda, cuda:N
    """

    out: Path
    run: Path | None = None
    dataset: Path | None = None
    answers: Path | None = None
    by: str = "oracle"
    pairs: int | None = None
    length: int = 50
    flips: float = 0.1
    seed: int = 0
    episodes: int = 0
    limit: int | None = None
    obs: str | None = None
    size: int = 128
    device: str = "auto"


def main(argv: Sequence[str] | None = None) -> int:
    """Make comparisons. Returns the exit code: 0 done, 1 a problem that is told in one line, 130 interrupted."""
    return command("agent.label", USAGE, label, Options, argv)


def label(options: Options) -> Path:
    """What the top of this module says; the file that is to be used next.

    Raises:
        ConfigError, CheckpointError: arguments that do not go together, no run, no checkpoint. EnvError: the task
            cannot run here. DemoError: of the source, of the answers; a file that would be lost.
    """
    from agent.build import ConfigError

    sources = {name: getattr(options, name) for name in ("run", "dataset", "answers")}
    given = [name for name, value in sources.items() if value is not None]
    if len(given) != 1:
        raise ConfigError(f"one of {', '.join(f'{name}=...' for name in sources)} is needed, there are {len(given)}")
    if options.by not in PAIRS:
        raise ConfigError(f"by={options.by}: expected one of {', '.join(PAIRS)}")
    if not 0 <= options.flips < 0.5:
        raise ConfigError(f"flips={options.flips}: expected at least 0 and less than 0.5")
    if options.obs not in (None, "state", "pixels") or (options.obs and not options.dataset):
        raise ConfigError(f"obs={options.obs}: expected state or pixels, of a data set; a run has its own")
    if options.episodes < 0 or (options.episodes and not options.run):
        raise ConfigError(f"episodes={options.episodes}: a number of new episodes of a run's policy")
    if options.out.suffix != preferences.SUFFIX:
        raise ConfigError(f"out={options.out}: the name must end in {preferences.SUFFIX}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    if options.answers is not None:
        return _answered(options, options.answers)
    path, key, episodes, source = _episodes(options)
    pairs = options.pairs if options.pairs is not None else PAIRS[options.by][key]
    rng = np.random.default_rng(options.seed)
    chosen, told = preferences.draw(path, episodes, pairs=pairs, length=options.length, rng=rng)
    print(told)
    waiting = preferences.cut(episodes, chosen, options.length, key, {"source": source, "seed": options.seed})
    if options.by == "hand":
        return _page(options, path, waiting, episodes, chosen)
    _keep_answers(options.out, None)
    totals = preferences.returns(episodes, chosen, options.length)
    labels, told = synthetic(totals, options.flips, rng, path)
    found = waiting.labelled(dict(enumerate(labels)), labels=f"oracle, {options.flips:g} expected flips")
    preferences.save(options.out, found)
    print(f"{told}\n{options.out}: {len(found)} comparisons")
    return options.out


# ---- where segments come from ----
def _episodes(options: Options) -> tuple[Path, str, list[Episode], str]:
    """The source's path, the kind of observations, its episodes and its name."""
    if options.dataset is not None:
        path, told = options.dataset, options.by == "oracle"
        key = {"state": "state", "pixels": "image"}[options.obs] if options.obs else _kind(path)
        # by hand whatever can be shown is wanted; an oracle opens no videos beside the states that it compares
        keys = (key,) if told else None
        episodes = dataset.load(path, limit=options.limit, obs_keys=keys, rewards=told)
        if key not in episodes[0].obs:
            raise DemoError(path, key, f"no such observation; the episodes have {', '.join(sorted(episodes[0].obs))}")
        return path, key, episodes, f"data set {path.name}"
    assert options.run is not None
    config, state = open_run(options.run)
    key, name = config["obs"]["key"], options.run.resolve().name
    if options.episodes:
        return options.run, key, _played(options, config, state), f"policy of run {name} at step {state['step']}"
    return options.run, key, _replayed(options, config, state), f"replay of run {name}"


def _kind(path: Path) -> str:
    """state, or image where the data set has no states."""
    try:
        dataset.load(path, limit=1, obs_keys=("state",))
    except DemoError:
        return "image"
    return "state"


def _played(options: Options, config: dict[str, Any], state: dict[str, Any]) -> list[Episode]:
    """New episodes of a run's policy, sampled, with simulator states and true rewards."""
    import torch

    from agent.build import pick_device
    from agent.collect import one_thread

    assert options.run is not None
    refuse_recordings(config)
    episodes: list[Episode] = []
    env = open_env(config)
    agent = restore(options.run, config, state, env, pick_device(options.device))
    torch.manual_seed(options.seed)
    for number in range(options.episodes):
        with one_thread():
            episodes.append(played(agent, env, config["obs"]["key"], LABEL_SEEDS + options.seed + number, mode=False))
        print(f"episode {number + 1}/{options.episodes}: {episodes[-1].steps} steps", file=sys.stderr)
    env.close()
    return episodes


def _replayed(options: Options, config: dict[str, Any], state: dict[str, Any]) -> list[Episode]:
    """What a run has collected, as far as its replay holds it; with true rewards if it keeps them."""
    from agent.build import ConfigError

    assert options.run is not None
    if options.by == "oracle" and not state["replay"]["layout"].get("truth", False):
        raise ConfigError(
            f"{options.run}: its replay holds no true rewards, which synthetic labels need: episodes=N plays new ones, "
            "dataset=PATH takes recorded ones"
        )
    if options.by == "hand" and config["obs"]["name"] != "pixels":
        raise ConfigError(
            f"{options.run}: its replay holds states that cannot be drawn: episodes=N plays new ones, which can"
        )
    return list(collected(options.run, config, state))


# ---- synthetic labels ----
def synthetic(
    totals: np.ndarray, flips: float, rng: np.random.Generator, path: str | Path = "pairs"
) -> tuple[np.ndarray, str]:
    """Labels (n,) from true returns (n, 2) of segments: the second is preferred with probability
    sigmoid((R_1 - R_0) / T), and T such that ``flips`` of the labels are expected to contradict the returns.

    Equal returns, which nothing can contradict, get either label. Also a line that tells what came out.

    Raises:
        DemoError: no returns differ, or they are not finite.
    """
    gap = totals[:, 1] - totals[:, 0]
    differs = gap != 0
    if not np.isfinite(gap).all() or not differs.any():
        reason = "all segments have equal returns" if np.isfinite(gap).all() else "NaN or infinity"
        raise DemoError(path, "reward", f"{reason}: nothing to prefer")
    temperature = lab_temperature(np.abs(gap[differs]), flips)
    found = (rng.random(len(gap)) < _sigmoid(gap, temperature)).astype(np.float32)
    wrong = (found > 0.5) != (gap > 0)
    ties = f", {int((~differs).sum())} of equal returns" if not differs.all() else ""
    return found, f"T = {temperature:.4g}: {wrong[differs].mean():.1%} flips, {flips:.1%} expected{ties}"


def lab_temperature(gap: np.ndarray, flips: float) -> float:
    """T with mean sigmoid(-gap / T) = flips, for gaps (n,) > 0, by bisection; 0 for no flips."""
    if flips == 0:
        return 0.0
    low, high = -50.0, 50.0  # log2(T / mean gap); the mean rises from 0 to 1/2
    for _ in range(60):
        middle = (low + high) / 2
        less = _sigmoid(-gap, gap.mean() * 2**middle).mean() < flips
        low, high = (middle, high) if less else (low, middle)
    return float(gap.mean() * 2 ** ((low + high) / 2))


def _sigmoid(gap: np.ndarray, temperature: float) -> np.ndarray:
    """1 / (1 + exp(-gap / T)); for T = 0 its limit."""
    if temperature == 0:
        return (np.sign(gap) + 1) / 2
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-gap / temperature))


# ---- labels by hand ----
def _page(
    options: Options,
    path: Path,
    waiting: Comparisons,
    episodes: Sequence[Episode],
    chosen: Sequence[tuple[Segment, Segment]],
) -> Path:
    """Write the page and the pairs that it is about."""
    pairs, html = options.out.with_suffix(".pairs.npz"), options.out.with_suffix(".html")
    if pairs.exists() and preferences.load(pairs, labelled=False).checksum() != waiting.checksum():
        raise DemoError(pairs, "file", "holds other pairs, answers to which would be lost: name another file with out=")
    clips = _clips(path, episodes, chosen, options)
    content = label_page.page(waiting.checksum(), waiting.meta["task"], options.length, clips)
    preferences.save(pairs, waiting)
    dataset.write_atomic(html, content)
    print(f"{html}: open it in a browser; then python -m agent.label answers=FILE out={options.out}")
    return html


def _clips(
    path: Path, episodes: Sequence[Episode], chosen: Sequence[tuple[Segment, Segment]], options: Options
) -> Iterator[np.ndarray]:
    """Pictures (2, f, h, w, 3) of both segments of each pair: recorded ones, else drawn from what the rows tell."""
    shown = label_page.shown(options.length)
    rows = [(i, s + shown) for pair in chosen for i, s in pair]
    if all("image" in e.obs for e in episodes):
        for k in range(0, len(rows), 2):
            yield np.stack([episodes[i].obs["image"][at] for i, at in rows[k : k + 2]])
        return
    first = episodes[0]
    states = None
    if all(e.sim_state is not None for e in episodes):
        states = np.concatenate([e.sim_state[at] for i, at in rows if (e := episodes[i]).sim_state is not None])
    obs = {key: np.concatenate([episodes[i].obs[key][at] for i, at in rows]) for key in first.obs}
    images = redrawn(path, dataclasses.replace(first, obs=obs, sim_state=states), options.size).obs["image"]
    yield from images.reshape(len(chosen), 2, len(shown), *images.shape[1:])


def _answered(options: Options, answers: Path) -> Path:
    """The answers of the page, and those that are there already, as comparisons."""
    waiting = preferences.load(options.out.with_suffix(".pairs.npz"), labelled=False)
    identity = waiting.checksum()
    found = label_page.read_answers(answers, identity, waiting.number.tolist())
    before = _keep_answers(options.out, identity)
    if not (merged := before | found):
        raise DemoError(answers, "answers", "none of the pairs has one yet")
    preferences.save(options.out, waiting.labelled(merged, labels="hand", pairs=identity))
    print(f"{options.out}: {len(merged)} comparisons of {len(waiting)} pairs, {len(merged) - len(before)} of them new")
    return options.out


def _keep_answers(out: Path, identity: str | None) -> dict[int, float]:
    """The answers by hand in ``out``, which are about the pairs ``identity`` (None: synthetic ones, made anew). Raises
    DemoError where others would be lost.
    """
    if not out.exists():
        return {}
    there = preferences.load(out)
    if there.meta.get("pairs") != identity:
        raise DemoError(out, "file", "holds labels of other pairs, or of another kind: name another file with out=")
    return {} if identity is None else dict(zip(there.number.tolist(), there.label.tolist(), strict=True))


if __name__ == "__main__":
    sys.exit(main())
