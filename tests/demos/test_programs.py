"""python -m demos.inspect and demos.convert, through their main functions."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from demos import cli, convert, dataset, inspect, pictures
from envs.episode import Episode
from envs.errors import RenderingError
from tests.demos.samples import cmil_hand, cmil_kitchen, edit, episode


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three valid episodes of different lengths."""
    made = tmp_path / "demos"
    made.mkdir()
    for number in range(3):
        dataset.save(made / f"ep{number}.npz", episode(rows=6 + number, seed=number))
    return made


def frames_of(film: Image.Image) -> int:
    """The number of frames of an animation."""
    return int(getattr(film, "n_frames"))  # noqa: B009 (the base class does not declare it)


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The single line that a failed program printed."""
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    return printed.err


def test_inspect_prints_and_draws(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect.main([str(folder), "columns=4"]) == 0
    printed = capsys.readouterr().out
    for number in range(3):
        assert f"ep{number}.npz" in printed
        assert dataset.checksum(episode(rows=6 + number, seed=number))[:12] in printed
    assert "kitchen" in printed and "1/2: kettle 3" in printed and "3 episodes, 18 steps, 9 actions" in printed
    sheet = Image.open(folder / "inspect" / "contact_sheet.png")
    assert sheet.width > 4 * 128 and sheet.height > 3 * 128
    film = Image.open(folder / "inspect" / "demos.gif")
    assert frames_of(film) == 8  # the longest episode has 8 rows


def test_inspect_output_folder_is_not_mistaken_for_demonstrations(folder: Path) -> None:
    for _ in range(2):
        assert inspect.main([f"path={folder}", f"out={folder}"]) == 0


def test_inspect_one_file_and_limit(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect.main([str(folder / "ep1.npz"), f"out={tmp_path / 'o'}"]) == 0
    assert inspect.main([str(folder), "limit=2", f"out={tmp_path / 'o'}"]) == 0
    printed = capsys.readouterr().out
    assert "1 episodes" in printed and "2 episodes" in printed and "ep2.npz" not in printed


def test_inspect_draws_a_bounded_number_of_episodes_and_lists_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[np.ndarray] = []
    monkeypatch.setattr(pictures, "animation", lambda images, *_: drawn.extend(images) or b"")
    made = [episode(rows=2, seed=seed) for seed in range(23)]
    for number, one in enumerate(made):
        dataset.save(tmp_path / f"ep{number:02d}.npz", one)
    for more, shown in ((["pictures=3"], [0, 8, 20]), ([], None), (["pictures=23"], [*range(23)])):
        drawn.clear()
        assert inspect.main([str(tmp_path), f"out={tmp_path / 'look'}", *more]) == 0
        said = capsys.readouterr().out
        assert all(f"ep{number:02d}.npz" in said for number in range(23)) and "23 episodes, 23 steps" in said
        found = [
            number for image in drawn for number, one in enumerate(made) if np.array_equal(one.obs["image"], image)
        ]
        assert found == shown if shown else (len(found), found[0], found[-1]) == (20, 0, 22)
        assert (f"in the pictures: {len(found)} of 23 episodes" in said) == (len(found) < 23)


def test_inspect_without_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = episode()
    dataset.save(tmp_path / "a.npz", dataclasses.replace(made, obs={"state": made.obs["state"]}))
    assert inspect.main([str(tmp_path)]) == 0
    assert "no images" in capsys.readouterr().out
    assert not (tmp_path / "inspect").exists()


def test_inspect_names_the_broken_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(folder / "ep1.npz", action=None)
    assert inspect.main([str(folder)]) == 1
    assert f"{folder / 'ep1.npz'}: action: missing" in one_line(capsys)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{folder}", "taks=kitchen"], "did you mean 'task'"),
        (["{folder}", "limit=two"], "limit=two: expected int"),
        (["{folder}", "columns=0"], "at least 1"),
        (["{folder}", "{folder}"], "not key=value"),
        (["{folder}", "task=a", "task=b"], "twice"),
        (["{folder}", "task="], "no value"),
        (["{folder}", "task=baoding"], "this run is about 'baoding'"),
        ([], "path=... is missing"),
        (["{folder}/nowhere"], "no such file or folder"),
        (["{folder}", "out={folder}/ep0.npz"], "out: cannot be made"),
    ],
)
def test_inspect_usage(folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str) -> None:
    assert inspect.main([argument.format(folder=folder) for argument in arguments]) == 1
    assert words in capsys.readouterr().err


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect.main(["--help"]) == 0 and convert.main(["--help"]) == 0
    assert "columns" in capsys.readouterr().out


def test_convert_and_read_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "src", tmp_path / "deep" / "out"
    source.mkdir()
    for number in range(2):
        cmil_hand(source / f"d{number}.npz", seed=number)
    arguments = ["format=cmil", f"src={source}", f"out={out}"]
    assert convert.main(arguments) == 0
    before = dataset.load(source, obs_keys=None)
    after = dataset.load(out, task="baoding", obs_keys=None)
    assert [dataset.checksum(one) for one in after] == [dataset.checksum(one) for one in before]
    assert after[0].meta["file"] == "d0.npz" and after[0].meta["source"] == "cmil"
    capsys.readouterr()

    (out / "d1.npz").write_bytes(b"mine")
    assert convert.main(arguments) == 1
    assert "force=true" in one_line(capsys)
    assert (out / "d1.npz").read_bytes() == b"mine"
    assert convert.main([*arguments, "force=true"]) == 0
    assert len(dataset.load(out)) == 2


@pytest.mark.parametrize("format_name", ["own", "cmli"])
def test_convert_wrong_format(tmp_path: Path, capsys: pytest.CaptureFixture[str], format_name: str) -> None:
    cmil_kitchen(tmp_path / "a.npz")
    assert convert.main([f"format={format_name}", f"src={tmp_path}", f"out={tmp_path / 'out'}"]) == 1
    assert ("is cmil, not own" if format_name == "own" else "did you mean 'cmil'") in one_line(capsys)


def test_convert_writes_nothing_when_a_source_is_bad(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(2):
        cmil_kitchen(tmp_path / f"{number}.npz")
    edit(tmp_path / "1.npz", action=np.ones((6, 9), np.float32))
    assert convert.main(["format=cmil", f"src={tmp_path}", f"out={tmp_path / 'out'}"]) == 1
    said = capsys.readouterr()
    progress, error = said.err.splitlines()
    assert progress.startswith("0.npz: 5 steps") and progress.endswith("(file 1 of 2)") and said.out == ""
    assert "1.npz: action: row 0" in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.npz", "1.npz"]


def test_an_interrupted_conversion_leaves_what_was_there(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["format=own", f"src={folder}", f"out={tmp_path / 'out'}"]
    assert convert.main([*arguments, "episodes=1"]) == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.npz")}
    real = dataset.save

    def save(path: Path, made: Episode) -> None:
        if path.name == "ep2.npz":
            raise KeyboardInterrupt
        real(path, made)

    monkeypatch.setattr(dataset, "save", save)
    assert convert.main([*arguments, "force=true"]) == 130
    assert capsys.readouterr().err.endswith("(file 2 of 3)\ninterrupted; nothing was written\n")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.npz")} == before


def test_long_animations_skip_frames_but_show_the_last() -> None:
    frames = np.zeros((2 * pictures.MAX_FRAMES + 5, 64, 64, 3), np.uint8)
    frames[-1] = 200
    captions = [[""] * len(frames)]
    film = Image.open(io.BytesIO(pictures.animation([frames], captions)))
    assert frames_of(film) <= pictures.MAX_FRAMES + 1
    film.seek(frames_of(film) - 1)
    assert film.convert("RGB").getpixel((70, 70)) == (200, 200, 200)


def test_the_readme_example_works(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (root / "demos" / "README.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    (made,) = dataset.load(tmp_path, task="line", obs_keys=("image", "state"))
    assert made.steps == 30 and made.sim_state is not None


def test_a_robot_s_own_demonstration_is_written_into_a_new_folder(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = [part.split("```")[0] for part in (root / "docs/robot.md").read_text().split("```python\n")[1:]]
    (code,) = [block for block in blocks if "from demos.dataset import save" in block]
    monkeypatch.chdir(tmp_path)
    made = episode()
    exec(compile(code, "robot.md", "exec"), {"images": made.obs["image"], "actions": made.action})
    (found,) = dataset.load("mine", task="kitchen")
    np.testing.assert_array_equal(found.obs["image"], made.obs["image"])


@dataclasses.dataclass(frozen=True)
class Sample:
    """One field of every type that the parser knows."""

    out: Path
    episodes: int = 10
    rate: float = 0.5
    force: bool = False
    task: str | None = "x"


def test_parse_types() -> None:
    parsed = cli.parse(["out=a=b", "episodes=3", "rate=1e-3", "force=True", "task=none"], Sample)
    assert parsed == Sample(Path("a=b"), 3, 1e-3, True, None)
    assert cli.parse(["some/where=x"], Sample, positional="out").out == Path("some/where=x")


@pytest.mark.parametrize("argument", ["force=maybe", "episodes=1.5", "rate=fast"])
def test_parse_refuses_wrong_types(argument: str) -> None:
    with pytest.raises(cli.UsageError, match=argument.split("=")[0]):
        cli.parse(["out=x", argument], Sample)


def test_an_interrupted_program_says_that_what_was_finished_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    @dataclasses.dataclass(frozen=True)
    class Nothing:
        """No arguments."""

    def body(_: Nothing) -> None:
        raise KeyboardInterrupt

    def broken(_: Nothing) -> None:
        raise RenderingError("no picture: install libegl1")

    assert cli.run(body, Nothing, [], "usage") == 130
    assert capsys.readouterr().err == "interrupted; what was finished is kept\n"
    assert cli.run(broken, Nothing, [], "usage") == 1
    assert capsys.readouterr().err == "no picture: install libegl1\n"
