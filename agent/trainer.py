"""The loop: collect, fit, imagine, update, evaluate, save (algorithms 4.1). It knows no algorithm."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agent import checkpoint, given, holdout, monitor
from agent.agent import Agent
from agent.build import ConfigError
from agent.chunks import RowPairs, pairs_of
from agent.collect import Interrupted, Reset, Trace, env_start, run_episodes
from agent.config import fingerprint
from agent.data import Replay
from agent.ending import Rows, ended
from agent.graph import GraphedUpdate
from agent.kept import Chosen, keep_best
from agent.logger import Logger
from agent.nearness import Imitated, Nearness
from agent.parallel import Team
from agent.sampler import Sampler
from agent.upkeep import Upkeep
from envs.episode import Episode
from envs.vector import VectorEnv
from models.mlp_ensemble import FitProgress, FitStopped

ACT = {"sampled": False, "mode": True}  # how training episodes are acted


class Trainer:
    """Owns the counters, the random streams and the cadences; all that ``save`` writes, ``resume`` restores. What
    the next line of metrics.jsonl will average is not of it: after a resume the first line is of fewer updates.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        run: Path,
        agent: Agent,
        envs: VectorEnv,
        replay: Replay,
        demos: Sequence[Episode],
        logger: Logger,
        state: Mapping[str, Any] | None,
        dataset: Sequence[Episode] = (),
        team: Team | None = None,
    ) -> None:
        """demos: demonstrations. dataset: recorded transitions, where the run is given some. state: a checkpoint's.
        team: the processes that share the updates, of which this is the first.
        """
        self.config, self.run_dir, self.agent, self.envs = config, run, agent, envs
        self.replay, self.demos, self.logger = replay, demos, logger
        self.data = config["data"]
        if self.data["act"] not in ACT:
            raise ConfigError(f"data.act: {self.data['act']!r} is none of {', '.join(ACT)}")
        self.parts = frozenset(self.data["parts"])
        self.dataset, aside = holdout.split(dataset, self.data["holdout"], np.random.default_rng([config["seed"], 3]))
        alone = not self.online and not dataset  # with demonstrations, which nothing but cloning learns from
        nearness = Nearness(agent, replay, config["choose_by"])
        self.chosen = Chosen(run, nearness, config["choose"], fingerprint(config))
        self.imitated = Imitated(nearness, self.data["clone_own"], self.data["near_enough"])
        self.sampler = Sampler(replay, self.data, agent.device, online=self.online, imitated=self.imitated)
        self.upkeep = None if alone else Upkeep(agent, replay, self.data, config["steps"], self._pause)
        self.recent: list[int] = []  # replay identities of the newest episodes that began at the task's own start
        self.rng = np.random.default_rng([config["seed"], 1])  # chunks
        self.seeds = np.random.default_rng([config["seed"], 2])  # training environments
        self.counters: dict[str, float] = defaultdict(float)
        self.early_stop = holdout.EarlyStop(agent, aside, config["obs"]["key"], self.counters)
        self.scores: dict[str, float] = {}
        self.stop = False
        # an off-policy learner's updates are not all alike (delays, a memory that fills): nothing to capture once
        self._graphed = config["graph"] and agent.device.type == "cuda"
        self._graphed &= agent.policy.wants not in ("transitions", "both") and team is None
        self.team = team
        self._step = GraphedUpdate(agent) if self._graphed else (team or agent).update
        self._metrics: dict[str, list[Tensor]] = defaultdict(list)
        self._started = self._saved = time.monotonic()
        if state is None:
            given.fill(replay, agent, demos, self.dataset, config["obs"]["key"], envs.horizon)
            staged = self.online or (self.upkeep is not None and self.data["stages"])
            self.counters["evaluated"] = -1
            self.counters["next_eval"] = 0 if config["eval"]["at_start"] and staged else config["eval"]["every"]
        else:
            self._resume(state)
        self._base_seconds, self._base_cpu = self.counters["seconds"], self.counters["cpu_seconds"]
        self._started_cpu = time.process_time()
        if agent.starts.env_reset > 0 and not any(d.sim_state is not None for d in demos):
            raise ConfigError("starts.env_reset: these demonstrations hold no simulator states to begin at")
        if team is not None:
            team.sync()

    # ---- state ----
    def _resume(self, state: Mapping[str, Any]) -> None:
        for name, module in state["modules"].items():
            getattr(self.agent, name).load_state_dict(module)
        self.agent.load_learner_state(state["optimisers"])
        self.replay.load_state_dict(state["replay"])
        self.counters.update(state["counters"])
        self.scores.update(state["scores"])
        self.recent = [int(i) for i in state["recent"]]
        self.chosen.load_state_dict(state.get("chosen", []))
        self.imitated.load_state_dict(state.get("imitated", []))
        self.early_stop.weights = state["held_out"]
        self._set_random_state(state["rng"])

    def save(self) -> None:
        """Write a checkpoint. Raises CheckpointError (the previous one is intact then)."""
        if self.team is not None:
            self.team.agree()
        self.counters["seconds"], self.counters["cpu_seconds"] = self.seconds, self.cpu_seconds
        self.replay.flush()
        modules = {n: m.state_dict() for n in checkpoint.MODULES if (m := getattr(self.agent, n)) is not None}
        state = {
            "step": self.step,
            "modules": modules,
            "optimisers": self.agent.learner_state(),
            "replay": self.replay.state_dict(),
            "counters": dict(self.counters),
            "scores": dict(self.scores),
            "recent": list(self.recent),
            "chosen": self.chosen.state_dict(),
            "imitated": self.imitated.state_dict(),
            "held_out": self.early_stop.weights,
            "logger_lines": self.logger.lines,
            "rng": self._random_state(),
        }
        checkpoint.save(self.run_dir / "checkpoint", state, fingerprint=fingerprint(self.config))
        self.replay.commit()
        self.chosen.tidy()
        self._saved = time.monotonic()

    # ---- counters ----
    @property
    def online(self) -> bool:
        """Whether this data regime steps environments."""
        return self.data["episodes_per_cycle"] > 0

    @property
    def step(self) -> int:
        """Environment steps of every kind (algorithms 1.3); where none is stepped, updates after the stages."""
        if self.online:
            return int(self.counters["env_steps"])
        return int(self.counters["updates" if self.upkeep is None else "paid"])

    @property
    def seconds(self) -> float:
        """Training time, all resumes together."""
        return self._base_seconds + time.monotonic() - self._started

    @property
    def cpu_seconds(self) -> float:
        """Processor time of the learner (all threads, without environment processes): comparable on a busy machine."""
        return self._base_cpu + time.process_time() - self._started_cpu

    def _out_of_time(self) -> bool:
        minutes = self.config["minutes"]
        return minutes is not None and self.seconds >= 60 * minutes

    @property
    def finished(self) -> bool:
        """Whether steps, minutes or the score wanted are reached."""
        return self.step >= self.config["steps"] or self._out_of_time() or self._good_enough()

    def _good_enough(self) -> bool:
        """Whether the last evaluation reached ``eval.stop_at``; a resumed run may aim higher."""
        target = self.config["eval"].get("stop_at")
        return target is not None and self.scores.get("mode", -math.inf) >= target

    # ---- the loop ----
    def train(self) -> None:
        """Run to the end, or until ``stop`` is set; saves at the end in both cases."""
        while True:
            try:
                self._loop()
                break
            except FitStopped:  # which goes on from there, here or in a resumed run
                if self.stop:
                    break
                self.save()
        staging = self.step == 0 and self._out_of_time()  # the stages are not done
        if not self.stop and not staging and self.counters["evaluated"] < self.step:
            self._evaluate()
        self.save()

    def _loop(self) -> None:
        if self.upkeep is not None:
            for number, stage in enumerate(self.data["stages"]):
                self._stage(number, stage)
        # updates that collected steps have paid for come first, also when a resume finds them half done
        while not self.stop and (self.counters["pending"] >= 1 or not self.finished):
            if self.counters["pending"] < 1:
                if self.counters["next_eval"] <= self.step:
                    self._evaluate()
                    continue
                self._gather()
            self._learn()

    def _stage(self, number: int, stage: Mapping[str, Any]) -> None:
        rates = stage.get("lr") or {}
        self._rates(rates)
        self._run_stage(number, stage)
        self._rates(dict.fromkeys(rates))

    def _rates(self, rates: Mapping[str, float | None]) -> None:
        """Learning rates of a stage, or (None) the optimisers' own again."""
        for name, lr in rates.items():
            if name in self.agent.optimisers:  # another algorithm's preset may share the stages
                self.agent.optimisers[name].rate(lr)
        if rates and self.team is not None:
            self.team.rates(rates)
        if rates and self._graphed:
            self._step = GraphedUpdate(self.agent)  # what was captured holds the rates before

    def _run_stage(self, number: int, stage: Mapping[str, Any]) -> None:
        key = f"stage{number}"
        assert self.upkeep is not None
        # a model that is fitted now and then waits for environment steps otherwise
        fits = stage.get("fits", 0) if self.upkeep.fits else 0
        while not self.stop and not self._out_of_time() and self.counters[f"{key}_fits"] < fits:
            self._keep_metrics(self.upkeep.fit())
            self.counters[f"{key}_fits"] += 1
            self._save_if_due()
        while not self.stop and not self._out_of_time() and not self.early_stop.over(key, stage):
            self._update(frozenset(stage["parts"]), f"{stage['name']} {int(self.counters[key])}/{stage['updates']}")
            self.counters[key] += 1
            self._keep_metrics(self.early_stop.look(key, stage))
            self._save_if_due()
        if told := self.early_stop.settle(key, stage):
            self.logger.note(told)
            if self.team is not None:
                self.team.sync()

    def _gather(self) -> None:
        """What the next updates are made for: environment steps, or one update where no environment is stepped."""
        if self.online:
            self._collect()
            self._save_if_due()
        else:
            self.counters["pending"] = 1

    def _learn(self) -> None:
        """The updates that are pending."""
        while not self.stop and self.counters["pending"] >= 1:
            if self.upkeep is not None and not self._upkeep(self.upkeep):
                return
            self._update(self.parts, "training")
            self.counters["pending"] -= 1
            self._save_if_due()

    def _upkeep(self, upkeep: Upkeep) -> bool:
        """Fits and rounds that are due before the next update; False when the user interrupts. A round looks at the
        newest episodes, or at ``reward_fresh`` new ones, which count as environment steps but go nowhere else; a fit
        comes before them, so that they need not be played again when it is left for a while. Raises FitStopped.
        """
        seen: Sequence[int] | RowPairs = self.recent
        if self.data["reward_fresh"] > 0 and upkeep.round_due(self.counters):
            self._keep_metrics(upkeep.fit_if_due(self.counters))
            if (fresh := self._fresh()) is None:
                return False
            seen = fresh
        self._keep_metrics(upkeep.before(self.counters, self.rng, seen))
        return True

    def _random_state(self) -> Any:
        return checkpoint.rng_state({"chunks": self.rng, "seeds": self.seeds})

    def _set_random_state(self, state: Any) -> None:
        checkpoint.set_rng_state(state, {"chunks": self.rng, "seeds": self.seeds})

    def _collect(self) -> None:
        """Whole episodes with the acting policy; steps below ``seed_steps`` are not followed by updates."""
        played = self._play(self.data["episodes_per_cycle"], resets=True)
        if not played:
            return
        fresh = []  # identities of those that began at the task's own start
        for trace, start in played:
            horizon = trace.limit or self.envs.horizon
            identity = self.replay.add_episode(**trace.arrays(), expert=False, horizon=horizon)
            if start is None:
                fresh.append(identity)
            seeding = self.counters["env_steps"] < self.data["seed_steps"]
            self.counters["env_steps"] += trace.steps
            self.counters["env_steps/seed" if seeding else "env_steps/policy"] += trace.steps
            self.counters["pending"] += 0 if seeding else self.data["updates_per_step"] * trace.steps
            self.counters["episodes"] += 1
        self.recent = [*self.recent, *fresh][-self.data["reward_episodes"] :]
        self.chosen.add(self.step, int(self.counters["updates"]), fresh)
        seen = self.imitated.add(fresh)
        if self.data["rest_all"]:  # near enough: nothing is learned, and nothing drifts
            self.counters["pending"] *= seen.get("train/practice", 1.0)
        if own := [trace.score for trace, start in played if start is None]:  # the others' holds a demonstration's
            seen["train/score"] = float(np.mean(own))
        if self.counters["episodes"] % 2 == 0:
            seen |= monitor.diagnose(self)
        self.logger.scalars(self.step, seen | self._costs() | self._counts())

    def _play(self, number: int, *, resets: bool) -> list[tuple[Trace, Reset | None]]:
        """Episodes with the acting policy and where they began; none when the user interrupts."""
        before = self._random_state()
        seeds = self.seeds.integers(monitor.EVAL_SEEDS, size=number).tolist()
        # where a reward looks at the newest episodes from the task's own start, one of those comes first
        resets &= bool(self.recent) or self.data["reward_fresh"] > 0
        moments, p = [d.sim_state for d in self.demos if d.sim_state is not None], self.agent.starts.env_reset
        starts = [env_start(p if resets else 0.0, moments, self.seeds) for _ in seeds]
        mode, noise = ACT[self.data["act"]], self.agent.policy.explore_noise
        try:
            traces = run_episodes(
                self.agent, self.envs, seeds, mode=mode, noise=noise, starts=starts, should_stop=lambda: self.stop
            )
        except Interrupted:  # as if it had not begun: a resumed run collects the same episodes again
            self._set_random_state(before)
            return []
        return list(zip(traces, starts, strict=True))

    def _fresh(self) -> RowPairs | None:
        """Pairs of new episodes for a round of the reward; None when the user interrupts."""
        played = [trace for trace, _ in self._play(self.data["reward_fresh"], resets=False)]
        for trace in played:
            self.counters["env_steps"] += trace.steps
            self.counters["env_steps/reward"] += trace.steps
        rows = [ended(Rows(**trace.arrays()), self.replay.termination, self.envs.horizon) for trace in played]
        return pairs_of(rows) if rows else None

    def _costs(self) -> dict[str, float]:
        return {"updates": self.counters["updates"], "minutes": self.seconds / 60, "cpu_minutes": self.cpu_seconds / 60}

    def _counts(self) -> dict[str, float]:
        own = {"env_steps/reward": 0.0} | {k: v for k, v in self.counters.items() if k.startswith("env_steps")}
        return own | {"env_steps/official": monitor.official_steps(self)}

    def _update(self, parts: frozenset[str], phase: str) -> None:
        chunks = self.sampler.draw(self.rng, self.counters["paid"])
        metrics = self._step(*chunks, int(self.counters["updates"]), parts)
        self.counters["updates"] += 1
        self._keep_metrics(metrics)
        if self.counters["updates"] % self.config["log_every"] == 0:
            self._log()
        self._progress(phase if self.step == 0 else "")

    def _pause(self, fit: FitProgress) -> bool:
        """Tell how far a fit of the model is, and whether to leave it for a while, to save or to stop."""
        error = f": epoch {fit.epochs + 1}, hold-out error {fit.mse:.3g}" if fit.epochs else ""
        self._progress(f"fitting the model{error}")
        return self.stop or self._save_is_due()

    def _keep_metrics(self, metrics: Mapping[str, Tensor]) -> None:
        for name, value in metrics.items():
            self._metrics[name].append(value)

    def _progress(self, phase: str = "") -> None:
        self.logger.progress(
            self.step,
            updates=int(self.counters["updates"]),
            updates_left=self._updates_left(),
            phase=phase,
            score=monitor.scored(self),
        )

    def _updates_left(self) -> float:
        """Gradient steps until the end, as far as they are known: of stages, pending ones, those of steps to come."""
        plan = enumerate(self.data["stages"])
        stages = sum(max(0, stage.get("updates", 0) - self.counters[f"stage{i}"]) for i, stage in plan)
        if not self.online:
            return stages + self.config["steps"] - self.step
        unpaid = self.config["steps"] - max(self.step, self.data["seed_steps"])
        return stages + self.counters["pending"] + self.data["updates_per_step"] * max(0, unpaid)

    def _save_if_due(self) -> None:
        """Only between whole updates, with every counter up to date: a resumed run continues as if uninterrupted."""
        if self._save_is_due():
            self.save()

    def _save_is_due(self) -> bool:
        return time.monotonic() - self._saved > self.config["save_seconds"]

    def _log(self) -> None:
        means = {f"train/{k}": float(torch.stack([v.float() for v in vs]).mean()) for k, vs in self._metrics.items()}
        self._metrics.clear()
        self.logger.scalars(self.step, means | self._costs() | self._counts())

    # ---- looking ----
    def _evaluate(self) -> None:
        """Mode and sampled episodes on monitoring seeds, the diagnostics of CMIL's Fig. 3, videos."""
        self._progress("evaluating")
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):  # looking must not change the training
            torch.manual_seed(0)
            found = monitor.evaluate(self)
        if found is None:  # interrupted: done again after the resume
            return
        self.counters["evaluated"] = self.step
        # the evaluation at the end of a run does not shift those of a longer one
        if self.counters["next_eval"] <= self.step:
            self.counters["next_eval"] = self.step + self.config["eval"]["every"]
        self.scores["mode"] = found["eval/score_mode"]
        found |= self._keep(found["eval/score_mode"])
        self.logger.scalars(self.step, found | self._costs())
        self.logger.note(
            f"step {self.step}  updates {int(self.counters['updates'])}  {self.seconds / 60:.1f} min   "
            f"score mode {monitor.scored(self)}, sampled {found['eval/score_sampled']:.2f}"
        )
        self._progress()

    def _keep(self, score: float) -> dict[str, float]:
        """Earlier weights for `agent.evaluate`: of the best evaluation so far, the newest of equals, and those whose
        episodes are nearest to the demonstrations. Nothing that learns reads the score.
        """
        if score >= self.scores.get("best", -math.inf):
            self.scores["best"] = score
            keep_best(self.run_dir, self.agent, self.step, self.counters, fingerprint(self.config))
        self._progress("choosing")
        best = self.chosen.publish()
        return {} if best is None else {"eval/chosen_step": float(best.step)}
