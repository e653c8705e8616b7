"""create_worktree on real repositories: what it makes, what it refuses, what it leaves behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fastvideo_port.port.errors import PortError
from fastvideo_port.tools.base import ToolContext
from fastvideo_port.tools.create_worktree import CreateWorktreeResult, create_worktree
from fastvideo_port.tools.list_ports import list_ports

Git = Callable[..., str]


def snapshot(folder: Path) -> set[str]:
    """Every path below ``folder`` but git's own."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if ".git" not in path.parts}


def state_of(git: Git, repository: Path) -> tuple[str, str, set[str]]:
    """Branches, worktrees and neighbours: what a failure must leave as it was."""
    branches = git(repository, "for-each-ref", "--format=%(refname) %(objectname)")
    worktrees = git(repository, "worktree", "list", "--porcelain")
    return branches, worktrees, {path.name for path in repository.parent.iterdir()}


def test_a_worktree_stands_beside_the_repository_on_a_branch_of_its_own(
    context: ToolContext, fastvideo: Path, git: Git
) -> None:
    made = create_worktree(context, "Wan 2.2 / TI2V (5B)", python=sys.executable, goal="t2v")
    path = Path(made.worktree)
    assert path.parent == fastvideo.parent
    assert path.name.startswith("FastVideo-wan-2-2-ti2v-5b-2")
    assert made.branch == "codex/port-" + path.name.removeprefix("FastVideo-")
    assert 0 <= made.next_step.find("fetch_official_repo") < made.next_step.find("fetch_weights")
    assert made.mode == "worktree"
    assert git(path, "branch", "--show-current") == made.branch
    assert git(path, "rev-parse", "HEAD") == git(fastvideo, "rev-parse", "main") == made.base_commit
    assert git(path, "status", "--porcelain") == ""
    assert (path / "fastvideo/registry.py").read_text() == "REGISTRY = {}\n"
    assert git(fastvideo, "branch", "--show-current") == "main"
    record = context.ports.get(made.port_id)
    assert (record.model_name, record.goal, record.worktree) == ("Wan 2.2 / TI2V (5B)", "t2v", made.worktree)
    assert "fetch_weights" in made.next_step


def test_weights_are_excluded_without_touching_tracked_files(context: ToolContext, fastvideo: Path, git: Git) -> None:
    made = create_worktree(context, "Wan", python=sys.executable)
    path = Path(made.worktree)
    for folder in ("official_weights", "converted_weights", "official_repos"):
        (path / folder).mkdir()
        (path / folder / "x.bin").write_bytes(b"x")
    assert git(path, "status", "--porcelain") == ""
    assert made.excluded == ["/official_weights/", "/converted_weights/", "/official_repos/"]
    again = create_worktree(context, "Wan", python=sys.executable)
    assert again.excluded == made.excluded
    lines = (fastvideo / ".git/info/exclude").read_text().splitlines()
    assert lines.count("/official_weights/") == 1


def test_a_gitignore_that_brings_weights_back_is_named(context: ToolContext, fastvideo: Path, git: Git) -> None:
    (fastvideo / ".gitignore").write_text("!/official_weights/\n")
    git(fastvideo, "add", ".gitignore")
    git(fastvideo, "commit", "-q", "-m", "ignore")
    made = create_worktree(context, "Wan", python=sys.executable)
    assert "/official_weights/" not in made.excluded
    assert any("official_weights/ is not ignored" in note for note in made.notes)


def test_a_dirty_repository_stays_as_it_is_and_the_result_says_what_was_left(
    context: ToolContext, fastvideo: Path, git: Git
) -> None:
    (fastvideo / "README.md").write_text("changed\n")
    (fastvideo / "new file").write_text("new\n")
    git(fastvideo, "mv", "fastvideo/registry.py", "fastvideo/other.py")
    (fastvideo / "fastvideo/registry.py").write_text("REGISTRY = {}\n")
    before = git(fastvideo, "status", "--porcelain")
    made = create_worktree(context, "Wan", python=sys.executable)
    assert git(fastvideo, "status", "--porcelain") == before
    assert " M README.md" in made.dirty
    assert "?? new file" in made.dirty
    assert (Path(made.worktree) / "README.md").read_text() == "FastVideo\n"
    assert not (Path(made.worktree) / "new file").exists()
    assert any("uncommitted" in note for note in made.notes)


def test_the_list_of_changes_is_bounded_and_counted(context: ToolContext, fastvideo: Path) -> None:
    for number in range(60):
        (fastvideo / f"file{number}").write_text("")
    made = create_worktree(context, "Wan", python=sys.executable)
    assert len(made.dirty) == 40
    assert made.dirty_count == 60


