"""Where the Kitchen expert's hand goes: the legs of its way, laid out from the objects' places in the simulator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mujoco
import numpy as np

from demos.experts.arm import Arm, rotation_error, tool_rotation

LIGHT, SLIDE, DOOR, KETTLE = 17, 19, 22, slice(23, 26)  # where the objects' joints lie in qpos
OPEN, CLOSED = 0.4, -0.4  # finger actions; both drive the fingers to their stops
START = np.array([0.148, -1.72, 1.844, -2.477, 0.26, 0.713, 1.595])  # the environment's start pose, inside the limits

# Pitch of the fingers in degrees. Steep fingers cross the level switch, so their height matters little.
KETTLE_PITCH, SWITCH_PITCH, CABINET_PITCH = -40.0, -50.0, -38.0
# The microwave's handle goes between the open fingers; turned this far, the far finger hooks behind it.
HOOK_YAW, HOOK_DEPTH, HOOK_ASIDE, HOOK_HEIGHT = 40.0, 0.015, 0.045, 0.08
DOOR_FULL = -1.15  # rad, where the pull aims; the subtask counts from -0.45 on
KETTLE_GOAL = np.array([-0.23, 0.75])
# Pushed high on its back and left of its middle, the kettle neither tips nor turns (found by trying 16 places).
KETTLE_ASIDE, KETTLE_HEIGHT = -0.045, 0.12
SWEEPS = 40  # of the elastic band in `postures`

Pose = tuple[np.ndarray, float, float]  # tool point (3,), yaw and pitch in degrees
Test = Callable[[np.ndarray], bool]


@dataclass(frozen=True)
class Leg:
    """A stretch of the way: a polyline of tool poses, and when it is over.

    Attributes:
        name: for messages.
        poses: of qpos (30,) when the leg begins, gives the poses to pass (the way begins wherever the tool is).
        speed: m/s along the way.
        fingers: action of both fingers.
        done: of qpos, true once the leg has more than done its work and ends; None: it ends where its way ends.
        enough: of qpos, whether a way that has ended may be left; if not, go back to the leg before, and try again.
    """

    name: str
    poses: Callable[[np.ndarray], list[Pose]]
    speed: float
    fingers: float
    done: Test | None = None
    enough: Test = lambda qpos: True


class Kitchen:
    """The places of the objects, measured in the model's reference state (everything closed)."""

    def __init__(self, model: mujoco.MjModel) -> None:
        """Measure; the model is not changed."""
        data = mujoco.MjData(model)
        mujoco.mj_forward(model, data)
        self.hinge = data.xpos[model.body("microdoorroot").id].copy()
        self.handle = data.site_xpos[model.site("microhandle_site").id].copy()
        self.switch = data.site_xpos[model.site("light_site").id].copy()
        self.slider = data.site_xpos[model.site("slide_site").id].copy()

    def door_handle(self, angle: float) -> np.ndarray:
        """Return the middle of the microwave's handle (3,) with the door at `angle` (rad, negative is open)."""
        cos, sin = np.cos(angle), np.sin(angle)
        arm = self.handle - self.hinge
        return self.hinge + np.array([cos * arm[0] - sin * arm[1], sin * arm[0] + cos * arm[1], arm[2]])


