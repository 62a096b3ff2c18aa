# /// script
# requires-python = ">=3.11"
# dependencies = ["nox[uv]>=2026.2"]
# ///
"""The sessions of the house: `nox` runs what a change must pass, `nox -l` lists them all, `nox -s NAME` runs one."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nox
from packaging.requirements import Requirement

ROOT = Path(__file__).parent
PROJECTS: dict[str, dict[str, Any]] = {
    path.parent.name: nox.project.load_toml(path) for path in sorted(ROOT.glob("packages/*/pyproject.toml"))
}
FOLDERS = {name: ROOT / "packages" / name for name in PROJECTS}
FOLDERS["visual-entailment"] = ROOT / "tests" / "downstream"  # what a stranger builds on the five, in small
EVERY_PACKAGE = nox.parametrize("package", [nox.param(name, id=name) for name in PROJECTS])
RUFF = "ruff>=0.17.6,<0.18"  # a formatter's minor versions move lines
MYPY = "mypy>=2.4,<3"
TWINE = "twine>=6.1,<8"
XDIST = "pytest-xdist>=3.8,<4"
DOCS = ["sphinx>=8.2,<9", "myst-parser>=5,<6", "furo>=2025.12", "sphinx-copybutton>=0.5.2,<1"]

nox.needs_version = ">=2026.2"
nox.options.default_venv_backend = "uv"
nox.options.reuse_venv = "yes"
nox.options.error_on_missing_interpreters = True
nox.options.sessions = ["lint", "types", "test", "together"]


@nox.session
def lint(session: nox.Session) -> None:
    """Format and rules, by ruff."""
    session.install(RUFF)
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Types of the packages' sources, by mypy, beside the libraries that they use."""
    editable = [argument for name in PROJECTS for argument in ("--editable", f"packages/{name}")]
    session.install(MYPY, "--no-sources", *editable)
    session.run("mypy", *(f"packages/{name}/src" for name in PROJECTS), env={"PYTHONPATH": None})


@nox.session(reuse_venv=False)  # a kept environment would hide a dependency that is no longer declared
@EVERY_PACKAGE
def test(session: nox.Session, package: str) -> None:
    """One package's tests on its wheel, with nothing beside what it declares."""
    project = PROJECTS[package]
    groups = [name for name in ("test", "test-newest") if name in project["dependency-groups"]]
    install_wheels(session, closure(package), *nox.project.dependency_groups(project, *groups))
    run_tests(session, package)


@nox.session(reuse_venv=False)  # a kept environment would keep its newer versions
@EVERY_PACKAGE
def lowest(session: nox.Session, package: str) -> None:
    """One package's tests with the lowest versions that it promises to run with."""
    install_wheels(
        session,
        closure(package),
        "--resolution=lowest-direct",
        # To uv a wheel's requirements are not direct: without this line the highest versions would be tested.
        *(line for line in PROJECTS[package]["project"]["dependencies"] if Requirement(line).name not in PROJECTS),
        *nox.project.dependency_groups(PROJECTS[package], "test"),
    )
    run_tests(session, package)


@nox.session(reuse_venv=False)
def together(session: nox.Session) -> None:
    """The tests that concern all packages, with the five wheels and a stranger's in one environment."""
    groups = {line for project in PROJECTS.values() for line in nox.project.dependency_groups(project, "test")}
    install_wheels(session, FOLDERS, *sorted(groups))
    run_pytest(session, ROOT / "tests")


@nox.session(reuse_venv=False)
def clients(session: nox.Session) -> None:
    """Trainers of other people's (transformers, accelerate, Lightning, peft) drive a task model, three steps each."""
    project = PROJECTS["fiber-heads"]
    install_wheels(session, closure("fiber-heads"), *nox.project.dependency_groups(project, "test", "clients"))
    run_pytest(session, ROOT / "packages" / "fiber-heads" / "tests" / "clients")


@nox.session(reuse_venv=False)
def export(session: nox.Session) -> None:
    """Exported parts against the models at many sizes, and used without torch; minutes."""
    project = PROJECTS["fiber-train"]
    install_wheels(session, closure("fiber-train"), *nox.project.dependency_groups(project, "test"))
    run_pytest(session, *(ROOT / "packages" / name / "tests" / "export" for name in ("fiber-heads", "fiber-train")))


@nox.session
def fuzz(session: nox.Session) -> None:
    """Mutations of valid files of every kind, 10^5 by default: `nox -s fuzz -- --cases 5000 coco_boxes`."""
    install_wheels(session, PROJECTS)
    session.run(
        "python", "-m", "fuzz", *session.posargs, env={"PYTHONPATH": str(ROOT / "tests"), "OMP_NUM_THREADS": "1"}
    )


@nox.session
def build(session: nox.Session) -> None:
    """Wheel and sdist of each package in dist/, whole, with sound metadata and a section in the changelog."""
    session.install(TWINE)
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    for package, project in PROJECTS.items():
        version = project["project"]["version"]
        if f"\n## [{version}]" not in (ROOT / "packages" / package / "CHANGELOG.md").read_text(encoding="utf-8"):
            session.error(f"packages/{package}/CHANGELOG.md has no section '## [{version}]'; add one, or mend version")
        session.run_install("uv", "build", "--quiet", "--no-sources", "--out-dir", "dist", f"packages/{package}")
        check_wheel(session, package, version)
    session.run("twine", "check", "--strict", *(str(path) for path in sorted((ROOT / "dist").glob("fiber_*"))))