def test_no_git_identity_is_enough_and_is_said(context: ToolContext) -> None:
    made = create_worktree(context, "Wan", python=sys.executable)
    assert any("user.email" in note for note in made.notes)


def test_a_locked_worktree_of_the_repository_is_no_hindrance(context: ToolContext, fastvideo: Path, git: Git) -> None:
    first = create_worktree(context, "Wan", python=sys.executable)
    git(fastvideo, "worktree", "lock", first.worktree)
    second = create_worktree(context, "Wan", python=sys.executable)
    assert second.worktree != first.worktree


def test_a_worktree_of_a_worktree_works(context: ToolContext, git: Git) -> None:
    first = create_worktree(context, "Wan", python=sys.executable)
    inner = ToolContext(home=context.home, cwd=Path(first.worktree) / "fastvideo")
    second = create_worktree(inner, "Wan", python=sys.executable)
    assert Path(second.worktree).parent == Path(first.worktree).parent
    (Path(second.worktree) / "official_weights").mkdir()
    (Path(second.worktree) / "official_weights/x").write_text("")
    assert git(Path(second.worktree), "status", "--porcelain") == ""


def test_a_shallow_clone_works_and_is_named(context: ToolContext, fastvideo: Path, git: Git, tmp_path: Path) -> None:
    (fastvideo / "README.md").write_text("more\n")
    git(fastvideo, "commit", "-q", "-a", "-m", "more")
    git(tmp_path, "clone", "-q", "--depth", "1", f"file://{fastvideo}", "shallow")
    made = create_worktree(context, "Wan", fastvideo_repo=str(tmp_path / "shallow"), python=sys.executable)
    assert any("shallow" in note for note in made.notes)


def test_two_processes_in_the_same_second_do_not_clash(context: ToolContext, fastvideo: Path) -> None:
    code = (
        "import sys, pathlib, json\n"
        "from fastvideo_port.tools.base import ToolContext\n"
        "from fastvideo_port.tools.create_worktree import create_worktree\n"
        "home, cwd = map(pathlib.Path, sys.argv[1:3])\n"
        "for _ in range(2):\n"
        "    print(create_worktree(ToolContext(home, cwd), 'Wan', python=sys.executable).model_dump_json())\n"
    )
    command = [sys.executable, "-c", code, str(context.home), str(fastvideo)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(3)]
    ended = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0, 0, 0], ended
    made = [json.loads(line) for out, _ in ended for line in out.splitlines()]
    assert len({item["worktree"] for item in made}) == len({item["branch"] for item in made}) == 6
    assert all((Path(item["worktree"]) / "fastvideo/registry.py").is_file() for item in made)
    assert list_ports(context).count == 6


def test_outside_a_repository_a_local_path_is_cloned_below_home(
    context: ToolContext, fastvideo: Path, tmp_path: Path, git: Git
) -> None:
    elsewhere = ToolContext(home=context.home, cwd=tmp_path)
    made = create_worktree(elsewhere, "Wan", clone_url=str(fastvideo), python=sys.executable)
    path = Path(made.worktree)
    assert made.mode == "clone"
    assert path.parent == Path.home() / "dev"
    assert git(path, "branch", "--show-current") == made.branch
    (path / "official_weights").mkdir()
    (path / "official_weights/x").write_text("")
    assert git(path, "status", "--porcelain") == ""


def test_a_bare_repository_can_be_cloned_but_not_branched_from(
    context: ToolContext, fastvideo: Path, tmp_path: Path, git: Git
) -> None:
    git(tmp_path, "clone", "-q", "--bare", str(fastvideo), "bare.git")
    with pytest.raises(PortError, match="no work tree") as caught:
        create_worktree(context, "Wan", fastvideo_repo=str(tmp_path / "bare.git"), python=sys.executable)
    assert "clone_url" in caught.value.fix
    made = create_worktree(context, "Wan", clone_url=str(tmp_path / "bare.git"), python=sys.executable)
    assert made.mode == "clone"


def test_a_clone_that_fails_shows_its_command_and_another_way(context: ToolContext, tmp_path: Path) -> None:
    (tmp_path / "no repository").mkdir()
    elsewhere = ToolContext(home=context.home, cwd=tmp_path)
    with pytest.raises(PortError, match="git clone failed") as caught:
        create_worktree(elsewhere, "Wan", clone_url=str(tmp_path / "no repository"), python=sys.executable)
    assert f"git clone --quiet --no-recurse-submodules --no-local -- '{tmp_path}/no repository'" in caught.value.fix
    assert "fastvideo_repo" in caught.value.fix


