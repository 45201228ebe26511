"""Kinematics of the Kitchen's Franka arm: where the fingers are, and which action moves them with a wanted velocity."""

from __future__ import annotations

import mujoco
import numpy as np

JOINTS = 7
TOOL = 0.24  # m from the flange along the fingers: 2 cm short of their tips
STEP = 0.08  # s, one control step
COMMAND = 0.16  # rad that an action of 1 asks for in one step (2 rad/s for 0.08 s)
# Position servos against joint damping: a step moves a joint by 1 - exp(-STEP stiffness / damping) of what was asked.
STIFFNESS = np.array([870.0] * 4 + [120.0] * 3)
DAMPING = np.array([100.0] * 4 + [10.0] * 3)
REACH = 1.0 - np.exp(-STEP * STIFFNESS / DAMPING)
LIMIT_MARGIN = 0.04  # rad kept from the joint limits
SENSITIVITY = 0.3  # m per rad: how much a radian of misdirection counts against a metre of misplacement
REGULARISER = 4e-3  # of the damped least squares, squared metres per squared radian
_FLANGE = "panda0_link7"
_QUARTER = np.array([[np.sqrt(0.5), np.sqrt(0.5), 0.0], [-np.sqrt(0.5), np.sqrt(0.5), 0.0], [0.0, 0.0, 1.0]])


class Arm:
    """Forward and differential kinematics on a private MjData, so that asking never disturbs a simulation."""

    def __init__(self, model: mujoco.MjModel) -> None:
        """Keep the model of the Kitchen (its first seven joints are the arm); nothing in it is changed."""
        self._model = model
        self._data = mujoco.MjData(model)
        self._flange = model.body(_FLANGE).id
        self._jacobian = np.zeros((6, model.nv))
        self.low = model.jnt_range[:JOINTS, 0] + LIMIT_MARGIN
        self.high = model.jnt_range[:JOINTS, 1] - LIMIT_MARGIN
        # the environment's controller refuses to command this joint below 0
        self.low[5] = max(self.low[5], LIMIT_MARGIN)

    def place(self, joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the tool point (3,) in metres and the tool's rotation (3, 3) at joint angles (7,).

        The rotation's columns: third the direction the fingers point, second from the right to the left finger.
        """
        self._data.qpos[:JOINTS] = joints
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_comPos(self._model, self._data)
        rotation = self._data.xmat[self._flange].reshape(3, 3) @ _QUARTER
        return self._data.xpos[self._flange] + TOOL * rotation[:, 2], rotation

    def joint_velocity(
        self, joints: np.ndarray, linear: np.ndarray, angular: np.ndarray, posture: np.ndarray
    ) -> np.ndarray:
        """Return joint velocities (7,) rad/s that move the tool as wanted, by damped least squares.

        Args:
            joints: joint angles (7,).
            linear, angular: wanted velocity of the tool point (3,) m/s and of its frame (3,) rad/s, world axes.
            posture: joint velocities (7,) rad/s to have where the tool's motion leaves freedom.

        Joints that would pass a limit within a step are held there and the others are solved for again.
        """
        point, _ = self.place(joints)
        mujoco.mj_jac(self._model, self._data, self._jacobian[:3], self._jacobian[3:], point, self._flange)
        scale = np.array([1.0] * 3 + [SENSITIVITY] * 3)
        jacobian = self._jacobian[:, :JOINTS] * scale[:, None]
        wanted = np.concatenate([linear, angular]) * scale
        lowest, highest = (self.low - joints) / (2 * STEP), (self.high - joints) / (2 * STEP)
        velocity = np.zeros(JOINTS)
        free = np.ones(JOINTS, np.bool_)
        for _ in range(JOINTS):
            part = jacobian[:, free]
            rest = wanted - jacobian[:, ~free] @ velocity[~free]
            square = part.T @ part + REGULARISER * np.eye(int(free.sum()))
            # minimise |J v - wanted|^2 + REGULARISER |v - posture|^2
            velocity[free] = np.linalg.solve(square, part.T @ rest + REGULARISER * posture[free])
            bad = free & ((velocity < lowest) | (velocity > highest))
            if not bad.any():
                break
            velocity[bad] = np.clip(velocity[bad], lowest[bad], highest[bad])
            free &= ~bad
        return velocity

    def action(self, joints: np.ndarray, velocity: np.ndarray) -> np.ndarray:
        """Return the seven actions (unclipped) that give joint velocities (7,) rad/s, gravity's pull made up for."""
        self._data.qpos[:JOINTS] = joints
        self._data.qvel[:] = 0.0
        mujoco.mj_forward(self._model, self._data)
        sag = self._data.qfrc_bias[:JOINTS] / STIFFNESS
        return (velocity * STEP / REACH + sag) / COMMAND


def rotation_error(wanted: np.ndarray, current: np.ndarray) -> np.ndarray:
    """Return the rotation vector (3,) in radians that turns `current` (3, 3) into `wanted` (3, 3), in world axes."""
    quaternion, vector = np.zeros(4), np.zeros(3)
    mujoco.mju_mat2Quat(quaternion, (wanted @ current.T).ravel())
    mujoco.mju_quat2Vel(vector, quaternion, 1.0)
    return vector


def turned(rotation: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Return `rotation` (3, 3) turned by a rotation vector (3,) in radians, world axes."""
    angle = float(np.linalg.norm(vector))
    quaternion, matrix = np.zeros(4), np.zeros(9)
    mujoco.mju_axisAngle2Quat(quaternion, vector / max(angle, 1e-12), angle)
    mujoco.mju_quat2Mat(matrix, quaternion)
    return matrix.reshape(3, 3) @ rotation


def tool_rotation(yaw: float, pitch: float) -> np.ndarray:
    """Return the rotation (3, 3) of a tool with level fingers: yaw from +y towards -x, pitch upwards, in degrees."""
    turn, rise = np.radians([yaw, pitch])
    point = np.array([-np.sin(turn) * np.cos(rise), np.cos(turn) * np.cos(rise), np.sin(rise)])
    opening = np.array([np.cos(turn), np.sin(turn), 0.0])
    return np.stack([np.cross(opening, point), opening, point], 1)
