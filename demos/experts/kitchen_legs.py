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
        points: poses to pass, in order (the way begins wherever the tool is).
        speed: m/s along the way.
        fingers: action of both fingers.
        done: of qpos (30,), true once the leg has done its work; None: the leg ends where its way ends.
        retry: how many legs to go back if the way ends and the work is not done.
    """

    name: str
    points: tuple[Point, ...]
    speed: float
    fingers: float
    done: Callable[[np.ndarray], bool] | None = None
    retry: int = 0


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


def legs(kitchen: Kitchen, qpos: np.ndarray, rng: np.random.Generator, spread: float = 0.008) -> list[Leg]:
    """Lay out the way through the four tasks.

    Args:
        kitchen: the objects' places.
        qpos: (30,) joint positions; the kettle is approached where it stands.
        rng: source of the differences between episodes.
        spread: standard deviation in metres of points in free space; half as much at the objects.
    """
    def near(point: np.ndarray, amount: float = 1.0) -> np.ndarray:
        return point + np.clip(rng.normal(0.0, spread * amount, 3), -2 * spread, 2 * spread)

    def grip(angle: float, back: float, yaw: float, pitch: float, height: float, aside: float = 0.0) -> Point:
        opening = np.array([np.cos(np.radians(yaw)), np.sin(np.radians(yaw)), 0.0])
        point = kitchen.door_handle(angle) - back * pointing(yaw, pitch) - aside * opening
        return point + np.array([0.0, 0.0, height]), yaw, pitch

    height = 0.08 + rng.uniform(-0.01, 0.01)
    kettle = qpos[KETTLE]
    low = kettle[2] + 0.12
    return [
        Leg(
            "reach for the microwave",
            (
                (near(kitchen.door_handle(0.0) - 0.14 * pointing(38, -38) + [0, 0, height]), 35, -35),
                grip(0.0, 0.0, 40, -40, height),
            ),
            0.25,
            OPEN,
        ),
        Leg(
            "open the microwave",
            tuple(grip(angle, 0.0, 42, pitch, height, 0.045) for angle, pitch in ((-0.05, -40), (-0.3, -35), (-0.6, -30), (-0.9, -25), (-1.15, -25))),
            0.2,
            OPEN,
            lambda q: bool(q[DOOR] < -0.95),
            1,
        ),
        Leg(
            "let go of the microwave",
            (grip(-1.0, 0.16, 40, -25, height), (near(np.array([-0.38, 0.04, 1.84])), 12, -28)),
            0.3,
            OPEN,
        ),
        Leg("get behind the kettle", ((near(np.array([kettle[0] - 0.045, 0.14, low]), 0.5), 0, -40),), 0.25, OPEN),
        Leg(
            "push the kettle",
            (
                (np.array([kettle[0] - 0.045, 0.30, low]), 0, -40),
                (np.array([KETTLE_GOAL[0] - 0.05, KETTLE_GOAL[1] - 0.10, low]), 0, -40),
            ),
            0.2,
            OPEN,
            lambda q: bool(q[KETTLE][1] > KETTLE_GOAL[1] - 0.04),
            1,
        ),
        Leg(
            "leave the kettle",
            (
                (near(np.array([-0.24, 0.46, 1.85])), 0, -15),
                (near(np.array([-0.24, 0.44, 2.15])), 0, 0),
                (near(kitchen.switch + [0.11, -0.03, 0.0], 0.5), 0, 10),
            ),
            0.3,
            CLOSED,
        ),
        Leg(
            "switch the light on",
            ((near(kitchen.switch + [-0.13, -0.02, 0.0], 0.5), 0, 10),),
            0.2,
            CLOSED,
            lambda q: bool(q[LIGHT] < -0.66),
            1,
        ),
        Leg(
            "reach for the cabinet",
            (
                (near(kitchen.switch + [-0.11, -0.13, 0.12]), 0, 20),
                (near(kitchen.slider + [-0.13, -0.01, -0.07], 0.5), -5, 28),
            ),
            0.3,
            CLOSED,
        ),
        Leg(
            "slide the cabinet",
            ((near(kitchen.slider + [0.22, -0.01, -0.07], 0.5), -30, 20),),
            0.2,
            CLOSED,
            lambda q: bool(q[SLIDE] > 0.2),
            1,
        ),
    ]
