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

P = dict(h=.12, kp=-40, kdx=-.045, myaw=40, mdeep=.015, mh=.08, maside=.045, ly=.02, lz=-.02, lp=-50, sp=-38, send=.24, lx=.065, lin=-.03, lpost=None, lend=-.025, lyaw=0, sweeps=40,
         v=(.25,.3,.3,.25,.25,.3,.35,.3,.25))

def legs(kitchen: Kitchen, rng: np.random.Generator, spread: float = 0.008) -> list[Leg]:
    jit = {}
    def near(key, point, amount: float = 1.0) -> np.ndarray:
        return np.asarray(point) + amount*jit.setdefault(key, np.clip(rng.normal(0.0, spread, 3), -2 * spread, 2 * spread))

    height = P["mh"] + spread*rng.uniform(-1, 1)
    def grip(angle: float, back: float, yaw: float, pitch: float, aside: float = 0.0) -> Point:
        opening = np.array([np.cos(np.radians(yaw)), np.sin(np.radians(yaw)), 0.0])
        point = kitchen.door_handle(angle) - back * pointing(yaw, pitch) - aside * opening
        return point + np.array([0.0, 0.0, height]), yaw, pitch

    Y=P["myaw"]; lp,sp,kp=P["lp"],P["sp"],P["kp"]
    def reach(q):
        a=q[DOOR]
        return [(near("reach", grip(a,.14,Y-3,-38)[0]), Y-2, -38), grip(a, -P["mdeep"], Y, -40)]
    def pull(q):
        a0=min(q[DOOR],0)
        return [grip(a, -P["mdeep"], Y+2, max(-40, min(-25, -40 - 25*a)), P["maside"]) for a in a0+(-1.15-a0)*np.array([.1,.25,.5,.75,1])]
    def letgo(q):
        return [grip(min(q[DOOR],-.8), 0.16, 40, -28), (near("letgo", np.array([-0.38, 0.04, 1.84])), 12, -30)]
    def behind(q):
        k=q[KETTLE]; return [(near("behind", np.array([k[0] +P["kdx"], 0.14, k[2]+P["h"]]), 0.5), 0, kp)]
    def push(q):
        k=q[KETTLE]; z=k[2]+P["h"]; x0,x1=k[0]+P["kdx"],KETTLE_GOAL[0]+P["kdx"]
        return [(np.array([x0+(x1-x0)*f, .28+(KETTLE_GOAL[1]-.09-.28)*f, z]),0,kp) for f in (0,.33,.67,1)]
    sw,sl=kitchen.switch+[0,P["ly"],P["lz"]],kitchen.slider+[0,.01,-.05]
    return [
        Leg("reach for the microwave", reach, P["v"][0], OPEN),
        Leg("open the microwave", pull, P["v"][1], OPEN, lambda q: bool(q[DOOR] < -0.92), lambda q: bool(q[DOOR]<-.65)),
        Leg("let go of the microwave", letgo, P["v"][2], OPEN),
        Leg("get behind the kettle", behind, P["v"][3], OPEN),
        Leg("push the kettle", push, P["v"][4], OPEN, lambda q: bool(q[KETTLE][1] > KETTLE_GOAL[1] - 0.04), lambda q: bool(q[KETTLE][1]>.63)),
        Leg("leave the kettle", lambda q: [(near("lk0", np.array([-0.28, 0.51, 1.82])), 0, .9*kp+.1*lp)], P["v"][5], OPEN),
        Leg("reach for the switch",
            lambda q: [
                (near("lk1", np.array([-0.285, 0.51, 2.0])), P["lyaw"]*.3, .5*kp+.5*lp),
                (near("lk2", np.array([-0.29, 0.54, 2.15])), P["lyaw"]*.7, .2*kp+.8*lp),
                (near("lk3", sw+[P["lx"]+.005,P["lin"],0], 0.5), P["lyaw"], lp),
            ], P["v"][5], CLOSED),
        Leg("switch the light on", lambda q: [(near("l", sw+[x, y, 0], 0.5), P["lyaw"], lp) for x,y in ((P["lx"],0),(-.05,P["lend"]*.4),(-.13,P["lend"]))],
            P["v"][6], CLOSED, lambda q: bool(q[LIGHT] < -0.66), lambda q: bool(q[LIGHT] < -0.5)),
        Leg("reach for the cabinet",
            lambda q: [
                (near("s1", kitchen.switch + [-0.05, -0.07, 0.12]), 0, .5*lp+.5*sp),
                (near("s2", sl + [-0.13, 0, 0], 0.5), -5, sp),
            ], P["v"][7], CLOSED),
        Leg("slide the cabinet", lambda q: [(near("s3", sl + [x, 0, 0], 0.5), y, sp) for x,y in ((0,-8),(.12,-12),(.25,-18))],
            P["v"][8], CLOSED, lambda q: bool(q[SLIDE] > P["send"]), lambda q: bool(q[SLIDE] > 0.15)),
    ]

def chain(kitchen, arm, start):
    """postures (list per leg of (k,7)) for the nominal way: an elastic band in joint space"""
    from demos.experts.arm import rotation_error, tool_rotation
    q=np.zeros(30); q[KETTLE]=(-.269,.35,1.62)
    poses=[]; count=[]
    for i,leg in enumerate(legs(kitchen,np.random.default_rng(0),0.0)):
        q[DOOR]=0 if i<2 else -.95
        w=leg.points(q); poses+=[(x[0],tool_rotation(x[1],x[2])) for x in w]; count.append(len(w))
    Q=[]; cur=start.copy()
    def settle(cur,pose,pull,n):
        for _ in range(n):
            p,R=arm.place(cur)
            dp=pose[0]-p; dp*=min(1,.1/max(np.linalg.norm(dp),1e-9)); dr=rotation_error(pose[1],R); dr*=min(1,.3/max(np.linalg.norm(dr),1e-9))
            cur=np.clip(cur+.08*arm.joint_velocity(cur,dp/.16,dr/.16,(pull-cur)/.16),arm.low,arm.high)
        return cur
    for pose in poses:
        cur=settle(cur,pose,cur.copy(),40); Q.append(cur)
    for sweep in range(P["sweeps"]):
        for i in range(len(Q)):
            left=start if i==0 else Q[i-1]; right=Q[i+1] if i+1<len(Q) else left
            Q[i]=settle(Q[i],poses[i],(left+right)/2,2)
    out=[]; i=0
    for k in count: out.append(np.array(Q[i:i+k])); i+=k
    if P['lpost'] is not None:
        for j in (6,7): out[j][:]=P['lpost']
    return out