class Way:
    """The legs through the four subtasks, a little different for every generator."""

    def __init__(self, kitchen: Kitchen, rng: np.random.Generator, spread: float = 0.008) -> None:
        """Lay out the way.

        Args:
            kitchen: the objects' places.
            rng: source of the differences between episodes.
            spread: standard deviation (m) of the points in free space; half as much at kettle, switch and cabinet.
        """
        self._kitchen, self._rng, self._spread = kitchen, rng, spread
        self._moved: dict[str, np.ndarray] = {}
        self._height = HOOK_HEIGHT + spread * rng.uniform(-1, 1)
        self._switch = kitchen.switch + [0.0, 0.02, -0.02]
        self._slider = kitchen.slider + [0.0, 0.01, -0.05]
        self.legs = (
            Leg("reach for the microwave", self._reach_microwave, 0.25, OPEN),
            Leg("open the microwave", self._pull, 0.3, OPEN, lambda q: q[DOOR] < -0.92, lambda q: q[DOOR] < -0.65),
            Leg("let go of the microwave", self._let_go, 0.3, OPEN),
            Leg("get behind the kettle", self._behind, 0.25, OPEN),
            Leg("push the kettle", self._push, 0.25, OPEN, _kettle_beyond(0.71), _kettle_beyond(0.63)),
            # the fingers close only once they are clear of the kettle, else they grasp it
            Leg("leave the kettle", self._leave, 0.3, OPEN),
            Leg("reach for the switch", self._reach_switch, 0.3, CLOSED),
            Leg("push the switch", self._press, 0.35, CLOSED, lambda q: q[LIGHT] < -0.66, lambda q: q[LIGHT] < -0.5),
            Leg("reach for the cabinet", self._reach_cabinet, 0.3, CLOSED),
            Leg("slide the cabinet", self._slide, 0.25, CLOSED, lambda q: q[SLIDE] > 0.24, lambda q: q[SLIDE] > 0.15),
        )

    def _near(self, key: str, point: np.ndarray | list[float], amount: float = 1.0) -> np.ndarray:
        """Return `point` (3,) moved by this episode's own offset for `key`, the same at every call.

        Every call draws, whether the draw is used or not: the shipped episodes depend on this order.
        """
        drawn = np.clip(self._rng.normal(0.0, self._spread, 3), -2 * self._spread, 2 * self._spread)
        return np.asarray(point) + amount * self._moved.setdefault(key, drawn)

    def _grip(self, angle: float, yaw: float, pitch: float, back: float, aside: float = 0.0) -> Pose:
        """Return the pose with the handle between the fingers, `back` m before it and `aside` m to their right."""
        rotation = tool_rotation(yaw, pitch)
        point = self._kitchen.door_handle(angle) - back * rotation[:, 2] - aside * rotation[:, 1]
        return point + np.array([0.0, 0.0, self._height]), yaw, pitch

    def _reach_microwave(self, qpos: np.ndarray) -> list[Pose]:
        before = self._grip(qpos[DOOR], HOOK_YAW - 3, -38, 0.14)[0]
        return [
            (self._near("microwave", before), HOOK_YAW - 2, -38.0),
            self._grip(qpos[DOOR], HOOK_YAW, -40, -HOOK_DEPTH),
        ]

    def _pull(self, qpos: np.ndarray) -> list[Pose]:
        angle = min(qpos[DOOR], 0.0)
        angles = angle + (DOOR_FULL - angle) * np.array([0.1, 0.25, 0.5, 0.75, 1.0])
        # pulled to the fingers' right, the handle stays against the finger behind it
        return [
            self._grip(a, HOOK_YAW + 2, max(-40.0, min(-25.0, -40 - 25 * a)), -HOOK_DEPTH, HOOK_ASIDE) for a in angles
        ]

    def _let_go(self, qpos: np.ndarray) -> list[Pose]:
        out = self._grip(min(qpos[DOOR], -0.8), 40, -28, 0.16)
        return [out, (self._near("let go", [-0.38, 0.04, 1.84]), 12.0, -30.0)]

    def _behind(self, qpos: np.ndarray) -> list[Pose]:
        x, _, z = qpos[KETTLE]
        return [(self._near("behind", [x + KETTLE_ASIDE, 0.14, z + KETTLE_HEIGHT], 0.5), 0.0, KETTLE_PITCH)]

    def _push(self, qpos: np.ndarray) -> list[Pose]:
        x, _, z = qpos[KETTLE]
        first = np.array([x + KETTLE_ASIDE, 0.28])
        last = KETTLE_GOAL + [KETTLE_ASIDE, -0.09]
        return [
            (np.append(first + (last - first) * part, z + KETTLE_HEIGHT), 0.0, KETTLE_PITCH)
            for part in (0, 0.33, 0.67, 1)
        ]

    def _leave(self, qpos: np.ndarray) -> list[Pose]:
        return [(self._near("leave", [-0.28, 0.51, 1.82]), 0.0, _between(0.1))]

    def _reach_switch(self, qpos: np.ndarray) -> list[Pose]:
        return [
            (self._near("rise", [-0.285, 0.51, 2.0]), 0.0, _between(0.5)),
            (self._near("rise higher", [-0.29, 0.54, 2.15]), 0.0, _between(0.8)),
            (self._near("beside the switch", self._switch + [0.07, -0.03, 0.0], 0.5), 0.0, SWITCH_PITCH),
        ]

    def _press(self, qpos: np.ndarray) -> list[Pose]:
        # first deep enough beside the switch, then sideways: coming at an angle, the fingers would meet its end
        offsets = ([0.065, 0.0, 0.0], [-0.05, -0.01, 0.0], [-0.13, -0.025, 0.0])
        return [(self._near("switch", self._switch + offset, 0.5), 0.0, SWITCH_PITCH) for offset in offsets]

    def _reach_cabinet(self, qpos: np.ndarray) -> list[Pose]:
        via = self._kitchen.switch + [-0.05, -0.07, 0.12]
        return [
            (self._near("to the cabinet", via), 0.0, 0.5 * SWITCH_PITCH + 0.5 * CABINET_PITCH),
            (self._near("beside the cabinet", self._slider + [-0.13, 0.0, 0.0], 0.5), -5.0, CABINET_PITCH),
        ]

    def _slide(self, qpos: np.ndarray) -> list[Pose]:
        return [
            (self._near("cabinet", self._slider + [x, 0.0, 0.0], 0.5), yaw, CABINET_PITCH)
            for x, yaw in ((0.0, -8.0), (0.12, -12.0), (0.25, -18.0))
        ]