def test_a_clone_that_is_not_fastvideo_leaves_nothing(context: ToolContext, tmp_path: Path, git: Git) -> None:
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "-q")
    for what in ("The cloned repository has no commit", "is not FastVideo"):
        with pytest.raises(PortError, match=what):
            create_worktree(context, "Wan", clone_url=str(other), python=sys.executable)
        assert not (Path.home() / "dev").exists()
        git(other, "commit", "-q", "--allow-empty", "-m", "empty")
    assert list_ports(context).count == 0


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("ext::sh -c touch% /tmp/x", "helper program"),
        ("--upload-pack=touch x", "not one to clone"),
        ("ssh://-oProxyCommand=x/y", "names no host"),
        ("https://secret-token@example.org/x.git", "credentials"),
        ("https://user:secret-token@example.org/x.git", "credentials"),
        ("ftp://example.org/x.git", "transport that is not allowed"),
        ("https://exa\nmple.org/x", "control character"),
        ("/no/such/folder", "names no repository"),
        ("", "not one to clone"),
    ],
)
def test_a_url_that_git_should_not_see_is_refused(context: ToolContext, url: str, what: str) -> None:
    with pytest.raises(PortError, match=what) as caught:
        create_worktree(context, "Wan", clone_url=url, python=sys.executable)
    assert "secret-token" not in str(caught.value)


def test_a_name_that_would_turn_the_text_round_is_shown_without_that(context: ToolContext, fastvideo: Path) -> None:
    (fastvideo / "a\u202e\x1b[31m.py").write_text("")
    made = create_worktree(context, "Wan", fastvideo_repo=str(fastvideo), python=sys.executable)
    assert made.dirty == ["?? a.py"]


def test_a_commit_that_cannot_be_read_is_said_to_be_damaged(context: ToolContext, fastvideo: Path) -> None:
    for item in (fastvideo / ".git/objects").rglob("*"):
        if item.is_file():
            item.chmod(0o644)
            item.write_bytes(b"damaged")
    with pytest.raises(PortError, match="cannot be read") as caught:
        create_worktree(context, "Wan", fastvideo_repo=str(fastvideo), python=sys.executable)
    assert "git fsck" in caught.value.fix


def test_nothing_committed_is_refused(context: ToolContext, tmp_path: Path, git: Git) -> None:
    folder = tmp_path / "fresh"
    (folder / "fastvideo").mkdir(parents=True)
    (folder / "fastvideo/__init__.py").write_text("")
    (folder / "fastvideo/registry.py").write_text("")
    git(folder, "init", "-q")
    with pytest.raises(PortError, match="no commit to branch from"):
        create_worktree(context, "Wan", fastvideo_repo=str(folder), python=sys.executable)
    git(folder, "commit", "-q", "--allow-empty", "-m", "without files")
    with pytest.raises(PortError, match="commit to branch from is not FastVideo"):
        create_worktree(context, "Wan", fastvideo_repo=str(folder), python=sys.executable)
    assert {path.name for path in folder.iterdir()} == {"fastvideo", ".git"}


def test_a_repository_that_is_not_fastvideo_is_named(context: ToolContext, tmp_path: Path, git: Git) -> None:
    git(tmp_path, "init", "-q", "plain")
    with pytest.raises(PortError, match="not a FastVideo repository") as caught:
        create_worktree(context, "Wan", fastvideo_repo=str(tmp_path / "plain"), python=sys.executable)
    assert "fastvideo/registry.py" in caught.value.seen


def booby_trap(repository: Path, mark: Path) -> None:
    """Every way we know by which a repository's own files make a checkout or a status run a command."""
    command = f"touch '{mark}'"
    hooks = repository / ".git/hooks"
    hooks.mkdir(exist_ok=True)
    for hook in ("post-checkout", "reference-transaction", "post-index-change"):
        (hooks / hook).write_text(f"#!/bin/sh\n{command}\n")
        (hooks / hook).chmod(0o755)
    (repository / ".git/info/attributes").write_text("* filter=evil diff=evil\nREADME.md filter=later\n")
    (repository / ".git/later").write_text(f'[filter "later"]\n\tsmudge = "{command}; cat"\n')
    with (repository / ".git/config").open("a") as config:
        config.write(
            f'[core]\n\tfsmonitor = "{command}"\n\tsshCommand = "{command}"\n'
            f'[filter "evil"]\n\tclean = "{command}; cat"\n\tsmudge = "{command}; cat"\n\trequired = true\n'
            f'[diff "evil"]\n\tcommand = "{command}"\n'
            # Read only on the port's branch: a look at the repository before the branch exists misses it.
            f'[includeIf "onbranch:codex/**"]\n\tpath = later\n'
        )


