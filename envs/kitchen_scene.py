"""What the Franka Kitchen looks like: the stock scene, and a light copy of it that only serves to be drawn fast.

Both come from the installed gymnasium-robotics package. The light copy shares the joints, so a qpos means the same in
both; the physics model is never edited.
"""

from __future__ import annotations

import importlib.util
import threading
from pathlib import Path
from typing import Any

import numpy as np

from envs.errors import EnvError
from envs.rendering import Camera, FrameRenderer, select_backend

# the view of the public CMIL recordings
CAMERA = Camera(distance=1.86, lookat=(-0.3, 0.5, 2.0), azimuth=90.0, elevation=-60.0)
CELL = 0.015  # m, grid of the thinned robot meshes; a 64 x 64 pixel is 24 mm wide at the robot
LIGHT_SLIDE_QPOS = 18  # the slider under the hob light: it covers the light at 0
LIGHT_SLIDE_OPEN = -0.03  # m, from here on the stock picture shows the whole spot
START_ARM = (0.148, -1.768, 1.844, -2.477, 0.260, 0.713, 1.595, 0.048, 0.037)
START_KETTLE = (-0.269, 0.350, 1.619, 1.0, 0.0, 0.0, 0.0)
START_QPOS = np.array([*START_ARM, *(0.0,) * 14, *START_KETTLE])  # about the pose after a reset, for pictures
_SPOT_LIGHT = 3
_ROBOT_GROUP_LIMIT = 3  # geom groups from here on are collision shapes

_renderers: dict[tuple[str, int, int], FrameRenderer] = {}


def assets() -> Path:
    """Return the folder of the Kitchen's scene files in the installed package."""
    found = importlib.util.find_spec("gymnasium_robotics")  # its import is slow, and nothing of it is needed here
    if found is None or found.origin is None:
        raise EnvError("kitchen: the package gymnasium-robotics is not installed (pip install gymnasium-robotics)")
    return Path(found.origin).parent / "envs" / "assets" / "kitchen_franka"


def kitchen_frames(style: str = "fast", size: int = 64) -> FrameRenderer:
    """Return this thread's renderer of Kitchen frames (made at the first call, then shared by all environments).

    `renderer.frame(qpos)` takes qpos (30,) and gives (size, size, 3) uint8. Raises RenderingError if nothing can draw.
    """
    key = (style, size, threading.get_ident())
    if key not in _renderers:
        select_backend()
        import mujoco

        if style == "fast":
            _renderers[key] = FrameRenderer(light_model(), CAMERA, size=size, style=style, adjust=_hob_light)
        else:
            stock = mujoco.MjModel.from_xml_path(str(assets() / "kitchen_assets" / "kitchen_env_model.xml"))
            _renderers[key] = FrameRenderer(stock, CAMERA, size=size, style=style)
    return _renderers[key]


def light_model() -> Any:
    """Build the MjModel for fast frames: robot meshes thinned from 134 000 to 8 000 triangles, no collision shapes."""
    import mujoco

    spec = mujoco.MjSpec.from_file(str(assets() / "kitchen_assets" / "kitchen_env_model.xml"))
    for mesh in spec.meshes:
        if mesh.name.endswith("_viz") and not mesh.name.startswith("finger"):
            vertices, faces = cluster_triangles(read_stl(assets() / "franka_assets" / "meshes" / mesh.file), CELL)
            mesh.file = ""
            mesh.uservert = vertices.astype(np.float32).ravel()
            mesh.userface = faces.astype(np.int32).ravel()
            mesh.inertia = mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL  # clustering leaves the surface open
    for geom in list(spec.geoms):
        if geom.group >= _ROBOT_GROUP_LIMIT:
            spec.delete(geom)
    for key in list(spec.keys):
        spec.delete(key)
    # bodies lost their inertia with the collision shapes; nothing is simulated here, so any positive one does
    spec.compiler.boundmass = spec.compiler.boundinertia = 1e-3
    return spec.compile()


def read_stl(path: Path) -> np.ndarray:
    """Return the triangles (n, 3, 3) float64 of a binary STL file."""
    record = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
    raw = path.read_bytes()
    return np.frombuffer(raw, record, int.from_bytes(raw[80:84], "little"), 84)["corners"].astype(np.float64)


def cluster_triangles(triangles: np.ndarray, cell: float) -> tuple[np.ndarray, np.ndarray]:
    """Thin a mesh by vertex clustering: corners in one grid cell (edge `cell`, metres) become their mean.

    Args:
        triangles: (n, 3, 3).
        cell: edge of the grid.

    Returns:
        vertices (v, 3) float64, and faces (f, 3) of indices, without collapsed or repeated triangles.
    """
    corners = triangles.reshape(-1, 3)
    grid = np.floor(corners / cell).astype(np.int64)
    grid -= grid.min(0)
    span = grid.max(0) + 1
    # one number a cell sorts ten times faster than rows do
    _, index = np.unique((grid[:, 0] * span[1] + grid[:, 1]) * span[2] + grid[:, 2], return_inverse=True)
    index = index.reshape(-1)
    count = np.bincount(index)
    vertices = np.stack([np.bincount(index, corners[:, axis]) / count for axis in range(3)], 1)
    faces = index.reshape(-1, 3)
    faces = faces[(faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 0] != faces[:, 2])]
    _, keep = np.unique(np.sort(faces, 1), axis=0, return_index=True)
    return vertices, faces[keep]


def _hob_light(model: Any, data: Any) -> None:
    """Dim the hob's light by its slider: in the stock picture the slider's shadow does that, fast frames have none."""
    opened = float(np.clip(data.qpos[LIGHT_SLIDE_QPOS] / LIGHT_SLIDE_OPEN, 0.0, 1.0))
    model.light_diffuse[_SPOT_LIGHT] = opened * np.array([0.7, 0.65, 0.65])
    model.light_specular[_SPOT_LIGHT] = opened * 0.3