@nox.session
def release(session: nox.Session) -> None:
    """What a tag releases, in dist/: `nox -s release -- [TAG] [QUICKSTART]`, with a quickstart's models as a wheel.

    A tag is v0.2.0, or fiber-data/0.2.1 for one package. Without it the rest is checked, to try before a release.
    """
    quickstarts = [word for word in session.posargs if Path(word).is_dir()]
    for tag in session.posargs:
        if tag not in quickstarts:
            session.run("python", "release/tag.py", tag)
    build(session)
    again = Path(session.create_tmp())
    for sdist in sorted((ROOT / "dist").glob("*.tar.gz")):
        session.run_install("uv", "build", "--quiet", "--wheel", "--out-dir", str(again), str(sdist))
    for wheel in sorted((ROOT / "dist").glob("*.whl")):
        if set(zipfile.ZipFile(wheel).namelist()) != set(zipfile.ZipFile(again / wheel.name).namelist()):
            session.error(f"{wheel.name}: its sdist builds a wheel with other files; see its pyproject.toml")
    if quickstarts:
        install_wheels(session, closure("fiber-train"))
        sources = again / "fiber-scenes"
        shutil.rmtree(sources, ignore_errors=True)
        session.run("python", "release/scenes.py", str(Path(quickstarts[0]).absolute()), str(sources))
        session.run_install("uv", "build", "--quiet", "--wheel", "--out-dir", "dist", str(sources))
        session.run("twine", "check", "--strict", *map(str, (ROOT / "dist").glob("fiber_scenes-*")))


@nox.session
def quickstart(session: nox.Session) -> None:
    """A small model from generated images to a report: `nox -s quickstart -- OPTIONS` passes options on."""
    install_wheels(session, PROJECTS)
    kept = {"PYTHONDONTWRITEBYTECODE": None}  # else its second process would compile torch's sources once more
    session.run("fiber", "quickstart", "--out", "quickstart", *session.posargs, env=kept)


@nox.session(name="docs-check")
def docs_check(session: nox.Session) -> None:
    """Every block of the tutorials, as a reader types it, each in an empty folder: `nox -s docs-check -- search`."""
    install_wheels(session, PROJECTS)
    session.run("python", "tests/blocks.py", *session.posargs, env={"PYTHONPATH": None})