def test_a_hostile_repository_runs_nothing(context: ToolContext, fastvideo: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    booby_trap(fastvideo, mark)
    (fastvideo / "README.md").write_text("FastVideX\n")
    made = create_worktree(context, "Wan", python=sys.executable)
    assert (Path(made.worktree) / "README.md").read_text() == "FastVideo\n"
    assert not mark.exists()


def test_the_trap_of_the_hostile_repository_does_spring(fastvideo: Path, tmp_path: Path, git: Git) -> None:
    """Shows the test above red: plain git falls into it."""
    mark = tmp_path / "ran"
    booby_trap(fastvideo, mark)
    git(fastvideo, "worktree", "add", "-q", "-b", "codex/x", str(tmp_path / "w"))
    assert mark.exists()


def test_the_callers_git_variables_do_not_redirect(
    context: ToolContext, fastvideo: Path, tmp_path: Path, git: Git, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(tmp_path, "init", "-q", "other")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other/.git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))
    made = create_worktree(context, "Wan", python=sys.executable)
    assert made.mode == "worktree"
    assert made.dirty == []


def test_a_link_in_place_of_the_exclude_file_is_refused_and_nothing_is_left(
    context: ToolContext, fastvideo: Path, tmp_path: Path, git: Git
) -> None:
    victim = tmp_path / "bashrc"
    victim.write_text("mine\n")
    exclude = fastvideo / ".git/info/exclude"
    exclude.unlink(missing_ok=True)
    exclude.symlink_to(victim)
    before = state_of(git, fastvideo)
    with pytest.raises(PortError, match="exclude file cannot be written"):
        create_worktree(context, "Wan", python=sys.executable)
    assert victim.read_text() == "mine\n"
    assert state_of(git, fastvideo) == before
    assert list_ports(context).count == 0


def test_a_failure_while_the_record_is_written_leaves_nothing(context: ToolContext, fastvideo: Path, git: Git) -> None:
    before = state_of(git, fastvideo)
    (context.home / "state.sqlite3").mkdir()  # a folder where the database must be
    with pytest.raises(Exception, match="database"):
        create_worktree(context, "Wan", python=sys.executable)
    assert state_of(git, fastvideo) == before


def test_a_failing_checkout_leaves_nothing(context: ToolContext, fastvideo: Path, git: Git) -> None:
    blob = git(fastvideo, "rev-parse", "HEAD:README.md")
    (fastvideo / ".git/objects" / blob[:2] / blob[2:]).unlink()
    before = state_of(git, fastvideo)
    with pytest.raises(PortError, match="git reset failed"):
        create_worktree(context, "Wan", python=sys.executable)
    assert state_of(git, fastvideo) == before


def test_a_branch_that_stands_in_the_way_is_named(context: ToolContext, fastvideo: Path, git: Git) -> None:
    git(fastvideo, "branch", "codex")
    before = state_of(git, fastvideo)
    with pytest.raises(PortError, match="another branch has the name") as caught:
        create_worktree(context, "Wan", python=sys.executable)
    assert "branch_prefix" in caught.value.fix
    assert state_of(git, fastvideo) == before
    assert create_worktree(context, "Wan", python=sys.executable, branch_prefix="").branch.startswith("port-wan-")


@pytest.mark.parametrize(
    "prefix", ["-x/", "a..b/", "/", "a//b", "x.lock/", "a b/", "~", "a\n", "x/.y/", "@{-1}", "con/"]
)
def test_an_illegal_branch_prefix_is_refused(context: ToolContext, prefix: str) -> None:
    with pytest.raises(PortError, match="branch prefix"):
        create_worktree(context, "Wan", python=sys.executable, branch_prefix=prefix)


@pytest.mark.parametrize(
    "name", ["通义万相 2", "🎬🎥", "..", "-x", "a\x00b", "con", "Modèle É", "\u202eevil", "x" * 200]
)
def test_any_model_name_gives_a_workspace(context: ToolContext, name: str, git: Git) -> None:
    made = create_worktree(context, name, python=sys.executable)
    assert git(Path(made.worktree), "branch", "--show-current") == made.branch
    assert context.ports.get(made.port_id).model_name.isprintable()


