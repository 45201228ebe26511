"""The Shadow Hand and the two Baoding balls: one scene for the physics, one light copy of it to be drawn fast.

Both are made from the hand in the installed gymnasium-robotics package, changed by what distinguishes the hand of
PDDM's Baoding task from it (Nagabandi et al. 2019, Deep Dynamics Models for Learning Dexterous Manipulation). PDDM's
finger tips carry a sensor whose meshes the package lacks: an ellipsoid stands in for each, of the size with which most
of the public recordings replay.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from envs.errors import EnvError
from envs.kitchen_scene import cluster_triangles, read_stl

CAMERA = "view"
BALL_RADIUS = 0.028  # m
FINGERS = ("ff", "mf", "rf", "lf")
TIPS = (*FINGERS, "th")
CELLS = {"forearm_electric": 0.007, "palm": 0.003}  # m, grid of the thinned meshes; a 64 x 64 pixel is 4 mm wide
CELL = 0.002
_ROUND = (mujoco.mjtGeom.mjGEOM_SPHERE, mujoco.mjtGeom.mjGEOM_ELLIPSOID)
_BALL_FACETS, _PAD_FACETS = (20, 12), (10, 6)
_HIDDEN_GROUP = 3  # geoms from here on are collision shapes
MARGIN = 0.0005  # m, within which two geoms count as touching
# the order is the package's: wrist, first, middle, ring, little finger from base to tip, thumb
START_HAND = np.array(
    [
        *(0.0126, -0.398),
        *(0.379, 0.0564, 1.167, 0.0407),
        *(0.265, -0.136, 1.144, 0.045),
        *(0.074, 0.139, 1.112, 0.234),
        *(-0.022, -0.368, 0.0, 1.25, 0.152),
        *(-0.021, 0.374, 0.0939, -0.126, -0.536),
    ]
)
START_BALLS = np.array([[-0.029, -0.001, 0.19], [0.03, 0.01, 0.19]])  # m, world
START_QPOS = np.concatenate([START_HAND, *([*place, 1.0, 0.0, 0.0, 0.0] for place in START_BALLS)])

# distance 0.3 m from (0.00704, -0.001, 0.17037), azimuth -67.5, elevation -42.5: the view of the public recordings
_EYE = "-0.077603 0.203347 0.373047"
_AXES = "-0.923880 -0.382683 0 0.258537 -0.624164 0.737277"
_SCENE = """<mujoco model="baoding">
<include file="{folder}/adroit_assets.xml"/>
<compiler meshdir="{folder}/resources/meshes" texturedir="{folder}/resources/textures"/>
<visual><map fogstart="3" fogend="5"/></visual>
<asset>
<texture name="checker" type="2d" builtin="checker" rgb1="0.2 0.3 0.4" rgb2="0.1 0.15 0.2" width="100" height="100"/>
<material name="floor" texture="checker" texrepeat="2 2" texuniform="true" reflectance="0.5"/>
<mesh name="forearm_electric" file="forearm_electric.stl" scale="1 1 1"/>
<mesh name="forearm_hull" file="forearm_electric_cvx.stl" scale="1 1 1"/>
</asset>
<worldbody>
<light pos="0 1 4" dir="0 -1 -4" diffuse="0.8 0.8 0.8" specular="0.3 0.3 0.3"/>
<camera name="{camera}" pos="{eye}" xyaxes="{axes}" fovy="45"/>
<geom name="floor" type="plane" size="2 2 0.25" material="floor"/>
<body name="forearm" pos="0 -0.4 0.19" euler="-1.57 0 0">
<inertial pos="0 0 0.1" mass="4" diaginertia="0.01 0.01 0.0075"/>
<geom name="V_forearm" class="D_Vizual" mesh="forearm_electric" pos="0 -0.01 0.04" euler="0 0 -1.57"/>
<geom name="C_forearm" class="DC_Hand" type="mesh" mesh="forearm_hull" pos="0 -0.01 0.04" euler="0 0 -1.57"/>
<include file="{folder}/adroit_model.xml"/>
</body>
<body name="ball1" pos="{ball1}"><freejoint/><geom name="ball1" size="{radius}" mass="0.043" condim="4"
 friction="1 0.005 0.0001" rgba="1 0.8 0.31 1"/></body>
<body name="ball2" pos="{ball2}"><freejoint/><geom name="ball2" size="{radius}" mass="0.043" condim="4"
 friction="1 0.005 0.0001" rgba="0.84 0.59 0.53 1"/></body>
</worldbody>
</mujoco>"""


def assets() -> Path:
    """Return the folder of the hand's files in the installed package."""
    found = importlib.util.find_spec("gymnasium_robotics")  # its import is slow, and nothing of it is needed here
    if found is None or found.origin is None:
        raise EnvError("baoding: the package gymnasium-robotics is not installed (pip install gymnasium-robotics)")
    return Path(found.origin).parent / "envs" / "assets" / "adroit_hand"


def build_model() -> mujoco.MjModel:
    """Build the physics model, which is drawn for faithful pictures too: 24 actuators, 24 + 7 + 7 positions."""
    return _spec().compile()


