"""Pictures: which OpenGL backend works here, and the one frame pipeline that demonstrations and environments share.

"fast" leaves out shadows, reflections and multisampling, draws round shapes with fewer facets, and averages 2 x 2
samples a pixel; "faithful" is MuJoCo's stock picture. Frames depend on joint positions only, so a stored simulator
state gives the identical frame later. Software OpenGL is deterministic; a GPU may differ in the last bits.
"""

from __future__ import annotations

import atexit
import copy
import importlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from envs.errors import EnvError, RenderingError

if TYPE_CHECKING:
    import mujoco

__all__ = ["Camera", "FrameRenderer", "RenderingError", "probe", "select_backend"]

STYLES = ("fast", "faithful")
REMEDY = "install the software renderers (Debian, Ubuntu: apt-get install libegl1 libgl1 libosmesa6) or use obs=state"
_CHOSEN = "UNDERSTUDY_GL"  # the probe's answer, inherited by worker processes so that they need no probe of their own
_OFF = ("disable", "disabled", "off", "false", "0")
_PROBE_SECONDS = 60
_PROBE = """
import sys, numpy as np, mujoco
from importlib import import_module
context = import_module("mujoco." + sys.argv[1]).GLContext(64, 64)
context.make_current()
model = mujoco.MjModel.from_xml_string(
    "<mujoco><worldbody><light pos='0 0 3'/><geom type='sphere' size='.3' rgba='1 1 1 1'/></worldbody></mujoco>")
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
scene, camera = mujoco.MjvScene(model, 10), mujoco.MjvCamera()
renderer = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, renderer)
mujoco.mjv_updateScene(model, data, mujoco.MjvOption(), None, camera, mujoco.mjtCatBit.mjCAT_ALL, scene)
view, image = mujoco.MjrRect(0, 0, 64, 64), np.zeros((64, 64, 3), np.uint8)
mujoco.mjr_render(view, scene, renderer)
mujoco.mjr_readPixels(image, None, view, renderer)
print("picture" if image.max() > image.min() else "blank")
"""


def select_backend() -> str:
    """Find an OpenGL backend that draws, without risking this process; call before mujoco is imported where possible.

    MUJOCO_GL is respected if set, otherwise EGL then OSMesa are tried, each in a short subprocess (half a second). The
    answer is kept in the process environment (MUJOCO_GL too), so later calls and worker processes cost nothing.

    Returns:
        "egl", "osmesa", "glfw", or "native" (macOS and Windows: whatever mujoco chooses).

    Raises:
        RenderingError: none works; the message holds each one's reason and what to install.
    """
    if sys.platform != "linux":
        return "native"
    asked = os.environ.get("MUJOCO_GL", "").lower().strip()
    chosen = os.environ.get(_CHOSEN, "")
    if chosen and asked in ("", chosen):
        return chosen
    if asked in _OFF:
        raise RenderingError(f"MUJOCO_GL={asked} switches rendering off; unset it, or use obs=state")
    known = {"": ("egl", "osmesa"), "egl": ("egl",), "osmesa": ("osmesa",), "glfw": ("glfw",), "glx": ("glfw",)}
    if asked not in known:
        raise RenderingError(f"MUJOCO_GL={asked} is unknown; valid: egl, osmesa, glfw")
    reasons = []
    for backend in known[asked]:
        reason = _try_backend(backend)
        if reason is None:
            os.environ[_CHOSEN] = os.environ["MUJOCO_GL"] = backend
            return backend
        reasons.append(f"{backend}: {reason}")
    raise RenderingError(f"no OpenGL backend works ({'; '.join(reasons)}); {REMEDY}")


def _try_backend(backend: str) -> str | None:
    """Draw one picture with `backend` in a subprocess; return None if it worked, else the reason in one line."""
    env = {name: value for name, value in os.environ.items() if name != "PYOPENGL_PLATFORM"} | {"MUJOCO_GL": backend}
    try:
        result = subprocess.run(
            [sys.executable, "-c", _PROBE, backend], env=env, capture_output=True, text=True, timeout=_PROBE_SECONDS
        )
    except subprocess.TimeoutExpired:
        return f"no answer in {_PROBE_SECONDS} s"
    if result.returncode == 0 and "picture" in result.stdout:
        return None
    if "blank" in result.stdout:
        return "draws blank pictures"
    lines = [line for line in result.stderr.strip().splitlines() if line.strip()]
    return lines[-1].strip()[:200] if lines else f"exit code {result.returncode}"


def _context_class(backend: str) -> Any:
    """Return the GLContext class of a backend, chosen by name: mujoco's own choice is fixed at its first import."""
    try:
        module = importlib.import_module("mujoco.gl_context" if backend == "native" else f"mujoco.{backend}")
        return module.GLContext
    except (ImportError, AttributeError) as error:
        raise RenderingError(f"OpenGL backend {backend} cannot be loaded here ({error}); {REMEDY}") from error


@dataclass(frozen=True)
class Camera:
    """A free camera: distance (m) from the point it looks at (m, world frame), azimuth and elevation (degrees)."""

    distance: float
    lookat: tuple[float, float, float]
    azimuth: float
    elevation: float


