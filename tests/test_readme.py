"""README.md, DATASETS.md and docs/: commands and code blocks run, links lead somewhere, and the words are plain."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import open_clip
import pytest
from safetensors.torch import save_file

from engine import datasets, methods
from engine.clip.load import load_encoder
from engine.clip.names import DEMO
from engine.clip.weights import DEMO_MODELS
from engine.datasets import registry
from engine.demo import install as installer
from engine.templates import HAND_CRAFTED, templates
from engine.training.descent import GradientDescent
from engine.training.grid import Grid
from forks import run_fork
from stores import store_of_random_features
from sweeps import Sweep

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "DATASETS.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in PAGES}
README = TEXT["README.md"]
LISTED = {
    "bash demo.sh": "tests/test_shell_scripts.py runs it with a Python that records commands",
    "bash test.sh": "runs these tests",
    "bash methods.sh": "tests/test_methods_sweep.py",
    "DATASETS=demo bash methods.sh": "tests/test_methods_sweep.py",
    "STAGE=features SHARD=1/4 bash linear_probe.sh": "tests/test_submit.py",
    "STAGE=train SHARD=1/4 bash linear_probe.sh": "tests/test_submit.py",
    "for i in 1 2 3 4; do CUDA_VISIBLE_DEVICES=$((i - 1)) python train.py --shard $i/4 & done; wait": (
        "tests/test_shards.py runs shards at once"
    ),
    "parallel -j 2 python train.py --dataset dtd eurosat --shard {}/8 ::: 1 2 3 4 5 6 7 8": "needs GNU parallel",
    "sbatch --array=1-16 --gpus=1 --wrap='python train.py --shard $SLURM_ARRAY_TASK_ID/16'": "needs Slurm",
    "source .venv/bin/activate": "tests/test_shell_scripts.py",
    "cd audioclip/": "tests/test_audio_script.py",
    "python audio_features.py": "needs ESC-50 and AudioCLIP's weights; tests/test_audio_script.py runs it on stand-ins",
    "cd ..": "tests/test_audio_script.py",
    "python imagenet_esc.py --demo": "takes minutes; tests/test_imagenet_esc.py runs it with fewer steps",
    "python -m engine.demo.sounds": "tests/demo/test_demo_sounds.py",
    "python check.py --download caltech101 dtd eurosat fgvc_aircraft food101 oxford_flowers oxford_pets sun397": (
        "needs the internet; tests/test_check.py downloads from a server on this machine"
    ),
    "find photos -name '*.jpg' | python predict.py --run experiments --list - > predictions.csv": (
        "tests/test_predict_script.py runs --list -"
    ),
}
"""Commands that no test below runs, and why. `python` commands run on stand-in data in tests/test_commands.py too."""
STEPS = [
    "python -m engine.demo.install",
    "python few_shot_split.py --dataset demo --train-shot 16 --seed 1 2 3",
    "python features.py --dataset demo --train-shot 16 --seed 1 2 3 --clip-encoder demo-RN",
    "python train.py --method linear --dataset demo --train-shot 16 --seed 1 2 3 --clip-encoder demo-RN",
    "python eval.py --method linear --datasets demo --train-shot 16 --seed 1 2 3 --clip-encoder demo-RN",
]
NEW_DATASET = "python few_shot_split.py --dataset birds"
WITHOUT_DATA = {"few_shot_split.py", "tables.py"}
"""Scripts that succeed in an empty folder."""
FEW_WORDS = {"(?i)that of|those of": 5, "(?i)one's own": 5, r"\bWhat is\b": 5, r"(?i)\b(hears|gives|says)\b": 0}
"""Patterns, and the most lines that may match each."""


def blocks(language: str) -> list[str]:
    """Return the code blocks of a language ("" for commands) of all pages."""
    return [code for text in TEXT.values() for named, code in re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL)
            if named == language]  # fmt: skip


def commands() -> list[str]:
    """Return the lines of the command blocks, without comments."""
    lines = (re.sub(r"(^|\s\s+)#.*", "", line) for block in blocks("") for line in block.splitlines())
    return list(dict.fromkeys(line for line in lines if line))


def spans() -> list[str]:
    """Return the commands within sentences and tables: a script with arguments, of which one is not a flag."""
    found = (f"python {span}" for text in TEXT.values() for span in re.findall(r"`(?:python )?(\w+\.py [^`]+)`", text))
    return [span for span in dict.fromkeys(found) if any(word[0] != "-" for word in span.split()[2:])]


PYTHON = [line for line in dict.fromkeys(commands() + spans()) if re.match(r"python [\w/]+\.py", line)]
SHELL = [line for line in commands() if re.match(r"(\S+=.*)?bash ", line) and line not in LISTED]


def test_every_command_is_run_or_listed():
    """Every line of a block without a language is a command; blocks of output and folder trees are `text`."""
    assert set(STEPS) | {NEW_DATASET} | set(PYTHON) | set(SHELL) | LISTED.keys() >= set(commands())


def test_there_are_commands_for_each_step():
    scripts = {command.split()[1] for command in PYTHON}
    assert scripts >= {path.name for path in ROOT.glob("*.py")}


@pytest.mark.parametrize("command", [line for line in PYTHON if line not in [*LISTED, *STEPS, NEW_DATASET]])
def test_commands_are_understood(command, tmp_path):
    """In an empty folder only splits can be drawn, and tables with gaps; all other scripts name the missing input."""
    _, name, *words = shlex.split(command)
    code = 0 if name in WITHOUT_DATA or (name, words) == ("check.py", []) else 1
    done = run_fork(name, *words, folder=tmp_path, cwd=tmp_path, check=code)
    assert not code or done.stderr.startswith("error: ") or "WRONG dtd is not installed" in done.stdout


@pytest.mark.parametrize("command", SHELL)
def test_sweeps_are_understood(command, tmp_path):
    """tests/test_sweeps.py runs sweeps on stand-in data."""
    words = shlex.split(command)
    at = words.index("bash")
    settings = dict(word.split("=", 1) for word in words[:at])
    script, *passed = words[at + 1 :]
    sweep = Sweep(script, *passed, folder=tmp_path, runs="true", **settings).wait(check=0)
    wanted = settings["DATASETS"].split() if "DATASETS" in settings else datasets.TARGETS
    assert {call.dataset for call in sweep.calls} == set(wanted)
    assert all(call.words[len(call.words) - len(passed) :] == passed for call in sweep.calls)


def test_the_four_steps(tmp_path, monkeypatch):
    """Run as they stand, on fewer images, and each leaves the file that README.md names."""
    assert README.index(STEPS[0]) < README.index(STEPS[1]) < README.index(STEPS[4])
    monkeypatch.setattr(installer, "SPLITS", {"train": 16, "val": 4, "test": 4})
    monkeypatch.setattr(installer, "SHIFTED_IMAGES", 1)
    installer.install(tmp_path / "data", lambda done, total: None)
    for command in STEPS[1:]:
        _, name, *words = shlex.split(command)
        run_fork(name, *words, folder=tmp_path, cwd=tmp_path, check=0)
    left = re.findall(r"-> (\S+)", README)
    assert len(left) == len(STEPS)
    for pattern in left:
        assert list(tmp_path.glob(pattern.rstrip(",").replace("...", "**"))), pattern


def test_the_method_in_fifteen_lines(tmp_path):
    """The block runs on a feature store and ends above its zero-shot accuracy."""
    store_of_random_features(tmp_path, classes=20)
    (block,) = (block for block in blocks("python") if DEMO[0] in block)
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n" + block.replace(DEMO[0], "fake")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    accuracy = {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in done.stdout.splitlines()}
    assert accuracy["trained"] >= accuracy["zero-shot"] > 0.3
    assert accuracy["WiSE-FT"] > 0.3


def test_a_new_dataset_and_its_templates(tmp_path, monkeypatch):
    """The entries are typed into their tables, and the command draws splits."""
    for block in blocks("python"):
        if re.match(r'"birds\w*": (JsonSplit|ClassFolders)', block):
            for name, layout in eval(f"{{{block}}}", vars(registry)).items():
                monkeypatch.setitem(registry.DATASETS, name, layout)
    assert datasets.variants("birds") == ["birds_sketch"]
    root, rows = tmp_path / "data" / "birds", []
    for label, name in enumerate(("robin", "wren")):
        (root / "images" / name).mkdir(parents=True)
        for number in range(16):
            (root / "images" / name / f"{number}.jpg").touch()
            rows.append([f"{name}/{number}.jpg", label, name])
    (root / "split_birds.json").write_text(json.dumps(dict.fromkeys(("train", "val", "test"), rows)))
    _, name, *words = shlex.split(NEW_DATASET)
    run_fork(name, *words, folder=tmp_path, cwd=tmp_path, check=0)
    assert len(list((tmp_path / "indices" / "birds").iterdir())) == 15
    (block,) = (block for block in blocks("python") if block.startswith('"birds": ['))
    monkeypatch.setitem(HAND_CRAFTED, "birds", eval(f"{{{block}}}")["birds"])
    assert templates("hand_crafted", "birds") == ["a photo of a {}, a type of bird."]


def test_a_new_encoder(tmp_path, random_weights):
    """The line registers an architecture, whose weights come from a file."""
    (block,) = (block for block in blocks("python") if "add_model_config" in block)
    (path,) = re.findall(r'"(.*?)"', block)
    shutil.copy(DEMO_MODELS / "demo-RN.json", tmp_path / os.path.basename(path))
    exec(block.replace(path, str(tmp_path / os.path.basename(path))), {"open_clip": open_clip})
    assert load_encoder("my-model", str(random_weights(1))).image_shapes == {0: (128,)}


def test_the_words_nearest_to_a_context(tmp_path, capsys):
    """Of a context that is three words, the nearest are these words."""
    (block,) = (block for block in blocks("python") if "embedding.phi.context" in block)
    encoder = load_encoder(DEMO[0])
    words = encoder.tokenize(["red star ring"], 5)[0, 1:4]
    context = encoder.model.token_embedding(words).detach().contiguous()
    save_file({"embedding.phi.context": context}, tmp_path / "classifier.safetensors")
    exec(block.replace("RN50", DEMO[0]).replace("classifier.saf", f"{tmp_path}/classifier.saf"), {})
    assert re.findall(r"\['(\w+)'", capsys.readouterr().out) == ["red", "star", "ring"]


def test_a_method():
    (block,) = (block for block in blocks("python") if block.startswith("GRID = "))
    found = {"Method": methods.Method, "Grid": Grid, "GradientDescent": GradientDescent}
    exec(block, found)
    method = methods.METHODS["linear"]
    assert replace(found["METHOD"], grid=method.grid) == method
    assert list(found["GRID"]) == list(method.grid)


def test_every_block_of_python_is_run():
    """Seven above, a method (tests/methods), and two by test_predict_script.py and test_imported_features.py."""
    assert len(blocks("python")) == 10
    assert TEXT["docs/predict.md"].count("```python") == 1
    assert set(re.findall(r"^```(\w+)$", "".join(TEXT.values()), re.MULTILINE)) == {"python", "text", "bibtex"}


# --- pages -----------------------------------------------------------------------------------------------------------

MARKDOWN = [*PAGES, ROOT / "bench" / "README.md", ROOT / "engine" / "demo" / "models" / "README.md"]


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub spells them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", MARKDOWN, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"https?:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_can_be_found_from_the_readme():
    found = {(ROOT / link).resolve() for link in re.findall(r"\]\(([^)#\s]+)", README) if ":" not in link}
    assert set(PAGES[1:]) <= found


def test_pages_begin_with_their_use():
    for name, text in TEXT.items():
        assert name == "README.md" or text.split("\n\n")[1].startswith("After this page you "), name


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 180


@pytest.mark.parametrize("pattern", FEW_WORDS)
def test_words_are_plain(pattern):
    lines = (line for page in MARKDOWN for line in page.read_text(encoding="utf-8").splitlines())
    found = [line for line in lines if re.search(pattern, line)]
    assert len(found) <= FEW_WORDS[pattern], "\n".join(found)