@functools.cache
def light_model() -> mujoco.MjModel:
    """Build the model for fast frames: the same bodies and joints, thinned meshes, no collision shapes."""
    spec = _spec()
    for pair in list(spec.pairs):
        spec.delete(pair)
    for geom in list(spec.geoms):
        if geom.group >= _HIDDEN_GROUP:
            spec.delete(geom)
    for mesh in list(spec.meshes):
        if mesh.name in ("forearm_simple", "forearm_hull"):
            spec.delete(mesh)
            continue
        cell = CELLS.get(mesh.name, CELL) / mesh.scale[0]
        vertices, faces = cluster_triangles(read_stl(assets() / "resources" / "meshes" / mesh.file), cell)
        mesh.file = ""
        mesh.uservert = vertices.astype(np.float32).ravel()
        mesh.userface = faces.astype(np.int32).ravel()
        mesh.inertia = mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL  # clustering leaves the surface open
    for geom in spec.geoms:
        if geom.type in _ROUND:
            _faceted(spec, geom)
    return spec.compile()


def _faceted(spec: mujoco.MjSpec, geom: Any) -> None:
    """Make a sphere or an ellipsoid a mesh: the fast style draws round shapes with two stacks, as cones."""
    radii = np.full(3, geom.size[0]) if geom.type == mujoco.mjtGeom.mjGEOM_SPHERE else np.array(geom.size)
    vertices, faces = sphere_mesh(*(_BALL_FACETS if geom.type == mujoco.mjtGeom.mjGEOM_SPHERE else _PAD_FACETS))
    mesh = spec.add_mesh(name=f"mesh_{geom.name}")
    mesh.scale = (1.0, 1.0, 1.0)
    mesh.uservert = (vertices * radii).astype(np.float32).ravel()
    mesh.userface = faces.astype(np.int32).ravel()
    mesh.usernormal = _unit(vertices / radii).astype(np.float32).ravel()
    mesh.userfacenormal = faces.astype(np.int32).ravel()
    geom.type, geom.meshname = mujoco.mjtGeom.mjGEOM_MESH, mesh.name


def sphere_mesh(slices: int, stacks: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a unit sphere of `slices` by `stacks` facets: vertices (v, 3) float64 and faces (f, 3) of indices."""
    polar = np.pi * np.arange(1, stacks) / stacks
    around = 2.0 * np.pi * np.arange(slices) / slices
    ring = np.stack([np.cos(around), np.sin(around)], 1)
    rings = [np.column_stack([np.sin(p) * ring, np.full(slices, np.cos(p))]) for p in polar]
    vertices = np.concatenate([*rings, [[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]]])
    north, south = len(vertices) - 2, len(vertices) - 1
    here, after = np.arange(slices), (np.arange(slices) + 1) % slices
    faces = [np.stack([np.full(slices, north), here, after], 1)]
    for k in range(stacks - 2):
        a, b = k * slices, (k + 1) * slices
        faces += [np.stack([a + here, b + here, b + after], 1), np.stack([a + here, b + after, a + after], 1)]
    last = (stacks - 2) * slices
    faces += [np.stack([last + here, np.full(slices, south), last + after], 1)]
    return vertices, np.concatenate(faces)


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Return vectors (n, 3) scaled to length 1."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _spec() -> mujoco.MjSpec:
    """Return the scene before compilation: the package's hand with PDDM's numbers, and the balls."""
    ball1, ball2 = (" ".join(map(str, place)) for place in START_BALLS)
    names = {"folder": assets(), "camera": CAMERA, "eye": _EYE, "axes": _AXES, "radius": BALL_RADIUS}
    spec = mujoco.MjSpec.from_string(_SCENE.format(ball1=ball1, ball2=ball2, **names))
    spec.option.timestep = 0.0025
    spec.option.noslip_iterations = 0
    spec.material("MatViz").rgba = (0.15, 0.15, 0.15, 1.0)
    for tendon in list(spec.tendons):  # they only limit joints, which PDDM's do not
        spec.delete(tendon)
    for actuator in spec.actuators:
        if actuator.name in ("A_WRJ1", "A_WRJ0"):
            actuator.gainprm[0], actuator.biasprm[1] = 5.0, -5.0
    spec.actuator("A_WRJ1").ctrlrange = (-0.52, 0.17)
    spec.body("wrist").pos = (0.0, 0.0, 0.256)
    for geom in spec.geoms:
        if geom.classname.name == "DC_Hand":
            geom.friction = (1.0, 0.005, 0.001)
    for name in ("V_thbase", "V_thhub"):
        spec.geom(name).contype = spec.geom(name).conaffinity = 0
    for tip in TIPS:
        _shape_tip(spec, tip)
    return spec


def _shape_tip(spec: mujoco.MjSpec, tip: str) -> None:
    """Give a finger's last link PDDM's capsule, and a pad for its sensor on the side of the palm."""
    capsule, thumb = spec.geom(f"C_{tip}distal"), tip == "th"
    capsule.size[:2] = (0.01, 0.01) if thumb else (0.0075, 0.011)
    capsule.pos = (-0.004, 0.0, 0.0121) if thumb else (0.0, -0.003, 0.012)
    angle = -0.35 if thumb else 0.35
    along, across = np.cos(angle / 2), np.sin(angle / 2)
    capsule.quat = (along, 0.0, across, 0.0) if thumb else (along, across, 0.0, 0.0)
    turn = -np.pi / 4 if thumb else 0.0
    spec.body(f"{tip}distal").add_geom(
        name=f"pad_{tip}",
        type=mujoco.mjtGeom.mjGEOM_ELLIPSOID,
        size=(0.0102, 0.0115, 0.0160),
        pos=(-0.0056, 0.0, 0.0178) if thumb else (0.0, -0.0056, 0.0178),
        quat=(np.cos(turn), 0.0, 0.0, np.sin(turn)),
        contype=1,
        conaffinity=0,
        condim=3,
        friction=(1.0, 0.005, 0.001),
        margin=MARGIN,
        mass=0.0,
        group=1,
        rgba=(0.0, 0.9, 0.6, 1.0),
    )