@nox.session
def notebooks(session: nox.Session) -> None:
    """The notebooks of docs/notebooks, run on untrained models or on yours (`-- quickstart`), to build/notebooks."""
    install_wheels(session, PROJECTS, "jupytext>=1.16,<2", "nbclient>=0.10,<1", "ipykernel>=6.29,<8")
    session.run("python", "tests/notebooks.py", "docs/notebooks", "build/notebooks", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """The site, in docs/_build/html; a warning is an error. `nox -s docs -- linkcheck`: links to other sites, too."""
    install_wheels(session, PROJECTS, *DOCS)
    options = ["--nitpicky", "--fail-on-warning", "--quiet", "--jobs=auto"]
    for builder in ("html", *session.posargs):
        session.run("sphinx-build", *options, f"--builder={builder}", "docs", f"docs/_build/{builder}")


@nox.session
def demo(session: nox.Session) -> None:
    """`fiber demo`, in a browser, too: `nox -s demo -- [QUICKSTART [VQA CAPTION_MLE NLVR2] [--docs docs/images]]`.

    By default the quickstart is a tiny one, and the runs of the other tasks are trained for seconds from its coarse
    stage. Where words look is measured on fresh scenes, which only whole models pass. `--docs` renews the guide's
    screenshots.
    """
    install_wheels(session, closure("fiber-train"), *nox.project.dependency_groups(PROJECTS["fiber-train"], "demo"))
    folder, tests = Path(*session.posargs[:1] or ["demo", "quickstart"]), "packages/fiber-train/tests"
    runs = [word for word in session.posargs[1:] if Path(word).joinpath("config.yaml").is_file()]
    rest = [word for word in session.posargs[1:] if word not in runs]
    if not session.posargs:
        few = ("trainer.max_steps=20", "trainer.batch_size=16", "task.detection.score_threshold=0")
        session.run("fiber", "quickstart", "--out", str(folder), *few)
    session.run("pytest", "--config-file=pyproject.toml", "--rootdir=.", "--import-mode=importlib", f"{tests}/demo")
    if session.posargs:
        session.run("python", f"{tests}/light_up.py", str(folder / "fine"), "--least", "2")
    if not runs:
        data = (f"data.root={folder / 'scenes'}", f"model.checkpoint={folder / 'coarse'}", "data.num_workers=0")
        for recipe in ("vqa", "caption_mle", "nlvr2"):
            runs.append(f"demo/runs/{recipe}")
            session.run("fiber", "train", recipe, "small", *data, f"out={runs[-1]}", "trainer.max_steps=20")
    shown = (str(folder / "fine"), str(folder / "coarse"), *runs, "--images", str(folder / "scenes" / "images" / "val"))
    session.run("python", f"{tests}/drive_demo.py", *shown, "--out", "demo/screenshots", *rest)


@nox.session
def kill(session: nox.Session) -> None:
    """A hundred runs (`-- 20`: twenty) killed at random moments and resumed: each must end in the same bits."""
    install_wheels(session, closure("fiber-train"))
    session.run("python", "packages/fiber-train/tests/kill.py", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """The benchmarks: all, or those whose path holds a given word (`nox -s bench -- fiber-heads forward`)."""
    scripts = [str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("packages/*/benchmarks/*.py"))]
    chosen = [path for path in scripts if not session.posargs or any(word in path for word in session.posargs)]
    if not chosen:
        session.error(f"no benchmark's path holds {' or '.join(session.posargs)}; there are {', '.join(scripts)}")
    install_wheels(session, PROJECTS)
    for path in chosen:
        session.run("python", path)


@nox.session
def recipes(session: nox.Session) -> None:
    """RECIPES.md: the settings of the recipes beside the original's."""
    install_wheels(session, closure("fiber-train"))
    session.run("python", "packages/fiber-train/tests/recipe_page.py")


@nox.session
def results(session: nox.Session) -> None:
    """RESULTS.md: what each recipe reaches on generated scenes, in an hour; runs that are whole are not made again."""
    install_wheels(session, closure("fiber-train"))
    session.run("python", "packages/fiber-train/tests/results.py", "--out", "results", *session.posargs)


@nox.session
def device(session: nox.Session) -> None:
    """What the accelerator that is here does with the models, in eight minutes: `nox -s device -- OPTIONS`."""
    install_wheels(session, closure("fiber-train"))
    session.run("python", "packages/fiber-train/benchmarks/device.py", *session.posargs)


def closure(package: str) -> list[str]:
    """The package and every package of this repository that it needs, itself last."""
    names = [Requirement(line).name for line in PROJECTS[package]["project"]["dependencies"]]
    found = [below for name in names if name in PROJECTS for below in closure(name)]
    return list(dict.fromkeys([*found, package]))


def install_wheels(session: nox.Session, packages: Iterable[str], *arguments: str) -> None:
    """Build the packages' wheels and install the files: by name, a stranger's package on the index could win."""
    dist = Path(session.virtualenv.location, "dist")
    shutil.rmtree(dist, ignore_errors=True)
    for package in packages:
        session.run_install("uv", "build", "--quiet", "--wheel", "--out-dir", str(dist), str(FOLDERS[package]))
    again = [f"--reinstall-package={package}" for package in packages]  # the same version may hold other code
    session.install("--no-sources", *again, *(str(path) for path in sorted(dist.glob("*.whl"))), *arguments)


def run_tests(session: nox.Session, package: str) -> None:
    """Import the package by itself, then run its tests and the blocks of its README."""
    session.run("python", "-I", "-c", f"import {package.replace('-', '_')}")
    readme = f"{ROOT / 'tests' / 'test_readme.py'}::test_snippets_run[packages/{package}]"
    run_pytest(session, ROOT / "packages" / package / "tests", readme)


def run_pytest(session: nox.Session, *tests: Path | str) -> None:
    """Run folders of tests or single ones from an empty folder, so that only what is installed can be imported."""
    session.install(XDIST)
    workers = ["--numprocesses=auto", "--maxprocesses=4", "--dist=worksteal"]
    threads = os.environ.get("OMP_NUM_THREADS", "1")  # many small models: more threads only wait for each other
    empty = Path(session.virtualenv.location, "empty")
    shutil.rmtree(empty, ignore_errors=True)
    empty.mkdir()
    settings = [f"--config-file={ROOT / 'pyproject.toml'}", f"--rootdir={ROOT}", "--import-mode=importlib"]
    with session.chdir(empty):
        session.run(
            "pytest",
            *settings,
            *workers,
            *map(str, tests),
            *session.posargs,
            # Without bytecode each of the processes that tests start would compile torch's sources again.
            env={"OMP_NUM_THREADS": threads, "PYTHONPATH": None, "PYTHONDONTWRITEBYTECODE": None},
        )


def check_wheel(session: nox.Session, package: str, version: str) -> None:
    """Fail unless the wheel holds every file of the sources, `py.typed` among them."""
    source = ROOT / "packages" / package / "src"
    name = package.replace("-", "_")
    files = {path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()}
    wanted = {path for path in files if not path.endswith(".pyc")} | {f"{name}/py.typed"}
    with zipfile.ZipFile(ROOT / "dist" / f"{name}-{version}-py3-none-any.whl") as wheel:
        missing = sorted(wanted - set(wheel.namelist()))
    if missing:
        session.error(
            f"the wheel of {package} lacks {', '.join(missing)}; see [tool.hatch.build] in its pyproject.toml"
        )


if __name__ == "__main__":
    nox.main()
