"""Models of gymnasium and gymnasium-robotics: the contacts that their data were made with, and their pictures."""

from __future__ import annotations

import copy
import functools

import mujoco
import numpy as np

from envs.rendering import Camera, FrameRenderer

_FLOOR = 10.0  # m, half the width from which on a plane is a floor to run on
_WIDEN = 50  # the floors are drawn for 20 to 40 m, and HalfCheetah runs 600 m in an episode
_TWO_BALLS = """<mujoco><worldbody><geom size="1" margin="1"/><body pos="0 0 3.5"><freejoint/>
<geom size="1" margin="1"/></body></worldbody></mujoco>"""


class SceneFrames(FrameRenderer):
    """Frames through one of the model's own cameras, of scenes whose fixed parts may move between episodes."""

    def __init__(self, model: mujoco.MjModel, camera: str | int, *, size: int, style: str, mended: bool = True) -> None:
        """Prepare drawing through `camera`, a camera's name or number; see FrameRenderer.

        mended: on a floor without an end in reach, and without tendons; otherwise the model as it is.
        """
        super().__init__(
            _with_wide_floors(model) if mended else model,
            Camera(1.0, (0.0, 0.0, 0.0), 0.0, 0.0),
            size=size,
            style=style,
            adjust=None if mended else mujoco.mj_tendon,
        )
        self._moving = ("body_pos", "body_quat", "site_pos") + (() if mended else ("geom_pos", "light_pos"))
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._camera.fixedcamid = model.camera(camera).id

    def draw(self, model: mujoco.MjModel, qpos: np.ndarray) -> np.ndarray:
        """Draw joint positions (nq,) in the scene as `model` has it now; return (size, size, 3) uint8."""
        for name in self._moving:
            getattr(self._model, name)[:] = getattr(model, name)
        return self.frame(qpos)


def _with_wide_floors(model: mujoco.MjModel) -> mujoco.MjModel:
    """Return a copy whose floors are drawn far enough; the size of a plane means nothing to the physics."""
    wide = copy.deepcopy(model)
    for geom in np.flatnonzero(wide.geom_type == mujoco.mjtGeom.mjGEOM_PLANE):
        if wide.geom_size[geom, 0] >= _FLOOR:
            wide.geom_size[geom, :2] *= _WIDEN
            wide.mat_texrepeat[wide.geom_matid[geom]] *= _WIDEN
    return wide


def published_contacts(model: mujoco.MjModel) -> None:
    """Give a model of gymnasium or gymnasium-robotics the contacts that its published data were made with.

    Newer MuJoCo adds the margins of two geoms, where the larger one counted, and finds several contacts for a pair of
    curved shapes, where one was found; open-loop replays leave the recordings within a few steps of contact then. All
    geoms of these models share one margin (but one: the hammer's board, which touches only geoms that have it).
    """
    if _margins_add_up():
        model.geom_margin[:] = model.geom_margin.max() / 2
    model.opt.disableflags |= int(getattr(mujoco.mjtDisableBit, "mjDSBL_MULTICCD", 0))


@functools.cache
def _margins_add_up() -> bool:
    """Return whether two balls 1.5 apart, of margin 1 each, touch in this version of MuJoCo."""
    model = mujoco.MjModel.from_xml_string(_TWO_BALLS)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return bool(data.ncon > 0)
