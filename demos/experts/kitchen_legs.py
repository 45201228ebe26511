"""Where the Kitchen expert's hand goes: the legs of its way, laid out from the objects' places in the simulator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mujoco
import numpy as np

LIGHT, SLIDE, DOOR, KETTLE = 17, 19, 22, slice(23, 26)  # where the objects' joints lie in qpos
OPEN, CLOSED = 0.4, -0.4  # finger actions; both drive the fingers to their stops
KETTLE_GOAL = np.array([-0.23, 0.75])

Point = tuple[np.ndarray, float, float]  # tool point (3,), yaw and pitch in degrees


@dataclass(frozen=True)
class Leg:
    """A stretch of the way: a polyline of tool poses, and when it is over.

    Attributes:
        name: for messages.
        points: of qpos (30,) when the leg begins, gives the poses to pass (the way begins wherever the tool is).
        speed: m/s along the way.
        fingers: action of both fingers.
        done: of qpos, true once the leg has more than done its work and ends; None: it ends where its way ends.
        enough: of qpos, whether a way that has ended may be left; if not, go back to the leg before, and try again.
    """

    name: str
    points: Callable[[np.ndarray], list[Point]]
    speed: float
    fingers: float
    done: Callable[[np.ndarray], bool] | None = None
    enough: Callable[[np.ndarray], bool] = lambda qpos: True


class Kitchen:
    """The places of the four objects, from the sites of a simulator in any state."""

    def __init__(self, model: mujoco.MjModel) -> None:
        """Measure the objects in their closed state."""
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


def pointing(yaw: float, pitch: float) -> np.ndarray:
    """Return the unit vector (3,) along the fingers for yaw (from +y towards -x) and pitch (up) in degrees."""
    turn, rise = np.radians([yaw, pitch])
    return np.array([-np.sin(turn) * np.cos(rise), np.cos(turn) * np.cos(rise), np.sin(rise)])

P = dict(h=.12, kp=-40, kdx=-.045, kspeed=.25, myaw=40, mdeep=.015, mspeed=.3, mh=.08, maside=.045, ly=0.005, lz=-.022, lyaw=0, lp=-60, lspeed=.35)

def legs(kitchen: Kitchen, rng: np.random.Generator, spread: float = 0.008) -> list[Leg]:
    jit = {}
    def near(key, point, amount: float = 1.0) -> np.ndarray:
        return np.asarray(point) + amount*jit.setdefault(key, np.clip(rng.normal(0.0, spread, 3), -2 * spread, 2 * spread))

    height = P["mh"] + rng.uniform(-0.01, 0.01)
    def grip(angle: float, back: float, yaw: float, pitch: float, aside: float = 0.0) -> Point:
        opening = np.array([np.cos(np.radians(yaw)), np.sin(np.radians(yaw)), 0.0])
        point = kitchen.door_handle(angle) - back * pointing(yaw, pitch) - aside * opening
        return point + np.array([0.0, 0.0, height]), yaw, pitch

    Y=P["myaw"]
    def reach(q):
        a=q[DOOR]
        return [(near("reach", grip(a,.14,Y-3,-38)[0]), Y-5, -35), grip(a, -P["mdeep"], Y, -40)]
    def pull(q):
        a0=q[DOOR]
        return [grip(a, -P["mdeep"], Y+2, max(-40, min(-25, -40 - 25*a)), P["maside"]) for a in np.arange(min(-.1,a0-.1), -1.2, -.1)]
    def letgo(q):
        return [grip(min(q[DOOR],-.8), 0.16, 40, -25), (near("letgo", np.array([-0.38, 0.04, 1.84])), 12, -28)]
    def behind(q):
        k=q[KETTLE]; return [(near("behind", np.array([k[0] +P["kdx"], 0.14, k[2]+P["h"]]), 0.5), 0, P["kp"])]
    def push(q):
        k=q[KETTLE]; z=k[2]+P["h"]
        return [(np.array([k[0] +P["kdx"], 0.30, z]), 0, P["kp"]), (np.array([KETTLE_GOAL[0]+P["kdx"], KETTLE_GOAL[1] - 0.09, z]), 0, P["kp"])]
    return [
        Leg("reach for the microwave", reach, 0.25, OPEN),
        Leg("open the microwave", pull, P["mspeed"], OPEN, lambda q: bool(q[DOOR] < -0.92), lambda q: bool(q[DOOR]<-.65)),
        Leg("let go of the microwave", letgo, 0.3, OPEN),
        Leg("get behind the kettle", behind, 0.25, OPEN),
        Leg("push the kettle", push, P["kspeed"], OPEN, lambda q: bool(q[KETTLE][1] > KETTLE_GOAL[1] - 0.04), lambda q: bool(q[KETTLE][1]>.63)),
        Leg("leave the kettle",
            lambda q: [
                (near("lk1", np.array([-0.26, 0.44, 1.90])), 0, -40),
                (near("lk2", np.array([-0.25, 0.44, 2.18])), P["lyaw"]/2, (P["lp"]-40)/2),
                (near("lk3", kitchen.switch + [0.075, P["ly"]-.05, P["lz"]], 0.5), P["lyaw"], P["lp"]),
            ], 0.3, CLOSED),
        Leg("switch the light on", lambda q: [(near("l", kitchen.switch + [x, P["ly"]+y, P["lz"]], 0.5), P["lyaw"], P["lp"]) for x,y in ((.025,0),(-.05,0),(-.13,-.01))],
            P["lspeed"], CLOSED, lambda q: bool(q[LIGHT] < -0.66), lambda q: bool(q[LIGHT] < -0.5)),
        Leg("reach for the cabinet",
            lambda q: [
                (near("s1", kitchen.switch + [-0.11, -0.13, 0.12]), 0, -35),
                (near("s2", kitchen.slider + [-0.13, 0.01, -0.05], 0.5), -5, -30),
            ], 0.3, CLOSED),
        Leg("slide the cabinet", lambda q: [(near("s3", kitchen.slider + [0.25, 0.01, -0.05], 0.5), -20, -30)],
            0.25, CLOSED, lambda q: bool(q[SLIDE] > 0.24), lambda q: bool(q[SLIDE] > 0.15)),
    ]