def _kettle_beyond(y: float) -> Test:
    """Return the test whether the kettle's y (m) is beyond `y`; the goal is 0.75."""
    return lambda qpos: bool(qpos[KETTLE][1] > y)


def _between(part: float) -> float:
    """Return the pitch that is `part` of the way from the kettle's to the switch's."""
    return (1 - part) * KETTLE_PITCH + part * SWITCH_PITCH


def postures(kitchen: Kitchen, arm: Arm) -> list[np.ndarray]:
    """Find joint angles for every pose of the undisturbed way that need little motion from one to the next.

    The arm has a joint more than a pose needs. The chain of all poses is relaxed like an elastic band in joint space:
    every posture moves, within its pose, towards the middle of its neighbours. So elbow and wrist go smoothly through
    the whole episode, and always alike, which a policy that only sees pictures needs.

    Returns:
        per leg, joint angles (poses, 7).
    """
    qpos = np.zeros(30)
    qpos[KETTLE] = (-0.269, 0.35, 1.62)
    targets, counts = [], []
    for index, leg in enumerate(Way(kitchen, np.random.default_rng(0), spread=0.0).legs):
        qpos[DOOR] = 0.0 if index < 2 else -0.95
        poses = leg.poses(qpos)
        targets += [(point, tool_rotation(yaw, pitch)) for point, yaw, pitch in poses]
        counts.append(len(poses))
    band, current = [], START
    for target in targets:
        current = _settle(arm, current, target, current, 40)
        band.append(current)
    for _ in range(SWEEPS):
        for index, target in enumerate(targets):
            left = band[index - 1] if index else START
            right = band[index + 1] if index + 1 < len(band) else left
            band[index] = _settle(arm, band[index], target, (left + right) / 2, 2)
    return np.split(np.array(band), np.cumsum(counts)[:-1])


def _settle(
    arm: Arm, joints: np.ndarray, target: tuple[np.ndarray, np.ndarray], pull: np.ndarray, rounds: int
) -> np.ndarray:
    """Return joint angles (7,) brought nearer to the target (point, rotation), and else to `pull`, in small steps."""
    for _ in range(rounds):
        point, rotation = arm.place(joints)
        move, turn = limited(target[0] - point, 0.1), limited(rotation_error(target[1], rotation), 0.3)
        velocity = arm.joint_velocity(joints, move / 0.16, turn / 0.16, (pull - joints) / 0.16)
        joints = np.clip(joints + 0.08 * velocity, arm.low, arm.high)
    return joints


def limited(vector: np.ndarray, length: float) -> np.ndarray:
    """Return `vector`, shortened to `length` if it is longer."""
    return vector * min(1.0, length / max(float(np.linalg.norm(vector)), 1e-9))