class FrameRenderer:
    """Draws frames of one MuJoCo model with one camera, from joint positions alone.

    It keeps its own copy of model and data, so drawing never touches the physics. One object belongs to one thread.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        camera: Camera,
        *,
        size: int = 64,
        style: str = "fast",
        adjust: Callable[[Any, Any], None] | None = None,
    ) -> None:
        """Prepare offscreen drawing.

        Args:
            model: what to draw; copied.
            camera: from where.
            size: frames are (size, size, 3) uint8.
            style: "fast" or "faithful" (see the module).
            adjust: called with (model copy, data) before each frame, e.g. to dim a light; a function of the state only.

        Raises:
            EnvError: bad size or style.
            RenderingError: no OpenGL backend works.
        """
        if style not in STYLES:
            raise EnvError(f"render style must be one of {STYLES}, got {style!r}")
        if not 8 <= size <= 2048:
            raise EnvError(f"picture size must lie in 8..2048, got {size}")
        self.backend = select_backend()
        # at these sizes llvmpipe's threads cost more than they give; must be set before the first context exists
        os.environ.setdefault("LP_NUM_THREADS", "0")
        import mujoco

        self._mj = mujoco
        self.size = size
        self._thread = threading.get_ident()
        self._scale = 2 if style == "fast" else 1
        self._adjust = adjust
        self._model = copy.deepcopy(model)
        self._data = mujoco.MjData(self._model)
        side = size * self._scale
        self._model.vis.global_.offwidth = self._model.vis.global_.offheight = side
        if style == "fast":
            self._model.vis.quality.offsamples = 0
            # vertex work is most of a software frame: 28 x 16 facets a cylinder become 16 x 2
            self._model.vis.quality.numslices = 16
            self._model.vis.quality.numstacks = 2
        try:
            self._gl: Any = _context_class(self.backend)(side, side)
            self._gl.make_current()
            self._context: Any = mujoco.MjrContext(self._model, mujoco.mjtFontScale.mjFONTSCALE_100)
        except (RuntimeError, mujoco.FatalError) as error:
            raise RenderingError(f"OpenGL backend {self.backend} cannot draw offscreen ({error}); {REMEDY}") from error
        # registered after the backend's own exit hook, hence run before it, while its display is still open
        atexit.register(self.close)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._scene = mujoco.MjvScene(self._model, self._model.ngeom + self._model.nsite + 100)
        self._option = mujoco.MjvOption()
        if style == "fast":
            flags = mujoco.mjtRndFlag
            for flag in (flags.mjRND_SHADOW, flags.mjRND_REFLECTION, flags.mjRND_SKYBOX, flags.mjRND_HAZE):
                self._scene.flags[flag] = 0
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FREE
        self._camera.distance, self._camera.lookat[:] = camera.distance, camera.lookat
        self._camera.azimuth, self._camera.elevation = camera.azimuth, camera.elevation
        self._view = mujoco.MjrRect(0, 0, side, side)
        self._pixels = np.empty((side, side, 3), np.uint8)

    def frame(self, qpos: np.ndarray) -> np.ndarray:
        """Draw the scene at joint positions (nq,) float64; return a new (size, size, 3) uint8 picture."""
        if self._context is None:
            raise RenderingError("this renderer has been closed")
        mj, model, data = self._mj, self._model, self._data
        data.qpos[:] = qpos
        mj.mj_kinematics(model, data)
        mj.mj_comPos(model, data)
        if self._adjust is not None:
            self._adjust(model, data)
        mj.mj_camlight(model, data)
        mj.mjv_updateScene(model, data, self._option, None, self._camera, mj.mjtCatBit.mjCAT_ALL, self._scene)
        self._gl.make_current()
        mj.mjr_render(self._view, self._scene, self._context)
        mj.mjr_readPixels(self._pixels, None, self._view, self._context)
        picture = self._pixels[::-1]  # OpenGL's first row is the bottom one
        if self._scale == 1:
            return picture.copy()
        sums = picture[0::2, 0::2].astype(np.uint16)
        for row, column in ((0, 1), (1, 0), (1, 1)):
            sums += picture[row::2, column::2]
        return ((sums + 2) // 4).astype(np.uint8)

    def close(self) -> None:
        """Free the OpenGL objects; later calls of `frame` raise RenderingError."""
        if self._context is not None:
            if threading.get_ident() == self._thread:  # another thread cannot take the context over, only let go of it
                self._gl.make_current()
                self._context.free()
            self._gl.free()
            self._context = self._gl = None
            atexit.unregister(self.close)


def probe(seconds: float = 0.5) -> dict[str, Any]:
    """Return {"backend", "fps"}: the backend that works and the speed of fast 64 x 64 Kitchen frames in this process.

    Raises:
        RenderingError: none works.
    """
    backend = select_backend()
    from envs.kitchen_scene import START_QPOS, kitchen_frames

    renderer = kitchen_frames("fast", 64)
    renderer.frame(START_QPOS)
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        renderer.frame(START_QPOS)
        count += 1
    return {"backend": backend, "fps": round(count / (time.perf_counter() - start), 1)}