def test_the_repositorys_own_environment_is_the_default_python(context: ToolContext, fastvideo: Path) -> None:
    (fastvideo / ".venv/bin").mkdir(parents=True)
    broken = fastvideo / ".venv/bin/python"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    beside = fastvideo.parent / ".venv-fastvideo/bin"
    beside.mkdir(parents=True)
    (beside / "python").symlink_to(sys.executable)
    made = create_worktree(context, "Wan")
    assert made.python == str(beside / "python")
    assert any(str(broken) in note for note in made.notes)
    assert made.python_version.startswith("3.")


def test_falling_back_to_the_servers_own_python_is_said(context: ToolContext, fastvideo: Path) -> None:
    """Project: a port ran silently in an environment without FastVideo's packages."""
    made = create_worktree(context, "Wan")
    assert made.python == sys.executable
    assert any("No environment of FastVideo was found" in note for note in made.notes)


def answer(script: str) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        path = folder / "python"
        path.write_text(script)
        path.chmod(0o755)
        return str(path)

    return make


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda folder: str(folder), "is not there"),
        (lambda folder: str(folder / "none"), "is not there"),
        (lambda folder: "py\x00thon", "control character"),
        (answer("not a program"), "cannot be run"),
        (answer("#!/bin/sh\necho hello\n"), "does not behave like Python"),
        (answer('#!/bin/sh\necho \'fastvideo-port:{"version": [3, 9, 1], "torch": null}\'\n'), "too old"),
    ],
)
def test_an_interpreter_that_cannot_serve_is_refused(
    context: ToolContext, tmp_path: Path, make: Callable[[Path], str], what: str, fastvideo: Path, git: Git
) -> None:
    before = state_of(git, fastvideo)
    for argument in ("python", "official_python"):
        with pytest.raises(PortError, match=what) as caught:
            create_worktree(context, "Wan", **{"python": sys.executable, argument: make(tmp_path)})
        assert argument in caught.value.what
    assert state_of(git, fastvideo) == before


def test_patches_are_recorded_and_unknown_ones_named(context: ToolContext) -> None:
    made: CreateWorktreeResult = create_worktree(
        context, "Wan", python=sys.executable, environment_patches=["cpu-device", "cpu-attention"]
    )
    assert context.ports.get(made.port_id).environment_patches == ["cpu-attention", "cpu-device"]
    with pytest.raises(PortError, match="no environment patch") as caught:
        create_worktree(context, "Wan", python=sys.executable, environment_patches=["cpu-atention"])
    assert "'cpu-attention'" in caught.value.fix


@pytest.mark.parametrize("name", ["", "  ", "\x00", "\u200b", "x" * 201])
def test_a_name_that_shows_nothing_or_never_ends_is_refused(context: ToolContext, name: str) -> None:
    with pytest.raises(PortError, match=r"no name|too long"):
        create_worktree(context, name, python=sys.executable)


def test_an_interpreter_that_never_answers_is_given_up(
    context: ToolContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastvideo_port.port.interpreters.LIMIT_S", 0.3)
    with pytest.raises(PortError, match="did not answer"):
        create_worktree(context, "Wan", python=answer("#!/bin/sh\nexec sleep 30\n")(tmp_path))


def test_giving_both_a_repository_and_a_url_is_refused(context: ToolContext, fastvideo: Path) -> None:
    with pytest.raises(PortError, match="Both fastvideo_repo and clone_url"):
        create_worktree(context, "Wan", fastvideo_repo=str(fastvideo), clone_url=str(fastvideo), python=sys.executable)


def test_without_a_gpu_and_without_patches_it_says_what_to_begin_again_with(
    context: ToolContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Project: the patches are chosen here and nowhere later, and without them no attention can be built on a CPU."""
    driver = tmp_path / "driver" / "nvidia-smi"
    driver.parent.mkdir()
    monkeypatch.setenv("PATH", f"{driver.parent}:{os.environ['PATH']}")
    for listed, told in (("No devices were found", True), ("GPU 0: NVIDIA H200 (UUID: GPU-1)", False)):
        driver.write_text(f"#!/bin/sh\necho '{listed}'\n")
        driver.chmod(0o755)
        made = create_worktree(context, "Wan", python=sys.executable)
        assert any("environment_patches=['cpu-attention'" in note for note in made.notes) is told
        assert made.next_step.startswith("Read notes") is told
    patched = create_worktree(context, "Wan", python=sys.executable, environment_patches=["cpu-attention"])
    assert not any("environment_patches" in note for note in patched.notes)
